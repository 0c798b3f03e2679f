"""How a question is put: what of an item is shown, in which order, and how often."""

from dataclasses import dataclass
from typing import Literal

from vlmrl.errors import ConfigError, unknown

Shows = Literal["auto", "frame", "strip", "images", "before_after"]
CLIPS = ("strip", "images", "before_after")
"""Ways to show a clip."""
QUESTIONS = ("preference", "progress", "yes", "score", "success")
_SHOWS = {"preference": "frame", "progress": "frame", "yes": "images", "score": "frame", "success": "frame"}


@dataclass(frozen=True)
class Asking:
    """How a question is put."""

    show: Shows = "auto"
    """frame: one picture; strip: a clip as one contact strip; images: a clip as several pictures; before_after: its
    first and last picture. auto: frame, but images for question=yes."""
    clip_s: float = 2.0
    """Length of a clip; of question=yes it is the attempt so far."""
    pictures: int = 6
    """Most pictures of a clip, evenly spaced, its first and last among them."""
    trajectory: str = ""
    """Draw the way of the robot's hand on the pictures of a clip: project (its recorded positions through the known
    camera of a simulated task), or the key of an observation that holds its column and row in the stored picture."""
    crop: tuple[float, ...] = ()
    """Left, top, right, bottom of what is shown, in fractions of the stored picture; empty: as the task says."""
    size: tuple[int, ...] = ()
    """Height and width that pictures are brought to; empty: as the task says, else as stored."""
    order: Literal["single", "random", "both"] = "single"
    """Which side comes first: as drawn, by a coin, or each pair is asked both ways round."""
    disagree: Literal["tie", "drop", "mean"] = "tie"
    """What becomes of a pair whose two orders name different sides: a tie, nothing, or the mean of the
    probabilities."""
    votes: int = 1
    """How often each question is asked; above 1 the model must not always answer alike (labeler.temperature)."""

    def __post_init__(self) -> None:
        if self.clip_s <= 0 or self.pictures < 2 or self.votes < 1:
            raise ConfigError(
                f"ask: clip_s {self.clip_s}, pictures {self.pictures}, votes {self.votes} given; "
                "wanted above 0, at least 2, at least 1"
            )
        check_view(self.crop, self.size, where="ask")

    def shown(self, question: str) -> str:
        """Return how the items of a question are shown."""
        if question not in QUESTIONS:
            raise unknown("question", question, QUESTIONS)
        return _SHOWS[question] if self.show == "auto" else self.show


def check_view(crop: tuple[float, ...], size: tuple[int, ...], *, where: str) -> None:
    """Refuse what cannot be cut out of a picture.

    Raises:
        ConfigError: what was found, and what is wanted.
    """
    if crop:
        left, top, right, bottom = crop if len(crop) == 4 else (0.0, 0.0, 0.0, 0.0)
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise ConfigError(f"{where}.crop: left, top, right, bottom within 0 and 1 wanted, found {list(crop)}")
    if size and (len(size) != 2 or min(size) < 1):
        raise ConfigError(f"{where}.size: height and width in pixels wanted, found {list(size)}")
