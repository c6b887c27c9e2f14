//! Limits on the work that a hostile image can cause.

use super::*;
use crate::base::limits::MAX_LOOKUPS;

#[test]
fn no_time_changes_if_files_name_too_many_paths() {
    let image = Fixture::default().file("b/x.d", "x.o: x.c y.c\n", T).file("b/x.o", "x", T + 5);
    let rootfs = image.file("b/x.c", "x", T + 1).file("z", "z", T + 9).build();
    let after = vec![Mtime::default(); rootfs.files.inodes().len()];
    let find = |lookups| {
        let mut relations = Relations::new(&rootfs, after.clone());
        relations.lookups.set(lookups);
        formats::find(&mut relations).unwrap();
        relations.hold_all_if_exhausted();
        relations.count().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(find(100), []);
    assert_eq!(find(2), [("files that name too many paths", 4)]);
    // Bytes that are read count too.
    let note = [b"x.o: x.c\n", &[b' '; 6400][..]].concat();
    let rootfs = Fixture::default().file("b/x.d", note, T).build();
    let relations = Relations::new(&rootfs, vec![Mtime::default(); 2]);
    relations.head(&rootfs.files.entries()[1], u64::MAX).unwrap();
    assert_eq!(MAX_LOOKUPS - relations.lookups.get(), 100);
}

#[test]
fn a_long_chain_of_compiled_files_is_held_in_few_rounds() {
    // Each compiled file has two sources, and shares the second with the next compiled file.
    const LINKS: usize = 100;
    let time = |secs| Mtime { secs, nanos: 0 };
    let pyc = [&3379u16.to_le_bytes()[..], b"\r\n", &(T as u32).to_le_bytes(), &[0; 8]].concat();
    let file = |bytes: &[u8], offset| {
        let location = Location::Span { source: SourceId::new(0), offset };
        let hash = *blake3::hash(bytes).as_bytes();
        InodeKind::File(FileData { size: bytes.len() as u64, hash, location })
    };
    let inode = |kind| Inode { kind, mode: 0o644, uid: 0, gid: 0, mtime: time(T), xattrs: None };
    // The compiled files come in reverse order, so that one pass goes one step along the chain.
    let sources = (0..=LINKS).map(|_| inode(file(b"", 0)));
    let inodes: Vec<_> = sources.chain((0..LINKS).map(|_| inode(file(&pyc, 0)))).collect();
    let mut entries = Vec::new();
    for i in 0..=LINKS {
        for (link, name) in [(Some(i), "a"), (i.checked_sub(1), "b")] {
            let Some(link) = link else { continue };
            let path = |end| format!("{link:04}{name}.{end}").into_bytes().into();
            entries.push(Entry { path: path("py"), inode: InodeId::new(i) });
            if link < LINKS {
                entries.push(Entry { path: path("pyc"), inode: InodeId::new(2 * LINKS - link) });
            }
        }
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let files = FileSet::new(entries, inodes).unwrap();
    let rootfs = Rootfs { files, contents: Contents::new(vec![Arc::new(pyc)]) };
    let mut relations = Relations::new(&rootfs, vec![time(0); rootfs.files.inodes().len()]);
    let mut compiled = python::find(&mut relations, None).unwrap();
    relations.hold(InodeId::new(0), "a test");
    let mut rounds = 0;
    while relations.hold_conflicts() || compiled.hold_conflicts(&mut relations) {
        rounds += 1;
    }
    assert_eq!(relations.count().values().sum::<u64>(), LINKS as u64 + 1);
    assert!(rounds < LINKS, "{rounds}");
}
