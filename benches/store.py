#!/usr/bin/env python3
"""What a store of many versions takes, ours and others'.

    benches/store.py CORPUS NAME...

CORPUS/NAME/*.oci are versions of one image, in order of their names. Each sequence is added to a
new store of relayer as it is, and extracted again; its unpacked trees go to restic, borg and casync
(Debian packages restic, borgbackup, casync), and once each file to zstd. Needs root to unpack.
Prints a Markdown table; sizes are what lies on disk, in MB, and what follows the store of relayer is
seconds of CPU. RELAYER names the binary.
"""
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

RELAYER = os.environ.get("RELAYER", "target/release/relayer")
LEVEL = "12"


def run(*command, **options):
    return subprocess.run([str(c) for c in command], check=True, **options)


def size(folder):
    files = (f.lstat() for f in Path(folder).rglob("*") if not f.is_symlink() and f.is_file())
    return sum(f.st_size for f in files)


def timed(work):
    """CPU seconds of the processes that `work` starts."""
    spent = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    start = spent()
    work()
    return spent() - start


def manifest(image):
    return run("skopeo", "inspect", "--raw", image, stdout=subprocess.PIPE).stdout


def unpack(image, to, scratch):
    """The image's final files as a tree."""
    layout = scratch / "flat"
    run(RELAYER, "flatten", image, "-q", "--compression", "none", "-o", f"oci:{layout}:x")
    index = json.loads((layout / "index.json").read_text())
    blob = lambda d: layout / "blobs" / "sha256" / d["digest"].split(":")[1]
    layer = json.loads(blob(index["manifests"][0]).read_text())["layers"][0]
    to.mkdir()
    run("tar", "--xattrs", "--xattrs-include=*", "--same-owner", "-xpf", blob(layer), "-C", to)
    run("rm", "-rf", layout)


class Ours:
    def __init__(self, scratch):
        self.store, self.scratch = scratch / "relayer", scratch
        self.add = self.extract = 0

    def image(self, image, name):
        command = [RELAYER, "store", "--store", self.store]
        add = [*command, "add", "-q", "--level", LEVEL, "--name", name, image]
        self.add += timed(lambda: run(*add))

    def check(self, image, name):
        out = self.scratch / "out"
        command = [RELAYER, "store", "--store", self.store, "extract", name, "-q"]
        self.extract += timed(lambda: run(*command, "-o", f"oci:{out}:x"))
        assert manifest(f"oci:{out}:x") == manifest(f"oci:{image}"), name
        run("rm", "-rf", out)


class Files:
    """Each file once, all in one zstd stream."""

    def __init__(self, scratch):
        self.out, self.seen = scratch / "files.zst", set()
        self.zstd = None

    def tree(self, tree):
        if not self.zstd:
            command = ["zstd", "-q", "-T0", "-" + LEVEL, "--long=27", "-o", str(self.out)]
            self.zstd = subprocess.Popen(command, stdin=subprocess.PIPE)
        for path in sorted(p for p in tree.rglob("*") if not p.is_symlink() and p.is_file()):
            data = path.read_bytes()
            digest = hashlib.sha256(data).digest()
            if digest not in self.seen:
                self.seen.add(digest)
                self.zstd.stdin.write(data)

    def size(self):
        self.zstd.stdin.close()
        assert self.zstd.wait() == 0
        return self.out.stat().st_size


class Tool:
    """A backup tool, given one tree after the other."""

    def __init__(self, store, begin, add, env=None):
        self.store, self.add, self.seconds = store, add, 0
        self.env = {**os.environ, **(env or {})}
        if begin:
            run(*begin, env=self.env, stdout=subprocess.DEVNULL)

    def tree(self, tree, number):
        command = [str(c).format(number=number) for c in self.add]
        self.seconds += timed(lambda: run(
            *command, cwd=tree, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))


def tools(scratch):
    restic, borg, casync = (scratch / n for n in ["restic", "borg", "casync"])
    casync.mkdir()
    quiet = {"RESTIC_PASSWORD": "x", "RESTIC_CACHE_DIR": str(scratch / "cache"),
             "BORG_BASE_DIR": str(scratch / "cache"), "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"}
    return {
        "restic": Tool(restic, ["restic", "init", "-q", "-r", restic],
                       ["restic", "-q", "-r", restic, "--compression", "max", "backup", "."], quiet),
        "borg": Tool(borg, ["borg", "init", "-e", "none", borg],
                     ["borg", "create", "-C", "zstd," + LEVEL, f"{borg}::{{number}}", "."], quiet),
        "casync": Tool(casync, None,
                       ["casync", "make", f"--store={casync}", f"{casync}/{{number}}.caidx", "."]),
    }


def sequence(corpus, name, scratch):
    versions = sorted((Path(corpus) / name).glob("*.oci"))
    ours, files, others = Ours(scratch), Files(scratch), tools(scratch)
    gzip, blobs = 0, {}
    for number, version in enumerate(versions):
        for blob in (version / "blobs" / "sha256").iterdir():
            gzip += blob.stat().st_size
            blobs[blob.name] = blob.stat().st_size
        ours.image(version, f"{name}:{version.stem}")
        tree = scratch / "tree"
        unpack(version, tree, scratch)
        files.tree(tree)
        for tool in others.values():
            tool.tree(tree, number)
        run("rm", "-rf", tree)
    for version in versions:
        ours.check(version, f"{name}:{version.stem}")
    mb = lambda n: f"{n / 1e6:.1f}"
    row = [name, len(versions), mb(gzip), mb(sum(blobs.values())), mb(files.size())]
    row += [mb(size(t.store)) for t in others.values()]
    row += [mb(size(ours.store)), f"{ours.add:.0f}", f"{ours.extract:.0f}"]
    row += [f"{t.seconds:.0f}" for t in others.values()]
    print("| " + " | ".join(map(str, row)) + " |", flush=True)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    head = ["sequence", "versions", "gzip blobs", "each once", "files once, zstd"]
    head += ["restic", "borg", "casync", "**relayer**", "relayer add"]
    head += ["relayer extract", "restic time", "borg time", "casync time"]
    print("| " + " | ".join(head) + " |\n|---" + "|--:" * (len(head) - 1) + "|")
    for name in sys.argv[2:]:
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as scratch:
            sequence(sys.argv[1], name, Path(scratch))


if __name__ == "__main__":
    main()
