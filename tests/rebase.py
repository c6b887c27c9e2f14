#!/usr/bin/env python3
"""Judges `relayer rebase` by builds: rebased images must be what a build on the new base gives.

    tests/rebase.py [--triples N] [--seed N] [--only N,N] [--relayer PATH] [--crane-only] [--real OLD NEW] [--keep DIR]

Draws N triples of an old base, a new base and the steps of an app (tests/triples.py), from real Debian packages. buildah
builds the steps on the old base, which gives the image, and on the new base, which gives the answer. Then the image is
rebased from the old base to the new one, and containers/storage (buildah pull, mount) shows its files:

- equal: paths, types, modes, owners, contents, extended attributes, groups of hard links and the config are those of
  the answer, but for times and NOISE;
- named: what differs is named in the report of the rebase, as a cache that a command must update, or a copy;
- conflict: the rebase was refused with status 1, and nothing was written;
- wrong: what differs is not named.

A triple is contested if the app reads or writes what the new base changed. Of the others, 95 of 100 must be equal.
None may be wrong. The same triples are judged for the rules of `crane rebase`, of which this script has a copy.

--real OLD NEW draws on two versions of a real Debian base, as `oci:v1.oci:v1 oci:v2.oci:v2`, in place of the essential
packages: what the old base has beyond OLD is built on NEW too. --keep DIR leaves each wrong triple there: layout with old, app, new,
answer, the two Dockerfiles and the report. Needs root, buildah, skopeo, mmdebstrap, dpkg-deb and a Debian or Ubuntu
whose package lists are up to date; packages are downloaded once, into CACHE (default: TMPDIR/relayer-debs). TMPDIR needs
2 GB.
"""
import argparse, collections, functools, hashlib, json, os, random, re, shutil, subprocess, sys, tempfile, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import triples
from tree import tree

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Logs, backups that tools leave, a cache of inode numbers, folders of volumes, which buildah makes for a step, and
# files that containers get from the machine.
NOISE = re.compile(rb"\./(var/log/.*|var/cache/ldconfig/aux-cache|etc/(passwd|group|shadow|gshadow|subuid|subgid)-"
                   rb"|var/lib/dpkg/[^/]*-old|var/cache/debconf/[^/]*-old|var/backups/.*|data\d+|run/debs/?.*|etc/(hosts|resolv.conf))$")
# dpkg writes this in the order of a table by hash.
UNORDERED = {b"./var/lib/dpkg/statoverride"}
MIN_EQUAL = 0.95


def run(*command, **more):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", **more)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)[:300]}: {done.returncode}\n{done.stdout[-3000:]}")
    return done.stdout


def read(path):
    with open(path, "rb") as f:
        return f.read()


