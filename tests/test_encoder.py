"""Dual encoders: VLM-RM's reward by its definition, and the numbers of transformers' own processors and models."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_clip
import torch
from PIL import Image

from vlmrl.encoder import DualEncoder, vlmrm_reward
from vlmrl.errors import ConfigError

SENTENCES = ["Open the drawer", "a robot arm", "a picture of an empty table"]


def unit(generator: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = generator.normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def vectors() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return unit(generator, 20, 7), unit(generator, 3, 7), unit(generator, 3, 7)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_reward_is_the_paper_s_projection_onto_the_line_through_goal_and_baseline(
    vectors: tuple[np.ndarray, np.ndarray, np.ndarray], alpha: float
) -> None:
    images, goals, baselines = (v.astype(np.float64) for v in vectors)
    g, b = goals.mean(0), baselines.mean(0)
    for s, found in zip(images, vlmrm_reward(*vectors, alpha), strict=True):
        # the point of the line {b + t (g - b)} that is nearest to s, by least squares
        t = np.linalg.lstsq((g - b)[:, None], s - b, rcond=None)[0][0]
        nearest = b + t * (g - b)
        wanted = 1 - 0.5 * np.sum((alpha * nearest + (1 - alpha) * s - g) ** 2)
        assert found == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_reward_is_the_reference_code_s_matrix_form(
    vectors: tuple[np.ndarray, np.ndarray, np.ndarray], alpha: float
) -> None:
    images, goals, baselines = vectors
    direction = goals.mean(0) - baselines.mean(0)
    projection = alpha * np.outer(direction, direction) / (direction @ direction) + (1 - alpha) * np.eye(7)
    wanted = 1 - 0.5 * (((images - goals.mean(0)) @ projection) ** 2).sum(1)
    np.testing.assert_allclose(vlmrm_reward(images, goals, baselines, alpha), wanted, atol=1e-6)


def test_with_alpha_zero_the_reward_is_the_cosine_and_needs_no_baseline(
    vectors: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    images, goals, baselines = vectors
    found = vlmrm_reward(images, goals[:1], None, 0.0)
    np.testing.assert_allclose(found, images @ goals[0], atol=1e-6)
    np.testing.assert_array_equal(found, vlmrm_reward(images, goals[:1], baselines[:1], 0.0))
    assert found.dtype == np.float32


def test_the_goal_itself_has_the_highest_reward_whatever_alpha(
    vectors: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    images, goals, baselines = vectors
    for alpha in (0.0, 0.4, 1.0):
        assert vlmrm_reward(goals[:1], goals[:1], baselines[:1], alpha)[0] == pytest.approx(1, abs=1e-6)
        assert vlmrm_reward(images, goals[:1], baselines[:1], alpha).max() < 1


def test_the_order_of_prompts_does_not_matter(vectors: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    images, goals, baselines = vectors
    again = vlmrm_reward(images, goals[::-1], np.roll(baselines, 1, 0), 0.7)
    np.testing.assert_allclose(again, vlmrm_reward(images, goals, baselines, 0.7), atol=1e-6)


def test_prompts_that_define_no_reward_are_refused(vectors: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    images, goals, baselines = vectors
    with pytest.raises(ConfigError, match="3 goals and 2 baselines"):
        vlmrm_reward(images, goals, baselines[:2], 0.0)
    with pytest.raises(ConfigError, match=r"alpha is 0\.5, but there is no baseline"):
        vlmrm_reward(images, goals, None, 0.5)
    with pytest.raises(ConfigError, match="mean the same to the model"):
        vlmrm_reward(images, goals, goals[::-1], 0.5)
    with pytest.raises(ConfigError, match=r"alpha is 1\.5"):
        vlmrm_reward(images, goals, baselines, 1.5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {kind: tiny_clip.build(kind, root / kind) for kind in tiny_clip.KINDS}


def pictures(side: int = 48, width: int | None = None) -> np.ndarray:
    """Smooth pictures: on noise, filters of neighbouring libraries differ most and mean least."""
    coarse = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
    size = (width or side, side)
    return np.stack([np.asarray(Image.fromarray(c).resize(size, Image.Resampling.BICUBIC)) for c in coarse])


def own(folder: Path, pixels: np.ndarray, **settings: object) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of pictures and sentences by transformers' own classes, one picture after the other."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil", **settings)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lower = model.config.model_type.startswith("siglip")
    with torch.no_grad():
        seen = [model.get_image_features(**processor(images=[p], return_tensors="pt")).pooler_output for p in pixels]
        said = [
            model.get_text_features(
                **tokenizer(
                    s.lower() if lower else s, padding="max_length" if lower else False, max_length=24,
                    return_tensors="pt", return_token_type_ids=False, return_attention_mask=not lower,
                )
            ).pooler_output
            for s in SENTENCES
        ]  # fmt: skip
    return tuple(torch.nn.functional.normalize(torch.cat(v), dim=-1).numpy() for v in (seen, said))


@pytest.mark.parametrize("kind", tiny_clip.KINDS)
@pytest.mark.parametrize("side", [48, tiny_clip.SIDE])
def test_embeddings_are_those_of_transformers_own_processor_and_model(
    folders: dict[str, Path], kind: str, side: int
) -> None:
    encoder, pixels = DualEncoder.load(str(folders[kind])), pictures(side)
    images, texts = own(folders[kind], pixels)
    # equal up to float32 where nothing is scaled; libraries round scaled pictures to neighbouring levels
    np.testing.assert_allclose(encoder.images(pixels), images, atol=1e-5 if side == tiny_clip.SIDE else 0.02)
    np.testing.assert_allclose(encoder.texts(SENTENCES), texts, atol=1e-5)
    assert encoder.dim == images.shape[1]
    assert np.abs(np.diff(images, axis=0)).max() > 0.05
    assert np.abs(np.diff(texts, axis=0)).max() > 0.01


def test_pictures_of_any_shape_are_scaled_to_the_square_and_never_cropped(folders: dict[str, Path]) -> None:
    side, pixels = tiny_clip.SIDE, pictures(48, 80)
    square = {"size": {"height": side, "width": side}, "do_center_crop": False}
    images, _ = own(folders["clip"], pixels, **square)
    np.testing.assert_allclose(DualEncoder.load(str(folders["clip"])).images(pixels), images, atol=0.02)


def test_naflex_keeps_the_shape_of_pictures(folders: dict[str, Path]) -> None:
    pixels = pictures(32, 72)
    images, _ = own(folders["naflex"], pixels)
    np.testing.assert_allclose(DualEncoder.load(str(folders["naflex"])).images(pixels), images, atol=0.02)


def test_batches_change_no_embedding(folders: dict[str, Path]) -> None:
    for kind in ("clip", "convnext"):
        encoder, pixels = DualEncoder.load(str(folders[kind])), pictures()
        alone = np.concatenate([encoder.images(pixels[:2]), encoder.images(pixels[2:])])
        np.testing.assert_allclose(alone, encoder.images(pixels), atol=1e-6)
        assert encoder.images(pixels[:0]).shape == (0, encoder.dim)


def test_settings_of_old_checkpoints_are_read(folders: dict[str, Path], tmp_path: Path) -> None:
    """OpenAI's own repositories give sizes as one number and name a feature extractor."""
    folder = shutil.copytree(folders["clip"], tmp_path / "old")
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    kept = {k: settings[k] for k in ("image_mean", "image_std", "do_center_crop", "do_normalize", "do_resize")}
    old = {"crop_size": tiny_clip.SIDE, "size": tiny_clip.SIDE, "resample": 3}
    old["feature_extractor_type"] = "CLIPFeatureExtractor"
    (folder / "preprocessor_config.json").write_text(json.dumps(kept | old))
    pixels = pictures()
    expected = DualEncoder.load(str(folders["clip"])).images(pixels)
    np.testing.assert_array_equal(DualEncoder.load(str(folder)).images(pixels), expected)


