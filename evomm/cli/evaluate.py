"""``evomm eval``: score one model on one task."""

from pathlib import Path
from typing import Annotated

import typer

from evomm.cli.show import note, out, percent, print_json


def evaluate(
    model: Annotated[str, typer.Argument(help="A folder, a zoo: name, or a hub id.")],
    task: Annotated[str, typer.Option(help="A task of evals/, or the path of a task file.")],
    split: Annotated[str, typer.Option(help="search, validation or test.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many examples.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Prompts at a time.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    compute: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    examples: Annotated[int, typer.Option(min=0, help="Show so many questions and answers.")] = 0,
    keep: Annotated[Path | None, typer.Option(help="Write pictures into this folder, and a sheet of all of them.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print {task, split, score, low, high, n}.")] = False,
) -> None:
    """Score a model on a task, with its 95% interval."""
    from evomm.cli.progress import working
    from evomm.run.measure import measure

    with working(f"{model} answers {task}"):
        result = measure(model, task, split, limit=limit, batch=batch, device_name=device, compute=compute)
    for told in result.task.notes():
        note(told)
    interval = result.score.interval.model_dump()
    if keep is not None:
        result.task.keep(result.answers, keep, "pictures", result.examples)
    for i in range(min(examples, len(result.examples))):
        example, answer, value = result.examples[i], result.answers[i], result.score.values[i]
        said = f"{answer!r}  (expected {example.answer}: {value:g})" if isinstance(answer, str) else f"{value:g}"
        note(f"{example.question}\n  {said}")
    if as_json:
        print_json({"task": task, "split": split, **interval})
        return
    parts = "".join(f"; {name} {100 * result.score.part(name).score:.1f}" for name in result.score.parts)
    out.print(f"{Path(model).name} on {task} ({split}, n = {interval['n']}): {percent(interval)} %{parts}")
