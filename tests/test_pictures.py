"""Learners that see pictures: what they are shown, that the encoder learns, and that what is saved acts the same."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_clip
import torch

from tests.test_learn import small
from vlmrl.cli.train import Training, train
from vlmrl.errors import ConfigError, DataError
from vlmrl.evaluate.rollout import evaluation_seeds, rollout
from vlmrl.learn import LEARNERS, PICTURES, Learned, bc, fit, fit_seeds, learner
from vlmrl.learn.batch import sample, windows
from vlmrl.learn.looking import augmented, look, read_ahead
from vlmrl.learn.macro import chunked
from vlmrl.policy import LearnedPolicy, LearnedValue, RerankedPolicy, frozen
from vlmrl.policy.block import centred
from vlmrl.runfolder import Metrics
from vlmrl.sight import Pictures, Sight, embedding, named
from vlmrl.sim import load_task, make
from vlmrl.store import Store
from vlmrl.types import NO_FRAME, Episode, Frames, Transitions
from vlmrl.vision import SpatialSoftmax

TINY = Sight(size=(16, 16), crop=0.875, colour=0.0, channels=(8,), keypoints=4, precision="float32")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dots(count: int, *, seed: int = 0, size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Dark pictures with a bright square left or right of the middle, and on which side it is: -1 or 1."""
    generator = np.random.default_rng(seed)
    side = generator.choice([-1, 1], count)
    pixels = generator.integers(0, 40, (count, size, size, 3)).astype(np.uint8)
    for picture, where in zip(pixels, side, strict=True):
        left = size // 2 + (2 if where > 0 else -6) * size // 16
        picture[size // 4 : size // 2, left : left + size // 4] = 250
    return pixels, side


def seeing(count: int = 40, *, numbers: int = 2, sight: Sight = TINY) -> Transitions:
    """One episode a side; the state says nothing, the best action is half the side of the dot."""
    pixels, side = dots(count + 1)
    generator = np.random.default_rng(1)
    obs = generator.normal(size=(count + 1, numbers)).astype(np.float32)
    action = (0.5 * side[:-1, None] + 0.05 * generator.normal(size=(count, 1))).astype(np.float32)
    return Transitions(
        obs=obs[:-1],
        action=action,
        reward=side[:-1].astype(np.float32),
        mask=np.zeros(count, np.float32),
        next_obs=obs[1:],
        episode=np.zeros(count, np.int32),
        pictures=Pictures(("eye",), sight, np.arange(count, dtype=np.int64), lambda _, rows: pixels[rows]),
    )


def config_of(name: str, **further: Any) -> Any:
    return dataclasses.replace(small(name), **further)


def learned(name: str, data: Transitions, folder: Path, **further: Any) -> Learned:
    config = config_of(name, **further)
    return fit(name, data, config, seed=0, metrics=Metrics(folder / "metrics.jsonl"), quiet=True)


def eyes_of(state: Any) -> torch.nn.Module:
    return (state.network if hasattr(state, "network") else state.actor).eyes


def watched(pixels: np.ndarray, numbers: int = 2) -> dict[str, np.ndarray]:
    return {"state": np.zeros((len(pixels), numbers), np.float32), "image/eye": pixels}


@pytest.mark.parametrize("name", PICTURES)
def test_every_weight_of_the_encoder_learns(name: str) -> None:
    module, config, data = learner(name), config_of(name), seeing()
    state = module.init(config, data, generator=seeded())
    before = {key: value.clone() for key, value in eyes_of(state).state_dict().items()}
    batches = module.batches(config, data, generator=seeded(1))
    for _ in range(3):
        module.update(config, state, next(batches))
    for key, value in eyes_of(state).state_dict().items():
        # The softmax over places does not feel a number that is the same everywhere.
        assert key.endswith("maps.bias") or not torch.equal(before[key], value), key


@pytest.mark.parametrize("name", sorted(set(LEARNERS) - set(PICTURES)))
def test_a_learner_without_eyes_says_so(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' sees no pictures; those that do: bc, calql"):
        learned(name, seeing(), tmp_path)


def test_cloning_finds_in_the_picture_what_the_state_does_not_say(tmp_path: Path) -> None:
    found = learned("bc", seeing(200, numbers=0), tmp_path, updates=60, batch=32, lr=1e-2, average=0.1)
    pixels, side = dots(40, seed=5)
    policy = LearnedPolicy(found.policy, "bc", ())
    actions = policy.act({"image/eye": pixels})[:, 0, 0]
    np.testing.assert_array_less(np.abs(actions - 0.5 * side), 0.2)


def test_a_saved_policy_and_value_act_as_before(tmp_path: Path) -> None:
    pixels, _ = dots(3)
    for name in PICTURES:
        found = learned(name, seeing(), tmp_path, updates=2)
        history = found.policy.history
        times = np.stack([pixels] * history, 1) if history > 1 else pixels
        observations = {"state": np.ones((*times.shape[:-3], 2), np.float32), "image/eye": times}
        policy = LearnedPolicy(found.policy, name)
        policy.save_pretrained(tmp_path / name)
        again = LearnedPolicy.from_pretrained(tmp_path / name)
        assert again.cameras == ("eye",)
        chunks = []
        for one in (policy, again):
            one.reset(np.ones(3, np.bool_), [""] * 3, np.random.default_rng(0))
            chunks.append(one.act(observations))
        np.testing.assert_array_equal(*chunks)
        if found.critic is not None:
            value = LearnedValue(found.critic, name)
            value.save_pretrained(tmp_path / "critic")
            again_value = LearnedValue.from_pretrained(tmp_path / "critic")
            actions = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4, 1)
            np.testing.assert_array_equal(*(one.value(observations, actions) for one in (value, again_value)))


@pytest.mark.parametrize("name", ["bc", "diffusion"])
def test_a_chunk_depends_on_its_own_picture_alone(name: str, tmp_path: Path) -> None:
    policy = LearnedPolicy(learned(name, seeing(), tmp_path, updates=5).policy, name)
    pixels, _ = dots(20)
    history = policy.history
    whole = {k: np.stack([v] * history, 1) if history > 1 else v for k, v in watched(pixels).items()}

    def act(rows: slice) -> np.ndarray:
        count = len(pixels[rows])
        for k in range(count):
            policy.reset(np.arange(count) == k, [""] * count, np.random.default_rng(range(20)[rows][k]))
        return policy.act({key: value[rows] for key, value in whole.items()})

    together = act(slice(None))
    assert len(np.unique(together.round(4), axis=0)) > 1
    for k in (0, 7, 19):
        np.testing.assert_array_equal(act(slice(k, k + 1))[0], together[k])


def test_in_use_the_centre_is_looked_at_and_training_looks_about() -> None:
    picture = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    np.testing.assert_array_equal(centred(picture, TINY), picture[1:15, 1:15])
    many = torch.from_numpy(np.stack([picture] * 50))[:, None].expand(-1, 2, -1, -1, -1)
    seen = augmented(many, TINY, seeded())
    assert seen.shape == (50, 2, 14, 14, 3)
    assert torch.equal(seen[:, 0], seen[:, 1])  # all times of a row move alike
    corners = {tuple(one[0, 0, 0].tolist()) for one in seen}
    allowed = {tuple(map(float, picture[y, x])) for y in range(3) for x in range(3)}
    assert corners == allowed
    still = dataclasses.replace(TINY, crop=1.0)
    assert torch.equal(augmented(many, still, seeded()), many.float())


def test_colours_change_within_what_is_allowed_and_alike_in_a_row() -> None:
    sight = dataclasses.replace(TINY, crop=1.0, colour=0.2)
    grey = torch.full((200, 1, 16, 16, 3), 100, dtype=torch.uint8)
    factors = augmented(grey, sight, seeded()).flatten(1) / 100  # of a flat grey only the brightness changes
    assert torch.allclose(factors.amin(1), factors.amax(1), atol=1e-5)
    assert 0.8 <= factors.min() < 0.82 and 1.18 < factors.max() <= 1.2  # noqa: PT018
    coloured = grey.clone()
    coloured[..., 0] = 180
    spread = augmented(coloured, sight, seeded())
    assert len(torch.unique((spread[..., 0] - spread[..., 1]).flatten(1)[:, 0])) > 100


def test_spatial_softmax_gives_the_place_of_a_peak() -> None:
    head = SpatialSoftmax(1, 1)
    with torch.no_grad():
        head.maps.weight.fill_(1)
        head.maps.bias.zero_()
    maps = torch.zeros(2, 1, 3, 5)
    maps[0, 0, 2, 1] = 50
    x, y = head(maps).T.tolist()
    assert x == pytest.approx([-0.5, 0])  # second of five columns; nowhere in particular: the middle
    assert y == pytest.approx([1, 0])


def test_batches_made_ahead_are_those_made_at_once() -> None:
    def numbers(generator: torch.Generator) -> Iterator[int]:
        while True:
            yield int(torch.randint(1000, (), generator=generator))

    plain, ahead = seeded(), seeded()
    for own, other in zip(numbers(plain), read_ahead(numbers, generator=ahead), strict=False):
        assert own == other
        assert torch.equal(plain.get_state(), ahead.get_state())
        if own % 7 == 0:
            break


def test_an_error_in_the_background_reaches_the_learner(tmp_path: Path) -> None:
    def read(camera: str, rows: np.ndarray) -> np.ndarray:
        raise DataError(f"{camera} is damaged")

    data = seeing()
    assert data.pictures is not None
    broken = dataclasses.replace(data, pictures=dataclasses.replace(data.pictures, read=read))
    with pytest.raises(DataError, match="eye is damaged"):
        learned("bc", broken, tmp_path)


class Cut(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("name", ["diffusion", "iql"])
def test_a_training_cut_in_the_middle_equals_one_that_was_not(name: str, tmp_path: Path) -> None:
    sight = dataclasses.replace(TINY, colour=0.1)
    found = []
    for cut in (None, 8):

        def at(step: int, _: Any, cut: int | None = cut) -> None:
            if step == cut:
                raise Cut

        metrics = Metrics(tmp_path / f"{cut}.jsonl")
        config = config_of(name, updates=12)
        given: dict[str, Any] = {"seed": 3, "metrics": metrics, "every": 4, "kept": tmp_path / f"{cut}", "quiet": True}
        if cut is not None:
            with pytest.raises(Cut):
                fit(name, seeing(sight=sight), config, at=at, **given)
        found.append(fit(name, seeing(sight=sight), config, **given).policy.state_dict())
    for key, value in found[0].items():
        assert torch.equal(found[1][key], value), key


def test_seeds_that_see_are_trained_each_by_itself(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="together=false"):
        fit_seeds("bc", [seeing()] * 2, small("bc"), seeds=[0, 1], metrics=[Metrics(tmp_path / "m")] * 2, at=[None] * 2)


def test_pictures_of_the_next_row_and_of_earlier_ones_stand_where_they_belong() -> None:
    still = dataclasses.replace(TINY, crop=1.0)
    data = seeing(sight=still)
    assert data.pictures is not None
    plain = np.stack([np.full((16, 16, 3), k, np.uint8) for k in range(41)])
    data = dataclasses.replace(
        data,
        obs=np.arange(40, dtype=np.float32)[:, None],
        next_obs=np.arange(1, 41, dtype=np.float32)[:, None],
        pictures=dataclasses.replace(data.pictures, read=lambda _, rows: plain[rows]),
    )
    batch = next(sample(data, data.reward, 16, generator=seeded(), history=2))
    seen = batch.obs.reshape(16, 2, -1)
    now, before, after = seen[:, 1, -1], seen[:, 0, -1], batch.next_obs[:, -1]
    row = (seen[:, 1, 0] - seen[:, 1, 0].min()) * 0 + now
    assert torch.equal(after, now + 1)
    assert torch.equal(before, (row - 1).clamp(min=0))
    assert torch.equal(seen[:, :, 1], seen[:, :, -1])
    chunks = chunked(data, 4, 0.9)
    assert len(chunks) == 37
    batch = next(sample(chunks, chunks.reward, 16, generator=seeded()))
    assert torch.equal(batch.next_obs[:, -1], batch.obs[:, -1] + 4)
    bc_batch = next(sample(data, data.reward, 16, generator=seeded(), bootstraps=False))
    assert bc_batch.next_obs.shape == (16, 1)
    gap = dataclasses.replace(
        data,
        obs=np.zeros((40, 0), np.float32),
        next_obs=np.zeros((40, 0), np.float32),
        pictures=dataclasses.replace(data.pictures, row=np.r_[0:20, 25:45].astype(np.int64)),
    )
    assert windows(gap, 1, 0)[20].tolist() == [20, 20]
    assert windows(gap, 1, 0)[21].tolist() == [20, 21]


def test_looking_keeps_the_numbers_and_gives_the_next_no_gradient() -> None:
    data = seeing()
    state = bc.init(small("bc"), data, generator=seeded())
    batch = next(sample(data, data.reward, 8, generator=seeded(), history=2))
    eyes = state.actor.eyes
    seen = look(eyes, batch.obs, 2).reshape(8, 2, -1)
    assert eyes is not None
    assert seen.shape[2] == 2 + eyes.features
    assert torch.equal(seen[..., :2], batch.obs.reshape(8, 2, -1)[..., :2])
    one = look(eyes, batch.obs.reshape(8, 2, -1)[:, 1].contiguous())
    torch.testing.assert_close(one, seen[:, 1])


def filmed(rows: int, *, every: int = 1, seed: int = 0, camera: str = "eye") -> Episode:
    pixels, side = dots(rows, seed=seed)
    index = np.full(rows, NO_FRAME, np.int32)
    index[::every] = np.arange(len(index[::every]))
    inner = np.arange(rows) < rows - 1
    return Episode(
        action=(0.5 * side[:, None] * inner[:, None]).astype(np.float32),
        obs={"state": np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)},
        time=np.arange(rows) * 0.1,
        has_action=inner,
        has_next=inner.copy(),
        terminated=False,
        truncated=True,
        task="cartpole",
        instruction="",
        source="",
        images={camera: Frames(pixels[::every], index)},
    )


def store_of(folder: Path, *episodes: Episode) -> Store:
    store = Store.create(folder)
    for episode in episodes:
        store.append([episode])
    return store


def test_a_row_without_a_picture_shows_the_latest_of_its_episode(tmp_path: Path) -> None:
    one, two = filmed(5, every=2, seed=1), filmed(4, seed=2)
    data = store_of(tmp_path / "store", one, two).transitions((), cameras=("eye",), sight=TINY)
    assert data.pictures is not None
    assert data.obs.shape == (7, 0)
    pixels = [one.images["eye"].pixels, two.images["eye"].pixels]  # type: ignore[union-attr]
    shown = data.pictures.read("eye", data.pictures.row)
    np.testing.assert_array_equal(shown[:4], pixels[0][[0, 0, 1, 1]])
    np.testing.assert_array_equal(shown[4:], pixels[1][:3])
    np.testing.assert_array_equal(data.pictures.read("eye", data.pictures.row + 1)[3:5], [pixels[0][2], pixels[1][1]])
    kept = data.take(np.array([4, 6]))
    assert kept.pictures is not None
    np.testing.assert_array_equal(kept.pictures.read("eye", kept.pictures.row), pixels[1][[0, 2]])


def test_a_store_that_lacks_the_camera_says_so(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", filmed(4), filmed(4, seed=1, camera="other"))
    with pytest.raises(ConfigError, match="unknown camera 'wrist'; have: eye, other"):
        store.transitions(cameras=("wrist",))
    with pytest.raises(DataError, match="has no picture of camera 'eye' at its row 4"):
        store.transitions(cameras=("eye",))


def test_part_of_an_observation_is_named_by_its_numbers(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", filmed(4))
    whole, part = store.transitions(), store.transitions(("state:1:3", "state:0:1"))
    np.testing.assert_array_equal(part.obs, whole.obs[:, [1, 2, 0]])
    assert named("state") == ("state", slice(None))
    for wrong in ("state:2:2", "state:1", "state:a:b"):
        with pytest.raises(ConfigError, match="KEY or KEY:FIRST:STOP"):
            named(wrong)
    with pytest.raises(DataError, match="'state' has 3 numbers"):
        store.transitions(("state:0:4",))


def test_a_policy_without_its_picture_or_with_none_says_so(tmp_path: Path) -> None:
    policy = LearnedPolicy(learned("bc", seeing(), tmp_path).policy, "bc")
    with pytest.raises(DataError, match=r"needs observations \['image/eye'\]; have: state"):
        policy.act({"state": np.zeros((1, 2), np.float32)})
    with pytest.raises(DataError, match="uint8 RGB"):
        policy.act({"state": np.zeros((1, 2), np.float32), "image/eye": np.zeros((1, 16, 16, 3), np.float32)})
    with pytest.raises(DataError, match="takes 2 numbers, found 3"):
        policy.act(watched(dots(1)[0], numbers=3))


def test_a_critic_that_sees_steers_a_policy_that_sees_otherwise(tmp_path: Path) -> None:
    base = LearnedPolicy(learned("diffusion", seeing(), tmp_path, updates=2).policy, "diffusion")
    coarse = dataclasses.replace(TINY, size=(8, 8), crop=1.0)
    found = learned("calql", seeing(sight=coarse, numbers=0), tmp_path, updates=2)
    assert found.critic is not None
    critic = LearnedValue(found.critic, "critic", ())
    policy = RerankedPolicy(base, critic, samples=5)
    assert policy.cameras == ("eye",)
    policy.reset(np.ones(2, np.bool_), [""] * 2, np.random.default_rng(0))
    history, pixels = base.history, dots(2)[0]
    observations = {key: np.stack([value] * history, 1) for key, value in watched(pixels).items()}
    chunks = policy.act(observations)
    again = base.propose(observations, 5, [np.random.default_rng(0)] * 2)
    values = critic.value(observations, again[:, :, 0])
    np.testing.assert_array_equal(chunks[0], again[0, values[0].argmax()])


def test_a_frozen_encoder_can_stand_for_eyes(tmp_path: Path) -> None:
    clip = tiny_clip.build("clip", tmp_path / "clip")
    one = filmed(6, every=2, seed=1)
    store, key = store_of(tmp_path / "store", one, filmed(30, seed=2)), f"embedding/{clip}/eye"
    settings = json.loads(json.dumps({"name": "bc", **dataclasses.asdict(small("bc"))}))
    training = Training("bc", 0, str(store.path), None, settings, (key, "state:0:1"), str(tmp_path / "policy"))
    data = training.transitions()
    np.testing.assert_array_equal(data.obs[2, :-1], data.obs[3, :-1])  # no picture of its own: the latest
    assert not np.array_equal(data.obs[3, :-1], data.obs[4, :-1])
    train([training])
    policy = LearnedPolicy.from_pretrained(tmp_path / "policy")
    assert policy.cameras == ("eye",)
    film = one.images["eye"]
    assert isinstance(film, Frames)
    seen = {"state": data.obs[[0, 2, 4], -1:], "image/eye": film.pixels}
    made = frozen.embedded(seen, policy.keys, policy.facts["encoders"])[key]
    np.testing.assert_allclose(made, data.obs[[0, 2, 4], :-1], atol=2e-3)
    assert policy.act(seen).shape == (3, 1, 1)
    with pytest.raises(DataError, match="needs observation 'image/eye'"):
        policy.act({"state": seen["state"]})
    with pytest.raises(DataError, match="not the one that was trained on"):
        frozen.embedded(seen, policy.keys, {str(clip): "another"})
    with pytest.raises(ConfigError, match="embedding/ENCODER/CAMERA"):
        embedding("embedding/eye")


def test_a_served_policy_asks_for_its_pictures(tmp_path: Path) -> None:
    pytest.importorskip("msgpack")
    from deploy_fakes import SPEC
    from test_policy_server import serving

    from vlmrl.deploy.inference import Inline
    from vlmrl.deploy.pilot import PolicyPilot
    from vlmrl.deploy.seams import ActionQueue
    from vlmrl.policy import RemotePolicy

    policy = LearnedPolicy(learned("flow", seeing(), tmp_path, updates=2).policy, "flow")
    seen = watched(dots(2)[0])
    with serving(policy, keys=("state", "image/eye")) as port:
        remote = RemotePolicy(f"ws://127.0.0.1:{port}")
        assert remote.cameras == ("eye",)
        found = remote.propose(seen, 2, [np.random.default_rng(k) for k in range(2)])
        with pytest.raises(DataError, match="uint8 wanted, found float32"):
            remote.propose({**seen, "image/eye": seen["image/eye"].astype(np.float32)}, 1, [np.random.default_rng(0)])
        remote.close()
    seeds = [int(np.random.default_rng(k).integers(2**63)) for k in range(2)]
    np.testing.assert_array_equal(found, policy.propose(seen, 2, [np.random.default_rng(seed) for seed in seeds]))
    pilot = PolicyPilot(Inline(policy), SPEC, ActionQueue("hold"), 0)
    assert pilot.inference.about.cameras == ("eye",)
    assert pilot.inference.about.shift is not None
    assert len(pilot.inference.about.shift) == 2


class Looker:
    """Notes what it is shown."""

    name = "looker"

    def __init__(self, cameras: tuple[str, ...], *, chunk: int = 4, history: int = 2) -> None:
        self.cameras, self.chunk, self.history = cameras, chunk, history
        self.seen: list[Mapping[str, np.ndarray]] = []

    def reset(self, mask: np.ndarray, instructions: Sequence[str], generator: np.random.Generator) -> None:
        """Nothing is remembered."""

    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        self.seen.append(observations)
        return np.full((len(observations["state"]), self.chunk, 1), 0.3)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cameras in the order in which they were drawn."""
    from vlmrl.sim import SimEnv

    frame, found = SimEnv.frame, list[str]()

    def noted(self: SimEnv, camera: str | None = None) -> np.ndarray:
        found.append(str(camera))
        return frame(self, camera)

    monkeypatch.setattr(SimEnv, "frame", noted)
    return found


def test_the_evaluator_draws_what_a_policy_looks_at_and_no_more(drawn: list[str]) -> None:
    task = load_task("cartpole")
    policy = Looker((task.camera,))
    rollout(task, policy, evaluation_seeds(1))
    decisions = -(-task.horizon // 4)
    assert len(policy.seen) == decisions
    # Of the first decision both are the first; after the last chunk nobody looks, but only its last step tells.
    assert drawn == [task.camera] * (1 + 2 * (decisions - 1) + 1)
    size = (task.cameras[task.camera].height, task.cameras[task.camera].width, 3)
    assert policy.seen[-1][f"image/{task.camera}"].shape == (1, 2, *size)
    assert policy.seen[-1][f"image/{task.camera}"].dtype == np.uint8
    env = make(task)
    try:
        env.reset(seed=evaluation_seeds(1)[0])
        films = [env.frame(task.camera)]
        for _ in range(4):
            env.step(np.array([0.3]))
            films.append(env.frame(task.camera))
    finally:
        env.close()
    np.testing.assert_array_equal(policy.seen[1][f"image/{task.camera}"][0], films[3:])


def test_a_policy_that_sees_is_trained_from_a_store_and_runs(tmp_path: Path, make_seeing: "Make") -> None:
    store = make_seeing(tmp_path / "store")
    settings = json.loads(json.dumps({"name": "flow", **dataclasses.asdict(small("flow"))}))
    task = load_task("cartpole")
    training = Training(
        "flow",
        0,
        str(store.path),
        None,
        settings,
        ("state:0:2",),
        str(tmp_path / "policy"),
        cameras=(task.camera,),
        sight=TINY,
    )
    assert not training.done
    train([training])
    assert training.done
    assert not dataclasses.replace(training, sight=dataclasses.replace(TINY, crop=0.5)).done
    policy = LearnedPolicy.from_pretrained(tmp_path / "policy")
    assert policy.cameras == (task.camera,)
    one, many = (rollout(task, policy, evaluation_seeds(3), batch=batch) for batch in (1, 3))
    np.testing.assert_array_equal(one.returns, many.returns)


Make = Callable[[Path], Store]


@pytest.fixture
def make_seeing() -> Make:
    """Collects a little of the cartpole, with pictures of every row."""
    from vlmrl.evaluate import collect

    def made(folder: Path) -> Store:
        config = collect.Config(episodes=2, steps=12, noise=(0.5,), picture_every=1)
        return collect.fill(folder, load_task("cartpole"), config)

    return made


@pytest.mark.slow
def test_a_store_larger_than_the_memory_allowed_trains() -> None:
    """The script sets the limit itself, and fails where the same store is read whole."""
    script = Path(__file__).resolve().parent.parent / "benchmarks" / "pictures_memory.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
