//! Charts as HTML and SVG that scale with the page: positions are in percent, text keeps its size.
//! Each comes with a table of the same numbers for screen readers.

use maud::{Markup, html};

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

/// What is not listed one by one.
pub(super) const REST: &str = "everything else";

/// Returns a component's name without its kind, which its colour shows: `numpy` for `python:numpy`.
pub(super) fn unprefixed(name: &str) -> &str {
    let is_kind = |kind: &str| !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_lowercase());
    name.split_once(':').filter(|(kind, _)| is_kind(kind)).map_or(name, |(_, name)| name)
}

/// Shortens a path from the front to about `most` characters.
pub(super) fn short(path: &str, most: usize) -> String {
    let count = path.chars().count();
    if count <= most {
        return path.to_owned();
    }
    format!("…{}", path.chars().skip(count - most).collect::<String>())
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
                        // At the end of a narrow chart there is room on the other side only.
                        span.tick.last[percent(tick) > 80.0] style=(format!("left:{:.3}%", percent(tick))) {
                            (trimmed(tick)) " s"
                        }
                    }
                }
            }
        }
    }
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
    fn numbers_and_names_are_short() {
        assert_eq!(["0.5", "12", "120"], [trimmed(0.5), trimmed(12.0), trimmed(120.04)]);
        let names = ["python:numpy", "dir:srv/app", "a b:c", "none"];
        assert_eq!(names.map(unprefixed), ["numpy", "srv/app", "a b:c", "none"]);
        assert_eq!([short("/usr/lib/é", 40), short("/usr/lib/é", 3)], ["/usr/lib/é", "…b/é"]);
    }
}
