//! Rectangles for sizes: squarified treemaps (Bruls, Huizing, van Wijk, 2000).

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
}
