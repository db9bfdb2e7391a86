"""Vision-language models: every layout, live and disk merges alike, what sees untouched, refusals that say why."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from evomm.adapters.generation import PICTURE, Shown, TextGeneration
from evomm.adapters.llava import LlavaAdapter
from evomm.adapters.llava_names import shared_names
from evomm.adapters.table import detect
from evomm.errors import DamagedFile, MisfitError, MissingFile, UnsafeFile, UsageError
from evomm.merge.engine import Engine
from evomm.merge.live import Live
from evomm.merge.recipe import Recipe
from evomm.resources import resource
from tests.adapters.llava_kit import (
    DECODERS,
    IMAGE,
    LAYERS,
    OLD,
    language_model,
    picture,
    tensors,
    vision_language_model,
)
from tests.checkpoints.peft_kit import with_lora

KINDS = list(DECODERS)
LAYOUTS = ["old", "new", "own"]
EYES = ("vision_tower", "multi_modal_projector", "image_newline")


def family(folder: Path, kind: str, layout: str = "old", shard: str = "1GB", **vlm: Any) -> dict[str, Path]:
    """A language model, a vision-language model and a Japanese model on top of it."""
    return {
        "base": language_model(folder, kind, "base"),
        "vlm": vision_language_model(folder, kind, "vlm", layout=layout, shard=shard, **vlm),
        "ja": language_model(folder, kind, "ja"),
    }


def opened(folders: dict[str, Path]) -> tuple[LlavaAdapter, dict[str, Any]]:
    """The adapter and its models."""
    adapter = detect(*folders.values())
    assert isinstance(adapter, LlavaAdapter)
    return adapter, {label: adapter.open(folder) for label, folder in folders.items()}


def recipe(folders: dict[str, Path], adapter: LlavaAdapter, models: dict[str, Any], method: str = "ties") -> Recipe:
    """Both task vectors, added; what sees is taken whole."""
    return Recipe.model_validate(
        {
            "method": method,
            "base": "base",
            "parents": {label: {"model": str(folder)} for label, folder in folders.items()},
            "parameters": {"weight": {"vlm": 0.9, "ja": 0.7}, **({"density": 0.5} if method == "ties" else {})},
            "dtype": "float32",
            "components": dict(adapter.whole(models, "base")),
        }
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_child_sees_as_its_parent_and_is_what_was_scored(kind: str, layout: str, tmp_path: Path) -> None:
    """Sharded parents; on disk under the parent's own names, bit for bit where it sees; live and disk give one model."""
    folders = family(tmp_path, kind, layout, shard="40KB")
    adapter, models = opened(folders)
    plan = recipe(folders, adapter, models)
    aligned, _ = adapter.aligned(plan, models)
    assert all("rms" not in told for told in adapter.check(aligned, "base", whole=plan.components))
    adapter.save(plan, aligned, tmp_path / "child", shard_bytes=50_000)

    seen, child = tensors(folders["vlm"]), tensors(tmp_path / "child")
    assert child.keys() == seen.keys()
    assert len(list((tmp_path / "child").glob("*.safetensors"))) > 1
    eyes = [name for name in seen if any(part in name for part in EYES)]
    assert len(eyes) > 20
    assert all(torch.equal(child[name], seen[name]) for name in eyes)
    mixed = [name for name in seen if name not in eyes]
    assert not any(torch.equal(child[name], seen[name]) for name in mixed if "proj" in name)

    from_disk, told = AutoModelForImageTextToText.from_pretrained(tmp_path / "child", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    loaded = adapter.load(plan, aligned, "cpu", torch.float32)
    Live(Engine(aligned), loaded.targets).write(plan)
    network, processor = loaded.parts
    inputs = processor(text=[f"{IMAGE}what is this?"], images=[picture()], return_tensors="pt")
    assert torch.equal(network(**inputs).logits, from_disk.eval()(**inputs).logits)
    assert AutoProcessor.from_pretrained(tmp_path / "child").image_token == IMAGE


@pytest.mark.parametrize("kind", KINDS)
def test_the_decoder_is_merged_as_a_language_model_is(kind: str, tmp_path: Path) -> None:
    """Golden: base + weighted task vectors, tensor by tensor, by the parents' own files."""
    folders = family(tmp_path, kind)
    adapter, models = opened(folders)
    plan = recipe(folders, adapter, models, "task_arithmetic")
    aligned, _ = adapter.aligned(plan, models)
    adapter.save(plan, aligned, tmp_path / "child")
    child, seen = tensors(tmp_path / "child"), tensors(folders["vlm"])
    base, ja = tensors(folders["base"]), tensors(folders["ja"])
    for name, tensor in base.items():
        theirs = f"language_model.{name}"
        rows = len(tensor)  # the vision-language model has more tokens
        expected = tensor + 0.9 * (seen[theirs][:rows] - tensor) + 0.7 * (ja[name] - tensor)
        torch.testing.assert_close(child[theirs][:rows], expected, rtol=1e-5, atol=1e-6)


def test_tokens_that_only_the_one_that_sees_has_stay_its_own(tmp_path: Path) -> None:
    folders = family(tmp_path, "llava")
    adapter, models = opened(folders)
    plan = recipe(folders, adapter, models, "task_arithmetic")
    aligned, alignment = adapter.aligned(plan, models)
    assert alignment is None, "the child has the tokenizer of the model that sees, as it is"
    words = AutoProcessor.from_pretrained(folders["vlm"]).tokenizer
    image = words.convert_tokens_to_ids(IMAGE)
    name = "model.embed_tokens.weight"
    for label in ("base", "ja"):
        assert aligned[label].infos[name] == models["vlm"].infos[name]
        assert torch.equal(aligned[label].read(name)[image], models["vlm"].read(name)[image])
        assert torch.equal(aligned[label].read(name)[: image - 1], models[label].read(name)[: image - 1])
    adapter.save(plan, aligned, tmp_path / "child")
    row = tensors(tmp_path / "child")[f"language_model.{name}"][image]
    torch.testing.assert_close(row, models["vlm"].read(name)[image], rtol=1e-6, atol=1e-7)
    assert (tmp_path / "child" / "tokenizer.json").read_bytes() == (folders["vlm"] / "tokenizer.json").read_bytes()
    config, theirs = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "child", folders["vlm"]))
    assert config["text_config"]["vocab_size"] == theirs["text_config"]["vocab_size"]


