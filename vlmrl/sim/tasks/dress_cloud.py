"""The point cloud that a depth camera sees of arm and garment, with the gripper as a point of its own."""

from collections.abc import Mapping

import mujoco
import numpy as np
from jaxtyping import Float32, Float64, Int64

from vlmrl.sim.render import Renderer
from vlmrl.sim.task import Camera, Render

ARM, GARMENT, GRIPPER = range(3)
"""Segments, in the order of the one-hot channels."""


class Cloud:
    """Rows of x, y, z (m, the scene's frame) and the one-hot segment; the first row is the gripper.

    The other rows are drawn evenly, always alike, from the pixels that show arm or garment: what is hidden from the
    camera has no points. Where fewer pixels show them than there are rows, points repeat; where none do, rows are zero.
    """

    def __init__(self, model: mujoco.MjModel, cameras: Mapping[str, Camera], *, camera: str, points: int) -> None:
        self.shape = (points, 6)
        self._camera = camera
        self._renderer = Renderer(model, {camera: cameras[camera]}, render=Render())
        limbs = [model.body(name).id for name in ("upper_arm", "forearm")]
        self._arm = np.isin(model.geom_bodyid, limbs)
        # Neighbouring pixels must not be neighbours in this order.
        self._order = np.random.default_rng(0).permutation(cameras[camera].height * cameras[camera].width)

    def observe(self, data: mujoco.MjData, gripper: Float64[np.ndarray, "3"]) -> Float32[np.ndarray, "P 6"]:
        """Draw the depth picture and sample it."""
        points, objects = self._renderer.surface(data, self._camera)
        segment = self._segments(objects.reshape(-1, 2))
        seen = self._order[segment[self._order] >= 0]
        cloud = np.zeros(self.shape, np.float32)
        cloud[0, :3], cloud[0, 3 + GRIPPER] = gripper, 1
        if len(seen):
            chosen = np.resize(seen, len(cloud) - 1)
            cloud[1:, :3] = points.reshape(-1, 3)[chosen]
            cloud[np.arange(1, len(cloud)), 3 + segment[chosen]] = 1
        return cloud

    def _segments(self, objects: Int64[np.ndarray, "N 2"]) -> Int64[np.ndarray, " N"]:
        kind, which = objects.T
        # As integers: comparing an array with an enumeration goes element by element.
        arm = (kind == int(mujoco.mjtObj.mjOBJ_GEOM)) & self._arm[which]
        return np.where(arm, ARM, np.where(kind == int(mujoco.mjtObj.mjOBJ_FLEX), GARMENT, -1))
