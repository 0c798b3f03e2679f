"""`vlmrl serve`: a client written from openpi's documentation, batched sampling, and whoever means no good."""

import asyncio
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest

pytest.importorskip("websockets", reason="pip install 'vlmrl[remote]'")
msgpack = pytest.importorskip("msgpack", reason="pip install 'vlmrl[remote]'")

from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402
from websockets.sync.client import ClientConnection, connect  # noqa: E402

from tests.test_learn import bandit  # noqa: E402
from tests.test_learners import seeded  # noqa: E402
from vlmrl.annotate.people.tokens import Tokens  # noqa: E402
from vlmrl.cli.serve_policy import ServePolicyConfig, serve  # noqa: E402
from vlmrl.deploy.inference import About  # noqa: E402
from vlmrl.deploy.policy_server import Limits, PolicyServer  # noqa: E402
from vlmrl.errors import ConfigError, DataError  # noqa: E402
from vlmrl.evaluate.candidates import Candidate  # noqa: E402
from vlmrl.learn import bc, flow  # noqa: E402
from vlmrl.policy import LearnedPolicy, RemotePolicy, RerankedPolicy, UniformPolicy, wire  # noqa: E402

TOKEN = "a-token-of-some-length"


def packed(value: Any) -> Any:
    """As openpi-client packs arrays."""
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    return value


def unpacked(value: dict[Any, Any]) -> Any:
    """As openpi-client unpacks them."""
    if b"__ndarray__" in value:
        return np.ndarray(buffer=value[b"data"], dtype=np.dtype(value[b"dtype"]), shape=value[b"shape"])
    return value


def opened(port: int, **given: Any) -> ClientConnection:
    """A connection that the test closes."""
    return connect(f"ws://127.0.0.1:{port}", compression=None, max_size=None, proxy=None, **given).__enter__()


class OpenpiClient:
    """Connects, takes the metadata, then `infer`s one observation at a time: docs/remote_inference.md of openpi."""

    def __init__(self, port: int, api_key: str | None = None) -> None:
        headers = {"Authorization": f"Api-Key {api_key}"} if api_key else None
        self.socket = opened(port, additional_headers=headers)
        self.metadata = msgpack.unpackb(self.socket.recv(), object_hook=unpacked)

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        self.socket.send(msgpack.packb(observation, default=packed))
        reply = self.socket.recv()
        if isinstance(reply, str):
            raise RuntimeError(reply)
        return msgpack.unpackb(reply, object_hook=unpacked)


def cloned(**changes: Any) -> LearnedPolicy:
    config = bc.Config(hidden=(8,), **changes)
    return LearnedPolicy(bc.policy(bc.init(config, bandit(16), generator=seeded())), "cloned")


def flowing() -> LearnedPolicy:
    """Sees two observations, acts two steps, draws what it does."""
    config = flow.Config(hidden=(8,), time_width=8, history=2, horizon=4, execute=2, steps=2)
    return LearnedPolicy(flow.policy(flow.init(config, bandit(16), generator=seeded())), "flowing")


@contextmanager
def serving(
    policy: Any,
    *,
    tokens: Mapping[str, str] | None = None,
    keys: tuple[str, ...] = ("state",),
    port: int = 0,
    **limits: Any,
) -> Generator[int]:
    """The port of a server that runs in a thread."""
    server = PolicyServer(policy, keys, weights="w", tokens=Tokens(tokens or {}), limits=Limits(**limits))
    ready, found = threading.Event(), dict[str, Any]()

    def told(port: int) -> None:
        found["port"] = port
        ready.set()

    async def run() -> None:
        found["loop"], found["task"] = asyncio.get_running_loop(), asyncio.current_task()
        await server.run("127.0.0.1", port, ready=told)

    def thread() -> None:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(run())

    worker = threading.Thread(target=thread)
    worker.start()
    assert ready.wait(60)
    try:
        yield found["port"]
    finally:
        found["loop"].call_soon_threadsafe(found["task"].cancel)
        worker.join(60)
        assert not worker.is_alive()


