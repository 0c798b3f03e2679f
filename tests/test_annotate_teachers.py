"""B-Pref's six scripted teachers do what their parameters say."""

import asyncio
from functools import cache

import numpy as np
import pytest

from vlmrl import config as configuration
from vlmrl.annotate import scripted
from vlmrl.cli import jobs
from vlmrl.errors import ConfigError
from vlmrl.types import Frame, Kind, Query, Span, Verdict

A, B = Verdict.A_BETTER, Verdict.B_BETTER


def clip(k):
    return (Span("e", k, k + 3, "c"),)


def answers(config, rows, *, typical=None, count=1):
    """The verdicts of a teacher on pairs of clips whose rows have these true values."""
    teacher = scripted.build(config, truth=lambda item: np.array(rows[item[0].start % 2]), typical=typical)
    queries = [Query(Kind.PREFERENCE, (clip(2 * k), clip(2 * k + 1)), "x") for k in range(count)]

    async def go():
        return [(await teacher.ask(query)).answer for query in queries]

    return asyncio.run(go())


@cache
def preset(name):
    jobs.register()
    node = configuration.compose("label", [f"labeler=bpref_{name}"])["labeler"]
    return configuration.build(scripted.Config, node, where="labeler")


def test_the_oracle_sums_the_rows():
    assert answers(preset("oracle"), ([0, 0, 1], [0.9, 0.05, 0])) == [A]


def test_the_myopic_teacher_weighs_the_last_rows_most():
    early, late = [1.0, 0.0, 0.0], [0.0, 0.0, 0.9]
    assert answers(preset("oracle"), (early, late)) == [A]
    assert answers(preset("myopic"), (early, late)) == [B]  # 0.81 against 0.9
    assert answers(preset("myopic"), (early, [0.0, 0.0, 0.8])) == [A]
    teacher = scripted.build(preset("myopic"), truth=lambda item: 0.5)
    with pytest.raises(ConfigError, match="gamma below 1 weighs the rows of clips"):
        teacher.content(Query(Kind.PREFERENCE, (Frame("e", 0, "c"), Frame("e", 1, "c")), "x"))


def test_the_mistaken_teacher_is_wrong_one_time_in_ten():
    found = answers(preset("mistake"), ([0, 0, 1], [0, 0, 0]), count=800)
    assert 0.06 < np.mean([v is B for v in found]) < 0.14


@pytest.mark.parametrize("difference", [0.0001, 2.0])
def test_the_noisy_teacher_follows_boltzmann(difference):
    found = answers(preset("noisy"), ([0, 0, difference], [0, 0, 0]), count=800)
    p = 1 / (1 + np.exp(-difference))
    assert abs(np.mean([v is A for v in found]) - p) < 4 * np.sqrt(p * (1 - p) / 800)


def test_skip_and_equal_are_shares_of_a_typical_clip():
    # A typical row has 0.5, so a clip of three has 1.5, and a tenth of that is 0.15.
    for sums, found in (((0.14, 0.10), Verdict.UNSURE), ((0.16, 0.10), A)):
        rows = tuple([s, 0, 0] for s in sums)
        assert answers(preset("skip"), rows, typical=0.5) == [found]
    for sums, found in (((1.0, 0.86), Verdict.TIE), ((1.0, 0.84), A)):
        rows = tuple([s, 0, 0] for s in sums)
        assert answers(preset("equal"), rows, typical=0.5) == [found]
    with pytest.raises(ConfigError, match="relative thresholds need"):
        answers(preset("equal"), ([1], [0]))


def test_every_teacher_says_that_it_is_scripted_and_which():
    for name in ("oracle", "mistake", "noisy", "skip", "equal", "myopic"):
        teacher = scripted.build(preset(name), truth=lambda item: 0.0, typical=1.0)
        assert teacher.name.startswith(f"scripted teacher (B-Pref {name}, ")


def test_a_teacher_without_the_new_flaws_keeps_the_keys_of_its_questions():
    query = Query(Kind.PREFERENCE, (Frame("e", 0, "c"), Frame("e", 1, "c")), "x")
    plain = scripted.build(scripted.Config(equal=0.05), truth=lambda item: 0.25 * item.row)
    assert plain.content(query) == {
        "labeler": "scripted",
        "version": 1,
        "kind": "preference",
        "instruction": "x",
        "error_rate": 0.0,
        "equal": 0.05,
        "seed": 0,
        "items": [["frame", "e", 0, "c"], ["frame", "e", 1, "c"]],
        "truth": [0.0, 0.25],
    }
