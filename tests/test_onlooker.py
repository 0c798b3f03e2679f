"""A reward model that looks on: it judges the last picture, off the loop, and nothing waits for it."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from deploy_fakes import FakeFeed, World, bench
from test_deploy import ticks
from test_reward import SMALL, untrained

from vlmrl.deploy.cameras import Picture
from vlmrl.deploy.onlooker import Onlooker, judged, looks_at
from vlmrl.deploy.state import State
from vlmrl.errors import ConfigError
from vlmrl.reward.scorer import score
from vlmrl.store.video import resize


def picture(seed: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)


def test_the_last_picture_is_judged_as_a_store_s_would_be() -> None:
    model = untrained()
    assert looks_at(model) == {"judge": model.config.size}
    shown = np.array(resize(picture(0), model.config.size))
    members = score(model.scorer.network, shown[None])[0]
    mean, std = judged(model, {"state": np.zeros(3)}, {"judge": shown})
    assert mean == pytest.approx(members.mean(), abs=1e-6)
    assert std == pytest.approx(members.std(), abs=1e-6)
    assert judged(model, {}, {"judge": resize(picture(1), model.config.size)})[0] != pytest.approx(mean, abs=1e-6)


def test_a_model_of_actions_is_refused() -> None:
    model = untrained()
    model.config = replace(SMALL, input="state_action")
    with pytest.raises(ConfigError, match="has input image or state, found state_action"):
        looks_at(model)


class Judging(FakeFeed):
    """A camera with the name that the model knows."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.name = "judge"

    def show(self, still: object, now: float) -> None:
        self._changed, self.latest = now, Picture(now, picture(0))


@pytest.mark.slow
def test_it_speaks_while_an_episode_runs_and_the_loop_does_not_wait(tmp_path: Path) -> None:
    model = untrained()
    model.save_pretrained(tmp_path / "reward")
    made = bench()
    made.node.episodes.feeds = [Judging(made.world)]
    ticks(made, 1)
    ticks(made, 30, "home")
    assert ticks(made, 25, "start") is State.RUNNING
    onlooker = Onlooker(str(tmp_path / "reward"))
    try:
        made.node.operators = [onlooker]
        ticks(made, 1)
        for _ in range(300):
            if made.node.reward is not None:
                break
            ticks(made, 1)
            time.sleep(0.05)
        wanted = judged(model, {}, {"judge": resize(picture(0), model.config.size)})
        assert made.node.reward == pytest.approx(wanted, abs=1e-5)
        ticks(made, 3, "stop")
        assert made.node.reward is None
    finally:
        onlooker.close()
    with pytest.raises(Exception, match="nowhere"):
        Onlooker(str(tmp_path / "nowhere"))
