"""The command line: help that teaches, errors that name the choices, and the main job from nothing to a report."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vlmrl import config as configuration
from vlmrl.cli import help, jobs, run, settings
from vlmrl.cli.train import Training, train
from vlmrl.errors import ConfigError
from vlmrl.learn import iql
from vlmrl.runfolder import masked, write_json
from vlmrl.store import Store
from vlmrl.types import Episode, Frames


def vlmrl(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from vlmrl.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    jobs.register()


@pytest.mark.parametrize("name", jobs.JOBS)
def test_every_job_composes_and_fills_its_dataclass(name: str) -> None:
    content = configuration.compose(name, [])
    configuration.build(jobs.JOBS[name].config, content, where=name)


@pytest.mark.parametrize("name", jobs.JOBS)
def test_help_names_every_setting_of_the_composed_configuration(name: str) -> None:
    text = help.text(name, jobs.JOBS[name].config, jobs.JOBS[name].groups, command=name)
    content = configuration.compose(name, [])
    for key, value in content.items():
        if key not in jobs.JOBS[name].groups:
            nested = [f"{key}.{k}" for k in value] if isinstance(value, dict) else [key]
            assert all(f"  {n}" in text for n in nested), key


@pytest.mark.parametrize("labeler", sorted(jobs.JOBS["label"].groups["labeler"]))
def test_help_shows_the_defaults_that_hold(labeler: str) -> None:
    text = help.text("label", jobs.JOBS["label"].config, jobs.JOBS["label"].groups, command="label")
    about = text.split(f"settings of labeler={labeler}:")[1].split("settings of ")[0]
    for key, value in configuration.compose("label", [f"labeler={labeler}"])["labeler"].items():
        if isinstance(value, float):
            assert f"  labeler.{key}={value}" in about


def test_settings_that_a_file_repeats_differ_from_the_default(root: Path) -> None:
    """conf/ holds only what differs from the dataclass."""
    for path in (root / "conf" / "learner").glob("*.yaml"):
        base = next(line.split("base_")[1] for line in path.read_text().splitlines() if "- base_" in line)
        default = configuration.compose("train", [f"learner={base}"])["learner"]
        variant = configuration.compose("train", [f"learner={path.stem}"])["learner"]
        changed = {k for k in variant if variant[k] != default[k]}
        written = {line.split(":")[0] for line in path.read_text().splitlines() if ": " in line and line[0].isalpha()}
        assert changed == written, path


def test_the_paper_variant_is_the_reference_implementation_s_setting() -> None:
    node = configuration.compose("train", ["learner=iql_paper"])["learner"]
    config = configuration.build(iql.Config, node, where="learner")
    assert (config.expectile, config.temperature, config.discount, config.polyak, config.lr) == (
        0.7,
        3.0,
        0.99,
        0.005,
        3e-4,
    )
    assert (config.layer_norm, config.normalise_reward, config.normalise_advantage) == (False, False, False)
    assert (config.order, config.precision, config.advantage_cap) == ("paper", "float32", 100.0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["learner.expectil=0.9"], r"unknown key 'expectil' in learner; did you mean 'expectile'\? have: .*expectile"),
        (["pears=10"], r"unknown key 'pears' in the settings; did you mean 'pairs'\?"),
        (
            ["learner=iqll"],
            r"unknown learner 'iqll'; have: bc, calql, cpl, cql, .*, iql, iql_paper, sac, td3bc$",
        ),
        (["pairs=many"], r"many.*"),
        (["pairs"], r"'pairs' is not of the form key=value"),
    ],
)
def test_mistyped_settings_are_named_with_what_exists(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configuration.compose("run", overrides)


def test_a_choice_that_does_not_exist_is_named_with_the_choices() -> None:
    node = configuration.compose("train", ["learner.order=random"])["learner"]
    with pytest.raises(ConfigError, match=r"unknown learner.order 'random'; have: joint, paper"):
        configuration.build(iql.Config, node, where="learner")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "task=drawr_open"), "unknown task 'drawr_open'; have: adroit_door,"),
        (("run", "learner=iqll"), "iqll"),
        (("train", "store=nowhere"), "nowhere"),
        (("label", "labeler=openai"), "label needs a store"),
        (("label",), "label needs a store"),
        (("label", "labeler=oracle"), "unknown labeler 'oracle'; have: bpref_equal"),
        (("evaluate", "policy=nowhere"), "nowhere"),
        (("data", "import", "format=lerobt", "source=x", "out=y"), "unknown format 'lerobt'; have: d4rl, lerobot"),
        (("data", "show", "nowhere"), "nowhere"),
    ],
)
def test_user_mistakes_are_one_line_without_a_traceback(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = vlmrl(*arguments, folder=tmp_path)
    assert done.returncode not in (0, None)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3


def test_example_of_the_readme_runs_as_printed(root: Path, tmp_path: Path) -> None:
    """Only its two counts and the updates are lowered."""
    code = (root / "README.md").read_text().split("```python\n")[1].split("```")[0]
    small = code.replace("Config(episodes=200)", "Config(episodes=8, noise=(0.0, 1.0))").replace(
        "count=5000", "count=60"
    )
    small = small.replace("preference.Config()", "preference.Config(updates=20)")
    small = small.replace("iql.Config()", "iql.Config(updates=30, batch=32)").replace(
        "evaluation_seeds(50)", "evaluation_seeds(2)"
    )
    assert len(code.splitlines()) <= 32
    done = subprocess.run([sys.executable, "-c", small], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "iql on the learned reward" in done.stdout
    assert (tmp_path / "runs/example/policy/model.safetensors").is_file()


SMALL = [
    "preset=fast",
    "out=run",
    "workers=1",
    "pairs=80",
    "collect.episodes=8",
    "collect.noise=[0.0,1.0]",
    "reward.updates=20",
    "bc.updates=30",
    "learner.updates=30",
    "evaluate.episodes=2",
    "evaluate.film_every=30",
    "evaluate.curve_every=15",
    "evaluate.curve_episodes=1",
]


def test_main_job_runs_to_its_report_and_does_nothing_twice(tmp_path: Path) -> None:
    done = vlmrl("run", *SMALL, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for arm in settings.ARMS:
        assert arm in done.stdout
    assert "labels by judge seen (sentence seen in training)" in done.stdout
    assert "one training seed: a smoke test" in done.stdout
    folder = tmp_path / "run"
    rows = json.loads((folder / "results.json").read_text())
    assert [row["arm"] for row in rows] == list(settings.ARMS)
    assert "<html" in (folder / "report.html").read_text()
    assert {p.stem for p in (folder / "videos").glob("*.mp4")} == set(settings.ARMS)
    weights = {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}
    again = vlmrl("run", *SMALL, folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert weights == {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}
    assert " known before, 0 asked now" in again.stdout
    assert json.loads((folder / "results.json").read_text()) == rows


def test_a_run_folder_is_not_gone_on_with_under_other_settings(tmp_path: Path) -> None:
    content = configuration.compose("run", [])
    write_json(tmp_path / "config.json", content)
    settings.continues(content | {"seeds": [0, 1], "workers": 1}, tmp_path)
    with pytest.raises(ConfigError, match=r"pairs was 5000, is 10.*choose another out"):
        settings.continues(content | {"pairs": 10}, tmp_path)
    # Begun by a version that had neither: it did what is the default now.
    older = {k: v for k, v in content.items() if k != "chunk"}
    older["reward"] = {k: v for k, v in content["reward"].items() if k != "updates"}
    write_json(tmp_path / "config.json", older)
    settings.continues(content, tmp_path)
    with pytest.raises(ConfigError, match="chunk was 1, is 8"):
        settings.continues(content | {"chunk": 8}, tmp_path)


def test_every_job_takes_its_settings_from_the_real_command_line(tmp_path: Path) -> None:
    """Hydra once took the room `vlmrl/store` for a configuration group called `store`."""
    for arguments in (
        ("label", "store=nowhere", "labeler=openai"),
        ("train", "store=nowhere"),
        ("run", "store=nowhere"),
    ):
        done = vlmrl(*arguments, folder=tmp_path)
        assert done.returncode == 1
        assert "no store at nowhere" in done.stderr


def test_a_mistyped_preset_does_not_start_the_default_job() -> None:
    with pytest.raises(ConfigError, match=r"unknown preset 'fats'; have: fast, none"):
        configuration.compose("run", ["preset=fats"])


@pytest.mark.parametrize("name", ["run", "label"])
def test_the_default_labeler_sees_and_stays_on_the_machine(name: str) -> None:
    """Pictures leave the machine only if the command says so."""
    assert configuration.compose(name, [])["labeler"]["name"] == "judge"


@pytest.mark.parametrize("sentence", ["open it, gently", "don't stop", "to open the drawer", "a=b {c} [d]"])
def test_any_sentence_reaches_the_job_as_typed(sentence: str) -> None:
    assert configuration.compose("run", [configuration.quoted(f"sentence={sentence}")])["sentence"] == sentence


def test_passwords_of_urls_are_blotted_out() -> None:
    found = masked({"ledger": "postgresql://bob:hunter2@host/db", "x": ["http://h:80/a", 3]})
    assert found == {"ledger": "postgresql://bob:***@host/db", "x": ["http://h:80/a", 3]}


def logs(path: Path) -> Store:
    """Two real-looking episodes without any simulator's truth."""
    store = Store.create(path)
    inner = np.arange(9) < 8
    for k in range(2):
        pixels = np.random.default_rng(k).integers(0, 255, (9, 40, 40, 3)).astype(np.uint8)
        episode = Episode(
            action=np.zeros((9, 2), np.float32),
            obs={"state": np.random.default_rng(k).normal(size=(9, 3)).astype(np.float32)},
            time=np.arange(9) / 10,
            has_action=inner,
            has_next=inner,
            terminated=False,
            truncated=True,
            task="kitchen",
            instruction="to wipe the table",
            source="lab",
            images={"front": Frames(pixels, np.arange(9, dtype=np.int32))},
        )
        store.append([episode])
    return store


