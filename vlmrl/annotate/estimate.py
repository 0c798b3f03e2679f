"""What a labeling job would take, from a few questions asked or, asking none, from the sizes of pictures and texts."""

from collections.abc import Sequence

import numpy as np

_PIXELS = 28 * 28
"""One token, a patch of 28 by 28, as Qwen2-VL counts; other models take several times more or less."""
_LETTERS = 4
"""One token of English text, roughly."""


def guess_tokens(message: Sequence[str | int], pictures: Sequence[np.ndarray]) -> int:
    """Return about how many tokens a message takes; it may be wrong by several times."""
    letters = sum(len(part) for part in message if isinstance(part, str))
    shown = [pictures[part] for part in message if isinstance(part, int)]
    return letters // _LETTERS + sum(-(-p.shape[0] * p.shape[1] // _PIXELS) for p in shown)
