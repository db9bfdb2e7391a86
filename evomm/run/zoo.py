"""The small models that ship with evomm: listing, verifying and rebuilding them.

``model_zoo/tiny/FAMILY/family.yaml`` says what a family is, which script builds it, and what its files' digests are.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from evomm.checkpoints.digest import file_digest
from evomm.errors import DamagedFile, EvommError, MissingFile, nearest
from evomm.plain import Plain, load_yaml, parse, read_text
from evomm.resources import resource


class Family(Plain):
    """A family of small models.

    models: name -> what it is. script: builds them; run as ``script --seed N --out DIR``. files: path -> SHA-256.
    """

    about: str
    adapter: str
    licence: str
    script: str
    models: Mapping[str, str]
    files: Mapping[str, str]


def families() -> dict[str, tuple[Path, Family]]:
    """Name -> folder and description of every family that ships."""
    found = sorted(resource("model_zoo", "tiny").glob("*/family.yaml"))
    return {p.parent.name: (p.parent, parse(Family, load_yaml(read_text(p), str(p)), str(p))) for p in found}


def family(name: str) -> tuple[Path, Family]:
    """One family by name; MissingFile with the nearest name otherwise."""
    known = families()
    if name not in known:
        raise MissingFile(f"no zoo family '{name}'{nearest(name, known)}")
    return known[name]


def verify(name: str) -> int:
    """Check the digests of a family's files; the number of files, or MissingFile / DamagedFile for the first wrong one."""
    folder, described = family(name)
    for path, digest in described.files.items():
        file = folder / path
        if not file.exists():
            raise MissingFile(f"{file}: is not there; check the project out again, or `evomm zoo build {name}`")
        if file_digest(file) != digest:
            raise DamagedFile(f"{file}: its digest is not the shipped one; check it out again")
    return len(described.files)


def build(name: str, seed: int, out: Path) -> None:
    """Train a family from scratch with the script that made it."""
    folder, described = family(name)
    command = [sys.executable, str(folder / described.script), "--seed", str(seed), "--out", str(out)]
    result = subprocess.run(command, check=False)
    if result.returncode != 0:
        raise EvommError(f"{folder / described.script} failed with exit code {result.returncode}; its output says why")
