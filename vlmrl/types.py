"""The records that cross rooms: numpy at every boundary, checked once at construction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int32, UInt8

from vlmrl.errors import DataError
from vlmrl.sight import Pictures

NO_FRAME = -1
"""Entry of an image index whose row has no frame."""


@dataclass(frozen=True)
class Frames:
    """Decoded pictures of one camera of one episode."""

    pixels: UInt8[np.ndarray, "M H W 3"]
    """RGB."""
    index: Int32[np.ndarray, " T"]
    """Row to picture, NO_FRAME where the row has none (a camera may be slower than the robot)."""


@dataclass(frozen=True)
class Video:
    """One camera of one episode as the source's own video file, kept verbatim."""

    path: Path
    index: Int32[np.ndarray, " T"]
    """Row to frame number within the file, NO_FRAME where the row has none."""


@dataclass(frozen=True)
class Episode:
    """One episode, or a slice of one; a row is one observation.

    `action[t]` was sent after `obs[...][t]` was seen. Rows where `has_action` is false hold zeros in `action`.
    """

    action: Float32[np.ndarray, "T A"]
    obs: Mapping[str, Float32[np.ndarray, "T _"]]
    time: Float64[np.ndarray, " T"]
    """Seconds since the first observation."""
    has_action: Bool[np.ndarray, " T"]
    has_next: Bool[np.ndarray, " T"]
    terminated: bool
    """The task ended: no bootstrapping past the last row."""
    truncated: bool
    """Recording stopped: the last row still bootstraps."""
    task: str
    instruction: str
    source: str
    """Where it comes from. May tell quality, so learners never read it."""
    images: Mapping[str, Frames | Video] = field(default_factory=dict)
    truth: Mapping[str, Float32[np.ndarray, " T"]] = field(default_factory=dict)
    """Privileged quantities of a simulator (`reward`, `progress`, `success`) at each row; learners never read it."""
    sim_state: Float64[np.ndarray, "T S"] | None = None
    requested: Float32[np.ndarray, "T A"] | None = None
    """Where a robot recorded it: what policy or operator asked for, in the units of `action`, which is what was sent;
    NaN where nothing was asked."""
    intervention: UInt8[np.ndarray, " T"] | None = None
    """Why they differ: the number of a `vlmrl.safety.Reason`, 0 for none; 128 more where a person was in command."""
    robot: str = ""
    seed: int = -1
    success: int = -1
    """1, 0, or -1 where unknown."""
    id: str = ""
    """Global; the store gives one where it is empty."""

    def __post_init__(self) -> None:
        rows = len(self.action)
        lengths = {"time": len(self.time), "has_action": len(self.has_action), "has_next": len(self.has_next)}
        lengths |= {f"obs/{k}": len(v) for k, v in self.obs.items()} | {
            f"truth/{k}": len(v) for k, v in self.truth.items()
        }
        lengths |= {f"image/{k}": len(v.index) for k, v in self.images.items()}
        optional = {"sim_state": self.sim_state, "requested": self.requested, "intervention": self.intervention}
        lengths |= {k: len(v) for k, v in optional.items() if v is not None}
        wrong = {k: n for k, n in lengths.items() if n != rows}
        if rows == 0 or wrong:
            raise DataError(
                f"episode {self.id!r}: action has {rows} rows (at least one wanted), but {wrong or 'nothing'} differ"
            )
        if self.has_next[-1]:
            raise DataError(f"episode {self.id!r}: the last row cannot have a next row")

    def __len__(self) -> int:
        return len(self.action)

    def __repr__(self) -> str:
        obs = {k: v.shape for k, v in self.obs.items()}
        shapes = f"obs={obs}, action={self.action.shape}, images={list(self.images)}"
        return f"Episode(id={self.id!r}, rows={len(self)}, {shapes})"


@dataclass(frozen=True, order=True)
class Frame:
    """One camera picture: the frame that row `row` of an episode shows."""

    episode: str
    row: int
    camera: str


