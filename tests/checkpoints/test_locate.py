"""Finding models: shipped, beside a config, or in the hub's cache; never over the network here."""

import socket
from pathlib import Path

import pytest

from evomm.checkpoints.locate import is_hub_id, locate, superfluous
from evomm.errors import MissingFile


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty hub cache, and a failure for whoever tries to connect."""

    def refuse(*_: object) -> None:
        pytest.fail("tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


def test_a_zoo_name_is_found_among_the_shipped_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home" / "model_zoo" / "tiny" / "llm" / "ja"
    home.mkdir(parents=True)
    monkeypatch.setattr("evomm.resources._HOMES", (tmp_path / "nothing", tmp_path / "home"))
    assert locate("zoo:tiny/llm/ja") == home
    with pytest.raises(MissingFile, match=r"'model_zoo/tiny/xx' is not among the data .* `evomm zoo list`"):
        locate("zoo:tiny/xx")


def test_a_relative_path_starts_beside_the_file_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("configs/m", "work/m", "work/only-here"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    assert locate("m", beside=tmp_path / "configs") == tmp_path / "configs" / "m"
    assert locate("m") == tmp_path / "work" / "m"
    assert locate("only-here", beside=tmp_path / "configs") == tmp_path / "work" / "only-here"
    assert locate(str(tmp_path / "work" / "m"), beside=tmp_path / "configs") == tmp_path / "work" / "m"


def test_a_file_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"")
    (tmp_path / "anime.safetensors").symlink_to(tmp_path / "blob")
    assert locate("anime.safetensors", beside=tmp_path) == tmp_path / "anime.safetensors"


def test_of_a_pipeline_only_the_best_weights_are_fetched() -> None:
    """As stabilityai/stable-diffusion-xl-base-1.0 has them, and a model with shards."""
    single, fp16 = "sd_xl_base_1.0.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"
    files = [
        "model_index.json",
        single,
        fp16,
        "unet/diffusion_pytorch_model.safetensors",
        "vae/model.fp16.safetensors",
        "README.md",
    ]
    assert superfluous(files) == [single, fp16]
    shards = ["a/model-00001-of-00002.safetensors", "a/model.safetensors.index.json"]
    copies = ["a/model.fp16-00001-of-00009.safetensors", "a/model.safetensors.index.fp16.json"]
    assert superfluous([*shards, *copies]) == copies[:1]
    assert superfluous(["model-00001-of-00002.safetensors", "model.safetensors.index.json"]) == []


@pytest.mark.parametrize("download", [True, False])
def test_a_hub_model_that_is_not_here_says_how_to_fetch_it(download: bool) -> None:
    with pytest.raises(MissingFile, match="`hf download owner/name`"):
        locate("owner/name", download=download)
    with pytest.raises(MissingFile, match="`hf download owner/name --revision v1`"):
        locate("owner/name@v1", download=download)


def test_a_hub_model_in_the_cache_is_found(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "cache" / "models--owner--name"
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    assert locate("owner/name") == repo / "snapshots" / commit
    assert locate(f"owner/name@{commit}") == repo / "snapshots" / commit


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere/at/all", "nowhere", "a/b/c"])
def test_what_can_be_nothing_says_what_was_expected(model: str) -> None:
    with pytest.raises(MissingFile, match="no such folder or file, and not a zoo: name or a hub id"):
        locate(model)


@pytest.mark.parametrize(
    ("model", "is_one"),
    [
        ("augmxnt/shisa-gamma-7b-v1", True),
        ("a/b@main", True),
        ("a/b@refs/pr/1", True),
        ("./a/b", False),
        ("a", False),
        ("../a", False),
    ],
)
def test_hub_ids_are_told_from_paths(model: str, is_one: bool) -> None:
    assert is_hub_id(model) is is_one
