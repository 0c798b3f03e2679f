"""Adversaries of the safety chain, and the check that nothing which they ask for breaks a limit."""

import math
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from safe_robot import robot

from vlmrl.robot import RobotSpec
from vlmrl.safety import Reading, SafetyChain
from vlmrl.safety.body import MARGIN

START = np.array([0.1, 0.0, 1.0])
"""A pose inside the box."""


def drive(chain: SafetyChain, asked: list[object], *, begin: np.ndarray = START) -> np.ndarray:
    """Positions sent from a start at rest, the start first, three times (rest is constant)."""
    chain.begin(begin)
    period = chain.spec.period
    sent = [chain.step(one, Reading(k * period)).position for k, one in enumerate(asked)]
    return np.array([begin, begin, begin, *sent])


def violations(spec: RobotSpec, sent: np.ndarray) -> dict[str, float]:
    """By how much commands exceed each limit, as a share of it: differences of samples are means of derivatives."""
    period = spec.period
    limits = {name: np.array([getattr(j, name) for j in spec.joints]) for name in ("velocity", "acceleration", "jerk")}
    low, high = np.array([j.lower for j in spec.joints]), np.array([j.upper for j in spec.joints])
    found = {"position": float(np.maximum(low - sent, sent - high).max())}
    for order, (name, limit) in enumerate(limits.items(), 1):
        found[name] = float((np.abs(np.diff(sent, order, axis=0)) / period**order / limit).max() - 1)
    return {name: value for name, value in found.items() if value > 1e-5}


def outside(chain: SafetyChain, sent: np.ndarray) -> float:
    """Largest distance beyond the box and below the clearance, the chain's own margin counted, m."""
    return max(max(chain._body.excess(pose)) for pose in sent)  # pyright: ignore[reportPrivateUsage]


ADVERSARIES = ("uniform", "extremes", "flip", "walk", "wave", "huge", "dirty", "still")


def adversary(kind: str, count: int, generator: np.random.Generator) -> list[object]:
    """Targets by one that wants the limits broken."""
    match kind:
        case "uniform":
            return list(generator.uniform(-4, 4, (count, 3)))
        case "extremes":
            return [generator.choice([-10.0, 10.0], 3)] * count
        case "flip":
            every = int(generator.integers(1, 12))
            return [np.full(3, 10.0 if (k // every) % 2 else -10.0) for k in range(count)]
        case "walk":
            return list(START + generator.normal(0, 0.2, (count, 3)).cumsum(0))
        case "wave":
            hz, size = generator.uniform(0.2, 24), generator.uniform(0.01, 3)
            return [START + size * np.sin(2 * math.pi * hz * k / 50 + np.arange(3)) for k in range(count)]
        case "huge":
            return list(generator.choice([1e308, -1e308, 1e-308, 0.0], (count, 3)))
        case "dirty":
            bad: list[object] = [
                np.full(3, np.nan),
                [np.inf, 0, 0],
                None,
                "left",
                [1.0],
                np.zeros((2, 3)),
                {},
                [None] * 3,
            ]
            good: list[object] = list(generator.uniform(-2, 2, (count, 3)))
            return [bad[generator.integers(len(bad))] if generator.random() < 0.02 else one for one in good]
        case _:
            return [START] * count


def attack(spec: RobotSpec, sequences: int, steps: int, *, seed: int) -> None:
    """Check every limit on many sequences of every adversary."""
    chain, generator = SafetyChain(spec), np.random.default_rng(seed)
    low, high = np.array([j.lower for j in spec.joints]), np.array([j.upper for j in spec.joints])
    for k in range(sequences):
        begin = START if spec.workspace else generator.uniform(low, high)
        chain.latched = None
        sent = drive(chain, adversary(ADVERSARIES[k % len(ADVERSARIES)], steps, generator), begin=begin)
        assert violations(spec, sent) == {}, (k, ADVERSARIES[k % len(ADVERSARIES)])
        if spec.workspace:
            assert outside(chain, sent) < MARGIN, (k, ADVERSARIES[k % len(ADVERSARIES)])


def bare(folder: Path) -> RobotSpec:
    """Joints whose limits are all there is to keep."""
    (folder / "bare.xml").write_text(
        "<mujoco><worldbody>"
        + "".join(
            f'<body><joint name="{name}" type="hinge"/><geom size=".01" mass="1" contype="0" conaffinity="0"/></body>'
            for name in ("lift", "shoulder", "elbow")
        )
        + "</worldbody></mujoco>"
    )
    return replace(robot(folder, box=False), model="bare.xml")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        attack(bare(Path(place)), int(sys.argv[1]), 20, seed=2)
        attack(robot(Path(place)), int(sys.argv[2]), 20, seed=3)
