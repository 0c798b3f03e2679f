"""The judge as a labeler: laws of its probabilities, when it refuses to choose, and what it says about itself."""

import asyncio
import math
from dataclasses import replace

import numpy as np
import pytest
import tiny_clip
from report_run import EVERY, episode

from vlmrl.annotate import Limits
from vlmrl.annotate.judge import Config, build, stored
from vlmrl.cli import label as labeling
from vlmrl.encoder import DualEncoder
from vlmrl.errors import ConfigError, DataError
from vlmrl.store import Store
from vlmrl.types import Frame, Kind, Query, Verdict

A, B, TIE, UNSURE = Verdict.A_BETTER, Verdict.B_BETTER, Verdict.TIE, Verdict.UNSURE
FACTS = {
    "checkpoint": "seen",
    "temperature": 0.1,
    "temperature_unseen": 0.2,
    "threshold": 0.6,
    "same": 0.999,
    "tasks_seen": ["open the drawer"],
    "tasks_held_out": ["close the door"],
}
SENTENCES = {"open the drawer": [1, 0, 0], "close the door": [0, 1, 0], "a drawer": [0, 0, 1]}


class Known(DualEncoder):
    """Embeds three sentences as the axes of space."""

    def __init__(self, facts, *, name="judge seen"):
        self.name, self.facts, self.logit_scale, self.dim = name, facts, 20.0, 3
        self.fingerprint = "f" * 64

    def texts(self, sentences):
        return np.array([SENTENCES[s] for s in sentences], np.float32)


def direction(item):
    """Row 0 points at the first sentence, and each row turns away by 10 degrees."""
    angle = math.radians(10 * item.row)
    return np.array([math.cos(angle), math.sin(angle), 0], np.float16)


def make(facts=FACTS, embed=direction, instruction="open the drawer", name="judge seen", **settings):
    return build(Config(**settings), encoder=Known(facts, name=name), embed=embed, instruction=instruction)


def query(a, b, instruction="open the drawer"):
    return Query(Kind.PREFERENCE, (Frame("e", a, "eye"), Frame("f", b, "eye")), instruction)


def ask(labeler, question):
    return asyncio.run(labeler.ask(question))


def cosine(row):
    return math.cos(math.radians(10 * row))


def test_the_probability_by_hand():
    reply = ask(make(), query(0, 3))
    assert reply.probability == pytest.approx(1 / (1 + math.exp(-(1 - cosine(3)) / 0.1)), abs=2e-3)
    assert reply.answer is A
    assert reply.text.startswith("p(a) = 0.79")
    # alpha 1: only what lies along the line from the baseline (axis 3) to the goal (axis 1) counts, from the goal on
    line = make(alpha=1.0, baselines=("a drawer",))
    along = [(cosine(row) - 1) / math.sqrt(2) for row in (0, 3)]
    gap = (along[1] ** 2 - along[0] ** 2) / 2
    assert ask(line, query(0, 3)).probability == pytest.approx(1 / (1 + math.exp(-gap / 0.1)), abs=2e-3)


@pytest.mark.parametrize(("a", "b"), [(0, 9), (5, 2), (4, 5), (3, 3), (90, 91)])
def test_swapping_the_sides_swaps_the_answer(a, b):
    there, back = ask(make(), query(a, b)), ask(make(), query(b, a))
    assert there.probability is not None
    assert back.probability is not None
    assert there.probability + back.probability == pytest.approx(1)
    assert isinstance(there.answer, Verdict)
    assert back.answer is there.answer.swapped()


def test_below_the_threshold_it_names_no_side():
    assert ask(make(), query(0, 9)).answer is A
    assert ask(make(), query(9, 0)).answer is B
    assert ask(make(), query(0, 1)).answer is UNSURE  # p = .54, and the pictures differ
    assert ask(make(threshold=0.5), query(0, 1)).answer is A
    assert ask(make(), query(4, 4)).answer is TIE
    assert ask(make(threshold=0.5), query(4, 4)).answer is TIE
    assert ask(make(facts=FACTS | {"same": 0.98}), query(0, 1)).answer is TIE  # cos 10 degrees = .985


def test_huge_differences_overflow_nothing():
    sure = make(temperature=1e-6)
    assert [ask(sure, query(a, b)).probability for a, b in ((0, 9), (9, 0))] == [1.0, pytest.approx(0.0)]


@pytest.mark.parametrize(
    ("facts", "name", "instruction", "settings", "said"),
    [
        (FACTS, "judge seen", "open the drawer", {}, "judge seen (sentence seen in training)"),
        (FACTS, "judge seen", " Open the  drawer.", {}, "judge seen (sentence seen in training)"),
        (FACTS, "judge zeroshot", "close the door", {}, "judge zeroshot (sentence not seen in training)"),
        (
            FACTS,
            "judge seen",
            "open the drawer",
            {"goals": ("close the door",)},
            "judge seen (sentence not seen in training)",
        ),
        (
            FACTS,
            "judge seen",
            "open the drawer",
            {"temperature": 1.0},
            "judge seen (sentence seen in training, uncalibrated)",
        ),
        (
            FACTS,
            "judge seen",
            "open the drawer",
            {"goals": ("open the drawer", "Open the drawer.")},
            "judge seen (sentence seen in training, uncalibrated)",
        ),
        ({}, "openai/clip", "open the drawer", {}, "judge openai/clip (uncalibrated)"),
    ],
)
def test_its_name_says_what_a_reader_must_know(facts, name, instruction, settings, said):
    assert make(facts=facts, name=name, instruction=instruction, **settings).name == said


