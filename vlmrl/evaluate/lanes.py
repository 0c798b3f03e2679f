"""Environments side by side, in this process or in others: each runs one seeded episode whole, and none resets itself.

Gymnasium's vector environments are not used: they run one environment a process, step by step, and all but one of their
autoreset modes start the next episode from a state that no seed names. Here a chunk of actions travels at once, an
episode ends once, and the next starts when it is told to, from its own seed.
"""

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from vlmrl.errors import ConfigError, DataError, VlmrlError
from vlmrl.evaluate.recent import Recent, pictured
from vlmrl.sim import SimEnv, Task, make

Observation = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Outcome:
    """What came of one episode."""

    seed: int
    success: bool
    """Whether the task's predicate held, at any step or at the last as its `success_at` says; never where the
    simulation failed."""
    first_success: int
    """Control step of the first success, -1 where there was none."""
    success_end: bool
    """Whether it still held at the last step."""
    returns: float
    """Undiscounted sum of the simulator's own reward."""
    length: int
    """Control steps; the task's horizon unless the simulation failed."""
    progress: float
    """The best of the episode, 0 to 1."""
    diverged: bool
    """The simulation failed: counted as a failure of the policy."""
    start: str
    """Fingerprint of the initial state."""
    actions: str
    """Fingerprint of everything that the policy did."""
    film: list[UInt8[np.ndarray, "H W 3"]] = field(default_factory=list, repr=False, compare=False)
    """Pictures, where they were asked for."""

    def as_json(self) -> dict[str, object]:
        """Everything but the pictures."""
        return {key: value for key, value in asdict(self).items() if key != "film"}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Outcome":
        """What `as_json` gave."""
        return cls(**content)


class Lane:
    """One environment and the episode under way in it."""

    def __init__(self, env: SimEnv) -> None:
        if env.metadata.get("autoreset_mode") is not None:
            raise ConfigError("an environment that resets itself cannot be evaluated: its episodes have no seeds")
        self._env = env
        self.ended = True

    def reset(self, seed: int, *, film_every: int = 0, history: int = 1, cameras: Sequence[str] = ()) -> Observation:
        """Start the episode of a seed; the last `history` observations are shown from here on, with these cameras.

        Raises:
            DataError: if the task is solved already. A task that begins so, and is to keep it up, holds to its end.
        """
        observation, info = self._env.reset(seed=seed)
        task = self._env.task
        kept_up = task.solved_at_start or task.hold >= task.horizon
        if info["success"] or (self._env.at_goal() and not kept_up):
            raise DataError(
                f"task {task.name!r}: success already at reset (seed {seed}), so its predicate proves nothing; a task "
                "that is to be kept solved says so with solved_at_start"
            )
        self._seed, self._film_every = seed, film_every
        self._start = self._env.start()
        self._actions = hashlib.sha256()
        self._first, self._held, self._total, self._steps = -1, False, 0.0, 0
        self._progress, self._diverged, self.ended = float(info["progress"]), False, False
        self._film: list[UInt8[np.ndarray, "H W 3"]] = []
        self._history, self._cameras = history, cameras
        self._recent = Recent(history, pictured(self._env, observation, cameras))
        return self._recent.shown()

    def run(self, chunk: Float[np.ndarray, "h A"]) -> Observation:
        """Execute a whole chunk, or what of it the episode has time for; return what is seen then."""
        for left, action in zip(range(len(chunk) - 1, -1, -1), chunk, strict=True):
            observation = self._step(action)
            # Pictures cost: they are drawn where somebody will see them.
            looks = left < self._history and not self.ended
            self._recent.add(pictured(self._env, observation, self._cameras) if looks else observation)
            if self.ended:
                break
        return self._recent.shown()

    def outcome(self) -> Outcome:
        """What came of the episode that has ended.

        Raises:
            DataError: if the environment counts other steps than were taken: it has reset itself.
        """
        if (counted := int(self._env.sim_state()[0])) != self._steps:
            raise DataError(f"the environment counts {counted} steps, {self._steps} were taken: it has reset itself")
        reached = self._held if self._env.task.success_at == "end" else self._first >= 0
        won = reached and not self._diverged
        return Outcome(
            seed=self._seed,
            success=won,
            first_success=self._first if won else -1,
            success_end=won and self._held,
            returns=self._total,
            length=self._steps,
            progress=self._progress,
            diverged=self._diverged,
            start=self._start,
            actions=self._actions.hexdigest()[:16],
            film=self._film,
        )

    def _step(self, action: Float[np.ndarray, " A"]) -> Observation:
        if self._film_every and self._steps % self._film_every == 0:
            self._film.append(self._env.frame(self._env.task.video))
        observation, reward, terminated, truncated, info = self._env.step(action)
        self._actions.update(np.asarray(action, np.float32).tobytes())
        self._total += reward
        self._held, self._diverged = bool(info["success"]), bool(info["diverged"])
        self._progress = max(self._progress, float(info["progress"]))
        if self._held and self._first < 0:
            self._first = self._steps
        self._steps += 1
        self.ended = terminated or truncated
        if self.ended and self._film_every:
            self._film.append(self._env.frame(self._env.task.video))
        return observation


