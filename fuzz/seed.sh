#!/bin/bash
# Makes a first corpus for each target: archives as GNU tar writes them, and a small image.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p corpus/tar corpus/split corpus/archive corpus/chunked
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
