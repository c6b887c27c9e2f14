//! Merged file sets.

use super::*;
use crate::plan::analyze::fixture::Fixture;

/// `path=text`, `path/` for a directory, `path->target` for a symlink; sorted in any order.
fn set(items: &[&str]) -> Rootfs {
    let mut fixture = Fixture::default();
    for item in items {
        fixture = if let Some((path, target)) = item.split_once("->") {
            fixture.symlink(path, target)
        } else if let Some((path, text)) = item.split_once('=') {
            fixture.file(path, text)
        } else {
            fixture.dir(item.trim_end_matches('/'))
        };
    }
    fixture.build()
}

/// Changes the inode at a path.
fn edit(rootfs: &mut Rootfs, path: &str, change: impl FnOnce(&mut Inode)) {
    let id = rootfs.files.id(path.as_bytes()).unwrap();
    change(rootfs.files.inode_mut(id));
}

fn rules(keep: &[&str]) -> Vec<KeepRule> {
    keep.iter().map(|rule| rule.parse().unwrap()).collect()
}

/// Returns what is not a directory, and empty directories, as in [`set`]; else the conflicts.
fn listed(merged: &Merged<Rootfs>) -> Vec<String> {
    let Some(rootfs) = &merged.value else {
        return merged
            .conflicts
            .iter()
            .map(|c| format!("! {} {:?}", c.subject, c.reason))
            .collect();
    };
    let line = |entry: &Entry| {
        let path = String::from_utf8(entry.path.to_vec()).unwrap();
        match &rootfs.files.inode(entry).kind {
            InodeKind::File(file) => {
                let text = rootfs.contents.read(file, 1 << 20).unwrap();
                Some(format!("{path}={}", String::from_utf8(text).unwrap()))
            }
            InodeKind::Symlink { target } => {
                Some(format!("{path}->{}", String::from_utf8_lossy(target)))
            }
            _ => rootfs.files.below(&entry.path).is_empty().then(|| format!("{path}/")),
        }
    };
    rootfs.files.entries().iter().filter_map(line).collect()
}

fn of(old: &[&str], app: &[&str], new: &[&str], keep: &[&str]) -> Vec<String> {
    let keep = rules(keep);
    listed(&merge(&set(old), &set(app), &set(new), &keep).unwrap())
}

#[test]
fn what_the_app_did_to_the_old_base_is_done_to_the_new_one() {
    let merged = of(
        &["a/same=1", "a/new=1", "a/app=1", "a/gone=1", "a/left=1", "a/link->x", "a/both=1"],
        &["a/same=1", "a/new=1", "a/app=2", "a/gone=1", "a/link->x", "a/both=2", "b/c=app"],
        &["a/same=1", "a/new=3", "a/app=1", "a/left=1", "a/link->y", "a/both=2", "d=new"],
        &[],
    );
    assert_eq!(
        merged,
        ["a/app=2", "a/both=2", "a/link->y", "a/new=3", "a/same=1", "b/c=app", "d=new"]
    );
}

#[test]
fn what_both_changed_is_a_conflict_until_a_rule_decides() {
    let (old, app, new) =
        (["e/x=1", "e/y=1", "e/z=1"], ["e/x=2", "e/z=2", "e/n=app"], ["e/x=3", "e/y=3", "e/n=new"]);
    assert_eq!(
        of(&old, &app, &new, &["app=/etc"]),
        ["! /e/n BothChanged", "! /e/x BothChanged", "! /e/y AppRemoved", "! /e/z BaseRemoved"]
    );
    assert_eq!(of(&old, &app, &new, &["app"]), ["e/n=app", "e/x=2", "e/z=2"]);
    assert_eq!(of(&old, &app, &new, &["app", "base=/e/[xyz]"]), ["e/n=app", "e/x=3", "e/y=3"]);
}

