//! Charts as HTML and SVG that scale with the page: positions are in percent, text keeps its size.
//! Each comes with a table of the same numbers for screen readers.

use maud::{Markup, html};

use super::treemap::{Rect, squarify};
use crate::base::byte_size::ByteSize;
use crate::base::text::count;

/// Returns a figure: a heading, a caption, the picture, and its numbers as a table.
pub(super) fn figure(
    id: &str,
    title: &str,
    text: &str,
    picture: &Markup,
    table: &Markup,
) -> Markup {
    html! {
        section id=(id) {
            figure aria-labelledby={ (id) "-title" } {
                h2 id={ (id) "-title" } { (title) }
                figcaption { (text) }
                (picture)
                details {
                    summary { "Show as a table" }
                    div.scroll tabindex="0" { (table) }
                }
            }
        }
    }
}

/// Returns a table whose first `left` columns are text.
pub(super) fn table(header: &[&str], left: usize, rows: &[Vec<String>]) -> Markup {
    html! {
        table {
            thead { tr { @for (i, h) in header.iter().enumerate() {
                th scope="col" .n[i >= left] { (h) }
            } } }
            tbody { @for row in rows {
                tr { @for (i, cell) in row.iter().enumerate() {
                    @if i == 0 { th scope="row" .n[left == 0] { (cell) } }
                    @else { td .n[i >= left] { (cell) } }
                } }
            } }
        }
    }
}

/// Returns a legend of CSS classes and their names.
pub(super) fn legend(entries: &[(&str, &str)]) -> Markup {
    html! {
        ul.legend aria-hidden="true" {
            @for (class, name) in entries { li { span.key.(class) {} (name) } }
        }
    }
}

/// A tile of a treemap.
#[derive(Clone)]
pub(super) struct Tile {
    pub(super) label: String,
    /// CSS class, which sets its colour.
    pub(super) class: &'static str,
    pub(super) bytes: u64,
}

/// The tiles of one layer.
pub(super) struct Group {
    pub(super) label: String,
    /// Largest first.
    pub(super) tiles: Vec<Tile>,
}

/// Tiles smaller than this share of the picture are drawn as one.
const SMALLEST: f64 = 0.0004;
/// Width and height that the picture is laid out for; it stretches with the page.
const SHAPE: (f64, f64) = (160.0, 90.0);

