"""``python -m tests.fuzz.run READER --minutes 10 --seed 0 --out FOLDER``: inputs without end, and what they found.

A process reads inputs one after the other, with little memory; this one watches it, so that a crash or a hang inside of a
library is a finding too, after which a fresh process goes on with other inputs. FOLDER gets the smallest input of each finding,
and a log: one line of JSON with minutes, processor time, executions and findings.
"""

import argparse
import json
import multiprocessing
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fuzz.judge import Finding, Reader, judge, limit_memory
from tests.fuzz.table import READERS

_STUCK = 60.0  # seconds without a sign of life, inside of a library that no timer of Python's interrupts
_TRIES = 200  # to make the input of a finding smaller


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"))
    options = parser.parse_args()
    out = options.out / options.reader
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as scratch:
        told = watch(options.reader, options.seed, options.minutes * 60, Path(scratch), out)
    line = json.dumps({"reader": options.reader, "seed": options.seed, **told})
    with (options.out / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(f"{line}\n")
    print(line)


def watch(name: str, seed: int, seconds: float, scratch: Path, out: Path) -> dict[str, object]:
    """Run processes until the time is over; a sum of what they did."""
    began, executions, busy, round_ = time.monotonic(), 0, 0.0, 0
    while (left := seconds - (time.monotonic() - began)) > 0:
        process = multiprocessing.get_context("spawn").Process(
            target=work, args=(name, seed + 1_000_003 * round_, left, scratch, out)
        )
        process.start()
        count = scratch / "count"
        while process.is_alive():
            process.join(2)
            if count.exists() and time.time() - count.stat().st_mtime > _STUCK:
                process.kill()
        done, spent = json.loads(count.read_text() or "[0, 0]") if count.exists() else (0, 0)
        executions, busy, round_ = executions + done, busy + spent, round_ + 1
        if process.exitcode:
            _keep(READERS[name], Finding(f"process ended with {process.exitcode}", ""), (scratch / "current").read_bytes(), out)
        count.unlink(missing_ok=True)
    minutes = (time.monotonic() - began) / 60
    found = sorted(path.stem for path in out.glob("*.txt"))
    return {"minutes": round(minutes, 1), "processor_minutes": round(busy / 60, 1), "executions": executions, "findings": found}


def work(name: str, seed: int, seconds: float, scratch: Path, out: Path) -> None:
    """Read inputs until the time is over; findings are made smaller and kept."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    reader, until, seen = READERS[name], time.monotonic() + seconds, set[str]()
    for data in reader.seeds():  # which import what is imported late: that takes time and memory of its own
        judge(reader, data, _folder(scratch), seconds=120)
    limit_memory()
    for number, data in enumerate(reader.inputs(seed)):
        if time.monotonic() > until:
            return
        (scratch / "current").write_bytes(data)
        found = judge(reader, data, _folder(scratch))
        if found is not None and found.key not in seen:
            seen.add(found.key)
            smaller = shrunk(reader, data, found.key, scratch)
            _keep(reader, judge(reader, smaller, _folder(scratch)) or found, smaller, out)
        (scratch / "count").write_text(json.dumps([number + 1, time.process_time()]))


def shrunk(reader: Reader, data: bytes, key: str, scratch: Path) -> bytes:
    """A smaller input with the same finding: pieces of it are left out, ever smaller ones."""
    size, tries = max(1, len(data) // 2), 0
    while size and tries < _TRIES:
        at = 0
        while at < len(data) and tries < _TRIES:
            less, tries = data[:at] + data[at + size :], tries + 1
            found = judge(reader, less, _folder(scratch))
            (scratch / "count").touch()  # a sign of life
            if found is not None and found.key == key:
                data = less
            else:
                at += size
        size //= 2
    return data


def _folder(scratch: Path) -> Path:
    folder = scratch / "work"
    folder.mkdir(exist_ok=True)
    return folder


def _keep(reader: Reader, found: Finding, data: bytes, out: Path) -> None:
    name = "".join(letter if letter.isalnum() else "-" for letter in found.key)
    path = out / f"{name}{reader.suffix}"
    if not path.exists() or len(data) < path.stat().st_size:
        path.write_bytes(data)
        path.with_suffix(".txt").write_text(f"{found.key}\n{found.told}", encoding="utf-8", errors="backslashreplace")


if __name__ == "__main__":
    main()
