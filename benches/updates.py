#!/usr/bin/env python3
"""What clients download from version to version of an image, for several ways to make it.

    benches/updates.py IMAGE IMAGE...              a table in Markdown, old to new
    benches/updates.py --curve F.svg IMAGE...      dead bytes against update bytes, as a plot
    benches/updates.py --clients IMAGE...          what `--client` changes, as rows of a table
    benches/updates.py --expected IMAGE...         what first splits expect, and what happened, as a row

From the image files alone: every result is made here, and `relayer diff` counts what a client loads
that has the version before. The floor is what no client can do without: the files whose content or
metadata other than times has changed, as one zstd layer. Results go to a folder in TMPDIR.
"""
import json, os, re, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RELAYER = os.environ.get("RELAYER", f"{HERE}/target/release/relayer")


def relayer(*arguments):
    done = subprocess.run([RELAYER, *arguments], stdout=subprocess.PIPE)
    assert done.returncode == 0, arguments
    return done.stdout


def split(image, out, *options):
    """Splits and gives the report."""
    return json.loads(relayer("split", image, "-o", out, "--force", "--json", *options))["images"][0]


def loads(images):
    """For each step what the two models load."""
    steps = json.loads(relayer("diff", "--json", *images))["steps"]
    return [(s["diff"]["loads"]["digest"]["bytes"], s["diff"]["loads"]["chain"]["bytes"]) for s in steps]


def chained(images, work, tag, *options):
    """The sequence with --previous, the first image as one without: paths and reports of the others."""
    paths, reports = [f"{work}/{tag}-0.tar"], []
    split(images[0], paths[0], "--previous", f"{work}/none.tar", "--previous-if-exists")
    for i, image in enumerate(images[1:], 1):
        paths.append(f"{work}/{tag}-{i}.tar")
        reports.append(split(image, paths[-1], "--previous", paths[-2], *options))
    return paths, reports


def floor(old, new, work, layers=125):
    """The least that must be loaded at a step, in a result of at most that many layers."""
    options = ["--client", "podman", "--beta", "0", "--max-dead", "100", "--max-layers", str(layers)]
    return split(new, f"{work}/floor.tar", "--previous", old, *options)["update"]["set_bytes"]


def floors(images, fresh, work):
    """For each step the least that must be loaded."""
    steps = zip(images, images[1:], fresh)
    return [floor(old, new, work, report["before"]["layers"] + 1) for old, new, report in steps]


def name(image):
    return re.sub(r"(\.docker\.tar|\.oci|\.tar)$", "", os.path.basename(image.split(":")[-1]))


