"""The documents keep their word: links resolve, printed commands and settings exist, nothing is left to fill in."""

import re
import shlex
from pathlib import Path

import pytest

from vlmrl import config as configuration
from vlmrl.cli import jobs
from vlmrl.cli.given import configured
from vlmrl.cli.reward import EvalConfig, RolloutsConfig
from vlmrl.cli.serve_policy import ServePolicyConfig

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
COMMAND = re.compile(
    r"^(?:\./vlmrl\.sh (?:vlmrl )?|vlmrl )"
    r"(run|label (?:audit|benchmark|route|serve)|label|train|score|evaluate|flywheel|deploy|record|demo)\b(.*)$",
    re.MULTILINE,
)
LABEL_JOBS = {f"label {name}" for name in jobs.OF_LABEL}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_between_documents_resolve(document: Path) -> None:
    text = document.read_text()
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    missing = [link for link in links if not (document.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_nothing_is_left_to_fill_in(document: Path) -> None:
    assert not re.search(r"^(RESULTS|EXAMPLE)$|\bTODO\b|\bTBD\b", document.read_text(), re.MULTILINE)


def commands() -> list[tuple[str, str, str]]:
    found = [(d.name, name, rest) for d in DOCUMENTS for name, rest in COMMAND.findall(d.read_text())]
    return sorted(set(found))


@pytest.mark.parametrize(("document", "name", "rest"), commands())
def test_every_setting_of_a_printed_command_exists(document: str, name: str, rest: str) -> None:
    jobs.register()
    name = {"demo": "run"}.get(name, name.removeprefix("label ") if name in LABEL_JOBS else name)
    words = shlex.split(rest.rstrip("\\"), comments=True)
    overrides = [configuration.quoted(word) for word in words if "=" in word and not word.startswith("-")]
    configuration.compose(name, overrides)


def reward_commands() -> list[tuple[str, str]]:
    pattern = re.compile(r"^vlmrl reward (eval|report|rollouts)\b(.*)$", re.MULTILINE)
    return sorted({found for d in DOCUMENTS for found in pattern.findall(d.read_text())})


@pytest.mark.parametrize(("name", "rest"), reward_commands())
def test_every_setting_of_a_printed_reward_command_exists(name: str, rest: str) -> None:
    config = RolloutsConfig if name == "rollouts" else EvalConfig
    words = [word for word in shlex.split(rest, comments=True) if "=" in word]
    assert configured(config, words, where="reward")


def test_every_setting_of_a_printed_serve_command_exists() -> None:
    found = [rest for d in DOCUMENTS for rest in re.findall(r"^vlmrl serve\b(.*)$", d.read_text(), re.MULTILINE)]
    assert found
    for rest in found:
        assert configured(ServePolicyConfig, shlex.split(rest, comments=True), where="serve")


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 10
    assert len(reward_commands()) >= 5
