"""The operator's page: only who has the token speaks, and a stop gets through by finger and by key."""

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from deploy_fakes import SPEC, bench
from test_deploy import running, ticks

from vlmrl.deploy.page import _Shown, application, shown
from vlmrl.deploy.pilot import PolicyPilot

TOKEN = "a-token-that-nobody-guesses"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-quic"]


@dataclass
class Wire:
    """What the page told the node."""

    words: list[str] = field(default_factory=list)
    looks: int = 0

    def send(self, word: str) -> None:
        if word:
            self.words.append(word)
        else:
            self.looks += 1


def status(**changed: Any) -> dict[str, Any]:
    """Of a node in the middle of an episode."""
    made = shown(bench(episodes=20).node)
    position = SPEC.home.tolist()
    return made | {"state": "running", "step": 61, "episode": 3, "position": position, "asked": position} | changed


@pytest.fixture
def page() -> _Shown:
    made = _Shown()
    made.status = status(outcomes=[1, 0, 1])
    made.pictures["eye"] = np.full((16, 16, 3), 90, np.uint8)
    return made


def test_only_the_token_is_heard_and_only_known_words_are_passed_on(page: _Shown) -> None:
    from starlette.testclient import TestClient

    wire = Wire()
    client = TestClient(application(page, wire.send, TOKEN), base_url="http://localhost")
    for method, path in (("GET", "/api/status"), ("POST", "/api/say"), ("GET", "/api/picture/eye")):
        for wrong in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {TOKEN}"}):
            assert client.request(method, path, headers=wrong, json={"word": "start"}).status_code == 401
    assert client.post("/api/say", headers=HEADERS, json={"word": "stop"}).json() == {"said": "stop"}
    for wrong in ({"word": "explode"}, {"word": ["stop"]}, {"word": "stop", "x": 1}, {}):
        assert client.post("/api/say", headers=HEADERS, json=wrong).status_code == 422
    assert (
        client.post("/api/say", headers=HEADERS | {"Origin": "http://evil.example"}, json={"word": "start"}).status_code
        == 403
    )
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 421
    assert wire.words == ["stop"]
    assert wire.looks == 0
    assert client.get("/api/status", headers=HEADERS).json()["state"] == "running"
    assert wire.looks == 1, "a look is a heartbeat"
    picture = client.get("/api/picture/eye", headers=HEADERS)
    assert picture.content[:2] == b"\xff\xd8"
    assert client.get("/api/picture/..%2fpage.html", headers=HEADERS).status_code == 404
    for path in ("/", "/page.js", "/page.css"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert TOKEN not in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "innerHTML" not in client.get("/page.js").text


def test_the_page_is_told_what_critic_and_reward_model_think() -> None:
    made = running()
    told = shown(made.node)
    assert (told["value"], told["reward"]) == (None, None)
    assert isinstance(made.node.pilot, PolicyPilot)
    inference = made.node.pilot.inference
    answer = inference.answer
    inference.answer = lambda wait_s: (one := answer(wait_s)) and replace(one, value=0.5)
    made.node.reward = (0.2, 0.1)
    ticks(made, 10)
    told = shown(made.node)
    assert (told["value"], told["reward"]) == (0.5, (0.2, 0.1))
    ticks(made, 1, "success")
    ticks(made, 100)
    ticks(made, 1, "start")
    inference.answer = answer
    ticks(made, 10)
    assert shown(made.node)["value"] is None, "of another episode"


@contextlib.contextmanager
def served(page: _Shown, wire: Wire) -> Iterator[str]:
    """Its address, while it is served."""
    import uvicorn

    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    app = application(page, wire.send, TOKEN)
    server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/#token={TOKEN}"
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()


@pytest.mark.slow
def test_an_operator_works_by_key_and_by_finger(page: _Shown) -> None:
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    wire, errors = Wire(), list[str]()
    with driver.sync_playwright() as playwright, served(page, wire) as address:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = browser.new_context(viewport={"width": 390, "height": 780}).new_page()
        tab.set_default_timeout(60_000)
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(address)
        tab.wait_for_selector("body[data-state=running] #camera:not([hidden])")
        assert TOKEN not in tab.url
        assert tab.text_content("#sentence") == "swing the arm"
        assert tab.locator("#outcomes li").all_text_contents() == ["✓", "✗", "✓"]
        box = tab.locator("#stop").bounding_box()
        assert box["width"] > 300
        assert box["height"] > 80
        assert box["y"] + box["height"] <= 780, "the stop is always on the screen"
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        tab.dispatch_event("#stop", "pointerdown")
        for key in ("s", "d", "p", "Space", "h"):  # home is not for a running robot
            tab.keyboard.press(key)
        tab.wait_for_timeout(500)
        assert wire.words == ["stop", "success", "discard", "pause", "stop"]
        assert tab.locator("#values").is_hidden(), "nobody judges"
        page.status = status(value=0.51, reward=(0.25, 0.031))
        tab.wait_for_selector("#values:not([hidden])")
        page.status = status(step=62, value=0.53, reward=(0.375, 0.03))
        told = "critic's value 0.530 · reward 0.375 ± 0.030 (+0.125 since the start)"
        tab.get_by_text(told, exact=True).wait_for()
        page.status = status(step=3, reward=(0.1, 0.03))
        tab.get_by_text("reward 0.100 ± 0.030 (+0.000 since the start)", exact=True).wait_for()
        page.status = status(state="stopped", latched="current: elbow_flex takes 3.00 A for 0.21 s")
        tab.wait_for_selector("body[data-state=stopped]")
        assert tab.text_content("#why") == "current: elbow_flex takes 3.00 A for 0.21 s"
        tab.click("[data-word=reset]")
        tab.wait_for_timeout(300)
        assert wire.words[-1] == "reset"
        assert wire.looks > 5
        browser.close()
    assert errors == []
