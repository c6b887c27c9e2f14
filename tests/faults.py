#!/usr/bin/env python3
"""Has relayer's commands fail, die and meet one another, and judges what they leave.

    tests/faults.py [--seconds N] [--seed N] [--writers N] [--kills N] [PART ...]

Parts, all by default; each tells how often it tried and what it found:

- writers: two or three commands at once write into one layout, new or not, some of them with an input
  that turns out damaged at its end. Whatever ended with status 0 must be there, whole.
- kills: SIGKILL, SIGTERM and SIGINT, half of them at some moment, half at some system call.
- faults: each read, write, fsync, rename, mkdir, lock and removal that a command does fails once, with
  EIO, ENOSPC or EINTR, whatever fits it. EINTR must not matter.
- full: destinations and TMPDIR of too few bytes. Mounts, so it needs root.
- changes: an input is cut off, overwritten, extended or replaced while it is read.

After each of them: an output is whole, or the old one, or not there; a layout has all that it had, and
every blob fits its name; a folder that was made for one may stay, empty; an error is one line; nothing temporary is left, but for SIGKILL; and
the same command once more works, after which nothing is left by SIGKILL either.

Needs strace. With --seconds N the parts share so much time and try what they get to, in an order that
--seed decides. Environment: RELAYER, the binary.
"""
import argparse, glob, hashlib, io, json, os, random, re, shutil, signal, subprocess, sys, tarfile, tempfile, time

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RELAYER = os.path.abspath(os.environ.get("RELAYER", f"{HERE}/target/release/relayer"))
# The status of a command that failed, and how its line begins.
FAILED, ERROR = 1, "relayer: "
OLD = b"what was there before" * 1000
READS, WRITES = ("read", "pread64", "readv"), ("write", "pwrite64", "writev")
OTHERS = ("fsync", "fdatasync", "rename", "renameat", "renameat2", "mkdir", "flock", "unlink", "unlinkat", "rmdir", "ftruncate", "copy_file_range", "sendfile")
sha = lambda b: hashlib.sha256(b).hexdigest()


def read(path):
    with open(path, "rb") as f:
        return f.read()


