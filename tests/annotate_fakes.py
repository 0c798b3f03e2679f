"""Stand-ins shared by the tests of labeling: a store of random pictures, and a labeler that counts and misbehaves."""

import asyncio
from types import SimpleNamespace

import numpy as np

from vlmrl.annotate.question import item_to_json, picture_digest
from vlmrl.types import Cost, Reply, Verdict


class FakeStore:
    """Episodes of `rows` rows with a picture every `every`, pixels fixed by the global row."""

    def __init__(self, episodes=6, rows=20, every=4, size=8):
        start = np.arange(episodes, dtype=np.int64) * rows
        ids = [f"episode-{i}" for i in range(episodes)]
        self.episodes = SimpleNamespace(id=ids, index=ids.index, start=start, stop=start + rows)
        self.every, self.size, self.loaded = every, size, []

    def frame_rows(self, camera):
        assert camera == "front"
        return np.arange(0, self.episodes.stop[-1], self.every, dtype=np.int64)

    def frames(self, camera, rows):
        self.loaded.append(len(rows))
        shape = (self.size, self.size, 3)
        return np.stack([np.random.default_rng(int(r)).integers(0, 256, shape, dtype=np.uint8) for r in rows])


class FakeLabeler:
    """Prefers the later frame; `fails` maps the number of a call to the reply or error that it gives instead."""

    name = "fake"
    needs_pictures = True
    calls_per_question = 1
    priced = True

    def __init__(self, *, usd=0.0, fails=None, delay_s=0.0, sees=True):
        self.usd, self.fails, self.delay_s, self.needs_pictures = usd, fails or {}, delay_s, sees
        self.asked, self.in_flight, self.most_in_flight, self.closed = [], 0, 0, 0

    def content(self, query):
        seen = {"pictures": [picture_digest(p) for p in query.images]} if self.needs_pictures else {}
        return {"labeler": self.name, "items": [item_to_json(i) for i in query.items], **seen}

    async def ask(self, query):
        number = len(self.asked)
        self.asked.append(query)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(self.delay_s)
        self.in_flight -= 1
        outcome = self.fails.get(number)
        if isinstance(outcome, Exception):
            raise outcome
        cost = Cost(calls=1, prompt_tokens=100, completion_tokens=1, usd=self.usd)
        if outcome is not None:
            return outcome
        a, b = (item.row for item in query.items)
        verdict = Verdict.A_BETTER if a > b else Verdict.B_BETTER if b > a else Verdict.TIE
        return Reply(verdict, self.name, text=verdict.value, cost=cost)

    async def close(self):
        self.closed += 1
