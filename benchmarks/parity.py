"""IQL of ours against IQL of d3rlpy: same data, network and settings, the returns side by side.

    python benchmarks/parity.py STORE [STORE ...] --peer PYTHON-WITH-D3RLPY [--updates 6000] [--seeds 5]

The stores of docs/results/parity.md: drawer_open is `vlmrl data collect task=drawer_open`; door_human the 25 human
demonstrations of `adroit_door_human` (`vlmrl data import format=d4rl`); half_cheetah 40 episodes of random actions and
40 of one policy that was learned online (`vlmrl data learn`), with 10 and 50 % of its actions random, merged.

Stores need the reward column `ground_truth`; each is evaluated in the task that it was recorded in, from the same
initial states for both. PYTHON is that of an environment with `pip install d3rlpy==2.8.1`. Resumable; one thread. The
table goes to --table.

Equal on both sides: transitions, standardised observations, actions brought to -1 and 1, rewards of zero mean and unit
deviation, 2x256 ReLU networks, Adam 3e-4, batch 256, discount 0.99, targets at 0.005, expectile 0.7, beta 3, cap 100,
critics and V in one step, the last weights. Ours runs as it is fast: one joint backward pass, products in bfloat16
where the processor has it. Different in d3rlpy: float32, the actor sees the new V, and its log-deviation passes through
a sigmoid from -1.5 where ours starts at 0.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlmrl import gl
from vlmrl.learn import iql
from vlmrl.learn.batch import standardise_reward
from vlmrl.nn import Actor, Normaliser
from vlmrl.types import Transitions

PEER = Path(__file__).parent / "peers" / "iql_d3rlpy.py"
SIDES = ("d3rlpy", "vlmrl")


def settings(updates: int) -> iql.Config:
    """Those that d3rlpy has too."""
    return iql.Config(
        updates=updates,
        actor_lr_decay=False,
        polyak=0.005,
        layer_norm=False,
        normalise_advantage=False,
        average=0.0,
        compile="never",
    )


def ours(data: Transitions, seed: int, updates: int) -> tuple[Actor, float]:
    """A trained actor, and updates a second."""
    config, generator = settings(updates), torch.Generator().manual_seed(seed)
    state = iql.init(config, data, generator=generator)
    batches = iql.batches(config, data, generator=generator)
    start = time.process_time()
    for _ in range(updates):
        iql.update(config, state, next(batches))
    return iql.policy(state), updates / (time.process_time() - start)


def theirs(data: Transitions, seed: int, updates: int, python: str) -> tuple[Actor, float]:
    """The same of d3rlpy, in an actor of ours."""
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "data.npz", Path(folder) / "actor.npz"
        write(data, path)
        command = [python, str(PEER), str(path), "--seed", str(seed), "--updates", str(updates), "--out", str(out)]
        rate = float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1])
        layers = dict(np.load(out))
    observation, action = Normaliser.standard(data.obs), Normaliser.range(data.action)
    actor = Actor(observation, action, hidden=(256, 256), layer_norm=False, generator=torch.Generator())
    with torch.no_grad():
        for k in range(3):
            actor.net.weights[k].copy_(torch.from_numpy(layers[f"weight{k}"])[None])
            actor.net.biases[k].copy_(torch.from_numpy(layers[f"bias{k}"])[None, None])
    return actor, rate


def write(data: Transitions, path: Path) -> None:
    """What the peer reads, in the networks' units."""
    obs, action = Normaliser.standard(data.obs), Normaliser.range(data.action)
    np.savez(
        path,
        obs=obs.apply_to(torch.from_numpy(data.obs)).numpy(),
        next_obs=obs.apply_to(torch.from_numpy(data.next_obs)).numpy(),
        action=action.apply_to(torch.from_numpy(data.action)).numpy(),
        reward=standardise_reward(data),
        mask=data.mask,
        episode=data.episode,
    )


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Every run that is not in the file yet."""
    from vlmrl.evaluate.rollout import evaluation_seeds, rollout
    from vlmrl.policy import LearnedPolicy
    from vlmrl.sim import load_task
    from vlmrl.store import Store

    done: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    for seed in range(given.seeds):
        for path in given.stores:
            store = Store.open(path)
            data, task = store.transitions(("state",), "ground_truth"), load_task(store.episodes.task[0])
            for side in SIDES:
                key = f"{task.name}/{side}/{seed}/{given.updates}/{given.episodes}/{store.data_hash[:8]}"
                if key in done:
                    continue
                actor, rate = (
                    ours(data, seed, given.updates)
                    if side == "vlmrl"
                    else theirs(data, seed, given.updates, given.peer)
                )
                found = rollout(task, LearnedPolicy(actor, side), evaluation_seeds(given.episodes))
                done[key] = {"return": found.returns.tolist(), "success": found.success.tolist(), "rate": rate}
                given.out.parent.mkdir(parents=True, exist_ok=True)
                given.out.write_text(json.dumps(done))
                print(f"{key}: return {found.returns.mean():.1f}, {rate:.0f} updates/s", flush=True)
    return done


def table(given: argparse.Namespace, done: dict[str, Any]) -> str:
    """Markdown; only seeds that both sides have."""
    from vlmrl.evaluate.statistics import mean_difference, rate
    from vlmrl.store import Store

    stores = "".join(f"\n  - `{path.name}`: {Store.open(path)!r}" for path in given.stores)
    lines = [
        "# IQL: ours and d3rlpy's",
        "",
        f"`python benchmarks/parity.py {' '.join(p.name for p in given.stores)} --peer PYTHON --updates "
        f"{given.updates} --seeds {given.seeds} --episodes {given.episodes}`",
        "",
        "What is equal and what is not stands at the head of that file. Return of the simulator's own reward after "
        f"{given.updates:,} updates, the last weights, {given.episodes} initial states that both share; 95 % intervals "
        "over training seeds and initial states.",
        "",
        "| task | n seeds | return d3rlpy | return vlmrl | vlmrl - d3rlpy | success d3rlpy | success vlmrl |",
        "|---|---|---|---|---|---|---|",
    ]
    tail = f"/{given.updates}/{given.episodes}/"
    for path in given.stores:
        store = Store.open(path)
        name, end = store.episodes.task[0], tail + store.data_hash[:8]
        seeds = [s for s in range(given.seeds) if all(f"{name}/{side}/{s}{end}" in done for side in SIDES)]
        if not seeds:
            continue
        returns, success = (
            {side: np.array([done[f"{name}/{side}/{s}{end}"][what] for s in seeds], float) for side in SIDES}
            for what in ("return", "success")
        )
        nothing = np.zeros_like(returns["vlmrl"])
        pairs = [(returns[side], nothing) for side in SIDES] + [(returns["vlmrl"], returns["d3rlpy"])]
        found = [mean_difference(*pair) for pair in pairs]
        cells = [name, str(len(seeds)), *(f"{x.estimate:.0f} [{x.low:.0f}, {x.high:.0f}]" for x in found)]
        lines.append("| " + " | ".join([*cells, *(rate(success[side]).percent() for side in SIDES)]) + " |")
    return "\n".join([*lines, "", "Data:" + stores, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", type=Path, nargs="+")
    parser.add_argument("--peer", default=sys.executable)
    parser.add_argument("--updates", type=int, default=6_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-parity.json"))
    parser.add_argument("--table", type=Path, default=Path("docs/results/parity.md"))
    given = parser.parse_args()
    gl.choose()
    torch.set_num_threads(1)
    found = table(given, measure(given))
    given.table.write_text(found)
    print(found)


if __name__ == "__main__":
    main()
