"""The data room: episodes on disk, read back as numpy."""

from vlmrl.store.store import Store
from vlmrl.store.table import EpisodeTable

__all__ = ["EpisodeTable", "Store"]
