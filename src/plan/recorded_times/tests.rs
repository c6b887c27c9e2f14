//! For each format: files whose time it records keep that time, and others don't.

use super::*;
use crate::model::content::Contents;
use crate::model::fileset::{Entry, FileData, FileSet, parent};
use crate::model::index::{InodeId, SourceId};

mod bounds;
mod stable;

const T: i64 = 1_760_000_000;

/// A small image: the content (`None` for folders) and time of each path.
#[derive(Default)]
struct Fixture {
    items: BTreeMap<Vec<u8>, (Option<Vec<u8>>, i64)>,
}

impl Fixture {
    fn file(mut self, path: &str, data: impl AsRef<[u8]>, secs: i64) -> Self {
        self.items.insert(path.into(), (Some(data.as_ref().to_vec()), secs));
        self.folders(path)
    }

    fn dir(mut self, path: &str, secs: i64) -> Self {
        self.items.insert(path.into(), (None, secs));
        self.folders(path)
    }

    /// Adds the parent folders, with a time that stays.
    fn folders(mut self, path: &str) -> Self {
        let mut up = parent(path.as_bytes());
        while let Some(dir) = up.filter(|dir| !dir.is_empty()) {
            self.items.entry(dir.to_vec()).or_insert((None, 0));
            up = parent(dir);
        }
        self
    }

    fn build(&self) -> Rootfs {
        let (mut entries, mut inodes, mut data) = (Vec::new(), Vec::new(), Vec::new());
        for (path, (content, secs)) in &self.items {
            let kind = content.as_ref().map_or(InodeKind::Dir, |content| {
                let offset = data.len() as u64;
                data.extend_from_slice(content);
                let (size, hash) = (content.len() as u64, *blake3::hash(content).as_bytes());
                let location = Location::Span { source: SourceId::new(0), offset };
                InodeKind::File(FileData { size, hash, location })
            });
            entries.push(Entry { path: path.clone().into(), inode: InodeId::new(inodes.len()) });
            let mtime = Mtime { secs: *secs, nanos: 0 };
            inodes.push(Inode { kind, mode: 0o644, uid: 0, gid: 0, mtime, xattrs: None });
        }
        let files = FileSet::new(entries, inodes).unwrap();
        Rootfs { files, contents: Contents::new(vec![Arc::new(data)]) }
    }

    /// Applies `to` to all times. Returns the paths that got another time than that, and the counts.
    fn change(&self, to: impl Fn(i64) -> i64) -> (Vec<String>, Held) {
        let mut rootfs = self.build();
        let change = |inode: &Inode| match inode.mtime.secs {
            0 => inode.mtime,
            secs => Mtime { secs: to(secs), nanos: 0 },
        };
        let after: Vec<Mtime> = rootfs.files.inodes().iter().map(change).collect();
        let budget = Budget::new(0, None);
        let held = retime(&mut rootfs, &budget, after.clone(), None).unwrap();
        let files = rootfs.files;
        let stays = |e: &&Entry| files.inode(e).mtime != after[e.inode.index()];
        let name = |e: &Entry| String::from_utf8(e.path.to_vec()).unwrap();
        (files.entries().iter().filter(stays).map(name).collect(), held)
    }

    /// Checks that exactly these paths keep their time when all times are to become 0.
    fn holds(&self, paths: &[&str], by: &str) {
        let (got, held) = self.change(|_| 0);
        assert_eq!(got, paths, "{by}");
        assert_eq!(held.by.keys().copied().collect::<Vec<_>>(), [by]);
    }
}

/// Checks a compiled file and its source. The compiled file is stale if the source is newer.
fn staleness_stays(made: &str, of: &str, by: &str) {
    let fresh = Fixture::default().file(made, "x", T + 10).file(of, "x", T).file("z", "z", T + 5);
    // Both times become equal: still not stale.
    assert_eq!(fresh.change(|_| 0).0, Vec::<String>::new(), "{by}");
    // The order would change.
    let (mut held, why) = fresh.change(|t| T + 5 - (t - T - 5));
    held.sort();
    let mut want = [made, of];
    want.sort_unstable();
    assert_eq!((held, why.by), (want.map(str::to_owned).to_vec(), BTreeMap::from([(by, 2)])));
    // A stale file stays stale.
    let stale = Fixture::default().file(made, "x", T).file(of, "x", T + 10).file("z", "z", T + 5);
    assert_eq!(stale.change(|_| 0).0.len(), 2, "{by}");
    assert!(stale.change(|t| t - 1000).0.is_empty(), "{by}");
}

