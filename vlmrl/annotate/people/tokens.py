"""Who may answer: one secret token a person, from the environment or a file that only its owner can read."""

import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from vlmrl.annotate.people.question import PREFIX
from vlmrl.errors import ConfigError

VARIABLE = "VLMRL_LABEL_TOKENS"
SHORTEST = 16
"""Characters of a token."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


class Tokens:
    """Finds the person to whom a token belongs, in a time that does not tell how near a guess came."""

    def __init__(self, people: Mapping[str, str]) -> None:
        """Take each person's token; only digests are kept.

        Raises:
            ConfigError: if a name or a token is not fit, or two people share one.
        """
        for name, token in people.items():
            annotator(name)
            if len(token) < SHORTEST or not token.isascii() or any(c.isspace() for c in token):
                raise ConfigError(f"the token of {name} must have {SHORTEST} or more ASCII characters, without spaces")
        self._people = [(_digest(token), PREFIX + name) for name, token in people.items()]
        if len({token for token, _ in self._people}) != len(self._people):
            raise ConfigError("two people have the same token; give each their own")

    def __len__(self) -> int:
        return len(self._people)

    def person(self, token: str) -> str | None:
        """Return the annotator of a token; every known token is compared."""
        given, found = _digest(token), None
        for known, person in self._people:
            if hmac.compare_digest(known, given):
                found = person
        return found


def read_tokens(file: str | None, *, variable: str = VARIABLE) -> Tokens:
    """Read `name: token` lines from the file if one is named, else `name=token,name=token` from the environment.

    Raises:
        ConfigError: if the file is missing, others may read it, or a line is no token.
    """
    if file is None:
        text, where = os.environ.get(variable, "").replace(",", "\n"), f"the environment variable {variable}"
    else:
        text, where = _secret(Path(file)), file
    people: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, separator, token = re.split(r"([:=])", line, maxsplit=1) if re.search(r"[:=]", line) else (line, "", "")
        if not separator or not token.strip():
            raise ConfigError(f"{where}, entry {number}: wanted NAME and TOKEN with : or = between")
        if name.strip() in people:
            raise ConfigError(f"{where}: {name.strip()} is named twice")
        people[name.strip()] = token.strip()
    return Tokens(people)


def new_token() -> str:
    """Return a token that nobody guesses."""
    return secrets.token_urlsafe(24)


def annotator(name: str) -> str:
    """Return the name under which a person's answers are kept.

    Raises:
        ConfigError: if it is no plain name.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"not a name for an annotator: {name!r}; wanted letters, digits and . _ -, 40 at most")
    return PREFIX + name


def _secret(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"no file of tokens at {path}; wanted lines of NAME: TOKEN")
    if (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        raise ConfigError(f"others may read {path} (mode {mode:04o}); wanted 0600: chmod 600 {path}")
    return path.read_text(encoding="utf-8")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
