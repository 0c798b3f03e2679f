"""A stranger's machine: the set-up script, the OpenGL back end, content, and the doctor."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vlmrl import content, doctor, gl
from vlmrl.errors import ConfigError, VlmrlError

# --- content


def test_the_working_folder_hides_the_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tasks" / "drawer_open").mkdir(parents=True)
    (tmp_path / "tasks" / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert content.find("tasks", "drawer_open") == tmp_path / "tasks" / "drawer_open"
    assert {"mine", "drawer_open"} <= set(content.names("tasks"))


def test_content_is_found_from_a_foreign_folder(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert content.find("tasks", "drawer_open/task.yaml") == root / "tasks" / "drawer_open" / "task.yaml"


@pytest.mark.parametrize("name", ["drawer_opne", "", "../pyproject.toml", "/etc/passwd"])
def test_what_is_not_content_fails_with_the_choices(name: str):
    with pytest.raises(ConfigError, match=r"unknown task .*; have: .*drawer_open"):
        content.find("tasks", name)


# --- OpenGL


@pytest.fixture
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No choice made yet, nothing remembered."""
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("PYOPENGL_PLATFORM", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def working(*backends: str) -> Callable[..., float]:
    """A machine on which only these back ends draw."""

    def frame_time_s(backend: str, **_: int) -> float:
        if backend in backends:
            return 0.001
        raise VlmrlError(f"{backend}: no library")

    return frame_time_s


@pytest.mark.parametrize(
    ("backends", "chosen"), [(("egl", "osmesa"), "egl"), (("egl",), "egl"), (("osmesa",), "osmesa")]
)
def test_the_first_back_end_that_draws_is_chosen(
    clean: Path, monkeypatch: pytest.MonkeyPatch, backends: tuple[str, ...], chosen: str
):
    monkeypatch.setattr(gl, "frame_time_s", working(*backends))
    assert gl.choose() == chosen
    assert os.environ["MUJOCO_GL"] == os.environ["PYOPENGL_PLATFORM"] == chosen


def test_the_users_own_choice_wins(clean: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.setattr(gl, "frame_time_s", working("egl"))
    assert gl.choose() == "glfw"
    assert "PYOPENGL_PLATFORM" not in os.environ


def test_a_choice_is_remembered_and_a_failure_is_not(clean: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gl, "frame_time_s", working())
    with pytest.raises(VlmrlError):
        gl.choose()
    monkeypatch.setattr(gl, "frame_time_s", working("osmesa"))
    assert gl.choose() == "osmesa"
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setattr(gl, "frame_time_s", working())
    assert gl.choose() == "osmesa"


def test_an_old_choice_is_made_again(clean: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gl, "frame_time_s", working("osmesa"))
    gl.choose()
    monkeypatch.delenv("MUJOCO_GL")
    (remembered,) = (clean / "vlmrl").iterdir()
    os.utime(remembered, (0, 0))
    monkeypatch.setattr(gl, "frame_time_s", working("egl"))
    assert gl.choose() == "egl"


def test_a_home_that_cannot_be_written_costs_nothing_but_time(clean: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    monkeypatch.setattr(gl, "frame_time_s", working("egl"))
    assert gl.choose() == "egl"


def test_without_any_back_end_the_packages_are_named(clean: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gl, "frame_time_s", working())
    with pytest.raises(VlmrlError, match=r"apt-get install .*libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri.*egl: no lib"):
        gl.choose()


def test_a_back_end_that_cannot_draw_says_why():
    with pytest.raises(VlmrlError, match="nonsense: RuntimeError: invalid value"):
        gl.frame_time_s("nonsense", size=8, frames=1)


def test_script_and_library_name_the_same_packages(root: Path):
    assert gl.PACKAGES in (root / "vlmrl.sh").read_text()


# --- doctor


def test_doctor_never_shows_the_key(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    doctor.main()
    printed = capsys.readouterr().out
    assert "OPENAI_API_KEY" in printed
    assert "secret" not in printed


def test_doctor_fails_only_where_something_needed_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    note, missing = doctor.Check("disk", "note", "little"), doctor.Check("OpenGL", "missing", "none", "install [it]")
    monkeypatch.setattr(doctor, "report", lambda: [note])
    assert doctor.main() == 0
    monkeypatch.setattr(doctor, "report", lambda: [note, missing])
    assert doctor.main() == 1
    assert "install [it]" in capsys.readouterr().out


def test_doctor_names_a_package_that_is_too_old_or_absent(monkeypatch: pytest.MonkeyPatch):
    wanted = {"": [doctor.Requirement("numpy>=99")], "robomimic": [doctor.Requirement("no-such-package==1")]}
    monkeypatch.setattr(doctor, "_requirements", lambda: wanted)
    checks = {check.name: check for check in doctor.report()}
    assert checks["packages"].state == "missing"
    assert "numpy>=99 (here " in checks["packages"].found
    assert checks["extra robomimic"].state == "note"
    assert "'.[robomimic]'" in checks["extra robomimic"].advice


def test_doctor_without_opengl_says_what_to_install(clean: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gl, "frame_time_s", working())
    (check,) = (check for check in doctor.report() if check.name == "OpenGL")
    assert check.state == "missing"
    assert gl.PACKAGES in check.advice


# --- vlmrl.sh on machines that lack something

TOOLS = ("sh", "mktemp", "cat", "rm", "dirname", "env", "head", "grep", "cmp", "mkdir", "chmod", "id")

PYTHON = f'exec {sys.executable} "$@"'
WITHOUT_VENV = f'case "$*" in *ensurepip*) exit 1 ;; *"-m venv"*) exit 3 ;; esac\n{PYTHON}'
WITHOUT_OPENGL = f'[ "$*" != - ] || exit 1\n{PYTHON}'
NOT_ROOT = "echo 1000"


class Machine:
    """A copy of the script on a machine whose PATH holds a few tools, and programs given as shell text."""

    def __init__(self, home: Path, root: Path) -> None:
        self.home = home
        (home / "bin").mkdir()
        for tool in TOOLS:
            (home / "bin" / tool).symlink_to(shutil.which(tool) or pytest.skip(f"no {tool}"))
        for name in ("vlmrl.sh", "pyproject.toml", "constraints.txt"):
            shutil.copy(root / name, home / name)

    def program(self, name: str, text: str) -> None:
        path = self.home / "bin" / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [shutil.which("sh") or "sh", str(self.home / "vlmrl.sh"), *arguments]
        env = {"PATH": str(self.home / "bin"), "HOME": str(self.home)}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)

    def log(self) -> list[str]:
        path = self.home / "log"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def machine(tmp_path: Path, root: Path) -> Machine:
    return Machine(tmp_path, root)


def test_no_python_is_said_in_one_line(machine: Machine):
    done = machine.run("demo")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "vlmrl: this system lacks Python 3.11 to 3.13; ask an administrator for: "
        f"apt-get install --no-install-recommends python3 python3-venv {gl.PACKAGES}"
    ]


def test_an_old_python_is_named(machine: Machine):
    machine.program("python3", '[ "$1" = --version ] && echo Python 3.9.2 && exit\nexit 1')
    done = machine.run("demo")
    assert done.returncode == 1
    assert "python3 is Python 3.9.2" in done.stderr


def test_a_missing_venv_module_is_said_in_one_line(machine: Machine):
    machine.program("python3", WITHOUT_VENV)
    done = machine.run("test")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "vlmrl: this system lacks the venv module of python3; ask an administrator for: "
        f"apt-get install --no-install-recommends python3.{sys.version_info.minor}-venv"
    ]


def test_all_that_is_missing_is_said_at_once(machine: Machine):
    machine.program("python3", WITHOUT_VENV.replace("in ", "in -) exit 1 ;; ", 1))
    done = machine.run("demo")
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"python3.{sys.version_info.minor}-venv {gl.PACKAGES}")


