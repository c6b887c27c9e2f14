//! Changes of an image's config, annotations and platform. Its layers stay as they are, byte for byte,
//! and so does every field that no edit names.
//!
//! Imports `base`, `model`, `transport` and `secrets`. Types to know: [`Edit`], one change, and
//! [`Edited`], what [`edit`] returns. `split` and `flatten` use [`edit_opened`] before they begin.

mod documents;
mod healthcheck;
mod parse;

use serde_json::{Map, Value, json};

use crate::base::error::{Error, Result};
use crate::base::text::count;
use crate::model::oci::{Annotations, Config, Platform};
use crate::secrets::{Patterns, redact};
use crate::transport::image::Opened;

pub use documents::{Edited, edit};

/// A JSON object.
type Object = Map<String, Value>;

/// Objects of a config that have the fields of a container. Docker before version 23 writes the second
/// one, for the last step of the build.
const HOLDERS: [&str; 2] = ["config", "container_config"];

/// One change of an image.
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    /// Sets a variable of the environment, or removes it.
    Env {
        /// Its name.
        name: String,
        /// Its value; `None` removes it.
        value: Option<String>,
    },
    /// Sets a field of the container's part of the config, or removes it.
    Field {
        /// The names of the objects that lead to it, and its own.
        path: Vec<String>,
        /// Its value; `None` removes it.
        value: Option<Value>,
    },
    /// Sets an annotation of the manifest and of the index, or removes it.
    Annotation {
        /// Its key.
        key: String,
        /// Its value; `None` removes it.
        value: Option<String>,
    },
    /// Sets the time of the image's creation, in RFC 3339.
    Created(String),
    /// Sets the platform of an image.
    Platform(Platform),
    /// Removes texts from the history of the build.
    Redact(Redaction),
}

/// What is removed from the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redaction {
    /// What looks like a secret.
    Secrets,
    /// All commands, comments and authors.
    All,
}

/// Whether an edit found what it removes. One that sets something always does.
type Found = bool;

impl Edit {
    /// Returns what to call it in messages, if it removes something.
    fn removed(&self) -> Option<String> {
        match self {
            Self::Env { name, value: None } => Some(format!("variable {name}")),
            Self::Field { path, value: None } => Some(path.join(" ")),
            Self::Annotation { key, value: None } => Some(format!("annotation {key}")),
            _ => None,
        }
    }

    /// Changes a config. Edits of other documents find nothing.
    fn change_config(&self, config: &mut Object, patterns: &Patterns) -> Found {
        match self {
            Self::Env { name, value } => {
                in_holders(config, |holder, is_main| match (value, is_main) {
                    (Some(value), true) => set_variable(holder, name, value),
                    (Some(value), false) => {
                        has_variable(holder, name) && set_variable(holder, name, value)
                    }
                    (None, _) => remove_variable(holder, name),
                })
            }
            Self::Field { path, value } => in_holders(config, |holder, is_main| {
                let wanted = value.as_ref().filter(|_| is_main || get(holder, path).is_some());
                match (value, wanted) {
                    (None, _) => remove(holder, path),
                    (_, Some(value)) => set(holder, path, value.clone()),
                    (Some(_), None) => false,
                }
            }),
            Self::Annotation { .. } => false,
            Self::Created(time) => set(config, &["created".to_owned()], json!(time)),
            Self::Platform(platform) => set_platform(config, platform),
            Self::Redact(redaction) => redaction.apply(config, patterns),
        }
    }

    /// Changes the annotations of a manifest or index.
    fn change_annotations(&self, document: &mut Object) -> Found {
        let Self::Annotation { key, value } = self else { return false };
        let path = ["annotations".to_owned(), key.clone()];
        match value {
            Some(value) => set(document, &path, json!(value)),
            None => remove(document, &path),
        }
    }
}

/// Edits together with what they found so far.
struct Edits<'a> {
    all: &'a [Edit],
    found: Vec<Found>,
    patterns: Patterns,
}

