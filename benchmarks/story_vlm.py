"""The story of the model that sees and answers in Japanese, training included, for several seeds: docs/results/demo-vlm.md.

    python -m benchmarks.story_vlm --seeds 0 1 2 --work DIR [--tower DIR] [--out docs/results/demo-vlm.md]

For each seed: trains base, ja and vlm from scratch with that seed (skipped when DIR/SEED/zoo is there and whole), evolves with
that seed as the search's, and reads the test scores. With ``--tower`` all seeds see with the vision tower of that folder, which
takes longest to train and is not merged. Nothing is chosen by hand: examples are taken from the test split at equal distances.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from benchmarks.story import ROOT, Document, evolve, table, train
from evomm.fitness.table import load_task
from evomm.run.store import Store

ROLES = {
    "base": "base's decoder in the LLaVA",
    "ja": "Japanese decoder in the LLaVA",
    "vlm": "the LLaVA (answers in English)",
    "uniform": "uniform merge",
    "random": "random search, same budget",
    "child": "**child (CMA-ES)**",
}
PAGE = """\
# The model that sees and answers in Japanese, {count} seeds, training included

Made by `python -m benchmarks.story_vlm --seeds {seeds} --work DIR{tower} --out docs/results/demo-vlm.md`: for each seed the
decoders, the projector and the LLaVA are trained from scratch{shared}, and the
demo's config is evolved on them. {n} questions about drawings that no model was trained on (another vendor's drawing of the same
thing was): ROUGE-L × 100 over MeCab's words, 0 where the answer is not in Japanese; in brackets the share of answers that are
right word for word, and in Japanese. Leads are means of the paired difference per question with 95% intervals. Seconds are of two
shared cores, and hold the baseline's search too.

{table}

A wrong answer of the right form, such as 果物です for メロンです, has half of the words and gets 50 points: the exact answers in
brackets tell how much is really seen.

## Examples

Every {step}th question of the test split, from the first seed's run: what is right, and what each model says.

{examples}
"""
SHOWN = 24


def settings(seed: int, zoo: Path) -> list[str]:
    """Overrides of the demo's config for a seed."""
    return [f"seed={seed}", f"base={zoo / 'base'}", f"parents.ja={zoo / 'ja'}", f"parents.vlm={zoo / 'vlm'}"]


def told(documents: Mapping[int, Document]) -> str:
    """The table of the page."""

    def exact(document: Document, role: str) -> str:
        parts = document["parts"][role]
        return f"[{100 * parts['exact']['score']:.0f}%, {100 * parts['language']['score']:.0f}%]"

    leads = " | ".join(f"{100 * lead(document):+.1f}" for document in documents.values())
    return table(documents, ROLES, exact, {"child's lead over the best parent": leads})


def lead(document: Document) -> float:
    """Of the child over the best of base and parents."""
    test = document["test"]
    return float(test["child"]["score"] - max(test[role]["score"] for role in ("base", "ja", "vlm")))


def examples(document: Document) -> tuple[int, str]:
    """The distance between examples, and their table: picture, question, what is right, what parents, uniform and child say."""
    with Store.open(Path(document["run"])) as store:
        finals = store.finals("test")
    subjects = {"ja": "parent/ja", "vlm": "parent/vlm", "uniform": "uniform", "child": document["child"]}
    asked = load_task("tiny-vqa-ja").examples("test")
    step = len(asked) // SHOWN
    lines = [f"| picture | question | right | {' | '.join(subjects)} |", "|---" * (3 + len(subjects)) + "|"]
    for place in range(0, step * SHOWN, step):
        example = asked[place]
        if example.picture is None or example.picture.path is None:
            continue
        path = Path("../..") / example.picture.path.resolve().relative_to(ROOT)
        said = [finals[subject].answers[place].replace("|", " ").strip() for subject in subjects.values()]
        bold = [f"**{answer}**" if answer == example.answer else answer for answer in said]
        lines.append(f"| ![]({path.as_posix()}) | {example.question} | {example.answer} | {' | '.join(bold)} |")
    return step, "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tower", type=Path, help="the vision tower of all seeds")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    documents = {}
    for seed in options.seeds:
        folder = options.work.resolve() / str(seed)
        extra = ["--tower", str(options.tower.resolve())] if options.tower else []
        train("vlm/build.py", seed, folder / "zoo", ("base", "ja", "vlm"), extra)
        documents[seed] = evolve("demo-vlm", folder, settings(seed, folder / "zoo"))
        print(told(documents), flush=True)
    if options.out:
        step, shown = examples(documents[options.seeds[0]])
        text = PAGE.format(
            seeds=" ".join(map(str, options.seeds)),
            count=len(documents),
            tower=" --tower DIR" if options.tower else "",
            shared=" (the vision tower, which is not merged, once for all of them)" if options.tower else "",
            n=documents[options.seeds[0]]["test"]["child"]["n"],
            table=told(documents),
            step=step,
            examples=shown,
        )
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
