"""Speed of our pictures against Gymnasium's own `render()` of the same environment, same camera, same size.

    python benchmarks/render.py [--task drawer_open] [--rounds 15] [--frames 8] [--size 128]

Both draw in this process, by turns, so that whatever else runs on the machine slows both alike. A round times `frames`
pictures of each; printed is the median round and the range of the middle half, and so for the ratio within a round.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from vlmrl import gl
from vlmrl.sim import SimEnv, load_task, make
from vlmrl.sim.task import Camera, Render, Task

Draw = Callable[[], np.ndarray]


def main() -> None:
    arguments = _arguments()
    backend = gl.choose()
    task = load_task(arguments.task)
    camera = replace(task.cameras["judge"], crop=(0.0, 0.0, 1.0, 1.0), height=arguments.size, width=arguments.size)
    same = _ours(task, replace(camera, robot=True), sites=True)
    theirs, close = THEIRS[arguments.task](camera, same)
    draw: dict[str, Draw] = {"gymnasium render()": theirs, "ours, same geoms": same.frame}
    if task.robot_bodies:
        draw["ours, robot hidden"] = _ours(task, camera, sites=False).frame
    times: dict[str, list[float]] = {name: [] for name in draw}
    for _ in range(arguments.rounds + 1):
        for name, one in draw.items():
            times[name].append(_seconds(one, arguments.frames))
    seconds = {name: np.array(t[1:]) for name, t in times.items()}
    shape = f"{arguments.size}x{arguments.size}"
    print(f"{task.name} at {shape}, MUJOCO_GL={backend}, n={arguments.rounds} rounds of {arguments.frames} frames\n")
    print(f"{'':20} {'frames/s':>9} {'middle half':>15}   {'ratio':>6} {'middle half':>15}")
    base = seconds["gymnasium render()"]
    for name, s in seconds.items():
        print(f"{name:20} {_spread(1 / s)}   {_spread(base / s, width=6)}")
    # Flipped where the task asks for it; what is left are shadows, reflections and smoothed edges.
    difference = np.abs(theirs()[:: -1 if camera.flip else 1].astype(float) - same.frame()).mean()
    print(f"\nmean difference of the two pictures with the same geoms: {difference:.1f} of 255")
    close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=sorted(THEIRS), default="drawer_open")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=128, help="pixels a side")
    return parser.parse_args()


def _metaworld(camera: Camera, like: SimEnv) -> tuple[Draw, Callable[[], None]]:
    import mujoco
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    size = {"height": camera.height, "width": camera.width}
    env = ALL_V3_ENVIRONMENTS["drawer-open-v3"](render_mode="rgb_array", camera_name="corner", **size)
    env._set_task_called, env._freeze_rand_vec = True, False
    env.reset()
    x, y = np.array(camera.xyaxes[:3]), np.array(camera.xyaxes[3:])
    x = x / np.linalg.norm(x)
    y = y - x * (x @ y)
    y = y / np.linalg.norm(y)
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, np.stack([x, y, np.cross(x, y)], axis=1).ravel())
    placed = env.model.camera("corner").id
    env.model.cam_pos[placed], env.model.cam_quat[placed] = camera.position, quaternion
    env.model.cam_fovy[placed] = camera.fovy
    env.model.body("drawer").pos = like.model.body("drawer").pos
    env.model.site("goal").pos = like.model.site("goal").pos
    env.set_state(like.data.qpos, like.data.qvel)
    env.render()

    def draw() -> np.ndarray:
        # With a single camera Gymnasium does not make its own context current, and would draw into ours.
        env.mujoco_renderer.viewer.make_context_current()
        return env.render()

    def close() -> None:
        env.mujoco_renderer.viewer.make_context_current()
        env.close()

    return draw, close


def _humanoid(camera: Camera, like: SimEnv) -> tuple[Draw, Callable[[], None]]:
    from gymnasium.envs.mujoco.humanoid_v5 import HumanoidEnv

    from vlmrl.sim import humanoid_model

    spec = humanoid_model.specification()
    spec.compile()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "dressed.xml")
        path.write_text(spec.to_xml())
        env = HumanoidEnv(
            str(path),
            render_mode="rgb_array",
            height=camera.height,
            width=camera.width,
            camera_id=-1,
            # The task's camera in MuJoCo's other words.
            default_camera_config={"distance": 3.5, "lookat": np.array([0, 0, 1.0]), "elevation": -10, "azimuth": 180},
        )
    env.reset(seed=0)
    env.set_state(like.data.qpos, like.data.qvel)
    env.render()

    def draw() -> np.ndarray:
        # As with Meta-World: its own context must be made current.
        env.mujoco_renderer.viewer.make_context_current()
        return env.render()

    def close() -> None:
        env.mujoco_renderer.viewer.make_context_current()
        env.close()

    return draw, close


THEIRS = {"drawer_open": _metaworld, "humanoid/standing": _humanoid}
"""What Gymnasium draws of the same scene, and how to close it."""


def _ours(task: Task, camera: Camera, *, sites: bool) -> SimEnv:
    env = make(replace(task, cameras={**task.cameras, "judge": camera}, render=Render(sites=sites)))
    env.reset(seed=0)
    return env


def _seconds(draw: Draw, frames: int) -> float:
    start = time.perf_counter()
    for _ in range(frames):
        draw()
    return (time.perf_counter() - start) / frames


def _spread(values: np.ndarray, *, width: int = 9) -> str:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:{width}.1f} {f'{low:.1f} to {high:.1f}':>15}"


if __name__ == "__main__":
    main()
