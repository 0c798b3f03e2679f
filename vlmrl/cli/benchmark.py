"""`vlmrl label benchmark`: scores several labelers on one set of pairs whose truth is known."""

import dataclasses
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float64
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vlmrl import config as configuration
from vlmrl.annotate import Ledger, Limits, load_labeler, true_progress
from vlmrl.annotate.asking import Asking
from vlmrl.annotate.assessment.benchmark import write_benchmark
from vlmrl.annotate.assessment.figures import Reference, assess
from vlmrl.annotate.assessment.text import divided, share, table
from vlmrl.annotate.opinions import Judged, Opinion
from vlmrl.annotate.people.question import Pair
from vlmrl.annotate.query import Queries
from vlmrl.annotate.recorded import read
from vlmrl.annotate.stress import RULES
from vlmrl.annotate.trust import differences
from vlmrl.cli.ask import ask, left, make_labeler
from vlmrl.cli.asking import pick_prompt, pictures
from vlmrl.cli.audit import slices
from vlmrl.cli.choosing import by_sentence, draw, pick_camera
from vlmrl.cli.stress import stress
from vlmrl.encoder import JUDGES
from vlmrl.errors import ConfigError, DataError, VlmrlError, unknown
from vlmrl.interval import Interval
from vlmrl.runfolder import masked, provenance, write_json
from vlmrl.store import Store
from vlmrl.types import Frame, Item, Kind, Query, Reply, Verdict

_TRUTH = {Verdict.A_BETTER: 1.0, Verdict.B_BETTER: -1.0, Verdict.TIE: 0.0}


@dataclass(frozen=True)
class BenchmarkConfig:
    """Settings of a comparison of labelers on the same pairs."""

    store: str = ""
    """Folder of the store whose pictures are judged."""
    labelers: tuple[Any, ...] = ("seen", "zeroshot", "scripted")
    """Each the name of a labeler, a checkpoint for the judge (seen, zeroshot, a folder, a hub id), or a labeler with
    settings: {name: judge, checkpoint: seen, alpha: 0.5, baselines: [a drawer]}."""
    truth: str | None = None
    """Recorded answers to compare with, as labeler=recorded reads them; null: the store's true progress."""
    sentence: str | None = None
    """What the robot should do; null: the sentences recorded with the data, each with its share of the pairs."""
    camera: str | None = None
    """Whose pictures are judged; null: the store's first."""
    pairs: int = 1_000
    seed: int = 0
    """Which pairs are drawn."""
    check_order: int = 50
    """Pairs that are asked again with their sides swapped, to see whether the order matters."""
    stress: int = 50
    """Pairs that are asked five times more: with images swapped, shuffled, blank and at low resolution, and with a
    wrong sentence. 0: none."""
    wrong_sentence: str = "sing a song"
    """About something that no picture shows."""
    ledger: str = "runs/labels.db"
    """Where answers are kept, so that none is paid for twice."""
    limits: Limits = field(default_factory=Limits)
    """Of each labeler."""


def main(content: Mapping[str, Any], folder: Path) -> None:
    """Run the job that a composed configuration describes."""
    if not content["store"]:
        raise ConfigError("benchmark needs a store: vlmrl label benchmark store=FOLDER labelers=[seen,zeroshot]")
    config = configuration.build(BenchmarkConfig, content, where="benchmark")
    if not config.labelers:
        raise ConfigError("benchmark needs labelers: labelers=[seen,zeroshot,FOLDER,scripted]")
    store = Store.open(config.store)
    camera = pick_camera(store, config.camera)
    write_json(folder / "config.json", masked(dict(content)))
    write_json(folder / "meta.json", provenance() | {"store": store.hash})
    queries, difference = labelled_pairs(config, store, camera)
    rows: list[dict[str, Any]] = []
    answers: list[tuple[str, Sequence[Reply | None]]] = []
    with Ledger(config.ledger) as book:
        for entry in config.labelers:
            row, replies = score(entry, config, store, camera, queries, difference, book)
            rows.append(row)
            answers.append((f"{row.get('labeler')}" + (f" #{len(rows)}" if _twice(row, rows) else ""), replies))
            write_json(folder / "benchmark.json", rows)
            if rows[-1].get("stopped_by") == "interrupt":
                raise KeyboardInterrupt
    differ = int((difference != 0).sum())
    truth = config.truth or "the simulator's true progress"
    found = side_by_side(queries, difference, answers, store, truth=truth, graded=config.truth is None)
    print("\n\n".join(["", *filter(None, [text(rows), divided(found), stress_text(rows)])]))
    print(f"{len(queries)} pairs of {config.store}, {differ} of which differ in truth ({config.truth or 'progress'})")
    write_json(folder / "parts.json", found)
    page = write_benchmark(folder / "benchmark.html", rows, found)
    print(f"by part and difficulty: {page}\nfigures: {folder / 'benchmark.json'}")


