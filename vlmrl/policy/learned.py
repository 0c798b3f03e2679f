"""A trained actor as a policy: numpy in, numpy out, saved with its normalisers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from vlmrl.artefact import load, save
from vlmrl.errors import DataError
from vlmrl.nn import Actor, Normaliser

KIND = "actor policy"

BLOCK = 16
"""Observations in one matrix product: its last bits depend on how many there are, and an action must not."""


@dataclass
class LearnedPolicy:
    """Acts on the named observation keys, one action at a time."""

    actor: Actor
    name: str
    keys: tuple[str, ...] = ("state",)
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Data, reward and learner it was trained with; written to the card."""

    def reset(self, mask: Bool[np.ndarray, " B"], instructions: Sequence[str], generator: np.random.Generator) -> None:
        """Nothing is remembered between steps."""

    def act(self, observations: Mapping[str, np.ndarray]) -> Float[np.ndarray, "B 1 A"]:
        """The mean action for each observation, in the data's units."""
        missing = [key for key in self.keys if key not in observations]
        if missing:
            raise DataError(f"policy {self.name!r} needs observations {missing}; have: {', '.join(observations)}")
        obs = np.concatenate([observations[key] for key in self.keys], -1, dtype=np.float32)
        if obs.shape[-1] != len(self.actor.observation.shift):
            raise DataError(
                f"policy {self.name!r} takes {len(self.actor.observation.shift)} numbers, found {obs.shape[-1]}"
            )
        return np.concatenate([self._block(obs[k : k + BLOCK]) for k in range(0, len(obs), BLOCK)])[:, None]

    def _block(self, obs: Float[np.ndarray, "b D"]) -> Float[np.ndarray, "b A"]:
        """Actions of up to BLOCK observations, filled up to that number."""
        full = np.zeros((BLOCK, obs.shape[1]), np.float32)
        full[: len(obs)] = obs
        return self.actor.act(torch.from_numpy(full)).numpy()[: len(obs)]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config, weights, normalisers and card."""
        sizes = [weight.shape[2] for weight in self.actor.net.weights]
        config = {
            "name": self.name,
            "keys": list(self.keys),
            "hidden": sizes[:-1],
            "layer_norm": self.actor.net.layer_norm,
            "facts": dict(self.facts),
        }
        save(Path(folder), kind=KIND, config=config, tensors=self.actor.state_dict(), card=self.card())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "LearnedPolicy":
        """Read a folder or hub repository written by `save_pretrained`."""
        config, tensors = load(folder, kind=KIND)
        obs, action = (Normaliser(tensors[f"{k}.shift"], tensors[f"{k}.scale"]) for k in ("observation", "action"))
        actor = Actor(
            obs, action, hidden=config["hidden"], layer_norm=config["layer_norm"], generator=torch.Generator()
        )
        actor.load_state_dict(tensors)
        return cls(actor, config["name"], tuple(config["keys"]), config["facts"])

    def card(self) -> str:
        """What a reader must know before running it on a robot."""
        facts = "\n".join(f"- {key}: {value}" for key, value in self.facts.items())
        inputs = ", ".join(self.keys)
        return f"# {self.name}\n\nA deterministic MLP policy trained by vlmrl on observations: {inputs}.\n\n{facts}\n"
