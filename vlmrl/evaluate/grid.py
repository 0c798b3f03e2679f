"""Successes and failures side by side in one film, with what the task and a learned reward made of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw, ImageFont

from vlmrl.errors import DataError
from vlmrl.evaluate.collect import create_store, record
from vlmrl.evaluate.lanes import Outcome
from vlmrl.reward.preference import PreferenceReward
from vlmrl.sim import SimEnv, Task, make
from vlmrl.types import Episode, Policy

_WIDTH = 260
"""Pixels of one film."""
_BAR, _HEAD, _GAP = 46, 34, 10
_PAPER, _INK, _FAINT, _TRACK = (250, 250, 251), (29, 36, 48), (102, 112, 128), (223, 227, 232)
_WON, _LOST, _REWARD = (0, 138, 98), (213, 94, 0), (0, 114, 178)


@dataclass(frozen=True)
class Film:
    """One episode as it is drawn."""

    outcome: Outcome
    pictures: Sequence[UInt8[np.ndarray, "H W 3"]]
    rows: Sequence[int]
    """The row of the episode that each picture shows."""
    progress: Float32[np.ndarray, " T"]
    reward: Float32[np.ndarray, " T"] | None
    """Learned, of what the next row shows."""


def choose(episodes: Sequence[Outcome], most: int) -> list[Outcome]:
    """The first successes and the first failures, half of each as far as they go; nothing is picked by eye."""
    won, lost = ([e for e in episodes if e.success is kind] for kind in (True, False))
    half = most // 2
    wins = max(half, most - len(lost))
    return won[:wins] + lost[: most - min(wins, len(won))]


def films(
    task: Task, policy: Policy, chosen: Sequence[Outcome], *, every: int, reward: PreferenceReward | None
) -> list[Film]:
    """Run the chosen episodes again with a camera.

    Raises:
        DataError: if one of them comes out otherwise than it did in the evaluation.
    """
    made = []
    env = make(task)
    try:
        seeds = [outcome.seed for outcome in chosen]
        episodes = list(record(task, policy, seeds, picture_every=every))
        rewards = _rewards(task, episodes, reward) if reward else [None] * len(episodes)
        for outcome, episode, learned in zip(chosen, episodes, rewards, strict=True):
            _check(outcome, episode, task)
            rows = [*range(0, len(episode) - 1, every), len(episode) - 1]
            pictures = _pictures(env, episode, rows)
            made.append(Film(outcome, pictures, rows, episode.truth["progress"], learned))
    finally:
        env.close()
    return made


def _pictures(env: SimEnv, episode: Episode, rows: Sequence[int]) -> list[UInt8[np.ndarray, "H W 3"]]:
    """The people's camera at these rows."""
    assert episode.sim_state is not None
    made = []
    for row in rows:
        env.set_sim_state(episode.sim_state[row])
        made.append(env.frame(env.task.video))
    return made


def _rewards(task: Task, episodes: Sequence[Episode], reward: PreferenceReward) -> list[Float32[np.ndarray, " T"]]:
    """What a learned reward makes of episodes, seen through a store as it saw its training data."""
    with TemporaryDirectory() as folder:
        store = create_store(Path(folder) / "store", task)
        store.append(list(episodes))
        mean, table = reward.column(store)[0], store.episodes
        return [mean[table.start[k] : table.stop[k]] for k in map(table.index, [e.id for e in episodes])]


