"""Figures of a reward: by hand, against scipy, and by laws; what is unseen is truly unseen."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr
from test_reward import SMALL, bar_episode, preferences

from vlmrl.annotate import audit
from vlmrl.errors import ConfigError, DataError
from vlmrl.reward import epic, holdout, quality_folds
from vlmrl.reward import quality_pairs as on_pairs
from vlmrl.reward import quality_ranking as ranking
from vlmrl.reward.constant import ConstantReward
from vlmrl.reward.distill import distill
from vlmrl.reward.ground_truth import GroundTruthReward
from vlmrl.reward.quality import measure, rows_of, share
from vlmrl.reward.quality_pairs import Scored, scored
from vlmrl.reward.quality_text import text
from vlmrl.reward.relabel import relabel
from vlmrl.reward.resample import interval, weights
from vlmrl.runfolder import Metrics
from vlmrl.store import Store
from vlmrl.types import Frame, Preferences, Span

ONCE = np.ones((1, 6))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Twenty episodes; those that end high succeeded."""
    episodes = [bar_episode(seed) for seed in range(20)]
    won = [int(e.truth["progress"][-1] > 0.5) for e in episodes]
    made = Store.create(tmp_path / "bars")
    made.append([dataclasses.replace(e, success=w) for e, w in zip(episodes, won, strict=True)])
    return made


def test_the_first_draw_is_the_data_and_all_draws_have_its_size() -> None:
    drawn = weights(7)
    assert drawn[0].tolist() == [1] * 7
    assert (drawn.sum(1) == 7).all()
    found = interval(np.concatenate([[5.0], np.arange(1001) / 10, [np.nan]]))
    assert (found.estimate, found.low, found.high) == pytest.approx((5.0, 2.5, 97.5))


def test_kendall_is_scipys_with_and_without_ties() -> None:
    generator = np.random.default_rng(0)
    for levels in (3, 1000):
        x, y = generator.integers(0, levels, (2, 40)).astype(float)
        assert ranking.kendall(x, y, np.ones((1, 40)))[0] == pytest.approx(kendalltau(x, y).statistic)


def test_a_draw_counts_like_the_episodes_it_repeats() -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 6))
    drawn = np.array([[2.0, 0.0, 1.0, 3.0, 0.0, 1.0]])
    again = np.repeat(np.arange(6), drawn[0].astype(int))
    assert ranking.kendall(x, y, drawn)[0] == pytest.approx(kendalltau(x[again], y[again]).statistic)
    rows = np.arange(6)
    assert ranking.pearson(x, y, rows, drawn)[0] == pytest.approx(np.corrcoef(x[again], y[again])[0, 1])


def test_correlations_are_numpys_and_scipys_far_from_zero_too() -> None:
    x, y = np.random.default_rng(2).normal(size=(2, 60))
    x, y, episode = x + 1e6, x + y - 1e6, np.repeat(np.arange(6), 10)
    assert ranking.pearson(x, y, episode, ONCE)[0] == pytest.approx(np.corrcoef(x, y)[0, 1])
    ranks = [ranking.ranks(v) for v in (x, y)]
    assert ranking.pearson(ranks[0], ranks[1], episode, ONCE)[0] == pytest.approx(spearmanr(x, y).statistic)
    assert np.isnan(ranking.pearson(x, np.full(60, 0.1), episode, ONCE)[0])


def test_auroc_by_hand() -> None:
    """Of the six pairs of a success and a failure, four are right and one is equal."""
    score, won = np.array([3.0, 1.0, 2.0, 0.0, 1.0]), np.array([True, True, False, False, False])
    assert ranking.auroc(score, won, np.ones((1, 5)))[0] == pytest.approx(4.5 / 6)
    assert np.isnan(ranking.auroc(score, np.ones(5, bool), np.ones((1, 5)))[0])


def test_a_share_that_was_always_right_is_not_sure() -> None:
    found = share(np.ones(100), 12)
    assert (found.estimate, found.high) == (1, 1)
    assert found.low == pytest.approx(0.757, abs=1e-3)


def pairs() -> Scored:
    """Right by 2, wrong by 1, equal, a tie, and one of which a side was never judged."""
    difference, p_a = np.array([2.0, 1.0, 0.0, 0.5, np.nan]), np.array([1.0, 0.0, 1.0, 0.5, 1.0])
    return Scored(difference, p_a, np.array([0, 1, 2, 3, 4]), np.array([1, 1, 3, 4, 5]))


def test_accuracy_and_log_loss_by_hand() -> None:
    assert on_pairs.accuracy(pairs(), ONCE)[0] == pytest.approx((1 + 0 + 0.5) / 3)
    p = [1 / (1 + math.exp(-x)) for x in (2.0, 1.0, 0.0, 0.5)]
    loss = -(math.log(p[0]) + math.log(1 - p[1]) + math.log(p[2]) + 0.5 * math.log(p[3] * (1 - p[3]))) / 4
    assert on_pairs.log_loss(pairs(), ONCE)[0] == pytest.approx(loss)


