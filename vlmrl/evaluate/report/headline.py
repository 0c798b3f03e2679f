"""The first screen: what was asked, what came out, and how far to believe it."""

from vlmrl.evaluate.report.answers import Answers
from vlmrl.evaluate.report.arms import learner_name
from vlmrl.evaluate.report.folder import Run
from vlmrl.evaluate.results import Row
from vlmrl.page.markup import bounds, escape, interval, listed, number, percent, plural, points
from vlmrl.store import Store

CLAIM_SEEDS = 5
"""Training seeds from which on a difference is more than a hint."""

BASELINES = {"bc": "behaviour cloning", "constant": "a constant reward"}


def sentence(run: Run, store: Store) -> str:
    """What the robot was asked to do: as typed, else as the logs say, which is how the questions were asked."""
    if run.config.get("sentence"):
        return str(run.config["sentence"])
    recorded = sorted(set(store.episodes.instruction) - {""})
    return (
        recorded[0] if len(recorded) == 1 else f"{len(recorded)} different instructions" if recorded else "no sentence"
    )


def html(run: Run, store: Store, answers: Answers | None) -> str:
    """Title, summary and key figures."""
    parts = [_labels(run, answers), _result(run)]
    summary = "".join(f"<p>{part}</p>" for part in parts if part)
    facts = [str(run.config.get("task") or "logs without a simulator"), plural(len(store.episodes), "episode")]
    facts += [plural(len(answers), "answer")] if answers else []
    facts += [f"{learner_name(run.config)}, {plural(len(run.seeds), 'training seed')}"] if run.seeds else []
    return (
        f"<header id='summary'><p class='eyebrow'>vlmrl report · {escape(run.folder.resolve().name)}</p>"
        f"<h1>“{escape(sentence(run, store))}”</h1>"
        f"<p class='facts'>{escape(' · '.join(facts))}</p>{_warning(run)}"
        f"<div class='summary'>{summary}</div>{_tiles(run, answers)}</header>\n"
    )


def who(run: Run) -> str:
    """The labeler by name; a scripted one is called what it is, and so is the judge."""
    labels = run.labels or {}
    name = f"<b>{escape(labels.get('labeler', 'an unnamed labeler'))}</b>"
    if labels.get("judge"):
        return f"{name}, a model on this machine that compares each picture with the sentence"
    if not run.scripted:
        return name
    return f"{name}, a stand-in that reads the simulator’s own progress. <b>No vision-language model took part</b>"


def _labels(run: Run, answers: Answers | None) -> str:
    if answers is None:
        return "No questions were asked in this run."
    asked = (run.labels or {}).get("total", len(answers))
    text = f"{plural(int(asked), 'question')} about pairs of pictures went to {who(run)}. "
    if stopped := (run.labels or {}).get("stopped_by"):
        text += f"<b>Labeling was stopped by {escape(stopped)}: only {number(len(answers))} have an answer.</b> "
    found = answers.accuracy()
    if found is None:
        return text + "Nothing in these data tells which answers are right."
    kinds = answers.kinds()
    decided, missed = len(kinds["right"]) + len(kinds["wrong"]), len(kinds["tie_missed"])
    ties = (
        f"; {percent(float(answers.tie.mean()))} of all answers are ties, which teach little"
        if answers.tie.any()
        else ""
    )
    text += (
        f"Where true progress differs and a side was chosen, the choice was right in <b>{interval(found)}</b> "
        f"of {plural(decided, 'pair')}; {number(missed)} such pairs were called a tie{ties}."
    )
    return text


def _result(run: Run) -> str:
    row = run.row("learned")
    if row is None:
        return "No policy was evaluated: there is no simulator of this task, or no arm that learns from the answers."
    learner = escape(learner_name(run.config))
    count = f"{plural(row.seeds, 'training seed')} × {plural(row.episodes, 'initial state')}"
    text = (
        f"{learner} on the reward distilled from the answers succeeds in <b>{interval(row.success)}</b> "
        f"of episodes ({count}). "
    )
    told = [
        f"to {escape(_baseline(arm))} {points(found.estimate)} {bounds(found, signed=True)}"
        for arm, found in row.versus.items()
    ]
    return text + (f"{_verdict(row)}: difference {', '.join(told)} percentage points." if told else "")


def _verdict(row: Row) -> str:
    """Say of each baseline whether the interval of the difference lies above, below, or on zero."""
    sorts: dict[str, list[str]] = {"better": [], "worse": [], "open": []}
    for baseline, found in row.versus.items():
        sort = "better" if found.low > 0 else "worse" if found.high < 0 else "open"
        sorts[sort].append(escape(_baseline(baseline)))
    told = [
        f"<b>{text.format(listed(names, 'or' if sort == 'open' else 'and'))}</b>"
        for sort, text in (
            ("better", "better than {}"),
            ("worse", "worse than {}"),
            ("open", "no proven difference to {}"),
        )
        if (names := sorts[sort])
    ]
    return f"Verdict: {listed(told)}"


def _baseline(arm: str) -> str:
    return BASELINES.get(arm, arm)


def _warning(run: Run) -> str:
    count = len(run.seeds)
    if not run.rows or count >= CLAIM_SEEDS:
        return ""
    if count == 1:
        text = (
            "<b>One training seed: a smoke test, not a claim.</b> Intervals are over episodes only; another seed may "
            "tell another story."
        )
    else:
        text = f"<b>{count} training seeds.</b> Intervals over so few are rough: {CLAIM_SEEDS} make a claim."
    return f"<p class='warning'>{text}</p>"


def _tiles(run: Run, answers: Answers | None) -> str:
    row, tiles = run.row("learned"), []
    if row is not None:
        tiles.append(("success, learned reward", percent(row.success.estimate), bounds(row.success)))
        tiles += [
            (f"difference to {_baseline(arm)}", points(found.estimate), f"{bounds(found, signed=True)} points")
            for arm, found in row.versus.items()
        ]
    if answers is not None and (found := answers.accuracy()) is not None:
        tiles.append(("answers right, where one was chosen", percent(found.estimate), bounds(found)))
    held = [facts["held_out"] for facts in run.rewards.values() if "accuracy" in facts.get("held_out", {})]
    clear = int(sum(facts["pairs"] - facts["ties"] for facts in held))
    if clear:
        right = sum(
            facts["accuracy"] * (facts["pairs"] - facts["ties"]) for facts in held if facts["pairs"] > facts["ties"]
        )
        seeds = f" over {len(held)} seeds" if len(held) > 1 else ""
        small = f"of {plural(clear, 'pair')} without ties{seeds}"
        tiles.append(("reward agrees with unseen answers", percent(right / clear), small))
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{value}</dd><dd class='small'>{small}</dd></div>"
        for name, value, small in tiles
    )
    return f"<dl class='tiles'>{cells}</dl>" if tiles else ""
