"""Imports the judge's data set unchecked: its camera is written in whole numbers, which pytest's type checks refuse."""

from importlib import import_module

import jaxtyping

jaxtyping.config.update("jaxtyping_disable", True)
try:
    dataset = import_module("vlmrl.judge.dataset")
finally:
    jaxtyping.config.update("jaxtyping_disable", False)