@dataclass(frozen=True, order=True)
class Span:
    """Rows `start` to `stop` (exclusive) of an episode, on one camera; empty where no camera was looked at."""

    episode: str
    start: int
    stop: int
    camera: str


Item = Frame | tuple[Span, ...]
"""What is judged: a picture, or a clip of one or more spans (public human labels cross episode borders)."""


class Kind(Enum):
    """The question asked."""

    PREFERENCE = "preference"
    RANKING = "ranking"
    PROGRESS = "progress"
    SUCCESS = "success"
    SCORE = "score"


class Verdict(Enum):
    """Answer to a preference query. TIE trains at one half, UNSURE is never trained on."""

    A_BETTER = "a"
    B_BETTER = "b"
    TIE = "tie"
    UNSURE = "unsure"

    def swapped(self) -> "Verdict":
        """The same opinion with the two sides exchanged."""
        return {Verdict.A_BETTER: Verdict.B_BETTER, Verdict.B_BETTER: Verdict.A_BETTER}.get(self, self)


@dataclass(frozen=True)
class Query:
    """A question about items, with the pictures a labeler sees."""

    kind: Kind
    items: tuple[Item, ...]
    instruction: str
    images: tuple[UInt8[np.ndarray, "_ _ 3"], ...] = field(default=(), repr=False, compare=False)
    """The pictures of the items, one item after the other."""
    counts: tuple[int, ...] = field(default=(), compare=False)
    """How many of them each item has; empty: one each."""
    traced: bool = field(default=False, compare=False)
    """Whether the way of the robot's hand is drawn on them."""

    def places(self, item: int) -> range:
        """Places of an item's pictures among `images`."""
        counts = self.counts or (1,) * len(self.items)
        start = sum(counts[:item])
        return range(start, start + counts[item])

    def swapped(self) -> "Query":
        """The same question with the order of its items turned round, pictures left out."""
        return Query(self.kind, self.items[::-1], self.instruction)


@dataclass(frozen=True)
class Cost:
    """What one answer took."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    latency_s: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(getattr(self, k) + getattr(other, k) for k in self.__dataclass_fields__))


Answer = Verdict | float | bool | tuple[float, ...]
"""A verdict (UNSURE answers any question), a number, yes or no, or a number for each item but the first."""


@dataclass(frozen=True)
class Reply:
    """A labeler's answer, kept verbatim."""

    answer: Answer | None
    """None: the text could not be read; it is recorded and may be asked again."""
    annotator: str
    probability: float | None = None
    """That a is better (preference) or that the answer is yes (success)."""
    text: str = ""
    cost: Cost = Cost()
    error: str = ""
    served: str = ""
    """The model as the server that answered calls it, with its fingerprint; empty where nobody said."""


@dataclass(frozen=True)
class Preferences:
    """A frozen snapshot of preference labels fit for training."""

    a: tuple[Item, ...]
    b: tuple[Item, ...]
    p_a: Float32[np.ndarray, " Q"]
    """Probability that a is better: 1, 0, 0.5 for a tie, or the labeler's own."""
    annotator: str
    snapshot: str
    """Hash of exactly these labels."""
    by: tuple[str, ...] = ()
    """Who gave each label; empty: `annotator` gave all."""

    def __post_init__(self) -> None:
        lengths = {"b": len(self.b), "p_a": len(self.p_a)} | ({"by": len(self.by)} if self.by else {})
        if wrong := {k: n for k, n in lengths.items() if n != len(self.a)}:
            raise DataError(f"{len(self.a)} sides a, as many wanted, found {wrong}")

    def __len__(self) -> int:
        return len(self.a)


