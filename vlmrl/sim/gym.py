"""Registers our environments when imported: `gymnasium.make("vlmrl.sim.gym:vlmrl/DrawerOpen-v0")` does so by itself.

Gymnasium 1.0 dropped the entry points by which earlier versions found plugins, and left this way only.
"""

from vlmrl.sim.register import register_envs

register_envs()
