"""The chain between any policy and any robot: limits, watchdogs and a latched stop."""

from vlmrl.safety.chain import Command, Config, SafetyChain
from vlmrl.safety.watch import Reading, Reason, Response, Thresholds

__all__ = ["Command", "Config", "Reading", "Reason", "Response", "SafetyChain", "Thresholds"]
