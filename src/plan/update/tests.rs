//! Chains of random file sets: what is kept and what is new make exactly the new set.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::compare::verify::compare;
use crate::model::content::{Budget, Contents, ReadAt};
use crate::model::fileset::{Entry, FileData, Inode, InodeKind, Location, Mtime, display};
use crate::model::index::{InodeId, SourceId};
use crate::model::mtime::MtimePolicy;
use crate::model::rootfs::Rootfs;
use crate::plan::analyze::{Analysis, Component, ComponentId, ComponentKind, Learned};

/// What the files hold, as far as anybody looks.
struct Zeros;

impl ReadAt for Zeros {
    fn read_exact_at(&self, buf: &mut [u8], _: u64) -> std::io::Result<()> {
        buf.fill(0);
        Ok(())
    }

    fn size(&self) -> u64 {
        u64::MAX
    }
}

/// What is at a path: a directory, a symlink, or a file of this content; the mode, the time, and
/// for files whether it is a link to the file before it.
#[derive(Debug, Clone)]
struct Thing {
    kind: u8,
    mode: u8,
    time: u8,
    linked: bool,
}

/// Things by path.
type Tree = BTreeMap<String, Thing>;

fn things() -> impl Strategy<Value = Thing> {
    (0u8..8, 0u8..3, 0u8..3, prop::bool::weighted(0.2))
        .prop_map(|(kind, mode, time, linked)| Thing { kind, mode, time, linked })
}

fn trees() -> impl Strategy<Value = Tree> {
    let name = prop::sample::select(vec!["a", "b", "c", "d"]);
    let path = prop::collection::vec(name, 1..4).prop_map(|parts| parts.join("/"));
    // An image may have attributes for its root.
    let root = prop::option::weighted(0.3, things());
    (prop::collection::btree_map(path, things(), 0..20), root).prop_map(|(mut tree, root)| {
        tree.extend(root.map(|thing| (String::new(), Thing { kind: 0, ..thing })));
        tree
    })
}

/// The next version: some things go, some come, some change.
fn next() -> impl Strategy<Value = (Vec<prop::sample::Index>, Tree)> {
    (prop::collection::vec(any::<prop::sample::Index>(), 0..6), trees())
}

fn evolve(mut tree: Tree, (gone, more): (Vec<prop::sample::Index>, Tree)) -> Tree {
    for index in gone {
        if !tree.is_empty() {
            let path = index.get(&tree.keys().cloned().collect::<Vec<_>>()).clone();
            tree.remove(&path);
        }
    }
    tree.extend(more.into_iter().take(8));
    tree
}

fn build(tree: &Tree) -> FileSet {
    let mut all = tree.clone();
    for path in tree.keys() {
        let mut up = path.rsplit_once('/');
        while let Some((dir, _)) = up {
            // What has something below it is a directory.
            let mut thing = all.get(dir).cloned().unwrap_or(Thing { kind: 0, ..tree[path] });
            thing.kind = 0;
            all.insert(dir.to_owned(), thing);
            up = dir.rsplit_once('/');
        }
    }
    let (mut entries, mut inodes): (Vec<Entry>, Vec<Inode>) = (Vec::new(), Vec::new());
    let mut last_file: Option<InodeId> = None;
    let mut sorted: Vec<_> = all.into_iter().collect();
    sorted.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
    for (path, thing) in sorted {
        let kind = match thing.kind {
            0 | 1 => InodeKind::Dir,
            2 => InodeKind::Symlink { target: b"a"[..].into() },
            n => InodeKind::File(FileData {
                size: u64::from(n) * 100_000,
                hash: [n; 32],
                location: Location::Span { source: SourceId::new(0), offset: 0 },
            }),
        };
        let file = matches!(kind, InodeKind::File(_));
        let linked = last_file.filter(|_| file && thing.linked);
        let inode = linked.unwrap_or_else(|| {
            let mtime = Mtime { secs: i64::from(thing.time), nanos: 0 };
            let mode = 0o600 + u32::from(thing.mode);
            inodes.push(Inode { kind, mode, uid: 0, gid: 0, mtime, xattrs: None });
            InodeId::new(inodes.len() - 1)
        });
        last_file = if file { Some(inode) } else { last_file };
        entries.push(Entry { path: path.into_bytes().into(), inode });
    }
    FileSet::new(entries, inodes).unwrap()
}

/// A component for every second inode.
fn inventory(files: &FileSet) -> Inventory {
    let count = files.inodes().len().div_ceil(2).max(1);
    let component = |i| Component {
        name: format!("c{i}"),
        kind: [ComponentKind::OsPackage, ComponentKind::Application, ComponentKind::State][i % 3],
        churn: None,
        rapid: false,
        learned: Learned::default(),
    };
    let analysis = Analysis {
        components: (0..count).map(component).collect(),
        owner: (0..files.inodes().len()).map(|i| ComponentId::new(i / 2)).collect(),
        notes: Vec::new(),
    };
    let estimate = |inode: &Inode| match &inode.kind {
        InodeKind::File(file) => file.size / 3 + 44,
        _ => 44,
    };
    Inventory { analysis, estimates: files.inodes().iter().map(estimate).collect() }
}

