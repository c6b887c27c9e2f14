//! `relayer store add`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde_json::{Value, json};

use super::super::{Global, load, output, terminal::Terminal};
use super::Add;
use crate::base::byte_size::ByteSize;
use crate::base::error::{Context, Error, ErrorKind, Result};
use crate::base::progress::Progress;
use crate::base::text::count;
use crate::base::threads;
use crate::model::content::Budget;
use crate::model::digest::Digest;
use crate::model::oci::Platform;
use crate::store::open;
use crate::store::{AddOptions, AddedImage, Packing, Store};
use crate::transport::bundle::Bundle;
use crate::transport::image::Image;
use crate::transport::open::Place;
use crate::transport::{Reference, Transport, name};

/// Adds images, and returns the result of each as JSON.
pub(super) fn add(
    args: &Add,
    dir: &Path,
    global: &Global,
    terminal: &Terminal,
) -> Result<Vec<Value>> {
    if args.images.len() > 1 && !args.name.is_empty() {
        return Err(Error::refused("--name is only for a single image; add the images one by one"));
    }
    // The lock is acquired before anything is read.
    let packing = Packing::new(args.level, global.memory.0, global.threads());
    let (budget, pool) = room(packing)?;
    let store = Store::open(dir, &budget)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs());
    let options = AddOptions { packing, max_size: global.max_size.0, now };
    let mut all = Vec::new();
    for image in &args.images {
        let place = load::place(image, &budget, global)?;
        // Without a tag, all images of the archive or layout.
        let tags = match open::tag(image) {
            None if args.platform.is_none() => place.each().with_context(|| reading(image))?,
            tag => vec![tag.map(str::to_owned)],
        };
        if tags.len() > 1 && !args.name.is_empty() {
            let several = format!(
                "it has {}, and --name is only for a single one; add one by its tag",
                count(tags.len() as u64, "image")
            );
            return Err(Error::refused(several).context(reading(image)));
        }
        for tag in tags {
            let start = Instant::now();
            let (tag, platform) = (tag.as_deref(), args.platform.as_ref());
            let add = || -> Result<AddedImage> {
                let max_size = options.max_size;
                let (mut bundle, images, notes) = whole(&place, tag, platform, max_size)?;
                for note in notes {
                    terminal.note(&note);
                }
                let familiar = |name: &String| name::familiar(name, image.path());
                let mut names = if args.name.is_empty() {
                    bundle.names.iter().map(familiar).collect()
                } else {
                    args.name.clone()
                };
                let mut seen = BTreeSet::new();
                names.retain(|name| seen.insert(name.clone()));
                bundle.names = names;
                store.add(&bundle, &images, options, &budget, terminal)
            };
            let added = pool.install(add).with_context(|| format!("adding {image}"))?;
            print_added(&added, start, global, terminal)?;
            all.push(json!({
                "image": image.to_string(), "added": added,
                "seconds": start.elapsed().as_secs_f64(),
            }));
        }
    }
    Ok(all)
}

/// Reads what a tag refers to: all blobs, the images whose layers can be split into files, and notes for
/// the user.
fn whole(
    place: &Place,
    tag: Option<&str>,
    platform: Option<&Platform>,
    max_size: u64,
) -> Result<(Bundle, Vec<Image>, Vec<String>)> {
    let images = match place.images(tag, platform, max_size) {
        // Artifacts have no layers that could be split into files.
        Err(e) if e.kind() == ErrorKind::Unsupported => Vec::new(),
        Err(e) => return Err(e),
        // Its layers have no digests, so reading it a second time would hash everything again.
        Ok(opened) if opened.transport == Transport::DockerArchive => {
            return Ok((Bundle::unchanged(&opened)?, opened.images, opened.notes));
        }
        Ok(opened) => opened.images,
    };
    let (bundle, notes) = place.unchanged(tag, platform, true, max_size)?;
    Ok((bundle, images, notes))
}

fn reading(image: &Reference) -> String {
    format!("reading {image}")
}

fn print_added(
    added: &AddedImage,
    start: Instant,
    global: &Global,
    terminal: &Terminal,
) -> Result<()> {
    if added.kept > 0 {
        terminal.note(&format!(
            "stored {} without splitting into files, since the blob can't be rebuilt from them",
            count(added.kept, "layer")
        ));
    }
    for (name, digest) in &added.moved {
        terminal.note(&format!(
            "the name {} was moved from image {}, which is still in the store",
            name.escape_debug(),
            digest.short()
        ));
    }
    output::print_step(global, || {
        let what = if added.known {
            "already exists".to_owned()
        } else {
            format!(
                "{} of blobs, {} unpacked are new, stored in {}; {:.1} s",
                ByteSize(added.blob_bytes),
                ByteSize(added.new_bytes),
                ByteSize(added.stored_bytes),
                start.elapsed().as_secs_f64()
            )
        };
        format!("{}: {what}\n", named(&added.names, added.digest))
    })
}

/// Returns the memory budget for what is read, and the thread pool, whose threads use the rest.
pub(super) fn room(packing: Packing) -> Result<(Arc<Budget>, rayon::ThreadPool)> {
    Ok((Budget::new(packing.spool, None), threads::pool(packing.threads)?))
}

/// Returns the first name of an image, or a short digest.
pub(super) fn named(names: &[String], digest: Digest) -> String {
    names.first().map_or_else(|| digest.short(), |name| name.escape_debug().to_string())
}
