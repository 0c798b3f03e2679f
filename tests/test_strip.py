"""Film strips: pictures evenly spaced in time, and each value under the picture that it judges."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vlmrl.cli import utilities
from vlmrl.errors import ConfigError, DataError
from vlmrl.store import Store
from vlmrl.store.strip import strip
from vlmrl.types import NO_FRAME, Episode, Frames

ROWS = (17, 10, 2, 9)


def episode(number: int, rows: int, *, seen: bool = True) -> Episode:
    """Row t shows the grey value 10 t."""
    t = np.arange(rows)
    pixels = np.repeat(10 * t, 6 * 8 * 3).reshape(rows, 6, 8, 3).astype(np.uint8)
    index = np.where(seen, t, NO_FRAME).astype(np.int32)
    return Episode(
        action=np.zeros((rows, 1), np.float32),
        obs={},
        time=t / 2,
        has_action=t < rows - 1,
        has_next=t < rows - 1,
        terminated=False,
        truncated=True,
        task="toy",
        instruction="Press the $red$ button",
        source="",
        images={"front": Frames(pixels if seen else pixels[:0], index)},
        truth={"progress": (t / 10).astype(np.float32), "reward": np.zeros(rows, np.float32)},
        success=number % 2,
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store.create(tmp_path / "store")
    made.append([episode(i, n, seen=i < 3) for i, n in enumerate(ROWS)])
    row = np.concatenate([np.arange(n) for n in ROWS]).astype(np.float32)
    for name, covered in (("all", made.column("has_next")), ("first", made.column("has_next") & (np.arange(38) < 17))):
        mean = np.where(covered, row, np.nan).astype(np.float32)
        made.add_reward(name, mean, mean / 10, {"rewarder": "test"})
    return made


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that was saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *arguments: object, **options: object) -> None:
        figures.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def test_each_value_stands_under_the_picture_that_it_judges(store: Store, tmp_path: Path, drawn: list[Figure]) -> None:
    strip(store, "all", "front", tmp_path / "new" / "a.png", episodes=[store.episodes.id[0]], title="Seen")
    axes, beside = drawn[0].axes
    line, dots = axes.lines
    # the reward of row i stands at the time of row i + 1, and nothing judges row 0
    time, value = (np.asarray(v) for v in line.get_data())
    assert time.tolist() == (np.arange(17) / 2).tolist()
    np.testing.assert_array_equal(value, [np.nan, *range(16)])
    np.testing.assert_array_equal(beside.lines[0].get_ydata(), (np.arange(17) / 10).astype(np.float32))
    # 17 rows: 9 pictures lie two rows apart, and their middles stand above their values
    assert np.asarray(dots.get_xdata()).tolist() == list(range(9))
    assert [int(picture.get_array()[0, 0, 0]) for picture in drawn[0].images] == [20 * i for i in range(9)]
    middles = [picture.ox + picture.get_array().shape[1] / 2 for picture in drawn[0].images]
    stands = axes.transData.transform([(t, 0) for t in range(9)])[:, 0]
    np.testing.assert_allclose(middles, stands, atol=1.5)
    texts = [text.get_text() for text in drawn[0].texts]
    assert {"Seen", "“Press the $red$ button”", "episode 0, 8.0 s, failed", "reward all"} <= set(texts)
    assert "the simulator's progress, scale at the right" in texts
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert picture.size == tuple(np.round(drawn[0].get_size_inches() * 200).astype(int))


def test_all_episodes_share_one_scale(store: Store, tmp_path: Path, drawn: list[Figure]) -> None:
    strip(store, "all", "front", tmp_path / "a.png")
    # the last episode has no picture
    assert len(drawn[0].axes) == 2 * 3
    for kind in range(2):
        assert len({axes.get_ylim() for axes in drawn[0].axes[kind::2]}) == 1


def test_only_what_is_judged_is_drawn(store: Store, tmp_path: Path, drawn: list[Figure]) -> None:
    strip(store, "first", "front", tmp_path / "a.png")
    assert len(drawn[0].axes) == 2


def test_the_command_draws_the_first_camera_beside_the_store(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    utilities.strip(store.path, "all")
    assert (tmp_path / "store-all-strip.png").is_file()
    assert capsys.readouterr().out == f"film strips: {tmp_path / 'store-all-strip.png'}\n"


def test_a_strip_that_cannot_be_drawn_says_why(store: Store, tmp_path: Path) -> None:
    path, ids = tmp_path / "a.png", store.episodes.id
    with pytest.raises(ConfigError, match="unknown reward 'al'; have: all, first"):
        strip(store, "al", "front", path)
    with pytest.raises(ConfigError, match="unknown camera 'wrist'; have: front"):
        strip(store, "all", "wrist", path)
    with pytest.raises(DataError, match=f"episode '{ids[3]}' has no picture of camera 'front'"):
        strip(store, "all", "front", path, episodes=[ids[3]])
    with pytest.raises(DataError, match=f"episode '{ids[1]}' has no reward 'first'"):
        strip(store, "first", "front", path, episodes=[ids[1]])
    assert not path.exists()
