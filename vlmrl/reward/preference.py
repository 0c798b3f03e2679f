"""Reward learned from preferences: an ensemble built from four choices, each a small table.

- `input`: what it looks at (`vlmrl.reward.inputs`);
- `model`: how numbers of rows make the score of a clip (`vlmrl.reward.heads`);
- `loss`: how wrong labels are dealt with (`vlmrl.reward.losses`);
- `trunk`: whether members are networks of their own (`vlmrl.reward.network`).

The default is RL-VLM-F's: Bradley-Terry on single frames and a network of four convolutions and a linear layer, with
three changes. The output is linear: most pairs compare something with nothing, and a tanh then saturates at the first
sign of progress (on drawer_open at 30 % of the way), which leaves no reward for going on; `tanh` brings it back.
Pictures are brought to 64x64. Each member has its own initial weights and its own bootstrap of the labels.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64

from vlmrl import config as configuration
from vlmrl.artefact import load, save
from vlmrl.errors import DataError
from vlmrl.reward import network as networks
from vlmrl.reward.alignment import on_next_row
from vlmrl.reward.inputs import Source, load_input
from vlmrl.reward.network import Network, Shape, score
from vlmrl.reward.settings import Config
from vlmrl.reward.support import Support
from vlmrl.store import Store
from vlmrl.types import Episode

__all__ = ["Config", "PreferenceReward", "build", "source"]

KIND = "preference reward"
_CHUNK = 2048
"""Rows held at once, rounded up to whole episodes."""


def source(config: Config, camera: str) -> Source:
    """Where the configured input finds what it looks at; `camera` is the one that was judged."""
    return Source(config.cameras or ((camera,) if camera else ()), config.size, config.obs, config.encoder)


def build(
    config: Config, *, network: Network, shape: Shape, support: Support, camera: str, facts: Mapping[str, Any]
) -> "PreferenceReward":
    """The rewarder of a trained ensemble; `facts` is what is known of it: labels, snapshot, held-out accuracy."""
    return PreferenceReward(config, network, shape, support, camera=camera, facts=facts)


class PreferenceReward:
    """The trained ensemble as a rewarder of episodes and stores."""

    name = "preference"

    def __init__(
        self,
        config: Config,
        network: Network,
        shape: Shape,
        support: Support,
        *,
        camera: str,
        facts: Mapping[str, Any],
    ) -> None:
        """`camera` is the one that was judged, `facts` is what is known: labels, snapshot, held-out accuracy."""
        self.config, self.network, self.shape, self.support = config, network.eval(), shape, support
        self.camera, self.facts = camera, dict(facts)
        self.source, self._input = source(config, camera), load_input(config.input)

    @property
    def sees(self) -> tuple[str, tuple[int, int]] | None:
        """Camera and size of the pictures it judges, where that is one camera."""
        return (self.source.cameras[0], self.source.size) if self.config.input == "image" else None

    def reward(self, episode: Episode) -> tuple[Float32[np.ndarray, " T"], Float32[np.ndarray, " T"]]:
        """Mean and deviation over members, of what the next row shows or of the transition to it.

        Where the camera is slower than the robot, each member's reward is interpolated linearly between pictures.

        Raises:
            DataError: if the episode lacks what the input looks at.
        """
        rows, stack = self._input.of_episode(episode, self.source)
        return self._columns(self._aligned(rows, score(self.network, stack), episode.has_next))

    def column(self, store: Store) -> tuple[Float32[np.ndarray, " N"], Float32[np.ndarray, " N"]]:
        """The same for every episode of a store.

        Raises:
            DataError: if an episode has no row that the input can judge.
        """
        table, has_next = store.episodes, store.column("has_next")
        rows = self._input.rows(store, self.source)
        owner = table.of_row(rows)
        if missing := np.setdiff1d(np.arange(len(table)), owner).tolist():
            raise DataError(
                f"episode {table.id[missing[0]]!r} has no row that reward input {self.config.input!r} judges"
            )
        first = np.searchsorted(owner, owner)
        members = np.full((len(store), self.network.members), np.nan, np.float32)
        values = self._scored(store, rows, first)
        for start, stop, a, b in zip(
            table.start, table.stop, *np.searchsorted(rows, [table.start, table.stop]), strict=True
        ):
            members[start:stop] = self._aligned(rows[a:b] - start, values[a:b], has_next[start:stop])
        return self._columns(members)

    def outside(self, store: Store) -> tuple[Int64[np.ndarray, " M"], Float32[np.ndarray, " M"]]:
        """Rows that the input can judge, and how far from what it was trained on each lies: above 1 is outside."""
        rows = self._input.rows(store, self.source)
        parts = [self._outside(self._input.read(store, self.source, some)) for some in _chunks(rows)]
        return rows, np.concatenate(parts)

    @torch.inference_mode()
    def _outside(self, stack: np.ndarray) -> Float32[np.ndarray, " M"]:
        return self.support.outside(self.network.features(torch.from_numpy(stack)))

    def _scored(
        self, store: Store, rows: Int64[np.ndarray, " M"], first: Int64[np.ndarray, " M"]
    ) -> Float32[np.ndarray, "M members"]:
        """Scores of rows, read a bounded number at a time and never with half an episode."""
        starts = np.unique(first)
        cuts = [0]
        for start in starts[1:]:
            if start - cuts[-1] >= _CHUNK:
                cuts.append(int(start))
        parts = [
            score(self.network, self._input.read(store, self.source, rows[a:b]), first[a:b] - a)
            for a, b in zip(cuts, [*cuts[1:], len(rows)], strict=True)
        ]
        return np.concatenate(parts)

    def _aligned(
        self, rows: Int64[np.ndarray, " M"], values: Float32[np.ndarray, "M members"], has_next: np.ndarray
    ) -> np.ndarray:
        if self._input.NEXT:
            return on_next_row(rows, values, has_next)
        found = np.full((len(has_next), values.shape[1]), np.nan)
        found[rows] = values
        found[~has_next] = np.nan
        return found

    @staticmethod
    def _columns(members: np.ndarray) -> tuple[Float32[np.ndarray, " T"], Float32[np.ndarray, " T"]]:
        return members.mean(1).astype(np.float32), members.std(1).astype(np.float32)

    def provenance(self) -> Mapping[str, object]:
        """Settings and facts."""
        return {"camera": self.camera, "config": asdict(self.config), **self.facts}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config, weights and card."""
        config = {
            "camera": self.camera,
            "settings": asdict(self.config),
            "shape": asdict(self.shape),
            "facts": self.facts,
        }
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"support.{k}": v for k, v in self.support.state_dict().items()}
        save(Path(folder), kind=KIND, config=config, tensors=tensors, card=self.card())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "PreferenceReward":
        """Read a folder or hub repository written by `save_pretrained`.

        Raises:
            DataError: if it is damaged, or was written before a reward's input could be chosen.
        """
        content, tensors = load(folder, kind=KIND)
        if "shape" not in content:
            raise DataError(f"{folder} was saved by an earlier vlmrl: distill the same labels again, no answer is lost")
        config = configuration.build(Config, content["settings"], where="reward")
        shape = Shape(**content["shape"] | {"row": tuple(content["shape"]["row"])})
        network, support = networks.make(config, shape), Support(*tensors["support.mean"].shape)
        for module, prefix in ((network, "network."), (support, "support.")):
            module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        return cls(config, network, shape, support, camera=content["camera"], facts=content["facts"])

    def card(self) -> str:
        """What a reader must know before trusting it."""
        facts = "\n".join(f"- {key}: {value}" for key, value in self.facts.items())
        looks = f"camera `{', '.join(self.source.cameras)}`" if self.source.cameras else f"`{self.config.input}`"
        return (
            f"# Preference reward\n\nAn ensemble of {self.config.members} on {looks} (input {self.config.input}, model "
            f"{self.config.model}, loss {self.config.loss}), trained by vlmrl.\n\n{facts}\n"
        )


def _chunks(rows: Int64[np.ndarray, " M"]) -> list[Int64[np.ndarray, " _"]]:
    return [rows[k : k + _CHUNK] for k in range(0, len(rows), _CHUNK)]
