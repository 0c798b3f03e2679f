"""What an evaluation takes by name: saved policies, the scripted expert, and random actions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmrl.artefact import fingerprint
from vlmrl.errors import ConfigError
from vlmrl.evaluate.behaviour import GradedPolicy
from vlmrl.policy import LearnedPolicy, UniformPolicy
from vlmrl.sim import Task, make
from vlmrl.types import Policy

BUILT_IN = ("expert", "random")


@dataclass(frozen=True)
class Candidate:
    """A policy that can be made for any task."""

    source: str
    """Folder, hub id or built-in name."""
    noise: float = 0.0
    """Share of random actions, of the scripted expert."""

    @property
    def trained(self) -> bool:
        """Whether it came out of a training run."""
        return self.source not in BUILT_IN

    def make(self, task: Task) -> Policy:
        """The policy itself, remembering nothing.

        Raises:
            DataError: if it cannot be read.
        """
        if self.source == "random":
            env = make(task)
            try:
                return UniformPolicy(len(env.action_names))
            finally:
                env.close()
        if self.source == "expert":
            policy = GradedPolicy(task, (self.noise,))
            policy.name = f"expert, {self.noise:.0%} random actions" if self.noise else "expert"
            return policy
        return LearnedPolicy.from_pretrained(self.source)

    def key(self) -> dict[str, Any]:
        """What decides what it does."""
        if not self.trained:
            return {"policy": self.source, "noise": self.noise}
        place = Path(self.source)
        return {"policy": "saved", "weights": fingerprint(place) if place.is_dir() else self.source}


@dataclass(frozen=True)
class Arm:
    """One method: one policy, or the same trained from several seeds."""

    name: str
    candidates: tuple[Candidate, ...]

    @property
    def trained(self) -> bool:
        """Whether training seeds are its unit."""
        return self.candidates[0].trained


def listed(value: object) -> list[str]:
    """A setting that takes one name or several."""
    several = [str(v) for v in value] if isinstance(value, (list, tuple)) else [str(value)] if value else []
    return [v for v in several if v]


def arm(sources: Sequence[str], *, noise: float, where: str) -> Arm:
    """The method that one or several policies are.

    Raises:
        ConfigError: if they are not the same method trained from different seeds.
    """
    if not 0 <= noise <= 1:
        raise ConfigError(f"noise is a share of random actions from 0 to 1, found {noise}")
    if noise and "expert" not in sources:
        raise ConfigError(
            f"{where}: noise={noise:g} is the share of random actions of the scripted expert, found "
            f"{', '.join(sources)}; choose noise=0 or {where}=expert"
        )
    candidates = tuple(Candidate(source, noise if source == "expert" else 0.0) for source in sources)
    built_in = [c.source for c in candidates if not c.trained]
    if built_in and len(candidates) > 1:
        raise ConfigError(
            f"{where}=[{','.join(sources)}]: a list is one method trained from several seeds, and {built_in[0]!r} is "
            "not trained; compare methods with versus=NAME or with vlmrl evaluate compare"
        )
    if built_in:
        share = f" with {noise:.0%} random actions" if noise and built_in[0] == "expert" else ""
        return Arm(built_in[0] + share, candidates)
    policies = [LearnedPolicy.from_pretrained(source) for source in sources]
    if len(names := {policy.name for policy in policies}) > 1:
        raise ConfigError(
            f"{where}: a list is one method trained from several seeds, found methods {', '.join(sorted(names))}; "
            "compare methods with versus=FOLDER or with vlmrl evaluate compare"
        )
    if len({str(c.key()) for c in candidates}) < len(candidates):
        raise ConfigError(f"{where}: the same weights are listed twice; every training seed counts once")
    return Arm(policies[0].name, candidates)


def pair(first: Arm, second: Arm | None) -> Mapping[str, Arm]:
    """The methods of an evaluation by name; two of one name are told apart."""
    if second is None:
        return {first.name: first}
    if first.name != second.name:
        return {first.name: first, second.name: second}
    return {first.name: first, f"{second.name} (versus)": second}
