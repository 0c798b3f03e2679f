"""The ground floor: records check themselves, one training loop, saved models, policies."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vlmrl import artefact, loop
from vlmrl.errors import DataError, VlmrlError
from vlmrl.nn import Actor, Normaliser
from vlmrl.policy import LearnedPolicy
from vlmrl.runfolder import Metrics, flatten, write_json
from vlmrl.types import Cost, Episode, Frames, Verdict


def episode(rows: int = 3) -> Episode:
    inner = np.arange(rows) < rows - 1
    return Episode(
        action=np.zeros((rows, 2), np.float32),
        obs={"state": np.zeros((rows, 4), np.float32)},
        time=np.arange(rows, dtype=np.float64),
        has_action=inner,
        has_next=inner,
        terminated=False,
        truncated=True,
        task="t",
        instruction="i",
        source="s",
    )


def test_an_episode_of_disagreeing_lengths_is_refused_with_both_numbers() -> None:
    short = Frames(np.zeros((1, 4, 4, 3), np.uint8), np.zeros(2, np.int32))
    with pytest.raises(DataError, match=r"action has 3 rows.*'image/c': 2"):
        dataclasses.replace(episode(), images={"c": short})


def test_a_last_row_with_a_next_row_is_refused() -> None:
    with pytest.raises(DataError, match="last row cannot have a next row"):
        dataclasses.replace(episode(), has_next=np.ones(3, np.bool_))


def test_swapping_a_verdict_twice_is_the_same_verdict() -> None:
    for verdict in Verdict:
        assert verdict.swapped().swapped() is verdict
    assert Verdict.TIE.swapped() is Verdict.TIE
    assert Verdict.A_BETTER.swapped() is Verdict.B_BETTER


def test_costs_add_up() -> None:
    assert Cost(1, 2, 3, 0.5, 1.0) + Cost(1, 1, 1, 0.25, 1.0) == Cost(2, 3, 4, 0.75, 2.0)


def test_the_loop_writes_means_and_the_measurement_of_its_callback(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "m.jsonl")
    loop.fit(
        lambda batch: {"loss": torch.tensor(float(batch))},
        itertools.count(1),
        updates=5,
        name="x",
        metrics=metrics,
        every=2,
        at=lambda step: {"success": step / 10},
        quiet=True,
    )
    records = metrics.read("x")
    assert [(r["step"], r["loss"], r["success"]) for r in records] == [(2, 1.5, 0.2), (4, 3.5, 0.4), (5, 5.0, 0.5)]


def test_the_loop_names_what_diverged(tmp_path: Path) -> None:
    with pytest.raises(VlmrlError, match="train diverged by update 1: value_loss not finite"):
        loop.fit(
            lambda _: {"value_loss": torch.tensor(float("nan")), "q": torch.tensor(1.0)},
            itertools.count(),
            updates=1,
            name="train",
            metrics=Metrics(tmp_path / "m.jsonl"),
            quiet=True,
        )


def made_policy() -> LearnedPolicy:
    generator, random = torch.Generator().manual_seed(0), np.random.default_rng(0)
    obs = Normaliser.standard(random.normal(2, 3, (20, 4)).astype(np.float32))
    action = Normaliser.range(random.uniform(-2, 5, (20, 2)).astype(np.float32))
    actor = Actor(obs, action, hidden=(8, 8), layer_norm=True, generator=generator)
    return LearnedPolicy(actor, "test policy", ("a", "b"), {"store": "abc"})


def test_a_saved_policy_acts_the_same_and_keeps_its_normalisers(tmp_path: Path) -> None:
    policy = made_policy()
    policy.save_pretrained(tmp_path / "p")
    again = LearnedPolicy.from_pretrained(tmp_path / "p")
    random = np.random.default_rng(1)
    seen = {"a": random.normal(size=(5, 3)).astype(np.float32), "b": random.normal(size=(5, 1)).astype(np.float32)}
    np.testing.assert_array_equal(again.act(seen), policy.act(seen))
    assert policy.act(seen).shape == (5, 1, 2)
    assert (again.name, again.keys, again.facts) == (policy.name, policy.keys, policy.facts)
    assert "test policy" in (tmp_path / "p/README.md").read_text()
    assert artefact.fingerprint(tmp_path / "p") == artefact.fingerprint(tmp_path / "p")


def test_a_policy_says_which_observation_it_misses() -> None:
    with pytest.raises(DataError, match=r"needs observations \['b'\]; have: a"):
        made_policy().act({"a": np.zeros((1, 3), np.float32)})
    with pytest.raises(DataError, match="takes 4 numbers, found 5"):
        made_policy().act({"a": np.zeros((1, 4), np.float32), "b": np.zeros((1, 1), np.float32)})


def test_damaged_and_foreign_models_are_refused_with_the_reason(tmp_path: Path) -> None:
    policy = made_policy()
    policy.save_pretrained(tmp_path / "p")
    with pytest.raises(DataError, match="holds a 'actor policy', a 'preference reward' is wanted"):
        artefact.load(tmp_path / "p", kind="preference reward")
    (tmp_path / "p/model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(DataError, match="is damaged"):
        LearnedPolicy.from_pretrained(tmp_path / "p")
    (tmp_path / "p/model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors is missing"):
        LearnedPolicy.from_pretrained(tmp_path / "p")


def test_a_json_file_is_replaced_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    write_json(tmp_path / "x.json", {"a": 2})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a.b": 1, "a.c.d": 2, "e": 3}
