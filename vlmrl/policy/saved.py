"""Any saved policy by its place."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from vlmrl.artefact import kind_of
from vlmrl.policy.learned import LearnedPolicy
from vlmrl.policy.remote import RemotePolicy
from vlmrl.policy.robomimic import KIND, RobomimicPolicy
from vlmrl.types import Policy, Proposer

SERVER = ("ws://", "wss://")
"""How the address of a policy server begins."""


@runtime_checkable
class SavedPolicy(Policy, Proposer, Protocol):
    """Acts, and draws several chunks to choose from where it has learned how its actions spread."""


def load_policy(source: str | Path) -> SavedPolicy:
    """The policy of a folder or hub id that `save_pretrained` wrote, whatever trained it, or that of a server.

    Raises:
        DataError: if there is none.
        ConfigError: if it needs a package that is not installed.
    """
    if str(source).startswith(SERVER):
        return RemotePolicy(str(source))
    if kind_of(source) == KIND:
        return RobomimicPolicy.from_pretrained(source)
    return LearnedPolicy.from_pretrained(source)
