"""Dynamics that YAML cannot say, one family a file."""
