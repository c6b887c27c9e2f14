//! PAX extended headers: `LENGTH KEY=VALUE\n`, where the length counts the whole record. Values
//! may hold any byte, newlines too, so only the length tells where a record ends.

use crate::error::{Error, Result};
use crate::fileset::{Mtime, Xattrs};

/// Clients read extended attributes from keys with this prefix.
pub(super) const XATTR: &[u8] = b"SCHILY.xattr.";
pub(super) const SPARSE: &[u8] = b"GNU.sparse.";

/// What an extended header says, as far as clients heed it.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Mtime>,
    pub(super) xattrs: Xattrs,
    pub(super) sparse: SparseKeys,
}

/// The keys of GNU's sparse formats 0.0, 0.1 and 1.0
/// (<https://www.gnu.org/software/tar/manual/html_section/Sparse-Formats.html>).
#[derive(Debug, Default)]
pub(super) struct SparseKeys {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    /// `GNU.sparse.size` or `GNU.sparse.realsize`.
    pub(super) size: Option<u64>,
    /// Offsets and lengths in turn, of 0.0 and 0.1.
    pub(super) map: Vec<u64>,
    /// Whether there is any key of 0.x that makes a file sparse.
    pub(super) old: bool,
}

impl Pax {
    /// Reads the records of a local (`x`) header.
    pub(super) fn parse(data: &[u8]) -> Result<Self> {
        let mut pax = Self::default();
        each(data, |key, value| pax.take(key, value))?;
        // The last of several records of one attribute counts.
        pax.xattrs.sort_by(|a, b| a.0.cmp(&b.0));
        let mut last = Xattrs::with_capacity(pax.xattrs.len());
        for x in std::mem::take(&mut pax.xattrs) {
            last.pop_if(|l| l.0 == x.0);
            last.push(x);
        }
        last.retain(|x| !x.0.is_empty());
        pax.xattrs = last;
        Ok(pax)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        // An empty value takes a record back.
        let text = || (!value.is_empty()).then(|| value.to_vec());
        let id = |n: Option<i64>| match n.map(u32::try_from).transpose() {
            Ok(id) => Ok(id),
            Err(_) => Err(bad(key, value, "no user or group ID")),
        };
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.link_path = text(),
            b"size" => self.size = unsigned(key, value)?,
            b"uid" => self.uid = id(signed(key, value)?)?,
            b"gid" => self.gid = id(signed(key, value)?)?,
            b"mtime" => self.mtime = time(key, value)?,
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    self.xattrs.push((name.into(), value.into()));
                } else if let Some(rest) = key.strip_prefix(SPARSE) {
                    self.take_sparse(rest, key, value)?;
                }
            }
        }
        Ok(())
    }

    fn take_sparse(&mut self, rest: &[u8], key: &[u8], value: &[u8]) -> Result<()> {
        let number = || unsigned(key, value);
        let keys = &mut self.sparse;
        match rest {
            b"major" => keys.major = number()?,
            b"minor" => keys.minor = number()?,
            b"name" => keys.name = Some(value.to_vec()),
            b"size" | b"realsize" => keys.size = number()?,
            b"offset" | b"numbytes" => {
                let is_offset = rest == b"offset";
                if is_offset != keys.map.len().is_multiple_of(2) {
                    return Err(bad(key, value, "out of turn"));
                }
                keys.old = true;
                keys.map.extend(number()?);
            }
            b"map" => {
                keys.old = true;
                for part in value.split(|b| *b == b',') {
                    keys.map.extend(unsigned(key, part)?);
                }
            }
            b"numblocks" => keys.old = true,
            _ => {}
        }
        Ok(())
    }
}

/// Checks a global (`g`) header. Go, and so every stock client, passes over what it says; keys
/// that would change where data lies make readers disagree, so they are refused.
pub(super) fn check_global(data: &[u8]) -> Result<()> {
    each(data, |key, value| {
        if matches!(key, b"size" | b"path" | b"linkpath") || key.starts_with(SPARSE) {
            return Err(bad(key, value, "in a global header, where clients disagree on it"));
        }
        Ok(())
    })
}

fn bad(key: &[u8], value: &[u8], why: &str) -> Error {
    let value = &value[..value.len().min(40)];
    Error::malformed(format!("PAX record {}={} is {why}", key.escape_ascii(), value.escape_ascii()))
}

/// Goes through records, checked as Go's `parsePAXRecord` and `validPAXRecord` do.
pub(super) fn each(
    mut data: &[u8],
    mut take: impl FnMut(&[u8], &[u8]) -> Result<()>,
) -> Result<()> {
    let broken = || Error::malformed("a PAX record's stated length does not fit it");
    while !data.is_empty() {
        let space = data.iter().take(20).position(|b| *b == b' ').ok_or_else(broken)?;
        let length = std::str::from_utf8(&data[..space])
            .ok()
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|digits| digits.parse::<usize>().ok())
            .filter(|n| *n > space + 1 && *n <= data.len())
            .ok_or_else(broken)?;
        let (record, rest) = data.split_at(length);
        let record = record[space + 1..].strip_suffix(b"\n").ok_or_else(broken)?;
        let equals = record.iter().position(|b| *b == b'=').filter(|i| *i > 0);
        let (key, value) = record.split_at(equals.ok_or_else(broken)?);
        let value = &value[1..];
        let text = matches!(key, b"path" | b"linkpath" | b"uname" | b"gname");
        if key.contains(&0) || (text && value.contains(&0)) {
            return Err(bad(key, value, "not valid: it has a NUL"));
        }
        take(key, value)?;
        data = rest;
    }
    Ok(())
}

fn signed(key: &[u8], value: &[u8]) -> Result<Option<i64>> {
    if value.is_empty() {
        return Ok(None);
    }
    let parsed = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
    parsed.map(Some).ok_or_else(|| bad(key, value, "no number"))
}