def test_two_that_see_need_the_same_tokens(tmp_path: Path) -> None:
    folders = {"a": vision_language_model(tmp_path, "llava", "a"), "b": vision_language_model(tmp_path, "llava", "b", padding=9)}
    adapter, models = opened(folders)
    parents = {label: {"model": str(folder)} for label, folder in folders.items()}
    content: dict[str, Any] = {"method": "linear", "parents": parents, "dtype": "float32"}
    with pytest.raises(MisfitError, match="'b' and 'a' both see, and have different tokens"):
        adapter.aligned(Recipe.model_validate(content), models)
    plan = Recipe.model_validate({**content, "vocabulary": {"source": "a"}, "components": dict(adapter.whole(models, "a"))})
    aligned, alignment = adapter.aligned(plan, models)
    adapter.save(plan, aligned, tmp_path / "child", alignment=alignment)
    AutoModelForImageTextToText.from_pretrained(tmp_path / "child")


def test_the_child_is_built_by_whose_eyes_it_has(tmp_path: Path) -> None:
    folders = {label: vision_language_model(tmp_path, "llava", label, layout=how) for label, how in (("a", "old"), ("b", "new"))}
    adapter, models = opened(folders)
    parents = {label: {"model": str(folder)} for label, folder in folders.items()}
    whole = {"model": "a", "lm_head": "a", "vision_tower": "b", "multi_modal_projector": "b"}
    plan = Recipe.model_validate({"method": "linear", "parents": parents, "components": whole, "dtype": "float32"})
    adapter.save(plan, models, tmp_path / "child")
    child, eyes = tensors(tmp_path / "child"), tensors(folders["b"])
    assert child.keys() == eyes.keys()
    assert all(torch.equal(child[name], eyes[name]) for name in eyes if "vision_tower" in name or "projector" in name)


