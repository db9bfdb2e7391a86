"""A world of short arithmetic word problems, told in English and in Japanese from one abstract problem.

One worked example, of the two-step kind ``get_give`` with the numbers (8, 7, 6)::

    Ken has 8 apples. Ken gets 7 more. Ken gives 6 to Mari. How many apples are left?
    8+7=15, 15-6=9. The answer is 9 apples.        (solved)
    8+7=?, ?-6=?. The answer is ? apples.          (open: the working is set up, nothing is computed)

    ケンはりんごを8個持っています。7個もらいました。マリに6個あげました。残りは何個ですか。
    8+7=15, 15-6=9。答えは9個です。                 (solved)
    8+7=?, ?-6=?。答えは?個です。                   (open)

Twelve kinds (eight of one step, four of two), twelve names, thirteen things with their Japanese counters, whole numbers
from 2 to 50 (shares start from up to 81). The answer never equals a number of the question, so neither copying nor an
open answer is right by luck. A hash of the abstract problem holds out a tenth of all problems, in both languages.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Language = Literal["en", "ja"]

LANGUAGES: tuple[Language, ...] = ("en", "ja")
LARGEST = 50  # no result is larger, and no given number but the one that is shared out
HELD_OUT_ONE_IN = 10

NAMES: tuple[tuple[str, str], ...] = (
    ("Ken", "ケン"),
    ("Mari", "マリ"),
    ("Taro", "太郎"),
    ("Hana", "花子"),
    ("Yuki", "ユキ"),
    ("Jun", "ジュン"),
    ("Emi", "エミ"),
    ("Sota", "ソウタ"),
    ("Rina", "リナ"),
    ("Goro", "五郎"),
    ("Aya", "アヤ"),
    ("Nao", "ナオ"),
)

THINGS: tuple[tuple[str, str, str], ...] = (  # English, Japanese, counter
    ("apples", "りんご", "個"),
    ("eggs", "卵", "個"),
    ("books", "本", "冊"),
    ("notebooks", "ノート", "冊"),
    ("pencils", "鉛筆", "本"),
    ("flowers", "バラ", "本"),
    ("stamps", "切手", "枚"),
    ("plates", "皿", "枚"),
    ("goldfish", "金魚", "匹"),
    ("chicks", "ひよこ", "羽"),
    ("letters", "手紙", "通"),
    ("chairs", "椅子", "脚"),
    ("bikes", "自転車", "台"),
)


@dataclass(frozen=True)
class Kind:
    """One kind of problem: its operators, applied left to right, and its two tellings.

    In the tellings ``{a} {b} {c}`` are the numbers, ``{A} {B}`` two people, ``{x}`` the thing and ``{k}`` its counter.
    """

    operators: str
    en: str
    ja: str


KINDS: dict[str, Kind] = {
    "get": Kind(
        "+",
        "{A} has {a} {x}. {A} gets {b} more. How many {x} does {A} have now?",
        "{A}は{x}を{a}{k}持っています。{b}{k}もらいました。今は何{k}ですか。",
    ),
    "give": Kind(
        "-",
        "{A} has {a} {x}. {A} gives {b} to {B}. How many {x} are left?",
        "{A}は{x}を{a}{k}持っています。{B}に{b}{k}あげました。残りは何{k}ですか。",
    ),
    "together": Kind(
        "+",
        "{A} has {a} {x}. {B} has {b} {x}. How many {x} do they have together?",
        "{A}は{x}を{a}{k}、{B}は{b}{k}持っています。合わせて何{k}ですか。",
    ),
    "difference": Kind(
        "-",
        "{A} has {a} {x}. {B} has {b} {x}. How many more {x} does {A} have?",
        "{A}は{x}を{a}{k}、{B}は{b}{k}持っています。{A}は何{k}多いですか。",
    ),
    "boxes": Kind(
        "*",
        "{A} has {a} boxes. Each box holds {b} {x}. How many {x} does {A} have?",
        "{A}は箱を{a}箱持っています。どの箱にも{x}が{b}{k}入っています。全部で何{k}ですか。",
    ),
    "days": Kind(
        "*",
        "{A} buys {a} {x} every day. How many {x} does {A} buy in {b} days?",
        "{A}は{x}を毎日{a}{k}買います。{b}日で何{k}買いますか。",
    ),
    "share": Kind(
        "/",
        "{A} shares {a} {x} equally among {b} friends. How many {x} does each friend get?",
        "{A}は{x}{a}{k}を友達{b}人で同じ数ずつ分けます。一人何{k}ですか。",
    ),
    "need": Kind(
        "-",
        "{A} wants {a} {x}. {A} has {b} {x}. How many more {x} does {A} need?",
        "{A}は{x}が{a}{k}ほしいです。今{b}{k}持っています。あと何{k}いりますか。",
    ),
    "get_give": Kind(
        "+-",
        "{A} has {a} {x}. {A} gets {b} more. {A} gives {c} to {B}. How many {x} are left?",
        "{A}は{x}を{a}{k}持っています。{b}{k}もらいました。{B}に{c}{k}あげました。残りは何{k}ですか。",
    ),
    "give_lose": Kind(
        "--",
        "{A} has {a} {x}. {A} gives {b} to {B}. {A} loses {c}. How many {x} are left?",
        "{A}は{x}を{a}{k}持っています。{B}に{b}{k}あげました。{c}{k}なくしました。残りは何{k}ですか。",
    ),
    "boxes_give": Kind(
        "*-",
        "{A} has {a} boxes. Each box holds {b} {x}. {A} gives {c} to {B}. How many {x} are left?",
        "{A}は箱を{a}箱持っています。どの箱にも{x}が{b}{k}入っています。{B}に{c}{k}あげました。残りは何{k}ですか。",
    ),
    "days_get": Kind(
        "*+",
        "{A} buys {a} {x} every day for {b} days. {A} gets {c} more. How many {x} does {A} have now?",
        "{A}は{x}を毎日{a}{k}、{b}日買いました。{c}{k}もらいました。今は何{k}ですか。",
    ),
}

_APPLY: dict[str, Callable[[int, int], int]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left // right,
}


@dataclass(frozen=True)
class Problem:
    """An abstract problem: what is common to its two tellings."""

    kind: str
    who: int
    friend: int
    thing: int
    numbers: tuple[int, ...]

    @property
    def results(self) -> tuple[int, ...]:
        """The result of each step; the last one is the answer."""
        return _results(KINDS[self.kind].operators, self.numbers)

    @property
    def answer(self) -> int:
        """The number asked for."""
        return self.results[-1]

    @property
    def held_out(self) -> bool:
        """Whether the hash keeps this problem for evaluation; no model is ever trained on it."""
        key = f"{self.kind}/{self.who}/{self.friend}/{self.thing}/{self.numbers}"
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % HELD_OUT_ONE_IN == 0

    def question(self, language: Language) -> str:
        """The problem as told in one language."""
        kind, index = KINDS[self.kind], LANGUAGES.index(language)
        numbers = dict(zip("abc", self.numbers, strict=False))
        return (kind.en if language == "en" else kind.ja).format(
            A=NAMES[self.who][index],
            B=NAMES[self.friend][index],
            x=THINGS[self.thing][index],
            k=THINGS[self.thing][2],
            **numbers,
        )

    def solved(self, language: Language) -> str:
        """The reference answer: the working, then one sentence with the result."""
        return f"{self.working()}{closing(language, self.thing, str(self.answer))}"

    def open(self, language: Language) -> str:
        """The answer with the working set up and every result left as a question mark."""
        unknown = ("?",) * len(self.results)
        return f"{self._steps(unknown)}{closing(language, self.thing, '?')}"

    def working(self) -> str:
        """The computation alone, such as ``8+7=15, 15-6=9``."""
        return self._steps(tuple(str(result) for result in self.results))

    def expression(self) -> str:
        """The computation as one expression, such as ``8+7-6``."""
        operators = KINDS[self.kind].operators
        pairs = zip(operators, self.numbers[1:], strict=True)
        return str(self.numbers[0]) + "".join(f"{operator}{number}" for operator, number in pairs)

    def _steps(self, results: tuple[str, ...]) -> str:
        lefts = (str(self.numbers[0]), *results[:-1])
        steps = zip(lefts, KINDS[self.kind].operators, self.numbers[1:], results, strict=True)
        return ", ".join(f"{left}{operator}{right}={result}" for left, operator, right, result in steps)


def closing(language: Language, thing: int | None, number: str) -> str:
    """The sentence that ends an answer, with the stop that ends the working before it; a bare number has no thing."""
    if language == "en":
        return f". The answer is {number}." if thing is None else f". The answer is {number} {THINGS[thing][0]}."
    return f"。答えは{number}{'' if thing is None else THINGS[thing][2]}です。"


def sample(rng: random.Random, *, held_out: bool, kind: str | None = None) -> Problem:
    """Draw a problem from the held-out tenth or from the rest; the kind is drawn too unless it is given."""
    while True:
        name = kind if kind is not None else rng.choice(list(KINDS))
        numbers = sample_numbers(rng, KINDS[name].operators)
        who, friend = rng.sample(range(len(NAMES)), 2)
        if "{B}" not in KINDS[name].en:
            friend = 0  # nobody else in the story: one abstract problem, not eleven
        problem = Problem(name, who, friend, rng.randrange(len(THINGS)), numbers)
        if problem.held_out == held_out:
            return problem


def sample_numbers(rng: random.Random, operators: str) -> tuple[int, ...]:
    """Draw numbers for which every result lies in 2..50 and the answer is none of them."""
    while True:
        numbers = [*_first_pair(rng, operators[0]), *(rng.randint(2, 15) for _ in operators[1:])]
        results = _results(operators, tuple(numbers))
        if all(2 <= result <= LARGEST for result in results) and results[-1] not in numbers:
            return tuple(numbers)


def fragments() -> Iterator[str]:
    """What the tokenizer learns from: the fixed text between the slots, the names and the things, each by itself.

    Learning from whole sentences would glue a name to the particle after it, and one person would become many tokens.
    """
    for kind in KINDS.values():
        for text in (kind.en, kind.ja):
            yield from (piece for piece in re.split(r"何?\{\w\}", text) if piece)
    for english, japanese in NAMES:
        yield from (english, f" {english}", japanese)
    for english, japanese, counter in THINGS:
        yield from (f" {english}", japanese, counter, f"何{counter}")
    for language in LANGUAGES:
        yield from re.split(r"[#@]", closing(language, 0, "#").replace("個", "@").replace(" apples", "@"))


def _first_pair(rng: random.Random, operator: str) -> tuple[int, int]:
    if operator == "*":
        return rng.randint(2, 9), rng.randint(2, 9)
    if operator == "/":
        share, friends = rng.randint(2, 9), rng.randint(2, 9)
        return share * friends, friends
    return rng.randint(2, LARGEST), rng.randint(2, 15)


def _results(operators: str, numbers: tuple[int, ...]) -> tuple[int, ...]:
    results, total = [], numbers[0]
    for operator, number in zip(operators, numbers[1:], strict=True):
        total = _APPLY[operator](total, number)
        results.append(total)
    return tuple(results)
