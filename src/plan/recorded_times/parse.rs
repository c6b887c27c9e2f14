//! Formats that need more than a search for numbers.

use std::io::Read;

use super::relations::Relations;
use crate::base::error::Result;
use crate::base::limits::{MAX_LISP_SOURCES, MAX_TIMES_LOG, MAX_TIMES_TEXT};
use crate::model::fileset::{Entry, base_name, join, parent, parts};
use crate::model::index::InodeId;
use crate::plan::analyze;

/// `…-le64.cache-9`
pub(super) fn is_font_cache(name: &[u8]) -> bool {
    let end = name.iter().rposition(|b| !b.is_ascii_digit()).map_or(0, |at| at + 1);
    end < name.len() && name[..end].ends_with(b".cache-")
}

/// A cache records the path of its folder and the low 32 bits of the folder's time. The file is a
/// memory image: magic, version, size, offset of the folder's name, …, time, nanoseconds.
pub(super) fn font_cache(r: &mut Relations<'_>, e: &Entry, by: &'static str) -> Result<()> {
    let head = r.head(e, 64 << 10)?;
    let found = |big: bool, word: usize| {
        let number = |at: usize, len: usize| -> Option<usize> {
            let bytes = head.get(at..at.checked_add(len)?)?.iter();
            let fold = |n: usize, b: &u8| n << 8 | usize::from(*b);
            Some(if big { bytes.fold(0, fold) } else { bytes.rev().fold(0, fold) })
        };
        // FC_CACHE_MAGIC_MMAP, FC_CACHE_MAGIC_ALLOC
        let magic = number(0, 4).filter(|m| matches!(m, 0xFC02_FC04 | 0xFC02_FC05));
        let name = head.get(number(8 + word, word)?..).filter(|_| magic.is_some())?;
        let name = name.split(|b| *b == 0).next().filter(|name| name.starts_with(b"/"))?;
        // Three more fields, of which the middle one is an int.
        let time = if word == 8 { 48 } else { 28 };
        Some((parts(name).collect::<Vec<_>>().join(&b'/'), number(time, 4)? as u32))
    };
    let all = [(false, 8), (true, 8), (false, 4), (true, 4)];
    match all.into_iter().find_map(|(big, word)| found(big, word)) {
        Some((dir, secs)) => {
            if let Some(dir) = r.lookup(&dir) {
                r.hold_if_equal(dir, secs, by);
            }
        }
        // An unknown layout may be of any folder of fonts.
        None => {
            for dir in [&b"usr/share/fonts"[..], b"usr/local/share/fonts"] {
                r.hold_below(dir, by);
            }
        }
    }
    Ok(())
}

/// `CACHE/<system ID of 32 digits>/path/of/x.php.bin` is the cache of `path/of/x.php`.
pub(super) fn cached_script(path: &[u8]) -> Option<Vec<u8>> {
    let all: Vec<&[u8]> = path.strip_suffix(b".bin")?.split(|b| *b == b'/').collect();
    let id = |part: &&[u8]| part.len() == 32 && part.iter().all(u8::is_ascii_hexdigit);
    let at = all.iter().position(id)?;
    Some(all[at + 1..].join(&b'/')).filter(|script| !script.is_empty())
}

/// Magic, system ID, three sizes and the time. Sizes and time have 64 or 32 bits.
pub(super) fn opcache(r: &mut Relations<'_>, e: &Entry, by: &'static str) -> Result<()> {
    let head = r.head(e, 80)?;
    let script = cached_script(&e.path).and_then(|script| r.lookup(&script));
    let (Some(script), true) = (script, head.starts_with(b"OPCACHE")) else { return Ok(()) };
    let long = head.get(64..).and_then(|b| b.first_chunk::<8>()).copied().unwrap_or_default();
    let short = head.get(52..).and_then(|b| b.first_chunk::<4>()).copied().unwrap_or_default();
    let long = [u64::from_le_bytes(long), u64::from_be_bytes(long)];
    let long = long.into_iter().filter_map(|n| u32::try_from(n).ok());
    for secs in long.chain([u32::from_le_bytes(short), u32::from_be_bytes(short)]) {
        if secs != 0 {
            r.hold_if_equal(script, secs, by);
        }
    }
    Ok(())
}

/// The last line is `/**PATH /app/resources/views/x.blade.php ENDPATH**/`.
pub(super) fn blade_view(r: &mut Relations<'_>, e: &Entry, by: &'static str) -> Result<()> {
    let text = r.head(e, MAX_TIMES_TEXT)?;
    let from = find_last(&text, b"/**PATH ").map(|at| at + 8);
    let path =
        from.and_then(|from| Some(&text[from..from + find_last(&text[from..], b" ENDPATH")?]));
    if let Some(view) = path.and_then(|path| r.lookup(&parts(path).collect::<Vec<_>>().join(&b'/')))
    {
        // Laravel also counts equal times as stale.
        r.keep_order(vec![e.inode, view], by);
    }
    Ok(())
}