#[test]
fn mode_and_content_are_merged_each_by_itself() {
    let (old, mut app, mut new) = (set(&["x=1", "d/"]), set(&["x=1", "d/"]), set(&["x=2", "d/"]));
    edit(&mut app, "x", |inode| inode.mode = 0o755);
    edit(&mut app, "d", |inode| inode.uid = 5);
    edit(&mut new, "d", |inode| inode.mode = 0o700);
    edit(&mut new, "x", |inode| {
        inode.xattrs = Some(Box::new(vec![(b"user.a"[..].into(), [].into())]));
    });
    let merged = merge(&old, &app, &new, &[]).unwrap();
    assert_eq!(listed(&merged), ["d/", "x=2"]);
    let files = merged.value.unwrap().files;
    let (x, d) = (files.get(b"x").unwrap(), files.get(b"d").unwrap());
    assert_eq!((x.mode, x.xattrs.is_some(), d.mode, d.uid), (0o755, true, 0o700, 5));
    edit(&mut new, "x", |inode| inode.mode = 0o700);
    assert_eq!(listed(&merge(&old, &app, &new, &[]).unwrap()), ["! /x BothChanged"]);
}

#[test]
fn times_alone_are_no_change() {
    let (old, mut app, new) = (set(&["x=1"]), set(&["x=1"]), set(&["x=2"]));
    edit(&mut app, "x", |inode| inode.mtime.secs = 7);
    assert_eq!(listed(&merge(&old, &app, &new, &[]).unwrap()), ["x=2"]);
}

#[test]
fn directories_that_one_side_lacks_stay_or_are_conflicts() {
    // The new base no longer has what the app needs as a parent.
    let old = ["d/e/x=1"];
    assert_eq!(of(&old, &["d/e/x=1", "d/e/y=app"], &["z=1"], &[]), ["d/e/y=app", "z=1"]);
    let mut app = set(&["d/e/x=1", "d/e/y=app"]);
    edit(&mut app, "d", |inode| inode.mode = 0o700);
    let closed = merge(&set(&old), &app, &set(&["z=1"]), &[]).unwrap();
    assert_eq!(listed(&closed), ["! /d BaseRemoved"]);
    // The app removed, or emptied, what the new base adds to.
    assert_eq!(of(&old, &["d/"], &["d/e/x=1", "d/e/y=new"], &[]), ["! /d/e AppEmptied"]);
    assert_eq!(of(&old, &["d/e/"], &["d/e/x=1", "d/e/y=new"], &[]), ["! /d/e/y AppEmptied"]);
    assert_eq!(of(&old, &["d/"], &["d/e/x=1", "d/e/y=new"], &["app"]), ["d/"]);
    assert_eq!(of(&old, &["d/e/"], &["d/e/x=1", "d/e/y=new"], &["app"]), ["d/e/"]);
    assert_eq!(of(&old, &["d/"], &["d/e/x=1", "d/e/y=new"], &["base"]), ["d/e/x=1", "d/e/y=new"]);
}

#[test]
fn files_below_what_is_no_directory_on_the_other_side_are_a_conflict() {
    let (old, app) = (["lib/x=1"], ["lib/x=1", "lib/y=app"]);
    let new = ["lib->usr/lib", "usr/lib/x=1"];
    assert_eq!(of(&old, &app, &new, &[]), ["! /lib NoDirectory"]);
    assert_eq!(of(&old, &app, &new, &["base"]), ["lib->usr/lib", "usr/lib/x=1"]);
    assert_eq!(of(&old, &app, &new, &["app"]), ["lib/x=1", "lib/y=app", "usr/lib/x=1"]);
    // Another name that only begins alike is not below it.
    let sides = (["l/x=1", "l-a=1"], ["l->m", "l-a=1"], ["l/x=1", "l/y=2", "l-a=2"]);
    assert_eq!(of(&sides.0, &sides.1, &sides.2, &["app"]), ["l->m", "l-a=2"]);
}

/// Adds `name` as another name of the file at `path`.
fn link(rootfs: &mut Rootfs, path: &str, name: &str) {
    let mut entries = rootfs.files.entries().to_vec();
    let inode = rootfs.files.id(path.as_bytes()).unwrap();
    entries.push(Entry { path: name.as_bytes().into(), inode });
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    rootfs.files = FileSet::new(entries, rootfs.files.inodes().to_vec()).unwrap();
}

