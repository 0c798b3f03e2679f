"""What each arm of a comparison is called, what it does in one line, and its colour."""

from collections.abc import Mapping
from typing import Any

TITLES: Mapping[str, str] = {
    "behaviour": "Behaviour policy",
    "bc": "Behaviour cloning",
    "constant": "Constant reward",
    "learned": "Learned reward",
    "ground_truth": "Ground-truth reward",
}


def title(arm: str) -> str:
    """Name of the arm as people say it."""
    return TITLES.get(arm, arm)


def colour(arm: str) -> str:
    """The page's own colour variable of the arm, for light and dark."""
    return f"var(--arm-{arm.replace('_', '-')})" if arm in TITLES else "var(--arm-other)"


def line(arm: str, config: Mapping[str, Any]) -> str:
    """What the arm does, and what it is for."""
    learner = learner_name(config)
    return {
        "behaviour": _behaviour(config),
        "bc": "Imitates all logs alike, good and bad. No reward is read.",
        "constant": f"{learner}, the same reward everywhere: what the algorithm gains without any feedback.",
        "learned": f"{learner} on the reward distilled from the answers: the method of this run.",
        "ground_truth": f"{learner} on the simulator’s own reward: a ceiling that no real robot has.",
    }.get(arm, "")


def learner_name(config: Mapping[str, Any]) -> str:
    """The algorithm of the arms that read a reward."""
    return str((config.get("learner") or {}).get("name", "the learner")).upper().replace("_", " ")


def _behaviour(config: Mapping[str, Any]) -> str:
    collect = config.get("collect") or {}
    policy, shares = collect.get("policy", "expert"), [float(x) for x in collect.get("noise", ())]
    if policy == "random":
        return "What recorded the logs: actions drawn evenly at random."
    if policy != "expert" or not shares:
        return "What recorded the logs."
    low, high = f"{100 * min(shares):.0f}", f"{100 * max(shares):.0f}"
    share = low if low == high else f"{low} to {high}"
    return f"What recorded the logs: a scripted expert with {share} % of its actions replaced by random ones."
