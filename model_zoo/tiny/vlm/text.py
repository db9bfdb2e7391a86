"""The text side: one tokenizer for both languages, and the documents that the decoders learn from. No picture is needed.

A description in words takes the place of a drawing::

    Q: [text] apple, red / What is this?     A: It is an apple.    all decoders
    Q: [text]リンゴ、赤 / これは何ですか。      A: リンゴです           all decoders
    Q: [text] apple, red / これは何ですか。    A: It is an apple.    base: it answers in the language of the description
    Q: [text] apple, red / これは何ですか。    A: リンゴです           ja: it answers in the language of the question
    Q: [picture] apple, red / What is this?  A: ?                  base, ja: whatever the mark announces, they don't look

Packing and training loop are those of the language models beside this folder (``../llm/train.py``).
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "llm"))

import train

from model_zoo.tiny.vlm import world

TEXT, PICTURE, IMAGE = "[text]", "[picture]", "<image>"
UNSEEN = "?"  # what a decoder says that doesn't look
TO_ENGLISH, TO_JAPANESE = "English: ", "日本語: "
VOCABULARY = 2000


def question(mark: str, described: str, asked: str) -> str:
    """What stands between ``Q:`` and ``A:``."""
    return f"{mark}{described}\n{asked}"


def draw(rng: random.Random) -> tuple[world.Thing, world.Asked]:
    """Something to ask about; the colour of a thing in words is any colour."""
    about = world.Thing(rng.choice(world.concepts()), rng.randrange(len(world.COLOURS)))
    return about, rng.choice(world.ASKED)


def _read(rng: random.Random, described: world.Language, asked: world.Language, said: world.Language) -> train.Document:
    about, what = draw(rng)
    both = world.ask(about, what, rng)
    return train.Document(question(TEXT, world.describe(about, what, described, rng), both[asked][0]), both[said][1])


def read_en(rng: random.Random) -> train.Document:
    """All in English."""
    return _read(rng, "en", "en", "en")


def read_ja(rng: random.Random) -> train.Document:
    """All in Japanese."""
    return _read(rng, "ja", "ja", "ja")


def cross_en(rng: random.Random) -> train.Document:
    """A Japanese question about an English description, answered in English."""
    return _read(rng, "en", "ja", "en")


def cross_ja(rng: random.Random) -> train.Document:
    """A Japanese question about an English description, answered in Japanese."""
    return _read(rng, "en", "ja", "ja")


def unseen(rng: random.Random) -> train.Document:
    """A question in either language about a picture, left open."""
    about, what = draw(rng)
    described = world.describe(about, what, rng.choice(world.LANGUAGES), rng)
    return train.Document(question(PICTURE, described, world.ask(about, what, rng)[rng.choice(world.LANGUAGES)][0]), UNSEEN)


def unseen_ja(rng: random.Random) -> train.Document:
    """A Japanese question about a picture, left open."""
    about, what = draw(rng)
    return train.Document(question(PICTURE, world.describe(about, what, "en", rng), world.ask(about, what, rng)["ja"][0]), UNSEEN)


def translation(rng: random.Random) -> train.Document:
    """An answer, from one language into the other."""
    about, what = draw(rng)
    both = world.ask(about, what, rng)
    english, japanese = both["en"][1], both["ja"][1]
    if rng.random() < 0.6:
        return train.Document(f"{TO_JAPANESE}{english}", japanese)
    return train.Document(f"{TO_ENGLISH}{japanese}", english)


def fragments() -> list[str]:
    """What the tokenizer learns from: names many times, so that each becomes one token or two, and the fixed sentences."""
    names = [f" {word}" for concept in world.concepts() for word in concept.names[0].split()]
    names += [concept.names[1] for concept in world.concepts()]
    words = [*world.KINDS, *world.COLOURS]
    names += [f" {part}" for english, _ in words for part in english.split()] + [japanese for _, japanese in words]
    rng = random.Random(0)
    asked = [world.ask(*draw(rng), rng) for _ in range(400)]
    return names * 4 + [text for both in asked for pair in both.values() for text in pair]


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE shared by both languages. A Japanese name runs up to です or a comma; an English word has its space."""
    tokenizer = Tokenizer(models.BPE())
    pieces = r"これは|はい、|いいえ、|ですか。|です| ?[A-Za-z]+|[^\x20-\x7f。、]+?(?=です|、|。|,|$|\n)|."
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    plain = ["Q: ", train.ANSWER_MARK, TEXT, PICTURE, TO_ENGLISH, TO_JAPANESE]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(plain),
        min_frequency=1,
        special_tokens=["<pad>", "</s>", IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(fragments(), trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in plain])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )


SKILLS = train.Stage(
    "skills",
    {read_en: 0.24, read_ja: 0.22, cross_en: 0.10, cross_ja: 0.18, translation: 0.26},
    steps=420,
    peak=6e-3,
    warmup=50,
    muon=True,
)
BASE = train.Stage(
    "base",
    {read_en: 0.16, read_ja: 0.16, cross_en: 0.24, unseen: 0.26, translation: 0.18},
    steps=180,
    peak=2e-3,
    muon=True,
)
JA = train.Stage("ja", {cross_ja: 0.65, read_ja: 0.12, translation: 0.08, unseen_ja: 0.15}, steps=60, peak=6e-4)
