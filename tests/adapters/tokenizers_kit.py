"""Small tokenizers of several kinds, and parents that have them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

from evomm.adapters.vocabulary import AlignedReader, Alignment
from evomm.checkpoints.reader import MemoryReader, TensorReader
from evomm.merge.vocabulary import Vocabulary

NAME = "model.embed_tokens.weight"
ENGLISH = ["the cat sat on the mat", "hello world, hello cat", "the world is flat"]
JAPANESE = ["こんにちは世界", "世界は猫でいっぱいだ", "猫は hello と言った"]
TEXTS = [*ENGLISH, *JAPANESE, "an unseen: 東京 \n 🙂 <|im_start|>user", " spaced  out "]


def byte_level(texts: Iterable[str] = ENGLISH, size: int = 290, special: Sequence[str] = ("<s>", "</s>")) -> Tokenizer:
    """BPE on bytes, as GPT-2's descendants have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=[*special], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def byte_fallback(texts: Iterable[str] = ENGLISH, size: int = 60) -> Tokenizer:
    """BPE on letters, with ▁ for spaces and bytes for letters that it does not know, as Llama 2 has it."""
    letters = Tokenizer(models.BPE(unk_token="<unk>"))
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    letters.pre_tokenizer = metaspace
    letters.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, show_progress=False))
    trained = json.loads(letters.to_str())["model"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *trained["vocab"]]
    ids = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    merges = [(left, right) for left, right in trained["merges"]]
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = metaspace
    strip = decoders.Strip(content=" ", left=1)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def unigram(texts: Iterable[str] = ENGLISH) -> Tokenizer:
    """SentencePiece's other kind, with ▁ for spaces: the letters and words of the texts, longer ones likelier by letter."""
    spelled = [f"▁{word}" for text in texts for word in text.split()]
    pieces = dict.fromkeys([*(letter for word in spelled for letter in word), *spelled])
    scored = [(piece, -4.0 - len(piece) / 8) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *scored], 0, False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def words(vocabulary: Sequence[str], special: Sequence[str] = ()) -> Tokenizer:
    """One token per word, in the order given."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([*special])
    return tokenizer


class World:
    """Parents on disk, each with a random embedding, two rows of padding included unless told otherwise."""

    def __init__(self, root: Path, tokenizers: Mapping[str, Tokenizer], width: int = 3, padding: int = 0) -> None:
        self.tokenizers = tokenizers
        self.folders = {label: root / label for label in tokenizers}
        self.embeddings: dict[str, Tensor] = {}
        for seed, (label, tokenizer) in enumerate(tokenizers.items()):
            self.folders[label].mkdir(parents=True, exist_ok=True)
            tokenizer.save(str(self.folders[label] / "tokenizer.json"))
            rows = tokenizer.get_vocab_size() + padding
            self.embeddings[label] = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
        self.sizes = {label: len(embedding) for label, embedding in self.embeddings.items()}

    @property
    def readers(self) -> Mapping[str, TensorReader]:
        """The parents' tensors: the embedding, a head's bias, and one tensor that has nothing to do with tokens."""
        return {
            label: MemoryReader({NAME: embedding, "lm_head.bias": embedding[:, 0].contiguous(), "norm": torch.ones(7)})
            for label, embedding in self.embeddings.items()
        }

    def aligned(self, alignment: Alignment, spec: Vocabulary) -> dict[str, AlignedReader]:
        """The parents, aligned."""
        names = {NAME: 0, "lm_head.bias": 0}
        return {label: AlignedReader(label, self.readers, alignment, spec, names) for label in self.folders}


def written(alignment: Alignment) -> Tokenizer:
    """The child's tokenizer."""
    return Tokenizer.from_str(json.dumps(alignment.tokenizer))
