//! What shows progress on standard error: bars on a terminal, and elsewhere a line now and then.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::base::byte_size::ByteSize;
use crate::base::text::count;
use crate::base::transfers::{GroupStatus, Transfers};
use crate::model::fileset::printable;

/// How often bars are drawn.
const TICK: Duration = Duration::from_millis(100);

/// How often lines tell of progress where there is no terminal: logs of CI systems end a command that is
/// silent for minutes.
const STEP: Duration = Duration::from_secs(10);

/// Most bars of one image: that many blobs are in transfer at a time.
const MAX_BARS: usize = 8;

/// A stage in progress.
pub(super) struct Stage {
    pub(super) name: String,
    /// 0 if it is not known, or if transfers show the progress.
    pub(super) total: u64,
    pub(super) done: u64,
    pub(super) begun: Instant,
}

impl Stage {
    pub(super) fn new(name: &str, total: u64) -> Self {
        Self { name: name.to_owned(), total, done: 0, begun: Instant::now() }
    }
}

/// Shows a stage and what is transferred meanwhile.
pub(super) enum Display {
    Bars(Bars),
    Lines(Lines),
}

impl Display {
    pub(super) fn new(bars: Option<&MultiProgress>, begun: Instant) -> Self {
        match bars {
            Some(multi) => Self::Bars(Bars { multi: multi.clone(), shown: Vec::new() }),
            None => Self::Lines(Lines { next: begun + STEP, before: BTreeMap::new() }),
        }
    }

    /// Returns when to show something next.
    pub(super) fn next(&self) -> Instant {
        match self {
            Self::Bars(_) => Instant::now() + TICK,
            Self::Lines(lines) => lines.next,
        }
    }

    /// Shows how far everything is, if it is time to.
    pub(super) fn show(&mut self, stage: &Stage, transfers: &Transfers) {
        match self {
            Self::Bars(bars) => bars.show(stage, &transfers.pending(), Instant::now()),
            Self::Lines(lines) if Instant::now() >= lines.next => {
                lines.next += STEP;
                let text = lines.text(stage, &transfers.pending(), Instant::now());
                let _ = io::stderr().write_all(text.as_bytes());
            }
            Self::Lines(_) => {}
        }
    }

    /// Removes what is shown.
    pub(super) fn clear(self) {
        if let Self::Bars(bars) = self {
            bars.shown.iter().for_each(|bar| bar.line.finish_and_clear());
        }
    }
}

