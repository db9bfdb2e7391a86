"""Peers that evomm is compared with, mergekit above all, each in an environment of its own; called from outside, as users do."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import evomm
from benchmarks.measure import child_environment

PEER = "mergekit"
PEER_VERSION = "0.1.5"
ROOT = Path(__file__).resolve().parent.parent
PEER_ENV = ROOT / ".venv-mergekit"
SAME = ("torch", "transformers", "safetensors", "tokenizers", "numpy")  # both environments have the same versions of these


class Peer:
    """An environment that holds a peer; made when the folder lacks it.

    Args:
        package, number: the peer and its version.
        same: packages that it shall have in the versions of this environment.
    """

    def __init__(self, folder: Path, package: str = PEER, number: str = PEER_VERSION, same: Sequence[str] = SAME) -> None:
        self.folder = folder.absolute()
        self.package = package
        self.python = self.folder / "bin" / "python"
        self._wanted = [f"{package}=={number}", *(f"{name}=={version(name)}" for name in same)]
        self._shown = [package, *same]
        if not list(self.folder.glob(f"lib/python*/site-packages/{package.replace('-', '_')}-{number}.dist-info")):
            self._install()

    def command(self, name: str) -> Path:
        """A program that the package brings."""
        return self.folder / "bin" / name

    def versions(self) -> dict[str, str]:
        """Of Python and the packages that matter."""
        code = (
            "import json, platform; from importlib.metadata import version\n"
            f"found = {{name: version(name) for name in {self._shown!r}}}\n"
            "print(json.dumps({'python': platform.python_version(), **found}))\n"
        )
        found: dict[str, str] = json.loads(subprocess.run([self.python, "-c", code], check=True, stdout=subprocess.PIPE).stdout)
        return found

    def _install(self) -> None:
        print(f"installing {self._wanted[0]} into {self.folder.name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(self.folder)], check=True)
        uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
        tool = [uv, "pip", "install", "--python", str(self.python)] if uv else [str(self.python), "-m", "pip", "install"]
        subprocess.run([*tool, "--quiet", *self._wanted], check=True)


def compile_imports(peer: Peer | None) -> None:
    """Byte-compile both environments, so that no measured process pays for compiling what it imports."""
    folders = [sysconfig.get_path("purelib"), str(Path(evomm.__file__).parent)]
    subprocess.run([sys.executable, "-m", "compileall", "-q", *folders], stdout=subprocess.DEVNULL, check=False)
    if peer is not None:  # files that no Python 3 can compile exist in both; they are imported by nobody
        library = next((peer.folder / "lib").glob("python*/site-packages"))
        subprocess.run([peer.python, "-m", "compileall", "-q", str(library)], stdout=subprocess.DEVNULL, check=False)


_WORKER = """\
import json, sys, yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
for line in sys.stdin:
    job, error = json.loads(line), None
    try:
        with open(job["file"]) as file:
            text = file.read()
        options = MergeOptions(quiet=True, random_seed=job["seed"])
        run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), job["out"], options=options, config_source=text)
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"
    print("@" + json.dumps(error), flush=True)
"""


class PeerWorker:
    """mergekit's `run_merge`, which is what `mergekit-yaml` calls, in one process for many small files."""

    def __init__(self, peer: Peer) -> None:
        # A fixed hash seed: the order in which mergekit visits models comes from a set.
        environment = child_environment({"PYTHONHASHSEED": "0"})
        self._process: subprocess.Popen[str] = subprocess.Popen(
            [str(peer.python), "-c", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def merge(self, file: Path, out: Path, seed: int | None = None) -> str | None:
        """Merge a file into a folder; None, or why it was refused."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"file": str(file), "out": str(out), "seed": seed}) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("@"):
                answer: Any = json.loads(line[1:])
                return answer if answer is None else str(answer)
        raise RuntimeError(f"{PEER} ended before it answered")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
