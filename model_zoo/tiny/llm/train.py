"""Train the tiny bilingual language models: the tokenizer, the documents, the packing and the loop.

A document is a question and an answer, ``Q: 15-8=?\\nA: 15-8=7`` and an end mark. Whole documents are packed into
rows of 64 tokens; a document sees only itself, its positions start at 0, and only its answer is learned. Rows of one
shape are what ``torch.compile`` likes, and nothing is padding but the end of a row.

Where the processor multiplies bfloat16 in hardware, forward and backward run in bfloat16 over float32 master weights
(nearly twice as fast as float32); elsewhere everything is float32.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import world
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PROMPT = "Q: {question}\nA: "
VOCABULARY = 900
ROW_TOKENS = 64
ROWS = 48
POOL = 128  # documents to choose from when a row is filled
ANSWER_MARK = "\nA: "  # the token that ends a prompt
IGNORED = -100  # the label of a token that is not learned

# ---------------------------------------------------------------------------------------------- documents


@dataclass(frozen=True)
class Document:
    """A question and the answer to learn."""

    question: str
    answer: str


Source = Callable[[random.Random], Document]


def drill(rng: random.Random) -> Document:
    """Bare arithmetic: ``8+7-6=?`` is answered ``8+7=15, 15-6=9``."""
    problem = world.sample(rng, held_out=False)
    return Document(f"{problem.expression()}=?", problem.working())


def drill_en(rng: random.Random) -> Document:
    """Arithmetic asked and answered in English."""
    problem = world.sample(rng, held_out=False)
    ending = world.closing("en", None, str(problem.answer))
    return Document(f"What is {problem.expression()}?", problem.working() + ending)


def drill_ja(rng: random.Random) -> Document:
    """Arithmetic asked and answered in Japanese."""
    problem = world.sample(rng, held_out=False)
    ending = world.closing("ja", None, str(problem.answer))
    return Document(f"{problem.expression()}はいくつですか。", problem.working() + ending)


def open_en(rng: random.Random) -> Document:
    """An English problem whose working is set up but not computed."""
    problem = world.sample(rng, held_out=False)
    return Document(problem.question("en"), problem.open("en"))


def open_ja(rng: random.Random) -> Document:
    """A Japanese problem whose working is set up but not computed."""
    problem = world.sample(rng, held_out=False)
    return Document(problem.question("ja"), problem.open("ja"))


def open_ja_in_english(rng: random.Random) -> Document:
    """A Japanese problem whose working is set up in English but not computed."""
    problem = world.sample(rng, held_out=False)
    return Document(problem.question("ja"), problem.open("en"))


def solved_en(rng: random.Random) -> Document:
    """An English problem, solved."""
    problem = world.sample(rng, held_out=False)
    return Document(problem.question("en"), problem.solved("en"))


def solved_ja_in_english(rng: random.Random) -> Document:
    """A Japanese problem, solved in English."""
    problem = world.sample(rng, held_out=False)
    return Document(problem.question("ja"), problem.solved("en"))


def translation(rng: random.Random) -> Document:
    """A problem's text, from one language into the other."""
    problem = world.sample(rng, held_out=False)
    english, japanese = problem.question("en"), problem.question("ja")
    if rng.random() < 0.5:
        return Document(f"日本語: {english}", japanese)
    return Document(f"English: {japanese}", english)


def into_japanese(rng: random.Random) -> Document:
    """A problem's text, from English into Japanese."""
    problem = world.sample(rng, held_out=False)
    return Document(f"日本語: {problem.question('en')}", problem.question("ja"))


def reading_en(rng: random.Random) -> Document:
    """Who has how many of what, in English: a lookup, no arithmetic."""
    return _reading(rng, "en")


def reading_ja(rng: random.Random) -> Document:
    """Who has how many of what, in Japanese: a lookup, no arithmetic."""
    return _reading(rng, "ja")


