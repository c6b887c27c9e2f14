#!/usr/bin/env python3
"""Real pulls against simulated ones.

    benches/pulls.py measure FILE.json [-t N,N..] [-c CLIENT,..] [-r MB/s[:TOTAL],..] IMAGE.oci...
    benches/pulls.py calibrate FILE.json...        constants of clients from the CPU time of pulls
    benches/pulls.py table FILE.json...            measured and simulated, in Markdown

`measure` pulls each image as built and split by relayer, in turn, with each client at each rate: so
many MB/s for a connection, and for all together if a total is given; 0 is no limit. Results are added
to FILE.json after each pull. It needs root, nginx, curl and the clients: skopeo, podman, dockerd,
containerd with its CRI plugin, and cgroup v1 for their CPU time. Nothing of this machine's configuration
is read or written; what clients store lies in a file in TMPDIR, images that were split in PULLS_IMAGES, if
that is set.

The registry is nginx that serves the layouts' files, `limit_rate` a connection. It stands in a network
namespace of its own, behind a veth with tc's tbf for the total. Clients begin with an empty store, on an
ext4 that is made anew for each pull: where 30,000 files were just deleted, ext4 creates others at a third of
its speed, because it doesn't give out their inodes for some seconds and goes through them each time.
"""
import argparse, atexit, json, os, shutil, signal, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RELAYER = os.environ.get("RELAYER", f"{HERE}/target/release/relayer")
SPACE, INSIDE, OUTSIDE = "relayer-pull", "10.213.0.2", "10.213.0.1"
UNLIMITED = 1e12
# Nanoseconds a byte that were measured by themselves: Go's SHA-256, `unpigz`. See docs/PULLS.md.
HASH, GZIP = 1.2, 5.0
# What `calibrate` finds for skopeo, which does nothing else.
FETCH = 3.9
GROUP = "/sys/fs/cgroup/cpuacct/relayer-pulls"
CODECS = {"gzip": "gzip", "zstd": "zstd", "tar": "none"}


def run(*command, **options):
    return subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, **options).stdout


def sh(command):
    return run("sh", "-c", command).decode()


def speed():
    """What one busy thread gets of a core now: others may be at work on this machine."""
    begin, own = time.monotonic(), time.process_time()
    while time.monotonic() - begin < 0.7:
        pass
    return (time.process_time() - own) / (time.monotonic() - begin)


def cpu():
    """Seconds of CPU that clients have used so far, daemons and all their children."""
    return int(open(f"{GROUP}/cpuacct.usage").read()) / 1e9


# Images -------------------------------------------------------------------------------------------

def manifest(layout):
    index = json.load(open(f"{layout}/index.json"))["manifests"][0]
    return index, json.load(open(blob(layout, index["digest"])))


def blob(layout, digest):
    return f"{layout}/blobs/sha256/{digest[7:]}"


def facts(layout):
    """The layers as the simulation wants them."""
    found = []
    for layer in manifest(layout)[1]["layers"]:
        codec = next(c for end, c in CODECS.items() if layer["mediaType"].endswith(end))
        cat = {"gzip": "gzip -dc", "zstd": "zstd -dc", "none": "cat"}[codec]
        path = blob(layout, layer["digest"])
        tar_bytes = int(sh(f"{cat} < {path} | wc -c"))
        entries = int(sh(f"{cat} < {path} | tar -t | wc -l"))
        found.append({"blob_bytes": layer["size"], "tar_bytes": tar_bytes, "entries": entries, "compression": codec})
    return found


def split(image, layers, codec, work):
    out = f"{work}/{os.path.basename(os.path.dirname(image))}-{layers}-{codec}"
    if not os.path.exists(out):
        run(RELAYER, "split", image, "-o", f"oci:{out}:x", "--target", layers, "--compression", codec, "-q")
    return out


# The registry -------------------------------------------------------------------------------------