def table(images, work):
    results = {"built": images}
    reports = {}
    for tag, options in (("split8", ["--target", "8"]), ("split16", ["--target", "16"])):
        results[tag] = [f"{work}/{tag}-{i}.tar" for i in range(len(images))]
        reports[tag] = [split(i, o, *options) for i, o in zip(images, results[tag])]
    results["flat"] = [f"{work}/flat-{i}.tar" for i in range(len(images))]
    for image, out in zip(images, results["flat"]):
        relayer("flatten", "-q", image, "-o", out)
    floor = floors(images, reports["split8"], work)
    results["previous"], chain = chained(images, work, "previous")
    counted = {tag: loads(paths) for tag, paths in results.items()}
    fresh = [sum(l["blob_bytes"] for l in r["layers"]) for r in reports["split8"]]
    columns = ["built", "flat", "split8", "split16", "previous"]
    print("| to | floor MB | as built | flattened | `--target 8` | `--target 16` | **`--previous`** | dead | layers | cold |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    mb = lambda pair: f"{pair[0] / 1e6:.1f} / {pair[1] / 1e6:.1f}"
    dead, cold = [], []
    for i, image in enumerate(images[1:]):
        update = chain[i]["update"]
        dead.append(update["dead_bytes"] / update["total_bytes"])
        cold.append(update["total_bytes"] / fresh[i + 1])
        cells = [mb(counted[c][i]) for c in columns]
        print(f"| {name(image)} | {floor[i] / 1e6:.1f} | {' | '.join(cells)} | {100 * dead[-1]:.1f} % "
              f"| {len(chain[i]['layers'])} | {cold[-1]:.2f} |")
    sums = {c: (sum(s for s, _ in counted[c]), sum(k for _, k in counted[c])) for c in columns}
    print(f"| total | {sum(floor) / 1e6:.1f} | {' | '.join(mb(sums[c]) for c in columns)} | | | |")
    times = [f"{sums[c][0] / sum(floor):.2f} / {sums[c][1] / sum(floor):.2f}" for c in columns]
    print(f"| × floor | 1 | {' | '.join(times)} | ≤ {100 * max(dead):.1f} % | | ≤ {max(cold):.2f} |")


def clients(images, work):
    """All update bytes for each choice of clients, as multiples of the floor."""
    fresh = [split(i, f"{work}/fresh-{n}.tar", "--target", "8") for n, i in enumerate(images)]
    floor = sum(floors(images, fresh, work))
    sizes = [sum(l["blob_bytes"] for l in r["layers"]) for r in fresh]
    for client, options in (("default", []), ("docker", ["--client", "docker"]), ("podman", ["--client", "podman"])):
        paths, reports = chained(images, work, client, *options)
        counted = loads(paths)
        updates = [r["update"] for r in reports]
        dead = max(u["dead_bytes"] / u["total_bytes"] for u in updates)
        cold = max(u["total_bytes"] / size for u, size in zip(updates, sizes[1:]))
        print(f"| {client} | {sum(s for s, _ in counted) / floor:.2f} / {sum(c for _, c in counted) / floor:.2f} "
              f"| {100 * dead:.1f} % | {cold:.2f} |", flush=True)


def expected(images, work):
    """What first splits expect of the next release, and what clients download then: means over all steps."""
    def fresh(tag, *options):
        paths = [f"{work}/{tag}-{n}.tar" for n in range(len(images))]
        return paths, [split(i, o, *options) for i, o in zip(images, paths)]
    paths, reports = fresh("same")
    results = {"same": paths, "stable": fresh("stable", "--mtime", "stable")[0],
               "previous": chained(images, work, "previous")[0]}
    mean = lambda pairs: " / ".join(f"{sum(column) / len(pairs) / 1e6:.0f}" for column in zip(*pairs))
    cells = []
    for way, made in results.items():
        said = [r["next_release"][way] or r["next_release"]["same"] for r in reports[:-1]]
        cells += [mean([(s["set_bytes"], s["chain_bytes"]) for s in said]), mean(loads(made))]
    print(f"| {len(images) - 1} | {' | '.join(cells)} |")


def curve(images, work, out):
    """Update bytes by both models, as multiples of the floor, against the largest share of dead bytes."""
    fresh = [split(i, f"{work}/fresh-{n}.tar", "--target", "8") for n, i in enumerate(images)]
    floor = sum(floors(images, fresh, work))
    points = []
    settings = [(limit, "0") for limit in (0, 5, 10, 15, 20, 30, 50, 100)] + [(19, "0.5")]
    for limit, beta in settings:
        options = ["--max-dead", str(limit), "--beta", beta]
        paths, reports = chained(images, work, "curve", *options)
        counted = loads(paths)
        dead = max(r["update"]["dead_bytes"] / r["update"]["total_bytes"] for r in reports)
        point = (100 * dead, sum(s for s, _ in counted) / floor, sum(c for _, c in counted) / floor)
        points.append(point)
        print(f"--max-dead {limit} --beta {beta}: dead {point[0]:.1f} %, set {point[1]:.3f}, chain {point[2]:.3f}")
    with open(out, "w") as f:
        f.write(plot(points[:-1], points[-1], os.path.basename(out).removesuffix(".svg")))


def plot(points, default, title):
    """A small SVG: two lines, and the default as dots."""
    width, height, left, bottom = 480, 300, 46, 40
    most_x = max(20, max(p[0] for p in points + [default]))
    most_y = max(max(p[1:]) for p in points + [default]) * 1.05
    x = lambda v: left + v / most_x * (width - left - 12)
    y = lambda v: height - bottom - (v - 0.8) / (most_y - 0.8) * (height - bottom - 28)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
             f'font-family="sans-serif" font-size="11"><title>{title}: dead bytes against update bytes</title>'
             f'<rect width="100%" height="100%" fill="#fff"/><text x="{left}" y="16" font-size="13">{title}</text>']
    for v in range(0, int(most_x) + 1, 10 if most_x > 30 else 5):
        parts.append(f'<text x="{x(v):.0f}" y="{height - bottom + 14}" text-anchor="middle">{v}</text>')
    step = 0.5 if most_y > 2 else 0.2
    v = 1.0
    while v < most_y:
        parts.append(f'<path d="M{left} {y(v):.1f}H{width - 12}" stroke="#ddd"/>'
                     f'<text x="{left - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.1f}</text>')
        v += step
    parts.append(f'<text x="{(left + width) / 2:.0f}" y="{height - 8}" text-anchor="middle">most dead bytes, % of the image</text>'
                 f'<text transform="translate(12 {height / 2:.0f}) rotate(-90)" text-anchor="middle">update bytes, × floor</text>')
    for column, color, label in ((1, "#0b6", "by digest"), (2, "#c50", "by chain ID")):
        line = sorted((p[0], p[column]) for p in points)
        d = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in line)
        parts.append(f'<path d="M{d}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts.extend(f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.5" fill="{color}"/>' for a, b in line)
        parts.append(f'<circle cx="{x(default[0]):.1f}" cy="{y(default[column]):.1f}" r="6" fill="none" stroke="{color}" stroke-width="2"/>'
                     f'<text x="{width - 14}" y="{14 + 14 * (column - 1)}" text-anchor="end" fill="{color}">{label}</text>')
    return "\n".join(parts) + "\n</svg>\n"


def main():
    arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="relayer-updates-") as work:
        if arguments[0] == "--curve":
            curve(arguments[2:], work, arguments[1])
        elif arguments[0] == "--clients":
            clients(arguments[1:], work)
        elif arguments[0] == "--expected":
            expected(arguments[1:], work)
        else:
            table(arguments, work)


if __name__ == "__main__":
    main()