def layer(seed, files, size, changed=()):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for i in range(files):
            r = random.Random(f"{seed}/{i}/{i in changed}")
            data = r.randbytes(size // 2) + b"%d" % i * (size // 4)
            info = tarfile.TarInfo(f"srv/{seed}/f{i}")
            info.size, info.mtime = len(data), 1700000000 + (i in changed)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def write_image(path, layers):
    """A docker-archive."""
    config = json.dumps({"os": "linux", "architecture": "amd64", "config": {}, "rootfs": {"type": "layers", "diff_ids": ["sha256:" + sha(l) for l in layers]}}).encode()
    names = [f"{i}.tar" for i in range(len(layers))]
    manifest = json.dumps([{"Config": "c.json", "RepoTags": ["app:v1"], "Layers": names}]).encode()
    with tarfile.open(path, "w") as tar:
        for name, data in [("manifest.json", manifest), ("c.json", config), *zip(names, layers)]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def begun(dir):
    """Whether a layout's folder has something in it. It stays when it has not: others may be about to write there."""
    return os.path.isdir(dir) and bool(os.listdir(dir))


def layout(dir):
    """Descriptors by tag, and what is wrong with a layout."""
    bad, tags, needed = [], {}, set()
    blob = lambda d: f"{dir}/blobs/{d['digest'].replace(':', '/')}"

    def walk(d):
        needed.add(d["digest"][7:])
        try:
            data = read(blob(d))
            if sha(data) != d["digest"][7:] or len(data) != d["size"]:
                raise ValueError("not what its descriptor says")
            if "manifest" in d["mediaType"] or "index" in d["mediaType"]:
                m = json.loads(data)
                for inner in m.get("manifests", []) + m.get("layers", []) + [m["config"]] * ("config" in m):
                    walk(inner)
        except (OSError, ValueError) as e:
            bad.append(f"blob {d['digest'][7:17]}: {e}")

    try:
        index = json.loads(read(f"{dir}/index.json")) if os.path.exists(f"{dir}/index.json") else {"manifests": []}
        if os.listdir(dir) and os.path.exists(f"{dir}/blobs") and json.loads(read(f"{dir}/oci-layout"))["imageLayoutVersion"] != "1.0.0":
            bad.append("oci-layout")
        for d in index["manifests"]:
            walk(d)
            tags[d["annotations"]["org.opencontainers.image.ref.name"]] = d["digest"]
    except (OSError, ValueError, KeyError) as e:
        bad.append(f"{type(e).__name__} {e}")
    here = set(os.listdir(f"{dir}/blobs/sha256")) if os.path.isdir(f"{dir}/blobs/sha256") else set()
    bad += [f"blob {b[:10]} has another digest" for b in here if sha(read(f"{dir}/blobs/sha256/{b}")) != b]
    return tags, bad, here - needed


class Place:
    """Inputs, commands, and a folder that each attempt begins anew."""

    def __init__(self, work, scale):
        self.work, self.out, self.tmp = work, f"{work}/out", f"{work}/tmp"
        os.mkdir(self.tmp)
        self.env = dict(os.environ, TMPDIR=self.tmp)
        v1 = [layer(s, 6 * scale, 8000) for s in "abc"]
        v2 = [v1[0], layer("b", 6 * scale, 8000, {1, 2}), v1[2]]
        write_image(f"{work}/v1.tar", v1)
        write_image(f"{work}/v2.tar", v2)
        damaged = bytearray(read(f"{work}/v1.tar"))
        damaged[-30000] ^= 1
        with open(f"{work}/damaged.tar", "wb") as f:
            f.write(damaged)
        w, o = work, self.out
        self.must(["split", f"{w}/v1.tar", "-o", f"{w}/s1.tar"])
        self.must(["split", f"{w}/v2.tar", "-o", f"{w}/s2.tar", "--previous", f"{w}/s1.tar"])
        self.must(["delta", f"{w}/s1.tar", f"{w}/s2.tar", "-o", f"{w}/d"])
        self.must(["split", f"{w}/v1.tar", "-o", f"oci:{w}/base:old"])
        # Name, arguments, and whether a file or a layout was there.
        l, f = f"oci:{o}/l", f"{o}/f"
        self.commands = [
            ("split, file", ["split", f"{w}/v2.tar", "-o", f], None),
            ("split, file --force", ["split", f"{w}/v2.tar", "-o", f, "--force"], "file"),
            ("split, new layout", ["split", f"{w}/v2.tar", "-o", f"{l}:new"], None),
            ("split, layout", ["split", f"{w}/v2.tar", "--previous", f"{w}/s1.tar", "-o", f"{l}:new"], "layout"),
            ("split, layout --force", ["split", f"{w}/v2.tar", "-o", f"{l}:old", "--force"], "layout"),
            ("flatten, layout", ["flatten", f"{w}/v2.tar", "-o", f"{l}:new"], "layout"),
            ("copy, file", ["copy", f"{w}/s2.tar", f], None),
            ("copy, new layout", ["copy", f"{w}/s2.tar", f"{l}:new"], None),
            ("copy, layout", ["copy", f"{w}/s2.tar", f"{l}:new"], "layout"),
            ("delta --force", ["delta", f"{w}/s1.tar", f"{w}/s2.tar", "-o", f, "--force"], "file"),
            ("apply, layout", ["apply", f"{w}/s1.tar", f"{w}/d", "-o", f"{l}:new"], "layout"),
        ]
        self.good, self.span = {}, {}
        for name, args, before in self.commands:
            self.prepare(before)
            begin = time.time()
            self.must(args)
            self.span[name] = time.time() - begin
            self.good[name] = self.state()

    def must(self, args):
        code, err = self.run(args)
        assert code == 0, f"{args}: {err}"

    def start(self, args, wrapper=()):
        command = [*wrapper, RELAYER, *args, "-q", "--threads", "1", "--memory", "1MiB"]
        return subprocess.Popen(command, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)

    def run(self, args, wrapper=()):
        return self.wait(self.start(args, wrapper))

    def wait(self, child):
        try:
            err = child.communicate(timeout=120)[1]
            return child.returncode, err.decode(errors="replace")
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            return "hangs", ""

    def prepare(self, before):
        for entry in glob.glob(f"{self.out}/.*") + glob.glob(f"{self.out}/*"):
            shutil.rmtree(entry) if os.path.isdir(entry) else os.unlink(entry)
        os.makedirs(self.out, exist_ok=True)
        if before == "file":
            with open(f"{self.out}/f", "wb") as f:
                f.write(OLD)
        if before == "layout":
            shutil.copytree(f"{self.work}/base", f"{self.out}/l")

    def state(self):
        """What is there: a digest of a file, or the tags of a layout."""
        if os.path.exists(f"{self.out}/f"):
            return sha(read(f"{self.out}/f"))
        return layout(f"{self.out}/l")[0] if begun(f"{self.out}/l") else None

    def left(self):
        temporary = glob.glob(f"{self.out}/**/.relayer-*", recursive=True) + glob.glob(f"{self.out}/.relayer-*")
        return sorted(set(temporary)) + os.listdir(self.tmp)

    def judge(self, name, args, before, code, err, killed=False, silent=False):
        """What is wrong after an attempt, and after the next one."""
        bad = []
        ended = killed or code in (0, 1)
        if not ended or "panicked" in err:
            bad.append(f"status {code} {err[:200]}")
        if code == FAILED and not (silent and not err) and (len(err.splitlines()) != 1 or not err.startswith(ERROR)):
            bad.append(f"not one line: {err[:300]!r}")
        if code != -9 and self.left():
            bad.append(f"left: {self.left()}")
        found = self.state()
        was = {"file": sha(OLD), "layout": self.base(), None: None}[before]
        done = found == self.good[name]
        if begun(f"{self.out}/l"):
            _, wrong, spare = layout(f"{self.out}/l")
            bad += wrong
            # SIGKILL may leave blobs, and replacing a tag leaves those of the image that had it.
            if code != -9 and not done and spare:
                bad.append(f"blobs of nobody: {spare}")
            if before is None and not done and code != -9:
                bad.append("a layout without images is left")
            if not done and not wrong and found == {} and before is None:
                found = None
        if not done and found != was:
            bad.append(f"{found} is neither what was there nor what was asked for")
        if code == 0 and not done:
            bad.append("status 0, and it is not there")
        again, text = self.run(args)
        if again != 0 and not (done and "already" in text):
            bad.append(f"again: status {again} {text[:300]}")
        if self.state() != self.good[name]:
            bad.append("again: it is not there")
        if self.left():
            bad.append(f"again, left: {self.left()}")
        if begun(f"{self.out}/l"):
            _, wrong, spare = layout(f"{self.out}/l")
            bad += [f"again: {w}" for w in wrong]
            if spare and "--force" not in args:
                bad.append(f"again, blobs of nobody: {spare}")
        for entry in os.listdir(self.tmp):
            shutil.rmtree(f"{self.tmp}/{entry}", ignore_errors=True)
        return bad

    def base(self):
        return layout(f"{self.work}/base")[0]


class Tries:
    def __init__(self, part, seconds):
        self.part, self.count, self.bad, self.end = part, 0, 0, time.time() + seconds if seconds else None

    def over(self):
        return self.end is not None and time.time() > self.end

    def add(self, what, bad):
        self.count += 1
        if bad:
            self.bad += 1
            print(f"{self.part}, {what}: " + "; ".join(bad), flush=True)

    def tell(self):
        print(f"{self.part}: {self.count} tries, {self.bad} bad", flush=True)
        return self.bad


def writers(place, r, tries, count):
    for _ in range(count):
        if tries.over():
            break
        before = r.choice([None, "layout"])
        place.prepare(before)
        inputs = [("v1.tar", "split"), ("v2.tar", "split"), ("s2.tar", "copy"), ("damaged.tar", "copy"), ("damaged.tar", "copy")]
        running = []
        for i in range(r.choice([2, 2, 3])):
            image, command = r.choice(inputs)
            # Some want the same name: one gets it.
            tag = r.choice([f"t{i}", f"t{i}", "same"])
            to = ["-o"] * (command == "split") + [f"oci:{place.out}/l:{tag}"]
            running.append((image, tag, place.start([command, f"{place.work}/{image}", *to])))
            time.sleep(r.choice([0, 0, 0.01, 0.05]))
        bad, wanted = [], set(place.base()) if before else set()
        for image, tag, child in running:
            code, err = place.wait(child)
            if code == 0:
                wanted.add(tag)
            refused = image == "damaged.tar" or tag == "same" and "already" in err
            if code not in (0, FAILED) or code == FAILED and not refused or code == 0 and image == "damaged.tar":
                bad.append(f"{image} as {tag}: status {code} {err}")
        tags, wrong, spare = layout(f"{place.out}/l") if begun(f"{place.out}/l") else ({}, [], set())
        if set(tags) != wanted:
            bad.append(f"tags {sorted(tags)}, not {sorted(wanted)}")
        if spare or place.left() or not wanted and begun(f"{place.out}/l"):
            bad.append(f"left: {spare} {place.left()}")
        tries.add([(i, t) for i, t, _ in running], bad + wrong)


def calls(place, args):
    """How often a command does each system call, in the thread that does it most."""
    log = f"{place.work}/log"
    which = ",".join(READS + WRITES + OTHERS)
    code, err = place.run(args, ["strace", "-f", "--seccomp-bpf", "-o", log, "-e", f"trace={which}", "-e", "signal=none"])
    assert code == 0, err
    counts = {}
    for line in read(log).decode(errors="replace").splitlines():
        if m := re.match(r"(\d+) +(\w+)\(", line):
            counts[m.groups()] = counts.get(m.groups(), 0) + 1
    most = {}
    for (_, call), n in counts.items():
        most[call] = max(n, most.get(call, 0))
    return most


def inject(place, args, what):
    call = what.split(":")[0]
    wrapper = ["strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={what}"]
    return place.run(args, wrapper)


def kills(place, r, tries, count):
    known = {}
    for i in range(count):
        if tries.over():
            break
        name, args, before = r.choice(place.commands)
        number = r.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        if name not in known:
            place.prepare(before)
            known[name] = calls(place, args)
        place.prepare(before)
        if i % 2:
            call = r.choice([c for c in known[name] if c not in ("read",)])
            what = f"{call}:signal={number.name}:when={r.randint(1, known[name][call])}"
            code, err = inject(place, args, what)
        else:
            child, at = place.start(args), place.span[name] * r.uniform(0, 1.1)
            what = f"{number.name} after {at:.3f} s"
            time.sleep(at)
            child.send_signal(number)
            code, err = place.wait(child)
        # A shell's way to tell of a signal, which is also that of what cleans up before it ends.
        fine = code in (0, -number, 128 + number)
        bad = place.judge(name, args, before, code, err, killed=fine)
        # Before relayer is prepared for signals it has begun nothing.
        tries.add(f"{name}, {what}", bad)


def faults(place, r, tries):
    todo = []
    for name, args, before in place.commands:
        place.prepare(before)
        for call, n in calls(place, args).items():
            errors = ["EIO", "EINTR"] if call in READS else ["EIO", "ENOSPC", "EINTR"] if call in WRITES else ["EIO"]
            if call == "mkdir" or call.startswith("rename"):
                errors = ["ENOSPC"]
            todo += [(name, args, before, call, e, i) for e in errors for i in range(1, n + 1)]
    if tries.end is not None:
        r.shuffle(todo)
    for name, args, before, call, error, i in todo:
        if tries.over():
            break
        place.prepare(before)
        code, err = inject(place, args, f"{call}:error={error}:when={i}")
        # A program that can't be loaded has not begun.
        begun = not (code == 127 and "shared" in err)
        bad = place.judge(name, args, before, code if begun else 1, err if begun else "", silent=not begun or call in WRITES)
        # Removing what is left failed itself.
        if call in ("unlink", "unlinkat", "rmdir"):
            bad = [b for b in bad if "left: " not in b]
        if error == "EINTR" and code != 0 and begun:
            bad.append(f"EINTR matters: {err}")
        tries.add(f"{name}, {call} {i}: {error} (status {code})", bad)
    if tries.end is None:
        print(f"faults: all of {len(todo)}")


def mounted(path, size):
    os.makedirs(path, exist_ok=True)
    return subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path]).returncode == 0


