"""What scenes of rope, cloth and water share: their stage, pickers that glide, and guards against failed physics.

The scenes are written by Python rather than kept as `scene.xml`: dozens of equal bodies follow from a few numbers.
"""

from collections.abc import Iterator, Mapping

import mujoco
import numpy as np
from jaxtyping import Float64

from vlmrl.errors import ConfigError
from vlmrl.sim.dynamics import Diverged
from vlmrl.sim.task import Task

HIDDEN = 3
"""Geom group that no camera draws."""

_SCENE = """
<mujoco model="{name}">
  <option timestep="0.005" integrator="implicitfast" {option}/>
  <size memory="200M"/>
  <visual>
    <headlight ambient="0.35 0.35 0.35" diffuse="0.3 0.3 0.3" specular="0 0 0"/>
    <map znear="0.05" zfar="20"/>
    <quality numslices="12" numstacks="8"/>
  </visual>
  <statistic extent="1" center="0 0 0"/>
  <asset>
    <texture type="skybox" builtin="flat" rgb1="0.93 0.94 0.95" rgb2="0.93 0.94 0.95" width="8" height="8"/>
  </asset>
  <worldbody>
    <light directional="true" pos="-0.5 0.5 2" dir="0.25 -0.25 -1" diffuse="0.35 0.35 0.35" specular="0.1 0.1 0.1"/>
{bodies}
  </worldbody>
{more}
</mujoco>
"""


def compiled(name: str, *, option: str, bodies: str, more: str = "") -> mujoco.MjModel:
    """Put bodies on the stage and compile it.

    Round things are drawn with a quarter of MuJoCo's own triangles, on which software OpenGL spends its time.
    """
    return mujoco.MjModel.from_xml_string(_SCENE.format(name=name, option=option, bodies=bodies, more=more))


def ranges(task: Task, wanted: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """The task's reset ranges over a family's own.

    Raises:
        ConfigError: if the task names a quantity that the family does not draw, or a range is not low and high.
    """
    found = dict(wanted)
    for name, limits in task.resets.ranges.items():
        if name not in wanted or len(limits) != 2 or limits[0] > limits[1]:
            raise ConfigError(
                f"task {task.name!r}: resets.ranges.{name}: [low, high] of one of {', '.join(wanted)} wanted, "
                f"found {list(limits)}"
            )
        found[name] = (limits[0], limits[1])
    return found


def glide(data: mujoco.MjData, model: mujoco.MjModel, path: Float64[np.ndarray, "S P 3"]) -> Iterator[int]:
    """Move the pickers (the scene's mocap bodies) along a path, one point a physics step.

    A jump once a control step would jerk what they hold.
    """
    for i, points in enumerate(path):
        data.mocap_pos[:] = points
        mujoco.mj_step(model, data)
        yield i


def check_speed(data: mujoco.MjData, limit: float) -> None:
    """Refuse velocities (m/s, rad/s) that nothing in the scene can reach.

    MuJoCo warns of numbers above 1e10 only; a solver that has lost a soft body throws it about at 10^3 m/s unnoticed.

    Raises:
        Diverged: if a velocity is above the limit or not a number.
    """
    fastest = float(np.abs(data.qvel).max())
    if not fastest <= limit:
        raise Diverged(f"a velocity of {fastest:.3g} (m/s or rad/s), limit {limit:g}")


def check_warnings(data: mujoco.MjData) -> None:
    """Refuse a state that MuJoCo has found exploded and reset by itself: it looks perfectly well.

    Raises:
        Diverged: if MuJoCo has warned since the last reset.
    """
    for kind in (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC):
        if data.warning[kind].number:
            raise Diverged(f"MuJoCo reset an exploded state ({mujoco.mju_warningText(kind, 0)})")
