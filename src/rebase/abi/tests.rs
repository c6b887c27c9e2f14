//! Programs that a new base leaves without what they need.

use super::*;
use crate::plan::analyze::fixture::Fixture;
use crate::rebase::linkage::made::Made;

fn set(files: &[(&str, Made<'_>)], links: &[(&str, &str)]) -> Rootfs {
    let fixture =
        files.iter().fold(Fixture::default(), |f, (path, made)| f.file(path, made.bytes()));
    links.iter().fold(fixture, |f, (path, target)| f.symlink(path, target)).build()
}

fn told(app: &Rootfs, new: &Rootfs, result: &Rootfs) -> Vec<String> {
    missing(app, new, result).unwrap().iter().map(ToString::to_string).collect()
}

const LIBRARY: Made<'_> = Made::NONE;

#[test]
fn a_library_that_the_new_base_no_longer_has_is_missing() {
    let program =
        Made { needed: &["libx.so.1", "libnever.so.1"], loader: "/lib64/ld.so.2", ..LIBRARY };
    let app = set(
        &[("srv/p", program), ("usr/lib/libx.so.1.2", LIBRARY), ("usr/lib64/ld.so.2", LIBRARY)],
        &[("usr/lib/libx.so.1", "libx.so.1.2"), ("lib64", "usr/lib64")],
    );
    let new = set(&[("usr/lib/libx.so.2", LIBRARY)], &[]);
    let result = set(&[("srv/p", program), ("usr/lib/libx.so.2", LIBRARY)], &[]);
    assert_eq!(
        told(&app, &new, &result),
        [
            "/srv/p needs libx.so.1, which was /usr/lib/libx.so.1.2",
            "/srv/p is run by /lib64/ld.so.2, which was /usr/lib64/ld.so.2"
        ]
    );
    assert_eq!(told(&app, &new, &app), [""; 0]);
    let json = serde_json::to_string(&missing(&app, &new, &result).unwrap()[0]).unwrap();
    let want =
        r#"{"path":"/srv/p","need":"library","name":"libx.so.1","was":"/usr/lib/libx.so.1.2"}"#;
    assert_eq!(json, want);
}

#[test]
fn a_version_that_the_new_library_lacks_is_missing() {
    let program =
        Made { needed: &["libc.so.6"], versions: &[("libc.so.6", &["G_1", "G_2"])], ..LIBRARY };
    let with = |defined| Made { defined, ..LIBRARY };
    let of = |library| set(&[("p", program), ("lib/libc.so.6", library)], &[]);
    let app = of(with(&["libc.so.6", "G_1", "G_2"]));
    let old = set(&[("lib/libc.so.6", LIBRARY)], &[]);
    let said = told(&app, &old, &of(with(&["libc.so.6", "G_1"])));
    assert_eq!(said, ["/p needs version G_2 of libc.so.6, which /lib/libc.so.6 had"]);
    // Without any versions, loaders only warn; with all of them nothing is missing.
    assert_eq!(told(&app, &old, &of(LIBRARY)), [""; 0]);
    assert_eq!(told(&app, &old, &of(with(&["G_1", "G_2", "G_3"]))), [""; 0]);
    // It was missing before.
    let before = of(with(&["G_1"]));
    assert_eq!(told(&before, &old, &of(with(&["G_1"]))), [""; 0]);
}

#[test]
fn libraries_are_searched_where_the_loader_does() {
    let own = Made { needed: &["libx.so"], search: "$ORIGIN/../l:/opt/none", ..LIBRARY };
    let plain = Made { needed: &["libx.so"], ..LIBRARY };
    let arm = Made { machine: 183, ..LIBRARY };
    let result = set(&[("srv/bin/p", own), ("usr/bin/q", plain)], &[]);
    let empty = set(&[], &[]);
    let by_origin = set(&[("srv/bin/p", own), ("srv/l/libx.so", LIBRARY)], &[]);
    assert_eq!(told(&by_origin, &empty, &result).len(), 1);
    for dir in ["usr/lib/x86_64-linux-gnu", "lib64", "opt/conf", "opt/more"] {
        let path = format!("{dir}/libx.so");
        let found = Fixture::default()
            .file("usr/bin/q", plain.bytes())
            .file(&path, LIBRARY.bytes())
            .file("etc/ld.so.conf", "include ld.so.conf.d/*.conf # all\n/opt/conf\n")
            .file("etc/ld.so.conf.d/a.conf", "/opt/more\ninclude /etc/ld.so.conf\n")
            .build();
        assert_eq!(
            told(&found, &empty, &result),
            [format!("/usr/bin/q needs libx.so, which was /{path}")]
        );
    }
    // One of another machine is passed over.
    let other = set(&[("usr/bin/q", plain), ("lib/libx.so", arm)], &[]);
    assert_eq!(told(&other, &empty, &result), [""; 0]);
}

#[test]
fn programs_of_the_new_base_count_too() {
    let program = Made { needed: &["libx.so"], ..LIBRARY };
    let new = set(&[("usr/bin/q", program), ("lib/libx.so", LIBRARY)], &[]);
    let said = told(&set(&[], &[]), &new, &set(&[("usr/bin/q", program)], &[]));
    assert_eq!(said, ["/usr/bin/q needs libx.so, which was /lib/libx.so"]);
}

#[test]
fn scripts_need_their_interpreter() {
    let of = |scripts: &[(&str, &str)], programs: &[&str]| {
        let mut fixture = Fixture::default();
        for (path, text) in scripts {
            fixture = fixture.file(path, text);
        }
        let mut rootfs = programs.iter().fold(fixture, |f, path| f.file(path, "x")).build();
        for (path, _) in scripts {
            let at = rootfs.files.position(path.as_bytes()).unwrap();
            let inode = rootfs.files.entries()[at].inode;
            rootfs.files.inode_mut(inode).mode = 0o755;
        }
        rootfs
    };
    let scripts =
        [("a", "#!/usr/bin/python3 -u\n"), ("b", "#!/usr/bin/env -S V=1 perl -w\n"), ("c", "#!\n")];
    let before = of(&scripts, &["usr/bin/python3", "usr/bin/env", "bin/perl"]);
    let said = told(&before, &set(&[], &[]), &of(&scripts, &["usr/bin/env"]));
    assert_eq!(
        said,
        [
            "/a is run by /usr/bin/python3, which was /usr/bin/python3",
            "/b is run by perl, which was /bin/perl"
        ]
    );
}
