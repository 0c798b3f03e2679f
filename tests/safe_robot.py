"""A small robot for tests of safety: two links in a plane that can touch the base, and a lift."""

from pathlib import Path

from vlmrl.robot import Joint, RobotSpec, Workspace

MODEL = """
<mujoco>
  <worldbody>
    <geom name="table" type="box" size=".05 .05 .1" pos="0 0 .1" contype="1" conaffinity="1"/>
    <body name="lift" pos="0 0 .3">
      <joint name="lift" type="slide" axis="0 0 1"/>
      <geom name="carriage" type="box" size=".03 .03 .03" mass="1"/>
      <body name="upper" pos="0 0 0">
        <joint name="shoulder" type="hinge" axis="0 1 0"/>
        <geom name="upper" type="capsule" fromto=".05 0 0 .28 0 0" size=".02" mass="1"/>
        <body name="fore" pos=".3 0 0">
          <joint name="elbow" type="hinge" axis="0 1 0"/>
          <geom name="fore" type="capsule" fromto=".03 0 0 .25 0 0" size=".02" mass="1"/>
          <site name="tip" pos=".27 0 0"/>
        </body>
      </body>
    </body>
  </worldbody>
</mujoco>
"""


def robot(folder: Path, *, box: bool = True) -> RobotSpec:
    """Write the model and describe it; the box cuts off the tip's reach on every side."""
    (folder / "robot.xml").write_text(MODEL)
    return RobotSpec(
        name="planar",
        folder=folder,
        joints=(
            Joint("lift", -0.05, 0.3, velocity=0.5, acceleration=2.0, jerk=30.0),
            Joint("shoulder", -2.0, 2.0, velocity=2.0, acceleration=10.0, jerk=200.0),
            Joint("elbow", -2.8, 2.8, velocity=3.0, acceleration=15.0, jerk=400.0, current=1.5),
        ),
        control_hz=50.0,
        model="robot.xml",
        licence="ours",
        driver="none",
        tip="tip",
        workspace=Workspace((-0.2, -0.5, 0.02), (0.5, 0.5, 0.75), ("tip",)) if box else None,
    )
