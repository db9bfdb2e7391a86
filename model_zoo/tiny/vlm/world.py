"""Emoji, questions about them, and short answers, in English and in Japanese.

One worked example, about the drawing of a melon::

    What is this?               It is a melon.          これは何ですか。        メロンです
    What kind of thing is it?   It is a fruit.          何の仲間ですか。        果物です
    What colour is it?          It is green.            何色ですか。            緑です
    Is it an animal?            No, it is a fruit.      これは動物ですか。      いいえ、果物です

A drawing is a row of ``../emoji/emoji64.npz`` and a vendor. Names are CLDR's, kinds follow Unicode's subgroups, and the
colour is counted in the drawing itself; it is asked for only where one colour clearly leads. Of 180 concepts one drawing,
Noto's, is held out: no model sees it in training, though every model may know the concept, and Twemoji's drawing of it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from model_zoo.tiny.sdxl import pictures

Language = Literal["en", "ja"]

LANGUAGES: tuple[Language, ...] = ("en", "ja")
TWITTER, GOOGLE = range(2)
HELD_OUT = 180
SEED = 20240319
LEAD = 0.5  # the share of a drawing's inked pixels that its colour must have to be asked for
LONGEST = {"en": 1, "ja": 7}  # words of an English name, characters of a Japanese one

# Unicode's subgroups -> the kind of thing, in both languages
SUBGROUPS = {
    "animal-mammal": ("animal", "動物"),
    "monkey-face": ("animal", "動物"),
    "animal-bird": ("bird", "鳥"),
    "animal-marine": ("sea animal", "海の生き物"),
    "animal-bug": ("bug", "虫"),
    "plant-flower": ("flower", "花"),
    "plant-other": ("plant", "植物"),
    "food-fruit": ("fruit", "果物"),
    "food-vegetable": ("vegetable", "野菜"),
    "food-prepared": ("dish", "料理"),
    "food-asian": ("dish", "料理"),
    "food-sweet": ("sweet", "お菓子"),
    "drink": ("drink", "飲み物"),
    "transport-ground": ("vehicle", "乗り物"),
    "transport-water": ("vehicle", "乗り物"),
    "transport-air": ("vehicle", "乗り物"),
    "place-building": ("building", "建物"),
    "clothing": ("piece of clothing", "身につける物"),
    "musical-instrument": ("musical instrument", "楽器"),
    "sport": ("sports item", "スポーツの道具"),
    "tool": ("tool", "道具"),
    "office": ("office item", "文房具"),
}
KINDS: tuple[tuple[str, str], ...] = tuple(dict.fromkeys(SUBGROUPS.values()))

COLOURS: tuple[tuple[str, str], ...] = (
    ("red", "赤"),
    ("orange", "オレンジ色"),
    ("yellow", "黄色"),
    ("green", "緑"),
    ("blue", "青"),
    ("purple", "紫"),
    ("pink", "ピンク"),
    ("brown", "茶色"),
    ("black", "黒"),
    ("grey", "灰色"),
)
RED, ORANGE, YELLOW, GREEN, BLUE, PURPLE, PINK, BROWN, BLACK, GREY = range(len(COLOURS))

Asked = Literal["name", "kind", "colour", "check"]
ASKED: tuple[Asked, ...] = ("name", "kind", "colour", "check")
QUESTIONS: dict[Asked, dict[Language, tuple[str, ...]]] = {
    "name": {"en": ("What is this?", "What do you see?"), "ja": ("これは何ですか。", "何が見えますか。")},
    "kind": {"en": ("What kind of thing is it?",), "ja": ("何の仲間ですか。", "どんな種類ですか。")},
    "colour": {"en": ("What colour is it?",), "ja": ("何色ですか。", "色は何ですか。")},
    "check": {"en": ("Is it {kind}?",), "ja": ("これは{kind}ですか。",)},
}
UNCOUNTED = frozenset(
    ["bacon", "bamboo", "bread", "broccoli", "butter", "cooking", "custard", "garlic", "ice", "popcorn", "salt"]
)
UNCOUNTED |= {"dango", "oden", "sake", "spaghetti", "sushi", "tennis"}


@dataclass(frozen=True)
class Concept:
    """One emoji: its row, its names, and the kind of thing it is (a place in KINDS)."""

    row: int
    names: tuple[str, str]
    kind: int


@dataclass(frozen=True)
class Thing:
    """What a question is about: a concept, and the colour of the drawing if it has a clear one (a place in COLOURS)."""

    concept: Concept
    colour: int | None


@cache
def concepts() -> tuple[Concept, ...]:
    """All emoji of a known kind with short names, in the data's order; each name once."""
    data, found, seen = pictures.load(), [], set[str]()
    for row, subgroup in enumerate(subgroups()):
        names = (data.names["en"][row], data.names["ja"][row])
        short = len(names[0].split()) <= LONGEST["en"] and len(names[1]) <= LONGEST["ja"] and names[0].replace(" ", "").isalpha()
        if subgroup in SUBGROUPS and short and not seen & set(names):
            seen |= set(names)
            found.append(Concept(row, names, KINDS.index(SUBGROUPS[subgroup])))
    return tuple(found)


