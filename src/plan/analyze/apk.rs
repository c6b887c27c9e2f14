//! apk: the package database of Alpine and Wolfi.
//!
//! It has lines of `LETTER:value`: `P` is the name, `o` the origin (the source), `F` a folder, and `R` a
//! file in it. A blank line ends each package.

use super::{Claims, ComponentKind, Installation, Owner};
use crate::base::limits::MAX_PACKAGES;
use crate::model::fileset::Mtime;

/// The list of packages and their files; of version 3, the second.
pub(crate) const DATABASES: [&[u8]; 2] = [b"lib/apk/db/installed", b"usr/lib/apk/db/installed"];

pub(super) fn claim(claims: &mut Claims<'_>) {
    for path in DATABASES {
        let Some(database) = claims.text(path) else { continue };
        for package in split_blank_lines(&database).take(MAX_PACKAGES) {
            let field = |key: &[u8]| package.iter().find_map(|line| line.strip_prefix(key));
            let Some(name) = field(b"o:").or_else(|| field(b"P:")) else { continue };
            let Some(mut owner) = Owner::new("apk", name, ComponentKind::OsPackage) else {
                continue;
            };
            // The time of the package's build, which is not before that of its newest file.
            let built = field(b"t:").and_then(|t| std::str::from_utf8(t).ok()?.parse().ok());
            owner.installation = built.and_then(|built: i64| {
                let time = Mtime { secs: built.checked_add(1)?, nanos: 0 };
                Some(Installation { time, record: None })
            });
            let mut folder: &[u8] = b"";
            for line in &package {
                if let Some(f) = line.strip_prefix(b"F:") {
                    folder = f;
                    claims.claim_listed(f, b"", &mut owner);
                } else if let Some(file) = line.strip_prefix(b"R:") {
                    claims.claim_listed(folder, file, &mut owner);
                }
            }
        }
    }
}

fn split_blank_lines(text: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let mut lines = text.split(|b| *b == b'\n').peekable();
    std::iter::from_fn(move || {
        lines.peek()?;
        Some(lines.by_ref().take_while(|line| !line.is_empty()).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;

    #[test]
    fn files_belong_to_the_origin() {
        let (owners, _) = Fixture::default()
            .file(
                "lib/apk/db/installed",
                "C:Q1\nP:libssl3\no:openssl\nF:usr/lib\nR:libssl.so.3\na:0:0:755\n\nP:musl\nF:lib\nR:ld-musl.so\nF:\nR:top\n",
            )
            .file("usr/lib/libssl.so.3", "x")
            .file("lib/ld-musl.so", "x")
            .file("top", "x")
            .owners(&[]);
        assert_eq!(
            owners,
            [
                "lib/apk/db/installed=state:databases",
                "lib/ld-musl.so=apk:musl",
                "top=apk:musl",
                "usr/lib/libssl.so.3=apk:openssl"
            ]
        );
    }
}
