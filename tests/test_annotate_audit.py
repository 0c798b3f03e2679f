"""Labels against the truth, and against themselves with the sides swapped."""

import asyncio
import math
from itertools import pairwise

import numpy as np
import pytest

from vlmrl.annotate import scripted
from vlmrl.annotate.audit import (
    Accuracy,
    calibration,
    calibration_error,
    confusion,
    label_accuracy,
    order_consistency,
)
from vlmrl.annotate.trust import measure
from vlmrl.errors import ConfigError, DataError
from vlmrl.types import Frame, Kind, Preferences, Query, Reply, Verdict

A, B, TIE, UNSURE = Verdict.A_BETTER, Verdict.B_BETTER, Verdict.TIE, Verdict.UNSURE


def labelled(truth_a, truth_b, p_a):
    """Labels of frames whose row is an index into the returned truth."""
    values = np.concatenate([truth_a, truth_b]).astype(float)
    frames = [Frame("e", i, "c") for i in range(len(values))]
    n = len(truth_a)
    labels = Preferences(tuple(frames[:n]), tuple(frames[n:]), np.array(p_a, np.float32), "x", "h")
    return labels, lambda item: values[item.row]


def test_accuracy_by_hand():
    #                     right, wrong, tie, right, equal truth, right by probability
    labels, truth = labelled([1, 1, 1, 0, 2, 5], [0, 3, 0, 4, 2, 0], [1, 1, 0.5, 0, 1, 0.6])
    audit = label_accuracy(labels, truth, bins=2)
    assert audit.overall == Accuracy(pairs=5, correct=3, ties=1, closest=1.0, farthest=5.0)
    assert audit.overall.rate == 0.75
    assert audit.equal == 1
    near, far = audit.by_difficulty  # differences 1, 1, 2 and 4, 5
    assert near == Accuracy(pairs=3, correct=1, ties=1, closest=1.0, farthest=2.0)
    assert far == Accuracy(pairs=2, correct=2, ties=0, closest=4.0, farthest=5.0)


def test_the_interval_is_wilsons():
    low, high = Accuracy(pairs=10, correct=8, ties=0, closest=0.0, farthest=1.0).interval()
    z, n, p = 1.959963984540054, 10, 0.8
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert (low, high) == pytest.approx(((middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)))
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)


def test_swapping_the_sides_changes_nothing():
    generator = np.random.default_rng(0)
    a, b, p = generator.random(200), generator.random(200), generator.choice([0.0, 0.5, 1.0], 200)
    forward, truth = labelled(a, b, p)
    backward, truth_back = labelled(b, a, 1 - p)
    assert label_accuracy(forward, truth) == label_accuracy(backward, truth_back)


def test_deciles_hold_equally_many_pairs_from_near_to_far():
    generator = np.random.default_rng(1)
    labels, truth = labelled(generator.random(995), generator.random(995), np.ones(995))
    parts = label_accuracy(labels, truth).by_difficulty
    assert {p.pairs for p in parts} == {99, 100}
    assert all(x.farthest <= y.closest for x, y in pairwise(parts))


def test_labels_that_name_no_side_have_no_rate():
    labels, truth = labelled([1], [0], [0.5])
    overall = label_accuracy(labels, truth).overall
    assert math.isnan(overall.rate)
    assert overall.interval() == (0.0, 1.0)


def test_a_missing_truth_is_named():
    labels, truth = labelled([1, math.nan], [0, 1], [1, 1])
    with pytest.raises(DataError, match=r"no truth to compare with: Frame.*row=1.* has nan"):
        label_accuracy(labels, truth)


def reply(answer, p=None):
    return Reply(answer, "x", p)


def test_confusion_by_hand():
    answers = [A, B, TIE, UNSURE, A, B, A, TIE, UNSURE, None]
    truth = [1, 1, 1, 1, -1, -1, 0, 0, 0, 1]
    replies = [*map(reply, answers), None, reply(A)]
    found = confusion(replies, np.array([*truth, 1, np.nan], np.float64))
    assert found.counts.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 1]]
    assert (found.correct, found.decided, found.rate) == (2, 4, 0.5)


def test_swapping_the_sides_transposes_the_confusion():
    generator = np.random.default_rng(3)
    answers = generator.choice([A, B, TIE, UNSURE], 300)
    truth = generator.choice([-1.0, 0.0, 1.0], 300)
    forward = confusion([reply(a) for a in answers], truth).counts
    backward = confusion([reply(a.swapped()) for a in answers], -truth).counts
    np.testing.assert_array_equal(forward[[1, 0, 2]][:, [1, 0, 2, 3]], backward)


