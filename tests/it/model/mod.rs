//! Random stacks of layers, in every form of tar, against a model written from the image spec, and
//! some of them against umoci, containerd and docker on overlayfs (`clients`).
//!
//! `RELAYER_SEED` sets where the draws begin, so the number that a failure names repeats it;
//! `RELAYER_STACKS` sets how many there are.

mod clients;
mod dialect;
mod output;
mod random;
mod spec;
mod stacks;
mod view;

use std::sync::Arc;

use relayer::base::progress::Silent;
use relayer::delta;
use relayer::format::codec::Compression;
use relayer::layers::flatten::{self, Keep};
use relayer::model::content::Budget;
use relayer::model::mtime::MtimePolicy;
use relayer::plan::Target;
use relayer::split::{self, split};
use relayer::transport::bundle::Bundle;
use relayer::transport::image::Opened;
use relayer::transport::open::open_archive;

use super::image::{Codec, Image, archive};
use super::tool;
pub use random::{Random, seed, setting};
use spec::time;
pub use stacks::{Stack, Taste};
use view::{View, differences};

/// More than any stack has.
const ROOM: u64 = 1 << 30;

/// An image as a file that relayer opens.
fn open(image: &Image, random: &mut Random) -> Opened {
    let codecs = [Codec::Plain, Codec::Gzip, Codec::GzipMembers, Codec::Zstd, Codec::ZstdFrames];
    let bytes = match random.below(4) {
        0 => image.docker_legacy(),
        1 => image.docker_skopeo(),
        2 => image.docker_new(),
        _ => archive(&image.oci_files(*random.of(&codecs))),
    };
    let budget = Budget::new(ROOM, None);
    open_archive(Arc::new(bytes), None, None, None, &budget, ROOM).unwrap()
}

fn options(random: &mut Random) -> split::SplitOptions {
    let compression = match random.below(8) {
        0 => Compression::new("gzip", None, None),
        1 => Compression::new("zstd", None, None),
        2 => Compression::new("zstd:chunked", None, None),
        _ => Compression::new("none", None, None),
    };
    let targets = [
        Target::Layers(1),
        Target::Layers(2),
        Target::Layers(3),
        Target::Layers(8),
        Target::Size(2000),
    ];
    let mut update = relayer::plan::update::UpdateOptions::default();
    update.cost_model.max_dead = *random.of(&[0.0, 0.19, 1.0]);
    update.exact = random.one_in(4);
    split::SplitOptions {
        target: *random.of(&targets),
        compression: compression.unwrap(),
        update,
        threads: 1,
        ..Default::default()
    }
}

fn run(
    image: &Opened,
    previous: Option<&Opened>,
    options: &split::SplitOptions,
) -> Result<Bundle, String> {
    let budget = Budget::new(ROOM, None);
    let (bundle, reports) =
        split(image, previous, options, &budget, &Silent).map_err(|e| e.to_string())?;
    if let Target::Layers(most) = options.target
        && previous.is_none()
        && reports[0].layers.len() > most as usize
    {
        return Err(format!("{} layers and not {most}", reports[0].layers.len()));
    }
    Ok(bundle)
}

fn read(image: &Opened) -> Vec<relayer::layers::read::LayerContent> {
    let budget = Budget::new(ROOM, None);
    let layers = &image.images[0].layers;
    flatten::read(layers, Keep::Contents, ROOM, &budget, &Silent).unwrap().layers
}

/// The new image, out of the old one and a delta.
fn by_delta(old: &Opened, new: &Opened) -> Result<Bundle, String> {
    let (old_layers, new_layers) = (read(old), read(new));
    let old_side = delta::ImageContents { image: &old.images[0], layers: &old_layers };
    let new_side = delta::ImageContents { image: &new.images[0], layers: &new_layers };
    let (mut file, budget) = (Vec::new(), Budget::new(ROOM, None));
    delta::make(old_side, new_side, &new.names, 1, &budget, &mut file, &Silent)
        .map_err(|e| e.to_string())?;
    let opened = delta::Delta::open(Arc::new(file)).map_err(|e| e.to_string())?;
    let applied = delta::apply(&opened, &old.images[0], &old_layers, 1, ROOM, &budget, &Silent);
    applied.map(|(bundle, _)| bundle).map_err(|e| e.to_string())
}

/// What a carry-over makes of a new version: what differs in nothing but its time has the old one.
fn carried(old: &View, new: &View) -> View {
    let group = |view: &View, path: &Vec<u8>| -> Vec<Vec<u8>> {
        let first = &view[path].first;
        view.iter()
            .filter(|(_, f)| first.is_some() && f.first == *first)
            .map(|(p, _)| p.clone())
            .collect()
    };
    let mut out = new.clone();
    for (path, file) in &mut out {
        let Some(before) = old.get(path) else { continue };
        let mut same = before.clone();
        (same.mtime, same.implied) = (file.mtime, file.implied);
        if same == *file && group(old, path) == group(new, path) {
            file.mtime = before.mtime;
        }
    }
    out
}