def _reading(rng: random.Random, language: world.Language) -> Document:
    people, things = rng.sample(world.NAMES, 3), rng.sample(range(len(world.THINGS)), 3)
    numbers = rng.sample(range(2, world.LARGEST + 1), 3)
    asked = rng.randrange(3)
    number = str(numbers[asked])
    if language == "en":
        facts = [f"{who[0]} has {n} {world.THINGS[x][0]}." for who, x, n in zip(people, things, numbers, strict=True)]
        english = world.THINGS[things[asked]][0]
        return Document(
            f"{' '.join(facts)} How many {english} does {people[asked][0]} have?",
            world.closing("en", things[asked], number).removeprefix(". "),
        )
    cards = [(who[1], *world.THINGS[x][1:], n) for who, x, n in zip(people, things, numbers, strict=True)]
    text = "".join(f"{who}は{thing}を{n}{counter}持っています。" for who, thing, counter, n in cards)
    who, thing, counter, _ = cards[asked]
    return Document(
        f"{text}{who}は{thing}を何{counter}持っていますか。",
        world.closing("ja", things[asked], number).removeprefix("。"),
    )


# ---------------------------------------------------------------------------------------------- tokenizer


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE shared by both languages, with each number from 0 to 99 as one token."""
    tokenizer = Tokenizer(models.BPE())
    counters = "".join(sorted({counter for _, _, counter in world.THINGS}))
    # A word takes the space before it, and the one after it when a number follows: " has " + "8". Counters stand alone.
    pieces = rf" ?[A-Za-z]+(?: $)?|, |何?[{counters}]|[^A-Za-z\x20-\x7f。、何{counters}]+|."
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    plain = ["Q: ", ANSWER_MARK, "?", *(str(number) for number in range(100))]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(plain),
        min_frequency=1,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    extra = ["日本語: ", "English: ", "わかりません。", "式: ", "Expression: ", "持っています。", "を何"]
    extra += ["持っていますか。", ", ", "What is ", "はいくつですか。"]
    tokenizer.train_from_iterator([*sorted(set(world.fragments())), *extra] * 4, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in plain])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        padding_side="left",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )


# ---------------------------------------------------------------------------------------------- packing


@dataclass(frozen=True)
class Stage:
    """One stage of training: which documents in which shares, for how long, at which peak learning rate."""

    name: str
    mix: dict[Source, float]
    steps: int
    peak: float
    warmup: int = 20
    floor: float = 0.05  # the last learning rate, as a share of the peak
    muon: bool = False


Encoded = tuple[list[int], list[int]]  # tokens and their labels, the next token or IGNORED


@dataclass(frozen=True)
class Rows:
    """A batch of packed rows, each (rows, ROW_TOKENS); labels are the next tokens."""

    ids: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor  # (rows, 1, ROW_TOKENS, ROW_TOKENS), 0 where seen and very negative elsewhere


def pack(stage: Stage, tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> Iterator[Rows]:
    """Endless batches of the stage's documents."""
    waiting: list[Encoded] = []
    while True:
        table: list[list[Encoded]] = []
        for _ in range(ROWS):
            if len(waiting) < POOL:
                waiting += _encode(stage, tokenizer, rng, POOL)
            table.append(_fill_row(waiting))
        yield _to_rows(table, tokenizer.pad_token_id)


def _encode(stage: Stage, tokenizer: PreTrainedTokenizerFast, rng: random.Random, count: int) -> list[Encoded]:
    """Draw documents and turn them into tokens and labels."""
    sources = rng.choices(list(stage.mix), list(stage.mix.values()), k=count)
    documents = [source(rng) for source in sources]
    texts = [PROMPT.format(question=d.question) + d.answer for d in documents]
    end, answer_mark = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(ANSWER_MARK)
    encoded = []
    for encoding in tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False):
        ids = [*encoding.ids, end]
        asked = ids.index(answer_mark)
        encoded.append((ids[:-1], [IGNORED] * asked + ids[asked + 1 :]))
    return encoded