#[test]
fn compiled_files_do_not_become_stale() {
    for (made, of, by) in [
        ("a/x.elc", "a/x.el", "compiled files"),
        ("a/x.elc", "a/x.el.gz", "compiled files"),
        ("a/X$1.class", "a/X.java", "compiled files"),
        ("a/compiled/x_rkt.zo", "a/x.rkt", "compiled files"),
        ("lib2to3/Grammar3.11.2.final.0.pickle", "lib2to3/Grammar.txt", "compiled files"),
        (
            "etc/selinux/f/contexts/files/file_contexts.bin",
            "etc/selinux/f/contexts/files/file_contexts",
            "compiled files",
        ),
        ("etc/aliases.db", "etc/aliases", "compiled files"),
        ("f/x.zwc", "f/x", "zsh's compiled files"),
        ("f.zwc", "f/x", "zsh's compiled files"),
        ("a/x.fasl", "a/x.lisp", "Lisp's compiled files"),
        ("root/.cache/common-lisp/sbcl-2/srv/x.fasl", "srv/x.lisp", "Lisp's compiled files"),
        (
            "usr/lib/x/guile/3.0/ccache/ice-9/x.go",
            "usr/share/guile/3.0/ice-9/x.scm",
            "Guile's compiled files",
        ),
        (
            "root/.cache/guile/ccache/3.0-LE-8-4.6/srv/x.scm.go",
            "srv/x.scm",
            "Guile's compiled files",
        ),
        (
            "usr/lib/emacs/30.1/native-lisp/30.1-ab/preloaded/a-b-12345678-87654321.eln",
            "usr/share/emacs/a-b.elc",
            "Emacs's compiled files",
        ),
        ("i/hicolor/icon-theme.cache", "i/hicolor", "icon caches"),
        ("s/mime/mime.cache", "s/mime/packages/x.xml", "MIME caches"),
        ("srv/node_modules/.package-lock.json", "srv/node_modules/@a/b", "npm lockfiles"),
        ("lib/modules/6.1/modules.dep", "lib/modules/6.1/k/x.ko.xz", "module lists"),
        ("var/cache/apt/pkgcache.bin", "etc/apt/sources.list", "apt caches"),
    ] {
        if ["i/hicolor", "srv/node_modules/@a/b"].contains(&of) {
            let fixture = |made_at, of_at| {
                Fixture::default().file(made, "x", made_at).dir(of, of_at).file("z", "z", T + 5)
            };
            assert!(fixture(T + 10, T).change(|_| 0).0.is_empty(), "{made}");
            assert_eq!(fixture(T, T + 10).change(|_| 0).1.by, BTreeMap::from([(by, 2)]));
        } else {
            staleness_stays(made, of, by);
        }
    }
}

#[test]
fn jars_keep_the_time_that_a_class_archive_records() {
    let jar = b"PK jar".repeat(50);
    let archive = |magic: u32, time: i64| {
        let mut out = vec![7; 100_000];
        out[..4].copy_from_slice(&magic.to_le_bytes());
        out[80_000..80_008].copy_from_slice(&time.to_le_bytes());
        out[80_008..80_016].copy_from_slice(&(jar.len() as u64).to_le_bytes());
        out
    };
    for magic in [0xF00B_ABA2, 0xF00B_ABA8] {
        let image = |time| {
            Fixture::default()
                .file("app/app.jar", &jar, T)
                .file("app/app.jsa", archive(magic, time), T + 3)
                .file("app/other.jar", "PK other", T)
        };
        image(T).holds(&["app/app.jar"], "JVM archives");
        // A recorded time that doesn't match must not begin to match.
        assert!(image(T - 9).change(|_| 0).0.is_empty());
        assert_eq!(image(T - 9).change(|t| t - 9).0, ["app/app.jar"]);
    }
    let scc = [&b"x"[..], &(T * 1000 + 5).to_le_bytes()].concat();
    Fixture::default()
        .file("app/app.jar", &jar, T)
        .file("opt/java/.scc/C290M11F1A64P_x_G41L00", scc, T + 3)
        .holds(&["app/app.jar"], "JVM archives");
}

