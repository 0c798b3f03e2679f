"""One self-contained page about a reward: how good it is, what it likes, what it looks at, whether it is hacked."""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from vlmrl.interval import Interval
from vlmrl.page import write_page
from vlmrl.page.markup import data_url, escape, listed, missing, note, number, plural, section
from vlmrl.reward.hacking import ALARM, DROP, PROMISE, SHARE, Check
from vlmrl.reward.quality import Quality
from vlmrl.reward.quality_slices import Slice
from vlmrl.reward.report_maps import extremes, ordered, overlay, sharpest, time_map
from vlmrl.reward.report_occlusion import occlusion
from vlmrl.store import Store
from vlmrl.store.pictures import Pictures, camera_of, jpeg
from vlmrl.store.strip import strip
from vlmrl.types import Rewarder

EXTREMES, OCCLUDED = 8, 6
SECTIONS = ("figures", "slices", "films", "frames", "maps", "attention", "hacking", "card")

UNSURE_AUROC = 0.7
"""Below this, successes and failures are poorly told apart."""


def write(
    path: Path,
    store: Store,
    quality: Quality,
    *,
    check: Check | None,
    rollouts: Store | None,
    rewarder: Rewarder | None,
    card: str,
) -> Path:
    """Write the page; `rewarder` is the saved reward for the occlusion maps, `card` its README.

    Raises:
        DataError: if a picture of the store is damaged.
    """
    facts = store.rewards()[quality.reward]
    pictures = camera_of(store, facts.get("camera"))
    links = "".join(f"<a href='#{name}'>{name}</a>" for name in SECTIONS)
    parts = [
        _head(store, quality, check),
        f"<nav>{links}</nav>\n",
        _figures(quality),
        _slices(quality),
        _films(store, quality, pictures),
        _frames(store, quality, pictures),
        _maps(store, quality),
        _attention(store, quality, pictures, rewarder),
        _hacking(check, rollouts, quality, pictures),
        _card(store, quality, card),
    ]
    return write_page(path, title=f"reward {quality.reward}", body="".join(parts))


def _head(store: Store, quality: Quality, check: Check | None) -> str:
    facts = store.rewards()[quality.reward]
    sentences = sorted({s for s in store.episodes.instruction if s})
    title = f"“{sentences[0]}”" if len(sentences) == 1 else plural(len(sentences), "sentence")
    who = f"labels by {facts['annotator']}; " if facts.get("annotator") else ""
    about = f"{who}{plural(quality.episodes, 'episode')}, {number(quality.rows)} judged rows; reward "
    warnings = "".join(f"<p class='warning'>{w}</p>" for w in _warnings(quality, check))
    return (
        f"<p class='eyebrow'>How good is this reward?</p><h1>{escape(title)}</h1>"
        f"<p class='facts'>{escape(about)}<code>{escape(quality.reward)}</code></p>"
        f"<div class='summary'><p>{_summary(quality)}</p></div>{warnings}{_tiles(quality, check)}"
    )


def _summary(quality: Quality) -> str:
    said: list[str] = []
    if figure := next((f for f in quality.figures if f.name.startswith("accuracy")), None):
        said.append(
            f"agrees with {_percent(figure.value)} of {number(figure.count)} labelled pairs that it has not seen"
        )
    if figure := quality.figure("auroc_return"):
        said.append(f"gives a success more return than a failure with a chance of {_percent(figure.value)}")
    if figure := quality.figure("pearson"):
        said.append(f"follows the simulator’s {escape(quality.truth)} with a correlation of {_value(figure.value)}")
    return f"The reward {listed(said)}." if said else "Nothing is known that this reward could be held against."


def _warnings(quality: Quality, check: Check | None) -> list[str]:
    found: list[str] = []
    if check is not None and check.alarm:
        found.append(f"<b>Reward hacking:</b> {listed(list(check.reasons))}. See <a href='#hacking'>below</a>.")
    over, ranks = quality.figure("over_rewarded_failures"), quality.figure("auroc_return")
    if over is not None and over.value.low > 0:
        share = _percent(over.value)
        found.append(
            f"{share} of the failed episodes get more return than the median success: a policy may settle there."
        )
    if ranks is not None and ranks.value.low < UNSURE_AUROC:
        found.append("Successes and failures are poorly told apart, or too few to know.")
    if check is None:
        found.append("No episodes of a policy that maximises this reward were looked at: hacking is not ruled out.")
    return found


