"""IQL on one core: updates a second against a plain eager float32 loop, and whether the returns are equal.

    python benchmarks/iql.py                      speed, a minute
    python benchmarks/iql.py --d3rlpy PYTHON      the same beside d3rlpy's, PYTHON having d3rlpy 2.8.1 installed
    python benchmarks/iql.py --stacked            seeds trained as one program, beside one after the other
    python benchmarks/iql.py --diffusion          a training step of diffusion, beside its U-Net in plain eager
    python benchmarks/iql.py --returns STORE      returns over 10 seeds, resumable; STORE needs reward `ground_truth`

The peer is written here as papers' code bases write it: six `nn.Sequential`, three Adam optimisers, a Python loop.
Both sides are 2x256, batch 256, data in memory; pairs of runs alternate, so that drift of the machine hits both. Rates
are updates per second of processor time, so that other work on the machine does not count, only what it does to caches.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import copy
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlmrl import gl
from vlmrl.learn import bc, diffusion, iql
from vlmrl.learn.batch import Batch
from vlmrl.learn.stacked import Stack, abreast
from vlmrl.policy import LearnedPolicy
from vlmrl.policy.block import BLOCK
from vlmrl.types import Transitions

HIDDEN, BATCH = 256, 256
PEER = Path(__file__).parent / "peers" / "iql_d3rlpy.py"


class Plain:
    """The peer: IQL as usually written, eager and float32, with the same settings as ours."""

    def __init__(self, config: iql.Config, obs: int, action: int) -> None:
        def mlp(inputs: int, outputs: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for width in (inputs, HIDDEN):
                layers.append(nn.Linear(width, HIDDEN))
                if config.layer_norm:
                    layers.append(nn.LayerNorm(HIDDEN))
                layers.append(nn.ReLU())
            return nn.Sequential(*layers, nn.Linear(HIDDEN, outputs))

        self.config = config
        self.q = nn.ModuleList([mlp(obs + action, 1), mlp(obs + action, 1)])
        self.target = nn.ModuleList([mlp(obs + action, 1), mlp(obs + action, 1)])
        self.target.load_state_dict(self.q.state_dict())
        self.v, self.actor = mlp(obs, 1), mlp(obs, action)
        self.log_std = nn.Parameter(torch.zeros(action))
        self.v_optimiser = torch.optim.Adam(self.v.parameters(), lr=config.lr)
        self.q_optimiser = torch.optim.Adam(self.q.parameters(), lr=config.lr)
        self.actor_optimiser = torch.optim.Adam([*self.actor.parameters(), self.log_std], lr=config.lr)
        self.averaged = copy.deepcopy(self.actor)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.actor_optimiser, config.updates)

    def update(self, batch: Batch) -> None:
        """V, then the actor, then the critics, then their targets."""
        config, both = self.config, torch.cat([batch.obs, batch.action], -1)
        with torch.no_grad():
            target = torch.min(self.target[0](both), self.target[1](both))[:, 0]
        difference = target - self.v(batch.obs)[:, 0]
        weight = torch.where(difference > 0, config.expectile, 1 - config.expectile)
        self._step(self.v_optimiser, (weight * difference**2).mean())
        with torch.no_grad():
            advantage = target - self.v(batch.obs)[:, 0]
            if config.normalise_advantage:
                advantage = advantage / advantage.std().clamp(min=iql.LEAST_DEVIATION)
            weight = torch.exp(config.temperature * advantage).clamp(max=config.advantage_cap)
            backup = batch.reward + config.discount * batch.mask * self.v(batch.next_obs)[:, 0]
        normal = torch.distributions.Normal(torch.tanh(self.actor(batch.obs)), self.log_std.clamp(-5, 2).exp())
        self._step(self.actor_optimiser, -(weight * normal.log_prob(batch.action).sum(-1)).mean())
        self._step(self.q_optimiser, sum(((q(both)[:, 0] - backup) ** 2).mean() for q in self.q))
        self.schedule.step()
        with torch.no_grad():
            for mine, source in zip(self.target.parameters(), self.q.parameters(), strict=True):
                mine.mul_(1 - config.polyak).add_(config.polyak * source)
            if config.average:
                rate = max(config.average, 9 / (10 + self.schedule.last_epoch))
                for mine, source in zip(self.averaged.parameters(), self.actor.parameters(), strict=True):
                    mine.mul_(1 - rate).add_(rate * source)

    @staticmethod
    def _step(optimiser: torch.optim.Optimizer, loss: Tensor | int) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def random_transitions(rows: int = 30_000) -> Transitions:
    generator = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return generator.normal(size=shape).astype(np.float32)

    ones = np.ones(rows, np.float32)
    action = normal(rows, 4).clip(-1, 1)
    # One long episode: d3rlpy takes minutes over a buffer of many short ones.
    obs = normal(rows + 1, 39)
    return Transitions(obs[:-1], action, normal(rows), ones, obs[1:], np.zeros(rows, np.int32))


def rate(update: Callable[[Batch], object], batches: Iterator[Batch], seconds: float) -> float:
    start, count = time.process_time(), 0
    while time.process_time() - start < seconds:
        update(next(batches))
        count += 1
    return count / (time.process_time() - start)


def product_limit(dtype: torch.dtype) -> float:
    """GFLOP/s of 256x256x256 products on this core."""
    a, b = torch.randn(256, 256).to(dtype), torch.randn(256, 256).to(dtype)
    out, best = torch.empty(256, 256, dtype=dtype), 0.0
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(100):
            torch.mm(a, b, out=out)
        best = max(best, 100 * 2 * 256**3 / (time.perf_counter() - start) / 1e9)
    return best


def update_gflop() -> float:
    """Of one update's matrix products: forward 1, backward 2 of each of V, actor, two Q; forward of targets, V, V'."""

    def forward(inputs: int, outputs: int) -> float:
        return 2 * BATCH * (inputs * HIDDEN + HIDDEN * HIDDEN + HIDDEN * outputs) / 1e9

    q, v, actor = forward(43, 1), forward(39, 1), forward(39, 4)
    return 3 * (2 * q + v + actor) + 2 * q + 2 * v


def contestants(config: iql.Config) -> dict[str, tuple[Callable[[Batch], object], Iterator[Batch]]]:
    data, found = random_transitions(), {}
    torch.manual_seed(0)
    plain = Plain(config, 39, 4)
    generator = torch.Generator().manual_seed(0)
    found["plain eager float32"] = (plain.update, iql.batches(config, data, generator=generator))
    settings = {
        "vlmrl, paper order, float32": {"order": "paper", "precision": "float32"},
        "vlmrl, joint": {},
        "vlmrl, joint, compiled": {"compile": "always"},
    }
    for name, changes in settings.items():
        ours = iql.Config(**{**config.__dict__, **changes})
        state = iql.init(ours, data, generator=generator)
        batches = iql.batches(ours, data, generator=generator)
        found[name] = (lambda batch, c=ours, s=state: iql.update(c, s, batch), batches)
    return found


def speed(seconds: float, rounds: int) -> None:
    torch.set_num_threads(1)
    gflop, limits = update_gflop(), {d: product_limit(d) for d in (torch.float32, torch.bfloat16)}
    words = ", ".join(f"{str(d)[6:]} {v:.0f} GFLOP/s = {v / gflop:.0f} updates/s" for d, v in limits.items())
    print(f"one core's matrix-product limit: {words} ({gflop:.2f} GFLOP an update)")
    for title, layer_norm in (("default (LayerNorm)", True), ("paper's networks", False)):
        found = contestants(iql.Config(layer_norm=layer_norm, compile="never", updates=10_000))
        for update, batches in found.values():
            rate(update, batches, 0.5)
        rates = {name: [] for name in found}
        for _ in range(rounds):
            for name, (update, batches) in found.items():
                rates[name].append(rate(update, batches, seconds))
        report(rates, title, base="plain eager float32")


def beside_d3rlpy(python: str, seconds: float, rounds: int) -> None:
    """Paper's networks on all sides: d3rlpy with its own sampler, the plain loop, and ours."""
    with tempfile.TemporaryDirectory() as folder:
        path, data = Path(folder) / "data.npz", random_transitions()
        np.savez(path, **{key: value for key, value in vars(data).items() if value is not None})
        found = contestants(iql.Config(layer_norm=False, compile="never", updates=10_000))
        rates: dict[str, list[float]] = {"d3rlpy": []} | {name: [] for name in found}
        command = [python, str(PEER), str(path), "--seconds", str(seconds)]
        for _ in range(rounds):
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rates["d3rlpy"].append(float(done.stdout.split()[-1]))
            for name, (update, batches) in found.items():
                rate(update, batches, 0.3)
                rates[name].append(rate(update, batches, seconds))
    report(rates, "paper's networks", base="d3rlpy")