STATE = np.array([0.5, -1.0, 2.0], np.float32)


def test_a_client_of_openpi_gets_the_policy_s_chunk() -> None:
    policy = cloned()
    with serving(policy) as port:
        client = OpenpiClient(port)
        reply = client.infer({"observation/state": STATE, "prompt": "do it"})
        again = client.infer({"state": STATE.astype(np.float64), "prompt": "do it"})
        with urlopen(f"http://127.0.0.1:{port}/healthz") as page:
            assert page.read() == b"OK\n"
        client.socket.close()
    assert client.metadata["vlmrl"]["keys"] == ["state"]
    wanted = policy.act({"state": STATE[None]})[0]
    np.testing.assert_array_equal(reply["actions"], wanted)
    np.testing.assert_array_equal(again["actions"], wanted)
    assert reply["server_timing"]["infer_ms"] > 0


def test_a_connection_remembers_its_latest_observations() -> None:
    policy, seen = flowing(), list[np.ndarray]()
    draw = policy.actor.draw
    policy.actor.draw = lambda obs, chance: seen.append(obs[0].numpy().copy()) or draw(obs, chance)  # type: ignore[method-assign,func-returns-value]
    with serving(policy) as port:
        first, second = OpenpiClient(port), OpenpiClient(port)
        shapes = [
            client.infer({"state": k * STATE})["actions"].shape for k, client in ((1, first), (2, first), (3, second))
        ]
        for client in (first, second):
            client.socket.close()
    assert shapes == [(2, 1)] * 3
    for found, (before, now) in zip(seen, ((1, 1), (1, 2), (3, 3)), strict=True):
        np.testing.assert_array_equal(found, np.concatenate([before * STATE, now * STATE]))


def test_a_remote_policy_proposes_many_chunks_in_one_request_and_as_its_seeds_say() -> None:
    policy, count = flowing(), [0]
    propose = policy.propose

    def counted(*given: Any) -> np.ndarray:
        count[0] += 1
        return propose(*given)

    policy.propose = counted  # type: ignore[method-assign]
    observations = {"state": np.arange(18, dtype=np.float32).reshape(3, 2, 3)}
    with serving(policy) as port:
        remote = RemotePolicy(f"ws://127.0.0.1:{port}")
        assert (remote.history, remote.name, remote.weights) == (2, "flowing", "w")
        found = remote.propose(observations, 5, [np.random.default_rng(k) for k in range(3)])
        seeds = [int(np.random.default_rng(k).integers(2**63)) for k in range(3)]
        alone = remote.propose({"state": observations["state"][1:2]}, 5, [np.random.default_rng(1)])
        assert count[0] == 2
        for k in range(3):
            remote.reset(np.arange(3) == k, [""] * 3, np.random.default_rng(k))
        acted = remote.act(observations)
        reranked = RerankedPolicy(remote, First(), samples=4)
        reranked.reset(np.ones(3, bool), [""] * 3, np.random.default_rng(0))
        assert reranked.act(observations).shape == (3, 2, 1)
        remote.close()
    np.testing.assert_array_equal(found, propose(observations, 5, [np.random.default_rng(s) for s in seeds]))
    np.testing.assert_array_equal(alone[0], found[1])
    np.testing.assert_array_equal(acted, propose(observations, 1, [np.random.default_rng(s) for s in seeds])[:, 0])


class First:
    """Likes the first."""

    name = "first"

    def value(self, observations: Mapping[str, np.ndarray], actions: np.ndarray) -> np.ndarray:
        return -np.arange(actions.shape[1]) * np.ones(actions.shape[:2])


