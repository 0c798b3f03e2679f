"""Checkpoints of robomimic act here as they act there, and hold nothing that runs."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlmrl.cli import robomimic as command
from vlmrl.errors import ConfigError, DataError
from vlmrl.policy import LearnedPolicy, RerankedPolicy, RobomimicPolicy, load_policy
from vlmrl.policy import robomimic as policies
from vlmrl.types import history

STEPS = 23
"""More than two horizons of a recurrent network."""


@pytest.fixture
def robomimic() -> Any:
    pytest.importorskip("robomimic", reason="extra 'robomimic' is not installed")
    return policies.library


def checkpoint(path: Path, algorithm: str, *, normalised: bool = False) -> Path:
    """What robomimic itself writes of a network that nobody trained."""
    name, differences = command.ALGORITHMS[algorithm]
    settings = command._settings(name, differences, command.Config("", "", algorithm, obs=("arm", "object")), path)
    with settings.values_unlocked():
        settings.train.hdf5_normalize_obs = normalised
    shapes = {
        "all_shapes": {"arm": [3], "object": [2]},
        "ac_dim": 2,
        "all_obs_keys": ["arm", "object"],
        "use_images": False,
    }
    torch.manual_seed(0)
    model = policies.build(name, settings.dump(), shapes)
    model.set_eval()
    stats = {"arm": {"mean": np.full((1, 3), 2.0), "std": np.full((1, 3), 0.5)}} if normalised else None
    if stats is not None:
        stats["object"] = {"mean": np.zeros((1, 2)), "std": np.ones((1, 2))}
    policies.library("utils.train_utils").save_model(model, settings, {}, shapes, str(path), stats)
    return path


@pytest.mark.parametrize("algorithm", command.ALGORITHMS)
@pytest.mark.parametrize("normalised", [False, True])
def test_a_checkpoint_acts_as_in_robomimic(robomimic: Any, tmp_path: Path, algorithm: str, *, normalised: bool) -> None:
    if normalised and algorithm == "bc_transformer":
        pytest.skip("robomimic 0.3.0 does not normalise stacked observations")
    path = checkpoint(tmp_path / "model.pth", algorithm, normalised=normalised)
    theirs, _ = robomimic("utils.file_utils").policy_from_checkpoint(ckpt_path=str(path), device=torch.device("cpu"))
    RobomimicPolicy.from_checkpoint(path).save_pretrained(tmp_path / "policy")
    ours = load_policy(tmp_path / "policy")
    assert isinstance(ours, RobomimicPolicy)
    observations = np.random.default_rng(0)
    seen = [{"arm": observations.normal(size=3), "object": observations.normal(size=2)} for _ in range(STEPS)]
    generator, chance = np.random.default_rng(1), np.random.default_rng(1)
    theirs.start_episode()
    # a neighbour that starts between: what it does must not matter
    ours.reset(np.array([True, False]), ["", ""], generator)
    for step in range(STEPS):
        shown = [seen[max(0, step - back)] for back in range(history(ours) - 1, -1, -1)]
        one = {k: np.stack([s[k] for s in shown]).astype(np.float32) for k in seen[0]}
        one = one if history(ours) > 1 else {k: v[0] for k, v in one.items()}
        if step % 5 == 0:
            ours.reset(np.array([False, True]), ["", ""], np.random.default_rng(step))
        mine = ours.act({k: np.stack([v, v + step]) for k, v in one.items()})
        torch.manual_seed(int(chance.integers(2**63)))
        expected = theirs({k: v.astype(np.float32) for k, v in one.items()})
        assert mine.shape == (2, 1, 2)
        np.testing.assert_allclose(mine[0, 0], expected, atol=2e-6)


@pytest.mark.parametrize("algorithm", ["bc_gmm", "bc_rnn", "bc_transformer", "iql"])
def test_proposals_spread_and_are_each_robot_s_own(robomimic: Any, tmp_path: Path, algorithm: str) -> None:
    policy = RobomimicPolicy.from_checkpoint(checkpoint(tmp_path / "model.pth", algorithm))
    shape = (2, history(policy)) if history(policy) > 1 else (2,)
    seen = {"arm": np.ones((*shape, 3), np.float32), "object": np.zeros((*shape, 2), np.float32)}
    policy.reset(np.array([True, True]), ["", ""], np.random.default_rng(0))
    both = policy.propose(seen, 6, [np.random.default_rng(k) for k in (3, 4)])
    assert both.shape == (2, 6, 1, 2)
    assert both[0].std(0).min() > 1e-2
    policy.reset(np.array([True, True]), ["", ""], np.random.default_rng(0))
    alone = policy.propose({k: v[1:] for k, v in seen.items()}, 6, [np.random.default_rng(4)])
    np.testing.assert_array_equal(alone[0], both[1])


class Lowest:
    """Likes small first actions."""

    name = "lowest"

    def value(self, observations: Any, actions: np.ndarray) -> np.ndarray:
        return -actions[:, :, 0]


def test_a_checkpoint_is_re_ranked(robomimic: Any, tmp_path: Path) -> None:
    policy = RobomimicPolicy.from_checkpoint(checkpoint(tmp_path / "model.pth", "bc_gmm"))
    seen = {"arm": np.ones((1, 3), np.float32), "object": np.zeros((1, 2), np.float32)}
    lows = {}
    for samples in (1, 30):
        steered = RerankedPolicy(policy, Lowest(), samples=samples)
        steered.reset(np.array([True]), [""], np.random.default_rng(0))
        lows[samples] = np.mean([steered.act(seen)[0, 0, 0] for _ in range(20)])
    assert lows[30] < lows[1] - 0.1


def test_a_deterministic_network_proposes_nothing(robomimic: Any, tmp_path: Path) -> None:
    policy = RobomimicPolicy.from_checkpoint(checkpoint(tmp_path / "model.pth", "bc"))
    with pytest.raises(ConfigError, match="is deterministic"):
        policy.propose({"arm": np.ones((1, 3)), "object": np.ones((1, 2))}, 2, [np.random.default_rng(0)])
    with pytest.raises(DataError, match="reads 'object'; the observations are: arm"):
        policy.act({"arm": np.ones((1, 3))})


class Evil:
    """Would leave a file behind, were it unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("evil"),)


