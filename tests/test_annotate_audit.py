"""Label accuracy against the truth."""

import math
from itertools import pairwise

import numpy as np
import pytest

from vlmrl.annotate.audit import Accuracy, label_accuracy
from vlmrl.errors import DataError
from vlmrl.types import Frame, Preferences


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