def test_swapping_the_sides_of_every_pair_changes_nothing() -> None:
    own = pairs()
    other = Scored(-own.difference, 1 - own.p_a, own.b, own.a)
    drawn = weights(6, draws=20)
    for figure in (on_pairs.accuracy, on_pairs.log_loss, on_pairs.calibration_error):
        np.testing.assert_allclose(figure(own, drawn), figure(other, drawn))


def test_calibration_error_is_that_of_the_labelers() -> None:
    generator = np.random.default_rng(3)
    difference = generator.normal(0, 2, 300)
    p_a = (generator.random(300) < 1 / (1 + np.exp(-difference))).astype(float)
    own = Scored(difference, p_a, *generator.integers(0, 6, (2, 300)))
    confidence = 1 / (1 + np.exp(-np.abs(difference)))
    wanted = audit.calibration_error(confidence, on_pairs.right(own))
    assert on_pairs.calibration_error(own, ONCE)[0] == pytest.approx(wanted)


def test_a_pair_counts_as_often_as_both_of_its_episodes() -> None:
    drawn = np.array([[2.0, 3.0, 0.0, 1.0, 1.0, 1.0]])
    assert pairs().weights(drawn).tolist() == [[6, 3, 0, 1, 1]]


def test_pictures_are_scored_by_the_reward_that_judged_them_and_clips_by_their_sum(store: Store) -> None:
    relabel(store, GroundTruthReward("reward"), "truth")
    mean = store.column("reward/truth/mean")  # of row i: i + 1
    a = (Frame("bar-0", 3, "judge"), Frame("bar-0", 0, "judge"), (Span("bar-1", 2, 5, "judge"),))
    b = (Frame("bar-2", 9, "judge"), Frame("bar-0", 3, "judge"), (Span("bar-2", 0, 2, "judge"),) * 2)
    found = scored(store, mean, Preferences(a, b, np.ones(3, np.float32), "test", "s"))
    assert found.difference[[0, 2]].tolist() == [3 - 9, (3 + 4 + 5) - 2 * (1 + 2)]
    assert np.isnan(found.difference[1])
    assert found.a.tolist() == [0, 0, 1]
    assert found.b.tolist() == [2, 0, 2]


def tabular(generator: np.random.Generator, states: int = 6, actions: int = 3) -> tuple[np.ndarray, ...]:
    """A random reward table and every transition of it once."""
    table = generator.normal(size=(states, actions, states))
    return table, *(axis.ravel() for axis in np.indices(table.shape))


def distance(first: np.ndarray, second: np.ndarray, every: tuple[np.ndarray, ...], discount: float) -> float:
    shaped = [epic.canonical(lambda *at, t=t: t[at], every, every, discount=discount) for t in (first, second)]
    return float(epic.distance(np.corrcoef(shaped[0], shaped[1])[:1, 1])[0])


def test_epic_is_blind_to_scale_shift_and_potential_shaping_and_to_nothing_else() -> None:
    generator = np.random.default_rng(4)
    table, *every = tabular(generator)
    every, discount, potential = tuple(every), 0.9, generator.normal(0, 3, 6)
    shaped = 2.5 * table + 7 + discount * potential[None, None, :] - potential[:, None, None]
    assert distance(table, shaped, every, discount) == pytest.approx(0, abs=1e-6)
    assert distance(table, -shaped, every, discount) == pytest.approx(1)
    wrong = 2.5 * table - discount * potential[None, None, :] - potential[:, None, None]
    assert distance(table, wrong, every, discount) > 0.3


def test_epic_of_a_reward_of_the_state_arrived_at_is_that_of_its_correlation() -> None:
    generator = np.random.default_rng(5)
    values, rows = generator.normal(size=50), np.arange(50)
    coverage = epic.draw_coverage(rows, generator=generator)
    shaped = epic.canonical(epic.arrival(values), (rows, rows, rows), coverage, discount=0.99)
    np.testing.assert_allclose(shaped - values, (shaped - values)[0])


def test_the_truth_itself_is_a_perfect_reward(store: Store) -> None:
    relabel(store, GroundTruthReward("progress"), "perfect")
    found = measure(store, "perfect", truth="progress")
    values = {f.name: f.value.estimate for f in found.figures}
    assert values["kendall"] == 1
    assert values["spearman"] == pytest.approx(1, abs=1e-4)  # the truth is compared in steps
    assert values["pearson"] == pytest.approx(1)
    assert values["epic"] == pytest.approx(0, abs=1e-4)
    assert values["auroc_last"] == 1
    assert all(s.over_reward is not None and abs(s.over_reward.estimate) < 1e-9 for s in found.slices)
    assert found.slices[0].name == "failed episodes"
    assert "EPIC distance to progress" in text(found, None)