impl<'a> Edits<'a> {
    /// Prepares `all` for `images` images.
    ///
    /// # Errors
    /// If there are several images and an edit is for one.
    fn new(all: &'a [Edit], images: usize) -> Result<Self> {
        let edits = Self { all, found: vec![false; all.len()], patterns: Patterns::new()? };
        if images != 1 && edits.platform().is_some() {
            return Err(Error::refused(format!(
                "--set-platform is for one image, and this has {}; select one with --platform",
                count(images as u64, "image")
            )));
        }
        Ok(edits)
    }

    /// Returns the platform that the image gets, if that is edited.
    fn platform(&self) -> Option<&'a Platform> {
        self.all.iter().find_map(|edit| match edit {
            Edit::Platform(platform) => Some(platform),
            _ => None,
        })
    }

    fn config(&mut self, config: &Config) -> Config {
        config.edited(|fields| {
            for (edit, found) in self.all.iter().zip(&mut self.found) {
                *found |= edit.change_config(fields, &self.patterns);
            }
        })
    }

    fn annotations(&mut self, document: &mut Object) {
        for (edit, found) in self.all.iter().zip(&mut self.found) {
            *found |= edit.change_annotations(document);
        }
    }

    /// Returns a note if something was to be removed that is not there.
    fn note(&self) -> Option<String> {
        let missing = self.all.iter().zip(&self.found).filter(|(_, found)| !**found);
        let missing: Vec<_> = missing.filter_map(|(edit, _)| edit.removed()).collect();
        (!missing.is_empty()).then(|| format!("there is nothing to remove: {}", missing.join(", ")))
    }
}

/// Changes the configs and annotations of opened images, which are then split. Returns notes.
///
/// # Errors
/// If an edit is for one image and there are several.
pub fn edit_opened(opened: &mut Opened, edits: &[Edit]) -> Result<Vec<String>> {
    if edits.is_empty() {
        return Ok(Vec::new());
    }
    let mut all = Edits::new(edits, opened.images.len())?;
    let mut change = |annotations: &Annotations| -> Annotations {
        let mut document = Object::new();
        document.insert("annotations".into(), json!(annotations));
        all.annotations(&mut document);
        let new = document.get("annotations").and_then(Value::as_object);
        let text =
            |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        new.into_iter().flatten().filter_map(text).collect()
    };
    for image in &mut opened.images {
        image.annotations = change(&image.annotations);
    }
    if let Some(index) = &mut opened.index {
        let new = change(&index.annotations.clone().unwrap_or_default());
        index.annotations = (!new.is_empty()).then_some(new);
    }
    for image in &mut opened.images {
        image.config = all.config(&image.config);
        if let Some(platform) = all.platform() {
            image.platform = platform.clone();
        }
    }
    Ok(all.note().into_iter().collect())
}

/// Applies `change` to the main holder and to those that exist; the former is created if it does not.
fn in_holders(config: &mut Object, change: impl Fn(&mut Object, bool) -> Found) -> Found {
    let mut found = false;
    for (i, name) in HOLDERS.into_iter().enumerate() {
        match config.get_mut(name).and_then(Value::as_object_mut) {
            Some(holder) => found |= change(holder, i == 0),
            None if i == 0 => {
                let mut holder = Object::new();
                found |= change(&mut holder, true);
                if !holder.is_empty() {
                    config.insert(name.into(), Value::Object(holder));
                }
            }
            None => {}
        }
    }
    found
}

/// Returns the value that a path of names leads to.
fn get<'a>(object: &'a Object, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let value = object.get(first)?;
    if rest.is_empty() { Some(value) } else { get(value.as_object()?, rest) }
}

/// Sets the value that a path of names leads to. Objects that are missing are created.
fn set(object: &mut Object, path: &[String], value: Value) -> Found {
    let Some((first, rest)) = path.split_first() else { return false };
    if rest.is_empty() {
        object.insert(first.clone(), value);
        return true;
    }
    let inner = object.entry(first.clone()).or_insert(Value::Null);
    if !inner.is_object() {
        *inner = Value::Object(Object::new());
    }
    inner.as_object_mut().is_some_and(|inner| set(inner, rest, value))
}

/// Removes the value that a path of names leads to. The others keep their order.
fn remove(object: &mut Object, path: &[String]) -> Found {
    let Some((first, rest)) = path.split_first() else { return false };
    if rest.is_empty() {
        return object.shift_remove(first).is_some();
    }
    object.get_mut(first).and_then(Value::as_object_mut).is_some_and(|inner| remove(inner, rest))
}

