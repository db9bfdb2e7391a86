"""Telling languages apart, as the score of an answer demands it."""

import pytest

from evomm.fitness.language import probability

JAPANESE = "りんごが5個あり、3個食べたので、残りは2個です。"
ENGLISH = "There were five apples and three were eaten, so two are left."


def test_languages_are_told_apart() -> None:
    assert probability(JAPANESE, "ja") > 0.9
    assert probability(JAPANESE, "en") < 0.1
    assert probability(ENGLISH, "en") > 0.8
    assert probability(ENGLISH, "ja") < 0.1


def test_an_answer_of_several_lines_is_one_text() -> None:
    assert probability("まず、5個あります。\n\n次に、3個食べます。\r\n答えは2個です。\n", "ja") > 0.9


@pytest.mark.parametrize("text", ["", " ", "\n\t", "　"])
def test_a_blank_answer_is_in_no_language(text: str) -> None:
    assert probability(text, "ja") == 0.0


def test_long_answers_count_to_their_end() -> None:
    assert probability(ENGLISH + JAPANESE * 40, "ja") > 0.5


@pytest.mark.parametrize("text", ["42", "!!!", "\x00", "a\x00b"])
def test_odd_answers_get_a_probability(text: str) -> None:
    assert 0.0 <= probability(text, "ja") <= 1.0
