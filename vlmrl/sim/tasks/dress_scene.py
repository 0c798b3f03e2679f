"""The MuJoCo scene of assisted dressing, from the measures of a person and a garment.

Metres; the origin is on the floor below the shoulder, the person faces -x, z is up. The sleeve is a tube of cloth whose
edges keep their length, without bending stiffness, and does not collide with itself.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

AROUND, ALONG = 12, 16
"""Vertices of the sleeve; the first `AROUND` are its rim."""

HELD = (-2, -1, 0, 1, 2)
"""Vertices of the rim that the gripper holds, the topmost in the middle."""

_INTO_TRUNK_M = 0.2


@dataclass(frozen=True)
class Person:
    """One person's arm and looks."""

    forearm_m: float
    """From the tips of the fingers to the elbow."""
    upper_arm_m: float
    hand_radius_m: float
    forearm_radius_m: float
    upper_arm_radius_m: float
    skin: str
    shirt: str
    hair: str


@dataclass(frozen=True)
class Garment:
    """One sleeve, a tube of cloth."""

    radius_m: float
    length_m: float
    mass_kg: float
    friction: float
    colour: str


def scene(person: Person, garment: Garment) -> str:
    """Write the scene as MJCF."""
    points, elements = _tube(garment)
    # Soft: with half the time constant a hooked sleeve tears through the arm.
    grips = "".join(
        f'<connect body1="sleeve_{i % AROUND}" body2="gripper" anchor="0 0 0" solref="0.04 1"/>' for i in HELD
    )
    return f"""<mujoco model="dress_arm">
<option timestep="0.005" solver="CG" iterations="50" ls_iterations="10" tolerance="1e-6" integrator="implicitfast"/>
<size memory="200M"/>
<statistic center="-0.3 0 0.8" extent="1.5"/>
<visual>
  <headlight ambient=".45 .45 .45" diffuse=".45 .45 .45" specular="0 0 0"/>
  <map znear="0.02" zfar="20"/>
  <quality numslices="14" numstacks="8"/>
</visual>
<default>
  <geom contype="0" conaffinity="0" condim="3" friction="{garment.friction}" solref="0.015 1" solimp=".9 .95 .002"/>
  <default class="touched"><geom contype="1" conaffinity="1" rgba="{person.skin}"/></default>
</default>
<asset>
  <texture name="sky" type="skybox" builtin="flat" rgb1=".93 .94 .95" width="8" height="48"/>
</asset>
<worldbody>
  <light directional="true" pos="-1 -2 3" dir=".35 .6 -.7" diffuse=".35 .35 .35" specular="0 0 0"/>
  <geom name="floor" type="plane" size="12 12 .1" rgba=".8 .77 .72 1"/>
  {_person(person)}
  {_arm(person)}
  <body name="gripper" mocap="true">
    <geom name="wrist" type="cylinder" size=".024 .07" pos="0 0 .11" rgba=".88 .88 .9 1"/>
    <geom name="palm" type="box" size=".022 .045 .014" pos="0 0 .03" rgba=".3 .3 .33 1"/>
    <geom name="fingers" type="box" size=".009 .04 .036" pos="0 0 -.016" rgba=".3 .3 .33 1"/>
  </body>
  <flexcomp name="sleeve" type="direct" dim="2" radius="0.006" mass="{garment.mass_kg}" rgba="{garment.colour}"
      point="{points}" element="{elements}">
    <edge equality="true" solref="0.01 1"/>
    <contact contype="1" conaffinity="1" condim="3" friction="{garment.friction}" selfcollide="none" internal="false"
        solref="0.015 1" solimp=".9 .95 .002"/>
  </flexcomp>
</worldbody>
<equality>{grips}</equality>
</mujoco>"""


def _tube(garment: Garment) -> tuple[str, str]:
    """A tube along -x from its rim at x = 0, whose top is the origin."""
    turn = 2 * math.pi * np.arange(AROUND) / AROUND
    back = -garment.length_m * np.arange(ALONG) / (ALONG - 1)
    ring = np.stack([np.zeros(AROUND), np.sin(turn), np.cos(turn) - 1], axis=1) * garment.radius_m
    points = ring[None] + np.stack([back, 0 * back, 0 * back], axis=1)[:, None]
    return " ".join(f"{x:.6g}" for x in points.ravel()), " ".join(map(str, _triangles()))


def _triangles() -> Iterator[int]:
    for ring in range(ALONG - 1):
        for i in range(AROUND):
            a, b = ring * AROUND + i, ring * AROUND + (i + 1) % AROUND
            yield from (a, b, a + AROUND, b, b + AROUND, a + AROUND)