/// Returns a treemap of groups of tiles, with areas in proportion to bytes.
pub(super) fn treemap(groups: &[Group]) -> Markup {
    let bytes = |g: &Group| g.tiles.iter().map(|t| t.bytes).sum::<u64>();
    let all: u64 = groups.iter().map(bytes).sum();
    let mut order: Vec<&Group> = groups.iter().filter(|g| bytes(g) > 0).collect();
    order.sort_by_key(|g| std::cmp::Reverse(bytes(g)));
    let sizes: Vec<u64> = order.iter().map(|g| bytes(g)).collect();
    let room = Rect { x: 0.0, y: 0.0, w: SHAPE.0, h: SHAPE.1 };
    let place = |r: &Rect, within: &Rect| {
        format!(
            "left:{:.3}%;top:{:.3}%;width:{:.3}%;height:{:.3}%",
            100.0 * (r.x - within.x) / within.w,
            100.0 * (r.y - within.y) / within.h,
            100.0 * r.w / within.w,
            100.0 * r.h / within.h
        )
    };
    html! {
        div.treemap aria-hidden="true" {
            @for (group, rect) in order.iter().zip(squarify(&sizes, room)) {
                div.group style=(place(&rect, &room)) {
                    span.name { (group.label) }
                    div.tiles {
                        @for (tile, inner) in tiles(group, rect, all) {
                            @let text = format!("{}, {}", tile.label, ByteSize(tile.bytes));
                            div.tile.(tile.class) style=(place(&inner, &rect)) title=(text) {
                                span { (tile.label) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Returns the tiles of a group with their positions; tiles that are too small to see are merged.
fn tiles(group: &Group, room: Rect, all: u64) -> Vec<(Tile, Rect)> {
    let large = |t: &&Tile| t.bytes as f64 >= SMALLEST * all as f64;
    let mut shown: Vec<Tile> = group.tiles.iter().filter(large).cloned().collect();
    let small: Vec<&Tile> = group.tiles.iter().filter(|t| !large(t) && t.bytes > 0).collect();
    let rest = small.iter().map(|t| t.bytes).sum();
    if rest > 0 {
        let label = count(small.len() as u64, "small component");
        shown.push(Tile { label, class: "other", bytes: rest });
    }
    shown.sort_by_key(|t| std::cmp::Reverse(t.bytes));
    let sizes: Vec<u64> = shown.iter().map(|t| t.bytes).collect();
    shown.into_iter().zip(squarify(&sizes, room)).collect()
}

/// A bar of one or more parts.
pub(super) struct Bar {
    pub(super) label: String,
    /// CSS class and value of each part.
    pub(super) parts: Vec<(&'static str, f64)>,
    /// The value as text.
    pub(super) text: String,
    /// More text for the tooltip.
    pub(super) note: String,
}

impl Bar {
    fn value(&self) -> f64 {
        self.parts.iter().map(|p| p.1).sum()
    }
}

/// Returns the largest value of all bars.
pub(super) fn largest<'a>(bars: impl IntoIterator<Item = &'a Bar>) -> f64 {
    bars.into_iter().map(Bar::value).fold(f64::MIN_POSITIVE, f64::max)
}

/// Returns horizontal bars on a scale that ends at `largest`.
pub(super) fn bars(rows: &[Bar], largest: f64) -> Markup {
    html! {
        div.bars role="list" {
            @for bar in rows {
                div.row role="listitem" title={ (bar.label) ": " (bar.text) (bar.note) } {
                    span.label { (bar.label) }
                    span.track aria-hidden="true" {
                        @for (class, value) in &bar.parts {
                            span.part.(class) style=(format!("width:{:.3}%", 100.0 * value / largest)) {}
                        }
                    }
                    span.value { (bar.text) }
                }
            }
        }
    }
}

/// A row of a timeline, in seconds.
pub(super) struct Line {
    pub(super) label: String,
    /// CSS class, begin and end of each span.
    pub(super) spans: Vec<(&'static str, f64, f64)>,
}

/// Returns a timeline with an axis that is `seconds` long.
pub(super) fn timeline(rows: &[Line], seconds: f64) -> Markup {
    let percent = |t: f64| 100.0 * t / seconds.max(f64::MIN_POSITIVE);
    html! {
        div.timeline role="list" {
            @for row in rows {
                @let text = row.spans.iter().fold(row.label.clone(), |text, (class, from, to)| {
                    format!("{text}, {class} {from:.1} to {to:.1} s")
                });
                div.row role="listitem" aria-label=(text) title=(text) {
                    span.label aria-hidden="true" { (row.label) }
                    span.track aria-hidden="true" {
                        @for (class, from, to) in &row.spans {
                            span.span.(class) style=(format!(
                                "left:{:.3}%;width:{:.3}%", percent(*from), percent(to - from)
                            )) {}
                        }
                    }
                }
            }
            div.row.axis aria-hidden="true" {
                span.label {}
                span.track {
                    @for tick in ticks(0.0, seconds, 5) {
                        span.tick style=(format!("left:{:.3}%", percent(tick))) { (trimmed(tick)) " s" }
                    }
                }
            }
        }
    }
}

/// A point of a plot.
pub(super) struct Point {
    /// Text next to it.
    pub(super) label: String,
    /// Text of the tooltip.
    pub(super) text: String,
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) class: &'static str,
}

/// An axis with its range and labelled ticks.
pub(super) struct Axis {
    pub(super) title: &'static str,
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Creates an axis with round ticks and some room around all values.
    pub(super) fn linear(title: &'static str, values: &[f64], unit: &str) -> Self {
        let low = values.iter().copied().fold(f64::MAX, f64::min);
        let high = values.iter().copied().fold(f64::MIN, f64::max);
        let room = ((high - low) * 0.08).max(1e-3);
        let (from, to) = (low - room, high + room);
        let label = |t: f64| (t, format!("{}{unit}", trimmed(t)));
        Self { title, from, to, ticks: ticks(from, to, 5).into_iter().map(label).collect() }
    }

    fn percent(&self, value: f64) -> f64 {
        100.0 * (value - self.from) / (self.to - self.from)
    }
}

/// Returns a plot of series of points, with lines between them if `joined`. The style sheet leaves room
/// for labels.
pub(super) fn plot(series: &[Vec<Point>], x: &Axis, y: &Axis, joined: bool) -> Markup {
    let at = |v: f64| format!("{v:.3}%");
    let shifts = shifts(series, x, y);
    let mut shifts = shifts.iter();
    html! {
        div.plot {
            span.ytitle { (y.title) }
            div.area {
                svg role="group" aria-label={ (y.title) " by " (x.title) } {
                    @for (value, text) in &y.ticks {
                        @let top = at(100.0 - y.percent(*value));
                        line.grid x1="0" x2="100%" y1=(top) y2=(top) {}
                        text.ylabel x="0" y=(top) dx="-6" dy="4" { (text) }
                    }
                    @for (value, text) in &x.ticks {
                        @let left = at(x.percent(*value));
                        line.grid x1=(left) x2=(left) y1="0" y2="100%" {}
                        text.xlabel x=(left) y="100%" dy="18" { (text) }
                    }
                    @for points in series {
                        @if joined { @for pair in points.windows(2) {
                            line.join.(pair[0].class)
                                x1=(at(x.percent(pair[0].x))) y1=(at(100.0 - y.percent(pair[0].y)))
                                x2=(at(x.percent(pair[1].x))) y2=(at(100.0 - y.percent(pair[1].y))) {}
                        } }
                        @for point in points {
                            @let (cx, cy) = (at(x.percent(point.x)), at(100.0 - y.percent(point.y)));
                            g role="img" aria-label=(point.text) {
                                title { (point.text) }
                                circle.point.(point.class) cx=(cx) cy=(cy) r="5" {}
                                text.mark x=(cx) y=(cy) dx="8" dy=(shifts.next().unwrap_or(&4)) { (point.label) }
                            }
                        }
                    }
                }
            }
            span.xtitle { (x.title) }
        }
    }
}

/// Returns the vertical offset of each label from its point, in pixels, so that labels don't overlap on
/// a page of usual width.
fn shifts(series: &[Vec<Point>], x: &Axis, y: &Axis) -> Vec<i32> {
    const WIDTH: f64 = 900.0;
    const HEIGHT: f64 = 320.0;
    const LINE: i32 = 13;
    const LETTER: f64 = 7.0;
    let mut placed: Vec<(f64, f64, i32)> = Vec::new();
    let place = |point: &Point| {
        if point.label.is_empty() {
            return 4;
        }
        let left = WIDTH * x.percent(point.x) / 100.0;
        let right = left + 12.0 + LETTER * point.label.len() as f64;
        let top = (HEIGHT * (100.0 - y.percent(point.y)) / 100.0) as i32;
        let free = |at: i32| {
            placed.iter().all(|(l, r, t)| right < *l || left > *r || (at - t).abs() >= LINE)
        };
        let tries = (0..40).flat_map(|i| [top + i, top - i]);
        let at = tries.into_iter().find(|at| free(*at)).unwrap_or(top);
        placed.push((left, right, at));
        4 + at - top
    };
    series.iter().flatten().map(place).collect()
}

/// Returns about `n` round numbers between `from` and `to`.
pub(super) fn ticks(from: f64, to: f64, n: usize) -> Vec<f64> {
    let raw = (to - from).max(f64::MIN_POSITIVE) / n as f64;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|s| s * power).into_iter().find(|s| *s >= raw);
    let step = step.unwrap_or(raw);
    let first = (from / step).ceil() as i64;
    (first..).map(|i| i as f64 * step).take_while(|t| *t <= to * (1.0 + 1e-9)).take(50).collect()
}

/// Formats a number without trailing zeros.
pub(super) fn trimmed(value: f64) -> String {
    let text = if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(2.4, 4.1, 4), [2.5, 3.0, 3.5, 4.0]);
        assert_eq!(ticks(-3.0, 3.0, 3), [-2.0, 0.0, 2.0]);
        assert!(ticks(0.0, 0.0, 5).len() <= 50);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(["0.5", "12", "120"], [trimmed(0.5), trimmed(12.0), trimmed(120.04)]);
    }

    #[test]
    fn names_are_escaped() {
        let tiles = vec![Tile { label: "<b>\"x".into(), class: "os", bytes: 5 }];
        let page = treemap(&[Group { label: "a&b".into(), tiles }]).into_string();
        assert!(page.contains("&lt;b&gt;&quot;x") && page.contains("a&amp;b"), "{page}");
        assert!(!page.contains("<b>"));
    }

    #[test]
    fn small_tiles_are_merged() {
        let tile = |bytes| Tile { label: "t".into(), class: "os", bytes };
        let mut all: Vec<Tile> = (0..5000).map(|_| tile(1)).collect();
        all.insert(0, tile(1_000_000));
        let page = treemap(&[Group { label: "g".into(), tiles: all }]).into_string();
        assert!(page.contains("5,000 small components, 5.0 kB"));
        assert_eq!(page.matches("class=\"tile ").count(), 2);
    }
}
