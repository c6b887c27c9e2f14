//! Times that depend on nothing but the files: a second build gives the same ones.

use super::*;
use crate::model::mtime::MtimePolicy;
use crate::plan::recorded_times::apply;

/// The time of directories.
const FOLDERS: i64 = 946_684_800;

/// Applies the rule. Returns all times by path, the counts, and the file set.
fn stable(rootfs: Rootfs) -> (BTreeMap<String, i64>, Held, Rootfs) {
    let mut rootfs = rootfs;
    let held = apply(MtimePolicy::Stable, &mut rootfs, &Budget::new(0, None)).unwrap();
    let path = |e: &Entry| String::from_utf8(e.path.to_vec()).unwrap();
    let times = rootfs.files.entries().iter();
    let times = times.map(|e| (path(e), rootfs.files.inode(e).mtime.secs)).collect();
    (times, held, rootfs)
}

/// Checks that a build at another time gives the same files, and that the rule changes nothing in its
/// own result. Returns the times and counts.
fn same_in_each_build(build: impl Fn(i64) -> Fixture) -> (BTreeMap<String, i64>, Held) {
    let (times, held, first) = stable(build(T).build());
    let (_, _, second) = stable(build(T + 12_345).build());
    assert_eq!(compare(&first, &second), Vec::<String>::new(), "another build");
    let copy = Rootfs { files: first.files.clone(), contents: first.contents.clone() };
    let (_, _, again) = stable(copy);
    assert_eq!(compare(&first, &again), Vec::<String>::new(), "once more");
    (times, held)
}

/// Returns the paths that differ.
fn compare(a: &Rootfs, b: &Rootfs) -> Vec<String> {
    let pairs = a.files.entries().iter().zip(b.files.entries());
    let differ = pairs.filter(|(x, y)| !a.files.inode(x).same(b.files.inode(y)));
    differ.map(|(x, _)| String::from_utf8(x.path.to_vec()).unwrap()).collect()
}

/// A package that dpkg installed at a time.
fn dpkg(fixture: Fixture, built: i64, installed: i64) -> Fixture {
    fixture
        .file("var/lib/dpkg/status", "Package: p\nStatus: install ok installed\n", installed)
        .file(
            "var/lib/dpkg/info/p.list",
            "/usr/bin/tool\n/etc/p.conf\n/usr/share/mime/packages/p.xml\n/usr/lib/p/m.py\n",
            installed,
        )
        .file("usr/bin/tool", "tool", built)
        .file("etc/p.conf", "changed by the build", installed + 5)
        .file("usr/lib/p/m.py", "x = 1", built + 2)
}

#[test]
fn packages_keep_their_times_and_installations_leave_none() {
    let built = T - 1_000_000;
    let (times, held) = same_in_each_build(|now| {
        dpkg(Fixture::default(), built, now)
            .file("srv/app.js", "app", now + 9)
            .file("srv/copy.js", "app", now + 10)
            .file("srv/other.js", "apq", now + 10)
            .dir("srv/empty", now + 11)
            .file("lib/apk/db/installed", format!("P:a\nt:{built}\nF:sbin\nR:a\nR:b\n"), now)
            .file("sbin/a", "a", built)
            .file("sbin/b", "b", built + 1)
    });
    assert_eq!(held, Held::default());
    assert_eq!([times["usr/bin/tool"], times["sbin/a"]], [built; 2]);
    assert_eq!([times["srv/empty"], times["srv"], times["usr/bin"]], [FOLDERS; 3]);
    assert_eq!(times["srv/app.js"], times["srv/copy.js"]);
    assert_ne!(times["srv/app.js"], times["srv/other.js"]);
    for path in ["srv/app.js", "etc/p.conf", "sbin/b", "var/lib/dpkg/status"] {
        let time = times[path];
        assert!(time > FOLDERS && time < FOLDERS + 400 * 86_400, "{path}: {time}");
    }
    assert_eq!(times["var/lib/dpkg/info/p.list"], built + 3);
}

#[test]
fn compiled_python_gets_the_stable_time_of_its_source() {
    let compiled = |secs: i64| {
        [&3495u16.to_le_bytes()[..], b"\r\n\0\0\0\0", &(secs as u32).to_le_bytes(), b"size code"]
            .concat()
    };
    let built = T - 1_000_000;
    let (times, held) = same_in_each_build(|now| {
        dpkg(Fixture::default(), built, now)
            .file("usr/lib/p/__pycache__/m.cpython-311.pyc", compiled(built + 2), now + 1)
            .file("app/x.py", "x", now + 3)
            .file("app/__pycache__/x.cpython-311.pyc", compiled(now + 3), now + 4)
            .file("app/stale.py", "stale", now + 3)
            .file("app/__pycache__/stale.cpython-311.pyc", compiled(77), now + 4)
    });
    assert_eq!((held.by.len(), held.restamped), (0, 1));
    assert_eq!(times["usr/lib/p/m.py"], built + 2);
    // Its time is that of the bytes that it has now.
    let bytes = compiled(times["app/x.py"]);
    let at = Fixture::default().file("y", bytes, T);
    assert_eq!(times["app/__pycache__/x.cpython-311.pyc"], stable(at.build()).0["y"]);
}

