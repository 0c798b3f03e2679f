"""Contrastive preference learning (Hejna et al. 2024, arXiv 2310.13639): a policy from comparisons, without a reward.

People compare regret, and the optimal advantage is alpha times the log-probability of the best policy: so the score of
a clip is alpha * sum log pi(a|s), and the loss is logistic in it. Two biases keep actions likely: the worse clip's
score counts `bias` times, and cloning of all transitions comes first, `pretrain` of the updates (beside it, with weight
`cloning`, if wanted). As in the reference code, the actor is deterministic and its log-probability minus the squared
distance, and the optimiser starts anew after the cloning.

Different: ties and probabilities between 0 and 1 weigh both orders, cloning reads every transition of the store, no
dropout. Clips that were judged as pictures (`ask.show=frame`) have one step each, which says little about actions.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vlmrl.errors import ConfigError, DataError
from vlmrl.learn.batch import Batch, descend, sample
from vlmrl.nn import Actor, Normaliser, product_dtype, together
from vlmrl.reward.heads import NO_ROW
from vlmrl.reward.pairs import Pairs, locate, spans
from vlmrl.reward.quality_folds import take
from vlmrl.store import Store
from vlmrl.types import Preferences, Transitions


@dataclass(frozen=True)
class Config:
    """Settings of contrastive preference learning; the paper's values where not said otherwise."""

    updates: int = 10_000
    """The paper: 500,000."""
    pretrain: float = 0.4
    """Share of the updates that only clone."""
    batch: int = 256
    """Transitions cloned in an update."""
    pairs: int = 48
    """Comparisons in an update: 96 clips."""
    steps: int = 64
    """Steps of a clip that are read, of a longer one a stretch drawn anew each time."""
    hidden: tuple[int, ...] = (512, 512)
    lr: float = 1e-4
    warm_up: int = 500
    """Updates until the learning rate is reached, in each phase; the paper: 10,000."""
    alpha: float = 0.1
    """Weight of a log-probability in a clip's score."""
    bias: float = 0.5
    """lambda, above 0 and up to 1: how much the worse clip counts. Less holds the policy closer to what was shown."""
    cloning: float = 0.0
    """Weight of cloning beside the comparisons; the paper's regularised variant: 1, with bias 1."""
    layer_norm: bool = False
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; auto takes bfloat16 where the processor multiplies it natively."""


@dataclass(frozen=True)
class Compared(Transitions):
    """Transitions of a store, and comparisons of clips of them."""

    pairs: Pairs | None = None
    """By row of the transitions."""


@dataclass(frozen=True)
class PairBatch:
    """Comparisons in the network's units, and transitions to clone."""

    obs: Float[Tensor, "2 Q L D"]
    """Of the sides a, then of the sides b."""
    action: Float[Tensor, "2 Q L A"]
    real: Bool[Tensor, "2 Q L"]
    """False behind the end of a shorter clip."""
    p_a: Float[Tensor, " Q"]
    clone: Batch


@dataclass
class State:
    """Everything that an update changes."""

    actor: Actor
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    dtype: torch.dtype
    step: int = 0


def compared(transitions: Transitions, store: Store, preferences: Preferences) -> Compared:
    """The transitions of a store with the comparisons that are about them.

    A frame at the end of an episode shows no action: comparisons with such a side are left out.

    Raises:
        DataError: if none is left.
    """
    acts = store.column("has_action") & store.column("has_next")
    judged, first = np.flatnonzero(acts), store.episodes.start
    where = [[spans(item) for item in side] for side in (preferences.a, preferences.b)]
    told = [
        all(any(acts[first[store.episodes.index(e)] :][start:stop].any() for e, start, stop, _ in one) for one in pair)
        for pair in zip(*where, strict=True)
    ]
    if not any(told):
        raise DataError(f"{len(told)} comparisons, none of which shows actions on both sides")
    rows, pairs = locate(store, take(preferences, np.flatnonzero(told)), judged, ())
    place = np.append(np.searchsorted(judged, rows), NO_ROW)
    columns = {field.name: getattr(transitions, field.name) for field in fields(Transitions)}
    # NO_ROW, -1, is the last place.
    return Compared(**columns, pairs=Pairs(place[pairs.a], place[pairs.b], pairs.p_a, pairs.annotator))


def comparisons(transitions: Transitions) -> Pairs:
    """The comparisons that came with the transitions.

    Raises:
        ConfigError: if none did.
        DataError: if there are none, or all are ties.
    """
    pairs = transitions.pairs if isinstance(transitions, Compared) else None
    if pairs is None:
        raise ConfigError("learner=cpl is trained on comparisons: vlmrl train learner=cpl store=FOLDER labels=RUN")
    if np.all(pairs.p_a == 0.5):
        raise DataError(f"{len(pairs)} comparisons, and all of those are ties: there is nothing to learn")
    return pairs


