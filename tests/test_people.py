"""People on the queue: nobody gets another's pair, nothing is lost or told, and what they say stands above models."""

from pathlib import Path

import pytest
from people_fakes import ANNA, BEN, PLAIN, clips, frames, make_queue, make_store

from vlmrl.annotate import Ledger, run_job, scripted
from vlmrl.annotate.keys import NO_KEY
from vlmrl.annotate.opinions import gather, read_opinions
from vlmrl.annotate.people.question import Pair
from vlmrl.annotate.people.queue import Queue, Rules
from vlmrl.annotate.people.review import Filter, Review, disagreements
from vlmrl.annotate.people.settled import people_above
from vlmrl.annotate.people.tokens import read_tokens
from vlmrl.annotate.recorded import read
from vlmrl.annotate.route import route
from vlmrl.cli.serve import ServeConfig, people
from vlmrl.errors import ConfigError, DataError
from vlmrl.store import Store
from vlmrl.types import Frame, Kind, Query, Span, Verdict

A, B, TIE, UNSURE = Verdict.A_BETTER, Verdict.B_BETTER, Verdict.TIE, Verdict.UNSURE


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("people"))


@pytest.fixture
def ledger(tmp_path: Path):
    with Ledger(tmp_path / "labels.db") as opened:
        yield opened


def given(queue: Queue, person: str, verdict: Verdict = A) -> Pair:
    """Answer the next question."""
    question = queue.next(person)
    assert question is not None
    assert queue.answer(question.key, person, verdict)
    return question.shown


def test_a_pair_goes_to_one_person_and_stays_theirs_until_answered(store: Store, ledger: Ledger):
    queue = make_queue(store, ledger)
    assert queue.add([frames(0), frames(1)]) == 2
    first = queue.next(ANNA)
    assert first is not None
    assert queue.next(ANNA) == first  # a second tab shows the same
    other = queue.next(BEN)
    assert other is not None
    assert other.pair != first.pair
    assert queue.next("human:carl") is None
    queue.answer(first.key, ANNA, B)
    assert queue.next(ANNA) is None
    assert queue.waiting(queue.state()) == 1


def test_a_dead_person_s_pair_is_taken_over(store: Store, tmp_path: Path):
    now = [1000.0]
    with Ledger(tmp_path / "l.db", since_boot=lambda: now[0]) as ledger:
        queue = make_queue(store, ledger)
        queue.add([frames(0)])
        assert queue.next(ANNA)
        assert queue.next(BEN) is None
        now[0] += queue.rules.lease_s + 1
        assert queue.next(BEN)


def test_overlap_asks_as_many_people_and_nobody_twice(store: Store, ledger: Ledger):
    queue = make_queue(store, ledger, Rules(overlap=2, relabel=0.0, repeat=0.0))
    queue.add([frames(0)])
    anna, ben = queue.next(ANNA), queue.next(BEN)
    assert anna
    assert ben
    assert anna.pair == ben.pair
    assert anna.key != ben.key
    assert queue.next("human:carl") is None
    queue.answer(anna.key, ANNA, A)
    assert queue.next(ANNA) is None
    queue.answer(ben.key, BEN, A)
    assert queue.waiting(queue.state()) == 0


def test_a_restart_loses_nothing(store: Store, tmp_path: Path):
    with Ledger(tmp_path / "l.db") as ledger:
        queue = make_queue(store, ledger)
        queue.add([frames(k) for k in range(3)])
        given(queue, ANNA)
        held = queue.next(ANNA)
    with Ledger(tmp_path / "l.db") as ledger:
        queue = make_queue(store, ledger)
        queue.add([frames(k) for k in range(3)])
        assert queue.next(ANNA) == held
        assert queue.waiting(queue.state()) == 2