#[test]
fn caches_stay_newer_than_what_they_were_made_from() {
    let built = T - 1_000_000;
    let (times, held) = same_in_each_build(|now| {
        dpkg(Fixture::default(), built, now)
            // From a package, which is newer than the stable time of the cache.
            .file("usr/share/mime/packages/p.xml", "p", built + 7)
            .dir("usr/share/mime/packages", now)
            .file("usr/share/mime/mime.cache", "cache", now + 1)
            .dir("usr/share/icons/a", now)
            .file("usr/share/icons/a/icon-theme.cache", "icons", now)
            .dir("srv/node_modules/a", now)
            .file("srv/node_modules/.package-lock.json", "{}", now + 2)
            // A stale cache stays stale.
            .dir("usr/share/icons/b", now + 1)
            .file("usr/share/icons/b/icon-theme.cache", "stale", now)
            // Laravel: not even equal.
            .file("app/v.php", "view", now)
            .file(
                "app/framework/views/c.php",
                "<?php ?>\n<?php /**PATH /app/v.php ENDPATH**/ ?>",
                now + 1,
            )
            // make: the order of a folder. `a` and `c` are equally old.
            .file("src/Makefile", "all:", now)
            .file("src/b.o", "b", now + 2)
            .file("src/c.c", "c", now + 1)
            .file("src/a.c", "a", now + 1)
    });
    assert_eq!(held, Held::default());
    assert_eq!(times["usr/share/mime/mime.cache"], built + 7);
    assert!(times["usr/share/icons/a/icon-theme.cache"] > times["usr/share/icons/a"]);
    assert!(times["srv/node_modules/.package-lock.json"] > times["srv/node_modules/a"]);
    assert!(times["usr/share/icons/b/icon-theme.cache"] < times["usr/share/icons/b"]);
    assert!(times["app/framework/views/c.php"] > times["app/v.php"]);
    assert!(times["src/Makefile"] < times["src/c.c"] && times["src/c.c"] < times["src/b.o"]);
    assert_eq!(times["src/a.c"], times["src/c.c"]);
}

#[test]
fn what_can_only_be_held_is_held_and_said() {
    let jar = |now: i64| [&now.to_le_bytes()[..], &3u64.to_le_bytes()].concat();
    let archive = |now| {
        let magic = 0xF00B_ABA2u32.to_le_bytes();
        [&magic[..], &[0; 4], &jar(now), &vec![1; 64 << 10]].concat()
    };
    let fixture = Fixture::default().file("app/a.jar", "jar", T).file("app/a.jsa", archive(T), T);
    // A package is older than what was compiled from it must not become.
    let fixture = dpkg(fixture, T - 9, T).file("usr/share/p/x.class", "class", T - 8);
    let (times, held, _) = stable(fixture.build());
    assert_eq!(times["app/a.jar"], T);
    assert_eq!(held.by, BTreeMap::from([("JVM archives", 1)]));
}

proptest::proptest! {
    /// Random chains of files that must be newer than others, with random times.
    #[test]
    fn orders_hold_whatever_the_times_were(
        times in proptest::collection::vec(0i64..6, 4..12),
        packaged in proptest::collection::vec(proptest::bool::ANY, 12),
    ) {
        let build = |now: i64| {
            let mut list = String::new();
            let mut fixture = Fixture::default().file("d/Makefile", "", now).file("e/Makefile", "", now);
            for (i, time) in times.iter().enumerate() {
                // An object, its source, and a byte code that is compiled from it.
                let dir = if i % 3 == 0 { "d" } else { "e" };
                for (end, shift) in [("o", 0), ("class", 1), ("java", 2)] {
                    let path = format!("{dir}/f{i}.{end}");
                    let shifted = (time + shift * 2) % 5;
                    let of_package = packaged[i] && shift > 0;
                    if of_package {
                        list.extend(["/", &path, "\n"]);
                    }
                    let from = if of_package { T - 500 } else { now };
                    fixture = fixture.file(&path, format!("{i}{end}"), from + shifted);
                }
            }
            fixture
                .file("var/lib/dpkg/status", "Package: p\n", now)
                .file("var/lib/dpkg/info/p.list", list, now)
        };
        let before = build(T).build();
        let (_, _, after) = stable(build(T).build());
        let pairs = before.files.entries().iter().zip(after.files.entries());
        let files = pairs.filter(|(e, _)| e.path.starts_with(b"d/") || e.path.starts_with(b"e/"));
        let files: Vec<_> = files
            .map(|(x, y)| (&x.path, before.files.inode(x).mtime, after.files.inode(y).mtime))
            .collect();
        for (a, a_before, a_after) in &files {
            for (b, b_before, b_after) in &files {
                if a[0] == b[0] {
                    assert_eq!(a_before.cmp(b_before), a_after.cmp(b_after), "{a:?} {b:?}");
                }
            }
        }
    }
}
