#!/usr/bin/env python3
"""A split that is pushed while it runs, beside its parts and beside `split` and then `skopeo copy`.

    benches/push.py IMAGE [MB/S ...]

A docker-registry on this machine is reached through a proxy that lets so many MB a second through
[default: 20 100 1000], and shares the cores with what is measured. Each figure is the median of RUNS [3]
interleaved runs: `encode` is a split into a layout, `upload` a copy of that layout into an empty
repository, `split` both at once, and `skopeo` a split into a layout and then `skopeo copy` of it. `ratio`
is `split` over the larger of its parts, and RSS the most memory of `split`. Works in TMPDIR or /dev/shm.
RELAYER names the binary.
"""
import os, shutil, socket, statistics, subprocess, sys, tempfile, threading, time

RELAYER = os.environ.get("RELAYER", "target/release/relayer")
RUNS = int(os.environ.get("RUNS", 3))
CONFIG = """version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: 127.0.0.1:{port}}}
"""


class Link:
    """A proxy to a port, with a limit of bytes a second towards it for all connections together."""

    def __init__(self, port, rate):
        self.port, self.rate, self.free, self.lock = port, rate, time.monotonic(), threading.Lock()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.port))
            threading.Thread(target=self.pipe, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self.pipe, args=(server, client, False), daemon=True).start()

    def pipe(self, source, sink, limited):
        buffer = memoryview(bytearray(1 << 18))
        try:
            while n := source.recv_into(buffer):
                if limited:
                    with self.lock:
                        self.free = max(self.free, time.monotonic()) + n / self.rate
                        wait = self.free - time.monotonic()
                    if wait > 0:
                        time.sleep(wait)
                sink.sendall(buffer[:n])
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def run(*command):
    """Seconds, and the most memory in MiB."""
    start = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    err = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{command}: {err.decode(errors='replace')}")
    return time.monotonic() - start, usage.ru_maxrss / 1024


def main():
    image = sys.argv[1]
    rates = [float(rate) for rate in sys.argv[2:]] or [20, 100, 1000]
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/dev/shm")) as folder:
        with socket.create_server(("127.0.0.1", 0)) as s:
            port = s.getsockname()[1]
        with open(f"{folder}/config.yml", "w") as f:
            f.write(CONFIG.format(root=f"{folder}/data", port=port))
        registry = subprocess.Popen(["docker-registry", "serve", f"{folder}/config.yml"],
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            time.sleep(1)
            print(f"{'MB/s':>6} {'encode':>8} {'upload':>8} {'split':>8} {'skopeo':>8} {'ratio':>6} {'RSS':>9}")
            for rate in rates:
                link = Link(port, rate * 1e6)
                rows = [step(image, f"{folder}/out", link.host, folder) for _ in range(RUNS)]
                encode, upload, split, skopeo, rss = (statistics.median(c) for c in zip(*rows))
                ratio = split / max(encode, upload)
                print(f"{rate:>6.0f} {encode:>7.2f}s {upload:>7.2f}s {split:>7.2f}s {skopeo:>7.2f}s {ratio:>6.2f} {rss:>5.0f} MiB")
        finally:
            registry.terminate()


def step(image, layout, host, folder):
    def empty():
        shutil.rmtree(layout, ignore_errors=True)
        shutil.rmtree(f"{folder}/data", ignore_errors=True)

    empty()
    encode, _ = run(RELAYER, "split", image, "-o", f"oci:{layout}:x")
    upload, _ = run(RELAYER, "copy", f"oci:{layout}:x", f"docker://{host}/app:copy")
    shutil.rmtree(f"{folder}/data")
    skopeo, _ = run("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:x", f"docker://{host}/app:skopeo")
    empty()
    split, rss = run(RELAYER, "split", image, "-o", f"docker://{host}/app:split")
    return encode, upload, split, encode + skopeo, rss


main()
