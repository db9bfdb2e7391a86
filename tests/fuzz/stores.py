"""Readers of what runs and data sets hold: the run store, rows of data, tokenizers."""

import json
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pyarrow as pa
from pyarrow import parquet
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from evomm.adapters.vocabulary import align, child_files, renumber
from evomm.errors import EvommError
from evomm.fitness.table import load_task
from evomm.merge.vocabulary import Vocabulary
from evomm.run.config import EvolveConfig
from evomm.run.engine import evolve, resume
from evomm.run.export import candidate_recipe
from evomm.run.store import Store
from tests.fuzz import formats
from tests.fuzz.documents import ROWS, world

_SHORT = ("search.evaluations=6", "search.population=3", "limits={search: 4, validation: 3, test: 3}", "finalists=1", "seed=1")
_HERE = "@WORLD@"  # the folder of the parents, wherever an input is replayed
_TABLES = ("run", "trials", "finals")
_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc0000003010100"
    "c9fe92ef0000000049454e44ae426082"
)


@cache
def stores() -> list[bytes]:
    """A finished run and one that was stopped, as tables in JSON, and the file of the first."""
    with TemporaryDirectory() as made:
        folder = Path(made)
        config = EvolveConfig.load(world(folder) / "config.yaml", _SHORT)
        evolve(config, folder / "run", folder / "world")
        with closing(sqlite3.connect(folder / "run" / "run.sqlite")) as db:
            tables = {name: [list(row) for row in db.execute(f"SELECT * FROM {name}")] for name in _TABLES}
            db.execute("UPDATE run SET value = ? WHERE key = 'beside'", (_HERE,))
            db.commit()
            db.execute("PRAGMA journal_mode=DELETE")
            db.execute("PRAGMA page_size=512")
            db.execute("VACUUM")
        file = (folder / "run" / "run.sqlite").read_bytes()
        whole = json.dumps(tables).replace(str(folder.resolve() / "world"), _HERE)
    stopped = json.loads(whole)
    stopped["trials"], stopped["finals"] = stopped["trials"][:4], []
    return [whole.encode(), json.dumps(stopped).encode(), file]


