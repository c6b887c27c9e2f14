#!/bin/bash
# Builds the Dockerfile with stand-ins for its base images, which need no network: busybox instead of Alpine, and
# a cargo that copies the finished program. Prints the size of the image in bytes and what it says in a container.
# Usage: tests/dockerfile.sh RELAYER FOLDER
set -euo pipefail
relayer=$(realpath "$1") dir=$(realpath "$2")
cd "$(dirname "$0")/.."
b() { buildah --storage-driver vfs --root "$dir/root" --runroot "$dir/run" "$@"; }
strip -o "$dir/relayer" "$relayer"

base=$(b from scratch) root=$(b mount "$base")
mkdir -p "$root"/{bin,usr/bin,tmp,lib64}
chmod 1777 "$root/tmp"
cp "$(command -v busybox)" "$root/bin/busybox"
for name in sh cp mkdir id stat touch; do ln -s busybox "$root/bin/$name"; done
for name in apk strip; do printf '#!/bin/sh\n' > "$root/usr/bin/$name"; chmod +x "$root/usr/bin/$name"; done
ldd "$relayer" | grep -o '/[^ ]*' | while read -r lib; do
  mkdir -p "$root$(dirname "$lib")"; cp -L "$lib" "$root$lib"
done
b config --env PATH=/usr/bin:/bin "$base"
b umount "$base" > "$dir/log"
b commit -q "$base" localhost/base >> "$dir/log"

rust=$(b from localhost/base) root=$(b mount "$rust")
cp "$dir/relayer" "$root/usr/bin/finished"
printf '#!/bin/sh\nmkdir -p target/release\ncp /usr/bin/finished target/release/relayer\n' > "$root/usr/bin/cargo"
chmod +x "$root/usr/bin/cargo"
b umount "$rust" >> "$dir/log"
b commit -q "$rust" localhost/rust >> "$dir/log"

b build --isolation chroot --build-arg RUST=localhost/rust --build-arg BASE=localhost/base -t relayer . >> "$dir/log" 2>&1 ||
  { cat "$dir/log" >&2; exit 1; }
made=$(b from localhost/relayer)
echo "$(b inspect --type image --format '{{.OCIv1.Config.User}}' localhost/relayer)"
b run --isolation chroot "$made" sh -c 'stat -c %s /usr/bin/relayer; id -u; relayer --version; touch "$HOME/ok"'
