//! Treemaps: rectangles for sizes, squarified (Bruls, Huizing, van Wijk, 2000), and their pictures. Positions
//! are in percent, and labels are shown on pages where they fit.

use maud::{Markup, html};

use super::chart::short;
use super::percent;
use crate::base::byte_size::ByteSize;
use crate::base::text::count;

/// A rectangle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rect {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) w: f64,
    pub(super) h: f64,
}

/// Divides `room` into a rectangle for each size, in the same order, each with an area in proportion and
/// as square as possible. Sizes must be sorted, largest first, and none may be 0.
pub(super) fn squarify(sizes: &[u64], room: Rect) -> Vec<Rect> {
    let mut rects = Vec::with_capacity(sizes.len());
    let (mut left, mut rest) = (room, sizes);
    while !rest.is_empty() {
        let all = rest.iter().sum::<u64>() as f64;
        let short = left.w.min(left.h);
        let area = |size: u64| size as f64 / all * left.w * left.h;
        // A row takes more sizes as long as its worst aspect ratio does not get worse.
        let worst = |n: usize| {
            let row: f64 = rest[..n].iter().map(|s| area(*s)).sum();
            let side = row / short;
            let ratio = |s: u64| (area(s) / side / side).max(side * side / area(s));
            ratio(rest[0]).max(ratio(rest[n - 1]))
        };
        let n = (1..rest.len()).find(|n| worst(n + 1) > worst(*n)).unwrap_or(rest.len());
        let row: f64 = rest[..n].iter().map(|s| area(*s)).sum();
        let side = row / short;
        let mut at = 0.0;
        for size in &rest[..n] {
            let long = area(*size) / side;
            rects.push(if left.w >= left.h {
                Rect { x: left.x, y: left.y + at, w: side, h: long }
            } else {
                Rect { x: left.x + at, y: left.y, w: long, h: side }
            });
            at += long;
        }
        left = if left.w >= left.h {
            Rect { x: left.x + side, w: left.w - side, ..left }
        } else {
            Rect { y: left.y + side, h: left.h - side, ..left }
        };
        rest = &rest[n..];
    }
    rects
}

