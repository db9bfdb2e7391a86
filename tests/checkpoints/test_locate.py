"""Finding models: shipped, beside a config, or in the hub's cache; never over the network here."""

import socket
from pathlib import Path

import pytest

from evomm.checkpoints.locate import fetch_command, hub_parts, is_hub_id, locate, locate_configs, reference, superfluous
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


def cached(tmp_path: Path, repo: str, *files: str) -> Path:
    """Files of a hub repository in this machine's cache, as links to blobs; the snapshot's folder."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    home = tmp_path / "cache" / f"models--{repo.replace('/', '--')}"
    for number, file in enumerate(files):
        blob, path = home / "blobs" / str(number), home / "snapshots" / commit / file
        blob.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_text(file)
        path.symlink_to(blob)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    return home / "snapshots" / commit


@pytest.mark.parametrize(
    ("model", "parts", "command"),
    [
        ("owner/name", ("owner/name", "", ""), "hf download owner/name"),
        ("owner/name@v1", ("owner/name", "v1", ""), "hf download owner/name --revision v1"),
        ("owner/name/x.safetensors", ("owner/name", "", "x.safetensors"), "hf download owner/name x.safetensors"),
        (
            "owner/name@v1/sub/x-4step.safetensors",
            ("owner/name", "v1", "sub/x-4step.safetensors"),
            "hf download owner/name sub/x-4step.safetensors --revision v1",
        ),
        ("owner/name/../x.safetensors", None, None),
        ("owner/name/x.ckpt", None, None),
        ("./name/x.safetensors", None, None),
        ("/a/b/x.safetensors", None, None),
        ("name/x.safetensors", ("name/x.safetensors", "", ""), "hf download name/x.safetensors"),
    ],
)
def test_what_a_name_says_of_the_hub(model: str, parts: tuple[str, str, str] | None, command: str | None) -> None:
    assert hub_parts(model) == parts
    if command is not None:
        assert fetch_command(model) == command
    assert is_hub_id(model) is (parts is not None and not parts[2])


def test_one_file_of_a_hub_repository(tmp_path: Path) -> None:
    """Among many others that are not fetched."""
    snapshot = cached(tmp_path, "owner/loras", "4step.safetensors", "sub/8step.safetensors")
    found = locate("owner/loras/4step.safetensors")
    assert found == snapshot / "4step.safetensors"
    assert locate("owner/loras/sub/8step.safetensors", download=False).read_text() == "sub/8step.safetensors"
    assert reference("owner/loras/4step.safetensors", found) == "owner/loras/4step.safetensors"
    with pytest.raises(MissingFile, match=r"`hf download owner/loras 2step\.safetensors`"):
        locate("owner/loras/2step.safetensors", download=False)
    with pytest.raises(MissingFile, match=r"`hf download owner/loras 2step\.safetensors --revision v1`"):
        locate("owner/loras@v1/2step.safetensors")
    (tmp_path / "owner" / "loras").mkdir(parents=True)
    (tmp_path / "owner" / "loras" / "4step.safetensors").write_text("mine")
    assert locate("owner/loras/4step.safetensors", beside=tmp_path).read_text() == "mine"


def test_configs_of_a_family(tmp_path: Path) -> None:
    """What single files lack, without the weights."""
    repo = "stabilityai/stable-diffusion-xl-base-1.0"
    command = rf"`hf download {repo} --include '\*\.json' --include '\*\.txt'`"
    for download in (True, False):
        with pytest.raises(MissingFile, match=command):
            locate_configs("xl_base", download)
    snapshot = cached(tmp_path, repo, "model_index.json", "unet/config.json")
    with pytest.raises(MissingFile, match=rf"has no tokenizer/tokenizer_config\.json.*{command}"):
        locate_configs("xl_base")
    for path in ("tokenizer/tokenizer_config.json", "scheduler/scheduler_config.json"):
        (snapshot / path).parent.mkdir()
        (snapshot / path).write_text("{}")
    assert locate_configs("xl_base") == locate_configs("xl_base", download=False) == snapshot
    with pytest.raises(MissingFile, match=rf"without its weights; fetch it with `hf download {repo}`"):
        locate(repo, download=False)
    with pytest.raises(MissingFile, match=r"family 'v2'.*make a diffusers folder of the same family"):
        locate_configs("v2")
