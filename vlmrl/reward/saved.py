"""A reward that was distilled before, on other logs or by someone else."""

from dataclasses import dataclass

from vlmrl.artefact import kind_of
from vlmrl.errors import ConfigError
from vlmrl.reward import success
from vlmrl.reward.preference import PreferenceReward
from vlmrl.reward.success import SuccessReward


@dataclass(frozen=True)
class Config:
    """Which reward."""

    folder: str = ""
    """Folder or hub id of the model that `vlmrl label`, `vlmrl run` (`rewards/seed0`) or `save_pretrained` wrote."""


def build(config: Config) -> PreferenceReward | SuccessReward:
    """The rewarder.

    Raises:
        ConfigError: if no folder is named.
        DataError: if it holds no reward.
    """
    if not config.folder:
        raise ConfigError("rewarder=saved needs rewarder.folder=FOLDER: vlmrl label and vlmrl run write such models")
    saved = SuccessReward if kind_of(config.folder) == success.KIND else PreferenceReward
    return saved.from_pretrained(config.folder)
