//! Short descriptions of layers, for tables and image histories.

use std::fmt::Write as _;

use super::Share;
use crate::plan::analyze::Analysis;

/// Maximum number of names in a description.
const NAMES: usize = 3;
/// Maximum length of a name; longer ones are cut.
const WIDTH: usize = 40;

/// Returns the names of a layer's largest components, and how many more there are.
pub(super) fn label(shares: &[Share], analysis: &Analysis) -> String {
    let mut text = String::new();
    let mut last_kind = "";
    for (i, share) in shares.iter().take(NAMES).enumerate() {
        let name = analysis[share.component].name.as_str();
        let (kind, rest) = name.split_once(':').unwrap_or(("", name));
        if i > 0 {
            text.push_str(", ");
        }
        // `deb:perl, git, …` rather than the same word again and again.
        if kind != last_kind {
            text.push_str(kind);
            text.push(':');
            last_kind = kind;
        }
        if rest.chars().count() > WIDTH {
            let skip = rest.chars().count() - WIDTH + 1;
            text.push('…');
            text.extend(rest.chars().skip(skip));
        } else {
            text.push_str(if rest.is_empty() { "/" } else { rest });
        }
    }
    if shares.len() > NAMES {
        let _ = write!(text, " and {} more", shares.len() - NAMES);
    }
    text
}
