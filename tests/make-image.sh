#!/bin/bash
# Makes a real docker-archive from packages of this Debian or Ubuntu, without Docker, root or a
# registry account:
#
#     tests/make-image.sh OUT.tar [PACKAGE ...]
#
# Each package is a layer with its entry in dpkg's database, as in distroless images. On top come
# an application, a secret, and a layer that deletes it again. Needs apt-get, dpkg-deb and python3.
set -euo pipefail
out=$(realpath -m "${1:?the archive to write}"); shift
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
packages=("$@")
if [ ${#packages[@]} = 0 ]; then
  # Package names carry library versions that differ from release to release, so ask.
  packages=($(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
    --no-replaces --no-enhances --no-pre-depends git python3-numpy perl curl 2>/dev/null |
    grep -E '^[a-z0-9]' | grep -vE '^(debconf|dpkg|ucf|.*-doc|.*:.*)' | sort -u))
fi
[ ${#packages[@]} -gt 0 ] || { echo "no packages known: run apt-get update first" >&2; exit 1; }
mkdir "$work/deb"; cd "$work/deb"
# A name may be virtual: what can't be had is passed over.
apt-get download "${packages[@]}" >"$work/log" 2>&1 ||
  for p in "${packages[@]}"; do apt-get download "$p" >>"$work/log" 2>&1 || true; done
ls ./*.deb >/dev/null || { cat "$work/log" >&2; exit 1; }
python3 - "$work/deb" "$out" <<'P'
import hashlib, io, json, os, subprocess, sys, tarfile

debs, out = sorted(os.listdir(sys.argv[1])), sys.argv[2]


def tool(*args):
    return subprocess.run(["dpkg-deb", *args], check=True, stdout=subprocess.PIPE).stdout


def tar(entries):
    """A layer: (path, data), data None for a folder."""
    b = io.BytesIO()
    with tarfile.open(fileobj=b, mode="w", format=tarfile.PAX_FORMAT) as t:
        for path, data in entries:
            i = tarfile.TarInfo(path)
            i.mtime, i.type = 1700000000, tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            i.mode, i.size = (0o755, 0) if data is None else (0o644, len(data))
            t.addfile(i, io.BytesIO(data or b""))
    return b.getvalue()


def text(s):
    return s.encode()


dirs = [("var", None), ("var/lib", None), ("var/lib/dpkg", None), ("var/lib/dpkg/status.d", None)]
layers = []
for deb in debs:
    path = os.path.join(sys.argv[1], deb)
    name = tool("-f", path, "Package").decode().strip()
    files = tool("--fsys-tarfile", path)
    sums = "".join(f"{'0' * 32}  {m.name.removeprefix('./')}\n"
                   for m in tarfile.open(fileobj=io.BytesIO(files)) if not m.isdir())
    layers += [files, tar(dirs + [(f"var/lib/dpkg/status.d/{name}", tool("-f", path)),
                                  (f"var/lib/dpkg/status.d/{name}.md5sums", text(sums))])]
app = [("srv", None), ("srv/app", None)]
app += [(f"srv/app/page{i}.html", text(f"<h1>page {i}</h1>\n" * 200)) for i in range(100)]
layers.append(tar(app + [("srv/app/.key", b"RELAYER-TEST-SECRET\n")]))
layers.append(tar([("srv", None), ("srv/app", None), ("srv/app/.wh..key", b""), ("srv/app/page7.html", b"new\n")]))
digest = lambda b: hashlib.sha256(b).hexdigest()
config = text(json.dumps({
    "created": "2025-01-01T00:00:00Z", "architecture": "amd64", "os": "linux",
    "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["/usr/bin/perl", "-v"]},
    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest(l) for l in layers]},
    "history": [{"created_by": f"layer {i}"} for i in range(len(layers))]}))
manifest = [{"Config": digest(config) + ".json", "RepoTags": ["relayer/demo:latest"],
             "Layers": [digest(l) + ".tar" for l in layers]}]
files = {digest(l) + ".tar": l for l in layers}
files |= {digest(config) + ".json": config, "manifest.json": text(json.dumps(manifest))}
with open(out + ".part", "wb") as f:
    f.write(tar(sorted(files.items())))
os.replace(out + ".part", out)
print(f"{out}: {len(debs)} packages, {len(layers)} layers, {os.path.getsize(out) / 1e6:.0f} MB")
P