#[test]
fn folders_keep_the_time_that_a_font_cache_records() {
    let cache = |words: usize, big: bool, time: u32| {
        let mut out = Vec::new();
        let mut put = |n: u64, len: usize| {
            let bytes = n.to_le_bytes();
            let mut bytes = bytes[..len].to_vec();
            if big {
                bytes.reverse();
            }
            out.extend(bytes);
        };
        let size = 8 * words as u64 + if words == 8 { 24 } else { 20 };
        put(0xFC02_FC04, 4);
        put(8, 4);
        for n in [200, size, 0] {
            put(n, words);
        }
        put(0, if words == 8 { 8 } else { 4 });
        put(0, words);
        put(u64::from(time), 4);
        out.resize(size as usize, 0);
        out.extend(b"/usr/share/fonts/dejavu\0");
        out
    };
    let image = |data: Vec<u8>| {
        Fixture::default().dir("usr/share/fonts/dejavu", T).dir("usr/share/fonts/other", T).file(
            "var/cache/fontconfig/3830-le64.cache-9",
            data,
            T + 1,
        )
    };
    for (words, big) in [(8, false), (8, true), (4, false), (4, true)] {
        image(cache(words, big, T as u32)).holds(&["usr/share/fonts/dejavu"], "fontconfig caches");
        assert!(image(cache(words, big, 7)).change(|_| 0).0.is_empty());
    }
    // A cache of an unknown layout may be of any of them.
    let all = ["usr/share/fonts/dejavu", "usr/share/fonts/other"];
    image(b"another layout".to_vec()).holds(&all, "fontconfig caches");
}

#[test]
fn interpreter_caches_hold_their_sources() {
    let n = |n: i64| n.to_le_bytes();
    let source = "x".repeat(33);
    let boot = [&[0; 16][..], &n(33), &n(T), &n(5), &[0; 24]].concat();
    Fixture::default()
        .file("srv/a.rb", &source, T)
        .file("srv/b.rb", "others", T)
        .file("srv/tmp/cache/bootsnap/compile-cache-iseq/ab/cdef", boot, T + 1)
        .holds(&["srv/a.rb"], "bootsnap caches");
    let pack = [&b"\x81\xa4/srv\x93\xce"[..], &(T as u32).to_be_bytes(), b"\x90\x90"].concat();
    Fixture::default()
        .dir("srv/lib", T)
        .dir("srv/app", T - 5)
        .file("srv/tmp/cache/bootsnap/load-path-cache", pack, T + 1)
        .holds(&["srv/lib"], "bootsnap caches");
    let opcache = [&b"OPCACHE\0"[..], &[b'a'; 32], &n(1), &n(2), &n(3), &n(T), &[0; 8]].concat();
    Fixture::default()
        .file("srv/x.php", "<?php", T)
        .file("srv/y.php", "<?php", T)
        .file(&format!("var/op/{}/srv/x.php.bin", "0a".repeat(16)), opcache, T + 1)
        .holds(&["srv/x.php"], "PHP opcache files");
    let view = "<?php ?>\n<?php /**PATH /srv/resources/x.blade.php ENDPATH**/ ?>";
    Fixture::default()
        .file("srv/resources/x.blade.php", "x", T)
        .file("srv/storage/framework/views/0a.php", view, T + 1)
        .holds(
            &["srv/resources/x.blade.php", "srv/storage/framework/views/0a.php"],
            "compiled views",
        );
    let time = (T as f64 + 0.5).to_le_bytes();
    let julia = [&b"\xfbjli\r\n\x1a\n\x0c\0\xff\xfe/a.jl"[..], &time].concat();
    Fixture::default()
        .file("srv/a.jl", "x", T)
        .file("srv/b.jl", "x", T + 9)
        .file("root/.julia/compiled/v1.10/A/x.ji", julia, T + 10)
        .holds(&["srv/a.jl"], "Julia caches");
    let numba = [&b"\x80\x04\x95G"[..], &(T as f64).to_be_bytes(), b"K!\x86."].concat();
    Fixture::default()
        .file("srv/a.py", "x", T)
        .file("srv/b.py", "x", T + 9)
        .file("srv/__pycache__/a.f-3.py311.nbi", numba, T + 10)
        .holds(&["srv/a.py"], "Numba caches");
    Fixture::default()
        .file("srv/a.py", "x", T)
        .file("srv/b.py", "x", T + 9)
        .file(
            "srv/.mypy_cache/3.11/a.meta.json",
            format!("{{\"mtime\": {T}, \"size\": 1}}"),
            T + 10,
        )
        .holds(&["srv/a.py"], "mypy caches");
    Fixture::default()
        .file("srv/a.qml", "x", T)
        .file("srv/b.qml", "x", T + 9)
        .file("srv/a.qmlc", [&b"qv4cdata"[..], &n(0), &n(T * 1000)].concat(), T + 10)
        .holds(&["srv/a.qml"], "Qt caches");
    Fixture::default()
        .dir("usr/share/applications", T)
        .file("root/.cache/ksycoca6_en", (T * 1000).to_be_bytes(), T + 10)
        .holds(&["usr/share/applications"], "Qt caches");
}

