"""Queries, the ledger of answers, labelers (whatever answers queries), and the job that asks them."""

from importlib import import_module
from types import ModuleType

from vlmrl.annotate.budget import Limits
from vlmrl.annotate.job import JobReport, Tally, label, run_job
from vlmrl.annotate.ledger import Ledger
from vlmrl.annotate.pictures import Pictures
from vlmrl.annotate.query import sample_pairs
from vlmrl.annotate.truth import true_progress
from vlmrl.errors import ConfigError, unknown

__all__ = [
    "LABELERS",
    "JobReport",
    "Ledger",
    "Limits",
    "Pictures",
    "Tally",
    "label",
    "load_labeler",
    "run_job",
    "sample_pairs",
    "true_progress",
]

LABELERS = {
    "judge": "vlmrl.annotate.judge",
    "openai": "vlmrl.annotate.openai",
    "recorded": "vlmrl.annotate.recorded",
    "scripted": "vlmrl.annotate.scripted",
    "transformers": "vlmrl.annotate.transformers",
}
"""Name to module, imported on use: each has `Config` and `build(config, **what it needs)`."""


def load_labeler(name: str) -> ModuleType:
    """Return the module of a labeler.

    Raises:
        ConfigError: if there is none of that name, or a package that it needs is not installed.
    """
    if name not in LABELERS:
        raise unknown("labeler", name, LABELERS)
    try:
        return import_module(LABELERS[name])
    except ModuleNotFoundError as e:
        raise ConfigError(f"labeler {name!r} needs the package {e.name!r}: pip install {e.name}") from e
