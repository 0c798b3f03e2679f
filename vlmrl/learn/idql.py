"""Implicit diffusion Q-learning (Hansen-Estruch et al. 2023, arXiv 2304.10573): IQL's critic over proposals of cloning.

A diffusion policy is cloned from all data, IQL's critics are trained beside it, and neither knows of the other until an
action is wanted: of `samples` chunks the one of the highest value is executed. The policy that is saved does this by
itself; `vlmrl evaluate policy=DIFFUSION critic=IQL/critic` does the same with parts trained apart.

The paper draws single actions. Chunks are valued here as they are executed, whole (`vlmrl.learn.macro`): on logs of
much
noise the value of a first action tells next to nothing of a chunk (docs/results/rerank.md).
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlmrl.learn import diffusion, iql
from vlmrl.learn.batch import Batch
from vlmrl.learn.chunks import ChunkBatch, ChunkPolicy
from vlmrl.learn.macro import chunked
from vlmrl.nn import Critic, Normaliser
from vlmrl.types import Transitions
from vlmrl.vision import Eyes


@dataclass(frozen=True)
class Config:
    """Settings of IDQL: those of its two halves, which are trained side by side."""

    updates: int = 10_000
    """Of both halves; their own numbers of updates are not read."""
    samples: int = 32
    """Chunks among which the critic chooses. More is not always better."""
    scores: Literal["chunk", "first"] = "chunk"
    """chunk: the critic values what is executed, `actor.execute` actions in a row. first: the first of them."""
    critic: iql.Config = field(default_factory=iql.Config)
    actor: diffusion.Config = field(default_factory=diffusion.Config)

    @property
    def discount(self) -> float:
        """The critic's."""
        return self.critic.discount

    @property
    def precision(self) -> str:
        """Of the critic's products; the policy's are float32."""
        return self.critic.precision

    def halves(self) -> tuple[iql.Config, diffusion.Config]:
        """Settings of each half."""
        ours = {"updates": self.updates}
        return dataclasses.replace(self.critic, **ours), dataclasses.replace(self.actor, **ours)

    def valued(self, transitions: Transitions) -> Transitions:
        """What the critic learns from."""
        length = self.actor.execute if self.scores == "chunk" else 1
        return chunked(transitions, length, self.critic.discount)


@dataclass
class State:
    """Everything that an update changes."""

    critic: iql.State
    actor: diffusion.State
    samples: int


class BestOf(nn.Module):
    """Draws several chunks and keeps the one that the critic values most, by as many actions as it is of."""

    KIND: ClassVar[str] = "best-of policy"
    acts_without_chance = False
    chooses = False
    proposes = True

    def __init__(self, policy: ChunkPolicy, critic: Critic, samples: int) -> None:
        super().__init__()
        self.policy, self.critic, self.samples = policy, critic, samples
        self.chance = (samples, *policy.chance)

    @property
    def observation(self) -> Normaliser:
        """Of the policy."""
        return self.policy.observation

    @property
    def action(self) -> Normaliser:
        """Of the policy."""
        return self.policy.action

    @property
    def eyes(self) -> Eyes | None:
        """Of the policy."""
        return self.policy.eyes

    @property
    def history(self) -> int:
        """Of the policy; the critic looks at the latest observation alone."""
        return self.policy.history

    @torch.inference_mode()
    def draw(self, obs: Float[Tensor, "B D"], chance: Float[Tensor, "B K R T A"]) -> Float[Tensor, "B h A"]:
        """The best of `samples` chunks for each observation, in the data's units."""
        chunks = self.policy.draw(obs.repeat_interleave(self.samples, 0), chance.flatten(0, 1))
        chunks = chunks.reshape(len(obs), self.samples, *chunks.shape[1:])
        latest = obs[:, -len(self.critic.observation.shift) :]
        length = len(self.critic.action.shift) // chunks.shape[-1]
        best = self.critic.value(latest, chunks[:, :, :length].flatten(2)).argmax(1)
        return chunks[torch.arange(len(obs)), best]

    def settings(self) -> dict[str, Any]:
        """Those of policy and critic."""
        return {"samples": self.samples, "policy": self.policy.settings(), "critic": self.critic.settings()}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "BestOf":
        """The policy that was saved."""
        parts = {
            part: {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}
            for part in ("policy", "critic")
        }
        policy = ChunkPolicy.from_settings(settings["policy"], parts["policy"])
        return cls(policy, Critic.from_settings(settings["critic"], parts["critic"]), settings["samples"])


def batches(
    config: Config, transitions: Transitions, *, generator: torch.Generator
) -> Iterator[tuple[Batch, ChunkBatch]]:
    """Endless uniform batches for both halves."""
    critic, actor = config.halves()
    return zip(
        iql.batches(critic, config.valued(transitions), generator=generator),
        diffusion.batches(actor, transitions, generator=generator),
        strict=True,
    )


def init(config: Config, transitions: Transitions, *, generator: torch.Generator) -> State:
    """Fresh networks whose normalisers fit `transitions`."""
    critic, actor = config.halves()
    return State(
        iql.init(critic, config.valued(transitions), generator=generator),
        diffusion.init(actor, transitions, generator=generator),
        config.samples,
    )


def loss(config: Config, state: State, batch: tuple[Batch, ChunkBatch]) -> dict[str, Tensor]:
    """IQL's losses and the denoiser's."""
    critic, actor = config.halves()
    return iql.loss(critic, state.critic, batch[0]) | diffusion.loss(actor, state.actor, batch[1])


def update(config: Config, state: State, batch: tuple[Batch, ChunkBatch]) -> dict[str, Tensor]:
    """One gradient step of each half."""
    critic, actor = config.halves()
    return iql.update(critic, state.critic, batch[0]) | diffusion.update(actor, state.actor, batch[1])


def policy(state: State) -> BestOf:
    """The denoiser and IQL's target critics, of which it takes the counsel."""
    return BestOf(diffusion.policy(state.actor), critic(state), state.samples)


def critic(state: State) -> Critic:
    """IQL's two action values, as their targets hold them."""
    return iql.critic(state.critic)
