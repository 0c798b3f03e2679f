"""Fixtures shared by all rooms."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Learners that compile themselves where a C++ compiler is installed: for tiny networks that takes longer than the test.
os.environ["CXX"] = "none"

ROOT = Path(__file__).resolve().parent.parent


def pytest_sessionstart() -> None:
    """Choose the OpenGL back end before any test imports mujoco (and after the shape checks are hooked in)."""
    from vlmrl import errors, gl

    try:
        gl.choose()
    except errors.VlmrlError as error:
        pytest.exit(str(error), returncode=1)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Public recordings too big for the repository; tests that read them are skipped where they are absent."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no recordings at {path}")
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[str], str]]:
    """A throw-away PostgreSQL server: a function that makes an empty database of a name and returns its URL."""
    import postgres as server

    pytest.importorskip("psycopg")
    if server.TOOLS is None:
        pytest.skip("PostgreSQL is not installed")
    with server.served() as create:
        yield create
