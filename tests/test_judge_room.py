"""The judge's card: a perfect judge scores 1, a reversed one 0; bins are equal; intervals hold their point."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from vlmrl.annotate.alter import alter
from vlmrl.cli.given import configured
from vlmrl.encoder import DualEncoder
from vlmrl.errors import ConfigError, DataError
from vlmrl.judge import card, dataset, exam, features, make, train
from vlmrl.judge.card_pictures import draw_deciles, draw_pairs, examples
from vlmrl.judge.card_text import markdown
from vlmrl.judge.curriculum import Lesson, lessons
from vlmrl.judge.scenes import Pictures, near_view
from vlmrl.judge.stress import unrelated
from vlmrl.tower import JudgeVisionConfig, JudgeVisionModel, Tail

TABLE = [
    Lesson("a-v3", ("open it", "pull it open"), against=("close it",)),
    Lesson("b-v3", ("push it",)),
    Lesson("c-v3", ("sweep it",), held_out=True),
]
FACTS = {"temperature": 0.1, "temperature_unseen": 0.2, "threshold": 0.6, "tasks_seen": ["open it", "push it"]}


class Level(DualEncoder):
    """Scores a picture by how bright it is: `slope` 1 is a perfect judge of the made-up pictures, -1 a reversed one."""

    def __init__(self, slope=1.0, facts=FACTS):
        self.name, self.facts, self.slope = "judge seen", facts, slope
        self.fingerprint, self.logit_scale, self.dim = "f" * 64, 10.0, 2

    def images(self, pixels):
        x = self.slope * pixels.reshape(len(pixels), -1).mean(1) / 255
        return np.stack([x, np.sqrt(1 - x**2)], 1).astype(np.float32)

    def texts(self, sentences):
        return np.array([[-1 if "close" in s else 1, 0] for s in sentences], np.float32)


def made_up(lesson, episodes=5, rows=4, views=4):
    """Pictures as bright as they are far along."""
    progress = np.random.default_rng(len(lesson.name)).permutation(np.linspace(0, 1, episodes * rows))
    frame = np.tile(np.arange(episodes * rows), views)
    pixels = np.broadcast_to((255 * progress[frame]).astype(np.uint8)[:, None, None, None], (len(frame), 6, 6, 3))
    return Pictures(
        np.ascontiguousarray(pixels),
        progress[frame].astype(np.float32),
        np.repeat(np.arange(views), episodes * rows).astype(np.int32),
        (frame // rows).astype(np.int32),
        (frame % rows).astype(np.int32),
    )


def asked(encoder, lesson=TABLE[0]):
    pictures = made_up(lesson)
    return exam.answers(encoder, lesson, pictures, encoder.images(pictures.pixels), lesson.sentences[0])


@pytest.mark.parametrize(("slope", "wanted"), [(1.0, 1.0), (-1.0, 0.0), (0.0, 0.5)])
def test_a_perfect_judge_has_1_a_reversed_one_0_and_equal_scores_count_one_half(slope, wanted):
    found = exam.accuracy([asked(Level(slope))])
    assert (found["accuracy"], found["low"], found["high"]) == (wanted, wanted, wanted)


def test_pairs_lie_within_one_view_and_every_kind_of_view_is_there():
    part = asked(Level())
    view = made_up(TABLE[0]).view
    assert len(part.first) == 4 * 20 * 19 // 2
    assert np.array_equal(view[part.first], view[part.second])
    assert [int((part.kind == k).sum()) for k in range(3)] == [380, 190, 190]


def test_a_frame_is_never_compared_with_itself():
    pictures = made_up(TABLE[0])
    twice = replace(pictures, row=np.zeros_like(pictures.row))
    part = exam.answers(Level(), TABLE[0], twice, Level().images(twice.pixels), "open it")
    assert (twice.episode[part.first] != twice.episode[part.second]).all()


def test_an_interval_holds_its_point_and_is_the_same_again():
    part = asked(Level())
    noise = np.random.default_rng(0).normal(0, 0.3, len(part.gap)).astype(np.float32)
    noisy = replace(part, difference=part.gap + noise)
    found = exam.accuracy([noisy])
    assert found == exam.accuracy([noisy])
    assert 0.5 < found["low"] < found["accuracy"] < found["high"] < 1


def test_the_mean_is_over_tasks_whatever_their_number_of_pairs():
    good, bad = asked(Level()), asked(Level(-1.0), TABLE[1])
    few = {name: getattr(bad, name)[:9] for name in ("first", "second", "gap", "kind", "difference")}
    assert exam.accuracy([good, replace(bad, **few)])["accuracy"] == 0.5


def test_no_pairs_of_a_kind_are_said_and_not_invented():
    part = asked(Level())
    assert exam.accuracy([replace(part, kind=part.kind * 0)], "paper")["accuracy"] is None


def test_deciles_hold_equally_many_pairs_and_rise_in_gap():
    bins = exam.deciles([asked(Level()), asked(Level(), TABLE[1])])
    assert len(bins) == 10
    assert max(b["pairs"] for b in bins) - min(b["pairs"] for b in bins) <= 1
    assert all(a["high"] <= b["low"] for a, b in pairwise(bins))


def test_calibration_of_a_hand_made_judge():
    part = asked(Level())
    logit = np.log(0.8 / 0.2)
    gap = np.ones(10, np.float32)
    sign = np.array([1] * 7 + [-1] * 3, np.float32)
    ten = np.arange(10)
    small = replace(part, first=ten, second=ten, kind=ten, gap=gap, difference=(sign * 0.1 * logit).astype(np.float32))
    found = exam.calibration([small])
    assert found["ece"] == pytest.approx(0.1, abs=1e-6)
    assert [(b["pairs"], round(b["sure"], 3), b["accuracy"]) for b in found["bins"]] == [(10, 0.8, 0.7)]


def test_preferences_between_equals_are_invented():
    part = asked(Level())
    three = np.arange(3)
    small = replace(
        part,
        first=three,
        second=three,
        kind=three,
        gap=np.array([0.5, 0.001, 0.0], np.float32),
        difference=np.array([1.0, 1.0, 0.0], np.float32),
    )
    found = exam.verdicts([small], 0.6)
    assert (found["decided"], found["accuracy"], found["invented"], found["equal_pairs"]) == (1.0, 1.0, 0.5, 2)


def test_temperature_is_that_of_the_sentence():
    assert exam.temperature(Level(), "Open it.") == 0.1
    assert exam.temperature(Level(), "sweep it") == 0.2
    assert exam.temperature(Level(facts={}), "open it") == 0.1


@pytest.fixture(scope="module")
def exam_of_level():
    return card.examine(Level(), TABLE, made_up)


def test_the_exam_groups_tasks_and_stresses_the_judge(exam_of_level):
    groups = exam_of_level.figures["groups"]
    assert (groups["held out"]["tasks"], groups["trained on"]["tasks"]) == (1, 2)
    stress = groups["trained on"]["stress"]
    assert stress["opposite accuracy"] == {"mean": 1.0, "tasks": 1}
    assert stress["reworded accuracy"] == {"mean": 1.0, "tasks": 1}
    assert stress["accuracy, pictures mirrored"]["mean"] == 1.0
    assert stress["both sides alike blank: sureness"]["mean"] == 0
    assert stress["order swapped: p off by"]["mean"] == pytest.approx(0, abs=1e-6)
    # The made-up judge knows no sentence, so that a wrong one leaves it as sure.
    assert stress["wrong sentence decided"]["mean"] > 0.5


def test_the_card_states_its_numbers(exam_of_level, tmp_path):
    text = markdown(exam_of_level.figures, "seen")
    assert "| held out | 1 | 100.0 % [100.0, 100.0]" in text
    assert "the interval reaches 50 %): none." in text
    draw_deciles(exam_of_level.figures, tmp_path / "deciles.png")
    draw_pairs(exam_of_level.parts, made_up, tmp_path / "pairs.png")
    assert all((tmp_path / f"{name}.png").stat().st_size > 10_000 for name in ("deciles", "pairs"))


def test_the_card_names_views_from_which_a_task_is_no_better_than_a_coin(exam_of_level):
    tasks = exam_of_level.figures["tasks"]
    weak = tasks["b-v3"] | {"paper": tasks["b-v3"]["paper"] | {"accuracy": 0.3, "low": 0.25}}
    text = markdown({**exam_of_level.figures, "tasks": tasks | {"b-v3": weak}}, "seen")
    assert "the interval reaches 50 %): b-v3 (paper views 30.0 %)." in text


def test_examples_are_right_or_wrong_and_held_out_first(exam_of_level):
    best = examples(exam_of_level.parts, right=True)
    assert best[0].part.lesson.name == "c-v3"
    assert all(x.part.difference[x.pair] * x.part.gap[x.pair] > 0 for x in best)
    assert examples(exam_of_level.parts, right=False) == []


def test_altering_twice_the_mirror_is_nothing():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 3)).astype(np.uint8)
    assert np.array_equal(alter(alter(pixels, "mirrored"), "mirrored"), pixels)
    assert alter(pixels, "brighter").max() == 255
    assert np.array_equal(np.sort(alter(pixels, "channels shuffled"), -1), np.sort(pixels, -1))


def test_missing_pictures_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no test pictures of 50 tasks .* vlmrl judge pictures out="):
        card.main(card.CardConfig(pictures=str(tmp_path)))


def test_settings_are_checked():
    assert configured(card.CardConfig, ["checkpoint=zeroshot"], where="judge").checkpoint == "zeroshot"
    with pytest.raises(ConfigError, match="checkpoint"):
        configured(card.CardConfig, ["checkpont=seen"], where="judge")
    with pytest.raises(ConfigError, match="key=value"):
        configured(card.CardConfig, ["seen"], where="judge")


def test_the_curriculum_holds_every_task_of_meta_world_and_some_held_out():
    table = lessons()
    assert len(table) == 50
    assert sum(x.held_out for x in table.values()) == 5
    assert all(x.sentences for x in table.values())
    for lesson in table.values():
        other = unrelated(lesson, list(table.values()))
        assert not {*lesson.sentences, *lesson.against} & {*other.sentences, *other.against}
    metaworld = pytest.importorskip("metaworld", reason="the sims extra")
    assert set(table) == set(metaworld.ALL_V3_ENVIRONMENTS)


def test_the_loss_by_hand(monkeypatch):
    """One scene of two pictures with cosines 0.6 and 0 to the sentence, its opposite and another task's."""
    config = train.Config(slope=8.0, logit_scale=0.0)
    towers = train.Towers(Tail(JudgeVisionConfig(image_size=32, width=8)), text_width=1, config=config)
    monkeypatch.setattr(towers, "images", lambda seen: torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    monkeypatch.setattr(towers, "texts", lambda features: torch.tensor([[1.0, 0.0]]))
    nothing = torch.zeros(1, 1)
    progress = torch.tensor([[0.5, 0.25]])
    batch = train.Batch(torch.zeros(2, 1), progress, nothing, nothing, torch.tensor([True]), nothing)
    found = {key: value.item() for key, value in train.losses(towers, batch, config).items()}
    wanted = 1 / (1 + np.exp(-8 * 0.25))
    p = 1 / (1 + np.exp(-0.6))
    right = -wanted * np.log(p) - (1 - wanted) * np.log(1 - p)
    against = -(1 - wanted) * np.log(p) - wanted * np.log(1 - p)
    wrong = -0.5 * np.log(p) - 0.5 * np.log(1 - p)
    assert found["right"] == pytest.approx(right, abs=1e-6)
    assert found["against"] == pytest.approx(against, abs=1e-6)
    assert found["loss"] == pytest.approx(right + 0.5 * against + 0.05 * wrong, abs=1e-6)
    assert found["accuracy"] == 1


def test_a_near_view_is_a_camera_near_the_given_one():
    generator = np.random.default_rng(0)
    for _ in range(50):
        camera = near_view(dataset.PAPER, 3, generator).camera
        right, up = np.asarray(camera.xyaxes[:3]), np.asarray(camera.xyaxes[3:])
        assert np.allclose([right @ right, up @ up, right @ up], [1, 1, 0], atol=1e-9)
        known = np.asarray(dataset.PAPER.xyaxes[:3])
        assert right @ known / np.linalg.norm(known) > np.cos(np.radians(20))
        assert np.linalg.norm(np.asarray(camera.position) - dataset.PAPER.position) < 0.3
        assert (camera.crop, camera.flip) == (dataset.PAPER.crop, dataset.PAPER.flip)


def test_a_tail_is_trained_alike_again_whatever_was_drawn_before(tmp_path, monkeypatch):
    lesson = TABLE[0]
    generator = np.random.default_rng(0)
    width = 32 * 16 * 16 + 64 * 8 * 8
    seen = features.Seen(
        lesson,
        generator.normal(size=(4, width)).astype(np.float16),
        np.array([0, 0.3, 0.6, 1], np.float32),
        np.zeros(4, np.int32),
    )
    monkeypatch.setattr(features, "load", lambda folder, names, split: [seen])
    monkeypatch.setattr(
        features, "tower", lambda weights, *, dropout: JudgeVisionModel(JudgeVisionConfig(dropout=dropout))
    )
    said = [p for s in lesson.sentences + lesson.against for p in train.phrases(s)]
    vectors = {p: generator.normal(size=4).astype(np.float32) for p in said}
    config = make.MakeConfig("", "", train=train.Config(updates=1, scenes=2, pictures=2))
    found = []
    for name in ("one", "two"):
        torch.rand(len(name) + len(found))
        found.append(make.trained(tmp_path, name, [lesson], vectors, config).state_dict())
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())
