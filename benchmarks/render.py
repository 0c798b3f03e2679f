"""Speed of our pictures: against Gymnasium's own `render()` of the same geoms, of every task, and in two processes.

    python benchmarks/render.py [gymnasium tasks workers] [--rounds 9] [--frames 4] [--only NAME ...]

`gymnasium`: Meta-World's environments and Humanoid-v5, same camera, same size, same geoms; both draw in one process, by
turns, so that whatever else runs on the machine slows both alike. A round times `frames` pictures of each; printed are
the best round, median and range of the middle half of the ratios within a round, and the ratio of processor time over
all rounds, all threads together, which other programs hardly disturb. `tasks`: frames/s of every task
at 64 and 128 pixels and at its own size. `workers`: frames/s of one and of two processes that draw at the same time.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import numpy as np

from vlmrl import gl
from vlmrl.errors import ConfigError
from vlmrl.sim import SimEnv, load_task, make, task_names
from vlmrl.sim.task import Camera, Physics, Render, Task

Draw = Callable[[], np.ndarray]
SIZES = (64, 128)
META_WORLD = (
    "drawer-open-v3",
    "soccer-v3",
    "sweep-into-v3",
    "door-open-v3",
    "button-press-v3",
    "window-close-v3",
    "hammer-v3",
    "assembly-v3",
    "pick-place-v3",
)
HUMANOID = "Humanoid-v5"


def main() -> None:
    arguments = _arguments()
    print(f"MUJOCO_GL={gl.choose()}, {arguments.rounds} rounds of {arguments.frames} frames\n")
    table = {"gymnasium": _versus_gymnasium, "tasks": _all_tasks, "workers": _workers}
    for name in arguments.parts or table:
        table[name](arguments)
        print()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="gymnasium, tasks, workers; by default all")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--only", nargs="*", default=[], help="tasks or environments to measure")
    arguments = parser.parse_args()
    if wrong := set(arguments.parts) - {"gymnasium", "tasks", "workers"}:
        parser.error(f"unknown part {', '.join(wrong)}; have: gymnasium, tasks, workers")
    return arguments


@dataclass(frozen=True)
class Pair:
    """The same scene drawn by Gymnasium and by us."""

    theirs: Draw
    ours: Draw


def _versus_gymnasium(arguments: argparse.Namespace) -> None:
    head = f"{'same geoms':20} {'pixels':>6} {'theirs/s':>9} {'ours/s':>9} {'ratio':>7} {'middle half':>15}"
    print(f"{head} {'processor':>9}  difference")
    for name in arguments.only or (*META_WORLD, HUMANOID):
        for size in SIZES:
            # Gymnasium's second environment of a process draws nothing once the first is closed.
            row = get_context("spawn").Process(target=_row, args=(name, size, arguments.rounds, arguments.frames))
            row.start()
            row.join()


def _row(name: str, size: int, rounds: int, frames: int) -> None:
    with (_humanoid if name == HUMANOID else _meta_world)(name, size) as pair:
        wall, processor = _by_turns(pair, rounds, frames)
        # Shadows, reflections and smoothed edges; more is another scene.
        gap = np.abs(pair.theirs().astype(float) - pair.ours()).mean()
        if gap > 40:
            raise SystemExit(f"{name}: the pictures differ by {gap:.0f} of 255")
    low, middle, high = np.percentile(wall[:, 0] / wall[:, 1], [25, 50, 75])
    theirs, ours = 1 / wall.min(axis=0)
    spread = f"{middle:7.1f} {f'{low:.1f} to {high:.1f}':>15} {np.divide(*processor.sum(axis=0)):9.1f}"
    print(f"{name:20} {size:6} {theirs:9.1f} {ours:9.1f} {spread}  {gap:.1f}", flush=True)


def _by_turns(pair: Pair, rounds: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds a frame, on the wall and of the processor, of theirs and ours in each round."""
    times = [[_seconds(draw, frames) for draw in (pair.theirs, pair.ours)] for _ in range(rounds + 1)]
    # The first round makes contexts and uploads models.
    wall, processor = np.moveaxis(np.array(times[1:]), 2, 0)
    return wall, processor


def _seconds(draw: Draw, frames: int) -> tuple[float, float]:
    start, busy = time.perf_counter(), time.process_time()
    for _ in range(frames):
        draw()
    return (time.perf_counter() - start) / frames, (time.process_time() - busy) / frames


