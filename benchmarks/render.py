"""Speed of our pictures against Gymnasium's own `render()` of the same environment, same camera, same size.

    python benchmarks/render.py [--rounds 15] [--frames 8] [--size 128]

Both draw in this process, by turns, so that whatever else runs on the machine slows both alike. A round times `frames`
pictures of each; printed is the median round and the range of the middle half, and so for the ratio within a round.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from vlmrl import gl
from vlmrl.sim import SimEnv, load_task, make
from vlmrl.sim.task import Camera, Render, Task

Draw = Callable[[], np.ndarray]


def main() -> None:
    arguments = _arguments()
    backend = gl.choose()
    task = load_task("drawer_open")
    camera = replace(task.cameras["judge"], crop=(0.0, 0.0, 1.0, 1.0), height=arguments.size, width=arguments.size)
    same, hidden = _ours(task, replace(camera, robot=True), sites=True), _ours(task, camera, sites=False)
    theirs, close = _gymnasium(camera, same)
    draw: dict[str, Draw] = {
        "gymnasium render()": theirs,
        "ours, same geoms": same.frame,
        "ours, robot hidden": hidden.frame,
    }
    times: dict[str, list[float]] = {name: [] for name in draw}
    for _ in range(arguments.rounds + 1):
        for name, one in draw.items():
            times[name].append(_seconds(one, arguments.frames))
    seconds = {name: np.array(t[1:]) for name, t in times.items()}
    shape = f"{arguments.size}x{arguments.size}"
    print(f"drawer_open at {shape}, MUJOCO_GL={backend}, n={arguments.rounds} rounds of {arguments.frames} frames\n")
    print(f"{'':20} {'frames/s':>9} {'middle half':>15}   {'ratio':>6} {'middle half':>15}")
    base = seconds["gymnasium render()"]
    for name, s in seconds.items():
        print(f"{name:20} {_spread(1 / s)}   {_spread(base / s, width=6)}")
    # Flipped as the task asks for; what is left are shadows, reflections and smoothed edges.
    difference = np.abs(theirs()[::-1].astype(float) - same.frame()).mean()
    print(f"\nmean difference of the two pictures with the same geoms: {difference:.1f} of 255")
    close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=128, help="pixels a side")
    return parser.parse_args()


def _gymnasium(camera: Camera, like: SimEnv) -> tuple[Draw, Callable[[], None]]:
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
