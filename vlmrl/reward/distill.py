"""From a snapshot of preferences to a trained reward with its held-out report."""

from collections.abc import Mapping

import numpy as np
import torch

from vlmrl import loop
from vlmrl.errors import DataError
from vlmrl.reward import metrics as quality
from vlmrl.reward import preference
from vlmrl.reward.preference import Config, Pairs, PreferenceReward
from vlmrl.runfolder import Metrics
from vlmrl.store import Store
from vlmrl.types import Frame, Preferences


def distill(
    store: Store,
    preferences: Preferences,
    config: Config,
    *,
    camera: str,
    seed: int,
    metrics: Metrics,
    name: str = "reward",
    quiet: bool = False,
) -> PreferenceReward:
    """Train a preference reward on frame pairs of one camera.

    Raises:
        DataError: if labels are about other cameras or clips, or all of them are ties.
    """
    rows, pairs = _pairs(store, preferences, camera)
    if np.all(pairs.p_a == 0.5):
        raise DataError(f"all {len(pairs)} labels are ties: there is nothing to learn")
    train, held = preference.split(pairs, config.holdout, generator=np.random.default_rng(seed))
    pictures = store.frames(camera, rows, config.size)
    state = preference.init(config, pictures, seed=seed)
    batches = preference.batches(config, train, generator=torch.Generator().manual_seed(seed))
    loop.fit(
        lambda batch: preference.update(config, state, batch),
        batches,
        updates=config.updates,
        name=name,
        metrics=metrics,
        every=max(1, config.updates // 20),
        quiet=quiet,
    )
    state.network.eval()
    preference.centre(state)
    found = _held_out(state, held)
    facts = {
        "labels": len(pairs),
        "annotator": preferences.annotator,
        "snapshot": preferences.snapshot,
        "store": store.hash,
        "seed": seed,
        "held_out": found,
    }
    metrics.write(f"{name}/held_out", config.updates, found)
    return preference.build(config, network=state.network, camera=camera, facts=facts)


def _pairs(store: Store, preferences: Preferences, camera: str) -> tuple[np.ndarray, Pairs]:
    """Global rows of the distinct frames, and the pairs by place among them."""
    table, sides = store.episodes, []
    for items in (preferences.a, preferences.b):
        wrong = next((i for i in items if not isinstance(i, Frame) or i.camera != camera), None)
        if wrong is not None:
            raise DataError(f"a label is about {wrong}; frames of camera {camera!r} wanted")
        sides.append(np.array([table.start[table.index(i.episode)] + i.row for i in items if isinstance(i, Frame)]))
    rows, place = np.unique(np.concatenate(sides), return_inverse=True)
    half = len(preferences)
    return rows, Pairs(place[:half], place[half:], preferences.p_a)


def _held_out(state: preference.State, held: Pairs) -> Mapping[str, float]:
    if not len(held):
        return {"pairs": 0.0}
    pictures = state.pictures.numpy()
    scores = [preference.score(state.network, pictures[side]) for side in (held.a, held.b)]
    return quality.held_out(scores[0], scores[1], held.p_a)
