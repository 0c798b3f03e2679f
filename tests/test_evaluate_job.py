"""Evaluations: the same whatever runs side by side, resumable, guarded, and told with their intervals."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vlmrl.cli import evaluate as command
from vlmrl.errors import ConfigError, DataError
from vlmrl.evaluate import collect, grid, parquet, sequential, summary
from vlmrl.evaluate.candidates import Arm, Candidate, Mixture, Steering, arm, pair
from vlmrl.evaluate.comparison import page, read
from vlmrl.evaluate.job import Evaluated, Plan, evaluate, place
from vlmrl.evaluate.journal import Journal, physics_key, task_key
from vlmrl.evaluate.lanes import Lane, lanes
from vlmrl.evaluate.normalised import reference
from vlmrl.evaluate.observing import blind, demand, looks
from vlmrl.evaluate.rollout import Rollouts, evaluation_seeds, gathered, rollout
from vlmrl.learn import flow
from vlmrl.nn import Actor, Critic, Normaliser, StackedMLP
from vlmrl.policy import LearnedPolicy, LearnedValue, RerankedPolicy, UniformPolicy
from vlmrl.sim import Task, load_task, make
from vlmrl.types import Transitions

STEERING = {"critic": "", "samples": 10, "temperature": 0.0, "average": False, "spread": 1.0, "budget_s": 0.0}
"""Settings that steer nothing."""


@pytest.fixture(scope="module")
def cartpole() -> Task:
    return load_task("cartpole")


@pytest.fixture(scope="module")
def short(cartpole: Task) -> Task:
    """Upright for a fifth of a second."""
    return replace(cartpole, horizon=10, hold=10)


def saved(folder: Path, *, seed: int = 0, name: str = "actor") -> LearnedPolicy:
    """An untrained actor for the cart-pole."""
    generator = torch.Generator().manual_seed(seed)
    scales = [Normaliser(torch.zeros(n), torch.ones(n)) for n in (4, 1)]
    actor = Actor(*scales, hidden=[32, 32, 32], layer_norm=True, generator=generator)
    policy = LearnedPolicy(actor, name)
    policy.save_pretrained(folder)
    return policy


def built_in(name: str, noise: float = 0.0) -> Mapping[str, Arm]:
    return pair(arm([name], noise=noise, where="policy"), None)


def steered(folder: Path) -> RerankedPolicy:
    """The untrained actor, steered by an untrained critic."""
    scales = [Normaliser(torch.zeros(n), torch.ones(n)) for n in (4, 1)]
    q = StackedMLP(2, (5, 16, 1), layer_norm=False, generator=torch.Generator().manual_seed(1))
    value = LearnedValue(Critic(*scales, q), "untrained")
    value.save_pretrained(folder / "critic")
    return RerankedPolicy(saved(folder), value, samples=5, temperature=0.05)


def chunked() -> LearnedPolicy:
    """An untrained policy that draws four actions at once, which ten steps are no multiple of."""
    config = flow.Config(hidden=(8, 8), time_width=8, history=2, horizon=6, execute=4, steps=2)
    obs = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    ones = np.ones(20, np.float32)
    data = Transitions(obs, obs[:, :1], ones, ones, obs, np.zeros(20, np.int32))
    state = flow.init(config, data, generator=torch.Generator().manual_seed(0))
    return LearnedPolicy(flow.policy(state), "chunks")


@pytest.mark.parametrize("kind", ["learned", "random", "expert", "steered", "chunked"])
def test_what_comes_of_a_seed_does_not_depend_on_what_runs_beside_it(kind: str, short: Task, tmp_path: Path) -> None:
    policies = {
        "learned": lambda: saved(tmp_path / "p"),
        "random": lambda: UniformPolicy(1),
        "expert": lambda: collect.GradedPolicy(short, (0.5,)),
        "steered": lambda: steered(tmp_path / "p"),
        "chunked": chunked,
    }
    one, seven, all_of_them = (rollout(short, policies[kind](), evaluation_seeds(20), batch=b) for b in (1, 7, 20))
    assert one.episodes == seven.episodes == all_of_them.episodes
    assert len({e.actions for e in one.episodes}) == 20


def test_a_steered_evaluation_says_what_was_chosen_and_is_not_mistaken_for_another(short: Task, tmp_path: Path) -> None:
    steered(tmp_path / "p")
    folder = str(tmp_path / "p")

    def arms(samples: int) -> Mapping[str, Arm]:
        steering = [Steering(f"{folder}/critic", samples)]
        return pair(
            arm([folder], noise=0.0, where="policy", steering=steering), arm([folder], noise=0.0, where="versus")
        )

    found = evaluate(short, arms(3), Plan(6, envs=4), tmp_path / "run")
    name = "actor, 1 of 3 by untrained"
    assert list(found.rollouts) == [name, "actor"]
    assert [c.decisions for c in found.choices[name]] == [60]
    assert found.choices[name][0].gain > 0
    assert "actor" not in found.choices
    again = evaluate(short, arms(3), Plan(6, envs=1), tmp_path / "run")
    assert again.rollouts[name][0].episodes == found.rollouts[name][0].episodes
    keys = {str(arms(n)[f"actor, 1 of {n} by untrained"].candidates[0].key()) for n in (3, 4)}
    assert len(keys) == 2
    with pytest.raises(ConfigError, match="only saved policies can be steered"):
        arm(["expert"], noise=0.0, where="policy", steering=[Steering(f"{folder}/critic")])
    with pytest.raises(ConfigError, match="found 2 for 1"):
        arm([folder], noise=0.0, where="policy", steering=[Steering(f"{folder}/critic")] * 2)


def test_processes_change_nothing(short: Task) -> None:
    policy = UniformPolicy(1)
    here = rollout(short, policy, evaluation_seeds(5), batch=5)
    elsewhere = rollout(short, policy, evaluation_seeds(5), batch=3, workers=2)
    assert here.episodes == elsewhere.episodes


def test_a_policy_that_looks_back_is_shown_every_step_between_its_chunks(short: Task) -> None:
    @dataclass
    class Watcher:
        history: int = 3
        name: str = "watcher"
        seen: list[np.ndarray] = field(default_factory=list)

        def reset(self, mask: np.ndarray, instructions: Sequence[str], generator: np.random.Generator) -> None:
            """Nothing is remembered."""

        def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
            self.seen.append(observations["state"][0])
            return np.full((len(observations["state"]), 4, 1), 0.3)

    watcher, single = Watcher(), Watcher(history=1)
    single.act = lambda observations: single.seen.append(observations["state"][0]) or np.full((1, 1, 1), 0.3)  # type: ignore[method-assign,func-returns-value]
    rollout(short, watcher, evaluation_seeds(1))
    rollout(short, single, evaluation_seeds(1))
    steps = single.seen
    np.testing.assert_array_equal(watcher.seen[0], np.stack([steps[0]] * 3))
    np.testing.assert_array_equal(watcher.seen[1], np.stack(steps[2:5]))
    np.testing.assert_array_equal(watcher.seen[2], np.stack(steps[6:9]))
    recorded = Watcher()
    list(collect.record(short, recorded, evaluation_seeds(1), picture_every=10))
    for one, other in zip(recorded.seen, watcher.seen, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_contact_is_the_same_in_any_number_of_processes() -> None:
    """The drawer: a last bit that differed in an action would grow into another episode."""
    pytest.importorskip("metaworld")
    task = load_task("drawer_open")
    done = [
        rollout(task, collect.GradedPolicy(task, (0.3,)), evaluation_seeds(4), batch=batch, workers=workers)
        for batch, workers in ((1, 1), (3, 1), (4, 2))
    ]
    assert done[0].episodes == done[1].episodes == done[2].episodes


def test_an_error_in_another_process_arrives_as_itself(short: Task) -> None:
    with (
        lanes(replace(short, hold=1), 2, workers=2) as pool,
        pytest.raises(DataError, match="success already at reset"),
    ):
        pool.reset([1, 2])


def test_a_rollout_and_a_recording_of_the_same_seed_are_the_same_episode(short: Task) -> None:
    seeds = evaluation_seeds(3)
    done = rollout(short, UniformPolicy(1), seeds)
    recorded = list(collect.record(short, UniformPolicy(1), seeds, picture_every=10))
    np.testing.assert_allclose([e.truth["reward"].sum() for e in recorded], done.returns, rtol=1e-5)
    assert [e.success == 1 for e in recorded] == done.success.tolist()


def test_every_robot_gets_the_instruction_of_its_seed(short: Task) -> None:
    class Reader(UniformPolicy):
        heard: list[str]

        def reset(self, mask: np.ndarray, instructions: Sequence[str], generator: np.random.Generator) -> None:
            self.heard.append(instructions[int(np.flatnonzero(mask)[0])])
            super().reset(mask, instructions, generator)

    policy = Reader(1)
    policy.heard = []
    rollout(short, policy, evaluation_seeds(4), batch=3, instructions=["a", "b", "c", "d"])
    assert policy.heard == ["a", "b", "c", "d"]
    with pytest.raises(ConfigError, match="one for each seed"):
        rollout(short, policy, evaluation_seeds(2), instructions=["a"])


def test_early_success_does_not_end_an_episode(cartpole: Task) -> None:
    easy = replace(cartpole, horizon=20, hold=2, solved_at_start=True)
    done = rollout(easy, collect.GradedPolicy(easy, (0.0,)), evaluation_seeds(3))
    assert {e.first_success for e in done.episodes} == {1}
    assert {e.length for e in done.episodes} == {20}


def test_seeds_that_start_alike_are_refused_unless_the_task_says_so(short: Task) -> None:
    still = replace(short, resets=replace(short.resets, spread=0.0))
    with pytest.raises(DataError, match="start alike"):
        rollout(still, UniformPolicy(1), evaluation_seeds(2))
    fixed = replace(still, resets=replace(still.resets, fixed=True))
    assert len(rollout(fixed, UniformPolicy(1), evaluation_seeds(2)).seeds) == 2


def test_starts_that_differ_in_random_numbers_alone_are_alike(short: Task) -> None:
    cheetah = load_task("half_cheetah")
    still = replace(cheetah.physics, options={"arguments": {"reset_noise_scale": 0}})
    with pytest.raises(DataError, match="start alike"):
        rollout(replace(cheetah, horizon=2, physics=still), UniformPolicy(6), evaluation_seeds(2))
    rollout(replace(cheetah, horizon=2), UniformPolicy(6), evaluation_seeds(2))
    delayed = replace(load_task("cartpole").variation, action_delay_steps=(1.0, 1.0))
    still = replace(short, variation=delayed, resets=replace(short.resets, spread=0.0))
    with pytest.raises(DataError, match="start alike"):
        rollout(still, UniformPolicy(1), evaluation_seeds(2))
    looks_other = replace(still, variation=replace(delayed, light_factor=(0.5, 1.5)))
    assert len({e.start for e in rollout(looks_other, UniformPolicy(1), evaluation_seeds(3)).episodes}) == 3


def test_a_task_that_starts_solved_is_refused_however_long_it_must_hold(cartpole: Task) -> None:
    easy = replace(cartpole, horizon=10, hold=3)
    with pytest.raises(DataError, match="solved_at_start"):
        rollout(easy, UniformPolicy(1), evaluation_seeds(1))
    still = collect.GradedPolicy(easy, (0.0,))
    declared = replace(easy, solved_at_start=True)
    found = evaluate_expert(declared, still)
    assert any("from their first step on" in remark for remark in found)


def evaluate_expert(task: Task, policy: collect.GradedPolicy) -> tuple[str, ...]:
    """The remarks on a policy."""
    done = rollout(task, policy, evaluation_seeds(2))
    return summary.lines(Evaluated(task, built_in("expert"), {"expert": [done]}))[0].remarks


def test_an_environment_that_resets_itself_is_found(short: Task) -> None:
    env = make(short)
    env.metadata = env.metadata | {"autoreset_mode": "next-step"}
    with pytest.raises(ConfigError, match="resets itself"):
        Lane(env)
    env.metadata.pop("autoreset_mode")
    lane = Lane(env)
    lane.reset(1)
    lane.run(np.zeros((10, 1)))
    assert lane.ended
    env.reset(seed=2)
    with pytest.raises(DataError, match="has reset itself"):
        lane.outcome()


def test_a_failed_simulation_is_a_failed_episode(short: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlmrl.sim.env import SimEnv

    step = SimEnv.step

    def failing(self: SimEnv, action: np.ndarray):
        observation, reward, terminated, _, info = step(self, action)
        return observation, reward, terminated, True, info | {"success": True, "diverged": True}

    monkeypatch.setattr(SimEnv, "step", failing)
    done = rollout(short, UniformPolicy(1), evaluation_seeds(2))
    assert not done.success.any()
    assert done.diverged == 2
    assert {(e.length, e.first_success, e.success_end) for e in done.episodes} == {(1, -1, False)}


def test_success_that_can_be_undone_is_that_of_the_end(short: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlmrl.sim.env import SimEnv

    step, ends = SimEnv.step, replace(short, success_at="end")

    def undone(self: SimEnv, action: np.ndarray):
        observation, reward, terminated, truncated, info = step(self, action)
        return observation, reward, terminated, truncated, info | {"success": self._steps == 2}

    monkeypatch.setattr(SimEnv, "step", undone)
    any_step, end = (rollout(task, UniformPolicy(1), [1]).episodes[0] for task in (short, ends))
    assert (any_step.success, any_step.first_success, end.success, end.first_success) == (True, 1, False, -1)
    recorded = [next(iter(collect.record(task, UniformPolicy(1), [1], picture_every=10))) for task in (short, ends)]
    assert [episode.success for episode in recorded] == [1, 0]
    assert load_task("dress_arm").success_at == load_task("dress_arm_held_out").success_at == "end"


def test_rates_of_an_evaluation_that_stopped_are_valid_at_any_stop(short: Task, tmp_path: Path) -> None:
    arms = pair(arm(["expert"], noise=0.0, where="policy"), arm(["random"], noise=0.0, where="versus"))
    found = evaluate(short, arms, Plan(20, margin=0.9), tmp_path)
    for line in summary.lines(found):
        rollouts = found.rollouts[line.method][0]
        assert line.success == sequential.rate(int(rollouts.success.sum()), len(rollouts.seeds))


def test_copies_of_one_episode_count_once_beside_a_policy_with_chance(short: Task, tmp_path: Path) -> None:
    fixed = replace(short, resets=replace(short.resets, spread=0.0, fixed=True))
    arms = pair(arm(["expert"], noise=0.0, where="policy"), arm(["random"], noise=0.0, where="versus"))
    found = evaluate(fixed, arms, Plan(6), tmp_path)
    assert {name: len(rollouts[0].seeds) for name, rollouts in found.rollouts.items()} == {"expert": 1, "random": 6}
    assert len(Journal(place(tmp_path, fixed.name, "expert", 0), _key(found, "expert")).episodes) == 2


def _key(found: Evaluated, name: str) -> Mapping[str, object]:
    return found.arms[name].candidates[0].key() | task_key(found.task) | physics_key(found.task)


def test_an_episode_of_the_behaviour_policy_depends_on_its_seed_alone(short: Task, tmp_path: Path) -> None:
    mixture = Mixture("behaviour", policies=("expert",), shares=(0.0, 1.0))
    whole = evaluate(short, {"b": Arm("b", (mixture,))}, Plan(8), tmp_path / "whole").rollouts["b"][0]
    apart = [rollout(short, mixture.make(short), [seed]).episodes[0] for seed in whole.seeds.tolist()[::-1]]
    assert list(whole.episodes) == apart[::-1]
    assert len({e.length for e in whole.episodes}) == 1
    assert 0 < whole.success.mean() < 1
    # In equal parts over the seeds: the very episodes of the expert and of random actions by turns.
    seeds = evaluation_seeds(8)
    parts = [rollout(short, collect.GradedPolicy(short, (share,)), seeds).episodes for share in (0.0, 1.0)]
    assert list(whole.episodes) == [parts[k % 2][k] for k in range(8)]


def test_a_store_of_another_version_of_the_task_is_not_gone_on_with(short: Task, tmp_path: Path) -> None:
    config = collect.Config(episodes=1, steps=3, noise=(1.0,))
    collect.fill(tmp_path / "s", short, config)
    collect.fill(tmp_path / "s", short, config)
    with pytest.raises(ConfigError, match="task_version"):
        collect.fill(tmp_path / "s", replace(short, caption="another"), config)


def test_a_cut_evaluation_goes_on_and_comes_out_the_same(short: Task, tmp_path: Path) -> None:
    arms, whole, cut = built_in("random"), tmp_path / "whole", tmp_path / "cut"
    found = evaluate(short, arms, Plan(9, envs=4), whole)
    evaluate(short, arms, Plan(5, envs=2), cut)
    path = place(cut, short.name, "random", 0)
    path.write_bytes(path.read_bytes()[:-20])
    before = path.read_text().splitlines()[1]
    again = evaluate(short, arms, Plan(9, envs=4), cut)
    assert again.rollouts["random"][0].episodes == found.rollouts["random"][0].episodes
    lines = path.read_text().splitlines()
    assert lines[1] == before
    assert len(lines) == 10


def test_episodes_of_something_else_are_not_gone_on_with(short: Task, tmp_path: Path) -> None:
    Journal(tmp_path / "j", {"policy": "random"})
    with pytest.raises(ConfigError, match="policy was 'random', is 'expert'"):
        Journal(tmp_path / "j", {"policy": "expert"})
    (tmp_path / "j").write_text('{"policy": "random"}\n{"seed": 1}\n')
    with pytest.raises(DataError, match="damaged"):
        Journal(tmp_path / "j", {"policy": "random"})
    evaluate(short, built_in("random"), Plan(2), tmp_path / "a")
    with pytest.raises(ConfigError, match="task_version"):
        evaluate(replace(short, horizon=9), built_in("random"), Plan(2), tmp_path / "a")


def test_an_evaluation_stops_at_the_same_episode_however_many_run_at_once(short: Task, tmp_path: Path) -> None:
    stops = []
    for envs in (7, 10):
        found = evaluate(short, built_in("expert"), Plan(80, margin=0.15, envs=envs), tmp_path / str(envs))
        rollouts = found.rollouts["expert"][0]
        assert found.stopped == sequential.rate(int(rollouts.success.sum()), len(rollouts.seeds))
        stops.append(len(rollouts.seeds))
    assert stops[0] == stops[1] < 80
    line = summary.lines(found)[0]
    assert line.sequential
    assert line.success == found.stopped


def test_a_deterministic_policy_from_a_fixed_start_is_one_observation(short: Task, tmp_path: Path) -> None:
    fixed = replace(short, resets=replace(short.resets, spread=0.0, fixed=True))
    expert = evaluate(fixed, built_in("expert"), Plan(20), tmp_path / "a")
    assert len(expert.rollouts["expert"][0].seeds) == 1
    assert "starts alike" in summary.lines(expert)[0].remarks[0]
    assert len(evaluate(fixed, built_in("random"), Plan(5), tmp_path / "b").rollouts["random"][0].seeds) == 5


def test_a_policy_that_does_not_look_is_found(cartpole: Task) -> None:
    class Blind(UniformPolicy):
        def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
            return np.full((len(observations["state"]), 1, 1), 0.1)

    with lanes(cartpole, 5) as pool:
        expert = looks(cartpole, collect.GradedPolicy(cartpole, (0.0,)), evaluation_seeds(10), envs=pool)
        nothing = looks(cartpole, Blind(1), evaluation_seeds(10), envs=pool)
        assert blind(rollout(cartpole, Blind(1), evaluation_seeds(3), envs=pool))
        assert not blind(rollout(cartpole, UniformPolicy(1), evaluation_seeds(3), envs=pool))
    demand(expert, "expert", "cartpole")
    with pytest.raises(DataError, match="ignore what it sees"):
        demand(nothing, "blind", "cartpole")


def test_a_list_is_one_method_from_several_seeds(tmp_path: Path) -> None:
    for k, name in enumerate(("iql", "iql", "bc")):
        saved(tmp_path / str(k), seed=k, name=name)
    folders = [str(tmp_path / str(k)) for k in range(3)]
    assert arm(folders[:2], noise=0.0, where="policy").name == "iql"
    for sources, message in (
        (folders, "found methods bc, iql"),
        ([folders[0], folders[0]], "same weights"),
        ([folders[0], "random"], "not trained"),
    ):
        with pytest.raises(ConfigError, match=message):
            arm(sources, noise=0.0, where="policy")


def made(task: Task, name: str, several: Sequence[Sequence[int]], *, trained: bool = True) -> Evaluated:
    """An evaluation with these outcomes."""
    done = rollout(task, UniformPolicy(1), evaluation_seeds(len(several[0])))
    rollouts: list[Rollouts] = []
    for row in several:
        pairs = zip(done.episodes, row, strict=True)
        rollouts.append(gathered(name, [replace(e, success=bool(s), first_success=s - 1) for e, s in pairs]))
    source = "folder" if trained else "random"
    one = Arm(name, tuple(Candidate(f"{source}{k}" if trained else source) for k in range(len(several))))
    return Evaluated(task, {name: one}, {name: rollouts})


def test_several_tasks_give_one_number_whose_unit_is_the_training_seed(short: Task) -> None:
    a = made(short, "iql", [[1, 1, 1, 0], [1, 0, 0, 0]])
    b = made(replace(short, name="other"), "iql", [[1, 1, 1, 1], [1, 1, 0, 0]])
    (found,) = summary.overall([a, b])
    assert found.unit == "training seeds"
    assert found.numbers["mean"].estimate == pytest.approx(10 / 16)
    assert found.numbers["optimality gap"].estimate == pytest.approx(6 / 16)
    assert found.numbers["interquartile mean"].estimate == pytest.approx((0.75 + 0.5) / 2)
    single = [made(short, "x", [[1, 0, 0, 0]]), made(replace(short, name="other"), "x", [[1, 1, 0, 0]])]
    (found,) = summary.overall(single)
    assert set(found.numbers) == {"mean"}
    assert found.unit == "initial states"


def test_normalised_scores_have_their_references(cartpole: Task) -> None:
    assert reference(cartpole) is None
    own = reference(replace(cartpole, reference={"random": -2000.0, "expert": 0.0}))
    assert own is not None
    assert own.score(-500.0) == pytest.approx(75)
    # Hammer-human of D4RL: 1.8 for a mean return of -39.6, by hand.
    hammer = replace(cartpole, horizon=200, physics=replace(cartpole.physics, name="AdroitHandHammer-v1"))
    published = reference(hammer)
    assert published is not None
    assert published.score(-39.6) == pytest.approx(1.8, abs=0.01)
    assert reference(replace(hammer, horizon=400)) is None
    sparse = replace(hammer.physics, options={"arguments": {"reward_type": "sparse"}})
    assert reference(replace(hammer, physics=sparse)) is None
    assert reference(replace(hammer, variation=replace(hammer.variation, action_noise=(0.1, 0.1)))) is None
    assert reference(replace(hammer, physics=replace(hammer.physics, name="hammer-v3"))) is None
    with pytest.raises(ConfigError, match="two different numbers"):
        reference(replace(cartpole, reference={"random": 1.0}))


def test_films_show_the_first_of_both_outcomes(cartpole: Task) -> None:
    done = rollout(cartpole, UniformPolicy(1), evaluation_seeds(6))
    episodes = [replace(e, success=k % 3 == 0) for k, e in enumerate(done.episodes)]
    chosen = grid.choose(episodes, 4)
    assert [e.seed - episodes[0].seed for e in chosen] == [0, 3, 1, 2]
    assert [e.seed - episodes[0].seed for e in grid.choose(episodes, 6)] == [0, 3, 1, 2, 4, 5]


def test_a_film_that_differs_from_the_evaluation_is_refused(short: Task) -> None:
    done = rollout(short, UniformPolicy(1), evaluation_seeds(2))
    shown = grid.films(short, UniformPolicy(1), done.episodes, every=5, reward=None)
    pictures = grid.grid(shown, title="x", counts=(int(done.success.sum()), 2))
    assert len(pictures) == 3
    assert len({p.shape for p in pictures}) == 1
    wrong = [replace(done.episodes[0], first_success=3, success=True)]
    with pytest.raises(DataError, match="not deterministic"):
        grid.films(short, UniformPolicy(1), wrong, every=5, reward=None)


def test_the_command_leaves_table_episodes_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    content = {"policy": "expert", "versus": "random", "task": "cartpole", "episodes": 6, "margin": 0.0, "noise": 0.0}
    content |= {
        "envs": 3,
        "workers": 1,
        "check": "",
        "film": 0,
        "film_every": 3,
        "reward": "",
        "out": str(tmp_path),
        **STEERING,
    }
    command.main(content, tmp_path)
    told = capsys.readouterr().out
    assert "expert" in told
    assert "minus the other" in told
    found = json.loads((tmp_path / "results.json").read_text())
    assert [line["method"] for line in found["lines"]] == ["expert", "random"]
    table = pq.read_table(tmp_path / "episodes.parquet").to_pydict()
    assert set(table) == set(parquet.COLUMNS)
    assert len(table["seed"]) == 12
    assert sum(table["success"]) == round(6 * sum(line["success"]["estimate"] for line in found["lines"]))
    expert, random = read.read(tmp_path)
    assert (expert.method, random.method) == ("expert", "random")
    written = page.write([tmp_path, tmp_path], tmp_path / "page.html").read_text()
    assert f"expert ({tmp_path.name})" in written
    with pytest.raises(ConfigError, match=r"holds no results\.json"):
        page.write([tmp_path / "nowhere"], tmp_path / "page.html")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": ""}, "needs a policy"),
        ({"task": []}, "needs a task"),
        ({"episodes": 0}, "episodes and envs from 1"),
        ({"noise": 2.0}, "from 0 to 1"),
        ({"policy": "random", "noise": 0.3}, "of the scripted expert, found random; choose noise=0 or policy=expert"),
        ({"check": "everything"}, "observations"),
        ({"policy": ["random", "expert"]}, "not trained"),
    ],
)
def test_nonsense_is_refused_before_anything_runs(changes: Mapping[str, object], message: str, tmp_path: Path) -> None:
    content = {"policy": "expert", "versus": None, "task": "cartpole", "episodes": 6, "margin": 0.0, "noise": 0.0}
    content |= {"envs": 3, "workers": 1, "check": "", "film": 0, "film_every": 3, "reward": "", **STEERING, **changes}
    with pytest.raises(ConfigError, match=message):
        command.main(content, tmp_path)


def test_a_refused_command_leaves_the_folder_as_it_was(tmp_path: Path, short: Task) -> None:
    content = {"policy": "random", "versus": None, "task": "cartpole", "episodes": 2, "margin": 0.0, "noise": 0.0}
    content |= {"envs": 2, "workers": 1, "check": "", "film": 0, "film_every": 3, "reward": "", **STEERING}
    path = place(tmp_path, "cartpole", "random", 0)
    Journal(path, {"policy": "random", "noise": 0.0, "task": "cartpole", "task_version": "of another day"})
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="something else"):
        command.main(content, tmp_path)
    with pytest.raises(ConfigError, match="policy=random"):
        command.main(content | {"policy": "expert", "task": "humanoid/standing"}, tmp_path)
    assert (tmp_path / "config.json").read_text() == "{}"
    assert not (tmp_path / "meta.json").exists()


def test_noise_is_that_of_the_expert_wherever_it_stands() -> None:
    config = command.EvaluateConfig(policy="random", versus="expert", noise=0.3)
    assert [one.candidates[0].noise for one in command.chosen(config).values()] == [0.0, 0.3]
