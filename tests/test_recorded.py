"""Recorded answers: replayed exactly, and nothing is guessed."""

import asyncio
import json

import pytest

from vlmrl.annotate import Ledger, recorded, run_job, scripted
from vlmrl.annotate.exchange import export_parquet
from vlmrl.annotate.ledger import Asked
from vlmrl.errors import ConfigError, DataError
from vlmrl.types import Cost, Frame, Kind, Query, Reply, Span, Verdict

A, B = Verdict.A_BETTER, Verdict.B_BETTER
GOAL = "open it"


def query(a, b, instruction=GOAL):
    return Query(Kind.PREFERENCE, (Frame("e", a, "eye"), Frame("f", b, "eye")), instruction)


QUERIES = [query(k, (3 * k) % 7) for k in range(12)]


def replay(file, *queries, **settings):
    labeler = recorded.build(recorded.Config(file=str(file), **settings))

    async def go():
        return [await labeler.ask(q) for q in queries]

    return asyncio.run(go())


@pytest.fixture
def ledger(tmp_path):
    """Answers of a teacher to all queries."""
    with Ledger(tmp_path / "labels.db") as book:
        run_job(QUERIES, teacher(), ledger=book)
        yield book


def teacher(**settings):
    return scripted.build(scripted.Config(**settings), truth=lambda item: float(item.row))


def given():
    """What that teacher says."""

    async def go():
        return [(await teacher().ask(q)).answer for q in QUERIES]

    return asyncio.run(go())


def test_an_answer_costs_what_all_replies_to_its_question_took(tmp_path):
    asked = Asked("k" * 64, {"instruction": GOAL}, QUERIES[0])
    with Ledger(tmp_path / "l.db") as book:
        book.register([asked], labeler="x")
        replies = [(None, "", 2.0), (None, "HTTP 500", 3.0), (A, "", 5.0), (B, "", 7.0)]
        book.record([(asked.key, Reply(v, "x", error=e, cost=Cost(1, 10, 1, usd, usd))) for v, e, usd in replies])
        (record,) = recorded.answered(book)
    assert record.reply.answer is A
    assert record.reply.cost == Cost(4, 40, 4, 17.0, 5.0)  # and the latency of the one that counts


@pytest.mark.parametrize("kind", ["ledger", "parquet", "jsonl"])
def test_every_form_replays_what_was_answered(ledger, tmp_path, kind):
    file = tmp_path / {"ledger": "labels.db", "parquet": "labels.parquet", "jsonl": "labels.jsonl"}[kind]
    if kind == "parquet":
        export_parquet(ledger, file)
    if kind == "jsonl":
        lines = [
            {
                "a": ["frame", "e", q.items[0].row, "eye"],
                "b": ["frame", "f", q.items[1].row, "eye"],
                "instruction": GOAL,
                "answer": answer.value,
                "annotator": "scripted teacher (0% wrong)",
            }
            for q, answer in zip(QUERIES, given(), strict=True)
        ]
        file.write_text("\n".join(map(json.dumps, lines)))
    replies = replay(file, *QUERIES)
    assert [r.answer for r in replies] == given()
    assert {r.annotator for r in replies} == {f"recorded answers of scripted teacher (0% wrong) ({file.name})"}


@pytest.mark.parametrize(
    "other", [query(50, 51), query(*[i.row for i in QUERIES[1].items[::-1]]), query(1, 3, "close it")]
)
def test_what_is_not_recorded_cannot_be_read_and_says_so(ledger, tmp_path, other):
    (reply,) = replay(tmp_path / "labels.db", other)
    assert reply.answer is None
    assert reply.error == ""
    assert reply.text.startswith("labels.db holds no answer about Frame(episode='e'")


def test_two_answers_are_no_answer_unless_one_is_named(ledger, tmp_path):
    run_job(QUERIES[:3], teacher(error_rate=1.0), ledger=ledger)
    (reply,) = replay(tmp_path / "labels.db", QUERIES[1])
    assert reply.answer is None
    assert "holds 2 answers" in reply.text
    assert "name one with labeler.annotator" in reply.text
    (reply,) = replay(tmp_path / "labels.db", QUERIES[1], annotator="scripted teacher (100% wrong)")
    assert reply.answer is given()[1].swapped()
    with pytest.raises(DataError, match=r"no answers of 'me'; have: scripted teacher \(0% wrong\)"):
        replay(tmp_path / "labels.db", annotator="me")


def test_a_file_that_has_grown_is_asked_anew(ledger, tmp_path):
    new = query(20, 21)
    with Ledger(tmp_path / "second.db") as book:
        for _ in range(3):
            labeler = recorded.build(recorded.Config(file=str(tmp_path / "labels.db")))
            assert run_job([new], labeler, ledger=book).unreadable == 1
        run_job([new], teacher(), ledger=ledger)
        labeler = recorded.build(recorded.Config(file=str(tmp_path / "labels.db")))
        assert run_job([new], labeler, ledger=book).verdicts["b"] == 1


@pytest.mark.parametrize(
    ("content", "asks", "not_asks"),
    [
        ({"instruction": "open it"}, "open it", "open it now"),
        ({"goals": ["open it"]}, "open it", "close it"),
        ({"messages": {"label": ["The goal is: open it. Which?"]}}, "open it.", "open"),
        ({"messages": {"label": [0, "closer to the goal (open it slowly)?"]}}, "open it slowly", "open it"),
    ],
)
def test_the_sentence_of_a_recorded_question_is_known(content, asks, not_asks):
    record = recorded.Record(QUERIES[0].items, Kind.PREFERENCE, content, recorded.Reply(A, "x"))
    assert record.asks(asks)
    assert not record.asks(not_asks)


def test_clips_are_read_back_whole(tmp_path):
    clips = ((Span("e", 0, 5, "eye"), Span("f", 2, 4, "eye")), (Span("g", 1, 2, "eye"),))
    asked = Query(Kind.PREFERENCE, clips, GOAL)
    with Ledger(tmp_path / "clips.db") as book:
        run_job([asked], scripted.build(scripted.Config(), truth=lambda item: float(len(item))), ledger=book)
    (record,) = recorded.read(str(tmp_path / "clips.db"))
    assert record.items == clips
    assert replay(tmp_path / "clips.db", asked)[0].answer is A


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 1 is no answer.*wanted a, b, instruction and answer \(a, b, tie, unsure\)"),
        ('{"a": ["frame", "e", 0, "c"], "b": ["frame", "e", 1, "c"], "instruction": "x", "answer": "left"}', "left"),
        ('{"a": ["frame", "e", 0, "c"], "b": ["frame", "e"], "instruction": "x", "answer": "a"}', "not an item"),
        ('{"a": ["frame", "e", 0, "c"], "b": ["frame", "e", 1, "c"], "answer": "a"}', "instruction"),
    ],
)
def test_a_line_that_is_no_answer_is_named(tmp_path, line, message):
    file = tmp_path / "x.jsonl"
    file.write_text(line)
    with pytest.raises(DataError, match=message):
        recorded.read(str(file))


def test_no_file_is_an_error_and_makes_none(tmp_path):
    with pytest.raises(ConfigError, match="file is empty"):
        recorded.build(recorded.Config())
    with pytest.raises(DataError, match="no recorded answers at"):
        recorded.read(str(tmp_path / "nothing.db"))
    assert not (tmp_path / "nothing.db").exists()
