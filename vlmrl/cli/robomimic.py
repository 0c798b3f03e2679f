"""`vlmrl robomimic`: robomimic's own algorithms on our stores, and its checkpoints as policies."""

import contextlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import typer

from vlmrl.cli.given import configured
from vlmrl.errors import ConfigError, unknown
from vlmrl.runfolder import Metrics, provenance, write_json

app = typer.Typer(help="robomimic: train its algorithms on a store, read its checkpoints.", no_args_is_help=True)

CHUNK = 100
"""Updates between two lines of metrics: robomimic's epoch."""

ALGORITHMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "bc": ("bc", {}),
    "bc_gmm": ("bc", {"algo": {"gmm": {"enabled": True}}}),
    "bc_rnn": (
        "bc",
        {
            "algo": {"rnn": {"enabled": True, "horizon": 10}, "gmm": {"enabled": True}, "actor_layer_dims": []},
            "train": {"seq_length": 10},
        },
    ),
    "bc_transformer": (
        "bc",
        {
            "algo": {
                "transformer": {"enabled": True, "context_length": 10, "embed_dim": 128, "num_layers": 2},
                "gmm": {"enabled": True},
                "actor_layer_dims": [],
            },
            "train": {"seq_length": 1, "frame_stack": 10, "pad_frame_stack": True},
        },
    ),
    "iql": ("iql", {}),
    "td3_bc": ("td3_bc", {}),
}
"""By name: robomimic's algorithm, and what differs from its own defaults."""
CHUNKED = ("bc", "bc_gmm")
"""Those that can take several actions for one: they remember nothing from one to the next."""


@dataclass(frozen=True)
class Config:
    """How robomimic trains."""

    store: str
    out: str
    """Run folder: the exported file, metrics, robomimic's checkpoint, and the policy."""
    algorithm: str = "bc_gmm"
    reward: str = ""
    """Reward column of iql and td3_bc; empty: the simulator's own."""
    obs: tuple[str, ...] = ("state",)
    updates: int = 10_000
    batch: int = 100
    lr: float | None = None
    """null: robomimic's own for the algorithm."""
    seed: int = 0
    chunk: int = 1
    """Actions in a row that bc and bc_gmm take for one, as learners of ours do: for critics that value so many."""


@app.command("train")
def train_(
    settings: Annotated[
        list[str],
        typer.Argument(help="store, out, algorithm, reward, obs, updates, batch, lr, seed, chunk, as key=value"),
    ],
) -> None:
    """Train bc, bc_gmm, bc_rnn, bc_transformer, iql or td3_bc of robomimic on a store; the result is a policy folder.

    Example: vlmrl robomimic train store=runs/mine algorithm=bc_rnn out=runs/bc-rnn
    """
    typer.echo(train(configured(Config, settings, where="robomimic train")))


