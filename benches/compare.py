#!/usr/bin/env python3
"""Times whole commands side by side: relayer against skopeo, in turn, on the same image.

    benches/compare.py IMAGE.docker.tar [ROUNDS]

Each command writes a zstd image to a fresh file in TMPDIR. A round runs every command once, so that
a machine that slows down slows all of them; the medians over the rounds are printed, after one
round that is not counted. CPU is user and system time, memory the peak of the process.
"""
import os, resource, shutil, statistics, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RELAYER = os.environ.get("RELAYER", f"{HERE}/target/release/relayer")


def commands(image, work):
    relayer = [RELAYER, "--quiet"]
    return {
        "relayer split --target 8": relayer + ["split", image, "-o", f"oci:{work}/out:x", "--target", "8"],
        "relayer split --target 8 --threads 1": relayer + ["split", image, "-o", f"oci:{work}/out:x", "--target", "8", "--threads", "1"],
        "relayer flatten": relayer + ["flatten", image, "-o", f"oci:{work}/out:x"],
        "skopeo copy --dest-compress-format zstd": [
            "skopeo", "copy", "-q", "--dest-compress-format", "zstd", "--dest-compress-level", "3",
            f"docker-archive:{image}", f"oci:{work}/out:x"],
    }


def once(command, work):
    shutil.rmtree(f"{work}/out", ignore_errors=True)
    start = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - start
    assert status == 0, command
    size = sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(f"{work}/out") for f in files)
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, size / 1e6


def main():
    image, rounds = os.path.abspath(sys.argv[1]), int((sys.argv[2:] or ["3"])[0])
    with tempfile.TemporaryDirectory(prefix="relayer-bench-") as work:
        table = {name: [] for name in commands(image, work)}
        for r in range(rounds + 1):
            for name, command in commands(image, work).items():
                result = once(command, work)
                if r:
                    table[name].append(result)
        base = statistics.median(x[1] for x in table["skopeo copy --dest-compress-format zstd"])
        print(f"{os.path.getsize(image) / 1e6:.0f} MB, {rounds} rounds, medians")
        print("| command | wall s | CPU s | CPU against skopeo | peak MiB | written MB |\n|---|--:|--:|--:|--:|--:|")
        for name, runs in table.items():
            wall, cpu, memory, size = (statistics.median(x) for x in zip(*runs))
            print(f"| `{name}` | {wall:.1f} | {cpu:.1f} | {cpu / base:.2f} | {memory:.0f} | {size:.0f} |")


main()
