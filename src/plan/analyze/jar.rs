//! Java archives that no package owns: one component per library, regardless of the version.

use super::{Claims, ComponentKind};
use crate::model::fileset::base_name;

pub(super) fn claim(claims: &mut Claims<'_>) {
    let set = &claims.rootfs.files;
    for entry in set.entries() {
        let name = base_name(&entry.path);
        let stem = name.strip_suffix(b".jar").or_else(|| name.strip_suffix(b".war"));
        if let Some(stem) = stem.filter(|stem| !stem.is_empty() && claims.is_free(entry)) {
            let name = format!("jar:{}", String::from_utf8_lossy(without_version(stem)));
            let component = claims.component(name, ComponentKind::LanguagePackage);
            claims.claim(entry, component);
        }
    }
}

/// `guava-33.0.0-jre` is `guava`: the version begins at the first dash before a digit.
fn without_version(stem: &[u8]) -> &[u8] {
    let version = stem.windows(2).position(|w| w[0] == b'-' && w[1].is_ascii_digit());
    match version {
        Some(at @ 1..) => &stem[..at],
        _ => stem,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;

    #[test]
    fn versions_don_t_count() {
        let (owners, _) = Fixture::default()
            .file("app/lib/guava-33.0.0-jre.jar", "x")
            .file("app/lib/log4j-api.jar", "x")
            .file("app/lib/-1.jar", "x")
            .owners(&[]);
        assert_eq!(
            owners,
            [
                "app/lib/-1.jar=jar:-1",
                "app/lib/guava-33.0.0-jre.jar=jar:guava",
                "app/lib/log4j-api.jar=jar:log4j-api"
            ]
        );
    }
}