#[test]
fn system_caches_hold_the_files_that_they_list() {
    let n = |n: i64| n.to_le_bytes();
    Fixture::default()
        .file("usr/lib/gstreamer-1.0/libgsta.so", "four", T)
        .file("usr/lib/gstreamer-1.0/libgstb.so", "other", T)
        .file("root/.cache/gstreamer-1.0/registry.x86_64.bin", [n(9), n(4), n(T)].concat(), T + 1)
        .holds(&["usr/lib/gstreamer-1.0/libgsta.so"], "GStreamer registries");
    Fixture::default()
        .file("var/lib/dpkg/status", "x", T)
        .file("var/lib/apt/lists/x_Packages", "x", T - 7)
        .file("etc/hosts", "x", T)
        .file("var/cache/apt/pkgcache.bin", [n(1), n(T)].concat(), T + 1)
        .holds(&["var/lib/dpkg/status"], "apt caches");
    Fixture::default()
        .dir("usr/share/man/man1", T)
        .file("usr/share/man/man1/a.1.gz", "x", T - 3)
        .file("usr/share/man/man1/b.1.gz", "x", T - 4)
        .file("var/cache/man/index.db", format!("$mtime$\0{T} 0\0a\01\0{}\0", T - 3), T + 1)
        .holds(&["usr/share/man/man1", "usr/share/man/man1/a.1.gz"], "man-db's index");
    Fixture::default()
        .file("opt/conda/pkgs/cache/a.json", "x", T)
        .file("opt/conda/pkgs/cache/b.json", "x", T - 8)
        .file("opt/conda/pkgs/cache/a.info.json", format!("{{\"mtime_ns\": {T}000000123}}"), T - 9)
        .holds(&["opt/conda/pkgs/cache/a.json"], "conda caches");
    Fixture::default()
        .dir("usr", T)
        .file("etc/.updated", "x", T)
        .file("etc/hosts", "x", T)
        .holds(&["etc/.updated", "usr"], "systemd's update marks");
    Fixture::default()
        .file("usr/bin/x86_64-linux-gnu-gcc-12", "x", T)
        .file("usr/bin/grep", "x", T)
        .file("root/.ccache/ccache.conf", "x", T)
        .holds(&["usr/bin/x86_64-linux-gnu-gcc-12"], "ccache");
    Fixture::default()
        .file("usr/local/go/src/runtime/runtime2.go", "x", T)
        .file("usr/local/go/bin/go", "x", T)
        .file("root/.cache/go-build/trim.txt", "x", T)
        .holds(&["usr/local/go/src/runtime/runtime2.go"], "Go's build cache");
}

