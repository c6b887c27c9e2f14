#!/usr/bin/env python3
"""Whether there is work for more cores than this machine has: a model from a trace.

    benches/parallel.py IMAGE.docker.tar|oci:DIR [ROUNDS] [-- OPTIONS OF split...]

Runs `relayer split --target 8 --threads 16` and reads /proc/PID/task/*/schedstat all the time: for each thread the time
that it ran and the time that it was ready to run but had no core. Both together, divided by the time between two reads,
are the threads that could have run at once. An interval's CPU time is then spread over as many cores as there are, but
not over more than could run: the sum is what the split would take on that many cores. CPU time of intervals in which
no more than one thread could run is the serial path. The disk is not in the model; files are in the page cache.
RELAYER names another program than the release build.
"""
import os, shutil, statistics, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RELAYER = os.environ.get("RELAYER", f"{HERE}/target/release/relayer")
CORES = [1, 2, 4, 8, 16]
# Two threads that take turns, as at the two ends of a pipe, are one that could run.
SERIAL = 1.2
INTERVAL = 0.004


def threads(pid):
    """CPU time and time of waiting for a core of each thread, in seconds."""
    found = {}
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/schedstat") as f:
                ran, waited, _ = f.read().split()
            found[task] = int(ran) / 1e9, int(waited) / 1e9
    except OSError:
        # A thread or the process has ended.
        pass
    return found


def trace(command):
    """Runs a command; returns (seconds, CPU seconds, seconds of threads that could run) of each interval."""
    child = subprocess.Popen(command)
    found, before, at = [], {}, time.monotonic()
    while child.poll() is None:
        time.sleep(INTERVAL)
        now, clock = threads(child.pid), time.monotonic()
        ran = sum(r - before.get(t, (0, 0))[0] for t, (r, _) in now.items())
        waited = sum(w - before.get(t, (0, 0))[1] for t, (_, w) in now.items())
        if now:
            found.append((clock - at, ran, ran + waited))
            at = clock
        before |= now
    assert child.returncode == 0, command
    return found


def model(found, cores):
    return sum(max(ran / min(cores, max(1, ready / wall)), wall - ready) for wall, ran, ready in found)


def main():
    arguments = sys.argv[1:]
    more = arguments[arguments.index("--") + 1:] if "--" in arguments else []
    image, *rounds = arguments[:len(arguments) - len(more) - ("--" in arguments)]
    rows = []
    with tempfile.TemporaryDirectory(prefix="relayer-bench-") as work:
        for _ in range(int((rounds or ["5"])[0])):
            command = [RELAYER, "-q", "split", image, "-o", f"oci:{work}/out:x", "--target", "8", "--threads", "16", *more]
            found = trace(command)
            shutil.rmtree(f"{work}/out")
            cpu = sum(ran for _, ran, _ in found)
            serial = sum(ran for wall, ran, ready in found if ready / wall < SERIAL)
            rows.append([sum(wall for wall, _, _ in found), cpu, serial / cpu, *(model(found, n) for n in CORES)])
    wall, cpu, serial, *times = (statistics.median(column) for column in zip(*rows))
    print(f"wall {wall:.2f} s on {len(os.sched_getaffinity(0))} cores, CPU {cpu:.2f} s, serial {serial:.1%} of it; medians of {len(rows)}")
    print("| cores |" + "".join(f" {n} |" for n in CORES) + "\n|---|" + "--:|" * len(CORES))
    print("| seconds, model |" + "".join(f" {t:.2f} |" for t in times))
    print("| times as fast |" + "".join(f" {times[0] / t:.1f} |" for t in times))


main()
