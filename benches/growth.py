#!/usr/bin/env python3
"""How time grows with what an image has: a picture for docs/SECURITY.md.

    benches/growth.py [OUT.svg]

Images of 10^3 to 10^6 entries, components (a jar each) and runs of one sparse file are planned with
`relayer split --dry-run`: read, flattened, analysed, sampled and cut. The time is CPU time of one
thread. RELAYER names another program than the release build.
"""
import hashlib, json, os, resource, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RELAYER = os.environ.get("RELAYER", f"{HERE}/target/release/relayer")
SIZES = [1_000, 10_000, 100_000, 1_000_000]
COLORS = {"entries": "#2a6fb0", "components": "#b0512a", "runs": "#3b8f4a"}


def header(name, kind, size):
    h = bytearray(512)
    for at, text in [(0, name), (100, b"0000644\0"), (108, b"0000000\0"), (116, b"0000000\0"), (124, b"%011o\0" % size),
                     (136, b"00000000000\0"), (148, b" " * 8), (156, kind), (257, b"ustar\x0000")]:
        h[at:at + len(text)] = text
    h[148:156] = b"%06o\0 " % sum(h)
    return bytes(h)


def padded(data):
    return data + b"\0" * (-len(data) % 512)


def pieces(what, n):
    if what == "entries":
        yield from (header(b"d%03d/f%07d" % (i % 1000, i), b"0", 0) for i in range(n))
    elif what == "components":
        yield from (header(b"lib/x%d.jar" % i, b"0", 4) + padded(b"%04d" % (i % 10000)) for i in range(n))
    else:
        text = padded(b"%d\n" % n + b"".join(b"%d\n1\n" % (2 * i) for i in range(n)))
        records = [b"GNU.sparse.major=1", b"GNU.sparse.minor=0", b"GNU.sparse.name=f", b"GNU.sparse.realsize=%d" % (2 * n)]
        record = lambda r: next(b"%d %s\n" % (k, r) for k in range(len(r) + 4, len(r) + 8) if len(b"%d %s\n" % (k, r)) == k)
        pax = b"".join(map(record, records))
        yield header(b"x", b"x", len(pax)) + padded(pax) + header(b"f", b"0", len(text) + n) + text + padded(b"x" * n)
    yield b"\0" * 1024


def layout(folder, what, n):
    blobs = f"{folder}/blobs/sha256"
    os.makedirs(blobs)

    def put(kind, data):
        name = hashlib.sha256(data).hexdigest()
        open(f"{blobs}/{name}", "wb").write(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{name}", "size": len(data)}

    layer = put("layer.v1.tar", b"".join(pieces(what, n)))
    config = put("config.v1+json", json.dumps({"os": "linux", "architecture": "amd64",
                 "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}}).encode())
    manifest = put("manifest.v1+json", json.dumps({"schemaVersion": 2, "config": config, "layers": [layer]}).encode())
    open(f"{folder}/index.json", "w").write(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    open(f"{folder}/oci-layout", "w").write('{"imageLayoutVersion":"1.0.0"}')


def seconds(folder):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([RELAYER, "split", f"oci:{folder}", "--dry-run", "-q", "--threads", "1", "--memory", "4GiB"],
                   check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def svg(found):
    """Both axes by powers of ten: what grows in proportion is a line at 45 degrees."""
    from math import log10
    x = lambda n: 60 + (log10(n) - 3) * 130
    y = lambda s: 240 - (log10(max(s, 0.01)) + 2) * 55
    text = lambda at, up, words, more="": f'<text x="{at:.0f}" y="{up:.0f}" {more}>{words}</text>'
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 560 290" font-family="sans-serif" font-size="12">',
           '<rect width="560" height="290" fill="#fff"/>']
    for s in (0.01, 0.1, 1, 10, 100):
        out += [f'<path d="M60 {y(s):.0f}H450" stroke="#ddd"/>', text(54, y(s) + 4, f"{s:g} s", 'text-anchor="end"')]
    for n in SIZES:
        out.append(text(x(n), 262, f"{n:,}", 'text-anchor="middle"'))
    out.append(text(255, 282, "how many in the image", 'text-anchor="middle"'))
    for what, row in found.items():
        line = "L".join(f"{x(n):.0f} {y(s):.1f}" for n, s in zip(SIZES, row))
        out += [f'<path d="M{line}" fill="none" stroke="{COLORS[what]}" stroke-width="2"/>',
                text(456, y(row[-1]) + 4, what, f'fill="{COLORS[what]}"')]
    return "\n".join(out + ["</svg>", ""])


def main():
    found = {}
    for what in COLORS:
        found[what] = []
        for n in SIZES:
            with tempfile.TemporaryDirectory(prefix="relayer-growth-", dir=os.environ.get("TMPDIR", "/var/tmp")) as work:
                layout(f"{work}/in", what, n)
                found[what].append(seconds(f"{work}/in"))
            print(f"{n:>9,} {what}: {found[what][-1]:.2f} s, {found[what][-1] / n * 1e6:.1f} µs each", flush=True)
    open((sys.argv[1:] or [f"{HERE}/docs/growth.svg"])[0], "w").write(svg(found))


main()