@runtime_checkable
class Lanes(Protocol):
    """Several lanes that are told what to do together."""

    count: int

    def reset(
        self, seeds: Sequence[int], film: Sequence[int], history: int, cameras: Sequence[str]
    ) -> Callable[[], Sequence[Observation]]:
        """Begin to start the episodes of the seeds, the first in the first lane; the answer waits for them."""
        ...

    def run(self, chunks: Float[np.ndarray, "B h A"]) -> Callable[[], Sequence[Observation | None]]:
        """Begin to execute a chunk in each lane whose episode goes on; None where it is over."""
        ...

    def outcomes(self) -> Callable[[], Sequence[Outcome]]:
        """Begin to collect what came of the episodes."""
        ...

    def close(self) -> None:
        """Free what was opened here."""
        ...


class LocalLanes:
    """Lanes of this process."""

    def __init__(self, envs: Sequence[SimEnv], *, borrowed: bool = False) -> None:
        self._envs, self._borrowed, self.count = envs, borrowed, len(envs)
        self._lanes = [Lane(env) for env in envs]
        self._busy = self._lanes[:0]

    def reset(
        self, seeds: Sequence[int], film: Sequence[int], history: int, cameras: Sequence[str]
    ) -> Callable[[], Sequence[Observation]]:
        """Start the episodes."""
        self._busy = self._lanes[: len(seeds)]
        pairs = zip(self._busy, seeds, film, strict=True)
        seen = [lane.reset(s, film_every=f, history=history, cameras=cameras) for lane, s, f in pairs]
        return lambda: seen

    def run(self, chunks: Float[np.ndarray, "B h A"]) -> Callable[[], Sequence[Observation | None]]:
        """Execute the chunks."""
        seen = [None if lane.ended else _last(lane, chunk) for lane, chunk in zip(self._busy, chunks, strict=True)]
        return lambda: seen

    def outcomes(self) -> Callable[[], Sequence[Outcome]]:
        """What came of the episodes."""
        found = [lane.outcome() for lane in self._busy]
        return lambda: found

    def close(self) -> None:
        """Close the environments, unless they are borrowed."""
        for env in () if self._borrowed else self._envs:
            env.close()


def _last(lane: Lane, chunk: Float[np.ndarray, "h A"]) -> Observation | None:
    observation = lane.run(chunk)
    return None if lane.ended else observation


