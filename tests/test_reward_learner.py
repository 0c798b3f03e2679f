"""The parts of the reward learner: losses by hand, preference models, noise, calibration, support, splits, inputs."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import identifiability
from vlmrl.errors import ConfigError, DataError
from vlmrl.reward import calibration, fit, heads, losses, network, noise, pairs
from vlmrl.reward.distill import distill
from vlmrl.reward.heads import NO_ROW, RowHead, SegmentHead
from vlmrl.reward.inputs import INPUTS, Source, load_input
from vlmrl.reward.network import Shape, compact, score, score_clips
from vlmrl.reward.pairs import Pairs
from vlmrl.reward.preference import Config, PreferenceReward
from vlmrl.reward.relabel import relabel
from vlmrl.reward.support import Support
from vlmrl.runfolder import Metrics
from vlmrl.store import Store
from vlmrl.types import Episode, Frame, Item, Preferences, Span

ROWS = 12
VECTORS = Config(
    input="state",
    members=2,
    hidden=(16,),
    updates=120,
    batch=64,
    lr=1e-2,
    weight_decay=0.0,
    holdout=0.2,
    loss="channel",
)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


# losses


def test_losses_equal_their_formulas() -> None:
    d, e = torch.tensor([2.0, 2.0, 2.0]), torch.tensor([0.2, 0.2, 0.2])
    p = torch.tensor([1.0, 0.0, 0.5])
    right, wrong = softplus(-2.0), softplus(2.0)
    sure = 1 / (1 + math.exp(-2))
    seen = 0.8 * sure + 0.2 * (1 - sure)
    wanted = {
        "absolute": [1 - sure, sure, sure - 0.5],
        "bradley_terry": [right, wrong, (right + wrong) / 2],
        "smoothed": [0.8 * right + 0.2 * wrong, 0.2 * right + 0.8 * wrong, (right + wrong) / 2],
        "robust": [(0.8 * right - 0.2 * wrong) / 0.6, (0.8 * wrong - 0.2 * right) / 0.6, (right + wrong) / 2],
        "channel": [-math.log(seen), -math.log(1 - seen), -math.log(seen * (1 - seen)) / 2],
        "confidence": [right, wrong, (right + wrong) / 2],
        "votes": [right, wrong, (right + wrong) / 2],
    }
    assert set(wanted) == set(losses.LOSSES)
    for name, values in wanted.items():
        assert losses.LOSSES[name](d, p, e).tolist() == pytest.approx(values, rel=1e-5), name


def test_doubt_weighs_an_answer_down_under_confidence_and_softens_it_elsewhere() -> None:
    d, p = torch.tensor([2.0]), torch.tensor([0.8])
    assert losses.confidence(d, p).item() == pytest.approx(0.6 * softplus(-2.0), rel=1e-5)
    assert losses.bradley_terry(d, p).item() == pytest.approx(0.8 * softplus(-2.0) + 0.2 * softplus(2.0), rel=1e-5)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_swapping_the_sides_and_the_label_leaves_the_loss(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    d, p = torch.randn(50, generator=generator), torch.rand(50, generator=generator)
    e = torch.full((50,), 0.3)
    torch.testing.assert_close(losses.LOSSES[name](d, p, e), losses.LOSSES[name](-d, 1 - p, e))


def test_the_robust_loss_averages_over_flips_to_the_loss_of_the_true_label() -> None:
    d, e = torch.linspace(-3, 3, 7), torch.full((7,), 0.3)
    kept, flipped = (losses.robust(d, torch.full((7,), p), e) for p in (1.0, 0.0))
    torch.testing.assert_close(0.7 * kept + 0.3 * flipped, losses.bradley_terry(d, torch.ones(7)))


def test_without_flips_robust_and_channel_are_bradley_terry_also_for_sure_differences() -> None:
    d = torch.tensor([-60.0, -1.0, 0.0, 60.0], requires_grad=True)
    p, e = torch.tensor([1.0, 0.3, 0.5, 1.0]), torch.zeros(4)
    plain = losses.bradley_terry(d, p)
    for loss in (losses.robust, losses.channel, losses.smoothed):
        torch.testing.assert_close(loss(d, p, e), plain)
    (gradient,) = torch.autograd.grad(losses.channel(d, p, e).sum(), d)
    assert torch.isfinite(gradient).all()


def test_the_channel_gives_up_on_a_pair_that_contradicts_all_others() -> None:
    """Bounded by -log of the flip rate, where Bradley-Terry grows without end and the robust loss falls without end."""
    d, p, e = torch.tensor([40.0]), torch.tensor([0.0]), torch.tensor([0.1])
    assert losses.channel(d, p, e).item() == pytest.approx(-math.log(0.1), rel=1e-5)
    assert losses.bradley_terry(d, p).item() == pytest.approx(40)
    assert losses.robust(d, 1 - p, e).item() < -4


def test_an_unknown_loss_is_named_with_the_choices() -> None:
    with pytest.raises(ConfigError, match="unknown loss 'hinge'; have: absolute, bradley_terry, channel"):
        losses.pick("hinge")


# noise


def test_votes_come_from_members_that_have_not_seen_the_pair() -> None:
    difference = np.array([[2.0, -2.0], [2.0, -2.0], [0.0, 0.0]])
    found = noise.out_of_bag(difference, np.array([[0, 1], [0, 0], [3, 1]], float))
    assert found[:2] == pytest.approx([1 / (1 + math.exp(-2)), 0.5])
    assert np.isnan(found[2])


def test_a_step_of_the_flip_rates_equals_its_formula_for_each_annotator() -> None:
    votes, p_a = np.array([0.9, 0.9, 0.2, np.nan, 0.7]), np.array([1.0, 0.0, 1.0, 1.0, 0.5])
    found = noise.flip_rates(votes, p_a, np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.3, 0.2]))
    agrees = 0.1 * 0.1 / (0.9 * 0.9 + 0.1 * 0.1)
    differs = 0.1 * 0.9 / (0.9 * 0.1 + 0.1 * 0.9)
    alone = 0.3 * 0.8 / (0.7 * 0.2 + 0.3 * 0.8)
    assert found == pytest.approx([(agrees + differs) / 2, min(alone, noise.MOST), 0.2])


def test_labels_that_the_vote_contradicts_take_its_probability() -> None:
    votes = np.array([0.9, 0.05, 0.4, np.nan, 0.9])
    assert noise.revised(votes, np.array([1.0, 1.0, 1.0, 1.0, 0.5])).tolist() == [1, 0.05, 0.4, 1, 0.5]


# preference models


@pytest.mark.parametrize(
    ("model", "wanted"), [("partial_return", [7.0, 5.0]), ("mean_return", [7 / 3, 5.0]), ("last", [4.0, 5.0])]
)
def test_scores_of_clips_are_made_of_their_rows_alone(model: str, wanted: list[float]) -> None:
    head = RowHead(1, 1, pool=model, tanh=False)
    head.weight.data[:] = 1
    features = torch.tensor([1.0, 2.0, 4.0, 5.0])[:, None, None]
    place = torch.tensor([[0, 1, 2], [3, NO_ROW, NO_ROW]])
    assert head.clips(features, features, place).flatten().tolist() == pytest.approx(wanted)


def test_regret_is_the_log_density_of_the_action_and_best_at_the_policy_s_own() -> None:
    head = heads.build("regret", members=2, features=1, tanh=False, actions=2, window=2)
    assert isinstance(head, heads.AdvantageHead)
    head.bias.data[:] = torch.tensor([1.0, 0.0])
    x = torch.tensor([[9.0, 1.0, 0.0], [9.0, 3.0, 1.0]])
    rows = head.rows(torch.ones(2, 2, 1), x, torch.zeros(2, dtype=torch.int64))
    assert rows[:, 0].tolist() == pytest.approx([0, -0.5 * 0.1 * 5])
    both = head.clips(torch.ones(2, 2, 1), x, torch.tensor([[0, 1]]))
    torch.testing.assert_close(both[0], rows.sum(0))


def test_the_segment_model_s_number_of_a_row_is_the_score_of_the_window_that_ends_there() -> None:
    torch.manual_seed(0)
    head, features = SegmentHead(2, 3, window=3), torch.randn(5, 2, 3)
    rows = head.rows(features, features, torch.tensor([0, 0, 0, 3, 3]))
    wanted = [[NO_ROW, NO_ROW, 0], [NO_ROW, 0, 1], [0, 1, 2], [NO_ROW, NO_ROW, 3], [NO_ROW, 3, 4]]
    torch.testing.assert_close(rows, head.clips(features, features, torch.tensor(wanted)))
    torch.testing.assert_close(rows[0], head.clips(features, features, torch.tensor([[0]]))[0])
    # by hand: mean, maximum and last of rows 3 and 4
    pooled = torch.cat([features[3:].mean(0), features[3:].amax(0), features[4]], dim=-1)
    torch.testing.assert_close(rows[4], (pooled * head.weight).sum(-1) + head.bias)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "regret"}, "needs reward.input=state_action"),
        ({"model": "segment", "tanh": True}, "of which model 'segment' is not made"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        network.make(dataclasses.replace(VECTORS, **settings), Shape((3,), 0, 2))  # pyright: ignore[reportArgumentType]


def test_an_unknown_preference_model_is_named_with_the_choices() -> None:
    with pytest.raises(ConfigError, match="unknown preference model 'median'; have: last, mean_return, partial_return"):
        heads.build("median", members=1, features=1, tanh=False, actions=0, window=1)


def test_regret_recovers_the_best_policy_where_partial_return_cannot() -> None:
    best = identifiability.policy(identifiability.REWARD)
    assert best == [identifiability.GO] * 3
    returns = identifiability.learn(identifiability.REWARD, model="partial_return")
    assert returns.reward.mean() == pytest.approx(0)
    assert identifiability.policy(returns.reward) != best
    # the very same preferences, another constant, another policy
    assert identifiability.policy(returns.reward - 0.4) == best
    advantage = identifiability.advantages(identifiability.REWARD, alpha=identifiability.ALPHA)
    regret = identifiability.learn(advantage, model="regret")
    np.testing.assert_allclose(regret.reward, advantage, atol=1e-4)
    assert identifiability.policy(regret.reward) == best


# networks


@pytest.mark.parametrize("trunk", ["independent", "shared"])
def test_only_independent_members_have_trunks_of_their_own(trunk: str) -> None:
    config = dataclasses.replace(VECTORS, trunk=trunk, members=3)
    made = network.make(config, Shape((4,), 0, 1))
    assert made.features(torch.randn(5, 4)).shape == (5, 3 if trunk == "independent" else 1, 16)
    rewards = made(torch.randn(5, 4))
    assert rewards.shape == (5, 3)
    rewards[:, 0].sum().backward()
    gradient = made.trunk.get_parameter("layers.weights.0").grad
    assert gradient is not None
    touched = gradient.abs().sum((1, 2)) > 0
    assert touched.tolist() == ([True, False, False] if trunk == "independent" else [True])


def test_a_batch_holds_every_row_once_however_many_clips_show_it() -> None:
    stack = torch.arange(10)[:, None]
    place = torch.tensor([[3, 4, 5], [4, 5, NO_ROW]])
    used, local = compact(stack, place)
    assert used.flatten().tolist() == [3, 4, 5]
    assert local.tolist() == [[0, 1, 2], [1, 2, NO_ROW]]


def test_scores_do_not_depend_on_how_rows_are_chunked() -> None:
    for model in ("mean_return", "segment"):
        made = network.make(dataclasses.replace(VECTORS, model=model), Shape((4,), 0, 3))
        stack = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
        first = np.array([0, 0, 0, 0, 4, 4, 4, 4, 4])
        whole = score(made, stack, first)
        np.testing.assert_allclose(score(made, stack, first, batch=3), whole, rtol=1e-5)
        np.testing.assert_allclose(score(made, stack[4:]), whole[4:], rtol=1e-5)


# calibration and support


def test_the_temperature_of_an_ensemble_that_is_twice_too_sure_is_two() -> None:
    generator = np.random.default_rng(0)
    true = generator.normal(0, 2, 20_000)
    p_a = 1 / (1 + np.exp(-true))
    pooled = calibration.pooled(2 * true[:, None])
    assert calibration.temperature(pooled, p_a) == pytest.approx(2, rel=1e-2)
    np.testing.assert_allclose(calibration.calibrated(pooled, 2.0), p_a, atol=1e-5)
    assert calibration.pooled(np.array([[2.0, 0.0]]))[0] == pytest.approx((1 / (1 + math.exp(-2)) + 0.5) / 2)


def test_a_handful_of_pairs_does_not_set_the_temperature() -> None:
    """Three pairs that are right would make the ensemble twenty times as sure."""
    p, p_a = np.full(3, 0.6), np.ones(3)
    assert calibration.temperature(p, p_a) == 1
    enough = calibration.temperature(np.repeat(p, 10), np.repeat(p_a, 10))
    assert enough == pytest.approx(calibration.RANGE[0], rel=1e-2)


def test_rows_unlike_those_of_the_training_lie_outside_of_its_support() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2_000, 2, 3, generator=generator) * torch.tensor([1.0, 5.0, 1.0])
    support = Support.fit(features)
    assert (support.outside(features) > 1).mean() == pytest.approx(0.05, abs=0.01)
    along, across = torch.tensor([0.0, 12.0, 0.0]).expand(1, 2, 3), torch.tensor([12.0, 0.0, 0.0]).expand(1, 2, 3)
    assert support.outside(across)[0] > 2 > support.outside(along)[0]


# pairs


def walk(seed: int) -> Episode:
    """The first observation is the reward; the second says nothing."""
    generator = np.random.default_rng(seed)
    worth = np.cumsum(generator.normal(0, 0.5, ROWS)).astype(np.float32)
    inner = np.arange(ROWS) < ROWS - 1
    return Episode(
        action=generator.normal(size=(ROWS, 2)).astype(np.float32),
        obs={"state": np.stack([worth, generator.normal(size=ROWS)], 1).astype(np.float32)},
        time=np.arange(ROWS) / 10,
        has_action=inner,
        has_next=inner,
        terminated=seed % 2 == 0,
        truncated=seed % 2 == 1,
        task="walk",
        instruction="climb",
        source="test",
        id=f"walk-{seed}",
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store.create(tmp_path / "walks")
    made.append([walk(seed) for seed in range(10)])
    return made


def worth(store: Store, item: Item, column: str = "obs/state") -> float:
    spans = [Span(item.episode, item.row, item.row + 1, "")] if isinstance(item, Frame) else item
    values = store.column(column)[:, 0]
    starts = [int(store.episodes.start[store.episodes.index(s.episode)]) for s in spans]
    return float(
        np.mean(np.concatenate([values[a + s.start : a + s.stop] for a, s in zip(starts, spans, strict=True)]))
    )


def clips(store: Store, count: int = 300, *, column: str = "obs/state", flip: float = 0.0) -> Preferences:
    """Sides of four rows; every third crosses into the next episode."""
    generator, sides = np.random.default_rng(0), ([], [])
    for number in range(count):
        for side in sides:
            episode, start = int(generator.integers(9)), int(generator.integers(ROWS - 5))
            item: Item = (Span(f"walk-{episode}", start, start + 4, ""),)
            if number % 3 == 0:
                item = (Span(f"walk-{episode}", ROWS - 3, ROWS - 1, ""), Span(f"walk-{episode + 1}", 0, 2, ""))
            side.append(item)
    truth = [worth(store, a, column) > worth(store, b, column) for a, b in zip(*sides, strict=True)]
    p_a = np.array(truth, np.float32)
    p_a = np.where(generator.random(count) < flip, 1 - p_a, p_a).astype(np.float32)
    return Preferences(tuple(sides[0]), tuple(sides[1]), p_a, "test", "abcdef")


def test_clips_are_found_by_their_rows_across_episode_borders(store: Store) -> None:
    a, b = (Span("walk-0", 10, 12, ""), Span("walk-1", 0, 1, "")), (Span("walk-0", 11, 12, ""),)
    labels = Preferences((a, b), (b, a), np.array([1, 0], np.float32), "x and y", "abc", by=("y", "x"))
    rows, found = pairs.locate(store, labels, np.arange(len(store)), ())
    assert rows.tolist() == [10, 11, 12]
    assert found.a.tolist() == [[0, 1, 2], [1, NO_ROW, NO_ROW]]
    assert found.b.tolist() == found.a[::-1].tolist()
    assert found.annotator.tolist() == [1, 0]
    assert not found.equally_long


def test_labels_about_what_cannot_be_judged_are_named(store: Store) -> None:
    def locate(item: Item, judged: np.ndarray, cameras: tuple[str, ...] = ()) -> None:
        pairs.locate(store, Preferences((item,), (item,), np.ones(1, np.float32), "x", "abc"), judged, cameras)

    every = np.arange(len(store))
    with pytest.raises(DataError, match="the episode has 12 rows"):
        locate((Span("walk-0", 10, 13, ""),), every)
    with pytest.raises(DataError, match="camera wrist wanted"):
        locate((Span("walk-0", 1, 3, "top"),), every, ("wrist",))
    with pytest.raises(DataError, match="no row that the reward's input can judge"):
        locate(Frame("walk-0", 3, "top"), every[5:])


def test_held_out_episodes_are_in_no_training_pair(store: Store) -> None:
    labels = clips(store)
    rows, found = pairs.locate(store, labels, np.arange(len(store)), ())
    owner = store.episodes.of_row(rows)
    train, held = pairs.split(found, 0.3, by="episodes", owner=owner, generator=np.random.default_rng(1))
    shown = [set(owner[np.concatenate([p.a, p.b])].flatten().tolist()) for p in (train, held)]
    assert len(shown[1]) == 3
    assert not shown[0] & shown[1]
    assert 0 < len(train) + len(held) < len(found)
    train, held = pairs.split(found, 0.3, by="pairs", owner=owner, generator=np.random.default_rng(1))
    assert (len(train), len(held)) == (210, 90)


# inputs and the whole


def test_inputs_agree_on_stores_and_episodes(store: Store) -> None:
    source = Source((), (8, 8), ("state",), "")
    for name in ("state", "state_action"):
        looks, episode = load_input(name), store.episode("walk-1")
        rows = looks.rows(store, source)
        own = rows[(rows >= ROWS) & (rows < 2 * ROWS)]
        here, stack = looks.of_episode(episode, source)
        assert here.tolist() == (own - ROWS).tolist()
        np.testing.assert_array_equal(looks.read(store, source, own), stack)
    assert {"state", "state_action", "image", "embedding"} == set(INPUTS)
    with pytest.raises(ConfigError, match="unknown input 'sound'; have: embedding, image, state, state_action"):
        load_input("sound")
    with pytest.raises(DataError, match="has no observation 'touch'; have: state"):
        load_input("state").of_episode(store.episode("walk-1"), dataclasses.replace(source, obs=("touch",)))


@pytest.mark.parametrize("model", ["partial_return", "mean_return", "segment"])
def test_a_reward_learned_from_clips_that_cross_borders_orders_them_and_its_rows(
    store: Store, tmp_path: Path, model: str
) -> None:
    config = dataclasses.replace(VECTORS, model=model)
    trained = distill(
        store, clips(store), config, camera="", seed=0, metrics=Metrics(tmp_path / "metrics.jsonl"), quiet=True
    )
    assert trained.facts["held_out"]["accuracy"] > 0.85
    relabel(store, trained, "learned")
    mean, shown = store.column("reward/learned/mean"), store.column("obs/state")[:, 0]
    known = store.column("has_next")
    np.testing.assert_array_equal(np.isfinite(mean), known)
    # the reward of row i is about what row i + 1 shows
    assert np.corrcoef(mean[known], shown[1:][known[:-1]])[0, 1] > (0.5 if model == "segment" else 0.9)
    trained.save_pretrained(tmp_path / "reward")
    again = PreferenceReward.from_pretrained(tmp_path / "reward")
    one, table = store.episode("walk-3"), store.episodes
    found = again.reward(one)[0]
    np.testing.assert_allclose(found, mean[table.start[3] : table.stop[3]], rtol=1e-4, atol=1e-5)
    assert again.scorer.outside(store)[1].shape == (len(store),)


def test_a_reward_of_states_and_actions_judges_the_transition_that_starts_at_its_row(
    store: Store, tmp_path: Path
) -> None:
    config = dataclasses.replace(VECTORS, input="state_action", model="mean_return")
    labels = clips(store, column="action")
    trained = distill(store, labels, config, camera="", seed=0, metrics=Metrics(tmp_path / "metrics.jsonl"), quiet=True)
    mean, _ = trained.column(store)
    known = store.column("has_next")
    assert np.corrcoef(mean[known], store.column("action")[known, 0])[0, 1] > 0.9


def test_flipped_labels_are_found_out_and_their_rate_is_estimated(store: Store, tmp_path: Path) -> None:
    config = dataclasses.replace(VECTORS, model="mean_return", members=5, loss="channel", updates=200)
    labels = clips(store, 600, flip=0.25)
    trained = distill(store, labels, config, camera="", seed=0, metrics=Metrics(tmp_path / "metrics.jsonl"), quiet=True)
    assert trained.facts["flip_rates"]["test"] == pytest.approx(0.25, abs=0.08)


def test_the_vote_mends_labels_before_the_second_training(store: Store) -> None:
    labels = clips(store, 600, flip=0.25)
    true = clips(store, 600).p_a
    rows, found = pairs.locate(store, labels, np.arange(len(store)), ())
    stack = store.column("obs/state")[rows]
    config = dataclasses.replace(VECTORS, model="mean_return", members=7, loss="votes", updates=100)
    metrics = Metrics(store.path / "metrics.jsonl")
    state = fit.train(
        config, stack, Shape((2,), 0, 4), found, annotators=1, seed=0, metrics=metrics, name="r", quiet=True
    )
    assert [bool(metrics.read(name)) for name in ("r/votes", "r")] == [True, True]
    difference = (score_clips(state.network, stack, found.a) - score_clips(state.network, stack, found.b)).mean(1)
    assert ((difference > 0) == (true > 0.5)).mean() > 0.9


def test_losses_that_ask_unseeing_members_refuse_a_shared_trunk() -> None:
    def init(**settings: object) -> None:
        config = dataclasses.replace(VECTORS, **settings)  # pyright: ignore[reportArgumentType]
        fit.init(config, np.zeros((3, 2), np.float32), Shape((2,), 0, 1), annotators=1, seed=0)

    init(trunk="shared", loss="channel", flip_rate=0.2)
    with pytest.raises(ConfigError, match="a shared trunk has seen all"):
        init(trunk="shared", loss="channel")
    with pytest.raises(ConfigError, match="from 0 to below"):
        init(flip_rate=0.5)


def test_a_sum_over_clips_of_different_lengths_keeps_its_zero() -> None:
    """Taking the mean off every row would change which of two clips of different lengths is better."""
    stack = np.ones((4, 1), np.float32) + np.arange(4, dtype=np.float32)[:, None]
    a, short = np.array([[0, 1]]), np.array([[2, NO_ROW]])
    for b, moved in ((np.array([[2, 3]]), True), (short, False)):
        found = Pairs(a, b, np.ones(1, np.float32), np.zeros(1, np.int64))
        config = dataclasses.replace(VECTORS, model="partial_return", loss="bradley_terry")
        state = fit.init(config, stack, Shape((1,), 0, 2), annotators=1, seed=0)
        before = state.network.head.bias.detach().clone()
        fit.centre(state, found)
        assert (not torch.equal(before, state.network.head.bias)) == moved
