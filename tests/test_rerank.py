"""Re-ranking: what one sample, a random choice and the highest value must be, and what happens when time is up."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from vlmrl.errors import ConfigError, DataError
from vlmrl.nn import Actor, Critic, Normaliser, StackedMLP
from vlmrl.policy import LearnedPolicy, LearnedValue, RerankedPolicy, UniformPolicy
from vlmrl.policy.rerank import REST, choose, softmax


def normalisers() -> tuple[Normaliser, Normaliser]:
    obs = Normaliser(torch.zeros(3), torch.ones(3))
    return obs, Normaliser(torch.zeros(2), torch.full((2,), 2.0))


def gaussian(log_std: float = -1.0) -> LearnedPolicy:
    actor = Actor(*normalisers(), hidden=(8,), layer_norm=True, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        actor.log_std.fill_(log_std)
    return LearnedPolicy(actor, "gaussian")


def learned_value(seed: int = 0) -> LearnedValue:
    q = StackedMLP(2, (5, 16, 1), layer_norm=False, generator=torch.Generator().manual_seed(seed))
    return LearnedValue(Critic(*normalisers(), q), "critic")


@dataclasses.dataclass
class Lookup:
    """Values an action by a given function."""

    function: object
    name: str = "lookup"

    def value(self, observations: Mapping[str, np.ndarray], actions: np.ndarray) -> np.ndarray:
        return self.function(actions)  # type: ignore[operator]


@dataclasses.dataclass
class Numbered:
    """Proposes chunks that say whose, which sample and which step they are."""

    name: str = "numbered"
    own: float = -1.0

    def reset(self, mask: np.ndarray, instructions: Sequence[str], generator: np.random.Generator) -> None:
        """Nothing is remembered."""

    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.full((len(observations["state"]), 4, 2), self.own)

    def propose(self, observations: Mapping[str, np.ndarray], n: int, generators: Sequence[object]) -> np.ndarray:
        chunks = np.zeros((len(observations["state"]), n, 4, 2))
        chunks[..., 0] = np.arange(n)[:, None]
        chunks[..., 1] = np.arange(4)
        return chunks


def seen(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {"state": np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)}


def reset(policy: object, count: int) -> None:
    for k in range(count):
        policy.reset(np.arange(count) == k, [""] * count, np.random.default_rng([k, 1]))  # type: ignore[attr-defined]


def test_one_sample_is_what_the_policy_draws_with_the_same_chance() -> None:
    policy = RerankedPolicy(gaussian(), learned_value(), samples=1, temperature=0.5)
    reset(policy, 5)
    own = [np.random.default_rng([k, 1]) for k in range(5)]
    for turn in range(3):
        wanted = gaussian().propose(seen(5, turn), 1, own)[:, 0]
        np.testing.assert_array_equal(policy.act(seen(5, turn)), wanted)


def test_the_highest_value_is_taken_and_its_chunk_kept_whole() -> None:
    policy = RerankedPolicy(Numbered(), Lookup(lambda a: -np.abs(a[..., 0] - 6)), samples=9)
    reset(policy, 3)
    chunks = policy.act(seen(3))
    assert chunks.shape == (3, 4, 2)
    assert (chunks[..., 0] == 6).all()
    assert (chunks[..., 1] == np.arange(4)).all()
    assert policy.choices.kept_first == 0
    assert policy.chosen_value == 0.0
    values = -np.abs(np.arange(9) - 6.0)
    assert policy.choices.gain == pytest.approx(0 - values.mean())
    assert policy.choices.spread == pytest.approx(values.std())


def test_only_the_first_action_of_a_chunk_is_scored() -> None:
    shapes = []
    policy = RerankedPolicy(Numbered(), Lookup(lambda a: shapes.append(a.shape) or a[..., 1]), samples=5)
    reset(policy, 2)
    assert (policy.act(seen(2))[:, 0, 0] == 0).all()  # every first action has step 0: equal values, the first is taken
    assert shapes == [(2, 5, 2)]


def test_a_critic_of_several_actions_scores_so_many_of_each_chunk_in_their_order() -> None:
    seen_by_critic = []
    critic = Lookup(lambda a: seen_by_critic.append(a) or a[..., 0])
    critic.chunk = 3  # type: ignore[attr-defined]
    policy = RerankedPolicy(Numbered(), critic, samples=5)
    reset(policy, 2)
    assert policy.act(seen(2)).shape == (2, 4, 2)
    assert (seen_by_critic[0][:, 4] == [4, 0, 4, 1, 4, 2]).all()
    critic.chunk = 5  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="values 5 actions in a row, policy 'numbered' draws 4"):
        policy.act(seen(2))


def test_the_mean_of_chunks_is_weighted_by_the_softmax_of_their_values() -> None:
    policy = RerankedPolicy(Numbered(), Lookup(lambda a: a[..., 0] * 2.0), samples=3, temperature=2.0, average=True)
    reset(policy, 2)
    weights = np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum()
    chunks = policy.act(seen(2))
    np.testing.assert_allclose(chunks[..., 0], weights @ [0, 1, 2])
    np.testing.assert_allclose(chunks[..., 1], np.tile(np.arange(4), (2, 1)))
    assert policy.choices.kept_first == pytest.approx(weights[0])
    assert policy.choices.gain == pytest.approx(weights @ [0, 2, 4] - 2)
    np.testing.assert_array_equal(softmax(np.array([[1.0, 3.0, 2.0]]), 0.0), [[0, 1, 0]])


def test_what_is_not_chosen_spoils_nothing() -> None:
    class Broken(Numbered):
        def propose(self, observations: Mapping[str, np.ndarray], n: int, generators: Sequence[object]) -> np.ndarray:
            chunks = super().propose(observations, n, generators)
            chunks[:, 1] = np.nan
            return chunks

    vetoed = Lookup(lambda a: np.where(np.isnan(a[..., 0]), -np.inf, a[..., 0]))
    for average in (False, True):
        policy = RerankedPolicy(Broken(), vetoed, samples=3, temperature=0.01, average=average)
        reset(policy, 2)
        np.testing.assert_allclose(policy.act(seen(2))[..., 0], 2)
        assert policy.chosen_value == pytest.approx(2)


def test_a_choice_at_random_leaves_the_policy_s_distribution_as_it_is() -> None:
    """Equal values at any temperature choose uniformly, so actions are distributed as the policy's own samples."""
    base, count, turns = gaussian(), 40, 50
    policy = RerankedPolicy(base, Lookup(lambda a: np.zeros(a.shape[:2])), samples=8, temperature=1.0)
    same = {"state": np.repeat(seen(1)["state"], count, 0)}
    reset(policy, count)
    chosen = np.concatenate([policy.act(same)[:, 0] for _ in range(turns)])
    own = base.propose(same, turns, [np.random.default_rng(1000 + k) for k in range(count)]).reshape(-1, 2)
    error = own.std(0) * np.sqrt(2 / len(own))
    assert (np.abs(chosen.mean(0) - own.mean(0)) < 4 * error).all()
    np.testing.assert_allclose(chosen.std(0), own.std(0), rtol=0.1)
    assert policy.choices.kept_first == pytest.approx(1 / 8, abs=4 * np.sqrt(1 / 8 * 7 / 8 / 2000))