def batches(config: Config, transitions: Transitions, *, generator: torch.Generator) -> Iterator[PairBatch]:
    """Endless batches of comparisons with replacement, in the network's units."""
    pairs = comparisons(transitions)
    obs = Normaliser.standard(transitions.obs).apply_to(torch.from_numpy(transitions.obs))
    action = Normaliser.range(transitions.action).apply_to(torch.from_numpy(transitions.action))
    sides, p_a = torch.from_numpy(np.stack([pairs.a, pairs.b])), torch.from_numpy(pairs.p_a)
    clones = sample(transitions, transitions.reward, config.batch, generator=generator)
    while True:
        which = torch.randint(len(pairs), (config.pairs,), generator=generator)
        rows = stretch(sides[:, which], config.steps, generator=generator)
        yield PairBatch(obs[rows], action[rows], rows != NO_ROW, p_a[which], next(clones))


def stretch(rows: Int64[Tensor, "2 Q L"], steps: int, *, generator: torch.Generator) -> Int64[Tensor, "2 Q S"]:
    """Of clips longer than `steps` rows as many rows in a row, from a random one on."""
    length = (rows != NO_ROW).sum(-1)
    share = torch.rand(length.shape, generator=generator)
    first = (share * ((length - steps).clamp(min=0) + 1)).long()
    place = first[..., None] + torch.arange(min(steps, rows.shape[-1]))
    return rows.gather(-1, place)


def init(config: Config, transitions: Transitions, *, generator: torch.Generator) -> State:
    """A fresh network whose normalisers fit `transitions`.

    Raises:
        ConfigError: if a setting makes no sense, or no comparisons came with the transitions.
    """
    comparisons(transitions)
    if not (0 < config.bias <= 1 and 0 <= config.pretrain <= 1 and config.steps >= 1):
        raise ConfigError(
            "bias above 0 and up to 1, pretrain from 0 to 1 and steps from 1 wanted, "
            f"found {config.bias}, {config.pretrain} and {config.steps}"
        )
    obs, action = Normaliser.standard(transitions.obs), Normaliser.range(transitions.action)
    actor = Actor(obs, action, hidden=config.hidden, layer_norm=config.layer_norm, generator=generator, proposes=False)
    optimiser = torch.optim.Adam(actor.net.parameters(), lr=config.lr, fused=True)
    phase = round(config.pretrain * config.updates)

    def rise(step: int) -> float:
        return min(1.0, ((step if step < phase else step - phase) + 1) / max(config.warm_up, 1))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rise)
    return State(actor, optimiser, schedule, product_dtype(config.precision))


def closeness(state: State, obs: Float[Tensor, "B D"], action: Float[Tensor, "B A"]) -> Float[Tensor, " B"]:
    """The log-probability but for a constant: minus the squared distance."""
    out = together([(state.actor.net, obs)], state.dtype)[0][0]
    return -(torch.tanh(out) - action).square().sum(-1)


def contrast(config: Config, score: Float[Tensor, "2 Q"], p_a: Float[Tensor, " Q"]) -> Float[Tensor, ""]:
    """Mean of -log(e^better / (e^better + e^(bias * worse))), both orders weighed by their probability."""
    a, b = score
    lost_a, lost_b = (torch.nn.functional.softplus(config.bias * worse - better) for better, worse in ((a, b), (b, a)))
    return (p_a * lost_a + (1 - p_a) * lost_b).mean()


def loss(config: Config, state: State, batch: PairBatch) -> dict[str, Tensor]:
    """Both losses at the present parameters: of the comparisons, and the squared distance to the data."""
    near = closeness(state, batch.obs.flatten(0, 2), batch.action.flatten(0, 2)).reshape(batch.real.shape)
    score = config.alpha * (near * batch.real).sum(-1)
    return {
        "contrastive_loss": contrast(config, score, batch.p_a),
        "cloning_loss": -closeness(state, batch.clone.obs, batch.clone.action).mean(),
    }


def update(config: Config, state: State, batch: PairBatch) -> dict[str, Tensor]:
    """One gradient step: on cloning in the first phase, then on the comparisons."""
    phase = round(config.pretrain * config.updates)
    if state.step == phase:
        state.optimiser.state.clear()
    losses = loss(config, state, batch)
    both = losses["contrastive_loss"] + config.cloning * losses["cloning_loss"]
    descend(state.optimiser, losses["cloning_loss"] if state.step < phase else both)
    state.schedule.step()
    state.step += 1
    return {name: value.detach() for name, value in losses.items()}


def policy(state: State) -> Actor:
    """The learned actor."""
    return state.actor
