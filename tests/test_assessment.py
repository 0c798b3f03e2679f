"""The audit of labels and the benchmark under stress: figures known beforehand, and judges that do not look exposed."""

import json
from pathlib import Path

import numpy as np
import pytest
from people_fakes import ANNA, frames, make_queue, make_store
from report_run import HOSTILE, Page, episode

from vlmrl import config as configuration
from vlmrl.annotate import Ledger, Pictures, comparisons, run_job, sample_pairs, scripted, true_progress
from vlmrl.annotate.assessment.columns import column_value
from vlmrl.annotate.consistency import rate
from vlmrl.annotate.ledger import Asked
from vlmrl.annotate.opinions import read_opinions
from vlmrl.annotate.people.question import Pair
from vlmrl.annotate.stress import CONDITIONS, compare, exposed, pictured, spoil
from vlmrl.cli import audit, jobs, route
from vlmrl.errors import ConfigError, DataError
from vlmrl.store import Store, d4rl
from vlmrl.types import Cost, Frame, Query, Reply, Span, Verdict

A, B, TIE, UNSURE = Verdict.A_BETTER, Verdict.B_BETTER, Verdict.TIE, Verdict.UNSURE


@pytest.fixture(scope="module", autouse=True)
def _registered():
    jobs.register()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("audit"))


def pairs_of(store: Store, count: int) -> list[Query]:
    return sample_pairs(store, "eye", count=count, instruction="pour the tea", generator=np.random.default_rng(0))


def audited(store: Store, ledger: Path, folder: Path, **settings: object) -> dict:
    content = configuration.compose("audit", []) | {"store": str(store.path), "ledger": str(ledger)} | settings
    audit.main(content, folder)
    return json.loads((folder / "audit.json").read_text())


