"""What all trainings share: a cut one goes on bit by bit, gradients are clipped, rows are drawn by their weights."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.test_learn import bandit, small, with_pairs
from tests.test_learners import chain
from vlmrl.cli.train import Training, bundles
from vlmrl.errors import ConfigError, DataError
from vlmrl.learn import LEARNERS, bc, checkpoint, fit, fit_seeds, iql, learner
from vlmrl.learn.batch import drawn_rows
from vlmrl.learn.weighting import Sampling, weighted
from vlmrl.runfolder import Metrics


class Cut(Exception):
    """Stands for a kill."""


def trained(name: str, folder: Path, *, cut_at: int | None = None, **further: Any) -> tuple[dict[str, Any], list[Any]]:
    """The policy's tensors after 20 updates, and the metrics without times; `cut_at` cuts the first attempt."""
    folder.mkdir(exist_ok=True)
    data, config, metrics = with_pairs(bandit(200), 3), small(name), Metrics(folder / "metrics.jsonl")

    def at(step: int, _: Any) -> None:
        if step == cut_at:
            raise Cut

    given: dict[str, Any] = {"seed": 3, "metrics": metrics, "every": 4, "kept": folder / "kept", "quiet": True}
    if cut_at is not None:
        with pytest.raises(Cut):
            fit(name, data, config, at=at, **given, **further)
    learned = fit(name, data, config, **given, **further)
    records = [{k: v for k, v in record.items() if k != "seconds"} for record in metrics.read("train")]
    return learned.policy.state_dict(), records


@pytest.mark.parametrize("name", LEARNERS)
def test_a_training_cut_in_the_middle_equals_one_that_was_not(name: str, tmp_path: Path) -> None:
    whole, cut = trained(name, tmp_path / "whole"), trained(name, tmp_path / "cut", cut_at=12)
    assert cut[1] == whole[1]
    assert [record["step"] for record in cut[1]] == [4, 8, 12, 16, 20]
    for key, value in whole[0].items():
        assert torch.equal(cut[0][key], value), key


STACKED = {
    "iql": iql.Config(updates=20, hidden=(8, 8), batch=32, precision="float32"),
    "bc": bc.Config(updates=20, hidden=(8, 8), batch=32, precision="float32", head="mixture"),
}


@pytest.mark.parametrize("name", STACKED)
def test_a_seed_trained_beside_others_gets_the_numbers_it_gets_alone(name: str, tmp_path: Path) -> None:
    data = [bandit(100, seed=k) for k in range(3)]
    given: dict[str, Any] = {"clip_norm": 0.5, "every": 10, "quiet": True}
    logs = [Metrics(tmp_path / f"{k}.jsonl") for k in range(3)]
    measured: list[tuple[int, float]] = []

    def at(step: int, policy: Any) -> dict[str, float]:
        measured.append((step, policy.draw(torch.zeros(1, 3), torch.zeros(1, *policy.chance)).item()))
        return {"success": float(step)}

    beside = fit_seeds(name, data, STACKED[name], seeds=[3, 4, 5], metrics=logs, at=[None, at, None], **given)
    joint, measured = measured, []
    for k in range(3):
        log = Metrics(tmp_path / f"alone{k}.jsonl")
        alone = fit(name, data[k], STACKED[name], seed=3 + k, metrics=log, at=at if k == 1 else None, **given)
        for both in zip(alone.policy.state_dict().values(), beside[k].policy.state_dict().values(), strict=True):
            torch.testing.assert_close(*both, rtol=1e-4, atol=1e-6)
        for one, other in zip(log.read("train"), logs[k].read("train"), strict=True):
            numbers = [{key: value for key, value in record.items() if key != "name"} for record in (one, other)]
            assert numbers[0] | {"seconds": 0} == pytest.approx(numbers[1] | {"seconds": 0}, rel=1e-4)
    assert joint == [(step, pytest.approx(value, rel=1e-4)) for step, value in measured]


def test_learners_whose_update_is_more_than_one_step_are_not_trained_together(tmp_path: Path) -> None:
    for name, config in (("td3bc", small("td3bc")), ("iql", dataclasses.replace(STACKED["iql"], order="paper"))):
        logs = [Metrics(tmp_path / f"{name}{k}") for k in range(2)]
        with pytest.raises(ConfigError, match="cannot train several seeds"):
            fit_seeds(name, [bandit(50)] * 2, config, seeds=[0, 1], metrics=logs, at=[None] * 2)


def test_a_cut_training_of_several_seeds_goes_on_bit_by_bit(tmp_path: Path) -> None:
    def train(kept: str, cut_at: int) -> list[Any]:
        def at(step: int, _: Any) -> None:
            if step == cut_at:
                raise Cut

        logs = [Metrics(tmp_path / f"{kept}{k}.jsonl") for k in range(2)]
        given: dict[str, Any] = {"metrics": logs, "every": 5, "kept": tmp_path / kept, "quiet": True}
        return fit_seeds("iql", [bandit(50)] * 2, STACKED["iql"], seeds=[0, 1], at=[at, None], **given)

    whole = train("whole", 0)
    with pytest.raises(Cut):
        train("cut", 10)
    for one, other in zip(whole, train("cut", 0), strict=True):
        for key, value in one.policy.state_dict().items():
            assert torch.equal(other.policy.state_dict()[key], value), key