#[test]
fn links_to_files_of_the_base_follow_the_new_base() {
    let (old, mut app, new) = (set(&["x=1"]), set(&["x=1"]), set(&["x=2"]));
    link(&mut app, "x", "y");
    let merged = merge(&old, &app, &new, &[]).unwrap();
    assert_eq!(listed(&merged), ["x=2", "y=2"]);
    let files = merged.value.unwrap().files;
    assert_eq!(files.id(b"x"), files.id(b"y"));
    let gone = merge(&old, &app, &set(&["z=1"]), &[]).unwrap();
    assert_eq!(listed(&gone), ["! /y BaseRemoved"]);
    // Names of an inode that both sides changed stay together.
    let mut sides = [set(&["x=1"]), set(&["x=1"]), set(&["x=2"])];
    for side in &mut sides {
        link(side, "x", "y");
    }
    edit(&mut sides[1], "x", |inode| inode.mode = 0o600);
    let files = merge(&sides[0], &sides[1], &sides[2], &[]).unwrap().value.unwrap().files;
    assert_eq!(files.id(b"x"), files.id(b"y"));
    assert_eq!(files.get(b"y").unwrap().mode, 0o600);
}

#[test]
fn databases_are_merged_and_derived_files_named() {
    let merged = merge(
        &set(&["etc/passwd=r:x:0\n", "etc/ld.so.cache=1", "var/log/a=1"]),
        &set(&["etc/passwd=r:x:0\na:x:9\n", "etc/ld.so.cache=2", "var/log/a=2"]),
        &set(&["etc/passwd=r:x:0\nb:x:8\n", "etc/ld.so.cache=3", "var/log/a=3"]),
        &[],
    )
    .unwrap();
    let want = ["etc/ld.so.cache=2", "etc/passwd=r:x:0\nb:x:8\na:x:9\n", "var/log/a=2"];
    assert_eq!(listed(&merged), want);
    assert_eq!(merged.notes.len(), 1);
    assert!(merged.notes[0].contains("run ldconfig"), "{:?}", merged.notes);
    let clash = of(&["etc/passwd=r:x:0\n"], &["etc/passwd=a:x:1\n"], &["etc/passwd=b:x:1\n"], &[]);
    assert_eq!(clash, ["! /etc/passwd (b) SameId"]);
}

#[test]
fn copies_of_files_that_the_new_base_changed_are_named() {
    let text = "a text that is long enough to be no chance";
    let (old, copy) = (format!("x={text}"), format!("y={text}"));
    let merged = merge(&set(&[&old]), &set(&[&old, &copy]), &set(&["x=2"]), &[]).unwrap();
    assert!(merged.value.is_some());
    let [found] = &merged.outdated[..] else { panic!("{:?}", merged.outdated) };
    assert_eq!((&*found.path, &*found.source), (&b"y"[..], &b"x"[..]));
    let same = merge(&set(&[&old]), &set(&[&old, &copy]), &set(&[&old]), &[]).unwrap();
    assert!(same.outdated.is_empty());
}