def test_two_answers_to_one_question_are_one(store: Store, ledger: Ledger):
    queue = make_queue(store, ledger)
    queue.add([frames(0)])
    question = queue.next(ANNA)
    assert question
    assert queue.answer(question.key, ANNA, A)
    assert queue.answer(question.key, ANNA, A)  # sent again by a shaky network
    assert not queue.answer(question.key, ANNA, B)  # another tab, another opinion
    assert not queue.answer(question.key, BEN, A)
    assert len(ledger.replies(question.key)) == 1
    with pytest.raises(DataError, match="unknown question"):
        queue.answer("0" * 64, ANNA, A)


def test_what_is_taken_back_counts_nowhere_and_stays_written(store: Store, ledger: Ledger, tmp_path: Path):
    queue = make_queue(store, ledger)
    queue.add([frames(0), frames(1)])
    pair = given(queue, ANNA, A)
    queue.next(ANNA)
    back = queue.take_back(ANNA)
    assert back is not None
    assert back.shown == pair
    assert queue.next(ANNA) == back
    assert read(str(tmp_path / "labels.db")) == []
    assert queue.answer(back.key, ANNA, B)
    assert [record.reply.answer for record in read(str(tmp_path / "labels.db"))] == [B]
    texts = [(r.text, r.error) for r in ledger.replies(back.key)]
    assert texts == [("a", "taken back by human:anna"), ("b", "")]
    assert queue.take_back(BEN) is None


def test_people_are_asked_again_with_sides_swapped_and_not_told(store: Store, ledger: Ledger):
    queue = make_queue(store, ledger, Rules(relabel=0.0, repeat=1.0, gap=2))
    queue.add([frames(k) for k in range(4)])
    shown = [given(queue, ANNA) for _ in range(3)]
    again = queue.next(ANNA)
    assert again
    assert again.repeat == ANNA
    assert again.shown == shown[0].swapped
    with pytest.raises(DataError, match="not for human:ben"):
        queue.answer(again.key, BEN, A)


def test_a_share_of_what_models_labelled_is_asked_of_people(store: Store, ledger: Ledger):
    queue = make_queue(store, ledger, Rules(relabel=0.3, repeat=0.0))
    queue.add([frames(k) for k in range(0, 18)])
    labelled = [Pair(f.b, Frame(f.a.episode, 9, "eye"), f.sentence) for f in map(frames, range(6))]
    queue.offer(labelled)
    known = {pair.id for pair in labelled}
    seen = [given(queue, ANNA).id in known for _ in range(18)]
    assert 2 <= sum(seen) <= 6
    assert not all(seen[:3])


def test_clips_without_pictures_and_of_other_stores_are_passed_over(store: Store, ledger: Ledger):
    queue = make_queue(store, ledger)
    nothing = Pair((Span("e0", 1, 3, "eye"),), (Span("e1", 0, 4, "eye"),), "go")  # pictures at rows 0, 3, 6 ...
    elsewhere = Pair(Frame("not here", 0, "eye"), Frame("e1", 0, "eye"), "go")
    camera = Pair(Frame("e0", 0, "wrist"), Frame("e1", 0, "wrist"), "go")
    unframed = Pair(Frame("e0", 1, "eye"), Frame("e1", 0, "eye"), "go")
    assert queue.add([nothing, elsewhere, camera, unframed]) == 0
    assert queue.next(ANNA) is None
    assert queue.add([clips(0)]) == 1
    shown = clips(0)
    assert len(queue.clips.rows(shown.a)) == 5
    assert queue.clips.seconds(shown.a) == pytest.approx(1.2)


def labelled(store: Store, ledger: Ledger, pairs: list[Pair], **settings: float) -> tuple[list[Query], list[str]]:
    queries = [Query(Kind.PREFERENCE, (p.a, p.b), p.sentence) for p in pairs]
    progress = store.column("truth/progress").reshape(6, -1)
    teacher = scripted.build(
        scripted.Config(**settings),  # pyright: ignore[reportArgumentType]
        truth=lambda item: float(progress[int(item.episode[1:]), item.row]),  # pyright: ignore
    )
    return queries, list(run_job(queries, teacher, ledger=ledger).keys)