#[test]
fn package_databases_hold_unchanged_files() {
    let mtree = |text: &str| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
        gzip.write_all(text.as_bytes()).unwrap();
        gzip.finish().unwrap()
    };
    let text = format!(
        "#mtree\n/set type=file uid=0\n./usr/bin/a time={T}.0 size=1\n./usr/bin/b\\040c time={T}.5\n\
         ./usr/bin/d time=7.0\n"
    );
    Fixture::default()
        .file("usr/bin/a", "x", T)
        .file("usr/bin/b c", "x", T)
        .file("usr/bin/d", "x", T)
        .file("usr/bin/e", "x", T)
        .file("var/lib/pacman/local/a-1/mtree", mtree(&text), T)
        .holds(&["usr/bin/a", "usr/bin/b c"], "pacman's database");
    // rpm formats that can't be parsed hold any file whose time is in them.
    Fixture::default()
        .file("usr/bin/a", "x", T)
        .file("usr/bin/b", "x", T + 1)
        .file("var/lib/rpm/Packages.db", [&b"x"[..], &(T as u32).to_be_bytes()].concat(), T + 9)
        .holds(&["usr/bin/a"], "rpm's database");
    // An unreadable database holds every file.
    Fixture::default()
        .file("usr/bin/a", "x", T)
        .file("var/lib/rpm/rpmdb.sqlite", "no database, but it is long enough for one", T)
        .holds(&["usr/bin/a", "var/lib/rpm/rpmdb.sqlite"], "rpm's database");
}

#[test]
fn build_trees_keep_their_order() {
    let made = |deps: &str| {
        Fixture::default()
            .file("srv/Makefile", "all:", T)
            .file("srv/src/x.c", "x", T)
            .file("srv/src/x.h", "x", T + 5)
            .file("srv/out/x.o", "x", T + 9)
            .file("srv/out/x.d", deps, T + 9)
            .file("z", "x", T)
    };
    let reverse = |t| 2 * T + 9 - t;
    let (held, _) = made("out/x.o: src/x.c \\\n  src/x.h\n").change(reverse);
    // The files beside the object keep their order. The header's time can change without breaking it.
    assert_eq!(held, ["srv/out/x.d", "srv/out/x.o", "srv/src/x.c"]);
    let beside = Fixture::default()
        .file("srv/Makefile", "all:", T)
        .file("srv/src/x.c", "x", T)
        .file("srv/src/x.o", "x", T + 9);
    beside.holds(&["srv/src/x.c", "srv/src/x.o"], "build trees");
    assert!(beside.change(|t| t - 100).0.is_empty());
    let path = |p: &str| {
        let padded = p.len().next_multiple_of(4);
        let mut out = (padded as u32 + 4).to_le_bytes().to_vec();
        out.extend(p.as_bytes());
        out.resize(4 + padded, 0);
        out.extend([0xFF; 4]);
        out
    };
    let log = [&b"# ninjadeps\n\x04\0\0\0"[..], &path("../src/x.c"), &path("x.o")].concat();
    Fixture::default()
        .file("srv/build/.ninja_log", "# ninja log v5\n", T)
        .file("srv/build/.ninja_deps", log, T)
        .file("srv/src/x.c", "x", T)
        .file("srv/src/y.c", "x", T)
        .holds(&["srv/build/.ninja_deps", "srv/build/.ninja_log", "srv/src/x.c"], "build trees");
    Fixture::default()
        .file("srv/build/.ninja_log", "# ninja log v5\n", T)
        .file("srv/y.c", "x", T)
        .file("z", "x", T)
        .holds(&["srv/build/.ninja_log", "srv/y.c"], "build trees");
    Fixture::default()
        .file("srv/target/.rustc_info.json", "{}", T)
        .file("srv/src/main.rs", "x", T)
        .file("z", "x", T)
        .holds(&["srv/src/main.rs", "srv/target/.rustc_info.json"], "build trees");
}

/// Python 3.11's header for a source of this time.
fn compiled(stamp: i64) -> Vec<u8> {
    [&3495u16.to_le_bytes()[..], b"\r\n\0\0\0\0", &(stamp as u32).to_le_bytes(), b"\x01\0\0\0code"]
        .concat()
}

