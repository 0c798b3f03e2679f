"""Builds a tiny vision-language model (the SmolVLM family's architecture), in from_pretrained format.

It sees nothing, but through the real code paths: `python tests/tiny_vlm.py FOLDER 1` builds one that always says 1.
"""

import json
import sys
from pathlib import Path

WORDS = "0 1 -1 first second picture goal closer open closed drawer the a is in of no difference"
END = "<end_of_utterance>"
TEMPLATE = """{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}\
{% if c['type'] == 'text' %}{{ c['text'] }}{% else %}<image>{% endif %}{% endfor %}<end_of_utterance>
{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"""


def build(folder, *, seed=0, says=None):
    """Write config, weights (less than 1 MB), tokenizer, image processor and chat template.

    With `says`, it is trained to answer that whatever it is asked; else it babbles.
    """
    import torch
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessor, Idefics3Processor

    folder = Path(folder)
    tokenizer = make_tokenizer()
    image_processor = Idefics3ImageProcessor(
        do_image_splitting=False, size={"longest_edge": 64}, max_image_size={"longest_edge": 64}
    )
    processor = Idefics3Processor(image_processor, tokenizer, image_seq_len=4, chat_template=TEMPLATE)
    config = Idefics3Config(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        scale_factor=2,
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
        },
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = Idefics3ForConditionalGeneration(config)
    if says is not None:
        teach(model, processor, says)
    torch.random.set_rng_state(state)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def build_smolvlm(folder):
    """Write the same as SmolVLM names it, with the processor files of its hub repositories."""
    from transformers import SmolVLMImageProcessor

    build(folder)
    rename(folder / "config.json", model_type="smolvlm", architectures=["SmolVLMForConditionalGeneration"])
    (folder / "processor_config.json").write_text('{"image_seq_len": 4, "processor_class": "SmolVLMProcessor"}')
    size = {"longest_edge": 64}
    SmolVLMImageProcessor(do_image_splitting=False, size=size, max_image_size=size).save_pretrained(folder)
    rename(folder / "preprocessor_config.json", processor_class="SmolVLMProcessor")
    return folder


def build_qwen(folder):
    """Write a tiny Qwen2-VL with the processor files of its hub repositories."""
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor

    marks = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = make_tokenizer(pad="<|endoftext|>", end="<|im_end|>", marks=marks)
    number = tokenizer.convert_tokens_to_ids
    config = Qwen2VLConfig(
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
            "bos_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    torch.random.set_rng_state(state)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessor(min_pixels=56**2, max_pixels=112**2).save_pretrained(folder)
    rename(folder / "preprocessor_config.json", processor_class="Qwen2VLProcessor")
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    (folder / "chat_template.jinja").write_text(TEMPLATE.replace("<image>", picture).replace(END, "<|im_end|>"))
    return folder


def rename(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def teach(model, processor, says):
    """Fit the model to end every conversation with `says`."""
    import numpy as np
    import torch

    from vlmrl.annotate.script import load_script
    from vlmrl.types import Frame, Kind, Query

    generator = np.random.default_rng(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    script = load_script("compare-1", protocol="two_stage")
    query = Query(Kind.PREFERENCE, (Frame("e", 0, "c"), Frame("e", 1, "c")), "open it")
    end = processor.tokenizer.eos_token
    for step in range(40):
        stage = ("analysis", "label")[step % 2]
        message = script.message(stage, query, analysis=says)
        parts = [{"type": "image"} if isinstance(p, int) else {"type": "text", "text": p} for p in message]
        text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
        pictures = list(generator.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)) if stage == "analysis" else None
        inputs = processor(text=[text + says + end], images=pictures and [pictures], return_tensors="pt")
        labels = inputs["input_ids"].clone()
        labels[:, : -len(processor.tokenizer(says + end)["input_ids"])] = -100
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def make_tokenizer(*, pad="<pad>", end=END, marks=("<image>", "<fake_token_around_image>", "<global-img>")):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [pad, "<s>", end, *marks]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS] * 20, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token="<s>",
        eos_token=end,
        additional_special_tokens=list(marks),
        padding_side="left",
    )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    print(build(sys.argv[1], says=sys.argv[2] if len(sys.argv) > 2 else None))
