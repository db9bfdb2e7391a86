"""The files beside a child's weights: what changes in them, and only that."""

import json
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment

from evomm.adapters.chat import TEMPLATES
from evomm.adapters.child import chat_template, child_config
from evomm.errors import UsageError
from evomm.merge.recipe import Recipe, Slice, Source

TALK = [
    {"role": "user", "content": "やあ"},
    {"role": "assistant", "content": "はい"},
    {"role": "user", "content": "2+3?"},
]
SAID = {
    "chatml": "<|im_start|>user\nやあ<|im_end|>\n<|im_start|>assistant\nはい<|im_end|>\n<|im_start|>user\n2+3?<|im_end|>\n"
    "<|im_start|>assistant\n",
    "llama3": "<s><|start_header_id|>user<|end_header_id|>\n\nやあ<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    "はい<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n2+3?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s>[INST] やあ [/INST] はい</s>[INST] 2+3? [/INST]",
    "alpaca": "### Instruction:\nやあ\n\n### Response:\nはい</s>\n\n### Instruction:\n2+3?\n\n### Response:\n",
    "exaone": "[|user|]やあ\n[|assistant|]はい[|endofturn|]\n[|user|]2+3?\n[|assistant|]",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_writes_a_conversation_as_its_family_does(name: str) -> None:
    spoken = (
        Environment()
        .from_string(TEMPLATES[name])
        .render(messages=TALK, bos_token="<s>", eos_token="</s>", add_generation_prompt=True)
    )
    assert spoken == SAID[name]


def parents(root: Path, *templates: str | None) -> list[Path]:
    """Folders with these chat templates."""
    folders = []
    for number, template in enumerate(templates):
        folder = root / str(number)
        folder.mkdir()
        settings: dict[str, Any] = {} if template is None else {"chat_template": template}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        folders.append(folder)
    return folders


def test_auto_takes_what_most_parents_have(tmp_path: Path) -> None:
    assert chat_template("auto", parents(tmp_path, "{{ 1 }}", None, "{{ 2 }}", " {{ 2 }}\n")) == "{{ 2 }}"


def test_auto_without_any_is_none(tmp_path: Path) -> None:
    assert chat_template("auto", parents(tmp_path, None, None)) is None


def test_jinja_is_taken_as_it_is() -> None:
    assert chat_template("{{ messages[0].content }}", []) == "{{ messages[0].content }}"


def test_a_misspelt_name_is_told() -> None:
    with pytest.raises(UsageError, match="did you mean 'chatml'"):
        chat_template("chatlm", [])


CONFIG = {
    "num_hidden_layers": 4,
    "layer_types": ["full", "sliding", "full", "sliding"],
    "torch_dtype": "float32",
    "eos_token_id": [2, 7],
    "rope_theta": 1e4,
}


def recipe(**more: Any) -> Recipe:
    """A recipe of two parents."""
    return Recipe(method="linear", parents={"a": Source(model="a"), "b": Source(model="b")}, **more)


def test_a_config_that_needs_no_change_gets_none(tmp_path: Path) -> None:
    assert child_config(recipe(), {"a": CONFIG, "b": {}}, None, tmp_path) == CONFIG


def test_the_dtype_is_the_childs(tmp_path: Path) -> None:
    config = child_config(recipe(dtype="bfloat16"), {"a": CONFIG, "b": {}}, None, tmp_path)
    assert config == {key: value for key, value in CONFIG.items() if key != "torch_dtype"} | {"dtype": "bfloat16"}


def test_what_a_config_lists_by_layer_follows_the_slices(tmp_path: Path) -> None:
    other = {**CONFIG, "layer_types": ["x0", "x1", "x2", "x3"]}
    slices = (Slice(layers={"a": (0, 3), "b": (0, 3)}), Slice(layers={"b": (1, 4)}))
    config = child_config(recipe(slices=slices), {"a": CONFIG, "b": other}, None, tmp_path)
    assert config["num_hidden_layers"] == 6
    assert config["layer_types"] == ["full", "sliding", "full", "x1", "x2", "x3"]
    assert config["eos_token_id"] == [2, 7]


def test_a_config_that_does_not_count_layers_cannot_be_stacked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not say how many layers"):
        child_config(recipe(slices=(Slice(layers={"a": (0, 1), "b": (0, 1)}),)), {"a": {"x": 1}, "b": {}}, None, tmp_path)