#[test]
fn compiled_python_records_the_new_time_of_its_source() {
    let image = |stamp| {
        Fixture::default()
            .file("a/x.py", "x", T)
            .file("a/__pycache__/x.cpython-311.pyc", compiled(stamp), T + 1)
            .file("a/__pycache__/x.cpython-311.opt-1.pyc", compiled(stamp), T + 1)
    };
    let mut rootfs = image(T).build();
    let after = vec![Mtime { secs: 77, nanos: 0 }; rootfs.files.inodes().len()];
    let held = retime(&mut rootfs, &Budget::new(0, None), after, None).unwrap();
    assert_eq!(held, Held { by: BTreeMap::new(), restamped: 2 });
    let Rootfs { files, contents } = rootfs;
    for name in ["a/__pycache__/x.cpython-311.pyc", "a/__pycache__/x.cpython-311.opt-1.pyc"] {
        let inode = files.get(name.as_bytes()).unwrap();
        let InodeKind::File(file) = &inode.kind else { panic!() };
        assert_eq!(contents.read(file, 100).unwrap(), compiled(77));
        assert_eq!(file.hash, *blake3::hash(&compiled(77)).as_bytes());
        assert_eq!(inode.mtime.secs, 77);
    }
    // A stale file stays stale, even if the new time would match it.
    let (held, why) = image(T - 5).change(|_| 0);
    assert!(held.is_empty() && why.restamped == 0);
    let (held, why) = image(T - 5).change(|t| t - 5);
    assert_eq!(held, ["a/x.py"]);
    assert_eq!(why.by, BTreeMap::from([("compiled Python", 1)]));
    // An unknown format.
    image(T).file("a/x.pyc", b"another magic number", T).holds(&["a/x.py"], "compiled Python");
}

#[test]
fn the_compiled_file_of_a_held_source_is_not_changed() {
    // The package database records the source's time, so the compiled file must keep it too.
    let image = Fixture::default().file("a/x.py", "x", T).file("a/x.pyc", compiled(T), T + 1).file(
        "var/lib/rpm/Packages",
        (T as u32).to_be_bytes(),
        T + 9,
    );
    let (held, why) = image.change(|_| 0);
    assert_eq!(held, ["a/x.py"]);
    assert_eq!(why, Held { by: BTreeMap::from([("rpm's database", 1)]), restamped: 0 });
}

#[test]
fn holding_one_time_may_hold_the_next() {
    // The byte code is newer than its source, and rpm's database holds the byte code.
    let image = Fixture::default().file("a/x.elc", "x", T + 2).file("a/x.el", "x", T + 1).file(
        "var/lib/rpm/Packages",
        (T as u32 + 2).to_be_bytes(),
        T + 9,
    );
    // The byte code stays at T + 2; the source may become older.
    assert_eq!(image.change(|_| 0).0, ["a/x.elc"]);
    // But it must not become newer than the byte code.
    assert_eq!(image.change(|t| t + 50).0, ["a/x.el", "a/x.elc"]);
}

#[test]
fn the_note_is_one_plain_line() {
    let mut held = Held::default();
    assert_eq!(held.note(), None);
    held.add(&Held { by: BTreeMap::from([("JVM archives", 2)]), restamped: 3 });
    held.add(&Held { by: BTreeMap::from([("JVM archives", 1), ("apt caches", 1)]), restamped: 0 });
    assert_eq!(
        held.note().unwrap(),
        "kept 4 timestamps that other files record: JVM archives (3), apt caches (1)"
    );
}

proptest::proptest! {
    #[test]
    fn damaged_files_of_every_format_are_accepted(
        name in 0usize..40,
        data in proptest::collection::vec(proptest::arbitrary::any::<u8>(), 0..200),
    ) {
        const NAMES: [&str; 20] = [
            "x/a.jsa", "opt/.scc/Cx", "v/a.cache-9", "v/a-le64.cache-8", "m/mime/mime.cache",
            "gstreamer-1.0/registry.a", "bootsnap/compile-cache/a", "bootsnap/load-path-cache/a",
            "o/0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a/x.php.bin", "framework/views/a.php", "a.ji",
            "var/lib/rpm/Packages", "var/lib/pacman/local/a/mtree", "var/cache/man/index.db",
            "b/.ninja_deps", "b/x.d", "a.qmlc", "n-1-2.eln", "guile/3/ccache/x.go", "a.pyc",
        ];
        let heads: [&[u8]; 4] = [b"", b"OPCACHE\0", b"# ninjadeps\n\x04\0\0\0", b"\x04\xfc\x02\xfc"];
        let data = [heads[name % 4], &data].concat();
        let image = Fixture::default()
            .file(NAMES[name / 2], data, T)
            .file("b/.ninja_log", "", T)
            .file("a.py", "", T);
        image.change(|_| 0);
    }
}
