"""Pairs of frames to ask about."""

from collections import Counter

import numpy as np
import pytest
from annotate_fakes import FakeStore

from vlmrl.annotate import Pictures, sample_pairs
from vlmrl.errors import ConfigError, DataError


def draw(store, count, seed=0, **kwargs):
    generator = np.random.default_rng(seed)
    return sample_pairs(store, "front", count=count, instruction="to open", generator=generator, **kwargs)


@pytest.mark.parametrize("stratify", [True, False])
@pytest.mark.parametrize("count", [1, 40, 300, 435])
def test_no_pair_comes_twice_in_either_order_and_no_frame_against_itself(stratify, count):
    pairs = [q.items for q in draw(FakeStore(), count, stratify=stratify)]  # 30 frames: 435 pairs at most
    assert len(pairs) == count
    assert len({frozenset(p) for p in pairs}) == count
    assert all(a != b for a, b in pairs)


def test_more_pairs_than_the_store_has_are_refused_with_the_number_there_is():
    with pytest.raises(DataError, match=r"30 frames .* only 435"):
        draw(FakeStore(), 436)
    with pytest.raises(DataError, match="0 frames"):
        draw(FakeStore(), 1, episodes=[])


def test_the_same_generator_gives_the_same_pairs_and_another_gives_others():
    store = FakeStore()
    assert draw(store, 50, seed=1) == draw(store, 50, seed=1)
    assert draw(store, 50, seed=1) != draw(store, 50, seed=2)


def test_frames_are_named_by_row_within_the_episode_and_have_a_picture():
    for query in draw(FakeStore(rows=21, every=5), 60):
        for item in query.items:
            row = int(item.episode.removeprefix("episode-")) * 21 + item.row
            assert 0 <= item.row < 21
            assert row % 5 == 0


def test_only_the_named_episodes_are_drawn():
    queries = draw(FakeStore(), 20, episodes=["episode-1", "episode-4"])
    assert {f.episode for q in queries for f in q.items} == {"episode-1", "episode-4"}
    with pytest.raises(ConfigError, match=r"unknown episode 'episode-9'; have: episode-0"):
        draw(FakeStore(), 1, episodes=["episode-9"])


def test_stratified_pairs_cover_episodes_and_time_evenly():
    store = FakeStore(episodes=20, rows=100, every=1)
    frames = [f for q in draw(store, 500) for f in q.items]
    by_episode = Counter(f.episode for f in frames)
    by_tenth = Counter(f.row // 10 for f in frames)
    assert max(by_episode.values()) - min(by_episode.values()) <= 2  # a redrawn pair may tip it by one
    assert all(97 <= n <= 103 for n in by_tenth.values())


def test_each_side_is_earlier_about_equally_often():
    pairs = [q.items for q in draw(FakeStore(episodes=20, rows=100, every=1), 2000)]
    earlier = np.mean([a < b for a, b in pairs])
    assert abs(earlier - 0.5) < 4 * 0.5 / np.sqrt(2000)


def test_a_pair_in_a_crowded_store_may_have_either_side_first():
    pairs = [q.items for q in draw(FakeStore(), 435)]
    assert 0.3 < np.mean([a < b for a, b in pairs]) < 0.7


def test_pictures_are_those_of_the_rows_cropped_then_resized():
    store = FakeStore()
    queries = draw(store, 3)
    filled = Pictures(store, crop=(0.25, 0.125, 1.0, 0.625))(queries)
    assert filled == queries  # pictures are no part of a query's identity
    for query in filled:
        for frame, picture in zip(query.items, query.images, strict=True):
            row = int(frame.episode.removeprefix("episode-")) * 20 + frame.row
            np.testing.assert_array_equal(picture, store.frames("front", [row])[0][1:5, 2:8])
    (resized,) = Pictures(store, crop=(0.0, 0.0, 1.0, 0.5), size=(6, 12))(queries[:1])
    assert [p.shape for p in resized.images] == [(6, 12, 3), (6, 12, 3)]


def test_a_crop_outside_the_picture_is_refused():
    with pytest.raises(
        ConfigError, match=r"left, top, right, bottom within 0 and 1 wanted, found \[0\.0, 0\.0, 1\.0, 1\.1\]"
    ):
        Pictures(FakeStore(), crop=(0.0, 0.0, 1.0, 1.1))
