#!/usr/bin/env python3
"""How time and memory grow with what an image has: pictures for docs/PERFORMANCE.md and docs/SECURITY.md.

    benches/growth.py [OUT.svg]

Images of 10^3 to 10^6 entries, components (a jar each) and runs of one sparse file, and of 0.1 to 5 GB in files of 1 MB,
are split by one thread into a layout. The time is CPU time, memory the peak of the process. Printed is also by which
power both grow, fitted over the larger half, and what a megabyte or an entry costs there. RELAYER names another program
than the release build. TMPDIR needs 10 GB.
"""
import hashlib, json, math, os, random, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RELAYER = os.environ.get("RELAYER", f"{HERE}/target/release/relayer")
SIZES = [1_000, 10_000, 100_000, 1_000_000]
MEGABYTES = [100, 300, 1_000, 2_000, 5_000]
COLORS = {"entries": "#2a6fb0", "components": "#b0512a", "runs": "#3b8f4a", "megabytes": "#6b4aa0"}


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
    elif what == "megabytes":
        # Words, and so many of them that no window finds a block again.
        draw = random.Random(1)
        words = [draw.randbytes(draw.randrange(2, 12)) for _ in range(4096)]
        blocks = [b"".join(draw.choices(words, k=200_000))[:999_424] for _ in range(40)]
        yield from (header(b"d%03d/f%07d" % (i % 100, i), b"0", 999_424) + blocks[i % 40] for i in range(n))
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

    def put(kind, parts):
        digest, size = hashlib.sha256(), 0
        with open(f"{folder}/new", "wb") as f:
            for part in parts:
                digest.update(part)
                size += f.write(part)
        os.rename(f"{folder}/new", f"{blobs}/{digest.hexdigest()}")
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest.hexdigest()}", "size": size}

    layer = put("layer.v1.tar", pieces(what, n))
    config = put("config.v1+json", [json.dumps({"os": "linux", "architecture": "amd64",
                 "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}}).encode()])
    manifest = put("manifest.v1+json", [json.dumps({"schemaVersion": 2, "config": config, "layers": [layer]}).encode()])
    open(f"{folder}/index.json", "w").write(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    open(f"{folder}/oci-layout", "w").write('{"imageLayoutVersion":"1.0.0"}')


def cost(work):
    """CPU seconds and peak MiB of a split."""
    command = [RELAYER, "split", f"oci:{work}/in", "-o", f"oci:{work}/out:x", "-q", "--threads", "1"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0, command
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def power(numbers, values):
    """The slope of a line through the larger half, both axes by logarithms."""
    points = [(math.log(n), math.log(v)) for n, v in zip(numbers, values)][len(numbers) // 2 - 1:]
    mx, my = (sum(axis) / len(points) for axis in zip(*points))
    return sum((x - mx) * (y - my) for x, y in points) / sum((x - mx) ** 2 for x, _ in points)


def text(x, y, words, more=""):
    return f'<text x="{x:.0f}" y="{y:.0f}" {more}>{words}</text>'


def panel(left, top, numbers, ticks, what, unit, rows):
    """Both axes by powers of ten: what grows in proportion rises by one tick a power of ten."""
    wide, tall, low, high = 300, 180, math.log10(ticks[0]), math.log10(ticks[-1])
    per_decade = tall / (high - low)
    x = lambda n: left + (math.log10(n / numbers[0])) / math.log10(numbers[-1] / numbers[0]) * wide
    y = lambda v: top + tall - (math.log10(max(v, ticks[0])) - low) * per_decade
    out = []
    for t in ticks:
        out += [f'<path d="M{left} {y(t):.0f}h{wide}" stroke="#ddd"/>', text(left - 6, y(t) + 4, f"{t:,g} {unit}", 'text-anchor="end"')]
    for n in numbers:
        out.append(text(x(n), top + tall + 18, f"{n:,}", 'text-anchor="middle"'))
    out.append(text(left + wide / 2, top + tall + 36, what, 'text-anchor="middle"'))
    for name, row in rows.items():
        line = "L".join(f"{x(n):.0f} {y(v):.1f}" for n, v in zip(numbers, row))
        out.append(f'<path d="M{line}" fill="none" stroke="{COLORS[name]}" stroke-width="2"/>')
        if len(rows) > 1:
            out.append(text(x(numbers[-1]) + 6, y(row[-1]) + 4, name, f'fill="{COLORS[name]}"'))
    return out


def svg(found):
    counts = {k: v for k, v in found.items() if k != "megabytes"}
    size = {"megabytes": found["megabytes"]}
    column = lambda rows, i: {k: [cost[i] for cost in row] for k, row in rows.items()}
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 500" font-family="sans-serif" font-size="12">',
           '<rect width="900" height="500" fill="#fff"/>']
    for i, (ticks, unit) in enumerate([([0.01, 0.1, 1, 10, 100], "s"), ([10, 100, 1000], "MiB")]):
        out += panel(75, 20 + 245 * i, SIZES, ticks, "how many in the image", unit, column(counts, i))
        out += panel(545, 20 + 245 * i, MEGABYTES, ticks, "MB in the image", unit, column(size, i))
    return "\n".join(out + ["</svg>", ""])


def main():
    found = {}
    for what in COLORS:
        numbers = MEGABYTES if what == "megabytes" else SIZES
        found[what] = []
        for n in numbers:
            with tempfile.TemporaryDirectory(prefix="relayer-growth-", dir=os.environ.get("TMPDIR", "/var/tmp")) as work:
                layout(f"{work}/in", what, n)
                found[what].append(cost(work))
            seconds, memory = found[what][-1]
            print(f"{n:>9,} {what}: {seconds:.2f} s, {memory:.0f} MiB", flush=True)
        times, memory = zip(*found[what])
        print(f"{what}: time grows by the power {power(numbers, times):.2f}, memory {power(numbers, memory):.2f}; "
              f"{times[-1] / numbers[-1] * 1e6:,.1f} µs each", flush=True)
    open((sys.argv[1:] or [f"{HERE}/docs/growth.svg"])[0], "w").write(svg(found))


main()
