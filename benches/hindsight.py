#!/usr/bin/env python3
"""The best fixed assignment of components to layers, with what a sequence of images brings known beforehand.

    benches/hindsight.py IMAGE IMAGE...       a table in Markdown, old to new

To compare with plans.py, which knows nothing beforehand. A component is one piece, or pieces of equal size
where it is larger than a layer may be, and is downloaded whole if any file of it differs with `--mtime
stable`. Layers hold at most 1.35 times the mean. The search is simulated annealing, so the true optimum may
be a little lower:

- hindsight: what changes at each step is known;
- rates: only the share of the steps in which each component changes is known. The layers with the least
  expected download are rated with the changes that came.

Multiples of the floor as in plans.py. TARGETS are the numbers of layers, MOVES the length of the search.
"""
import json, math, os, random, sys, tempfile

from plans import TARGETS
from updates import floor, relayer

MOVES = int(os.environ.get("MOVES", "400000"))
BALANCE = 1.35


def read(images):
    """For each component its sizes by version, and whether each step changes it; the floor of all steps."""
    sizes, changes = {}, {}
    for at, image in enumerate(images):
        for c in json.loads(relayer("inspect", image, "--json"))["images"][0]["components"]:
            sizes.setdefault(c["name"], [0] * len(images))[at] = c["estimate"]
    steps = len(images) - 1
    for step in range(steps):
        for c in json.loads(relayer("diff", images[step], images[step + 1], "--json"))["steps"][0]["diff"]["components"]:
            if any(c[how]["files"] for how in ("added", "removed", "changed", "metadata", "mtime")):
                changes.setdefault(c["name"], [0] * steps)[step] = 1
    return sizes, {name: changes.get(name, [0] * steps) for name in sizes}


class Search:
    """Pieces, the layer of each, and per layer its bytes by version and its changed pieces by step."""

    def __init__(self, sizes, changes, layers, by_chain, seed=1):
        self.random = random.Random(seed)
        self.layers, self.by_chain, self.steps = layers, by_chain, len(next(iter(changes.values())))
        means = [sum(s[t] for s in sizes.values()) / layers for t in range(self.steps + 1)]
        self.caps = [BALANCE * mean for mean in means]
        self.pieces = []
        for name in sorted(sizes):
            n = max(1, math.ceil(max(s / c for s, c in zip(sizes[name], self.caps)) * 1.05))
            self.pieces += [([s / n for s in sizes[name]], changes[name])] * n
        self.sizes = [size for size, _ in self.pieces]
        self.changes = [change for _, change in self.pieces]
        self.rates = [sum(change) / self.steps for change in self.changes]

    def start(self):
        """Balanced layers of pieces that change in like steps."""
        order = sorted(range(len(self.pieces)), key=lambda i: (self.rates[i], self.changes[i]))
        total, before, self.at = sum(s[0] for s in self.sizes), 0, [0] * len(order)
        for i in order:
            self.at[i] = min(int((before + self.sizes[i][0] / 2) / total * self.layers), self.layers - 1)
            before += self.sizes[i][0]
        self.held = [[0.0] * (self.steps + 1) for _ in range(self.layers)]
        self.count = [[0] * self.steps for _ in range(self.layers)]
        self.steady = [0.0] * self.layers
        for i, layer in enumerate(self.at):
            self.put(i, layer, 1)

    def put(self, i, layer, sign):
        for t, size in enumerate(self.sizes[i]):
            self.held[layer][t] += sign * size
        for t, change in enumerate(self.changes[i]):
            self.count[layer][t] += sign * change
        self.steady[layer] += sign * math.log(max(1 - self.rates[i], 0.01))

    def cost(self, rates):
        """Bytes downloaded, and bytes above the caps as a fine."""
        fine = sum(max(h - c, 0) for held in self.held for h, c in zip(held, self.caps))
        total = 0
        if rates:
            kept = 0
            for held, steady in zip(self.held, self.steady):
                kept = kept + steady if self.by_chain else steady
                total += sum(held[1:]) * (1 - math.exp(min(kept, 0)))
            return total + 20 * fine
        for t in range(self.steps):
            broken = False
            for held, count in zip(self.held, self.count):
                broken = count[t] > 0 or (self.by_chain and broken)
                total += broken * held[t + 1]
        return total + 20 * fine

    def run(self, rates):
        self.start()
        now = best = self.cost(rates)
        kept = list(self.at)
        hot = now / 20
        for move in range(MOVES):
            heat = hot * (1e-4 ** (move / MOVES))
            i, to = self.random.randrange(len(self.at)), self.random.randrange(self.layers)
            moved = [(i, self.at[i], to)]
            if self.random.random() < 0.3:
                j = self.random.randrange(len(self.at))
                moved = [(i, self.at[i], self.at[j]), (j, self.at[j], self.at[i])]
            if i == moved[-1][0] and len(moved) > 1 or moved[0][1] == moved[0][2]:
                continue
            for k, before, after in moved:
                self.put(k, before, -1)
                self.put(k, after, 1)
                self.at[k] = after
            new = self.cost(rates)
            if new <= now or self.random.random() < math.exp((now - new) / heat):
                now = new
                if new < best:
                    best, kept = new, list(self.at)
            else:
                for k, before, after in moved:
                    self.put(k, after, -1)
                    self.put(k, before, 1)
                    self.at[k] = before
        for i, layer in enumerate(kept):
            if self.at[i] != layer:
                self.put(i, self.at[i], -1)
                self.put(i, layer, 1)
                self.at[i] = layer
        return self.cost(False)


def main(images):
    with tempfile.TemporaryDirectory() as work:
        stable = [f"{work}/{at}.tar" for at in range(len(images))]
        for image, tar in zip(images, stable):
            relayer("split", "-q", image, "-o", tar, "--mtime", "stable")
        floors = sum(floor(old, new, work) for old, new in zip(images, images[1:]))
        sizes, changes = read(stable)
    whole = sum(s for n in sizes for s, c in zip(sizes[n][1:], changes[n]) if c)
    print(f"Changed components: {whole / floors:.2f} × the floor of {floors / 1e6:.0f} MB.\n")
    print("| layers | hindsight: by digest | by chain ID | rates: by digest | by chain ID |")
    print("|--:|--:|--:|--:|--:|")
    for target in map(int, TARGETS):
        best = [
            Search(sizes, changes, target, by_chain).run(rates) / floors
            for rates in (False, True) for by_chain in (False, True)
        ]
        print(f"| {target} | " + " | ".join(f"{b:.2f}" for b in best) + " |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1:])
