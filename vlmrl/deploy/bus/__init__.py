"""A servo bus without hardware: real protocols on a pseudo-terminal, MuJoCo behind them."""

from vlmrl.deploy.bus.line import Faults, Line
from vlmrl.deploy.bus.plant import Plant

__all__ = ["Faults", "Line", "Plant"]
