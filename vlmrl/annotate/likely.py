"""Exact probabilities of the answers that we read, at every token that a local model generates."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from vlmrl.annotate.reading import Token, is_answer


def answer_words(tokenizer: Any) -> dict[int, str]:
    """Return the tokens that may be an answer; it looks through the whole vocabulary, so do it once a model."""
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    return {i: text for i, text in enumerate(texts) if is_answer(text)}


class Likely:
    """Watches a generation: of each step it keeps the probabilities of the tokens that may be an answer, no other.

    transformers calls it as a `LogitsProcessor`, behind its own; it changes nothing.
    """

    def __init__(self, tokenizer: Any, words: Mapping[int, str]) -> None:
        """`words` are the tokenizer's `answer_words`."""
        self._tokenizer, self._words = tokenizer, words
        self._steps: list[Float[Tensor, "B W"]] = []

    def __call__(self, ids: Int[Tensor, "B L"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Look at one step."""
        del ids
        own = scores[:, list(self._words)].float()
        self._steps.append((own - scores.float().logsumexp(1, keepdim=True)).exp().cpu())
        return scores

    def tokens(self, answer: Int[Tensor, " L"], row: int) -> tuple[Token, ...]:
        """Return the tokens of one answer of the batch, without what only marks its end."""
        special = set(self._tokenizer.all_special_ids)
        found: list[Token] = []
        for number, step in zip(answer.tolist(), self._steps, strict=False):
            if number not in special:
                likely: dict[str, float] = {}
                for text, p in zip(self._words.values(), step[row].tolist(), strict=True):
                    likely[text] = likely.get(text, 0.0) + p
                found.append(Token(self._tokenizer.decode([number]), likely))
        return tuple(found)