#[test]
fn commands_over_many_files_would_change_what_the_new_base_adds() {
    // find -name '*.txt' -delete, below a folder.
    let old = ["d/a.txt=1", "d/e/b.txt=1", "d/e/c.md=1", "x.txt=1"];
    let new = ["d/a.txt=1", "d/e/b.txt=1", "d/e/c.md=1", "x.txt=1", "d/e/n.txt=1", "y.txt=1"];
    let app = ["d/e/c.md=1", "x.txt=1"];
    assert_eq!(of(&old, &app, &new, &[]), ["! /d/e/n.txt AppSwept"]);
    assert_eq!(of(&old, &app, &new, &["app"]), ["d/e/c.md=1", "x.txt=1", "y.txt=1"]);
    // chmod -R, and removal of set-ID bits.
    let sides =
        || [set(&["d/x=1", "d/y=1"]), set(&["d/x=1", "d/y=1"]), set(&["d/x=1", "d/y=1", "d/n=1"])];
    let [old, mut app, new] = sides();
    for path in ["d", "d/x"] {
        edit(&mut app, path, |inode| inode.uid = 9);
    }
    assert!(merge(&old, &app, &new, &[]).unwrap().value.is_some());
    edit(&mut app, "d/y", |inode| inode.uid = 9);
    assert_eq!(listed(&merge(&old, &app, &new, &[]).unwrap()), ["! /d/n AllChanged"]);
    let [mut old, app, mut new] = sides();
    edit(&mut old, "d/x", |inode| inode.mode = 0o4755);
    for path in ["d/x", "d/n"] {
        edit(&mut new, path, |inode| inode.mode = 0o4755);
    }
    assert_eq!(listed(&merge(&old, &app, &new, &[]).unwrap()), ["! /d/n AllChanged"]);
}

#[test]
fn what_the_build_used_is_a_conflict_if_the_new_base_changed_it() {
    let users = "etc/passwd=root:x:0:0::/root:\n";
    let added = "etc/passwd=root:x:0:0::/root:\napp:x:1000:1000::/home/app:\n";
    let old = [users, "etc/login.defs=1", "etc/skel/.profile=1", "etc/dpkg/dpkg.cfg=1"];
    let new = [users, "etc/login.defs=2", "etc/skel/.profile=2", "etc/dpkg/dpkg.cfg=2"];
    assert_eq!(of(&old, &old, &new, &[]).len(), 4);
    let mut app = old;
    app[0] = added;
    assert_eq!(of(&old, &app, &new, &[]), ["! /etc/login.defs Used"]);
    let with = |more: &'static str| [&app[..], &[more]].concat();
    let home = of(&old, &with("home/app/"), &new, &[]);
    assert_eq!(home, ["! /etc/login.defs Used", "! /etc/skel/.profile Used"]);
    let packages =
        of(&old, &[&old[..], &["var/lib/dpkg/status=Package: a\n\n"]].concat(), &new, &[]);
    assert_eq!(packages, ["! /etc/dpkg/dpkg.cfg Used"]);
    // Both add users whose IDs are chosen; an ID that files have is changed.
    let other = ["etc/passwd=root:x:0:0::/root:\nnew:x:1001:1::/:\n"];
    assert_eq!(of(&[users], &[added], &other, &[]), ["! /etc/passwd (app) BothAdded"]);
    let user = |id: u32| format!("etc/passwd=u:x:{id}:1::/:\n");
    let (old, mut app, new) = (set(&[&user(7)]), set(&[&user(7), "x=1"]), set(&[&user(8)]));
    assert!(merge(&old, &app, &new, &[]).unwrap().value.is_some());
    edit(&mut app, "x", |inode| inode.uid = 7);
    assert_eq!(listed(&merge(&old, &app, &new, &[]).unwrap()), ["! /etc/passwd (u) OldId"]);
}

#[test]
fn files_made_from_others_are_named() {
    let old = ["lib/a.so=1", "etc/ld.so.cache=1", "p/m.py=1"];
    let app = ["lib/a.so=1", "etc/ld.so.cache=2", "p/m.py=1", "p/__pycache__/m.cpython-311.pyc=x"];
    let new = ["lib/a.so=1", "etc/ld.so.cache=1", "p/m.py=2", "lib/b.so.1=1"];
    let merged = merge(&set(&old), &set(&app), &set(&new), &[]).unwrap();
    assert!(
        merged.notes[0].contains("run ldconfig to update /etc/ld.so.cache:"),
        "{:?}",
        merged.notes
    );
    assert_eq!(&*merged.outdated[0].source, b"p/m.py");
    let merged = merge(&set(&old), &set(&app), &set(&old), &[]).unwrap();
    assert!(merged.notes.is_empty() && merged.outdated.is_empty());
}

