"""What models cost: a table that the user edits, conf/prices.yaml."""

from dataclasses import dataclass
from typing import Any, cast

import yaml

from vlmrl.content import find
from vlmrl.errors import ConfigError, unknown


@dataclass(frozen=True)
class Price:
    """USD per million tokens."""

    prompt: float
    completion: float
    source: str = ""
    """Where it was read, and when."""


def pick_price(model: str, prompt: float | None, completion: float | None) -> Price | None:
    """Return the price that settings state, else the table's, if any; half a price is none.

    Raises:
        ConfigError: if a price is below 0, or the table is damaged.
    """
    if prompt is None and completion is None:
        return load_prices().get(model)
    if prompt is None or completion is None:
        return None
    return _checked(Price(prompt, completion, "the settings"), "labeler")


def load_prices() -> dict[str, Price]:
    """Return the table, the working folder's before the installed one.

    Raises:
        ConfigError: if it is damaged.
    """
    path = find("conf", "prices.yaml")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as e:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(e).split())}") from e
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {content!r}; wanted lines of the form MODEL: {{prompt: USD, completion: USD}}")
    entries = cast("dict[Any, Any]", content).items()
    return {str(model): _checked(_entry(entry, f"{path}: {model}"), f"{path}: {model}") for model, entry in entries}


def _entry(entry: Any, where: str) -> Price:
    if not isinstance(entry, dict) or not {"prompt", "completion"} <= set(entry):
        raise ConfigError(f"{where}: found {entry!r}; wanted {{prompt: USD, completion: USD}} per million tokens")
    known = cast("dict[str, Any]", entry)
    if wrong := set(known) - {"prompt", "completion", "source"}:
        raise unknown(f"key in {where}", min(map(str, wrong)), ["prompt", "completion", "source"])
    for name in ("prompt", "completion"):
        if not isinstance(known[name], int | float) or isinstance(known[name], bool):
            raise ConfigError(f"{where}: {name} is {known[name]!r}; wanted a number of USD per million tokens")
    return Price(float(known["prompt"]), float(known["completion"]), str(known.get("source", "")))


def _checked(price: Price, where: str) -> Price:
    if not (price.prompt >= 0 and price.completion >= 0):
        raise ConfigError(f"{where}: prices {price.prompt} and {price.completion} given; wanted at least 0")
    return price