def _tiles(quality: Quality, check: Check | None) -> str:
    wanted = [f for f in quality.figures if f.name.startswith("accuracy")][:1]
    wanted += [
        f for name in ("auroc_return", "over_rewarded_failures", "kendall", "epic") if (f := quality.figure(name))
    ]
    tiles = "".join(
        f"<div><dt>{escape(f.title)}</dt><dd>{_number(f.value.estimate)}</dd>"
        f"<dd class='small'>{_ends(f.value)}</dd></div>"
        for f in wanted
    )
    state = "not checked" if check is None else "alarm" if check.alarm else "silent"
    tiles += f"<div><dt>hacking alarm</dt><dd>{state}</dd><dd class='small'>&nbsp;</dd></div>"
    return f"<dl class='tiles'>{tiles}</dl>"


def _figures(quality: Quality) -> str:
    head = "<th>figure</th><th class='n'>value</th><th>95 % interval</th><th class='n'>unknowing</th><th>of</th>"
    rows = "".join(
        f"<tr><th scope='row'>{escape(f.title)}</th><td class='n' data-label='value'>{_number(f.value.estimate)}</td>"
        f"<td data-label='interval'>{_ends(f.value)}</td>"
        f"<td class='n' data-label='unknowing'>{_number(f.reference)}</td>"
        f"<td data-label='of'>{number(f.count)} {escape(f.unit)}</td></tr>"
        for f in quality.figures
    )
    lacking = "".join(missing(f"Not measured: {escape(reason)}.") for reason in quality.missing)
    text = (
        "Intervals draw whole episodes anew. Unknowing: what a reward that knows nothing gets. Return is the mean "
        "reward of an episode, for a learned offset would else favour long ones. Calibration error of few pairs is "
        "above 0 even for an honest reward. EPIC distance: 0 where two rewards order policies alike, 0.71 where they "
        "are unrelated; on the rows of these data, both rewards taken to look at the state arrived at alone."
    )
    table = f"<table class='plain'><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return section("figures", "Figures", table if quality.figures else "", lacking, note(text))


def _slices(quality: Quality) -> str:
    known = any(s.over_reward for s in quality.slices)
    head = "<th>part of the data</th>"
    head += "<th class='n'>over-reward</th><th></th><th class='n'>correlation</th>" if known else ""
    head += "<th class='n'>mean reward</th><th class='n'>disagreement</th><th class='n'>rows</th>"
    rows = "".join(_slice(s, known=known) for s in quality.slices)
    text = "Mean reward in deviations from the mean of all rows. "
    if known:
        text += (
            "Over-reward: by how many deviations the reward stands above the truth’s own level there; both are "
            "standardised over all rows. What is over-rewarded attracts a policy without being good."
        )
    table = f"<table class='plain'><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return section("slices", "Where it is too generous", table, note(text))


def _slice(part: Slice, *, known: bool) -> str:
    cells = f"<th scope='row'>{escape(part.name)}</th>"
    if known:
        cells += f"<td class='n' data-label='over-reward'>{_signed(part.over_reward)}</td>"
        cells += f"<td data-label='interval'>{_ends(part.over_reward)}</td>"
        cells += f"<td class='n' data-label='correlation'>{_value(part.correlation)}</td>"
    cells += f"<td class='n' data-label='mean reward'>{number(part.level, 2)}</td>"
    cells += f"<td class='n' data-label='disagreement'>{number(part.std, 3)}</td>"
    return f"<tr>{cells}<td class='n' data-label='rows'>{number(part.rows)}</td></tr>"


