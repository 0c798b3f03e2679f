"""A trained critic as an action value: numpy in, numpy out, saved with its normalisers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from vlmrl.artefact import load, save
from vlmrl.errors import DataError
from vlmrl.nn import Critic
from vlmrl.policy import frozen
from vlmrl.policy.block import BLOCK, in_blocks, seen
from vlmrl.sight import axes


@dataclass
class LearnedValue:
    """Values actions at the named observation keys; the least of its ensemble counts."""

    critic: Critic
    name: str
    keys: tuple[str, ...] = ("state",)
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Data, reward and learner it was trained with; written to the card."""
    chunk: int = 1
    """Actions in a row that it values together."""
    block: int = BLOCK
    """Robots that are computed together, as in `LearnedPolicy`."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """Whose pictures it wants to be shown."""
        seen_through = self.critic.eyes.cameras if self.critic.eyes else ()
        return tuple(dict.fromkeys([*seen_through, *frozen.cameras(self.keys)]))

    def value(
        self, observations: Mapping[str, np.ndarray], actions: Float[np.ndarray, "B n A"]
    ) -> Float[np.ndarray, "B n"]:
        """The value of each action, both in the data's units; of several observations in time the latest counts.

        Raises:
            DataError: if observations or actions are not those that it was trained on.
        """
        latest = {key: value[:, -1] if axes(key, value) == 3 else value for key, value in observations.items()}
        latest = frozen.embedded(latest, self.keys, self.facts.get("encoders", {}))
        obs = seen(latest, self.keys, self.critic.observation, self.critic.eyes, who=f"critic {self.name!r}")
        if actions.shape[-1] != (width := len(self.critic.action.shift)):
            several = f" ({self.chunk} actions in a row)" if self.chunk > 1 else ""
            raise DataError(
                f"critic {self.name!r} values actions of {width} numbers{several}, found {actions.shape[-1]}"
            )
        return in_blocks(self.critic.value, obs, actions, block=self.block)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config, weights, normalisers and card."""
        config = {"name": self.name, "keys": list(self.keys), **self.critic.settings(), "facts": dict(self.facts)}
        config |= {"chunk": self.chunk} if self.chunk > 1 else {}
        save(Path(folder), kind=Critic.KIND, config=config, tensors=self.critic.state_dict(), card=self.card())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "LearnedValue":
        """Read a folder or hub repository written by `save_pretrained`."""
        config, tensors = load(folder, kind=Critic.KIND)
        critic = Critic.from_settings(config, tensors)
        return cls(critic, config["name"], tuple(config["keys"]), config["facts"], config.get("chunk", 1))

    def card(self) -> str:
        """What a reader must know before choosing actions by it."""
        facts = "\n".join(f"- {key}: {value}" for key, value in self.facts.items())
        inputs = ", ".join([*self.keys, *(f"pictures of {camera}" for camera in self.cameras)])
        return (
            f"# {self.name}\n\nAn action value trained by vlmrl on observations: {inputs}. "
            f"It means little for actions unlike those of its data.\n\n{facts}\n"
        )
