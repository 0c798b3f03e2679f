"""`vlmrl JOB --help`: every setting with its default and what it means, read from the dataclasses themselves."""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any, cast, get_type_hints

import yaml

from vlmrl.content import places

EXAMPLES = {
    "run": """
  vlmrl run                                       collect in simulation, label, learn, evaluate, report
  vlmrl run preset=fast                           the same in two minutes, to see it work
  vlmrl run store=runs/mine task=null sentence='open the drawer' labeler=openai labeler.model=NAME
  vlmrl run seeds=[0,1,2,3,4] evaluate.episodes=50 labeler.checkpoint=zeroshot
  vlmrl run labeler=scripted labeler.error_rate=0.1
  vlmrl run out=runs/today                        run again with the same `out` to go on where it was cut""",
    "label": """
  vlmrl label store=runs/mine                     the built-in judge answers, on this machine
  vlmrl label store=runs/mine labeler=openai labeler.base_url=http://localhost:8000/v1 labeler.model=NAME
  vlmrl label store=runs/mine labeler=transformers labeler.model=FOLDER_OR_HUB_ID limits.max_calls=1000
  vlmrl label store=runs/mine question=progress labeler=openai labeler.model=NAME
  vlmrl label store=runs/mine ask.show=strip ask.clip_s=2 ask.order=both labeler=openai labeler.model=NAME
  vlmrl label benchmark --help                    score several labelers on the same pairs
  vlmrl label serve --help                        a page at which people compare pairs
  vlmrl label audit --help                        how far to trust everybody who answered
  vlmrl label route --help                        send doubtful pairs to people""",
    "benchmark": """
  vlmrl label benchmark store=runs/mine labelers=[seen,zeroshot,scripted]
  vlmrl label benchmark store=runs/mine labelers='[FOLDER_OF_A_CLIP,{name:openai,model:NAME}]'
  vlmrl label benchmark store=runs/mine truth=labels.parquet labelers=[seen]""",
    "audit": """
  vlmrl label audit store=runs/mine               accuracy, agreement, place, cycles, calibration and cost of labels
  vlmrl label audit store=runs/mine against=people columns=[truth/reward]""",
    "route": """
  vlmrl label route store=runs/mine budget=200    the 200 most doubtful pairs go to the people's queue
  vlmrl label route store=runs/mine by=order""",
    "serve": """
  vlmrl label serve store=runs/mine               at http://127.0.0.1:8765/, for you alone
  vlmrl label serve store=runs/mine bind=0.0.0.0 tokens=people.txt rules.overlap=2
  vlmrl label serve store=runs/mine ledger=postgresql://user@host/name pairs=0""",
    "score": """
  vlmrl score store=runs/mine                     how far each frame is from each episode's sentence
  vlmrl score store=runs/mine sentence='open the drawer' rewarder.checkpoint=openai/clip-vit-base-patch32
  vlmrl score store=runs/mine rewarder.alpha=0.5 rewarder.goals=['an open drawer'] rewarder.baselines=['a drawer']
  vlmrl score store=runs/new rewarder=saved rewarder.folder=runs/label/reward   a reward distilled on other logs""",
    "train": """
  vlmrl train store=runs/mine reward=COLUMN       COLUMN as `vlmrl data show runs/mine` lists it
  vlmrl train store=runs/mine learner=bc seeds=[0,1,2]""",
    "evaluate": """
  vlmrl evaluate policy=runs/today/policies/learned/seed0 task=drawer_open episodes=100
  vlmrl evaluate policy=expert task=drawer_open   the scripted expert; policy=random; noise=0.4: graded
  vlmrl evaluate policy=[A,B,C] versus=expert     one method trained from three seeds, and a paired difference
  vlmrl evaluate policy=FOLDER task=[drawer_open,cartpole] workers=0
  vlmrl evaluate policy=FOLDER critic=FOLDER/critic samples=10 versus=FOLDER   steered by a critic, and alone
  vlmrl evaluate policy=FOLDER episodes=1000 margin=0.1         stop when the interval is narrow enough
  vlmrl evaluate policy=FOLDER check=observations               fail if the policy does not look
  vlmrl evaluate compare RUN RUN out=PAGE         several runs on one page
  vlmrl stats n --margin 0.05 --rate 0.8          how many episodes are needed?
  vlmrl evaluate out=runs/today ...               the same command with the same `out` goes on where it was cut""",
    "deploy": """
  vlmrl deploy policy=expert task=so101/reach driver=mujoco        the twin of the arm, in real time
  vlmrl deploy policy=FOLDER task=so101/reach port=/dev/ttyACM0    the arm itself, or vlmrl robot simulate
  vlmrl deploy policy=FOLDER task=so101/reach port=/dev/ttyACM0 page=true     started and stopped from a page
  vlmrl deploy policy=expert task=so101/push driver=mujoco lockstep=true whole=true   as vlmrl evaluate does
  vlmrl deploy policy=FOLDER driver=mujoco limits.success=0.8 limits.overruns=0.001   fail where it is worse""",
    "flywheel": """
  vlmrl flywheel task=so101/reach recorded=[runs/today/store] incumbent=FOLDER out=runs/flywheel
  vlmrl flywheel task=so101/reach recorded=[runs/later/store] out=runs/flywheel   the next turn, with more episodes
  vlmrl flywheel task=so101/reach recorded=[STORE] labeler=openai limits.max_cost_usd=5 gate.margin=0.02
  vlmrl deploy policy=runs/flywheel/incumbent task=so101/reach                    whoever was promoted last""",
    "record": """
  vlmrl record task=so101/reach driver=mujoco store=runs/demos     by keyboard, on the twin
  vlmrl record task=so101/reach port=/dev/ttyACM0 by=gamepad judged_by=operator store=runs/demos
  vlmrl record task=so101/reach port=/dev/ttyACM0 by=leader leader_port=/dev/ttyACM1 store=runs/demos""",
}


