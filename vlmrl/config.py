"""Configuration: dataclasses beside the code are schema and defaults, Hydra composes them, and jobs get them back.

Content YAML (`conf/`) holds only what differs. The working folder's `./conf` hides the installed one.
"""

import dataclasses
import difflib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vlmrl.content import places
from vlmrl.errors import ConfigError, VlmrlError, unknown

T = TypeVar("T")


class _Content(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for place in places("conf")[1:]:
            search_path.append(provider="vlmrl", path=f"file://{place}")


def schema(cls: type, **extra: Any) -> type:
    """The dataclass as OmegaConf takes it: choices become text, nested dataclasses likewise; `extra` fields first.

    OmegaConf 2.3 knows no `Literal`; `build` checks the choice.
    """
    hints = get_type_hints(cls)
    columns: list[Any] = [(key, type(value), dataclasses.field(default=value)) for key, value in extra.items()]
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            nested = schema(cast("type", hint))
            columns.append((field.name, nested, dataclasses.field(default_factory=nested)))
        else:
            kind = str if get_origin(hint) is Literal else hint
            columns.append((field.name, kind, _default(field)))
    return dataclasses.make_dataclass(cls.__name__, columns)


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=field.default_factory)
    if isinstance(field.default, tuple):
        value = list(cast("tuple[Any, ...]", field.default))
        return dataclasses.field(default_factory=lambda: value)
    if field.default is dataclasses.MISSING:
        return dataclasses.field()
    return dataclasses.field(default=field.default)


def build(cls: type[T], node: Mapping[str, Any], *, where: str) -> T:
    """The dataclass that a composed node describes; lists become tuples again.

    Raises:
        ConfigError: if a choice or a value is none that the dataclass allows.
    """
    hints, content = get_type_hints(cls), {}
    for field in dataclasses.fields(cast("Any", cls)):
        hint, value = hints[field.name], node[field.name]
        if dataclasses.is_dataclass(hint):
            value = build(cast("type", hint), value, where=f"{where}.{field.name}")
        elif get_origin(hint) is Literal and value not in get_args(hint):
            raise unknown(f"{where}.{field.name}", str(value), map(str, get_args(hint)))
        elif isinstance(value, list):
            value = tuple(cast("list[Any]", value))
        content[field.name] = value
    return cls(**content)


def fill(cls: type[T], content: Mapping[str, Any], *, where: str) -> T:
    """Fill a dataclass from settings given on a command line, texts and lists.

    Raises:
        ConfigError: if a setting is unknown, mistyped or missing.
    """
    have = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in content:
        if key not in have:
            raise unknown("setting", key, have)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema(cls)), content)
        node = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).split("\n")[0]) from error
    return build(cls, cast("Mapping[str, Any]", node), where=where)


def register_group(group: str, table: Mapping[str, str]) -> None:
    """Offer each name of a room's table as `group=name`, with the `Config` of its module as schema.

    A file `conf/<group>/<variant>.yaml` that starts with `defaults: [base_<name>]` is a variant of it.
    """
    for name, module in table.items():
        node = schema(import_module(module).Config, name=name)
        extended = any((place / group / f"{name}.yaml").is_file() for place in places("conf"))
        for choice in (f"base_{name}",) if extended else (f"base_{name}", name):
            ConfigStore.instance().store(name=choice, node=node, group=group)


def register_job(name: str, cls: type) -> None:
    """Offer the schema of a job, with `out` for its run folder; its YAML is `conf/<name>.yaml`."""
    ConfigStore.instance().store(name=f"{name}_schema", node=schema(cls, out=""))


def run_hydra(
    name: str, job: Callable[[dict[str, Any], Path], None], arguments: Sequence[str], *, command: str
) -> None:
    """Run `job(config, run folder)` as the Hydra application `conf/<name>.yaml` with command-line arguments.

    `command` is what was typed before them, as provenance tells it.

    Raises:
        ConfigError: if an override is unknown or mistyped; the message lists what there is.
    """
    if _Content not in Plugins.instance().discover(SearchPathPlugin):
        Plugins.instance().register(_Content)
    if not any(a.startswith("-") for a in arguments):
        compose(name, [quoted(a) for a in arguments])

    @hydra.main(version_base="1.3", config_path=str(places("conf")[0]), config_name=name)
    def application(config: Any) -> None:
        folder = Path(HydraConfig.get().runtime.output_dir)
        content = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
        try:
            job(content, folder)
        except VlmrlError as error:
            # Hydra would print a traceback; the message alone tells the user what to do.
            print(f"vlmrl: {error}", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            print("\nvlmrl: interrupted; the same command with the same `out` goes on from here", file=sys.stderr)
            sys.exit(130)

    before, sys.argv = sys.argv, [f"vlmrl {command}", *map(quoted, arguments)]
    try:
        application()
    finally:
        sys.argv = before


def quoted(argument: str) -> str:
    """A sentence as Hydra's grammar takes it: the shell has eaten the user's own quotes, and commas mean a sweep."""
    key, equals, value = argument.partition("=")
    if key != "sentence" or not equals or value in ("null", "") or value[0] in "'\"":
        return argument
    return f"{key}='{value.replace(chr(39), chr(92) + chr(39))}'"


def compose(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The composed configuration of a job, without running it.

    Raises:
        ConfigError: if an override is unknown or mistyped; the message lists what there is.
    """
    if _Content not in Plugins.instance().discover(SearchPathPlugin):
        Plugins.instance().register(_Content)
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(places("conf")[0])):
        try:
            config = hydra.compose(name, overrides=list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            plain = {} if "You must specify" in str(error) else OmegaConf.to_container(hydra.compose(name))
            raise ConfigError(_explain(error, plain, overrides)) from error
        return cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))


def _explain(error: Exception, plain: Any, overrides: Sequence[str]) -> str:
    """What was wrong with which override, and what exists there."""
    text = str(error.__cause__ or error)
    if found := re.search(r"You must specify '(\w+)'", text):
        block = text.partition("Available options")[2].partition("\n")[2]
        options = sorted(o for o in block.split() if not o.startswith("base_"))
        return f"say {found[1]}=NAME; have: {', '.join(options)}"
    if found := re.search(r"Could not find '(\w+)/([^']+)'", text):
        block = text.partition("Available options")[2].partition("\n")[2].partition("Config search")[0]
        return str(unknown(found[1], found[2], (o for o in block.split() if not o.startswith("base_"))))
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals:
            return f"override {override!r} is not of the form key=value"
        path = key.lstrip("+~").split("@")[0].split(".")
        node: Any = plain
        for depth, part in enumerate(path):
            have = list(map(str, cast("dict[str, Any]", node))) if isinstance(node, dict) else []
            if part not in have and not (depth == 0 and part == "hydra"):
                place = ".".join(path[:depth]) or "the settings"
                close = difflib.get_close_matches(part, have, 1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                return f"unknown key {part!r} in {place}{hint} have: {', '.join(sorted(have)) or 'nothing below it'}"
            if part == "hydra":
                break
            node = node[part]
    return " ".join(line.strip() for line in text.split("\n")[:2])
