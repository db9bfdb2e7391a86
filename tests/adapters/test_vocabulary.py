"""Vocabularies aligned by token: every token keeps its row, and what a parent lacks comes from where the rules say."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from evomm.adapters.vocabulary import AlignedReader, Alignment, align
from evomm.checkpoints.reader import DTYPES, Flat, MemoryReader, TensorReader
from evomm.errors import DamagedFile, MisfitError, MissingFile, UsageError
from evomm.merge.vocabulary import Token, Vocabulary
from tests.adapters.tokenizers_kit import (
    ENGLISH,
    JAPANESE,
    NAME,
    TEXTS,
    World,
    byte_fallback,
    byte_level,
    unigram,
    words,
    written,
)

DUTCH = ["een kat zat in het bos", "het bos was nat", "hallo, kat"]
UNION = Vocabulary(source="union")
INTERSECTION = Vocabulary(source="intersection")


def aligned(world: World, spec: Vocabulary, base: str | None = None) -> tuple[Alignment, dict[str, AlignedReader]]:
    """Both steps."""
    alignment = align(spec, world.folders, world.sizes, base)
    return alignment, world.aligned(alignment, spec)


def golden(world: World, alignment: Alignment, spec: Vocabulary, label: str) -> np.ndarray[Any, Any]:
    """The rules once more: token by token, over dicts."""
    vocabularies = {
        parent: {token: number for token, number in tokenizer.get_vocab().items() if number < world.sizes[parent]}
        for parent, tokenizer in world.tokenizers.items()
    }
    matrices = {parent: embedding.float().numpy() for parent, embedding in world.embeddings.items()}
    out = np.zeros((alignment.size, matrices[label].shape[1]), np.float32)
    filled = np.zeros(alignment.size, bool)
    for token, number in alignment.vocabulary.items():
        filled[number] = True
        having = [parent for parent in vocabularies if token in vocabularies[parent]]
        wanted = spec.tokens.get(token)
        if label in having and not (wanted and wanted.force):
            out[number] = matrices[label][vocabularies[label][token]]
        elif wanted and wanted.model:
            row = wanted.token_id
            out[number] = matrices[wanted.model][vocabularies[wanted.model][wanted.token or token] if row is None else row]
        elif wanted:
            out[number] = 0
        elif len(having) == 1 or alignment.base in having:
            parent = having[0] if len(having) == 1 else alignment.base
            assert parent is not None
            out[number] = matrices[parent][vocabularies[parent][token]]
        elif having:
            out[number] = np.mean([matrices[parent][vocabularies[parent][token]] for parent in having], axis=0)
    out[~filled] = out[filled].astype(np.float64).mean(0)
    return out


def check(world: World, spec: Vocabulary, base: str | None = None) -> Alignment:
    """Every parent's aligned rows are those of the rules."""
    alignment, readers = aligned(world, spec, base)
    for label, reader in readers.items():
        expected = golden(world, alignment, spec, label)
        np.testing.assert_allclose(reader.read(NAME).numpy(), expected, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(reader.read("lm_head.bias").numpy(), expected[:, 0], rtol=1e-6, atol=1e-7)
    return alignment


@pytest.fixture
def family(tmp_path: Path) -> World:
    """A base, one that learnt Japanese and chat tokens, a small one of another language; all with rows of padding."""
    base, chat, small = byte_level(), byte_level([*ENGLISH, *JAPANESE], 330), byte_level(DUTCH, 275)
    chat.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    chat.add_tokens(["猫語"])
    small.add_special_tokens(["<|small|>", "<|im_end|>"])
    base.add_special_tokens(["<|base|>"])
    return World(tmp_path, {"base": base, "chat": chat, "small": small}, padding=2)


@pytest.mark.parametrize("base", ["base", "small", None])
@pytest.mark.parametrize("source", ["union", "intersection", "base", "chat", "small"])
def test_every_row_is_the_one_of_its_token(family: World, source: str, base: str | None) -> None:
    alignment = check(family, Vocabulary(source=source, pad_to_multiple_of=16), base)
    assert written(alignment).get_vocab() == alignment.vocabulary
    assert alignment.size % 16 == 0
    assert alignment.carrier == (source if source in family.folders else base or "base")


def test_a_union_numbers_the_starts_tokens_then_ordinary_ones_then_added_ones(family: World) -> None:
    """As mergekit does, but by parent and id."""
    alignment = align(UNION, family.folders, family.sizes, "base")
    base, chat, small = ({**t.get_vocab()} for t in family.tokenizers.values())
    first = sorted(base, key=base.__getitem__)
    added = ["<|im_start|>", "<|im_end|>", "猫語", "<|small|>"]
    ordinary = [
        token for v in (chat, small) for token in sorted(v, key=v.__getitem__) if token not in base and token not in added
    ]
    expected = [*first, *dict.fromkeys(ordinary), *added]
    assert list(alignment.vocabulary.items()) == [(token, number) for number, token in enumerate(expected)]


def test_a_union_that_adds_ordinary_tokens_cuts_text_into_them(family: World) -> None:
    alignment = align(UNION, family.folders, family.sizes, "base")
    child = written(alignment)
    assert child.encode("こんにちは世界<|im_end|>").tokens == family.tokenizers["chat"].encode("こんにちは世界<|im_end|>").tokens
    for text in [*TEXTS, *DUTCH]:
        assert child.decode(child.encode(text).ids, skip_special_tokens=False) == text
        cuts, before = ({end for _, end in t.encode(text).offsets} for t in (child, family.tokenizers["base"]))
        assert cuts <= before or "<|im_start|>" in text, "what the base joins stays joined"


@pytest.mark.parametrize("kind", [byte_level, byte_fallback, unigram])
def test_a_union_that_adds_special_tokens_cuts_text_as_before(tmp_path: Path, kind: Any) -> None:
    plain = kind()
    chat = Tokenizer.from_str(plain.to_str())
    chat.add_special_tokens(["<|im_start|>"])
    chat.add_tokens([AddedToken("<b>", lstrip=True, normalized=False)])
    world = World(tmp_path, {"plain": plain, "chat": chat})
    alignment = check(world, UNION)
    child = written(alignment)
    assert [child.encode(text).tokens for text in TEXTS] == [chat.encode(text).tokens for text in TEXTS]
    assert alignment.identity("chat")
    assert not alignment.identity("plain")
    assert alignment.warnings == ()
    assert child.get_added_tokens_decoder() == chat.get_added_tokens_decoder()


def test_unigrams_unite(tmp_path: Path) -> None:
    ours, theirs = unigram(), unigram([*ENGLISH, *JAPANESE])
    ours.add_special_tokens(["<|a|>"])
    theirs.add_special_tokens(["<|b|>"])
    world = World(tmp_path, {"a": ours, "b": theirs})
    child = written(check(world, UNION, "a"))
    scores = {piece: score for tokenizer in (theirs, ours) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]}
    assert dict(json.loads(child.to_str())["model"]["vocab"]) == {"<|a|>": 0.0, "<|b|>": 0.0, **scores}
    assert child.encode("猫は 世界は猫でいっぱいだ").tokens == theirs.encode("猫は 世界は猫でいっぱいだ").tokens
    assert {"<|a|>", "<|b|>"} < set(child.encode("<|a|>hello<|b|>").tokens)
    small = written(check(world, INTERSECTION, "b"))
    assert small.decode(small.encode("the cat").ids) == "the cat"
    assert small.encode("the cat").ids[0] == small.token_to_id("<s>")