def test_choices_follow_the_softmax_of_values_over_temperature() -> None:
    values = np.repeat(np.array([[0.0, 1.0, 2.0]]), 20_000, 0)
    taken = choose(values, 0.5, np.random.default_rng(0).random(20_000))
    wanted = np.exp(np.array([0.0, 2.0, 4.0])) / np.exp(np.array([0.0, 2.0, 4.0])).sum()
    np.testing.assert_allclose(np.bincount(taken) / 20_000, wanted, atol=0.01)
    assert (choose(values, 1e-4, np.random.default_rng(0).random(20_000)) == 2).all()
    assert choose(np.array([[3.0, 1.0, 3.0]]), 0.0, np.array([0.9])).tolist() == [0]


def test_a_choice_depends_neither_on_neighbours_nor_on_how_many_they_are() -> None:
    together = RerankedPolicy(gaussian(), learned_value(), samples=7, temperature=0.1)
    reset(together, 20)
    chunks = together.act(seen(20))
    for k in (0, 7, 19):
        alone = RerankedPolicy(gaussian(), learned_value(), samples=7, temperature=0.1)
        alone.reset(np.ones(1, np.bool_), [""], np.random.default_rng([k, 1]))
        np.testing.assert_array_equal(alone.act({"state": seen(20)["state"][k : k + 1]})[0], chunks[k])


