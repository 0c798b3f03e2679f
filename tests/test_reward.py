"""Rewards: the Bradley-Terry loss by hand, laws of preference, alignment in time, and relabelling."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vlmrl import config as configuration
from vlmrl.cli import jobs
from vlmrl.cli import score as scoring
from vlmrl.errors import ConfigError, DataError
from vlmrl.reward import REWARDERS, fit, network, preference, rewarder
from vlmrl.reward.distill import distill
from vlmrl.reward.metrics import held_out, spearman
from vlmrl.reward.network import Network, Shape, score
from vlmrl.reward.preference import Config, PreferenceReward
from vlmrl.reward.relabel import relabel
from vlmrl.reward.scorer import Scorer
from vlmrl.reward.support import Support
from vlmrl.runfolder import Metrics
from vlmrl.store import Store
from vlmrl.types import NO_FRAME, Episode, Frame, Frames, Preferences, Rewarder

SIZE = (33, 33)
SHAPE = Shape((*SIZE, 3), 0, 1)
SMALL = Config(members=2, size=SIZE, channels=(8, 16), updates=150, batch=32, lr=3e-3, shift=0, holdout=0.2)


def bar_picture(level: float) -> np.ndarray:
    """A white bar as long as the progress it stands for."""
    picture = np.zeros((*SIZE, 3), np.uint8)
    picture[12:20, : 1 + round(level * 31)] = 255
    return picture


def bar_episode(seed: int, *, rows: int = 13, every: int = 3) -> Episode:
    """Progress walks randomly; every third row and the last have a picture."""
    generator = np.random.default_rng(seed)
    progress = np.clip(np.cumsum(generator.normal(0, 0.25, rows)) + 0.3, 0, 1).astype(np.float32)
    framed = sorted({*range(0, rows, every), rows - 1})
    index = np.full(rows, NO_FRAME, np.int32)
    index[framed] = np.arange(len(framed))
    inner = np.arange(rows) < rows - 1
    return Episode(
        action=np.zeros((rows, 1), np.float32),
        obs={"state": progress[:, None]},
        time=np.arange(rows) / 10,
        has_action=inner,
        has_next=inner,
        terminated=False,
        truncated=True,
        task="bar",
        instruction="to make the bar long",
        source="test",
        images={"judge": Frames(np.stack([bar_picture(progress[r]) for r in framed]), index)},
        truth={"progress": progress, "reward": np.arange(rows, dtype=np.float32)},
        id=f"bar-{seed}",
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store.create(tmp_path / "bars")
    made.append([bar_episode(seed) for seed in range(20)])
    return made


def preferences(store: Store, count: int = 300) -> Preferences:
    generator, rows = np.random.default_rng(0), store.frame_rows("judge")
    progress, table = store.column("truth/progress"), store.episodes
    chosen = generator.choice(rows, (count, 2))
    owner = np.searchsorted(table.start, chosen, side="right") - 1
    frames = [
        [Frame(table.id[e], int(r - table.start[e]), "judge") for e, r in zip(o, c, strict=True)]
        for o, c in zip(owner, chosen, strict=True)
    ]
    difference = progress[chosen[:, 0]] - progress[chosen[:, 1]]
    p_a = np.where(np.abs(difference) < 0.03, 0.5, difference > 0).astype(np.float32)
    return Preferences(tuple(f[0] for f in frames), tuple(f[1] for f in frames), p_a, "test", "abcdef")


def fresh(config: Config = SMALL) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return network.make(config, SHAPE)


def untrained(config: Config = SMALL) -> PreferenceReward:
    made = fresh(config)
    support = Support(config.members, made.trunk.features)  # pyright: ignore[reportArgumentType]
    return preference.build(Scorer(config, made.eval(), SHAPE, support, "judge"), facts={})


def test_members_of_the_ensemble_do_not_touch_each_other() -> None:
    """The gradient of one member's output reaches no parameter of another."""
    made = fresh()
    made(torch.randint(256, (3, *SIZE, 3), dtype=torch.uint8))[:, 0].sum().backward()
    weights = [layer.weight for layer in made.trunk.modules() if isinstance(layer, torch.nn.Conv2d)]
    for weight in weights:
        assert weight.grad is not None
        first, second = weight.grad.chunk(2)
        assert first.abs().sum() > 0
        assert second.abs().sum() == 0
    assert made.head.weight.grad is not None
    assert made.head.weight.grad[1].abs().sum() == 0


