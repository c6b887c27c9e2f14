//! The three-way merge of text files that are lists of records with a key each, such as `/etc/passwd`.

use std::collections::{BTreeMap, BTreeSet};

use super::{Judge, MergeItem, Reason, Side, three_way};

/// A record: its lines without the last line feed.
type Text<'a> = &'a [u8];

/// How a file consists of records, and how two changes of one record are merged.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecordFormat {
    /// What ends a record.
    pub(super) end: &'static [u8],
    /// Returns the key of a record.
    pub(super) key: fn(&[u8]) -> Option<Vec<u8>>,
    /// Merges the old, the app's and the new text of a record if that is possible.
    pub(super) merge: fn(Text<'_>, Text<'_>, Text<'_>) -> Option<Vec<u8>>,
    /// Returns an ID that no two records may have.
    pub(super) id: fn(&[u8]) -> Option<&[u8]>,
}

/// Divides a text after each `end`, and returns the parts without it.
pub(super) fn split<'a>(text: &'a [u8], end: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let part;
        (part, rest) = match memchr::memmem::find(rest, end) {
            Some(at) => (&rest[..at], &rest[at + end.len()..]),
            // The last one may end with fewer line feeds.
            None => (rest.strip_suffix(b"\n").unwrap_or(rest), &b""[..]),
        };
        Some(part)
    })
}

/// Returns the records of a text, in order; `None` if one has no key or two have the same.
fn records<'a>(format: &RecordFormat, text: &'a [u8]) -> Option<Vec<(Vec<u8>, Text<'a>)>> {
    let of = |record| Some(((format.key)(record)?, record));
    let found = split(text, format.end).map(of).collect::<Option<Vec<_>>>()?;
    let keys: BTreeSet<_> = found.iter().map(|(key, _)| key).collect();
    (keys.len() == found.len()).then_some(found)
}

/// Merges the texts of the file at `path`; that of the old base may not exist. Returns `None` if one of
/// them is not such a list, so that the file is to be taken as a whole.
///
/// The order is that of the new base, and then that of the app. If both are sorted, so is the result.
pub(super) fn merge(
    format: &RecordFormat,
    path: &[u8],
    [old, app, new]: [&[u8]; 3],
    judge: &mut Judge<'_>,
) -> Option<Vec<u8>> {
    let (old, app, new) = (records(format, old)?, records(format, app)?, records(format, new)?);
    let sorted = |all: &[(Vec<u8>, Text<'_>)]| all.is_sorted_by(|a, b| a.0 < b.0);
    let all_sorted = sorted(&app) && sorted(&new);
    let mut keys: Vec<&[u8]> = Vec::new();
    let mut seen = BTreeSet::new();
    for (key, _) in new.iter().chain(&app).chain(&old) {
        if seen.insert(key) {
            keys.push(key);
        }
    }
    if all_sorted {
        keys.sort_unstable();
    }
    let maps = [&old, &app, &new].map(|all| {
        all.iter().map(|(key, text)| (key.as_slice(), *text)).collect::<BTreeMap<_, _>>()
    });
    let subject = |key: &[u8]| {
        let name = String::from_utf8_lossy(key).replace('\0', ":");
        MergeItem::Record(path.into(), name)
    };
    let mut merged = Vec::new();
    // Those whose record is the app's, for the check of IDs.
    let mut ids: BTreeMap<Vec<u8>, (&[u8], bool)> = BTreeMap::new();
    for key in keys {
        let [old, app, new] = [0, 1, 2].map(|i| maps[i].get(key).copied());
        let mut made = None;
        let side = three_way(&old, &app, &new).or_else(|| {
            if let (Some(app), Some(new)) = (app, new) {
                made = (format.merge)(old.unwrap_or_default(), app, new);
            }
            let reason = Reason::of(app.is_some(), new.is_some());
            if made.is_some() { None } else { judge.decide(subject(key), reason) }
        });
        let text = match (made, side) {
            (Some(made), _) => Some(made),
            (None, Some(Side::Base)) => new.map(<[u8]>::to_vec),
            (None, _) => app.map(<[u8]>::to_vec),
        };
        let Some(text) = text else { continue };
        // Both sides may have had the two before.
        let added = old.is_none();
        if let Some(id) = (format.id)(&text) {
            match ids.get(id) {
                Some((_, other_added)) if added || *other_added => {
                    let both = |side: usize| {
                        let has = |key: &[u8]| maps[side].contains_key(key);
                        ids.get(id).is_some_and(|(other, _)| has(other) && has(key))
                    };
                    if !both(1) && !both(2) {
                        judge.decide(subject(key), Reason::SameId);
                    }
                }
                Some(_) => {}
                None => {
                    ids.insert(id.to_vec(), (key, added));
                }
            }
        }
        merged.extend_from_slice(&text);
        merged.extend_from_slice(format.end);
    }
    Some(merged)
}

/// Merges texts of fields separated by `by`, one by one; `field` merges two changes of the field with a
/// number.
pub(super) fn fields(
    by: u8,
    [old, app, new]: [&[u8]; 3],
    field: impl Fn(usize, [&[u8]; 3]) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let split = |text: &[u8]| text.split(|b| *b == by).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let [old, app, new] = [old, app, new].map(split);
    if app.len() != new.len() || old.len() != new.len() {
        return None;
    }
    let one = |i: usize| {
        let texts = [&old[i][..], &app[i], &new[i]];
        match three_way(texts[0], texts[1], texts[2]) {
            Some(Side::App) => Some(app[i].clone()),
            Some(Side::Base) => Some(new[i].clone()),
            None => field(i, texts),
        }
    };
    let merged: Option<Vec<Vec<u8>>> = (0..new.len()).map(one).collect();
    Some(merged?.join(&by))
}

/// Merges lists of members separated by commas: the new base's, then those that the app added, without
/// those that the app removed.
pub(super) fn members([old, app, new]: [&[u8]; 3]) -> Vec<u8> {
    let set = |text: &[u8]| -> Vec<Vec<u8>> {
        text.split(|b| *b == b',').filter(|m| !m.is_empty()).map(<[u8]>::to_vec).collect()
    };
    let [old, app, new] = [old, app, new].map(set);
    let [in_old, in_app, in_new] =
        [&old, &app, &new].map(|list| list.iter().collect::<BTreeSet<_>>());
    let stays = |m: &&Vec<u8>| in_app.contains(m) || !in_old.contains(m);
    let added = app.iter().filter(|m| !in_old.contains(m) && !in_new.contains(m));
    let all: Vec<_> = new.iter().filter(stays).chain(added).cloned().collect();
    all.join(&b',')
}
