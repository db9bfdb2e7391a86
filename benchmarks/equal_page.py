"""What benchmarks.merge_equal says of a configuration: its verdict, why a difference is meant, and the page."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Literal

from benchmarks.equal_cases import Case, Run
from benchmarks.equal_compare import FEW, Difference
from benchmarks.equal_random import LIMIT, Statistic
from benchmarks.peer import PEER, PEER_VERSION

Kind = Literal[
    "equal", "within rounding", "within chance", "at the threshold", "both refuse", "refused", "mergekit refuses", "differs"
]
KINDS: tuple[Kind, ...] = (
    "equal",
    "within rounding",
    "within chance",
    "at the threshold",
    "both refuse",
    "refused",
    "mergekit refuses",
    "differs",
)
FINE = KINDS[:5]
REASONS = (  # pattern of case names, what the verdict says, why that is meant
    (
        "parameters/unknown",
        "has no parameter",
        "evomm refuses parameters that a method does not have, so that none is lost to a typo",
    ),
    ("arcee_fusion/*", "mergekit's float32", "mergekit writes float32 though the file says bfloat16; evomm writes what it says"),
    ("ramplus_tl/*", "mergekit's float32", "mergekit writes float32 though the file says bfloat16; evomm writes what it says"),
    (
        "arcee_fusion/*",
        "mean difference",
        "the divergence of two nearly equal rows is below bfloat16's rounding, so mergekit fuses others",
    ),
    (
        "slices/stack-layer-types",
        "layer_types",
        "mergekit leaves the config's layer_types at the old length, and transformers refuses",
    ),
    (
        "tokenizer/chat-*",
        "chat template gives",
        "evomm's own wording of the family's format; mergekit's has other white space and end marks",
    ),
    ("dtype/mixed-none", "config dtype", "mergekit's config.json says bfloat16 though its tensors are float32"),
)
PAGE = """\
# Merging: equality with mergekit

Made by `{command}` on {date}: mergekit {peer}, evomm {evomm}, torch {torch}. {count} configurations
over tiny random models (hidden size 64, 4 layers; parents near one base), each the same YAML file for both tools.

* **float32 arithmetic** (`dtype: float32`, so that mergekit computes as evomm always does). 16-bit results: share of elements
  that are equal / within one unit in the last place. float32 results: the largest difference, in units of float32's last place of
  the tensor's largest value; up to {few} counts as rounding, as sums in another order differ by that. Where a threshold (ties,
  breadcrumbs, sce, arcee_fusion) chooses between equal magnitudes, either choice is right: elements that differ are looked up in
  a float64 recomputation of the trimmed task vectors, and count as "at the threshold" only when every one of them stands there.
* **16-bit arithmetic** (`dtype: bfloat16` or none): mergekit rounds differences, products and sums on the way, evomm computes in
  float32 and rounds once. Share equal / within one unit, and the mean difference in percent of the mean magnitude. Not expected
  to be equal; it counts as different when the mean difference is more than one unit in the last place of the mean magnitude.
* Names, shapes, dtypes, the config's layers and vocabulary, and the tokenizer's tokens are compared too.

{verdicts}

{table}

## Distance from float64

The same files with `dtype: bfloat16`, both tools against the formula in float64, in units in the last place (bfloat16) of the
largest of result and operands. Rounding once costs at most 0.5.

{references}

## Random masks

Density 0.4, float32. Two tools never draw the same mask, so statistics are compared, in standard errors of their difference; more
than {limit:g} would be a difference.

