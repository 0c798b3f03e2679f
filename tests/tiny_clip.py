"""Builds tiny image-text dual encoders with random weights, in from_pretrained format: less than 1 MB each.

`python tests/tiny_clip.py clip FOLDER` builds one; kinds are the names in KINDS.
"""

import sys
from pathlib import Path

WORDS = "open the drawer close push button a robot arm picture of an empty table closed door window"
SIDE = 32
KINDS = ("clip", "siglip", "siglip2", "naflex", "convnext", "mobilenet")
"""CLIP; SigLIP; SigLIP 2 of fixed resolution (SiglipModel, other tokenizer and filter); SigLIP 2 NaFlex; and pairs of
ConvNeXt V2 or MobileNet V2 with BERT (VisionTextDualEncoderModel)."""
_TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def build(kind, folder, *, seed=0):
    """Write config, weights, tokenizer and image processor; returns the folder."""
    import torch

    folder = Path(folder)
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = _MODELS[kind]()
    for parameter in model.parameters():
        # Fresh weights are so small that all embeddings look alike.
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3 if kind != "mobilenet" else 0.1)
    torch.random.set_rng_state(state)
    model.save_pretrained(folder)
    make_tokenizer(kind).save_pretrained(folder)
    make_processor(kind).save_pretrained(folder)
    return folder


def make_tokenizer(kind):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind == "clip":
        tokenizer.normalizer = normalizers.Lowercase()
    special = ["<pad>", "</s>", "<s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS] * 20, trainer)
    first = "" if kind.startswith(("siglip", "naflex")) else "<s> "
    numbers = [(token, tokenizer.token_to_id(token)) for token in special]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{first}$A </s>", special_tokens=numbers)
    inputs = ["input_ids"] if kind.startswith(("siglip", "naflex")) else ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=24,
        model_input_names=inputs,
    )


def make_processor(kind):
    from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    square = {"height": SIDE, "width": SIDE}
    if kind == "naflex":
        return Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    if kind == "siglip2":
        return SiglipImageProcessorPil(size=square, resample=2)
    if kind == "siglip":
        return SiglipImageProcessorPil(size=square)
    return CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square)


def _text(**settings):
    return _TOWER | {"vocab_size": 300, "max_position_embeddings": 24, "pad_token_id": 0} | settings


def _clip():
    from transformers import CLIPConfig, CLIPModel

    text = _text(bos_token_id=2, eos_token_id=1, projection_dim=12)
    vision = _TOWER | {"image_size": SIDE, "patch_size": 8, "projection_dim": 12}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    return CLIPModel(config)


def _siglip():
    from transformers import SiglipConfig, SiglipModel

    vision = _TOWER | {"image_size": SIDE, "patch_size": 8}
    text = _text(bos_token_id=2, eos_token_id=1, projection_size=16)
    return SiglipModel(SiglipConfig(text_config=text, vision_config=vision))


def _naflex():
    from transformers import Siglip2Config, Siglip2Model

    vision = _TOWER | {"patch_size": 8, "num_patches": 16}
    text = _text(bos_token_id=2, eos_token_id=1, projection_size=16)
    return Siglip2Model(Siglip2Config(text_config=text, vision_config=vision))


def _convnext():
    from transformers import ConvNextV2Config

    # The dual encoder asks for the width of pooled features as `hidden_size`, which no convolutional network names.
    return _pair(ConvNextV2Config(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], patch_size=2, hidden_size=16))


def _mobilenet():
    from transformers import MobileNetV2Config

    return _pair(MobileNetV2Config(depth_multiplier=0.25, finegrained_output=False, tf_padding=False, hidden_size=320))


def _pair(vision):
    from transformers import BertConfig, VisionTextDualEncoderConfig, VisionTextDualEncoderModel

    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision, BertConfig(**_text()), projection_dim=12)
    return VisionTextDualEncoderModel(config)


_MODELS = {
    "clip": _clip,
    "siglip": _siglip,
    "siglip2": _siglip,
    "naflex": _naflex,
    "convnext": _convnext,
    "mobilenet": _mobilenet,
}


if __name__ == "__main__":
    print(build(sys.argv[1], sys.argv[2]))