def test_people_s_answers_about_the_door_judge_the_environment_s_return(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = shared_data / "adroit_door_human"
    door = d4rl.run(d4rl.Config(str(folder / "demos.npz"), str(tmp_path / "door"), task="adroit_door")).store
    config = comparisons.Config(str(folder / "human_preferences.npz"))
    with Ledger(tmp_path / "l.db") as ledger:
        comparisons.import_comparisons(ledger, door, config, instruction="open the door")
    found = audited(door, tmp_path / "l.db", tmp_path, columns=["truth/reward"])
    judge, people = found["annotators"]
    assert (judge["name"], people["name"], found["reference"]) == ("column truth/reward", "people", "people said")
    assert "accuracy" not in people
    assert (judge["accuracy"]["pairs"], round(judge["accuracy"]["value"], 3)) == (1293, 0.735)
    clean, crossing = judge["slices"]["border"]
    assert (clean["part"], clean["pairs"], round(clean["value"], 3)) == ("clean", 808, 0.885)
    assert clean["low"] < 0.885 < clean["high"]
    assert (crossing["pairs"], crossing["flagged"], clean["flagged"]) == (485, True, False)
    assert len(found["crossing"]) == 1400 - 867
    assert "FLAG column truth/reward: crossing an episode's border" in capsys.readouterr().out


def test_an_audit_by_hand(store: Store, tmp_path: Path):
    queries = pairs_of(store, 60)
    truth = true_progress(store)
    with Ledger(tmp_path / "l.db") as ledger:
        for config in (scripted.Config(), scripted.Config(error_rate=1.0)):
            run_job(queries, scripted.build(config, truth=truth), ledger=ledger)
        queue = make_queue(store, ledger)
        queue.add([frames(0)])
        question = queue.next(ANNA)
        assert question
        queue.answer(question.key, ANNA, B)
        queue.correct(frames(1), ANNA, A)
    found = audited(store, tmp_path / "l.db", tmp_path)
    by_name = {one["name"]: one for one in found["annotators"]}
    right, wrong = by_name["scripted teacher (0% wrong)"], by_name["scripted teacher (100% wrong)"]
    assert (right["accuracy"]["value"], wrong["accuracy"]["value"]) == (1, 0)
    assert right["accuracy"]["pairs"] == sum(truth(q.items[0]) != truth(q.items[1]) for q in queries)
    assert right["transitivity"]["edges"]["part"] == 0
    assert sum(row["right"] for row in right["by_gap"]) == right["accuracy"]["pairs"]
    assert by_name[ANNA]["pairs"] == 1  # the correction, which saw the others' answers, is none of the blind ones
    between = next(x for x in found["agreement"] if {x["a"], x["b"]} == {right["name"], wrong["name"]})
    assert between["same_side"]["value"] == 0
    assert between["kappa"]["value"] < 0
    assert right["cost"]["correct"] == right["accuracy"]["pairs"]
    page = Page((tmp_path / "audit.html").read_text())
    assert "How far to trust these labels" in page.text


def test_the_price_counts_every_reply_once_whatever_became_of_it(store: Store, tmp_path: Path):
    first, second = pairs_of(store, 2)
    with Ledger(tmp_path / "l.db") as ledger:
        # One question that two pairs share, and one that nobody answered.
        content = {"instruction": "pour the tea"}
        ledger.register([Asked("k", content, first), Asked("k", content, second)], labeler="m")
        ledger.register([Asked("l", content | {"draw": 1}, first)], labeler="m")
        cost = Cost(1, 1000, 10, usd=0.5)
        ledger.record([("k", Reply(None, "m", text="?", cost=cost)), ("l", Reply(None, "m", error="x", cost=cost))])
        ledger.record([("k", Reply(A, "m", text="0", cost=cost))])
    (one,) = audited(store, tmp_path / "l.db", tmp_path)["annotators"]
    assert (one["pairs"], one["cost"]["usd"], one["cost"]["calls"], one["cost"]["tokens"]) == (2, 1.5, 3, 3030)


def test_hostile_names_and_sentences_are_text_in_the_page(store: Store, tmp_path: Path):
    with Ledger(tmp_path / "l.db") as ledger:
        queue = make_queue(store, ledger)
        queue.add([frames(k, sentence=f"{HOSTILE} {k}") for k in range(2)])
        while question := queue.next(ANNA):
            queue.answer(question.key, ANNA, A)
    audited(store, tmp_path / "l.db", tmp_path)
    page = Page((tmp_path / "audit.html").read_text())
    assert f"{HOSTILE} 1" in page.text
    assert (page.count("script"), page.count("img")) == (1, 0)  # the template's own script, and no picture


def test_an_audit_without_answers_or_with_unknown_columns_says_what_there_is(store: Store, tmp_path: Path):
    with pytest.raises(DataError, match="holds no answer about pairs"):
        audited(store, tmp_path / "l.db", tmp_path)
    with pytest.raises(ConfigError, match="unknown column 'truth/joy'; have: truth/progress"):
        column_value(store, "truth/joy")


def test_a_column_sums_over_the_rows_at_which_steps_arrive(tmp_path: Path):
    store = Store.create(tmp_path / "s")
    store.append([episode(5)])  # progress 0, 1/12 ... 1 in 13 rows
    value = column_value(store, "truth/progress")
    assert value(Frame("e5", 6, "eye")) == pytest.approx(0.5)
    assert value((Span("e5", 0, 3, ""),)) == pytest.approx((1 + 2 + 3) / 12)
    assert value((Span("e5", 11, 13, ""),)) == pytest.approx(2.0)  # the last row arrives nowhere: it stands again
    assert value((Span("e5", 0, 1, ""), Span("e5", 3, 4, ""))) == pytest.approx(5 / 12)


COIN = "cannot be told from a coin on these pairs"


class Looker:
    """Names the brighter picture, or does what it is told without looking."""

    needs_pictures = True
    calls_per_question = 1
    priced = True

    def __init__(self, does: str) -> None:
        self.name = f"looker that {does}"
        self._does = does

    def content(self, query: Query) -> dict[str, object]:
        pictures = [float(picture.mean()) for picture in query.images]
        return {"labeler": self.name, "sentence": query.instruction, "pictures": pictures, "items": str(query.items)}

    async def ask(self, query: Query) -> Reply:
        a, b = (float(picture.mean()) for picture in query.images)
        match self._does:
            case "looks" | "ignores the sentence":
                side = TIE if abs(a - b) < 1 else A if a > b else B
                return Reply(UNSURE if "sing" in query.instruction and self._does == "looks" else side, self.name)
            case "says first":
                return Reply(A, self.name)
            case _:
                return Reply((A, B)[int(query.items[0].row + query.items[1].row) // 3 % 2], self.name)

    async def close(self) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    ("right", "said"),
    [(2, ["is worse than a coin on these pairs: its sides may be exchanged"]), (25, [COIN]), (48, [])],
)
def test_worse_than_a_coin_is_no_coin(right: int, said: list[str]):
    assert exposed([{"condition": "as they are", "right": rate(right, 50), "same": rate(0, 0)}]) == said


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("looks", []),
        ("ignores the sentence", ["ignores the sentence"]),
        ("says first", ["ignores the pictures", "ignores the sentence", "cannot be told from a coin"]),
        ("draws lots", ["ignores the pictures", "ignores the sentence", "cannot be told from a coin"]),
    ],
)
def test_who_does_not_look_is_exposed(store: Store, tmp_path: Path, does: str, said: list[str]):
    queries = pairs_of(store, 60)
    truth = true_progress(store)
    gap = np.array([round(truth(q.items[0]) - truth(q.items[1]), 3) for q in queries])
    rows, plain = [], []
    with Ledger(tmp_path / "l.db") as ledger:
        for condition in ("as they are", *CONDITIONS):
            spoilt = spoil(condition, queries, np.random.default_rng(0), wrong="sing a song")
            asked = pictured(spoilt, queries, Pictures(store))
            report = run_job(asked, Looker(does), ledger=ledger)
            answers = ledger.answers(report.keys)
            replies = [answers[key] for key in report.keys]
            plain = plain or replies
            rows.append(compare(condition, plain, replies, gap, swapped=spoilt.swapped))
        # What was said about spoilt pictures is nobody's opinion about the pairs.
        known = {(o.shown.a, o.shown.b) for o in read_opinions(ledger, store)}
        items = {q.items for q in queries}
        assert known <= items | {pair[::-1] for pair in items}
    found = exposed(rows)
    assert [one.partition(":")[0].removesuffix(" on these pairs") for one in found] == said
    by_name = {row["condition"]: row for row in rows}
    if does == "looks":
        assert by_name["as they are"]["right"]["rate"] == by_name["images swapped"]["right"]["rate"] == 1
        assert by_name["blank images"]["named"]["part"] == 0