def mutate_store(rng: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """The tables' content, or the file's bytes."""
    mutate = formats.as_json if data.startswith(b"{") else formats.raw
    return mutate(rng, data, [seed for seed in seeds if seed.startswith(b"{")])


def read_store(data: bytes, folder: Path) -> None:
    """Listed, exported, gone on with; each of these must refuse what it cannot trust."""
    run, here = folder / "run", world(folder)
    run.mkdir(exist_ok=True)
    for path in run.iterdir():
        path.unlink()
    if data.startswith(b"{"):
        if not _write(data.replace(_HERE.encode(), str(here.resolve()).encode()), run / "run.sqlite"):
            return
    else:
        (run / "run.sqlite").write_bytes(data)
        with suppress(sqlite3.Error, UnicodeDecodeError), closing(sqlite3.connect(run / "run.sqlite")) as db, db:
            db.execute("UPDATE run SET value = ? WHERE key = 'beside' AND value = ?", (str(here.resolve()), _HERE))
    with suppress(EvommError), Store.open(run) as store:
        for search in ("cma", "random"):
            for trial in store.trials(search):
                _ = trial.id, trial.fitness
        for split in ("validation", "test"):
            store.finals(split)
    for candidate in ("child", "cma/0", "uniform", "low"):
        with suppress(EvommError):
            candidate_recipe(run, candidate)
    resume(run)


def _write(data: bytes, path: Path) -> bool:
    """The tables as SQLite without strict types, which any tool can make; False when they are none."""
    with closing(sqlite3.connect(path)) as db:
        try:
            tables = json.loads(data)
            db.execute("CREATE TABLE run (key, value)")
            db.execute("CREATE TABLE trials (search, number, vector, score, failure, seconds, level, more)")
            db.execute("CREATE TABLE finals (subject, split, task, recipe, score, answers)")
            for name, rows in tables.items():
                for row in rows if name in _TABLES else ():
                    with suppress(sqlite3.Error):
                        db.execute(f"INSERT INTO {name} VALUES ({', '.join('?' * len(row))})", row)
            db.commit()
        except (ValueError, TypeError, AttributeError, RecursionError, OverflowError, sqlite3.Error):
            return False
    return True


def data_files() -> list[bytes]:
    """A line with the kind of file, then the file; ``rows`` are JSON that becomes a parquet file."""
    lines = "\n".join(json.dumps({k: v for k, v in row.items() if k != "image"}) for row in ROWS)
    asked = [{"qas": [{"question": "a?", "answer": "1"}], "question_id": 3, "split": "test", "answers": ["1", "x"]}]
    buffer = BytesIO()
    seen = [{**row, "answer": str(row["answer"]), "image": {"bytes": _PIXEL, "path": "x"}} for row in ROWS]
    parquet.write_table(pa.Table.from_pylist(seen), buffer, compression="none")
    files = {"jsonl": lines, "tsv": "a?\t1\nb?\t1,234\n", "txt": "a prompt\nanother\n", "rows": json.dumps([*ROWS, *asked])}
    return [f"{kind}\n{content}".encode() for kind, content in files.items()] + [b"parquet\n" + buffer.getvalue()]


def mutate_data(rng: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """The content, by its kind."""
    kind, _, content = data.partition(b"\n")
    like = [seed.partition(b"\n")[2] for seed in seeds if seed.startswith(kind + b"\n")]
    mutate = {b"jsonl": formats.lines, b"rows": formats.as_json, b"parquet": formats.raw}.get(kind, formats.text)
    return kind + b"\n" + mutate(rng, content, like)


def read_data(data: bytes, folder: Path) -> None:
    """As the data of a task on text and of one on pictures."""
    kind, _, content = data.partition(b"\n")
    suffix = "parquet" if kind == b"rows" else kind.decode()
    if kind == b"rows":
        try:
            buffer = BytesIO()
            parquet.write_table(pa.Table.from_pylist(json.loads(content)), buffer)
            content = buffer.getvalue()
        except Exception:  # no such file can be made
            return
    (folder / f"data.{suffix}").write_bytes(content)
    many = f"data.{suffix}" if kind in {b"jsonl", b"rows", b"parquet"} else {"test": f"data.{suffix}"}
    for own in ({"kind": "math", "prompt": "{question}"}, {"kind": "vqa", "prompt": "<image>{question}", "unreadable": "skip"}):
        (folder / "task.yaml").write_text(json.dumps({"about": "x", "data": many, **own}))
        with suppress(EvommError):
            task = load_task("task.yaml", folder)
            examples = task.examples("test")
            task.score(examples, [example.answer for example in examples])
            task.prompts(examples)
            task.notes()
            _ = task.digest


def tokenizer_files() -> list[bytes]:
    """BPE with bytes as letters, and a Unigram; both with added tokens and a template."""
    bpe = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2, "<s>": 3}, merges=[("a", "b")], unk_token="a"))
    bpe.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    bpe.decoder = decoders.Fuse()
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("b", -2.0), ("<s>", 0.0)], unk_id=0))
    for tokenizer in (bpe, unigram):
        tokenizer.add_special_tokens(["<s>"])
        tokenizer.add_tokens([AddedToken("<x>", lstrip=True)])
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 3)])
        tokenizer.enable_padding(pad_token="<s>", pad_id=3)
    return [tokenizer.to_str().encode() for tokenizer in (bpe, unigram)]


def read_tokenizer(data: bytes, folder: Path) -> None:
    """Aligned with an honest one, in every way."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    folders = {label: folder / label for label in "ab"}
    for label, content in (("a", tokenizer_files()[0]), ("b", data)):
        folders[label].mkdir(exist_ok=True)
        (folders[label] / "tokenizer.json").write_bytes(content)
        (folders[label] / "tokenizer_config.json").write_bytes(content)
    for source in ("a", "intersection", "b", "union"):
        with suppress(EvommError):
            alignment = align(Vocabulary(source=source), folders, {"a": 5, "b": 5})
            child_files(alignment, folders[alignment.carrier])
            renumber({"eos_token_id": [0, 3], "vocab_size": 5}, alignment, folders["b"])
