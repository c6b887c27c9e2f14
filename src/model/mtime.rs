//! Rules for modification times.

use std::fmt;
use std::str::FromStr;

use crate::base::error::{Error, Result};
use crate::model::fileset::{Inode, InodeKind, Mtime};

/// 2000-01-01: the time of everything but regular files under [`MtimePolicy::Stable`]. ZIP can
/// record it, and no client takes it for a time to come.
const STABLE: i64 = 946_684_800;
/// Regular files get a later one, of this many seconds: about a year. So two contents of the same
/// size hardly ever share a time, by which servers and browsers would take them for the same.
const STABLE_RANGE: u32 = 1 << 25;

/// A rule for modification times. Any rule except [`Preserve`](Self::Preserve) changes the final
/// file set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MtimePolicy {
    /// Keep the times of the input.
    Preserve,
    /// Replace later times by this one; see
    /// <https://reproducible-builds.org/specs/source-date-epoch/>.
    Clamp(Mtime),
    /// Set all times to 1970-01-01.
    Zero,
    /// Keep the times of files from packages of the operating system. Derive those of other files from
    /// their content.
    Stable,
}

impl MtimePolicy {
    /// Returns the time that replaces an inode's. If the inode belongs to a package of the operating
    /// system, times before `installed` are the package's own.
    pub fn apply(self, inode: &Inode, installed: Option<Mtime>) -> Mtime {
        match self {
            Self::Preserve => inode.mtime,
            Self::Clamp(latest) => inode.mtime.min(latest),
            Self::Zero => Mtime::default(),
            Self::Stable => match &inode.kind {
                InodeKind::Dir => Mtime { secs: STABLE, nanos: 0 },
                _ if installed.is_some_and(|installed| inode.mtime < installed) => inode.mtime,
                InodeKind::File(file) => {
                    let [a, b, c, d, ..] = file.hash;
                    let after = u32::from_le_bytes([a, b, c, d]) % STABLE_RANGE;
                    Mtime { secs: STABLE + 1 + i64::from(after), nanos: 0 }
                }
                _ => Mtime { secs: STABLE, nanos: 0 },
            },
        }
    }
}

impl FromStr for MtimePolicy {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s.split_once(':') {
            None if s == "preserve" => Some(Self::Preserve),
            None if s == "zero" => Some(Self::Zero),
            None if s == "stable" => Some(Self::Stable),
            Some(("clamp", date)) => date_or_epoch(date)?.map(Self::Clamp),
            _ => None,
        }
        .ok_or_else(|| {
            Error::malformed(format!(
                "{s:?} is not preserve, stable, zero, clamp:SOURCE_DATE_EPOCH or clamp:DATE with a \
                 date like 2025-10-01 or 2025-10-01T12:00:00Z"
            ))
        })
    }
}

impl fmt::Display for MtimePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preserve => f.write_str("preserve"),
            Self::Clamp(latest) => write!(f, "clamp:@{}", latest.secs),
            Self::Zero => f.write_str("zero"),
            Self::Stable => f.write_str("stable"),
        }
    }
}

/// Parses a date in UTC, `@SECONDS`, or the name of the variable `SOURCE_DATE_EPOCH`, whose value is used.
/// Returns `None` if it is none of these.
///
/// # Errors
/// If that variable is not set or not a number.
pub(crate) fn date_or_epoch(text: &str) -> Result<Option<Mtime>> {
    let secs = if text == "SOURCE_DATE_EPOCH" {
        let value = std::env::var(text).map_err(|_| {
            Error::malformed("the environment variable SOURCE_DATE_EPOCH is not set")
        })?;
        let secs = value.parse().map_err(|_| {
            Error::malformed(format!("SOURCE_DATE_EPOCH={value:?} is not a number of seconds"))
        });
        Some(secs?)
    } else {
        parse_date(text)
    };
    Ok(secs.map(|secs| Mtime { secs, nanos: 0 }))
}

/// Parses a date in UTC, or `@SECONDS`, and returns the seconds since 1970.
#[expect(clippy::many_single_char_names, reason = "the parts of a date are well known")]
fn parse_date(text: &str) -> Option<i64> {
    if let Some(secs) = text.strip_prefix('@') {
        return secs.parse().ok();
    }
    let (date, time) = match text.split_once(['T', ' ']) {
        Some((date, time)) => (date, time.strip_suffix('Z')?),
        None => (text, "00:00:00"),
    };
    let field = |text: &str, range: std::ops::RangeInclusive<i64>, digits: usize| {
        let plain = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|n| plain && range.contains(n))
    };
    let [y, m, d]: [&str; 3] = date.split('-').collect::<Vec<_>>().try_into().ok()?;
    let (y, m, d) = (field(y, 1..=9999, 4)?, field(m, 1..=12, 2)?, field(d, 1..=31, 2)?);
    let [h, min, s]: [&str; 3] = time.split(':').collect::<Vec<_>>().try_into().ok()?;
    let (h, min, s) = (field(h, 0..=23, 2)?, field(min, 0..=59, 2)?, field(s, 0..=60, 2)?);
    let leap = y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
    let longest = match m {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if d > longest {
        return None;
    }
    // Days since 1970-01-01, counting years from March so that the leap day comes last
    // (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil).
    let y = if m <= 2 { y - 1 } else { y };
    let era = y.div_euclid(400);
    let year = y.rem_euclid(400);
    let day = (153 * ((m + 9) % 12) + 2) / 5 + d - 1;
    let days = era * 146_097 + year * 365 + year / 4 - year / 100 + day - 719_468;
    Some(days * 86_400 + h * 3_600 + min * 60 + s)
}

