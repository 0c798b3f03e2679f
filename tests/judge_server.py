"""A chat completions server on loopback behind which no VLM stands, but a rule: the built-in judge, or brightness.

It finds goal and question in the texts of conf/prompt by their own words and answers by rules that are written below,
so that whole labeling jobs can run without a model; its name says so. `python tests/judge_server.py --port 8123` starts
it, `--bias 0.4` adds as much to the logit of whichever picture is shown first, as VLMs do.
"""

import argparse
import base64
import io
import math
import re
import time

import numpy as np
from fake_server import Answer, has_picture, serve
from PIL import Image

from vlmrl.encoder import DualEncoder

NAME = "built-in-judge-not-a-vlm"
REST = "a robot that has not begun to work"
GOAL = re.compile(
    r"(?:goal is|this task|following task(?: is completed)?|task been completed|goal has been reached)"
    r"(?::| \()\s*(.+?)(?:\.\s|\.$|\?|\)|$)",
    re.MULTILINE,
)


class Rules:
    """Finds what is asked and answers from `scores(urls, sentence)`; the first of two gets `bias` on its logit."""

    bias = 0.0

    def scores(self, urls, sentence):
        raise NotImplementedError

    def __call__(self, request, number):
        parts = request["messages"][0]["content"]
        text = "\n".join(p["text"] for p in parts if p["type"] == "text")
        goal = GOAL.search(text)
        goal = goal[1] if goal else ""
        if not has_picture(request):
            return self.label(request, text)
        if "number: percent" in text:
            return self.progress(request, parts, goal)
        urls = [p["image_url"]["url"] for p in parts if p["type"] == "image_url"]
        if "yes or no" in text:
            # One picture against a sentence about nothing done, several: the last against the first.
            last = self.scores(urls[-1:], goal)[0]
            start = self.scores(urls[:1], goal)[0] if len(urls) > 1 else self.scores(urls[-1:], REST)[0]
            return choice(request, {"Yes": sigmoid(last - start), "No": 1 - sigmoid(last - start)})
        if "scale from 0 to 1" in text:
            value = f"{sigmoid(self.scores(urls, goal)[0] - self.scores(urls, REST)[0]):.3f}"
            one = "last line" in text
            return Answer(value if one else f"By its cosine with the sentence the number is {value}")
        p = sigmoid(self.side(parts, goal, first=True) - self.side(parts, goal, first=False) + self.bias)
        return self.verdict(request, p) if "last line" in text else Answer(f"By the cosines p(first) = {p:.6f}")

    def label(self, request, text):
        """The second stage, which sees no picture: read the number that the first one wrote."""
        analysis = text.partition("<<<")[2].partition(">>>")[0]
        if "p(first)" in analysis:
            return self.verdict(request, float(re.search(r"p\(first\) = ([\d.]+)", analysis)[1]))
        return Answer(re.search(r"number is ([\d.]+)", analysis)[1])

    def verdict(self, request, p):
        return choice(request, {"0": p, "1": 1 - p})

    def side(self, parts, goal, *, first):
        """Mean score of the pictures before, or behind, the words that begin the second side."""
        second, urls = False, []
        for part in parts:
            if part["type"] == "text":
                second = second or "Second" in part["text"] or "second clip:" in part["text"]
            elif second != first:
                urls.append(part["image_url"]["url"])
        return float(self.scores(urls, goal).mean())

    def progress(self, request, parts, goal):
        """Percent of the way from the beginning's score to the best of these pictures; below the beginning 0."""
        urls = [p["image_url"]["url"] for p in parts if p["type"] == "image_url"]
        scores = self.scores(urls, goal)
        way = scores[1:] - scores[0]
        percent = 100 * np.clip(way / max(way.max(), 1e-6), 0, 1)
        return Answer("\n".join(f"{i}: {round(p)}" for i, p in enumerate(percent.tolist(), 1)))


class Judge(Rules):
    """Scores are the judge's cosines with the sentence, in units of its own temperature."""

    def __init__(self, checkpoint="seen", bias=0.0):
        self.encoder, self.bias, self.known = DualEncoder.load(checkpoint, device="cpu"), bias, {}
        facts = self.encoder.facts
        self.temperature = float(facts.get("temperature_unseen") or 1 / self.encoder.logit_scale)

    def scores(self, urls, sentence):
        for url in set(urls) - set(self.known):
            self.known[url] = self.encoder.images(decoded(url)[None])[0].astype(np.float32)
        text = self.encoder.texts([sentence])[0]
        return np.array([float(self.known[url] @ text) for url in urls]) / self.temperature


class Brightness(Rules):
    """Brighter is better, whatever the sentence; at rest a scene is half bright."""

    def __init__(self, bias=0.0, unit=16.0):
        self.bias, self.unit = bias, unit

    def scores(self, urls, sentence):
        bright = np.array([decoded(url).mean() for url in urls])
        return (np.full(len(urls), 127.5) if sentence == REST else bright) / self.unit


def decoded(url):
    raw = base64.b64decode(url.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))


def choice(request, likely):
    """A one-token answer, with probabilities where they are asked for."""
    text = max(likely, key=likely.get)
    listed = [{"token": t, "logprob": math.log(max(p, 1e-9)), "bytes": None} for t, p in likely.items()]
    listed.sort(key=lambda one: -one["logprob"])
    logprobs = {"content": [{**listed[0], "top_logprobs": listed}]} if request.get("logprobs") else None
    return Answer(body=body(request, text, logprobs))


def body(request, text, logprobs=None, *, finish="stop", model=None, fingerprint="fp_judge"):
    message = {"role": "assistant", "content": text, "refusal": None}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model or request["model"],
        "system_fingerprint": fingerprint,
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": logprobs}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010},
    }


def sigmoid(x):
    return 1 / (1 + math.exp(min(max(-x, -700.0), 700.0)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="seen")
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--bias", type=float, default=0.0)
    given = parser.parse_args()
    with serve(Judge(given.checkpoint, given.bias), port=given.port) as server:
        print(f"{NAME} at {server.url}", flush=True)
        while True:
            time.sleep(3600)
