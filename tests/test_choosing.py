"""`vlmrl train`: chunks of single-action learners, and the moment of a training that a rule keeps."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny_clip

from tests.test_autoreset import store_of, walk
from vlmrl.cli import jobs, train
from vlmrl.config import compose
from vlmrl.errors import ConfigError, DataError
from vlmrl.learn.choosing import fitted_value
from vlmrl.policy import LearnedPolicy, LearnedValue, RerankedPolicy
from vlmrl.runfolder import Metrics, read_json
from vlmrl.store import Store
from vlmrl.types import Episode


@pytest.fixture
def store(tmp_path: Path) -> Store:
    generator = np.random.default_rng(0)
    return store_of(tmp_path / "logs", [walk(generator) for _ in range(10)])


def rewarded(store: Store, reward: np.ndarray) -> None:
    has_next = np.tile(np.arange(12) < 11, 10)
    mean = np.where(has_next, reward, np.nan).astype(np.float32)
    store.add_reward("r", mean, np.where(has_next, 0, np.nan).astype(np.float32), {"rewarder": "test"})


def trained(store: Store, out: Path, *settings: str) -> Path:
    jobs.register()
    given = [f"store={store.path}", "workers=1", "learner.updates=6", "curve_every=2", *settings]
    train.main(compose("train", given), out)
    return out / "policies" / "seed0"


@pytest.mark.parametrize("rule", ["held_out", "fqe"])
def test_the_best_by_a_rule_lies_beside_the_last(
    store: Store, tmp_path: Path, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "fitted_value", partial(fitted_value, updates=50))
    reward = np.linspace(0, 1, len(store), dtype=np.float32)
    rewarded(store, reward)
    folder = trained(store, tmp_path / "run", "learner=bc", "reward=r", f"choose={rule}", "held_out=0.3")
    scores = {r["step"]: r[rule] for r in Metrics(folder / "metrics.jsonl").read("train")}
    assert sorted(scores) == [2, 4, 6]
    said = read_json(folder / "best" / "config.json")["facts"]["chosen"]
    best = max(scores, key=lambda update: scores[update])
    assert said == {"by": rule, "update": best, "score": scores[best]}
    assert LearnedPolicy.from_pretrained(folder / "best").name.endswith(f"best by {rule}")
    rows = LearnedPolicy.from_pretrained(folder).facts["transitions"]
    assert rows == (7 if rule == "held_out" else 10) * 11


def test_several_actions_stand_for_one(store: Store, tmp_path: Path) -> None:
    rewarded(store, np.ones(len(store), np.float32))
    folder = trained(store, tmp_path / "run", "learner=iql", "reward=r", "chunk=3", "learner.compile=never")
    policy, critic = LearnedPolicy.from_pretrained(folder), LearnedValue.from_pretrained(folder / "critic")
    seen = {"state": np.zeros((2, 3), np.float32)}
    policy.reset(np.ones(2, np.bool_), ["", ""], np.random.default_rng(0))
    chunks = policy.act(seen)
    assert chunks.shape[:2] == (2, 3)
    assert critic.value(seen, chunks.reshape(2, 1, -1)).shape == (2, 1)
    assert policy.facts["chunk"] == critic.chunk == 3
    assert policy.facts["transitions"] == 10 * 9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["learner=diffusion", "chunk=4"], "learner 'diffusion' does not take it; those that do: bc"),
        (["learner=bc", "choose=fqe"], "choose=fqe values policies by a reward column"),
        (["learner=bc", "choose=held_out", "held_out=1.5"], "wanted a share of the episodes between 0 and 1"),
        (["learner=bc", "chunk=0"], "wanted at least 1"),
        (["learner=calql", "chunk=2"], "learner 'calql' does not take it"),
        (["learner=bc", "curve_every=0"], "at least 1 wanted"),
    ],
)
def test_what_makes_no_sense_is_refused(store: Store, tmp_path: Path, settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        trained(store, tmp_path / "run", *settings)


def test_a_sentence_decides_what_is_done_and_how_much_it_is_worth(tmp_path: Path) -> None:
    clip = tiny_clip.build("clip", tmp_path / "clip")
    generator, sentences = np.random.default_rng(0), ("to open it", "to close it")
    store, episodes = Store.create(tmp_path / "store"), []
    for k in range(20):
        towards = (0.6, -0.6)[k % 2]
        action = generator.uniform(-1, 1, (12, 1)).astype(np.float32)
        has = np.arange(12) < 11
        one = Episode(
            action=np.where(has[:, None], towards + 0.1 * action, 0).astype(np.float32),
            obs={"state": walk(generator).astype(np.float32)},
            time=np.arange(12) / 10,
            has_action=has,
            has_next=has.copy(),
            terminated=False,
            truncated=True,
            id=f"e{k}",
            task="walk",
            instruction=sentences[k % 2],
            source="test",
        )
        episodes.append(one)
    store.append(episodes)
    towards = np.repeat(np.tile([0.6, -0.6], 10), 12)
    has_next = np.tile(np.arange(12) < 11, 20)
    worth = np.where(has_next, towards * store.column("action")[:, 0], np.nan).astype(np.float32)
    store.add_reward("r", worth, np.where(has_next, 0, np.nan).astype(np.float32), {"rewarder": "test"})
    seen = f"obs=[state,sentence/{clip}]"
    settings = ("reward=r", "learner.updates=150", "learner.hidden=[32]", "learner.lr=3e-3", "learner.compile=never")
    folder = trained(store, tmp_path / "run", "learner=iql", seen, "learner.discount=0.0", *settings)
    policy, critic = LearnedPolicy.from_pretrained(folder), LearnedValue.from_pretrained(folder / "critic")
    assert policy.facts["encoders"].keys() == {str(clip)}
    state = {"state": np.zeros((2, 3), np.float32)}
    policy.reset(np.ones(2, np.bool_), sentences, generator)
    done = policy.act(state)[:, 0, 0]
    assert done[0] > 0.3
    assert done[1] < -0.3
    policy.spread = 4.0
    steered = RerankedPolicy(policy, critic, samples=30)
    steered.reset(np.ones(2, np.bool_), sentences, generator)
    best = steered.act(state)[:, 0, 0]
    assert best[0] > best[1]
    with pytest.raises(DataError, match="needs observation 'instructions'"):
        critic.value(state, np.zeros((2, 1, 1), np.float32))
    with pytest.raises(ConfigError, match="sentences stand last"):
        trained(store, tmp_path / "wrong", "learner=bc", f"obs=[sentence/{clip},state]")


def test_a_run_of_other_settings_is_not_taken_for_this_one(store: Store, tmp_path: Path) -> None:
    folder = trained(store, tmp_path / "run", "learner=bc", "chunk=3")
    assert LearnedPolicy.from_pretrained(folder).chunk == 3
    assert LearnedPolicy.from_pretrained(trained(store, tmp_path / "run", "learner=bc")).chunk == 1
    trained(store, tmp_path / "run", "learner=bc", "choose=held_out")
    assert (folder / "best" / "config.json").is_file()
    facts = LearnedPolicy.from_pretrained(folder).facts
    assert facts["held_out"] == 0.1
    trained(store, tmp_path / "run", "learner=bc")
    assert "held_out" not in LearnedPolicy.from_pretrained(folder).facts
