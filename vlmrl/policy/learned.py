"""A trained network as a policy: numpy in, numpy out, saved with its normalisers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from vlmrl.artefact import load, save
from vlmrl.errors import ConfigError
from vlmrl.nn import PolicyNetwork
from vlmrl.policy import frozen
from vlmrl.policy.block import BLOCK, in_blocks, seen
from vlmrl.sight import INSTRUCTIONS, sentence

NETWORKS = {
    "actor policy": "vlmrl.nn:Actor",
    "best-of policy": "vlmrl.learn.idql:BestOf",
    "chunk policy": "vlmrl.learn.chunks:ChunkPolicy",
    "mixture policy": "vlmrl.learn.heads:MixtureActor",
}
"""Saved policies by kind: where their network is."""


@dataclass
class LearnedPolicy:
    """Acts on the named observation keys; draws its chance from the generators that `reset` hands it."""

    actor: PolicyNetwork
    name: str
    keys: tuple[str, ...] = ("state",)
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Data, reward and learner it was trained with; written to the card."""
    chunk: int = 1
    """Actions in a row that the network takes for one."""
    spread: float = 1.0
    """Scale of the chance behind proposals: at 1 they spread as the network has learned, at 0 all are one, which is a
    Gaussian's mean."""
    block: int = BLOCK
    """Robots that are computed together, so that what one does never depends on how many others there are; 0: as many
    as there are, which for one robot takes a third of the time."""
    _chance: dict[int, np.random.Generator] = field(default_factory=dict, repr=False)
    _sentence: dict[int, str] = field(default_factory=dict, repr=False)

    @property
    def history(self) -> int:
        """Observations that it wants to be shown at once."""
        return self.actor.history

    @property
    def cameras(self) -> tuple[str, ...]:
        """Whose pictures it wants to be shown."""
        seen_through = self.actor.eyes.cameras if self.actor.eyes else ()
        return tuple(dict.fromkeys([*seen_through, *frozen.cameras(self.keys)]))

    def reset(self, mask: Bool[np.ndarray, " B"], instructions: Sequence[str], generator: np.random.Generator) -> None:
        """Take each starting robot's chance from the generator, and what it is to do."""
        starting = np.flatnonzero(mask).tolist()
        self._chance |= dict.fromkeys(starting, generator)
        self._sentence |= {k: instructions[k] for k in starting if k < len(instructions)}

    def act(self, observations: Mapping[str, np.ndarray]) -> Float[np.ndarray, "B h A"]:
        """A chunk for each observation, in the data's units: of a Gaussian the mean, else one that is drawn."""
        if not self.actor.acts_without_chance:
            count = len(next(iter(observations.values())))
            return self._drawn(observations, 1, [self._chance[k] for k in range(count)], 1.0)[:, 0]
        obs = self._seen(observations)
        chunks = in_blocks(self.actor.draw, obs, np.zeros((len(obs), *self.actor.chance), np.float32), block=self.block)
        return chunks.reshape(len(obs), -1, chunks.shape[-1] // self.chunk)

    def propose(
        self, observations: Mapping[str, np.ndarray], n: int, generators: Sequence[np.random.Generator]
    ) -> Float[np.ndarray, "B n h A"]:
        """Drawn chunks, `n` for each observation.

        Raises:
            ConfigError: if the policy has not learned how its actions spread.
        """
        if not self.actor.proposes:
            raise ConfigError(f"policy {self.name!r} is deterministic: it has no samples to choose from")
        return self._drawn(observations, n, generators, self.spread)

    def _drawn(
        self, observations: Mapping[str, np.ndarray], n: int, generators: Sequence[np.random.Generator], spread: float
    ) -> Float[np.ndarray, "B n h A"]:
        obs, shape = self._seen(observations), self.actor.chance
        chance = np.concatenate([g.standard_normal((n, *shape), np.float32) for g in generators])
        # A mixture's last number says which Gaussian: that is no spread.
        spreads = slice(None, -1) if self.actor.chooses else slice(None)
        chance[..., spreads] *= np.float32(spread)
        chunks = in_blocks(self.actor.draw, np.repeat(obs, n, 0), chance, block=self.block)
        return chunks.reshape(len(obs), n, -1, chunks.shape[-1] // self.chunk)

    def _seen(self, observations: Mapping[str, np.ndarray]) -> Float[np.ndarray, "B D"]:
        who = f"policy {self.name!r}"
        if any(map(sentence, self.keys)) and INSTRUCTIONS not in observations:
            count = len(next(iter(observations.values())))
            observations = {**observations, INSTRUCTIONS: np.array([self._sentence[k] for k in range(count)])}
        observations = frozen.embedded(observations, self.keys, self.facts.get("encoders", {}))
        return seen(observations, self.keys, self.actor.observation, self.actor.eyes, who=who)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config, weights, normalisers and card."""
        config = {"name": self.name, "keys": list(self.keys), **self.actor.settings(), "facts": dict(self.facts)}
        config |= {"chunk": self.chunk} if self.chunk > 1 else {}
        save(Path(folder), kind=self.actor.KIND, config=config, tensors=self.actor.state_dict(), card=self.card())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "LearnedPolicy":
        """Read a folder or hub repository written by `save_pretrained`, whichever kind of policy it holds."""
        config, tensors = load(folder, kind=tuple(NETWORKS))
        module, _, name = NETWORKS[config["kind"]].partition(":")
        actor = getattr(import_module(module), name).from_settings(config, tensors)
        return cls(actor, config["name"], tuple(config["keys"]), config["facts"], config.get("chunk", 1))

    def card(self) -> str:
        """What a reader must know before running it on a robot."""
        facts = "\n".join(f"- {key}: {value}" for key, value in self.facts.items())
        inputs = ", ".join([*self.keys, *(f"pictures of {camera}" for camera in self.cameras)])
        how = "acts by its mean" if self.actor.acts_without_chance else "draws what it does"
        return (
            f"# {self.name}\n\nAn {self.actor.KIND} trained by vlmrl on observations: {inputs}; it {how}.\n\n{facts}\n"
        )