def train(config: Config) -> str:
    """Export, train by robomimic's own code, and save the policy; says how to run it.

    Raises:
        ConfigError: if a name is unknown or robomimic is not installed.
        DataError: if the store cannot be told in robomimic's layout.
    """
    import torch
    from tqdm import tqdm

    from vlmrl.policy.robomimic import RobomimicPolicy, build, library

    if config.algorithm not in ALGORITHMS:
        raise unknown("algorithm", config.algorithm, ALGORITHMS)
    if config.updates < CHUNK or config.batch < 1:
        raise ConfigError(f"updates from {CHUNK} and batch from 1 wanted, found {config.updates}, {config.batch}")
    if config.chunk < 1 or (config.chunk > 1 and config.algorithm not in CHUNKED):
        raise ConfigError(f"chunk={config.chunk} with {config.algorithm}: 1, or {' or '.join(CHUNKED)} wanted")
    utils = library("utils.train_utils")
    folder, data = Path(config.out), Path(config.out) / "data.hdf5"
    if (folder / "policy").exists():
        raise ConfigError(f"{folder} holds a trained policy; choose another out=FOLDER")
    if not _exported_before(config, data):
        print(_exported(config, data))
    name, differences = ALGORITHMS[config.algorithm]
    settings = _settings(name, differences, config, data)
    torch.manual_seed(config.seed)
    with contextlib.redirect_stdout(io.StringIO()):
        library("utils.obs_utils").initialize_obs_utils_with_config(settings)
        files = library("utils.file_utils")
        shapes = files.get_shape_metadata_from_dataset(str(data), all_obs_keys=settings.all_obs_keys)
        env = files.get_env_metadata_from_dataset(str(data))
        trainset, _ = utils.load_data_for_training(settings, obs_keys=shapes["all_obs_keys"])
    shapes = json.loads(json.dumps(shapes))
    model = build(name, settings.dump(), shapes)
    loader = torch.utils.data.DataLoader(trainset, batch_size=config.batch, shuffle=True, drop_last=True)
    metrics = Metrics(folder / "metrics.jsonl")
    with tqdm(total=config.updates, unit="update", desc=config.algorithm, dynamic_ncols=True) as bar:
        for epoch in count(1):
            if bar.n >= config.updates:
                break
            steps = min(CHUNK, config.updates - bar.n)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                told = utils.run_epoch(model=model, data_loader=loader, epoch=epoch, num_steps=steps)
            model.on_epoch_end(epoch)
            bar.update(steps)
            metrics.write("train", bar.n, {k: float(v) for k, v in told.items() if not k.startswith("Time_")})
    model.set_eval()
    with contextlib.redirect_stdout(io.StringIO()):
        utils.save_model(model, settings, env, shapes, ckpt_path=str(folder / "model.pth"))
    replace(RobomimicPolicy.from_checkpoint(folder / "model.pth"), chunk=config.chunk).save_pretrained(
        folder / "policy"
    )
    write_json(folder / "meta.json", provenance() | {"settings": vars(config)})
    return f"policy: {folder / 'policy'}; run it with: vlmrl evaluate policy={folder / 'policy'} task=NAME"


def _made_of(config: Config) -> str:
    from vlmrl.store import Store

    return json.dumps([Store.open(config.store).hash, config.reward, list(config.obs), config.chunk])


def _exported_before(config: Config, data: Path) -> bool:
    import h5py

    if not data.is_file():
        return False
    with h5py.File(data) as file:
        return file.attrs.get("vlmrl") == _made_of(config)


def _exported(config: Config, data: Path) -> str:
    """Write the file that robomimic reads; behind an episode's end its last action stands."""
    import h5py
    import numpy as np

    from vlmrl.store import robomimic as layout

    whole = data.with_suffix(".part")
    whole.unlink(missing_ok=True)
    said = layout.export(layout.ExportConfig(config.store, str(whole), config.reward, config.obs, valid=0.0))
    with h5py.File(whole, "r+") as file:
        demos: Any = file["data"]
        for demo in demos.values() if config.chunk > 1 else ():
            done = demo["actions"][:]
            rows = np.minimum(np.arange(len(done))[:, None] + np.arange(config.chunk), len(done) - 1)
            del demo["actions"]
            demo["actions"] = done[rows].reshape(len(done), -1)
        file.attrs["vlmrl"] = _made_of(config)
    whole.replace(data)
    return said.replace(whole.name, data.name)


def _settings(name: str, differences: Mapping[str, Any], config: Config, data: Path) -> Any:
    """Robomimic's configuration: its own defaults, what the algorithm changes, and our data."""
    from vlmrl.policy.robomimic import library

    settings = library("config").config_factory(name)
    with settings.values_unlocked():
        settings.update(json.loads(json.dumps(differences)))
        settings.experiment.name = config.algorithm
        settings.train.data, settings.train.seed, settings.train.batch_size = str(data), config.seed, config.batch
        settings.train.num_data_workers, settings.train.cuda = 0, False
        settings.train.hdf5_cache_mode, settings.train.hdf5_load_next_obs = "all", True
        settings.observation.modalities.obs.low_dim = list(config.obs)
        if config.lr is not None:
            for part in settings.algo.optim_params.values():
                part.learning_rate.initial = config.lr
    return settings


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="A .pth file that robomimic saved")],
    out: Annotated[Path, typer.Option(help="Folder of the policy")],
) -> None:
    """Read a checkpoint of robomimic, running nothing in it, and write it as a policy folder.

    Example: vlmrl robomimic convert model_epoch_600.pth --out policies/lift
    """
    from vlmrl.policy.robomimic import RobomimicPolicy

    policy = RobomimicPolicy.from_checkpoint(checkpoint)
    policy.save_pretrained(out)
    typer.echo(f"{policy.name} on {', '.join(policy.keys)}: {out}")
