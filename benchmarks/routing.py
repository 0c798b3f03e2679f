"""What a person's label is worth, spent on doubtful pairs or on any.

    python benchmarks/routing.py STORE [--pairs 2000] [--door FOLDER]

STORE holds simulated episodes with true progress (vlmrl data collect task=drawer_open mix=quick out=STORE). The
built-in judge, which never saw the task, labels random pairs; a share of them is then answered anew. NO PERSON ANSWERS:
the scripted oracle, which reads the simulator's truth, stands in for one who is never wrong, so the figures are what
routing could gain at best. Pairs that are equal in truth are routed like all others, and gain nothing.

With --door (`demos.npz` and `human_preferences.npz`, see human_labels.py) the labels are those of the environment's own
return, its doubt is how close two returns are, and the persons are the people whose answers the file holds.

Gain: labels that become right, of one label by a person; unsure and tie are half right. Intervals are 95 %, over
episodes; the difference is between the routed pairs and the mean over all pairs, which is what random routing gains.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import asyncio
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.special import expit

from vlmrl.annotate import Ledger, comparisons, judge, sample_pairs, true_progress
from vlmrl.annotate.agreement import Estimate, divided, estimate, share, shown_episodes
from vlmrl.annotate.assessment.columns import column_value
from vlmrl.annotate.audit import TRAINED
from vlmrl.annotate.opinions import Judged, Opinion
from vlmrl.annotate.people.question import Pair
from vlmrl.annotate.route import BY
from vlmrl.annotate.trust import differences
from vlmrl.encoder import DualEncoder
from vlmrl.store import Store, d4rl
from vlmrl.types import Query, Reply, Verdict

SHARES = (0.02, 0.05, 0.1, 0.2, 0.4)
WORDINGS = ("pull the drawer out", "an open drawer", "the drawer stands wide open")
"""Beside the task's own sentence: four members of an ensemble."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--pairs", type=int, default=2_000)
    parser.add_argument("--door", type=Path)
    given = parser.parse_args()
    simulated(Store.open(given.store), given.pairs)
    if given.door:
        door(given.door)


def simulated(store: Store, count: int) -> None:
    camera, sentence = store.cameras[0], store.episodes.instruction[0]
    queries = sample_pairs(store, camera, count=count, instruction=sentence, generator=np.random.default_rng(0))
    gap = differences(queries, true_progress(store))
    encoder = DualEncoder.load("zeroshot")
    embed = judge.stored(store, camera, encoder)
    pairs = [Judged(Pair(*query.items, sentence)) for query in queries]
    for k, goal in enumerate((sentence, *WORDINGS)):
        member = judge.build(
            judge.Config("zeroshot", goals=(goal,)), encoder=encoder, embed=embed, instruction=sentence
        )
        for judged, reply in zip(pairs, asyncio.run(asked(member, queries)), strict=True):
            named = dataclasses.replace(reply, annotator=f"wording {k}")
            judged.opinions.append(Opinion(judged.pair, named, ""))
    before = [credit(judged.opinions[0].verdict, g) for judged, g in zip(pairs, gap.tolist(), strict=True)]
    alone = [Judged(judged.pair, judged.opinions[:1]) for judged in pairs]
    print(f"drawer_open: {count} pairs, {int((gap != 0).sum())} differ in truth; labels: built-in judge zeroshot")
    print("in place of a person: the scripted oracle (reads the simulator's truth)")
    rules = {"soft": [BY["soft"](j) for j in alone], "ensemble of 4 wordings": [BY["ensemble"](j) for j in pairs]}
    table(pairs, before, (gap != 0).tolist(), rules)


async def asked(labeler: judge.Judge, queries: Sequence[Query]) -> list[Reply]:
    return [await labeler.ask(query) for query in queries]


