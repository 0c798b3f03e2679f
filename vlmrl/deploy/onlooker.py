"""A learned reward that looks on: once a second, in a process of its own, it says what it makes of the last picture.

Nothing the robot does depends on it.
"""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from jaxtyping import UInt8

from vlmrl.deploy.child import Child, Wire
from vlmrl.deploy.node import Node
from vlmrl.deploy.state import State
from vlmrl.errors import ConfigError, VlmrlError
from vlmrl.reward.preference import PreferenceReward
from vlmrl.store.video import resize
from vlmrl.types import Episode, Frames

_EVERY_S = 1.0
_LOAD_S = 120.0

Seen = tuple[Mapping[str, np.ndarray], Mapping[str, UInt8[np.ndarray, "H W 3"]]]
"""An observation, and the latest picture of each camera."""


class Onlooker:
    """Tells the node what a reward model thinks; an operator that says nothing."""

    def __init__(self, folder: str) -> None:
        """Load the model.

        Raises:
            VlmrlError: if it cannot be loaded.
            ConfigError: if it judges actions or stored embeddings: there are none of what is under way.
        """
        self._child = Child(_serve, folder)
        said = self._child.wait(_LOAD_S)
        if not isinstance(said, dict):
            self._child.close()
            raise said or ConfigError(f"reward={folder} was not loaded within {_LOAD_S:.0f} s")
        self._cameras: Mapping[str, tuple[int, int]] = said
        self._asked, self._busy = -np.inf, False

    def attend(self, node: Node) -> None:
        """Pass on what was said, and once a second show how things are."""
        if (said := self._child.hear()) is not None:
            self._busy = False
            node.reward = cast("tuple[float, float]", said)
        if node.state is not State.RUNNING:
            node.reward = None
            return
        if self._busy or node.time - self._asked < _EVERY_S or (seen := self._seen(node)) is None:
            return
        self._asked, self._busy = node.time, True
        self._child.send(seen)

    def _seen(self, node: Node) -> Seen | None:
        """What the model looks at, small enough for a pipe; None where a camera has given nothing yet."""
        scene, latest = node.episodes.scene, {feed.name: feed.latest for feed in node.episodes.feeds}
        pictures = {name: latest.get(name) for name in self._cameras}
        if scene is None or any(picture is None for picture in pictures.values()):
            return None
        shown = {name: resize(p.pixels, self._cameras[name]) for name, p in pictures.items() if p is not None}
        return dict(scene.observe()), shown

    def close(self) -> None:
        """End the process."""
        self._child.close()


def _serve(pipe: Wire, folder: str) -> None:
    """Load the model, say which cameras it wants at which size, and judge what comes."""
    try:
        model = PreferenceReward.from_pretrained(folder)
        pipe.send(looks_at(model))
    except VlmrlError as error:
        pipe.send(error)
        return
    while True:
        pipe.send(judged(model, *cast("Seen", pipe.recv())))


def looks_at(model: PreferenceReward) -> dict[str, tuple[int, int]]:
    """Cameras that a model looks at, with the height and width it wants.

    Raises:
        ConfigError: if it looks at something that the last moment of an episode does not have.
    """
    if model.config.input not in ("image", "state"):
        raise ConfigError(f"a reward that looks on has input image or state, found {model.config.input}")
    cameras = model.config.cameras or (model.camera,)
    size = (int(model.config.size[0]), int(model.config.size[1]))
    return dict.fromkeys(cameras, size) if model.config.input == "image" else {}


def judged(model: PreferenceReward, observation: Mapping[str, Any], pictures: Mapping[str, Any]) -> tuple[float, float]:
    """Mean and deviation of the reward of arriving at what is shown: the transition of an episode of two such rows."""
    rows = np.zeros(2, np.int32)
    episode = Episode(
        action=np.zeros((2, 1), np.float32),
        obs={key: np.repeat(np.asarray(value, np.float32)[None], 2, 0) for key, value in observation.items()},
        time=np.array([0.0, 1.0]),
        has_action=np.array([True, False]),
        has_next=np.array([True, False]),
        terminated=False,
        truncated=True,
        task="",
        instruction="",
        source="",
        images={name: Frames(np.array(picture)[None], rows) for name, picture in pictures.items()},
    )
    mean, std = model.reward(episode)
    return float(mean[0]), float(std[0])
