"""Mixtures of Gaussians over actions, seen from one observation or through an LSTM over several.

BC-GMM and BC-RNN of robomimic (Mandlekar et al. 2021, arXiv 2108.03298): tanh means, deviations and shares of each mode
from the network. Different: the LSTM runs over the latest `history` observations anew at each step, and learns the
action of the last of them only, so that it sees in training what it sees when it acts.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlmrl.nn import Actor, Normaliser, StackedMLP, saved_normaliser
from vlmrl.vision import Eyes, eyes_settings, saved_eyes

LAYERS = 2
"""Of the LSTM."""


class MixtureActor(nn.Module):
    """Draws a mode, then an action of it; without chance, the mean of the likeliest mode. Both normalisers inside."""

    KIND: ClassVar[str] = "mixture policy"
    acts_without_chance = True
    chooses = True

    def __init__(
        self,
        observation: Normaliser,
        action: Normaliser,
        *,
        hidden: Sequence[int],
        layer_norm: bool,
        modes: int,
        history: int,
        recurrent: int,
        proposes: bool,
        generator: torch.Generator,
        eyes: Eyes | None = None,
    ) -> None:
        super().__init__()
        self.observation, self.action, self.eyes = observation, action, eyes
        self.modes, self.history, self.proposes = modes, history, proposes
        width, count = len(observation.shift), len(action.shift)
        self.chance = (count + 1,)
        """Of the action, and last of the mode."""
        self._settings = {"hidden": list(hidden), "layer_norm": layer_norm, "modes": modes, "history": history}
        self._settings |= {"recurrent": recurrent, "proposes": proposes}
        self.memory = None
        if recurrent:
            # torch draws initial weights from its global generator only: give it a state of ours, and its own back.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
                self.memory = nn.LSTM(width, recurrent, LAYERS, batch_first=True)
        sizes = (recurrent or width * history, *hidden, modes * (2 * count + 1))
        self.net = StackedMLP(1, sizes, layer_norm=layer_norm, generator=generator)

    def modes_of(
        self, obs: Float[Tensor, "B D"], dtype: torch.dtype = torch.float32
    ) -> tuple[Float[Tensor, "B K A"], Float[Tensor, "B K A"], Float[Tensor, "B K"]]:
        """Means, logarithms of deviations and of shares, in the network's units as `obs` is; D counts all history."""
        if self.memory is not None:
            obs = self.memory(obs.unflatten(1, (self.history, -1)))[0][:, -1]
        out, size = self.net(obs, dtype)[0], self.modes * len(self.action.shift)
        mean, spread = (part.unflatten(1, (self.modes, -1)) for part in (out[:, :size], out[:, size : 2 * size]))
        log_std = spread.clamp(*Actor.LOG_STD) if self.proposes else torch.zeros_like(spread)
        return torch.tanh(mean), log_std, out[:, 2 * size :].log_softmax(1)

    def log_prob(
        self, obs: Float[Tensor, "B D"], action: Float[Tensor, "B A"], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, " B"]:
        """Log-density of actions, all in the network's units."""
        mean, log_std, log_share = self.modes_of(obs, dtype)
        z = (action[:, None] - mean) * torch.exp(-log_std)
        return (log_share - (0.5 * z.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)).logsumexp(1)

    @torch.inference_mode()
    def draw(self, obs: Float[Tensor, "B D"], chance: Float[Tensor, "B C"]) -> Float[Tensor, "B 1 A"]:
        """One action for each observation, kept within the data's range, in the data's units."""
        seen = self.observation.apply_to(obs.unflatten(1, (self.history, -1))).flatten(1)
        mean, log_std, log_share = self.modes_of(seen)
        below, place = log_share.exp().cumsum(1), torch.special.ndtr(chance[:, -1:])
        drawn = (below <= place * below[:, -1:]).sum(1).clamp(max=self.modes - 1)
        mode = torch.where(chance[:, -1] == 0, log_share.argmax(1), drawn)
        rows = torch.arange(len(obs))
        action = mean[rows, mode] + log_std[rows, mode].exp() * chance[:, :-1]
        return self.action.invert(action.clamp(-1, 1))[:, None]

    def settings(self) -> dict[str, Any]:
        """Sizes of the network."""
        return self._settings | eyes_settings(self.eyes)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "MixtureActor":
        """The policy that was saved."""
        keys = ("hidden", "layer_norm", "modes", "history", "recurrent", "proposes")
        observation, action = (saved_normaliser(tensors, name) for name in ("observation", "action"))
        own, eyes = {key: settings[key] for key in keys}, saved_eyes(settings)
        actor = cls(observation, action, **own, generator=torch.Generator(), eyes=eyes)
        actor.load_state_dict(tensors)
        return actor