/// Formats a time as a date in UTC, to the minute: the inverse of `parse_date`.
#[cfg(feature = "store")]
pub(crate) fn time(secs: u64) -> String {
    let text = rfc3339(Mtime { secs: secs.cast_signed(), nanos: 0 }).unwrap_or_default();
    text.get(..16).map_or_else(String::new, |text| text.replace('T', " ") + "Z")
}

/// Formats a time as Go does in JSON. Returns `None` for years that Go does not accept.
pub(crate) fn rfc3339(time: Mtime) -> Option<String> {
    let (days, secs) = (time.secs.div_euclid(86_400), time.secs.rem_euclid(86_400));
    // Convert days since 1970-01-01 to a date, with years that begin in March (Howard Hinnant,
    // "chrono-Compatible Low-Level Date Algorithms", civil_from_days).
    let days = days.checked_add(719_468)?;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year + i64::from(month >= 10);
    let month = (month + 2) % 12 + 1;
    if !(0..=9999).contains(&year) {
        return None;
    }
    let fraction = match time.nanos {
        0 => String::new(),
        nanos => format!(".{nanos:09}").trim_end_matches('0').to_owned(),
    };
    let (hour, minute, second) = (secs / 3_600, secs / 60 % 60, secs % 60);
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fileset::{FileData, Location};
    use crate::model::index::SourceId;

    fn inode(kind: InodeKind, mtime: Mtime) -> Inode {
        Inode { kind, mode: 0o644, uid: 0, gid: 0, mtime, xattrs: None }
    }

    #[test]
    fn stable_times_depend_on_content_alone_unless_a_package_brought_them() {
        let at = |secs| Mtime { secs, nanos: 0 };
        let file = |content: &str, secs| {
            let location = Location::Span { source: SourceId::new(0), offset: 0 };
            let hash = *blake3::hash(content.as_bytes()).as_bytes();
            inode(InodeKind::File(FileData { size: 1, hash, location }), at(secs))
        };
        let apply = |inode: &Inode, installed| MtimePolicy::Stable.apply(inode, installed);
        let [a, b] = ["a", "b"].map(|content| apply(&file(content, 1_760_000_000), None));
        assert_eq!(apply(&file("a", 5), None), a);
        assert!(a != b && a > at(STABLE) && a < at(STABLE + 400 * 86_400));
        // From a package, from the installation, and changed after it.
        let installed = Some(at(1_760_000_000));
        assert_eq!(apply(&file("a", 1_750_000_000), installed), at(1_750_000_000));
        for later in [1_760_000_000, 1_770_000_000] {
            assert_eq!(apply(&file("a", later), installed), a);
        }
        for kind in [InodeKind::Dir, InodeKind::Fifo] {
            assert_eq!(apply(&inode(kind, at(7)), None), at(STABLE));
        }
        assert_eq!(apply(&inode(InodeKind::Dir, at(7)), installed), at(STABLE));
        assert_eq!(apply(&inode(InodeKind::Fifo, at(7)), installed), at(7));
    }

    #[test]
    fn dates_are_read_as_utc() {
        // From date -u -d … +%s
        for (text, secs) in [
            ("1970-01-01", 0),
            ("2000-02-29", 951_782_400),
            ("2025-10-01T12:34:56Z", 1_759_322_096),
            ("1969-12-31", -86_400),
            ("@17", 17),
        ] {
            assert_eq!(parse_date(text), Some(secs), "{text}");
        }
        for bad in ["", "2025-13-01", "2025-02-29", "25-01-01", "2025-01-01T10:00", "2025-1-1", "x"]
        {
            assert_eq!(parse_date(bad), None, "{bad}");
        }
    }

    #[cfg(feature = "store")]
    #[test]
    fn dates_are_written_as_they_are_read() {
        for days in (0..60_000u64).step_by(13).chain([58, 59, 60, 11_016, 11_017, 47_540, 47_541]) {
            let text = format!("{}:00Z", time(days * 86_400 + 3_660).trim_end_matches('Z'));
            assert_eq!(parse_date(&text), Some((days * 86_400 + 3_660).cast_signed()), "{text}");
        }
    }

    #[test]
    fn only_later_times_are_clamped() {
        let policy: MtimePolicy = "clamp:@100".parse().unwrap();
        let at = |secs, nanos| Mtime { secs, nanos };
        let apply = |policy: MtimePolicy, mtime| policy.apply(&inode(InodeKind::Dir, mtime), None);
        assert_eq!(apply(policy, at(100, 1)), at(100, 0));
        assert_eq!(apply(policy, at(-5, 9)), at(-5, 9));
        assert_eq!(apply(MtimePolicy::Zero, at(7, 7)), at(0, 0));
        assert!("clamp".parse::<MtimePolicy>().is_err());
        assert!("clamp:soon".parse::<MtimePolicy>().is_err());
    }

    #[test]
    fn times_are_written_as_go_does() {
        // From date -u -d @… +%FT%TZ
        for (secs, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (1_759_322_096, 120_000_000, "2025-10-01T12:34:56.12Z"),
            (-1, 999_999_999, "1969-12-31T23:59:59.999999999Z"),
            (253_402_300_799, 0, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(Mtime { secs, nanos }).as_deref(), Some(text));
        }
        for secs in [253_402_300_800, -62_167_219_201, i64::MAX, i64::MIN] {
            assert_eq!(rfc3339(Mtime { secs, nanos: 0 }), None);
        }
    }
}
