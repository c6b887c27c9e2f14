#!/bin/bash
# Makes a first corpus for each target: archives as GNU tar writes them, and a small image.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p corpus/tar corpus/split corpus/archive corpus/chunked corpus/documents corpus/databases
t=$(mktemp -d); trap 'rm -rf "$t"' EXIT
mkdir -p "$t/r/d/e"; echo x >"$t/r/d/x"; ln "$t/r/d/x" "$t/r/hard"; ln -s d/x "$t/r/soft"; mkfifo "$t/r/fifo"
truncate -s 1M "$t/r/sparse"; printf mid | dd of="$t/r/sparse" bs=1k seek=500 conv=notrunc status=none
: >"$t/r/d/.wh.x"; : >"$t/r/d/.wh..wh..opq"; : >"$t/r/$(printf 'n%.0s' $(seq 150))"
for format in v7 ustar gnu pax; do
  for sparse in "" -S; do
    (cd "$t/r" && tar --format=$format $sparse -cf "$t/$format$sparse.tar" . 2>/dev/null) || continue
    cp "$t/$format$sparse.tar" corpus/tar/
    { printf '\010'; cat "$t/$format$sparse.tar"; } >"corpus/split/$format$sparse"
  done
done
cp corpus/tar/* corpus/archive/
cp corpus/tar/* corpus/chunked/
python3 - "$t/pax.tar" corpus/archive <<'P'
import hashlib, io, json, sys, tarfile
layer = open(sys.argv[1], 'rb').read()
config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]}}).encode()
def write(name, files):
    with tarfile.open(f"{sys.argv[2]}/{name}", "w") as t:
        for path, data in files:
            i = tarfile.TarInfo(path); i.size = len(data); t.addfile(i, io.BytesIO(data))
digest = lambda b: hashlib.sha256(b).hexdigest()
d = lambda kind, b: {"mediaType": "application/vnd.oci.image." + kind, "digest": "sha256:" + digest(b), "size": len(b)}
write("docker", [("manifest.json", json.dumps([{"Config": "c.json", "RepoTags": ["a:b"], "Layers": ["l.tar"]}]).encode()), ("c.json", config), ("l.tar", layer)])
manifest = json.dumps({"schemaVersion": 2, "config": d("config.v1+json", config), "layers": [d("layer.v1.tar", layer)]}).encode()
index = json.dumps({"schemaVersion": 2, "manifests": [d("manifest.v1+json", manifest)]}).encode()
write("oci", [("index.json", index)] + [("blobs/sha256/" + digest(b), b) for b in (config, manifest, layer)])
P
python3 - corpus/documents corpus/databases <<'P'
import json, os, sqlite3, struct, sys
def write(folder, which, name, data):
    with open(f"{folder}/{which}-{name}", "wb") as f: f.write(bytes([which]) + data)
# As in fuzz_targets/documents.rs: 0 an index, 1 a manifest, 2 and 3 a config.
sha = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
d = lambda kind, **more: {"mediaType": "application/vnd.oci.image." + kind, "digest": sha, "size": 1024, **more}
platform = {"os": "linux", "architecture": "arm64", "variant": "v8", "os.version": "1", "os.features": ["x"]}
notes = {"org.opencontainers.image.ref.name": "v1", "io.containerd.image.name": "docker.io/library/app:v1"}
index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [d("manifest.v1+json", platform=platform, annotations=notes), d("index.v1+json")], "annotations": {"a": "b"}, "subject": d("manifest.v1+json")}
manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "artifactType": "a/b", "config": d("config.v1+json"), "layers": [d("layer.v1.tar", annotations={"io.github.containers.zstd-chunked.manifest-position": "1:2:3:1"}), d("layer.v1.tar+gzip", urls=["https://example.com"])], "annotations": {"io.relayer.plan": "x"}}
config = {"created": "2025-01-02T03:04:05.123Z", "os": "linux", "architecture": "amd64", "config": {"Env": ["A=1"], "Labels": {"a": "b"}, "Volumes": {"/srv": {}}}, "rootfs": {"type": "layers", "diff_ids": [sha]}, "history": [{"created_by": "RUN x", "empty_layer": True}, {"comment": "y"}], "n": [1.50, 12345678901234567890, None]}
for which, value in ((0, index), (1, manifest), (2, config), (3, config)):
    write(sys.argv[1], which, "whole", json.dumps(value).encode())
write(sys.argv[1], 0, "docker", json.dumps(index).replace("oci.image.index.v1", "docker.distribution.manifest.list.v2").encode())
# As in fuzz_targets/databases.rs: dpkg, distroless, apk, RECORD, rpm's whole database, one header of it.
out = sys.argv[2]
write(out, 0, "dpkg", b"Package: p\nStatus: install ok installed\nSource: s (1)\nDescription: d\n x\n\nPackage: q\n\0/.\n/usr\n/usr/bin/p\n")
write(out, 1, "distroless", b"Package: p\nVersion: 1\n\0" + b"d" * 32 + b"  usr/bin/p\n")
write(out, 2, "apk", b"C:Q1\nP:p\no:origin\nF:usr/bin\nM:0:0:755\nR:p\nZ:Q1\n\nP:q\nF:\nR:top\n")
write(out, 3, "record", b'p/a.py,sha256=x,1\r\n../../../bin/p,,\n"p/b,"".py",,\n/usr/bin/p,,\n')
names = [(1000, 6, 1, b"p\0"), (1028, 4, 1, struct.pack(">I", 1)), (1034, 4, 1, struct.pack(">I", 50)), (1044, 6, 1, b"p-1-2.src.rpm\0"), (1116, 4, 1, struct.pack(">I", 0)), (1117, 8, 1, b"p\0"), (1118, 8, 1, b"/usr/bin/\0")]
entries, data = b"", b""
for tag, kind, count, value in names:
    data += b"\0" * (-len(data) % 4)
    entries += struct.pack(">4I", tag, kind, len(data), count)
    data += value
header = struct.pack(">2I", len(names), len(data)) + entries + data
write(out, 5, "header", header)
file = f"{out}/rpm"
for size in (512, 1024):
    db = sqlite3.connect(file)
    db.execute(f"PRAGMA page_size={size}")
    db.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL)")
    db.executemany("INSERT INTO Packages (blob) VALUES (?)", [(header,), (header * 3,)])
    db.commit(); db.close()
    with open(file, "rb") as f: write(out, 4, f"sqlite{size}", f.read())
    os.unlink(file)
P
