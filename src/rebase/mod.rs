//! Moves an image from one version of its base to another: a three-way merge of configs and of file sets,
//! with the old base as the ancestor. docs/BASES.md states each rule and its reason.
//!
//! Imports `split` and what lies below it. Types to know: [`Rebase`], the merge of opened images, which
//! [`Rebase::split`] makes a bundle of; [`Conflict`], what the three images do not determine, and
//! [`KeepRule`], which decides it.

mod abi;
mod config;
mod databases;
mod files;
mod images;
mod linkage;
mod owners;
mod packages;
mod records;

pub use abi::{Missing, NeedKind};
pub use images::{Bases, ImageMerge, Rebase};

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::base::error::{Error, Result};
use crate::model::fileset::display;
use crate::model::path_pattern::PathPattern;
use owners::Owners;

/// One side of a merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The image that is moved.
    App,
    /// The new base.
    Base,
}

/// What a conflict is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum MergeItem {
    /// A field of the config: `Env.PATH`.
    Config(String),
    /// A path.
    Path(Box<[u8]>),
    /// A record of the file at a path.
    Record(Box<[u8]>, String),
}

impl fmt::Display for MergeItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(field) => write!(f, "config:{field}"),
            Self::Path(path) => f.write_str(&display(path)),
            Self::Record(path, record) => write!(f, "{} ({record})", display(path)),
        }
    }
}

/// Why the three images do not determine a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Both sides changed it, or added it, differently.
    BothChanged,
    /// The app removed what the new base changed.
    AppRemoved,
    /// The new base removed what the app changed.
    BaseRemoved,
    /// The new base adds it to a directory that the app removed or emptied.
    AppEmptied,
    /// The new base adds it, and the app removed all files of this name or extension around it.
    AppSwept,
    /// The new base adds it, and the app changed mode or owner of all that is beside it.
    AllChanged,
    /// The app's build used it, and the new base changed it.
    Used,
    /// The app has files with this ID, which the new base changed.
    OldId,
    /// Both sides added users or groups of its range of IDs.
    BothAdded,
    /// It needs something that the result lacks, or breaks something that it has.
    Dependency,
    /// It is a directory with files of one side, and none on the other side.
    NoDirectory,
    /// It gets the same ID as another user or group.
    SameId,
}

impl Reason {
    /// Returns the reason for an item that both sides changed differently, by what exists.
    fn of(app: bool, base: bool) -> Self {
        match (app, base) {
            (false, _) => Self::AppRemoved,
            (_, false) => Self::BaseRemoved,
            _ => Self::BothChanged,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BothChanged => "the image and the new base changed it differently",
            Self::AppRemoved => "the image removed it, and the new base changed it",
            Self::BaseRemoved => "the image changed it, and the new base removed it",
            Self::AppEmptied => "the new base adds it to a directory that the image emptied",
            Self::AppSwept => {
                "the new base adds it, and the image removed all files of this name or extension there"
            }
            Self::AllChanged => {
                "the new base adds it, and the image changed mode or owner of all that is beside it"
            }
            Self::Used => "the build of the image used it, and the new base changed it",
            Self::OldId => "the new base changed its ID, and files of the image have the old one",
            Self::BothAdded => {
                "the image and the new base added such names, so a build might choose another ID"
            }
            Self::Dependency => "neither the image nor the new base has this problem",
            Self::NoDirectory => {
                "one side has files in this directory, the other side has no directory"
            }
            Self::SameId => "it gets the same ID as another one",
        })
    }
}

/// What the three images do not determine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// The package that it belongs to, if that is known.
    pub package: Option<String>,
    /// What it is about.
    pub subject: MergeItem,
    /// Why it is one.
    pub reason: Reason,
}

/// A rule that decides conflicts: `app`, `base`, or one of them with `=PATTERN`, `=package:NAME` or
/// `=config:FIELD`.
#[derive(Debug, Clone)]
pub struct KeepRule {
    side: Side,
    of: Scope,
    /// As it was written.
    text: String,
}

impl fmt::Display for KeepRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[derive(Debug, Clone)]
enum Scope {
    All,
    Paths(PathPattern),
    Package(String),
    /// A field of the config, or all fields below it.
    Config(String),
}

impl KeepRule {
    fn matches(&self, subject: &MergeItem, package: Option<&str>) -> bool {
        match (&self.of, subject) {
            (Scope::All, _) => true,
            (Scope::Package(name), _) => package == Some(name),
            (Scope::Paths(pattern), MergeItem::Path(path) | MergeItem::Record(path, _)) => {
                pattern.matches(path)
            }
            (Scope::Config(field), MergeItem::Config(of)) => {
                of.strip_prefix(field.as_str()).is_some_and(|b| b.is_empty() || b.starts_with('.'))
            }
            _ => false,
        }
    }
}

