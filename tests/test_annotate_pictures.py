"""What a labeler sees of frames and clips: which pictures, in which order, how drawn, in which words."""

import dataclasses

import numpy as np
import pytest
from annotate_fakes import FakeStore

from vlmrl.annotate import Pictures, sample_pairs
from vlmrl.annotate.asking import Asking
from vlmrl.annotate.clips import ClipEnds
from vlmrl.annotate.drawing import GAP, contact_strip, draw_way
from vlmrl.annotate.script import PROMPTS, default_prompt, load_script
from vlmrl.errors import ConfigError, DataError
from vlmrl.sim.render import project, rays
from vlmrl.sim.task import Camera
from vlmrl.types import Frame, Kind, Query, Span

STORE = FakeStore()  # 6 episodes of 20 rows, a picture every 4
TIME = np.tile(np.arange(20) / 10, 6)


def clip(start, stop, episode=0):
    return (Span(f"episode-{episode}", start, stop, "front"),)


def shown(*items, **settings):
    (query,) = Pictures(STORE, **settings)([Query(Kind.PREFERENCE, items, "to open")])
    return query


def picture(row):
    return STORE.frames("front", [row])[0]


def test_a_clip_as_several_pictures_in_order_of_time_first_and_last_among_them():
    query = shown(clip(0, 20), clip(0, 9, 1), show="images", most=3)
    assert query.counts == (3, 3)
    for found, row in zip(query.images, (0, 8, 16, 20, 24, 28), strict=True):
        np.testing.assert_array_equal(found, picture(row))
    assert [list(query.places(i)) for i in range(2)] == [[0, 1, 2], [3, 4, 5]]
    two = shown(clip(0, 20), clip(4, 17), show="before_after")
    for found, row in zip(two.images, (0, 16, 4, 16), strict=True):
        np.testing.assert_array_equal(found, picture(row))


def test_a_strip_holds_every_picture_in_its_place():
    query = shown(clip(0, 20), show="strip", most=5)
    (strip,) = query.images
    assert strip.shape == (2 * 8 + GAP, 3 * (8 + GAP) - GAP, 3)
    for k, row in enumerate((0, 4, 8, 12, 16)):
        top, left = k // 3 * (8 + GAP), k % 3 * (8 + GAP)
        np.testing.assert_array_equal(strip[top : top + 8, left : left + 8], picture(row))
    assert (strip[-8:, -8:] == 255).all()
    assert contact_strip([picture(0)]).shape == (8, 8, 3)


def test_a_clip_without_pictures_is_refused_with_its_place():
    for item, message in (
        (clip(1, 4), r"clip without a picture cannot be shown: .*start=1, stop=4"),
        (clip(4, 4), r"start=4, stop=4.* has no rows; the episode has 20"),
        (clip(10, 30), "has no rows; the episode has 20"),
    ):
        with pytest.raises(DataError, match=message):
            shown(item, show="strip")
    with pytest.raises(DataError, match="need two pictures, this clip has one"):
        shown(clip(3, 6), show="before_after")


def test_clips_are_as_long_as_asked_and_end_at_a_picture():
    ends = ClipEnds(STORE, TIME, seconds=0.5)
    queries = sample_pairs(ends, "front", count=60, instruction="x", generator=np.random.default_rng(0))
    clips = [item for query in ends.about(queries) for item in query.items]
    assert {span.stop - span.start for (span,) in clips} == {6}
    assert all((span.stop - 1) % 4 == 0 for (span,) in clips)
    assert len({frozenset(query.items) for query in ends.about(queries)}) == 60
    longer = ClipEnds(STORE, TIME, seconds=9.0)
    assert longer.frame_rows("front").tolist() == [16, 36, 56, 76, 96, 116]
    assert longer.clip(Frame("episode-1", 16, "front")) == clip(0, 17, 1)
    with pytest.raises(DataError, match=r"no clip of 0\.1 s .* 0\.4 s apart: say a longer ask\.clip_s"):
        ClipEnds(STORE, TIME, seconds=0.1).frame_rows("front")


def test_a_way_is_drawn_where_the_hand_was_and_only_up_to_now():
    black = np.zeros((40, 60, 3), np.uint8)
    way = np.stack([np.linspace(5, 55, 11), np.full(11, 20.0)], axis=1)
    half, whole = (draw_way(black, way, upto=k).astype(int) for k in (6, 11))
    assert half[20, 20].sum() > 100
    assert half[:, 36:].sum() == 0
    assert whole[20, 50].sum() > 100
    assert whole[:15].sum() == whole[26:].sum() == 0
    assert half[20, 7, 2] > half[20, 7, 0]  # blue where it begins
    assert whole[20, 54, 0] > whole[20, 54, 2]  # red where it ends
    assert draw_way(black, np.full((3, 2), np.nan), upto=3).sum() == 0