def test_the_fingerprint_is_that_of_what_decides_embeddings(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["clip"], tmp_path / "renamed")
    before = DualEncoder.load(str(folders["clip"]))
    (folder / "judge.json").write_text('{"temperature": 0.5}')
    (folder / "README.md").write_text("a card")
    again = DualEncoder.load(str(folder))
    assert again.fingerprint == before.fingerprint
    assert (before.name, again.name) == ("clip", "renamed")
    assert (dict(before.facts), dict(again.facts)) == ({}, {"temperature": 0.5})
    settings = json.loads((folder / "preprocessor_config.json").read_text()) | {"resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    assert DualEncoder.load(str(folder)).fingerprint != before.fingerprint


def test_the_built_in_judge_is_found_by_name(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folders["convnext"], tmp_path / "data" / "judge" / "zeroshot")
    assert DualEncoder.load("zeroshot").name == "judge zeroshot"


def test_what_cannot_be_loaded_is_named_with_what_was_tried(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BertConfig, BertModel

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"no checkpoint 'nobody/nothing': it is not seen or zeroshot, no folder"):
        DualEncoder.load("nobody/nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="cannot load 'empty'"):
        DualEncoder.load(str(tmp_path / "empty"))
    folder = shutil.copytree(folders["clip"], tmp_path / "torn")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(ConfigError, match="cannot load 'torn'"):
        DualEncoder.load(str(folder))
    folder = shutil.copytree(folders["convnext"], tmp_path / "bert")
    BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"'bert' is a BertModel: an image-text dual encoder"):
        DualEncoder.load(str(folder))


def test_a_checkpoint_without_all_weights_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """transformers would draw the missing ones at random."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(folders["clip"], tmp_path / "torn")
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks 1 weights of its model, first visual_projection\.weight"):
        DualEncoder.load(str(folder))


def test_a_sentence_that_would_be_cut_is_refused(folders: dict[str, Path]) -> None:
    for kind in ("clip", "siglip"):
        encoder = DualEncoder.load(str(folders[kind]))
        with pytest.raises(ConfigError, match=r"reads 24 tokens, .* has"):
            encoder.texts(["short", "open the drawer " * 20])
