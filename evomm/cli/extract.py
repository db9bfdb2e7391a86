"""``evomm extract-lora``: what sets a model apart from its base, as a LoRA adapter."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evomm.cli.show import out, print_json, size

if TYPE_CHECKING:
    from evomm.checkpoints.extract import Running
    from evomm.checkpoints.reader import Checkpoint


def extract_lora(
    model: Annotated[str, typer.Argument(help="Folder, zoo: name or hub id of the model to express as an adapter.")],
    base: Annotated[str, typer.Argument(help="The model it descends from; the adapter names it as written here.")],
    output: Annotated[Path, typer.Option("-o", "--out", help="The adapter folder to make.")],
    rank: Annotated[int, typer.Option(min=1, help="Rank of every product: a larger one misses less.")] = 16,
    seed: Annotated[int, typer.Option(help="Of the random vectors that large matrices are looked at with.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print {out, rank, adapted, whole, biases, bytes, error, seconds}.")
    ] = False,
) -> None:
    """Write the peft adapter that makes BASE into (nearly) MODEL, and say how much it misses."""
    import time

    from evomm.checkpoints.extract import extract_lora as extract
    from evomm.checkpoints.locate import locate
    from evomm.checkpoints.reader import Checkpoint
    from evomm.cli.progress import bytes_bar, working

    started = time.monotonic()
    ours, theirs = Checkpoint(locate(model, Path.cwd())), Checkpoint(locate(base, Path.cwd()))
    with working("reading"):
        running = _running(ours)
    with bytes_bar("extracting", ours.nbytes) as advance:
        done = extract(ours, theirs, rank, output, base_name=base, running=running, seed=seed, advance=advance)
    seconds = time.monotonic() - started
    if as_json:
        document = {
            "out": str(output),
            "rank": rank,
            "adapted": list(done.adapted),
            "whole": list(done.whole),
            "biases": list(done.biases),
            "bytes": done.bytes,
            "error": done.error,
            "seconds": round(seconds, 3),
        }
        print_json(document)
    else:
        stored = f", {len(done.whole)} stored whole" if done.whole else ""
        stored += f", {len(done.biases)} biases" if done.biases else ""
        out.print(
            f"{output}: {len(done.adapted)} modules at rank {rank}{stored}, "
            f"{size(done.bytes)}, {seconds:.1f} s; misses {100 * done.error:.2g}% of the difference"
        )


def _running(checkpoint: "Checkpoint") -> "Running | None":
    """The class that config.json names and its names of tensors, which peft uses; None when transformers has no such class.

    The class is instantiated without memory, and its own conversion of checkpoints tells where each tensor goes.
    """
    import torch
    import transformers
    from transformers.core_model_loading import revert_weight_conversion

    from evomm.adapters.decoder import architectures
    from evomm.checkpoints.extract import Running
    from evomm.errors import DamagedFile

    named = next(iter(architectures(checkpoint.config)), "")
    kind: Any = getattr(transformers, named, None)
    if not hasattr(kind, "base_model_prefix"):
        return None
    transformers.logging.set_verbosity_error()
    try:
        config = transformers.AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            skeleton = kind._from_config(config)
    except Exception as error:  # classes of transformers fail in as many ways as configs can be wrong
        reason = str(error).partition("\n")[0]
        raise DamagedFile(f"{checkpoint.folder}: config.json is of no {named} ({reason}); copy the model again") from error
    state = dict(skeleton.state_dict())
    places = {id(tensor): name for name, tensor in state.items()}
    known = {name: places.get(id(tensor)) for name, tensor in revert_weight_conversion(skeleton, dict(state)).items()}
    prefix = f"{skeleton.base_model_prefix}."  # some hub checkpoints leave it out, as GPT-2's
    names = {
        name: next(filter(None, map(known.get, (name, prefix + name, name.removeprefix(prefix)))), None)
        for name in checkpoint.infos
    }
    return Running({name: place for name, place in names.items() if place}, kind.__name__, kind.__module__)
