"""Rollouts in simulation, collection of data, statistics, and the report."""