/// The changeset of a planned layer, as it will be read again.
pub(super) fn written(files: &FileSet, layer: &PlannedLayer) -> OldLayer {
    let mut first: BTreeMap<InodeId, &Entry> = BTreeMap::new();
    let mut changes: Vec<Change> = Vec::new();
    let whiteouts = layer.whiteouts.iter();
    changes.extend(whiteouts.map(|p| Change { path: p.clone(), kind: ChangeKind::Whiteout }));
    for at in &layer.entries {
        let entry = &files.entries()[*at as usize];
        let inode = files.inode(entry).clone();
        let leader = *first.entry(entry.inode).or_insert(entry);
        let what = if leader.path == entry.path {
            ChangeKind::Add(inode)
        } else {
            ChangeKind::Link { target: leader.path.clone(), metadata: inode }
        };
        changes.push(Change { path: entry.path.clone(), kind: what });
    }
    let (name, blob_bytes) = (layer.label.clone(), layer.estimate.max(1));
    OldLayer { name, changes, blob_bytes, must_drop: false }
}

fn options() -> impl Strategy<Value = UpdateOptions> {
    let client =
        prop_oneof![Just(TargetClients::Any), Just(TargetClients::Chain), Just(TargetClients::Set)];
    let purge = prop::option::of(prop::sample::select(vec!["/a", "/b/c", "**/d"]));
    (client, 0.0..1.0f64, 0.0..0.6f64, 2u32..20, purge).prop_map(
        |(clients, beta, max_dead, max_layers, purge)| UpdateOptions {
            cost_model: CostModel { clients, beta, max_dead, max_layers },
            purge: purge.iter().map(|p| p.parse().unwrap()).collect(),
            ..UpdateOptions::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn kept_and_new_layers_make_the_new_file_set(
        start in trees(), steps in prop::collection::vec(next(), 1..5), options in options(),
        target in 1u32..8,
    ) {
        let mut tree = start;
        let mut old = build(&tree);
        let target = Target::Layers(target);
        let first = plan(&old, &inventory(&old), &plan::PlanOptions::new(target));
        let mut stack: Vec<OldLayer> = first.layers.iter().map(|l| written(&old, l)).collect();
        for step in steps {
            tree = evolve(tree, step);
            let contents = Contents::new(vec![Arc::new(Zeros)]);
            let mut rootfs = Rootfs { files: build(&tree), contents };
            carry_over(&mut rootfs, &Budget::new(0, None), &old, MtimePolicy::Preserve, &[]).unwrap();
            let files = rootfs.files;
            let inventory = inventory(&files);
            let new = NewImage { files: &files, inventory: &inventory, target, base: 0, for_updates: true };
            let update = super::update(new, &old, &stack, dead_files(&files, &stack), [], &options).unwrap();
            let kept = update.decisions.iter().map(|f| f.verdict == Verdict::Kept);
            let mut next: Vec<OldLayer> =
                stack.into_iter().zip(kept).filter(|(_, k)| *k).map(|(l, _)| l).collect();
            for layer in &next {
                for change in &layer.changes {
                    let now = files.resolve(&change.path).and_then(|path| files.get(&path));
                    let dead = !matches!(&change.kind, ChangeKind::Add(Inode { kind: InodeKind::File(f), .. })
                        if matches!(now.map(|i| &i.kind), Some(InodeKind::File(g)) if f.hash == g.hash));
                    let file = matches!(&change.kind, ChangeKind::Add(Inode { kind: InodeKind::File(_), .. }));
                    let purged = options.purge.iter().any(|p| p.matches(&change.path));
                    prop_assert!(!(file && dead && purged), "{} is to be purged", display(&change.path));
                }
            }
            next.extend(update.plan.layers.iter().map(|l| written(&files, l)));
            let many = next.len() as u32;
            prop_assert!(update.plan.layers.is_empty() || many <= options.cost_model.max_layers);
            let layers = next.iter().map(|l| (l.name.as_str(), l.changes.clone()));
            let (got, _) = crate::layers::tree::apply(layers).unwrap();
            let differences = compare(&files, &got);
            prop_assert!(differences.is_empty(), "{}", differences[0]);
            // An image on top of itself is itself.
            let options = UpdateOptions { purge: Vec::new(), ..options.clone() };
            let dead = dead_files(&files, &next);
            let again = super::update(new, &files, &next, dead, [], &options).unwrap();
            prop_assert!(again.plan.layers.is_empty());
            prop_assert!(again.decisions.iter().all(|f| f.verdict == Verdict::Kept));
            (old, stack) = (files, next);
        }
    }
}
