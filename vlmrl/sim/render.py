"""Our own MuJoCo renderer: one camera of a task to one picture, without what makes software OpenGL slow.

`mujoco.Renderer` and Gymnasium's wrappers expose neither shadows, reflections and multisampling, nor which bodies are
drawn. Cameras are placed in the scene directly, so that the model needs none and a crop costs no pixels.
"""

import atexit
import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float64, Int64, UInt8

from vlmrl import gl
from vlmrl.errors import ConfigError, unknown
from vlmrl.sim.task import Camera, Render

_ROBOT_GROUP = 2
"""Geom group given to the robot: other renderers draw it by default like 0 and 1, and so see no change."""


@dataclass(frozen=True)
class Prop:
    """A thing that is drawn and has no part in the physics."""

    shape: mujoco.mjtGeom
    size: Float64[np.ndarray, "3"]
    """Half-extents, m, as MuJoCo's of this shape."""
    position: Float64[np.ndarray, "3"]
    rotation: Float64[np.ndarray, "3 3"]
    rgba: tuple[float, float, float, float]


class Renderer:
    """Draws the cameras of a task; the graphics context is made at the first picture."""

    def __init__(
        self, model: mujoco.MjModel, cameras: Mapping[str, Camera], *, render: Render, robot_bodies: Sequence[str] = ()
    ) -> None:
        self._model, self._cameras, self._settings = model, dict(cameras), render
        self._context: _Context | None = None
        self._props: Sequence[Prop] = ()
        _group_robot(model, robot_bodies)
        self._options = {robot: _options(robot, render) for robot in (False, True)}

    def frame(self, data: mujoco.MjData, camera: str) -> UInt8[np.ndarray, "H W 3"]:
        """Draw one picture, RGB, top row first.

        Raises:
            ConfigError: if there is no such camera, or no graphics context can be made.
        """
        if camera not in self._cameras:
            raise unknown("camera", camera, self._cameras)
        placement = self._cameras[camera]
        context, _ = self._placed(data, placement)
        return context.draw(data, self._options[placement.robot], placement, self._props)

    def surface(
        self, data: mujoco.MjData, camera: str
    ) -> tuple[Float64[np.ndarray, "H W 3"], Int64[np.ndarray, "H W 2"]]:
        """Return what a depth camera measures: for each pixel the point that it shows, and whose it is.

        Points are in the scene's frame, m; the second array holds MuJoCo's type and index of the object, or -1.

        Raises:
            ConfigError: if there is no such camera, or no graphics context can be made.
        """
        if camera not in self._cameras:
            raise unknown("camera", camera, self._cameras)
        placement = self._cameras[camera]
        context, position = self._placed(data, placement)
        depth_m, objects = context.measure(data, self._options[placement.robot], placement)
        return position + depth_m[..., None] * rays(placement), objects

    def _placed(self, data: mujoco.MjData, placement: Camera) -> tuple["_Context", Float64[np.ndarray, "3"]]:
        """The context with its eye at a camera, and where that is."""
        if self._context is None:
            self._context = _Context(self._model, self._settings)
        position = np.asarray(placement.position, np.float64)
        if placement.follow:
            position = position + data.body(placement.follow).xpos
        self._context.place(placement, position, near=self._model.vis.map.znear * self._model.stat.extent)
        return self._context, position

    def vary(self, cameras: Mapping[str, Camera], props: Sequence[Prop]) -> None:
        """From now on place the cameras so, and draw these things too."""
        self._cameras, self._props = dict(cameras), props

    def close(self) -> None:
        """Free the graphics context; a later picture makes a new one."""
        context, self._context = self._context, None
        if context is not None:
            context.free()


def rays(camera: Camera) -> Float64[np.ndarray, "H W 3"]:
    """Way from the camera to what each pixel shows, per metre of depth, in the scene's frame."""
    right, up = _axes(camera)
    left, top, right_edge, bottom = camera.crop
    across = left + (right_edge - left) * (np.arange(camera.width) + 0.5) / camera.width
    down = top + (bottom - top) * (np.arange(camera.height) + 0.5) / camera.height
    if camera.flip:
        down = 1 - down
    half = math.tan(math.radians(camera.fovy) / 2)
    aspect = (camera.width / camera.height) * (bottom - top) / (right_edge - left)
    x, y = np.meshgrid(half * aspect * (2 * across - 1), half * (1 - 2 * down))
    return np.cross(up, right) + x[..., None] * right + y[..., None] * up