fn find_last(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).rposition(|w| w == part)
}

/// Whether `path` is the file `name` of rpm's database.
pub(super) fn is_rpm(path: &[u8], name: &[u8]) -> bool {
    base_name(path) == name
        && parent(path)
            .is_some_and(|dir| analyze::RPM_FOLDERS.iter().any(|folder| folder.as_bytes() == dir))
}

/// `rpm -V` compares times of regular files.
pub(super) fn rpm(r: &mut Relations<'_>, e: &Entry, by: &'static str) {
    let folder = parent(&e.path).unwrap_or_default();
    let Ok(times) = analyze::rpm_times(r.rootfs, &String::from_utf8_lossy(folder)) else {
        // The recorded times are unknown, so no file's time changes.
        let files = r.files().entries().iter().filter(|e| r.file(e).is_some());
        let files: Vec<_> = files.map(|e| e.inode).collect();
        r.hold_all(files, by);
        return;
    };
    for (path, secs) in times {
        hold_recorded(r, &path, secs, by);
    }
}

/// Handles a time that a package database records for a path.
fn hold_recorded(r: &mut Relations<'_>, path: &[u8], secs: u32, by: &'static str) {
    let path: Vec<&[u8]> = parts(path).collect();
    if let Some(id) = r.lookup_no_follow(&path.join(&b'/')) {
        r.hold_if_equal(id, secs, by);
    }
}

/// `./usr/bin/x time=1700000000.0 size=…`, compressed with gzip.
pub(super) fn mtree(r: &mut Relations<'_>, e: &Entry, by: &'static str) -> Result<()> {
    let packed = r.head(e, MAX_TIMES_TEXT)?;
    let mut text = Vec::new();
    // A damaged file is read up to the damage. pacman can't read it either.
    let _ =
        flate2::read::MultiGzDecoder::new(&packed[..]).take(MAX_TIMES_LOG).read_to_end(&mut text);
    r.count_text(text.len());
    let time = |words: &[&[u8]]| -> Option<u32> {
        let time = words.iter().find_map(|w| w.strip_prefix(b"time="))?;
        let whole = time.split(|b| *b == b'.').next()?;
        std::str::from_utf8(whole).ok()?.parse().ok()
    };
    let mut default = None;
    for line in text.split(|b| *b == b'\n') {
        let words: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
        if words[0] == b"/set" {
            default = time(&words).or(default);
        } else if words[0].starts_with(b".")
            && let Some(secs) = time(&words).or(default)
        {
            hold_recorded(r, &unescape(words[0]), secs, by);
        }
    }
    Ok(())
}

/// Decodes escapes like `\040`.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut at = 0;
    while let Some(byte) = name.get(at) {
        let octal = name.get(at + 1..at + 4).filter(|_| *byte == b'\\');
        let octal = octal.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        out.push(octal.unwrap_or(*byte));
        at += if octal.is_some() { 4 } else { 1 };
    }
    out
}

/// ccache's keys are hashes that include the compiler's time.
pub(super) fn ccache(r: &mut Relations<'_>, _: &Entry, by: &'static str) {
    if !r.is_first("ccache", b"") {
        return;
    }
    let compiler = |e: &&Entry| {
        let name = base_name(&e.path);
        let names = [&b"gcc"[..], b"g++", b"clang", b"c++", b"nvcc"];
        let is = name == b"cc" || names.iter().any(|n| name.windows(n.len()).any(|w| w == *n));
        is && parent(&e.path).is_some_and(|dir| base_name(dir) == b"bin")
    };
    let all: Vec<_> = r.files().entries().iter().filter(compiler).map(|e| e.inode).collect();
    r.hold_all(all, by);
}

/// The keys are hashes of names, times and sizes in the standard library's folders.
pub(super) fn go_cache(r: &mut Relations<'_>, _: &Entry, by: &'static str) {
    if !r.is_first("Go", b"") {
        return;
    }
    let known = |e: &&Entry| e.path.ends_with(b"/src/runtime/runtime2.go");
    for entry in r.files().entries().iter().filter(known) {
        let source = parent(&entry.path).and_then(parent).unwrap_or_default();
        r.hold_below(source, by);
    }
}