class Debs:
    """Packages, downloaded once: the newest version of each, and the oldest one that is to be had."""

    def __init__(self, cache, scratch):
        self.cache, self.made, self.files = cache, f"{scratch}/debs", {}
        os.makedirs(self.made)
        os.makedirs(cache, exist_ok=True)
        groups = triples.GROUPS + [[p] for p in triples.ESSENTIAL] + triples.REAL
        wanted = self.versions(sorted({p for g in groups for p in g}))
        missing = [f"{p}={v}" for p, versions in wanted.items() for v in versions if not os.path.exists(self.cached(p, v))]
        if missing:
            with tempfile.TemporaryDirectory(dir=cache) as into:
                run("apt-get", "download", *missing, cwd=into)
                for name in os.listdir(into):
                    os.rename(f"{into}/{name}", re.sub(r"_[^_]*\.deb$", ".deb", f"{cache}/{name}"))
        for package, versions in wanted.items():
            self.files[package] = [shutil.copy(self.cached(package, v), self.made) for v in versions]
        triples.GROUPS = [g for g in triples.GROUPS if all(p in wanted for p in g)]
        self.groups = [g for g in groups if all(p in wanted for p in g)]
        if not triples.GROUPS:
            sys.exit("no packages known: run apt-get update first")

    def cached(self, package, version):
        return f"{self.cache}/{package}_{version}.deb".replace(":", "%3a")

    def versions(self, packages):
        """The oldest and the newest version of each package that is to be had."""
        found = {}
        for line in subprocess.run(["apt-cache", "madison", *packages], stdout=subprocess.PIPE, text=True).stdout.splitlines():
            package, version, source = (part.strip() for part in line.split("|"))
            if not source.endswith("Sources"):
                found.setdefault(package, set()).add(version)
        older = lambda v, w: subprocess.run(["dpkg", "--compare-versions", v, "lt", w]).returncode == 0
        order = functools.cmp_to_key(lambda v, w: -1 if older(v, w) else 1)
        ordered = {p: sorted(versions, key=order) for p, versions in sorted(found.items())}
        return {p: list(dict.fromkeys((v[0], v[-1]))) for p, v in ordered.items()}

    def __contains__(self, package):
        return package in self.files

    def mounted(self, package, oldest=False):
        return "/run/debs/" + os.path.basename(self.files[package][0 if oldest else -1])

    def two_versions(self):
        return [g for g in self.groups if any(len(self.files[p]) > 1 for p in g)]

    def unpack(self, package, which):
        """The folder of an unpacked version, and its regular files and links as {path in a merged /usr: path there}."""
        root = f"{self.made}/{os.path.basename(self.files[package][which])}.d"
        if not os.path.exists(root):
            run("dpkg-deb", "-R", self.files[package][which], root)
        found = [os.path.join(d, f)[len(root):] for d, _, files in os.walk(root) for f in files]
        return root, {re.sub(r"^/(bin|sbin|lib)(?=/)", r"/usr/\1", p): p for p in sorted(found) if not p.startswith("/DEBIAN/")}

    def paths(self, package):
        return sorted({p for which in (0, -1) for p in self.unpack(package, which)[1]})

    def changed(self, package):
        (old, of_old), (new, of_new) = self.unpack(package, 0), self.unpack(package, -1)
        look = lambda root, p: (os.readlink(root + p) if os.path.islink(root + p) else read(root + p)) if p else None
        return [p for p in of_old | of_new if look(old, of_old.get(p)) != look(new, of_new.get(p))]

    def upgraded(self, package, changed, gone, added):
        name = "made-" + hashlib.sha256(repr((package, changed, gone, added)).encode()).hexdigest()[:16]
        deb = f"{self.made}/{name}.deb"
        if not os.path.exists(deb):
            root = f"{self.made}/{name}"
            # Old bases have the newest essential packages, and the oldest ones of the others.
            source, files = self.unpack(package, -1 if package in triples.ESSENTIAL else 0)
            shutil.copytree(source, root, symlinks=True)
            for path in changed:
                if not os.path.islink(root + files[path]):
                    with open(root + files[path], "ab") as f:
                        f.write(f"# {name}\n".encode())
            for path in gone:
                os.remove(root + files[path])
            os.makedirs(os.path.dirname(root + added), exist_ok=True)
            with open(root + added, "w") as f:
                f.write(f"added by {name}\n")
            control = read(f"{root}/DEBIAN/control").decode()
            with open(f"{root}/DEBIAN/control", "w") as f:
                f.write(re.sub(r"(?m)^(Version: .*)$", r"\1+made" + str(len(changed)), control))
            sums = [f"{hashlib.md5(read(os.path.join(d, f))).hexdigest()}  {os.path.join(d, f)[len(root) + 1:]}\n"
                    for d, _, names in os.walk(root) for f in names if "/DEBIAN" not in d and not os.path.islink(os.path.join(d, f))]
            with open(f"{root}/DEBIAN/md5sums", "w") as f:
                f.write("".join(sorted(sums, key=lambda s: s[34:])))
            run("dpkg-deb", "--root-owner-group", "-Znone", "-b", root, deb)
            shutil.rmtree(root)
        return f"/run/debs/{name}.deb"


