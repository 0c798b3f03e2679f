"""The page: strangers, forgers and rubbish are refused, and people can work with it in a real browser."""

import re
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from people_fakes import ANNA, BEN, PLAIN, TOKENS, Site, clips, frames, make_queue, make_store, running
from report_run import HOSTILE

from vlmrl.annotate import Ledger
from vlmrl.annotate.people.guard import LONGEST
from vlmrl.annotate.people.question import Pair
from vlmrl.annotate.people.queue import Rules
from vlmrl.annotate.people.state import Reader
from vlmrl.annotate.question import question_key
from vlmrl.store import Store
from vlmrl.types import Cost, Frame, Kind, Query, Reply, Span, Verdict

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run", "--disable-quic"]  # fmt: skip
JAPANESE, ARABIC = "引き出しを開ける", "افتح الدرج"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("page"))


@pytest.fixture
def site(store: Store, tmp_path: Path):
    with Ledger(tmp_path / "labels.db") as ledger:
        queue = make_queue(store, ledger)
        queue.add([clips(0), frames(1, sentence=JAPANESE), frames(2, sentence=ARABIC), frames(3, sentence=HOSTILE)])
        with running(queue, names=frozenset({"lab.example"})) as found:
            yield found


def say(ledger: Ledger, pair: Pair, verdict: Verdict, text: str, p: float | None = None) -> None:
    """An answer of a model."""
    from vlmrl.annotate.ledger import Asked

    content = {"labeler": "vlm", "instruction": pair.sentence, "items": [str(pair.a), str(pair.b)]}
    asked = Asked(question_key(content), content, Query(Kind.PREFERENCE, (pair.a, pair.b), pair.sentence))
    ledger.register([asked], labeler="vlm")
    ledger.record([(asked.key, Reply(verdict, "vlm", p, text, Cost(1, 100, 10, 0.01, 2.0)))])


def test_work_goes_round_over_the_wire(site: Site):
    status, found, headers = site.call("POST", "/api/next", {})
    assert status == 200
    question = found["question"]
    assert question["sides"] == [{"frames": 5, "seconds": pytest.approx(1.2)}] * 2
    assert set(question) == {"key", "sentence", "sides"}  # not why the pair is asked
    status, picture, headers = site.call("GET", f"/api/picture/{question['key']}/1/4")
    assert (status, headers["content-type"], picture[:2]) == (200, "image/jpeg", b"\xff\xd8")
    body = {"key": question["key"], "answer": "b", "seconds": 1.5}
    status, found, _ = site.call("POST", "/api/answer", body)
    assert (status, found["written"], found["done"], found["left"]) == (200, True, 1, 3)
    (given,) = site.queue.state().given
    assert (given.reply.annotator, given.reply.answer, given.reply.cost.latency_s) == (ANNA, Verdict.B_BETTER, 1.5)
    status, found, _ = site.call("POST", "/api/undo", {})
    assert (found["taken"], found["question"]["key"]) == (True, question["key"])


def test_everything_needs_a_known_token(site: Site):
    for method, path in (
        ("GET", "/api/me"), ("POST", "/api/next"), ("POST", "/api/answer"), ("POST", "/api/undo"),
        ("GET", "/api/progress"), ("POST", "/api/review"), ("POST", "/api/correct"),
        ("GET", f"/api/picture/{'0' * 64}/0/0"),
    ):  # fmt: skip
        body = None if method == "GET" else {}
        for wrong in ("", "Bearer ", "Bearer nobody-nobody-nobody", f"Basic {TOKENS['anna']}", TOKENS["anna"]):
            assert site.call(method, path, body, Authorization=wrong)[0] == 401, (path, wrong)
    assert site.call("GET", "/api/me", Authorization=f"Bearer {TOKENS['ben']}")[1]["name"] == "ben"
    assert TOKENS["anna"].encode() not in site.call("GET", "/")[1]


def test_other_sites_and_rebound_names_are_refused(site: Site):
    here = f"127.0.0.1:{site.port}"
    assert site.call("POST", "/api/next", {}, Origin=f"http://{here}", Sec_Fetch_Site="same-origin")[0] == 200
    assert site.call("POST", "/api/next", {}, Origin="http://evil.example")[0] == 403
    assert site.call("POST", "/api/next", {}, Origin="null")[0] == 403
    assert site.call("POST", "/api/next", {}, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="cors")[0] == 403
    for host in ("evil.example", f"evil.example:{site.port}", "127.0.0.1.evil.example", "", "[::1", "localhost.evil"):
        assert site.call("GET", "/", Host=host)[0] in (400, 421), host
    for host in (f"localhost:{site.port}", f"lab.example:{site.port}", "LAB.example", f"[::1]:{site.port}", "10.0.0.7"):
        assert site.call("GET", "/", Host=host)[0] == 200, host