def member(made: Network, k: int) -> nn.Sequential:
    """Member k of an ensemble as a network of its own."""
    layers: list[nn.Module] = []
    for layer in made.trunk.modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        weight, bias = layer.weight.chunk(made.members)[k], layer.bias.chunk(made.members)[k]  # pyright: ignore[reportOptionalMemberAccess]
        own = nn.Conv2d(weight.shape[1], weight.shape[0], layer.kernel_size, layer.stride)  # pyright: ignore[reportArgumentType]
        own.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
        layers += [own, nn.ReLU()]
    head = nn.Linear(made.head.weight.shape[1], 1)
    head.load_state_dict({"weight": made.head.weight[k : k + 1].detach(), "bias": made.head.bias[k : k + 1].detach()})  # pyright: ignore[reportArgumentType]
    return nn.Sequential(*layers, nn.Flatten(), head)


def test_the_stacked_networks_are_their_members_one_by_one() -> None:
    """Rewards and gradients, of pictures as torch's own layers take them."""
    made = fresh(dataclasses.replace(SMALL, members=3))
    pictures = torch.randint(256, (5, *SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rewards = made(pictures)
    rewards.square().sum().backward()
    first = next(layer for layer in made.trunk.modules() if isinstance(layer, nn.Conv2d))
    assert first.weight.grad is not None
    for k, gradient in enumerate(first.weight.grad.chunk(3)):
        alone = member(made, k)
        reward = alone(pictures.permute(0, 3, 1, 2) / 255 - 0.5)[:, 0]
        reward.square().sum().backward()
        torch.testing.assert_close(rewards[:, k], reward)
        torch.testing.assert_close(gradient, alone[0].weight.grad)


@pytest.mark.parametrize("trunk", ["independent", "shared"])
def test_training_in_bfloat16_descends_the_gradient_of_float32(trunk: str) -> None:
    generator = np.random.default_rng(0)
    stack = generator.integers(0, 256, (64, *SIZE, 3), dtype=np.uint8)
    a, b = (torch.from_numpy(generator.integers(64, size=(32, 1))) for _ in range(2))
    batch = fit.Batch(a, b, torch.rand(32), torch.ones(32, 2), torch.zeros(32, dtype=torch.int64))
    losses, gradients = [], []
    for precision in ("float32", "bfloat16"):
        config = dataclasses.replace(SMALL, trunk=trunk, precision=precision)
        state = fit.init(config, stack, SHAPE, annotators=1, seed=0)
        loss = fit.loss(config, state, batch)["loss"]
        loss.backward()
        losses.append(loss.item())
        parameters = list(state.network.parameters())
        assert all(p.dtype == torch.float32 for p in parameters)
        gradients.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


def test_distilled_reward_orders_unseen_pictures_and_survives_saving(store: Store, tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl")
    trained = distill(store, preferences(store), SMALL, camera="judge", seed=0, metrics=metrics, quiet=True)
    assert trained.facts["held_out"]["accuracy"] > 0.9
    levels = np.linspace(0, 1, 11)
    pictures = np.stack([bar_picture(level) for level in levels])
    scores = score(trained.scorer.network, pictures)
    assert spearman(scores.mean(1).astype(np.float64), levels) > 0.95
    rows = np.unique(store.frame_rows("judge"))
    members = score(trained.scorer.network, store.frames("judge", rows, SIZE))
    assert np.abs(members.mean(0)).max() < 0.05 * members.std()
    trained.save_pretrained(tmp_path / "reward")
    again = PreferenceReward.from_pretrained(tmp_path / "reward")
    np.testing.assert_array_equal(score(again.scorer.network, pictures), scores)
    assert again.facts == trained.facts
    assert metrics.read("reward")[-1]["step"] == SMALL.updates


def test_reward_of_a_row_is_judged_on_the_next_row_and_interpolated_between_pictures() -> None:
    episode = bar_episode(1)
    made = untrained()
    mean, std = made.reward(episode)
    shown = score(made.scorer.network, episode.images["judge"].pixels).mean(1)  # type: ignore[union-attr]
    # pictures at rows 0, 3, 6, 9, 12: row 2 is judged on row 3, row 3 one third of the way from row 3 to row 6
    assert mean[2] == pytest.approx(shown[1], abs=1e-6)
    assert mean[3] == pytest.approx(shown[1] + (shown[2] - shown[1]) / 3, abs=1e-6)
    assert mean[11] == pytest.approx(shown[4], abs=1e-6)
    assert np.isnan(mean[12])
    assert np.isnan(std[12])


def test_ground_truth_of_a_row_is_what_arriving_at_the_next_row_gave() -> None:
    module = rewarder("ground_truth")
    mean, _ = module.build(module.Config()).reward(bar_episode(0))
    assert mean[:-1].tolist() == list(range(1, 13))
    assert np.isnan(mean[-1])


def test_ground_truth_of_real_logs_is_refused_with_a_reason() -> None:
    module = rewarder("ground_truth")
    with pytest.raises(DataError, match="no ground truth 'reward'; have: nothing"):
        module.build(module.Config()).reward(dataclasses.replace(bar_episode(0), truth={}))


def test_relabel_writes_a_column_once_and_training_reads_it(store: Store) -> None:
    module = rewarder("ground_truth")
    relabel(store, module.build(module.Config()), "ground_truth")
    before = store.hash
    relabel(store, module.build(module.Config()), "ground_truth")
    assert store.hash == before
    assert store.rewards()["ground_truth"]["rewarder"] == "ground_truth"
    transitions = store.transitions(("state",), "ground_truth")
    assert transitions.reward[:12].tolist() == list(range(1, 13))


def test_labels_that_are_all_ties_are_refused(store: Store, tmp_path: Path) -> None:
    labels = preferences(store)
    ties = dataclasses.replace(labels, p_a=np.full(len(labels), 0.5, np.float32))
    metrics, every = Metrics(tmp_path / "m.jsonl"), dataclasses.replace(SMALL, holdout=1.0)
    with pytest.raises(DataError, match="of 300 labels 240 are not kept aside, and all of those are ties"):
        distill(store, ties, SMALL, camera="judge", seed=0, metrics=metrics, quiet=True)
    with pytest.raises(DataError, match="of 300 labels 0 are not kept aside"):
        distill(store, labels, every, camera="judge", seed=0, metrics=metrics, quiet=True)


def test_held_out_metrics_equal_hand_computed_values() -> None:
    a = np.array([[2.0, 2.0], [0.0, 0.0], [0.0, 0.0]], np.float32)
    b = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]], np.float32)
    found = held_out(a, b, np.array([1.0, 1.0, 0.5], np.float32))
    p1, p2 = 1 / (1 + math.exp(-2)), 1 / (1 + math.e)
    assert found["accuracy"] == pytest.approx(0.5)
    assert found["ties"] == 1
    assert found["log_loss"] == pytest.approx(-(math.log(p1) + math.log(p2) + math.log(0.5)) / 3, rel=1e-5)
    assert found["disagreement"] == 0