/// An output and what it must show.
struct Case {
    what: String,
    output: Bundle,
    want: View,
}

/// Everything that can be made of a stack.
fn cases(stack: &Stack, random: &mut Random) -> Result<Vec<Case>, String> {
    let opened = open(&stack.image(true, random), random);
    let view = stack.view();
    let mut cases = Vec::new();
    let mut add =
        |what: String, output: Bundle, want: View| cases.push(Case { what, output, want });
    let plain = options(random);
    let what = format!("{:?} {}", plain.target, plain.compression);
    add(what, run(&opened, None, &plain)?, view.clone());
    if random.one_in(3) {
        let clamp = random.one_in(2);
        let policy = if clamp { "clamp:@1600000000" } else { "zero" };
        let options = split::SplitOptions {
            mtime: policy.parse::<MtimePolicy>().unwrap(),
            ..options(random)
        };
        let mut want = view.clone();
        for file in want.values_mut() {
            file.mtime = if clamp { file.mtime.min((1_600_000_000, 0)) } else { (0, 0) };
        }
        add(format!("--mtime {policy}"), run(&opened, None, &options)?, want);
    }
    // A chain of versions, and deltas between them.
    let (mut stack, mut before, mut shown) = (stack.clone(), run(&opened, None, &plain)?, view);
    for version in 2..2 + random.below(3) {
        stack = stack.next(random);
        let opened = open(&stack.image(true, random), random);
        let old = before.reopen().unwrap();
        let options = split::SplitOptions { update: options(random).update, ..plain.clone() };
        let want = if options.update.exact { stack.view() } else { carried(&shown, &stack.view()) };
        let output = run(&opened, Some(&old), &options)?;
        let what = format!(
            "version {version}, --previous, exact {}, --max-dead {}",
            options.update.exact, options.update.cost_model.max_dead
        );
        add(what, output.clone(), want.clone());
        if random.one_in(2) {
            let new = output.reopen().unwrap();
            let back = by_delta(&old, &new)?;
            if back.root.as_ref().map(|d| d.digest) != output.root.as_ref().map(|d| d.digest) {
                return Err(format!("version {version}: another image comes out of the delta"));
            }
            add(format!("version {version}, out of a delta"), back, want.clone());
        }
        if random.one_in(4) {
            // The image of another tool, out of a delta against ours.
            add(
                format!("version {version}, a delta to the input"),
                by_delta(&old, &opened)?,
                View::new(),
            );
        }
        (before, shown) = (output, want);
    }
    Ok(cases)
}

/// Runs a stack through everything; gives what went wrong.
fn check(seed: u64) -> Result<usize, String> {
    let random = &mut Random(seed);
    let taste = *random.of(&[Taste::Careful, Taste::Bold, Taste::Wild]);
    let stack = Stack::new(random, taste);
    let cases = cases(&stack, random)?;
    for case in &cases {
        let tars = output::tars(&case.output);
        if case.what.ends_with("a delta to the input") {
            continue;
        }
        let got = output::view(&tars).map_err(|e| format!("{}: {e}", case.what))?;
        let lines = differences(&case.want, &got);
        if !lines.is_empty() {
            return Err(format!("{}: expected / found\n{}", case.what, lines.join("\n")));
        }
    }
    Ok(cases.len())
}

#[test]
fn every_output_of_a_random_stack_is_what_the_spec_says() {
    let (seed, stacks) = (seed(), setting("RELAYER_STACKS", tool::count(1500, 500)));
    let mut failed = Vec::new();
    let mut outputs = 0;
    for seed in seed..seed + stacks {
        // A panic is as wrong as another file.
        let found = std::panic::catch_unwind(|| check(seed));
        let panic = |p: Box<dyn std::any::Any + Send>| {
            let text = p.downcast_ref::<String>().cloned();
            Err(text
                .or_else(|| p.downcast_ref().map(|s: &&str| (*s).to_owned()))
                .unwrap_or_default())
        };
        match found.unwrap_or_else(panic) {
            Ok(cases) => outputs += cases,
            Err(e) => {
                println!("RELAYER_SEED={seed}: {e}");
                failed.push(seed);
            }
        }
        if failed.len() == 20 {
            break;
        }
    }
    println!("{stacks} stacks, {outputs} outputs");
    assert!(
        failed.is_empty(),
        "RELAYER_STACKS=1 and RELAYER_SEED= one of {failed:?} repeat what failed"
    );
}

#[test]
fn the_text_of_a_time_is_read_again() {
    for text in ["0", "-1.5", "-86400.25", "-0.000000001", "1600000000.000000001"] {
        assert_eq!(time(&spec::time_text(time(text))), time(text), "{text}");
    }
}