impl FromStr for KeepRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (side, of) = match text.split_once('=') {
            Some((side, of)) => (side, Some(of)),
            None => (text, None),
        };
        let side = match side {
            "app" => Side::App,
            "base" => Side::Base,
            _ => {
                return Err(Error::malformed(
                    "write app or base; for a part =PATTERN, =package:NAME or =config:FIELD",
                ));
            }
        };
        let of = match of {
            None => Scope::All,
            Some(of) => match of.split_once(':') {
                Some(("config" | "package", "")) => {
                    return Err(Error::malformed(format!("{of} has no name")));
                }
                Some(("config", field)) => Scope::Config(field.to_owned()),
                Some(("package", name)) => Scope::Package(name.to_owned()),
                _ => Scope::Paths(of.parse()?),
            },
        };
        Ok(Self { side, of, text: text.to_owned() })
    }
}

/// Decides conflicts, and collects those that no rule decides.
#[derive(Debug)]
struct Judge<'a> {
    rules: &'a [KeepRule],
    owners: Owners,
    conflicts: Vec<Conflict>,
    used: BTreeSet<usize>,
    decided: usize,
    notes: Vec<String>,
}

impl<'a> Judge<'a> {
    fn new(rules: &'a [KeepRule]) -> Self {
        Self {
            rules,
            owners: Owners::default(),
            conflicts: Vec::new(),
            used: BTreeSet::new(),
            decided: 0,
            notes: Vec::new(),
        }
    }

    /// Returns whether a rule is about a package.
    fn needs_owners(&self) -> bool {
        self.rules.iter().any(|rule| matches!(rule.of, Scope::Package(_)))
    }

    /// Returns the side that the last matching rule names. If there is none, it is a conflict.
    fn decide(&mut self, subject: MergeItem, reason: Reason) -> Option<Side> {
        let package = self.owners.of(&subject);
        let rule = self.rules.iter().rposition(|r| r.matches(&subject, package.as_deref()));
        match rule {
            Some(rule) => {
                self.used.insert(rule);
                self.decided += 1;
            }
            None => self.conflicts.push(Conflict { package, subject, reason }),
        }
        rule.map(|rule| self.rules[rule].side)
    }

    fn finish<T>(self, value: T) -> Merged<T> {
        let Self { mut conflicts, used, decided, notes, .. } = self;
        conflicts.sort();
        conflicts.dedup();
        let value = conflicts.is_empty().then_some(value);
        Merged { value, conflicts, used, decided, notes, outdated: Vec::new() }
    }
}

/// The result of a merge.
#[derive(Debug)]
struct Merged<T> {
    /// The result; `None` if there are conflicts.
    value: Option<T>,
    /// What no rule decides, sorted.
    conflicts: Vec<Conflict>,
    /// Positions of the rules that decided something.
    used: BTreeSet<usize>,
    /// How many conflicts they decided.
    decided: usize,
    /// What was assumed, for the user.
    notes: Vec<String>,
    /// Files of the app that are made from files that the new base changed.
    outdated: Vec<Outdated>,
}

/// A file of the app that may be made from one that the new base changed, as a copy or compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outdated {
    /// Its path.
    pub path: Box<[u8]>,
    /// The path of what it may be made from.
    pub source: Box<[u8]>,
}

/// Returns the side whose value counts, if the three values determine it.
fn three_way<T: PartialEq + ?Sized>(old: &T, app: &T, new: &T) -> Option<Side> {
    if app == old || app == new {
        Some(Side::Base)
    } else if new == old {
        Some(Side::App)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rule_that_matches_decides() {
        let rules =
            ["base", "app=/etc", "base=/etc/x", "app=config:Env"].map(|r| r.parse().unwrap());
        let mut judge = Judge::new(&rules);
        let mut of = |subject| judge.decide(subject, Reason::BothChanged);
        let path = |p: &str| MergeItem::Path(p.as_bytes().into());
        assert_eq!(of(path("usr/x")), Some(Side::Base));
        assert_eq!(of(path("etc/y")), Some(Side::App));
        assert_eq!(of(path("etc/x/z")), Some(Side::Base));
        assert_eq!(of(MergeItem::Config("Env.PATH".into())), Some(Side::App));
        assert_eq!(of(MergeItem::Config("Environment".into())), Some(Side::Base));
        let mut judge = Judge::new(&rules[1..]);
        assert_eq!(judge.decide(path("usr/x"), Reason::SameId), None);
        assert!(judge.finish(()).value.is_none());
        for refused in ["", "old", "app=", "base=config:", "app=package:"] {
            assert!(refused.parse::<KeepRule>().is_err(), "{refused}");
        }
    }
}
