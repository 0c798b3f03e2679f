"""Metadata of RLDS data sets as TFDS writes them: which features a step has, and which files hold a split.

Source: tensorflow/datasets `core/features`, `core/naming.py`. Features of the nested data set `steps` lie in the
episode's Example under `steps/<path>`, all steps one after the other; float64 was stored as float32, bool as int64.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlmrl.errors import DataError, unknown

STEPS = "steps"
FLAGS = ("is_first", "is_last", "is_terminal", "discount", "reward")
"""Features of a step with a meaning of their own."""
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


@dataclass(frozen=True)
class Feature:
    """What `features.json` says of one feature of a step, or of the episode."""

    kind: str
    """`number`, `text`, `image`, or `other`, which a store has no place for."""
    dtype: str = ""
    shape: tuple[int, ...] = ()
    """Of one step; -1 where it varies."""
    encoding: str = "none"
    """`bytes` or `zlib`: each step's numbers are one string."""

    @property
    def width(self) -> int:
        """Numbers in a step."""
        return int(np.prod(self.shape))

    @property
    def vector(self) -> bool:
        """Whether a step has one number, or a row of known length."""
        return self.kind == "number" and len(self.shape) < 2 and self.width > 0

    @property
    def floating(self) -> bool:
        """Whether it holds measurements rather than counts or flags."""
        return self.dtype.startswith("float")

    @property
    def picture(self) -> bool:
        """Whether a step shows RGB."""
        raw = self.kind == "number" and self.dtype == "uint8" and len(self.shape) == 3 and self.width > 0
        return (self.kind == "image" or raw) and self.shape[2:] == (3,) and self.dtype == "uint8"


@dataclass(frozen=True)
class Shard:
    """One file of a split."""

    path: Path
    episodes: int


@dataclass(frozen=True)
class Dataset:
    """The metadata of a data set."""

    root: Path
    name: str
    features: Mapping[str, Feature]
    """By name in the Example: `steps/observation/state`, `episode_metadata/file_path`."""
    splits: Mapping[str, Sequence[Shard]]

    def below(self, path: str) -> dict[str, Feature]:
        """Features of a nested dictionary, in the order of their names; of a plain feature, itself."""
        return {k: f for k, f in sorted(self.features.items()) if k == path or k.startswith(f"{path}/")}

    def split(self, name: str) -> Sequence[Shard]:
        """Files of a split."""
        if name not in self.splits:
            raise unknown("split", name, self.splits)
        return self.splits[name]

    def resolve(self, name: str) -> str:
        """Full name of a feature given as below `steps`, or in full."""
        full = name if name in self.features else f"{STEPS}/{name}"
        if full not in self.features:
            raise unknown("feature", name, (k.removeprefix(f"{STEPS}/") for k in self.features))
        return full


def load(root: Path) -> Dataset:
    """Read and check `features.json` and `dataset_info.json`.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    path = root / "features.json"
    try:
        features = dict(_flat(_json(path), ""))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} does not describe features as TFDS does: {error}") from error
    if not any(name.startswith(f"{STEPS}/") for name in features):
        raise DataError(f"{path} has no {STEPS!r}, so this is no RLDS data set; have: {', '.join(features)}")
    about = _json(root / "dataset_info.json")
    try:
        name = str(about.get("name") or root.resolve().name)
        splits = {str(s["name"]): _shards(root, name, about, s) for s in about.get("splits", [])}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{root / 'dataset_info.json'} does not list splits as TFDS does: {error}") from error
    return Dataset(root, name, features, splits)


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is missing: an RLDS data set is a folder that holds features.json and dataset_info.json"
        ) from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error


def _flat(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Feature]]:
    if "featuresDict" in node:
        for name, child in node["featuresDict"]["features"].items():
            yield from _flat(child, f"{path}/{name}" if path else name)
    elif "sequence" in node and path == STEPS:
        yield from _flat(node["sequence"]["feature"], path)
    elif "tensor" in node:
        about = node["tensor"]
        dtype = str(about["dtype"])
        kind = "text" if dtype in ("string", "object") else "number" if _known(dtype) else "other"
        yield path, Feature(kind, dtype, _shape(about), about.get("encoding") or "none")
    elif "image" in node:
        yield path, Feature("image", node["image"].get("dtype") or "uint8", _shape(node["image"]))
    elif "text" in node:
        yield path, Feature("text")
    elif "classLabel" in node:
        yield path, Feature("number", "int64")
    else:
        yield path, Feature("other")


def _known(dtype: str) -> bool:
    """Whether NumPy has it as a number; bfloat16 it has not."""
    try:
        return np.dtype(dtype).kind in "fiub"
    except TypeError:
        return False


def _shape(about: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(n) for n in (about.get("shape") or {}).get("dimensions", []))


def _shards(root: Path, name: str, about: Mapping[str, Any], split: Mapping[str, Any]) -> list[Shard]:
    form = about.get("fileFormat") or "tfrecord"
    if form != "tfrecord":
        raise DataError(f"{root / 'dataset_info.json'}: files of format {form!r} are not read, only tfrecord")
    lengths = [int(n) for n in split["shardLengths"]]
    template = split.get("filepathTemplate") or TEMPLATE
    return [Shard(root / _file_name(template, name, split["name"], i, len(lengths)), n) for i, n in enumerate(lengths)]


def _file_name(template: str, name: str, split: str, index: int, count: int) -> str:
    values = {
        "DATASET": name,
        "SPLIT": split,
        "FILEFORMAT": "tfrecord",
        "SHARD_INDEX": f"{index:05d}",
        "NUM_SHARDS": f"{count:05d}",
        "SHARD_X_OF_Y": f"{index:05d}-of-{count:05d}",
    }
    return template.format(**values)