{random}
"""


@dataclass
class Outcome:
    """What one run of a case gave."""

    run: Run
    kind: Kind
    why: tuple[str, ...] = ()
    difference: Difference | None = None
    threshold: int = 0
    distances: tuple[tuple[float, float], tuple[float, float]] | None = None
    statistics: list[Statistic] = field(default_factory=list)


def row(case: Case, outcomes: Sequence[Outcome]) -> list[str]:
    """One line of the table: worst verdict of the runs."""
    worst = max(outcomes, key=lambda outcome: KINDS.index(outcome.kind))
    cells = [case.name, "", "", ""]
    for outcome in outcomes:
        found = outcome.difference
        if found is None:
            continue
        shares = f"{_percent(found.equal, found.elements)} / {_percent(found.within, found.elements)}"
        at = f"; {outcome.threshold} at the threshold" if outcome.threshold else ""
        child = outcome.run.out or outcome.run.dtype or outcome.run.parents
        if not outcome.run.strict:
            column, text = 3, f"{shares}; {100 * found.mean:.3f}%"
        elif child == "float32":
            column, text = 2, f"{found.largest:.1f}{at}"
        else:
            column, text = 1, f"{shares}{at}"
        cells[column] += (", " if cells[column] else "") + text
    told = [part + (f" ({because})" if (because := reason(case, part)) else "") for part in worst.why]
    return [*cells, worst.kind + (": " if told else "") + "; ".join(told)]


def reason(case: Case, part: str) -> str | None:
    """Why a part of a verdict is meant; None when nobody wrote it down."""
    fits = (because for pattern, says, because in REASONS if fnmatch.fnmatch(case.name, pattern) and says in part)
    return next(fits, None)


def meant(case: Case, outcome: Outcome) -> bool:
    """Whether an outcome is fine, or every part of it has a reason."""
    return outcome.kind in FINE or all(reason(case, part) for part in outcome.why)


def _percent(part: int, whole: int) -> str:
    """Never rounded up to 100."""
    return "100" if part == whole else f"{min(99.99, 100 * part / max(whole, 1)):.2f}"


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """As a table; what would be read as its lines or as HTML is escaped."""
    safe = [[cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells] for cells in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *safe])


def verdicts(results: Mapping[Case, Sequence[Outcome]]) -> str:
    """How many configurations of each verdict."""
    worst = [max((o.kind for o in outcomes), key=KINDS.index) for outcomes in results.values()]
    return ", ".join(f"{kind}: {worst.count(kind)}" for kind in KINDS if kind in worst)


def page(results: Mapping[Case, Sequence[Outcome]], command: str) -> str:
    """The whole page, made by that command."""
    plain = {case: outcomes for case, outcomes in results.items() if not case.name.startswith("random/")}
    head = ["configuration", "float32 arithmetic, 16-bit result", "float32 result", "16-bit arithmetic", "verdict"]
    distances: list[Sequence[str]] = []
    for case, outcomes in plain.items():
        for outcome in outcomes:
            if outcome.distances is not None:
                (mean, most), (their_mean, their_most) = outcome.distances
                numbers = (mean, most, their_mean, their_most)
                distances.append([case.name, *(f"{number:.3f}" for number in numbers)])
    random: list[Sequence[str]] = []
    for case, outcomes in results.items():
        if case not in plain:
            for outcome in outcomes:
                if not outcome.statistics:
                    random.append(
                        [case.name.removeprefix("random/"), "", "", "", "", f"{outcome.kind}: {'; '.join(outcome.why)}"]
                    )
                for s in outcome.statistics:
                    values = [f"{s.ours:.6f}", f"{s.theirs:.6f}", f"{s.distance:.1f}"]
                    random.append([case.name.removeprefix("random/"), s.name, *values, "fine" if s.fine else "DIFFERS"])
    return PAGE.format(
        command=command,
        date=datetime.now(UTC).date(),
        peer=PEER_VERSION,
        evomm=version("evomm"),
        torch=version("torch"),
        count=len(results),
        few=FEW,
        limit=LIMIT,
        verdicts=verdicts(results),
        table=_markdown(head, (row(case, outcomes) for case, outcomes in plain.items())),
        references=_markdown(["configuration", "evomm mean", "evomm largest", f"{PEER} mean", f"{PEER} largest"], distances),
        random=_markdown(["configuration", "statistic", "evomm", PEER, "standard errors apart", "verdict"], random),
    )