class RemoteLanes:
    """Lanes of another process."""

    def __init__(self, task: Task, count: int) -> None:
        context = get_context("spawn")
        self.count = count
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, task, count), daemon=True)
        self._process.start()
        theirs.close()

    def reset(
        self, seeds: Sequence[int], film: Sequence[int], history: int, cameras: Sequence[str]
    ) -> Callable[[], Sequence[Observation]]:
        """Ask for the episodes to be started."""
        return self._ask("reset", list(seeds), list(film), history, tuple(cameras))

    def run(self, chunks: Float[np.ndarray, "B h A"]) -> Callable[[], Sequence[Observation | None]]:
        """Ask for the chunks to be executed."""
        return self._ask("run", chunks)

    def outcomes(self) -> Callable[[], Sequence[Outcome]]:
        """Ask what came of the episodes."""
        return self._ask("outcomes")

    def close(self) -> None:
        """End the process."""
        self._ours.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.terminate()

    def _ask(self, *message: object) -> Callable[[], Any]:
        try:
            self._ours.send(message)
        except OSError as error:
            raise self._lost() from error
        return self._answer

    def _answer(self) -> Any:
        try:
            answer = self._ours.recv()
        except (EOFError, OSError) as error:
            raise self._lost() from error
        if isinstance(answer, VlmrlError):
            raise answer
        return answer

    def _lost(self) -> DataError:
        self._process.join(timeout=5)
        return DataError(f"a process of environments ended (exit code {self._process.exitcode}); it says why above")


def _serve(connection: Connection, task: Task, count: int) -> None:
    """Do what is asked until the other end closes."""
    lanes = LocalLanes([make(task) for _ in range(count)])
    try:
        while True:
            try:
                name, *arguments = cast("tuple[Any, ...]", connection.recv())
            except EOFError:
                return
            try:
                answer = getattr(lanes, name)(*arguments)()
            except VlmrlError as error:
                answer = error
            connection.send(answer)
    except KeyboardInterrupt:
        # The parent got it too, and says so.
        return
    finally:
        lanes.close()


class LanePool:
    """Several groups of lanes as one: all are asked before any is waited for."""

    def __init__(self, groups: Sequence[Lanes]) -> None:
        self._groups, self.count = groups, sum(group.count for group in groups)
        self._shares: list[slice] = []

    def reset(
        self, seeds: Sequence[int], *, film: Sequence[int] = (), history: int = 1, cameras: Sequence[str] = ()
    ) -> list[Observation]:
        """Start one episode from each seed, at most `count`; `film` says how often each is pictured (0: never).

        With `history` above 1 that many last observations are shown each time, the oldest first; with `cameras` their
        pictures too.
        """
        film = film or [0] * len(seeds)
        self._shares, first = [], 0
        for group in self._groups:
            self._shares.append(slice(first, min(first + group.count, len(seeds))))
            first = self._shares[-1].stop
        waits = [g.reset(seeds[s], film[s], history, cameras) for g, s in self._asked()]
        return [observation for wait in waits for observation in wait()]

    def run(self, chunks: Float[np.ndarray, "B h A"]) -> list[Observation | None]:
        """Execute a chunk in each lane; None where the episode is over."""
        waits = [g.run(chunks[s]) for g, s in self._asked()]
        return [observation for wait in waits for observation in wait()]

    def outcomes(self) -> list[Outcome]:
        """What came of the episodes, in the order of their seeds."""
        waits = [g.outcomes() for g, _ in self._asked()]
        return [outcome for wait in waits for outcome in wait()]

    def close(self) -> None:
        """Close every group."""
        for group in self._groups:
            group.close()

    def _asked(self) -> list[tuple[Lanes, slice]]:
        return [(g, s) for g, s in zip(self._groups, self._shares, strict=True) if s.stop > s.start]


@contextmanager
def lanes(task: Task, count: int, *, workers: int = 1) -> Generator[LanePool]:
    """Open `count` environments of a task: in this process with one worker, else spread over as many processes."""
    if count < 1 or workers < 1:
        raise ConfigError(f"at least one environment and one worker wanted, found {count} and {workers}")
    workers = min(workers, count)
    groups: list[Lanes] = []
    try:
        if workers == 1:
            groups.append(LocalLanes([make(task) for _ in range(count)]))
        else:
            groups += [RemoteLanes(task, len(range(k, count, workers))) for k in range(workers)]
        yield LanePool(groups)
    finally:
        for group in groups:
            group.close()