def full(place, r, tries):
    os.makedirs(place.out, exist_ok=True)
    for share in (0, 0.1, 0.4, 0.7, 0.9, 0.97, 0.999):
        for name, args, before in r.sample(place.commands, len(place.commands)):
            if tries.over():
                return
            place.prepare(None)
            size = os.path.getsize(f"{place.work}/s1.tar")
            old = {None: 0, "file": len(OLD), "layout": size + 32768}[before]
            if not mounted(place.out, int(max(16384, size * share)) + old):
                return print("full: nothing can be mounted, left out")
            try:
                place.prepare(before)
                code, err = place.run(args)
                bad = [] if code == 0 or "No space left" in err and "free space" in err else [f"status {code} {err}"]
                if code == FAILED and (place.left() or place.state() != {"file": sha(OLD), "layout": place.base(), None: None}[before]):
                    bad.append(f"left: {place.left()} {place.state()}")
                if code == FAILED and begun(f"{place.out}/l"):
                    _, wrong, spare = layout(f"{place.out}/l")
                    bad += wrong + [f"blob of nobody: {s}" for s in spare]
            finally:
                subprocess.run(["umount", place.out], check=True)
            tries.add(f"{name}, {share}", bad)
    # Spools of more than --memory need TMPDIR.
    for size in (0, 65536, 300000):
        place.prepare(None)
        if not mounted(place.tmp, max(4096, size)):
            return
        try:
            with open(f"{place.work}/v1.tar", "rb") as pipe:
                args = [RELAYER, "split", "-", "-o", f"{place.out}/f", "-q", "--memory", "0"]
                child = subprocess.run(args, stdin=pipe, env=place.env, stderr=subprocess.PIPE)
            err = child.stderr.decode()
            bad = [] if child.returncode == 0 or "TMPDIR" in err and len(err.splitlines()) == 1 else [f"status {child.returncode} {err}"]
            if place.left():
                bad.append(f"left: {place.left()}")
        finally:
            subprocess.run(["umount", place.tmp], check=True)
        tries.add(f"TMPDIR of {size}", bad)