def test_an_intersection_still_reads_and_writes_any_text(family: World) -> None:
    alignment = check(family, INTERSECTION, "chat")
    child = written(alignment)
    assert sorted(alignment.vocabulary.values()) == list(range(len(alignment.vocabulary)))
    assert set(alignment.vocabulary) == set.intersection(*(set(t.get_vocab()) for t in family.tokenizers.values()))
    order = family.tokenizers["chat"].get_vocab()
    assert list(alignment.vocabulary) == sorted(alignment.vocabulary, key=order.__getitem__)
    for text in TEXTS:
        assert child.decode(child.encode(text).ids) == text


def test_an_intersection_renumbers_what_is_put_around_texts(tmp_path: Path) -> None:
    ours, theirs = words(["x", "<unk>", "<s>", "y"]), words(["<unk>", "y", "<s>", "z"])
    template = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    for tokenizer in (ours, theirs):
        tokenizer.post_processor = processors.Sequence([template, processors.ByteLevel()])
    ours.enable_padding(pad_id=2, pad_token="<s>")
    child = written(check(World(tmp_path / "1", {"a": ours, "b": theirs}), INTERSECTION))
    assert child.encode("y x").ids == [child.token_to_id(token) for token in ("<s>", "y", "<unk>")] == [1, 2, 0]
    assert (child.padding or {})["pad_id"] == 1
    ours.post_processor = processors.RobertaProcessing(("y", 3), ("<s>", 2))
    child = written(check(World(tmp_path / "2", {"a": ours, "b": theirs}), INTERSECTION))
    assert child.encode("x").ids == [1, 0, 2]


