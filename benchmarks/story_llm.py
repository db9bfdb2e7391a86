"""The whole Japanese-math story, training included, for several seeds: the table in docs/results/demo-llm.md.

    python -m benchmarks.story_llm --seeds 0 1 2 --work DIR [--out docs/results/demo-llm.md]

For each seed: trains base, ja and math from scratch with that seed (skipped when DIR/SEED/zoo is there and whole), evolves with
that seed as the search's, and reads the test scores. Nothing is chosen by hand.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ROLES = {
    "base": "base",
    "ja": "Japanese parent",
    "math": "math parent",
    "uniform": "uniform merge",
    "random": "random search, same budget",
    "child": "**child (CMA-ES)**",
}
PAGE = """\
# The Japanese-math story, {count} seeds, training included

Made by `python -m benchmarks.story_llm --seeds {seeds} --work DIR --out docs/results/demo-llm.md`: for each seed, base and
parents are trained from scratch and the demo's config is evolved on them. {n} held-out problems, Wilson's 95% intervals. Seconds
are of two shared cores, and hold the baseline's search too.

{table}
"""
EVOMM = [sys.executable, "-c", "from evomm.cli.app import main; main()"]


def train(seed: int, zoo: Path) -> None:
    """All three models of a seed."""
    if all((zoo / name / "model.safetensors").exists() for name in ("base", "ja", "math")):
        return
    script = ROOT / "model_zoo" / "tiny" / "llm" / "build.py"
    subprocess.run([sys.executable, str(script), "--seed", str(seed), "--out", str(zoo)], check=True)


def evolve(seed: int, zoo: Path, folder: Path) -> dict[str, Any]:
    """The demo's config on a seed's models; the document that `evolve --json` prints, kept in FOLDER/outcome.json."""
    kept = folder / "outcome.json"
    if not kept.exists():
        overrides = [f"base={zoo / 'base'}", f"parents.ja={zoo / 'ja'}", f"parents.math={zoo / 'math'}", f"seed={seed}"]
        settings = [part for override in overrides for part in ("--set", override)]
        config = str(ROOT / "configs" / "demo-llm.yaml")
        command = [*EVOMM, "evolve", config, "-o", str(folder / "run"), *settings, "--json"]
        kept.write_text(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    document: dict[str, Any] = json.loads(kept.read_text())
    return document


def percent(interval: dict[str, float]) -> str:
    """Such as 62.0 (58.1-65.8)."""
    return f"{100 * interval['score']:.1f} ({100 * interval['low']:.1f}-{100 * interval['high']:.1f})"


def table(documents: dict[int, dict[str, Any]]) -> str:
    """Right and in Japanese, with intervals, a column per seed; number alone in brackets behind it."""
    seeds = list(documents)
    lines = [
        "| right *and* in Japanese, % (95%) · number right, % | " + " | ".join(f"seed {seed}" for seed in seeds) + " |",
        "|---|" + "---|" * len(seeds),
    ]
    for role, name in ROLES.items():
        cells = [f"{percent(d['test'][role])} · {100 * d['parts'][role]['number']['score']:.1f}" for d in documents.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append("| lead over the best parent, points | " + " | ".join(f"{lead(d):.1f}" for d in documents.values()) + " |")
    lines.append("| evolve, seconds | " + " | ".join(f"{d['seconds']:.0f}" for d in documents.values()) + " |")
    return "\n".join(lines)


def lead(document: dict[str, Any]) -> float:
    """Points of the child above the best of base, ja and math."""
    test = document["test"]
    best = max(test[role]["score"] for role in ("base", "ja", "math"))
    return float(100 * (test["child"]["score"] - best))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    documents = {}
    for seed in options.seeds:
        folder = options.work.resolve() / str(seed)
        train(seed, folder / "zoo")
        documents[seed] = evolve(seed, folder / "zoo", folder)
        print(table(documents), flush=True)
    if options.out:
        n = documents[options.seeds[0]]["test"]["child"]["n"]
        seeds = " ".join(map(str, options.seeds))
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(PAGE.format(seeds=seeds, count=len(documents), n=n, table=table(documents)), encoding="utf-8")


if __name__ == "__main__":
    main()