def test_a_wrong_token_and_a_page_in_a_browser_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(cloned(), tokens={"arm": TOKEN}) as port:
        for wrong in (None, "a-token-of-another-kind"):
            with pytest.raises(InvalidStatus, match="401"):
                OpenpiClient(port, wrong)
        client = OpenpiClient(port, TOKEN)
        assert client.infer({"state": STATE})["actions"].shape == (1, 1)
        client.socket.close()
        with pytest.raises(InvalidStatus, match="403"):
            opened(
                port,
                origin="http://evil.example",
                additional_headers={"Authorization": f"Api-Key {TOKEN}"},
            )
        monkeypatch.setenv("VLMRL_POLICY_TOKEN", "wrong-wrong-wrong-wrong")
        with pytest.raises(ConfigError, match="VLMRL_POLICY_TOKEN"):
            RemotePolicy(f"ws://127.0.0.1:{port}")
        monkeypatch.setenv("VLMRL_POLICY_TOKEN", TOKEN)
        candidate = Candidate(f"ws://127.0.0.1:{port}")
        assert candidate.key() == {"policy": "saved", "weights": "w"}
        candidate.saved().close()  # type: ignore[union-attr]


MALFORMED: dict[str, Any] = {
    "text": "hello",
    "noise": b"\xc1\xff\x00",
    "half": msgpack.packb({"state": STATE.tolist()})[:-2],
    "list": msgpack.packb([1, 2]),
    "missing": msgpack.packb({"prompt": "do it"}),
    "objects": msgpack.packb({"state": {b"__ndarray__": True, b"data": b"x" * 8, b"dtype": "|O", b"shape": [1]}}),
    "short": msgpack.packb({"state": {b"__ndarray__": True, b"data": b"x", b"dtype": "<f4", b"shape": [3]}}),
    "huge": msgpack.packb({"state": {b"__ndarray__": True, b"data": b"x", b"dtype": "<f4", b"shape": [2**60]}}),
    "nan": msgpack.packb({"state": np.full(3, np.nan, np.float32)}, default=packed),
    "width": msgpack.packb({"state": np.zeros(4, np.float32)}, default=packed),
    "rank": msgpack.packb({"state": np.zeros((2, 2, 3), np.float32)}, default=packed),
    "greedy": msgpack.packb(
        {"state": np.zeros((2, 3), np.float32), wire.SEEDS: np.zeros(2, np.int64), wire.SAMPLES: 10**9}, default=packed
    ),
    "counts": msgpack.packb({"state": np.zeros((2, 3), np.float32), wire.SEEDS: np.zeros(1, np.int64)}, default=packed),
    "negative": msgpack.packb(
        {"state": np.zeros((1, 3), np.float32), wire.SEEDS: np.full(1, -1, np.int64)}, default=packed
    ),
}


def test_a_malformed_or_oversized_message_is_told_and_harms_nobody_else() -> None:
    with serving(cloned(), message_bytes=10_000) as port:
        good = OpenpiClient(port)
        for name, message in MALFORMED.items():
            bad = OpenpiClient(port)
            bad.socket.send(message)
            reply = bad.socket.recv()
            assert isinstance(reply, str), name
            assert reply.startswith("vlmrl: "), name
            with pytest.raises(ConnectionClosed, match="1007"):
                bad.socket.recv()
            assert good.infer({"state": STATE})["actions"].shape == (1, 1), name
        bad = OpenpiClient(port)
        bad.socket.send(b"x" * 20_000)
        with pytest.raises(ConnectionClosed, match="1009"):
            bad.socket.recv()
        assert good.infer({"state": STATE})["actions"].shape == (1, 1)
        good.socket.close()


class Verbose:
    """Says 400 kB a time, enough to fill the buffers of both ends soon."""

    name = "verbose"

    def reset(self, mask: np.ndarray, instructions: Any, generator: np.random.Generator) -> None:
        pass

    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.zeros((len(observations["state"]), 100_000, 1), np.float32)


def test_a_client_that_does_not_read_is_dropped_and_others_are_served() -> None:
    with serving(Verbose(), send_s=0.3) as port:
        slow = opened(port, max_queue=1)
        message, dropped = msgpack.packb({"state": STATE}, default=packed), False
        deadline = time.monotonic() + 60
        while not dropped and time.monotonic() < deadline:
            try:
                slow.send(message)
            except ConnectionClosed:
                dropped = True
        good = OpenpiClient(port)
        assert good.infer({"state": STATE})["actions"].shape == (100_000, 1)
        good.socket.close()
        slow.close_socket()
    assert dropped


