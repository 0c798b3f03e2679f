"""The episodes of a run: what each one shows, when it is over, what came of it, and its way into the store."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from vlmrl.deploy.cameras import Feed
from vlmrl.deploy.pilot import Asked
from vlmrl.deploy.recorder import Recorder, Rows
from vlmrl.deploy.scene import Scene
from vlmrl.deploy.state import Settings
from vlmrl.robot import Observed, RobotSpec
from vlmrl.safety import Reason
from vlmrl.sight import PREFIX

DISCARDED = -2
"""An outcome that leaves no episode behind."""


class Episodes:
    """Counts them, and keeps the one under way."""

    def __init__(
        self,
        spec: RobotSpec,
        settings: Settings,
        *,
        scene: Scene | None,
        feeds: Sequence[Feed],
        recorder: Recorder | None,
    ) -> None:
        self.scene, self.feeds, self.recorder = scene, feeds, recorder
        self.outcomes, self.discarded, self.step = list[int](), 0, 0
        self._spec, self._settings, self._rows = spec, settings, Rows()
        self._over = list[tuple[Rows, dict[str, Any]]]()

    @property
    def seed(self) -> int:
        """Of the present or next episode; one that was discarded is done again from the same."""
        return self._settings.seed + len(self.outcomes)

    @property
    def horizon(self) -> int:
        """Ticks of the longest episode."""
        return self._settings.horizon or (0 if self.scene is None else self.scene.task.horizon)

    @property
    def done(self) -> bool:
        """Whether there are as many as were wanted."""
        return len(self.outcomes) >= self._settings.episodes

    @property
    def travels(self) -> bool:
        """Whether the robot must go to where episodes start; a twin in a scene is put there."""
        return self.scene is None or self.scene.follows

    @property
    def failed(self) -> str:
        """Why nothing can be recorded any more, empty where it can."""
        return self.recorder.failed if self.recorder is not None else ""

    def lay_out(self) -> None:
        """Draw what the next episode starts with."""
        if self.scene is not None:
            self.scene.begin(self.seed)
            for feed in self.feeds:
                feed.forget()

    def put(self) -> Float64[np.ndarray, " J"] | None:
        """Put a twin where the next episode starts, rad; None where the robot must go there itself."""
        if self.scene is None or self.travels:
            return None
        self.scene.begin(self.seed)
        return self.scene.pose

    def begin(self) -> None:
        """Start one without a row."""
        self._rows, self.step = Rows(), 0

    def look(self, seen: Observed, now: float, *, record: bool) -> Mapping[str, np.ndarray]:
        """The policy's observation; as a new row of the episode where it is recorded."""
        if self.scene is None:
            return {"state": np.concatenate([seen.position, seen.velocity]).astype(np.float32)}
        self.scene.follow(seen)
        observation = self.scene.observe()
        for feed in self.feeds:
            feed.show(self.scene.still(), now)
        if record:
            solved = self.step > 0 and self.scene.solved()
            self._rows.see(seen.time, observation, solved=solved, progress=self.scene.progress)
            self._picture(self.scene)
        return observation

    def _picture(self, scene: Scene) -> None:
        """Pictures of the row, where one is due: the feeds' latest, or one that is drawn now."""
        every = self._settings.picture_every
        if not every:
            return
        due = self.step % every == 0
        for feed in self.feeds:
            latest = feed.latest
            self._rows.look(feed.name, latest.pixels if due and latest else None)
        for camera in self._settings.drawn:
            self._rows.look(camera, scene.frame(camera) if due else None)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Whose pictures there are."""
        return (*(feed.name for feed in self.feeds), *self._settings.drawn)

    def pictured(self, observation: Mapping[str, np.ndarray], cameras: Sequence[str]) -> Mapping[str, np.ndarray]:
        """The observation with the latest picture of each camera, for a policy that sees; it is not recorded so."""
        found = {feed.name: feed.latest.pixels for feed in self.feeds if feed.latest and feed.name in cameras}
        if self.scene is not None:
            found |= {name: self.scene.frame(name) for name in self._settings.drawn if name in cameras}
        return {**observation, **{f"{PREFIX}{name}": pixels for name, pixels in found.items()}}

    def over(self) -> tuple[int, str] | None:
        """Outcome and words, where the row that was begun last is the episode's last."""
        if self.scene is None:
            return None
        judge, solved = self._settings.judge, self._rows.solved
        won = judge and solved[-1] and not self._settings.whole
        if not won and self.step < self.horizon:
            return None
        success = solved[-1] if self.scene.task.success_at == "end" else any(solved)
        return int(success) if judge else -1, "success" if won else "over"

    def add(self, asked: Asked, sent: Float64[np.ndarray, " J"], reason: Reason) -> None:
        """What was done in the row that was begun last."""
        requested = np.full(len(sent), np.nan)
        if isinstance(asked.position, np.ndarray) and asked.position.shape == sent.shape:
            requested = (asked.position - self._spec.centre) / self._spec.half
        self._rows.do((sent - self._spec.centre) / self._spec.half, requested, reason, person=asked.person)
        self.step += 1

    def end(self, success: int, source: str) -> None:
        """Count the episode, unless it is DISCARDED; `hand_over` records it."""
        if success == DISCARDED:
            self.discarded += 1
            return
        if self.recorder is not None and self.scene is not None and self._rows.sent:
            about = {
                "task": self.scene.task.name,
                "robot": self._spec.name,
                "instruction": self._settings.instruction,
                "source": source,
                "seed": self.seed,
                "success": success,
            }
            self._over.append((self._rows, about))
        self.outcomes.append(success)

    def hand_over(self) -> None:
        """Give the recorder what is over: with pictures that takes longer than a tick, so it is for an arm at rest."""
        for rows, about in self._over:
            if self.recorder is not None:
                self.recorder.put(rows.episode(**about))
        self._over.clear()
