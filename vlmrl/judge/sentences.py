"""A corpus of what people ask robots to do, for teaching the judge's small text tower what a large one knows."""

from collections.abc import Sequence

import numpy as np
import yaml

from vlmrl.content import find


def corpus(count: int, *, seed: int = 0) -> list[str]:
    """Draw different sentences from the words and templates of `conf/judge/words.yaml`."""
    content = yaml.safe_load((find("conf", "judge") / "words.yaml").read_text(encoding="utf-8"))
    verbs, nouns, adjectives, manners = (content[k].split() for k in ("verbs", "nouns", "adjectives", "manners"))
    generator = np.random.default_rng(seed)

    def pick(words: Sequence[str]) -> str:
        return words[int(generator.integers(len(words)))]

    found: dict[str, None] = {}
    while len(found) < count:
        template = pick(content["templates"])
        sentence = template.format(
            v=pick(verbs),
            v2=pick(verbs),
            n=pick(nouns),
            m2=pick(nouns),
            a=pick(adjectives),
            p=pick(content["places"]),
            m=pick(manners),
        )
        found[sentence] = None
    return list(found)
