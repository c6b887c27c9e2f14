#!/usr/bin/env python3
"""Compares what two relayers write, byte for byte.

    tests/same-bytes.py OLD NEW CORPUS [NAME ...]

OLD and NEW are binaries, CORPUS a folder with one folder per sequence of versions. Each version is split
(zstd, gzip, zstd:chunked, 24 layers), flattened, and split on top of the one before it; deltas are made
between neighbours. Exits with 1 if any file differs.
"""
import hashlib, pathlib, subprocess, sys, tempfile


def digest(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def versions(folder):
    files = [p for p in folder.iterdir() if p.name.endswith((".oci", ".docker.tar"))]
    by_name = {}
    for p in sorted(files):
        by_name.setdefault(p.name.split(".")[0], p)
    return [by_name[n] for n in sorted(by_name)]


def outputs(binary, image, before, folder):
    def run(name, *args):
        out = folder / name
        subprocess.run([binary, *map(str, args), "-q", "-o", str(out)], check=True)
        return name, digest(out)

    yield run("zstd.tar", "split", image)
    yield run("gzip.tar", "split", image, "--compression", "gzip", "--target", "4")
    yield run("chunked.tar", "split", image, "--compression", "zstd:chunked")
    yield run("24.tar", "split", image, "--target", "24", "--mtime", "clamp:@1700000000")
    yield run("flat.tar", "flatten", image)
    if before:
        yield run("first.tar", "split", before)
        yield run("update.tar", "split", image, "--previous", folder / "first.tar")
        yield run("delta", "delta", folder / "first.tar", folder / "update.tar")


def main():
    old, new, corpus, *names = sys.argv[1:]
    folders = [f for f in sorted(pathlib.Path(corpus).iterdir()) if f.is_dir() and (not names or f.name in names)]
    same = differ = 0
    for folder in folders:
        before = None
        for image in versions(folder):
            found = []
            for binary in (old, new):
                with tempfile.TemporaryDirectory(dir="/var/tmp") as t:
                    found.append(dict(outputs(binary, image, before, pathlib.Path(t))))
            for name in found[0]:
                if found[0][name] == found[1][name]:
                    same += 1
                else:
                    differ += 1
                    print(f"{folder.name} {image.name} {name}: {found[0][name][:12]} {found[1][name][:12]}", flush=True)
            before = image
    print(f"{same} files are the same, {differ} differ")
    return differ > 0


sys.exit(main())