def grid(shown: Sequence[Film], *, title: str, counts: tuple[int, int]) -> list[UInt8[np.ndarray, "H W 3"]]:
    """Pictures of all films in step; one that is over shows its last. `counts`: successes and episodes in all."""
    groups = [
        (f"{'success' if kind else 'failure'}: {n} of {counts[1]}", [f for f in shown if f.outcome.success is kind])
        for kind, n in ((True, counts[0]), (False, counts[1] - counts[0]))
    ]
    groups = [(name, members) for name, members in groups if members]
    height = round(_WIDTH * shown[0].pictures[0].shape[0] / shown[0].pictures[0].shape[1])
    per_row = 2 if len(groups) == 2 else 4
    down = max(-(-len(members) // per_row) for _, members in groups)
    across = [min(per_row, len(members)) for _, members in groups]
    size = (
        sum(n * (_WIDTH + _GAP) for n in across) + _GAP * (1 + 2 * (len(groups) - 1)),
        2 * _HEAD + down * (height + _BAR + _GAP),
    )
    scale = _scale(shown)
    length = max(len(film.pictures) for film in shown)
    return [_sheet(groups, across, size, height, min(k, length - 1), title, scale) for k in range(length)]


def _sheet(
    groups: Sequence[tuple[str, Sequence[Film]]],
    across: Sequence[int],
    size: tuple[int, int],
    height: int,
    time: int,
    title: str,
    scale: tuple[float, float],
) -> UInt8[np.ndarray, "H W 3"]:
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 8), title, _INK, font=_font(17))
    left = _GAP
    for (name, members), wide in zip(groups, across, strict=True):
        draw.text((left, _HEAD + 6), name, _WON if members[0].outcome.success else _LOST, font=_font(15))
        for i, film in enumerate(members):
            x = left + (i % wide) * (_WIDTH + _GAP)
            y = 2 * _HEAD + (i // wide) * (height + _BAR + _GAP)
            _cell(sheet, draw, film, (x, y), height, time, scale)
        left += wide * (_WIDTH + _GAP) + 2 * _GAP
    return np.asarray(sheet)


def _cell(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    film: Film,
    corner: tuple[int, int],
    height: int,
    time: int,
    scale: tuple[float, float],
) -> None:
    k = min(time, len(film.pictures) - 1)
    row, (x, y) = film.rows[k], corner
    picture = Image.fromarray(film.pictures[k]).resize((_WIDTH, height), Image.Resampling.LANCZOS)
    sheet.paste(picture, (x, y))
    first = film.outcome.first_success
    won = first >= 0 and row > first
    if won:
        draw.rectangle((x, y, x + _WIDTH - 1, y + height - 1), outline=_WON, width=4)
        _tick(draw, x + _WIDTH - 32, y + 10)
    top = y + height + 6
    draw.rectangle((x, top, x + _WIDTH - 1, top + 6), fill=_TRACK)
    end = x + round((_WIDTH - 1) * float(film.progress[row]))
    if end > x:
        draw.rectangle((x, top, end, top + 6), fill=_WON if won else _FAINT)
    words = f"state {film.outcome.seed}  step {row}"
    if won:
        words += f"  success at {first + 1}"
    draw.text((x, top + 12), words, _FAINT, font=_font(13))
    if film.reward is not None:
        _curve(draw, film, (x, y), row, scale)


def _curve(
    draw: ImageDraw.ImageDraw, film: Film, corner: tuple[int, int], row: int, scale: tuple[float, float]
) -> None:
    """The learned reward so far, over the picture's foot; all films share one scale."""
    assert film.reward is not None
    x, y = corner
    height = round(_WIDTH * film.pictures[0].shape[0] / film.pictures[0].shape[1])
    low, high = scale
    rows = np.arange(min(row, len(film.reward) - 1) + 1)
    values = film.reward[rows]
    keep = np.isfinite(values)
    across = x + 4 + (_WIDTH - 9) * rows[keep] / max(1, len(film.reward) - 1)
    up = y + height - 6 - 40 * (values[keep] - low) / max(high - low, 1e-9)
    points = [(float(a), float(b)) for a, b in zip(across, up, strict=True)]
    if len(points) > 1:
        draw.line(points, (255, 255, 255), width=5, joint="curve")
        draw.line(points, _REWARD, width=3, joint="curve")
    for a, b in points[-1:]:
        draw.ellipse((a - 4, b - 4, a + 4, b + 4), fill=_REWARD, outline=(255, 255, 255), width=1)


def _tick(draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
    draw.ellipse((x, y, x + 22, y + 22), fill=_WON)
    draw.line([(x + 6, y + 12), (x + 10, y + 16), (x + 17, y + 7)], (255, 255, 255), width=3)


def _scale(shown: Sequence[Film]) -> tuple[float, float]:
    values = [f.reward[np.isfinite(f.reward)] for f in shown if f.reward is not None]
    if not values or not sum(map(len, values)):
        return 0.0, 1.0
    return float(min(v.min() for v in values)), float(max(v.max() for v in values))


def _check(outcome: Outcome, episode: Episode, task: Task) -> None:
    again = int(np.argmax(episode.truth["success"] > 0)) - 1 if episode.success else -1
    if not outcome.diverged and again != outcome.first_success:
        raise DataError(
            f"task {task.name!r}, seed {outcome.seed}: first success at step {outcome.first_success} when evaluated, "
            f"at {again} when filmed: task or policy is not deterministic"
        )


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