def test_a_late_choice_falls_back_to_the_policy_and_lets_it_act_alone_for_a_while() -> None:
    now = [0.0]

    def slow(actions: np.ndarray) -> np.ndarray:
        now[0] += 0.3
        return actions[..., 0]

    policy = RerankedPolicy(Numbered(), Lookup(slow), samples=4, budget_s=0.2, clock=lambda: now[0])
    reset(policy, 2)
    assert (policy.act(seen(2))[:, 0, 0] == 0).all()  # late: the first sample, not the best
    for _ in range(REST):
        assert (policy.act(seen(2)) == -1.0).all()  # alone
        assert policy.chosen_value is None
    assert (policy.act(seen(2))[:, 0, 0] == 0).all()  # tried again
    assert now[0] == pytest.approx(0.6)
    assert policy.choices.late == policy.choices.decisions == 2 * (REST + 2)
    policy = dataclasses.replace(policy, budget_s=0.4)
    reset(policy, 2)
    policy._rest = 0
    assert (policy.act(seen(2))[:, 0, 0] == 3).all()  # in time: the best


def test_a_critic_takes_the_least_of_its_members_and_survives_saving(tmp_path: object) -> None:
    value = learned_value()
    observations, actions = seen(3), np.random.default_rng(2).normal(size=(3, 4, 2)).astype(np.float32)
    found = value.value(observations, actions)
    for b in range(3):
        for n in range(4):
            row = torch.from_numpy(np.concatenate([observations["state"][b], actions[b, n] / 2]))[None]
            assert found[b, n] == pytest.approx(value.critic.q(row).detach().min().item(), abs=1e-5)
    value.save_pretrained(tmp_path)  # type: ignore[arg-type]
    again = LearnedValue.from_pretrained(tmp_path)  # type: ignore[arg-type]
    np.testing.assert_array_equal(again.value(observations, actions), found)
    with pytest.raises(DataError, match="'action value'"):
        LearnedPolicy.from_pretrained(tmp_path)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="values actions of 2 numbers, found 3"):
        value.value(observations, np.zeros((3, 4, 3)))


def test_gaussian_samples_have_the_learned_deviation_and_stay_in_range() -> None:
    policy = gaussian(log_std=-2.0)
    drawn = policy.propose(seen(1), 4000, [np.random.default_rng(0)])[0, :, 0]
    mean, scale = policy.act(seen(1))[0, 0], 2 * np.exp(-2.0)
    np.testing.assert_allclose(drawn.mean(0), mean, atol=5 * scale / np.sqrt(4000))
    np.testing.assert_allclose(drawn.std(0), scale, rtol=0.06)
    wide = gaussian(log_std=2.0).propose(seen(1), 500, [np.random.default_rng(0)])
    assert np.abs(wide).max() == pytest.approx(2.0)


def test_what_cannot_be_reranked_is_refused() -> None:
    with pytest.raises(ConfigError, match="proposes nothing"):
        RerankedPolicy(UniformPolicy(2), learned_value())
    with pytest.raises(ConfigError, match="samples from 1"):
        RerankedPolicy(gaussian(), learned_value(), samples=0)
    actor = Actor(*normalisers(), hidden=(8,), layer_norm=True, generator=torch.Generator(), proposes=False)
    with pytest.raises(ConfigError, match="deterministic"):
        LearnedPolicy(actor, "sure").propose(seen(1), 2, [np.random.default_rng(0)])