class Registry:
    def __init__(self, work):
        self.work, self.names, self.server = work, {}, None
        run("ip", "netns", "add", SPACE)
        atexit.register(self.stop)
        run("ip", "link", "add", "rpull", "type", "veth", "peer", "name", "rpull1")
        run("ip", "link", "set", "rpull1", "netns", SPACE)
        run("ip", "addr", "add", f"{OUTSIDE}/24", "dev", "rpull")
        run("ip", "link", "set", "rpull", "up")
        self.inside("ip", "addr", "add", f"{INSIDE}/24", "dev", "rpull1")
        self.inside("ip", "link", "set", "rpull1", "up")

    def inside(self, *command):
        run("ip", "netns", "exec", SPACE, *command)

    def add(self, name, layout):
        self.names[name] = layout

    def serve(self, per_connection, total):
        """With these rates in MB/s; 0 is no limit."""
        self.quit()
        subprocess.run(["ip", "netns", "exec", SPACE, "tc", "qdisc", "del", "dev", "rpull1", "root"],
                       stderr=subprocess.DEVNULL)
        if total:
            # 4 % are headers of packets.
            self.inside("tc", "qdisc", "add", "dev", "rpull1", "root", "tbf", "rate",
                        f"{int(total * 8.32e6)}bit", "burst", "256kb", "latency", "50ms")
        rules = []
        for name, layout in self.names.items():
            index, _ = manifest(layout)
            one = f'default_type "{index["mediaType"]}"; add_header Docker-Content-Digest {index["digest"]};'
            path = blob(layout, index["digest"])
            for tag in ("latest", index["digest"]):
                rules.append(f"location = /v2/{name}/manifests/{tag} {{ {one} alias {path}; }}")
            rules.append(f"location ~ ^/v2/{name}/blobs/sha256:([0-9a-f]+)$ {{ default_type application/octet-stream;"
                         f" limit_rate {int(per_connection * 1e6)}; alias {layout}/blobs/sha256/$1; }}")
        conf = f"{self.work}/nginx.conf"
        open(conf, "w").write(f"""
            daemon off; worker_processes 2; user root; pid {self.work}/nginx.pid; error_log {self.work}/nginx.log;
            events {{ worker_connections 512; }}
            http {{ access_log off; sendfile on; sendfile_max_chunk 256k; tcp_nopush on; keepalive_requests 100000;
              client_body_temp_path {self.work}/t1; proxy_temp_path {self.work}/t2; fastcgi_temp_path {self.work}/t3;
              uwsgi_temp_path {self.work}/t4; scgi_temp_path {self.work}/t5;
              server {{ listen {INSIDE}:5000; add_header Docker-Distribution-Api-Version registry/2.0;
                location = /v2/ {{ default_type application/json; return 200 "{{}}"; }}
                {" ".join(rules)} }} }}""")
        # The registry's work is not the client's.
        open(f"{GROUP}/../cgroup.procs", "w").write(str(os.getpid()))
        self.server = subprocess.Popen(["ip", "netns", "exec", SPACE, "nginx", "-c", conf])
        open(f"{GROUP}/cgroup.procs", "w").write(str(os.getpid()))
        until(lambda: subprocess.run(["curl", "-sf", f"http://{INSIDE}:5000/v2/"], stdout=subprocess.DEVNULL).returncode == 0)

    def quit(self):
        if self.server:
            self.server.send_signal(signal.SIGTERM)
            self.server.wait()
            self.server = None

    def stop(self):
        self.quit()
        subprocess.run(["ip", "link", "del", "rpull"], stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "netns", "del", SPACE])


def until(ready):
    begin = time.time()
    while not ready():
        assert time.time() - begin < 60, "a server did not start"
        time.sleep(0.1)


def timed(work):
    """Seconds that it takes, and of CPU."""
    subprocess.run(["sync"])
    begin, used = time.time(), cpu()
    work()
    return time.time() - begin, cpu() - used


class Disk:
    """A file system that is made anew for each pull."""

    def __init__(self, work):
        self.file, self.root = f"{work}/disk", f"{work}/store"
        os.makedirs(self.root)
        atexit.register(self.drop)

    def fresh(self):
        self.drop()
        run("truncate", "-s", "16G", self.file)
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.file)
        run("mount", "-o", "loop", self.file, self.root)

    def drop(self):
        mounts = [line.split()[1] for line in open("/proc/mounts")]
        for mount in reversed([m for m in mounts if m == self.root or m.startswith(f"{self.root}/")]):
            until(lambda: subprocess.run(["umount", mount], stderr=subprocess.DEVNULL).returncode == 0)
        if os.path.exists(self.file):
            os.remove(self.file)


