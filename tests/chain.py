#!/usr/bin/env python3
"""Chains the versions of real images with `split --previous` and lets umoci judge every step.

    tests/chain.py CORPUS NAME...       as root; CORPUS/NAME/VERSION.oci, sorted by version

After each step the result must be the input, with the times of the previous result where nothing
else differs. Compiled Python files may be the previous ones if they differ in their source's time
alone and are in step with their source. Where the image has a Python that can be run by chroot, it
imports what it has and must not write a compiled file. OPTIONS are given to each split.
"""
import glob, os, re, shutil, struct, subprocess, sys, tempfile

from corpus import RELAYER, plain_layout, run
from tree import carried, differences, tree

OPTIONS = os.environ.get("OPTIONS", "").split()
IMPORTS = "import numpy, pandas, scipy.stats"


def unpack(layout, work, name):
    """Unpacks a layout's image and gives its rootfs."""
    plain, out = f"{work}/plain", f"{work}/{name}"
    shutil.rmtree(plain, ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)
    plain_layout(layout, plain)
    run("umoci", "unpack", "--image", f"{plain}:x", out, stderr=subprocess.STDOUT)
    shutil.rmtree(plain)
    return f"{out}/rootfs"


def seconds(entry):
    return (entry[6] // 10**9) & 0xFFFFFFFF


def source_of(path):
    found = re.fullmatch(rb"(.*/)__pycache__/([^/.]+)\.[^/]*\.pyc", path)
    return found and found[1] + found[2] + b".py"


def bytecode(old_root, new_root, got_root, new, got):
    """Takes out of `new` what the rule for compiled files allows to be otherwise; gives how much."""
    exchanged = 0
    read = lambda root, path: open(os.path.join(os.fsencode(root), path), "rb").read()
    for path in new:
        source = source_of(path)
        if source is None or source not in new or path not in got:
            continue
        if new[path][5] != got[path][5]:
            before, now, result = (read(root, path) for root in (old_root, new_root, got_root))
            assert result == before, f"{path!r} is neither the new nor the previous one"
            assert now[:8] + result[8:12] + now[12:] == result, f"{path!r} differs in more than a time"
            stamp = lambda data: struct.unpack("<I", data[8:12])[0]
            assert stamp(now) == seconds(new[source]), f"{path!r} was out of step"
            assert stamp(result) == seconds(got[source]), f"{path!r} is out of step now"
            new[path] = got[path]
            exchanged += 1
        elif new[source][6] != got[source][6]:
            assert struct.unpack("<I", read(got_root, path)[8:12])[0] != seconds(got[source]) or \
                struct.unpack("<I", read(new_root, path)[8:12])[0] == seconds(new[source]), f"{path!r} came into step"
    return exchanged


def held_back(want, new, got):
    """A source whose compiled file is another keeps its own time."""
    for path in [source_of(p) for p in new if source_of(p)]:
        if path in want and path in got and want[path] != got[path] and got[path] == new[path]:
            want[path] = got[path]


def imports(root):
    """Runs the image's Python in it."""
    python = "/opt/venv/bin/python"
    if not os.path.lexists(root + python):
        return ""
    before = tree(root)
    run("mount", "--bind", "/dev", f"{root}/dev")
    try:
        environment = {"PATH": "/usr/bin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
        out = subprocess.run([shutil.which("chroot"), root, python, "-c", IMPORTS], env=environment, capture_output=True, text=True)
    finally:
        run("umount", f"{root}/dev")
    assert out.returncode == 0, out.stderr
    after = tree(root)
    old = {p: e for p, e in before.items() if p.endswith(b".pyc")}
    wrong = [p for p, e in old.items() if after.get(p) != e]
    assert not wrong, f"python wrote {wrong[:3]} anew"
    return f", python imports and writes none of {len(old)} compiled files anew"


def chain(corpus, name, work):
    images = sorted(glob.glob(f"{corpus}/{name}/*.oci"))
    old_root = old = previous = None
    for i, image in enumerate(images):
        out = f"{work}/out{i}"
        options = ["--previous", f"oci:{previous}", *OPTIONS] if previous else []
        run(RELAYER, "split", "-q", image, "-o", f"oci:{out}:x", *options)
        new_root, got_root = unpack(image, work, f"new{i % 2}"), unpack(out, work, f"got{i % 2}")
        new, got = tree(new_root), tree(got_root)
        note = ""
        if old_root:
            pycs = bytecode(old_root, new_root, got_root, new, got)
            want = carried(old, new)
            held_back(want, new, got)
            times = sum(1 for p in want if want[p] != new[p])
            note = f", {times} times and {pycs} compiled files carried over"
        else:
            want = new
        wrong = differences(want, got)
        assert not wrong, "\n".join(wrong[:20])
        print(f"{name} {os.path.basename(image)}: {len(got)} paths as umoci unpacks them{note}{imports(got_root)}", flush=True)
        if previous:
            shutil.rmtree(previous)
        old_root, old, previous = got_root, got, out


def main():
    for name in sys.argv[2:]:
        with tempfile.TemporaryDirectory(prefix="relayer-chain-") as work:
            chain(sys.argv[1], name, work)


main()