def test_a_tied_head_stays_tied(tmp_path: Path) -> None:
    folders = {
        "base": language_model(tmp_path, "llava", "base", tie_word_embeddings=True),
        "vlm": vision_language_model(tmp_path, "llava", "vlm", tie_word_embeddings=True),
        "ja": language_model(tmp_path, "llava", "ja", tie_word_embeddings=True),
    }
    adapter, models = opened(folders)
    plan = recipe(folders, adapter, models)
    aligned, _ = adapter.aligned(plan, models)
    adapter.save(plan, aligned, tmp_path / "child")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "child")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_what_sees_can_be_mixed_too(tmp_path: Path) -> None:
    folders = {label: vision_language_model(tmp_path, "llava", label, layout=how) for label, how in (("a", "old"), ("b", "new"))}
    adapter, models = opened(folders)
    parents = {label: {"model": str(folder)} for label, folder in folders.items()}
    plan = Recipe.model_validate({"method": "linear", "parents": parents, "parameters": {"weight": 0.5}, "dtype": "float32"})
    adapter.save(plan, models, tmp_path / "child")
    child, ours = tensors(tmp_path / "child"), tensors(folders["a"])
    theirs = {
        shared: tensor
        for (name, tensor), shared in zip(
            tensors(folders["b"]).items(), shared_names(tensors(folders["b"])).values(), strict=True
        )
    }
    assert child.keys() == ours.keys()
    for name, shared in shared_names(ours).items():
        torch.testing.assert_close(child[name], (ours[name] + theirs[shared]) / 2)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_lora_on_a_model_that_sees_is_pefts_own_merge(layout: str, tmp_path: Path) -> None:
    """Named as the running model is, whatever the layout of the files."""
    folder = vision_language_model(tmp_path, "llava", "vlm", layout=layout)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    adapted = with_lora(model, r=4, target_modules=r".*language_model.*q_proj|.*linear_1")
    adapted.save_pretrained(str(tmp_path / "lora"))
    expected = adapted.merge_and_unload().state_dict()
    adapter = LlavaAdapter()
    model_ = adapter.lora(adapter.open(folder), tmp_path / "lora")
    wanted = {shared: expected[name] for name, shared in shared_names(expected).items()}
    for name in model_.infos:
        torch.testing.assert_close(model_.read(name), wanted[name], rtol=1e-5, atol=1e-6)
    stored = adapter.open(folder)
    changed = {name for name in stored.infos if not torch.equal(stored.read(name), model_.read(name))}
    assert changed == {
        "multi_modal_projector.linear_1.weight",
        *(f"model.layers.{i}.self_attn.q_proj.weight" for i in range(LAYERS)),
    }


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_hidden_layers": 2}, r"'ja' does not fit 'base': its decoder has 2 layers of width 32, expected 3 of width 32"),
        ({"hidden_size": 64}, r"has 3 layers of width 64, expected 3 of width 32"),
        ({"num_attention_heads": 8}, r"num_attention_heads of its decoder is 8, expected 4"),
    ],
)
def test_a_decoder_of_another_size_is_refused(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    folders = family(tmp_path, "llava", padding=0)
    folders["ja"] = language_model(tmp_path / "other", "llava", "ja", **changes)
    adapter, models = opened(folders)
    with pytest.raises(MisfitError, match=told):
        adapter.check(models, "base", whole=adapter.whole(models, "base"))


def test_a_decoder_of_another_depth_is_told_before_its_tokens(tmp_path: Path) -> None:
    folders = family(tmp_path, "llava")
    folders["ja"] = language_model(tmp_path / "other", "llava", "ja", num_hidden_layers=2)
    adapter, models = opened(folders)
    with pytest.raises(MisfitError, match=r"'ja' does not fit 'vlm': its decoder has 2 layers"):
        adapter.aligned(recipe(folders, adapter, models), models)


def test_a_vocabulary_that_cannot_be_aligned_is_refused(tmp_path: Path) -> None:
    folders = family(tmp_path, "llava")
    content = json.loads((folders["ja"] / "tokenizer.json").read_text())
    renamed = {token if len(token) > 5 else f"zz{token}": number for token, number in content["model"]["vocab"].items()}
    content["model"] |= {"vocab": renamed, "merges": []}
    (folders["ja"] / "tokenizer.json").write_text(json.dumps(content))
    adapter, models = opened(folders)
    with pytest.raises(
        MisfitError, match=r"'ja' has \d+ tokens, of which 'vlm' knows \d+%: their vocabularies cannot be aligned"
    ):
        adapter.aligned(recipe(folders, adapter, models), models)


def test_a_missing_tokenizer_is_told_once_rows_differ(tmp_path: Path) -> None:
    folders = family(tmp_path, "llava")
    (folders["ja"] / "tokenizer.json").unlink()
    adapter, models = opened(folders)
    with pytest.raises(MissingFile, match=r"different numbers of tokens.*tokenizer\.json"):
        adapter.aligned(recipe(folders, adapter, models), models)


@pytest.mark.parametrize("lost", [("processor_config.json", "preprocessor_config.json"), ("tokenizer_config.json",)])
def test_missing_processor_files_are_told_before_any_work(lost: tuple[str, ...], tmp_path: Path) -> None:
    folders = family(tmp_path, "llava")
    for name in lost:
        (folders["vlm"] / name).unlink(missing_ok=True)
    adapter, models = opened(folders)
    plan = recipe(folders, adapter, models)
    with pytest.raises(MissingFile, match=r"copy .* along with the weights"):
        adapter.save(plan, adapter.aligned(plan, models)[0], tmp_path / "child")
    with pytest.raises(MissingFile, match=r"copy .* along with the weights"):
        adapter.load(plan, models, "cpu", torch.float32)
    assert not (tmp_path / "child").exists()


def test_language_models_alone_are_no_vision_language_model(tmp_path: Path) -> None:
    folders = {label: language_model(tmp_path, "llava", label) for label in ("base", "ja")}
    adapter = LlavaAdapter()
    models = {label: adapter.open(folder) for label, folder in folders.items()}
    parents = {label: {"model": str(folder)} for label, folder in folders.items()}
    with pytest.raises(MisfitError, match="none of base, ja sees"):
        adapter.load(Recipe.model_validate({"method": "linear", "parents": parents}), models, "cpu", torch.float32)


def test_llavas_own_layout_is_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = language_model(tmp_path, "llava", "original")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["LlavaLlamaForCausalLM"]}))
    with pytest.raises(UnsafeFile, match="llava-hf"):
        LlavaAdapter().open(folder)


