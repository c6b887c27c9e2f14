//! PAX extended headers: records of `LENGTH KEY=VALUE\n`, where the length is that of the whole record.
//! A value may contain any byte, also newlines, so only the length determines where it ends.

use std::collections::BTreeMap;

use crate::base::error::{Error, Result};
use crate::model::fileset::{Mtime, Xattrs};

/// Clients read extended attributes from keys with this prefix.
pub(super) const XATTR: &[u8] = b"SCHILY.xattr.";
pub(super) const SPARSE: &[u8] = b"GNU.sparse.";

/// The records of an extended header by key. The last record of a key applies. Sparse format 0.0
/// repeats two keys. Its records are joined into the form of format 0.1.
pub(super) type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// Reads the records of an extended header.
pub(super) fn records(data: &[u8]) -> Result<Records> {
    let mut records = Records::new();
    let mut map: Vec<u8> = Vec::new();
    let mut numbers = 0usize;
    each(data, |key, value| {
        if !matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes") {
            records.insert(key.to_vec(), value.to_vec());
            return Ok(());
        }
        if (key == b"GNU.sparse.offset") != numbers.is_multiple_of(2) || value.contains(&b',') {
            return Err(bad(key, value, "out of order"));
        }
        if numbers > 0 {
            map.push(b',');
        }
        numbers += 1;
        map.extend_from_slice(value);
        Ok(())
    })?;
    if numbers > 0 {
        records.insert(b"GNU.sparse.map".to_vec(), map);
    }
    Ok(records)
}

/// The records that clients use for the next entry.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<i64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<Mtime>,
    pub(super) xattrs: Xattrs,
}

impl Pax {
    /// # Errors
    /// If a value that clients read is invalid.
    pub(super) fn of(records: &Records) -> Result<Self> {
        let mut pax = Self::default();
        for (key, value) in records {
            match &key[..] {
                _ if key.starts_with(XATTR) => {
                    pax.xattrs.push((key[XATTR.len()..].into(), value.clone().into()));
                }
                // An empty value removes the record, so that the header's value applies.
                _ if value.is_empty() => {}
                b"path" => pax.path = Some(value.clone()),
                b"linkpath" => pax.link_path = Some(value.clone()),
                b"size" => pax.size = Some(number(key, value)?),
                b"uid" => pax.uid = Some(number(key, value)?),
                b"gid" => pax.gid = Some(number(key, value)?),
                b"mtime" => pax.mtime = Some(time(key, value)?),
                // These are not used, but clients reject a header in which they are invalid.
                b"atime" | b"ctime" => drop(time(key, value)?),
                _ => {}
            }
        }
        Ok(pax)
    }
}

/// Checks a global (`g`) header. Go, and so docker, containerd and podman, ignore its values. Keys that
/// would change where data is are refused, since readers disagree on them.
pub(super) fn check_global(data: &[u8]) -> Result<()> {
    for (key, value) in records(data)? {
        if matches!(&key[..], b"size" | b"path" | b"linkpath") || key.starts_with(SPARSE) {
            return Err(bad(&key, &value, "in a global header, and clients disagree on that"));
        }
    }
    Ok(())
}

fn bad(key: &[u8], value: &[u8], why: &str) -> Error {
    let value = &value[..value.len().min(40)];
    Error::malformed(format!("PAX record {}={} is {why}", key.escape_ascii(), value.escape_ascii()))
}

/// Calls `take` for each record, after the checks of Go's `parsePAXRecord` and `validPAXRecord`.
fn each(mut data: &[u8], mut take: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
    let broken = || Error::malformed("a PAX record doesn't match its stated length");
    while !data.is_empty() {
        let space = data.iter().position(|b| *b == b' ').ok_or_else(broken)?;
        let length = decimal(&data[..space])
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| *n > space + 1 && *n <= data.len())
            .ok_or_else(broken)?;
        let (record, rest) = data.split_at(length);
        let record = record[space + 1..].strip_suffix(b"\n").ok_or_else(broken)?;
        let equals = record.iter().position(|b| *b == b'=').filter(|i| *i > 0);
        let (key, value) = record.split_at(equals.ok_or_else(broken)?);
        let value = &value[1..];
        let text = matches!(key, b"path" | b"linkpath" | b"uname" | b"gname");
        if key.contains(&0) || (text && value.contains(&0)) {
            return Err(bad(key, value, "not valid: it contains a NUL"));
        }
        take(key, value)?;
        data = rest;
    }
    Ok(())
}