def test_shuffled_no_picture_stays_in_its_place(store: Store):
    queries = pairs_of(store, 40)
    spoilt = spoil("images shuffled", queries, np.random.default_rng(0), wrong="")
    frames_ = {item for query in queries for item in query.items}
    assert all(spoilt.item(frame) != frame for frame in frames_)
    assert {spoilt.item(frame) for frame in frames_} == frames_


def test_the_label_that_votes_make_is_audited_beside_their_first(store: Store, tmp_path: Path):
    queries, truth = pairs_of(store, 60), true_progress(store)
    votes = []
    with Ledger(tmp_path / "l.db") as ledger:
        for seed in range(3):  # one labeler, asked three times
            teacher = scripted.build(scripted.Config(error_rate=0.3, seed=seed), truth=truth)
            report = run_job(queries, teacher, ledger=ledger)
            answers = ledger.answers(report.keys)
            votes.append([answers[key].answer for key in report.keys])
    found = audited(store, tmp_path / "l.db", tmp_path)
    single, joined = found["annotators"]
    assert joined["name"] == f"{single['name']}, joined"
    gaps = [truth(a) - truth(b) for a, b in (query.items for query in queries)]

    def right(labels: list[Verdict]) -> int:
        return sum((label is A) == (gap > 0) for label, gap in zip(labels, gaps, strict=True) if gap)

    majority = [A if said.count(A) >= 2 else B for said in zip(*votes, strict=True)]
    differ = sum(gap != 0 for gap in gaps)
    for row, labels in ((single, votes[0]), (joined, majority)):
        assert (row["pairs"], row["accuracy"]["pairs"]) == (60, differ)
        assert round(row["accuracy"]["value"] * differ) == right(labels)
    assert right(majority) > right(votes[0])
    assert (single["cost"]["calls"], joined["cost"]["calls"]) == (180, 180)  # a label of three costs all three
    assert joined["calibration"]["pairs"] == differ  # shares of votes are its probabilities
    # What is made of a labeler's answers is nobody to agree with.
    assert found["agreement"] == []
    assert found["alpha"]["everybody"]["pairs"] == 0