def test_fifty_clients_at_once_get_their_own_answers_and_one_more_is_told_to_wait() -> None:
    policy = cloned()
    with serving(policy, clients=50) as port:
        clients = [OpenpiClient(port) for _ in range(50)]
        with pytest.raises(InvalidStatus, match="503"):
            OpenpiClient(port)
        for turn in range(2):
            for k, client in enumerate(clients):
                client.socket.send(msgpack.packb({"state": (k + turn) * STATE}, default=packed))
            for k, client in enumerate(clients):
                reply = msgpack.unpackb(client.socket.recv(), object_hook=unpacked)
                np.testing.assert_array_equal(reply["actions"], policy.act({"state": (k + turn) * STATE[None]})[0])
        for client in clients:
            client.socket.close()


def test_another_server_of_the_protocol_is_asked_for_one_chunk_at_a_time() -> None:
    from websockets.sync.server import serve as listen

    asked = list[dict[str, Any]]()

    def other(socket: Any) -> None:
        socket.send(msgpack.packb({"model": "pi"}))
        for message in socket:
            asked.append(msgpack.unpackb(message, object_hook=unpacked))
            if len(asked) > 4:
                socket.send("Traceback: out of memory")
                return
            actions = np.full((5, 2), len(asked), np.float32)
            socket.send(msgpack.packb({"actions": actions}, default=packed))

    with listen(other, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        remote = RemotePolicy(f"ws://127.0.0.1:{server.socket.getsockname()[1]}")
        for k in range(2):
            remote.reset(np.arange(2) == k, ["left", "right"], np.random.default_rng(k))
        observations = {"state": np.stack([STATE, 2 * STATE])}
        found = remote.propose(observations, 2, [np.random.default_rng(k) for k in range(2)])
        assert found[..., 0, 0].tolist() == [[1, 2], [3, 4]]
        assert [one["prompt"] for one in asked] == ["left", "left", "right", "right"]
        np.testing.assert_array_equal(asked[2]["state"], 2 * STATE)
        with pytest.raises(DataError, match="out of memory"):
            remote.act(observations)
        remote.close()
        server.shutdown()
        thread.join()


def test_where_nobody_listens_and_where_anybody_could_it_says_what_to_do() -> None:
    with pytest.raises(DataError, match=r"no policy server answers at ws://127.0.0.1:9 .* vlmrl serve"):
        RemotePolicy("ws://127.0.0.1:9", timeout_s=2.0)
    with pytest.raises(ConfigError, match="clients need tokens"):
        serve(ServePolicyConfig("nowhere", bind="0.0.0.0"))


def test_arrays_survive_the_wire() -> None:
    content = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": np.float32(1.5), "c": {"d": np.zeros((0, 2))}}
    found = wire.unpack(wire.pack(content))
    np.testing.assert_array_equal(found["a"], content["a"])
    assert found["a"].dtype == np.int16
    assert found["b"] == np.float32(1.5)
    assert found["c"]["d"].shape == (0, 2)
    with pytest.raises(DataError, match="dtype object"):
        wire.pack({"a": np.array([{}])})


def test_a_client_learns_what_the_policy_was_trained_on() -> None:
    columns = {"action": {"names": ["x"], "units": ["m"]}}
    policy = LearnedPolicy(cloned().actor, "cloned", facts={"columns": columns})
    with serving(policy) as port, closing(RemotePolicy(f"ws://127.0.0.1:{port}")) as remote:
        mine, theirs = About.of(policy), About.of(remote)
    assert theirs.columns == columns
    assert theirs.keys == mine.keys
    np.testing.assert_allclose(theirs.shift, mine.shift)
    np.testing.assert_allclose(theirs.scale, mine.scale)
    with serving(UniformPolicy(1)) as port, closing(RemotePolicy(f"ws://127.0.0.1:{port}")) as remote:
        nothing = About.of(remote)
    assert nothing.trained
    assert not nothing.columns
