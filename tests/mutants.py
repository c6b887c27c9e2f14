#!/usr/bin/env python3
"""Makes deliberate faults in relayer, one at a time, and says which of them the tests do not notice.

    tests/mutants.py [NAME ...]

All faults below (or those whose names begin with NAME) go into one copy of the tree, each behind a
switch, so that it is built once, in target/mutants. First every test must pass with all switches
off; then each fault is switched on, and its test must fail. The status is 1 if one survives.
"""
import json, os, shutil, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODEL = "it model::every_output"
# A fault: its name, file, text, and what stands there instead, where MUTANT is true when the fault
# is switched on; and the test that must notice.
FAULTS = [
    ("flatten: an opaque marker takes its folder away", "src/layers/tree.rs",
     "ChangeKind::Opaque => false,", "ChangeKind::Opaque => MUTANT,", MODEL),
    ("flatten: a whiteout hides what its own layer has put", "src/layers/tree.rs",
     "ChangeKind::Whiteout | ChangeKind::Opaque => Ok(())",
     "ChangeKind::Whiteout if MUTANT => self.whiteout(&path, true, &|_| false),\n"
     "ChangeKind::Whiteout | ChangeKind::Opaque => Ok(())", MODEL),
    ("flatten: a folder upon a folder loses its children", "src/layers/tree.rs",
     "let keep = matches!", "let keep = !MUTANT && matches!", MODEL),
    ("flatten: what lay below a replaced folder stays", "src/layers/tree.rs",
     "if !keep {", "if !keep && !MUTANT {", MODEL),
    ("layer: a hard link's mode is not applied", "src/layers/changeset.rs",
     "(inode.mode, inode.mtime) = (like.mode, like.mtime);", "if !MUTANT { inode.mode = like.mode; }\ninode.mtime = like.mtime;", MODEL),
    ("layer: a hard link's header takes attributes away", "src/layers/changeset.rs",
     "inode.xattrs.take()", "inode.xattrs.take().filter(|_| !MUTANT)", MODEL),
    ("layer: a capability survives another owner", "src/layers/changeset.rs",
     "if owner != (inode.uid, inode.gid) {", "if owner != (inode.uid, inode.gid) && !MUTANT {", MODEL),
    ("layer: attributes of storage drivers are content", "src/layers/driver.rs",
     "if !is_driver_attribute(name) {", "if !is_driver_attribute(name) || MUTANT {", MODEL),
    ("flatten: a hard link is a copy", "src/layers/tree.rs",
     "self.made_in[id.index()] = self.layer;",
     "let id = if MUTANT { let copy = self.inodes[id.index()].clone(); self.add(copy) } else { id };\n"
     "self.made_in[id.index()] = self.layer;", MODEL),
    ("flatten: an absolute symlink is followed from where it lies", "src/layers/tree.rs",
     "done.clear();", "if !MUTANT { done.clear(); }", MODEL),
    ("flatten: a symlink's .. goes nowhere", "src/layers/tree.rs",
     "done.truncate(parent(&done).unwrap_or_default().len());",
     "if !MUTANT { done.truncate(parent(&done).unwrap_or_default().len()); }", MODEL),
    ("flatten: a folder without an entry has another mode", "src/layers/tree.rs",
     "mode: 0o755, uid: 0", "mode: if MUTANT { 0o700 } else { 0o755 }, uid: 0", MODEL),
    ("tar: the header's path wins over PAX", "src/format/tar/read.rs",
     ".or(pax.path)", ".or(pax.path.filter(|_| !MUTANT))", MODEL),
    ("tar: the header's time wins over PAX", "src/format/tar/read.rs",
     "mtime: pax.mtime", "mtime: pax.mtime.filter(|_| !MUTANT)", MODEL),
    ("tar: the header's size wins over PAX", "src/format/tar/read.rs",
     "let size = pax.size", "let size = pax.size.filter(|_| !MUTANT)", MODEL),
    ("tar: base 256 has no sign", "src/format/tar/number.rs",
     "let negative = first & 0x40 != 0;", "let negative = first & 0x40 != 0 && !MUTANT;", MODEL),
    ("tar: a sparse file's map ends with the second block", "src/format/tar/sparse.rs",
     "Ok(extension.isextended[0] != 0)", "Ok(extension.isextended[0] != 0 && !MUTANT)", MODEL),
    ("tar: a fraction before 1970 counts forwards", "src/format/tar/pax.rs",
     "secs.checked_sub(1)", "secs.checked_sub(i64::from(!MUTANT))", MODEL),
    ("tar: nanoseconds are not written", "src/format/tar/write.rs",
     "m.mtime.nanos > 0", "(m.mtime.nanos > 0 && !MUTANT)", MODEL),
    ("tar: a name of 101 bytes is cut off", "src/format/tar/write.rs",
     "path.len() <= 100", "path.len() <= 100 + usize::from(MUTANT)", MODEL),
    ("layer: an opaque marker is a whiteout", "src/layers/names.rs",
     "kind: ChangeKind::Opaque }",
     "kind: if MUTANT { ChangeKind::Whiteout } else { ChangeKind::Opaque } }", MODEL),
    ("encode: hard links are files", "src/layers/encode.rs",
     "(first.path != entry.path)", "(first.path != entry.path && !MUTANT)", MODEL),
    ("encode: parents have the usual mode", "src/layers/encode.rs",
     "mode: inode.mode,",
     "mode: if MUTANT && matches!(inode.kind, InodeKind::Dir) { 0o755 } else { inode.mode },", MODEL),
    ("encode: whiteouts stand at the end", "src/layers/encode.rs",
     "m.as_slice() < &*entry.path", "!MUTANT && m.as_slice() < &*entry.path", MODEL),
    ("plan: parents are left out", "src/plan/place.rs",
     "entries.push(dir as u32);", "if !MUTANT { entries.push(dir as u32); }", MODEL),
    ("plan: the order is that of the sequence", "src/plan/place.rs",
     "layer.entries.sort_unstable();", "if !MUTANT { layer.entries.sort_unstable(); }", MODEL),
    ("update: what went stays", "src/plan/update/remainder.rs",
     "new.position(&e.path).is_none()", "!MUTANT && new.position(&e.path).is_none()", MODEL),
    ("update: a hard link of two kept files is no difference", "src/plan/update/remainder.rs",
     "*counterpart.get_or_insert(at) == at", "(*counterpart.get_or_insert(at) == at || MUTANT)",
     "lib update::remainder::"),
    ("update: times are carried over where the mode changed", "src/plan/update/carry_over.rs",
     "now.same_metadata(counterpart)",
     "(MUTANT || now.same_metadata(counterpart))", MODEL),
    ("update: times are carried over where a hard-link group changed", "src/plan/update/carry_over.rs",
     "old_counts[id.index()] as usize == names.len()",
     "MUTANT || old_counts[id.index()] as usize == names.len()", MODEL),
    ("update: dead bytes cost nothing", "src/plan/update/choose.rs",
     "self.beta * cost.dead", "f64::from(u8::from(!MUTANT)) * self.beta * cost.dead",
     "lib update::choose::"),
    ("update: an upper layer is kept whatever changed below", "src/plan/update/choose.rs",
     "if i >= prefix {", "if i >= prefix && !MUTANT {", "lib update::choose::"),
    ("mtime: a clamp sets all times", "src/model/mtime.rs",
     "inode.mtime.min(latest)", "(if MUTANT { latest } else { inode.mtime.min(latest) })", MODEL),
    ("mtime: a package's file keeps the time of its change", "src/model/mtime.rs",
     "|installed| inode.mtime < installed", "|installed| inode.mtime < installed || MUTANT",
     "lib recorded_times::tests::stable"),
    ("mtime: what must not be older keeps the time of the build", "src/plan/recorded_times/relations.rs",
     "raised && self.staleness_stays(compiled, source)",
     "raised && !MUTANT && self.staleness_stays(compiled, source)",
     "lib recorded_times::tests::stable"),
    ("mtime: records of installations get a time by content", "src/plan/recorded_times/rule.rs",
     "(*time).max(next_second(inode.mtime))",
     "if MUTANT { *time } else { (*time).max(next_second(inode.mtime)) }",
     "lib recorded_times::tests::stable"),
    ("base: times of its files are changed", "src/plan/recorded_times/rule.rs",
     "if is_fixed(id) { inode.mtime }", "if is_fixed(id) && !MUTANT { inode.mtime }", "it base::"),
    ("edit: an unchanged document is written anew", "src/edit/documents.rs",
     "if old != new {", "if old != new || MUTANT {", "it edit::"),
    ("edit: an attestation of the old image stays", "src/edit/documents.rs",
     "is_attestation(&d) && gone;", "is_attestation(&d) && gone && !MUTANT;", "it edit::"),
    ("documents: new layers have no line of history", "src/split/assemble.rs",
     "history.push(HistoryEntry {", "if MUTANT { continue; }\nhistory.push(HistoryEntry {", MODEL),
    ("documents: old lines of history are dropped", "src/split/assemble.rs",
     ".with_layers(&diff_ids, &history)",
     ".with_layers(&diff_ids, if MUTANT { &history[..0] } else { &history })", MODEL),
    ("transport: what is written is not verified", "src/transport/bundle.rs",
     "if found != *digest {", "if found != *digest && !MUTANT {", "it changed::"),
    ("delta: a step is counted from the wrong place", "src/delta/ops.rs",
     "self.end = (offset + bytes).cast_signed();",
     "self.end = (offset + bytes + u64::from(MUTANT)).cast_signed();", "lib delta::ops::"),
    ("delta: what is in it is not verified", "src/delta/mod.rs",
     "!= blob.hash {", "!= blob.hash && !MUTANT {", "it delta::"),
    ("codec: the size at the end of gzip is wrong", "src/format/codec/gzip.rs",
     "self.crc.amount()", "(self.crc.amount() + u32::from(MUTANT))", MODEL),
    ("codec: skippable frames are counted as content", "src/format/codec/zstd_headers.rs",
     "found.skippable += 1;", "if MUTANT { found.content += 1; } else { found.skippable += 1; }",
     "lib codec::zstd_headers::"),
    ("secrets: one public name makes all names public", "src/secrets/mod.rs",
     "item.names.iter().all(", "item.names.iter().filter(|_| !MUTANT).all(", "it inspect::"),
    ("registry: the digest of a download is not verified", "src/transport/registry/download.rs",
     "if found == blob.digest {", "if MUTANT || found == blob.digest {", "it registry_client::cache::"),
    ("registry: a blob of the cache is not verified", "src/transport/registry/cache.rs",
     "|| !has_digest(&mut file, digest).ok()?", "|| !(MUTANT || has_digest(&mut file, digest).ok()?)",
     "it registry_client::cache::"),
    ("registry: authorization goes along a redirect", "src/transport/registry/client.rs",
     "let own = url::is_same_origin(&self.base, url);", "let own = MUTANT || url::is_same_origin(&self.base, url);",
     "it registry_client::table::"),
    ("registry: a download goes on at the wrong place", "src/transport/registry/pieces.rs",
     "Some((self.have(i), self.end(i)))", "Some((self.have(i) + u64::from(MUTANT && self.got[i] > 1), self.end(i)))",
     "it registry_client::faults::"),
    ("registry: the tag is set before the blobs are there", "src/transport/registry/push.rs",
     "self.wait(progress)?;", "if !MUTANT { self.wait(progress)?; }", "it registry_client::table::"),
    ("registry: nobody waits as long as a registry asks", "src/transport/registry/retry.rs",
     "asked.map_or(delay", "asked.filter(|_| !MUTANT).map_or(delay", "it registry_client::patience::"),
    ("registry: a mount that is refused is a mount", "src/transport/registry/upload.rs",
     "                201 => {\n", "                status if status == 201 || (MUTANT && status == 202) => {\n",
     "it registry_client::table::"),
    ("registry: the range that a registry tells is believed", "src/transport/registry/upload.rs",
     "(offset, attempt, unsure) = (end, 0, false);",
     "let told = answer.header(\"range\").and_then(|r| r.rsplit_once('-')?.1.parse::<u64>().ok());\n"
     "(offset, attempt, unsure) = (told.filter(|_| MUTANT).map_or(end, |last| last + 1), 0, false);", "it registry_client::golden::"),
    ("registry: attempts have no limit", "src/transport/registry/retry.rs",
     "attempt + 1 < self.attempts", "MUTANT || attempt + 1 < self.attempts", "it registry_client::patience::"),
    ("registry: a token that was refused is used again", "src/transport/registry/auth.rs",
     "tokens.remove(&key);", "if !MUTANT { tokens.remove(&key); }", "it registry_client::patience::"),
    ("registry: a repeated upload begins with what may be there", "src/transport/registry/upload.rs",
     "(there, there == 0),", "(if MUTANT { end } else { there }, there == 0),",
     "it registry_client::patience::"),
    ("registry: tokens are asked for at internal addresses", "src/transport/registry/auth.rs",
     "&& !self.internal {", "&& !self.internal && !MUTANT {", "lib registry::client::"),
]
SWITCH = """//! Which fault is switched on.
pub(crate) fn on(n: u32) -> bool {
    static ON: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *ON.get_or_init(|| std::env::var("MUTANT").map_or(0, |n| n.parse().unwrap_or(0))) == n
}
"""


