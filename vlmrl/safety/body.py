"""Where the robot's body is: points that stay inside a box, and parts that must not touch each other."""

from collections.abc import Sequence

import mujoco
import numpy as np
from jaxtyping import Float64

from vlmrl.errors import ConfigError, unknown
from vlmrl.robot import RobotSpec

Joints = Float64[np.ndarray, " J"]

MARGIN = 1e-3
"""By which the box is smaller and the clearance larger than specified, m: between the poses that are looked at, a point
bends out of their chord by less."""


class Body:
    """Kinematics of a robot's model: how far a pose lies outside what is allowed."""

    def __init__(self, spec: RobotSpec) -> None:
        """Read the model.

        Parts that are closer than the clearance in the home pose are neighbours by construction and may touch.

        Raises:
            ConfigError: if the model does not load, or lacks a joint or site that the specification names.
        """
        try:
            self._model = mujoco.MjModel.from_xml_path(str(spec.path))
        except ValueError as error:
            raise ConfigError(f"robot {spec.name!r}: {spec.path}: {error}") from error
        self._data = mujoco.MjData(self._model)
        joints = {self._model.joint(k).name: int(self._model.jnt_qposadr[k]) for k in range(self._model.njnt)}
        self._addresses = np.array([_known(joints, name, "joint", spec) for name in spec.names])
        sites = {self._model.site(k).name: k for k in range(self._model.nsite)}
        box = spec.workspace
        self._sites = [_known(sites, name, "site", spec) for name in box.sites] if box else []
        self._low, self._high = (np.array(v) for v in (box.low, box.high)) if box else (np.zeros(3), np.zeros(3))
        self._low, self._high = self._low + MARGIN, self._high - MARGIN
        self._clearance = spec.clearance + MARGIN
        self._model.geom_margin[:] = self._clearance / 2
        self._neighbours: set[tuple[int, int]] = set()
        self._neighbours = set(self._near(spec.home))

    def points(self, position: Joints) -> Float64[np.ndarray, "S 3"]:
        """Places of the guarded sites, m."""
        self._place(position)
        return self._data.site_xpos[self._sites].copy()

    def excess(self, position: Joints) -> tuple[float, float]:
        """How far a pose is outside the box, and how much too near parts are to each other, m; zeros are allowed."""
        near = self._near(position)
        too_near = max((self._clearance - d for d in near.values()), default=0.0)
        if not self._sites:
            return 0.0, too_near
        points = self._data.site_xpos[self._sites]
        return max(0.0, float((self._low - points).max()), float((points - self._high).max())), too_near

    def _place(self, position: Joints) -> None:
        self._data.qpos[self._addresses] = position
        mujoco.mj_kinematics(self._model, self._data)

    def _near(self, position: Joints) -> dict[tuple[int, int], float]:
        """Distance of each pair of parts that is nearer than the clearance and no neighbours, m."""
        self._place(position)
        mujoco.mj_collision(self._model, self._data)
        found: dict[tuple[int, int], float] = {}
        for k in range(self._data.ncon):
            first, second = sorted(map(int, self._data.contact[k].geom))
            if (first, second) not in self._neighbours:
                found[first, second] = min(found.get((first, second), np.inf), float(self._data.contact[k].dist))
        return found


def _known(table: dict[str, int], name: str, kind: str, spec: RobotSpec) -> int:
    if name not in table:
        raise ConfigError(f"robot {spec.name!r}: {spec.path.name}: {unknown(kind, name, table)}")
    return table[name]


def worst(body: Body, poses: Sequence[Joints]) -> tuple[float, float]:
    """The largest excess over several poses."""
    found = [body.excess(pose) for pose in poses]
    return max(f[0] for f in found), max(f[1] for f in found)
