"""What parents' cards say, read safely; nothing is guessed."""

from pathlib import Path

import pytest

from evomm.merge.recipe import Recipe, Source
from evomm.report.declared import declared, front_matter
from evomm.report.licences import Licence
from evomm.run.make import Workshop
from tests import worlds


def licence(card: str | None, folder: Path) -> Licence:
    """Of a model with this card."""
    folder.mkdir(exist_ok=True)
    if card is not None:
        (folder / "README.md").write_text(card, encoding="utf-8")
    return declared({"it": Source(model=str(folder))})["it"].licence


@pytest.mark.parametrize(
    ("card", "called"),
    [
        ("---\nlicense: MIT\nlanguage: ja\n---\n# It\n", "mit"),
        ("\ufeff---\r\nlicense: apache-2.0\r\n---\r\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: acme\nlicense_link: https://acme.example\n---\n", "acme"),
        ("---\nlicense: [mit, apache-2.0]\n---\n", "mit or apache-2.0"),
        ("# A card without metadata\nlicense: mit\n", "unknown"),
        ("---\nlicense: 3\n---\n", "unknown"),
        ("---\nlicense: !!python/object/apply:os.system ['true']\n---\n", "unknown"),
        ("---\n" + "[" * 5000 + "\n---\n", "unknown"),
        ("---\n- a\n- list\n---\n", "unknown"),
        (None, "unknown"),
    ],
)
def test_cards(card: str | None, called: str, tmp_path: Path) -> None:
    assert licence(card, tmp_path / "model").called == called


def test_an_endless_card_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("---\n" + "x: y\n" * 100_000 + "license: mit\n---\n")
    assert front_matter(path) == {}


def test_what_the_zoo_knows() -> None:
    sources = {
        "m": Source(model="mistralai/Mistral-7B-v0.1"),
        "j": Source(model="stabilityai/japanese-stable-diffusion-xl"),
        "x": Source(model="nobody/ever-heard-of-it"),
        "few": Source(model="zoo:tiny/sdxl/base", lora="zoo:tiny/sdxl/few"),
    }
    found = {label: one.licence for label, one in declared(sources).items()}
    assert found["m"].id == "apache-2.0"
    assert found["j"].id == "other"
    assert found["j"].link == "https://huggingface.co/stabilityai/japanese-stable-diffusion-xl"
    assert found["x"].id == "unknown"
    assert found["few (LoRA)"].id == "cc-by-4.0"


def test_a_child_without_a_card_has_what_follows_from_its_parents(tmp_path: Path) -> None:
    """As the children of a run's stages are."""
    worlds.make_fake(tmp_path)
    (tmp_path / "low" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\nlanguage: [en]\n---\n")
    (tmp_path / "high" / "README.md").write_text("---\nlicense: mit\nlanguage: [ja, en]\n---\n")
    recipe = Recipe(method="linear", parents={name: Source(model=str(tmp_path / name)) for name in ("low", "high")})
    Workshop().make(recipe, tmp_path / "child")
    found = declared({"child": Source(model=str(tmp_path / "child"))})["child"]
    assert found.licence.id == "cc-by-nc-4.0"
    assert found.languages == ("en", "ja")


def test_hub_ids_are_found_through_children(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    parents = {"a": Source(model="org/a@main", lora="org/l/x.safetensors"), "b": Source(model="zoo:tiny/llm/base")}
    (tmp_path / "evomm_recipe.yaml").write_text(Recipe(method="linear", parents=parents).to_yaml())
    assert declared({"it": Source(model=str(tmp_path))})["it"].bases == ("org/a", "org/l")
    assert declared({"it": Source(model="org/b@v2")})["it"].bases == ("org/b",)
