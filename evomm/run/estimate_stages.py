"""What a run of several stages will take. A child that is not there yet has the shape of the parent that lends it its files,
so that parent's headers, or its card, stand for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from evomm.run.config import EvolveConfig
from evomm.run.estimate import Estimate, estimate_run
from evomm.run.stages import PREFIX, bound


def estimate_stages(stages: Sequence[EvolveConfig], beside: Path, out: Path) -> Estimate:
    """Estimate each stage, and the whole: the most memory that one takes, all children's disk, everything missing.

    Raises what `estimate_run` raises.
    """
    if len(stages) == 1:
        return estimate_run(stages[0], beside, out)
    found: dict[str, Estimate] = {}
    stand_ins: dict[str, str] = {}
    for config in stages:
        here = bound(config, stand_ins)
        own = estimate_run(here, beside, out)
        children = {label for label, source in config.models.items() if source.model.startswith(PREFIX) and source.lora is None}
        own.licences = {label: licence for label, licence in own.licences.items() if label not in children}
        found[str(config.stage)] = own
        stand_ins[str(config.stage)] = here.models[here.template().carrier].model
    return _together(found)


def _together(found: Mapping[str, Estimate]) -> Estimate:
    every = list(found.values())
    genes = [one.genes for one in every]
    return replace(
        every[-1],
        memory_bytes=max(one.memory_bytes for one in every),
        disk_bytes=sum(one.disk_bytes for one in every),
        genes=None if None in genes else sum(count for count in genes if count is not None),
        evaluations=sum(one.evaluations for one in every),
        missing=list(dict.fromkeys(name for one in every for name in one.missing)),
        notes=list(dict.fromkeys(f"{stage}: {note}" for stage, one in found.items() for note in one.notes)),
        licences={f"{stage}/{label}": text for stage, one in found.items() for label, text in one.licences.items()},
        stages=dict(found),
    )
