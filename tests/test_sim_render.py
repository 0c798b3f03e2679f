"""Pictures: what they show, and what they must not."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vlmrl.errors import ConfigError
from vlmrl.sim import load_task, make
from vlmrl.sim.task import Camera, Render

if TYPE_CHECKING:
    from vlmrl.sim.env import SimEnv

FULL = Camera(position=(-0.6, 0.2, 0.35), xyaxes=(-1.0, 1.0, 0.0, -0.2, -0.2, -1.0), robot=True, height=120, width=160)


@pytest.fixture(scope="module")
def drawer() -> Iterator["SimEnv"]:
    pytest.importorskip("metaworld", reason="extra 'sims' is not installed")
    task, paper = load_task("drawer_open"), load_task("drawer_open_paper")
    extra = {"full": FULL, "flipped": replace(FULL, flip=True), "paper": paper.cameras["judge"]}
    extra["crop"] = replace(FULL, crop=(0.25, 0.5, 0.75, 1.0), height=60, width=80)
    env = make(replace(task, cameras={**task.cameras, **extra}))
    env.reset(seed=0)
    yield env
    env.close()


def _set(env: "SimEnv", *, place_m: float, opening_m: float) -> None:
    import mujoco

    env.model.body("drawer").pos = [place_m, 0.9, 0]
    env.data.qpos[env.model.joint("goal_slidey").qposadr[0]] = -opening_m
    mujoco.mj_forward(env.model, env.data)


def _green(picture: np.ndarray) -> np.ndarray:
    red, green, blue = picture.astype(int).transpose(2, 0, 1)
    return (green > red + 25) & (green > blue + 25)


@pytest.mark.parametrize("place_m", [-0.1, 0.0, 0.1])
def test_the_whole_drawer_is_in_the_picture_wherever_it_stands(drawer: "SimEnv", place_m: float) -> None:
    sizes = []
    for opening_m in (0, 0.08, 0.16):
        _set(drawer, place_m=place_m, opening_m=opening_m)
        green = _green(drawer.frame())
        border = np.concatenate([green[0], green[-1], green[:, 0], green[:, -1]])
        assert not border.any()
        sizes.append(int(green.sum()))
    # An opening drawer shows more and more of itself, far more than noise.
    assert sizes[0] > 300
    assert sizes[1] > 1.1 * sizes[0]
    assert sizes[2] > 1.1 * sizes[1]


def test_the_paper_s_crop_would_cut_varied_drawers(drawer: "SimEnv") -> None:
    _set(drawer, place_m=-0.1, opening_m=0.0)
    assert _green(drawer.frame("paper"))[:, -1].any()


@pytest.mark.parametrize("camera", ["judge", "video"])
def test_pictures_are_the_right_way_up(drawer: "SimEnv", camera: str) -> None:
    picture = drawer.frame(camera).astype(int)
    background, table = picture[:3].reshape(-1, 3).mean(axis=0), picture[-3:].reshape(-1, 3).mean(axis=0)
    assert np.ptp(np.median(picture[:3].reshape(-1, 3), axis=0)) < 12, f"grey wanted above, found {background}"
    assert table[0] > table[2] + 15, f"brown wood wanted below, found {table}"


def test_a_hidden_robot_leaves_no_trace_and_a_visible_one_does(drawer: "SimEnv") -> None:
    drawer.reset(seed=1)
    before = {c: drawer.frame(c) for c in ("judge", "video")}
    for _ in range(15):
        drawer.step(np.array([1, -1, 1, 1], np.float32))
    np.testing.assert_array_equal(drawer.frame("judge"), before["judge"])
    assert (drawer.frame("video") != before["video"]).mean() > 0.02


def test_the_goal_mark_is_not_drawn_unless_asked_for(drawer: "SimEnv") -> None:
    _set(drawer, place_m=0.0, opening_m=0.0)
    hidden = drawer.frame("full")
    task = replace(drawer.task, render=Render(sites=True))
    told = make(task)
    told.set_sim_state(drawer.sim_state())
    assert (told.frame("full") != hidden).any()
    told.close()


def test_pictures_equal_mujoco_s_own_renderer_with_the_same_settings(drawer: "SimEnv") -> None:
    import mujoco

    model, corner = drawer.model, drawer.model.camera("corner").id
    saved = model.cam_pos[corner].copy(), model.vis.quality.offsamples
    # The scene's `corner` camera has the same axes as ours.
    model.cam_pos[corner], model.vis.quality.offsamples = FULL.position, 0
    mujoco.mj_forward(model, drawer.data)
    options = mujoco.MjvOption()
    options.sitegroup[:] = 0
    with mujoco.Renderer(model, FULL.height, FULL.width) as renderer:
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        renderer.update_scene(drawer.data, "corner", options)
        theirs = renderer.render()
    model.cam_pos[corner], model.vis.quality.offsamples = saved
    mujoco.mj_forward(model, drawer.data)
    ours = drawer.frame("full")
    assert (np.abs(ours.astype(int) - theirs).max(axis=2) > 8).mean() < 0.002


def test_flip_mirrors_top_and_bottom(drawer: "SimEnv") -> None:
    np.testing.assert_array_equal(drawer.frame("flipped"), drawer.frame("full")[::-1])


@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_is_that_part_of_the_picture(drawer: "SimEnv", flip: bool) -> None:
    name = "flipped" if flip else "full"
    cropped = replace(drawer.task.cameras["crop"], flip=flip)
    env = make(replace(drawer.task, cameras={**drawer.task.cameras, "crop": cropped}))
    env.set_sim_state(drawer.sim_state())
    part, whole = env.frame("crop"), env.frame(name)[60:, 40:120]
    assert (np.abs(part.astype(int) - whole).max(axis=2) > 8).mean() < 0.01
    env.close()


def test_image_size_replaces_only_the_judge_s(drawer: "SimEnv") -> None:
    env = make(load_task("cartpole"), image_size=(48, 64))
    env.reset(seed=0)
    assert (env.frame().shape, env.frame("video").shape) == ((48, 64, 3), (240, 440, 3))
    assert (env.settings()["height"], env.settings()["width"]) == (48, 64)
    env.close()


def test_sizes_may_alternate(drawer: "SimEnv") -> None:
    first = drawer.frame()
    drawer.frame("video")
    np.testing.assert_array_equal(drawer.frame(), first)


def test_two_environments_do_not_draw_into_each_other(drawer: "SimEnv") -> None:
    other = make(load_task("cartpole"))
    other.reset(seed=0)
    ours, theirs = drawer.frame(), other.frame()
    np.testing.assert_array_equal(drawer.frame(), ours)
    np.testing.assert_array_equal(other.frame(), theirs)
    other.close()
    np.testing.assert_array_equal(drawer.frame(), ours)


def test_the_cart_stays_in_the_middle_of_the_judge_s_picture() -> None:
    env = make(load_task("cartpole"))
    env.reset(seed=0)
    for place_m in (-1.5, 0.0, 1.5):
        env.data.qpos[:] = place_m, 0
        env.step(np.zeros(1, np.float32))
        black = env.frame().max(axis=2) < 40
        columns = np.flatnonzero(black.sum(axis=0) > 10)
        assert (columns.min() + columns.max()) / 2 == pytest.approx(99.5, abs=1.5)
        brown = env.frame()[40, 100].astype(int)
        np.testing.assert_allclose(brown, [202, 152, 101], atol=3)
    env.close()


def test_a_closed_environment_may_be_closed_again_and_draws_again() -> None:
    env = make(load_task("cartpole"))
    env.close()
    env.reset(seed=0)
    picture = env.frame()
    env.close()
    env.close()
    np.testing.assert_array_equal(env.frame(), picture)
    env.close()


def test_unknown_cameras_and_bodies_list_what_exists(drawer: "SimEnv") -> None:
    with pytest.raises(ConfigError, match=r"unknown camera 'top'; have: crop, flipped, full, judge, paper, video"):
        drawer.frame("top")
    with pytest.raises(ConfigError, match=r"unknown camera 'top'"):
        drawer.settings("top")
    with pytest.raises(ConfigError, match=r"unknown body 'arm'; have: cart, pole, world"):
        make(replace(load_task("cartpole"), robot_bodies=("arm",)))


@pytest.mark.slow
def test_a_forgotten_close_is_silent() -> None:
    code = "from vlmrl.sim import load_task, make; e = make(load_task('cartpole')); e.reset(seed=0); e.frame()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["egl", "osmesa"])
def test_both_back_ends_draw_the_same(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", backend)
    monkeypatch.setenv("PYOPENGL_PLATFORM", backend)
    code = (
        "import sys; from vlmrl.sim import load_task, make; e = make(load_task('cartpole')); e.reset(seed=0);"
        "sys.stdout.buffer.write(e.frame().tobytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, check=False)
    if b"Cannot initialize" in done.stderr or b"MuJoCo cannot draw" in done.stderr:
        pytest.skip(f"no {backend} here")
    assert done.returncode == 0, done.stderr.decode()
    env = make(load_task("cartpole"))
    env.reset(seed=0)
    theirs = np.frombuffer(done.stdout, np.uint8).reshape(200, 200, 3)
    assert (np.abs(theirs.astype(int) - env.frame()).max(axis=2) > 8).mean() < 0.005
    env.close()
