#!/usr/bin/env python3
"""Bytes by compression and number of layers, of several images: a table in Markdown and a chart.

    benches/layers.py [--svg FILE] [--cache DIR] IMAGE...

Each image goes through `relayer bench` as a whole. Cells are MB; the last column is what most
layers take against one. --cache keeps the results in DIR.
"""
import argparse, json, os, subprocess
from xml.sax.saxutils import escape

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RELAYER = os.environ.get("RELAYER", f"{HERE}/target/release/relayer")
COMPRESSIONS = {"gzip:6": "#a84e08", "zstd:3:long=21": "#2b7d3c", "zstd:3": "#3457c0", "zstd:3:long=27": "#b02a63"}


def name(image):
    return "/".join(image.removesuffix(".oci").rsplit("/", 2)[-2:])


def bench(image, cache):
    path = cache and f"{cache}/{name(image).replace('/', '-')}.json"
    if path and os.path.exists(path):
        return json.load(open(path))["matrix"]
    command = [RELAYER, "bench", image, "--full", "--compression", ",".join(COMPRESSIONS), "--json"]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    if path:
        open(path, "wb").write(text)
    return json.loads(text)["matrix"]


def table(image, matrix):
    counts = [cell["target"] for cell in matrix["rows"][0]["cells"]]
    print(f"\n**{name(image)}**, {matrix['file_bytes'] / 1e6:.0f} MB of files\n")
    print(f"| | window | MB/s in | MB/s out | {' | '.join(map(str, counts))} | {counts[-1]} vs {counts[0]} |")
    print(f"|---|--:|--:|--:|{'--:|' * (len(counts) + 1)}")
    for row in matrix["rows"]:
        bytes = [cell["blob_bytes"] for cell in row["cells"]]
        cells = " | ".join(f"{b / 1e6:.1f}" for b in bytes)
        window = row["window"] >> 10
        print(f"| {row['compression']} | {window if window < 1024 else window >> 10} {'KiB' if window < 1024 else 'MiB'} "
              f"| {row['encode'] / 1e6:.0f} | {row['decode'] / 1e6:.0f} | {cells} | {100 * (bytes[-1] / bytes[0] - 1):+.1f} % |")


def chart(images, matrices):
    """A panel an image; lines are bytes against one layer, in percent."""
    more = lambda row: [100 * (c["blob_bytes"] / row["cells"][0]["blob_bytes"] - 1) for c in row["cells"]]
    values = [v for m in matrices for row in m["rows"] for v in more(row)]
    low, high = min(values) - 0.5, max(values) + 0.5
    wide, tall, left, top = 250, 200, 50, 40
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + len(images) * (wide + 20)} {tall + top + 60}" '
           'font-family="sans-serif" font-size="12" fill="#777">']
    for i, (image, matrix) in enumerate(zip(images, matrices)):
        x0 = left + i * (wide + 20)
        rows = matrix["rows"]
        count = len(rows[0]["cells"])
        x = lambda j: x0 + 10 + j * (wide - 20) / (count - 1)
        y = lambda v: top + tall * (high - v) / (high - low)
        out.append(f'<text x="{x0}" y="{top - 12}" font-weight="bold">{escape(name(image))}</text>')
        for tick in range(2 * int(low / 2), int(high) + 1, 2):
            out.append(f'<line x1="{x0}" x2="{x0 + wide}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#bbb" stroke-width=".5"/>')
            if i == 0:
                out.append(f'<text x="{x0 - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:+d} %</text>')
        for j, cell in enumerate(rows[0]["cells"]):
            out.append(f'<text x="{x(j):.1f}" y="{top + tall + 18}" text-anchor="middle">{cell["target"]}</text>')
        for row in rows:
            points = " ".join(f"{x(j):.1f},{y(v):.1f}" for j, v in enumerate(more(row)))
            out.append(f'<polyline points="{points}" fill="none" stroke="{COMPRESSIONS[row["compression"]]}" stroke-width="2"/>')
    for i, (compression, color) in enumerate(COMPRESSIONS.items()):
        x0 = left + i * 150
        out.append(f'<line x1="{x0}" x2="{x0 + 24}" y1="{top + tall + 42}" y2="{top + tall + 42}" stroke="{color}" stroke-width="2"/>')
        out.append(f'<text x="{x0 + 30}" y="{top + tall + 46}">{compression}</text>')
    return "\n".join([*out, "</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+")
    parser.add_argument("--svg")
    parser.add_argument("--cache")
    options = parser.parse_args()
    matrices = [bench(image, options.cache) for image in options.images]
    for image, matrix in zip(options.images, matrices):
        table(image, matrix)
    if options.svg:
        open(options.svg, "w").write(chart(options.images, matrices))


if __name__ == "__main__":
    main()