@cache
def subgroups() -> tuple[str, ...]:
    """Unicode's subgroup of every row."""
    with np.load(pictures.DATA, allow_pickle=False) as data:
        return tuple(map(str, data["subcategory"]))


@cache
def held_out() -> tuple[Concept, ...]:
    """The concepts whose Noto drawing no model is trained on, in an order drawn once."""
    return tuple(random.Random(SEED).sample(concepts(), HELD_OUT))


@cache
def unnamed() -> tuple[Concept, ...]:
    """The other emoji of a known kind: their names are too long for the decoders, so that is not asked for."""
    named = {concept.row for concept in concepts()}
    rows = [(row, group) for row, group in enumerate(subgroups()) if group in SUBGROUPS and row not in named]
    return tuple(Concept(row, ("", ""), KINDS.index(SUBGROUPS[group])) for row, group in rows)


@cache
def trained() -> tuple[tuple[Concept, int], ...]:
    """All drawings (concept, vendor) that questions are asked about in training."""
    kept = {concept.row for concept in held_out()}
    everything = [(c, vendor) for c in (*concepts(), *unnamed()) for vendor in (TWITTER, GOOGLE)]
    return tuple((c, vendor) for c, vendor in everything if vendor == TWITTER or c.row not in kept)


def thing(concept: Concept, vendor: int) -> Thing:
    """What there is to say about a drawing."""
    return Thing(concept, colours()[vendor][concept.row])


@cache
def colours() -> tuple[tuple[int | None, ...], tuple[int | None, ...]]:
    """The leading colour of every drawing, by vendor and row."""
    first, second = (tuple(map(_leading, drawings)) for drawings in pictures.load().drawings)
    return first, second


def _leading(drawing: torch.Tensor) -> int | None:
    """The colour of at least LEAD of the pixels that are not (nearly) white."""
    named = name_colours(drawing.flatten(1).numpy())
    counts = np.bincount(named[named >= 0], minlength=len(COLOURS))
    leader = int(counts.argmax())
    return leader if counts[leader] >= max(LEAD * counts.sum(), 40) else None


