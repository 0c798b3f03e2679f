"""Several answers to one question make one label, by the rule that is stated."""

from dataclasses import replace

import pytest

from vlmrl.annotate.audit import order_consistency
from vlmrl.annotate.frozen import freeze
from vlmrl.annotate.polls import merged
from vlmrl.types import Frame, Kind, Query, Reply, Verdict

A, B, TIE, UNSURE = Verdict.A_BETTER, Verdict.B_BETTER, Verdict.TIE, Verdict.UNSURE


def said(answer, p=None):
    return Reply(answer, "m", p, text=str(answer))


def label(first, second=(), *, disagree="tie"):
    (found,) = merged([[r] for r in first], [[r] for r in second], disagree=disagree)
    return found and (found.answer, found.probability)


def test_a_single_answer_stays_as_it_was():
    reply = said(A, 0.8)
    assert list(merged([[reply, None]], [], disagree="tie")) == [replace(reply, text=""), None]  # the ledger has it


@pytest.mark.parametrize(
    ("first", "second", "rule", "found"),
    [
        (A, B, "tie", (A, 1.0)),  # the same picture both times
        (A, A, "tie", (TIE, None)),
        (A, A, "drop", (UNSURE, None)),
        (A, A, "mean", (TIE, 0.5)),
        (A, TIE, "tie", (A, 0.75)),
        (B, UNSURE, "tie", (B, 0.0)),
        (UNSURE, UNSURE, "tie", (UNSURE, None)),
    ],
)
def test_both_orders(first, second, rule, found):
    assert label([said(first)], [said(second)], disagree=rule) == found


def test_probabilities_of_both_orders_are_averaged_the_second_turned_round():
    assert label([said(A, 0.9)], [said(B, 0.3)]) == (A, pytest.approx(0.8))
    assert label([said(A, 0.9)], [said(A, 0.7)], disagree="mean") == (A, pytest.approx(0.6))
    assert label([said(A, 0.9)], [said(A, 0.7)], disagree="drop")[0] is UNSURE


def test_votes_make_a_share_within_an_order_first():
    assert label([said(A), said(A), said(B), said(None)]) == (A, pytest.approx(2 / 3))
    assert label([said(A), said(B)], [said(B), said(B)]) == (A, pytest.approx(0.75))
    # Two of three and one of three: the orders disagree.
    assert label([said(A), said(A), said(B)], [said(A), said(A), said(B)])[0] is TIE


def test_an_order_that_was_not_answered_leaves_the_other():
    assert label([None], [said(A, 0.9)]) == (B, pytest.approx(0.1))
    assert label([said(B)], [None]) == (B, None)
    assert label([None], [None]) is None


def test_dropped_labels_are_not_trained_on_and_ties_are_at_one_half():
    frames = [Frame("e", i, "c") for i in range(4)]
    queries = [Query(Kind.PREFERENCE, (frames[i], frames[i + 1]), "x") for i in range(3)]
    votes = [[said(A), said(A), said(B)]]
    swapped = [[said(A), said(B), said(A)]]
    kept = freeze(queries, ["k", "l", "m"], merged(votes, swapped, disagree="tie"))
    assert kept.p_a.tolist() == [0.5, 1.0, 0.0]
    assert freeze(queries, ["k", "l", "m"], merged(votes, swapped, disagree="drop")).p_a.tolist() == [1.0, 0.0]


def test_the_bias_of_the_place_is_one_half_for_whoever_looks_at_the_pictures():
    looks = order_consistency([said(A), said(B)] * 50, [said(B), said(A)] * 50)
    assert (looks.bias, looks.first, looks.second) == (0.5, 0, 0)
    always_first = order_consistency([said(A)] * 100, [said(A)] * 100)
    assert always_first.bias == 1
    assert always_first.bias_interval()[0] > 0.9
    # Of ten pairs, three are decided by the first place and one by the second: 4 of 10 say nothing of the picture.
    mixed = order_consistency([said(A)] * 3 + [said(B)] * 7, [said(A)] * 3 + [said(B)] + [said(A)] * 6)
    assert mixed.bias == pytest.approx(0.5 + (3 - 1) / 20)
    low, high = mixed.bias_interval()
    assert low < 0.5 < mixed.bias < high
    undecided = order_consistency([said(TIE)], [said(A)])
    assert undecided.sided == 0
