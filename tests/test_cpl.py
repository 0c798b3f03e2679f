"""Contrastive preference learning: its loss by hand, which clips it reads, a tiny problem, labels to a policy."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.test_learn import bandit, constant_net, with_pairs
from vlmrl.cli.label import pairs_as_json
from vlmrl.cli.train import Training, train
from vlmrl.errors import ConfigError, DataError
from vlmrl.learn import cpl
from vlmrl.learn.batch import Batch
from vlmrl.policy import LearnedPolicy
from vlmrl.reward.heads import NO_ROW
from vlmrl.reward.pairs import Pairs
from vlmrl.runfolder import write_json
from vlmrl.store import Store
from vlmrl.types import Episode, Frame, Preferences, Span

PLAIN = cpl.Config(hidden=(8,), updates=100, precision="float32")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_losses_equal_hand_computed_values() -> None:
    state = cpl.init(PLAIN, with_pairs(bandit(16), 2), generator=seeded())
    constant_net(state.actor.net, math.atanh(0.5))
    action = torch.tensor([[[[0.5], [1.0]], [[0.0], [0.0]]], [[[-0.5], [0.5]], [[9.0], [0.5]]]])
    real = torch.tensor([[[True, True], [True, False]], [[True, True], [False, True]]])
    clone = Batch(*(torch.zeros(2, 3), torch.tensor([[0.0], [0.5]]), *([torch.zeros(2)] * 2), torch.zeros(2, 3)))
    batch = cpl.PairBatch(torch.zeros(2, 2, 2, 3), action, real, torch.tensor([1.0, 0.25]), clone)
    losses = cpl.loss(PLAIN, state, batch)
    # the actor says 0.5: a scores -(0 + 0.25) and -0.25, b scores -(1 + 0) and 0, each times alpha = 0.1
    (a0, a1), (b0, b1) = (-0.025, -0.025), (-0.1, 0.0)

    def paid(better: float, worse: float) -> float:
        return -math.log(math.exp(better) / (math.exp(better) + math.exp(0.5 * worse)))

    wanted = (paid(a0, b0) + 0.25 * paid(a1, b1) + 0.75 * paid(b1, a1)) / 2
    assert losses["contrastive_loss"].item() == pytest.approx(wanted, rel=1e-5)
    assert losses["cloning_loss"].item() == pytest.approx((0.25 + 0) / 2, rel=1e-5)


def test_swapping_the_sides_of_every_pair_changes_nothing() -> None:
    score, p_a = torch.randn(2, 20, generator=seeded()), torch.rand(20, generator=seeded(1))
    one, other = cpl.contrast(PLAIN, score, p_a), cpl.contrast(PLAIN, score.flip(0), 1 - p_a)
    assert one.item() == pytest.approx(other.item(), rel=1e-6)


def test_of_a_long_clip_a_stretch_is_read_and_a_short_one_whole() -> None:
    rows = torch.tensor([[list(range(10)), [20, 21, *[NO_ROW] * 8]]]).expand(2, 2, 10)
    starts = set()
    for seed in range(60):
        found = cpl.stretch(rows, 4, generator=seeded(seed))
        for long, short in found.tolist():
            assert long == list(range(long[0], long[0] + 4))
            assert short == [20, 21, NO_ROW, NO_ROW]
            starts.add(long[0])
    assert starts == set(range(7))


def test_the_optimiser_starts_anew_after_the_cloning_and_only_then_pairs_count() -> None:
    config = dataclasses.replace(PLAIN, updates=4, pretrain=0.5, bias=1.0, warm_up=1)
    data = with_pairs(bandit(64), 2)
    state, batches = cpl.init(config, data, generator=seeded()), cpl.batches(config, data, generator=seeded())
    steps, first = [], state.actor.net.weights[0]
    for _ in range(4):
        cpl.update(config, state, next(batches))
        steps.append(int(state.optimiser.state[first]["step"]))
    assert steps == [1, 2, 1, 2]


def test_the_better_actions_are_found_where_cloning_cannot() -> None:
    data = with_pairs(bandit(), 4, count=400)
    config = cpl.Config(
        updates=200, batch=64, pairs=32, hidden=(16,), lr=1e-2, warm_up=10, bias=1.0, alpha=1.0, pretrain=0.2
    )
    state, batches = cpl.init(config, data, generator=seeded()), cpl.batches(config, data, generator=seeded(1))
    found = []
    for step in range(config.updates):
        cpl.update(config, state, next(batches))
        if step + 1 in (40, 200):
            found.append(cpl.policy(state).act(torch.from_numpy(data.obs[:200])).mean().item())
    cloned, learned = found
    assert abs(cloned) < 0.15 < 0.3 < learned


def test_without_comparisons_or_with_ties_alone_it_says_what_it_wants() -> None:
    with pytest.raises(ConfigError, match="labels=RUN"):
        cpl.init(PLAIN, bandit(16), generator=seeded())
    data = with_pairs(bandit(16), 2)
    ties = dataclasses.replace(data.pairs or Pairs(*[np.zeros(0)] * 4), p_a=np.full(100, 0.5, np.float32))
    with pytest.raises(DataError, match="ties"):
        cpl.init(PLAIN, dataclasses.replace(data, pairs=ties), generator=seeded())
    with pytest.raises(ConfigError, match="bias above 0"):
        cpl.init(dataclasses.replace(PLAIN, bias=0.0), data, generator=seeded())


def filled(path: Path) -> Store:
    """Three episodes of five rows whose action is the row's number; the last row of each has no action."""
    acts = np.arange(5) < 4
    episodes = [
        Episode(
            action=np.where(acts, np.arange(5) + 10 * k, 0).astype(np.float32)[:, None],
            obs={"state": np.arange(5, dtype=np.float32)[:, None] + 10 * k},
            time=np.arange(5.0),
            has_action=acts,
            has_next=acts,
            terminated=False,
            truncated=True,
            task="none",
            instruction="",
            source=f"source {k}",
            id=f"e{k}",
        )
        for k in range(3)
    ]
    store = Store.create(path)
    store.append(episodes)
    return store