def stacked(seeds: int, seconds: float, rounds: int) -> None:
    """Updates of one seed a second: alone, and when several are one program."""
    torch.set_num_threads(1)
    data = random_transitions()
    for name, module, config in (
        ("iql", iql, iql.Config(compile="never", updates=10_000)),
        ("bc", bc, bc.Config(updates=10_000)),
    ):
        generators = [torch.Generator().manual_seed(seed) for seed in range(seeds + 1)]
        states = [module.init(config, data, generator=generator) for generator in generators]
        alone = module.init(config, data, generator=generators[0])
        batches = [module.batches(config, data, generator=generator) for generator in generators]
        stack = Stack(states[:-1], states[-1])
        stack.map_losses(module, config)
        feed, rates = abreast(batches[:-1]), {f"{name} alone": [], f"{name}, {seeds} seeds as one program": []}
        for warm in (True, *[False] * rounds):
            one = rate(lambda b, m=module, c=config, s=alone: m.update(c, s, b), batches[-1], seconds)
            all_ = rate(lambda b, m=module, c=config, s=stack.joint: m.update(c, s, b), feed, seconds)
            if not warm:
                for values, value in zip(rates.values(), (one, seeds * all_), strict=True):
                    values.append(value)
        report(rates, f"{seeds} seeds, default settings, not compiled", base=f"{name} alone")