def copy_with(faults, tree):
    """The tree with all faults in it; each text must be found once."""
    shutil.copytree(HERE, tree, ignore=shutil.ignore_patterns("target", ".git", "fuzz"))
    for n, (name, path, old, new, _) in faults:
        with open(f"{tree}/{path}") as f:
            text = f.read()
        code, tests = text.split("#[cfg(test)]", 1) if "#[cfg(test)]" in text else (text, None)
        if code.count(old) != 1:
            sys.exit(f"{name}: {old!r} is {code.count(old)} times in {path}; the table needs care")
        code = code.replace(old, new.replace("MUTANT", f"crate::mutants::on({n})"))
        with open(f"{tree}/{path}", "w") as f:
            f.write(code if tests is None else code + "#[cfg(test)]" + tests)
    with open(f"{tree}/src/mutants.rs", "w") as f:
        f.write(SWITCH)
    with open(f"{tree}/src/lib.rs", "a") as f:
        f.write("\nmod mutants;\n")


def build(tree):
    """The test programs, by the first word of a test."""
    command = ["cargo", "test", "--quiet", "--no-run", "--lib", "--test", "it", "--message-format=json"]
    target = f"{HERE}/target/mutants"
    if not os.path.exists(target) and os.path.exists(f"{HERE}/target/debug"):
        # Dependencies are the same: they need not be built again.
        os.makedirs(f"{target}/debug")
        for part in ["deps", "build", ".fingerprint"]:
            subprocess.run(["cp", "-al", f"{HERE}/target/debug/{part}", f"{target}/debug/"], check=True)
    env = {**os.environ, "CARGO_TARGET_DIR": target}
    out = subprocess.run(command, cwd=tree, env=env, stdout=subprocess.PIPE, check=True).stdout
    programs = {}
    for line in out.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["profile"]["test"]:
            programs["it" if message["target"]["name"] == "it" else "lib"] = message["executable"]
    return programs