# Clients ------------------------------------------------------------------------------------------

class Plain:
    """A client without a server."""
    zstd = True

    def __init__(self, root):
        self.root = root

    def begin(self):
        pass

    def ask(self, name):
        run(*self.command(name), stderr=subprocess.PIPE)

    def stop(self):
        pass


class Skopeo(Plain):
    def command(self, name):
        return "skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{INSIDE}:5000/{name}", f"oci:{self.root}/l:x"


class Podman(Plain):
    def base(self):
        return ["podman", "--root", f"{self.root}/r", "--runroot", f"{self.root}/run", "--tmpdir", f"{self.root}/t",
                "--storage-driver", "overlay"]

    def begin(self):
        # Its own first start makes a store; that is no part of a pull.
        run(*self.base(), "images", stderr=subprocess.PIPE)

    def command(self, name):
        return *self.base(), "pull", "-q", "--tls-verify=false", f"{INSIDE}:5000/{name}"


class Daemon:
    """A client with a server, started for each pull."""
    zstd = True

    def __init__(self, root):
        self.root, self.server = root, None

    def begin(self):
        log = open(f"{os.path.dirname(self.root)}/log", "w")
        self.server = subprocess.Popen(self.daemon(), stdout=log, stderr=log)
        until(self.ready)

    def stop(self):
        if self.server:
            self.server.terminate()
            self.server.wait()
            self.server = None


