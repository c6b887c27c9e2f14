#!/usr/bin/env python3
"""What adding an image costs as a store grows.

    benches/store_growth.py [ADDS [DESCRIPTORS]]

Adds 2,000 images one by one, each a process that may have 256 descriptors open: versions of one
small application, of which a tenth is new in each. Prints a Markdown table: median CPU and wall
time of an add by how many there were, and files and bytes of the store; then checks, collects and
checks again. Fails when the last adds cost more than 1.5 times what the tenth did. RELAYER names
the binary.
"""
import hashlib
import io
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

RELAYER = os.environ.get("RELAYER", "target/release/relayer")
# Images whose median is one row.
WINDOW = 20


def sha(data):
    return hashlib.sha256(data).hexdigest()


def image(version, path):
    """A docker-archive with forty files, of which four change from version to version."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for i in range(40):
            seed = version if i % 10 == version % 10 else version - (version - i) % 10
            data = random.Random(f"{i} {seed}").randbytes(1500 + 97 * i)
            info = tarfile.TarInfo(f"srv/app/part{i}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    layer = layer.getvalue()
    config = json.dumps({"architecture": "amd64", "os": "linux", "created": f"{version}",
                         "rootfs": {"type": "layers", "diff_ids": ["sha256:" + sha(layer)]}}).encode()
    items = [{"Config": f"{sha(config)}.json", "RepoTags": [f"app:{version}"], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        for name, data in [(f"{sha(config)}.json", config), ("layer.tar", layer),
                           ("manifest.json", json.dumps(items).encode())]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def run(store, descriptors, *command):
    """CPU and wall seconds of a command."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([RELAYER, "store", "--store", store, "--threads", "2", *map(str, command)],
                   check=True, preexec_fn=limit, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.monotonic() - start


def main():
    adds = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    descriptors = int(sys.argv[2]) if len(sys.argv) > 2 else 256
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as scratch:
        store, archive = Path(scratch) / "store", Path(scratch) / "image.tar"
        costs = []
        print("| images | CPU of an add, ms | mean | wall, ms | files | MB |\n|--:|--:|--:|--:|--:|--:|")
        for version in range(adds):
            image(version, archive)
            costs.append(run(store, descriptors, "add", archive))
            number = version + 1
            if number == WINDOW or number % (adds // 10) == 0:
                cpu, wall = (statistics.median(c) for c in zip(*costs[-WINDOW:]))
                mean = statistics.mean(c for c, _ in costs[-WINDOW:])
                files = [f for f in store.rglob("*") if f.is_file()]
                size = sum(f.stat().st_size for f in files)
                print(f"| {number} | {1000 * cpu:.0f} | {1000 * mean:.0f} | {1000 * wall:.0f} "
                      f"| {len(files)} | {size / 1e6:.1f} |", flush=True)
        extract = ["extract", f"app:{adds - 1}", "-o", Path(scratch) / "out.tar"]
        for command in [["stats"], ["check", "--blobs"], ["gc"], ["check"], extract]:
            cpu, wall = run(store, descriptors, *command)
            print(f"\n`{command[0]}` took {wall:.1f} s, {cpu:.1f} s of CPU", flush=True)
        first = statistics.mean(c for c, _ in costs[:WINDOW])
        last = statistics.mean(c for c, _ in costs[-10 * WINDOW:])
        print(f"\nthe last adds cost {last / first:.2f} times what the first did")
        sys.exit(last > 1.5 * first)


if __name__ == "__main__":
    main()