@given(data=st.data())
def test_any_vocabularies(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Ids in any order, tokens that some lack, rows that are too few or too many."""
    pool = [f"w{number}" for number in range(8)]
    tokenizers = {}
    for label in ("a", "b", "c"):
        chosen = data.draw(st.lists(st.sampled_from(pool), unique=True, min_size=1))
        vocabulary = data.draw(st.permutations(["<unk>", *chosen]))
        tokenizers[label] = words(vocabulary, data.draw(st.lists(st.sampled_from(["<|x|>", "<|y|>", "w0"]), unique=True)))
    world = World(tmp_path_factory.mktemp("world"), tokenizers)
    for label, tokenizer in tokenizers.items():
        least = tokenizer.get_vocab()["<unk>"] + 1  # a tokenizer needs its unknown token
        rows = data.draw(st.integers(least, world.sizes[label] + 2))
        world.sizes[label] = rows
        world.embeddings[label] = torch.randn(rows, 2, generator=torch.Generator().manual_seed(rows))
    spec = Vocabulary(
        source=data.draw(st.sampled_from(["union", "intersection", "a", "b", "c"])),
        tokens=data.draw(
            st.dictionaries(
                st.sampled_from(["w0", "<|x|>", "<|new|>"]),
                st.one_of(
                    st.builds(Token, zero=st.just(True), force=st.booleans()),
                    st.builds(Token, model=st.sampled_from("abc"), token_id=st.just(0), force=st.booleans()),
                    st.builds(Token, model=st.sampled_from("abc"), token=st.just("<unk>"), force=st.booleans()),
                ),
            )
        ),
        pad_to_multiple_of=data.draw(st.sampled_from([None, 1, 4])),
    )
    alignment = check(world, spec, data.draw(st.sampled_from([None, "a", "b"])))
    assert written(alignment).get_vocab() == alignment.vocabulary


@pytest.mark.parametrize("dtype", [d for d in DTYPES.values() if d.is_floating_point])
def test_pieces_are_slices_of_the_whole_and_dtypes_stay(family: World, dtype: torch.dtype) -> None:
    family.embeddings = {label: e.to(dtype if label == "small" else torch.float32) for label, e in family.embeddings.items()}
    spec = Vocabulary(source="union", pad_to_multiple_of=64)
    alignment, readers = aligned(family, spec, "chat")
    for label, reader in readers.items():
        whole, info = reader.read(NAME), reader.infos[NAME]
        assert (
            (whole.dtype, tuple(whole.shape)) == (info.dtype, info.shape) == (family.embeddings[label].dtype, (alignment.size, 3))
        )
        flat, bits = whole.reshape(-1).view(torch.uint8), whole.element_size()
        for start in range(0, info.numel, 97):
            piece = reader.flat(NAME)[start : start + 97]
            assert torch.equal(piece.view(torch.uint8), flat[start * bits : (start + 97) * bits])
        assert reader.flat(NAME)[5:5].numel() == 0
        assert torch.equal(reader.read("norm"), torch.ones(7))
        assert torch.equal(reader.flat("norm")[:], torch.ones(7))


class Pieces:
    """A reader that computes what is asked for and counts it."""

    def __init__(self, reader: TensorReader) -> None:
        self._reader = reader
        self.infos = reader.infos
        self.asked = 0

    def flat(self, name: str) -> Flat:
        """Pieces only."""
        outer, tensor = self, self._reader.read(name).reshape(-1)

        class _Flat:
            def __getitem__(self, part: slice) -> torch.Tensor:
                assert part.start is not None and part.stop is not None
                outer.asked += part.stop - part.start
                return tensor[part].clone()

        return _Flat()

    def read(self, name: str) -> torch.Tensor:
        """Never."""
        raise AssertionError(name)


def test_only_the_rows_needed_are_read(family: World) -> None:
    spec = Vocabulary(source="chat")
    alignment, readers = aligned(family, spec)
    lazy = {label: Pieces(reader) for label, reader in family.readers.items()}
    reader = AlignedReader("base", lazy, alignment, spec, {NAME: 0})
    assert torch.equal(reader.flat(NAME)[30:36], readers["base"].read(NAME).reshape(-1)[30:36])
    assert sum(part.asked for part in lazy.values()) == 6
    assert torch.equal(reader.read(NAME), readers["base"].read(NAME))


def test_a_mean_is_rounded_once(tmp_path: Path) -> None:
    """To the parent's bfloat16, after the mean: rounded before it, 1 + 1/256 would be 1."""
    world = World(tmp_path, {"a": words(["<unk>"]), **{label: words(["<unk>", "w"]) for label in "bcd"}}, width=1)
    values = {"a": [0.0], "b": [0.0, 1 + 1 / 256], "c": [0.0, 1 + 1 / 256], "d": [0.0, 1 + 2 / 256]}
    world.embeddings = {label: torch.tensor(value).view(-1, 1) for label, value in values.items()}
    world.embeddings["a"] = world.embeddings["a"].bfloat16()
    alignment, readers = aligned(world, UNION)
    mean = readers["a"].read(NAME)[alignment.vocabulary["w"]]
    assert (mean.dtype, mean.item()) == (torch.bfloat16, 1 + 1 / 128)


def test_a_token_can_be_replaced_in_parents_that_have_it(tmp_path: Path) -> None:
    world = World(tmp_path, {"a": words(["<unk>", "x"]), "b": words(["<unk>", "x"])})
    alignment, readers = aligned(world, UNION)
    assert all(alignment.identity(label) for label in world.folders)
    assert torch.equal(readers["a"].read(NAME), world.embeddings["a"])
    forced = Vocabulary(source="union", tokens={"x": Token(zero=True, force=True)})
    alignment, readers = aligned(world, forced)
    assert not alignment.identity("a")
    assert torch.equal(readers["a"].read(NAME), world.embeddings["a"] * torch.tensor([[1.0], [0.0]]))


def test_a_tensor_that_some_parents_lack_is_aligned_among_the_others(tmp_path: Path) -> None:
    """A head that one parent ties to its embedding."""
    world = World(tmp_path, {"a": words(["<unk>", "x"]), "b": words(["<unk>", "y"])})
    readers = {"a": MemoryReader({NAME: world.embeddings["a"], "head": world.embeddings["a"]}), "b": world.readers["b"]}
    spec = Vocabulary(source="union", tokens={"y": Token(model="b")})
    for wanted in (UNION, spec):
        alignment = align(wanted, world.folders, world.sizes)
        reader = AlignedReader("a", readers, alignment, wanted, {NAME: 0, "head": 0})
        assert torch.equal(reader.read(NAME)[2], world.embeddings["b"][1])
        if wanted is UNION:
            assert torch.equal(reader.read("head")[2], torch.zeros(3))
        else:
            with pytest.raises(MisfitError, match="'y' comes from 'b', which has no tensor 'head'"):
                reader.read("head")


# What mergekit 0.1.5 writes for parents with rows (8i + 1 + k, i + 16k + 16), k = 0, 1, 2, and weights 1, 64, 4096.
LISTS = {
    "a": words(["<unk>", "x", "y", "z"]),
    "b": words(["y", "<unk>", "w", "x"], ["<|im|>"]),
    "c": words(["w", "v", "<unk>", "z", "u"], ["<|im|>", "<|c|>"]),
}
SHARED = {"v": [45771.0, 203889.0], "u": [145635.0, 216372.0], "<|c|>": [212211.0, 224694.0], "w": [13450.5, 198825.0]}
WITH_BASE = {"<unk>": [78465.0, 206928.0], "x": [38537.0, 71889.0], "y": [69777.0, 75794.0], "z": [112217.0, 210131.0]}
CHAT = {"<|im|>": [178342.5, 219436.5]}
PEER = {
    "union, a base": (UNION, "a", {**SHARED, **WITH_BASE, **CHAT}, [99378.4453125, 180884.28125]),
    "union": (
        UNION,
        None,
        {**SHARED, **WITH_BASE, **CHAT, "x": [73353.0, 108753.0], "y": [39057.0, 104466.0], "z": [112281.0, 211155.0]},
        [99840.6640625, 188279.828125],
    ),
    "tokens": (
        Vocabulary(
            source="union",
            tokens={
                "<|im|>": Token(model="b"),
                "x": Token(model="c", token="u", force=True),
                "y": Token(zero=True),
                "<|n|>": Token(model="b", token_id=2),
            },
        ),
        "a",
        {
            **SHARED,
            **WITH_BASE,
            "x": [145635.0, 216372.0],
            "y": [145.0, 2066.0],
            "<|im|>": [178338.0, 219428.0],
            "<|n|>": [74898.0, 141474.0],
        },
        None,
    ),
}


@pytest.mark.parametrize("case", PEER)
def test_what_mergekit_writes(tmp_path: Path, case: str) -> None:
    spec, base, rows, padding = PEER[case]
    spec = spec.model_copy(update={"pad_to_multiple_of": 4 if padding else None})
    world = World(tmp_path, LISTS)
    for k, (label, embedding) in enumerate(world.embeddings.items()):
        ids = torch.arange(float(len(embedding)))
        world.embeddings[label] = torch.stack([8 * ids + 1 + k, ids + 16 * k + 16], 1)
    alignment, readers = aligned(world, spec, base)
    merged = sum(weight * readers[label].read(NAME) for label, weight in (("a", 1), ("b", 64), ("c", 4096)))
    assert isinstance(merged, torch.Tensor)
    assert {token: merged[number].tolist() for token, number in alignment.vocabulary.items()} == rows
    if padding:
        assert alignment.size == 12
        torch.testing.assert_close(merged[9:], torch.tensor([padding] * 3))


def bpe(like: Tokenizer, tokens: Iterable[str], merges: list[tuple[str, str]]) -> Tokenizer:
    """BPE of these tokens, with the other rules of another tokenizer."""
    tokenizer = Tokenizer.from_str(like.to_str())
    tokenizer.model = models.BPE({token: number for number, token in enumerate(tokens)}, merges)
    return Tokenizer.from_str(tokenizer.to_str())  # added tokens find their new ids when they are read


def framed(token: str) -> Tokenizer:
    """Words, with a token before every text."""
    tokenizer = words(["<unk>", token])
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{token} $A", special_tokens=[(token, 1)])
    return tokenizer


BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
UNALIGNABLE = {
    "spelling": (byte_level(), unigram(), UNION, r"'b' spells tokens otherwise than 'a' \(metaspace against byte-level\)"),
    "spelling still": (byte_level(), unigram(), INTERSECTION, "tokens that are spelled alike do not mean the same"),
    "kind": (unigram(), bpe(unigram(), ["a"], []), UNION, "type BPE, 'a' one of type Unigram, and no tokenizer is both"),
    "unknown": (words(["<unk>", "x"]), words(["x"]), INTERSECTION, r"needs 1 token.* first is '<unk>' \(stands for"),
    "bytes": (byte_level(), bpe(byte_level(), BYTES[:-2], []), INTERSECTION, r"needs 2 token.* first is 'ł' \(a byte"),
    "byte fallback": (
        byte_fallback(),
        bpe(byte_fallback(), ["<unk>"], []),
        INTERSECTION,
        r"256 .* first is '<0x00>' \(a byte",
    ),
    "frame": (framed("<s>"), words(["<unk>"]), INTERSECTION, r"the first is '<s>' \(put around every text\)"),
    "nothing": (bpe(Tokenizer(models.BPE()), "x", []), bpe(Tokenizer(models.BPE()), "y", []), INTERSECTION, "no token in common"),
}


@pytest.mark.parametrize("case", UNALIGNABLE)
def test_what_cannot_be_aligned_says_why(tmp_path: Path, case: str) -> None:
    ours, theirs, spec, said = UNALIGNABLE[case]
    world = World(tmp_path, {"a": ours, "b": theirs})
    with pytest.raises(MisfitError, match=said):
        align(spec, world.folders, world.sizes)


def with_x(tokenizer: Tokenizer, special: bool) -> Tokenizer:
    """With the token <|x|>, which may be special."""
    tokenizer.add_tokens([AddedToken("<|x|>", special=special, normalized=False)])
    return tokenizer


def lower(tokenizer: Tokenizer) -> Tokenizer:
    """Without upper case."""
    tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


MERGES = [("a", "t"), ("h", "e")]
ODD = {
    "rules": (byte_level(), lower(byte_level()), UNION, "'b' has another normalizer than 'a'"),
    "order": (
        bpe(byte_level(), [*BYTES, "at", "he"], MERGES),
        bpe(byte_level(), [*BYTES, "at", "he"], MERGES[::-1]),
        UNION,
        "'b' joins letters in another order than 'a'",
    ),
    "flags": (with_x(byte_level(), True), with_x(byte_level(), False), UNION, r"'b' adds the token '<\|x\|>' with other flags"),
    "few": (
        words(["<unk>", *(f"a{n}" for n in range(20))]),
        words(["<unk>", *(f"b{n}" for n in range(20))]),
        UNION,
        "'b' and 'a' share 4.8% of the smaller vocabulary",
    ),
    "spelling": (byte_level(), bpe(unigram(), BYTES, []), Vocabulary(source="a"), "'b' spells tokens otherwise than 'a'"),
    "kind": (unigram(), bpe(unigram(), unigram().get_vocab(), []), INTERSECTION, "type BPE.*the child cuts text as 'a'"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_is_odd_is_told(tmp_path: Path, case: str) -> None:
    ours, theirs, spec, said = ODD[case]
    (warning,) = check(World(tmp_path, {"a": ours, "b": theirs}), spec).warnings
    assert re.search(said, warning), warning


def test_tokens_without_a_row_do_not_count(tmp_path: Path) -> None:
    world = World(tmp_path, {"a": words(["<unk>", "x", "y"]), "b": words(["<unk>", "y"], ["<|b|>"])})
    world.embeddings = {label: embedding[:2] for label, embedding in world.embeddings.items()}
    world.sizes = dict.fromkeys(world.sizes, 2)
    alignment = check(world, UNION)
    assert list(alignment.vocabulary) == ["<unk>", "x", "y"]
    assert [warning.split(";")[0] for warning in alignment.warnings] == [
        "'a' has 1 token(s) without a row in its embedding, the first is 'y'",
        "'b' has 1 token(s) without a row in its embedding, the first is '<|b|>'",
    ]


def test_ids_may_have_gaps(tmp_path: Path) -> None:
    """The library would number an added token after two pieces as 2; rows that no token has are padding."""
    gaps = Tokenizer(models.WordLevel({"<unk>": 0, "x": 5}, unk_token="<unk>"))
    world = World(tmp_path, {"a": gaps, "b": words(["<unk>", "x"], ["<|b|>"])}, padding=4)
    for spec in (UNION, Vocabulary(source="a", tokens={"<|b|>": Token(model="b")})):
        alignment = check(world, spec)
        assert written(alignment).get_vocab() == {"<unk>": 0, "x": 5, "<|b|>": 6}
        assert alignment.size == 7
    assert check(world, INTERSECTION).vocabulary == {"<unk>": 0, "x": 1}


def test_merges_to_tokens_without_a_row_are_left_out(tmp_path: Path) -> None:
    ours = bpe(byte_level(), [*BYTES, "at"], [("a", "t")])
    theirs = bpe(byte_level(), [*BYTES, "he", "the", "at"], [("h", "e"), ("t", "he"), ("a", "t")])
    world = World(tmp_path, {"a": ours, "b": theirs})
    world.embeddings["b"] = world.embeddings["b"][:257]
    world.sizes["b"] = 257
    child = json.loads(written(check(world, UNION)).to_str())
    assert child["model"]["merges"] == [["a", "t"], ["h", "e"]]
    assert json.loads(written(check(world, Vocabulary(source="b"))).to_str())["model"]["merges"] == [["h", "e"]]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"source": "unoin"}, "source is 'unoin', expected union, intersection or a parent's label; did you mean 'union'?"),
        ({"source": "union", "tokens": {"x": {"model": "aa"}}}, "'x' comes from 'aa', no parent; did you mean 'a'?"),
        ({"source": "union", "tokens": {"z": {"model": "a"}}}, "'z' comes from 'z' of 'a', which has no such token"),
        (
            {"source": "union", "tokens": {"z": {"model": "a", "token": "w"}}},
            "'z' comes from 'w' of 'a', which has no such token",
        ),
        ({"source": "union", "tokens": {"z": {"model": "a", "token_id": 2}}}, "comes from row 2 of 'a', which has rows 0 to 1"),
    ],
)
def test_a_spec_that_names_what_is_not_there(tmp_path: Path, spec: Any, said: str) -> None:
    world = World(tmp_path, {"a": words(["<unk>", "x"]), "b": words(["<unk>"])})
    with pytest.raises(UsageError, match=re.escape(said)):
        align(Vocabulary.model_validate(spec), world.folders, world.sizes)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"source": "union", "tokens": {"x": {}}}, "expected either `model: LABEL` or `zero: true`, got neither"),
        ({"source": "union", "tokens": {"x": {"zero": True, "model": "a"}}}, "got both"),
        ({"source": "union", "tokens": {"x": {"model": "a", "token": "y", "token_id": 1}}}, "give one of them"),
        ({"source": "union", "tokens": {"x": {"zero": True, "token_id": 1}}}, "zeros come from no token"),
        ({"source": "union", "tokens": {"x": {"model": "a", "token_id": -1}}}, "greater than or equal to 0"),
        ({"source": "union", "tokens": {"": {"zero": True}}}, "a token of no characters"),
        ({"source": "union", "pad_to_multiple_of": 0}, "greater than or equal to 1"),
    ],
)
def test_a_spec_that_cannot_be(spec: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Vocabulary.model_validate(spec)


def test_tensors_that_cannot_be_aligned(tmp_path: Path) -> None:
    world = World(tmp_path, {"a": words(["<unk>", "x"]), "b": words(["<unk>", "y"])})
    alignment = align(UNION, world.folders, world.sizes)

    def reader(ours: torch.Tensor, theirs: torch.Tensor, axis: int = 0) -> AlignedReader:
        return AlignedReader(
            "a", {"a": MemoryReader({"e": ours}), "b": MemoryReader({"e": theirs})}, alignment, UNION, {"e": axis}
        )

    with pytest.raises(MisfitError, match="'e' has tokens on axis 1"):
        reader(torch.ones(2, 3), torch.ones(2, 3), axis=1)
    with pytest.raises(MisfitError, match=r"'e' of 'b' has shape \[2, 4\], expected \[2, 3\]"):
        reader(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(MisfitError, match=r"'e' of 'a' has shape \[5, 3\], expected \[2, 3\]"):
        reader(torch.ones(5, 3), torch.ones(2, 3))
    with pytest.raises(MisfitError, match="quantised"):
        reader(torch.ones(2, 3, dtype=torch.int8), torch.ones(2, 3))


def test_a_tokenizer_json_that_cannot_be_read(tmp_path: Path) -> None:
    world = World(tmp_path, {"a": words(["<unk>", "x"]), "b": words(["<unk>", "y"])})
    path = world.folders["b"] / "tokenizer.json"
    twice = path.read_text().replace('"y": 1', '"y": 0')
    for text, said in [(twice, "some tokens share one id"), ("{", "not a tokenizer"), ("\udcff", "cannot be read as text")]:
        path.write_text(text, errors="surrogateescape")
        with pytest.raises(DamagedFile, match=said):
            align(UNION, world.folders, world.sizes)
    path.unlink()
    with pytest.raises(MissingFile, match=r"b.tokenizer\.json: no such file.*save_pretrained"):
        align(UNION, world.folders, world.sizes)
