"""Reward learned from preferences between pictures: a Bradley-Terry ensemble of small CNNs.

P(a better than b) = sigmoid(r(a) - r(b)) (Bradley and Terry 1952; Christiano et al. 2017). The network is RL-VLM-F's
(four convolutions and a linear layer), with three changes. The output is linear: most pairs compare something with
nothing, and a tanh then saturates at the first sign of progress (on drawer_open at 30 % of the way), which leaves no
reward for going on; `tanh` brings it back. Pictures are brought to 64x64. The members are one grouped convolution, each
with its own initial weights and its own bootstrap of the labels, so that their disagreement says something.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor, nn

from vlmrl import config as configuration
from vlmrl.artefact import load, save
from vlmrl.errors import DataError
from vlmrl.reward import holdout
from vlmrl.reward.alignment import on_next_row, shown
from vlmrl.types import Episode


@dataclass(frozen=True)
class Config:
    """Settings of the preference reward."""

    members: int = 3
    size: tuple[int, int] = (64, 64)
    """Height and width that pictures are brought to."""
    channels: tuple[int, ...] = (16, 32, 64, 128)
    updates: int = 1_500
    batch: int = 64
    """Pairs an update."""
    lr: float = 3e-4
    weight_decay: float = 1e-4
    shift: int = 2
    """Random shifts of the picture in training, pixels each way."""
    tanh: bool = False
    """Bound the reward to (-1, 1) as RL-VLM-F does: caps the confidence of a pair at sigmoid(2)."""
    holdout: float = 0.1
    """Share of the pairs kept aside to measure accuracy and calibration."""


class Network(nn.Module):
    """The ensemble; kernels 5, 3, 3, 3 and strides 3, 2, 2, 2, without padding, as RL-VLM-F's `conv_net.py`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.members, self.tanh = config.members, config.tanh
        widths = [3, *config.channels]
        kernels = [5] + [3] * (len(config.channels) - 1)
        strides = [3] + [2] * (len(config.channels) - 1)
        layers: list[nn.Module] = []
        for k, (kernel, stride) in enumerate(zip(kernels, strides, strict=True)):
            groups = 1 if k == 0 else config.members
            fan_in = 3 if k == 0 else widths[k] * config.members
            layers += [nn.Conv2d(fan_in, widths[k + 1] * config.members, kernel, stride, groups=groups), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        with torch.no_grad():
            features = self.trunk(torch.zeros(1, 3, *config.size)).shape[1:].numel() // config.members
        self.weight = nn.Parameter(torch.randn(config.members, features) / features**0.5)
        self.bias = nn.Parameter(torch.zeros(config.members))

    def forward(self, pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B members"]:
        """Reward of each picture by each member; pictures are scaled to (-0.5, 0.5)."""
        features = self.trunk(pictures).reshape(len(pictures), self.members, -1)
        reward = (features * self.weight).sum(-1) + self.bias
        return torch.tanh(reward) if self.tanh else reward


@dataclass(frozen=True)
class Pairs:
    """Labelled pairs of pictures, by their place in a stack of pictures."""

    a: Int64[np.ndarray, " Q"]
    b: Int64[np.ndarray, " Q"]
    p_a: Float32[np.ndarray, " Q"]

    def __len__(self) -> int:
        return len(self.a)

    def take(self, which: Int64[np.ndarray, " _"]) -> "Pairs":
        """Some of the pairs."""
        return Pairs(self.a[which], self.b[which], self.p_a[which])


@dataclass
class State:
    """Everything that an update changes."""

    network: Network
    optimiser: torch.optim.Optimizer
    pictures: UInt8[Tensor, "M H W 3"]
    generator: torch.Generator


def split(pairs: Pairs, share: float, *, generator: np.random.Generator) -> tuple[Pairs, Pairs]:
    """Training pairs and held-out pairs (by pairs: both may show the same episodes)."""
    train, held = holdout.places(len(pairs), share, generator=generator)
    return pairs.take(train), pairs.take(held)


def batches(
    config: Config, pairs: Pairs, *, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Endless batches (a, b, p_a, weight): `weight` (B, members) counts each pair in each member's own bootstrap."""
    a, b, p = (torch.from_numpy(column) for column in (pairs.a, pairs.b, pairs.p_a))
    bootstrap = torch.poisson(torch.ones(len(pairs), config.members), generator=generator)
    while True:
        rows = torch.randint(len(pairs), (config.batch,), generator=generator)
        yield a[rows], b[rows], p[rows], bootstrap[rows]


def init(config: Config, pictures: UInt8[np.ndarray, "M H W 3"], *, seed: int) -> State:
    """A fresh ensemble for a stack of pictures of the configured size."""
    if pictures.shape[1:3] != tuple(config.size):
        raise DataError(f"pictures of {config.size} wanted, found {pictures.shape[1:3]}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network(config).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    return State(network, optimiser, torch.from_numpy(pictures), torch.Generator().manual_seed(seed))


def bradley_terry(difference: Float[Tensor, "..."], p_a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Cross-entropy of sigmoid(r_a - r_b) against the probability that a is better; a tie is one half."""
    return nn.functional.binary_cross_entropy_with_logits(difference, p_a, reduction="none")


def loss(config: Config, state: State, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    """Mean cross-entropy, and the accuracy of the ensemble on pairs that are no ties."""
    a, b, p_a, weight = batch
    pictures = _shifted(state.pictures[torch.cat([a, b])], config.shift, generator=state.generator)
    r_a, r_b = state.network(prepare(pictures)).chunk(2)
    entropy = bradley_terry(r_a - r_b, p_a[:, None].expand_as(r_a))
    correct = ((r_a - r_b).mean(1) > 0) == (p_a > 0.5)
    clear = p_a != 0.5
    return {
        "loss": (weight * entropy).mean(),
        "train_accuracy": (correct & clear).sum() / clear.sum().clamp(min=1),
    }


def update(config: Config, state: State, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    """One gradient step."""
    losses = loss(config, state, batch)
    state.optimiser.zero_grad(set_to_none=True)
    losses["loss"].backward()
    state.optimiser.step()
    return {name: value.detach() for name, value in losses.items()}


@torch.no_grad()
def centre(state: State) -> None:
    """Give every member zero mean over the pictures it was trained on.

    Preferences do not fix a reward's offset: left in, members would seem to disagree where they only stand elsewhere.
    """
    if not state.network.tanh:
        state.network.bias.sub_(torch.from_numpy(score(state.network, state.pictures.numpy()).mean(0)))


def prepare(pictures: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 H W"]:
    """Pictures as the network takes them."""
    return pictures.permute(0, 3, 1, 2).float() / 255 - 0.5


def _shifted(pictures: UInt8[Tensor, "B H W 3"], most: int, *, generator: torch.Generator) -> UInt8[Tensor, "B H W 3"]:
    """One random shift for the whole batch, so that both sides of a pair move alike."""
    if not most:
        return pictures
    dy, dx = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
    return torch.roll(pictures, (dy, dx), (1, 2))


@torch.inference_mode()
def score(
    network: Network, pictures: UInt8[np.ndarray, "M H W 3"], *, batch: int = 512
) -> Float32[np.ndarray, "M members"]:
    """Reward of each picture by each member."""
    parts = [network(prepare(torch.from_numpy(pictures[k : k + batch]))) for k in range(0, len(pictures), batch)]
    return torch.cat(parts).numpy() if parts else np.zeros((0, network.members), np.float32)


def build(config: Config, *, network: Network, camera: str, facts: Mapping[str, Any]) -> "PreferenceReward":
    """The rewarder of a trained ensemble; `facts` is what is known of it: labels, snapshot, held-out accuracy."""
    return PreferenceReward(network, config, camera=camera, facts=facts)


class PreferenceReward:
    """The trained ensemble as a rewarder of episodes with pictures of one camera."""

    name = "preference"

    def __init__(self, network: Network, config: Config, *, camera: str, facts: Mapping[str, Any]) -> None:
        """`facts` is what is known of it: labels, snapshot, held-out accuracy."""
        self.network, self.config, self.camera, self.facts = network.eval(), config, camera, dict(facts)
        self.sees = (camera, config.size)

    def reward(self, episode: Episode) -> tuple[Float32[np.ndarray, " T"], Float32[np.ndarray, " T"]]:
        """Mean and deviation over members of what the next row shows.

        Where the camera is slower than the robot, each member's reward is interpolated linearly between pictures.
        """
        rows, pixels = shown(episode, self.camera)
        members = on_next_row(rows, score(self.network, pixels), episode.has_next)
        return members.mean(1).astype(np.float32), members.std(1).astype(np.float32)

    def provenance(self) -> Mapping[str, object]:
        """Settings and facts."""
        return {"camera": self.camera, "config": asdict(self.config), **self.facts}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config, weights and card."""
        config = {"camera": self.camera, "settings": asdict(self.config), "facts": self.facts}
        save(Path(folder), kind="preference reward", config=config, tensors=self.network.state_dict(), card=self.card())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "PreferenceReward":
        """Read a folder or hub repository written by `save_pretrained`."""
        content, tensors = load(folder, kind="preference reward")
        config = configuration.build(Config, content["settings"], where="reward")
        network = Network(config)
        network.load_state_dict(tensors)
        return cls(network, config, camera=content["camera"], facts=content["facts"])

    def card(self) -> str:
        """What a reader must know before trusting it."""
        facts = "\n".join(f"- {key}: {value}" for key, value in self.facts.items())
        return (
            "# Preference reward\n\nA Bradley-Terry ensemble of "
            f"{self.config.members} CNNs on camera `{self.camera}`, trained by vlmrl.\n\n{facts}\n"
        )