pub(super) fn unsigned(key: &[u8], value: &[u8]) -> Result<Option<u64>> {
    let number = signed(key, value)?;
    let unsigned = number.map(u64::try_from).transpose();
    unsigned.map_err(|_| bad(key, value, "negative"))
}

/// `[-]SECONDS[.FRACTION]`; digits beyond nanoseconds are cut off, as Go does.
pub(super) fn time(key: &[u8], value: &[u8]) -> Result<Option<Mtime>> {
    let wrong = || bad(key, value, "no time");
    let Some(dot) = value.iter().position(|b| *b == b'.') else {
        return Ok(signed(key, value)?.map(|secs| Mtime { secs, nanos: 0 }));
    };
    let (whole, fraction) = (&value[..dot], &value[dot + 1..]);
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(wrong());
    }
    let negative = whole.starts_with(b"-");
    let secs = match whole {
        b"" | b"-" | b"+" => 0,
        _ => signed(key, whole)?.ok_or_else(wrong)?,
    };
    let nanos = (0..9).fold(0, |n, i| n * 10 + fraction.get(i).map_or(0, |d| u32::from(d - b'0')));
    Ok(Some(match (negative, nanos) {
        (true, 1..) => {
            Mtime { secs: secs.checked_sub(1).ok_or_else(wrong)?, nanos: 1_000_000_000 - nanos }
        }
        _ => Mtime { secs, nanos },
    }))
}

/// The text of a time, without zeros at its end.
pub(super) fn time_text(time: Mtime) -> String {
    if time.nanos == 0 {
        return time.secs.to_string();
    }
    // -1.25 s is stored as -2 s and 750,000,000 ns.
    let (sign, secs, nanos) = if time.secs < 0 {
        ("-", time.secs.unsigned_abs() - 1, 1_000_000_000 - time.nanos)
    } else {
        ("", time.secs.unsigned_abs(), time.nanos)
    };
    let text = format!("{sign}{secs}.{nanos:09}");
    text.trim_end_matches('0').to_owned()
}

/// Appends a record.
pub(super) fn push(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    out.extend_from_slice(record_len(key, value).to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Bytes of a record. The length counts its own digits.
fn record_len(key: &[u8], value: &[u8]) -> usize {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(list: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (k, v) in list {
            push(&mut out, k, v);
        }
        out
    }

    #[test]
    fn values_may_hold_newlines_and_what_follows_is_read() {
        let cap = b"\x01\0\0\x02\x0a\0\n=\n";
        let data = records(&[(b"SCHILY.xattr.security.capability", cap), (b"uid", b"5000000")]);
        let pax = Pax::parse(&data).unwrap();
        assert_eq!(pax.uid, Some(5_000_000));
        assert_eq!(pax.xattrs, [(b"security.capability"[..].into(), cap[..].into())]);
    }

    #[test]
    fn the_last_record_of_a_key_counts_and_an_empty_one_takes_it_back() {
        let data = records(&[
            (b"path", b"a"),
            (b"path", b""),
            (b"SCHILY.xattr.user.x", b"1"),
            (b"SCHILY.xattr.user.x", b"2"),
        ]);
        let pax = Pax::parse(&data).unwrap();
        assert_eq!(pax.path, None);
        assert_eq!(pax.xattrs, [(b"user.x"[..].into(), b"2"[..].into())]);
    }

    #[test]
    fn broken_records_are_errors() {
        let good = records(&[(b"path", b"a")]);
        assert!(Pax::parse(&good).is_ok());
        let cases: [&[u8]; 9] = [
            b"9 path=a",
            b"99 path=a\n",
            b"x path=a\n",
            b"10 path=aa\n3",
            b"5 =a\n",
            b"8 patha\n",
            b"+10 path=a\n",
            &records(&[(b"path", b"a\0b")]),
            &records(&[(b"uid", b"-1")]),
        ];
        for bad in cases {
            assert!(Pax::parse(bad).is_err(), "{}", bad.escape_ascii());
        }
        assert!(Pax::parse(&records(&[(b"size", b"-5")])).is_err());
        assert!(Pax::parse(&records(&[(b"size", b"99999999999999999999")])).is_err());
    }

    #[test]
    fn times_go_both_ways() {
        for (text, secs, nanos) in [
            ("1.5", 1, 500_000_000),
            ("-1.25", -2, 750_000_000),
            ("-0.000000001", -1, 999_999_999),
            ("-7", -7, 0),
            ("978498245.123456789", 978_498_245, 123_456_789),
        ] {
            let t = time(b"mtime", text.as_bytes()).unwrap().unwrap();
            assert_eq!((t.secs, t.nanos), (secs, nanos), "{text}");
            assert_eq!(time_text(t), text);
        }
        let cut = time(b"mtime", b"3.1234567899").unwrap().unwrap();
        assert_eq!(cut.nanos, 123_456_789);
        assert!(time(b"mtime", b"1.x").is_err());
    }

    #[test]
    fn a_global_header_must_not_move_data() {
        assert!(check_global(&records(&[(b"comment", b"0123")])).is_ok());
        assert!(check_global(&records(&[(b"mtime", b"1")])).is_ok());
        assert!(check_global(&records(&[(b"size", b"1")])).is_err());
        assert!(check_global(b"12 comment").is_err());
    }

    #[test]
    fn record_lengths_count_themselves() {
        for n in 0..2000 {
            let mut out = Vec::new();
            push(&mut out, b"k", &vec![b'v'; n]);
            let stated: usize = std::str::from_utf8(out.split(|b| *b == b' ').next().unwrap())
                .unwrap()
                .parse()
                .unwrap();
            assert_eq!(stated, out.len());
        }
    }
}
