"""The steps of one RLDS episode, as the arrays of an `Episode`."""

import hashlib
import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image, UnidentifiedImageError

from vlmrl.errors import DataError
from vlmrl.store.rlds_meta import STEPS, Dataset, Feature
from vlmrl.store.rlds_record import Values
from vlmrl.types import Episode, Frames


@dataclass(frozen=True)
class Columns:
    """Which features fill which columns of the store."""

    obs: dict[str, list[str]]
    """Those joined, by short name."""
    action: list[str]
    cameras: dict[str, str]
    instruction: str
    success: str

    @property
    def read(self) -> set[str]:
        """Every feature used."""
        joined = {name for names in self.obs.values() for name in names}
        return {*joined, *self.action, *self.cameras.values(), self.instruction, self.success}


@dataclass(frozen=True)
class Steps:
    """One episode's steps."""

    dataset: Dataset
    columns: Columns
    values: Mapping[str, Values]
    what: str
    """File and offset."""

    def __len__(self) -> int:
        first = self.columns.action[0]
        values, feature = self._values(first), self.dataset.features[first]
        return len(values) // (1 if feature.encoding != "none" else feature.width)

    def episode(self, task: str, split: str, index: int, control_hz: float) -> Episode:
        """Everything but the pictures; the id is the same whatever `task` and `control_hz` say."""
        rows = len(self)
        if not rows:
            raise DataError(f"{self.what} has no steps")
        has_action = ~self._last()
        action = np.where(has_action[:, None], self.joined(self.columns.action), 0).astype(np.float32)
        obs = {short: self.joined(names) for short, names in self.columns.obs.items()}
        success = self.joined([self.columns.success])[-1, 0] > 0 if self.columns.success else -1
        instruction, terminated = self.instruction(), self._terminated()
        return Episode(
            action=action,
            obs=obs,
            time=np.arange(rows) / control_hz,
            has_action=has_action,
            has_next=np.arange(rows) < rows - 1,
            terminated=terminated,
            truncated=not terminated,
            task=task,
            instruction=instruction,
            source=f"rlds {task}/{split}/{index}",
            truth=self._truth(),
            success=int(success),
            id=_episode_id(split, index, instruction, action, obs),
        )

    def _values(self, full: str) -> Values:
        if full not in self.values:
            raise DataError(f"{self.what} has no {full}; have: {', '.join(sorted(self.values))}")
        return self.values[full]

    def joined(self, names: Sequence[str]) -> Float32[np.ndarray, "T D"]:
        """Features side by side."""
        return np.concatenate([self.numbers(name, len(self)) for name in names], axis=1).astype(np.float32)

    def numbers(self, full: str, rows: int) -> np.ndarray:
        """A numeric feature, a row a step."""
        values, feature = self._values(full), self.dataset.features[full]
        if feature.encoding != "none":
            values = self._unpacked(values, feature, full)
        if isinstance(values, list) or len(values) != rows * feature.width:
            kind = "strings" if isinstance(values, list) else "numbers"
            wanted = f"{rows} steps of {list(feature.shape)} {feature.dtype}"
            raise DataError(f"{self.what}: {full} holds {len(values)} {kind}, {wanted} wanted")
        return values.reshape(rows, feature.width)

    def _unpacked(self, values: Values, feature: Feature, full: str) -> np.ndarray:
        """Steps that were each stored as one string."""
        try:
            raw = [zlib.decompress(v) if feature.encoding == "zlib" else v for v in values]
            return np.frombuffer(b"".join(raw), np.dtype(feature.dtype).newbyteorder("<"))
        except (TypeError, ValueError, zlib.error) as error:
            raise DataError(f"{self.what}: {full} is not encoded as {feature.encoding}: {error}") from error

    def _flag(self, name: str) -> np.ndarray | None:
        full = f"{STEPS}/{name}"
        return self.numbers(full, len(self))[:, 0] if full in self.dataset.features else None

    def _last(self) -> Bool[np.ndarray, " T"]:
        """Where only the observation counts, after checking that nothing comes behind it."""
        last = self._flag("is_last")
        if last is None:
            return np.zeros(len(self), bool)
        if last[:-1].any():
            raise DataError(f"{self.what}: is_last is true at step {int(np.argmax(last))} of {len(self)}")
        return last.astype(bool)

    def _terminated(self) -> bool:
        terminal, discount = self._flag("is_terminal"), self._flag("discount")
        if terminal is not None:
            return bool(terminal[-1])
        return discount is not None and len(discount) > 1 and bool(discount[-2] == 0)

    def _truth(self) -> dict[str, Float32[np.ndarray, " T"]]:
        reward = self._flag("reward")
        return {} if reward is None else {"reward": np.append(np.nan, reward[:-1]).astype(np.float32)}

    def instruction(self) -> str:
        """The sentence; several are joined in order."""
        if not self.columns.instruction:
            return ""
        values = self._values(self.columns.instruction)
        if not isinstance(values, list):
            raise DataError(f"{self.what}: {self.columns.instruction} holds numbers, text wanted")
        said = dict.fromkeys(str(v, "utf-8", "replace").strip() for v in values)
        return "; ".join(text for text in said if text)

    def pictures(self) -> dict[str, Frames]:
        """Cameras by name, without those that are black throughout: Open X pads missing cameras so."""
        index = np.arange(len(self), dtype=np.int32)
        found = {camera: self._camera(full) for camera, full in self.columns.cameras.items()}
        return {camera: Frames(pixels, index) for camera, pixels in found.items() if pixels.any()}

    def _camera(self, full: str) -> UInt8[np.ndarray, "T H W 3"]:
        feature, rows = self.dataset.features[full], len(self)
        if feature.kind == "number":
            return self.numbers(full, rows).reshape(rows, *feature.shape).astype(np.uint8)
        cells: Any = self._values(full)
        if len(cells) != rows:
            raise DataError(f"{self.what}: {full} holds {len(cells)} pictures, {rows} wanted")
        pixels = [self._picture(full, cell) for cell in cells]
        if sizes := {p.shape for p in pixels if p.shape != pixels[0].shape}:
            raise DataError(f"{self.what}: pictures of {full} differ in size: {sorted({pixels[0].shape} | sizes)}")
        return np.stack(pixels)

    def _picture(self, full: str, cell: memoryview) -> UInt8[np.ndarray, "H W 3"]:
        try:
            with Image.open(io.BytesIO(cell)) as picture:
                return np.asarray(picture.convert("RGB"))
        except (OSError, UnidentifiedImageError, TypeError) as error:
            raise DataError(f"{self.what}: a picture of {full} cannot be read: {error}") from error


def _episode_id(split: str, index: int, instruction: str, action: np.ndarray, obs: Mapping[str, np.ndarray]) -> str:
    sha = hashlib.sha256(instruction.encode())
    for values in (action, *(obs[key] for key in sorted(obs))):
        sha.update(np.ascontiguousarray(values).tobytes())
    return f"rlds-{split}-{index:06d}-{sha.hexdigest()[:12]}"