#[test]
fn many_names_take_no_long_time() {
    let begin = std::time::Instant::now();
    let n = 100_000;
    let (old, mut app, new) = (set(&["a=1"]), set(&["a=1"]), set(&["a=2"]));
    let inode = app.files.id(b"a").unwrap();
    let mut entries: Vec<_> = app.files.entries().to_vec();
    for i in 0..n {
        entries.push(Entry { path: format!("0{i:06}").into_bytes().into(), inode });
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    app.files = FileSet::new(entries, app.files.inodes().to_vec()).unwrap();
    assert_eq!(merge(&old, &app, &new, &[]).unwrap().value.unwrap().files.entries().len(), n + 1);
    let users = |from: u32, id: u32| -> String {
        (0..n as u32).flat_map(|i| [format!("u{}:x:{}:1\n", from + i, id + i)]).collect()
    };
    let passwd = |text: String| set(&[&format!("etc/passwd={text}")]);
    let sides = [passwd(users(0, 1000)), passwd(users(0, 1000)), passwd(users(0, 2000))];
    assert!(merge(&sides[0], &sides[1], &sides[2], &[]).unwrap().value.is_some());
    let added =
        [passwd("r:x:0:0\n".into()), passwd(users(0, 300_000)), passwd(users(n as u32, 600_000))];
    let conflicts = merge(&added[0], &added[1], &added[2], &[]).unwrap().conflicts;
    assert!(conflicts.len() >= n, "{}", conflicts.len());
    let fields = |v: u8| (0..n).flat_map(|i| [format!("F{i}: {v}\n")]).collect::<String>();
    let debconf = |v: u8, more: &str| {
        set(&[&format!("var/cache/debconf/config.dat=Name: a\n{}{more}\n", fields(v))])
    };
    let merged = merge(&debconf(1, ""), &debconf(1, "X: 1\n"), &debconf(2, ""), &[]).unwrap();
    assert!(merged.value.is_some());
    assert!(begin.elapsed().as_secs() < 60, "{:?}", begin.elapsed());
}

/// A random set of paths of which many are below others.
fn random(state: &mut u64) -> Rootfs {
    let mut next = |n: u64| {
        *state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % n
    };
    let mut items: BTreeMap<String, String> = BTreeMap::new();
    for _ in 0..next(9) {
        let depth = 1 + next(4);
        let path: Vec<_> = (0..depth).map(|_| ["a", "b", "a-"][next(3) as usize]).collect();
        let path = path.join("/");
        let below = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'));
        if items.keys().any(|other| below(other, &path) || below(&path, other)) {
            continue;
        }
        let item = match next(4) {
            0 => format!("{path}/"),
            1 => format!("{path}->x{}", next(2)),
            _ => format!("{path}={}", next(3)),
        };
        items.insert(path, item);
    }
    set(&items.values().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn random_merges_are_valid_and_keep_what_one_side_did() {
    let all = |rootfs: &Rootfs| {
        let text = |e: &Entry| (e.path.clone(), rootfs.files.inode(e).kind.word());
        rootfs.files.entries().iter().map(text).collect::<Vec<_>>()
    };
    let mut state = 1;
    for case in 0..3_000 {
        let [old, app, new] = [0; 3].map(|_| random(&mut state));
        // If one side changed nothing, or both did the same, the result is the other side.
        for (sides, want) in
            [([&old, &app, &old], &app), ([&old, &old, &new], &new), ([&old, &app, &app], &app)]
        {
            let merged = merge(sides[0], sides[1], sides[2], &[]).unwrap();
            let found = merged.value.unwrap_or_else(|| panic!("{case}: {:?}", merged.conflicts));
            assert_eq!(all(&found), all(want), "{case}");
        }
        for keep in ["app", "base"] {
            let merged = merge(&old, &app, &new, &rules(&[keep]));
            assert!(merged.is_ok_and(|merged| merged.value.is_some()), "{case} {keep}");
        }
        assert!(merge(&old, &app, &new, &[]).is_ok(), "{case}");
    }
}
