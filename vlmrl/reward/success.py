"""Success classifier as a sparse reward whose false positives are bounded.

An episode that is rewarded for a success it has not had teaches the wrong thing; one that is not rewarded teaches
little less (RoboFuME, Yang et al. 2024, where classifiers with 1 to 6 % false positives and 60 to 81 % false negatives
are good enough). So the threshold is not one half: it is the split-conformal quantile of the highest scores in failed
episodes that were kept aside, which bounds the chance that a new failed episode is ever rewarded.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor, nn

from vlmrl import config as configuration
from vlmrl import loop
from vlmrl.annotate.audit import wilson
from vlmrl.artefact import load, save
from vlmrl.errors import ConfigError, DataError
from vlmrl.reward import fit, settings
from vlmrl.reward.inputs import image, load_input
from vlmrl.reward.network import Shape
from vlmrl.reward.scorer import Scorer, source
from vlmrl.reward.support import fitted
from vlmrl.runfolder import Metrics
from vlmrl.store import Store
from vlmrl.types import Episode

KIND = "success reward"


@dataclass(frozen=True)
class Config:
    """Settings of the success classifier, which is trained by `train`."""

    network: settings.Config = field(default_factory=settings.Config)
    """Its input and how it is trained; what is about pairs is not used."""
    tail: int = 5
    """Rows at the end of a successful episode that show success; its other rows are not used."""
    false_positives: float = 0.05
    """Share of failed episodes in which success may be seen."""
    aside: float = 0.5
    """Share of the episodes that are kept aside, to find the threshold and to measure."""


def train(
    store: Store, config: Config, *, camera: str, seed: int, metrics: Metrics, quiet: bool = False
) -> "SuccessReward":
    """Train on the episodes whose outcome is known.

    Raises:
        ConfigError: if a setting is impossible.
        DataError: if there are too few failed episodes for the bound, or no successful ones.
    """
    if not 0 < config.false_positives < 1 or not 0 < config.aside < 1 or config.tail < 1:
        raise ConfigError("success: false_positives and aside between 0 and 1, and a tail of at least 1 row wanted")
    network = replace(config.network, model="mean_return", loss="bradley_terry")
    aside = _kept_aside(store, config.aside, np.random.default_rng(seed))
    looks, where = load_input(network.input), source(network, camera)
    rows = looks.rows(store, where)
    label = _labels(store, rows, config.tail)
    used = ~np.isnan(label) & ~aside[store.episodes.of_row(rows)]
    if not {0.0, 1.0} <= set(label[used].tolist()):
        raise DataError("success: both successful and failed episodes are wanted for training")
    stack = looks.read(store, where, rows[used])
    actions = store.column("action").shape[1] if network.input == "state_action" else 0
    shape = Shape(stack.shape[1:], actions, 1)
    state = fit.init(network, stack, shape, annotators=1, seed=seed)
    loop.fit(
        lambda batch: update(network, state, *batch),
        batches(network, label[used], generator=torch.Generator().manual_seed(seed)),
        updates=network.updates,
        name="success",
        metrics=metrics,
        every=max(1, network.updates // 20),
        quiet=quiet,
    )
    state.network.eval()
    scorer = Scorer(network, state.network, shape, fitted(state.network, state.stack), camera)
    highest = _highest(store, scorer)
    failed, succeeded = (highest[aside & (store.episodes.success == outcome)] for outcome in (0, 1))
    threshold = conformal(failed, config.false_positives)
    facts = {
        "store": store.hash,
        "seed": seed,
        "episodes_aside": {"failed": len(failed), "succeeded": len(succeeded)},
        "false_positives_at_most": config.false_positives,
        "successes_seen": int((succeeded > threshold).sum()),
        "successes_seen_interval": list(wilson(int((succeeded > threshold).sum()), len(succeeded))),
    }
    return SuccessReward(scorer, config, threshold, facts)


def conformal(failed: Float64[np.ndarray, " n"], false_positives: float) -> float:
    """The score that a new failed episode exceeds with a chance of at most `false_positives`, given n like it.

    The ceil((n + 1) (1 - false_positives))-th lowest of theirs (Vovk et al. 2005).

    Raises:
        DataError: if there are too few for the bound.
    """
    place = math.ceil((len(failed) + 1) * (1 - false_positives) - 1e-9)
    if place > len(failed):
        wanted = math.ceil(1 / false_positives - 1e-9) - 1
        raise DataError(
            f"success: {len(failed)} failed episodes are kept aside; to be wrong about {false_positives:g} of them at "
            f"most, {wanted} are wanted"
        )
    return float(np.sort(failed)[place - 1])


def _kept_aside(store: Store, share: float, generator: np.random.Generator) -> Bool[np.ndarray, " E"]:
    """The same share of the failed and of the successful episodes."""
    aside = np.zeros(len(store.episodes), bool)
    for outcome in (0, 1):
        those = generator.permutation(np.flatnonzero(store.episodes.success == outcome))
        aside[those[: round(share * len(those))]] = True
    return aside


def _labels(store: Store, rows: Int64[np.ndarray, " M"], tail: int) -> Float32[np.ndarray, " M"]:
    """1 at the end of successful episodes, 0 all over failed ones, NaN where nothing is known."""
    table, owner = store.episodes, store.episodes.of_row(rows)
    last = rows[np.searchsorted(owner, owner, side="right") - 1]
    ends = rows >= np.minimum(table.stop[owner] - tail, last)
    success = table.success[owner]
    return np.where(success == 0, 0, np.where((success == 1) & ends, 1, np.nan)).astype(np.float32)


def batches(
    config: settings.Config, label: Float32[np.ndarray, " M"], *, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless batches (rows, label, weight), half of them successes; `weight` is each member's own bootstrap."""
    sides = [torch.from_numpy(np.flatnonzero(label == value)) for value in (0, 1)]
    weight = torch.poisson(torch.ones(len(label), config.members), generator=generator)
    target = torch.from_numpy(label)
    while True:
        drawn = [side[torch.randint(len(side), (config.batch // 2,), generator=generator)] for side in sides]
        rows = torch.cat(drawn)
        yield rows, target[rows], weight[rows]


def update(config: settings.Config, state: fit.State, rows: Tensor, label: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """One gradient step on the cross-entropy of single rows."""
    stack = state.stack[rows]
    if config.input == "image":
        stack = image.augment(stack, config.shift, generator=state.generator)
    logit = state.network(stack)
    entropy = nn.functional.binary_cross_entropy_with_logits(logit, label[:, None].expand_as(logit), reduction="none")
    paid = (weight * entropy).mean()
    state.optimiser.zero_grad(set_to_none=True)
    paid.backward()
    state.optimiser.step()
    return {"loss": paid.detach()}


def _highest(store: Store, scorer: Scorer) -> Float64[np.ndarray, " E"]:
    """Highest score of each episode, -inf where it has no transition."""
    score = np.nan_to_num(scorer.of_store(store).mean(1), nan=-np.inf)
    return np.maximum.reduceat(score, store.episodes.start)


def build(scorer: Scorer, *, config: Config, threshold: float, facts: Mapping[str, Any]) -> "SuccessReward":
    """The rewarder of a trained classifier; `facts` is what is known of it."""
    return SuccessReward(scorer, config, threshold, facts)


class SuccessReward:
    """1 where the next row is taken for a success, else 0."""

    name = "success"

    def __init__(self, scorer: Scorer, config: Config, threshold: float, facts: Mapping[str, Any]) -> None:
        """Scores above `threshold` are successes."""
        self.scorer, self.config, self.threshold, self.facts = scorer, config, threshold, dict(facts)
        self.sees = scorer.sees

    def reward(self, episode: Episode) -> tuple[Float32[np.ndarray, " T"], Float32[np.ndarray, " T"]]:
        """1 or 0 by the members' mean score, and the deviation of their votes; NaN where there is no next row."""
        return self._columns(self.scorer.of_episode(episode))

    def column(self, store: Store) -> tuple[Float32[np.ndarray, " N"], Float32[np.ndarray, " N"]]:
        """The same for every episode of a store."""
        return self._columns(self.scorer.of_store(store))

    def _columns(
        self, score: Float64[np.ndarray, "T M"]
    ) -> tuple[Float32[np.ndarray, " T"], Float32[np.ndarray, " T"]]:
        known = ~np.isnan(score[:, 0])
        mean = np.where(known, score.mean(1) > self.threshold, np.nan)
        std = np.where(known, (score > self.threshold).std(1), np.nan)
        return mean.astype(np.float32), std.astype(np.float32)

    def provenance(self) -> Mapping[str, object]:
        """Settings, threshold and facts."""
        return {"config": asdict(self.config), "threshold": self.threshold, **self.facts}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config, weights and card."""
        content, tensors = self.scorer.content()
        own = {"scorer": content, "settings": asdict(self.config), "threshold": self.threshold, "facts": self.facts}
        save(Path(folder), kind=KIND, config=own, tensors=tensors, card=self.card())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "SuccessReward":
        """Read a folder or hub repository written by `save_pretrained`.

        Raises:
            DataError: if it is damaged.
        """
        content, tensors = load(folder, kind=KIND)
        config = configuration.build(Config, content["settings"], where="success")
        return cls(Scorer.restored(content["scorer"], tensors), config, content["threshold"], content["facts"])

    def card(self) -> str:
        """What a reader must know before trusting it."""
        facts = "\n".join(f"- {key}: {value}" for key, value in self.facts.items())
        return f"# Success classifier\n\nScores above {self.threshold:.4g} are successes.\n\n{facts}\n"