def text(name: str, config: type, groups: Mapping[str, Mapping[str, str]], *, command: str) -> str:
    """The help of one job, called as `vlmrl COMMAND`; `groups` maps each group to its table of modules."""
    lines = [
        f"usage: vlmrl {command} [KEY=VALUE ...]",
        "",
        _first_line(config),
        "",
        "examples:",
        EXAMPLES[name].strip("\n"),
    ]
    for group, table in groups.items():
        lines += ["", f"{group}=NAME  have: {', '.join(sorted({*table, *files(group)}))}"]
    for choice in ("preset", "collect") if name == "run" else ():
        lines += ["", f"{choice}=NAME  have: {', '.join(files(choice))}"]
    lines += ["", "settings:", f"  {'out':36} run folder; default: a new one under runs/"]
    lines += list(_settings(config, "", groups))
    for group, table in groups.items():
        for choice, module in table.items():
            lines += ["", f"settings of {group}={choice}:"]
            given = _given(group, choice)
            lines += list(_settings(import_module(module).Config, f"{group}.", groups, given))
    lines += ["", "Hydra's own: --multirun (sweep over a=1,2), --cfg job (print the configuration), --hydra-help"]
    return "\n".join(lines)


def of_command(usage: str, first: str, examples: str, configs: Sequence[type], *, more: Sequence[str] = ()) -> str:
    """The help of a small command whose settings are those of `configs`."""
    lines = [f"usage: {usage}", "", first, "", "examples:", examples.strip("\n"), *more, "", "settings:"]
    return "\n".join([*lines, *(line for config in configs for line in _settings(config, "", {}))])


def files(group: str) -> list[str]:
    """Names of a configuration group's files, yours and the installed ones."""
    return sorted({f.stem for place in places("conf") for f in (place / group).glob("*.yaml")})


def _given(group: str, choice: str) -> Mapping[str, Any]:
    """What the choice's file sets, in place of the dataclass's defaults."""
    path = next((f for place in places("conf") if (f := place / group / f"{choice}.yaml").is_file()), None)
    return {} if path is None else yaml.safe_load(path.read_text(encoding="utf-8"))


def _settings(
    config: type, prefix: str, groups: Mapping[str, object], given: Mapping[str, Any] | None = None
) -> Iterator[str]:
    documents, hints = _documents(config), get_type_hints(config)
    for field in dataclasses.fields(config):
        name, hint = prefix + field.name, hints[field.name]
        if field.name in groups and not prefix:
            continue
        if dataclasses.is_dataclass(hint):
            yield from _settings(cast("type", hint), f"{name}.", groups)
            continue
        default = field.default if field.default is not dataclasses.MISSING else ""
        default = (given or {}).get(field.name, default)
        yield _entry(f"{name}={_value(default)}", documents.get(field.name, ""))


def _entry(setting: str, document: str) -> str:
    if not document:
        return f"  {setting}"
    lines = textwrap.wrap(document, 80)
    gap = " " * 39
    first = f"  {setting:36} {lines[0]}" if len(setting) <= 36 else f"  {setting}\n{gap}{lines[0]}"
    return "\n".join([first, *(gap + line for line in lines[1:])])


def _value(default: Any) -> str:
    if default is None:
        return "null"
    if isinstance(default, tuple):
        return f"[{','.join(_value(v) for v in cast('Sequence[Any]', default))}]"
    return str(default).lower() if isinstance(default, bool) else str(default)


def _first_line(config: type) -> str:
    return (config.__doc__ or "").strip().split("\n")[0]


def _documents(config: type) -> dict[str, str]:
    """Attribute docstrings of a dataclass and of those that it adds to."""
    found: dict[str, str] = {}
    for base in reversed(config.__mro__):
        if dataclasses.is_dataclass(base):
            found |= _own_documents(base)
    return found


def _own_documents(config: type) -> dict[str, str]:
    body = cast("ast.ClassDef", ast.parse(textwrap.dedent(inspect.getsource(config))).body[0]).body
    found: dict[str, str] = {}
    for before, after in pairwise(body):
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name):
            match after:
                case ast.Expr(value=ast.Constant(value=str(document))):
                    found[before.target.id] = " ".join(document.split())
                case _:
                    pass
    return found
