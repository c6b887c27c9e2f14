#!/usr/bin/env python3
"""Times whole commands side by side: relayer against skopeo, in turn, on the same image, and beside
them the bound: the least that any tool needs which reads, hashes, compresses and hashes the image.

    benches/compare.py IMAGE.docker.tar|oci:DIR [ROUNDS]

Each command writes a zstd image to a fresh folder in TMPDIR. A round runs every command and every part
of the bound once, so that a machine that slows down slows all of them; the medians over the rounds are
printed, after one round that is not counted. CPU is user and system time, memory the peak of the
process.

The bound is the sum of the parts, each on one core, divided by the number of cores: `zstd -3` of all
tars, SHA-256 of the tars that are read and of those that are written, of the blobs that are written and
of compressed blobs that are read, and inflating those. libdeflate-gunzip inflates fastest; without it
gzip is used, and the bound is too high.
"""
import glob, gzip, json, os, shutil, statistics, subprocess, sys, tarfile, tempfile, time

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RELAYER = os.environ.get("RELAYER", f"{HERE}/target/release/relayer")
SPLIT, SKOPEO = "relayer split --target 8", "skopeo copy --dest-compress-format zstd"


def commands(image, work):
    source = image if image.startswith("oci:") else f"docker-archive:{image}"
    relayer, out = [RELAYER, "--quiet"], f"oci:{work}/out:x"
    return {
        SPLIT: relayer + ["split", image, "-o", out, "--target", "8"],
        f"{SPLIT} --threads 1": relayer + ["split", image, "-o", out, "--target", "8", "--threads", "1"],
        "relayer flatten": relayer + ["flatten", image, "-o", out],
        SKOPEO: ["skopeo", "copy", "-q", "--dest-compress-format", "zstd", "--dest-compress-level", "3", source, out],
    }


def run(command):
    start = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0, command
    return time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def once(command, work):
    shutil.rmtree(f"{work}/out", ignore_errors=True)
    result = run(command)
    return *result, sum(map(os.path.getsize, glob.glob(f"{work}/out/blobs/sha256/*"))) / 1e6


def layers(image, work):
    """Writes all tars into one file, and links the compressed blobs; returns the paths of both."""
    tars, blobs = f"{work}/tars", []
    with open(tars, "wb") as plain:
        if image.startswith("oci:"):
            blob = lambda d: f"{image[4:]}/blobs/" + d["digest"].replace(":", "/")
            index = json.load(open(f"{image[4:]}/index.json"))
            for layer in json.load(open(blob(index["manifests"][0])))["layers"]:
                assert layer["mediaType"].endswith("gzip"), "only gzip layers can be compared"
                blobs.append(f"{work}/{len(blobs)}.gz")
                os.symlink(blob(layer), blobs[-1])
                shutil.copyfileobj(gzip.open(blob(layer)), plain)
        else:
            with tarfile.open(image) as archive:
                for layer in json.load(archive.extractfile("manifest.json"))[0]["Layers"]:
                    shutil.copyfileobj(archive.extractfile(layer), plain)
    return tars, blobs


def parts(tars, blobs):
    inflate = ["libdeflate-gunzip", "-c"] if shutil.which("libdeflate-gunzip") else ["gzip", "-dc"]
    return {
        "`zstd -3`": ["zstd", "-3", "--single-thread", "-qfo", "/dev/null", tars],
        "SHA-256 of the tars": ["openssl", "dgst", "-sha256", tars],
    } | ({f"`{inflate[0]}`": inflate + blobs} if blobs else {})


def main():
    image, rounds = sys.argv[1], int((sys.argv[2:] or ["3"])[0])
    image = f"oci:{os.path.abspath(image[4:])}" if image.startswith("oci:") else os.path.abspath(image)
    with tempfile.TemporaryDirectory(prefix="relayer-bench-") as work:
        tars, blobs = layers(image, work)
        tar, packed = os.path.getsize(tars), sum(map(os.path.getsize, blobs))
        table = {name: [] for name in commands(image, work)}
        times = {name: [] for name in parts(tars, blobs)}
        for r in range(rounds + 1):
            for name, command in commands(image, work).items():
                result = once(command, work)
                if r:
                    table[name].append(result)
            for name, command in parts(tars, blobs).items():
                if r:
                    times[name].append(run(command)[1])
    medians = {name: [statistics.median(x) for x in zip(*runs)] for name, runs in table.items()}
    zstd, sha, *inflate = (statistics.median(x) for x in times.values())
    hashed = 2 * tar + packed + medians[SPLIT][3] * 1e6
    cores = len(os.sched_getaffinity(0))
    bound = (zstd + sha * hashed / tar + sum(inflate)) / cores
    print(f"{tar / 1e6:.0f} MB in tars, {packed / 1e6:.0f} MB in gzip, {rounds} rounds, medians")
    print("| command | wall s | against the bound | against skopeo | CPU s | against skopeo | peak MiB | written MB |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, (wall, cpu, memory, size) in medians.items():
        against = f"{wall / bound:.2f} | {wall / medians[SKOPEO][0]:.2f} | {cpu:.2f} | {cpu / medians[SKOPEO][1]:.2f}"
        print(f"| `{name}` | {wall:.2f} | {against} | {memory:.0f} | {size:.0f} |")
    print(f"\nbound: {bound:.2f} s on {cores} cores;", ", ".join(f"{name} {statistics.median(x):.2f} s" for name, x in times.items()))


main()
