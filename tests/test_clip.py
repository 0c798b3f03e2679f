"""Embeddings are computed once and kept; zero-shot rewards read them, are aligned in time, and come from a job."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tiny_clip
from PIL import Image

from vlmrl import config as configuration
from vlmrl.annotate.embeddings import column, embeddings
from vlmrl.cli import jobs, score
from vlmrl.encoder import DualEncoder, vlmrm_reward
from vlmrl.errors import ConfigError, DataError
from vlmrl.reward import clip
from vlmrl.reward.relabel import relabel
from vlmrl.store import Store
from vlmrl.store.show import describe
from vlmrl.types import NO_FRAME, Episode, Frames, Rewarder

CAMERA = "judge"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> DualEncoder:
    return DualEncoder.load(str(tiny_clip.build("clip", tmp_path_factory.mktemp("tiny") / "clip")))


def episode(seed: int, *, rows: int = 7, sentence: str = "open the drawer", side: int = 40) -> Episode:
    """A picture every third row: rows 0, 3, 6."""
    index = np.full(rows, NO_FRAME, np.int32)
    index[::3] = np.arange(len(index[::3]))
    coarse = np.random.default_rng(seed).integers(0, 256, (len(index[::3]), 4, 4, 3), dtype=np.uint8)
    pixels = np.stack([np.asarray(Image.fromarray(c).resize((side, side))) for c in coarse])
    inner = np.arange(rows) < rows - 1
    return Episode(
        action=np.zeros((rows, 1), np.float32),
        obs={"state": np.zeros((rows, 1), np.float32)},
        time=np.arange(rows) / 10,
        has_action=inner,
        has_next=inner,
        terminated=False,
        truncated=True,
        task="drawer",
        instruction=sentence,
        source="test",
        images={CAMERA: Frames(pixels, index)},
        truth={"progress": np.linspace(0, 1, rows).astype(np.float32)},
        id=f"e{seed}",
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store.create(tmp_path / "store")
    made.append([episode(0), episode(1, sentence="a robot arm")])
    return made


def counted(encoder: DualEncoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    shown: list[int] = []
    images = encoder.images

    def watched(pixels: np.ndarray) -> np.ndarray:
        shown.append(len(pixels))
        return images(pixels)

    monkeypatch.setattr(encoder, "images", watched)
    return shown


def test_embeddings_are_the_encoder_s_and_nan_where_there_is_no_picture(store: Store, encoder: DualEncoder) -> None:
    found = embeddings(store, CAMERA, encoder)
    rows = store.frame_rows(CAMERA)
    assert rows.tolist() == [0, 3, 6, 7, 10, 13]
    np.testing.assert_allclose(found[rows], encoder.images(store.frames(CAMERA, rows)), atol=1e-3)
    assert np.isnan(np.delete(found, rows, 0)).all()
    assert (found.dtype, found.shape) == (np.float16, (14, encoder.dim))
    assert store.embeddings()[column(encoder, CAMERA)]["sha256"] == encoder.fingerprint
    assert f"{encoder.dim} numbers on 6 of 6 rows with a frame" in describe(store)
    assert store.validate() == []


def test_pictures_are_encoded_once_and_those_of_later_parts_when_they_are_there(
    store: Store, encoder: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, progress = counted(encoder, monkeypatch), list[tuple[int, int]]()
    first = embeddings(store, CAMERA, encoder, progress=lambda done, total: progress.append((done, total)))
    assert embeddings(Store.open(store.path), CAMERA, encoder).tobytes() == first.tobytes()
    assert (sum(shown), progress[-1]) == (6, (6, 6))
    store.append([episode(2, side=24)])
    assert np.isnan(store.column(f"embedding/{column(encoder, CAMERA)}")[14:]).all()
    later = embeddings(store, CAMERA, encoder)
    assert sum(shown) == 9
    assert later[:14].tobytes() == first.tobytes()
    np.testing.assert_allclose(later[17], encoder.images(store.episode("e2").images[CAMERA].pixels[1:2])[0], atol=1e-3)
    assert Store.open(store.path).column(f"embedding/{column(encoder, CAMERA)}").tobytes() == later.tobytes()
    assert store.validate() == []


def test_two_jobs_that_encode_the_same_store_do_not_hinder_each_other(
    store: Store, encoder: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, images = Store.open(store.path), encoder.images

    def overtaken(pixels: np.ndarray) -> np.ndarray:
        monkeypatch.setattr(encoder, "images", images)
        embeddings(other, CAMERA, encoder)
        return images(pixels)

    monkeypatch.setattr(encoder, "images", overtaken)
    found = embeddings(store, CAMERA, encoder)
    assert found.tobytes() == other.column(f"embedding/{column(encoder, CAMERA)}").tobytes()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((3, 4), np.float16), r"embedding is float16 \(3, 4\), float16 \(14, D\) wanted"),
        (np.zeros((14, 4), np.float16), "row 1 has no picture"),
        (np.full((14, 4), np.nan, np.float16), "no value on any row"),
        (np.where(np.arange(4) == 0, np.nan, np.zeros((14, 4))).astype(np.float16), "NaN in part"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(store: Store, values: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        store.add_embedding(f"encoder/{CAMERA}", values, {})
    assert store.embeddings() == {}


def test_an_embedding_is_never_overwritten_and_its_damage_is_named(store: Store, encoder: DualEncoder) -> None:
    found = embeddings(store, CAMERA, encoder)
    with pytest.raises(DataError, match="every part is covered"):
        store.add_embedding(column(encoder, CAMERA), found, {})
    path = next((store.path / "columns").rglob("values/c/0/0"))
    path.write_bytes(path.read_bytes()[:-3])
    again = Store.open(store.path)
    with pytest.raises(DataError, match=r"column embedding/.*values/c/0/0"):
        again.column(f"embedding/{column(encoder, CAMERA)}")
    assert len(again.validate()) == 1


def config(**settings: object) -> clip.Config:
    return clip.Config(camera=CAMERA, **settings)  # type: ignore[arg-type]


def test_the_reward_of_a_row_is_the_score_of_what_the_next_row_shows(encoder: DualEncoder) -> None:
    goals, baselines = ("open the drawer", "an open drawer"), ("a drawer", "a table")
    one = episode(3)
    mean, std = clip.build(config(goals=goals, baselines=baselines, alpha=0.5), encoder=encoder).reward(one)
    frames = one.images[CAMERA]
    assert isinstance(frames, Frames)
    shown = vlmrm_reward(encoder.images(frames.pixels), encoder.texts(goals), encoder.texts(baselines), 0.5)
    # pictures at rows 0, 3, 6: row 2 is judged on row 3, row 3 one third of the way from row 3 to row 6
    wanted = [shown[0] + (shown[1] - shown[0]) / 3, shown[1], shown[1] + (shown[2] - shown[1]) / 3, shown[2]]
    np.testing.assert_allclose(mean[[0, 2, 3, 5]], wanted, atol=1e-6)
    assert np.isnan(mean[6])
    assert std[:6].tolist() == [0] * 6
    assert np.isnan(std[6])


def test_a_store_is_scored_from_its_embeddings_as_its_episodes_are_one_by_one(
    store: Store, encoder: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without goals, each episode is scored against its own sentence."""
    by_sentence = clip.build(config(), encoder=encoder)
    relabel(store, by_sentence, "own")
    shown = counted(encoder, monkeypatch)
    relabel(store, clip.build(config(goals=("a table",)), encoder=encoder), "table")
    assert shown == []
    means = [by_sentence.reward(store.episode(id))[0] for id in store.episodes.id]
    np.testing.assert_allclose(store.column("reward/own/mean"), np.concatenate(means), atol=2e-3)
    about = store.rewards()["own"]
    assert (about["checkpoint"], about["alpha"], about["coverage"]) == (encoder.name, 0, 1)
    assert about["goals"] == "each episode's recorded sentence"
    second = clip.build(config(goals=("a robot arm",)), encoder=encoder).reward(store.episode("e1"))[0]
    np.testing.assert_array_equal(by_sentence.reward(store.episode("e1"))[0], second)


