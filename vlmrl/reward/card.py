"""The card of a saved reward: what it was made of, and what `vlmrl reward eval` measured of it."""

from pathlib import Path

from vlmrl.reward.hacking import Check
from vlmrl.reward.quality import Quality
from vlmrl.reward.quality_text import markdown
from vlmrl.runfolder import write_json

CARD, FIGURES = "README.md", "quality.json"
_HEAD = "\n## Measured\n"


def add(folder: Path, quality: Quality, check: Check | None) -> None:
    """Write the figures into the card of a saved reward, in place of older ones, and beside it as JSON."""
    path = folder / CARD
    own = path.read_text().split(_HEAD)[0].rstrip() + "\n" if path.is_file() else "# Reward\n"
    temporary = path.with_suffix(".part")
    temporary.write_text(f"{own}\n{markdown(quality, check)}")
    temporary.replace(path)
    write_json(folder / FIGURES, as_json(quality, check))


def as_json(quality: Quality, check: Check | None) -> dict[str, object]:
    """Figures and hacking check together."""
    return {**quality.as_json(), "hacking": check.as_json() if check else None}