def test_what_was_measured_with_the_checkpoint_is_the_default():
    measured, unknown = make(), make(facts={})
    assert (measured.temperature, measured.threshold, measured.same) == (0.1, 0.6, 0.999)
    assert (unknown.temperature, unknown.threshold) == (1 / 20, 0.5)
    assert unknown.facts["seen"] is None
    assert unknown.facts["calibrated"] is False
    assert measured.facts["seen"] is True
    set_by_hand = make(temperature=2.0, threshold=0.9)
    assert (set_by_hand.temperature, set_by_hand.threshold) == (2.0, 0.9)


def test_a_question_is_what_decides_its_answer_and_nothing_else():
    base = make().content(query(0, 3))
    moved = query(0, 3)
    moved = replace(moved, items=(Frame("copy", 0, "eye"), Frame("g", 3, "eye")))
    assert make().content(moved) == base  # the same vectors
    assert make(goals=("open the drawer",)).content(query(0, 3, "something else")) == base
    for other in (
        make().content(query(3, 0)),
        make().content(query(0, 4)),
        make().content(query(0, 3, "close the door")),
        make(temperature=0.2).content(query(0, 3)),
        make(threshold=0.7).content(query(0, 3)),
        make(baselines=("a drawer",)).content(query(0, 3)),
        make(facts=FACTS | {"same": 0.5}).content(query(0, 3)),
    ):
        assert other != base


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature 0"),
        ({"threshold": 0.4}, "threshold 0"),
        ({"alpha": 0.5}, "there is no baseline"),
        ({"alpha": 2.0, "baselines": ("a drawer",)}, "alpha is 2"),
        ({"baselines": ("a drawer", "a table")}, "1 goals and 2 baselines"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Config(**settings)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_clip.build("clip", tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def store(tmp_path):
    made = Store.create(tmp_path / "store")
    made.append([episode(k) for k in range(6)])
    return made


def test_vectors_come_from_the_store_and_are_encoded_once(store, checkpoint):
    encoder = DualEncoder.load(str(checkpoint))
    embed = stored(store, "eye", encoder)
    picture = store.frames("eye", np.array([EVERY]))
    np.testing.assert_allclose(embed(Frame("e0", EVERY, "eye")), encoder.images(picture)[0], atol=1e-3)
    encoder.images = None
    again = stored(store, "eye", encoder)
    np.testing.assert_array_equal(again(Frame("e1", 0, "eye")), embed(Frame("e1", 0, "eye")))
    with pytest.raises(DataError, match=r"row=1.* shows no picture"):
        embed(Frame("e0", 1, "eye"))
    with pytest.raises(ConfigError, match="given pictures of camera 'eye'"):
        embed(Frame("e0", 0, "ear"))


def test_a_labeling_job_measures_the_judge_on_its_own_data(store, checkpoint, tmp_path):
    settings = {**vars(Config(checkpoint=str(checkpoint))), "name": "judge", "goals": [], "baselines": []}
    how = {"camera": "eye", "sentence": "open the drawer", "pairs": 60, "seed": 0, "limits": Limits()}
    labels = labeling.annotate(store, settings, ledger=str(tmp_path / "l.db"), check_order=20, **how)
    content = labeling.as_json(labels, store)
    assert content["labeler"] == "judge tiny (uncalibrated)"
    assert content["judge"]["checkpoint"] == "tiny"
    trust = content["trust"]
    assert trust["asked"] == 60
    assert trust["order"]["whole"] == trust["order"]["part"] == 20
    assert trust["order"]["gap"] == pytest.approx(0, abs=1e-6)
    assert sum(map(sum, trust["confusion"])) == 60
    assert trust["calibration"]["pairs"] == sum(map(sum, trust["confusion"][:2]))
    # Pictures that are the same to the model make one question.
    assert labels.report.asked < 60
    assert labels.report.asked < labels.report.cost.calls <= labels.report.asked + 20
    again = labeling.annotate(store, settings, ledger=str(tmp_path / "l.db"), check_order=20, **how)
    assert (again.report.asked, again.report.cost.calls) == (0, 0)
    assert again.trust.as_json() == trust
    limited = labeling.annotate(
        store, settings, ledger=str(tmp_path / "m.db"), check_order=20, **(how | {"limits": Limits(max_calls=30)})
    )
    assert limited.report.cost.calls == 30
    assert limited.trust.order.pairs < 20