def test_nothing_but_the_page_s_own_files_is_served(site: Site):
    for path in (
        "/../server.py", "/static/page.js", "/page.js/..%2f..%2fserver.py", "/..%2fqueue.py", "/%2e%2e/%2e%2e/passwd",
        "//etc/passwd", "/page.html", "/docs", "/openapi.json", "/page.js%00", "/api/picture/../../etc/passwd",
    ):  # fmt: skip
        assert site.call("GET", path)[0] in (404, 405, 422), path
    assert site.call("GET", "/page.js?name=server.py&kind=text/plain")[2]["content-type"].startswith("text/javascript")
    assert site.call("GET", f"/api/picture/{'0' * 64}/0/0")[0] == 404
    for rubbish in (f"{'0' * 64}/2/0", f"{'0' * 64}/0/-1", "..%2f..%2f/0/0", f"{'G' * 64}/0/0"):
        assert site.call("GET", f"/api/picture/{rubbish}")[0] in (404, 422), rubbish


def test_every_answer_carries_what_browsers_must_obey(site: Site):
    for path, status in (("/", 200), ("/page.js", 200), ("/api/me", 200), ("/nowhere", 404)):
        found, _, headers = site.call("GET", path)
        assert found == status
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
    page = site.call("GET", "/")[1].decode()
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=|https?://", page)
    sources = [site.call("GET", f"/{name}")[1].decode() for name in ("page.js", "clips.js", "review.js")]
    assert not any(re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", s) for s in sources)


def test_rubbish_is_named_and_changes_nothing(site: Site):
    key = site.call("POST", "/api/next", {})[1]["question"]["key"]
    for body, message in (
        ({"key": key}, "answer"),
        ({"key": key, "answer": "c"}, "answer"),
        ({"key": key, "answer": ["a"]}, "answer"),
        ({"key": "../..", "answer": "a"}, "key"),
        ({"key": key, "answer": "a", "seconds": -1}, "seconds"),
        ({"key": key, "answer": "a", "annotator": BEN}, "annotator"),
        ([], "body"),
        (b"{", "JSON"),
        (b"\xff\xfe", ""),
    ):
        status, found, _ = site.call("POST", "/api/answer", body)
        assert status in (400, 422), body
        assert message in str(found), body
    assert site.call("POST", "/api/review", {"filter": {"colour": "red"}})[0] == 503
    assert site.call("POST", "/api/correct", {"pair": "0" * 64, "answer": "a"})[0] == 503
    assert site.call("POST", "/api/answer", {"key": "0" * 64, "answer": "a"})[0] == 503
    assert site.queue.state().given == ()


def test_oversized_bodies_are_refused_told_or_untold(site: Site):
    assert site.call("POST", "/api/answer", b" " * (LONGEST + 1))[0] == 413
    assert site.call("POST", "/api/answer", None, Content_Length="999999999999")[0] == 413
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    headers = {"Authorization": f"Bearer {TOKENS['anna']}", "Content-Type": "application/json"}
    pieces = (b" " * 4096 for _ in range(64))
    connection.request("POST", "/api/answer", body=pieces, headers=headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    assert site.call("GET", "/api/me")[0] == 200


def test_a_ledger_that_is_gone_is_said_and_the_page_lives(store: Store, tmp_path: Path):
    place = tmp_path / "l.db"
    with Ledger(place) as ledger:
        queue = make_queue(store, ledger)
        queue.add([frames(0)])
        with running(queue) as site:
            key = site.call("POST", "/api/next", {})[1]["question"]["key"]
            with sqlite3.connect(place) as other:
                other.execute("ALTER TABLE reply RENAME TO hidden")
            status, found, _ = site.call("POST", "/api/answer", {"key": key, "answer": "a"})
            assert (status, "cannot be used" in found["error"]) == (503, True)
            with sqlite3.connect(place) as other:
                other.execute("ALTER TABLE hidden RENAME TO reply")
            assert site.call("POST", "/api/answer", {"key": key, "answer": "a"})[1]["written"]


def test_huge_pictures_are_made_smaller_and_missing_ones_said(store: Store, tmp_path: Path):
    import io

    import numpy as np
    from PIL import Image
    from report_run import episode

    from vlmrl.types import Frames

    big = Store.create(tmp_path / "big")
    pixels = np.random.default_rng(0).integers(0, 255, (1, 2400, 3200, 3), dtype=np.uint8)
    one = episode(1)
    index = np.where(np.arange(len(one)) == 0, 0, -1).astype(np.int32)
    big.append([one.__class__(**(vars(one) | {"images": {"eye": Frames(pixels, index)}}))])
    pair = Pair((Span("e1", 0, 2, "eye"),), (Span("e1", 3, 6, "eye"),), "look")
    with Ledger(tmp_path / "l.db") as ledger:
        queue = make_queue(big, ledger)
        say(ledger, pair, Verdict.TIE, "both dark")
        with running(queue) as site:
            (found,) = site.call("POST", "/api/review", {})[1]["pairs"]
            assert [side["frames"] for side in found["sides"]] == [1, 0]
            status, picture, _ = site.call("GET", f"/api/picture/{found['pair']}/0/0")
            assert status == 200
            assert Image.open(io.BytesIO(picture)).size == (640, 480)
            status, said, _ = site.call("GET", f"/api/picture/{found['pair']}/1/0")
            assert (status, "has 0 pictures" in said["error"]) == (503, True)
            assert site.call("POST", "/api/correct", {"pair": found["pair"], "answer": "a"})[0] == 503


def test_tokens_never_reach_the_ledger_or_the_output(store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with Ledger(tmp_path / "l.db") as ledger:
        queue = make_queue(store, ledger)
        queue.add([frames(0)])
        with running(queue) as site:
            key = site.call("POST", "/api/next", {})[1]["question"]["key"]
            site.call("POST", "/api/answer", {"key": key, "answer": "a"})
            site.call("GET", "/api/me", Authorization="Bearer wrong-wrong-wrong-wrong")
            site.call("POST", "/api/answer", b"{")
    written = b"".join(path.read_bytes() for path in tmp_path.glob("l.db*"))
    printed = "".join(capfd.readouterr())
    for token in TOKENS.values():
        assert token.encode() not in written
        assert token not in printed


# ---- in a browser


@pytest.fixture(scope="module")
def browser():
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with driver.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


def opened(browser: Any, site: Site, who: str = "anna", **options: Any) -> Any:
    """A tab in which somebody has signed in, that fails on any error of the page."""
    context = browser.new_context(viewport={"width": 1200, "height": 850}, **options)
    context.set_default_timeout(30_000)
    tab = context.new_page()
    tab.errors = []
    tab.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.on("dialog", lambda dialog: tab.errors.append("a script of an instruction ran"))
    tab.goto(f"{site.address}#token={TOKENS[who]}")
    ready(tab)
    return tab


def ready(tab: Any) -> None:
    tab.wait_for_selector("body:not(.busy) :is(#compare, #done):not([hidden])")


def press(tab: Any, key: str) -> None:
    tab.keyboard.press(key)
    tab.wait_for_timeout(30)
    tab.wait_for_selector("body:not(.busy)")


def test_a_person_works_by_keyboard(browser: Any, site: Site):
    tab = opened(browser, site)
    assert TOKENS["anna"] not in tab.url  # gone from the address as soon as it is read
    assert tab.text_content("#sentence") == "pour the tea"
    for key, place in (("Home", "1 / 5"), ("ArrowRight", "2 / 5"), ("ArrowLeft", "1 / 5")):
        tab.keyboard.press(key)
        assert tab.text_content("#compare output") == place
    # Both clips stand at the same place: episode 1's pictures grow brighter, episode 0's are black.
    bright = "n => document.querySelectorAll('#stage canvas')[n].getContext('2d').getImageData(2, 2, 1, 1).data[0]"
    tab.keyboard.press("End")
    assert tab.text_content("#compare output") == "5 / 5"
    assert tab.evaluate(bright, 0) < 8
    assert 40 < tab.evaluate(bright, 1) < 60
    shown = []
    for key, verdict in (("2", "b"), ("=", "tie"), ("?", "unsure"), ("1", "a")):
        shown.append((tab.text_content("#sentence"), verdict))
        press(tab, key)
    assert tab.is_visible("#done")
    assert [(g.question.shown.sentence, g.reply.text) for g in site.queue.state().given] == shown
    press(tab, "u")
    assert tab.text_content("#sentence") == shown[-1][0]
    press(tab, "2")
    assert [g.reply.text for g in site.queue.state().given] == ["b", "tie", "unsure", "b"]
    assert tab.errors == []


def test_sentences_of_all_scripts_are_shown_and_none_is_run(browser: Any, site: Site):
    tab = opened(browser, site)
    seen, direction = [], "getComputedStyle(document.getElementById('sentence')).direction"
    while tab.is_visible("#compare"):
        seen.append((tab.text_content("#sentence"), tab.evaluate(direction)))
        press(tab, "1")
    assert set(seen) == {("pour the tea", "ltr"), (JAPANESE, "ltr"), (ARABIC, "rtl"), (HOSTILE, "ltr")}
    assert tab.errors == []
    assert tab.evaluate("document.scripts.length") == 1


def test_two_tabs_of_one_person_do_no_harm(browser: Any, site: Site):
    one, two = opened(browser, site), opened(browser, site)
    assert one.text_content("#sentence") == two.text_content("#sentence")
    press(one, "1")
    press(two, "2")
    assert "answered that pair already" in two.text_content("#trouble")
    assert [g.reply.text for g in site.queue.state().given] == ["a"]
    assert two.text_content("#sentence") == one.text_content("#sentence")
    ben = opened(browser, site, "ben")
    assert ben.text_content("#sentence") != one.text_content("#sentence")


def test_an_answer_that_could_not_be_saved_can_be_sent_again(browser: Any, site: Site):
    tab = opened(browser, site)
    tab.route("**/api/answer", lambda route: route.abort())
    press(tab, "2")
    tab.wait_for_selector("#trouble:not([hidden])")
    assert "Not saved" in tab.text_content("#trouble")
    assert site.queue.state().given == ()
    tab.unroute("**/api/answer")
    tab.click("#trouble button")
    tab.wait_for_selector("#trouble", state="hidden")
    ready(tab)
    assert [g.reply.text for g in site.queue.state().given] == ["b"]


def test_it_works_on_a_phone_by_touch(browser: Any, site: Site):
    options = {"viewport": {"width": 390, "height": 780}, "has_touch": True, "is_mobile": True}
    context = browser.new_context(**options)
    tab = context.new_page()
    tab.goto(site.address)
    tab.fill("#token", "wrong-wrong-wrong-wrong")
    tab.tap("#signin button")
    tab.wait_for_selector("#trouble:not([hidden])")
    tab.fill("#token", TOKENS["anna"])
    tab.tap("#signin button")
    ready(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = [tab.locator(f".answers [data-answer={name}]").bounding_box() for name in ("a", "tie", "unsure", "b")]
    assert all(box["width"] >= 44 and box["height"] >= 44 and box["y"] + box["height"] <= 781 for box in boxes)
    tab.tap(".answers [data-answer=b]")
    tab.wait_for_timeout(50)
    ready(tab)
    assert [g.reply.text for g in site.queue.state().given] == ["b"]
    context.close()


def test_the_review_shows_the_words_and_one_key_corrects(browser: Any, store: Store, tmp_path: Path):
    with Ledger(tmp_path / "l.db") as ledger:
        queue = make_queue(store, ledger, Rules(relabel=0.0, repeat=0.0))
        for k in range(3):
            say(ledger, frames(k), Verdict.A_BETTER, f"words {k}: {HOSTILE}", 0.95 - 0.2 * k)
        queue.correct(frames(0), BEN, Verdict.B_BETTER)
        with running(queue) as site:
            tab = opened(browser, site)
            tab.click("nav [data-view=review]")
            tab.wait_for_selector("article.current canvas")
            first = tab.locator("article").first
            assert first.locator("pre").text_content() == f"words 0: {HOSTILE}"  # who disagrees comes first
            press(tab, "j")
            assert tab.locator("article.current pre").text_content() == f"words 2: {HOSTILE}"
            press(tab, "2")
            tab.wait_for_selector("article.current .yours:not(:empty)")
            press(tab, "k")
            press(tab, "=")
            given = {g.question.shown.a: (g.reply.annotator, g.reply.text) for g in Reader(ledger).read().given}
            assert given[frames(2).a] == (ANNA, "b")
            tab.select_option("[name=corrected]", "no")
            tab.locator("article").nth(1).wait_for(state="detached")
            press(tab, "u")
            assert len(Reader(ledger).read().given) == 3
            assert tab.errors == []


def test_the_server_may_be_started_anew_under_an_open_page(browser: Any, store: Store, tmp_path: Path):
    with Ledger(tmp_path / "l.db") as ledger:
        queue = make_queue(store, ledger, PLAIN)
        queue.add([frames(k) for k in range(3)])
        with running(queue, local="first-first-first-first") as site:
            tab = browser.new_context().new_page()
            tab.goto(site.address)  # nobody signs in on the machine itself
            ready(tab)
            press(tab, "1")
            port = site.port
        press(tab, "1")
        assert "does not answer" in tab.text_content("#trouble")
        assert port
    assert len(Reader(Ledger(tmp_path / "l.db")).read().given) == 1


def test_a_key_that_is_held_down_answers_once(browser: Any, site: Site):
    tab = opened(browser, site)
    for _ in range(4):
        tab.keyboard.down("1")
    tab.keyboard.up("1")
    time.sleep(0.2)
    ready(tab)
    assert len(site.queue.state().given) == 1
    assert isinstance(site.queue.state().given[0].question.shown.a, Frame | tuple)
