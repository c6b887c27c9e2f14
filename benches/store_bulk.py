#!/usr/bin/env python3
"""What adding one image to a store costs when it holds thousands: CPU by number of images.

    benches/store_bulk.py [THOUSANDS]

Layouts of a thousand small images each (eight shared layers and one of their own) are added at once, and
after each of them fifteen images one by one, of whose CPU the median is shown. Works in TMPDIR or /dev/shm. RELAYER names the binary.
"""
import hashlib, io, json, os, shutil, statistics, sys, tarfile, tempfile

from store_growth import run, sha


def layer(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as t:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return out.getvalue()


def noise(text, times):
    return hashlib.sha256(text.encode()).digest() * times


SHARED = [layer([(f"base/{k}/{j}", noise(f"{k}.{j}", 40)) for j in range(20)]) for k in range(8)]


def layout(path, numbers):
    os.makedirs(f"{path}/blobs/sha256")

    def put(kind, data):
        digest = sha(data)
        with open(f"{path}/blobs/sha256/{digest}", "wb") as f:
            f.write(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    roots = []
    for n in numbers:
        layers = [*SHARED, layer([(f"app/{n}", noise(str(n), 100))])]
        ids = ["sha256:" + sha(l) for l in layers]
        config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ids}}
        manifest = {
            "schemaVersion": 2,
            "config": put("config.v1+json", json.dumps(config).encode()),
            "layers": [put("layer.v1.tar", l) for l in layers],
        }
        root = put("manifest.v1+json", json.dumps(manifest).encode())
        roots.append({**root, "annotations": {"org.opencontainers.image.ref.name": f"app{n}:v1"}})
    with open(f"{path}/index.json", "w") as f:
        json.dump({"schemaVersion": 2, "manifests": roots}, f)
    with open(f"{path}/oci-layout", "w") as f:
        f.write('{"imageLayoutVersion":"1.0.0"}')


def main():
    thousands = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/dev/shm")) as folder:
        def add(numbers):
            layout(f"{folder}/new", numbers)
            cpu, _ = run(f"{folder}/store", 256, "add", f"oci:{folder}/new")
            shutil.rmtree(f"{folder}/new")
            return cpu

        def single(first):
            return 1000 * statistics.median(add([first + i]) for i in range(15))

        count = 15
        print(f"{count:6} images: {single(0):5.1f} ms", flush=True)
        for _ in range(thousands):
            add(range(count, count + 1000))
            count += 1015
            print(f"{count:6} images: {single(count - 15):5.1f} ms", flush=True)


main()