/// Returns whether an entry of `Env` is about a variable.
fn is_variable(entry: &Value, name: &str) -> bool {
    entry.as_str().is_some_and(|text| text.split('=').next() == Some(name))
}

fn has_variable(holder: &Object, name: &str) -> bool {
    let list = holder.get("Env").and_then(Value::as_array);
    list.into_iter().flatten().any(|entry| is_variable(entry, name))
}

/// Sets a variable where it is, or at the end.
fn set_variable(holder: &mut Object, name: &str, value: &str) -> Found {
    let env = holder.entry("Env").or_insert(Value::Null);
    if !env.is_array() {
        *env = json!([]);
    }
    let Some(list) = env.as_array_mut() else { return false };
    let new = json!(format!("{name}={value}"));
    // If there are several, the last one counts.
    match list.iter().rposition(|entry| is_variable(entry, name)) {
        Some(at) => list[at] = new,
        None => list.push(new),
    }
    true
}

fn remove_variable(holder: &mut Object, name: &str) -> Found {
    let Some(list) = holder.get_mut("Env").and_then(Value::as_array_mut) else { return false };
    let before = list.len();
    list.retain(|entry| !is_variable(entry, name));
    list.len() < before
}

/// Sets the platform in a config, or in a descriptor's platform. Versions and features stay.
fn set_platform(object: &mut Object, platform: &Platform) -> Found {
    object.insert("architecture".into(), json!(platform.architecture));
    object.insert("os".into(), json!(platform.os));
    match &platform.variant {
        Some(variant) => object.insert("variant".into(), json!(variant)),
        None => object.shift_remove("variant"),
    };
    true
}

impl Redaction {
    fn apply(self, config: &mut Object, patterns: &Patterns) -> Found {
        const TEXTS: [&str; 3] = ["created_by", "comment", "author"];
        let lines = config.get_mut("history").and_then(Value::as_array_mut);
        for line in lines.into_iter().flatten().filter_map(Value::as_object_mut) {
            for key in TEXTS {
                if self == Self::All {
                    line.shift_remove(key);
                } else if let Some(Value::String(text)) = line.get_mut(key) {
                    *text = redact(text, patterns);
                }
            }
        }
        // The command of the build's last step.
        let last = config.get_mut("container_config").and_then(Value::as_object_mut);
        let words = last.and_then(|holder| holder.get_mut("Cmd")).and_then(Value::as_array_mut);
        for word in words.into_iter().flatten() {
            if let Value::String(text) = word {
                *text = if self == Self::All { String::new() } else { redact(text, patterns) };
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(config: &str, edits: &[Edit]) -> String {
        let config = Config::parse(config.as_bytes()).unwrap();
        let new = Edits::new(edits, 1).unwrap().config(&config);
        String::from_utf8(new.to_bytes().unwrap()).unwrap()
    }

    #[test]
    fn what_no_edit_names_stays_in_its_place() {
        let old = r#"{"os":"linux","zoo":1.50,"config":{"Env":["A=1","P=/bin","A=2"],"x":null,"User":"u","Labels":null},"architecture":"amd64"}"#;
        let edits = [
            Edit::env("P=/usr/bin=x").unwrap(),
            Edit::env("A=3").unwrap(),
            Edit::env("N=").unwrap(),
            Edit::label("a.b=c").unwrap(),
            Edit::user("").unwrap(),
        ];
        let new = r#"{"os":"linux","zoo":1.50,"config":{"Env":["A=1","P=/usr/bin=x","A=3","N="],"x":null,"Labels":{"a.b":"c"}},"architecture":"amd64"}"#;
        assert_eq!(edited(old, &edits), new);
        let back = ["P-", "A-", "N-"].map(|name| Edit::env(name).unwrap());
        assert!(edited(new, &back).contains(r#""Env":[]"#));
        // Nothing is created to remove something from it.
        for nothing in [Edit::env("Z-"), Edit::label("z-"), Edit::expose("80-"), Edit::workdir("")]
        {
            assert_eq!(edited("{}", &[nothing.unwrap()]), "{}");
        }
    }
}
