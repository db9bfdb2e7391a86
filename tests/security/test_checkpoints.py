"""Hostile checkpoints: headers that lie, names that cost, code and templates that want to run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from evomm.adapters import llm_model, resident
from evomm.adapters.llm import LLMAdapter
from evomm.adapters.vocabulary.tokenizer import load
from evomm.checkpoints.reader import SINGLE, Checkpoint
from evomm.checkpoints.writer import CheckpointWriter
from evomm.errors import CheckpointError, DamagedFile, MissingFile, UnsafeFile, WriteFailed
from evomm.resources import resource
from tests.fuzz.files import LLAMA, SHAPES

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(folder: Path, header: str, body: bytes = bytes(16), length: int | None = None) -> Path:
    """A file with this header."""
    text = header.encode()
    (folder / SINGLE).write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + body)
    return folder


def llama(folder: Path, config: dict[str, Any] | None = None, shapes: dict[str, tuple[int, ...]] | None = None) -> Path:
    """A language model's folder without a tokenizer, honest but for what is given."""
    folder.mkdir(exist_ok=True)
    save_file({n: torch.ones(s, dtype=torch.float16) for n, s in (shapes or SHAPES).items()}, folder / SINGLE)
    (folder / "config.json").write_text(json.dumps({**LLAMA, **(config or {})}))
    return folder


def planted(folder: Path) -> Path:
    """Code beside the model that leaves a mark when it runs; returns where."""
    mark = folder / "it-ran"
    (folder / "planted.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass Planted: pass\n")
    return mark


@pytest.mark.parametrize(
    "entries",
    [
        {"a": F32, "b": F32},
        {"a": F32, "b": {**F32, "data_offsets": [4, 12]}},
        {"a": F32, "b": {**F32, "data_offsets": [12, 20]}},
        {"a": {**F32, "data_offsets": [0, 2**40]}},
        {"a": {**F32, "data_offsets": [8, 0]}},
        {"a": {**F32, "data_offsets": [-8, 0]}},
        {"a": {**F32, "shape": [2**62, 8], "data_offsets": [0, 16]}},
        {"a": {**F32, "shape": [-2]}},
        {"a": {**F32, "data_offsets": [0, 8, 16]}},
        {"a": F32},
    ],
    ids=["same", "overlapping", "a-hole", "beyond", "backwards", "before", "overflow", "negative", "three", "too-long-a-file"],
)
def test_offsets_that_lie_are_refused(tmp_path: Path, entries: dict[str, Any]) -> None:
    with pytest.raises(DamagedFile, match=r"model\.safetensors: not a whole safetensors file"):
        Checkpoint(write(tmp_path, json.dumps(entries)))


@pytest.mark.parametrize("length", [10**8 + 1, 10**9, 10**12, 2**63, 2**64 - 1])
def test_a_header_that_announces_gigabytes_is_refused_unread(tmp_path: Path, length: int) -> None:
    with pytest.raises(DamagedFile, match="not a whole safetensors file"):
        Checkpoint(write(tmp_path, json.dumps({"a": F32}), bytes(8), length))


def test_a_tensor_that_stands_twice_in_a_header_is_refused(tmp_path: Path) -> None:
    one = json.dumps(F32)
    with pytest.raises(DamagedFile, match="'a' stands twice"):
        Checkpoint(write(tmp_path, f'{{"a": {one}, "a": {one}}}', bytes(8)))


@pytest.mark.parametrize("name", ["x" * 501, "model.layers." + "1" * 5000 + ".x", "a\\u001b[2J", "a\\u0000b", "a\\nb"])
def test_names_that_no_model_has_are_refused(tmp_path: Path, name: str) -> None:
    """Patterns run over every name, and messages print them."""
    with pytest.raises(DamagedFile, match="a tensor is called"):
        Checkpoint(write(tmp_path, f'{{"{name}": {json.dumps(F32)}}}', bytes(8)))


def test_a_header_nested_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match="not a whole safetensors file"):
        Checkpoint(write(tmp_path, '{"a":' * 100_000 + "1" + "}" * 100_000))


@pytest.mark.parametrize(
    ("config", "shapes"),
    [
        ({"num_hidden_layers": 10**12}, SHAPES),
        ({"num_hidden_layers": None}, {**SHAPES, "model.layers.999999999999.mlp.up_proj.weight": (1,)}),
    ],
)
def test_layers_that_are_only_announced_take_no_memory(
    tmp_path: Path, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]
) -> None:
    with pytest.raises(DamagedFile, match="layer"):
        LLMAdapter().open(llama(tmp_path / "model", config, shapes))


