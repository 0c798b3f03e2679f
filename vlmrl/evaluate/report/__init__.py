"""The report of a run: one HTML page that needs nothing else."""

from vlmrl.evaluate.report.page import write

__all__ = ["write"]