def fails(programs, tree, test, n):
    program, name = test.split()
    env = {**os.environ, "MUTANT": str(n), "RELAYER_TEST_TOOLS": "1", "RELAYER_SEED": "1", "RELAYER_STACKS": "600", "RUST_BACKTRACE": "0"}
    command = [programs[program], name]
    try:
        done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        return True
    if "running 0 tests" in done.stdout:
        sys.exit(f"{test}: there is no such test")
    return done.returncode != 0


def main():
    wanted = tuple(sys.argv[1:])
    faults = [(n, f) for n, f in enumerate(FAULTS, 1) if not wanted or f[0].startswith(wanted)]
    with tempfile.TemporaryDirectory(prefix="relayer-mutants-") as work:
        tree = f"{work}/tree"
        copy_with(faults, tree)
        programs = build(tree)
        for test in sorted({f[4] for _, f in faults}):
            if fails(programs, tree, test, 0):
                sys.exit(f"{test} fails without any fault")
        alive = 0
        for n, (name, _, _, _, test) in faults:
            caught = fails(programs, tree, test, n)
            alive += not caught
            print(f"{'caught  ' if caught else 'SURVIVED'}  {name}  ({test})", flush=True)
    print(f"{len(faults)} faults, {alive} survived")
    sys.exit(bool(alive))


if __name__ == "__main__":
    main()
