//! Rates of change that the user states: `PATTERN=RATE`.

use std::fmt;
use std::str::FromStr;

use globset::GlobMatcher;

use super::{Claims, ComponentKind};
use crate::base::error::{Error, Result};
use crate::model::path_pattern::{PathPattern, glob_matcher};

/// A rule of `--churn`.
///
/// A pattern that begins with `/` is a [`PathPattern`]; the files that it matches become a component
/// of their own. Any other pattern is a glob on names of components, as in `npm:*`.
#[derive(Debug, Clone)]
pub struct ChurnRule {
    text: String,
    of: Of,
    rate: f64,
}

#[derive(Debug, Clone)]
enum Of {
    Paths(PathPattern),
    Components(GlobMatcher),
}

impl FromStr for ChurnRule {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::malformed(format!(
                "{s:?} {why}; write PATTERN=RATE with the expected changes per release, as in \
                 /opt/model=0.01 or npm:*=0.5"
            ))
        };
        let (pattern, rate) = s.rsplit_once('=').ok_or_else(|| bad("has no rate"))?;
        let rate: f64 = rate.parse().map_err(|_| bad("has a rate that is not a number"))?;
        if !rate.is_finite() || rate < 0.0 {
            return Err(bad("has a rate that is negative or not finite"));
        }
        if pattern.is_empty() {
            return Err(bad("has no pattern"));
        }
        let of = if pattern.starts_with('/') {
            pattern.parse().map(Of::Paths)
        } else {
            glob_matcher(pattern, false).map(Of::Components)
        };
        let of = of.map_err(|e| bad(&format!("has an invalid pattern: {e}")))?;
        Ok(Self { text: pattern.to_owned(), of, rate })
    }
}

impl fmt::Display for ChurnRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.text, self.rate)
    }
}

/// Applies rules in their order; later ones win.
pub(super) fn apply(claims: &mut Claims<'_>, rules: &[ChurnRule]) {
    let set = &claims.rootfs.files;
    for rule in rules {
        let mut matched = false;
        match &rule.of {
            Of::Paths(pattern) => {
                let component =
                    claims.component(format!("churn:{}", rule.text), ComponentKind::Application);
                claims.components[component.index()].churn = Some(rule.rate);
                for entry in set.entries().iter().filter(|e| pattern.matches(&e.path)) {
                    claims.owner[entry.inode.index()] = component;
                    matched = true;
                }
            }
            Of::Components(glob) => {
                for (_, i) in claims.by_name.iter().filter(|(name, _)| glob.is_match(name)) {
                    claims.components[i.index()].churn = Some(rule.rate);
                    matched = true;
                }
            }
        }
        if !matched {
            claims.notes.push(format!("--churn {rule} matches nothing"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::analyze;
    use super::super::fixture::Fixture;
    use super::*;

    fn fixture() -> Fixture {
        Fixture::default()
            .file("opt/model/a.bin", "x")
            .file("opt/model/sub/b.bin", "x")
            .file("opt/models", "x")
            .file("srv/node_modules/a/package.json", "{}")
    }

    #[test]
    fn a_path_matches_everything_below_it_and_a_glob_only_itself() {
        let (owners, notes) = fixture().owners(&["/opt/model=0.01"]);
        assert_eq!(owners[0], "opt/model/a.bin=churn:/opt/model");
        assert_eq!(owners[1], "opt/model/sub/b.bin=churn:/opt/model");
        assert_eq!(owners[2], "opt/models=dir:opt");
        assert!(notes.is_empty());
        let (owners, _) = fixture().owners(&["/opt/*/*.bin=1"]);
        assert_eq!(owners[0], "opt/model/a.bin=churn:/opt/*/*.bin");
        assert_eq!(owners[1], "opt/model/sub/b.bin=dir:opt/model/sub");
        let (owners, _) = fixture().owners(&["/opt/**=1", "/opt/models=2"]);
        assert_eq!(owners[1], "opt/model/sub/b.bin=churn:/opt/**");
        assert_eq!(owners[2], "opt/models=churn:/opt/models");
    }

    #[test]
    fn names_set_rates_and_what_matches_nothing_is_noted() {
        let rootfs = fixture().build();
        let rules: Vec<ChurnRule> =
            ["npm:*=0.5", "deb:x=1"].iter().map(|r| r.parse().unwrap()).collect();
        let analysis = analyze(&rootfs, &rules).unwrap();
        let npm = analysis.components.iter().find(|c| c.name == "npm:a").unwrap();
        assert_eq!(npm.churn, Some(0.5));
        assert_eq!(analysis.notes, ["--churn deb:x=1 matches nothing"]);
    }

    #[test]
    fn bad_rules_are_refused() {
        for bad in ["x", "x=", "x=-1", "x=inf", "=1", "/=1", "/[=1"] {
            assert!(bad.parse::<ChurnRule>().is_err(), "{bad}");
        }
    }
}
