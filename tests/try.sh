#!/bin/bash
# Builds relayer and splits a real image, made on the spot from packages of this Debian or Ubuntu.
# What is missing for that (a C compiler, python3, apt's lists) is installed, with sudo unless root.
set -euo pipefail
cd "$(dirname "$0")/.."
as_root=; [ "$(id -u)" = 0 ] || as_root=sudo
apt-cache show git >/dev/null 2>&1 || $as_root apt-get update -qq
missing=(); for p in gcc libc6-dev python3; do
  dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q '^install ok' || missing+=("$p")
done
[ ${#missing[@]} = 0 ] || $as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
cargo build --release
image=${1:-demo.tar}
[ -e "$image" ] || tests/make-image.sh "$image"
target/release/relayer split --target 8 --force "$image"
target/release/relayer verify "$image" "${image%.tar}.relayer.tar"