CLIPS = Preferences(
    a=((Span("e0", 1, 3, ""),), (Span("e1", 2, 5, ""), Span("e0", 0, 1, "")), Frame("e0", 4, "")),
    b=((Span("e2", 0, 4, ""),), (Span("e2", 1, 2, ""),), Frame("e1", 0, "")),
    p_a=np.array([1, 0, 1], np.float32),
    annotator="me",
    snapshot="abcdefgh",
)


def test_clips_are_found_by_their_rows_and_a_frame_without_action_is_left_out(tmp_path: Path) -> None:
    store = filled(tmp_path / "store")
    found = cpl.compared(store.transitions(), store, CLIPS)
    assert found.pairs is not None
    acted = [
        [found.action[side[side != NO_ROW], 0].tolist() for side in sides] for sides in (found.pairs.a, found.pairs.b)
    ]
    assert acted == [[[1, 2], [12, 13, 0]], [[20, 21, 22, 23], [21]]]
    assert found.pairs.p_a.tolist() == [1, 0]
    with pytest.raises(DataError, match="none of which shows actions"):
        cpl.compared(store.transitions(), store, Preferences(CLIPS.a[2:], CLIPS.b[2:], CLIPS.p_a[2:], "me", "x"))


def test_a_run_folder_s_labels_train_a_policy_that_says_so(tmp_path: Path) -> None:
    filled(tmp_path / "store")
    told = {"labeler": "me", "snapshot": "abcdefgh", "pairs": pairs_as_json(CLIPS)}
    write_json(tmp_path / "run" / "labels.json", told)
    training = Training(
        "cpl",
        0,
        str(tmp_path / "store"),
        None,
        {"name": "cpl", **dataclasses.asdict(dataclasses.replace(PLAIN, updates=3)), "hidden": [8]},
        ("state",),
        str(tmp_path / "policy"),
        labels=str(tmp_path / "run"),
    )
    train([training])
    assert training.done
    assert LearnedPolicy.from_pretrained(tmp_path / "policy").facts["labels"] == "abcdefgh"
    write_json(tmp_path / "run" / "labels.json", {**told, "snapshot": "other"})
    assert not training.done
