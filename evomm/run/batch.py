"""Many runs from one file, one after the other, each in a folder of its own; what is done stays done.

configs: [demo-llm, mine.yaml]                 # each of these ...
set: {seed: [0, 1, 2], search.method: [cma]}   # ... with every combination of these values: 2 x 3 x 1 jobs ...
always: {limits.test: 200}                     # ... and these in all of them

BATCH/batch.json                               the jobs, as they were asked for
BATCH/demo-llm,seed=0,search.method=cma/       an ordinary run; its score is in done.json once it is over

Starting and going on are one walk, as of stages: a job that is done is skipped, one that has begun is resumed, any other begins.
A job that cannot be run is told with its reason, and the others go on.
"""

import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from evomm.errors import DamagedFile, EvommError, UsageError, WriteFailed
from evomm.fitness.score import Interval
from evomm.plain import Plain, load_yaml, parse, read_text
from evomm.run.stages import evolve_stages, load_stages, resume_stages
from evomm.run.store import held
from evomm.run.watch import Silent, Watch

_LIST, _FRESH, _DONE = "batch.json", "batch.json.new", "done.json"
_MOST = 10_000  # jobs: more is a mistake in a matrix
Scalar = bool | int | float | str | None


class Batch(Plain):
    """What is run; see the top of this file."""

    configs: tuple[str, ...] = Field(min_length=1)
    set: Mapping[str, tuple[Scalar, ...]] = Field(default_factory=dict)
    always: Mapping[str, Any] = Field(default_factory=dict)


class Job(Plain):
    """One run: its name, its config's path, and the overrides of it."""

    name: str
    config: str
    overrides: tuple[str, ...]


class Jobs(Plain):
    """All of a batch."""

    jobs: tuple[Job, ...]


class Result(Plain):
    """What came of a job; without a child it failed, and failure says why."""

    name: str
    child: Interval | None = None
    lead: Interval | None = None
    over: str | None = None
    evaluations: int = 0
    seconds: float = 0.0
    failure: str | None = None


def load_batch(path: Path, find: Callable[[Path], Path]) -> Jobs:
    """The jobs of a file, whose configs are read once, so that a mistake in any of them is told now.

    Args:
        find: from a config as it is named to its path.

    Raises UsageError or MissingFile that name the config.
    """
    batch = parse(Batch, load_yaml(read_text(path), str(path)), str(path))
    count = len(batch.configs) * math.prod(map(len, batch.set.values()))
    if count > _MOST:
        raise UsageError(f"{path}: {count} jobs, at most {_MOST} are run in one batch; take values out of the matrix")
    combinations = itertools.product(*([(key, value) for value in values] for key, values in batch.set.items()))
    jobs = []
    for name, chosen in itertools.product(batch.configs, combinations):
        config = path.parent / name if (path.parent / name).is_file() else find(Path(name))
        overrides = [f"{key}={yaml.safe_dump(value, default_flow_style=True).strip()}" for key, value in batch.always.items()]
        own = [f"{key}={_written(value)}" for key, value in chosen]
        jobs.append(Job(name=_named([config.stem, *own]), config=str(config.resolve()), overrides=(*overrides, *own)))
        load_stages(config, jobs[-1].overrides)
    names = [job.name for job in jobs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{path}: two jobs are called '{twice}'; take one of them out")
    return Jobs(jobs=tuple(jobs))


def run_batch(jobs: Jobs, folder: Path, watch: Watch | None = None) -> list[Result]:
    """Run what is not done yet; the results of all jobs, in order.

    Raises UsageError when the folder belongs to another batch or another process works on it, and WriteFailed.
    """
    watch = watch or Silent()
    _begin(jobs, folder)
    with held(folder):
        found = []
        for number, job in enumerate(jobs.jobs, 1):
            watch.stage(f"job {number}/{len(jobs.jobs)}: {job.name}", 1)
            found.append(_result(job, folder / job.name, watch))
        return found


def stored_jobs(folder: Path) -> Jobs | None:
    """The jobs of a batch's folder; None for any other folder."""
    if not (folder / _LIST).exists():
        return None
    try:
        return Jobs.model_validate_json((folder / _LIST).read_bytes())
    except (ValidationError, OSError) as error:
        raise DamagedFile(f"{folder / _LIST}: cannot be read ({error}); was it made by another version?") from error


def _result(job: Job, folder: Path, watch: Watch) -> Result:
    """Of a job that is done, what it was; a failed one is tried again."""
    done = folder / _DONE
    if done.exists():
        try:
            return Result.model_validate_json(done.read_bytes())
        except (ValidationError, OSError) as error:
            raise DamagedFile(f"{done}: cannot be read ({error}); delete it, and the job is looked at again") from error
    try:
        begun = any((folder / name).exists() for name in ("run.sqlite", "stages.json"))
        config = Path(job.config)
        outcome = (
            resume_stages(folder, watch)
            if begun
            else evolve_stages(load_stages(config, job.overrides), folder, config.parent, watch)
        )
    except EvommError as error:
        return Result(name=job.name, failure=str(error))
    others = {role: score.mean for role, score in outcome.test.items() if role != "child"}
    over = max(others, key=lambda role: others[role])
    result = Result(
        name=job.name,
        child=outcome.test["child"].interval,
        lead=outcome.against(over),
        over=over,
        evaluations=outcome.evaluations,
        seconds=round(outcome.seconds, 3),
    )
    _write(done, result.model_dump_json(indent=1))
    return result


def _begin(jobs: Jobs, folder: Path) -> None:
    stored = stored_jobs(folder)
    if stored is not None and stored != jobs:
        raise UsageError(
            f"{folder}: holds a batch of other jobs; choose another -o, or `evomm resume {folder}` goes on with that one"
        )
    if stored is None and folder.exists() and {path.name for path in folder.iterdir()} - {".lock", _FRESH}:
        raise WriteFailed(f"{folder}: is not empty; choose another -o")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteFailed(f"{folder}: the batch could not be begun ({error}); make room or choose -o") from error
    if stored is None:
        _write(folder / _LIST, jobs.model_dump_json(indent=1))


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    fresh = path.with_name(f"{path.name}.new")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.rename(path)
    except OSError as error:
        raise WriteFailed(f"{path}: could not be written ({error}); make room, then start the batch again") from error


def _written(value: Scalar) -> str:
    """A value as an override has it."""
    return json.dumps(value) if not isinstance(value, str) else value


def _named(parts: Sequence[str]) -> str:
    """A folder's name."""
    return re.sub(r"[^\w.,=+-]+", "-", ",".join(parts), flags=re.UNICODE)[:200]