def project(camera: Camera, points: Float64[np.ndarray, "T 3"]) -> Float64[np.ndarray, "T 2"]:
    """Return column and row of the pixel that shows each point (m, the scene's frame); NaN behind the camera.

    The inverse of `rays`: a point inside the picture lies between -0.5 and the picture's size minus 0.5.
    """
    right, up = _axes(camera)
    way = points - np.asarray(camera.position, np.float64)
    depth_m = way @ np.cross(up, right)
    depth_m = np.where(depth_m > 1e-9, depth_m, np.nan)
    left, top, right_edge, bottom = camera.crop
    half = math.tan(math.radians(camera.fovy) / 2)
    aspect = (camera.width / camera.height) * (bottom - top) / (right_edge - left)
    across = (way @ right / depth_m / (half * aspect) + 1) / 2
    down = (1 - way @ up / depth_m / half) / 2
    if camera.flip:
        down = 1 - down
    column = (across - left) / (right_edge - left) * camera.width - 0.5
    row = (down - top) / (bottom - top) * camera.height - 0.5
    return np.stack([column, row], axis=-1)


def _axes(camera: Camera) -> tuple[Float64[np.ndarray, "3"], Float64[np.ndarray, "3"]]:
    """Right and up, of length one and at right angles."""
    right, up = np.asarray(camera.xyaxes[:3], np.float64), np.asarray(camera.xyaxes[3:], np.float64)
    right = right / np.linalg.norm(right)
    up = up - right * (right @ up)
    return right, up / np.linalg.norm(up)


def _options(robot: bool, render: Render) -> mujoco.MjvOption:
    options = mujoco.MjvOption()
    options.geomgroup[:] = 0
    options.geomgroup[:_ROBOT_GROUP] = 1
    options.geomgroup[_ROBOT_GROUP] = robot
    options.sitegroup[:] = options.sitegroup * render.sites
    return options


def _group_robot(model: mujoco.MjModel, robot_bodies: Sequence[str]) -> None:
    """Move the drawn geoms of the robot's bodies into a group of their own."""
    bodies = {model.body(i).name: i for i in range(model.nbody)}
    inside: set[int] = set()
    for name in robot_bodies:
        if name not in bodies:
            raise unknown("body", name, (b for b in bodies if b))
        inside.add(bodies[name])
    for i in range(1, model.nbody):
        if int(model.body_parentid[i]) in inside:
            inside.add(i)
    for i in range(model.ngeom):
        if int(model.geom_group[i]) <= _ROBOT_GROUP:
            robot = int(model.geom_bodyid[i]) in inside
            model.geom_group[i] = _ROBOT_GROUP if robot else min(int(model.geom_group[i]), _ROBOT_GROUP - 1)