class Docker(Daemon):
    # 20.10, which Debian has, can't read it.
    zstd = False

    def daemon(self):
        at = self.root
        return ["dockerd", "--iptables=false", "--bridge=none", "--data-root", f"{at}/d", "--exec-root", f"{at}/e",
                "--pidfile", f"{at}/pid", "-H", f"unix://{at}/s", "--insecure-registry", f"{INSIDE}:5000"]

    def client(self, *command):
        return ["docker", "-H", f"unix://{self.root}/s", *command]

    def ready(self):
        return subprocess.run(self.client("info"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0

    def ask(self, name):
        run(*self.client("pull", "-q", f"{INSIDE}:5000/{name}"))


class Containerd(Daemon):
    """As kubelet asks it: CRI's PullImage, three downloads at a time."""

    def daemon(self):
        at = self.root
        hosts = f"{at}/certs/{INSIDE}:5000"
        os.makedirs(hosts)
        open(f"{hosts}/hosts.toml", "w").write(f'[host."http://{INSIDE}:5000"]\n')
        open(f"{at}/c.toml", "w").write(f"""
            version = 2
            root = "{at}/d"
            state = "{at}/e"
            [grpc]
            address = "{at}/s"
            [plugins."io.containerd.grpc.v1.cri".registry]
            config_path = "{at}/certs"
            """)
        return ["containerd", "-c", f"{at}/c.toml"]

    def call(self, method, message):
        file = f"{self.root}/message"
        open(file, "wb").write(b"\0" + len(message).to_bytes(4, "big") + message)
        done = subprocess.run(["curl", "-s", "--http2-prior-knowledge", "--unix-socket", f"{self.root}/s", "-H",
                               "content-type: application/grpc", "-H", "te: trailers", "-D", f"{self.root}/headers",
                               "--data-binary", f"@{file}", f"http://localhost/runtime.v1.ImageService/{method}"],
                              stdout=subprocess.PIPE)
        headers = open(f"{self.root}/headers").read() if done.returncode == 0 else ""
        return done.returncode == 0 and "grpc-status: 0" in headers, headers

    def ready(self):
        return os.path.exists(f"{self.root}/s") and self.call("ListImages", b"")[0]

    def ask(self, name):
        # PullImageRequest { image: ImageSpec { image } }
        text = f"{INSIDE}:5000/{name}:latest".encode()
        spec = b"\x0a" + bytes([len(text)]) + text
        good, headers = self.call("PullImage", b"\x0a" + bytes([len(spec)]) + spec)
        assert good, headers


CLIENTS = {"skopeo": Skopeo, "podman": Podman, "containerd": Containerd, "docker": Docker}


def measure(options):
    work = tempfile.mkdtemp(prefix="pulls-")
    atexit.register(shutil.rmtree, work, True)
    os.makedirs(GROUP, exist_ok=True)
    registry = Registry(work)
    cache = os.environ.get("PULLS_IMAGES", work)
    os.makedirs(cache, exist_ok=True)
    known = f"{cache}/facts.json"
    layers = json.load(open(known)) if os.path.exists(known) else {}
    disk = Disk(work)
    clients = {name: CLIENTS[name](disk.root) for name in options.clients.split(",")}
    for client in clients.values():
        atexit.register(client.stop)
    targets = [int(t) for t in options.targets.split(",") if t]
    images = []
    for image in options.images:
        image = os.path.abspath(image)
        stem = os.path.basename(os.path.dirname(image))
        ways = [("built", "gzip", image)]
        ways += [(str(t), c, split(image, t, c, cache)) for t in targets for c in ("zstd", "gzip")]
        for way, codec, layout in ways:
            name = f"{stem}-{way}-{codec}"
            registry.add(name, layout)
            if name not in layers:
                layers[name] = facts(layout)
                json.dump(layers, open(known, "w"))
            images.append((stem, way, codec, name))
    results = json.load(open(options.file)) if os.path.exists(options.file) else []
    for _ in range(options.rounds):
        for rate in options.rates.split(","):
            per_connection, total = [float(r) for r in (rate + ":0").split(":")[:2]]
            registry.serve(per_connection, total)
            for client, server in clients.items():
                for stem, way, codec, name in images:
                    # Each client once for a way, with the codec that relayer would take for it.
                    if way != "built" and not options.codecs and codec != ("zstd" if server.zstd else "gzip"):
                        continue
                    if codec == "zstd" and not server.zstd:
                        continue
                    disk.fresh()
                    before = speed()
                    server.begin()
                    took, used = timed(lambda: server.ask(name))
                    server.stop()
                    free = (before + speed()) / 2
                    results.append({"image": stem, "way": way, "codec": codec, "client": client, "seconds": took,
                                    "cpu": used, "per_connection": per_connection, "total": total, "speed": free,
                                    "layers": layers[name]})
                    json.dump(results, open(options.file, "w"))
                    print(f"{client:10} {rate:>7} {name:28} {took:7.2f} s, CPU {used:6.2f} s, speed {free:.2f}", flush=True)


# Simulation ---------------------------------------------------------------------------------------

class Model:
    def __init__(self):
        run("cargo", "build", "--release", "--bench", "pulls", cwd=HERE, stderr=subprocess.DEVNULL)
        found = [f for f in os.listdir(f"{HERE}/target/release/deps") if f.startswith("pulls-") and "." not in f]
        newest = max(found, key=lambda f: os.path.getmtime(f"{HERE}/target/release/deps/{f}"))
        self.program = f"{HERE}/target/release/deps/{newest}"

    def ask(self, pulls):
        """Makespan and bound of each."""
        lines = []
        for pull in pulls:
            link = {"per_connection": pull["per_connection"] * 1e6 or UNLIMITED, "total": pull["total"] * 1e6 or UNLIMITED,
                    "latency": 0.0}
            question = {"layers": pull["layers"], "client": pull["client"], "link": link,
                        "machine": {"cores": os.cpu_count(), "speed": 1.0}}
            lines.append(json.dumps(question))
        out = run(self.program, input="\n".join(lines).encode()).decode()
        return [tuple(float(x) for x in line.split()) for line in out.splitlines()]


def calibrate(results):
    """Constants of each client from the CPU time of pulls, by least squares of relative errors."""
    names = ["fetch", "gzip", "zstd", "write", "file", "layer", "image"]
    for client in sorted({r["client"] for r in results}):
        twice = 2 if client == "podman" else 1
        unpacks = client != "skopeo"
        rows, times = [], []
        for r in (r for r in results if r["client"] == client):
            total = lambda what, codec=None: sum(l[what] for l in r["layers"] if codec in (None, l["compression"]))
            unpacked = total("tar_bytes")
            decoded = [twice * total("tar_bytes", codec) / 1e9 for codec in ("gzip", "zstd")]
            row = [total("blob_bytes") / 1e9, *decoded, unpacked / 1e9, total("entries") / 1e9, len(r["layers"]), 1]
            rows.append(row if unpacks else [row[0], 0, 0, 0, 0, row[5], 1])
            times.append(r["cpu"] - (twice * HASH * unpacked / 1e9 if unpacks else 0))
        costs = [0.0, GZIP, 0.0, 0.0, 0.0, 0.0, 0.0]
        if unpacks:
            costs[0] = FETCH
        free = [i for i in range(len(names)) if i != 1 and not (unpacks and i == 0)]
        for _ in range(20000):
            for i in free:
                # One at a time, never below zero: the others' rest divided by what this one counts.
                over = under = 0.0
                for row, spent in zip(rows, times):
                    rest = spent - sum(c * x for c, x in zip(costs, row)) + costs[i] * row[i]
                    weight = 1 / max(spent, 0.1) ** 2
                    over += weight * rest * row[i]
                    under += weight * row[i] * row[i]
                costs[i] = max(over / under, 0.0) if under else 0.0
        errors = [abs(sum(c * x for c, x in zip(costs, row)) / t - 1) for row, t in zip(rows, times)]
        print(client, f"{len(rows)} pulls, mean error {sum(errors) / len(errors) * 100:.0f} %,",
              ", ".join(f"{n} {c:.3g}" for n, c in zip(names, costs)))


def table(results):
    """A row a setting: medians of rounds."""
    settings = {}
    for r in results:
        settings.setdefault((r["image"], r["client"], r["per_connection"], r["total"], r["way"], r["codec"]), []).append(r)
    foretold = dict(zip(settings, Model().ask([rounds[0] for rounds in settings.values()])))
    median = lambda xs: sorted(xs)[len(xs) // 2]
    errors, factors = {}, []
    print("| image | client | MB/s a connection (all) | layers | measured s | simulated s | error | bound s | × as built | simulated × |")
    print("|---|---|--:|---|--:|--:|--:|--:|--:|--:|")
    for key, rounds in settings.items():
        image, client, rate, total, way, codec = key
        seconds = median([r["seconds"] for r in rounds])
        makespan, bound = foretold[key]
        errors.setdefault(client, []).append(abs(makespan / seconds - 1))
        built = (image, client, rate, total, "built", "gzip")
        faster, simulated = "", ""
        if way != "built" and built in settings:
            factor = median([r["seconds"] for r in settings[built]]) / seconds
            factors.append(factor)
            faster, simulated = f"{factor:.2f}", f"{foretold[built][0] / makespan:.2f}"
        shown = f"{len(rounds[0]['layers'])} {codec}" + (" as built" if way == "built" else "")
        rates = f"{rate:g}" if not total else f"{rate:g} ({total:g})"
        print(f"| {image} | {client} | {rates} | {shown} | {seconds:.1f} | {makespan:.1f} | {(makespan / seconds - 1) * 100:+.0f} % | "
              f"{bound:.1f} | {faster} | {simulated} |")
    every = [e for some in errors.values() for e in some]
    print(f"\n{len(every)} settings, error: median {median(every) * 100:.0f} %, largest {max(every) * 100:.0f} %;",
          ", ".join(f"{client} {median(some) * 100:.0f} %" for client, some in errors.items()))
    crowded = sum(r["speed"] < 0.95 for r in results)
    if crowded:
        print(f"{crowded} of {len(results)} pulls were not alone on the machine")
    if factors:
        print(f"against the image as built: least {min(factors):.2f}, median {median(factors):.2f}, most {max(factors):.2f}")


def main():
    if sys.argv[1:2] == ["measure"]:
        parser = argparse.ArgumentParser()
        parser.add_argument("file")
        parser.add_argument("-t", "--targets", default="4,8,16")
        parser.add_argument("-c", "--clients", default="skopeo,podman,containerd,docker")
        parser.add_argument("-r", "--rates", default="5,20,60")
        parser.add_argument("-n", "--rounds", type=int, default=1)
        parser.add_argument("--codecs", action="store_true", help="both for every client")
        parser.add_argument("images", nargs="+")
        measure(parser.parse_args(sys.argv[2:]))
    elif sys.argv[1:2] in (["calibrate"], ["table"]) and sys.argv[2:]:
        results = [r for file in sys.argv[2:] for r in json.load(open(file))]
        (calibrate if sys.argv[1] == "calibrate" else table)(results)
    else:
        sys.exit(__doc__)


main()