class Shop:
    """Builds, stores and shows images with buildah in a storage of its own."""

    def __init__(self, scratch, debs):
        self.scratch, self.debs, self.layout = scratch, debs, f"{scratch}/layout"
        self.options = ["--root", f"{scratch}/storage", "--runroot", f"{scratch}/run", "--storage-driver", "overlay"]
        os.makedirs(f"{self.layout}/blobs/sha256")
        with open(f"{self.layout}/oci-layout", "w") as f:
            f.write('{"imageLayoutVersion":"1.0.0"}')
        self.index = {}

    def buildah(self, command, *arguments):
        return run("buildah", *self.options, command, *arguments).strip()

    def build(self, name, parent, ops, *options):
        context = f"{self.scratch}/context/{name}"
        os.makedirs(context)
        lines = [f"FROM {parent}"]
        for i, op in enumerate(ops):
            # Steps name the files of their context without its folder.
            for path, data in op.files.items():
                os.makedirs(os.path.dirname(f"{context}/{i}/{path}"), exist_ok=True)
                with open(f"{context}/{i}/{path}", "wb") as f:
                    f.write(data)
                os.chmod(f"{context}/{i}/{path}", 0o644)
            copied = {p.split("/")[0] for p in op.files}
            lines += [re.sub(r"^(COPY (?:--\S+ )*)(\S+)", lambda m: f"{m[1]}{i}/{m[2]}" if m[2] in copied else m[0], line) for line in op.lines]
        text = "\n".join(lines) + "\n"
        with open(f"{context}/Dockerfile", "w") as f:
            f.write(text)
        self.buildah("bud", "-q", "--isolation", "chroot", "--format", "oci", "-v", f"{self.debs.made}:/run/debs:ro", *options, "-t", name, context)
        return text

    def layers_of(self, name):
        """Puts an image into the layout."""
        into = f"{self.scratch}/pushed"
        self.buildah("push", "-q", "-D", "--format", "oci", name, f"dir:{into}")
        manifest = read(f"{into}/manifest.json")
        for file in os.listdir(into):
            if len(file) == 64:
                os.replace(f"{into}/{file}", f"{self.layout}/blobs/sha256/{file}")
        shutil.rmtree(into)
        return self.add(name, manifest)

    def add(self, name, manifest):
        digest = hashlib.sha256(manifest).hexdigest()
        with open(f"{self.layout}/blobs/sha256/{digest}", "wb") as f:
            f.write(manifest)
        self.index[name] = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": f"sha256:{digest}", "size": len(manifest),
                            "annotations": {"org.opencontainers.image.ref.name": name}}
        with open(f"{self.layout}/index.json", "w") as f:
            json.dump({"schemaVersion": 2, "manifests": list(self.index.values())}, f)
        return json.loads(manifest)

    def blob(self, descriptor):
        return json.loads(read(f"{self.layout}/blobs/{descriptor['digest'].replace(':', '/')}"))

    def pull(self, reference):
        """Takes `layout:NAME` of the scratch folder: buildah makes a name of the path, which may have no capitals."""
        return run("buildah", *self.options, "pull", "-q", f"oci:{reference}", cwd=self.scratch).strip()

    def shown(self, name, look):
        """What a function finds in the mounted image."""
        container = self.buildah("from", "--pull-never", name)
        found = look(self.buildah("mount", container))
        self.buildah("rm", container)
        return found

    def files(self, name):
        return self.shown(name, lambda root: entries(tree(root), root))

    def drop(self, *names):
        for name in names:
            subprocess.run(["buildah", *self.options, "rmi", "-f", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def config_of(raw):
    """What containers get, and the platform: what is empty is as if it were missing."""
    raw = {"os": raw.get("os"), "architecture": raw.get("architecture"), **raw.get("config", {})}
    raw["Env"] = dict(e.split("=", 1) for e in raw.get("Env") or [])
    flat = {}
    for key, value in raw.items():
        of = value if isinstance(value, dict) else None
        flat |= {f"{key}.{k}": v for k, v in of.items()} if of is not None else {key: value} if value else {}
    return flat


def entries(found, root):
    """A tree without times, noise, the day of a password and the order of lines that have none. What a mount shows as
    a group of links may have lost all other names in a layer above."""
    groups = collections.Counter(entry[10] for entry in found.values())
    out = {}
    for path, entry in found.items():
        if not NOISE.match(path):
            out[path] = [e for i, e in enumerate(entry) if i != 6]
            out[path][-1] = out[path][-1] if groups[entry[10]] > 1 else None
        if path in UNORDERED or path == b"./etc/shadow":
            lines = [re.sub(rb"^((?:[^:]*:){2})\d+", rb"\1", l) for l in read(os.path.join(os.fsencode(root), path)).splitlines()]
            out[path][4:6] = [None, sorted(lines) if path in UNORDERED else lines]
    return out


def differing(a, b):
    """What differs between two images: paths and fields, each with the two values."""
    (files, config), (of_files, of_config) = a, b
    out = {p.decode(errors="replace")[1:]: (files.get(p), of_files.get(p)) for p in files.keys() | of_files.keys() if files.get(p) != of_files.get(p)}
    out |= {f"config:{k}": (config.get(k), of_config.get(k)) for k in config.keys() | of_config.keys() if config.get(k) != of_config.get(k)}
    return out


def crane(shop, old, app, new):
    """The rules of `mutate.Rebase` in go-containerregistry, pkg/v1/mutate/rebase.go: the layers of the new base, those of the
    app above as many as the old base has, the app's config, and the platform of the new base. Gives the manifest."""
    of_old, of_app, of_new = (m["layers"] for m in (old, app, new))
    if [l["digest"] for l in of_old] != [l["digest"] for l in of_app[:len(of_old)]]:
        return None
    configs = [shop.blob(m["config"]) for m in (old, app, new)]
    above = lambda key: configs[2].get(key, []) + configs[1].get(key, [])[len(configs[0].get(key, [])):]
    config = {"architecture": configs[2]["architecture"], "os": configs[2]["os"], "config": configs[1]["config"], "history": above("history"),
              "rootfs": {"type": "layers", "diff_ids": configs[2]["rootfs"]["diff_ids"] + configs[1]["rootfs"]["diff_ids"][len(of_old):]}}
    data = json.dumps(config).encode()
    digest = hashlib.sha256(data).hexdigest()
    with open(f"{shop.layout}/blobs/sha256/{digest}", "wb") as f:
        f.write(data)
    manifest = dict(app, config=dict(app["config"], digest=f"sha256:{digest}", size=len(data)), layers=of_new + of_app[len(of_old):])
    return json.dumps(manifest).encode()


class Bases:
    """The bases that triples begin with: the essential packages, and old bases made on them."""

    def __init__(self, shop, debs, seed, count, real=None):
        self.shop, self.debs, self.seed, self.count, self.states = shop, debs, seed, count, {}
        self.real, self.moved = real, set()
        if not real:
            self.essential()
            return
        pair = []
        for reference in real:
            image = shop.pull(reference)
            pair.append(shop.shown(image, lambda root: (entries(tree(root), root), self.packages(root))))
            shop.buildah("tag", image, f"localhost/real{len(pair)}")
        (files, packages), (of_files, of_packages) = pair
        changed = {p.decode(errors="replace")[1:] for p in files.keys() | of_files.keys() if files.get(p) != of_files.get(p)}
        self.moved = triples.existing(*changed) | {f"dir:{os.path.dirname(p)}" for p in changed} | {f"gone:{p}" for p in packages.keys() - of_packages.keys()}
        self.moved |= {f"{of}:{p}" for p in packages.keys() | of_packages.keys() if packages.get(p) != of_packages.get(p) for of in ("pkg", "status")}

    @staticmethod
    def packages(root):
        return dict(re.findall(r"(?ms)^Package: (\S+)$.*?^Version: (\S+)$", read(root + "/var/lib/dpkg/status").decode()))

    def essential(self):
        shop, debs = self.shop, self.debs
        release = dict(line.rstrip("\n").split("=", 1) for line in open("/etc/os-release"))
        suite = release["VERSION_CODENAME"].strip('"')
        sources = subprocess.run(["apt-get", "indextargets", "--format", "deb $(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"], stdout=subprocess.PIPE, text=True, check=True).stdout
        sources = sorted({l for l in sources.splitlines() if l.split()[2].startswith(suite) and "$(" not in l})
        context = f"{shop.scratch}/essential"
        os.makedirs(context)
        kept = f"{debs.cache}/essential-{hashlib.sha256(repr(sources).encode()).hexdigest()[:8]}.tar"
        if not os.path.exists(kept):
            excluded = [f"--dpkgopt=path-exclude=/usr/share/{d}/*" for d in ("man", "info", "locale", "doc")]
            run("mmdebstrap", "--quiet", "--variant=essential", "--mode=root", "--include=passwd,usr-is-merged", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
                *excluded, "--dpkgopt=force-unsafe-io", suite, kept + ".part.tar", "-", input="\n".join(sources))
            os.rename(kept + ".part.tar", kept)
        shutil.copy(kept, f"{context}/root.tar")
        with open(f"{context}/Dockerfile", "w") as f:
            f.write("FROM scratch\nADD root.tar /\nENV LANG=C DEBIAN_FRONTEND=noninteractive\n"
                    "RUN echo force-unsafe-io > /etc/dpkg/dpkg.cfg.d/quick && mkdir -p /run/debs\n")
        shop.buildah("bud", "-q", "--isolation", "chroot", "--format", "oci", "--squash", "-t", "essential", context)

    def state(self, name):
        found, packages = self.shop.shown(name, lambda root: (tree(root), self.packages(root)))
        files = {p[1:].decode(errors="replace") for p, e in found.items() if e[5] and e[10] is None}
        return triples.State(set(packages), sorted(files), self.debs)

    def old(self, i):
        """One of the old bases, built when it is first needed."""
        k = i % self.count
        name = f"old{k}"
        if name not in self.states:
            rng = random.Random(f"{self.seed}/old/{k}")
            back = [triples.Op(f"RUN dpkg -i {' '.join(self.debs.mounted(p, True) for p in g)}", set()) for g in triples.REAL
                    if g in self.debs.two_versions() and not self.real and rng.random() < 0.7]
            drawn = [triples.Op("ENV BASE_HOME=/opt/base", {"env:BASE_HOME"})]
            drawn += triples.fill(rng, 9, triples.BASE, triples.State(set(), [], self.debs))
            for op in drawn:
                for package in self.debs.files:
                    op.lines = [l.replace(self.debs.mounted(package), self.debs.mounted(package, True)) for l in op.lines]
            parent = "localhost/real1" if self.real else "essential"
            text = self.shop.build(name, parent, back + drawn, *(["--layers"] if k % 2 else []))
            self.states[name] = (self.state(name), self.shop.layers_of(name), text, drawn)
        return name, *self.states[name]


class Triple:
    """A triple, and how a rebase of it is judged."""

    def __init__(self, shop, bases, seed, i):
        self.shop, self.name, self.errors = shop, f"t{i}", []
        rng = random.Random(f"{seed}/{i}")
        self.old, state, self.old_manifest, self.old_text, drawn = bases.old(rng.randrange(1000))
        # Three of ten, one sort after the other.
        pair = triples.contested(rng, state, i // 10 * 3 + i % 10 // 3) if i % 10 in (2, 5, 8) else None
        used = pair[1].touches() | pair[2].touches() if pair else set()
        of_new = triples.fill(rng, rng.choice([1, 2, 2, 3, 4]), triples.NEW, state, avoid=used)
        used |= {w for op in of_new for w in op.writes} | bases.moved
        of_app = triples.fill(rng, rng.choice([2, 3, 4, 5, 6]), triples.APP, state, avoid=used)
        self.about, self.contested = pair[0] if pair else "", bool(pair)
        if pair:
            of_new.insert(rng.randrange(len(of_new) + 1), pair[1])
            of_app.insert(rng.randrange(len(of_app) + 1), pair[2])
        # Steps that need root come before the user of containers.
        of_app.sort(key=lambda op: op.lines[0].startswith("USER"))
        layers = ["--layers"] if rng.random() < 0.25 else []
        names = [f"{self.name}-{of}" for of in ("new", "app", "answer")]
        parent, before = ("localhost/real2", drawn) if bases.real else (self.old, [])
        self.texts = [shop.build(names[0], parent, before + of_new, *(["--squash"] if rng.random() < 0.3 else layers))]
        self.texts.append(shop.build(names[1], self.old, of_app, *layers))
        try:
            shop.build(names[2], names[0], of_app, *layers)
            self.answer = shop.files(names[2]), config_of(json.loads(shop.buildah("inspect", "--format", "{{.Config}}", names[2])))
        except RuntimeError as error:
            self.answer, self.error = None, str(error)
        self.new_manifest, self.app_manifest = shop.layers_of(names[0]), shop.layers_of(names[1])
        self.names = names

    def show(self, reference):
        """The files and the config of an image that a rebase made."""
        image = self.shop.pull(reference)
        raw = json.loads(run("skopeo", "inspect", "--config", "--raw", f"oci:{self.shop.scratch}/{reference}"))
        found = self.shop.files(image), config_of(raw)
        self.shop.drop(image)
        return found

    def compare(self, found):
        if self.answer is None:
            return {"no build": (None, self.error[-1500:])}
        return differing(found, self.answer)

    def crane(self):
        manifest = crane(self.shop, self.old_manifest, self.app_manifest, self.new_manifest)
        if manifest is None:
            return "refused", {}
        self.shop.add(f"{self.name}-crane", manifest)
        wrong = self.compare(self.show(f"layout:{self.name}-crane"))
        return ("wrong" if wrong else "equal"), wrong

    def relayer(self, binary):
        to = f"{self.shop.scratch}/rebased"
        of = lambda name: f"oci:{self.shop.layout}:{name}"
        done = subprocess.run([binary, "-v", "rebase", of(self.names[1]), "--from", of(self.old), "--to", of(self.names[0]), "-o", f"oci:{to}"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        self.report = done.stdout
        if done.returncode == 1 and not os.path.exists(to):
            # A refusal for another reason than a conflict is no answer.
            return ("conflict" if "conflict" in done.stdout else "wrong"), {}
        if done.returncode:
            raise RuntimeError(f"status {done.returncode}: {done.stdout}")
        wrong = self.compare(self.show("rebased"))
        shutil.rmtree(to)
        notes = [line for line in done.stdout.splitlines() if line.startswith("note: ")]
        # A package that can't be installed has no answer: that something it needs is missing must be said.
        told = lambda what: "no longer there" if what == "no build" else re.compile(rf"(?<![\w/.-]){re.escape(what)}(?![\w/.-])")
        named = {k for k in wrong if any(re.search(told(k), note) for note in notes)}
        return ("wrong" if wrong.keys() - named else "named" if named else "equal"), wrong

    def keep(self, where, verdicts):
        into = f"{where}/{self.name}"
        os.makedirs(into, exist_ok=True)
        for name in (self.old, *self.names):
            if name in self.shop.index or self.answer is not None:
                self.shop.buildah("push", "-q", name, f"oci:{into}/layout:{name}")
        for name, text in [("old", self.old_text), ("new", self.texts[0]), ("app", self.texts[1]), ("report", getattr(self, "report", "")),
                           ("verdicts", json.dumps(verdicts, indent=1, default=str))]:
            with open(f"{into}/{name}", "w") as f:
                f.write(text)

    def close(self):
        """The blobs of the old bases stay."""
        for name in (*self.names, f"{self.name}-crane"):
            self.shop.index.pop(name, None)
        used = set()
        for d in self.shop.index.values():
            manifest = self.shop.blob(d)
            used |= {x["digest"][7:] for x in (d, manifest["config"], *manifest["layers"])}
        for blob in os.listdir(f"{self.shop.layout}/blobs/sha256"):
            if blob not in used:
                os.remove(f"{self.shop.layout}/blobs/sha256/{blob}")
        self.shop.drop(*self.names)
        shutil.rmtree(f"{self.shop.scratch}/context")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triples", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bases", type=int, default=8, help="how many old bases are drawn")
    parser.add_argument("--real", nargs=2, metavar=("OLD", "NEW"))
    parser.add_argument("--only", type=lambda s: [int(n) for n in s.split(",")])
    parser.add_argument("--relayer", default=os.environ.get("RELAYER", f"{HERE}/target/release/relayer"))
    parser.add_argument("--crane-only", action="store_true")
    parser.add_argument("--keep")
    args = parser.parse_args()
    cache = os.environ.get("CACHE", f"{tempfile.gettempdir()}/relayer-debs")
    scratch = tempfile.mkdtemp(prefix="relayer-rebase-")
    # What buildah leaves there goes with it.
    os.environ["TMPDIR"] = scratch
    table = collections.Counter()
    try:
        debs = Debs(cache, scratch)
        shop = Shop(scratch, debs)
        bases = Bases(shop, debs, args.seed, args.bases, args.real)
        for i in args.only or range(args.triples):
            begun = time.time()
            triple = Triple(shop, bases, args.seed, i)
            verdicts = {"crane": triple.crane()}
            if not args.crane_only:
                verdicts["relayer"] = triple.relayer(os.path.abspath(args.relayer))
            kind = "contested" if triple.contested else "clear"
            for tool, (verdict, wrong) in verdicts.items():
                table[tool, kind, verdict] += 1
                table[tool, "config"] += verdict == "wrong" and all(k.startswith("config:") for k in wrong)
            line = "  ".join(f"{tool} {verdict}" for tool, (verdict, _) in verdicts.items())
            print(f"{triple.name} {kind:9} {line}  {triple.about}  {time.time() - begun:.1f} s", flush=True)
            verdict, wrong = verdicts.get("relayer", verdicts["crane"])
            if verdict == "equal" and not args.crane_only:
                # Nothing was missing.
                for alarm in re.findall("(?m)^note: no longer there.*$", triple.report):
                    print("    false alarm: " + alarm)
            if verdict == "wrong" or args.only or verdict == "conflict" and not triple.contested:
                for what, (found, answer) in sorted(wrong.items())[:12]:
                    print(f"    {what}: {found} / {answer}")
                if not args.crane_only:
                    print("    " + triple.report.replace("\n", "\n    ")[:3000])
                if args.keep:
                    triple.keep(args.keep, verdicts)
            triple.close()
    finally:
        subprocess.run(["buildah", "--root", f"{scratch}/storage", "--runroot", f"{scratch}/run", "--storage-driver", "overlay", "rm", "-a"], stdout=subprocess.DEVNULL)
        subprocess.run(["umount", f"{scratch}/storage/overlay"], stderr=subprocess.DEVNULL)
        shutil.rmtree(scratch, ignore_errors=True)
    verdicts = ["equal", "named", "conflict", "refused", "wrong"]
    print(f"\n{'':20}" + "".join(f"{v:>10}" for v in verdicts))
    for tool in ("relayer", "crane"):
        for kind in ("clear", "contested"):
            if any(table[tool, kind, v] for v in verdicts):
                print(f"{tool:9} {kind:10}" + "".join(f"{table[tool, kind, v]:10}" for v in verdicts))
    print(f"of what crane has wrong, {table['crane', 'config']} only in the config")
    clear = sum(table["relayer", "clear", v] for v in verdicts)
    good = sum(table["relayer", "clear", v] for v in ("equal", "named"))
    wrong = table["relayer", "clear", "wrong"] + table["relayer", "contested", "wrong"]
    sys.exit(1 if wrong or good < MIN_EQUAL * clear else 0)


if __name__ == "__main__":
    main()
