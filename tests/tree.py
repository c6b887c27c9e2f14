"""Lists a folder as a client would see it: one entry a path with everything that counts."""
import hashlib, os, stat


def tree(root):
    """{path: tuple}; the members of a hard-link group have its first path in common."""
    root = os.fsencode(root)
    found, inodes = {}, {}
    todo = [b"."]
    while todo:
        path = todo.pop()
        full = os.path.join(root, path)
        s = os.lstat(full)
        kind = stat.S_IFMT(s.st_mode)
        size = content = target = device = None
        if stat.S_ISREG(s.st_mode):
            size = s.st_size
            h = hashlib.sha256()
            with open(full, "rb") as f:
                while block := f.read(1 << 20):
                    h.update(block)
            content = h.hexdigest()
        elif stat.S_ISLNK(s.st_mode):
            target = os.readlink(full)
        elif stat.S_ISBLK(s.st_mode) or stat.S_ISCHR(s.st_mode):
            device = s.st_rdev
        xattrs = tuple(sorted(
            (name, os.getxattr(full, name, follow_symlinks=False))
            for name in os.listxattr(full, follow_symlinks=False)))
        if stat.S_ISDIR(s.st_mode):
            todo += [os.path.join(path, name) for name in os.listdir(full)]
        elif s.st_nlink > 1:
            inodes.setdefault(s.st_ino, []).append(path)
        found[path] = [kind, stat.S_IMODE(s.st_mode), s.st_uid, s.st_gid, size, content,
                       s.st_mtime_ns, xattrs, target, device, None]
    for group in inodes.values():
        for path in group:
            found[path][10] = min(group)
    return found


def carried(old, new):
    """What an update makes of `new` on top of `old`: an entry that is the same but for its time
    keeps the old one, hard links only if the group is the same."""
    def groups(tree):
        found = {}
        for path, entry in tree.items():
            if entry[10] is not None:
                found.setdefault(entry[10], []).append(path)
        return {path: sorted(members) for members in found.values() for path in members}
    old_groups, new_groups = groups(old), groups(new)
    out = {}
    for path, entry in new.items():
        before = old.get(path)
        same = before is not None and all(i == 6 or x == y for i, (x, y) in enumerate(zip(before, entry)))
        if same and old_groups.get(path) == new_groups.get(path):
            entry = before
        out[path] = entry
    return out


NAMES = ["type", "mode", "uid", "gid", "size", "content", "mtime", "xattrs", "target", "device",
         "hard links"]


def differences(a, b, ignore_root=True):
    """Lines that say where two trees differ. The root's own attributes are those of the
    temporary folder unless a layer has an entry for it, so they are left out by default."""
    out = []
    for path in sorted(a.keys() | b.keys()):
        if ignore_root and path == b".":
            continue
        if path not in a or path not in b:
            out.append(f"{path!r} only in the {'first' if path in a else 'second'}")
            continue
        for name, x, y in zip(NAMES, a[path], b[path]):
            if x != y:
                out.append(f"{path!r} {name}: {x!r} / {y!r}")
    return out


if __name__ == "__main__":
    import sys
    lines = differences(tree(sys.argv[1]), tree(sys.argv[2]))
    print("\n".join(lines[:40]))
    sys.exit(1 if lines else 0)
