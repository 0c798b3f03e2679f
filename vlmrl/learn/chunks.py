"""What learners of action chunks share: windows of a store's rows, the network, and the average of its weights."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vlmrl.errors import ConfigError
from vlmrl.learn.batch import compiled, descend, drawn, polyak, windows
from vlmrl.learn.looking import look, sees, shown
from vlmrl.learn.sampling import Sampler, denoise, rounds, schedule
from vlmrl.learn.unet import UNet
from vlmrl.nn import Normaliser, saved_normaliser
from vlmrl.types import Transitions
from vlmrl.vision import Eyes, eyes_settings, saved_eyes


@dataclass(frozen=True)
class ChunkConfig:
    """Settings that all learners of action chunks have."""

    updates: int = 10_000
    batch: int = 256
    hidden: tuple[int, ...] = (64, 128)
    """Channels of the U-Net; time halves from each to the next. The paper's low-dimensional network is
    [256,512,1024]: 30 times the work."""
    time_width: int = 64
    """Numbers that tell the network how far denoising is."""
    history: int = 2
    """To: observations that the policy looks at, the latest of them now."""
    horizon: int = 16
    """Tp: actions predicted, from the oldest of these observations on; divisible by two once for each width but the
    first."""
    execute: int = 8
    """Ta: actions of these, from now on, that are executed before the policy looks again."""
    lr: float = 1e-4
    weight_decay: float = 1e-6
    warm_up: int = 500
    """Updates until the learning rate is reached; from there it falls as a cosine."""
    compile: Literal["auto", "always", "never"] = "auto"
    """The network by torch.compile, which then multiplies in bfloat16 where the processor does so natively; auto: from
    5,000 updates on, where a C++ compiler is installed. The policy itself computes in float32."""


@dataclass(frozen=True)
class ChunkBatch:
    """Windows in the network's units."""

    obs: Float[Tensor, "B D"]
    chunk: Float[Tensor, "B T A"]


@dataclass
class ChunkState:
    """Everything that an update changes."""

    network: "ChunkPolicy"
    averaged: "ChunkPolicy"
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    generator: torch.Generator
    net: Callable[[Tensor, Tensor, Tensor], Tensor]
    """The network's, compiled where asked."""


def chunk_batches(config: ChunkConfig, transitions: Transitions, *, generator: torch.Generator) -> Iterator[ChunkBatch]:
    """Endless batches, rows by their weights: observations up to a row, and actions from the oldest of them on."""
    network = Normaliser.range(transitions.obs), Normaliser.range(transitions.action)
    obs, action = (
        normaliser.apply_to(torch.from_numpy(column))
        for normaliser, column in zip(network, (transitions.obs, transitions.action), strict=True)
    )
    before = config.history - 1
    index = torch.from_numpy(windows(transitions, before, max(config.horizon - config.history, 0)))
    seen, chunk = index[:, : before + 1], index[:, : config.horizon]

    def batch(rows: Int64[Tensor, " B"], own: torch.Generator) -> ChunkBatch:
        return ChunkBatch(shown(transitions, obs[seen[rows]], seen[rows], own).flatten(1), action[chunk[rows]])

    yield from drawn(transitions, config.batch, batch, generator=generator)


def looked(state: "ChunkState", batch: ChunkBatch) -> ChunkBatch:
    """The batch with features in the place of pictures."""
    return ChunkBatch(look(state.network.eyes, batch.obs, state.network.history), batch.chunk)


