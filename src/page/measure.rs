//! The facts of a page, measured.

use std::sync::Arc;

use super::Page;
use crate::base::error::{Context, Error, Result};
use crate::base::progress::Progress;
use crate::base::threads;
use crate::bench::{self, PulledForm, Subject, UpdateSequence};
use crate::inspect;
use crate::model::content::Budget;
use crate::simulate::{Client, CompressionKind, LINKS, NODE};
use crate::split;
use crate::transport::image::Opened;

/// Measures the last of `versions`, each of one image and with a name, oldest first, and the updates
/// between them. Compression is measured with `sample` bytes of files. Gives the page.
///
/// # Errors
/// If an image can't be read, is not valid or can't be split.
pub fn page(
    versions: &[Opened],
    names: &[String],
    sample: u64,
    options: &split::SplitOptions,
    budget: &Arc<Budget>,
    progress: &dyn Progress,
) -> Result<String> {
    let Some((last, name)) = versions.last().zip(names.last()) else {
        return Err(Error::refused("there is no image"));
    };
    let measuring = bench::MatrixOptions::new(&[], &[], sample)?;
    let pool = threads::pool(options.threads)?;
    let matrix = pool.install(|| -> Result<_> {
        let subject = Subject::read(&last.images[0], options.max_size, budget, progress)
            .with_context(|| format!("reading {name}"))?;
        bench::measure(&subject, &measuring, budget, progress)
    })?;
    let inspecting = inspect::InspectOptions {
        threads: options.threads,
        max_size: options.max_size,
        ..inspect::InspectOptions::default()
    };
    let inspections = inspect::inspect(last, &inspecting, budget, progress)
        .with_context(|| format!("inspecting {name}"))?;
    let sequence = pool.install(|| UpdateSequence::follow(versions, options, budget, progress))?;
    let report = match sequence.last.clone() {
        Some(report) => report,
        None => split::split(last, None, options, budget, progress)?.1.swap_remove(0),
    };
    let pulled = report.layers.iter().map(|l| l.pulled(CompressionKind::Zstd)).collect();
    let forms = [
        PulledForm { target: None, layers: report.input.clone() },
        PulledForm { target: Some(report.layers.len() as u32), layers: pulled },
    ];
    let clients: Vec<_> = bench::CLIENTS.into_iter().filter_map(Client::model).collect();
    let link = (LINKS[0].name.to_owned(), LINKS[0].link);
    let page = Page {
        input: name,
        inspection: &inspections[0],
        split: &report,
        pulls: &bench::cold_pulls(&forms, &clients, &[link], &NODE),
        machine: &NODE,
        matrix: &matrix,
        steps: &names[1..].iter().cloned().zip(sequence.steps()).collect::<Vec<_>>(),
    };
    Ok(page.render())
}