def test_a_file_that_would_run_something_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    for name in ("evil.pth", "raw.pth"):
        with pytest.raises(DataError, match="cannot be read as numbers and text alone"):
            RobomimicPolicy.from_checkpoint(tmp_path / name)
    assert not (tmp_path / "evil").exists()
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(DataError, match="is no checkpoint of robomimic: model, config"):
        RobomimicPolicy.from_checkpoint(tmp_path / "other.pth")
    with pytest.raises(DataError, match="is missing"):
        RobomimicPolicy.from_checkpoint(tmp_path / "none.pth")


def test_other_folders_are_still_read_as_ours(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"kind": "unheard of"}))
    with pytest.raises(DataError, match=r"model.safetensors is missing"):
        load_policy(tmp_path)
    with pytest.raises(DataError, match=r"config.json is missing"):
        LearnedPolicy.from_pretrained(tmp_path / "nowhere")


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["bc_rnn", "iql"])
def test_robomimic_trains_on_a_store(robomimic: Any, tmp_path: Path, algorithm: str) -> None:
    from vlmrl.evaluate import collect
    from vlmrl.sim import load_task

    task = load_task("cartpole")
    collect.fill(tmp_path / "store", task, collect.Config(episodes=4, noise=(0.2,), picture_every=100))
    config = command.Config(str(tmp_path / "store"), str(tmp_path / "run"), algorithm, updates=100, batch=16)
    assert "vlmrl evaluate policy=" in command.train(config)
    policy = load_policy(tmp_path / "run" / "policy")
    policy.reset(np.array([True]), [""], np.random.default_rng(0))
    assert policy.act({"state": np.zeros((1, 4), np.float32)}).shape == (1, 1, 1)
