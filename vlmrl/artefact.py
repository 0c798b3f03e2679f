"""Saved models: `config.json`, `model.safetensors` and a card `README.md` in a folder. Never pickle."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlmrl.errors import DataError
from vlmrl.runfolder import write_json


def save(folder: Path, *, kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], card: str) -> None:
    """Write one model; `kind` is checked on loading."""
    folder.mkdir(parents=True, exist_ok=True)
    # The config is the commit record: gone first, back last, so that no old facts stand beside new weights.
    (folder / "config.json").unlink(missing_ok=True)
    save_file({k: value.detach().cpu().contiguous() for k, value in tensors.items()}, folder / "model.safetensors")
    (folder / "README.md").write_text(card)
    write_json(folder / "config.json", {"kind": kind, **config})


def load(folder: str | Path, *, kind: str | tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read config and tensors of a folder, or of a hub repository by its id; `kind` may be one of several.

    Raises:
        DataError: if something is missing, damaged, or of another kind.
    """
    place = Path(folder)
    if not place.exists() and len(place.parts) == 2 and not place.is_absolute():
        place = _download(str(folder))
    for name in ("config.json", "model.safetensors"):
        if not (place / name).is_file():
            raise DataError(f"{place / name} is missing: {folder} is not a folder saved by vlmrl, nor a hub id")
    try:
        config = json.loads((place / "config.json").read_text())
        tensors = load_file(place / "model.safetensors")
    except (json.JSONDecodeError, SafetensorError) as error:
        raise DataError(f"{place} is damaged: {error}") from error
    kinds = (kind,) if isinstance(kind, str) else kind
    if config.get("kind") not in kinds:
        raise DataError(f"{place} holds a {config.get('kind')!r}, a {' or '.join(map(repr, kinds))} is wanted")
    return config, tensors


def kind_of(folder: str | Path) -> str:
    """What a folder says that it holds; empty for a hub id, and where nothing is said."""
    path = Path(folder) / "config.json"
    try:
        return str(json.loads(path.read_text()).get("kind", "")) if path.is_file() else ""
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        return ""


_TOLD = ("name", "facts")


def fingerprint(folder: str | Path) -> str:
    """Hash of a saved model: its weights, and the settings by which it acts; not its name and history."""
    place = Path(folder)
    config = {key: value for key, value in json.loads((place / "config.json").read_text()).items() if key not in _TOLD}
    settings = json.dumps(config, sort_keys=True).encode()
    return hashlib.sha256((place / "model.safetensors").read_bytes() + settings).hexdigest()[:16]


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=["config.json", "model.safetensors", "README.md"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(f"{repository!r} is neither a folder nor reachable on the hub: {error}") from error