def _twice(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    return sum(other.get("labeler") == row.get("labeler") for other in rows) > 1


def labelled_pairs(
    config: BenchmarkConfig, store: Store, camera: str
) -> tuple[Sequence[Query], Float64[np.ndarray, " Q"]]:
    """The questions, and the truth of a minus that of b.

    Raises:
        DataError: if there is no truth, or fewer pairs than wanted.
        ConfigError: if there is no sentence.
    """
    generator = np.random.default_rng(config.seed)
    if config.truth is not None:
        return _recorded_pairs(config.truth, config, store, camera, generator)
    queries = draw(store, camera, config.sentence, config.pairs, config.seed, Asking())
    if len(by_sentence(store, config.sentence)) > 1:  # mixed, so that the first ones, under stress, are of all
        queries = Queries(generator.permutation(len(queries)).tolist(), queries.__getitem__)
    return queries, differences(queries, true_progress(store))


def _recorded_pairs(
    file: str, config: BenchmarkConfig, store: Store, camera: str, generator: np.random.Generator
) -> tuple[Sequence[Query], Float64[np.ndarray, " Q"]]:
    """At most so many pairs of a file, without those that it answers in two ways."""
    episodes = set(store.episodes.id)
    here = [
        record
        for record in read(file)
        if record.kind is Kind.PREFERENCE
        and record.reply.answer in _TRUTH
        and all(isinstance(i, Frame) and i.camera == camera and i.episode in episodes for i in record.items)
    ]
    # Prompts hold their sentence among other words: those that the store records are looked for.
    known = [config.sentence] if config.sentence else sorted({*store.episodes.instruction} - {""})
    answers: defaultdict[tuple[tuple[Item, ...], str], set[Verdict]] = defaultdict(set)
    for record in here:
        asked = next((s for s in known if record.asks(s)), None if config.sentence else record.sentence)
        if asked:
            answers[record.items, asked].add(cast("Verdict", record.reply.answer))
    if here and not answers and not config.sentence:
        raise ConfigError(f"say what the robot should do: sentence='...'; {file} has none that is spelt out")
    clear = [(Query(Kind.PREFERENCE, items, asked), v.pop()) for (items, asked), v in answers.items() if len(v) == 1]
    if not clear:
        raise DataError(f"{file} has no clear answer about pictures of {store.path}, camera {camera!r}")
    chosen = [clear[i] for i in generator.permutation(len(clear))[: config.pairs]]
    return [query for query, _ in chosen], np.array([_TRUTH[verdict] for _, verdict in chosen], np.float64)


def score(
    entry: object,
    config: BenchmarkConfig,
    store: Store,
    camera: str,
    queries: Sequence[Query],
    difference: Float64[np.ndarray, " Q"],
    book: Ledger,
) -> tuple[dict[str, Any], Sequence[Reply | None]]:
    """One labeler's figures and its replies; one that cannot answer gets its error instead."""
    began = time.perf_counter()
    row: dict[str, Any] = {"settings": masked(entry)}
    try:
        settings = composed(entry)
        prompt = pick_prompt(store, "preference", Asking())
        sentences = sorted({query.instruction for query in queries})
        answerer = make_labeler(settings, store, camera=camera, sentence=sentences, prompt=prompt)
        row["labeler"] = answerer.name
        asked = ask(
            queries,
            answerer,
            store,
            book=book,
            limits=config.limits,
            check_order=config.check_order,
            difference=difference,
            pictures=pictures(store, Asking(), question="preference", camera=camera),
        )
        if config.stress:
            place = (settings, store, camera, queries[: config.stress], difference[: config.stress])
            limits, wrong = left(config.limits, [asked.report]), config.wrong_sentence
            row["stress"] = stress(*place, book=book, limits=limits, wrong=wrong, seed=config.seed)
    except VlmrlError as error:
        return row | {"error": str(error)}, []
    report, known = asked.report, book.answers(asked.report.keys)
    row |= {"judge": dict(asked.facts), "known_before": report.cached, "stopped_by": report.stopped_by}
    row |= asked.trust.as_json() | {
        "unreadable": report.unreadable,
        "refused": report.refused,
        "given_up": report.given_up,
    }
    row |= {"cost": dataclasses.asdict(asked.cost), "seconds": time.perf_counter() - began}
    return row, [known.get(key) for key in report.keys]


def side_by_side(
    queries: Sequence[Query],
    difference: Float64[np.ndarray, " Q"],
    answers: Sequence[tuple[str, Sequence[Reply | None]]],
    store: Store,
    *,
    truth: str,
    graded: bool,
) -> dict[str, Any]:
    """Accuracy by part and by difficulty, calibration and agreement of all labelers, as an audit has them."""
    pairs = [Judged(Pair(q.items[0], q.items[1], q.instruction)) for q in queries]
    for name, replies in answers:
        for judged, reply in zip(pairs, replies, strict=False):
            if reply is not None and isinstance(reply.answer, Verdict):
                judged.opinions.append(Opinion(judged.pair, dataclasses.replace(reply, annotator=name), ""))
    gaps = {judged.pair.id: float(gap) for judged, gap in zip(pairs, difference, strict=True)}
    reference = Reference(truth, lambda judged: gaps[judged.pair.id], graded=graded)
    return {"store": str(store.path), **assess(pairs, reference, slices(store, pairs), people=())}


def stress_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The tables of the stress tests, and what the rules say."""
    parts = list[str]()
    for row in rows:
        if found := row.get("stress"):
            lines = [[r["condition"], *(share(r[name]) for name in ("named", "same", "right"))] for r in found["rows"]]
            head = [str(row["labeler"]), "side named", "same place named again", "right"]
            said = [f"EXPOSED {row['labeler']}: {one}" for one in found["exposed"]]
            parts.append("\n".join([table(head, lines), *said]))
    return "\n\n".join([*parts, RULES]) + "\n" if parts else ""


def composed(entry: object) -> dict[str, Any]:
    """The settings of one entry of `labelers`, on top of the labeler's own.

    Raises:
        ConfigError: if the labeler or a setting does not exist, or a value is mistyped.
    """
    if isinstance(entry, str) and (entry in JUDGES or "/" in entry or Path(entry).is_dir()):
        entry = {"name": "judge", "checkpoint": entry}
    given = {"name": entry} if isinstance(entry, str) else dict(cast("Mapping[str, Any]", entry))
    name = str(given.pop("name", ""))
    node = configuration.compose("label", [f"labeler={name}"])["labeler"]
    if wrong := [key for key in given if key not in node]:
        raise unknown(f"setting of labeler {name}", wrong[0], set(node) - {"name"})
    schema = configuration.schema(load_labeler(node["name"]).Config, name=node["name"])
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), node, given)
    except OmegaConfBaseException as error:
        raise ConfigError(f"labelers: {name}: {str(error).splitlines()[0]}") from error
    return cast("dict[str, Any]", OmegaConf.to_container(merged, resolve=True))


HEAD = ("labeler", "right", "side named", "tie", "unsure", "calibration", "log-loss", "order", "seconds", "USD")


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table as a terminal prints it."""
    body = [_row(row) for row in rows]
    widths = [max(len(line[k]) for line in [HEAD, *body] if len(line) == len(HEAD)) for k in range(len(HEAD))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=False)).rstrip() for line in [HEAD, *body]]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    name = str(row.get("labeler") or row["settings"])
    if "error" in row:
        return name, f"cannot answer: {row['error']}"
    right, order, honest = row["accuracy"], row["order"], row["calibration"]
    verdicts, asked = row["verdicts"], row["asked"]
    return (
        name,
        Interval(right["rate"], *right["interval"]).percent() if right["whole"] else "-",
        f"{100 * row['decided']:.0f} %",
        f"{100 * verdicts['tie'] / asked:.0f} %",
        f"{100 * verdicts['unsure'] / asked:.0f} %",
        f"{honest['error']:.3f}" if honest["pairs"] else "-",
        f"{honest['log_loss']:.3f}" if honest["pairs"] else "-",
        f"{100 * order['rate']:.0f} %" if order["whole"] else "-",
        f"{row['seconds']:.1f}" + (" (known)" if row["known_before"] else ""),
        f"{row['cost']['usd']:.2f}",
    )
