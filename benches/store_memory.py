#!/usr/bin/env python3
"""What adding, checking and extracting cost by --memory.

    benches/store_memory.py CORPUS NAME [MIB...]

CORPUS/NAME/*.oci are versions of one image, in order of their names. For each --memory all versions
are added to a new store, checked and extracted. Prints a Markdown table: the most memory that each
command had (peak resident set), CPU and wall time of all, and bytes of the store. RELAYER names the
binary.
"""
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RELAYER = os.environ.get("RELAYER", "target/release/relayer")


class Costs:
    def __init__(self):
        self.peak = self.cpu = self.wall = 0

    def run(self, *command):
        start = time.monotonic()
        child = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        assert status == 0, command
        self.wall += time.monotonic() - start
        self.cpu += usage.ru_utime + usage.ru_stime
        self.peak = max(self.peak, usage.ru_maxrss)

    def __str__(self):
        return f"{self.peak >> 10} | {self.cpu:.0f} | {self.wall:.0f}"


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    versions = sorted((Path(sys.argv[1]) / sys.argv[2]).glob("*.oci"))
    names = ["add", "check", "extract"]
    print("| `--memory`, MiB | MB | " + " | ".join(f"{n}: MiB | CPU, s | wall, s" for n in names)
          + " |\n|--:" + "|--:" * 10 + "|")
    for mib in map(int, sys.argv[3:] or [64, 128, 256, 512, 1024]):
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as scratch:
            scratch = Path(scratch)
            command = [RELAYER, "store", "--store", scratch / "store", "--memory", f"{mib}MiB", "-q"]
            costs = [Costs() for _ in names]
            for i, version in enumerate(versions):
                costs[0].run(*command, "add", "--name", f"x:{i}", version)
            costs[1].run(*command, "check")
            for i in range(len(versions)):
                out = scratch / "out.tar"
                costs[2].run(*command, "extract", f"x:{i}", "-f", "-o", out)
            size = sum(f.stat().st_size for f in (scratch / "store").rglob("*") if f.is_file())
            print(f"| {mib} | {size / 1e6:.1f} | " + " | ".join(map(str, costs)) + " |", flush=True)


if __name__ == "__main__":
    main()