/// ninja's log records the times of its outputs, and ninja compares them with the times of the files
/// in its dependency log. Both sorts of files keep their times.
pub(super) fn ninja(r: &mut Relations<'_>, e: &Entry, by: &'static str) -> Result<()> {
    let dir = parent(&e.path).unwrap_or_default();
    r.hold_below(dir, by);
    let files = r.files();
    let Some(deps) = files.position(&join(dir, b".ninja_deps")) else {
        // Sources are usually in the parent folder.
        if let Some(up) = parent(dir).filter(|up| !up.is_empty()) {
            r.hold_below(up, by);
        }
        return Ok(());
    };
    let log = r.head(&files.entries()[deps], MAX_TIMES_LOG)?;
    let Some(mut rest) = log.strip_prefix(b"# ninjadeps\n").and_then(|b| b.get(4..)) else {
        return Ok(());
    };
    // A record begins with its size. If the top bit of that is clear, a padded path and a checksum
    // follow.
    while let Some((size, after)) = rest.split_first_chunk::<4>() {
        let size = u32::from_le_bytes(*size);
        let Some((record, after)) = after.split_at_checked((size & 0x7FFF_FFFF) as usize) else {
            break;
        };
        rest = after;
        let Some(path) = record.get(..record.len().saturating_sub(4)).filter(|_| size >> 31 == 0)
        else {
            continue;
        };
        let path = path.split(|b| *b == 0).next().unwrap_or_default();
        if let Some(id) = lookup_from(r, dir, path) {
            r.hold(id, by);
        }
    }
    Ok(())
}

/// Looks up a path as a process with this working directory would.
fn lookup_from(r: &Relations<'_>, dir: &[u8], path: &[u8]) -> Option<InodeId> {
    if path.is_empty() {
        return None;
    }
    let path = if path.starts_with(b"/") { path.to_vec() } else { join(dir, path) };
    r.lookup(&parts(&path).collect::<Vec<_>>().join(&b'/'))
}

pub(super) fn is_object(path: &[u8]) -> bool {
    [&b".o"[..], b".lo", b".obj"].iter().any(|s| path.ends_with(s))
}

/// make compares objects with the files beside them.
pub(super) fn objects(r: &mut Relations<'_>, e: &Entry, by: &'static str) {
    let dir = parent(&e.path).unwrap_or_default();
    if !r.is_first("objects", dir) {
        return;
    }
    let mut up = Some(dir);
    while let Some(above) = up.filter(|dir| !dir.is_empty()) {
        let made = [&b"Makefile"[..], b"makefile", b"GNUmakefile"];
        if made.iter().any(|name| r.position(&join(above, name)).is_some()) {
            let siblings = r.children(dir).filter(|c| r.file(c).is_some());
            let siblings = siblings.map(|c| c.inode).collect();
            r.keep_order(siblings, by);
            return;
        }
        up = parent(above);
    }
}

/// `target: source header …`, as compilers write it for make.
pub(super) fn dependencies(r: &mut Relations<'_>, e: &Entry, by: &'static str) -> Result<()> {
    let text = r.head(e, MAX_TIMES_TEXT)?;
    let lines = text.split(|b| *b == b'\n');
    let (mut target, mut base): (Option<InodeId>, &[u8]) = (None, b"");
    let mut continued = false;
    for line in lines {
        if r.is_exhausted() {
            break;
        }
        let mut words = line.split(|b| b" \t\r\\".contains(b)).filter(|w| !w.is_empty());
        if !continued {
            let Some(name) = words.next().and_then(|w| w.strip_suffix(b":")) else { continue };
            // The file doesn't record where make ran. Take the nearest folder in which the target
            // exists.
            let mut dir = parent(&e.path);
            target = None;
            while let (Some(at), None) = (dir, target) {
                (target, base) = (lookup_from(r, at, name), at);
                dir = parent(at);
            }
        }
        continued = line.ends_with(b"\\");
        let Some(target) = target else { continue };
        for source in words.filter_map(|w| lookup_from(r, base, w)).collect::<Vec<_>>() {
            r.keep_staleness(target, source, by);
        }
    }
    Ok(())
}

/// Emacs ignores `native-lisp/…/NAME-<hash of its path>-<hash of its content>.eln` if it is older than
/// `NAME.elc`.
pub(super) fn native_lisp(r: &mut Relations<'_>, e: &Entry, by: &'static str) {
    let name = base_name(&e.path);
    let mut dashes = name.iter().enumerate().rev().filter(|(_, b)| **b == b'-');
    let Some((end, _)) = dashes.nth(1) else { return };
    let sources = r.lisp_sources(&name[..end]);
    if sources.len() <= MAX_LISP_SOURCES {
        r.keep_staleness_all(e, by, sources);
        return;
    }
    r.hold(e.inode, by);
    if r.is_first("Lisp", &name[..end]) {
        r.hold_all(sources, by);
    }
}