def test_who_loses_a_race_is_told_that_the_answer_does_not_count(
    store: Store, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    queue = make_queue(store, ledger)
    queue.add([frames(0)])
    question = queue.next(ANNA)
    assert question
    before = queue.state()
    assert queue.answer(question.key, ANNA, A)
    monkeypatch.setattr(queue, "state", lambda: before)  # what the other saw, a moment earlier
    assert not queue.answer(question.key, BEN, B)
    assert ledger.answers([question.key])[question.key].annotator == ANNA


def test_what_people_say_stands_above_the_model(store: Store, ledger: Ledger):
    pairs = [frames(k) for k in range(4)]
    queries, keys = labelled(store, ledger, pairs)
    before = ledger.snapshot(queries, keys, above=people_above(ledger, queries, keys))
    assert people_above(ledger, queries, keys) == {}
    queue = make_queue(store, ledger, PLAIN)
    # A person sees the pair the other way round: their second is the model's first.
    queue.add([pairs[0].swapped])
    question = queue.next(ANNA)
    assert question
    queue.answer(question.key, ANNA, B)
    queue.correct(pairs[1], ANNA, UNSURE)
    queue.correct(pairs[2], ANNA, A)
    queue.correct(pairs[2], BEN, B)
    after = ledger.snapshot(queries, keys, above=people_above(ledger, queries, keys))
    assert after.snapshot != before.snapshot
    assert len(after) == 3  # what people are unsure about is not trained on
    assert after.p_a.tolist()[:2] == [1.0, 0.5]
    assert after.by[:2] == ("human:anna", "human:anna, human:ben")
    queue.restore(pairs[1], ANNA)
    queue.correct(pairs[2], BEN, A)
    last = ledger.snapshot(queries, keys, above=people_above(ledger, queries, keys))
    assert len(last) == 4
    assert last.p_a.tolist()[2] == 1.0
    # A job that ended early has looked at one query only: what people said of the last one labels no other.
    assert list(people_above(ledger, queries, [keys[2], *[NO_KEY] * 3])) == [keys[2]]
    assert people_above(ledger, queries, [NO_KEY] * 4) == {}


def test_the_review_filters_and_people_who_saw_are_told_apart(store: Store, ledger: Ledger):
    pairs = [frames(k) for k in range(6)]
    labelled(store, ledger, pairs)
    queue = make_queue(store, ledger)
    queue.add(pairs[:1])
    review = Review(queue, sentences=[])
    assert [j.pair for j in review.judged()] == pairs
    machine = review.judged()[0].opinions[0].verdict
    given(queue, ANNA, machine.swapped())
    queue.correct(pairs[1], ANNA, A)
    assert disagreements(review.judged()[0]) == {"people", "any"}
    found = review.page(Filter.of({"disagreement": "people"}), 0, person=ANNA)
    assert found["total"] >= 1
    assert review.page(Filter.of({"corrected": "yes"}), 0, person=ANNA)["pairs"][0]["yours"] == "a"
    assert review.page(Filter.of({"task": "t"}), 0, person=ANNA)["total"] == 6
    with pytest.raises(ConfigError, match="unknown filter 'colour'; have: "):
        Filter.of({"colour": "red"})
    with pytest.raises(ConfigError, match="unknown quality 'splendid'"):
        Filter.of({"quality": "splendid"})
    blind = [j.by(ANNA) for j in gather(read_opinions(ledger, store))]
    assert sum(o is not None for o in blind) == 1


def test_a_correction_means_what_was_shown_though_another_takes_their_answer_back(store: Store, ledger: Ledger):
    queue = make_queue(store, ledger)
    queue.add([frames(0).swapped])
    given(queue, ANNA)  # the first answer decides which way round the review shows the pair
    queries, keys = labelled(store, ledger, [frames(0)])
    review = Review(queue, sentences=[])
    (shown,) = review.page(Filter(), 0, person=BEN)["pairs"]
    assert shown["items"] == [frames(0).b, frames(0).a]
    queue.take_back(ANNA)
    (now,) = review.page(Filter(), 0, person=BEN)["pairs"]
    assert now["items"] == shown["items"][::-1]
    # The page that is still open shows the pictures that it did, and the key means the side that it stands under.
    assert [review.item(shown["pair"], side) for side in (0, 1)] == shown["items"]
    queue.correct(review.pair(shown["pair"]), BEN, A)
    assert [reply.answer for reply in people_above(ledger, queries, keys).values()] == [B]
    assert review.page(Filter(), 0, person=BEN)["pairs"][0]["yours"] == "b"


def test_doubtful_pairs_come_first_and_only_those(store: Store, ledger: Ledger):
    pairs = [frames(k) for k in range(8)]
    labelled(store, ledger, pairs)
    labelled(store, ledger, pairs, error_rate=0.5, seed=3)
    judged = gather(read_opinions(ledger, store))
    apart = {j.pair.id for j in judged if "labelers" in disagreements(j)}
    assert 0 < len(apart) < 8
    chosen = route(judged, "ensemble", 100)
    assert {j.pair.id for j in chosen[: len(apart)]} == apart
    assert len(route(judged, "ensemble", 1)) == 1
    assert route(judged, "order", 100) == []
    assert len(route(judged, "random", 100)) == len([j for j in judged if j.opinions])
    queue = make_queue(store, ledger)
    queue.correct(chosen[0].pair, ANNA, A)
    left = route(gather(read_opinions(ledger, store)), "ensemble", 100)
    assert chosen[0].pair.id not in {j.pair.id for j in left}


def test_tokens_come_from_the_environment_or_a_private_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("VLMRL_LABEL_TOKENS", raising=False)
    assert len(read_tokens(None)) == 0
    monkeypatch.setenv("VLMRL_LABEL_TOKENS", "anna=0123456789abcdef,ben=fedcba9876543210")
    found = read_tokens(None)
    assert (found.person("0123456789abcdef"), found.person("fedcba9876543210")) == (ANNA, BEN)
    assert found.person("") is None
    assert found.person("0123456789abcdeF") is None
    assert found.person("π" * 16) is None
    file = tmp_path / "tokens"
    file.write_text("# people\nanna: 0123456789abcdef\n")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match=r"others may read .*0644.*chmod 600"):
        read_tokens(str(file))
    file.chmod(0o600)
    assert read_tokens(str(file)).person("0123456789abcdef") == ANNA
    assert "0123456789abcdef" not in repr(vars(found))
    for text, message in (
        ("anna", "wanted NAME and TOKEN"),
        ("anna: short", "16 or more"),
        ("an na: 0123456789abcdef", "not a name"),
        ("anna: 0123456789abcdef\nben: 0123456789abcdef", "same token"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_tokens(str(file))


def test_another_address_than_loopback_demands_tokens(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("VLMRL_LABEL_TOKENS", raising=False)
    for bind in ("0.0.0.0", "::", "192.168.1.7", "example.org"):
        with pytest.raises(ConfigError, match="each person needs a token"):
            people(ServeConfig(bind=bind))
    tokens, local = people(ServeConfig(annotator="anna"))
    assert tokens.person(local) == ANNA
    monkeypatch.setenv("VLMRL_LABEL_TOKENS", "anna=0123456789abcdef")
    assert people(ServeConfig(bind="0.0.0.0"))[1] == ""
    assert people(ServeConfig())[1] == ""  # whoever sets tokens wants them asked for


def test_the_rules_are_checked():
    with pytest.raises(ConfigError, match=r"repeat is 1\.5; wanted 0 to 1"):
        Rules(repeat=1.5)
    with pytest.raises(ConfigError, match="overlap of at least 1"):
        Rules(overlap=0)
