"""Demonstrations by gamepad: sticks move joints inside their limits, buttons are the operator's words."""

import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from deploy_fakes import SPEC, Bench, bench
from test_deploy import smooth, ticks

from vlmrl.deploy.gamepad import GamepadPilot, Held, SdlPad
from vlmrl.deploy.recorder import PERSON
from vlmrl.deploy.state import State
from vlmrl.errors import ConfigError, RobotError
from vlmrl.safety import Reason


@dataclass
class Hands:
    """What is held, as the test says."""

    axes: tuple[float, ...] = (0.0,) * 8
    buttons: frozenset[str] = frozenset()
    gone: bool = False

    def held(self) -> Held:
        if self.gone:
            raise RobotError("the gamepad is gone")
        return Held(self.axes, self.buttons)

    def close(self) -> None:
        pass


def held() -> tuple[Bench, Hands]:
    made, hands = bench(judge=False, episodes=5), Hands()
    pilot = GamepadPilot(SPEC, hands)
    made.node.pilot, made.node.operators = pilot, [pilot]
    return made, hands


def press(made: Bench, hands: Hands, button: str, count: int = 3) -> State:
    """Hold a button for some ticks, and let it go."""
    hands.buttons = frozenset({button})
    ticks(made, count)
    hands.buttons = frozenset()
    return ticks(made, 30)


def test_a_demonstration_is_started_moved_and_called_a_success_by_hand() -> None:
    made, hands = held()
    ticks(made, 1)
    assert press(made, hands, "guide") is State.ARMED
    assert press(made, hands, "a") is State.RUNNING, "a button that is held says its word once"
    before = made.robot.position.copy()
    hands.axes = (0.5, 0.0, 0.0, 0.0, 0.0, -1.0)
    ticks(made, 50)
    hands.axes = (0.0,) * 8
    ticks(made, 30)
    moved = made.robot.position - before
    # A second at half of 0.3 of 2.5 rad/s; the gripper closes till its end is near.
    assert moved[0] == pytest.approx(0.375, abs=0.01)
    assert moved[5] < -0.2
    assert np.abs(moved[1:5]).max() < 1e-6
    assert smooth(made)
    assert press(made, hands, "start") is State.PAUSED
    assert press(made, hands, "start") is State.RUNNING
    assert press(made, hands, "x") in (State.HOMING, State.ARMED)
    assert made.node.episodes.outcomes == []
    ticks(made, 100)
    assert press(made, hands, "a") is State.RUNNING
    press(made, hands, "a")
    assert made.node.episodes.outcomes == [1]
    episode = made.recorder.episodes[0]
    assert episode.source == "gamepad"
    assert (episode.intervention[:-1] >= PERSON).all()
    ticks(made, 100)
    assert press(made, hands, "a") is State.RUNNING
    assert press(made, hands, "b") is State.STOPPED
    assert made.node.chain.latched == (Reason.OPERATOR, "the operator's stop")
    assert press(made, hands, "back") is State.IDLE


def test_targets_end_at_the_joints_range() -> None:
    made, hands = held()
    ticks(made, 1)
    press(made, hands, "guide")
    press(made, hands, "a")
    hands.axes = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    ticks(made, 250)
    assert made.robot.position[0] == pytest.approx(SPEC.joints[0].upper, abs=1e-3)
    hands.axes = (-1.0,) + (0.0,) * 7
    ticks(made, 20)
    assert made.robot.position[0] < SPEC.joints[0].upper - 0.05, "what was asked for beyond the end is not remembered"
    assert smooth(made)


def test_a_pad_that_is_gone_is_a_hold_then_a_stop() -> None:
    made, hands = held()
    ticks(made, 1)
    press(made, hands, "guide")
    press(made, hands, "a")
    hands.axes = (1.0,) + (0.0,) * 7
    ticks(made, 20)
    hands.gone = True
    ticks(made, 40)
    assert made.node.state is State.RUNNING
    assert made.node.chain.resting
    hands.gone = False
    ticks(made, 20)
    assert not made.node.chain.resting
    hands.gone = True
    assert ticks(made, 330) is State.STOPPED
    assert made.node.chain.latched is not None
    assert made.node.chain.latched[0] is Reason.LATE_POLICY
    assert made.node.problems() == ["the gamepad is gone"]
    assert smooth(made)


# ---- SDL


@dataclass
class Controller:
    """Stands where SDL's controller does."""

    axes: dict[int, int] = field(default_factory=dict)
    buttons: set[int] = field(default_factory=set)
    there: bool = True

    def attached(self) -> bool:
        return self.there

    def get_axis(self, axis: int) -> int:
        return self.axes.get(axis, 0)

    def get_button(self, button: int) -> bool:
        return button in self.buttons

    def quit(self) -> None:
        self.there = False


def test_sdl_s_numbers_are_read_as_it_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pygame = pytest.importorskip("pygame", reason="pygame is not installed: pip install 'vlmrl[gamepad]'")
    sdl = pytest.importorskip("pygame._sdl2.controller")
    pad = Controller()
    there = SimpleNamespace(
        init=lambda: None,
        get_count=lambda: 2,
        is_controller=lambda k: k == 1,
        Controller=lambda k: {1: pad}[k],
        update=lambda: None,
    )
    assert set(vars(there)) <= set(dir(sdl)), "the seam is that of the library"
    assert {name for name in vars(Controller) if name[0] != "_"} <= set(dir(sdl.Controller)) | {
        "axes",
        "buttons",
        "there",
    }
    monkeypatch.setitem(sys.modules, "pygame._sdl2.controller", there)
    opened = SdlPad()
    assert opened.held() == Held((0.0,) * 8)
    pad.axes = {
        pygame.CONTROLLER_AXIS_LEFTX: 32767,
        pygame.CONTROLLER_AXIS_LEFTY: -32768,
        pygame.CONTROLLER_AXIS_RIGHTX: 2000,
        pygame.CONTROLLER_AXIS_TRIGGERLEFT: 32767,
    }
    pad.buttons = {
        pygame.CONTROLLER_BUTTON_DPAD_DOWN,
        pygame.CONTROLLER_BUTTON_B,
        pygame.CONTROLLER_BUTTON_LEFTSHOULDER,
    }
    found = opened.held()
    # A stick pushed away is up, a slight touch is none.
    assert found.axes == pytest.approx((1.0, 1.0, 0.0, -1.0, 0.0, -1.0, -1.0, 0.0), abs=1e-4)
    assert found.buttons == {"b", "leftshoulder"}
    pad.there = False
    with pytest.raises(RobotError, match="the gamepad is gone"):
        opened.held()
    there.is_controller = lambda k: False
    with pytest.raises(RobotError, match=r"no gamepad found \(2 other joysticks\); have: by=keyboard"):
        SdlPad()
    monkeypatch.setitem(sys.modules, "pygame._sdl2.controller", None)
    with pytest.raises(ConfigError, match=r"pip install 'vlmrl\[gamepad\]'"):
        SdlPad()
