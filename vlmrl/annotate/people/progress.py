"""How far the people are, how well they agree with each other, with themselves and with labelers."""

from collections.abc import Sequence
from typing import Any

from vlmrl.annotate.agreement import alpha, kappa, shown_episodes
from vlmrl.annotate.opinions import Judged
from vlmrl.annotate.people.question import PREFIX, is_person
from vlmrl.annotate.people.queue import Queue
from vlmrl.types import Verdict


def summary(queue: Queue, pairs: Sequence[Judged], person: str) -> dict[str, Any]:
    """Return the figures of the progress view; only blind answers are compared."""
    state = queue.state()
    names = sorted({g.reply.annotator for g in state.given})
    machines = sorted({o.annotator for j in pairs for o in j.opinions if not is_person(o.annotator)})
    episodes = [shown_episodes((j.pair.a, j.pair.b)) for j in pairs]
    people = {name: [_verdict(j, name) for j in pairs] for name in names}
    together = [list(said) for said in zip(*people.values(), strict=True)] if people else []
    return {
        "left": queue.waiting(state),
        "you": person.removeprefix(PREFIX),
        "people": [_own(queue, pairs, name) for name in names],
        "alpha": alpha(together, episodes).as_json(),
        "labelers": [
            {"person": name.removeprefix(PREFIX), "labeler": other}
            | kappa(people[name], [_verdict(j, other) for j in pairs], episodes).as_json()
            for name in names
            for other in machines
        ],
    }


def _own(queue: Queue, pairs: Sequence[Judged], name: str) -> dict[str, Any]:
    given = [g for g in queue.state().given if g.reply.annotator == name]
    times = sorted(g.reply.cost.latency_s for g in given if g.reply.cost.latency_s > 0)
    again = [w for j in pairs if (w := j.ways(name))]
    return {
        "name": name.removeprefix(PREFIX),
        "answers": sum(not g.question.sighted for g in given),
        "corrections": sum(bool(g.question.sighted) for g in given),
        "seconds": times[len(times) // 2] if times else None,
        "repeated": len(again),
        "same": sum(x.verdict is y.verdict.swapped() for x, y in again),
    }


def _verdict(judged: Judged, name: str) -> Verdict | None:
    found = judged.by(name)
    return None if found is None else found.verdict
