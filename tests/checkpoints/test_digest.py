"""Digests: the one that everybody computes for files, and one per model that sees every change that matters."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from evomm.checkpoints.digest import checkpoint_digest, file_digest
from evomm.checkpoints.reader import Checkpoint


def test_a_files_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    (tmp_path / "million").write_bytes(b"a" * 1_000_000)  # both from FIPS 180-2, appendix B
    assert file_digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(tmp_path / "million") == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"


def test_a_models_digest_follows_its_content_and_nothing_else(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4)}, tmp_path / "model.safetensors")
    seen = [checkpoint_digest(Checkpoint(tmp_path))]

    shutil.copytree(tmp_path, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("not the model")
    assert checkpoint_digest(Checkpoint(tmp_path / "copy")) == seen[0]

    (tmp_path / "config.json").write_text("{}")
    seen.append(checkpoint_digest(Checkpoint(tmp_path)))
    save_file({"a": torch.tensor([0.0, 0.0, 0.0, 1.0])}, tmp_path / "model.safetensors")
    seen.append(checkpoint_digest(Checkpoint(tmp_path)))
    assert len(set(seen)) == 3
