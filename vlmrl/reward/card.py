"""The card of a saved reward: what it was made of, and what `vlmrl reward eval` measured of it."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, cast

from vlmrl.reward.hacking import Check
from vlmrl.reward.quality import Quality
from vlmrl.reward.quality_text import markdown

CARD = "README.md"
_HEAD = "\n## Measured\n"


def add(folder: Path, quality: Quality, check: Check | None) -> None:
    """Write the figures into the card of a saved reward, in place of older ones."""
    path = folder / CARD
    own = path.read_text().split(_HEAD)[0].rstrip() + "\n" if path.is_file() else "# Reward\n"
    temporary = path.with_suffix(".part")
    temporary.write_text(f"{own}\n{markdown(quality, check)}")
    temporary.replace(path)


def as_json(quality: Quality, check: Check | None) -> Any:
    """Figures and hacking check together; what does not exist is null, for JSON knows no NaN."""
    return _finite({**quality.as_json(), "hacking": check.as_json() if check else None})


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in cast("Mapping[str, Any]", content).items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in cast("Sequence[Any]", content)]
    return None if isinstance(content, float) and not isfinite(content) else content