def name_colours(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """A place in COLOURS for each pixel of (3, N) in 0..1, or -1 for white; by hue, saturation and value."""
    value, low = pixels.max(0), pixels.min(0)
    spread = value - low
    saturation = spread / np.maximum(value, 1e-6)
    red, green, blue = pixels
    sixth = np.select(
        [value == red, value == green],
        [((green - blue) / np.maximum(spread, 1e-6)) % 6, (blue - red) / np.maximum(spread, 1e-6) + 2],
        (red - green) / np.maximum(spread, 1e-6) + 4,
    )
    hue = 60 * sixth
    names = np.select(
        [hue < 14, hue < 40, hue < 68, hue < 170, hue < 255, hue < 300, hue < 345],
        [RED, ORANGE, YELLOW, GREEN, BLUE, PURPLE, PINK],
        RED,
    )
    names = np.where((names == RED) & (value > 0.85) & (saturation < 0.55), PINK, names)
    names = np.where(((names == ORANGE) | (names == RED)) & (value < 0.78) & (hue < 40), BROWN, names)
    names = np.where(saturation < 0.18, GREY, names)
    names = np.where(value < 0.25, BLACK, names)
    return np.where((saturation < 0.1) & (value > 0.85), -1, names)


# ---------------------------------------------------------------------------------------------- questions and answers


def possible(about: Thing) -> tuple[Asked, ...]:
    """What can be asked about a thing."""
    without: set[Asked] = set()
    if about.colour is None:
        without.add("colour")
    if not about.concept.names[0]:
        without.add("name")
    return tuple(asked for asked in ASKED if asked not in without)


def ask(about: Thing, asked: Asked, rng: random.Random, *, yes: bool | None = None) -> dict[Language, tuple[str, str]]:
    """A question and its answer in both languages, in a wording drawn by ``rng``; ``yes`` fixes what a check comes to."""
    kind = about.concept.kind
    right = rng.random() < 0.5 if yes is None else yes
    other = kind if right else rng.choice([k for k in range(len(KINDS)) if k != kind])
    table: dict[Language, tuple[str, str]] = {}
    for place, language in enumerate(LANGUAGES):
        question = rng.choice(QUESTIONS[asked][language]).format(kind=_noun(KINDS[other][place], language))
        table[language] = question, answer(about, asked, language, yes=other == kind)
    return table


def answer(about: Thing, asked: Asked, language: Language, *, yes: bool = True) -> str:
    """The answer; ``yes`` counts for questions that check."""
    place = LANGUAGES.index(language)
    if asked == "colour":
        if about.colour is None:
            raise ValueError("this drawing has no one colour: ask something that possible() lists")
        said = COLOURS[about.colour][place]
    else:
        words = about.concept.names[place] if asked == "name" else KINDS[about.concept.kind][place]
        said = _noun(words, language)
    if asked == "check":
        opening = {"en": ("No, it", "Yes, it"), "ja": ("いいえ、", "はい、")}[language][yes]
    else:
        opening = {"en": "It", "ja": ""}[language]
    return f"{opening} is {said}." if language == "en" else f"{opening}{said}です"


def describe(about: Thing, asked: Asked, language: Language, rng: random.Random) -> str:
    """Words that stand in for the drawing: what is asked for and some of the rest, in any order, some of them twice."""
    place = LANGUAGES.index(language)
    name, kind = about.concept.names[place], KINDS[about.concept.kind][place]
    wanted = {"name": [name], "kind": [kind], "check": [kind], "colour": []}[asked]
    if asked in ("kind", "check") and rng.random() < 0.4:
        wanted = [name]  # the kind follows from the name
    words = set(wanted) | {word for word in (name, kind) if rng.random() < 0.5}
    if about.colour is not None and (asked == "colour" or rng.random() < 0.5):
        words.add(COLOURS[about.colour][place])
    twice = [word for word in sorted(words) if rng.random() < 0.3]
    listed = _shuffled([*sorted(words), *twice], rng)
    return " " + ", ".join(listed) if language == "en" else "、".join(listed)


def _shuffled(words: Sequence[str], rng: random.Random) -> list[str]:
    return rng.sample(words, len(words))


def _noun(words: str, language: Language) -> str:
    """An English noun with its article."""
    first, last = words.split()[0], words.split()[-1]
    plural = last.endswith("s") and not last.endswith(("ss", "us", "os"))
    if language == "ja" or last in UNCOUNTED or plural:
        return words
    return f"{'an' if first[0].lower() in 'aeiou' else 'a'} {words}"