def test_logs_without_a_simulator_leave_out_what_they_cannot_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = logs(tmp_path / "logs")
    content = configuration.compose("run", [f"store={tmp_path / 'logs'}"])
    config = configuration.build(settings.RunConfig, content, where="run")
    assert settings.pick_task(config) is None
    assert settings.fitting(config, store, None).arms == ("bc", "constant", "learned")
    assert "arm ground_truth left out: these logs hold no reward of a simulator" in capsys.readouterr().out


def test_chunks_of_the_main_job_are_those_of_every_policy(tmp_path: Path) -> None:
    store = logs(tmp_path / "logs")
    content = configuration.compose("run", [f"store={tmp_path / 'logs'}", "chunk=8"])
    config = configuration.build(settings.RunConfig, content, where="run")
    columns: dict[tuple[str, int], str | None] = {("bc", 0): None, ("learned", 1): "r"}
    assert [t.chunk for t in run.plan(config, content, store, columns, tmp_path)] == [8, 8]
    with pytest.raises(ConfigError, match="chunk=8: learner 'diffusion' does not take it; those that do: "):
        run.main(configuration.compose("run", ["learner=diffusion", "chunk=8"]), tmp_path / "refused")
    with pytest.raises(ConfigError, match="chunk=0: wanted at least 1 action"):
        run.main(configuration.compose("run", ["chunk=0"]), tmp_path / "refused")