def test_the_contract_of_rewarders_is_kept(encoder: DualEncoder) -> None:
    scorer = clip.build(config(goals=("a table",)), encoder=encoder)
    assert isinstance(scorer, Rewarder)
    assert scorer.sees == (CAMERA, (tiny_clip.SIDE, tiny_clip.SIDE))
    (mean, std), again = scorer.reward(episode(0)), scorer.reward(episode(0))
    np.testing.assert_array_equal((mean, std), again)
    assert np.isfinite(mean[:-1]).all()


def test_prompts_that_do_not_fit_are_refused_before_any_picture_is_encoded(encoder: DualEncoder, store: Store) -> None:
    with pytest.raises(ConfigError, match="2 goals and 1 baselines"):
        clip.build(config(goals=("a", "b"), baselines=("c",)), encoder=encoder)
    with pytest.raises(ConfigError, match="no baseline"):
        clip.build(config(goals=("a",), alpha=0.5), encoder=encoder)
    with pytest.raises(ConfigError, match="no baseline"):
        config(alpha=0.5)  # without a goal, where each episode has its own sentence
    with pytest.raises(ConfigError, match="camera is null"):
        clip.build(clip.Config(), encoder=encoder)
    store.append([episode(4, sentence="")])
    with pytest.raises(ConfigError, match="episode 'e4' has no recorded sentence"):
        relabel(store, clip.build(config(), encoder=encoder), "x")


