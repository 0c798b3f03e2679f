"""Agreement beyond chance against numbers worked out by hand and scikit-learn, and whether answers fit together."""

import math

import numpy as np
import pytest

from vlmrl.annotate.agreement import CATEGORIES, alpha, kappa, share
from vlmrl.annotate.audit import reliability
from vlmrl.annotate.consistency import position, transitivity
from vlmrl.annotate.opinions import Opinion, gather
from vlmrl.annotate.people.question import Pair
from vlmrl.types import Frame, Reply, Verdict

A, B, TIE, UNSURE = Verdict.A_BETTER, Verdict.B_BETTER, Verdict.TIE, Verdict.UNSURE


def alone(count: int) -> list[frozenset[str]]:
    """Every pair in an episode of its own."""
    return [frozenset({f"e{i}"}) for i in range(count)]


def test_kappa_by_hand():
    # 20 agree on a, 15 on b; 5 + 10 do not: observed 0.7, expected 0.5 * 0.6 + 0.5 * 0.4.
    x = [A] * 25 + [B] * 25
    y = [A] * 20 + [B] * 5 + [A] * 10 + [B] * 15
    found = kappa(x, y, alone(50))
    assert found.value == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    assert found.low < found.value < found.high
    assert found.pairs == 50


def test_kappa_leaves_out_who_is_unsure_or_silent():
    assert kappa([A, B, UNSURE, None], [A, B, A, A], alone(4)).pairs == 2
    assert kappa([A, B, UNSURE, None], [A, B, A, A], alone(4)).value == 1
    assert math.isnan(kappa([A, A], [A, A], alone(2)).value)  # nothing but one category: chance explains all
    assert math.isnan(kappa([], [], []).value)


def test_kappa_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    x, y = (generator.choice(3, 400, p=p) for p in ([0.5, 0.4, 0.1], [0.3, 0.5, 0.2]))
    y = np.where(generator.random(400) < 0.6, x, y)
    found = kappa([CATEGORIES[k] for k in x], [CATEGORIES[k] for k in y], alone(400))
    assert found.value == pytest.approx(metrics.cohen_kappa_score(x, y))


def test_alpha_by_hand():
    # Krippendorff (2011), nominal data of two observers without gaps: ten units, 0 and 1; alpha 0.095.
    one = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    two = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    said = [[(A, B)[i], (A, B)[j]] for i, j in zip(one, two, strict=True)]
    # coincidences: 4 disagreements of 20 values twice, 14 zeros and 6 ones: 1 - 19 * 8 / (2 * 14 * 6)
    assert alpha(said, alone(10)).value == pytest.approx(1 - 19 * 8 / (2 * 14 * 6))
    assert round(alpha(said, alone(10)).value, 3) == 0.095


def test_alpha_counts_only_pairs_that_two_judged_and_weighs_more_judges():
    # units: (a a b), (b b), (a), (a unsure): only the first two are pairable. Coincidences by hand:
    # unit 1: aa 1, ab 1, ba 1; unit 2: bb 2. n_a 2, n_b 3, n 5: 1 - 4 * 2 / (25 - 4 - 9)
    said = [[A, A, B], [B, B, None], [A, None, None], [A, UNSURE, None]]
    found = alpha(said, alone(4))
    assert found.pairs == 2
    assert found.value == pytest.approx(1 - 4 * 2 / 12)
    assert alpha([[A, A], [B, B]], alone(2)).value == 1


def test_the_interval_is_over_episodes_not_pairs():
    generator = np.random.default_rng(1)
    right = (generator.random(400) < 0.8).tolist()
    spread = share(right, alone(400))
    # The same answers, but 20 episodes decide them all.
    few = share([right[i // 20] for i in range(400)], [frozenset({f"e{i // 20}"}) for i in range(400)])
    assert few.high - few.low > 2.5 * (spread.high - spread.low)
    p = np.mean(right)
    assert spread.high - spread.low == pytest.approx(2 * 1.96 * math.sqrt(p * (1 - p) / 400), rel=0.15)


def opinion(a: int, b: int, verdict: Verdict, who: str = "m", p: float | None = None) -> Opinion:
    return Opinion(Pair(Frame("e", a, "c"), Frame("e", b, "c"), "go"), Reply(verdict, who, p), f"{who}{a}{b}")


def test_an_opinion_swapped_is_the_same_opinion():
    one = opinion(0, 1, A, p=0.8)
    (judged,) = gather([one, opinion(1, 0, B, "other", 0.1)])
    other = judged.by("other")
    assert other is not None
    assert (other.verdict, other.probability) == (A, 0.9)
    assert one.swapped().swapped() == one


def test_position_by_hand():
    pairs = gather(
        [
            *(opinion(0, 1, A), opinion(1, 0, A)),  # the place alone
            *(opinion(2, 3, A), opinion(3, 2, B)),  # consistent
            *(opinion(4, 5, B), opinion(5, 4, TIE)),
            opinion(6, 7, UNSURE),
        ]
    )
    found = position(pairs, "m")
    assert (found.named, found.first) == (5, 3)
    assert (found.both_ways, found.first_twice, found.second_twice) == (2, 1, 0)
    assert position(pairs, "nobody").as_json()["by_place_alone"]["rate"] is None


def test_cycles_by_hand():
    # 0 > 1 > 2 > 0 is a cycle; 3 > 0, 3 > 1 belong to a whole triple without one; 4 > 5 to none.
    pairs = gather(
        [opinion(0, 1, A), opinion(1, 2, A), opinion(0, 2, B), opinion(0, 3, B), opinion(3, 1, A), opinion(4, 5, A)]
    )
    found = transitivity(pairs, "m")
    assert (found.edges, found.on_cycles, found.triples, found.cyclic) == (6, 3, 2, 1)


def test_one_order_of_all_has_no_cycle_and_chance_has_a_quarter_of_triples():
    generator = np.random.default_rng(0)
    places = [(i, j) for i in range(20) for j in range(i)]
    ordered = transitivity(gather([opinion(i, j, A) for i, j in places]), "m")
    assert (ordered.on_cycles, ordered.cyclic, ordered.triples) == (0, 0, 20 * 19 * 18 // 6)
    thrown = gather([opinion(i, j, A if generator.random() < 0.5 else B) for i, j in places])
    assert transitivity(thrown, "m").cyclic / ordered.triples == pytest.approx(0.25, abs=0.04)


def test_a_reliability_table_by_hand():
    found = reliability(np.array([0.92, 0.08, 0.94, 0.5]), np.array([True, False, False, True]))
    assert [(r["low"], r["pairs"]) for r in found["table"]] == [(0.5, 1), (0.9, 3)]
    assert found["table"][1]["right"] == pytest.approx(2 / 3)
    assert found["error"] == pytest.approx(0.75 * abs(2 / 3 - (0.92 + 0.92 + 0.94) / 3))
    assert reliability(np.zeros(0), np.zeros(0, np.bool_))["error"] is None