/// What a bar shows: the stage, all transfers of an image, or one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shown {
    Stage,
    Group(&'static str, String),
    Blob(&'static str, String, u64),
}

/// How far that is.
struct Row {
    shown: Shown,
    text: String,
    total: u64,
    done: u64,
}

/// Bars of a terminal.
pub(super) struct Bars {
    multi: MultiProgress,
    shown: Vec<Bar>,
}

struct Bar {
    shown: Shown,
    line: ProgressBar,
    /// From when on its rate is computed, and what was done then.
    since: (Instant, u64),
}

impl Bars {
    fn show(&mut self, stage: &Stage, groups: &[GroupStatus], now: Instant) {
        let rows = rows(stage, groups);
        self.shown.retain(|Bar { shown, line, .. }| {
            let stays = rows.iter().any(|row| row.shown == *shown);
            if !stays {
                line.finish_and_clear();
                self.multi.remove(line);
            }
            stays
        });
        for (i, row) in rows.into_iter().enumerate() {
            let known = self.shown.iter().position(|bar| bar.shown == row.shown);
            let since = known.map_or((now, row.done), |i| self.shown[i].since);
            // It begins again if there is less of it.
            let since = if row.done < since.1 { (now, row.done) } else { since };
            let time = now.saturating_duration_since(since.0);
            let numbers = match row.total {
                0 => format!("for {} s", time.as_secs()),
                _ => numbers(row.done, row.total, row.done - since.1, time),
            };
            let prefix = if row.total == 0 { numbers } else { format!("{numbers:>40}") };
            if let Some(Bar { line: bar, since: known, .. }) = known.map(|i| &mut self.shown[i]) {
                *known = since;
                bar.set_length(row.total);
                bar.set_position(row.done);
                bar.set_prefix(prefix);
                bar.set_message(row.text);
            } else {
                let bar = ProgressBar::hidden().with_style(style(&row.shown, row.total));
                let bar = bar.with_prefix(prefix).with_message(row.text).with_position(row.done);
                bar.set_length(row.total);
                let bar = self.multi.insert(i, bar);
                bar.tick();
                self.shown.insert(i, Bar { shown: row.shown, line: bar, since });
            }
        }
    }
}

/// Returns how a row looks.
fn style(shown: &Shown, total: u64) -> ProgressStyle {
    let template = match shown {
        Shown::Stage if total == 0 => "{msg:>8} {prefix}",
        Shown::Stage => "{msg:>8} {wide_bar} {prefix}",
        Shown::Group(..) => "{wide_msg} {prefix}",
        Shown::Blob(..) => "  {msg:12} {wide_bar} {prefix}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Returns the rows to show, from top to bottom.
fn rows(stage: &Stage, groups: &[GroupStatus]) -> Vec<Row> {
    let mut rows = Vec::new();
    let row = || {
        let text = stage.name.clone();
        Row { shown: Shown::Stage, text, total: stage.total, done: stage.done }
    };
    if stage.total > 0 {
        rows.push(row());
    }
    for group in groups.iter().filter(|group| group.begun.is_some()) {
        let (action, image) = (group.action, &group.image);
        let text = format!("{action} {}/{} {}", group.ended(), group.blobs, printable(image));
        let (total, done) = (group.bytes, group.at);
        rows.push(Row { shown: Shown::Group(action, image.clone()), text, total, done });
        for blob in group.running.iter().take(MAX_BARS) {
            let shown = Shown::Blob(action, image.clone(), blob.id);
            let text = blob.name.clone();
            rows.push(Row { shown, text, total: blob.bytes, done: blob.at });
        }
    }
    if rows.is_empty() {
        // Something is shown in any case: how long it has taken so far.
        rows.push(row());
    }
    rows
}

/// Says how many blobs of an image are there.
fn blobs(group: &GroupStatus) -> String {
    let mut text = format!("{} of {}", group.ended(), count(group.blobs, "blob"));
    if group.skipped > 0 {
        let _ = write!(text, " ({} not transferred)", group.skipped);
    }
    text
}

/// Lines of a log.
pub(super) struct Lines {
    next: Instant,
    /// What had been moved for each image at the last line, and when that was.
    before: BTreeMap<(&'static str, String), (Instant, u64)>,
}

impl Lines {
    fn text(&mut self, stage: &Stage, groups: &[GroupStatus], now: Instant) -> String {
        let mut text = String::new();
        if stage.total > 0 {
            let seconds = now.saturating_duration_since(stage.begun);
            let numbers = numbers(stage.done, stage.total, stage.done, seconds);
            let _ = writeln!(text, "{}: {numbers}", stage.name);
        }
        for group in groups {
            let Some(begun) = group.begun else { continue };
            let key = (group.action, group.image.clone());
            let before = self.before.insert(key, (now, group.moved));
            let (since, moved) = before.unwrap_or((begun, 0));
            let moved = group.moved.saturating_sub(moved);
            let seconds = now.saturating_duration_since(since);
            let numbers = numbers(group.at, group.bytes, moved, seconds);
            let (blobs, running) = (blobs(group), group.running.len());
            let (action, image) = (group.action, printable(&group.image));
            let _ = writeln!(text, "{action} {image}: {blobs}, {running} in transfer, {numbers}");
        }
        if text.is_empty() {
            let seconds = now.saturating_duration_since(stage.begun).as_secs();
            let _ = writeln!(text, "{}: for {seconds} s", stage.name);
        }
        text
    }
}

/// Says how much of `total` bytes is done, how many were done a second of late, and how long the rest takes.
fn numbers(done: u64, total: u64, moved: u64, time: Duration) -> String {
    let rate = moved as f64 / time.as_secs_f64().max(0.001);
    let mut text =
        format!("{} of {}, {}/s", ByteSize(done), ByteSize(total), ByteSize(rate as u64));
    if rate >= 1.0 {
        let seconds = total.saturating_sub(done) as f64 / rate;
        let _ = match seconds {
            0.0..120.0 => write!(text, ", {seconds:.0} s left"),
            _ => write!(text, ", {:.0} min left", seconds / 60.0),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(total: u64, done: u64) -> Stage {
        Stage { done, ..Stage::new("encode", total) }
    }

    #[test]
    fn a_line_says_how_far_a_stage_is() {
        let stage = stage(300_000_000, 100_000_000);
        let now = stage.begun + Duration::from_secs(10);
        let text = Lines { next: now, before: BTreeMap::new() }.text(&stage, &[], now);
        assert_eq!(text, "encode: 100.0 MB of 300.0 MB, 10.0 MB/s, 20 s left\n");
    }

    #[test]
    fn lines_say_how_many_blobs_are_done_and_the_rate_since_the_last() {
        let transfers = Transfers::default();
        let group = transfers.group("upload", "app:v1".into());
        let blobs = ["a", "b", "c"].map(|name| group.add(name.into(), 40_000_000));
        let [a, b, c] = blobs;
        a.skip();
        b.set(30_000_000);
        let stage = stage(0, 0);
        let mut lines = Lines { next: stage.begun, before: BTreeMap::new() };
        let begun = transfers.pending()[0].begun.unwrap();
        let now = begun + Duration::from_secs(10);
        assert_eq!(
            lines.text(&stage, &transfers.pending(), now),
            "upload app:v1: 1 of 3 blobs (1 not transferred), 1 in transfer, 30.0 MB of 80.0 MB, \
             3.0 MB/s, 17 s left\n"
        );
        // It begins again after a cut: less is there, but the rate is that of the line.
        b.set(0);
        b.set(10_000_000);
        let now = now + Duration::from_secs(10);
        assert_eq!(
            lines.text(&stage, &transfers.pending(), now),
            "upload app:v1: 1 of 3 blobs (1 not transferred), 1 in transfer, 10.0 MB of 80.0 MB, \
             1.0 MB/s, 70 s left\n"
        );
        b.finish();
        c.set(39_999_999);
        let now = now + Duration::from_secs(1_000);
        let text = lines.text(&stage, &transfers.pending(), now);
        assert!(text.starts_with("upload app:v1: 2 of 3 blobs"), "{text}");
    }

    #[test]
    fn each_blob_in_transfer_has_a_row_below_its_image() {
        let transfers = Transfers::default();
        let group = transfers.group("download", "app:v1".into());
        let blobs: Vec<_> = (0..20).map(|i| group.add(format!("{i:012}"), 100)).collect();
        assert_eq!(rows(&stage(0, 0), &transfers.pending()).len(), 1, "only the stage has begun");
        blobs[0].set(40);
        blobs[3].set(50);
        let shown = rows(&stage(9, 1), &transfers.pending());
        let text = |row: &Row| format!("{} {}/{}", row.text, row.done, row.total);
        let texts: Vec<_> = shown.iter().map(text).collect();
        let expected = [
            "encode 1/9",
            "download 0/20 app:v1 90/2000",
            "000000000000 40/100",
            "000000000003 50/100",
        ];
        assert_eq!(texts, expected);
        for blob in &blobs {
            blob.set(1);
        }
        assert_eq!(rows(&stage(0, 0), &transfers.pending()).len(), 1 + MAX_BARS);
    }

    #[test]
    fn bars_come_and_go_with_their_blobs() {
        let multi = MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::hidden());
        let transfers = Transfers::default();
        let group = transfers.group("upload", "app".into());
        let blob = group.add("0123456789ab".into(), 40_000_000);
        blob.set(10_000_000);
        let mut bars = Bars { multi, shown: Vec::new() };
        let begun = Instant::now();
        let mut show = |total, seconds| {
            let now = begun + Duration::from_secs(seconds);
            bars.show(&stage(total, 0), &transfers.pending(), now);
            let texts = bars.shown.iter().map(|bar| bar.line.prefix().trim().to_owned());
            texts.collect::<Vec<_>>()
        };
        assert_eq!(show(0, 0), ["10.0 MB of 40.0 MB, 0 B/s"; 2]);
        blob.set(30_000_000);
        assert_eq!(show(0, 10), ["30.0 MB of 40.0 MB, 2.0 MB/s, 5 s left"; 2]);
        blob.set(4_000_000);
        assert_eq!(show(0, 20), ["4.0 MB of 40.0 MB, 0 B/s"; 2], "it begins again");
        blob.finish();
        assert_eq!(show(1, 30), ["0 B of 1 B, 0 B/s"], "the stage only");
    }
}