def test_trainings_that_differ_in_seed_and_reward_are_bundled_for_the_workers() -> None:
    def training(seed: int, reward: str, name: str = "bc") -> Training:
        settings = {"name": name, **dataclasses.asdict(learner(name).Config())}
        return Training(reward, seed, "store", reward, settings, ("state",), f"{name}/{reward}/{seed}")

    several = [training(seed, reward) for reward in "ab" for seed in range(3)]
    assert [len(part) for part in bundles(several, 4)] == [2, 2, 1, 1]
    assert [t for part in bundles(several, 4) for t in part] == several
    assert len(bundles(several, 4, together=False)) == 6
    assert [len(part) for part in bundles([training(seed, "a") for seed in range(10)], 1)] == [5, 5]
    assert [len(part) for part in bundles([*several[:2], *(training(s, "a", "td3bc") for s in range(2))], 1)] == [
        2,
        1,
        1,
    ]


def test_what_is_kept_of_another_training_is_not_gone_on_with(tmp_path: Path) -> None:
    alone = trained("bc", tmp_path / "alone", facts={"data": "two"})
    with pytest.raises(Cut):
        fit(
            "bc",
            bandit(200),
            small("bc"),
            seed=3,
            metrics=Metrics(tmp_path / "metrics.jsonl"),
            every=4,
            kept=tmp_path / "kept",
            facts={"data": "one"},
            at=lambda step, _: (_ for _ in ()).throw(Cut) if step == 12 else None,
            quiet=True,
        )
    after = trained("bc", tmp_path, facts={"data": "two"})
    assert after[1] == alone[1]


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="damaged"):
        trained("bc", tmp_path)


def test_gradients_are_clipped_group_by_group_to_the_norm() -> None:
    first, second = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    optimiser = torch.optim.SGD([{"params": [first]}, {"params": [second]}], lr=1.0)

    @dataclasses.dataclass
    class State:
        optimiser: torch.optim.Optimizer

    checkpoint.clip_gradients(State(optimiser), 0.5)
    first.grad, second.grad = torch.tensor([3.0, 4.0]), torch.tensor([0.3, 0.0])
    optimiser.step()
    torch.testing.assert_close(-first.data, torch.tensor([0.3, 0.4]), rtol=1e-4, atol=0)
    torch.testing.assert_close(-second.data, torch.tensor([0.3, 0.0]))


@pytest.mark.parametrize("name", ["iql", "bc", "diffusion", "idql"])
def test_a_clipped_training_differs_from_one_that_is_not(name: str, tmp_path: Path) -> None:
    free, held = trained(name, tmp_path / "a"), trained(name, tmp_path / "b", clip_norm=1e-3)
    assert any(not torch.equal(held[0][key], value) for key, value in free[0].items())


def test_rows_are_drawn_by_their_weights() -> None:
    data = dataclasses.replace(chain([0] * 4, [0] * 4), weight=np.array([1.0, 0.0, 3.0, 0.0]))
    rows = next(drawn_rows(data, 4000, generator=torch.Generator().manual_seed(0)))
    count = np.bincount(rows.numpy(), minlength=4)
    assert count[1] == count[3] == 0
    assert count[2] / 4000 == pytest.approx(0.75, abs=0.03)


def test_better_episodes_weigh_more_and_sources_have_their_shares() -> None:
    data = chain([1, 1, 0, 0, 2], [0, 0, 1, 2, 2])
    assert weighted(Sampling(), data, ["x", "y", "y"]) is data
    by_return = weighted(Sampling(temperature=0.5), data, ["x", "y", "y"]).weight
    assert by_return == pytest.approx(np.exp(np.array([0, 0, -2, 0, 0])))
    both = weighted(Sampling(temperature=0.5, shares=("x:0.2",)), data, ["x", "y", "y"]).weight
    assert both is not None
    assert both[:2] == pytest.approx([0.1, 0.1])
    assert both[2:] == pytest.approx(0.8 * np.exp([-2, 0, 0]) / np.exp([-2, 0, 0]).sum())
    assert weighted(Sampling(shares=("x:0.5", "y:0.5")), data, ["x", "y", "y"]).weight is not None


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (Sampling(shares=("z:0.5",)), "unknown source 'z'; have: x, y"),
        (Sampling(shares=("x:0.5", "y:0.4")), "found"),
        (Sampling(shares=("x:1.0",)), r"something for \['y'\]"),
        (Sampling(shares=("x",)), "SOURCE:NUMBER wanted, found 'x'"),
        (Sampling(temperature=0.0), "above 0"),
    ],
)
def test_weights_that_make_no_sense_are_refused(sampling: Sampling, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        weighted(sampling, chain([1, 0], [0, 1]), ["x", "y"])


@pytest.mark.parametrize("name", ["bc", "diffusion"])
def test_batches_follow_the_weights(name: str) -> None:
    data = dataclasses.replace(bandit(50), weight=np.eye(50)[7])
    config = dataclasses.replace(small(name), batch=16)
    batch = next(learner(name).batches(config, data, generator=torch.Generator().manual_seed(0)))
    assert len(batch.obs.unique(dim=0)) == 1