def test_episodes_without_pictures_are_named(encoder: DualEncoder, store: Store) -> None:
    scorer = clip.build(config(goals=("a",)), encoder=encoder)
    store.append([dataclasses.replace(episode(5), images={})])
    with pytest.raises(DataError, match="episode 'e5' has no picture of camera 'judge'"):
        relabel(store, scorer, "x")
    with pytest.raises(DataError, match="episode 'e5' has no pictures of camera 'judge'"):
        scorer.reward(store.episode("e5"))


def test_the_job_writes_a_column_named_by_what_decides_it(
    store: Store, encoder: DualEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs.register()
    base = [f"store={store.path}", f"rewarder.checkpoint={encoder.folder}", "rewarder.device=cpu"]
    for more in (["sentence='a table'"], ["sentence='a table'"], ["sentence='a robot arm'", "draw=false", "name=arm"]):
        score.main(configuration.compose("score", base + more), tmp_path / "run")
    store.refresh()
    names = sorted(store.rewards())
    assert [n.split("-")[0] for n in names] == ["arm", "clip"]
    assert store.rewards()["arm"]["goals"] == ["a robot arm"]
    assert (tmp_path / "run" / "strip.png").is_file()
    assert "rank correlation with true progress" in capsys.readouterr().out
    said = clip.build(config(goals=("a table", "tables"), baselines=("a", "b"), alpha=0.5), encoder=encoder)
    assert score.title(said) == f"“a table” / “tables”, scored by {encoder.name} (alpha 0.5)"
    with pytest.raises(ConfigError, match=r"already has a reward 'arm' with goals \['a robot arm'\]"):
        score.main(configuration.compose("score", [*base, "sentence='a table'", "name=arm"]), tmp_path / "run")
    with pytest.raises(ConfigError, match="say the goal once"):
        score.main(configuration.compose("score", [*base, "sentence=x", "rewarder.goals=[y]"]), tmp_path / "run")


def test_rewarders_without_prompts_are_scored_too(store: Store, tmp_path: Path) -> None:
    jobs.register()
    score.main(configuration.compose("score", [f"store={store.path}", "rewarder=constant", "draw=false"]), tmp_path)
    store.refresh()
    assert np.nanmax(store.column("reward/constant/mean")) == 0
