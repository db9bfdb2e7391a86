"""How much memory and time `evomm merge` takes on parents of real size, beside the floor: the same bytes read and written.

    python -m benchmarks.merge_memory [--shape 1.1b] [--method linear ...] [--keep DIR]

Peak anonymous memory is sampled from /proc every 10 ms (mapped files are page cache and not counted). The bound that
evomm promises is 1 GiB + 4 x the largest tensor. The child is loaded with transformers afterwards.
"""

import argparse
import math
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.parents import SHAPES, make, shapes

GIB = 1 << 30
PER_PARENT = {"linear": {"weight": 0.5}, "task_arithmetic": {"weight": 1.0}, "ties": {"weight": 1.0, "density": 0.5}}


@dataclass(frozen=True)
class Cost:
    """What a process took."""

    wall: float
    cpu: float
    anonymous: int


def measure(command: list[str]) -> Cost:
    """Run a command; its wall time, CPU time and peak anonymous memory. Fails when it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process.pid, peak))
    watcher.start()
    code = process.wait()
    wall = time.monotonic() - started
    watcher.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code != 0:
        sys.exit(f"{' '.join(command)}: exit code {code}")
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak[0])


def _watch(pid: int, peak: list[int]) -> None:
    status = Path(f"/proc/{pid}/status")
    while True:
        try:
            lines = status.read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return
        anonymous = [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")]
        if not anonymous:  # a zombie: finished
            return
        peak[0] = max(peak[0], anonymous[0])
        time.sleep(0.01)


def recipe(method: str, root: Path) -> Path:
    """A two-parent recipe; for methods on task vectors the first parent is the base."""
    content: dict[str, object] = {
        "method": method,
        "parents": {label: {"model": str(root / label)} for label in ("0", "1")},
        "parameters": PER_PARENT.get(method, {}),
        "dtype": "bfloat16",
    }
    if method not in {"linear", "slerp"}:
        content["base"] = "0"
    path = root / f"{method}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def floor(root: Path) -> list[str]:
    """A process that reads both parents and writes one of them out, and nothing else."""
    code = (
        "import sys; a, b, out = sys.argv[1:]; n = 1 << 24; buffer = bytearray(n)\n"
        "with open(a, 'rb', 0) as x, open(b, 'rb', 0) as y, open(out, 'wb', 0) as z:\n"
        "    while (got := x.readinto(buffer)):\n"
        "        y.readinto(buffer); z.write(memoryview(buffer)[:got])\n"
    )
    files = [str(root / label / "model.safetensors") for label in ("0", "1")]
    return [sys.executable, "-c", code, *files, str(root / "floor.bin")]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="1.1b")
    parser.add_argument("--method", nargs="+", default=["linear", "task_arithmetic", "ties"])
    parser.add_argument("--keep", type=Path, help="a folder for the parents, kept for the next time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = options.keep or Path(temporary)
        for seed in (0, 1):
            if not (root / str(seed)).exists():
                make(options.shape, root / str(seed), seed)
        run(options.shape, options.method, root, Path(temporary))


def run(shape: str, methods: list[str], root: Path, scratch: Path) -> None:
    """Measure each method once, after the floor warmed the cache."""
    sizes = [math.prod(size) * 2 for _, size in shapes(shape)]
    bound = GIB + 4 * max(sizes)
    total = sum(sizes)
    print(f"{shape}: {total / 1e9:.2f} GB per parent, largest tensor {max(sizes) / 1e6:.0f} MB; bound {bound / GIB:.2f} GiB")
    measure(floor(root))
    (root / "floor.bin").unlink()
    lowest = measure(floor(root))
    (root / "floor.bin").unlink()
    print(f"{'floor (read 2, write 1)':26} {lowest.wall:6.1f} s wall {lowest.cpu:6.1f} CPU-s")
    start = measure([sys.executable, "-c", "import evomm.run.make"])
    print(f"{'imports alone':26} {start.wall:6.1f} s wall {start.cpu:6.1f} CPU-s {start.anonymous / GIB:5.2f} GiB anonymous")
    evomm = str(Path(sys.executable).with_name("evomm"))
    for method in methods:
        out = scratch / method
        cost = measure([evomm, "merge", str(recipe(method, root)), "-o", str(out), "--json"])
        verdict = "within the bound" if cost.anonymous <= bound else "ABOVE THE BOUND"
        print(
            f"{method:26} {cost.wall:6.1f} s wall {cost.cpu:6.1f} CPU-s {cost.anonymous / GIB:5.2f} GiB anonymous, {verdict}; "
            f"{cost.wall / lowest.wall:.1f}x the floor's wall, {cost.cpu / lowest.cpu:.1f}x its CPU"
        )
        load(out)


def load(folder: Path) -> None:
    """transformers must load the child, in another process, with nothing missing."""
    code = (
        "import sys, json, torch; from transformers import AutoModelForCausalLM\n"
        "model, info = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16, output_loading_info=True)\n"
        "assert not info['missing_keys'] and not info['unexpected_keys'], info\n"
        "print('loads in transformers:', type(model).__name__, sum(p.numel() for p in model.parameters()))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