def test_a_tensor_that_no_file_holds_is_told(tmp_path: Path) -> None:
    folders = family(tmp_path, "llava", padding=0)
    kept = {name: tensor for name, tensor in tensors(folders["vlm"]).items() if "projector.linear_2.bias" not in name}
    save_file(kept, folders["vlm"] / "model.safetensors", {"format": "pt"})
    adapter, models = opened(folders)
    with pytest.raises(DamagedFile, match=r"needs 1 tensor\(s\) that no file holds"):
        adapter.load(recipe(folders, adapter, models), models, "cpu", torch.float32)


def test_kinds_that_do_not_mix_are_told(tmp_path: Path) -> None:
    vlm = vision_language_model(tmp_path, "llava", "vlm")
    with pytest.raises(MisfitError, match="different kinds"):
        detect(vlm, resource("model_zoo", "tiny", "sdxl", "base"))


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[LlavaAdapter, Any]:
    """A loaded LLaVA of random weights."""
    folder = tmp_path_factory.mktemp("asked")
    folders = {"vlm": vision_language_model(folder, "llava", "vlm")}
    adapter, models = opened(folders)
    plan = Recipe.model_validate({"method": "linear", "parents": {"vlm": {"model": str(folders["vlm"])}}})
    return adapter, adapter.load(plan, models, "cpu", torch.float32)


def questions() -> list[Any]:
    """Texts of several lengths, with pictures and without."""
    shown: list[Any] = [Shown(f"{PICTURE}{'why ' * n}what is this?", picture(n)) for n in (0, 3, 1, 2)]
    return [shown[0], "it is a red apple.", *shown[1:], "what?"]


def test_answers_come_back_in_the_order_of_the_questions(asked: tuple[LlavaAdapter, Any]) -> None:
    adapter, model = asked
    options = TextGeneration(max_new_tokens=6, batch=2)
    together = adapter.generate(model, questions(), options)
    assert together == [adapter.generate(model, [question], options)[0] for question in questions()]
    assert len(set(together)) > 1


def test_the_picture_counts(asked: tuple[LlavaAdapter, Any]) -> None:
    _, model = asked
    network, processor = model.parts
    logits = [
        network(**processor(text=[f"{IMAGE}what is this?"], images=[picture(seed)], return_tensors="pt")).logits
        for seed in (1, 2)
    ]
    assert not torch.allclose(logits[0], logits[1])


def test_beams_and_penalties_are_obeyed(asked: tuple[LlavaAdapter, Any]) -> None:
    adapter, model = asked
    plain = adapter.generate(model, questions(), TextGeneration(max_new_tokens=12))
    beams = adapter.generate(model, questions(), TextGeneration(max_new_tokens=12, beams=5))
    penalty = adapter.generate(model, questions(), TextGeneration(max_new_tokens=12, repetition_penalty=1.5))
    assert len({tuple(plain), tuple(beams), tuple(penalty)}) == 3


def test_chat_without_a_template_is_told(asked: tuple[LlavaAdapter, Any]) -> None:
    adapter, model = asked
    with pytest.raises(UsageError, match="no chat template"):
        adapter.generate(model, questions(), TextGeneration(max_new_tokens=2, chat=True))
    model.parts[1].chat_template = (
        "{% for message in messages %}{% for part in message['content'] %}"
        "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endfor %}!"
    )
    try:
        assert len(adapter.generate(model, questions(), TextGeneration(max_new_tokens=2, chat=True))) == len(questions())
    finally:
        model.parts[1].chat_template = None


def test_names_of_old_layouts() -> None:
    old = ["language_model.model.layers.0.mlp.up_proj.weight", "language_model.lm_head.weight", "vision_tower.pre_layrnorm.bias"]
    assert list(shared_names(map(OLD, old)).values()) == [
        "model.layers.0.mlp.up_proj.weight",
        "lm_head.weight",
        "vision_tower.pre_layrnorm.bias",
    ]