def test_logs_that_do_not_fit_the_simulation_are_refused_before_any_question(tmp_path: Path) -> None:
    store = logs(tmp_path / "logs")
    content = configuration.compose("run", [f"store={tmp_path / 'logs'}", "task=cartpole"])
    config = configuration.build(settings.RunConfig, content, where="run")
    with pytest.raises(ConfigError, match="obs/state has 3 numbers, task 'cartpole' shows"):
        settings.fitting(config, store, settings.pick_task(config))


def test_a_capped_labeling_job_is_named_in_the_summary(tmp_path: Path) -> None:
    arguments = [*SMALL, "labeler=scripted", "limits.max_calls=40", "arms=[learned]"]
    done = vlmrl("run", *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "stopped by max_calls at 40 of 80 answers" in done.stdout


def test_training_again_on_other_data_does_not_return_the_old_policy(tmp_path: Path) -> None:
    for name in ("a", "b"):
        logs(tmp_path / name)
    Store.open(tmp_path / "b").append(
        [
            dataclasses.replace(Store.open(tmp_path / "b").episode(id), id="x")
            for id in Store.open(tmp_path / "b").episodes.id[:1]
        ]
    )
    learner = configuration.compose("train", ["learner=bc", "learner.updates=3"])["learner"]
    first = Training("bc", 0, str(tmp_path / "a"), None, learner, ("state",), str(tmp_path / "policy"))
    train([first])
    assert first.done
    assert not dataclasses.replace(first, store=str(tmp_path / "b")).done
    assert not dataclasses.replace(first, seed=1).done
    assert not dataclasses.replace(first, learner=learner | {"lr": 1.0}).done
