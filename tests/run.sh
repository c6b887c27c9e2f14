#!/bin/bash
# Installs what the tests need on Debian or Ubuntu, and runs all of them. Root is needed for
# mounts and servers that tests start; without it, sudo is used.
set -euo pipefail
cd "$(dirname "$0")/.."
as_root=; [ "$(id -u)" = 0 ] || as_root="sudo --preserve-env=PATH,CARGO_HOME,RUSTUP_HOME,HOME"
need=(libclang-dev g++ openssl umoci skopeo podman buildah mmdebstrap crun docker.io docker-registry containerd runc fuse-overlayfs uidmap iptables
  busybox-static golang-go zstd gzip xz-utils pigz tar python3 strace gcc binutils util-linux chromium default-jdk-headless)
missing=(); for p in "${need[@]}"; do
  dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q '^install ok' || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
  $as_root apt-get update -qq
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
cargo fmt --check
cargo clippy --quiet --all-targets -- -D warnings
cargo clippy --quiet --all-targets --features store -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --features store
if command -v cargo-deny >/dev/null; then
  cargo fetch --quiet --locked
  cargo deny --offline check licenses bans sources
fi
# What is published: all that its documents name, and nothing that only a clone can use.
cargo package --quiet --offline --no-verify --allow-dirty
packed=$(cargo package --quiet --offline --allow-dirty --list)
for file in src/lib.rs src/main.rs README.md CHANGELOG.md CONTRIBUTING.md LICENSE docs/ARCHITECTURE.md \
  docs/report.png examples/split.rs; do
  grep -qx "$file" <<<"$packed" || { echo "$file is not packed" >&2; exit 1; }
done
if grep -E '^(tests|benches|fuzz|\.ci)/' <<<"$packed"; then echo "these are packed" >&2; exit 1; fi
cargo test --no-run --features store
$as_root env "PATH=$PATH" RELAYER_TEST_TOOLS=1 cargo test --features store
# A real image, made on the spot, through every form and codec, judged by umoci.
image=$(mktemp -d -p /var/tmp); trap '$as_root rm -rf "$image"' EXIT
mkdir "$image/demo"
tests/make-image.sh "$image/demo/1.docker.tar"
cargo build --quiet --release
$as_root env TMPDIR="$image" TARGETS="1 8" tests/corpus.py "$image" demo/1
mkdir "$image/installed"
$as_root env "PATH=$PATH" tests/deb.sh "$image/demo/1.docker.tar" "$image/installed"
# Some rebases, judged by builds on the new base.
$as_root env TMPDIR="$image" tests/rebase.py --triples 12 --bases 2
# Some of the kills, faults, full disks and meetings of writers that it knows.
$as_root tests/faults.py --seconds 100
