//! Opening and reading images for commands.

use std::sync::Arc;

use super::{Global, terminal::Terminal};
use crate::base::error::{Context, Error, ErrorKind, Result};
use crate::base::progress::Progress;
use crate::compare::{self, ReadImage};
use crate::layers::flatten::{Flattened, Keep};
use crate::model::content::Budget;
use crate::model::oci::Platform;
use crate::store::open::{self, tag};
use crate::transport::image::Opened;
use crate::transport::open::{Access, Place};
use crate::transport::write::Destination;
use crate::transport::{Reference, Transport};

/// Returns what opening an image needs.
fn access(budget: &Arc<Budget>, global: &Global) -> Result<Access> {
    Ok(Access {
        budget: Arc::clone(budget),
        max_size: global.max_size.0,
        threads: global.threads() as u32,
        registries: global.registry.sources()?,
    })
}

/// Finds the place that a reference names: an archive, a layout, a registry or a store.
pub(super) fn place(image: &Reference, budget: &Arc<Budget>, global: &Global) -> Result<Place> {
    open::place(image, &access(budget, global)?)
}

/// Checks that an image can be written to `reference`.
pub(super) fn destination(
    reference: Reference,
    force: bool,
    inputs: &[&Reference],
    global: &Global,
) -> Result<Destination> {
    let registries = global.registry.destinations()?;
    Destination::new(reference, force, inputs, &registries, &global.registry.mount_from)
}

/// Opens the images that a reference names.
pub(super) fn open(
    image: &Reference,
    platform: Option<&Platform>,
    budget: &Arc<Budget>,
    global: &Global,
) -> Result<Opened> {
    open::open(image, platform, &access(budget, global)?)
}

/// Opens the one image that a reference names.
pub(super) fn open_one(
    image: &Reference,
    platform: Option<&Platform>,
    budget: &Arc<Budget>,
    global: &Global,
) -> Result<Opened> {
    open::open_one(image, platform, &access(budget, global)?)
}

/// Reads all images that a reference names.
pub(super) fn load(
    image: &Reference,
    platform: Option<&Platform>,
    keep: Keep,
    budget: &Arc<Budget>,
    global: &Global,
    terminal: &Terminal,
) -> Result<Vec<ReadImage>> {
    read(image, &open(image, platform, budget, global)?, keep, budget, global, terminal)
}

/// Reads the one image that a reference names, with the contents of its files. Gives its names too.
pub(super) fn load_one(
    image: &Reference,
    platform: Option<&Platform>,
    budget: &Arc<Budget>,
    global: &Global,
    terminal: &Terminal,
) -> Result<(Flattened, Vec<String>)> {
    let opened = open_one(image, platform, budget, global)?;
    let mut images = read(image, &opened, Keep::Contents, budget, global, terminal)?;
    Ok((images.swap_remove(0).flat, opened.names))
}

fn read(
    image: &Reference,
    opened: &Opened,
    keep: Keep,
    budget: &Arc<Budget>,
    global: &Global,
    terminal: &Terminal,
) -> Result<Vec<ReadImage>> {
    let read = || compare::read(opened, keep, global.max_size.0, budget, terminal);
    global.pool()?.install(read).with_context(|| format!("reading {image}"))
}

/// The image that clients have.
#[derive(Clone, Copy)]
pub(super) struct PreviousImage<'a> {
    pub(super) image: &'a Reference,
    /// Whether it may be missing.
    pub(super) if_exists: bool,
}

impl PreviousImage<'_> {
    /// Returns whether an error says that there is no such image, rather than no such registry.
    fn is_missing(self, e: &Error) -> bool {
        let file = e.io_kind() == Some(std::io::ErrorKind::NotFound) && self.image.path().is_some();
        file || e.kind() == ErrorKind::NotFound
    }

    /// Opens it; `None` if it does not exist and need not.
    pub(super) fn open(
        self,
        platform: Option<&Platform>,
        budget: &Arc<Budget>,
        global: &Global,
        terminal: &Terminal,
    ) -> Result<Option<Opened>> {
        let place = match place(self.image, budget, global) {
            Err(e) if self.if_exists && self.is_missing(&e) => {
                terminal.note(&format!("this is the first split, without a previous image: {e}"));
                return Ok(None);
            }
            place => place?,
        };
        let opened = place
            .images(tag(self.image), platform, global.max_size.0)
            .with_context(|| format!("reading {}", self.image))?;
        if opened.transport == Transport::DockerArchive {
            let name = opened.names.first().map_or("NAME", String::as_str);
            terminal.note(&format!(
                "{} has other blobs than an image in a registry; if clients pulled it from one, name it \
                 there: --previous docker://{name}",
                self.image
            ));
        }
        Ok(Some(opened))
    }
}