class _Context:
    """An OpenGL context with the model uploaded, and the abstract scene."""

    def __init__(self, model: mujoco.MjModel, settings: Render) -> None:
        self._model = model
        self._scene = mujoco.MjvScene(model, maxgeom=2 * model.ngeom + 1000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = settings.shadows
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = settings.reflections
        self._scene.flags[mujoco.mjtRndFlag.mjRND_CULL_FACE] = settings.cull
        self._user = mujoco.MjvCamera()
        # A user camera is left as `place` set it, and the headlight follows it.
        self._user.type = mujoco.mjtCamera.mjCAMERA_USER
        self._size = (0, 0)
        self._gl = _gl_context()
        samples, model.vis.quality.offsamples = model.vis.quality.offsamples, settings.multisampling
        self._mjr = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        model.vis.quality.offsamples = samples
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._mjr)
        # Nearness is 1 at the near plane and 0 at the far one, which keeps precision far away.
        self._mjr.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self._release = weakref.finalize(self, _release, self._gl, self._mjr)
        # Left to itself it would run after MuJoCo's own exit hook has closed the display.
        self._release.atexit = False
        atexit.register(self._release)

    def place(self, camera: Camera, position: Float64[np.ndarray, "3"], *, near: float) -> None:
        """Set the scene's two eyes (they coincide) to the cropped view of a camera."""
        right, up = _axes(camera)
        left, top, right_edge, bottom = camera.crop
        if camera.flip:
            top, bottom = 1 - bottom, 1 - top
        half = near * math.tan(math.radians(camera.fovy) / 2)
        aspect = (camera.width / camera.height) * (bottom - top) / (right_edge - left)
        for eye in self._scene.camera:
            eye.pos, eye.forward, eye.up = position, np.cross(up, right), up
            eye.frustum_near, eye.frustum_far = near, self._model.vis.map.zfar * self._model.stat.extent
            eye.frustum_top, eye.frustum_bottom = half * (1 - 2 * top), half * (1 - 2 * bottom)
            eye.frustum_center = half * aspect * (left + right_edge - 1)
            eye.frustum_width = 0.5 * half * aspect * 2 * (right_edge - left)
            eye.orthographic = 0

    def draw(
        self, data: mujoco.MjData, options: mujoco.MjvOption, camera: Camera, props: Sequence[Prop] = ()
    ) -> UInt8[np.ndarray, "H W 3"]:
        """Render the placed view at the camera's size."""
        pixels = np.empty((camera.height, camera.width, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, self._render(data, options, camera, props), self._mjr)
        # OpenGL's first row is the lowest, so a picture to be flipped is already as wanted.
        return pixels if camera.flip else np.ascontiguousarray(pixels[::-1])

    def measure(
        self, data: mujoco.MjData, options: mujoco.MjvOption, camera: Camera
    ) -> tuple[Float64[np.ndarray, "H W"], Int64[np.ndarray, "H W 2"]]:
        """Depth along the view (m) and object of each pixel of the placed view."""
        flags = (mujoco.mjtRndFlag.mjRND_SEGMENT, mujoco.mjtRndFlag.mjRND_IDCOLOR)
        for flag in flags:
            self._scene.flags[flag] = True
        colours = np.empty((camera.height, camera.width, 3), np.uint8)
        nearness = np.empty((camera.height, camera.width), np.float32)
        rectangle = self._render(data, options, camera)
        mujoco.mjr_readPixels(colours, nearness, rectangle, self._mjr)
        for flag in flags:
            self._scene.flags[flag] = False
        if not camera.flip:
            colours, nearness = colours[::-1], nearness[::-1]
        near, far = self._scene.camera[0].frustum_near, self._scene.camera[0].frustum_far
        depth_m = near * far / (near + nearness.astype(np.float64) * (far - near))
        return depth_m, self._objects()[colours @ np.array([1, 256, 65536])]

    def _objects(self) -> Int64[np.ndarray, "K 2"]:
        """Type and index of what has each colour; colour 0 is the background."""
        found = np.full((self._scene.ngeom + 1, 2), -1)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.segid >= 0:
                found[geom.segid + 1] = geom.objtype, geom.objid
        return found

    def _render(
        self, data: mujoco.MjData, options: mujoco.MjvOption, camera: Camera, props: Sequence[Prop] = ()
    ) -> mujoco.MjrRect:
        self._gl.make_current()
        if self._size != (camera.width, camera.height):
            mujoco.mjr_resizeOffscreen(camera.width, camera.height, self._mjr)
            self._size = (camera.width, camera.height)
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, options, None, self._user, everything, self._scene)
        self._add(props)
        rectangle = mujoco.MjrRect(0, 0, camera.width, camera.height)
        mujoco.mjr_render(rectangle, self._scene, self._mjr)
        return rectangle

    def _add(self, props: Sequence[Prop]) -> None:
        for prop in props:
            geom = self._scene.geoms[self._scene.ngeom]
            rgba = np.array(prop.rgba, np.float32)
            mujoco.mjv_initGeom(geom, prop.shape, prop.size, prop.position, prop.rotation.ravel(), rgba)
            self._scene.ngeom += 1

    def free(self) -> None:
        """Give the context back; nothing happens the second time."""
        self._release()
        atexit.unregister(self._release)


def _release(context: "mujoco.gl_context.GLContext", mjr: mujoco.MjrContext) -> None:
    context.make_current()
    mjr.free()
    context.free()


def _gl_context() -> "mujoco.gl_context.GLContext":
    try:
        context = mujoco.gl_context.GLContext(64, 64)
        context.make_current()
    except (RuntimeError, ImportError, AttributeError, OSError) as error:
        raise ConfigError(
            f"MuJoCo cannot draw: {error}; on Debian or Ubuntu: apt-get install --no-install-recommends {gl.PACKAGES}, "
            "then MUJOCO_GL=egl (vlmrl doctor tells more)"
        ) from error
    return context
