//! What a client shows of an image, and how two of those differ.

use std::collections::{BTreeMap, BTreeSet};

/// A file as a client would see it.
#[derive(Debug, Clone, PartialEq)]
pub struct File {
    /// The tar's letter for its type.
    pub kind: u8,
    pub mode: u32,
    pub owner: (u64, u64),
    pub mtime: (i64, u32),
    /// The content; of a symlink its target.
    pub data: Vec<u8>,
    pub device: (u32, u32),
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// The first name of its hard-link group, if it has several.
    pub first: Option<Vec<u8>>,
    /// A directory that no layer has an entry for.
    pub implied: bool,
}

/// What is at each path; the root is the empty one, if a layer has it.
pub type View = BTreeMap<Vec<u8>, File>;

/// A path for people, who need not read a letter 255 times.
fn show(path: &[u8]) -> String {
    let runs = path.chunk_by(|a, b| a == b);
    let short = runs.map(|run| match run.len() {
        20.. => format!("<{} of {}>", run.len(), run[..1].escape_ascii()),
        _ => run.escape_ascii().to_string(),
    });
    short.collect()
}

/// Lines that say where two views differ.
pub fn differences(want: &View, got: &View) -> Vec<String> {
    let mut lines = Vec::new();
    let paths: BTreeSet<_> = want.keys().chain(got.keys()).collect();
    for path in paths {
        let place = show(path);
        let short = |f: &File| {
            let data = if f.data.len() > 60 {
                format!("{} bytes {}", f.data.len(), crate::image::digest(&f.data))
            } else {
                f.data.escape_ascii().to_string()
            };
            let xattrs: Vec<String> =
                f.xattrs.iter().map(|(k, v)| format!("{k}={}", v.escape_ascii())).collect();
            let first = f.first.as_ref().map(|p| show(p));
            format!(
                "{} {:o} {:?} {:?} {:?} {data:?} {xattrs:?} {first:?}",
                char::from(f.kind),
                f.mode,
                f.owner,
                f.mtime,
                f.device
            )
        };
        match (want.get(path), got.get(path)) {
            (Some(a), Some(b))
                if File { implied: false, ..a.clone() } == File { implied: false, ..b.clone() } => {
            }
            (Some(a), Some(b)) => lines.push(format!("{place}: {} / {}", short(a), short(b))),
            (Some(a), None) => lines.push(format!("{place}: {} / nothing", short(a))),
            (None, b) => {
                lines.push(format!("{place}: nothing / {}", b.map_or_else(String::new, short)));
            }
        }
    }
    lines
}