def denoising(seconds: float, rounds: int) -> None:
    """A training step of the default diffusion policy, and the same U-Net trained as papers' code bases do it."""
    torch.set_num_threads(1)
    data, generator, config = (
        random_transitions(),
        torch.Generator().manual_seed(0),
        diffusion.Config(updates=10_000, compile="never"),
    )
    ours = diffusion.init(config, data, generator=generator)
    peer = diffusion.init(config, data, generator=generator)
    peer_net, averaged = peer.network.net, copy.deepcopy(peer.network.net)
    optimiser = torch.optim.AdamW(peer_net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)

    def plain(batch: Any) -> None:
        at = torch.randint(config.training_steps, (len(batch.chunk),))
        noise, kept = torch.randn(batch.chunk.shape), peer.kept[at][:, None, None]
        found = peer_net(kept.sqrt() * batch.chunk + (1 - kept).sqrt() * noise, at.float(), batch.obs)
        loss = nn.functional.mse_loss(found, noise)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            for mine, source in zip(averaged.parameters(), peer_net.parameters(), strict=True):
                mine.mul_(0.999).add_(0.001 * source)

    batches = diffusion.batches(config, data, generator=generator)
    fast_config = dataclasses.replace(config, compile="always")
    fast = diffusion.init(fast_config, data, generator=generator)
    contest = {
        "plain eager float32": plain,
        "vlmrl": lambda batch: diffusion.update(config, ours, batch),
        "vlmrl, compiled": lambda batch: diffusion.update(fast_config, fast, batch),
    }
    rates: dict[str, list[float]] = {name: [] for name in contest}
    for warm in (True, *[False] * rounds):
        for name, update in contest.items():
            found = rate(update, batches, seconds)
            if not warm:
                rates[name].append(found)
    report(rates, "diffusion, default network, batch 256", base="plain eager float32")
    policy = LearnedPolicy(diffusion.policy(ours), "diffusion")
    policy.reset(np.ones(1, np.bool_), [""], np.random.default_rng(0))
    shown = {"state": np.zeros((1, config.history, 39), np.float32)}
    for block, words in ((BLOCK, f"in a block of {BLOCK}"), (0, "alone")):
        policy.block, took = block, list[float]()
        for _ in range(20):
            start = time.process_time()
            policy.act(shown)
            took.append(1e3 * (time.process_time() - start))
        print(f"  a chunk for one robot, {config.steps} evaluations, {words}: {np.median(took):.0f} ms")


def report(rates: Mapping[str, Sequence[float]], title: str, *, base: str) -> None:
    """Medians, ranges, and ratios pair by pair."""
    first = np.array(rates[base])
    print(f"\n{title}: updates/s on one thread, median (range) of {len(first)} rounds; ratio to {base}, pair by pair")
    for name, values in rates.items():
        ratio = np.array(values) / first
        print(
            f"  {name:34} {np.median(values):6.0f} ({min(values):.0f}-{max(values):.0f})"
            f"   {np.median(ratio):.2f}x ({ratio.min():.2f}-{ratio.max():.2f})",
            flush=True,
        )


