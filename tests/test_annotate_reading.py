"""Answers are read strictly, and their probabilities from the tokens that say them."""

import math

import numpy as np
import pytest

from vlmrl.annotate.reading import Token, read, read_progress, read_score, read_yes
from vlmrl.types import Frame, Kind, Query, Verdict

FRAMES = tuple(Frame("e", i, "c") for i in range(4))


def about(kind, count=2):
    return Query(kind, FRAMES[:count], "open it")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("yes", True),
        ("No.", False),
        ("**Yes**", True),
        ("Yes, the drawer is open", True),
        ("True", True),
        ('{"answer": "no"}', False),
        ('```json\n{"answer": true}\n```', True),
        ("<think>no, wait</think> yes", True),
        ("Yes and no", None),
        ("No. I mean yes.", None),
        ("The answer is yes", None),
        ("nothing", None),
        ("yesterday", None),
        ('{"open": "yes"}', None),
        ("", None),
    ],
)
def test_yes_is_said_first_and_not_taken_back(text, said):
    assert read_yes(text) is said


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("0.7", 0.7),
        ("1", 1.0),
        (".25", 0.25),
        ("Score: 0.4", 0.4),
        ("It is half open.\n0.5", 0.5),
        ('{"score": 0.3}', 0.3),
        ("-1", Verdict.UNSURE),
        ("1. It is closed.\n2.\n0.2", 0.2),
        ("0.7 or so", None),
        ("70%", None),
        ("1.5", None),
        ("0.2\n0.3", None),
        ("2", None),
    ],
)
def test_a_score_stands_alone_and_is_between_0_and_1(text, score):
    assert read_score(text) == score


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("1: 10\n2: 55\n3: 100", (0.1, 0.55, 1.0)),
        ("Here you are.\n[2]: 55%\n[1] = 10 %\n[3]: 99.5", (0.1, 0.55, 0.995)),
        ("Picture 1: 0\nPicture 2: 5\nPicture 3: 7", (0.0, 0.05, 0.07)),
        ('{"1": 10, "3": 30, "2": 20}', (0.1, 0.2, 0.3)),
        ('{"answer": [10, 20, 30]}', (0.1, 0.2, 0.3)),
        ("[10, 20, 30]", (0.1, 0.2, 0.3)),
        ("1: 10\n2: 20", None),
        ("1: 10\n2: 20\n3: 30\n4: 40", None),
        ("1: 10\n2: 20\n2: 30\n3: 1", None),
        ("1: 10\n2: 20\n3: 130", None),
        ("10\n20\n30", None),
        ('{"1": "far", "2": 1, "3": 2}', None),
        ("I cannot tell.", None),
    ],
)
def test_progress_names_every_picture_once(text, shares):
    assert read_progress(text, 3) == shares


def test_of_a_cut_text_only_a_leading_yes_counts():
    assert read(about(Kind.SUCCESS, 1), "Yes, because the", cut=True).answer is True
    assert read(about(Kind.PREFERENCE), "1", cut=True).answer is None
    assert read(about(Kind.SCORE, 1), "0.9", cut=True).answer is None
    assert read(about(Kind.PROGRESS, 2), "1: 30", cut=True).answer is None
    assert read(about(Kind.PROGRESS, 2), "1: 30").answer == (0.3,)


def test_the_probability_is_that_of_the_digit_at_its_place():
    tokens = [
        Token("1", {"1": 0.9, "2": 0.1}),  # numbers a point of the analysis
        Token(". It is closed.\n", {}),
        Token("Answer: ", {}),
        Token("0", {"0": 0.6, " 0": 0.1, "1": 0.2, "-": 0.1}),
    ]
    found = read(about(Kind.PREFERENCE), "1. It is closed.\nAnswer: 0", tokens=tokens)
    assert found.answer is Verdict.A_BETTER
    assert found.probability == pytest.approx(0.7 / 0.9)


def test_a_minus_in_a_token_of_its_own_is_no_one():
    tokens = [Token("-", {"-": 0.8, "0": 0.15, "1": 0.05}), Token("1", {"1": 1.0})]
    found = read(about(Kind.PREFERENCE), "-1", tokens=tokens)
    assert found.answer is Verdict.UNSURE
    assert found.probability == pytest.approx(0.75)


@pytest.mark.parametrize(
    "parts", [('{"answer": ', "}"), ('{\n  "answer": ', "\n}"), ('```json\n{\n"label":', "\n}\n```")]
)
def test_the_digit_of_json_has_its_probability_on_one_line_or_several(parts):
    tokens = [Token(parts[0], {}), Token("1", {"1": 0.6, "0": 0.4}), Token(parts[1], {})]
    found = read(about(Kind.PREFERENCE), "".join(t.text for t in tokens), tokens=tokens)
    assert (found.answer, found.probability) == (Verdict.B_BETTER, pytest.approx(0.4))


def test_what_is_not_listed_is_at_most_as_likely_as_the_least_that_is():
    tokens = [Token("1", {"1": 0.95, "One": 0.04}, floor=0.01)]
    assert read(about(Kind.PREFERENCE), "1", tokens=tokens).probability == pytest.approx(0.01 / 0.96)
    assert read(about(Kind.PREFERENCE), "1", tokens=[]).probability is None
    assert read(about(Kind.PREFERENCE), "1", tokens=[Token("1", {"1": 0.01})]).probability is None


def test_yes_in_all_its_spellings_against_no():
    likely = {"Yes": 0.5, " yes": 0.1, "No": 0.3, "no": 0.1}
    found = read(about(Kind.SUCCESS, 1), "Yes", tokens=[Token("Yes", likely)])
    assert (found.answer, found.probability) == (True, pytest.approx(0.6))
    quoted = [Token('{"answer": "', {}), Token("yes", likely), Token('"}', {})]
    assert read(about(Kind.SUCCESS, 1), '{"answer": "yes"}', tokens=quoted).probability == pytest.approx(0.6)


def test_swapping_the_digits_probabilities_swaps_the_label():
    generator = np.random.default_rng(0)
    for p in generator.random(20):
        one = read(about(Kind.PREFERENCE), "0", tokens=[Token("0", {"0": p, "1": 1 - p})]).probability
        other = read(about(Kind.PREFERENCE), "1", tokens=[Token("1", {"1": p, "0": 1 - p})]).probability
        assert math.isclose(one + other, 1)
