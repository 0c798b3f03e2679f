"""What an evaluation takes by name: saved policies, the scripted expert, and random actions."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vlmrl.artefact import fingerprint
from vlmrl.errors import ConfigError
from vlmrl.evaluate.behaviour import GradedPolicy, grades
from vlmrl.policy import (
    SERVER,
    LearnedPolicy,
    LearnedValue,
    RemotePolicy,
    RerankedPolicy,
    SavedPolicy,
    UniformPolicy,
    load_policy,
)
from vlmrl.sim import Task, make
from vlmrl.types import Policy

BUILT_IN = ("expert", "random")


@dataclass(frozen=True)
class Steering:
    """How a critic chooses among what a policy proposes."""

    critic: str
    """Folder or hub id."""
    samples: int = 10
    temperature: float = 0.0
    average: bool = False
    spread: float = 1.0
    """Scale of the chance behind the samples, of policies trained here."""
    budget_s: float | None = None

    def over(self, policy: SavedPolicy) -> RerankedPolicy:
        """The policy steered.

        Raises:
            DataError: if the critic cannot be read.
            ConfigError: if a number makes no sense, or the policy's samples cannot be brought nearer to its mean.
        """
        if not 0 <= self.spread < float("inf"):
            raise ConfigError(f"spread={self.spread} given; wanted a number from 0")
        if self.spread != 1:
            if not isinstance(policy, LearnedPolicy):
                raise ConfigError(f"spread={self.spread}: policy {policy.name!r} draws by itself; leave it at 1")
            policy = replace(policy, spread=self.spread)
        return RerankedPolicy(
            policy,
            LearnedValue.from_pretrained(self.critic),
            samples=self.samples,
            temperature=self.temperature,
            average=self.average,
            budget_s=float("inf") if self.budget_s is None else self.budget_s,
        )

    def key(self) -> dict[str, Any]:
        """What decides what is chosen."""
        own = asdict(self)
        # Left out where they are off, so that what was evaluated before they existed need not be again.
        own = {key: own[key] for key in own if key not in ("average", "spread") or own[key] != getattr(Steering, key)}
        return {**own, "critic": weights(self.critic)}


@dataclass(frozen=True)
class Candidate:
    """A policy that can be made for any task."""

    source: str
    """Folder, hub id, server (ws://HOST:PORT) or built-in name."""
    noise: float = 0.0
    """Share of random actions, of the scripted expert."""
    steering: Steering | None = None

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
        return self.saved()

    def saved(self) -> SavedPolicy | RerankedPolicy:
        """The policy of a folder, hub id or server, steered where it is to be."""
        policy = load_policy(self.source)
        return self.steering.over(policy) if self.steering else policy

    def key(self) -> dict[str, Any]:
        """What decides what it does."""
        if not self.trained:
            return {"policy": self.source, "noise": self.noise}
        steered = {"steering": self.steering.key()} if self.steering else {}
        return {"policy": "saved", "weights": weights(self.source), **steered}


@dataclass(frozen=True)
class Mixture(Candidate):
    """Those who made a store: an episode's seed says who acts, and with how much noise, in equal parts."""

    policies: tuple[str, ...] = ("expert",)
    shares: tuple[float, ...] = (0.0,)
    """Of random actions."""

    @property
    def trained(self) -> bool:
        """Not here, whatever the policies are."""
        return False

    def make(self, task: Task) -> Policy:
        """The behaviour policy, remembering nothing."""
        return GradedPolicy(task, self.shares, self.policies, by_seed=True)

    def key(self) -> dict[str, Any]:
        """What decides what it does."""
        return {"policy": self.source, "grades": [grade.facts for grade in grades(self.policies, self.shares)]}


def weights(source: str) -> str:
    """Hash of the weights of a folder or server; a hub id is its own."""
    if source.startswith(SERVER):
        with closing(RemotePolicy(source)) as policy:
            return policy.weights
    place = Path(source)
    return fingerprint(place) if place.is_dir() else source


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


def arm(sources: Sequence[str], *, noise: float, where: str, steering: Sequence[Steering] = ()) -> Arm:
    """The method that one or several policies are; one critic steers all of them, or each has its own.

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
    if len(steering) not in (0, 1, len(sources)):
        raise ConfigError(
            f"{where}: one critic for all policies or one for each wanted, found {len(steering)} for {len(sources)}"
        )
    steers = steering if len(steering) == len(sources) else [*steering, None][:1] * len(sources)
    candidates = tuple(
        Candidate(source, noise if source == "expert" else 0.0, steer)
        for source, steer in zip(sources, steers, strict=True)
    )
    built_in = [c.source for c in candidates if not c.trained]
    if built_in and len(candidates) > 1:
        raise ConfigError(
            f"{where}=[{','.join(sources)}]: a list is one method trained from several seeds, and {built_in[0]!r} is "
            "not trained; compare methods with versus=NAME or with vlmrl evaluate compare"
        )
    if built_in and steering:
        raise ConfigError(f"{where}={built_in[0]}: only saved policies can be steered by a critic")
    if built_in:
        share = f" with {noise:.0%} random actions" if noise and built_in[0] == "expert" else ""
        return Arm(built_in[0] + share, candidates)
    policies = [candidate.saved() for candidate in candidates]
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