def test_held_out_metrics_of_members_that_are_sure_beyond_float32_are_finite() -> None:
    found = held_out(np.zeros((1, 1), np.float32), np.full((1, 1), 200, np.float32), np.ones(1, np.float32))
    assert (found["accuracy"], found["log_loss"]) == (0, pytest.approx(-math.log(1e-9)))


@pytest.mark.parametrize("name", ["constant", "ground_truth"])
def test_simple_rewarders_keep_the_contract(name: str) -> None:
    keeps_contract(rewarder(name).build(rewarder(name).Config()))


def test_preference_reward_keeps_the_contract() -> None:
    keeps_contract(untrained())


def keeps_contract(made: Rewarder) -> None:
    episode = bar_episode(2)
    first, second = made.reward(episode), made.reward(episode)
    for value, again in zip(first, second, strict=True):
        assert value.shape == (len(episode),)
        np.testing.assert_array_equal(np.isfinite(value), episode.has_next)
        np.testing.assert_array_equal(value, again)
    assert made.name in REWARDERS
    assert isinstance(made.provenance(), dict)


def test_a_saved_reward_is_written_into_other_logs(store: Store, tmp_path: Path) -> None:
    made = untrained()
    made.save_pretrained(tmp_path / "reward")
    jobs.register()
    base = [f"store={store.path}", "rewarder=saved", "draw=false"]
    given = [*base, f"rewarder.folder={tmp_path / 'reward'}", "name=known"]
    scoring.main(configuration.compose("score", given), tmp_path / "run")
    store.refresh()
    for values, kept in zip(made.column(store), ("mean", "std"), strict=True):
        np.testing.assert_allclose(store.column(f"reward/known/{kept}"), values, atol=1e-6)
    with pytest.raises(ConfigError, match="vlmrl label and vlmrl run write such models"):
        scoring.main(configuration.compose("score", base), tmp_path / "run")
    with pytest.raises(DataError, match=r"config\.json is missing"):
        scoring.main(configuration.compose("score", [*base, f"rewarder.folder={tmp_path}"]), tmp_path / "run")


def test_an_unknown_rewarder_is_named_with_the_choices() -> None:
    with pytest.raises(ConfigError, match="unknown rewarder 'clop'; have: clip, constant, ground_truth, preference"):
        rewarder("clop")