def test_a_way_follows_the_crop_and_the_size():
    store = FakeStore(size=40)
    store.frames = lambda camera, rows: np.zeros((len(rows), 40, 40, 3), np.uint8)

    def track(span):
        return np.full((span.stop - span.start, 2), [30.0, 10.0])

    query = Query(Kind.PREFERENCE, (clip(0, 20), clip(0, 20, 1)), "x")
    (found,) = Pictures(store, show="images", most=2, track=track, crop=(0.5, 0.0, 1.0, 0.5), size=(80, 80))([query])
    assert found.traced
    assert found.images[0].shape == (80, 80, 3)
    rows, columns = np.nonzero(found.images[0].sum(2))
    # Column 30 of 40 is the middle of the right half, here four times as large.
    assert abs(columns.mean() - 42) < 1.5
    assert abs(rows.mean() - 42) < 1.5


@pytest.mark.parametrize("flip", [False, True])
def test_a_point_is_projected_to_the_pixel_whose_ray_it_lies_on(flip):
    place = {"crop": (0.1, 0.2, 0.9, 0.7), "height": 30, "width": 50}
    camera = Camera(
        (0.3, -1.0, 0.5), (1.0, 0.2, 0.0, 0.0, 0.3, 1.0), fovy=50.0, crop=crop, flip=flip, height=30, width=50
    )
    points = np.asarray(camera.position) + 1.7 * rays(camera)
    found = project(camera, points.reshape(-1, 3)).reshape(30, 50, 2)
    columns, rows = np.meshgrid(np.arange(50), np.arange(30))
    np.testing.assert_allclose(found, np.stack([columns, rows], axis=-1), atol=1e-9)
    behind = np.asarray(camera.position) - rays(camera)[15, 25]
    assert np.isnan(project(camera, behind[None])).all()


@pytest.mark.parametrize(("question", "show"), sorted(PROMPTS))
def test_every_prompt_shows_all_its_pictures_once_in_order(question, show):
    script = load_script(default_prompt(question, show))
    per_item = 1 if show in ("frame", "strip") else 2
    items = {"preference": 2, "progress": 4}.get(question, 1)
    kind = {"preference": Kind.PREFERENCE, "progress": Kind.PROGRESS, "score": Kind.SCORE}.get(question, Kind.SUCCESS)
    frames = tuple(Frame("e", i, "c") for i in range(items))
    images = tuple(np.full((2, 2, 3), i, np.uint8) for i in range(items * per_item))
    query = Query(kind, frames, "open the drawer.", images, (per_item,) * items)
    stages = list(script.texts)
    message = script.message(stages[0], query)
    assert [part for part in message if isinstance(part, int)] == list(range(len(images)))
    for stage in stages:
        words = "".join(str(part) for part in script.message(stage, query, analysis="It moved."))
        assert "open the drawer" in words
        assert "$" not in words
    if show != "frame":
        traced = dataclasses.replace(query, traced=True)
        assert "blue" in "".join(map(str, script.message(stages[0], traced)))
        assert script.content(traced) != script.content(query)


def test_progress_pictures_are_numbered_behind_the_first():
    query = Query(Kind.PROGRESS, tuple(Frame("e", i, "c") for i in range(3)), "x", counts=(1, 1, 1))
    message = load_script("progress-1").message("one_stage", query)
    at = message.index("[1]")
    assert message[at : at + 4] == ["[1]", 1, "[2]", 2]
    assert "2 more pictures" in message[2]


def test_a_prompt_that_does_not_fit_is_refused():
    clips = Query(Kind.PREFERENCE, (clip(0, 5), clip(0, 5)), "x", counts=(3, 3))
    with pytest.raises(ConfigError, match=r"'compare-1' shows \$picture_0, one picture, but the item has 3"):
        load_script("compare-1").message("analysis", clips)
    alone = Query(Kind.SCORE, (clip(0, 5),), "x")
    with pytest.raises(ConfigError, match="a score question is about 1 item"):
        load_script("clip-images-1").message("analysis", alone)
    with pytest.raises(ConfigError, match="does not tell what the line"):
        load_script("compare-1").message("analysis", dataclasses.replace(clips, counts=(1, 1), traced=True))
    with pytest.raises(ConfigError, match=r"question=score cannot be asked with ask\.show=strip; have: frame"):
        default_prompt("score", "strip")


@pytest.mark.parametrize("sentence", ["把抽屉打开。", "افتح الدرج", "öffne die Schublade", "open $goal {x} 🗄️"])
def test_sentences_of_any_language_reach_the_model_as_they_are(sentence):
    query = Query(Kind.PREFERENCE, (Frame("e", 0, "c"), Frame("e", 1, "c")), sentence)
    words = "".join(map(str, load_script("compare-1").message("analysis", query)))
    assert f"The goal is: {sentence.rstrip('。')}." in words


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_s": 0.0}, r"clip_s 0\.0"),
        ({"crop": (0.5, 0.0, 0.2, 1.0)}, "left, top, right, bottom within 0 and 1 wanted"),
        ({"size": (0, 5)}, "height and width in pixels wanted"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Asking(**settings)