def test_a_tensor_under_a_wrong_name_is_not_replaced_by_random_numbers(tmp_path: Path) -> None:
    shapes = {name.replace("layers.1.self_attn.v_proj", "layers.1.self_attn.v_porj"): shape for name, shape in SHAPES.items()}
    with pytest.raises(DamagedFile, match=r"holds no 'model\.layers\.1\.self_attn\.v_proj\.weight'"):
        llm_model.load(llama(tmp_path / "model", shapes=shapes), "cpu", torch.float32)


@pytest.mark.parametrize(
    "config",
    [{"hidden_act": "swirl"}, {"hidden_act": 2}, {"rope_theta": "many"}, {"model_type": ["llama"]}, {"head_dim": "4"}],
)
def test_a_config_of_nonsense_is_damaged(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(DamagedFile):
        llm_model.load(LLMAdapter().open(llama(tmp_path / "model", config)).folder, "cpu", torch.float32)


def test_code_that_a_config_names_is_not_run(tmp_path: Path) -> None:
    """Of a model that transformers knows, its own class is taken; of any other, nothing is."""
    folder = llama(tmp_path / "model", {"auto_map": {"AutoConfig": "planted.Planted", "AutoModelForCausalLM": "planted.Planted"}})
    mark = planted(folder)
    with pytest.raises(DamagedFile, match="tokenizer or processor cannot be built"):  # it has none; its model came to life
        llm_model.load(folder, "cpu", torch.float32)
    (folder / "config.json").write_text(json.dumps({**json.loads((folder / "config.json").read_text()), "model_type": "planted"}))
    with pytest.raises(UnsafeFile, match="needs code from its own folder"):
        llm_model.load(folder, "cpu", torch.float32)
    assert not mark.exists()


def test_code_that_a_tokenizer_names_is_not_run(tmp_path: Path) -> None:
    folder = llama(tmp_path / "model")
    mark = planted(folder)
    said = {"tokenizer_class": "Planted", "auto_map": {"AutoTokenizer": ["planted.Planted", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    with pytest.raises(CheckpointError):
        resident.tokens(AutoTokenizer, folder)
    assert not mark.exists()


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('x') }}",
    "{% for %}",
    "{{ 1 / 0 }}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_a_chat_template_stays_in_its_sandbox(template: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(resource("model_zoo", "tiny", "llm", "ja"))
    tokenizer.chat_template = template
    with pytest.raises(DamagedFile, match="the model's own chat template fails"):
        llm_model.in_chat(tokenizer, "hello")


def test_a_tokenizer_over_which_the_library_panics_is_damaged() -> None:
    """A panic of Rust code is no Exception, and would end the process."""
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]], "continuing_subword_prefix": "xxxxx"}
    with pytest.raises(DamagedFile, match="not a tokenizer that the tokenizers library reads"):
        load(json.dumps({"version": "1.0", "added_tokens": [], "model": model}), "here")


@pytest.mark.parametrize("model", ["zoo:..", "zoo:../../evomm", "zoo:tiny/../../configs"])
def test_names_of_the_zoo_stay_in_it(model: str) -> None:
    from evomm.checkpoints.locate import locate

    with pytest.raises(MissingFile, match="is not among the data shipped"):
        locate(model)


def test_a_config_that_is_a_device_is_refused_unread(tmp_path: Path) -> None:
    """It would never end."""
    folder = llama(tmp_path / "model")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/dev/zero")
    with pytest.raises(DamagedFile, match=r"config\.json.*a device"):
        LLMAdapter().open(folder)


def test_texts_that_are_links_out_of_the_folder_are_not_given_to_transformers(tmp_path: Path) -> None:
    folder = llama(tmp_path / "model")
    (tmp_path / "elsewhere.json").write_text("{}")
    (folder / "tokenizer_config.json").symlink_to(tmp_path / "elsewhere.json")
    for bring in (lambda: llm_model.load(folder, "cpu", torch.float32), lambda: resident.tokens(AutoTokenizer, folder)):
        with pytest.raises(UnsafeFile, match="outside of the model folder"):
            bring()


def test_a_planted_link_in_the_place_of_a_partial_output_is_not_cleared(tmp_path: Path) -> None:
    """Folders such as /tmp are anybody's."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.txt").write_text("years of work")
    (tmp_path / ".out.partial").symlink_to(own)
    with pytest.raises(WriteFailed, match="a link"), CheckpointWriter(tmp_path / "out", {}):
        pass
    assert (own / "thesis.txt").read_text() == "years of work"


def test_reading_changes_nothing(tmp_path: Path) -> None:
    """What a memory map shows is not written back."""
    folder = llama(tmp_path / "model")
    before = (folder / SINGLE).read_bytes()
    checkpoint = LLMAdapter().open(folder)
    for name in checkpoint.infos:
        checkpoint.read(name).float().mul_(2)
    assert (folder / SINGLE).read_bytes() == before
    assert load_file(folder / SINGLE).keys() == set(SHAPES)
