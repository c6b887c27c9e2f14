//! Properties of plans over random file sets.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::model::fileset::{Entry, FileData, Inode, InodeKind, Location, Mtime, parent};
use crate::model::index::{InodeId, SourceId};
use crate::plan::analyze::{Analysis, Component, ComponentId, ComponentKind, Learned};
use crate::simulate::{self, PROFILES};

const KINDS: [ComponentKind; 6] = [
    ComponentKind::OsPackage,
    ComponentKind::System,
    ComponentKind::LanguagePackage,
    ComponentKind::BigFile,
    ComponentKind::Application,
    ComponentKind::State,
];

/// A file set of components: a name, a kind, and estimates of its files.
#[derive(Debug, Clone)]
struct Shape(BTreeMap<String, (ComponentKind, Vec<u64>)>);

impl Shape {
    fn build(&self) -> (FileSet, Inventory) {
        let mut paths: BTreeMap<Vec<u8>, (InodeKind, ComponentId, u64)> = BTreeMap::new();
        let mut components = Vec::new();
        for (i, (name, (kind, files))) in self.0.iter().enumerate() {
            let owner = ComponentId::new(i);
            let learned = Learned::default();
            components.push(Component {
                name: name.clone(),
                kind: *kind,
                churn: None,
                rapid: false,
                learned,
            });
            let dir = format!("top{}/{name}", i % 3);
            paths.insert(dir.clone().into(), (InodeKind::Dir, owner, 0));
            paths.entry(format!("top{}", i % 3).into()).or_insert((InodeKind::Dir, owner, 0));
            paths.insert(format!("{dir}/empty").into(), (InodeKind::Dir, owner, 44));
            for (f, estimate) in files.iter().enumerate() {
                let location = Location::Span { source: SourceId::new(0), offset: 0 };
                let file = FileData { size: estimate * 3, hash: [0; 32], location };
                paths.insert(
                    format!("{dir}/{f:05}").into(),
                    (InodeKind::File(file), owner, *estimate),
                );
            }
        }
        paths.insert(Vec::new(), (InodeKind::Dir, ComponentId::new(0), 0));
        let (mut entries, mut inodes, mut owner, mut estimates) = (vec![], vec![], vec![], vec![]);
        for (path, (kind, component, estimate)) in paths {
            entries.push(Entry { path: path.into(), inode: InodeId::new(inodes.len()) });
            let mtime = Mtime::default();
            inodes.push(Inode { kind, mode: 0, uid: 0, gid: 0, mtime, xattrs: None });
            owner.push(component);
            estimates.push(estimate);
        }
        let analysis = Analysis { components, owner, notes: Vec::new() };
        (FileSet::new(entries, inodes).unwrap(), Inventory { analysis, estimates })
    }

    fn plan(&self, target: Target) -> (FileSet, Analysis, Plan) {
        let (set, inventory) = self.build();
        let plan = plan(&set, &inventory, &PlanOptions::new(target));
        (set, inventory.analysis, plan)
    }
}

/// Sizes as in images: many small, a few large.
fn sizes(max_log: f64) -> impl Strategy<Value = u64> {
    (0.0..1.0f64, 0.0..1.0f64)
        .prop_map(move |(a, b)| 2f64.powf(4.0 + (max_log - 4.0) * a * b) as u64)
}

fn shapes(components: usize) -> impl Strategy<Value = Shape> {
    let component = (0..KINDS.len(), prop::collection::vec(sizes(22.0), 0..12));
    prop::collection::vec(component, 1..components).prop_map(|list| {
        let named = list.into_iter().enumerate();
        Shape(named.map(|(i, (kind, files))| (format!("c{i:03}"), (KINDS[kind], files))).collect())
    })
}

