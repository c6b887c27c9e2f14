//! Secrets, incompatibilities, deleted files and duplicates.

use maud::{Markup, html};

use super::chart::table;
use super::{Page, Section, size};
use crate::base::text::{count, number};
use crate::inspect::{HiddenReport, Severity};
use crate::layers::hidden::How;

/// Number of rows in each list but secrets; `relayer inspect -v` shows all.
const LISTED: usize = 50;

/// Returns a section with its title.
pub(super) fn section(id: &'static str, title: &'static str, content: &Markup) -> Section {
    let markup = html! { section id=(id) { h2 { (title) } (content) } };
    (id, title, markup)
}

/// Returns a table that scrolls.
pub(super) fn list(header: &[&str], left: usize, rows: &[Vec<String>]) -> Markup {
    html! { div.scroll tabindex="0" { (table(header, left, rows)) } }
}

/// Says how many rows of a list are left out.
fn more(all: usize) -> Markup {
    html! { @if all > LISTED {
        p.note { (count((all - LISTED) as u64, "more row")) ": relayer inspect -v" }
    } }
}

impl Page<'_> {
    /// Likely secrets, all of them.
    pub(super) fn secrets(&self) -> Section {
        let secrets = self.inspection.secrets.iter().map(|s| {
            let layer = s.layer.map_or_else(|| "config".to_owned(), |l| l.to_string());
            let seen = match s.hidden_by {
                Some(l) => format!("hidden by {l}, still in the layer"),
                None => "visible".to_owned(),
            };
            vec![s.path.clone(), s.rule.to_owned(), layer, seen]
        });
        let secrets: Vec<_> = secrets.collect();
        let scanned = &self.inspection.scanned;
        let searched = format!(
            "{} searched, {} of packages and {} skipped.",
            count(scanned.files, "file"),
            number(scanned.public),
            count(scanned.binary, "binary file"),
        );
        section(
            "secrets",
            "Likely secrets",
            &html! {
                @if secrets.is_empty() { p.note { "None found. " (searched) } }
                @else {
                    p.note { "Anyone who can pull the image can read them. " (searched) }
                    (list(&["where", "what", "layer", ""], 4, &secrets))
                }
            },
        )
    }

    /// Incompatibilities with clients.
    pub(super) fn warnings(&self) -> Section {
        let rows = self.inspection.warnings.iter().map(|w| {
            let what = if w.outcome == Severity::Fails { "fails" } else { "risk" };
            let clients: Vec<&str> = w.clients.iter().map(|c| c.name()).collect();
            vec![what.to_owned(), clients.join(", "), w.what.clone()]
        });
        let rows: Vec<_> = rows.collect();
        section(
            "clients",
            "Clients that refuse it",
            &html! {
                @if rows.is_empty() { p.note { "None: every client that was checked can pull the image." } }
                @else { (list(&["", "clients", "why"], 3, &rows)) }
            },
        )
    }

    /// Files that upper layers hide.
    pub(super) fn deleted(&self) -> Section {
        let waste = &self.inspection.waste;
        let mut files: Vec<&HiddenReport> = waste.hidden.iter().collect();
        files.sort_by_key(|h| !h.recoverable);
        let row = |h: &&HiddenReport| {
            let how = match h.how {
                How::Deleted | How::Opaque => "deleted",
                How::Overwritten => "overwritten",
            };
            let lost = if h.recoverable { "yes" } else { "the image shows it" };
            let how = format!("{how} by {}", h.hidden_by);
            vec![h.path.clone(), lost.to_owned(), how, size(h.bytes), h.layer.to_string()]
        };
        let rows: Vec<_> = files.iter().take(LISTED).map(row).collect();
        section(
            "deleted",
            "Deleted or overwritten",
            &html! {
                @if rows.is_empty() { p.note { "No lower layer has a file that upper layers hide." } }
                @else {
                    p.note {
                        (size(waste.hidden_bytes)) " in " (count(waste.hidden_files, "file"))
                        " are still in lower layers. Of that, " (size(waste.recoverable_bytes)) " in "
                        (count(waste.recoverable_files, "file"))
                        " can be recovered from them and are nowhere else in the image. Split drops all of it."
                    }
                    (list(&["path", "recoverable", "how", "bytes", "in layer"], 3, &rows))
                    (more(files.len()))
                }
            },
        )
    }

    /// Files with the same content.
    pub(super) fn duplicates(&self) -> Section {
        let waste = &self.inspection.waste;
        let rows = waste.duplicates.iter().take(LISTED).map(|d| {
            let first = d.files.first().map_or_else(String::new, |f| f.path.clone());
            vec![first, size(d.bytes), d.files.len().to_string()]
        });
        let rows: Vec<_> = rows.collect();
        section(
            "duplicates",
            "Duplicates",
            &html! {
                @if rows.is_empty() { p.note { "No two files have the same content." } }
                @else {
                    p.note {
                        (size(waste.duplicate_bytes)) " are in copies of other files. Split puts copies into one layer."
                    }
                    (list(&["path", "could be saved", "copies"], 1, &rows))
                    (more(waste.duplicates.len()))
                }
            },
        )
    }
}