/// A tile of a treemap.
#[derive(Debug, Clone)]
pub(super) struct Tile {
    pub(super) label: String,
    /// The full name, for its tooltip.
    pub(super) name: String,
    /// CSS class of its kind.
    pub(super) class: &'static str,
    /// CSS class of its chance of a change.
    pub(super) churn: &'static str,
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
/// Width and height of the picture on pages of different widths, in pixels, the narrowest first, and the
/// CSS class of what fits in there. The style sheet has the same widths.
const PAGES: [(f64, f64, &str); 3] =
    [(340.0, 450.0, "always"), (700.0, 390.0, "broad"), (1100.0, 610.0, "wide")];
/// Size of letters, of a line, and of the space around, in pixels.
const LETTER: f64 = 6.3;
const LINE: f64 = 14.0;
const AROUND: f64 = 7.0;
/// Height of a group's name.
const NAME: f64 = 22.0;

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
                    @let head = format!("{} · {}", group.label, percent(bytes(group), all));
                    @if let Some(class) = fits(&[&short(&head, 20)], &rect, 0.0) { span.name.(class) { (head) } }
                    div.tiles {
                        @for (tile, inner) in tiles(group, rect, all) {
                            @let facts = format!("{} · {}", ByteSize(tile.bytes), percent(tile.bytes, all));
                            @let text = format!("{}: {facts}", tile.name);
                            div.tile.(tile.class).(tile.churn) style=(place(&inner, &rect)) title=(text) {
                                @let taken = NAME / rect.h * inner.h / LINE;
                                @if let Some((label, class)) = label(&tile.label, &inner, taken) {
                                    span.(class) {
                                        (label)
                                        @if let Some(class) = fits(&[label, &facts], &inner, taken) {
                                            small.(class) { (facts) }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Returns the CSS class of the narrowest page on which lines of text fit in a rectangle of the picture;
/// `None` if they never do. Names of groups take that many lines from it.
fn fits(lines: &[&str], rect: &Rect, taken: f64) -> Option<&'static str> {
    let letters = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    let fits = |(w, h, _): &&(f64, f64, &str)| {
        LETTER * letters as f64 + AROUND <= rect.w / SHAPE.0 * w
            && LINE * (lines.len() as f64 + taken) + AROUND / 2.0 <= rect.h / SHAPE.1 * h
    };
    // Pages between two of these widths must have room too: a wider one may be lower.
    let first = PAGES.iter().rev().take_while(fits).last();
    first.map(|(_, _, class)| *class)
}

/// Returns the text of a tile and the CSS class of the pages on which it fits: its label, or the end of a
/// label that is a path.
fn label<'a>(label: &'a str, rect: &Rect, taken: f64) -> Option<(&'a str, &'static str)> {
    let end = label.rsplit('/').next().unwrap_or(label);
    [label, end].into_iter().find_map(|text| Some((text, fits(&[text], rect, taken)?)))
}

/// Returns the tiles of a group with their positions; tiles that are too small to see are merged.
fn tiles(group: &Group, room: Rect, all: u64) -> Vec<(Tile, Rect)> {
    let large = |t: &&Tile| t.bytes as f64 >= SMALLEST * all as f64;
    let mut shown: Vec<Tile> = group.tiles.iter().filter(large).cloned().collect();
    let small: Vec<&Tile> = group.tiles.iter().filter(|t| !large(t) && t.bytes > 0).collect();
    let bytes = small.iter().map(|t| t.bytes).sum();
    if bytes > 0 {
        let label = count(small.len() as u64, "small component");
        shown.push(Tile { name: label.clone(), label, class: "other", churn: "other", bytes });
    }
    shown.sort_by_key(|t| std::cmp::Reverse(t.bytes));
    let sizes: Vec<u64> = shown.iter().map(|t| t.bytes).collect();
    shown.into_iter().zip(squarify(&sizes, room)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_in_proportion_and_nothing_overlaps() {
        let sizes = [600, 300, 300, 200, 200, 100, 50, 1];
        let room = Rect { x: 10.0, y: 20.0, w: 160.0, h: 90.0 };
        let rects = squarify(&sizes, room);
        assert_eq!(rects.len(), sizes.len());
        let all: u64 = sizes.iter().sum();
        for (i, (r, size)) in rects.iter().zip(sizes).enumerate() {
            let want = size as f64 / all as f64 * room.w * room.h;
            assert!((r.w * r.h - want).abs() < 1e-6 * want, "{r:?}");
            assert!(r.x >= 9.999 && r.y >= 19.999, "{r:?}");
            assert!(r.x + r.w <= 170.001 && r.y + r.h <= 110.001, "{r:?}");
            assert!(size < 50 || r.w / r.h < 4.0 && r.h / r.w < 4.0, "{r:?}");
            for other in &rects[..i] {
                let apart =
                    |a: f64, al: f64, b: f64, bl: f64| a + al <= b + 1e-6 || b + bl <= a + 1e-6;
                assert!(apart(r.x, r.w, other.x, other.w) || apart(r.y, r.h, other.y, other.h));
            }
        }
    }

    fn tile(label: &str, bytes: u64) -> Tile {
        Tile { label: label.into(), name: label.into(), class: "os", churn: "h0", bytes }
    }

    #[test]
    fn names_are_escaped() {
        let tiles = vec![tile("<b>\"x", 5)];
        let page = treemap(&[Group { label: "a&b".into(), tiles }]).into_string();
        assert!(page.contains("&lt;b&gt;&quot;x") && page.contains("a&amp;b"), "{page}");
        assert!(!page.contains("<b>"));
    }

    #[test]
    fn small_tiles_are_merged_and_labels_fit() {
        let mut all: Vec<Tile> = (0..5000).map(|_| tile("tiny", 1)).collect();
        all.insert(0, tile("large", 1_000_000));
        let page = treemap(&[Group { label: "g".into(), tiles: all }]).into_string();
        assert!(page.contains("5,000 small components: 5.0 kB"));
        assert_eq!(page.matches("class=\"tile ").count(), 2);
        assert!(page.contains("large<small"), "{page}");
        let rect = |w: f64, h: f64| Rect { x: 0.0, y: 0.0, w, h };
        assert_eq!(fits(&["numpy"], &rect(80.0, 45.0), 0.0), Some("always"));
        assert_eq!(fits(&["numpy"], &rect(10.0, 45.0), 0.0), Some("broad"));
        assert_eq!(fits(&["numpy"], &rect(6.0, 45.0), 0.0), Some("wide"));
        assert_eq!(fits(&["numpy"], &rect(2.0, 45.0), 0.0), None);
        assert_eq!(fits(&["numpy"], &rect(80.0, 2.0), 0.0), None);
    }
}
