"""What the stories of the demos share: a config evolved with a seed of its own, and tables with a column per seed."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EVOMM = [sys.executable, "-c", "from evomm.cli.app import main; main()"]

Document = dict[str, Any]
"""What `evolve --json` prints."""


def train(script: str, seed: int, zoo: Path, made: Sequence[str], extra: Sequence[str] = ()) -> None:
    """The models of a seed, by a script of model_zoo/tiny; nothing is done for folders that are whole."""
    if not all((zoo / name / "model.safetensors").exists() for name in made):
        path = ROOT / "model_zoo" / "tiny" / script
        subprocess.run([sys.executable, str(path), "--seed", str(seed), "--out", str(zoo), *extra], check=True)


def evolve(config: str, folder: Path, overrides: Sequence[str]) -> Document:
    """A config of configs/, evolved into FOLDER/run; the document is kept in FOLDER/outcome.json."""
    kept = folder / "outcome.json"
    if not kept.exists():
        settings = [part for override in overrides for part in ("--set", override)]
        command = [*EVOMM, "evolve", str(ROOT / "configs" / f"{config}.yaml"), "-o", str(folder / "run"), *settings, "--json"]
        folder.mkdir(parents=True, exist_ok=True)
        kept.write_text(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout, encoding="utf-8")
    document: Document = json.loads(kept.read_text(encoding="utf-8"))
    return document


def hundred(interval: Mapping[str, float], sign: str = "") -> str:
    """An interval times 100, such as 62.0 (58.1 to 65.8)."""
    score, low, high = (f"{100 * interval[key]:{sign}.1f}" for key in ("score", "low", "high"))
    return f"{score} ({low} to {high})"


def table(
    documents: Mapping[int, Document], roles: Mapping[str, str], part: Callable[[Document, str], str], last: Mapping[str, str]
) -> str:
    """Scores, the child's leads, and seconds; a column per seed.

    Args:
        roles: role in a document -> what it is called.
        part: what stands behind a score, such as ``[97%]``.
        last: further lines, name -> cells.
    """
    some = next(iter(documents.values()))
    there = [role for role in roles if role in some["test"]]
    lines = ["| | " + " | ".join(f"seed {seed}" for seed in documents) + " |", "|---|" + "---|" * len(documents)]
    for role in there:
        cells = [f"{hundred(document['test'][role])} {part(document, role)}" for document in documents.values()]
        lines.append(f"| {roles[role]} | " + " | ".join(cells) + " |")
    for role in [role for role in there if role != "child"]:
        cells = [hundred(document["leads"][role], "+") for document in documents.values()]
        lines.append(f"| child's lead over {roles[role]} | " + " | ".join(cells) + " |")
    lines += [f"| {name} | {cells} |" for name, cells in last.items()]
    lines.append("| evolve, seconds | " + " | ".join(f"{document['seconds']:.0f}" for document in documents.values()) + " |")
    return "\n".join(lines)
