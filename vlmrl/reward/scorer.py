"""A trained ensemble and what it takes to apply it: numbers of the rows of episodes and of whole stores, by member."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from vlmrl import config as configuration
from vlmrl.errors import DataError
from vlmrl.reward import network as networks
from vlmrl.reward.alignment import on_next_row
from vlmrl.reward.inputs import Source, load_input
from vlmrl.reward.network import Network, Shape, score
from vlmrl.reward.settings import Config
from vlmrl.reward.support import Support
from vlmrl.store import Store
from vlmrl.types import Episode

_CHUNK = 2048
"""Rows held at once, rounded up to whole episodes."""


def source(config: Config, camera: str) -> Source:
    """Where the configured input finds what it looks at; `camera` is the one that was judged, if any."""
    return Source(config.cameras or ((camera,) if camera else ()), config.size, config.obs, config.encoder)


@dataclass(frozen=True)
class Scorer:
    """The ensemble's numbers of rows; row i is judged on what row i+1 shows, or on the transition to it."""

    config: Config
    network: Network
    shape: Shape
    support: Support
    camera: str

    @property
    def source(self) -> Source:
        """Where its input finds what it looks at."""
        return source(self.config, self.camera)

    @property
    def sees(self) -> tuple[str, tuple[int, int]] | None:
        """Camera and size of the pictures that it judges, if it looks at pixels."""
        return (self.source.cameras[0], self.source.size) if self.config.input == "image" else None

    def of_episode(self, episode: Episode) -> Float64[np.ndarray, "T members"]:
        """Numbers of an episode's rows, NaN where there is no next row.

        Where the camera is slower than the robot, they are interpolated linearly between pictures.

        Raises:
            DataError: if the episode lacks what the input looks at.
        """
        rows, stack = load_input(self.config.input).of_episode(episode, self.source)
        return self._aligned(rows, score(self.network, stack), episode.has_next)

    def of_store(self, store: Store) -> Float64[np.ndarray, "N members"]:
        """The same for every episode of a store.

        Raises:
            DataError: if an episode has no row that the input can judge.
        """
        table, has_next = store.episodes, store.column("has_next")
        rows = load_input(self.config.input).rows(store, self.source)
        owner = table.of_row(rows)
        if missing := np.setdiff1d(np.arange(len(table)), owner).tolist():
            about = f"episode {table.id[missing[0]]!r}"
            raise DataError(f"{about} has no row that reward input {self.config.input!r} judges")
        values = self._scored(store, rows, np.searchsorted(owner, owner))
        members = np.full((len(store), self.network.members), np.nan)
        bounds = np.searchsorted(rows, [table.start, table.stop])
        for start, stop, a, b in zip(table.start, table.stop, *bounds, strict=True):
            members[start:stop] = self._aligned(rows[a:b] - start, values[a:b], has_next[start:stop])
        return members

    def outside(self, store: Store) -> tuple[Int64[np.ndarray, " M"], Float32[np.ndarray, " M"]]:
        """Rows that the input can judge, and how far from what it was trained on each lies: above 1 is outside."""
        looks = load_input(self.config.input)
        rows = looks.rows(store, self.source)
        chunks = [rows[k : k + _CHUNK] for k in range(0, len(rows), _CHUNK)]
        return rows, np.concatenate([self._outside(looks.read(store, self.source, some)) for some in chunks])

    @torch.inference_mode()
    def _outside(self, stack: np.ndarray) -> Float32[np.ndarray, " M"]:
        return self.support.outside(self.network.features(torch.from_numpy(stack)))

    def _scored(
        self, store: Store, rows: Int64[np.ndarray, " M"], first: Int64[np.ndarray, " M"]
    ) -> Float32[np.ndarray, "M members"]:
        """Scores of rows, read a bounded number at a time and never half an episode."""
        cuts = [0]
        for start in np.unique(first).tolist():
            if start - cuts[-1] >= _CHUNK:
                cuts.append(start)
        looks, where = load_input(self.config.input), self.source
        parts = [
            score(self.network, looks.read(store, where, rows[a:b]), first[a:b] - a)
            for a, b in zip(cuts, [*cuts[1:], len(rows)], strict=True)
        ]
        return np.concatenate(parts)

    def _aligned(
        self, rows: Int64[np.ndarray, " M"], values: Float32[np.ndarray, "M members"], has_next: np.ndarray
    ) -> Float64[np.ndarray, "T members"]:
        if load_input(self.config.input).NEXT:
            return on_next_row(rows, values, has_next)
        found = np.full((len(has_next), values.shape[1]), np.nan)
        found[rows] = values
        found[~has_next] = np.nan
        return found

    def content(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What is saved of it: settings and tensors."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"support.{k}": v for k, v in self.support.state_dict().items()}
        return {"camera": self.camera, "settings": asdict(self.config), "shape": asdict(self.shape)}, tensors

    @classmethod
    def restored(cls, content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Scorer":
        """The scorer whose `content` this is.

        Raises:
            DataError: if it was saved before a reward's input could be chosen.
        """
        if "shape" not in content:
            raise DataError("saved by an earlier vlmrl: distill the same labels again, no answer is lost")
        config = configuration.build(Config, content["settings"], where="reward")
        shape = Shape(**content["shape"] | {"row": tuple(content["shape"]["row"])})
        network, support = networks.make(config, shape), Support(*tensors["support.mean"].shape)
        for module, prefix in ((network, "network."), (support, "support.")):
            module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        return cls(config, network.eval(), shape, support, content["camera"])
