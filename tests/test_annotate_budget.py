"""Caps on money, tokens and time, and estimates before anything is spent."""

import asyncio
import time

import numpy as np
import pytest
from annotate_fakes import FakeLabeler, FakeStore

from vlmrl.annotate import Ledger, Limits, Pictures, run_job, sample_pairs
from vlmrl.annotate.budget import Budget
from vlmrl.annotate.estimate import estimate, guess_tokens
from vlmrl.annotate.prices import load_prices, pick_price
from vlmrl.errors import ConfigError
from vlmrl.types import Cost, Reply, Verdict


class Priced(FakeLabeler):
    """Prices and tokens differ from question to question; `honest` tells the most a question can cost."""

    def __init__(self, seed, *, honest, **settings):
        super().__init__(**settings)
        generator = np.random.default_rng(seed)
        self.costs = [Cost(1, 100, int(n), usd=0.01 + 0.0001 * int(n)) for n in generator.integers(1, 200, size=500)]
        if honest:
            self.at_most = lambda cost: Cost(cost.calls, cost.prompt_tokens, 200, 0.03)

    async def ask(self, query):
        number = len(self.asked)
        await super().ask(query)
        return Reply(Verdict.A_BETTER, self.name, cost=self.costs[number])


def run(labeler, folder, count=200, **limits):
    store = FakeStore()
    queries = sample_pairs(store, "front", count=count, instruction="x", generator=np.random.default_rng(0))
    with Ledger(folder / "l.db") as ledger:
        return run_job(queries, labeler, ledger=ledger, limits=Limits(**limits), pictures=Pictures(store))


@pytest.mark.parametrize("seed", range(3))
def test_money_is_never_overspent_where_the_labeler_knows_its_dearest_question(tmp_path, seed):
    report = run(Priced(seed, honest=True, delay_s=0.001), tmp_path, max_cost_usd=1.0, concurrency=16)
    assert report.stopped_by == "max_cost_usd"
    assert 1.0 - 0.03 <= report.cost.usd <= 1.0  # and no more is left than one question at its dearest


@pytest.mark.parametrize("seed", range(3))
def test_otherwise_money_is_overspent_by_what_is_in_flight_at_most(tmp_path, seed):
    report = run(Priced(seed, honest=False, delay_s=0.001), tmp_path, max_cost_usd=1.0, concurrency=16)
    assert report.stopped_by == "max_cost_usd"
    assert report.cost.usd <= 1.0 + 16 * 0.02  # dearest less cheapest


def test_tokens_are_capped_like_money(tmp_path):
    report = run(Priced(0, honest=True, delay_s=0.001), tmp_path, max_tokens=5000, concurrency=16)
    assert report.stopped_by == "max_tokens"
    spent = report.cost.prompt_tokens + report.cost.completion_tokens
    assert 5000 - 300 <= spent <= 5000


def test_what_costs_nothing_is_not_asked_one_by_one(tmp_path):
    labeler = FakeLabeler(usd=0.0, delay_s=0.01)
    assert run(labeler, tmp_path, max_cost_usd=1.0, concurrency=8).asked == 200
    assert labeler.most_in_flight == 8


def test_time_is_up_also_while_everything_in_flight_hangs(tmp_path):
    labeler = FakeLabeler(delay_s=60.0)
    begin = time.monotonic()
    report = run(labeler, tmp_path, max_seconds=2.0, grace_s=0.2, concurrency=4)
    assert time.monotonic() - begin < 20
    assert (report.stopped_by, report.cut, report.asked) == ("max_seconds", 4, 0)
    again = FakeLabeler()
    assert run(again, tmp_path).asked == 200  # nothing stays reserved


def test_a_jump_of_the_wall_clock_ends_nothing(tmp_path, monkeypatch):
    real, jumps = time.time, iter([0.0, 1e7, -1e7] * 10_000)
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    report = run(FakeLabeler(delay_s=0.001), tmp_path, max_seconds=600.0, lease_s=0.05)
    assert (report.asked, report.stopped_by) == (200, "")


