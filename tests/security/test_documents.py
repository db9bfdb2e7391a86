"""Hostile recipes, configs, adapter configs and what the terminal shows of them."""

import json
from pathlib import Path

import pytest

from evomm.checkpoints.lora_config import CONFIG, read_config
from evomm.errors import DamagedFile, UsageError
from evomm.merge.recipe import Block
from evomm.plain import load_yaml, load_yaml_all


def laughs(width: int, depth: int) -> str:
    """A document whose aliases stand for width ** depth values."""
    lines = [f"a0: &a0 [{', '.join(['lol'] * width)}]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, depth)]
    return "\n".join(lines)


@pytest.mark.parametrize("text", [laughs(9, 9), laughs(1000, 3), "a: &a [*a]", "a: &a {b: *a}", "a: &a [[[*a]]]"])
def test_aliases_that_unfold_without_end_are_refused(text: str) -> None:
    for read in (load_yaml, load_yaml_all):
        with pytest.raises(UsageError, match="alias"):
            read(text, "x.yaml")


def test_honest_aliases_are_read() -> None:
    assert load_yaml("a: &w {weight: 1}\nb: [*w, *w]", "x") == {"a": {"weight": 1}, "b": [{"weight": 1}] * 2}


def test_many_keys_are_read_in_one_pass() -> None:
    """Comparing each with each took minutes."""
    keys = 30_000
    assert len(load_yaml("".join(f"k{i}: 1\n" for i in range(keys)), "x")) == keys
    with pytest.raises(UsageError, match="key 'k7' stands twice"):
        load_yaml("".join(f"k{i}: 1\n" for i in range(keys)) + "k7: 1\n", "x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 0x" + "f" * 5000, "more than 64 bits"),
        ("a: " + "9" * 30, "more than 64 bits"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ('a: "\\ud800"', "half of a surrogate pair"),
        ("a: " + "x" * (1 << 24), "letters, expected at most"),
        ("a: !!timestamp [x]", "not valid YAML"),
        ("a: !!float {}", "not valid YAML"),
    ],
)
def test_values_that_nothing_can_hold_are_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        load_yaml(text, "x.yaml")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("pattern", ["(a+)+b", "(.*)*", "(a|aa)+x", ".*.*.*.*.*x", r"(\w+\.?)*z", "(x{9}){9}"])
def test_patterns_that_could_take_for_ever_are_refused(tmp_path: Path, pattern: str) -> None:
    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "LORA", "rank_pattern": {pattern: 4}}))
    with pytest.raises(DamagedFile, match="matching it could take for ever"):
        read_config(tmp_path)


@pytest.mark.parametrize("pattern", ["q_proj", r"layers\.\d+\.q_proj", r"^model\.layers\.(1|2)\..*_proj"])
def test_patterns_that_people_write_are_read(tmp_path: Path, pattern: str) -> None:
    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "LORA", "rank_pattern": {pattern: 4}}))
    assert read_config(tmp_path).rank("model.layers.1.q_proj") == 4


def test_patterns_of_blocks_cannot_take_for_ever() -> None:
    """Globs are translated without backtracking."""
    assert not Block(name="x", tensors=("*a" * 60 + "b",)).matches("a" * 400)


@pytest.mark.parametrize("alpha", [1e308, -1e7])
def test_an_alpha_beyond_all_measure_is_damaged(tmp_path: Path, alpha: float) -> None:
    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "LORA", "lora_alpha": alpha}))
    with pytest.raises(DamagedFile, match="lora_alpha"):
        read_config(tmp_path)
