"""Preference models: how numbers of rows make the score of a clip, and so the probability of a preference.

P(a better than b) = sigmoid(score(a) - score(b)) throughout. A clip is one or several spans, a single frame a clip of
one row. Whatever the model, a head also yields a number for every row, which is the reward.

- `partial_return`: the sum of the rows' rewards (Christiano et al. 2017). Clips of equal length do not tell the
  reward's zero, clips of different lengths do.
- `mean_return`: their mean, so that a longer clip is not better for being long.
- `last`: the reward of the clip's last row, as if the judge remembered only that.
- `regret`: the sum of the rows' advantages (Knox et al. 2022), in the form of Hejna et al. 2023: a row's advantage is
  the log-density of its action under the policy that the preferences reveal. It is a reward with the same best policy.
- `segment`: not a sum at all: mean, maximum and last of the rows' features enter one linear layer. A row's number is
  the score of the window that ends there, as long as the clips of the training.
"""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vlmrl.errors import ConfigError, unknown

NO_ROW = -1
"""Entry of a clip shorter than the longest."""


class RowHead(nn.Module):
    """Linear in the features of one row, summed up by `pool`."""

    def __init__(self, members: int, features: int, *, pool: str, tanh: bool) -> None:
        super().__init__()
        self.pool, self.tanh = POOLS[pool], tanh
        self.shiftless = pool != "partial_return"
        self.weight = nn.Parameter(torch.randn(members, features) / features**0.5)
        self.bias = nn.Parameter(torch.zeros(members))

    def rows(
        self, features: Float[Tensor, "B groups F"], x: Float[Tensor, "B ..."], first: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B members"]:
        """Reward of each row."""
        del x, first
        return self._value(features)

    def _value(self, features: Float[Tensor, "B groups F"]) -> Float[Tensor, "B members"]:
        value = (features * self.weight).sum(-1) + self.bias
        return torch.tanh(value) if self.tanh else value

    def clips(
        self, features: Float[Tensor, "B groups F"], x: Float[Tensor, "B ..."], place: Int64[Tensor, "C L"]
    ) -> Float[Tensor, "C members"]:
        """Score of clips whose rows are at `place`."""
        del x
        return self.pool(self._value(features)[place], (place != NO_ROW)[:, :, None])


class AdvantageHead(nn.Module):
    """Sum over rows of alpha log pi(action | observation) without its constant, pi Gaussian of unit deviation.

    alpha, the judge's temperature, is learned. The trunk sees the observation alone; `x` holds the action behind it.
    """

    def __init__(self, members: int, features: int, *, actions: int) -> None:
        super().__init__()
        self.actions = actions
        self.weight = nn.Parameter(torch.zeros(members, features, actions))
        self.bias = nn.Parameter(torch.zeros(members, actions))
        self.log_alpha = nn.Parameter(torch.full((members,), math.log(0.1)))

    def rows(
        self, features: Float[Tensor, "B groups F"], x: Float[Tensor, "B D"], first: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B members"]:
        """Advantage of each row, at most 0."""
        del first
        return self._advantage(features, x)

    def _advantage(self, features: Float[Tensor, "B groups F"], x: Float[Tensor, "B D"]) -> Float[Tensor, "B members"]:
        features = features.expand(-1, len(self.weight), -1)
        mean = torch.einsum("bmf,mfa->bma", features, self.weight) + self.bias
        return -0.5 * self.log_alpha.exp() * (x[:, None, -self.actions :] - mean).square().sum(-1)

    def clips(
        self, features: Float[Tensor, "B groups F"], x: Float[Tensor, "B D"], place: Int64[Tensor, "C L"]
    ) -> Float[Tensor, "C members"]:
        """Score of clips whose rows are at `place`."""
        return partial_return(self._advantage(features, x)[place], (place != NO_ROW)[:, :, None])


class SegmentHead(nn.Module):
    """Linear in mean, maximum and last of the features of a clip's rows."""

    window: Tensor

    def __init__(self, members: int, features: int, *, window: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(members, 3 * features) / (3 * features) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(members))
        self.register_buffer("window", torch.tensor(window))

    def rows(
        self, features: Float[Tensor, "B groups F"], x: Float[Tensor, "B ..."], first: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B members"]:
        """Score of the window that ends at each row and does not reach before `first`, its episode's first row."""
        place = torch.arange(len(features))[:, None] - torch.arange(int(self.window))
        return self.clips(features, x, torch.where(place < first[:, None], NO_ROW, place).flip(1))

    def clips(
        self, features: Float[Tensor, "B groups F"], x: Float[Tensor, "B ..."], place: Int64[Tensor, "C L"]
    ) -> Float[Tensor, "C members"]:
        """Score of clips whose rows are at `place`."""
        del x
        valid = (place != NO_ROW)[:, :, None, None]
        own = features[place]
        most = own.masked_fill(~valid, -torch.inf).amax(1)
        pooled = torch.cat([mean_return(own, valid), most, last(own, valid)], dim=-1)
        return (pooled * self.weight).sum(-1) + self.bias


def partial_return(values: Float[Tensor, "C L ..."], valid: Bool[Tensor, "C L ..."]) -> Float[Tensor, "C ..."]:
    """Sum over a clip's rows."""
    return (values * valid).sum(1)


def mean_return(values: Float[Tensor, "C L ..."], valid: Bool[Tensor, "C L ..."]) -> Float[Tensor, "C ..."]:
    """Mean over a clip's rows."""
    return (values * valid).sum(1) / valid.sum(1)


def last(values: Float[Tensor, "C L ..."], valid: Bool[Tensor, "C L ..."]) -> Float[Tensor, "C ..."]:
    """The clip's last row."""
    place = torch.arange(valid.shape[1]).reshape(-1, *[1] * (valid.dim() - 2))
    end = (valid * place).amax(1).flatten()
    return values[torch.arange(len(values)), end]


POOLS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "last": last,
    "mean_return": mean_return,
    "partial_return": partial_return,
}
"""Preference models whose score is made of the rows' rewards alone."""

MODELS = (*POOLS, "regret", "segment")


Head = RowHead | AdvantageHead | SegmentHead


def build(model: str, *, members: int, features: int, tanh: bool, actions: int, window: int) -> Head:
    """The head of a preference model, with fresh weights from torch's global generator.

    `actions` is how many trailing columns of a row are an action, `window` the rows of the longest clip.

    Raises:
        ConfigError: if there is no such model, or it does not go with the rest.
    """
    if tanh and model not in POOLS:
        raise ConfigError(f"reward.tanh bounds the reward of a row, of which model {model!r} is not made")
    if model in POOLS:
        return RowHead(members, features, pool=model, tanh=tanh)
    if model == "segment":
        return SegmentHead(members, features, window=window)
    if model == "regret":
        if not actions:
            raise ConfigError("reward.model=regret judges actions: it needs reward.input=state_action")
        return AdvantageHead(members, features, actions=actions)
    raise unknown("preference model", model, MODELS)
