"""Plain data: what users write is read safely, and mistakes are told in their words."""

import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from evomm.errors import MissingFile, UsageError
from evomm.plain import Plain, load_yaml, load_yaml_all, parse, read_text


class Inner(Plain):
    """A part of a config."""

    sigma: float = 0.5
    population: int = 4


class Outer(Plain):
    """A config."""

    method: str
    search: Inner = Inner()
    rules: tuple[Inner, ...] = ()
    named: Mapping[str, Inner] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"methd": "x", "method": "x"}, r"unknown key 'methd'; did you mean 'method'\?"),
        ({"method": "x", "search": {"sigmaa": 1}}, r"unknown key 'search\.sigmaa'; did you mean 'sigma'\?"),
        ({"method": "x", "rules": [{}, {"sgima": 1}]}, r"unknown key 'rules\.1\.sgima'; did you mean 'sigma'\?"),
        ({"method": "x", "named": {"a": {"popluation": 1}}}, r"'named\.a\.popluation'; did you mean 'population'\?"),
        ({"method": "x", "qqq": 1}, "unknown key 'qqq'; known: method, named, rules, search"),
        ({}, "key 'method' is missing"),
        ({"method": "x", "search": {"sigma": "wide"}}, r"search\.sigma: .*number"),
        ({"method": "x", "search": {"sigma": float("nan")}}, r"search\.sigma: .*finite"),
    ],
)
def test_mistakes_name_the_key_and_the_nearest_known_one(content: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        parse(Outer, content, "run.yaml")
    assert str(caught.value).startswith("run.yaml: ")


def test_plain_data_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Inner().sigma = 1.0


@pytest.mark.parametrize("text", ["a: 1\na: 2", "b: {a: 1, a: 2}", "b: [{a: 1, a: 1}]"])
def test_a_key_that_stands_twice_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"x\.yaml.*key 'a' stands twice"):
        load_yaml(text, "x.yaml")


@pytest.mark.parametrize("tag", ["object:os.system", "object/apply:os.system", "name:os.system", "module:os", "tuple"])
def test_tags_that_make_objects_are_refused(tag: str) -> None:
    with pytest.raises(UsageError, match="not valid YAML"):
        load_yaml(f"a: !!python/{tag} [x]", "x.yaml")


@pytest.mark.parametrize(
    "text",
    ["", "- 1", "just text", "a: [", "\ta: 1", "? [a]\n: b", "a: \x00", "a: 2024-13-45", "a: 0x_", "[" * 2000],
)
def test_what_is_no_mapping_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"^x\.yaml: "):
        load_yaml(text, "x.yaml")


@pytest.mark.parametrize(("text", "count"), [("a: 1", 1), ("a: 1\n---\na: 1e-3", 2), ("---\na: 1\n---\n---\na: 2\n---\n", 2)])
def test_several_documents_in_one_file(text: str, count: int) -> None:
    read = load_yaml_all(text, "x")
    assert len(read) == count
    assert all(isinstance(content["a"], int | float) for content in read)


@pytest.mark.parametrize(
    "text", ["", "---\n", "a: 1\n---\n- 1", "a: 1\n---\na: [", "a: 1\n---\na: 1\na: 2", "a: 1\n---\n!!python/name:os"]
)
def test_several_documents_are_refused_like_one(text: str) -> None:
    with pytest.raises(UsageError, match=r"^x\.yaml: "):
        load_yaml_all(text, "x.yaml")


@pytest.mark.parametrize(("text", "value"), [("1e-3", 0.001), ("-2E+4", -2e4), ("1.e3", 1000.0), ("1.5e-7", 1.5e-7), ("7", 7)])
def test_numbers_are_read_as_numbers(text: str, value: float) -> None:
    assert load_yaml(f"a: {text}", "x") == {"a": value}


@pytest.mark.parametrize("text", ["1e5abc", "2e0f6b", "1e3-v2", "3e"])
def test_text_that_begins_like_a_number_stays_text(text: str) -> None:
    """Digests and model names do."""
    assert load_yaml(f"a: {text}", "x") == {"a": text}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_keep_every_bit(value: float) -> None:
    read = load_yaml(yaml.safe_dump({"a": value}), "x")["a"]
    again = Inner.model_validate_json(Inner(sigma=value).model_dump_json()).sigma
    assert struct.pack("d", float(read)) == struct.pack("d", value) == struct.pack("d", again)


def test_files_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    (tmp_path / "sjis.yaml").write_bytes("名前: 値".encode("shift_jis"))
    with pytest.raises(MissingFile, match=r"nowhere\.yaml: no such file"):
        read_text(tmp_path / "nowhere.yaml")
    for path in (tmp_path / "sjis.yaml", tmp_path):
        with pytest.raises(UsageError, match="cannot be read as text"):
            read_text(path)
