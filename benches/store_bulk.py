#!/usr/bin/env python3
"""What adding one image to a store costs when it holds thousands: CPU by number of images.

    benches/store_bulk.py RELAYER [THOUSANDS]

Layouts of a thousand small images each (eight shared layers and one of their own) are added at once, and
after each of them fifteen images one by one, of whose CPU the median is shown. Works in /dev/shm.
"""
import hashlib, io, json, os, resource, shutil, statistics, subprocess, sys, tarfile, tempfile


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
        digest = hashlib.sha256(data).hexdigest()
        with open(f"{path}/blobs/sha256/{digest}", "wb") as f:
            f.write(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    roots = []
    for n in numbers:
        layers = [*SHARED, layer([(f"app/{n}", noise(str(n), 100))])]
        ids = ["sha256:" + hashlib.sha256(l).hexdigest() for l in layers]
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
    relayer, thousands = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        def add(numbers):
            layout(f"{folder}/new", numbers)
            used = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
            before = used()
            subprocess.run([relayer, "store", "--store", f"{folder}/store", "add", f"oci:{folder}/new", "-q"], check=True)
            shutil.rmtree(f"{folder}/new")
            return used() - before

        def single(first):
            return 1000 * statistics.median(add([first + i]) for i in range(15))

        count = 15
        print(f"{count:6} images: {single(0):5.1f} ms", flush=True)
        for _ in range(thousands):
            add(range(count, count + 1000))
            count += 1015
            print(f"{count:6} images: {single(count - 15):5.1f} ms", flush=True)


main()
