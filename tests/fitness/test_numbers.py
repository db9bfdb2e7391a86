"""Reading numbers as people write them."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomm.fitness.numbers import last_number
from evomm.fitness.table import load_task

FULL_WIDTH = str.maketrans("0123456789,-./", "０１２３４５６７８９，－．／")
TRAILING = ["", "。", ".", "円", "円です。", "個です！", " apples.", "%", " m", "km/h", "**", "）", "\n", "、となります", "$"]
LEADING = ["", "答えは", "= ", "The answer is ", "1 + 2 = ", "(", "＝", "$", "¥", "10月5日:"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234", 1234),
        ("１，２３４", 1234),
        ("-5", -5),
        ("−５", -5),
        ("△3", -3),
        ("3/4", Fraction(3, 4)),
        ("-3/4", Fraction(-3, 4)),
        ("14/7=?。答えは?本です。", 7),
        ("３／４", Fraction(3, 4)),
        ("¾", Fraction(3, 4)),
        ("3.5", Fraction(7, 2)),
        ("1,234.50", Fraction(2469, 2)),
        ("5万", 50_000),
        ("1億2,000万", 120_000_000),
        ("3千5百", 3_500),
        ("3百万", 3_000_000),
        ("1.5万", 15_000),
        ("5万3000円", 53_000),
        ("2兆", 2 * 10**12),
        ("15-8=7", 7),
        ("15-8", 8),
        ("(15)-8", 8),
        ("x-8", 8),
        ("15 - 8 = 7なので、7個です。", 7),
        ("1,000、2,000", 2_000),
        ("5/0", 0),
        ("25m²", 25),
        ("25cm³", 25),
        ("25㎡", 25),
        ("25 ㎥です", 25),
        ("12,34", 34),
        ("1,2345", 2345),
        ("7.", 7),
        ("7.0", 7),
        ("first 3, then 4", 4),
        ("", None),
        ("答えはありません。", None),
        ("千円", None),
    ],
)
def test_numbers_are_read_as_they_are_meant(text: str, value: Fraction | int | None) -> None:
    assert last_number(text) == value


@given(st.integers(-(10**15), 10**15), st.sampled_from(LEADING), st.sampled_from(TRAILING), st.booleans(), st.booleans())
def test_any_integer_is_read_back(value: int, before: str, after: str, commas: bool, wide: bool) -> None:
    printed = f"{value:,}" if commas else str(value)
    assert last_number(before + (printed.translate(FULL_WIDTH) if wide else printed) + after) == value


@given(st.decimals(-(10**6), 10**6, places=3), st.sampled_from(LEADING), st.sampled_from(TRAILING))
def test_any_decimal_is_read_back_exactly(value: float, before: str, after: str) -> None:
    assert last_number(f"{before}{value}{after}") == Fraction(str(value))


@given(st.text())
def test_any_text_is_read_without_complaint(text: str) -> None:
    last_number(text)


def test_every_reference_of_mgsm_is_read_right() -> None:
    """The published parser takes 23 of these 250 wrong."""
    examples = load_task("mgsm-ja").examples("test")
    assert len(examples) == 250
    assert [e.answer for e in examples if last_number(e.answer) != int(e.answer.replace(",", ""))] == []
    assert any("," in e.answer for e in examples)
