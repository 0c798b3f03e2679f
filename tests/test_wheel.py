"""The wheel carries conf, tasks, robots and the built-in judge, and finds them without the checkout."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without the network."""
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        str(root),
    ]
    subprocess.run(command, check=True, timeout=120)
    return next(out.glob("*.whl"))


def test_every_content_file_is_in_the_wheel_and_nothing_else_is_importable(root: Path, wheel: Path):
    held = set(zipfile.ZipFile(wheel).namelist())
    groups = ("conf", "tasks", "robots", "data/judge")
    files = [p.relative_to(root) for group in groups for p in (root / group).rglob("*.*")]
    assert {f"vlmrl/_content/{p.as_posix()}" for p in files if (root / p).is_file() and p.name[0] != "."} <= held
    tops = {name.split("/")[0] for name in held}
    assert tops == {"vlmrl", next(t for t in tops if t.endswith(".dist-info"))}


def test_an_installed_wheel_finds_its_content_from_an_empty_folder(wheel: Path, root: Path, tmp_path: Path):
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", str(wheel)]
    subprocess.run(pip, check=True, timeout=120)
    (tmp_path / "empty").mkdir()
    code = "from vlmrl import content; print(content.find('tasks', 'drawer_open'), *content.names('tasks'))"
    done = subprocess.run(
        [str(python), "-c", code],
        cwd=tmp_path / "empty",
        env={},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    path, *names = done.stdout.split()
    assert Path(path).is_relative_to(tmp_path / "venv")
    assert Path(path, "task.yaml").is_file()
    assert names == sorted(p.name for p in (root / "tasks").iterdir() if p.is_dir())