def test_the_doctor_does_without_opengl(machine: Machine):
    with_fake_venv(machine)
    machine.program("python3", (machine.home / "bin" / "python3").read_text().replace("|| exit 0", "|| exit 1"))
    assert machine.run("setup").returncode == 1
    machine.run("doctor")
    assert len(machine.log()) == 1


def test_a_missing_opengl_is_said_in_one_line(machine: Machine):
    machine.program("python3", WITHOUT_OPENGL)
    done = machine.run("setup")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith(gl.PACKAGES)


def test_root_installs_what_is_missing(machine: Machine):
    machine.program("python3", WITHOUT_VENV)
    machine.program("id", "echo 0")
    machine.program("apt-get", f'echo "$*" >>{machine.home}/log')
    machine.run("setup")
    assert machine.log() == [f"-qq install -y --no-install-recommends python3.{sys.version_info.minor}-venv"]


def test_package_lists_are_fetched_where_a_bare_system_has_none(machine: Machine):
    log = machine.home / "log"
    machine.program("python3", WITHOUT_VENV)
    machine.program("id", "echo 0")
    machine.program("apt-get", f'echo "$*" >>{log}\n[ "$2" = update ] || grep -q update {log}')
    machine.run("setup")
    assert [line.split()[1] for line in machine.log()] == ["install", "update", "install"]


