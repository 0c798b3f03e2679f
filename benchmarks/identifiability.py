"""What preferences can tell: a corridor whose best policy regret reveals and partial return does not.

    python benchmarks/identifiability.py

Three rooms in a row. `stay` costs 0.2, `go` costs 0.5 and leads to the next room, from the last one out, which ends the
task. Going is best (discount 0.9: -1.36 against -2 for staying for ever). A judge compares single steps, without error
and without end: every pair with its exact probability. It compares either rewards (partial return) or optimal
advantages (regret), as in Knox et al. 2022, and each kind of label is learned under each preference model.
Rewards of single steps stay unknown up to a constant, and with it the task changes: whoever is paid for every step
stays for ever. Advantages have their zero: the best action's. Then the same for corridors with other costs, from other
first numbers, with exact probabilities and with a hundred answers to each question.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float64

from vlmrl.reward.losses import bradley_terry

ROOMS, STAY, GO = 3, 0, 1
DISCOUNT = 0.9
ALPHA = 0.1
"""Temperature of the judge, and of the policy that its advantages belong to."""
TASKS = 20
ANSWERS = 100
"""Drawn for each pair."""
REWARD = np.tile([-0.2, -0.5], (ROOMS, 1))
"""Of each action in each room."""

Table = Float64[np.ndarray, "rooms 2"]


def advantages(reward: Table, *, alpha: float = 0.0) -> Table:
    """Optimal advantages of a reward, by value iteration; with alpha > 0 those of the entropy-regularised optimum."""
    value, action_value = np.zeros(ROOMS + 1), reward
    for _ in range(2_000):
        soft = alpha * np.logaddexp.reduce(action_value / alpha, axis=1) if alpha else action_value.max(1)
        value[:-1] = soft
        action_value = reward + DISCOUNT * np.stack([value[:-1], value[1:]], axis=1)
    return action_value - value[:-1, None]


def policy(reward: Table) -> list[int]:
    """The best action in each room."""
    return advantages(reward).argmax(1).tolist()


@dataclass(frozen=True)
class Learned:
    """What a preference model made of labels."""

    reward: Table
    log_loss: float
    """On the labels it was trained on, whose probabilities are exact."""


def learn(
    truth: Table, *, model: str, answers: int | None = None, generator: np.random.Generator | None = None
) -> Learned:
    """Fit a table of numbers to the preferences between single steps that `truth` gives rise to.

    `partial_return`: numbers are free. `regret`: they are alpha times the log-probabilities of a policy. So many
    `answers` are drawn for each pair; None gives the exact probabilities. Without a generator the first numbers are 0.
    """
    pairs = torch.tensor(list(combinations(range(truth.size), 2)))
    values = torch.from_numpy(truth.flatten())
    p_a = torch.sigmoid((values[pairs[:, 0]] - values[pairs[:, 1]]) / ALPHA)
    table = torch.zeros(ROOMS, 2, dtype=torch.float64)
    if generator is not None:
        table = torch.from_numpy(generator.normal(size=table.shape))
        p_a = p_a if answers is None else torch.from_numpy(generator.binomial(answers, p_a.numpy()) / answers)
    table.requires_grad_()
    optimiser = torch.optim.LBFGS([table], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def numbers() -> torch.Tensor:
        return table if model == "partial_return" else ALPHA * torch.log_softmax(table, dim=1)

    def loss() -> torch.Tensor:
        score = numbers().flatten() / ALPHA
        return bradley_terry(score[pairs[:, 0]] - score[pairs[:, 1]], p_a).mean()

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)  # pyright: ignore[reportArgumentType]
    return Learned(numbers().detach().numpy(), float(loss().detach()))


def corridor(generator: np.random.Generator) -> Table:
    """Costs of other steps, with which it is still best to go everywhere."""
    while True:
        reward = -np.stack([generator.uniform(0.1, 0.4, ROOMS), generator.uniform(0.1, 0.8, ROOMS)], axis=1)
        if policy(reward) == [GO] * ROOMS:
            return reward


def recovered(model: str, *, answers: int | None) -> int:
    """In how many corridors the labels that a model is right about lead to the best policy."""
    count = 0
    for seed in range(TASKS):
        generator = np.random.default_rng(seed)
        reward = corridor(generator)
        truth = reward if model == "partial_return" else advantages(reward, alpha=ALPHA)
        count += policy(learn(truth, model=model, answers=answers, generator=generator).reward) == [GO] * ROOMS
    return count


def main() -> None:
    print(f"true reward: best policy {named(policy(REWARD))}\n")
    print(f"{'labels compare':20} {'learned as':16} {'log-loss':>9}  policy of the learned numbers, as a reward")
    for labels, truth in (("partial return", REWARD), ("regret", advantages(REWARD, alpha=ALPHA))):
        for model in ("partial_return", "regret"):
            found = learn(truth, model=model)
            print(f"{labels:20} {model:16} {found.log_loss:9.4f}  {named(policy(found.reward))}")
    print("\nLearned as partial return, numbers are known up to a constant. With the same log-loss:")
    for labels, truth in (("partial return", REWARD), ("regret", advantages(REWARD, alpha=ALPHA))):
        found = learn(truth, model="partial_return")
        for constant in (-0.4, -0.2, 0.0, 0.2, 0.4):
            print(f"  {labels} {constant:+.1f}: {named(policy(found.reward + constant))}")
    print(f"\nCorridors of {TASKS} in which the best policy was found, each model from the labels that it is made for:")
    for answers in (None, ANSWERS):
        found = {model: recovered(model, answers=answers) for model in ("partial_return", "regret")}
        print(f"  {answers or 'exact'} answers a pair: {found}", flush=True)


def named(actions: list[int]) -> str:
    """A policy in words."""
    return ", ".join(["stay", "go"][action] for action in actions)


if __name__ == "__main__":
    main()