/// `…/guile/3.0/ccache/ice-9/x.go` is compiled from `/usr/share/guile/3.0/ice-9/x.scm`. A user's cache
/// has the source's whole path below the version.
pub(super) fn guile(r: &mut Relations<'_>, e: &Entry, by: &'static str) {
    let all: Vec<&[u8]> = e.path.split(|b| *b == b'/').collect();
    let cache = all.iter().rposition(|p| matches!(*p, b"ccache" | b"site-ccache"));
    let Some(at) = cache.filter(|at| *at > 0 && at + 1 < all.len()) else { return };
    let rest = |from: usize| {
        let path = all[from..].join(&b'/');
        path.strip_suffix(b".go").unwrap_or_default().to_vec()
    };
    let mut sources = vec![rest(at + 2)];
    for share in [&b"usr/share/guile"[..], b"usr/local/share/guile"] {
        let version = all[at - 1];
        let module = [&rest(at + 1)[..], b".scm"].concat();
        sources.push([share, version, &module].join(&b'/'));
        sources.push([share, b"site", version, &module].join(&b'/'));
    }
    let sources: Vec<_> = sources.iter().filter_map(|path| r.lookup(path)).collect();
    r.keep_staleness_all(e, by, sources);
}

/// ASDF writes `~/.cache/common-lisp/<implementation>/path/of/x.fasl`, or `x.fasl` beside `x.lisp`.
pub(super) fn fasl(r: &mut Relations<'_>, e: &Entry, by: &'static str) {
    let Some(stem) = e.path.strip_suffix(b".fasl") else { return };
    let all: Vec<&[u8]> = stem.split(|b| *b == b'/').collect();
    let cache = all.iter().position(|p| *p == b"common-lisp").filter(|at| at + 2 < all.len());
    let stem = cache.map_or_else(|| stem.to_vec(), |at| all[at + 2..].join(&b'/'));
    let names = [&b".lisp"[..], b".lsp", b".cl"].map(|end| [&stem[..], end].concat());
    let sources: Vec<_> = names.iter().filter_map(|path| r.lookup(path)).collect();
    r.keep_staleness_all(e, by, sources);
}

/// `x.zwc` is compiled from the file `x`, or from all files in the folder `x`.
pub(super) fn zwc(r: &mut Relations<'_>, e: &Entry, by: &'static str) {
    let Some(source) = e.path.strip_suffix(b".zwc") else { return };
    let mut sources: Vec<_> = r.children(source).map(|c| c.inode).collect();
    sources.extend(r.lookup(source));
    r.keep_staleness_all(e, by, sources);
}

/// Returns the paths that a compiled file may be made from, going by its name. The file is stale if
/// one of them is newer.
pub(super) fn source_paths(path: &[u8]) -> Vec<Vec<u8>> {
    let (dir, name) = (parent(path).unwrap_or_default(), base_name(path));
    let beside = |stem: &[u8], end: &[u8]| join(dir, &[stem, end].concat());
    // Emacs with load-prefer-newer
    if let Some(stem) = name.strip_suffix(b".elc") {
        return vec![beside(stem, b".el"), beside(stem, b".el.gz")];
    }
    // javac -Xprefer:newer, its default
    if let Some(stem) = name.strip_suffix(b".class") {
        return vec![beside(stem.split(|b| *b == b'$').next().unwrap_or(stem), b".java")];
    }
    // compiled/x_rkt.zo
    if let Some(stem) = name.strip_suffix(b".zo").filter(|_| base_name(dir) == b"compiled")
        && let Some(at) = stem.iter().rposition(|b| *b == b'_')
    {
        let source = [&stem[..at], b".", &stem[at + 1..]].concat();
        return vec![join(parent(dir).unwrap_or_default(), &source)];
    }
    // Grammar3.11.2.final.0.pickle
    if name.ends_with(b".pickle")
        && let Some(stem) =
            [&b"PatternGrammar"[..], b"Grammar"].iter().find(|s| name.starts_with(s))
    {
        return vec![beside(stem, b".txt")];
    }
    if let Some(stem) = name.strip_suffix(b".bin").filter(|s| s.starts_with(b"file_contexts")) {
        return vec![beside(stem, b"")];
    }
    // postmap, makemap
    let maps = [&b".db"[..], b".cdb", b".lmdb"];
    let stem = maps.iter().find_map(|end| name.strip_suffix(*end)).filter(|s| !s.is_empty());
    stem.filter(|_| path.starts_with(b"etc/")).map(|stem| beside(stem, b"")).into_iter().collect()
}
