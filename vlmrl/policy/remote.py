"""A policy on another machine, through the openpi websocket protocol.

Any server of that protocol is asked for one chunk at a time. One of ours takes many observations at once and draws
several chunks for each: the request names `vlmrl/samples` and a seed for each observation, so that what comes back
depends on the seeds alone, neither on the connection nor on who else is asking.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from vlmrl.errors import ConfigError, DataError
from vlmrl.policy import wire
from vlmrl.sight import PREFIX

VARIABLE = "VLMRL_POLICY_TOKEN"
"""Environment variable with the client's token."""


class RemotePolicy:
    """Acts and proposes by asking the server at `ws://HOST:PORT`."""

    def __init__(self, url: str, *, token: str | None = None, timeout_s: float = 10.0) -> None:
        """Connect; the token is that of the environment unless given.

        Raises:
            ConfigError: if the server refuses the token.
            DataError: if no policy server answers in time.
        """
        client, errors = wire.library("websockets.sync.client"), wire.library("websockets.exceptions")
        token = os.environ.get(VARIABLE, "") if token is None else token
        headers = {"Authorization": f"Api-Key {token}"} if token else None
        self.url, self.timeout_s, self._held = url, timeout_s, ExitStack()
        try:
            connection = client.connect(
                url,
                additional_headers=headers,
                compression=None,
                max_size=wire.LARGEST,
                open_timeout=timeout_s,
                proxy=None,
            )
            self._socket = self._held.enter_context(connection)
        except errors.InvalidStatus as error:
            if error.response.status_code == 401:
                raise ConfigError(f"{url} refuses the token; set {VARIABLE} to the right one") from error
            raise DataError(f"{url} refuses the connection: {error}") from error
        except (OSError, errors.WebSocketException) as error:
            hint = "vlmrl serve policy=FOLDER starts one"
            raise DataError(f"no policy server answers at {url} ({error or type(error).__name__}); {hint}") from error
        self.metadata = wire.unpack(self._receive())
        ours: Any = self.metadata.get(wire.OURS)
        self._facts: Mapping[str, Any] | None = ours if isinstance(ours, dict) else None
        self.history = int(self._facts["history"]) if self._facts else 1
        self.name = str(self._facts["name"]) if self._facts else f"policy at {url}"
        keys = self._facts["keys"] if self._facts else ()
        self.cameras = tuple(str(key).removeprefix(PREFIX) for key in keys if str(key).startswith(PREFIX))
        self._chance: dict[int, np.random.Generator] = {}
        self._instructions: dict[int, str] = {}

    @property
    def about(self) -> Mapping[str, Any]:
        """What a server of ours says of the policy's training data: keys, columns with names and units, normaliser."""
        return self._facts.get("about", {}) if self._facts else {}

    @property
    def weights(self) -> str:
        """What tells this policy from others: the hash of its weights where the server says it."""
        return str(self._facts["weights"]) if self._facts else self.url

    def close(self) -> None:
        """End the connection."""
        self._held.close()

    def reset(self, mask: Bool[np.ndarray, " B"], instructions: Sequence[str], generator: np.random.Generator) -> None:
        """Take each starting robot's sentence, and its chance from the generator."""
        for place in np.flatnonzero(mask).tolist():
            self._chance[place] = generator
            self._instructions[place] = instructions[place] if place < len(instructions) else ""

    def act(self, observations: Mapping[str, np.ndarray]) -> Float[np.ndarray, "B h A"]:
        """The server's chunk for each observation."""
        count = len(next(iter(observations.values())))
        return self._asked(observations, 0, [self._chance[k] for k in range(count)])[:, 0]

    def propose(
        self, observations: Mapping[str, np.ndarray], n: int, generators: Sequence[np.random.Generator]
    ) -> Float[np.ndarray, "B n h A"]:
        """Chunks, `n` for each observation, in one request to a server of ours.

        Raises:
            DataError: if the server refuses the request, does not answer in time, or answers nonsense.
        """
        return self._asked(observations, n, generators)

    def _asked(
        self, observations: Mapping[str, np.ndarray], n: int, generators: Sequence[np.random.Generator]
    ) -> Float[np.ndarray, "B n h A"]:
        if self._facts is None:
            return self._one_by_one(observations, max(n, 1))
        seen = {key: value for key, value in observations.items() if key in self._facts["keys"]}
        seeds = np.array([generator.integers(2**63) for generator in generators], np.int64)
        chunks = self._actions({**seen, wire.SEEDS: seeds, wire.SAMPLES: n})
        chunks = chunks if n else chunks[:, None]
        if chunks.ndim != 4 or chunks.shape[:2] != (len(seeds), max(n, 1)):
            raise DataError(
                f"{self.url}: {max(n, 1)} chunks for {len(seeds)} observations wanted, found {chunks.shape}"
            )
        return chunks

    def _one_by_one(self, observations: Mapping[str, np.ndarray], n: int) -> Float[np.ndarray, "B n h A"]:
        count = len(next(iter(observations.values())))
        found = [
            self._actions(
                {"prompt": self._instructions.get(k, ""), **{key: value[k] for key, value in observations.items()}}
            )
            for k in range(count)
            for _ in range(n)
        ]
        if wrong := [chunk.shape for chunk in found if chunk.ndim != 2 or chunk.shape != found[0].shape]:
            raise DataError(f"{self.url}: chunks of one shape (H, A) wanted, found {wrong[0]}")
        return np.stack(found).reshape(count, n, *found[0].shape)

    def _actions(self, content: Mapping[str, Any]) -> Float[np.ndarray, "..."]:
        errors = wire.library("websockets.exceptions")
        try:
            self._socket.send(wire.pack(content))
        except errors.ConnectionClosed as error:
            raise DataError(f"{self.url} has closed the connection: {error}") from error
        actions = wire.unpack(self._receive()).get("actions")
        if not isinstance(actions, np.ndarray) or not np.isfinite(actions).all():
            raise DataError(f"{self.url}: a reply with finite `actions` wanted, found {type(actions).__name__}")
        return actions.astype(np.float32)

    def _receive(self) -> bytes | str:
        errors = wire.library("websockets.exceptions")
        try:
            message = self._socket.recv(timeout=self.timeout_s)
        except (TimeoutError, errors.ConnectionClosed) as error:
            # An answer that comes later would be taken for that to the next question.
            self.close()
            raise DataError(f"{self.url} gave no answer: {error or f'none in {self.timeout_s:g} s'}") from error
        if isinstance(message, str):
            raise DataError(f"{self.url} says: {message}")
        return message
