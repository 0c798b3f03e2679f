"""What a source file may do, read from its syntax tree; `test_architecture.py` shows that each check can fail."""

import ast
import re
from collections.abc import Iterator

ROOMS = ("store", "annotate", "reward", "learn", "policy", "safety", "sim", "evaluate", "judge", "deploy")
"""Left to right: a room imports only rooms to its left."""
TOP = ("cli",)
"""Imports every room. Whatever else lies beside the rooms is ground floor and imports none."""

PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "joblib", "marshal"}
GENERATORS = {"Generator", "default_rng", "SeedSequence", "BitGenerator", "PCG64", "PCG64DXSM", "Philox", "SFC64"}
STOPS = {"stop", "close", "__exit__", "__del__"}
HANDED_ON = {"_fail", "set_exception"}
"""Calls that keep a caught error for whoever waits, who raises it again."""


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Every module imported anywhere in the file, and every string that names a module of ours (lazy tables)."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) + 1 - level], *([module] if module else [])]) if level else module
                yield from (f"{base}.{alias.name}" for alias in names)
            case ast.Constant(value=str(text)) if re.fullmatch(r"vlmrl(\.\w+)+(:\w+)?", text):
                yield text.replace(":", ".")
            case _:
                pass


def wrong_imports(source: str, module: str) -> list[str]:
    """Imports of `module` (dotted, without `.__init__`) that its place does not allow."""
    place = module.split(".")[1] if "." in module else ""
    if place in TOP:
        return []
    allowed = ROOMS[: ROOMS.index(place) + 1] if place in ROOMS else ()
    package = module if place in ROOMS and module.count(".") == 1 else module.rpartition(".")[0]
    names = (name.split(".") for name in imports(ast.parse(source), package or "vlmrl"))
    found = {name[1] for name in names if name[0] == "vlmrl" and len(name) > 1}
    return sorted(room for room in found if room in (*ROOMS, *TOP) and room not in allowed)


def forbidden(source: str) -> list[str]:
    """Pickle, eval, unsafe loads, the global generators, and errors swallowed."""
    tree = ast.parse(source)
    found = [f"imports {name}" for name in imports(tree, "") if name.split(".")[0] in PICKLES]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found += _forbidden_call(node)
        elif isinstance(node, ast.Attribute) and (name := _dotted(node)) and _global_generator(name):
            found.append(name)
        elif isinstance(node, ast.ImportFrom) and node.module in ("random", "numpy.random"):
            found += [alias.name for alias in node.names if alias.name not in GENERATORS | {"Random", "SystemRandom"}]
    return found + [f"line {line} swallows every error" for line in _swallowed(tree, "")]


def _forbidden_call(call: ast.Call) -> list[str]:
    name = _dotted(call.func)
    options = {k.arg: getattr(k.value, "value", None) for k in call.keywords}
    if name in ("eval", "exec", "builtins.eval", "builtins.exec", "compile"):
        return [name]
    if name == "torch.load" and options.get("weights_only") is not True:
        return ["torch.load without weights_only=True"]
    if options.get("allow_pickle") is True:
        return ["allow_pickle=True"]
    if name.endswith("suppress") and any(_dotted(a) in ("Exception", "BaseException") for a in call.args):
        return ["suppress(Exception)"]
    return []


def _global_generator(name: str) -> bool:
    if match := re.fullmatch(r"(?:np|numpy)\.random\.(\w+)", name):
        return match[1] not in GENERATORS
    return bool(re.fullmatch(r"random\.[a-z]\w*", name))


def _swallowed(node: ast.AST, function: str) -> Iterator[int]:
    """Lines that catch everything, outside functions that must stop a machine, and do not raise again."""
    for child in ast.iter_child_nodes(node):
        inside = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
        if isinstance(child, ast.ExceptHandler) and function not in STOPS and _continues(child):
            yield child.lineno
        yield from _swallowed(child, inside)


def _continues(handler: ast.ExceptHandler) -> bool:
    """Whether a handler catches everything and neither raises again nor hands the error on."""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    if all(k is not None and _dotted(k) not in ("Exception", "BaseException") for k in kinds):
        return False
    calls = [node for node in ast.walk(handler) if isinstance(node, ast.Call)]
    kept = any(_dotted(c.func).split(".")[-1] in HANDED_ON and handler.name in map(_dotted, c.args) for c in calls)
    return not kept and not isinstance(handler.body[-1], ast.Raise)


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute) and (base := _dotted(node.value)):
        return f"{base}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def table(source: str, name: str) -> list[str] | None:
    """Keys of the dict literal assigned to `name` at the top of a file, or None where there is none."""
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(t, ast.Name) and t.id == name for t in targets) and isinstance(node.value, ast.Dict):
            return [k.value for k in node.value.keys if isinstance(k, ast.Constant)]
    return None


def defined(source: str) -> set[str]:
    """Names that a file defines or re-exports at its top."""
    found: set[str] = set()
    for node in ast.parse(source).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.ImportFrom(names=names):
                found |= {alias.asname or alias.name for alias in names}
            case ast.Assign(targets=targets):
                found |= {t.id for t in targets if isinstance(t, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
            case _:
                pass
    return found


def disagreements(keys: list[str], files: dict[str, str], wanted: set[str]) -> list[str]:
    """Say where a room's table and its folder differ; `files` maps the stem of each public file to its source."""
    names = {key.replace("-", "_"): key for key in keys}
    found = [f"{key!r} has no file {stem}.py" for stem, key in names.items() if stem not in files]
    for stem, source in files.items():
        lacking = wanted - defined(source)
        if stem in names and lacking:
            found.append(f"{stem}.py lacks {', '.join(sorted(lacking))}")
        if stem not in names and not lacking:
            found.append(f"{stem}.py is not in the table")
    return found
