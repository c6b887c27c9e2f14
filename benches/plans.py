#!/usr/bin/env python3
"""What splits without a previous image download from version to version, by number of layers.

    benches/plans.py IMAGE IMAGE...       a table in Markdown, old to new

Every version is split by itself with `--mtime stable` into 8, 16, 40 and 100 layers. Per number of
layers: what clients download by digest and by chain ID as multiples of the floor (the files that changed,
as one layer, see updates.py), the bytes sent again in layers in which no file changed, as a share of the
image a step, and the largest layer of several files over the mean. TARGETS and MTIME change the numbers
of layers and the rule. RELAYER names the binary; results go to a folder in TMPDIR.
"""
import hashlib, io, json, os, subprocess, sys, tarfile, tempfile

from updates import floor, relayer

TARGETS = os.environ.get("TARGETS", "8 16 40 100").split()
MTIME = os.environ.get("MTIME", "stable")


def blob(layout, digest):
    return f"{layout}/blobs/{digest.replace(':', '/')}"


def layers(layout):
    """Digest and bytes of each layer."""
    with open(f"{layout}/index.json") as f:
        manifest = json.load(f)["manifests"][0]["digest"]
    with open(blob(layout, manifest)) as f:
        return [(l["digest"], l["size"]) for l in json.load(f)["layers"]]


def contents(layout, digest):
    """What a layer has: a hash of each entry but directories, and whether it has several files."""
    plain = subprocess.run(["zstd", "-dc", "--long=27", blob(layout, digest)], stdout=subprocess.PIPE, check=True)
    found, files = set(), 0
    with tarfile.open(fileobj=io.BytesIO(plain.stdout), errors="surrogateescape") as tar:
        for entry in tar:
            if entry.isdir():
                continue
            body = tar.extractfile(entry).read() if entry.isreg() else b""
            files += entry.isreg()
            said = (entry.name, entry.type, entry.mode, entry.uid, entry.gid, entry.mtime, entry.linkname)
            found.add(hashlib.sha256(repr(said).encode() + body).digest())
    return found, files > 1


def row(images, target, floors, work):
    """Downloads by digest and by chain ID, bytes in unchanged layers, all bytes, and the balance."""
    digest = chain = unchanged = total = 0
    balance = 0.0
    before, known, had = [], {}, set()
    for image in images:
        layout = f"{work}/{target}"
        subprocess.run(["rm", "-rf", layout], check=True)
        relayer("split", "-q", image, "-o", f"oci:{layout}", "--target", target, "--mtime", MTIME)
        now = layers(layout)
        for name, _ in now:
            if name not in known:
                known[name] = contents(layout, name)
        sizes = [size for _, size in now]
        several = [size for name, size in now if known[name][1]]
        balance = max(balance, max(several) * len(sizes) / sum(sizes))
        if before:
            held = {name for name, _ in before}
            digest += sum(size for name, size in now if name not in held)
            same = next((i for i, pair in enumerate(zip(now, before)) if pair[0] != pair[1]), min(len(now), len(before)))
            chain += sum(sizes[same:])
            unchanged += sum(size for name, size in now if name not in held and known[name][0] <= had)
            total += sum(sizes)
        before, had = now, set().union(*(known[name][0] for name, _ in now))
    return digest / floors, chain / floors, unchanged / total, balance


def main():
    images = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="relayer-plans-") as work:
        floors = sum(floor(old, new, work) for old, new in zip(images, images[1:]))
        print("| layers | × floor, by digest / by chain ID | sent again in unchanged layers | largest |")
        print("|--:|--:|--:|--:|")
        for target in TARGETS:
            digest, chain, unchanged, balance = row(images, target, floors, work)
            print(f"| {target} | {digest:.2f} / {chain:.2f} | {100 * unchanged:.1f} % | {balance:.2f} |", flush=True)


if __name__ == "__main__":
    main()