def changes(place, r, tries, count):
    for _ in range(count):
        if tries.over():
            break
        place.prepare(None)
        how, path = r.choice(["cut", "overwritten", "extended", "replaced"]), f"{place.work}/changing.tar"
        shutil.copy(f"{place.work}/v1.tar", path)
        args = r.choice([["split", path, "-o", f"{place.out}/f"], ["copy", path, f"oci:{place.out}/l:x"], ["flatten", path, "-o", f"{place.out}/f"]])
        child = place.start(args)
        time.sleep(r.uniform(0, place.span["split, file"]))
        size = os.path.getsize(path)
        if how == "cut":
            os.truncate(path, size // 2)
        elif how == "replaced":
            shutil.copy(f"{place.work}/v2.tar", path + ".new")
            os.rename(path + ".new", path)
        else:
            with open(path, "r+b") as f:
                f.seek(size if how == "extended" else r.randrange(size // 2, size - 60000))
                f.write(b"changed" * 5000)
        code, err = place.wait(child)
        made = f"{place.out}/f" if os.path.exists(f"{place.out}/f") else f"oci:{place.out}/l:x" if begun(f"{place.out}/l") else None
        bad = [f"left: {place.left()}"] if place.left() else []
        if code == 0:
            same = [place.run(["verify", f"{place.work}/{v}.tar", made])[0] == 0 for v in ("v1", "v2")]
            if not any(same):
                bad.append("status 0, and it is neither the one nor the other")
        elif code != 1 or made or len(err.splitlines()) != 1:
            bad.append(f"status {code} {made} {err}")
        tries.add(f"{args[0]}, {how}", bad)


def main():
    p = argparse.ArgumentParser(usage=__doc__, add_help=False)
    for name, default in (("seconds", None), ("seed", 1), ("writers", 200), ("kills", 500), ("changes", 100)):
        p.add_argument(f"--{name}", type=int, default=default)
    p.add_argument("parts", nargs="*")
    a = p.parse_args()
    parts = a.parts or ["writers", "kills", "faults", "full", "changes"]
    bad = 0
    with tempfile.TemporaryDirectory(prefix="relayer-faults-", dir="/var/tmp") as work:
        begin = time.time()
        place = Place(work, 4)
        print(f"seed {a.seed}", flush=True)
        left = a.seconds and max(len(parts), a.seconds - (time.time() - begin))
        for part in parts:
            tries, r = Tries(part, left and left / len(parts)), random.Random(f"{a.seed} {part}")
            {"writers": lambda: writers(place, r, tries, a.writers), "kills": lambda: kills(place, r, tries, a.kills),
             "faults": lambda: faults(place, r, tries), "full": lambda: full(place, r, tries),
             "changes": lambda: changes(place, r, tries, a.changes)}[part]()
            bad += tries.tell()
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