def test_order_consistency_by_hand():
    first = [reply(A, 0.9), reply(A, 0.8), reply(TIE), reply(UNSURE), reply(B), None, reply(None)]
    again = [reply(B, 0.1), reply(A, 0.6), reply(TIE), reply(UNSURE), None, reply(A), reply(A)]
    found = order_consistency(first, again)
    assert (found.pairs, found.same, found.rate) == (4, 3, 0.75)
    assert found.gap == pytest.approx((0 + 0.4 + 0) / 3)  # p + q - 1: 0, 0.4, a tie's two halves; unsure has no p
    assert math.isnan(order_consistency([None], [None]).rate)


def test_calibration_looks_at_probabilities_of_pairs_that_differ():
    replies = [reply(A, 0.9), reply(UNSURE, 0.4), reply(B), reply(TIE, 0.5), reply(A, 0.9)]
    found = calibration(replies, np.array([1.0, 1.0, 1.0, 0.0, np.nan]))
    assert found.pairs == 2
    assert found.log_loss == pytest.approx(-(math.log(0.9) + math.log(0.4)) / 2)
    assert found.error == pytest.approx((0.1 + 0.6) / 2)  # 0.9 sure and right, 0.6 sure of b and wrong


def test_calibration_error_is_zero_for_honest_and_large_for_boastful_confidence():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1, 20_000)
    honest = generator.random(20_000) < confidence
    assert calibration_error(confidence, honest) < 0.02
    assert calibration_error(np.ones(1000), np.zeros(1000, np.bool_)) == pytest.approx(1)


def test_trust_says_what_it_knows_and_what_not():
    known = measure([reply(A, 0.75), reply(UNSURE)], [reply(B, 0.25), None], difference=np.array([1.0, 2.0]))
    assert (known.asked, known.decided) == (2, 0.5)
    assert "right in 100.0 % [20.7, 100.0] of 1 pairs" in str(known)
    assert "calibration error 0.250 of 1 pairs" in str(known)
    assert "the same answer in 100 %" in str(known)
    content = known.as_json()
    assert content["accuracy"]["rate"] == 1
    assert content["confusion"] == [[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    unknown = measure([reply(A)], [None], difference=None)
    assert str(unknown) == "no truth to measure these answers against; order of the sides not checked"
    assert unknown.as_json()["accuracy"] is None
    assert unknown.as_json()["order"]["rate"] is None


def test_a_scripted_teacher_has_the_confusion_table_it_was_given():
    config = scripted.Config(error_rate=0.2, missed=0.3, invented=0.4)
    teacher = scripted.build(config, truth=lambda item: item.row % 3)
    assert teacher.name == ("scripted teacher (20% wrong, 30% of differences called a tie, 40% of ties given a side)")
    queries = [Query(Kind.PREFERENCE, (Frame("e", i, "c"), Frame("f", i // 3, "c")), "open it") for i in range(9_000)]

    async def answers():
        return [await teacher.ask(q) for q in queries]

    truth = np.array([q.items[0].row % 3 - q.items[1].row % 3 for q in queries], np.float64)
    counts = confusion(asyncio.run(answers()), truth).counts
    differ, wrong = counts[:2].sum(), counts[0, 1] + counts[1, 0]
    assert counts[:2, 2].sum() / differ == pytest.approx(0.3, abs=0.025)
    assert wrong / counts[:2, :2].sum() == pytest.approx(0.2, abs=0.025)
    assert counts[2, :2].sum() / counts[2].sum() == pytest.approx(0.4, abs=0.04)
    assert counts[2, 0] / counts[2, :2].sum() == pytest.approx(0.5, abs=0.06)
    assert not counts[:, 3].any()


def test_a_teacher_without_mistakes_about_ties_keeps_the_questions_it_had():
    query = Query(Kind.PREFERENCE, (Frame("e", 1, "c"), Frame("e", 2, "c")), "open it")
    plain = scripted.build(scripted.Config(), truth=lambda item: float(item.row)).content(query)
    assert set(plain) == {
        "labeler", "version", "kind", "instruction", "error_rate", "equal", "seed", "items", "truth",
    }  # fmt: skip
    other = scripted.build(scripted.Config(missed=0.1), truth=lambda item: float(item.row)).content(query)
    assert other == {**plain, "missed": 0.1}
    with pytest.raises(ConfigError, match=r"missed -1\.0 given; wanted 0 to 1"):
        scripted.Config(missed=-1.0)
