"""A gamepad in the pilot's place: sticks move joints, buttons say what keys say in a terminal.

Through SDL's controller layer (pygame), which knows where the sticks and buttons of several hundred pads are.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from vlmrl.deploy.node import Node
from vlmrl.deploy.pilot import Asked
from vlmrl.deploy.state import State
from vlmrl.errors import ConfigError, RobotError
from vlmrl.robot import Observed, RobotSpec

_DEAD = 0.12
"""Share of a stick's way that counts as its middle."""
_SPEED = 0.3
"""Share of a joint's largest speed at full deflection."""
_FULL = 32767

CONTROLS = ("left stick →", "left stick ↑", "right stick ↑", "pad ↑", "right stick →", "right trigger", "RB", "pad →")
"""What moves the first joint up, the second, and so on; the opposite moves it down (left trigger, LB)."""
BUTTONS = {"b": "stop", "x": "discard", "y": "failure", "back": "reset", "guide": "home"}
"""What the others say: a starts an episode or calls it a success, start pauses and goes on."""
HELP = "B stop · A start, success · Y failure · X discard · START pause, resume · BACK reset · GUIDE home"
_NAMES = ("a", "b", "x", "y", "back", "guide", "start", "leftshoulder", "rightshoulder")
_PAD = ("up", "down", "left", "right")


@dataclass(frozen=True)
class Held:
    """What a hand holds at one moment."""

    axes: tuple[float, ...]
    """As CONTROLS, -1 to 1."""
    buttons: frozenset[str] = frozenset()


@runtime_checkable
class Pad(Protocol):
    """One gamepad."""

    def held(self) -> Held:
        """How its sticks and buttons are; never waits.

        Raises:
            RobotError: if it is gone.
        """
        ...

    def close(self) -> None:
        """Let it go."""
        ...


class SdlPad:
    """The first gamepad that SDL knows."""

    def __init__(self) -> None:
        """Open it.

        Raises:
            ConfigError: if pygame is not installed.
            RobotError: if there is no gamepad.
        """
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        # Without a window no pad would ever be in the foreground.
        os.environ.setdefault("SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS", "1")
        try:
            self._sdl: Any = import_module("pygame._sdl2.controller")
            names: Any = import_module("pygame")
        except ModuleNotFoundError as error:
            raise ConfigError("by=gamepad needs pygame: pip install 'vlmrl[gamepad]'") from error
        self._sdl.init()
        known = [k for k in range(self._sdl.get_count()) if self._sdl.is_controller(k)]
        if not known:
            raise RobotError(
                f"no gamepad found ({self._sdl.get_count()} other joysticks); have: by=keyboard, by=leader"
            )
        self._pad = self._sdl.Controller(known[0])
        self._buttons = {name: getattr(names, f"CONTROLLER_BUTTON_{name.upper()}") for name in _NAMES}
        self._pads = [getattr(names, f"CONTROLLER_BUTTON_DPAD_{name.upper()}") for name in _PAD]
        axes = ("LEFTX", "LEFTY", "RIGHTX", "RIGHTY", "TRIGGERLEFT", "TRIGGERRIGHT")
        self._axes = [getattr(names, f"CONTROLLER_AXIS_{name}") for name in axes]

    def held(self) -> Held:
        """How its sticks and buttons are."""
        self._sdl.update()
        if not self._pad.attached():
            raise RobotError("the gamepad is gone")
        left_x, left_y, right_x, right_y, low, high = (self._pad.get_axis(k) / _FULL for k in self._axes)
        up, down, left, right = (int(self._pad.get_button(k)) for k in self._pads)
        pressed = frozenset(name for name, k in self._buttons.items() if self._pad.get_button(k))
        shoulders = ("rightshoulder" in pressed) - ("leftshoulder" in pressed)
        axes = (left_x, -left_y, -right_y, up - down, right_x, high - low, shoulders, right - left)
        return Held(tuple(float(a) if abs(a) > _DEAD else 0.0 for a in axes), pressed)

    def close(self) -> None:
        """Let it go."""
        self._pad.quit()


@dataclass
class GamepadPilot:
    """A person with a gamepad, joint by joint; also an operator."""

    spec: RobotSpec
    pad: Pad
    name: str = "gamepad"
    _target: Float64[np.ndarray, " J"] | None = None
    _axes: tuple[float, ...] = ()
    _before: frozenset[str] = field(default_factory=frozenset[str])
    _lost: bool = False
    _lost_since: float = math.nan

    def attend(self, node: Node) -> None:
        """Read the pad, and pass on the buttons that were pressed since the last tick."""
        try:
            held = self.pad.held()
        except RobotError:
            self._lost, self._axes = True, ()
            return
        self._lost, self._axes = False, held.axes
        if any(held.axes) or held.buttons:
            node.alive()
        for name in sorted(held.buttons - self._before):
            if name == "a":
                node.say("success" if node.state is State.RUNNING else "start")
            elif name == "start":
                node.say("resume" if node.state is State.PAUSED else "pause")
            elif name in BUTTONS:
                node.say(BUTTONS[name])
        self._before = held.buttons

    def begin(self, instruction: str, seed: int, seen: Observed) -> None:
        """Stay where the robot is."""
        del instruction, seed
        self._target = seen.position.copy()

    def ask(self, observation: Mapping[str, np.ndarray], seen: Observed, tick: int) -> Asked:
        """Where the sticks have moved it; while the pad is gone, where it was."""
        del observation, tick
        if self._lost:
            self._lost_since = seen.time if math.isnan(self._lost_since) else self._lost_since
            return Asked(self._target, max(seen.time - self._lost_since, 1e-9), person=True)
        self._lost_since = math.nan
        assert self._target is not None
        for k, (joint, axis) in enumerate(zip(self.spec.joints, self._axes, strict=False)):
            moved = self._target[k] + axis * _SPEED * joint.velocity * self.spec.period
            self._target[k] = min(max(moved, joint.lower), joint.upper)
        return Asked(self._target.copy(), person=True)

    def problems(self, spec: RobotSpec, columns: Mapping[str, Mapping[str, object]]) -> list[str]:
        """Whether the pad is there."""
        del spec, columns
        return ["the gamepad is gone"] if self._lost else []

    def close(self) -> None:
        """Let the pad go."""
        self.pad.close()


def stick_help(names: tuple[str, ...]) -> str:
    """What moves which joint."""
    return ", ".join(f"{control} {name}" for control, name in zip(CONTROLS, names, strict=False))
