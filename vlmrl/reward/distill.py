"""From a snapshot of preferences to a trained reward with its held-out report."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vlmrl.errors import DataError
from vlmrl.reward import calibration, fit, pairs, preference
from vlmrl.reward import metrics as quality
from vlmrl.reward.inputs import load_input
from vlmrl.reward.network import Network, Shape, score_clips
from vlmrl.reward.pairs import Pairs
from vlmrl.reward.preference import Config, PreferenceReward
from vlmrl.reward.scorer import Scorer, source
from vlmrl.reward.support import fitted
from vlmrl.runfolder import Metrics
from vlmrl.store import Store
from vlmrl.types import Preferences


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
    """Train a preference reward on labelled frames and clips; `camera` is the one that was judged, if any.

    Raises:
        ConfigError: if the choices do not go together.
        DataError: if labels are about other cameras, or all of those to train on are ties.
    """
    looks = load_input(config.input)
    where = source(config, camera)
    pictured = config.input in ("image", "embedding")
    judged = looks.rows(store, where)
    rows, labelled = pairs.locate(store, preferences, judged, where.cameras if pictured else ())
    owner = store.episodes.of_row(rows)
    generator = np.random.default_rng(seed)
    train, held = pairs.split(labelled, config.holdout, by=config.holdout_by, owner=owner, generator=generator)
    if np.all(train.p_a == 0.5):
        left = f"of {len(labelled)} labels {len(train)} are not kept aside"
        raise DataError(f"{left}, and all of those are ties: there is nothing to learn")
    stack = looks.read(store, where, rows)
    actions = store.column("action").shape[1] if config.input == "state_action" else 0
    shape = Shape(stack.shape[1:], actions, labelled.a.shape[1])
    names = sorted(set(preferences.by or (preferences.annotator,)))
    state = fit.train(
        config, stack, shape, train, annotators=len(names), seed=seed, metrics=metrics, name=name, quiet=quiet
    )
    found, temperature = _held_out(state.network, stack, held)
    facts: dict[str, Any] = {
        "labels": len(labelled),
        "annotator": preferences.annotator,
        "snapshot": preferences.snapshot,
        "store": store.hash,
        "seed": seed,
        "held_out": found,
        "temperature": temperature,
    }
    if config.loss in fit.losses.FLIPS:
        facts["flip_rates"] = dict(zip(names, state.flip_rates.tolist(), strict=True))
    metrics.write(f"{name}/held_out", config.updates, found)
    scorer = Scorer(config, state.network, shape, fitted(state.network, state.stack), camera)
    return preference.build(scorer, facts=facts)


def _held_out(network: Network, stack: np.ndarray, held: Pairs) -> tuple[Mapping[str, float], float]:
    """Figures on held-out pairs, before calibration, and the temperature that calibrates them."""
    if not len(held):
        return {"pairs": 0.0}, 1.0
    a, b = (score_clips(network, stack, side) for side in (held.a, held.b))
    return quality.held_out(a, b, held.p_a), calibration.temperature(calibration.pooled(a - b), held.p_a)
