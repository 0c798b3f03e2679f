"""What the jobs that ask need to know of a store's task: its prompts, its view, and where the robot's hand is."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from jaxtyping import Float64

from vlmrl.annotate import Pictures
from vlmrl.annotate.asking import Asking
from vlmrl.annotate.pictures import Track
from vlmrl.annotate.script import default_prompt
from vlmrl.errors import ConfigError, unknown
from vlmrl.sim import Task, load_task, task_names
from vlmrl.sim.render import project
from vlmrl.sim.task import Camera, View
from vlmrl.store import Store
from vlmrl.types import Span

PROJECT = "project"


def task_of(store: Store) -> Task | None:
    """The simulated task that all of a store is of, if there is one of its name."""
    recorded = set(store.episodes.task)
    if len(recorded) != 1 or next(iter(recorded)).partition("@")[0] not in task_names():
        return None
    return load_task(recorded.pop())


def view_of(store: Store) -> View:
    """What the store's task says about asking."""
    task = task_of(store)
    return task.ask if task else View()


def pick_prompt(store: Store, question: str, asking: Asking) -> str:
    """The prompt of a question: the task's own, or the one that fits what is shown.

    Raises:
        ConfigError: if the question cannot be asked about what is shown.
    """
    fitting = default_prompt(question, asking.shown(question))
    return view_of(store).prompt.get(question, fitting)


def pictures(store: Store, asking: Asking, *, question: str, camera: str) -> Pictures:
    """What fills questions with pictures.

    Raises:
        ConfigError: if a trajectory is wanted and the store does not tell where the hand is.
    """
    view, show = view_of(store), asking.shown(question)
    if asking.trajectory and show == "frame":
        raise ConfigError(f"ask.trajectory={asking.trajectory} is drawn on clips: say ask.show=strip, or another clip")
    return Pictures(
        store,
        show="strip" if show == "frame" else show,
        most=asking.pictures,
        track=track(store, asking.trajectory, camera) if asking.trajectory else None,
        crop=asking.crop or view.crop,
        size=asking.size or view.size,
    )


def track(store: Store, key: str, camera: str) -> Track:
    """Column and row of the hand in the stored pictures of a camera, by rows of an episode.

    Raises:
        ConfigError: if the store does not tell.
    """
    table = store.episodes
    found = projected(store, camera) if key == PROJECT else recorded(store, key)

    def way(span: Span) -> Float64[np.ndarray, "T 2"]:
        if span.camera != camera:
            raise ConfigError(f"the trajectory was made for camera {camera!r}, asked about {span}")
        start = int(table.start[table.index(span.episode)])
        return found[start + span.start : start + span.stop]

    return way


def recorded(store: Store, key: str) -> Float64[np.ndarray, "N 2"]:
    """A pixel track that the store holds.

    Raises:
        ConfigError: if it holds none of this name, or something else.
    """
    have = [name.removeprefix("obs/") for name in store.columns() if name.startswith("obs/")]
    if key not in have:
        raise unknown("ask.trajectory", key, [PROJECT, *have])
    points = store.column(f"obs/{key}").astype(np.float64)
    if points.shape[1] != 2:
        raise ConfigError(f"ask.trajectory={key}: column and row of a pixel wanted, obs/{key} has {points.shape[1]}")
    return points


def projected(store: Store, camera: str) -> Float64[np.ndarray, "N 2"]:
    """The hand's recorded positions as the camera saw them.

    Raises:
        ConfigError: if camera or hand are not known.
    """
    wrong = f"ask.trajectory={PROJECT}: the hand cannot be drawn on pictures of camera {camera!r}, for"
    choice = "name an observation that holds its column and row in the picture, or leave ask.trajectory out"
    settings = (store.meta.get("render") or {}).get(camera)
    if not settings:
        raise ConfigError(f"{wrong} {store.path} does not record where the camera stood; {choice}")
    if settings.get("follow") or (settings.get("variation") or {}).get("camera_position_m"):
        raise ConfigError(f"{wrong} it moved; {choice}")
    hand, names = view_of(store).hand, store.names("obs/state") or []
    if not hand:
        raise ConfigError(f"{wrong} the task does not say which numbers of obs/state are its position; {choice}")
    if missing := [name for name in hand if name not in names]:
        raise unknown("number of obs/state", missing[0], names)
    points = store.column("obs/state")[:, [names.index(name) for name in hand]].astype(np.float64)
    return project(placement(settings), points)


def placement(settings: Mapping[str, Any]) -> Camera:
    """The camera that a store recorded."""
    known: dict[str, Any] = {f.name: settings[f.name] for f in fields(Camera) if f.name in settings}
    vectors: dict[str, Any] = {key: tuple(known[key]) for key in ("position", "xyaxes", "crop")}
    return Camera(**known | vectors)
