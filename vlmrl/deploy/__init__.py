"""Robots: drivers, the simulated servo bus, and the control node."""
