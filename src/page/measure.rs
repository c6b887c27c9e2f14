//! The facts of a page, measured.

use std::sync::Arc;

use super::Page;
use crate::base::defaults;
use crate::base::error::{Context, Error, Result};
use crate::base::progress::Progress;
use crate::base::threads;
use crate::bench::{self, Matrix, MatrixOptions, PulledForm, Subject, UpdateSequence};
use crate::inspect::{self, Inspected};
use crate::model::content::Budget;
use crate::plan::{self, Target};
use crate::simulate::{Client, ClientModel, CompressionKind, LINKS, NODE, NamedLink};
use crate::split;
use crate::split::report::{self, LayerReport};
use crate::transport::image::Opened;

/// Compressions on a page. The last is too slow for a sample that says something.
const COMPRESSIONS: [&str; 6] =
    ["gzip:6", "zstd:1", "zstd:3", "zstd:3:long=27", "zstd:9", "zstd:19"];
/// Numbers of layers for the compression of `split`, besides the number that it chooses.
const COUNTS: [u32; 2] = [1, 32];
/// The links over which pulls are simulated: that of a cluster, and a slow one.
const OVER: [NamedLink; 2] = [LINKS[0], LINKS[2]];

/// Options of a page.
#[derive(Debug, Clone, Copy)]
pub struct PageOptions {
    /// Bytes of files to measure compression with.
    pub sample: u64,
    /// The client whose pulls and updates are shown.
    pub client: &'static ClientModel,
}

/// Measures the last of `versions`, each of one image and with a name, oldest first, and the updates
/// between them. Gives the page.
///
/// # Errors
/// If an image can't be read, is not valid or can't be split.
pub fn page(
    versions: &[Opened],
    names: &[String],
    options: &PageOptions,
    splitting: &split::SplitOptions,
    budget: &Arc<Budget>,
    progress: &dyn Progress,
) -> Result<String> {
    let Some((last, name)) = versions.last().zip(names.last()) else {
        return Err(Error::refused("there is no image"));
    };
    let inspecting = inspect::InspectOptions {
        threads: splitting.threads,
        max_size: splitting.max_size,
        ..inspect::InspectOptions::default()
    };
    let pool = threads::pool(splitting.threads)?;
    let Inspected { inspection, rootfs, inventory, pulled, limits } =
        inspect::inspect_and_keep(last, &inspecting, budget, progress)
            .with_context(|| format!("reading {name}"))?;
    let subject = Subject { rootfs, inventory, built: pulled, limits };
    let (split, matrix) = pool.install(|| measure(&subject, options.sample, budget, progress))?;
    let components = &subject.inventory.analysis.components;
    let mut chances: Vec<(String, f64)> =
        components.iter().map(|c| (c.name.clone(), plan::chance_of_change(c))).collect();
    chances.sort_by(|a, b| a.0.cmp(&b.0));
    // The versions are read one after another: the last makes room first.
    let Subject { built, .. } = subject;
    let sequence =
        pool.install(|| UpdateSequence::follow(versions, splitting, budget, progress))?;
    let forms = [
        PulledForm { target: None, layers: built.clone() },
        PulledForm {
            target: Some(split.len() as u32),
            layers: split.iter().map(|l| l.pulled(CompressionKind::Zstd)).collect(),
        },
    ];
    let others = bench::CLIENTS.into_iter().filter(|c| *c != options.client.client);
    let clients: Vec<_> =
        std::iter::once(options.client).chain(others.filter_map(Client::model)).collect();
    let links = OVER.map(|link| (link.name.to_owned(), link.link));
    let page = Page {
        input: name,
        names: &last.names,
        created: last.images[0].config.created(),
        inspection: &inspection,
        built: &built,
        split: &split,
        chances: &chances,
        pulls: &bench::cold_pulls(&forms, &clients, &links, &NODE),
        client: options.client,
        machine: &NODE,
        matrix: &matrix,
        steps: &distinct(names).into_iter().skip(1).zip(sequence.steps()).collect::<Vec<_>>(),
    };
    Ok(page.render())
}

/// Returns the layers as `split` makes them by default, and the sizes by compression and number of layers.
fn measure(
    subject: &Subject,
    sample: u64,
    budget: &Arc<Budget>,
    progress: &dyn Progress,
) -> Result<(Vec<LayerReport>, Matrix)> {
    let planned = plan::PlanOptions::new(Target::AtMost(defaults::LAYERS));
    let plan = plan::plan(&subject.rootfs.files, &subject.inventory, &planned);
    let mut layers = report::layers(&plan, &subject.inventory.analysis, None);
    let compared_at = layers.len() as u32;
    let mut counts: Vec<u32> = COUNTS.into_iter().chain([compared_at]).collect();
    counts.sort_unstable();
    counts.dedup();
    let slow = usize::from(sample < u64::MAX);
    let compressions = &COMPRESSIONS[..COMPRESSIONS.len() - slow];
    let measuring = MatrixOptions::usual(compressions, &counts, compared_at, sample)?;
    let matrix = bench::measure(subject, &measuring, budget, progress)?;
    matrix.set_sizes(compared_at, &mut layers);
    Ok((layers, matrix))
}

/// Returns names without the folders that all of them begin with, and the extension that all end with.
fn distinct(names: &[String]) -> Vec<String> {
    let Some(first) = names.first() else { return Vec::new() };
    let all = |f: &dyn Fn(&str) -> bool| names.iter().all(|name| f(name));
    let mut folders = first.rmatch_indices(['/', ':']).map(|(at, _)| &first[..=at]);
    let before = folders.find(|part| all(&|name| name.starts_with(part))).unwrap_or("");
    let after = first.rfind('.').map_or("", |at| &first[at..]);
    let after = if all(&|name| name[before.len()..].ends_with(after)) { after } else { "" };
    names.iter().map(|name| name[before.len()..name.len() - after.len()].to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_what_they_have_in_common() {
        let distinct =
            |names: &[&str]| distinct(&names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(distinct(&["oci:/a/app-1.oci", "oci:/a/app-2.oci"]), ["app-1", "app-2"]);
        assert_eq!(distinct(&["r/app:1.2", "r/app:1.3"]), ["1.2", "1.3"]);
        assert_eq!(distinct(&["v1.tar", "v2.oci"]), ["v1.tar", "v2.oci"]);
        assert_eq!(distinct(&["é1.tar", "è1.tar"]), ["é1", "è1"]);
        assert!(distinct(&[]).is_empty());
    }
}