def test_over_reward_of_failed_episodes_is_what_was_planted(store: Store) -> None:
    """The truth with all rows of failed episodes raised by two deviations."""
    relabel(store, GroundTruthReward("progress"), "truth")
    truth = store.column("reward/truth/mean").astype(np.float64)
    failed = store.episodes.success[store.episodes.of_row(np.arange(len(store)))] == 0
    mean = truth + 2 * np.nanstd(truth) * failed
    store.add_reward("generous", mean.astype(np.float32), (0 * mean).astype(np.float32), {"rewarder": "test"})
    own = np.isfinite(mean)
    due = (truth[own] - truth[own].mean()) / truth[own].std()
    given = (mean[own] - mean[own].mean()) / mean[own].std()
    found = measure(store, "generous", truth="progress").slices[0]
    assert found.over_reward is not None
    assert found.over_reward.estimate == pytest.approx((given - due)[failed[own]].mean(), abs=1e-5)
    assert found.over_reward.low > 0
    over = measure(store, "generous", truth="progress").figure("over_rewarded_failures")
    perfect = measure(store, "truth", truth="progress").figure("over_rewarded_failures")
    assert over is not None
    assert perfect is not None
    assert over.value.estimate > 0.5 > perfect.value.estimate


def test_what_cannot_be_measured_is_said(store: Store, tmp_path: Path) -> None:
    relabel(store, GroundTruthReward("progress"), "perfect")
    without = Store.create(tmp_path / "real")
    without.append([dataclasses.replace(bar_episode(seed), truth={}) for seed in range(3)])
    mean = np.where(without.column("has_next"), np.arange(len(without)), np.nan).astype(np.float32)
    without.add_reward("steps", mean, mean, {"rewarder": "test"})
    found = measure(without, "steps", logits=False)
    assert found.figures == ()
    assert len(found.missing) == 4
    with pytest.raises(ConfigError, match="unknown truth 'reword'; have: progress, reward"):
        rows_of(store, "perfect", "reword")
    with pytest.raises(ConfigError, match="unknown reward 'imperfect'; have: perfect"):
        rows_of(store, "imperfect")
    relabel(store, ConstantReward(), "constant")
    with pytest.raises(DataError, match="'constant' is 0 everywhere"):
        rows_of(store, "constant")


def test_the_pairs_that_training_kept_aside_are_found_again(store: Store, tmp_path: Path) -> None:
    labels, metrics = preferences(store), Metrics(tmp_path / "metrics.jsonl")
    trained = distill(store, labels, SMALL, camera="judge", seed=3, metrics=metrics, quiet=True)
    relabel(store, trained, "learned")
    facts = store.rewards()["learned"]
    places = holdout.kept_aside(labels, facts)
    assert places is not None
    assert sorted([*places[0], *places[1]]) == list(range(300))
    held = scored(store, store.column("reward/learned/mean"), quality_folds.take(labels, places[1]))
    assert len(held) == trained.facts["held_out"]["pairs"]
    assert int((held.p_a == 0.5).sum()) == trained.facts["held_out"]["ties"]
    # All but the pairs with an episode's first picture, which no row is judged on.
    assert on_pairs.accuracy(held, np.ones((1, 20)))[0] == pytest.approx(
        trained.facts["held_out"]["accuracy"], abs=0.05
    )
    assert holdout.kept_aside(dataclasses.replace(labels, snapshot="other"), facts) is None
    flipped = dataclasses.replace(labels, p_a=np.where(labels.p_a == 0.5, 1, labels.p_a).astype(np.float32))
    assert holdout.kept_aside(flipped, facts) is None


def test_folds_never_train_on_an_episode_that_they_are_tested_on(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, trained_on = preferences(store, 600), []
    facts = {"config": dataclasses.asdict(SMALL), "seed": 0, "camera": "judge"}
    relabel(store, GroundTruthReward("progress"), "learned", facts=facts)

    def train(_: Store, some: Preferences, config: object, **settings: object) -> GroundTruthReward:
        trained_on.append({frame.episode for side in (some.a, some.b) for frame in side if isinstance(frame, Frame)})
        assert config == dataclasses.replace(SMALL, holdout=0.0)
        assert settings["camera"] == "judge"
        return GroundTruthReward("progress")

    monkeypatch.setattr(quality_folds, "distill", train)
    found = quality_folds.by_episodes(store, labels, "learned", folds=4, metrics=Metrics(tmp_path / "m"))
    assert len(trained_on) == 4
    tested = [{store.episodes.id[p] for p in (a, b)} for a, b in zip(found.a, found.b, strict=True)]
    assert all(any(not pair & seen for seen in trained_on) for pair in tested)
    assert 0.15 * len(labels) < len(found) < 0.35 * len(labels)
    assert on_pairs.accuracy(found, np.ones((1, 20)))[0] == 1
    with pytest.raises(ConfigError, match="folds is 1; wanted 2 to 20"):
        quality_folds.by_episodes(store, labels, "learned", folds=1, metrics=Metrics(tmp_path / "m"))


def test_pairs_of_other_episodes_are_told_from_those_of_known_ones() -> None:
    known, other = pairs().take(np.array([0, 1])), pairs()
    assert on_pairs.apart(other, known).tolist() == [False, False, True, True, True]
