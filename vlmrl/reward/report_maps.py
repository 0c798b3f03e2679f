"""Maps of a reward: episodes from top to bottom, time from left to right; and maps laid over pictures."""

import io

import matplotlib
import numpy as np
from jaxtyping import Float, Float64, Int64, UInt8
from PIL import Image

from vlmrl.page.markup import data_url, escape, number
from vlmrl.store import Store

WIDTH, TALLEST, LEAST = 960, 460, 2
"""Pixels of a map: width, greatest height, least height of an episode."""

GROUPS = {1: "succeeded", 0: "failed", -1: "outcome unknown"}


def ordered(store: Store, mean: Float[np.ndarray, " N"]) -> dict[int, list[int]]:
    """Places of the judged episodes by outcome, those with most return first."""
    table = store.episodes
    value = [_mean(mean[start:stop]) for start, stop in zip(table.start, table.stop, strict=True)]
    judged = [i for i in np.argsort(-np.array(value), kind="stable").tolist() if np.isfinite(value[i])]
    found = {outcome: [i for i in judged if table.success[i] == outcome] for outcome in GROUPS}
    return {outcome: places for outcome, places in found.items() if places}


def time_map(store: Store, values: Float[np.ndarray, " N"], groups: dict[int, list[int]], *, colours: str) -> str:
    """The map as HTML: one picture for each outcome, on one scale of colours that spares the last per cent."""
    known = values[np.isfinite(values)]
    low, high = (float(v) for v in np.percentile(known, [1, 99]))
    count = sum(map(len, groups.values()))
    height = max(LEAST, min(12, TALLEST // count))
    longest = max(int(store.episodes.length[i]) for places in groups.values() for i in places) - 1
    parts = ""
    for outcome, places in groups.items():
        cells = np.full((len(places), longest), np.nan)
        for line, place in enumerate(places):
            own = values[store.episodes.start[place] : store.episodes.stop[place] - 1]
            cells[line, : len(own)] = own
        picture = _coloured(cells, low, high, colours)
        image = Image.fromarray(picture).resize((WIDTH, height * len(places)), Image.Resampling.NEAREST)
        what = f"{GROUPS[outcome]} ({len(places)})"
        parts += f"<figure><figcaption>{what}</figcaption><img src='{_png(image)}' alt='{escape(what)}'></figure>"
    return f"<div class='maps'>{parts}</div>{_legend(low, high, colours)}"


def overlay(
    picture: UInt8[np.ndarray, "H W 3"], loss: Float64[np.ndarray, "K K"], most: float, *, side: int = 192
) -> str:
    """Data URL of a picture in grey with a map over it: red where hiding costs reward, blue where it brings some."""
    grey = Image.fromarray(picture).convert("L").convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    share = np.clip(loss / (most or 1.0), -1, 1)
    smooth = Image.fromarray(share.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    value = np.clip(np.asarray(smooth, np.float64), -1, 1)
    colour = np.where(value[..., None] > 0, (220, 40, 20), (20, 90, 220))
    strength = 0.75 * np.abs(value)[..., None]
    mixed = (1 - strength) * np.asarray(grey, np.float64) + strength * colour
    return _png(Image.fromarray(mixed.round().astype(np.uint8)))


def sharpest(loss: list[Float64[np.ndarray, "K K"]]) -> float:
    """One scale for several maps."""
    return float(max(np.abs(one).max() for one in loss))


def _mean(values: Float[np.ndarray, " T"]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _coloured(cells: Float64[np.ndarray, "E T"], low: float, high: float, colours: str) -> UInt8[np.ndarray, "E T 3"]:
    share = np.clip((cells - low) / (high - low if high > low else 1.0), 0, 1)
    painted = (255 * matplotlib.colormaps[colours](np.nan_to_num(share))[..., :3]).round().astype(np.uint8)
    painted[np.isnan(cells)] = 128
    return painted


def _legend(low: float, high: float, colours: str) -> str:
    ramp = _coloured(np.linspace(0, 1, 200)[None], 0.0, 1.0, colours)
    image = _png(Image.fromarray(ramp).resize((200, 10)))
    return (
        f"<p class='ramp'>{number(low, 2)} <img src='{image}' alt='from low to high'> {number(high, 2)}; "
        "left to right: from the start of the episode to its end</p>"
    )


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return data_url(buffer.getvalue(), "image/png")


def extremes(
    mean: Float[np.ndarray, " N"], rows: Int64[np.ndarray, " M"], episode: Int64[np.ndarray, " M"], count: int
) -> tuple[list[int], list[int]]:
    """Pictures' rows with most and with least reward, each episode at most once; a row is judged by the row before."""
    rows, episode = rows[rows > 0], episode[rows > 0]
    value = mean[rows - 1]
    # The first picture of an episode follows another episode's last row, which has no reward.
    known = np.isfinite(value)
    rows, episode, value = rows[known], episode[known], value[known]

    def first(order: np.ndarray) -> list[int]:
        _, places = np.unique(episode[order], return_index=True)
        return rows[order][np.sort(places)][:count].tolist()

    return first(np.argsort(-value, kind="stable")), first(np.argsort(value, kind="stable"))
