"""The floor of a merge: a process that reads the same inputs, writes as many bytes, and does nothing else."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Cost, settled

FLOOR = """\
import json, os, sys, time
job = json.loads(sys.argv[1])
block = memoryview(bytearray(1 << 20))
out = os.open(job["out"], os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o644)
os.posix_fallocate(out, 0, job["size"])
at = 0
for names in job["inputs"]:
    files = [open(name, "rb", 0) for name in names]
    while True:
        for file in files:
            got = file.readinto(block)
        if not got:
            break
        os.pwrite(out, block[:got], at)
        at += got
started = time.monotonic()
os.fsync(out)
print(time.monotonic() - started)
"""


def floor(inputs: Sequence[Sequence[Path]], scratch: Path) -> tuple[Cost, float]:
    """The cost of reading these files and writing as many bytes as the first parent has, and the seconds of its fsync.

    Args:
        inputs: groups of files that are read in turns, one file of each parent.
        scratch: a folder for what is written, which is removed, and for logs.
    """
    out = scratch / "floor.bin"
    size = sum(group[0].stat().st_size for group in inputs)
    job = {"inputs": [[str(file) for file in group] for group in inputs], "out": str(out), "size": size}
    done = settled([sys.executable, "-c", FLOOR, json.dumps(job)], scratch)
    if done.code:
        sys.exit(f"the floor failed: {done.err.strip()[-200:]}")
    out.unlink()
    return done.cost, float(done.out)