/// Parses a decimal number with or without a sign.
pub(super) fn decimal(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

pub(super) fn number(key: &[u8], value: &[u8]) -> Result<i64> {
    decimal(value).ok_or_else(|| bad(key, value, "not a number"))
}

/// Parses `[-]SECONDS[.FRACTION]`. Digits beyond nanoseconds are cut off, as in Go.
pub(super) fn time(key: &[u8], value: &[u8]) -> Result<Mtime> {
    let wrong = || bad(key, value, "not a time");
    let dot = value.iter().position(|b| *b == b'.').unwrap_or(value.len());
    let (whole, fraction) = (&value[..dot], value.get(dot + 1..).unwrap_or_default());
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(wrong());
    }
    let secs = decimal(whole).ok_or_else(wrong)?;
    let nanos = (0..9).fold(0, |n, i| n * 10 + fraction.get(i).map_or(0, |d| u32::from(d - b'0')));
    Ok(match (whole.starts_with(b"-"), nanos) {
        (true, 1..) => {
            Mtime { secs: secs.checked_sub(1).ok_or_else(wrong)?, nanos: 1_000_000_000 - nanos }
        }
        _ => Mtime { secs, nanos },
    })
}

/// Formats a time, without zeros at the end.
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

/// Returns the length of a record in bytes. It includes the digits of the length itself.
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

    fn read(data: &[u8]) -> Result<Pax> {
        Pax::of(&records(data)?)
    }

    fn text(list: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (k, v) in list {
            push(&mut out, k, v);
        }
        out
    }

    #[test]
    fn values_may_contain_newlines() {
        let cap = b"\x01\0\0\x02\x0a\0\n=\n";
        let data = text(&[(b"SCHILY.xattr.security.capability", cap), (b"uid", b"5000000")]);
        let pax = read(&data).unwrap();
        assert_eq!(pax.uid, Some(5_000_000));
        assert_eq!(pax.xattrs, [(b"security.capability"[..].into(), cap[..].into())]);
    }

    #[test]
    fn the_last_record_of_a_key_applies_and_an_empty_one_removes_it() {
        let data = text(&[
            (b"path", b"a"),
            (b"path", b""),
            (b"SCHILY.xattr.user.x", b"1"),
            (b"SCHILY.xattr.user.x", b"2"),
            (b"SCHILY.xattr.user.none", b""),
            // A value that a later record replaces is not checked.
            (b"size", b"x"),
            (b"size", b""),
        ]);
        let pax = read(&data).unwrap();
        assert_eq!((pax.path, pax.size), (None, None));
        let xattr = |name: &[u8], value: &[u8]| (name.into(), value.into());
        assert_eq!(pax.xattrs, [xattr(b"user.none", b""), xattr(b"user.x", b"2")]);
    }

    #[test]
    fn broken_records_are_errors() {
        let good = text(&[(b"path", b"a")]);
        assert!(read(&good).is_ok());
        let cases: [&[u8]; 9] = [
            b"9 path=a",
            b"99 path=a\n",
            b"x path=a\n",
            b"10 path=aa\n3",
            b"5 =a\n",
            b"8 patha\n",
            b"+10 path=a\n",
            &text(&[(b"path", b"a\0b")]),
            &text(&[(b"uid", b"1.0")]),
        ];
        for bad in cases {
            assert!(read(bad).is_err(), "{}", bad.escape_ascii());
        }
        assert_eq!(read(&text(&[(b"size", b"-5")])).unwrap().size, Some(-5));
        assert!(read(&text(&[(b"size", b"99999999999999999999")])).is_err());
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
            let t = time(b"mtime", text.as_bytes()).unwrap();
            assert_eq!((t.secs, t.nanos), (secs, nanos), "{text}");
            assert_eq!(time_text(t), text);
        }
        let cut = time(b"mtime", b"3.1234567899").unwrap();
        assert_eq!(cut.nanos, 123_456_789);
        assert_eq!(time(b"mtime", b"+5.").unwrap(), Mtime { secs: 5, nanos: 0 });
        for bad in [&b"1.x"[..], b".5", b"-.5", b"", b"1e3", b" 1"] {
            assert!(time(b"mtime", bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn a_global_header_must_not_move_data() {
        assert!(check_global(&text(&[(b"comment", b"0123")])).is_ok());
        assert!(check_global(&text(&[(b"mtime", b"1")])).is_ok());
        assert!(check_global(&text(&[(b"size", b"1")])).is_err());
        assert!(check_global(b"12 comment").is_err());
    }

    #[test]
    fn record_lengths_include_their_own_digits() {
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