@contextmanager
def _meta_world(name: str, size: int) -> Iterator[Pair]:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    from vlmrl.sim.tasks.metaworld import Sawyer

    world = Sawyer(Task(name, name, Physics("metaworld", name), 100, 80, {}, {}, {}))
    stock = ALL_V3_ENVIRONMENTS[name](render_mode="rgb_array", camera_name="corner", height=size, width=size)
    stock._set_task_called, stock._freeze_rand_vec = True, False
    stock.reset()
    stock.model.body_pos[:], stock.model.site_pos[:] = world.model.body_pos, world.model.site_pos
    stock.data.mocap_pos[:], stock.data.mocap_quat[:] = world.data.mocap_pos, world.data.mocap_quat
    stock.set_state(world.data.qpos, world.data.qvel)
    with _drawn(stock, world.model, world.data, size=size, camera="corner", robot=("base",)) as pair:
        yield pair


@contextmanager
def _humanoid(name: str, size: int) -> Iterator[Pair]:
    import gymnasium

    # Two environments: our renderer sorts the geoms of its model into groups.
    stock, own = (
        gymnasium.make(name, render_mode="rgb_array", camera_name="track", height=size, width=size).unwrapped
        for _ in range(2)
    )
    stock.reset(seed=0), own.reset(seed=0)
    with _drawn(stock, own.model, own.data, size=size, camera="track", robot=()) as pair:
        yield pair
    own.close()


@contextmanager
def _drawn(env: Any, model: Any, data: Any, *, size: int, camera: str, robot: tuple[str, ...]) -> Iterator[Pair]:
    from vlmrl.sim.render import Renderer

    index = env.model.camera(camera).id
    axes, place = env.data.cam_xmat[index].reshape(3, 3), env.data.cam_xpos[index]
    xyaxes = tuple(map(float, axes[:, :2].T.ravel()))
    same = Camera(
        tuple(map(float, place)), xyaxes, float(env.model.cam_fovy[index]), robot=True, height=size, width=size
    )
    renderer = Renderer(model, {"same": same}, render=Render(sites=True), robot_bodies=robot)
    env.render()

    def theirs() -> np.ndarray:
        # With a single camera Gymnasium does not make its own context current, and would draw into ours.
        env.mujoco_renderer.viewer.make_context_current()
        return env.render()

    yield Pair(theirs, lambda: renderer.frame(data, "same"))
    renderer.close()
    env.mujoco_renderer.viewer.make_context_current()
    env.close()


def _all_tasks(arguments: argparse.Namespace) -> None:
    print(f"{'frames/s':32} {'64':>8} {'128':>8} {'own size':>9}")
    for name in arguments.only or task_names():
        try:
            speeds = [_speed(load_task(name), size, arguments) for size in (*SIZES, None)]
        except ConfigError as error:
            print(f"{name:32} left out: {error}", flush=True)
            continue
        own = load_task(name).cameras[load_task(name).camera]
        cells = " ".join(f"{speed:8.0f}" for speed in speeds)
        print(f"{name:32} {cells}  {own.height}x{own.width}", flush=True)


def _speed(task: Task, size: int | None, arguments: argparse.Namespace) -> float:
    env = _started(task, size)
    try:
        env.frame()
        return 1 / min(_seconds(env.frame, arguments.frames)[0] for _ in range(arguments.rounds))
    finally:
        env.close()


def _started(task: Task, size: int | None) -> SimEnv:
    if size is not None:
        camera = replace(task.cameras[task.camera], height=size, width=size)
        task = replace(task, cameras={**task.cameras, task.camera: camera})
    env = make(task)
    env.reset(seed=0)
    return env


def _workers(arguments: argparse.Namespace) -> None:
    print("drawer_open at 128x128, processes that draw at the same time, best of 5:")
    found = {count: [_together(count, 50 * arguments.frames) for _ in range(5)] for count in (1, 2)}
    speed = {count: max(s for s, _ in tries) for count, tries in found.items()}
    busy = {count: min(b for _, b in tries) for count, tries in found.items()}
    print(f"frames/s together: 1 process {speed[1]:.0f}, 2 processes {speed[2]:.0f}: {speed[2] / speed[1]:.2f} times")
    # What remains where other programs take the cores.
    print(f"processor time a frame: 1 process {1e3 * busy[1]:.2f} ms, 2 processes {1e3 * busy[2]:.2f} ms")


def _together(count: int, frames: int) -> tuple[float, float]:
    """Frames a second of all processes, and the processor's seconds a frame."""
    context = get_context("spawn")
    barrier, queue = context.Barrier(count + 1), context.Queue()
    workers = [context.Process(target=_draw_many, args=(barrier, queue, frames)) for _ in range(count)]
    for worker in workers:
        worker.start()
    barrier.wait()
    start = time.perf_counter()
    busy = [queue.get() for _ in workers]
    seconds = time.perf_counter() - start
    for worker in workers:
        worker.join()
    return count * frames / seconds, float(np.mean(busy))


def _draw_many(barrier: Any, queue: Any, frames: int) -> None:
    env = _started(load_task("drawer_open"), 128)
    env.frame()
    barrier.wait()
    queue.put(_seconds(env.frame, frames)[1])
    env.close()


if __name__ == "__main__":
    main()
