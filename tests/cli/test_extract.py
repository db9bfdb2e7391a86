"""`evomm extract-lora` on folders as they come: the shipped zoo, and a checkpoint that leaves the model's prefix out."""

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from evomm.checkpoints.locate import locate
from evomm.checkpoints.lora import LoraReader, read_adapter
from evomm.checkpoints.reader import Checkpoint
from tests.checkpoints.peft_kit import QUIET, gpt2, logits, saved
from tests.cli.conftest import Evomm

pytestmark = QUIET


def test_a_shipped_parent_becomes_an_adapter_that_peft_runs(evomm: Evomm, tmp_path: Path) -> None:
    base, child = (locate(f"zoo:tiny/llm/{name}") for name in ("base", "ja"))
    said = json.loads(evomm("extract-lora", child, base, "-o", tmp_path / "lora", "--rank", 999, "--json").out)
    assert set(said) == {"out", "rank", "adapted", "whole", "biases", "bytes", "error", "seconds"}
    assert said["error"] < 0.01  # of a full rank, rounding is left
    loaded = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "lora", dtype=torch.float32).eval()
    expected = logits(AutoModelForCausalLM.from_pretrained(child, dtype=torch.float32).eval())
    before = logits(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval())
    assert float((logits(loaded) - expected).norm()) < 0.02 * float((before - expected).norm())


def test_the_prefix_that_a_checkpoint_leaves_out_is_found(evomm: Evomm, tmp_path: Path) -> None:
    for name in ("base", "child"):
        saved(gpt2(), tmp_path / name)
        tensors = {key.removeprefix("transformer."): t for key, t in load_file(tmp_path / name / "model.safetensors").items()}
        if name == "child":
            tensors["h.1.attn.c_attn.weight"] = tensors["h.1.attn.c_attn.weight"] + 0.1
            tensors["ln_f.weight"] = tensors["ln_f.weight"] + 0.1
        save_file(tensors, tmp_path / name / "model.safetensors", {"format": "pt"})
    said = evomm("extract-lora", tmp_path / "child", tmp_path / "base", "-o", tmp_path / "lora", "--rank", 2)
    assert "1 modules at rank 2, 1 stored whole" in said.out
    assert set(
        LoraReader(Checkpoint(tmp_path / "base"), read_adapter(tmp_path / "lora")).changed
    ) == {  # peft stores a module whole
        "h.1.attn.c_attn.weight",
        "ln_f.weight",
        "ln_f.bias",
    }
    loaded = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "lora")
    child = AutoModelForCausalLM.from_pretrained(tmp_path / "child")
    torch.testing.assert_close(logits(loaded.eval()), logits(child.eval()), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["zoo:tiny/llm/base", "zoo:tiny/llm/base", "-o", "out"], 2, "the model is its base"),
        (["zoo:tiny/llm/base", "nowhere", "-o", "out"], 4, "no such folder"),
        (["zoo:tiny/llm/base", "zoo:tiny/llm/ja", "-o", "out", "--rank", "0"], 2, "rank"),
    ],
)
def test_refusals_have_their_exit_code(
    evomm: Evomm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    told = evomm("extract-lora", *arguments)
    assert told.code == code
    assert said in told.err
    assert list(tmp_path.iterdir()) == []


def test_a_config_of_another_class_is_damaged(evomm: Evomm, tmp_path: Path) -> None:
    child = saved(gpt2(), tmp_path / "child")
    (child / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"], "model_type": "unheard-of"}))
    told = evomm("extract-lora", child, saved(gpt2(1), tmp_path / "base"), "-o", tmp_path / "lora")
    assert (told.code, "config.json is of no GPT2LMHeadModel" in told.err) == (4, True)
