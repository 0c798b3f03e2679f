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
        self._line = np.zeros(6)
        self._pairs = _pairs(self._model)
        near = self._near(spec.home)
        self._pairs = [pair for pair in self._pairs if pair not in near]

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
        """Distance of each pair of parts that is nearer than the clearance, m.

        By MuJoCo's distances, not its contacts: those of two boxes now and then claim centimetres where there are none.
        """
        self._place(position)
        most, line = self._clearance, self._line
        distances = (mujoco.mj_geomDistance(self._model, self._data, *pair, most, line) for pair in self._pairs)
        return {pair: d for pair, d in zip(self._pairs, distances, strict=True) if d < most}


def _pairs(model: mujoco.MjModel) -> list[tuple[int, int]]:
    """Shapes that may meet, as MuJoCo has it: not of one body, nor of one and the body that carries it."""
    body = model.body_weldid[model.geom_bodyid]
    carrier = model.body_weldid[model.body_parentid[body]]
    left_out = set(model.exclude_signature.tolist())

    def meet(i: int, j: int) -> bool:
        carries = body[i] > 0 and body[j] > 0 and (carrier[i] == body[j] or carrier[j] == body[i])
        masks = model.geom_contype[i] & model.geom_conaffinity[j] or model.geom_contype[j] & model.geom_conaffinity[i]
        bodies = sorted((int(model.geom_bodyid[i]), int(model.geom_bodyid[j])))
        same = body[i] == body[j]
        return bool(masks and not same and not carries and (bodies[0] << 16) + bodies[1] not in left_out)

    return [(i, j) for i in range(model.ngeom) for j in range(i + 1, model.ngeom) if meet(i, j)]


def _known(table: dict[str, int], name: str, kind: str, spec: RobotSpec) -> int:
    if name not in table:
        raise ConfigError(f"robot {spec.name!r}: {spec.path.name}: {unknown(kind, name, table)}")
    return table[name]


def worst(body: Body, poses: Sequence[Joints]) -> tuple[float, float]:
    """The largest excess over several poses."""
    found = [body.excess(pose) for pose in poses]
    return max(f[0] for f in found), max(f[1] for f in found)