class ChunkPolicy(nn.Module):
    """Draws action chunks by denoising; observations and actions are brought to -1 and 1 by minimum and maximum."""

    KIND: ClassVar[str] = "chunk policy"
    acts_without_chance = False
    chooses = False
    proposes = True

    def __init__(
        self,
        observation: Normaliser,
        action: Normaliser,
        settings: Mapping[str, Any],
        *,
        generator: torch.Generator,
        eyes: Eyes | None = None,
    ) -> None:
        super().__init__()
        self.observation, self.action, self.eyes, self._settings = observation, action, eyes, dict(settings)
        widths, horizon = tuple(settings["hidden"]), int(settings["horizon"])
        self.history = int(settings["history"])
        fits = self.history >= 1 and 1 <= settings["execute"] <= horizon - self.history + 1
        if horizon % 2 ** (len(widths) - 1) or not fits:
            raise ConfigError(
                f"horizon divisible by {2 ** (len(widths) - 1)}, history from 1 and execute from 1 to "
                f"horizon - history + 1 wanted, found {horizon}, {self.history} and {settings['execute']}"
            )
        count = len(action.shift)
        self.sampler: Sampler = settings["sampler"]
        self.steps = int(settings["steps"])
        if self.sampler != "euler":
            # Seconds of imports, or their absence, belong here and not in the first decision.
            schedule(self.sampler, int(settings["training_steps"]))
        self.chance = (rounds(self.sampler, self.steps), horizon, count)
        self.net = UNet(
            count, self.history * len(observation.shift), widths, time_width=settings["time_width"], generator=generator
        )

    @torch.inference_mode()
    def draw(self, obs: Float[Tensor, "B D"], chance: Float[Tensor, "B R T A"]) -> Float[Tensor, "B h A"]:
        """The next `execute` actions of a denoised chunk, in the data's units."""
        chunk = denoise(
            self.net,
            self.observation.apply_to(obs.unflatten(1, (self.history, -1))).flatten(1),
            chance,
            sampler=self.sampler,
            steps=self.steps,
            training_steps=self._settings["training_steps"],
        )
        return self.action.invert(chunk[:, self.history - 1 :][:, : self._settings["execute"]])

    def settings(self) -> dict[str, Any]:
        """Sizes, and how it samples."""
        return self._settings | eyes_settings(self.eyes)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "ChunkPolicy":
        """The policy that was saved."""
        keys = ("hidden", "history", "horizon", "execute", "time_width", "sampler", "steps", "training_steps")
        observation, action = (saved_normaliser(tensors, name) for name in ("observation", "action"))
        own, eyes = {key: settings[key] for key in keys}, saved_eyes(settings)
        policy = cls(observation, action, own, generator=torch.Generator(), eyes=eyes)
        policy.load_state_dict(tensors)
        return policy


def fresh(
    config: ChunkConfig,
    transitions: Transitions,
    sampler: Sampler,
    *,
    steps: int,
    training_steps: int,
    generator: torch.Generator,
) -> ChunkState:
    """A fresh network whose normalisers fit `transitions`."""
    settings = {
        "hidden": list(config.hidden),
        "history": config.history,
        "horizon": config.horizon,
        "execute": config.execute,
        "time_width": config.time_width,
        "sampler": sampler,
        "steps": steps,
        "training_steps": training_steps,
    }
    observation, eyes = sees(Normaliser.range(transitions.obs), transitions, generator=generator)
    network = ChunkPolicy(observation, Normaliser.range(transitions.action), settings, generator=generator, eyes=eyes)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.lr, betas=(0.95, 0.999), weight_decay=config.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: warmed(config, step))
    net = compiled(lambda *given: network.net(*given), config.compile, updates=config.updates, least=5_000)
    return ChunkState(network, copy.deepcopy(network), optimiser, schedule, generator, net)


def warmed(config: ChunkConfig, step: int) -> float:
    """Share of the learning rate: a linear rise, then a cosine to 0 over what remains of `updates`."""
    rise = min(config.warm_up, config.updates // 2)
    if step < rise:
        return step / rise
    return float(0.5 * (1 + np.cos(np.pi * min((step - rise) / max(config.updates - rise, 1), 1))))


def step(state: ChunkState, loss: Tensor) -> None:
    """One gradient step, and the running average: its decay is 1 - (1 + t)^(-3/4), at most 0.9999."""
    descend(state.optimiser, loss)
    state.schedule.step()
    polyak(state.averaged, state.network, max((1 + state.schedule.last_epoch) ** -0.75, 1e-4))
