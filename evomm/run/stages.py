"""Several evolutions in one file, ``---`` between them, where later ones build on the children of those before.

stage: blend
parents: {a: ./a, b: ./b}
...
---
stage: fast
base: stage:blend
parents: {few-steps: {lora: ./few-steps.safetensors}}
...

RUN/stages.json     the configs, and the folder that their relative paths start from
RUN/blend/          an ordinary run; its child is RUN/blend/child
RUN/fast/           the last one: its outcome is that of the whole

Starting and going on are one walk: a stage whose child is there is done, one that has a store is resumed, any other begins.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from evomm.checkpoints.locate import locate
from evomm.errors import DamagedFile, MissingFile, UsageError, WriteFailed, nearest
from evomm.fitness.table import load_task
from evomm.plain import Plain
from evomm.run.config import EvolveConfig
from evomm.run.engine import evolve, resume
from evomm.run.make import Workshop
from evomm.run.outcome import Outcome
from evomm.run.store import held
from evomm.run.watch import Silent, Watch

PREFIX = "stage:"  # of a parent that is the child of an earlier stage
CHILD = "child"
_LIST = "stages.json"
_FRESH = f"{_LIST}.new"


class Stages(Plain):
    """What a run of several stages is asked to do; beside: the folder that relative paths start from."""

    beside: str
    stages: tuple[EvolveConfig, ...] = Field(min_length=1)


def load_stages(path: Path, overrides: Sequence[str] = ()) -> list[EvolveConfig]:
    """The configs of a file, in order; a file of one has one that may be without a name.

    Args:
        overrides: ``a.b=value``, for every stage.

    Raises UsageError when names are missing or given twice, or when a stage builds on one that is not before it.
    """
    stages = EvolveConfig.load_all(path, overrides)
    names = [config.stage for config in stages]
    if len(stages) > 1:
        for number, name in enumerate(names, 1):
            if name is None:
                raise UsageError(f"{path}: document {number} of {len(stages)} has no name; give it one, as `stage: NAME`")
        for name, count in Counter(names).items():
            if count > 1:
                raise UsageError(f"{path}: {count} stages are called '{name}'; give each a name of its own")
    for number, config in enumerate(stages):
        _refuse_unknown(config, [str(name) for name in names if name], [str(name) for name in names[:number]], path)
    return stages


def built_on(config: EvolveConfig) -> list[str]:
    """The stages that a config names as parents, base or model of a LoRA."""
    models = (source.model for source in config.models.values())
    return list(dict.fromkeys(model.removeprefix(PREFIX) for model in models if model.startswith(PREFIX)))


def bound(config: EvolveConfig, children: Mapping[str, str]) -> EvolveConfig:
    """The config with each ``stage:NAME`` replaced by what stands for that stage's child."""
    named = {f"{PREFIX}{name}": model for name, model in children.items()}
    parents = {
        label: named.get(given, given)
        if isinstance(given, str)
        else given.model_copy(update={"model": named.get(given.model or "", given.model)})
        for label, given in config.parents.items()
    }
    return config.model_copy(update={"parents": parents, "base": named.get(config.base or "", config.base)})


def evolve_stages(stages: Sequence[EvolveConfig], folder: Path, beside: Path, watch: Watch | None = None) -> Outcome:
    """Run what `load_stages` read into a new folder; the outcome is that of the last stage.

    Raises what `evolve` raises, and MissingFile at once when a later stage lacks a parent; `resume_stages` goes on.
    """
    if len(stages) == 1:
        return evolve(stages[0], folder, beside, watch)
    for config in stages:
        for task in config.tasks.values():
            load_task(task, beside)
        for source in config.models.values():
            for model in (source.model, source.lora):
                if model is not None and not model.startswith(PREFIX):
                    locate(model, beside)
    whole = Stages(beside=str(beside.resolve()), stages=tuple(stages))
    _begin(whole, folder)
    return resume_stages(folder, watch)


def resume_stages(folder: Path, watch: Watch | None = None) -> Outcome:
    """Go on with a run, of one stage or several, where it stopped; of a finished run, its outcome."""
    whole = _read(folder)
    if whole is None:
        return resume(folder, watch)
    with held(folder):
        return _walk(whole, folder, watch or Silent())


