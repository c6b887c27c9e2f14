//! Names of images inside archives and layouts.

use crate::base::limits::MAX_IMAGE_NAME;
use crate::model::digest::Digest;
use crate::model::oci::{CONTAINERD_NAME, Descriptor, REF_NAME};

/// Returns the name that a descriptor in an index gives its image: the full one if there is one.
pub(crate) fn of_descriptor(descriptor: &Descriptor) -> Option<&str> {
    stated(descriptor).find(|name| is_name(name))
}

/// Returns the names that a descriptor states, valid or not.
pub(crate) fn stated(descriptor: &Descriptor) -> impl Iterator<Item = &str> {
    [CONTAINERD_NAME, REF_NAME].into_iter().filter_map(|key| descriptor.annotation(key))
}

/// Returns whether a name or the digest of a descriptor [matches](matches) `wanted`.
pub(crate) fn is_of(descriptor: &Descriptor, wanted: &str) -> bool {
    match digest(wanted) {
        Some(digest) => descriptor.digest == digest,
        None => stated(descriptor).any(|name| matches(name, wanted)),
    }
}

/// Returns the digest in `sha256:…`, `@sha256:…` or `app@sha256:…`.
pub(crate) fn digest(wanted: &str) -> Option<Digest> {
    wanted.rsplit('@').next()?.parse().ok()
}

/// Returns whether this can name an image. A digest or image ID can't: containerd and CRI write them
/// in place of names, but they identify another image as soon as anything changes, and docker and
/// podman refuse them. Docker writes `<none>` if there is no name.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['@', '<', '>']) && digest(name).is_none()
}

/// Returns `repository:tag` with the registry and `library/` filled in as Docker does; `None` if it is
/// not such a name, for example a bare tag.
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

/// Returns the repository of a full name, the same however the name was written.
#[cfg(feature = "store")]
pub(crate) fn repository(name: &str) -> Option<String> {
    split(&full(name)?).map(|(repository, _)| repository.to_owned())
}

/// Returns the tag of `repository:tag`; a bare tag is returned unchanged.
pub(crate) fn tag(name: &str) -> &str {
    split(name).map_or(name, |(_, tag)| tag)
}

/// Returns whether a name from an image is safe to write. Clients print it and use it as a file name,
/// so it may only have the characters of references, and no `..`.
pub(crate) fn is_safe(name: &str) -> bool {
    let part = |part: &str| !matches!(part, "" | "." | "..");
    name.len() <= MAX_IMAGE_NAME
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+/:@".contains(&b))
        && name.split('/').all(part)
}

/// Returns whether a name matches `wanted`: the same text, the same full name, or the same tag.
pub(crate) fn matches(name: &str, wanted: &str) -> bool {
    tag(name) == wanted || is_same(name, wanted)
}

/// Returns whether both are the same name, however they are written.
pub(crate) fn is_same(name: &str, wanted: &str) -> bool {
    let latest = format!("{wanted}:latest");
    let is = |wanted: &str| full(name).is_some_and(|n| Some(n) == full(wanted));
    name == wanted || is(wanted) || is(&latest)
}

/// Returns a name as people write it: without the registry and `library/` that [`full`] fills in. A
/// bare tag gets a repository from the file name of `path`.
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
    fn unsafe_names_are_not_written() {
        for name in ["app:v1", "reg:5000/a/b:v1", "v1", "a__b/c.d:1.0-rc_1"] {
            assert!(is_safe(name), "{name}");
        }
        let long = "a".repeat(600);
        for name in ["../../x:y", "a/../b:c", "/etc/x:y", "a//b", "", "a b:c", "a\x1b[31m", &long] {
            assert!(!is_safe(name), "{name}");
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
    fn a_digest_is_not_a_name() {
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