def test_a_user_without_rights_installs_nothing(machine: Machine):
    machine.program("python3", WITHOUT_VENV)
    machine.program("id", NOT_ROOT)
    machine.program("sudo", "exit 1")
    machine.program("apt-get", f'echo "$*" >>{machine.home}/log')
    done = machine.run("setup")
    assert done.returncode == 1
    assert "ask an administrator for" in done.stderr
    assert machine.log() == []


def test_a_user_with_sudo_installs_through_it(machine: Machine):
    machine.program("python3", WITHOUT_VENV)
    machine.program("id", NOT_ROOT)
    machine.program("sudo", f'echo "$*" >>{machine.home}/log')
    machine.program("apt-get", "exit 0")
    machine.run("setup")
    assert "apt-get -qq install -y --no-install-recommends python3." in machine.log()[-1]


def test_a_failing_apt_is_shown(machine: Machine):
    machine.program("python3", WITHOUT_VENV)
    machine.program("id", "echo 0")
    machine.program("apt-get", "echo E: no network; exit 100")
    done = machine.run("setup")
    assert done.returncode == 1
    assert "E: no network" in done.stderr


def with_fake_venv(machine: Machine, *, pip: str = "exit 0") -> None:
    """Give the machine a Python whose environments write pip's arguments to the log and draw with EGL."""
    inside = f"""case "$*" in
*"pip install"*) echo "$*" >>{machine.home}/log; {pip} ;;
*vlmrl.gl*) echo egl ;;
esac"""
    (machine.home / "inside").write_text(f"#!/bin/sh\n{inside}\n")
    make = f"""case "$*" in *"-m venv"*)
    mkdir -p "$4/bin"; cat {machine.home}/inside >"$4/bin/python"; chmod +x "$4/bin/python"
    echo "#!$4/bin/python" >"$4/bin/pip"
    exit ;; esac"""
    machine.program("python3", f'{make}\n[ "$*" != - ] || exit 0\n{PYTHON}')


def test_nothing_is_installed_twice_until_the_versions_change(machine: Machine):
    with_fake_venv(machine)
    assert machine.run("setup").returncode == 0
    assert machine.log() == ["-m pip install -q -c constraints.txt -e .[sims,video]"]
    assert machine.run("setup").returncode == 0
    assert len(machine.log()) == 1
    with (machine.home / "constraints.txt").open("a") as file:
        file.write("another==1\n")
    assert machine.run("setup").returncode == 0
    assert len(machine.log()) == 2


def test_tests_need_more_than_the_demo_and_the_demo_no_more_than_tests(machine: Machine):
    with_fake_venv(machine)
    machine.run("test-slow")
    assert machine.log() == ["-m pip install -q -c constraints.txt -e .[sims,video,dev]"]
    machine.run("setup")
    assert len(machine.log()) == 1


def test_a_failed_install_stops_and_is_not_taken_for_done(machine: Machine):
    with_fake_venv(machine, pip="exit 3")
    for _ in range(2):
        done = machine.run("setup")
        assert done.returncode != 0
        assert "ready" not in done.stderr
    assert len(machine.log()) == 2


def test_help_sets_nothing_up(machine: Machine):
    done = machine.run("--help")
    assert done.returncode == 0
    assert "usage: ./vlmrl.sh COMMAND" in done.stdout
    assert not (machine.home / ".venv").exists()