def last_run(folder: Path) -> Path:
    """The folder of the run that a run's child comes from: that of the last stage, where there are several."""
    whole = _read(folder)
    if whole is None:
        return folder
    last = folder / str(whole.stages[-1].stage)
    if not (last / "run.sqlite").exists():
        raise UsageError(f"{folder}: the run is not finished; `evomm resume {folder}` goes on with it")
    return last


def stage_names(folder: Path) -> list[str]:
    """What the stages of a run are called, in order; none for a run of one."""
    whole = _read(folder)
    return [str(config.stage) for config in whole.stages] if whole else []


def begun(folder: Path) -> list[Path]:
    """The folders of the ordinary runs that a run consists of, in order, as far as they have begun.

    Raises MissingFile when there is none.
    """
    folders = [folder / name for name in stage_names(folder)] or [folder]
    found = [path for path in folders if (path / "run.sqlite").exists()]
    if not found:
        raise MissingFile(f"{folder}: no run here (no run.sqlite); `evomm evolve CONFIG -o {folder}` starts one")
    return found


def _walk(whole: Stages, folder: Path, watch: Watch) -> Outcome:
    children: dict[str, str] = {}
    *before, last = whole.stages
    for config in before:
        child = folder.resolve() / str(config.stage) / CHILD
        if not child.exists():
            told = _Told(str(config.stage), watch)
            outcome = _run(bound(config, children), child.parent, Path(whole.beside), told)
            Workshop(watch=told).make(outcome.recipe, child)
            told.step(CHILD)
        children[str(config.stage)] = str(child)
    told = _Told(str(last.stage), watch)
    return _run(bound(last, children), folder / str(last.stage), Path(whole.beside), told)


def _run(config: EvolveConfig, folder: Path, beside: Path, watch: Watch) -> Outcome:
    return resume(folder, watch) if (folder / "run.sqlite").exists() else evolve(config, folder, beside, watch)


def _read(folder: Path) -> Stages | None:
    """What was asked of a run of several stages; None for any other folder."""
    path = folder / _LIST
    if not path.exists():
        return None
    try:
        return Stages.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        raise DamagedFile(f"{path}: cannot be read ({error}); was it made by another version?") from error


def _begin(whole: Stages, folder: Path) -> None:
    if (folder / _LIST).exists():
        raise WriteFailed(f"{folder}: holds a run already; `evomm resume {folder}` goes on with it, or choose -o")
    if folder.is_file() or (folder.is_dir() and {path.name for path in folder.iterdir()} - {".lock", _FRESH}):
        raise WriteFailed(f"{folder}: is not empty; choose another -o")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder):
            (folder / _FRESH).write_text(whole.model_dump_json(indent=1), encoding="utf-8")
            (folder / _FRESH).rename(folder / _LIST)  # a kill in between leaves no list that looks like one
    except OSError as error:
        raise WriteFailed(f"{folder}: the run could not be begun ({error}); make room or choose -o") from error


def _refuse_unknown(config: EvolveConfig, names: Sequence[str], before: Sequence[str], path: Path) -> None:
    """Raise UsageError unless all that a stage builds on comes before it."""
    who = f"{path}: stage '{config.stage}'" if config.stage else str(path)
    for source in config.models.values():
        if source.lora is not None and source.lora.startswith(PREFIX):
            raise UsageError(f"{who}: '{source.lora}' is a whole model, and can't be a LoRA; name it as a parent")
    for name in built_on(config):
        if name not in names:
            raise UsageError(f"{who} names '{PREFIX}{name}', and there is no such stage{nearest(name, names)}")
        if name not in before:
            where = "itself" if name == config.stage else f"'{name}', which comes after it; put it first"
            raise UsageError(f"{who} builds on {where}")


class _Told:
    """Tells a run's watcher of one stage of it: of its search, and of the export of its child."""

    def __init__(self, name: str, watch: Watch) -> None:
        self._name, self._watch = name, watch
        self.step, self.warn, self.note = watch.step, watch.warn, watch.warn

    def stage(self, name: str, total: int) -> None:
        """A part of the stage begins."""
        self._watch.stage(f"{self._name}: {name}", total)

    def start(self, what: str, nbytes: int) -> None:
        """The child is being written."""
        self.stage("export", 1)

    def advance(self, nbytes: int) -> None:
        """Nothing: the whole child is one step."""
