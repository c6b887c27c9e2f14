//! Names that images carry inside archives and layouts.

use crate::model::digest::Digest;
use crate::model::oci::{CONTAINERD_NAME, Descriptor, REF_NAME};

/// The name that a descriptor in an index gives its image: the full one if there is one.
pub(crate) fn of_descriptor(descriptor: &Descriptor) -> Option<&str> {
    stated(descriptor).find(|name| is_name(name))
}

/// What a descriptor says its image is called, be that a name or not.
pub(crate) fn stated(descriptor: &Descriptor) -> impl Iterator<Item = &str> {
    [CONTAINERD_NAME, REF_NAME].into_iter().filter_map(|key| descriptor.annotation(key))
}

/// Whether one of a descriptor's names [is](matches) what a user asked for, or its digest.
pub(crate) fn is_of(descriptor: &Descriptor, wanted: &str) -> bool {
    match digest(wanted) {
        Some(digest) => descriptor.digest == digest,
        None => stated(descriptor).any(|name| matches(name, wanted)),
    }
}

/// The digest in `sha256:…`, `@sha256:…` or `app@sha256:…`.
pub(crate) fn digest(wanted: &str) -> Option<Digest> {
    wanted.rsplit('@').next()?.parse().ok()
}

/// Whether this can name an image. An image's digest or ID can't: containerd and CRI note those
/// where names stand, but they are another image's as soon as anything changes, and docker and
/// podman refuse them. Docker writes `<none>` where there is no name.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['@', '<', '>']) && digest(name).is_none()
}

/// `repository:tag` with the registry and `library/` filled in as Docker does; `None` for what
/// is no such name, a bare tag for example.
pub(crate) fn full(name: &str) -> Option<String> {
    let (repository, tag) = split(name)?;
    let first = repository.split('/').next().unwrap_or_default();
    let has_registry =
        repository.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    Some(match (has_registry, repository.contains('/')) {
        (true, _) => format!("{repository}:{tag}"),
        (false, true) => format!("docker.io/{repository}:{tag}"),
        (false, false) => format!("docker.io/library/{repository}:{tag}"),
    })
}

/// The repository of a full name, the same however the name was written.
#[cfg(feature = "store")]
pub(crate) fn repository(name: &str) -> Option<String> {
    split(&full(name)?).map(|(repository, _)| repository.to_owned())
}

/// The tag of `repository:tag`; a bare tag is its own.
pub(crate) fn tag(name: &str) -> &str {
    split(name).map_or(name, |(_, tag)| tag)
}

/// Whether a name that came with an image can be written: clients make file names of it and print
/// it, so it is of the characters that references have, and no part of it leads up.
pub(crate) fn is_sound(name: &str) -> bool {
    const MOST: usize = 512;
    let part = |part: &str| !matches!(part, "" | "." | "..");
    name.len() <= MOST
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+/:@".contains(&b))
        && name.split('/').all(part)
}

/// Whether a name is what a user asked for: the same text, the same full name, or its tag.
pub(crate) fn matches(name: &str, wanted: &str) -> bool {
    tag(name) == wanted || is_same(name, wanted)
}

/// Whether both are one name, however they are written.
pub(crate) fn is_same(name: &str, wanted: &str) -> bool {
    let latest = format!("{wanted}:latest");
    let is = |wanted: &str| full(name).is_some_and(|n| Some(n) == full(wanted));
    name == wanted || is(wanted) || is(&latest)
}

/// A name as people write it: without the registry and `library/` that [`full`] fills in. A bare tag
/// gets the repository that `path` would be.
#[cfg(feature = "store")]
pub(crate) fn familiar(name: &str, path: Option<&std::path::Path>) -> String {
    let Some(full) = full(name) else {
        let stem = path.and_then(|path| path.file_stem()?.to_str()).map(str::to_lowercase);
        let named = stem.map(|stem| format!("{stem}:{name}"));
        return named.filter(|n| super::is_image_name(n)).unwrap_or_else(|| name.to_owned());
    };
    let short = full.strip_prefix("docker.io/").unwrap_or(&full);
    short.strip_prefix("library/").unwrap_or(short).to_owned()
}

fn split(name: &str) -> Option<(&str, &str)> {
    let (repository, tag) = name.rsplit_once(':')?;
    (!repository.is_empty() && !tag.is_empty() && !tag.contains('/')).then_some((repository, tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_filled_in_as_docker_does() {
        assert_eq!(full("app:v1").as_deref(), Some("docker.io/library/app:v1"));
        assert_eq!(full("me/app:v1").as_deref(), Some("docker.io/me/app:v1"));
        assert_eq!(full("localhost/app:v1").as_deref(), Some("localhost/app:v1"));
        assert_eq!(full("reg:5000/app:v1").as_deref(), Some("reg:5000/app:v1"));
        assert_eq!(full("v1"), None);
        assert_eq!(full("reg:5000/app"), None);
    }

    #[cfg(feature = "store")]
    #[test]
    fn a_bare_tag_gets_the_repository_of_its_file() {
        let familiar = |name, path: &str| familiar(name, Some(path.as_ref()));
        assert_eq!(familiar("latest", "images/Web.tar"), "web:latest");
        assert_eq!(familiar("latest", "a b/c d.tar"), "latest");
        assert_eq!(familiar("docker.io/library/app:1", "web.tar"), "app:1");
        assert_eq!(familiar("reg:5000/app:1", "web.tar"), "reg:5000/app:1");
    }

    #[test]
    fn names_that_lead_up_or_hold_anything_are_not_written() {
        for name in ["app:v1", "reg:5000/a/b:v1", "v1", "a__b/c.d:1.0-rc_1"] {
            assert!(is_sound(name), "{name}");
        }
        let long = "a".repeat(600);
        for name in ["../../x:y", "a/../b:c", "/etc/x:y", "a//b", "", "a b:c", "a\x1b[31m", &long] {
            assert!(!is_sound(name), "{name}");
        }
    }

    #[test]
    fn a_user_may_ask_by_tag_or_by_name() {
        for wanted in ["v1", "app:v1", "docker.io/library/app:v1"] {
            assert!(matches("app:v1", wanted), "{wanted}");
        }
        assert!(matches("app:latest", "app"));
        assert!(!matches("app:v1", "app"));
        assert!(!matches("app:v1", "v2"));
        assert!(matches("2025-10-01", "2025-10-01"));
    }

    #[test]
    fn a_digest_is_no_name() {
        let of = Digest::of(b"x").to_string();
        for name in [&of, &format!("@{of}"), &format!("docker.io/app@{of}")] {
            assert!(!is_name(name) && digest(name).is_some(), "{name}");
        }
        assert!(!is_name("<none>:<none>"));
        for name in ["v1", "app:v1", "localhost:5000/a/b:v1", "sha256:beef"] {
            assert!(is_name(name) && digest(name).is_none(), "{name}");
        }
    }
}