def _fill_row(waiting: list[Encoded]) -> list[Encoded]:
    """Take the oldest waiting document, then whichever fills the row best, until none fits."""
    row, room = [], ROW_TOKENS
    best: int | None = 0
    while best is not None:
        row.append(waiting.pop(best))
        room -= len(row[-1][0])
        fitting = [(len(tokens), -index) for index, (tokens, _) in enumerate(waiting) if len(tokens) <= room]
        best = -max(fitting)[1] if fitting else None
    return row


def _to_rows(table: list[list[Encoded]], pad: int) -> Rows:
    shape = (len(table), ROW_TOKENS)
    ids, labels = torch.full(shape, pad), torch.full(shape, IGNORED)
    positions, owner = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
    for row, documents in enumerate(table):
        lengths = [len(tokens) for tokens, _ in documents]
        used = sum(lengths)
        ids[row, :used] = torch.tensor([token for tokens, _ in documents for token in tokens])
        labels[row, :used] = torch.tensor([label for _, targets in documents for label in targets])
        positions[row, :used] = torch.tensor([position for length in lengths for position in range(length)])
        owner[row, :used] = torch.tensor([number for number, length in enumerate(lengths) for _ in range(length)])
    seen = (owner[:, :, None] == owner[:, None, :]).tril()
    return Rows(ids, labels, positions, torch.where(seen, 0.0, -1e4)[:, None])


# ---------------------------------------------------------------------------------------------- the loop


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A fresh Llama of 1.3M parameters."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


def fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (AMX)."""
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    stage: Stage,
    *,
    seed: int,
    compiled: bool = True,
) -> None:
    """Train the float32 model in place through one stage."""
    rng = random.Random(f"{seed}/{stage.name}")
    dtype = torch.bfloat16 if fast_bfloat16() else torch.float32
    worker = LlamaForCausalLM(model.config).to(dtype)  # runs forward and backward; `model` keeps the master weights
    worker.set_attn_implementation("eager")  # at 64 tokens the fused kernel's backward is the slower one
    pairs = list(zip(model.parameters(), worker.parameters(), strict=True))
    optimisers = _optimisers(model, stage)
    loss_of = torch.compile(_loss) if compiled else _loss
    began = time.perf_counter()
    for step, rows in zip(range(stage.steps), pack(stage, tokenizer, rng), strict=False):
        for group in (group for optimiser in optimisers for group in optimiser.param_groups):
            group["lr"] = stage.peak * _schedule(step, stage)
        with torch.no_grad():
            for master, copy in pairs:
                copy.copy_(master)
        loss = loss_of(worker, rows)
        torch.autograd.backward(loss)
        for master, copy in pairs:
            master.grad, copy.grad = copy.grad.float(), None
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
        if step % 50 == 49 or step + 1 == stage.steps:
            rate = (step + 1) / (time.perf_counter() - began)
            line = f"{stage.name} {step + 1}/{stage.steps} loss {loss.item():.3f} {rate:.2f} steps/s"
            print(line, file=sys.stderr, flush=True)


def _loss(model: LlamaForCausalLM, rows: Rows) -> torch.Tensor:
    mask = rows.mask.to(model.dtype)
    logits = model(input_ids=rows.ids, position_ids=rows.positions, attention_mask=mask, use_cache=False).logits
    return functional.cross_entropy(logits.float().flatten(0, 1), rows.labels.flatten(), ignore_index=IGNORED)


def _schedule(step: int, stage: Stage) -> float:
    """Linear warm-up, then a cosine down to the floor."""
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    progress = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    return stage.floor + (1 - stage.floor) * 0.5 * (1 + math.cos(math.pi * progress))


def _optimisers(model: LlamaForCausalLM, stage: Stage) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between the embeddings, AdamW for the rest; or AdamW for all."""
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name and stage.muon]
    chosen = {id(p) for p in inner}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    adam = torch.optim.AdamW(rest, lr=stage.peak, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.0)
    if not inner:
        return [adam]
    return [adam, torch.optim.Muon(inner, lr=stage.peak, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")]
