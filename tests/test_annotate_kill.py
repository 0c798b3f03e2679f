"""kill -9 against a real server: `transformers serve` with a local model, in its own process."""

import importlib.util

import kill_label
import pytest


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("uvicorn") is None, reason="needs the extra 'serve'")
def test_no_committed_answer_is_asked_again_after_a_kill(tmp_path):
    figures = kill_label.run(tmp_path, pairs=40, concurrency=4)
    assert 20 <= figures.committed_at_kill < 40
    assert figures.committed_asked_again == 0
    assert figures.seen_twice <= 4
    assert figures.seen_more_often == figures.never_seen == 0
    assert figures.answers == figures.questions == 40
