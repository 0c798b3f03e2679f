"""Policies that robomimic trained (Mandlekar et al. 2021): its checkpoints as ours, without pickle once converted.

The networks are robomimic's own, so that its package must be there to run them (`pip install 'vlmrl[robomimic]'`).
Each robot is asked by itself: what it does depends neither on its neighbours nor on how many there are.
"""

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from vlmrl.artefact import load, save
from vlmrl.errors import ConfigError, DataError

KIND = "robomimic policy"
_WANTED = ("model", "config", "algo_name", "shape_metadata")
_NORMAL = "normaliser/"


def library(name: str) -> Any:
    """A module of robomimic.

    Raises:
        ConfigError: if the package is not installed.
    """
    _torchvision()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return import_module(f"robomimic.{name}")
    except ModuleNotFoundError as error:
        raise ConfigError(f"robomimic is wanted: pip install 'vlmrl[robomimic]' ({error})") from error


def _torchvision() -> None:
    """Let torchvision be imported where its C library does not fit this torch: robomimic uses none of its operators."""
    try:
        import_module("torchvision")
    except RuntimeError:
        _OPERATORS.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _OPERATORS.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except ModuleNotFoundError:
        pass


_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")


@dataclass
class RobomimicPolicy:
    """Acts and proposes by one of robomimic's networks."""

    algorithm: Any
    """Its `Algo`, in evaluation mode."""
    name: str
    config: str
    """Its configuration, JSON."""
    shapes: Mapping[str, Any]
    """Its shape metadata."""
    normaliser: Mapping[str, Mapping[str, Float32[np.ndarray, "..."]]] = field(default_factory=dict)
    """Mean and deviation by observation key, where it was trained on normalised ones."""
    chunk: int = 1
    """Actions in a row that the network takes for one."""
    _chance: dict[int, np.random.Generator] = field(default_factory=dict, repr=False)
    _memory: dict[int, tuple[int, Any]] = field(default_factory=dict, repr=False)
    """Of recurrent networks, by robot: steps since the start, hidden state."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Observation keys that it reads."""
        return tuple(self.shapes["all_obs_keys"])

    @property
    def history(self) -> int:
        """Observations that it wants to be shown at once: those of a transformer's context."""
        return int(self.algorithm.algo_config.transformer.context_length) if self._transformer else 1

    @property
    def _transformer(self) -> bool:
        return type(self.algorithm).__name__.startswith("BC_Transformer")

    @property
    def _network(self) -> Any:
        nets = self.algorithm.nets
        return nets["policy"] if "policy" in nets else nets["actor"]

    def reset(self, mask: Bool[np.ndarray, " B"], instructions: Sequence[str], generator: np.random.Generator) -> None:
        """Forget what starting robots did, and take their chance from the generator."""
        for robot in np.flatnonzero(mask).tolist():
            self._chance[robot] = generator
            self._memory.pop(robot, None)

    def act(self, observations: Mapping[str, np.ndarray]) -> Float[np.ndarray, "B h A"]:
        """One action, or chunk, for each robot, as robomimic acts: with next to no noise."""
        made = [self._ask(k, one, None, self._chance[k]) for k, one in enumerate(self._seen(observations))]
        return self._parted(np.stack(made))[:, 0]

    def propose(
        self, observations: Mapping[str, np.ndarray], n: int, generators: Sequence[np.random.Generator]
    ) -> Float[np.ndarray, "B n h A"]:
        """Actions, or chunks, drawn from the learned distribution, `n` for each robot.

        Raises:
            ConfigError: if the network has none.
        """
        if not hasattr(self._network, "forward_train"):
            raise ConfigError(f"policy {self.name!r} is deterministic: it has no samples to choose from")
        made = [self._ask(k, one, n, generators[k]) for k, one in enumerate(self._seen(observations))]
        return self._parted(np.stack(made))

    def _parted(self, made: Float[np.ndarray, "B n hA"]) -> Float[np.ndarray, "B n h A"]:
        return made.reshape(*made.shape[:2], self.chunk, -1)

    def _seen(self, observations: Mapping[str, np.ndarray]) -> list[dict[str, Tensor]]:
        """Each robot's observation with a leading axis of one, normalised.

        Raises:
            DataError: if a key is missing.
        """
        if missing := [key for key in self.keys if key not in observations]:
            have = ", ".join(sorted(observations))
            raise DataError(f"policy {self.name!r} reads {missing[0]!r}; the observations are: {have}")
        seen: dict[str, Tensor] = {}
        for key in self.keys:
            value = np.asarray(observations[key], np.float32)
            if found := self.normaliser.get(key):
                value = (value - found["mean"]) / found["std"]
            seen[key] = torch.from_numpy(np.ascontiguousarray(value, np.float32))
        return [{key: value[k : k + 1] for key, value in seen.items()} for k in range(len(next(iter(seen.values()))))]

    def _ask(
        self, robot: int, seen: dict[str, Tensor], n: int | None, generator: np.random.Generator
    ) -> Float[np.ndarray, "n A"]:
        """One action as robomimic would act, or `n` from the distribution."""
        network, modes = self._network, library("utils.obs_utils").OBS_KEYS_TO_MODALITIES
        modes.update(dict.fromkeys(self.keys, "low_dim"))
        if hasattr(network, "low_noise_eval"):
            network.low_noise_eval = n is None
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator.integers(2**63)))
            if hasattr(network, "get_rnn_init_state"):
                found = self._step(robot, network, seen, drawn=n is not None)
            else:
                found = network(seen) if n is None else network.forward_train(seen)
            made = found if n is None else found.sample((n,))[:, 0]
            return (made[:, -1] if self._transformer else made).numpy()

    def _step(self, robot: int, network: Any, seen: dict[str, Tensor], *, drawn: bool) -> Any:
        """One step of a recurrent network, which starts anew after its horizon."""
        steps, state = self._memory.get(robot, (0, None))
        if steps % int(self.algorithm.algo_config.rnn.horizon) == 0:
            state = network.get_rnn_init_state(batch_size=1, device=torch.device("cpu"))
        found, state = (network.forward_train_step if drawn else network.forward_step)(seen, rnn_state=state)
        self._memory[robot] = steps + 1, state
        return found

    def save_pretrained(self, folder: str | Path) -> None:
        """Write configuration, weights and card as every other model."""
        # robomimic names some tensors twice; safetensors wants each in memory of its own.
        tensors = {key: value.clone() for key, value in self.algorithm.nets.state_dict().items()}
        tensors |= {
            f"{_NORMAL}{key}/{kind}": torch.from_numpy(np.asarray(value, np.float32))
            for key, pair in self.normaliser.items()
            for kind, value in pair.items()
        }
        content = {
            "name": self.name,
            "algorithm": self.algorithm.global_config.algo_name,
            "config": json.loads(self.config),
            "shapes": self.shapes,
            **({"chunk": self.chunk} if self.chunk > 1 else {}),
        }
        inputs = ", ".join(self.keys)
        card = f"# {self.name}\n\nA policy trained by robomimic's {content['algorithm']} on observations: {inputs}.\n"
        save(Path(folder), kind=KIND, config=content, tensors=tensors, card=card)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "RobomimicPolicy":
        """Read what `save_pretrained` wrote."""
        content, tensors = load(folder, kind=KIND)
        weights = {key: value for key, value in tensors.items() if not key.startswith(_NORMAL)}
        normaliser: dict[str, dict[str, Float32[np.ndarray, ...]]] = {}
        for key in tensors.keys() - weights.keys():
            name, _, kind = key.removeprefix(_NORMAL).rpartition("/")
            normaliser.setdefault(name, {})[kind] = tensors[key].numpy()
        text = json.dumps(content["config"])
        algorithm = build(content["algorithm"], text, content["shapes"], weights)
        return cls(algorithm, content["name"], text, content["shapes"], normaliser, content.get("chunk", 1))

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> "RobomimicPolicy":
        """Read a `.pth` file that robomimic saved; nothing in it is run.

        Raises:
            DataError: if it is missing, damaged, of another kind, or holds more than numbers and text.
            ConfigError: if it looks at pictures, plans for goals or runs its recurrent network open loop.
        """
        place = Path(path)
        if not place.is_file():
            raise DataError(f"{place} is missing; wanted a checkpoint of robomimic (.pth)")
        try:
            content = torch.load(place, map_location="cpu", weights_only=True)
        except Exception as error:  # torch gives no names to all that can be wrong with a file
            raise DataError(f"{place} cannot be read as numbers and text alone: {error}") from error
        if not isinstance(content, dict) or any(key not in content for key in _WANTED):
            found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
            raise DataError(f"{place} is no checkpoint of robomimic: {', '.join(_WANTED)} wanted, found {found}")
        normaliser = {
            key: {kind: np.asarray(value, np.float32)[0] for kind, value in pair.items()}
            for key, pair in (content.get("obs_normalization_stats") or {}).items()
        }
        for key, pair in (content.get("action_normalization_stats") or {}).items():
            if np.any(np.asarray(pair["scale"]) != 1) or np.any(np.asarray(pair["offset"]) != 0):
                raise DataError(f"{place}: its {key!r} are normalised, which is not undone here: train without that")
        shapes = json.loads(json.dumps(content["shape_metadata"]))
        algorithm = build(content["algo_name"], content["config"], shapes, content["model"])
        name = f"robomimic {algorithm.global_config.experiment.name}"
        return cls(algorithm, name, content["config"], shapes, normaliser)