fn check(set: &FileSet, plan: &Plan) {
    let mut seen = BTreeSet::new();
    for layer in &plan.layers {
        let mut here = BTreeSet::new();
        for i in &layer.entries {
            let path = &*set.entries()[*i as usize].path;
            assert!(parent(path).is_none_or(|dir| here.contains(dir)), "the parent comes first");
            assert!(here.insert(path), "no path twice");
        }
        for i in &layer.entries {
            let entry = &set.entries()[*i as usize];
            let childless = set.below(&entry.path).is_empty();
            if !matches!(set.inode(entry).kind, InodeKind::Dir) || childless {
                assert!(seen.insert(*i), "in one layer only");
            }
        }
    }
    for (i, entry) in set.entries().iter().enumerate() {
        if !matches!(set.inode(entry).kind, InodeKind::Dir) || set.below(&entry.path).is_empty() {
            assert!(seen.contains(&(i as u32)), "everything is somewhere");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_path_is_in_its_place(shape in shapes(30), n in 1u32..70) {
        let (set, _, plan) = shape.plan(Target::Layers(n));
        check(&set, &plan);
        let atoms: usize = shape.0.values().map(|(_, files)| files.len() + 1).sum();
        prop_assert_eq!(plan.layers.len(), atoms.min(n as usize));
    }

    #[test]
    fn no_layer_is_larger_than_it_must_be(shape in shapes(120), n in 1u32..64) {
        let (_, _, plan) = shape.plan(Target::Layers(n));
        let total: u64 = plan.layers.iter().map(|l| l.estimate).sum();
        let largest_atom = shape.0.values().flat_map(|(_, f)| f).max().copied().unwrap_or(0).max(44);
        let largest = plan.layers.iter().map(|l| l.estimate).max().unwrap_or(0);
        let mean = total as f64 / plan.layers.len() as f64;
        let allowed = (1.35 * mean).max(largest_atom as f64);
        prop_assert!(largest as f64 <= allowed, "{} of mean {}, largest file {}", largest, mean, largest_atom);
    }

    #[test]
    fn a_size_is_kept(shape in shapes(60), size in 10_000u64..3_000_000) {
        let (set, _, plan) = shape.plan(Target::Size(size));
        check(&set, &plan);
        if plan.layers.len() < MAX_LAYERS as usize {
            for layer in &plan.layers {
                let files: u64 = layer.shares.iter().map(|s| s.files).sum();
                prop_assert!(layer.estimate <= size || files == 1);
            }
        }
    }

    #[test]
    fn names_decide_and_not_numbers(shape in shapes(20), n in 1u32..20) {
        let (set, inventory) = shape.build();
        let one = plan(&set, &inventory, &PlanOptions::new(Target::Layers(n)));
        // The same set with its inodes counted from the other end, and its components too.
        let last_inode = set.inodes().len() - 1;
        let Inventory { analysis, estimates } = inventory;
        let last = analysis.components.len() - 1;
        let entries = set.entries().iter()
            .map(|e| Entry { path: e.path.clone(), inode: InodeId::new(last_inode - e.inode.index()) })
            .collect();
        let back = FileSet::new(entries, set.inodes().iter().rev().cloned().collect()).unwrap();
        let analysis = Analysis {
            components: analysis.components.iter().rev().cloned().collect(),
            owner: analysis.owner.iter().rev().map(|o| ComponentId::new(last - o.index())).collect(),
            notes: Vec::new(),
        };
        let inventory = Inventory { analysis, estimates: estimates.into_iter().rev().collect() };
        let two = plan(&back, &inventory, &PlanOptions::new(Target::Layers(n)));
        let lists = |p: &Plan| p.layers.iter().map(|l| (l.entries.clone(), l.label.clone())).collect::<Vec<_>>();
        prop_assert_eq!(lists(&one), lists(&two));
    }
}

/// A pull of the plan's layers, from its estimates.
fn pull(plan: &Plan, profile: &Profile) -> simulate::Pull {
    let layer = |l: &PlannedLayer| simulate::Layer {
        blob_bytes: l.estimate,
        tar_bytes: l.shares.iter().map(|s| s.bytes).sum::<u64>() + HEADER * l.entries.len() as u64,
        entries: l.entries.len() as u64,
        compression: CompressionKind::Zstd,
    };
    let layers: Vec<simulate::Layer> = plan.layers.iter().map(layer).collect();
    simulate::simulate(&layers, &profile.client, &profile.link, &profile.machine)
}

fn for_profile(profile: &'static Profile, layers: Option<u32>) -> Target {
    Target::Pull { profile, compression: CompressionKind::Zstd, layers }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_number_of_layers_is_faster_than_a_profile_s(
        shape in shapes(40), n in 1u32..32, at in 0..PROFILES.len(),
    ) {
        let profile = &PROFILES[at];
        let (set, _, plan) = shape.plan(for_profile(profile, None));
        check(&set, &plan);
        let best = pull(&plan, profile).makespan;
        let other = shape.plan(Target::Layers(n)).2;
        // 2 % are given for smaller updates, and directories aren't counted.
        prop_assert!(best <= pull(&other, profile).makespan * 1.04);
        let (set, _, plan) = shape.plan(for_profile(profile, Some(n)));
        check(&set, &plan);
        prop_assert!(plan.layers.len() <= n as usize);
    }
}

#[test]
fn pulls_by_profile_are_near_their_bound() {
    for profile in &PROFILES {
        for seed in 0..crate::base::testing::count(4, 1) {
            let pull = pull(&image(seed).plan(for_profile(profile, None)).2, profile);
            println!("{} {:.2} s, at best {:.2} s", profile.name, pull.makespan, pull.bound);
            // Little is left for several unpackers at the end, and who decodes while it loads takes
            // cores from its unpacker. The bound knows of neither.
            let client = &profile.client;
            let alone = client.unpacks == 1 && !client.decodes_twice;
            let limit = if alone { 1.1 } else { 1.25 };
            assert!(pull.makespan <= limit * pull.bound, "{}: {pull:?}", profile.name);
        }
    }
}

#[test]
fn an_empty_file_set_is_one_layer() {
    let plan =
        plan(&FileSet::default(), &Inventory::default(), &PlanOptions::new(Target::Layers(8)));
    assert_eq!(plan.layers.len(), 1);
    assert!(plan.layers[0].entries.is_empty());
}

/// Some 200 components of an image, by a fixed rule.
fn image(seed: u64) -> Shape {
    let mut components = BTreeMap::new();
    for i in 0..200u64 {
        let bytes = blake3::hash(&[seed.to_le_bytes(), i.to_le_bytes()].concat());
        let random = |at: usize| f64::from(bytes.as_bytes()[at]) / 256.0;
        let kind = KINDS[[0, 0, 0, 0, 2, 2, 2, 3, 4, 1][(random(0) * 10.0) as usize]];
        let files = 1 + (random(1) * 20.0) as u64;
        let size = 2f64.powf(8.0 + 14.0 * random(2) * random(3)) as u64;
        let files = (0..files).map(|f| size / 2 + size * f / files).collect();
        components.insert(format!("pkg-{}", &bytes.to_hex()[..8]), (kind, files));
    }
    Shape(components)
}

#[test]
fn a_component_is_not_cut_for_a_little_balance() {
    for (first, second) in [(45, 55), (56, 44)] {
        let files = |n: usize| (ComponentKind::OsPackage, vec![10_000; n]);
        let shape = Shape([("a".into(), files(first)), ("b".into(), files(second))].into());
        let (_, _, plan) = shape.plan(Target::Layers(2));
        let components = |layer: &PlannedLayer| layer.shares.len();
        assert_eq!(plan.layers.iter().map(components).collect::<Vec<_>>(), [1, 1], "{first}");
    }
}

/// What belongs to the system and what every build writes share no layer with anything else, if there is
/// room for that.
#[test]
fn the_system_and_the_state_have_layers_of_their_own() {
    let mut shape = image(3);
    shape.0.insert("state".into(), (ComponentKind::State, vec![40_000; 5]));
    let (_, analysis, plan) = shape.plan(Target::Layers(66));
    let group = |kind| match kind {
        ComponentKind::OsPackage | ComponentKind::System => 0,
        ComponentKind::State => 2,
        _ => 1,
    };
    for layer in &plan.layers {
        let groups: BTreeSet<u8> =
            layer.shares.iter().map(|s| group(analysis[s.component].kind)).collect();
        assert_eq!(groups.len(), 1, "{}", layer.label);
    }
}

/// Bytes of untouched components whose layer has other contents after one component changed, as
/// a share of all bytes, over many changes; beyond the layers that the changed one touches.
fn unrest(layers: u32) -> f64 {
    let (mut moved, mut all) = (0.0, 0.0);
    for seed in 0..12 {
        let base = image(seed);
        let contents = |shape: &Shape| -> Vec<BTreeMap<String, u64>> {
            let (_, analysis, plan) = shape.plan(Target::Layers(layers));
            let name = |c: ComponentId| analysis[c].name.clone();
            plan.layers
                .iter()
                .map(|l| l.shares.iter().map(|s| (name(s.component), s.estimate)).collect())
                .collect()
        };
        let before = contents(&base);
        for (i, name) in base.0.keys().enumerate().step_by(17) {
            let mut after = base.clone();
            match i % 3 {
                0 => drop(after.0.remove(name)),
                1 => after.0.get_mut(name).unwrap().1.iter_mut().for_each(|s| *s += *s / 5),
                _ => drop(after.0.insert(format!("{name}-new"), after.0[name].clone())),
            }
            for layer in contents(&after) {
                let touched = layer.keys().any(|n| n.starts_with(name.as_str()));
                let bytes: u64 = layer.values().sum();
                all += bytes as f64;
                if !touched && !before.contains(&layer) {
                    moved += bytes as f64;
                }
            }
        }
    }
    moved / all
}

#[test]
fn one_change_leaves_most_layers_alone() {
    for layers in [8, 16] {
        let share = unrest(layers);
        println!(
            "{layers} layers: {:.1} % of bytes in layers that changed for a neighbour",
            share * 100.0
        );
        assert!(share < 0.20, "{share}");
    }
}
