"""What several jobs of one command may spend together, and what is told of that which a limit or Ctrl-C cut."""

from pathlib import Path

import numpy as np
import pytest
from annotate_fakes import FakeLabeler
from people_fakes import make_store

from vlmrl.annotate import JobReport, Ledger, Limits, Pictures, sample_pairs
from vlmrl.annotate.asking import Asking
from vlmrl.annotate.choice import Config as Choice
from vlmrl.cli import stress as stressing
from vlmrl.cli.ask import ask
from vlmrl.cli.choosing import Drawing, chosen
from vlmrl.cli.label import together
from vlmrl.reward import preference


class Voter(FakeLabeler):
    def __init__(self, draw: int = 0) -> None:
        super().__init__()
        self.draw = draw

    def content(self, query):
        return {**super().content(query), "draw": self.draw, "sentence": query.instruction}


@pytest.fixture
def store(tmp_path: Path):
    return make_store(tmp_path)


@pytest.fixture
def ledger(tmp_path: Path):
    with Ledger(tmp_path / "l.db") as opened:
        yield opened


def draw(store, count=20):
    return sample_pairs(store, "eye", count=count, instruction="x", generator=np.random.default_rng(0))


def asked(store, ledger, voters, most, **asking):
    how = {"book": ledger, "limits": Limits(max_calls=most), "check_order": 0, "asking": Asking(**asking)}
    return ask(draw(store), voters, store, pictures=Pictures(store), **how)


def test_a_cap_of_exactly_what_both_orders_need_is_enough(store, ledger):
    voter = Voter()
    found = asked(store, ledger, voter, 40, order="both")
    assert len(voter.asked) == 40
    assert (found.report.stopped_by, found.fewer, found.trust.order.pairs) == ("", 0, 20)


def test_what_cut_the_other_order_is_told(store, ledger):
    found = asked(store, ledger, Voter(), 25, order="both")
    assert (found.report.cost.calls, found.report.stopped_by, found.fewer) == (25, "max_calls", 15)


def test_what_cut_further_votes_is_told(store, ledger):
    voters = [Voter(k) for k in range(3)]
    found = asked(store, ledger, voters, 50, votes=3)
    assert [len(voter.asked) for voter in voters] == [20, 20, 10]
    assert (found.report.stopped_by, found.fewer) == ("max_calls", 10)


def test_ctrl_c_in_a_round_of_choice_asks_nothing_more(store, ledger):
    jobs = []

    def ask_about(some, before):
        jobs.append(len(some))
        return JobReport(stopped_by="interrupt")

    drawing = Drawing(store, "eye", "x", 0, Choice(method="disagreement", rounds=2))
    how = {"book": ledger, "labeler": "fake", "reward": preference.Config(), "metrics": Path("unused")}
    with pytest.raises(KeyboardInterrupt):
        chosen(drawing, 20, ask_about=ask_about, **how)
    assert jobs == [10]


def test_what_cut_a_round_is_told_though_the_last_job_found_everything_answered():
    assert together(JobReport(), [JobReport(stopped_by="max_calls")]).stopped_by == "max_calls"


def test_all_conditions_of_the_stress_test_keep_to_the_limits_together(store, ledger, monkeypatch):
    labelers = []

    def make(*_, **__):
        labelers.append(Voter())
        return labelers[-1]

    monkeypatch.setattr(stressing, "make_labeler", make)
    how = {"book": ledger, "limits": Limits(max_calls=30), "wrong": "sing", "seed": 0}
    stressing.stress({"name": "fake"}, store, "eye", draw(store), np.ones(20), **how)
    assert sum(len(one.asked) for one in labelers) == 30
