"""Rollouts and collection: seeds, independence, resumption, and what a collected store must say."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("metaworld")

from vlmrl.errors import ConfigError
from vlmrl.evaluate import collect, results
from vlmrl.evaluate.rollout import FIRST_CURVE_SEED, FIRST_EVALUATION_SEED, evaluation_seeds, rollout
from vlmrl.evaluate.video import write_video
from vlmrl.sim import Task, load_task
from vlmrl.store import Store
from vlmrl.types import Frames


@pytest.fixture(scope="module")
def cartpole() -> Task:
    return load_task("cartpole")


class Constant:
    """Always the same action, in chunks."""

    name = "constant action"

    def __init__(self, value: float, *, chunk: int = 1) -> None:
        self.value, self.chunk, self.calls = value, chunk, 0

    def reset(self, mask: np.ndarray, instructions: Sequence[str], generator: np.random.Generator) -> None:
        self.instructions = list(instructions)

    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        self.calls += 1
        return np.full((len(observations["state"]), self.chunk, 1), self.value)


def test_result_of_a_seed_does_not_depend_on_the_batch_it_ran_in(cartpole: Task) -> None:
    seeds = evaluation_seeds(5)
    one, many = (rollout(cartpole, Constant(0.1), seeds, batch=batch) for batch in (1, 5))
    np.testing.assert_array_equal(one.returns, many.returns)
    assert len(set(one.returns.tolist())) == 5


def test_a_chunk_is_executed_whole_before_the_policy_is_asked_again(cartpole: Task) -> None:
    policy = Constant(0.1, chunk=8)
    chunked = rollout(cartpole, policy, evaluation_seeds(2), batch=2)
    assert policy.calls == -(-cartpole.horizon // 8)
    np.testing.assert_array_equal(chunked.returns, rollout(cartpole, Constant(0.1), evaluation_seeds(2)).returns)


def test_every_robot_gets_its_own_instruction(cartpole: Task) -> None:
    policy = Constant(0.0)
    rollout(cartpole, policy, evaluation_seeds(3), batch=3)
    assert policy.instructions == [cartpole.instruction] * 3


def test_repeated_seeds_are_refused(cartpole: Task) -> None:
    with pytest.raises(ConfigError, match="seeds repeat"):
        rollout(cartpole, Constant(0.0), [1, 2, 1])


def test_seeds_of_data_curves_and_evaluation_never_meet(cartpole: Task) -> None:
    assert max(evaluation_seeds(1000)) < FIRST_CURVE_SEED
    with pytest.raises(ConfigError, match="kept for evaluation"):
        next(
            collect.collect(
                cartpole, collect.Config(episodes=10, steps=5, seed=FIRST_EVALUATION_SEED // collect.STRIDE)
            )
        )


def test_expert_balances_and_random_actions_do_not(cartpole: Task) -> None:
    seeds = evaluation_seeds(8)
    expert, random = (rollout(cartpole, collect.GradedPolicy(cartpole, (share,)), seeds) for share in (0.0, 1.0))
    assert expert.success.mean() > random.success.mean()
    assert expert.returns.mean() > random.returns.mean()


def test_collection_resumes_to_the_same_episodes(cartpole: Task) -> None:
    config = collect.Config(episodes=4, steps=12, noise=(0.2, 1.0), picture_every=5)
    whole = list(collect.collect(cartpole, config))
    rest = list(collect.collect(cartpole, config, start=2))
    for a, b in zip(whole[2:], rest, strict=True):
        assert a.id == b.id
        np.testing.assert_array_equal(a.action, b.action)
        np.testing.assert_array_equal(a.sim_state, b.sim_state)


def test_collected_rows_are_aligned(cartpole: Task) -> None:
    """The reward stored at row t+1 is what the action of row t earned; the last row has no action."""
    episode = next(collect.collect(cartpole, collect.Config(episodes=1, steps=12, noise=(0.5,), picture_every=5)))
    assert len(episode) == 13
    assert not episode.has_action[-1]
    assert not episode.has_next[-1]
    assert episode.truth["reward"][0] == 0
    angle = episode.obs["state"][:, 2]
    np.testing.assert_allclose(episode.truth["reward"][1:], -np.abs(np.degrees(angle[1:])), atol=1e-3)
    frames = episode.images[cartpole.camera]
    assert isinstance(frames, Frames)
    assert np.flatnonzero(frames.index >= 0).tolist() == [0, 5, 10, 12]
    assert not episode.terminated
    assert episode.truncated


def test_quality_is_told_by_the_source_alone(cartpole: Task, tmp_path: Path) -> None:
    store = collect.create_store(tmp_path / "store", cartpole)
    store.append(list(collect.collect(cartpole, collect.Config(episodes=2, steps=6, noise=(0.0, 1.0)))))
    again = Store.open(tmp_path / "store")
    assert again.episodes.source == [
        "cartpole scripted expert, 0% random actions",
        "cartpole scripted expert, 100% random actions",
    ]
    assert not any("0%" in id or "1.0" in id for id in again.episodes.id)
    assert again.meta["render"][cartpole.camera]["shadows"] is False
    assert again.names("obs/state") == ["cart_position", "cart_velocity", "pole_angle", "pole_velocity"]


def test_nonsense_of_collection_is_refused(cartpole: Task) -> None:
    for changes, message in (({"steps": 1000}, "horizon of 100"), ({"noise": (1.5,)}, "between 0 and 1")):
        with pytest.raises(ConfigError, match=message):
            next(collect.collect(cartpole, dataclasses.replace(collect.Config(steps=10), **changes)))


def test_rollouts_survive_their_file(cartpole: Task, tmp_path: Path) -> None:
    found = dataclasses.replace(rollout(cartpole, Constant(0.0), evaluation_seeds(2)), weights="abc")
    results.save(found, tmp_path / "r.json")
    again = results.load(tmp_path / "r.json")
    np.testing.assert_array_equal(again.success, found.success)
    np.testing.assert_allclose(again.returns, found.returns, atol=1e-3)
    assert again.weights == "abc"


@pytest.fixture
def pictures() -> list[np.ndarray]:
    return [np.full((33, 47, 3), 20 * k, np.uint8) for k in range(10)]


def test_a_video_holds_every_picture_at_its_rate(pictures: list[np.ndarray], tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    write_video(pictures, tmp_path / "v.mp4", fps=12.5)
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == pytest.approx(12.5)
        shown = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)]
    assert len(shown) == 10
    np.testing.assert_allclose(shown, [20 * k for k in range(10)], atol=6)