def build(algorithm: str, config: str, shapes: Mapping[str, Any], weights: Mapping[str, Tensor] | None = None) -> Any:
    """Robomimic's algorithm from its name, configuration and shapes, with these weights, ready to act.

    Raises:
        ConfigError: if it does what a policy here cannot.
        DataError: if the weights do not fit.
    """
    settings = library("config").config_factory(algorithm, dic=json.loads(config))
    looks = [k for m in ("rgb", "depth", "scan") for k in settings.observation.modalities.obs.get(m, [])]
    goals = [k for keys in settings.observation.modalities.goal.values() for k in keys]
    if looks or goals:
        raise ConfigError(f"policies on low-dimensional observations without goals wanted, found {looks + goals}")
    if algorithm == "bc" and settings.algo.rnn.enabled and settings.algo.rnn.open_loop:
        raise ConfigError("recurrent policies that look at every observation wanted, this one runs open loop")
    factory = library("algo").algo_factory  # imported before the next line: it registers what that looks up
    with contextlib.redirect_stdout(io.StringIO()):
        library("utils.obs_utils").initialize_obs_utils_with_config(settings)
        made = factory(
            algo_name=algorithm,
            config=settings,
            obs_key_shapes=shapes["all_shapes"],
            ac_dim=shapes["ac_dim"],
            device=torch.device("cpu"),
        )
    if weights is not None:
        try:
            made.deserialize(dict(weights))
        except (RuntimeError, KeyError) as error:
            raise DataError(f"weights do not fit robomimic's {algorithm}: {error}") from error
        made.set_eval()
    return made