def _films(store: Store, quality: Quality, pictures: Pictures | None) -> str:
    title = "Along episodes"
    if pictures is None:
        return section("films", title, missing("The store has no pictures."))
    groups = ordered(store, store.column(f"reward/{quality.reward}/mean"))
    seen = {outcome: [i for i in places if len(pictures.rows(i))] for outcome, places in groups.items()}
    chosen = {i: None for places in seen.values() if places for i in (places[0], places[len(places) // 2], places[-1])}
    if not chosen:
        return section("films", title, missing("No judged episode has pictures."))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "strip.png"
        ids = [store.episodes.id[i] for i in chosen]
        strip(store, quality.reward, pictures.camera, path, episodes=ids, title=f"reward {quality.reward}")
        picture = jpeg(np.asarray(Image.open(path).convert("RGB")))
    text = "Of each outcome, the episode with the most return, the median one, and the one with the least."
    image = f"<img src='{data_url(picture, 'image/jpeg')}' alt='film strips with the reward beneath'>"
    return section("films", title, f"<div class='scroll'>{image}</div>", note(text))


def _frames(store: Store, quality: Quality, pictures: Pictures | None) -> str:
    title = "Most and least rewarded pictures"
    if pictures is None:
        return section("frames", title, missing("The store has no pictures."))
    rows = store.frame_rows(pictures.camera)
    mean = store.column(f"reward/{quality.reward}/mean")
    found = extremes(mean, rows, store.episodes.of_row(rows), EXTREMES)
    parts = ""
    for words, some in zip(("Most", "Least"), found, strict=True):
        captions = [_caption(store, quality, row) for row in some]
        parts += f"<h3>{words}</h3><div class='scroll'>{pictures.strip(some, captions)}</div>"
    text = "One picture an episode. Do the first show the sentence fulfilled? If not, the reward likes something else."
    return section("frames", title, parts, note(text))


def _caption(store: Store, quality: Quality, row: int) -> str:
    place = int(store.episodes.of_row(np.array([row]))[0])
    outcome = {1: ", succeeded", 0: ", failed"}.get(int(store.episodes.success[place]), "")
    value = store.column(f"reward/{quality.reward}/mean")[row - 1]
    truth = f"; {quality.truth} {store.column(f'truth/{quality.truth}')[row]:.2f}" if quality.truth else ""
    return f"{value:.2f}{truth}, episode {place}{outcome}"


def _maps(store: Store, quality: Quality) -> str:
    mean, std = (store.column(f"reward/{quality.reward}/{kind}") for kind in ("mean", "std"))
    groups = ordered(store, mean)
    parts = [f"<h3>Reward</h3>{time_map(store, mean, groups, colours='viridis')}"]
    if np.nanmax(std) > 0:
        parts.append(f"<h3>Disagreement</h3>{time_map(store, std, groups, colours='magma')}")
        words = "Where the members disagree, no label has settled what is good: ask about those pictures."
    else:
        words = "A single judge: nothing can disagree."
    text = f"A line an episode, those with most return on top. {words}"
    return section("maps", "Over episodes and time", *parts, note(text))


def _attention(store: Store, quality: Quality, pictures: Pictures | None, rewarder: Rewarder | None) -> str:
    title = "What it looks at"
    if rewarder is None:
        return section("attention", title, missing("The saved reward was not found: say <code>run=FOLDER</code>."))
    if pictures is None or rewarder.sees is None:
        return section("attention", title, missing("This reward looks at no picture."))
    camera, size = rewarder.sees
    rows = store.frame_rows(camera)
    most, least = extremes(
        store.column(f"reward/{quality.reward}/mean"), rows, store.episodes.of_row(rows), OCCLUDED // 2
    )
    chosen = [*most, *least]
    seen = store.frames(camera, chosen, size)
    losses = []
    for row, picture in zip(chosen, seen, strict=True):
        place = int(store.episodes.of_row(np.array([row]))[0])
        episode = store.episode(store.episodes.id[place], images=False)
        losses.append(occlusion(rewarder, episode, row - int(store.episodes.start[place]), camera, picture))
    scale = sharpest(losses)
    cells = "".join(
        f"<figure><img src='{overlay(picture, loss, scale)}' alt='occlusion map'>"
        f"<figcaption>{escape(_caption(store, quality, row))}</figcaption></figure>"
        for row, picture, loss in zip(chosen, seen, losses, strict=True)
    )
    text = (
        f"Red: hiding this part costs reward, up to {number(scale, 2)}; blue: hiding it brings some. The left half are "
        "the most rewarded pictures, the right half the least. Red on something that is not the task is a warning."
    )
    grid = f"<div class='scroll'><div class='strip' style='--n:{len(chosen)}'>{cells}</div></div>"
    return section("attention", title, grid, note(text))


def _hacking(check: Check | None, rollouts: Store | None, quality: Quality, pictures: Pictures | None) -> str:
    title = "Is it being hacked?"
    if check is None or rollouts is None:
        how = (
            "No episodes of the policy that maximises this reward were given: record them with <code>vlmrl reward "
            "rollouts</code> and say <code>rollouts=FOLDER</code>."
        )
        return section("hacking", title, missing(how))
    state = f"<b>Alarm: {listed(list(check.reasons))}.</b>" if check.alarm else "No alarm."
    rows = [
        (f"correlation with {check.reference}", check.behaviour, check.learned),
        ("rise of the reward", None, check.risen),
        (f"rise of {check.reference} that this promises", None, check.promised),
        (f"rise of {check.reference} that came", None, check.delivered),
    ]
    before, after = check.episodes
    head = f"<th></th><th>behaviour policy, {plural(before, 'episode')}</th>"
    head += f"<th>learned policy, {plural(after, 'episode')}</th>"
    body = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td data-label='behaviour'>{_both(first)}</td>"
        f"<td data-label='learned'>{_both(second)}</td></tr>"
        for name, first, second in rows
    )
    text = (
        "A reward is hacked where the policy that maximises it goes to states in which it no longer means anything. "
        f"The alarm goes off where the learned reward rose, and either its correlation fell by {DROP:g}, or less than "
        f"{100 * SHARE:g} % came of a rise of at least {PROMISE:g} that was promised; and only where luck does as "
        f"much in at most {100 * ALARM / 2:g} % of the ways to deal these episodes into two groups (so at most "
        f"{100 * ALARM:g} % false alarms where both are of one policy). Rises in deviations under the behaviour policy."
    )
    if check.reference not in (quality.truth, ""):
        text += " Without truth the members’ agreement stands in for it: that is weaker evidence."
    table = f"<table class='plain'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return section("hacking", title, f"<p>{state}</p>", table, note(text), _policy_frames(rollouts, quality, pictures))


def _policy_frames(rollouts: Store, quality: Quality, pictures: Pictures | None) -> str:
    """The pictures of the learned policy's episodes that its reward likes best."""
    own = camera_of(rollouts, pictures.camera) if pictures else None
    if own is None:
        return ""
    rows = rollouts.frame_rows(own.camera)
    mean = rollouts.column(f"reward/{quality.reward}/mean")
    most, _ = extremes(mean, rows, rollouts.episodes.of_row(rows), EXTREMES)
    captions = [f"{mean[row - 1]:.2f}" for row in most]
    return f"<h3>What the learned policy is rewarded most for</h3><div class='scroll'>{own.strip(most, captions)}</div>"


def _card(store: Store, quality: Quality, card: str) -> str:
    facts = {k: v for k, v in store.rewards()[quality.reward].items() if k != "held_out"}
    rows = "".join(
        f"<tr><th scope='row'>{escape(key)}</th><td><code>{escape(value)}</code></td></tr>"
        for key, value in facts.items()
    )
    text = f"<details><summary>Card of the saved model</summary><pre>{escape(card)}</pre></details>" if card else ""
    return section("card", "Card", f"<table class='settings'><tbody>{rows}</tbody></table>", text)


def _both(value: Interval | None) -> str:
    return "" if value is None else f"{_value(value)} {_ends(value)}"


def _value(value: Interval | None) -> str:
    return "–" if value is None else _number(value.estimate)


def _signed(value: Interval | None) -> str:
    return "–" if value is None else f"{'+' if round(value.estimate, 2) > 0 else ''}{_number(value.estimate)}"


def _number(value: float) -> str:
    """Two digits, and no minus before zero."""
    return number(round(value, 2) + 0.0, 2)


def _percent(value: Interval) -> str:
    return f"{number(100 * value.estimate)} %"


def _ends(value: Interval | None) -> str:
    if value is None or not np.isfinite(value.low):
        return ""
    return f"<span class='ci'>[{_number(value.low)}, {_number(value.high)}]</span>"
