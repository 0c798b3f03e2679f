"""IQL of d3rlpy 2.8.1 on arrays in a file, in d3rlpy's own environment: it needs another gymnasium than we do.

    PYTHON-WITH-D3RLPY benchmarks/peers/iql_d3rlpy.py DATA.npz --seed 0 --updates 6000 --out ACTOR.npz
    PYTHON-WITH-D3RLPY benchmarks/peers/iql_d3rlpy.py DATA.npz --seconds 3        updates a second, nothing written

DATA holds `obs`, `action`, `reward`, `next_obs`, `mask`, `episode`, in the networks' units. ACTOR gets the weights and
biases of the actor's layers. Settings are those of our `learner=iql_paper` where d3rlpy has them.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import time
from pathlib import Path
from typing import Any

import d3rlpy
import numpy as np
import structlog
import torch
from d3rlpy.algos import IQL, IQLConfig
from d3rlpy.dataset import Episode, ReplayBuffer, create_infinite_replay_buffer


def buffer(path: Path) -> ReplayBuffer:
    """Every transition once, episode by episode."""
    data = np.load(path)
    # An episode, or a stretch of one without a gap.
    broken = (data["episode"][1:] != data["episode"][:-1]) | (data["next_obs"][:-1] != data["obs"][1:]).any(1)
    starts = np.flatnonzero(np.r_[True, broken])
    episodes = []
    for start, stop in zip(starts, np.r_[starts[1:], len(data["obs"])], strict=True):
        obs, action, reward = (data[key][start:stop] for key in ("obs", "action", "reward"))
        terminated = not data["mask"][stop - 1]
        if not terminated:
            # d3rlpy drops the last step of an episode that goes on: here that is a row of its own.
            obs = np.concatenate([obs, data["next_obs"][stop - 1 : stop]])
            action = np.concatenate([action, np.zeros_like(action[:1])])
            reward = np.concatenate([reward, np.zeros_like(reward[:1])])
        episodes.append(Episode(obs, action, reward[:, None], terminated))
    found = create_infinite_replay_buffer(episodes)
    assert found.transition_count == len(data["obs"]), (found.transition_count, len(data["obs"]))
    return found


def actor(algorithm: IQL) -> dict[str, np.ndarray]:
    """Weights (fan-in, fan-out) and biases of the actor, first layer first."""
    linear = [m for m in algorithm.impl.policy.modules() if isinstance(m, torch.nn.Linear)]
    layers: dict[str, Any] = {}
    for k, layer in enumerate(linear):
        layers[f"weight{k}"], layers[f"bias{k}"] = layer.weight.detach().numpy().T, layer.bias.detach().numpy()
    return layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    torch.set_num_threads(1)
    d3rlpy.seed(given.seed)
    data = buffer(given.data)
    algorithm = IQLConfig().create()
    algorithm.build_with_dataset(data)
    size = algorithm.config.batch_size
    if given.seconds:
        for _ in range(20):
            algorithm.update(data.sample_transition_batch(size))
    # Of this process, so that other work on the machine does not count.
    start, count = time.process_time(), 0
    while count < given.updates if not given.seconds else time.process_time() - start < given.seconds:
        algorithm.update(data.sample_transition_batch(size))
        count += 1
    print(count / (time.process_time() - start))
    if given.out:
        np.savez(given.out, **actor(algorithm))


if __name__ == "__main__":
    main()
