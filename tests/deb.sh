#!/bin/bash
# Makes the Debian package, installs it into a folder, splits an image with it, and removes it again. What it
# depends on is that of this system. Usage: tests/deb.sh IMAGE FOLDER
set -euo pipefail
image=$(realpath "$1") dir=$(realpath "$2")
cd "$(dirname "$0")/.."
command -v cargo-deb >/dev/null || cargo install --quiet --locked cargo-deb
rm -f target/debian/relayer_*.deb
.ci/deb
mkdir -p "$dir"/var/lib/dpkg/{info,updates}
touch "$dir/var/lib/dpkg/status"
in_folder() { dpkg --root="$dir" --log=/dev/null --force-depends "$@" > "$dir/log" 2>&1 || { cat "$dir/log" >&2; exit 1; }; }
in_folder --install target/debian/relayer_*.deb
in_folder --verify relayer
dpkg-deb --field target/debian/relayer_*.deb Depends | grep -q '^libc6 (>= '
"$dir/usr/bin/relayer" --version
"$dir/usr/bin/relayer" split -q "$image" -o "$dir/split.tar"
"$dir/usr/bin/relayer" verify -q "$image" "$dir/split.tar"
for name in relayer relayer-split relayer-cache-prune; do
  gzip -dc "$dir/usr/share/man/man1/$name.1.gz" | grep -q '^\.SH "*EXAMPLES'
done
bash -c ". '$dir/usr/share/bash-completion/completions/relayer' && complete -p relayer"
for file in zsh/vendor-completions/_relayer fish/vendor_completions.d/relayer.fish; do
  [ -s "$dir/usr/share/$file" ] || { echo "$file is not installed" >&2; exit 1; }
done
in_folder --purge relayer
left=$(find "$dir" -path "$dir/usr/*" ! -type d)
[ -z "$left" ] || { echo "these stay: $left" >&2; exit 1; }
