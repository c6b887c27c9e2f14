//! The rules of flattening, one by one.

use super::*;
use crate::model::fileset::{FileData, Location};
use crate::model::index::SourceId;

fn inode(kind: InodeKind) -> Inode {
    Inode { kind, mode: 0o644, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: None }
}

fn put(path: &str, kind: InodeKind) -> Change {
    Change { path: path.as_bytes().into(), kind: ChangeKind::Add(inode(kind)) }
}

fn dir(path: &str) -> Change {
    put(path, InodeKind::Dir)
}

fn file(path: &str, size: u64) -> Change {
    let location = Location::Span { source: SourceId::new(0), offset: 0 };
    put(path, InodeKind::File(FileData { size, hash: [0; 32], location }))
}

fn symlink(path: &str, target: &str) -> Change {
    put(path, InodeKind::Symlink { target: target.as_bytes().into() })
}

fn link(path: &str, target: &str) -> Change {
    let what =
        ChangeKind::Link { target: target.as_bytes().into(), metadata: inode(InodeKind::Fifo) };
    Change { path: path.as_bytes().into(), kind: what }
}

fn whiteout(path: &str) -> Change {
    Change { path: path.as_bytes().into(), kind: ChangeKind::Whiteout }
}

fn opaque(path: &str) -> Change {
    Change { path: path.as_bytes().into(), kind: ChangeKind::Opaque }
}

fn flat(layers: Vec<Vec<Change>>) -> Result<(FileSet, HiddenCounts)> {
    apply(layers.into_iter().map(|layer| ("layer", layer)))
}

fn list<'a>(
    layers: impl IntoIterator<Item = (&'a str, Vec<Change>)>,
) -> Result<(FileSet, HiddenCounts, Vec<HiddenFile>)> {
    Tree::listing().apply_all(layers)
}

