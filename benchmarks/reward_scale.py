"""Does IQL care how the reward is scaled? Success on one reward times 0.1, 1 and 10, normalisation off and on.

    python benchmarks/reward_scale.py STORE [--reward ground_truth] [--seeds 3]

Off is IQL's paper (reward and advantage as they are), on is our default; everything else is equal. Resumable: what is
in the output file is not run again.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from vlmrl import gl

gl.choose()

from vlmrl.evaluate.rollout import evaluation_seeds, rollout  # noqa: E402  # MuJoCo reads its back end once
from vlmrl.evaluate.statistics import rate  # noqa: E402
from vlmrl.learn import fit, iql  # noqa: E402
from vlmrl.policy import LearnedPolicy  # noqa: E402
from vlmrl.runfolder import Metrics, write_json  # noqa: E402
from vlmrl.sim import load_task  # noqa: E402
from vlmrl.store import Store  # noqa: E402

SCALES = (0.1, 1.0, 10.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--reward", default="ground_truth")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-reward-scale.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    store = Store.open(given.store)
    data, task = store.transitions(("state",), given.reward), load_task(store.episodes.task[0])
    done = json.loads(given.out.read_text()) if given.out.exists() else {}
    for seed in range(given.seeds):
        for on in (False, True):
            for scale in SCALES:
                key = f"{given.reward} x{scale} {'on' if on else 'off'} seed{seed} updates{given.updates}"
                if key in done:
                    continue
                config = iql.Config(updates=given.updates, normalise_reward=on, normalise_advantage=on)
                scaled = dataclasses.replace(data, reward=(data.reward * scale).astype(np.float32))
                with tempfile.TemporaryDirectory() as folder:
                    metrics = Metrics(Path(folder) / "metrics.jsonl")
                    actor = fit("iql", scaled, config, seed=seed, metrics=metrics, quiet=True).policy
                    last = metrics.read("train")[-1]
                found = rollout(task, LearnedPolicy(actor, key), evaluation_seeds(given.episodes))
                done[key] = {"success": found.success.tolist(), "critic_loss": last["critic_loss"]}
                write_json(given.out, done)
                print(f"{key}: {found.success.mean():.2f}", flush=True)
    print(f"\n{given.reward}, {given.updates} updates, {given.seeds} seeds x {given.episodes} starts, 95 % intervals")
    print(f"{'normalisation':14} " + " ".join(f"{'x' + str(s):>18}" for s in SCALES))
    for on in ("off", "on"):
        cells = []
        for scale in SCALES:
            keys = [f"{given.reward} x{scale} {on} seed{s} updates{given.updates}" for s in range(given.seeds)]
            cells.append(rate(np.array([done[k]["success"] for k in keys], float)).percent())
        print(f"{on:14} " + " ".join(f"{c:>18}" for c in cells))


if __name__ == "__main__":
    main()
