"""What a job holds of many replies: all that labels need, and no texts."""

import tracemalloc

import numpy as np
import pytest
from annotate_fakes import FakeLabeler
from people_fakes import make_store

from vlmrl.annotate import Ledger, Limits, Pictures, sample_pairs
from vlmrl.annotate.asking import Asking
from vlmrl.annotate.frozen import freeze
from vlmrl.annotate.replies import Replies
from vlmrl.cli.ask import ask
from vlmrl.types import Cost, Reply, Verdict


def test_replies_come_out_as_they_went_in_but_for_text_and_cost():
    given = [
        Reply(Verdict.A_BETTER, "m", 0.9, "long", Cost(1, 10, 2, 0.5, 0.1), served="m-1"),
        None,
        Reply((0.1, 0.7), "m", None, "numbers", Cost(2)),
        Reply(True, "other", 0.0),
        Reply(0.25, "m"),
        Reply(None, "m", text="?"),
    ]
    found = Replies(given)
    assert list(found) == [r and Reply(r.answer, r.annotator, r.probability, served=r.served) for r in given]
    assert list(found[1:4]) == list(found)[1:4]
    assert found[-2] == found[4]
    assert found.cost == Cost(3, 10, 2, 0.5, 0.1)
    assert found.served == {"m-1"}


class Novelist(FakeLabeler):
    """Says a lot."""

    name = "novelist"

    async def ask(self, query):
        reply = await super().ask(query)
        return Reply(reply.answer, self.name, 0.9, text="word " * 8_000, cost=reply.cost)


def test_texts_of_replies_are_not_held(tmp_path):
    store, count, text = make_store(tmp_path), 60, 40_000
    queries = sample_pairs(store, "eye", count=count, instruction="go", generator=np.random.default_rng(0))

    def label(book):
        return ask(
            queries,
            Novelist(sees=False),
            store,
            book=book,
            limits=Limits(concurrency=16),
            check_order=0,
            difference=np.ones(count),
            asking=Asking(order="both"),
            pictures=Pictures(store),
        )

    with Ledger(tmp_path / "l.db") as book:
        label(book)
    with Ledger(tmp_path / "l.db") as book:
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            asked = label(book)
            held = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
    assert asked.cost.calls == count
    assert len(freeze(queries, asked.report.keys, asked.replies)) == count
    assert held < 2 * count * text / 5


@pytest.mark.parametrize("place", [-1, 3])
def test_a_place_counts_from_either_end(place):
    assert Replies([None, None, None, Reply(0.5, "m")])[place] == Reply(0.5, "m")
