"""What every labeler must keep: the table, the protocol, a deterministic key, and provenance in each reply."""

import ast
import asyncio
import dataclasses
import importlib.util
import json
import sys

import numpy as np
import pytest
import tiny_clip
import tiny_vlm
from fake_server import Answer, serve

from vlmrl.annotate import LABELERS, load_labeler
from vlmrl.annotate.job import Metered
from vlmrl.encoder import DualEncoder
from vlmrl.errors import ConfigError
from vlmrl.types import Frame, Kind, Labeler, Query, Verdict


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_vlm.build(tmp_path_factory.mktemp("model"), says="1")


@pytest.fixture(params=sorted(LABELERS))
def labeler(request):
    """One of each, every one of which prefers side b of `query`."""
    module = load_labeler(request.param)
    if request.param == "scripted":
        return module.build(module.Config(), truth=lambda item: float(item.row))
    if request.param == "judge":
        encoder = DualEncoder.load(str(request.getfixturevalue("encoder")))
        return module.build(
            module.Config(threshold=0.5), encoder=encoder, embed=towards(encoder), instruction="open it"
        )
    if request.param == "recorded":
        return module.build(module.Config(file=str(request.getfixturevalue("answers"))))
    if request.param == "transformers":
        folder = str(request.getfixturevalue("model"))
        return module.build(module.Config(model=folder, device="cpu", analysis_tokens=4))
    server = request.getfixturevalue("server")
    return module.build(module.Config(model="judge", base_url=server.url))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny_clip.build("clip", tmp_path_factory.mktemp("encoder"))


def towards(encoder):
    """Pictures that come the closer to the sentence the later their row."""
    goal = encoder.texts(["open it"])[0]
    away = np.roll(goal, 1) - goal * (np.roll(goal, 1) @ goal)
    return lambda item: (item.row + 1) * goal + 5 * away / np.linalg.norm(away)


@pytest.fixture
def answers(tmp_path):
    path = tmp_path / "answers.jsonl"
    lines = [
        {"a": ["frame", "e", 0, "c"], "b": ["frame", "e", 1, "c"], "instruction": "open it", "answer": "b"},
        {"a": ["frame", "e", 2, "c"], "b": ["frame", "e", 3, "c"], "instruction": "open it", "answer": "a"},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture
def server():
    with serve(lambda request, number: Answer("1")) as running:
        yield running


def query(seed=0, instruction="open it"):
    pictures = tuple(np.random.default_rng(seed).integers(0, 256, (2, 24, 24, 3), dtype=np.uint8))
    return Query(Kind.PREFERENCE, (Frame("e", 2 * seed, "c"), Frame("e", 2 * seed + 1, "c")), instruction, pictures)


def ask(labeler, *queries):
    async def go():
        try:
            return [await labeler.ask(q) for q in queries]
        finally:
            await labeler.close()

    return asyncio.run(go())


def test_the_table_lists_exactly_the_files_that_can_be_built(root):
    found = set()
    for path in (root / "vlmrl" / "annotate").glob("*.py"):
        defined = {getattr(node, "name", "") for node in ast.parse(path.read_text()).body}
        if "build" in defined and "Config" in defined:
            found.add(path.stem)
    assert found == set(LABELERS)
    assert all(module == f"vlmrl.annotate.{name}" for name, module in LABELERS.items())


def test_an_unknown_labeler_is_refused_with_the_choices():
    with pytest.raises(
        ConfigError, match="unknown labeler 'oracle'; have: judge, openai, recorded, scripted, transformers"
    ):
        load_labeler("oracle")


def test_the_labeler_that_the_documentation_adds_works(root, tmp_path):
    text = (root / "docs" / "adding_a_labeler.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "coin.py").write_text(code)
    spec = importlib.util.spec_from_file_location("coin", tmp_path / "coin.py")
    coin = importlib.util.module_from_spec(spec)
    sys.modules["coin"] = coin
    spec.loader.exec_module(coin)
    labeler = coin.build(coin.Config())
    assert isinstance(labeler, Labeler)
    assert isinstance(labeler, Metered)
    first, second = ask(labeler, query(), query()), ask(labeler, *(query(i) for i in range(20)))
    assert first[0] == first[1]
    assert {r.answer for r in second} == {Verdict.A_BETTER, Verdict.B_BETTER}


@pytest.mark.parametrize("name", sorted(LABELERS))
def test_a_configuration_is_frozen_and_has_a_default_for_everything(name):
    config = load_labeler(name).Config()
    assert all(f.default is not dataclasses.MISSING or f.default_factory for f in dataclasses.fields(config))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1


def test_it_keeps_the_protocol_and_says_what_a_question_takes(labeler):
    assert isinstance(labeler, Labeler)
    assert isinstance(labeler, Metered)
    assert labeler.name
    assert labeler.calls_per_question >= 1


def test_a_reply_names_its_annotator_and_what_it_took(labeler):
    (reply,) = ask(labeler, query())
    assert reply.answer is Verdict.B_BETTER
    assert reply.annotator == labeler.name
    assert reply.text
    assert reply.cost.calls == labeler.calls_per_question
    assert reply.probability is None or 0 <= reply.probability <= 1
    assert reply.error == ""


def test_the_same_question_gets_the_same_answer_also_after_close(labeler):
    first, again, after = [*ask(labeler, query(), query()), *ask(labeler, query())]
    assert (first.answer, first.text) == (again.answer, again.text) == (after.answer, after.text)


def test_what_it_is_asked_is_json_and_tells_questions_apart(labeler):
    contents = [
        query(),
        query(1),
        query(instruction="close it"),
        dataclasses.replace(query(), images=query().images[::-1], items=query().items[::-1]),
    ]
    keys = {json.dumps(labeler.content(q), sort_keys=True) for q in contents}
    assert len(keys) == 4
    assert labeler.content(query()) == labeler.content(query())


def test_a_kind_of_question_that_it_does_not_answer_is_refused(labeler):
    with pytest.raises(ConfigError, match="progress"):
        ask(
            labeler,
            dataclasses.replace(query(), kind=Kind.PROGRESS, items=query().items[:1], images=query().images[:1]),
        )
