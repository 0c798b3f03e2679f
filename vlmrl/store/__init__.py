"""The data room: episodes on disk, read back as numpy."""

from vlmrl.store.importers import IMPORTERS, importer
from vlmrl.store.store import Store
from vlmrl.store.table import EpisodeTable

__all__ = ["IMPORTERS", "EpisodeTable", "Store", "importer"]