def _arm(person: Person) -> str:
    """Two bodies that begin at the shoulder and the elbow and go along -x.

    Not drawn: the capsule about the hand, and that of the upper arm, which goes on into the trunk. A sleeve cannot get
    off the arm there, although the trunk itself is not solid.
    """
    radius, length = person.hand_radius_m, person.forearm_m
    tip, knuckles, wrist = radius - length, -0.78 * length, -0.58 * length
    limb = f'<geom type="capsule" rgba="{person.skin}"'
    fingers = "".join(
        f'{limb} size="{0.24 * radius:.4f}"'
        f' fromto="{knuckles:.4f} {y:.4f} 0 {short * radius - length:.4f} {y:.4f} -.006"/>'
        for y, short in zip(np.linspace(-0.7, 0.7, 4) * radius, (0.7, 0.3, 0.35, 0.9), strict=True)
    )
    return f"""
  <body name="upper_arm" mocap="true">
    <geom name="upper_arm" class="touched" type="capsule" fromto="{_INTO_TRUNK_M} 0 0 {-person.upper_arm_m} 0 0"
        size="{person.upper_arm_radius_m}" group="3"/>
    {limb} fromto="0 0 0 {-person.upper_arm_m} 0 0" size="{person.upper_arm_radius_m}"/>
    <site name="shoulder" group="4"/>
  </body>
  <body name="forearm" mocap="true">
    <geom name="forearm" class="touched" type="capsule" fromto="0 0 0 {wrist:.4f} 0 0"
        size="{person.forearm_radius_m}"/>
    <geom name="hand" class="touched" type="capsule" fromto="{wrist:.4f} 0 0 {tip:.4f} 0 0" size="{radius}" group="3"/>
    {limb} size="{0.75 * radius:.4f}" fromto="0 0 0 {wrist - 0.02:.4f} 0 0"/>
    <geom type="ellipsoid" rgba="{person.skin}" pos="{(wrist + knuckles) / 2:.4f} 0 0"
        size="{(wrist - knuckles) / 2 + 0.02:.4f} {radius:.4f} {0.55 * radius:.4f}"/>
    {fingers}
    {limb} size="{0.27 * radius:.4f}"
        fromto="{(wrist + knuckles) / 2:.4f} {0.6 * radius:.4f} .004 {knuckles - 0.02:.4f} {0.8 * radius:.4f} -.012"/>
    <site name="elbow" group="4"/>
    <site name="fingertips" group="4" pos="{-length} 0 0"/>
  </body>"""


def _person(person: Person) -> str:
    """What is only drawn: the rest of a seated figure, and a chair."""
    skin, shirt, hair = person.skin, person.shirt, person.hair
    wide, trousers, wood = person.upper_arm_radius_m, ".25 .29 .38 1", ".55 .4 .27 1"
    parts = [
        ("capsule", f'fromto="0 .04 -.02 0 .36 -.02" size="{wide + 0.012}"', shirt),
        ("ellipsoid", 'pos="0 .2 -.2" size=".125 .2 .25"', shirt),
        ("ellipsoid", 'pos="0 .2 -.42" size=".13 .19 .17"', shirt),
        ("capsule", f'fromto="0 .01 -.01 0 -.005 -.012" size="{wide + 0.012}"', shirt),
        ("capsule", 'fromto="0 .2 .03 -.01 .2 .14" size=".05"', skin),
        ("ellipsoid", 'pos="-.025 .2 .245" size=".095 .075 .12"', skin),
        ("ellipsoid", 'pos=".015 .2 .28" size=".095 .082 .11"', hair),
        ("ellipsoid", 'pos="-.122 .2 .235" size=".02 .014 .02"', skin),
        ("sphere", 'pos="-.103 .165 .265" size=".011"', ".1 .1 .1 1"),
        ("sphere", 'pos="-.103 .235 .265" size=".011"', ".1 .1 .1 1"),
        ("ellipsoid", 'pos="-.02 .122 .24" size=".02 .012 .03"', skin),
        ("capsule", 'fromto="-.107 .18 .19 -.107 .22 .19" size=".007"', ".7 .3 .3 1"),
        ("capsule", 'fromto="0 .38 -.03 .03 .43 -.3" size=".05"', shirt),
        ("capsule", 'fromto="0 .43 -.33 -.24 .36 -.40" size=".038"', skin),
        ("sphere", 'pos="-.28 .35 -.41" size=".045"', skin),
        *(
            ("capsule", f'fromto="{a}" size="{r}"', trousers)
            for y in (0.11, 0.29)
            for a, r in ((f"0 {y} -.5 -.42 {y} -.5", 0.078), (f"-.42 {y} -.5 -.40 {y} -.92", 0.055))
        ),
        *(("capsule", f'fromto="-.40 {y} -.97 -.50 {y} -.98" size=".045"', ".15 .15 .15 1") for y in (0.11, 0.29)),
        ("box", 'pos="-.08 .2 -.605" size=".25 .24 .025"', wood),
        ("box", 'pos=".19 .2 -.3" size=".02 .22 .33"', wood),
        *(("box", f'pos="{x} {y} -.85" size=".02 .02 .25"', wood) for x in (-0.3, 0.17) for y in (-0.01, 0.41)),
    ]
    drawn = "".join(f'<geom type="{kind}" {shape} rgba="{colour}"/>' for kind, shape, colour in parts)
    return f'<body name="person" mocap="true">{drawn}</body>'