def door(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        store = d4rl.run(d4rl.Config(str(folder / "demos.npz"), f"{place}/store", task="adroit_door")).store
        with Ledger(f"{place}/labels.db") as ledger:
            config = comparisons.Config(str(folder / "human_preferences.npz"))
            labels = comparisons.import_comparisons(ledger, store, config, instruction="open the door")
        value = column_value(store, "truth/reward")
        margin = np.array([value(a) - value(b) for a, b in zip(labels.a, labels.b, strict=True)])
    # A scale turns margins into probabilities; the order of doubts does not depend on it.
    p = expit(margin / np.median(np.abs(margin)))
    pairs = [Judged(Pair(a, b, "open the door")) for a, b in zip(labels.a, labels.b, strict=True)]
    for judged, own in zip(pairs, p.tolist(), strict=True):
        verdict = Verdict.A_BETTER if own > 0.5 else Verdict.B_BETTER
        judged.opinions.append(Opinion(judged.pair, Reply(verdict, "return", own), ""))
    said = (labels.p_a - 0.5).tolist()
    before = [credit(judged.opinions[0].verdict, g) for judged, g in zip(pairs, said, strict=True)]
    crossing = [float(len(j.pair.a) > 1 or len(j.pair.b) > 1) for j in pairs]  # type: ignore[arg-type]
    print(f"\nAdroit door: {len(pairs)} comparisons, {sum(g != 0 for g in said)} with a preference; labels: the")
    print("environment's return; persons: the people of the file, who decide what is right")
    soft = [BY["soft"](j) for j in pairs]
    rules = {
        "soft (returns close)": soft,
        "crossing first, then soft": [c + s for c, s in zip(crossing, soft, strict=True)],
    }
    table(pairs, before, [g != 0 for g in said], rules)


def credit(verdict: Verdict, gap: float) -> float:
    """How right a label is: one half where it names no side."""
    p = TRAINED.get(verdict, 0.5)
    return p if gap > 0 else 1 - p


def table(
    pairs: Sequence[Judged], before: Sequence[float], differ: Sequence[bool], rules: dict[str, list[float]]
) -> None:
    """Accuracy and gains, a line a rule and share."""
    episodes = [shown_episodes((j.pair.a, j.pair.b)) for j in pairs]
    gain = np.array([(1 - b) * d for b, d in zip(before, differ, strict=True)])
    every = [i for i, d in enumerate(differ) if d]
    first = share([before[i] for i in every], [episodes[i] for i in every])
    print(
        f"accuracy before, of pairs that differ: {first}; gain of a label at random: {share(gain.tolist(), episodes)}\n"
    )
    print(f"{'rule':29}{'labels':>7}  {'accuracy':24}{'gain of a label':26}{'minus random':24}")
    for name, wants in rules.items():
        order = np.lexsort((np.random.default_rng(0).random(len(pairs)), -np.array(wants)))
        for part in SHARES:
            routed = np.zeros(len(pairs), bool)
            routed[order[: round(part * len(pairs))]] = True
            after = [1.0 if routed[i] else before[i] for i in every]
            now = share(after, [episodes[i] for i in every])
            each = share(gain[routed].tolist(), [e for e, r in zip(episodes, routed, strict=True) if r])
            cells = [short(now), short(each), short(beyond(gain, routed, episodes))]
            print(f"{name:29}{int(routed.sum()):>7}  {cells[0]:24}{cells[1]:26}{cells[2]:24}", flush=True)
    print()


def beyond(gain: np.ndarray, routed: np.ndarray, episodes: Sequence[frozenset[str]]) -> Estimate:
    """Mean gain of the routed pairs minus that of all."""
    columns = np.stack([gain * routed, routed.astype(float), gain, np.ones(len(gain))], axis=1)[:, None]

    def statistic(t: np.ndarray) -> np.ndarray:
        return divided(t[:, 0, 0], t[:, 0, 1]) - divided(t[:, 0, 2], t[:, 0, 3])

    return estimate(columns, episodes, statistic)


def short(found: Estimate) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


if __name__ == "__main__":
    main()