/// Each name with its size, or the word for what it is; names of one inode share a letter.
fn show(layers: Vec<Vec<Change>>) -> String {
    let (set, _) = flat(layers).unwrap();
    let counts = set.link_counts();
    let word = |e: &Entry| {
        let word = match &set.inode(e).kind {
            InodeKind::File(f) => f.size.to_string(),
            kind => kind.word()[..1].to_owned(),
        };
        let group = if counts[e.inode.index()] > 1 { "+" } else { "" };
        format!("{}={word}{group}", String::from_utf8_lossy(&e.path))
    };
    set.entries().iter().map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn whiteouts_act_on_lower_layers_only_wherever_they_stand() {
    let base = || vec![dir("d"), file("d/a", 1), file("d/b", 2)];
    assert_eq!(show(vec![base(), vec![file("d/a", 3), whiteout("d/a")]]), "d=d d/a=3 d/b=2");
    assert_eq!(show(vec![base(), vec![file("d/c", 3), opaque("d")]]), "d=d d/c=3");
    assert_eq!(show(vec![base(), vec![whiteout("d"), dir("d"), file("d/x", 1)]]), "d=d d/x=1");
    assert_eq!(show(vec![base(), vec![opaque("")]]), "");
    assert_eq!(show(vec![base(), vec![whiteout("nothing/here")]]), "d=d d/a=1 d/b=2");
    assert_eq!(show(vec![base(), vec![whiteout("d")], vec![dir("d")]]), "d=d");
}

#[test]
fn types_swap_and_only_directories_merge() {
    let base = || vec![dir("d"), file("d/a", 1), file("f", 2)];
    assert_eq!(show(vec![base(), vec![file("d", 3)]]), "d=3 f=2");
    assert_eq!(show(vec![base(), vec![file("d", 3)], vec![dir("d")]]), "d=d f=2");
    assert_eq!(show(vec![base(), vec![dir("d"), dir("f"), file("f/x", 1)]]), "d=d d/a=1 f=d f/x=1");
    assert_eq!(show(vec![base(), vec![symlink("d", "f")]]), "d=s f=2");
}

#[test]
fn directories_that_are_missing_are_made_however_many() {
    let deep = vec!["a"; 2000].join("/");
    let (set, hidden) = flat(vec![vec![file("a/a", 1)], vec![file(&deep, 2)]]).unwrap();
    assert_eq!((set.entries().len(), hidden.implied_directories), (2000, 1999));
    let many = |n: usize| (0..n).map(|i| file(&format!("{i}/{deep}"), 1)).collect();
    assert!(flat(vec![many(3)]).is_ok() && flat(vec![many(40)]).is_err());
}

#[test]
fn the_last_of_several_entries_wins() {
    assert_eq!(show(vec![vec![file("a", 1), file("a", 2)]]), "a=2");
    assert_eq!(show(vec![vec![file("a", 1), link("b", "a"), file("a", 2)]]), "a=2 b=1");
}

#[test]
fn hard_links_join_across_layers_and_survive_their_first_name() {
    let base = || vec![file("a", 1), link("b", "a"), link("c", "a")];
    assert_eq!(show(vec![base(), vec![whiteout("a")]]), "b=1+ c=1+");
    assert_eq!(show(vec![base(), vec![file("c", 9)]]), "a=1+ b=1+ c=9");
    assert_eq!(show(vec![base(), vec![link("x", "b"), whiteout("b")]]), "a=1+ c=1+ x=1+");
}

#[test]
fn a_link_to_a_lower_name_joins_its_group() {
    assert_eq!(show(vec![vec![file("a", 1)], vec![link("x", "a")]]), "a=1+ x=1+");
    assert!(flat(vec![vec![link("x", "a")]]).is_err());
    assert!(flat(vec![vec![file("a", 1), link("a", "a")]]).is_err());
    assert!(flat(vec![vec![dir("a"), link("b", "a")]]).is_err());
}

#[test]
fn a_links_own_header_only_ever_sets() {
    const CAP: &str = "security.capability";
    let linked = |kind: InodeKind, xattrs: &[(&str, &str)], uid: u32, like: &[(&str, &str)]| {
        let list = |xattrs: &[(&str, &str)]| {
            let xattr = |(k, v): &(&str, &str)| (k.as_bytes().into(), v.as_bytes().into());
            Some(Box::new(xattrs.iter().map(xattr).collect::<Vec<_>>())).filter(|x| !x.is_empty())
        };
        let (mut a, mut l) = (put("a", kind), link("l", "a"));
        let ChangeKind::Add(inode) = &mut a.kind else { unreachable!() };
        (inode.uid, inode.gid, inode.mtime.secs, inode.xattrs) = (5, 6, 1000, list(xattrs));
        let ChangeKind::Link { metadata: header, .. } = &mut l.kind else { unreachable!() };
        (header.uid, header.gid, header.mtime.secs, header.mode) = (uid, 6, 2000, 0o600);
        header.xattrs = list(like);
        let (set, _) = flat(vec![vec![a, l]]).unwrap();
        let inode = set.get(b"l").unwrap().clone();
        let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
        let xattrs = inode.xattrs.iter().flat_map(|x| x.iter());
        let xattrs: Vec<_> = xattrs.map(|(k, v)| format!("{}={}", text(k), text(v))).collect();
        (inode.uid, inode.mode, inode.mtime.secs, xattrs.join(" "))
    };
    let file = || {
        let location = Location::Span { source: SourceId::new(0), offset: 0 };
        InodeKind::File(FileData { size: 1, hash: [0; 32], location })
    };
    let both = [(CAP, "c"), ("user.a", "1")];
    // GNU tar writes no attributes on links; the file's stay.
    assert_eq!(linked(file(), &both, 5, &[]), (5, 0o600, 2000, format!("{CAP}=c user.a=1")));
    // Another owner takes capabilities away, unless the link's header has some.
    assert_eq!(linked(file(), &both, 7, &[]), (7, 0o600, 2000, "user.a=1".into()));
    let same = (7, 0o600, 2000, format!("{CAP}=d user.a=1"));
    assert_eq!(linked(file(), &both, 7, &[(CAP, "d")]), same);
    // No owner at all leaves the file's.
    let set = linked(file(), &both, u32::MAX, &[("user.a", "2"), ("user.b", "")]);
    assert_eq!(set, (5, 0o600, 2000, format!("{CAP}=c user.a=2 user.b=")));
    assert_eq!(linked(file(), &[], 5, &[]).3, "");
    // Of a symlink mode and time stay; chown(2) drops its capabilities, too.
    let symlink = InodeKind::Symlink { target: b"t"[..].into() };
    assert_eq!(linked(symlink, &both, 7, &[]), (7, 0o644, 1000, "user.a=1".into()));
}

#[test]
fn a_file_of_aufs_is_there_for_links_alone() {
    let unnamed = |path: &str| {
        let ChangeKind::Add(inode) = file(path, 7).kind else { unreachable!() };
        Change { path: path.as_bytes().into(), kind: ChangeKind::Unnamed(inode) }
    };
    let own = ".wh..wh.plnk/1.2";
    assert_eq!(show(vec![vec![unnamed(own), link("a", own), link("b", own)]]), "a=7+ b=7+");
    assert!(flat(vec![vec![unnamed(own)], vec![link("a", own)]]).is_err());
    let layers = [vec![unnamed(own)]];
    let (_, hidden, list) = list(layers.map(|l| ("", l))).unwrap();
    assert_eq!((hidden.files, list.len()), (1, 1));
}

#[test]
fn symlinked_parents_are_followed_inside_the_root() {
    let usr =
        || vec![dir("usr"), dir("usr/lib"), symlink("lib", "usr/lib"), symlink("up", "../../usr")];
    let all = "lib=s up=s usr=d usr/lib=d";
    assert_eq!(show(vec![usr(), vec![file("lib/x", 1)]]), format!("{all} usr/lib/x=1"));
    assert_eq!(show(vec![usr(), vec![file("up/lib/x", 1)]]), format!("{all} usr/lib/x=1"));
    assert_eq!(show(vec![usr(), vec![file("lib/x", 1)], vec![whiteout("lib/x")]]), all.to_owned());
    assert!(flat(vec![vec![symlink("l", "l"), file("l/x", 1)]]).is_err());
    assert_eq!(
        show(vec![vec![symlink("l", "new/place"), file("l/x", 1)]]),
        "l=s new=d new/place=d new/place/x=1"
    );
}

#[test]
fn markers_do_not_reach_behind_a_symlink_that_their_layer_replaces() {
    let base = || vec![dir("etc"), file("etc/passwd", 1), symlink("l", "etc")];
    let all = "etc=d etc/passwd=1 l=d l/x=2";
    assert_eq!(show(vec![base(), vec![opaque("l"), dir("l"), file("l/x", 2)]]), all);
    assert_eq!(show(vec![base(), vec![dir("l"), file("l/x", 2), whiteout("l/passwd")]]), all);
    assert_eq!(show(vec![base(), vec![whiteout("l/passwd")]]), "etc=d l=s");
}

#[test]
fn a_file_gives_way_to_an_implied_directory_unless_the_same_layer_made_it() {
    assert_eq!(show(vec![vec![file("a", 1)], vec![file("a/b", 2)]]), "a=d a/b=2");
    let e = flat(vec![vec![file("a", 1), file("a/b", 2)]]).unwrap_err();
    assert!(e.to_string().contains("below /a"), "{e}");
}

#[test]
fn hidden_bytes_are_counted() {
    let (_, hidden) = flat(vec![
        vec![file("a", 100), file("b", 10)],
        vec![file("a", 1), whiteout("b"), file("x/y", 5)],
    ])
    .unwrap();
    let want = HiddenCounts { files: 2, bytes: 110, whiteouts: 1, implied_directories: 1 };
    assert_eq!(hidden, want);
}

#[test]
fn hidden_files_are_listed_with_who_hides_them() {
    let layers = vec![
        vec![file("d/a", 1), file("d/b", 2), file("e/x", 4), file("e/y", 8), file("f", 16)],
        // Twice in one layer; a group of three names, of which two go.
        vec![file("g", 32), file("g", 64), link("h", "g"), link("i", "g"), whiteout("d/a")],
        vec![opaque("e"), file("e/x", 128), file("d", 256), whiteout("i")],
        // The group's last names go, one before the other.
        vec![whiteout("h"), file("f", 512)],
        vec![whiteout("g"), file("z", 1024)],
    ];
    let named =
        |layers: &[Vec<Change>]| layers.iter().cloned().map(|l| ("", l)).collect::<Vec<_>>();
    let (set, hidden, list) = list(named(&layers)).unwrap();
    let mut shown: Vec<_> = list
        .iter()
        .map(|h| format!("{} {} {:?} {}", display(&h.path), h.file.size, h.how, h.by.index()))
        .collect();
    shown.sort();
    assert_eq!(
        shown,
        [
            "/d/a 1 Deleted 1",
            "/d/b 2 Overwritten 2",
            "/e/x 4 Opaque 2",
            "/e/y 8 Opaque 2",
            "/f 16 Overwritten 3",
            "/g 32 Overwritten 1",
            "/g 64 Deleted 4",
        ]
    );
    assert_eq!(hidden.files, list.len() as u64);
    assert_eq!(hidden.bytes, list.iter().map(|h| h.file.size).sum::<u64>());
    // Whoever does not ask gets the same.
    let (same, count) = apply(named(&layers)).unwrap();
    assert_eq!((same.entries(), count), (set.entries(), hidden));
}

#[test]
fn a_name_that_a_link_of_the_same_layer_saves_hides_nothing() {
    let layers = [vec![file("a", 1)], vec![whiteout("a"), link("b", "a")]];
    let (_, hidden, list) = list(layers.map(|l| ("", l))).unwrap();
    assert_eq!((hidden.files, list.len()), (0, 0));
}