def two_cores(seconds: float) -> None:
    command = [sys.executable, __file__, "--one", str(seconds)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    rates = [float(p.communicate()[0]) for p in running]
    alone = float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    total = sum(rates)
    print("\ntwo runs on two cores, default, compiled:")
    print(f"  {total:.0f} updates/s together, {total / alone:.2f}x one alone ({alone:.0f})")


def one(seconds: float) -> None:
    torch.set_num_threads(1)
    update, batches = contestants(iql.Config(compile="never"))["vlmrl, joint, compiled"]
    rate(update, batches, 1)
    print(rate(update, batches, seconds))


def returns(store_path: Path, out: Path, *, seeds: int, updates: int, episodes: int) -> None:
    """Success of the plain loop and of ours with the same settings, seeds and initial states."""
    gl.choose()
    from vlmrl.evaluate.rollout import evaluation_seeds, rollout
    from vlmrl.evaluate.statistics import difference, mean_difference, rate
    from vlmrl.nn import Actor, Normaliser
    from vlmrl.sim import load_task
    from vlmrl.store import Store

    torch.set_num_threads(1)
    store = Store.open(store_path)
    data, task = store.transitions(("state",), "ground_truth"), load_task(store.episodes.task[0])
    config = iql.Config(updates=updates, compile="always")
    done = json.loads(out.read_text()) if out.exists() else {}

    def ours(seed: int) -> Actor:
        generator = torch.Generator().manual_seed(seed)
        state = iql.init(config, data, generator=generator)
        batches = iql.batches(config, data, generator=generator)
        for _ in range(updates):
            iql.update(config, state, next(batches))
        return iql.policy(state)

    def plain(seed: int) -> Actor:
        torch.manual_seed(seed)
        peer, generator = Plain(config, data.obs.shape[1], data.action.shape[1]), torch.Generator().manual_seed(seed)
        batches = iql.batches(config, data, generator=generator)
        for _ in range(updates):
            peer.update(next(batches))
        observation, action = Normaliser.standard(data.obs), Normaliser.range(data.action)
        actor = Actor(observation, action, hidden=config.hidden, layer_norm=True, generator=generator)
        actor.draw = lambda obs, _: action.invert(torch.tanh(peer.averaged(observation.apply_to(obs)))).detach()[
            :, None
        ]  # type: ignore
        return actor

    for seed in range(seeds):
        for name, train in (("plain", plain), ("vlmrl", ours)):
            key = f"{name}-{seed}"
            if key not in done:
                start = time.perf_counter()
                actor = train(seed)
                took = time.perf_counter() - start
                found = rollout(task, LearnedPolicy(actor, name), evaluation_seeds(episodes))
                done[key] = {"success": found.success.tolist(), "return": found.returns.tolist(), "seconds": took}
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps(done))
                print(f"{key}: success {found.success.mean():.2f}, {updates / took:.0f} updates/s", flush=True)
    success = {n: np.array([done[f"{n}-{s}"]["success"] for s in range(seeds)], float) for n in ("plain", "vlmrl")}
    total = {n: np.array([done[f"{n}-{s}"]["return"] for s in range(seeds)], float) for n in ("plain", "vlmrl")}
    print(f"\n{seeds} seeds, {updates} updates, {episodes} shared initial states, reward ground_truth; 95 % intervals")
    for name, values in success.items():
        print(f"  {name:6} success {rate(values).percent()}, return {total[name].mean():.0f}")
    print(f"  vlmrl - plain: success {difference(success['vlmrl'], success['plain'])}")
    print(f"  vlmrl - plain: return {mean_difference(total['vlmrl'], total['plain'])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d3rlpy", metavar="PYTHON")
    parser.add_argument("--stacked", action="store_true")
    parser.add_argument("--diffusion", action="store_true")
    parser.add_argument("--returns", type=Path, metavar="STORE")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-iql-returns.json"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.one)
    elif given.d3rlpy:
        beside_d3rlpy(given.d3rlpy, given.seconds, given.rounds)
    elif given.stacked:
        stacked(given.seeds, given.seconds, given.rounds)
    elif given.diffusion:
        denoising(given.seconds, given.rounds)
    elif given.returns:
        returns(given.returns, given.out, seeds=given.seeds, updates=given.updates, episodes=given.episodes)
    else:
        speed(given.seconds, given.rounds)
        two_cores(given.seconds)


if __name__ == "__main__":
    main()
