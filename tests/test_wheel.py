"""The wheel holds what the project needs when there is no checkout around it."""

import subprocess
import sys
import zipfile
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).resolve().parents[1]
CODE = """
import sys; sys.path.insert(0, sys.argv[1])
from evomm.resources import resource
for parts in (("configs", "demo-llm.yaml"), ("evals", "mgsm-ja.yaml"), ("model_zoo", "tiny", "llm", "ja", "model.safetensors")):
    path = resource(*parts)
    assert sys.argv[1] in str(path), path
import evomm
from pathlib import Path
assert {"run.html", "style.css"} <= {path.name for path in (Path(evomm.__file__).parent / "report" / "templates").iterdir()}
"""


def test_shipped_data_is_found_in_an_installed_wheel(tmp_path: Path) -> None:
    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    assert not list(site.rglob("__pycache__"))
    subprocess.run([sys.executable, "-c", CODE, str(site)], check=True, cwd=tmp_path)
