"""What must hold before an episode may start."""

import numpy as np

from vlmrl.deploy.episodes import Episodes
from vlmrl.deploy.pilot import Pilot, PolicyPilot
from vlmrl.deploy.recorder import described
from vlmrl.deploy.state import Settings
from vlmrl.robot import Observed, RobotSpec

_SLACK = 0.02
"""A joint may stand so far outside its range, rad: as measured, not as commanded."""
_FRESH_S = 1.0


def problems(
    spec: RobotSpec,
    settings: Settings,
    episodes: Episodes,
    pilot: Pilot | None,
    seen: Observed | None,
    *,
    now: float,
    heard: float,
) -> list[str]:
    """Why no episode may start now, in words; empty where all is well."""
    if pilot is None or episodes.scene is None or seen is None:
        return ["there is no policy, no task or no robot"]
    found = [] if settings.instruction else ["the task has no sentence"]
    found += [
        f"{joint.name} at {q:.3f} rad is outside {joint.lower:.3f} to {joint.upper:.3f}"
        for joint, q in zip(spec.joints, seen.position, strict=True)
        if not joint.lower - _SLACK <= q <= joint.upper + _SLACK
    ]
    for feed in episodes.feeds:
        age = np.inf if feed.latest is None else now - feed.latest.time
        if feed.failed or not age < _FRESH_S:
            since = f" for {age:.1f} s" if np.isfinite(age) else " yet"
            found.append(feed.failed or f"camera {feed.name!r} has given no picture{since}")
    if isinstance(pilot, PolicyPilot):
        blind = [name for name in pilot.inference.about.cameras if name not in episodes.cameras]
        here = ", ".join(episodes.cameras) or "none"
        found += [f"the policy looks through camera {name!r}, and here are: {here}" for name in blind]
    found += pilot.problems(spec, described(episodes.scene, spec))
    if isinstance(pilot, PolicyPilot) and not found:
        strange = pilot.strange(episodes.scene.observe(), episodes.scene.env.state_names)
        found += [strange] if strange else []
    if episodes.failed:
        found.append(episodes.failed)
    if settings.heartbeat and now - heard > _FRESH_S:
        found.append("no operator is heard: open the page")
    return found
