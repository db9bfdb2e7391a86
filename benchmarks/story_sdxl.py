"""The story of the image model that understands Japanese prompts, for several seeds: docs/results/demo-sdxl.md and its picture.

    python -m benchmarks.story_sdxl --seeds 0 1 2 --work DIR [--zoo SEED=DIR ...] [--out docs/results/demo-sdxl.md]

For each seed the demo's config is evolved with that seed as the search's, on the shipped models, or on models trained with that
seed where ``--zoo`` names them (as `model_zoo/tiny/sdxl/build.py --seed SEED --out DIR` makes them). Nothing is chosen by hand:
the sheet shows the first 16 prompts of the test split and the first seed's run.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.story import ROOT, Document, evolve, table
from evomm.fitness.pictures import grid, save
from evomm.fitness.table import load_task
from evomm.run.store import Store

ROLES = {
    "base": "base",
    "ja": "Japanese parent",
    "style": "style parent",
    "few": "few-step parent (a LoRA)",
    "uniform": "uniform merge",
    "random": "random search, same budget",
    "grid": "best of a plain grid, same budget",
    "child": "**child (CMA-ES)**",
}
PAGE = """\
# The image model that understands Japanese prompts, {count} seeds

Made by `python -m benchmarks.story_sdxl --seeds {seeds} --work DIR --out docs/results/demo-sdxl.md`: the demo's config, evolved
with each seed{trained}. {n} prompts that no search ever saw; cosine of picture and caption × 100 by the small CLIP model,
in brackets the share of pictures that fit their own caption best of all {n}. Leads are means of the paired difference per
prompt with 95% intervals. Seconds are of two cores and hold the searches of the baselines too.

{table}

The first 16 of these prompts, from the first seed's run: real drawing, parents, uniform merge, child.

![real | parents | uniform | child](../images/demo-sdxl.png)
"""
SHOWN = 16
CELL = 64


def settings(seed: int, zoo: Path | None) -> list[str]:
    """Overrides of the demo's config for a seed."""
    models = [] if zoo is None else [f"base={zoo / 'base'}", *(f"parents.{name}={zoo / name}" for name in ("ja", "style"))]
    return [f"seed={seed}", *models, *([] if zoo is None else [f"parents.few.lora={zoo / 'few'}"])]


def told(documents: Mapping[int, Document]) -> str:
    """The table of the page."""

    def retrieved(document: Document, role: str) -> str:
        return f"[{100 * document['parts'][role]['retrieved']['score']:.0f}%]"

    ratios = " | ".join(f"{ratio(document):.2f}x" for document in documents.values())
    return table(documents, ROLES, retrieved, {"child / best parent": ratios})


def ratio(document: Mapping[str, Any]) -> float:
    """Of the child's score to that of the best of base and parents."""
    test = document["test"]
    parents = [test[role]["score"] for role in test if role not in {"child", "uniform", "random", "grid"}]
    return float(test["child"]["score"] / max(parents))


def sheet(document: Mapping[str, Any]) -> Image.Image:
    """Real drawing, parents, uniform merge and child, a row for each of the first test prompts."""
    run = Path(document["run"])
    with Store.open(run) as store:
        finals = store.finals("test")
    subjects = {role: f"parent/{role}" for role in document["test"] if f"parent/{role}" in finals}
    subjects |= {"uniform": "uniform", "child": document["child"]}
    drawn = {
        role: [Image.open(run / "pictures" / path) for path in finals[subject].answers] for role, subject in subjects.items()
    }
    prompts = [example.question for example in load_task("tiny-emoji-ja").examples("test", SHOWN)]
    real = real_pictures(prompts)
    rows = [[real[i], *(pictures[i] for pictures in drawn.values())] for i in range(len(prompts))]
    halves = [[*rows[i], None, *rows[i + SHOWN // 2]] for i in range(SHOWN // 2)]
    columns = ["real", *drawn]
    return grid(halves, columns=[*columns, "", *columns], cell=CELL)


def real_pictures(prompts: list[str]) -> list[Image.Image]:
    """The drawing of each prompt that the models were trained on."""
    lines = (ROOT / "evals" / "data" / "tiny-emoji" / "ja.jsonl").read_text(encoding="utf-8").splitlines()
    at = {row["prompt"]: row["index"] for row in map(json.loads, lines)}
    drawings = np.load(ROOT / "model_zoo" / "tiny" / "emoji" / "emoji64.npz", allow_pickle=False)["twitter"]
    return [Image.fromarray(drawings[at[prompt]]) for prompt in prompts]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--zoo", nargs="*", default=[], metavar="SEED=DIR", help="models trained with a seed of their own")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    zoos = {int(seed): Path(folder).resolve() for seed, _, folder in (text.partition("=") for text in options.zoo)}
    documents = {}
    for seed in options.seeds:
        documents[seed] = evolve("demo-sdxl", options.work.resolve() / str(seed), settings(seed, zoos.get(seed)))
        print(told(documents), flush=True)
    if options.out:
        text = PAGE.format(
            seeds=" ".join(map(str, options.seeds)),
            count=len(documents),
            trained=f"; the models of seed {' and '.join(map(str, zoos))} were trained with it"
            if zoos
            else " on the shipped models",
            n=documents[options.seeds[0]]["test"]["child"]["n"],
            table=told(documents),
        )
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
        save(sheet(documents[options.seeds[0]]), options.out.parent.parent / "images" / "demo-sdxl.png")


if __name__ == "__main__":
    main()
