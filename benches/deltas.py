#!/usr/bin/env python3
"""Deltas from version to version of an image, ours and others', as a table in Markdown.

    benches/deltas.py [--built] [--cache DIR] [--versions N] CORPUS NAME...

CORPUS has a folder for each NAME, and in it an OCI layout VERSION.oci for each version. They are
split as a chain (`relayer split --previous`), and each step is done by

- `relayer delta` and `relayer apply`, from the split images; what comes out must be the new image,
- `zstd -19 --long=31 --patch-from`, `xdelta3 -9 -S lzma` and `bsdiff` (up to 150 MB), from the
  uncompressed tars of the two images, flattened (`relayer flatten --compression none`).

The floor is what `split --previous` can't do without: the files that changed, as one zstd layer.
With --built the images are taken as they were built. --cache keeps chains, flattened tars and the
others' results, which take hours, in DIR; --rivals-only makes only those. Cells are MB in CPU
seconds; rebuilt is MB/s of uncompressed layers, on one thread, without their compression.
"""
import argparse, json, os, shutil, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RELAYER = os.environ.get("RELAYER", f"{HERE}/target/release/relayer")
BSDIFF_MOST = 150e6


def run(*arguments):
    """Runs a command and gives its wall and CPU seconds and its peak memory in MB."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=errors)
        out = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, arguments
    return {"wall": time.monotonic() - start, "cpu": usage.ru_utime + usage.ru_stime,
            "mb": usage.ru_maxrss / 1e3, "out": out.decode(errors="replace")}


def report(*arguments):
    return json.loads(subprocess.run([RELAYER, *arguments, "--json"], check=True, stdout=subprocess.PIPE).stdout)


def manifest(image):
    """The digest of an OCI archive's manifest."""
    index = subprocess.run(["tar", "-xOf", image, "index.json"], check=True, stdout=subprocess.PIPE).stdout
    return json.loads(index)["manifests"][0]["digest"]


def once(path, make):
    """Makes a file unless it is there."""
    if not os.path.exists(path):
        make(path + ".new")
        os.rename(path + ".new", path)
    return path


def flattened(image, path, work):
    """The uncompressed tar of all files of an image."""
    layout = f"{work}/flat"
    shutil.rmtree(layout, ignore_errors=True)
    subprocess.run([RELAYER, "flatten", "-q", image, "-o", f"oci:{layout}:x", "--compression", "none"], check=True)
    read = lambda digest: open(f"{layout}/blobs/sha256/{digest[7:]}", "rb")
    index = json.load(open(f"{layout}/index.json"))
    layers = json.load(read(index["manifests"][0]["digest"]))["layers"]
    assert len(layers) == 1
    os.rename(f"{layout}/blobs/sha256/{layers[0]['digest'][7:]}", path)
    shutil.rmtree(layout)


def rivals(old, new, path, work):
    """Results of the other tools, kept in a file."""
    results = json.load(open(path)) if os.path.exists(path) else {}
    out = f"{work}/rival"
    tools = {
        "zstd": ["zstd", "-q", "-f", "-19", "--long=31", f"--patch-from={old}", new, "-o", out],
        "xdelta3": ["xdelta3", "-f", "-9", "-S", "lzma", "-B", str(1 << 30), "-e", "-s", old, new, out],
        "bsdiff": ["bsdiff", old, new, out],
    }
    for tool, arguments in tools.items():
        if tool in results or tool == "bsdiff" and os.path.getsize(new) > BSDIFF_MOST:
            continue
        results[tool] = run(*arguments)
        del results[tool]["out"]
        results[tool]["bytes"] = os.path.getsize(out)
        with open(path, "w") as f:
            json.dump(results, f)
    return results


def floor(old, new, work):
    options = ["--client", "podman", "--beta", "0", "--max-dead", "100", "--max-layers", "125"]
    made = report("split", new, "-o", f"{work}/floor.tar", "--force", "--previous", old, *options)
    return made["images"][0]["update"]["set_bytes"]


def ours(old, new, work):
    delta, out = f"{work}/delta", f"{work}/out.tar"
    made = run(RELAYER, "delta", old, new, "-o", delta, "--force")
    if os.path.exists(out):
        os.remove(out)
    applied = run(RELAYER, "apply", old, delta, "-o", out, "--threads", "1", "--json")
    assert new.endswith(".oci") or manifest(out) == manifest(new), f"{new} came out differently"
    rebuilt = json.loads(applied["out"])["rebuilt"]
    speed = rebuilt["bytes"] / 1e6 / max(rebuilt["seconds"], 1e-3)
    return {**made, "bytes": os.path.getsize(delta), "apply": applied, "speed": speed}


def cell(result):
    return f"{result['bytes'] / 1e6:.2f} in {result['cpu']:.0f}" if result else "–"


def step(name, label, images, flats, options, cache, work, rows):
    found = rivals(*flats, f"{cache}/{name}-{label}.json", work)
    if options.rivals_only:
        return
    mine, least = ours(*images, work), floor(*images, work)
    best = min(r["bytes"] for r in found.values())
    rows.append((mine["bytes"], best, least, mine["cpu"]))
    print(f"| {name} {label} | {least / 1e6:.1f} | {cell(found.get('zstd'))} | {cell(found.get('xdelta3'))} "
          f"| {cell(found.get('bsdiff'))} | **{mine['bytes'] / 1e6:.2f}** in {mine['cpu']:.0f} "
          f"| {mine['bytes'] / best:.2f} | {mine['mb']:.0f} | {mine['speed']:.0f} "
          f"| {mine['apply']['mb']:.0f} |", flush=True)


def sequence(name, options, cache, work, rows):
    folder = f"{options.corpus}/{name}"
    versions = sorted(v.removesuffix(".oci") for v in os.listdir(folder) if v.endswith(".oci"))[: options.versions]
    tag = "built" if options.built else "chain"
    images, flats = [], []
    for i, version in enumerate(versions):
        image = f"{folder}/{version}.oci"
        if not options.built:
            previous = ["--previous", images[-1]] if images else []
            split = lambda out: subprocess.run([RELAYER, "split", "-q", image, "-o", out, *previous], check=True)
            image = once(f"{cache}/{name}-{tag}-{i}.tar", split)
        images.append(image)
        flats.append(once(f"{cache}/{name}-{tag}-{i}.flat", lambda out: flattened(image, out, work)))
        if i > 0:
            step(name, f"{tag}-{version}", images[-2:], flats[-2:], options, cache, work, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus")
    parser.add_argument("names", nargs="+")
    parser.add_argument("--built", action="store_true")
    parser.add_argument("--cache")
    parser.add_argument("--versions", type=int)
    parser.add_argument("--rivals-only", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relayer-deltas-") as work:
        rows = []
        if not options.rivals_only:
            print("| to | floor | zstd | xdelta3 | bsdiff | relayer | of the best | MB to make | rebuilt | MB to apply |")
            print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
        for name in options.names:
            sequence(name, options, options.cache or work, work, rows)
        if rows:
            mine, best, least, cpu = map(sum, zip(*rows))
            print(f"| total | {least / 1e6:.1f} | | best {best / 1e6:.2f} | | **{mine / 1e6:.2f}** in {cpu:.0f} "
                  f"| {mine / best:.2f} | | | |")


if __name__ == "__main__":
    main()
