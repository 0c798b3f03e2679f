"""`vlmrl serve`: answer clients of the openpi websocket protocol with a saved policy."""

import asyncio
from dataclasses import dataclass

from vlmrl.annotate.people.tokens import new_token, read_tokens
from vlmrl.cli.serve import is_loopback
from vlmrl.deploy.policy_server import Limits, PolicyServer
from vlmrl.errors import ConfigError
from vlmrl.evaluate.candidates import Candidate, Steering, weights
from vlmrl.policy import LearnedPolicy, LearnedValue, RerankedPolicy
from vlmrl.sight import PREFIX, embedding, named, sentence
from vlmrl.types import cameras

TOKENS = "VLMRL_SERVE_TOKENS"
"""Environment variable with the tokens of clients."""


@dataclass(frozen=True)
class ServePolicyConfig:
    """Settings of a policy server."""

    policy: str
    """Folder or hub id of a saved policy."""
    critic: str = ""
    """Folder or hub id of a critic that chooses among the policy's chunks."""
    samples: int = 10
    temperature: float = 0.0
    average: bool = False
    """Execute the mean of the chunks weighted by the softmax of their values at `temperature`, not one of them."""
    spread: float = 1.0
    """Scale of the chance behind the samples: less than 1 keeps them nearer to the policy's mean, which is what a clone
    of noisy logs is good at, and the critic where it has seen more."""
    bind: str = "127.0.0.1"
    """Address to listen at; another than this machine's own needs tokens."""
    port: int = 8000
    """0: a free one."""
    tokens: str | None = None
    """File with lines of NAME: TOKEN, mode 0600; null: the environment's VLMRL_SERVE_TOKENS, if any."""
    clients: int = 100
    """At the same time."""


def serve(config: ServePolicyConfig) -> None:
    """Serve until Ctrl-C.

    Raises:
        ConfigError: if other machines could connect without a token, or nothing can listen there.
        DataError: if policy or critic cannot be read.
    """
    tokens = read_tokens(config.tokens, variable=TOKENS)
    if not len(tokens) and not is_loopback(config.bind):
        raise ConfigError(
            f"bind={config.bind} lets other machines in, so clients need tokens: tokens=FILE with lines of NAME: TOKEN "
            f"and mode 0600, or {TOKENS}. A token that fits: {new_token()}"
        )
    base = LearnedPolicy.from_pretrained(config.policy)
    chosen = (config.samples, config.temperature, config.average, config.spread)
    steering = Steering(config.critic, *chosen) if config.critic else None
    candidate = Candidate(config.policy, steering=steering)
    policy = steering.over(base) if steering else base
    hashes = weights(config.policy) if steering is None else str(candidate.key())
    critic = policy.critic if isinstance(policy, RerankedPolicy) else None
    seen = [*base.keys, *(critic.keys if isinstance(critic, LearnedValue) else ())]
    if said := [key for key in seen if sentence(key)]:
        raise ConfigError(f"{policy.name!r} sees {said[0]!r}: policies and critics of sentences are not served yet")
    numbers = dict.fromkeys(named(key)[0] for key in seen if not embedding(key))
    keys = [*numbers, *(f"{PREFIX}{camera}" for camera in cameras(policy))]
    server = PolicyServer(policy, keys, weights=hashes, tokens=tokens, limits=Limits(clients=config.clients))

    def ready(port: int) -> None:
        who = f"{len(tokens)} tokens" if len(tokens) else "whoever is on this machine"
        print(f"{policy.name} at ws://{config.bind}:{port} for {who} (stop it with Ctrl-C)", flush=True)

    try:
        asyncio.run(server.run(config.bind, config.port, ready=ready))
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {config.bind}, port {config.port}: {error}; choose another port="
        ) from error
    except KeyboardInterrupt:
        print()
