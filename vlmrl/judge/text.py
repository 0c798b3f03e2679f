"""The judge's text tower: a BERT of a few layers that learns to place sentences where a large sentence encoder would.

The teacher is all-MiniLM-L6-v2 (Apache-2.0) with the projection that the image tower was trained against.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

WIDTH = 128
_LAYERS, _HEADS = 2, 4
_LONGEST = 48
_COMMON = 5000
"""Whole words kept of the teacher's vocabulary, which is sorted by frequency, beside the corpus' own."""
_PIECES = 800
"""Word pieces kept, beside all characters."""


class Teacher:
    """A sentence encoder: mean of the last layer, unit length."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(str(folder))
        self.model = AutoModel.from_pretrained(str(folder)).eval()

    @torch.inference_mode()
    def __call__(self, sentences: Sequence[str]) -> Float32[np.ndarray, "N E"]:
        """Features of sentences."""
        found: list[Float32[np.ndarray, "B E"]] = []
        for i in range(0, len(sentences), 256):
            inputs = self.tokenizer(list(sentences[i : i + 256]), padding=True, return_tensors="pt")
            with torch.autocast("cpu", dtype=torch.bfloat16):
                hidden = self.model(**inputs).last_hidden_state.float()
            mask = inputs["attention_mask"][..., None]
            found.append(F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1).numpy())
        return np.concatenate(found)


def small_tokenizer(teacher: Teacher, sentences: Sequence[str]) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """A WordPiece tokenizer with part of the teacher's vocabulary, and which entries of it were kept."""
    words = {word for sentence in sentences for word in re.findall(r"[a-z]+|[^a-z\s]", sentence.lower())}
    ordered = sorted(teacher.tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    kept: list[int] = []
    common = pieces = 0
    for token, number in ordered:
        special = token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
        letter = len(token.removeprefix("##")) == 1 and token.isascii()
        whole = token.isascii() and token.isalpha()
        piece = token.startswith("##") and token[2:].isascii() and token[2:].isalpha()
        common, pieces = common + whole, pieces + piece
        if special or letter or token in words or (whole and common <= _COMMON) or (piece and pieces <= _PIECES):
            kept.append(number)
    names = {number: token for token, number in ordered}
    content = json.loads(teacher.tokenizer.backend_tokenizer.to_str())
    content["model"]["vocab"] = {names[number]: i for i, number in enumerate(kept)}
    content["added_tokens"] = [
        entry | {"id": content["model"]["vocab"][entry["content"]]} for entry in content["added_tokens"]
    ]
    content["padding"], content["truncation"] = None, None
    vocabulary, processor = content["model"]["vocab"], content["post_processor"]
    for token in processor.get("special_tokens", {}).values():
        token["ids"] = [vocabulary[t] for t in token["tokens"]]
    for key in ("sep", "cls"):
        if key in processor:
            processor[key] = [processor[key][0], vocabulary[processor[key][0]]]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
        model_max_length=_LONGEST,
    )
    return fast, kept


def small_bert(teacher: Teacher, kept: Sequence[int]) -> BertModel:
    """An untrained tower whose words start at the principal components of the teacher's."""
    config = BertConfig(
        vocab_size=len(kept),
        hidden_size=WIDTH,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=_LONGEST,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
    )
    tower = BertModel(config)
    words = teacher.model.get_input_embeddings().weight.detach()[list(kept)].float()
    _, _, axes = torch.linalg.svd(words - words.mean(0), full_matrices=False)
    start = (words - words.mean(0)) @ axes[:WIDTH].T
    tower.get_input_embeddings().weight.data.copy_(start / start.std() * config.initializer_range * 2)
    return tower


def distil(
    tower: BertModel,
    tokenizer: PreTrainedTokenizerFast,
    targets: Mapping[str, Float32[np.ndarray, " D"]],
    important: Sequence[str],
    *,
    updates: int,
    seed: int = 0,
    lr: float = 1e-3,
    report: Callable[[int, float], None] | None = None,
) -> nn.Linear:
    """Train the tower and return its projection: unit vectors of sentences come close to their targets."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    names = list(targets)
    goal = torch.from_numpy(np.stack([targets[name] for name in names]))
    encoded = tokenizer(names, padding=True, return_tensors="pt")
    special = np.flatnonzero([name in set(important) for name in names])
    projection = nn.Linear(WIDTH, goal.shape[1], bias=False)
    optimiser = torch.optim.AdamW([*tower.parameters(), *projection.parameters()], lr=lr, weight_decay=0.01)
    total = 0.0
    for step in range(updates):
        rows = torch.from_numpy(np.concatenate([generator.integers(0, len(names), 192), generator.choice(special, 64)]))
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 100) * (1 - step / updates)
        length = int(encoded["attention_mask"][rows].sum(1).max())
        pooled = tower(
            input_ids=encoded["input_ids"][rows, :length], attention_mask=encoded["attention_mask"][rows, :length]
        ).pooler_output
        loss = (1 - F.cosine_similarity(projection(pooled), goal[rows])).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        total += float(loss.detach())
        if report and (step + 1) % 100 == 0:
            report(step + 1, total / 100)
            total = 0.0
    return projection
