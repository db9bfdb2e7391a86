"""Write the digests of a family's model files into its family.yaml, once they are good and before they are committed.

python model_zoo/tiny/seal.py llm
"""

import sys
from pathlib import Path

import yaml

from evomm.checkpoints.digest import file_digest


def seal(family: Path) -> int:
    """Replace ``files`` by what is there; the number of files."""
    description = family / "family.yaml"
    head, _, _ = description.read_text(encoding="utf-8").partition("files:")
    models = yaml.safe_load(head)["models"]
    paths = sorted(path for model in models for path in (family / model).rglob("*") if path.is_file())
    lines = [f"  {path.relative_to(family).as_posix()}: {file_digest(path)}\n" for path in paths]
    description.write_text(head + "files:\n" + "".join(lines), encoding="utf-8")
    return len(paths)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(name, seal(Path(__file__).parent / name), "files")
