"""Two goals in one run, and a point of the front as a checkpoint: docs/results/demo-front.md.

    python -m benchmarks.story_front --work DIR [--out docs/results/demo-front.md]

Evolves `demo-front` as it is, exports every point of its front, and asks the exported checkpoints the validation problems again.
"""

import argparse
import json
import subprocess
from pathlib import Path

from benchmarks.report import table
from benchmarks.story import EVOMM, Document, evolve, hundred
from evomm.fitness.score import Interval
from evomm.run.config import EvolveConfig
from evomm.run.store import Store

ROLES = {
    "base": "base",
    "ja": "Japanese parent",
    "math": "math parent",
    "uniform": "uniform merge",
    "random": "random search, same budget: its compromise",
    "child": "**child: the compromise of the front**",
}
PAGE = """\
# Two goals in one run

Made by `python -m benchmarks.story_front --work DIR --out docs/results/demo-front.md`: `evomm evolve demo-front`, NSGA-II with
{budget} candidates, {seconds:.0f} s with the baseline. Percent right *and* in the asked-for language, 95% intervals.

The front on {n} validation problems per language, and each of its points exported (`evomm export RUN --candidate NAME`) and asked
the same problems again with `evomm eval`, as an ordinary checkpoint in float16:

{front}

On the test split, {tested} problems per language:

{test}
"""


def asked_again(run: Path, candidate: str, tasks: dict[str, str], limit: int, models: Path) -> dict[str, str]:
    """Export a candidate, and what its checkpoint scores on the validation split, goal by goal."""
    out = models / candidate.replace("/", "-")
    if not out.exists():
        subprocess.run([*EVOMM, "export", str(run), "-o", str(out), "--candidate", candidate], check=True)
    found = {}
    for goal, task in tasks.items():
        command = [*EVOMM, "eval", str(out), "--task", task, "--split", "validation", "--limit", str(limit), "--json"]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found[goal] = f"{100 * json.loads(said)['score']:.1f}"
    return found


def page(document: Document, models: Path) -> str:
    """The whole page."""
    run = Path(document["run"])
    with Store.open(run) as store:
        config = EvolveConfig.from_json(store.fact("config"))
    tasks = {goal.name: goal.task or config.task for goal in config.goals}
    limit = config.limits.validation or 0
    points = []
    for candidate, goals in document["front"].items():
        again = asked_again(run, candidate, tasks, limit, models)
        cells = [cell for name in goals for cell in (hundred(goals[name]), again[name])]
        points.append([f"**{candidate}** (child)" if candidate == document["child"] else candidate, *cells])
    english = document["objectives"]["tiny-math-en"]
    tested = [[told, hundred(document["test"][role]), hundred(english[role])] for role, told in ROLES.items()]
    head = ["candidate", "Japanese", "again", "English", "again"]
    some: Interval = Interval.model_validate(document["test"]["child"])
    return PAGE.format(
        budget=config.search.evaluations,
        seconds=document["seconds"],
        n=limit,
        front=table(head, points),
        tested=some.n,
        test=table(["", "Japanese", "English"], tested),
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    work = options.work.resolve()
    told = page(evolve("demo-front", work, []), work / "models")
    print(told)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(told, encoding="utf-8")


if __name__ == "__main__":
    main()
