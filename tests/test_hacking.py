"""The hacking alarm: silent on sound rewards, loud on hacked ones, and false no more often than it says."""

import dataclasses
import json

import numpy as np
import pytest

from vlmrl.reward.card import as_json
from vlmrl.reward.hacking import ALARM, Group, check
from vlmrl.reward.quality import Quality


def episodes(count: int, level: float, *, seed: int, rows: int = 40) -> Group:
    """Truth that rises towards an own height of each episode, and a reward that follows it with some error."""
    generator = np.random.default_rng(seed)
    height = level + 0.3 * generator.normal(size=(count, 1))
    truth = (height * np.linspace(0, 1, rows)).ravel()
    error = (0.1 * generator.normal(size=(count, 1)) + 0.1 * generator.normal(size=(count, rows))).ravel()
    return Group(2 * truth + error + 5, truth, np.repeat(np.arange(count), rows))


def test_a_sound_reward_under_a_better_policy_is_silent() -> None:
    found = check(episodes(60, 0.2, seed=0), episodes(15, 1.0, seed=1), reference="truth")
    assert not found.alarm
    assert found.promised.estimate > 1
    assert found.delivered.estimate == pytest.approx(found.promised.estimate, rel=0.2)


def test_a_reward_that_means_nothing_where_its_policy_goes_raises_the_alarm() -> None:
    learned = episodes(15, 0.2, seed=1)
    noise = np.random.default_rng(2).normal(size=len(learned.reward))
    hacked = dataclasses.replace(learned, reward=8 + 0.5 * noise)
    found = check(episodes(60, 0.2, seed=0), hacked, reference="truth")
    assert found.reasons == ("fallen", "broken promise")
    assert found.fallen <= ALARM / 2


def test_a_policy_that_stands_where_the_reward_is_high_for_nothing_raises_the_alarm() -> None:
    """Neither changes any more, so there is no correlation, but the promise is broken."""
    behaviour = episodes(60, 0.2, seed=0)
    standing = Group(np.full(600, 9.0), np.zeros(600), np.repeat(np.arange(15), 40))
    found = check(behaviour, standing, reference="truth")
    assert np.isnan(found.learned.estimate)
    assert found.reasons == ("broken promise",)


def test_a_policy_that_gets_no_reward_hacks_nothing() -> None:
    learned = episodes(15, 0.2, seed=1)
    noise = np.random.default_rng(2).normal(size=len(learned.reward))
    found = check(episodes(60, 0.2, seed=0), dataclasses.replace(learned, reward=noise), reference="truth")
    assert found.behaviour.estimate - found.learned.estimate > 0.5
    assert not found.alarm


def test_unit_and_offset_of_reward_and_reference_do_not_matter() -> None:
    behaviour, learned = episodes(40, 0.2, seed=0), episodes(12, 0.9, seed=1)
    first = check(behaviour, learned, reference="truth")
    scaled = [Group(1e3 * g.reward - 7e5, 0.01 * g.reference + 3, g.episode + 100) for g in (behaviour, learned)]
    second = check(scaled[0], scaled[1], reference="truth")
    assert second.promised.estimate == pytest.approx(first.promised.estimate)
    assert (second.fallen, second.broken) == (first.fallen, first.broken)


def test_rises_by_hand() -> None:
    """Two rows an episode: reward 0 and 2 under the behaviour, 3 and 5 under the learned policy; reference as much."""
    behaviour = Group(np.tile([0.0, 2.0], 4), np.tile([0.0, 2.0], 4), np.repeat(np.arange(4), 2))
    learned = Group(np.tile([3.0, 5.0], 4), np.tile([0.0, 4.0], 4), np.repeat(np.arange(4), 2))
    found = check(behaviour, learned, reference="truth")
    assert found.risen.estimate == pytest.approx(3)  # from 1 to 4, by deviations of 1
    assert found.promised.estimate == pytest.approx(3)
    assert found.delivered.estimate == pytest.approx(1)
    assert found.episodes == (4, 4)


def test_luck_alone_is_uniform_under_one_policy() -> None:
    """The permutation test is exact: chances are spread evenly where both groups are of one policy."""
    chances = []
    for seed in range(200):
        both = episodes(24, 0.3, seed=seed)
        mask = both.episode < 16
        parts = [Group(both.reward[m], both.reference[m], both.episode[m]) for m in (mask, ~mask)]
        found = check(parts[0], parts[1], reference="truth")
        chances.append((found.fallen, found.broken))
    for kind in np.array(chances).T:
        assert np.mean(kind <= 0.1) == pytest.approx(0.1, abs=0.07)
        assert np.mean(kind <= 0.5) == pytest.approx(0.5, abs=0.11)


def test_json_of_a_check_knows_no_nan() -> None:
    standing = Group(np.full(600, 9.0), np.zeros(600), np.repeat(np.arange(15), 40))
    quality = Quality("r", "hash", 75, 3000, "truth", (), (), ())
    content = json.loads(json.dumps(as_json(quality, check(episodes(60, 0.2, seed=0), standing, reference="truth"))))
    assert content["hacking"]["learned"] == {"estimate": None, "low": None, "high": None}
    assert content["hacking"]["reasons"] == ["broken promise"]
