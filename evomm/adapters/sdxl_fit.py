"""Which image models can be mixed: one family of UNets that predict one thing; told in the words that people use for them."""

from collections.abc import Iterator, Mapping

from evomm.adapters.base import Model
from evomm.adapters.sdxl_blocks import UNET, places
from evomm.adapters.sdxl_files import folders, stored
from evomm.checkpoints.digest import file_digest
from evomm.checkpoints.reader import read_json
from evomm.checkpoints.single_file import SingleFile
from evomm.errors import MisfitError

# Width of the text that cross-attention reads, and whether sizes are embedded -> what people call such a model.
_KINDS = {
    (768, False): "Stable Diffusion 1",
    (1024, False): "Stable Diffusion 2",
    (2048, True): "SDXL base",
    (1280, True): "SDXL refiner",
}
_FAMILIES = {"v1": "Stable Diffusion 1", "v2": "Stable Diffusion 2", "xl_base": "SDXL base", "xl_refiner": "SDXL refiner"}
_CHANNELS = {9: "inpainting", 8: "instruct-pix2pix"}


def _kind(model: Model) -> tuple[int, int, bool, int]:
    """(channels that go in, width of the text that is read, whether sizes are embedded, number of blocks) of the UNet."""
    infos = model.infos
    first = infos.get(f"{UNET}conv_in.weight")
    text = next((info.shape[1] for name, info in infos.items() if name.endswith("attn2.to_k.weight")), 0)
    blocks = len({place.name for place in places(list(infos)).values() if place.layer is not None})
    return (first.shape[1] if first else 0, text, f"{UNET}add_embedding.linear_1.weight" in infos, blocks)


def _called(model: Model) -> str:
    channels, text, sized, blocks = _kind(model)
    origin = stored(model)
    family = origin.family if isinstance(origin, SingleFile) else ""
    what = _FAMILIES.get(family) or _KINDS.get((text, sized), "a UNet")
    special = f" for {_CHANNELS[channels]}" if channels in _CHANNELS else ""
    return f"{what}{special} ({channels} channels in, text of width {text}, {blocks} blocks)"


def refuse_other_kinds(models: Mapping[str, Model], reference: str) -> None:
    """Raise MisfitError unless all UNets are of one family, by their structure."""
    expected = _kind(models[reference])
    for label, model in models.items():
        if not any(name.startswith(UNET) for name in model.infos):
            raise MisfitError(f"'{label}' has no UNet, which is what is mixed; name a whole model, or a UNet alone")
        if _kind(model) != expected:
            raise MisfitError(
                f"'{label}' is {_called(model)}, '{reference}' is {_called(models[reference])}; "
                "merge models of one family, trained from one base"
            )


def _prediction(model: Model) -> str | None:
    """What the UNet was trained to predict, ``epsilon`` or ``v_prediction``; None where the files don't say."""
    origin = stored(model)
    if isinstance(origin, SingleFile):
        return origin.prediction_type
    path = folders(model).get("scheduler")
    said = read_json(path / "scheduler_config.json") if path and (path / "scheduler_config.json").exists() else {}
    return str(said.get("prediction_type", "epsilon")) if said else None


def refuse_other_predictions(models: Mapping[str, Model], reference: str) -> None:
    """Raise MisfitError unless all UNets whose files say what they predict say the same."""
    known = {label: said for label, model in models.items() if (said := _prediction(model)) is not None}
    expected = known.get(reference, next(iter(known.values()), None))
    for label, said in known.items():
        if said != expected:
            raise MisfitError(
                f"'{label}' predicts {said}, '{reference}' {expected}: their weights mean different things though the shapes "
                "agree; merge models that were trained to predict the same"
            )


def odd_tokenizers(models: Mapping[str, Model], reference: str, whole: Mapping[str, str]) -> Iterator[str]:
    """Text encoders that are mixed though their tokenizers differ."""
    for number in ("", "_2"):
        if f"text_encoder{number}" in whole:
            continue
        ours = _vocabulary(models[reference], f"tokenizer{number}")
        for label, model in models.items():
            theirs = _vocabulary(model, f"tokenizer{number}")
            if ours is not None and theirs is not None and ours != theirs:
                yield (
                    f"'{label}' has another tokenizer{number} than '{reference}', so text_encoder{number} mixes rows of other "
                    f"tokens; take it from one parent: components: {{text_encoder{number}: {reference}}}"
                )


def _vocabulary(model: Model, name: str) -> str | None:
    path = folders(model).get(name)
    files = [path / file for file in ("vocab.json", "tokenizer.json") if (path / file).exists()] if path else []
    return file_digest(files[0]) if files else None
