//! Plots of points with labels, as SVG.

use maud::{Markup, html};

use super::chart::{ticks, trimmed};

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
    /// Creates an axis with round ticks and some room around all values, with a range of at least `least`.
    pub(super) fn linear(title: &'static str, values: &[f64], unit: &str, least: f64) -> Self {
        let low = values.iter().copied().fold(f64::MAX, f64::min);
        let high = values.iter().copied().fold(f64::MIN, f64::max);
        let room = ((high - low) * 0.08).max(0.5 * (least - (high - low))).max(1e-3);
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
    let layouts = LAYOUTS.map(|layout| (layout.class, layout.labels(series, x, y)));
    let first =
        series.iter().scan(0, |next, points| Some(std::mem::replace(next, *next + points.len())));
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
                    @for (points, first) in series.iter().zip(first) {
                        @if joined { @for pair in points.windows(2) {
                            line.join.(pair[0].class)
                                x1=(at(x.percent(pair[0].x))) y1=(at(100.0 - y.percent(pair[0].y)))
                                x2=(at(x.percent(pair[1].x))) y2=(at(100.0 - y.percent(pair[1].y))) {}
                        } }
                        @for (i, point) in points.iter().enumerate() {
                            @let (cx, cy) = (at(x.percent(point.x)), at(100.0 - y.percent(point.y)));
                            g role="img" aria-label=(point.text) {
                                title { (point.text) }
                                circle.point.(point.class) cx=(cx) cy=(cy) r="5" {}
                                @for (class, labels) in &layouts {
                                    @if let Some(label) = labels[first + i] {
                                        text.mark.(class).before[label.before] x=(cx) y=(cy)
                                            dx=(if label.before { -9 } else { 9 }) dy=(label.dy) { (point.label) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
            span.xtitle { (x.title) }
        }
    }
}

/// Where a label is, from its point.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Label {
    /// Whether it ends before the point instead of beginning after it.
    before: bool,
    /// Pixels that it is moved down.
    dy: i32,
}

/// Widths of pages for which labels are placed, and the CSS class that shows them there.
struct Layout {
    class: &'static str,
    width: f64,
}

const LAYOUTS: [Layout; 2] =
    [Layout { class: "narrow", width: 290.0 }, Layout { class: "broad", width: 620.0 }];

impl Layout {
    /// Returns the place of each point's label: none if it is empty or would be on another label or point.
    /// Labels grow apart on wider pages.
    fn labels(&self, series: &[Vec<Point>], x: &Axis, y: &Axis) -> Vec<Option<Label>> {
        const HEIGHT: f64 = 320.0;
        const LINE: f64 = 14.0;
        const LETTER: f64 = 6.8;
        const RADIUS: f64 = 6.0;
        let place = |p: &Point| {
            (self.width * x.percent(p.x) / 100.0, HEIGHT * (100.0 - y.percent(p.y)) / 100.0)
        };
        let points: Vec<&Point> = series.iter().flatten().collect();
        let dots = points.iter().map(|p| place(p));
        // Left, right, top and bottom.
        let mut taken: Vec<[f64; 4]> =
            dots.map(|(x, y)| [x - RADIUS, x + RADIUS, y - RADIUS, y + RADIUS]).collect();
        let mut label = |point: &Point| {
            let (px, py) = place(point);
            let wide = LETTER * point.label.chars().count() as f64;
            let tries = [0, -4, 4, -8, 8, -12, 12].into_iter().flat_map(|dy| {
                [Label { before: false, dy: 4 + dy }, Label { before: true, dy: 4 + dy }]
            });
            let edges = |label: &Label| {
                let left = if label.before { px - 9.0 - wide } else { px + 9.0 };
                let middle = py + f64::from(label.dy - 4);
                [left, left + wide, middle - LINE / 2.0, middle + LINE / 2.0]
            };
            // The style sheet leaves room for a label on the right.
            let fits = |[l, r, t, b]: &[f64; 4]| {
                let clear = |o: &[f64; 4]| *r <= o[0] || *l >= o[1] || *b <= o[2] || *t >= o[3];
                *l >= 0.0 && *r <= self.width + 60.0 && taken.iter().all(clear)
            };
            let found = tries.into_iter().find(|label| fits(&edges(label)));
            let found = found.filter(|_| !point.label.is_empty());
            taken.extend(found.iter().map(edges));
            found
        };
        points.into_iter().map(&mut label).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_left_out_where_there_is_no_room() {
        let point = |x: f64, y: f64, label: &str| Point {
            label: label.into(),
            text: String::new(),
            x,
            y,
            class: "c0",
        };
        let mut points: Vec<Point> = (0..9).map(|_| point(5.0, 5.0, "zstd:3")).collect();
        points.push(point(10.0, 0.0, "zstd:3:long=27"));
        points.push(point(0.0, 10.0, ""));
        let axis = || Axis::linear("", &[0.0, 10.0], "", 0.0);
        for layout in LAYOUTS {
            let labels = layout.labels(std::slice::from_ref(&points), &axis(), &axis());
            let shown: Vec<_> = labels[..9].iter().flatten().collect();
            assert!((2..=6).contains(&shown.len()), "{labels:?}");
            assert!(shown.iter().enumerate().all(|(i, label)| {
                shown[..i].iter().all(|o| o.before != label.before || (o.dy - label.dy).abs() >= 14)
            }));
            assert!(labels[9].unwrap().before, "it would leave the page");
            assert_eq!(labels[10], None);
        }
        let flat = Axis::linear("", &[1.0, 1.0], "", 2.0);
        assert!(flat.to - flat.from >= 2.0);
    }
}