def test_both_orders_make_one_label_and_a_check_of_the_order_does_not(store: Store, tmp_path: Path):
    queries, truth = pairs_of(store, 30), true_progress(store)
    teacher = scripted.Config(error_rate=0.3, seed=1)
    for again, rows in ((10, 1), (30, 2)):
        path = tmp_path / f"{again}.db"
        with Ledger(path) as ledger:
            run_job(queries, scripted.build(teacher, truth=truth), ledger=ledger)
            run_job([q.swapped() for q in queries[:again]], scripted.build(teacher, truth=truth), ledger=ledger)
        for disagree in ("tie", "drop"):
            found = audited(store, path, tmp_path, disagree=disagree)["annotators"]
            assert len(found) == rows
            if rows == 2:
                apart = found[0]["both_ways"]["whole"] - found[0]["both_ways"]["part"]
                assert apart > 0
                assert found[1]["verdicts"]["tie" if disagree == "tie" else "unsure"] >= apart


def test_pairs_that_the_page_draws_leave_the_budget_of_routing_alone(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "l.db"
    with Ledger(path) as ledger:
        for seed in (0, 1):
            config = scripted.Config(error_rate=0.4, seed=seed)
            run_job(pairs_of(store, 50), scripted.build(config, truth=true_progress(store)), ledger=ledger)
        queue = make_queue(store, ledger)
        drawn = [Pair(query.items[0], query.items[1], "pour the tea") for query in pairs_of(store, 5)]
        assert queue.add(drawn, drawn=True) == 5
        assert queue.add([pair.swapped for pair in drawn]) == 5  # on it already
        question = queue.next(ANNA)
        assert question
        assert queue.answer(question.key, ANNA, A)
    content = configuration.compose("route", []) | {"store": str(store.path), "ledger": str(path)}
    for _ in range(2):
        route.main(content | {"budget": 7}, tmp_path)
    said = capsys.readouterr().out
    assert "5 pairs were on the people's queue, 0 of them routed there; 7 of 50 added by doubt" in said
    assert "12 pairs were on the people's queue, 7 of them routed there; 0 of 50 added" in said
    with Ledger(path) as ledger:
        queue = make_queue(store, ledger)
        assert queue.waiting(queue.state()) == 11
        assert len(queue.routed()) == 7


def test_routing_keeps_to_its_budget_over_all_runs(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with Ledger(tmp_path / "l.db") as ledger:
        for seed in (0, 1):
            config = scripted.Config(error_rate=0.4, seed=seed)
            run_job(pairs_of(store, 50), scripted.build(config, truth=true_progress(store)), ledger=ledger)
    content = configuration.compose("route", []) | {"store": str(store.path), "ledger": str(tmp_path / "l.db")}
    for _ in range(2):
        route.main(content | {"budget": 7}, tmp_path)
    said = capsys.readouterr().out
    assert "0 pairs were on the people's queue, 0 of them routed there; 7 of 50 added by doubt" in said
    assert "7 pairs were on the people's queue, 7 of them routed there; 0 of 50 added" in said
    with Ledger(tmp_path / "l.db") as ledger:
        queue = make_queue(store, ledger)
        assert queue.waiting(queue.state()) == 7
    with pytest.raises(ConfigError, match="unknown reason 'whim'; have: doubt, ensemble"):
        route.main(content | {"by": "whim"}, tmp_path)