def test_half_a_limit_is_refused():
    for wrong in ({"max_tokens": -1}, {"grace_s": -0.1}, {"patience_s": float("nan")}, {"lease_s": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Limits(**wrong)


def test_a_stop_is_noticed_by_whoever_waits_for_it():
    async def go():
        budget = Budget(Limits(max_seconds=1000.0), calls_per_question=1)
        waiting = asyncio.create_task(budget.cut())
        await asyncio.sleep(0)
        await budget.stop("max_calls")
        await asyncio.sleep(0)
        assert not waiting.done()  # what is in flight may finish
        await budget.stop("interrupt")
        await waiting
        await budget.stop("max_calls")
        return budget.stopped_by

    assert asyncio.run(go()) == "interrupt"


def test_tries_are_repeated_while_there_is_room():
    async def go():
        budget = Budget(Limits(max_calls=10, max_cost_usd=1.0), calls_per_question=2)
        assert await budget.admit()
        await budget.settle(Cost(2, usd=0.2))
        assert await budget.admit()
        assert await budget.admit()
        found = [budget.may_retry(Cost(calls)) for calls in (1, 4, 5)]  # two spent, two times two in flight
        found += [budget.may_retry(Cost(1, usd=usd)) for usd in (0.4, 0.5)]
        await budget.stop("interrupt")
        return [*found, budget.may_retry(Cost())]

    assert asyncio.run(go()) == [True, True, False, True, False, False]


def test_a_guess_stands_for_what_no_question_has_told():
    async def go(usd):
        budget = Budget(Limits(max_cost_usd=0.2), calls_per_question=1)
        return await budget.admit(lambda: Cost(1, usd=usd)), budget.stopped_by

    assert asyncio.run(go(0.15)) == (True, "")
    assert asyncio.run(go(0.3)) == (False, "max_cost_usd")


def test_an_estimate_is_the_mean_with_students_interval():
    costs = [Cost(2, 100, 10, 0.01, 4.0), Cost(2, 100, 20, 0.02, 6.0), Cost(2, 100, 30, 0.03, 8.0)]
    found = estimate(costs, 1000, limits=Limits(concurrency=10, max_cost_usd=5.0))
    assert (found.calls.total, found.prompt_tokens.total) == (2000, 100_000)
    assert found.usd.total == pytest.approx(20.0)
    # 0.01 is the deviation, 4.3027 Student's quantile of two degrees of freedom.
    assert found.usd.high == pytest.approx(20 + 1000 * 4.3027 * 0.01 / np.sqrt(3), rel=1e-4)
    assert found.seconds.total == pytest.approx(600.0)
    assert found.stopped_by(Limits(max_cost_usd=5.0)) == ("max_cost_usd", 250)
    assert found.stopped_by(Limits(max_cost_usd=50.0)) == ("", 1000)


def test_a_pace_of_the_server_makes_the_estimate_longer():
    costs = [Cost(1, 900, 100, 0.0, 1.0)] * 2
    found = estimate(costs, 600, limits=Limits(concurrency=100), per_minute=[(60.0, "calls"), (30_000.0, "tokens")])
    assert found.seconds.total == pytest.approx(1200.0)


def test_tokens_are_guessed_from_pixels_and_letters():
    pictures = [np.zeros((280, 280, 3), np.uint8), np.zeros((29, 28, 3), np.uint8)]
    assert guess_tokens(["x" * 400, 0, 1, 0], pictures) == 100 + 100 + 2 + 100


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()

    def write(text):
        (tmp_path / "conf" / "prices.yaml").write_text(text)

    return write


def test_prices_come_from_the_settings_else_from_the_users_table(table):
    table("gpt-x: {prompt: 1.5, completion: 6, source: mine}\n")
    assert pick_price("gpt-x", None, None) == load_prices()["gpt-x"]
    assert pick_price("gpt-x", None, None).completion == 6.0
    assert pick_price("gpt-x", 2.0, 3.0).prompt == 2.0
    assert pick_price("gpt-x", 2.0, None) is None
    assert pick_price("gpt-y", None, None) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpt-x: 3\n", r"gpt-x: found 3; wanted \{prompt: USD, completion: USD\}"),
        ("gpt-x: {prompt: cheap, completion: 1}\n", "prompt is 'cheap'; wanted a number"),
        ("gpt-x: {prompt: 1, completion: 1, per: day}\n", "unknown key in .* 'per'; have: completion, prompt, source"),
        ("gpt-x: {prompt: -1, completion: 1}\n", "wanted at least 0"),
        ("- gpt-x\n", "wanted lines of the form MODEL"),
        ("gpt-x: {prompt\n", "is no YAML"),
    ],
)
def test_a_damaged_table_is_named(table, text, message):
    table(text)
    with pytest.raises(ConfigError, match=message):
        load_prices()


def test_the_table_that_comes_with_vlmrl_invents_no_prices(root, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert load_prices() == {}
