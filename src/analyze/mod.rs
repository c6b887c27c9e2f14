//! Which files change together, and how often: the evidence a plan is made from.

use crate::fileset::FileSet;

/// What sort of thing a component is. The order is that of stability, steadiest first: a plan
/// puts earlier kinds below later ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ComponentKind {
    /// A package of the operating system (dpkg, apk, rpm, alpm).
    OsPackage,
    /// Files of the system's folders that no package owns.
    System,
    /// A package of a language (Python, npm, jars).
    LanguagePackage,
    /// One file of 1 MiB or more that no package owns.
    BigFile,
    /// Files of the application.
    Application,
    /// Package databases, caches and logs: another content on every build.
    State,
}

/// Paths that change together.
#[derive(Debug, Clone, PartialEq)]
pub struct Component {
    /// `deb:openssl`, `python:numpy`, `npm:react`, `file:opt/model.bin`, `dir:srv/app`: distinct
    /// within an analysis.
    pub name: String,
    /// What it is.
    pub kind: ComponentKind,
    /// Expected changes a release when something other than the kind's default is known
    /// (`--churn`, `user.update-interval`).
    pub churn: Option<f64>,
}

/// The components of a file set.
#[derive(Debug, Clone, Default)]
pub struct Analysis {
    /// Sorted by name.
    pub components: Vec<Component>,
    /// For each inode of the file set, its component's index.
    pub owner: Vec<u32>,
}

/// Stub.
pub fn analyze(_set: &FileSet) -> Analysis {
    Analysis::default()
}