@dataclass(frozen=True)
class Transitions:
    """Rows of a store that have both an action and a next row, in store order."""

    obs: Float32[np.ndarray, "N D"]
    action: Float32[np.ndarray, "N A"]
    reward: Float32[np.ndarray, " N"]
    mask: Float32[np.ndarray, " N"]
    """0 where the episode terminated on arriving at the next row, else 1."""
    next_obs: Float32[np.ndarray, "N D"]
    episode: Int32[np.ndarray, " N"]
    """Index of the episode in the store."""
    weight: Float64[np.ndarray, " N"] | None = None
    """How often a learner draws a row, relative to the others; None: all alike."""
    pictures: Pictures | None = None
    """What cameras show beside `obs` and `next_obs`, read when it is wanted."""

    def __len__(self) -> int:
        return len(self.obs)

    def take(self, rows: np.ndarray) -> "Transitions":
        """Some of the rows, by number or by mask."""
        held = {field.name: getattr(self, field.name) for field in fields(Transitions)}
        taken: dict[str, Any] = {name: column if column is None else column[rows] for name, column in held.items()}
        return Transitions(**taken)


@runtime_checkable
class Labeler(Protocol):
    """Answers queries. The job owns ledger, concurrency and budget."""

    name: str
    """Who answers, as reports print it."""

    def content(self, query: Query) -> Mapping[str, object]:
        """Everything that determines the answer, JSON-ready, pictures by hash: the ledger's key is its digest."""
        ...

    async def ask(self, query: Query) -> Reply:
        """Answer one query.

        Raises:
            LabelerError: if no further query can be answered (no server, wrong key).
        """
        ...

    async def close(self) -> None:
        """Free connections and models."""
        ...


@runtime_checkable
class Rewarder(Protocol):
    """Returns a number per row."""

    name: str

    @property
    def sees(self) -> tuple[str, tuple[int, int]] | None:
        """Camera and (height, width) of the pictures it judges; None if it looks at none."""
        ...

    def reward(self, episode: Episode) -> tuple[Float32[np.ndarray, " T"], Float32[np.ndarray, " T"]]:
        """Mean and standard deviation for each row, judged on what the next row shows; NaN where there is none."""
        ...

    def provenance(self) -> Mapping[str, object]:
        """What a reward column's attributes record: version, prompt hash, ledger snapshot."""
        ...


@runtime_checkable
class Policy(Protocol):
    """Maps observations to action chunks.

    One with an attribute `history` above 1 is shown that many latest observations of each robot, a time axis after the
    robots' axis, the oldest first; before there are as many, the first stands for those that were not. One with an
    attribute `cameras` is shown their pictures too, as `image/<camera>`: uint8 RGB, as the task draws them.
    """

    name: str

    def reset(self, mask: Bool[np.ndarray, " B"], instructions: Sequence[str], generator: np.random.Generator) -> None:
        """Forget what was seen where `mask` is true: those robots start a new episode.

        All chance in their episodes comes from `generator`, and nothing else: a rollout resets robots one by one, each
        with the generator of its episode, so that what a policy does depends neither on its neighbours nor on how many
        they are.
        """
        ...

    def act(self, observations: Mapping[str, np.ndarray]) -> Float[np.ndarray, "B h A"]:
        """The next h actions for each of B observations."""
        ...


def history(policy: Policy) -> int:
    """How many observations a policy wants to be shown at once."""
    return int(getattr(policy, "history", 1))


def cameras(policy: object) -> tuple[str, ...]:
    """Cameras whose pictures a policy, or an action value, wants to be shown."""
    return tuple(getattr(policy, "cameras", ()))


def chunk(critic: object) -> int:
    """How many actions in a row an action value is of, the first of them first."""
    return int(getattr(critic, "chunk", 1))


@runtime_checkable
class Proposer(Protocol):
    """Draws several action chunks for each observation."""

    name: str

    def propose(
        self, observations: Mapping[str, np.ndarray], n: int, generators: Sequence[np.random.Generator]
    ) -> Float[np.ndarray, "B n h A"]:
        """Chunks, n for each of B observations; all chance of an observation's chunks comes from its own generator."""
        ...


@runtime_checkable
class ActionValue(Protocol):
    """Says how good actions are."""

    name: str

    def value(
        self, observations: Mapping[str, np.ndarray], actions: Float[np.ndarray, "B n A"]
    ) -> Float[np.ndarray, "B n"]:
        """The value of each of n actions at each of B observations; only comparisons at one observation mean much.

        One with an attribute `chunk` above 1 values that many actions in a row, one after the other in A.
        """
        ...
