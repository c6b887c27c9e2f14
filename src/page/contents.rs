//! What is in an image: a treemap of layers and components, its folders, and its largest files.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::chart::{self, figure, legend, table, unprefixed};
use super::findings::{list, section};
use super::treemap::{Group, Tile, treemap};
use super::{Page, Section, percent, size};
use crate::base::text::count;
use crate::inspect::FolderSize;
use crate::plan::analyze::ComponentKind;
use crate::split::report::{ComponentReport, LayerReport};

/// CSS classes and names by kind of component.
const KINDS: [(ComponentKind, &str, &str); 6] = [
    (ComponentKind::OsPackage, "os", "OS package"),
    (ComponentKind::System, "system", "other OS file"),
    (ComponentKind::LanguagePackage, "language", "language package"),
    (ComponentKind::BigFile, "big", "large file"),
    (ComponentKind::Application, "app", "application"),
    (ComponentKind::State, "state", "database, cache or log"),
];

/// CSS classes and names by chance of a change per release, each from this one on.
const CHANCES: [(f64, &str, &str); 5] = [
    (0.0, "h0", "changes in under 10 % of releases"),
    (0.1, "h1", "from 10 %"),
    (0.25, "h2", "from 25 %"),
    (0.5, "h3", "from 50 %"),
    (0.75, "h4", "from 75 %"),
];

/// Number of files in the table, and of folders with files below them.
const LARGEST: usize = 30;

fn kind_class(kind: ComponentKind) -> &'static str {
    KINDS.iter().find(|(k, ..)| *k == kind).map_or("other", |(_, class, _)| class)
}

impl Page<'_> {
    /// A component's chance of a change per release.
    fn chance(&self, name: &str) -> f64 {
        let found = self.chances.binary_search_by(|(other, _)| other.as_str().cmp(name));
        found.map_or(0.0, |at| self.chances[at].1)
    }

    pub(super) fn contents(&self) -> Section {
        let all: u64 = self.split.iter().map(|l| l.bytes).sum();
        let one = |c: &ComponentReport| {
            let chance = self.chance(&c.name);
            let churn = CHANCES.iter().rev().find(|(from, ..)| chance >= *from);
            Tile {
                label: unprefixed(&c.name).to_owned(),
                name: format!("{}, {:.0} % of releases", c.name, 100.0 * chance),
                class: kind_class(c.kind),
                churn: churn.map_or("h0", |(_, class, _)| class),
                bytes: c.bytes,
            }
        };
        let group = |(i, layer): (usize, &LayerReport)| {
            let mut tiles: Vec<Tile> = layer.components.iter().map(one).collect();
            tiles.sort_by_key(|t| std::cmp::Reverse(t.bytes));
            Group { label: format!("{} {}", i + 1, unprefixed(&layer.label)), tiles }
        };
        let groups: Vec<Group> = self.split.iter().enumerate().map(group).collect();
        let row = |i: usize, c: &ComponentReport| {
            let chance = format!("{:.0} %", 100.0 * self.chance(&c.name));
            let (share, files) = (percent(c.bytes, all), c.files.to_string());
            vec![(i + 1).to_string(), c.name.clone(), size(c.bytes), share, files, chance]
        };
        let rows = self.split.iter().enumerate();
        let rows: Vec<_> =
            rows.flat_map(|(i, layer)| layer.components.iter().map(move |c| row(i, c))).collect();
        let kinds = KINDS.map(|(_, class, name)| (class, name));
        let churn = CHANCES.map(|(_, class, name)| (class, name));
        let picture = html! {
            div.tabs {
                input type="radio" name="colour" id="by-kind" checked;
                label for="by-kind" { "colour by kind" }
                input type="radio" name="colour" id="by-churn";
                label for="by-churn" { "colour by churn" }
                div.kinds { (legend(&kinds)) }
                div.churns { (legend(&churn)) }
                (treemap(&groups))
            }
            (self.folders())
        };
        let title = "Contents";
        let text = "Final files by layer of the split image, then by component; areas show bytes.";
        let header = ["layer", "component", "bytes", "share", "files", "changes"];
        let table = table(&header, 2, &rows);
        ("contents", title, figure("contents", title, text, &picture, &table))
    }

    /// The folders as a tree to open, each with its largest files.
    fn folders(&self) -> Markup {
        let mut files: BTreeMap<&str, Vec<(&str, u64)>> = BTreeMap::new();
        for file in &self.inspection.largest {
            let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
            let folder = if folder.is_empty() { "/" } else { folder };
            files.entry(folder).or_default().push((&file.path, file.bytes));
        }
        let Some((root, rest)) = self.inspection.folders.split_first() else { return html! {} };
        html! {
            details.drill {
                summary { "Open the folders" }
                (branch(root, rest, root.bytes, &files))
            }
        }
    }

    pub(super) fn largest(&self) -> Option<Section> {
        let files = &self.inspection.largest;
        let all: u64 = self.split.iter().map(|l| l.bytes).sum();
        let row = |file: &crate::inspect::LargeFile| {
            vec![
                file.path.clone(),
                size(file.bytes),
                percent(file.bytes, all),
                size(file.estimate),
                file.layer.to_string(),
            ]
        };
        let rows: Vec<_> = files.iter().take(LARGEST).map(row).collect();
        let content = html! {
            p.note { "Compressed bytes are estimates for zstd 3; layers are those of the image as built." }
            (list(&["path", "bytes", "share", "compressed", "layer"], 1, &rows))
        };
        (!rows.is_empty()).then(|| section("largest", "Largest files", &content))
    }
}

/// Returns a folder as a list of what is in it. `rest` has the folders after it, those in it first.
fn branch(
    folder: &FolderSize,
    rest: &[FolderSize],
    all: u64,
    files: &BTreeMap<&str, Vec<(&str, u64)>>,
) -> Markup {
    let prefix = if folder.path == "/" { "/".to_owned() } else { format!("{}/", folder.path) };
    let within = rest.iter().take_while(|f| f.path.starts_with(&prefix)).count();
    let rest = &rest[..within];
    let is_child = |f: &FolderSize| !f.path[prefix.len()..].contains('/');
    let children = rest.iter().enumerate().filter(|(_, f)| is_child(f));
    let children: Vec<usize> = children.map(|(i, _)| i).collect();
    let own = files.get(folder.path.as_str()).map(Vec::as_slice).unwrap_or_default();
    let line = |name: &str, bytes: u64, files: Option<u64>| {
        html! {
            span.grow { (name) }
            @if let Some(files) = files { span.note.wide { (count(files, "file")) } }
            span.n { (size(bytes)) } span.n.share { (percent(bytes, all)) }
        }
    };
    html! { ul.tree {
        @for i in &children {
            @let (child, below) = (&rest[*i], &rest[i + 1..]);
            li { details {
                summary { (line(&child.path[prefix.len()..], child.bytes, Some(child.files))) }
                (branch(child, below, all, files))
            } }
        }
        @for (path, bytes) in own {
            li.leaf { (line(path.rsplit('/').next().unwrap_or(path), *bytes, None)) }
        }
        @let known: u64 = children.iter().map(|i| rest[*i].bytes).sum::<u64>()
            + own.iter().map(|(_, bytes)| bytes).sum::<u64>();
        @if folder.bytes > known { li.leaf { (line(chart::REST, folder.bytes - known, None)) } }
    } }
}
