//! Image configs.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Platform, parse, to_json};
use crate::base::error::{Error, Result};
use crate::base::text::count;
use crate::model::digest::Digest;

/// An image config
/// ([config.md](https://github.com/opencontainers/image-spec/blob/main/config.md)), stored as the
/// original JSON object, so that all fields, their order and the form of numbers are preserved.
#[derive(Debug, Clone, PartialEq)]
pub struct Config(Map<String, Value>);

/// An entry of an image's history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// Time of creation, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The command that created the layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
}

impl Config {
    /// Parses a config.
    ///
    /// # Errors
    /// If it is not a JSON object.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        parse(bytes, "the image config").map(Self)
    }

    /// Serialises the config as JSON.
    ///
    /// # Errors
    /// If the config can't be serialised.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        to_json(&self.0)
    }

    /// Returns the diff IDs, lowest layer first; an empty list if the config has no such field.
    ///
    /// # Errors
    /// If one is not a digest.
    pub fn diff_ids(&self) -> Result<Vec<Digest>> {
        let ids = self.0.get("rootfs").and_then(|r| r.get("diff_ids"));
        match ids {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids
                .iter()
                .map(|id| match id.as_str() {
                    Some(id) => id.parse(),
                    None => Err(Error::malformed("a diff ID in the image config is not a string")),
                })
                .collect(),
            _ => Err(Error::malformed("rootfs.diff_ids in the image config is not a list")),
        }
    }

    /// Returns the diff IDs, of which there must be one for each of `layers` layers.
    ///
    /// # Errors
    /// If there are more or fewer, or one is not a digest.
    pub(crate) fn diff_ids_of(&self, layers: usize) -> Result<Vec<Digest>> {
        let ids = self.diff_ids()?;
        if ids.len() == layers {
            return Ok(ids);
        }
        let hint = if ids.is_empty() { "; is it a container image?" } else { "" };
        Err(Error::malformed(format!(
            "the manifest has {}, but its config has {} (rootfs.diff_ids){hint}",
            count(layers as u64, "layer"),
            count(ids.len() as u64, "diff ID")
        )))
    }

    /// Returns the platform that the config states; the system defaults to Linux.
    pub fn platform(&self) -> Platform {
        let text = |key| self.0.get(key).and_then(Value::as_str).map(str::to_owned);
        Platform {
            os: text("os").filter(|os| !os.is_empty()).unwrap_or_else(|| "linux".into()),
            architecture: text("architecture").unwrap_or_default(),
            variant: text("variant").filter(|v| !v.is_empty()),
            os_version: text("os.version"),
            ..Platform::default()
        }
    }

    /// Returns the unchanged value of a field.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Returns all fields.
    pub(crate) fn fields(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Returns the time of the image's creation, in RFC 3339.
    pub fn created(&self) -> Option<&str> {
        self.0.get("created").and_then(Value::as_str)
    }

    /// Returns the commands that created the layers, lowest first, according to the history.
    pub(crate) fn layer_history(&self) -> Vec<&str> {
        let lines = self.0.get("history").and_then(Value::as_array);
        let made = |line: &&Value| line.get("empty_layer").and_then(Value::as_bool) != Some(true);
        let by = |line| Value::get(line, "created_by").and_then(Value::as_str).unwrap_or_default();
        lines.into_iter().flatten().filter(made).map(by).collect()
    }

    /// Returns the config without the history entries whose command begins with `prefix`.
    #[must_use]
    pub(crate) fn without_history(&self, prefix: &str) -> Self {
        let mut new = self.0.clone();
        if let Some(Value::Array(lines)) = new.get_mut("history") {
            let ours = |line: &Value| {
                let by = line.get("created_by").and_then(Value::as_str);
                by.is_some_and(|by| by.starts_with(prefix))
            };
            lines.retain(|line| !ours(line));
        }
        Self(new)
    }

    /// Returns the config without the fields and labels for whose name and text `is_stale` returns
    /// true, and the names of the removed ones.
    pub(crate) fn without(&self, is_stale: impl Fn(&str, &str) -> bool) -> (Self, Vec<String>) {
        let mut new = self.0.clone();
        let mut dropped = Vec::new();
        let mut drop = |kind: &str, map: &mut Map<String, Value>| {
            map.retain(|key, value| {
                let stale = match value {
                    Value::String(text) => is_stale(key, text),
                    value => is_stale(key, &value.to_string()),
                };
                if stale {
                    dropped.push(format!("{kind} {key}"));
                }
                !stale
            });
        };
        // These fields are replaced anyway, or contain the labels.
        let apart = ["rootfs", "history", "config", "container_config"];
        let mut fields: Map<_, _> = new.clone();
        fields.retain(|key, _| !apart.contains(&key.as_str()));
        drop("config field", &mut fields);
        new.retain(|key, _| apart.contains(&key.as_str()) || fields.contains_key(key));
        for holder in ["config", "container_config"] {
            let labels = new.get_mut(holder).and_then(|config| config.get_mut("Labels"));
            if let Some(labels) = labels.and_then(Value::as_object_mut) {
                drop("label", labels);
            }
        }
        // Both fields may contain the same labels.
        dropped.sort();
        dropped.dedup();
        (Self(new), dropped)
    }

    /// Returns the Dockerfile instructions of non-empty fields that Docker's format has and OCI's does
    /// not.
    pub(crate) fn docker_only(&self) -> Vec<&'static str> {
        let fields = [("Healthcheck", "HEALTHCHECK"), ("OnBuild", "ONBUILD"), ("Shell", "SHELL")];
        let empty = |value: &Value| match value {
            Value::Null => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        let config = self.0.get("config");
        let has = |field| config.and_then(|c| c.get(field)).is_some_and(|value| !empty(value));
        fields.into_iter().filter(|(field, _)| has(*field)).map(|(_, word)| word).collect()
    }

    /// Returns the config as `change` leaves its fields.
    #[must_use]
    pub(crate) fn edited(&self, change: impl FnOnce(&mut Map<String, Value>)) -> Self {
        let mut new = self.0.clone();
        change(&mut new);
        Self(new)
    }

    /// Returns the config for other layers, with their diff IDs and one history entry per layer. The
    /// old history stays, as entries without a layer, so that the counts agree as the spec requires.
    #[must_use]
    pub fn with_layers(&self, diff_ids: &[Digest], history: &[HistoryEntry]) -> Self {
        let mut new = self.0.clone();
        let mut rootfs = match new.get("rootfs") {
            Some(Value::Object(rootfs)) => rootfs.clone(),
            _ => Map::new(),
        };
        rootfs.entry("type").or_insert_with(|| json!("layers"));
        rootfs.insert("diff_ids".into(), json!(diff_ids));
        new.insert("rootfs".into(), Value::Object(rootfs));
        let mut lines = match new.get("history") {
            Some(Value::Array(old)) => old.clone(),
            _ => Vec::new(),
        };
        for line in lines.iter_mut().filter_map(Value::as_object_mut) {
            line.insert("empty_layer".into(), Value::Bool(true));
        }
        lines.extend(history.iter().map(|line| json!(line)));
        new.insert("history".into(), Value::Array(lines));
        Self(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_dropped_twice_is_listed_once() {
        let text = br#"{"config":{"Labels":{"a":"x","b":"x"}},"container_config":{"Labels":{"a":"x","b":"x"}}}"#;
        let (_, dropped) = Config::parse(text).unwrap().without(|_, value| value == "x");
        assert_eq!(dropped, ["label a", "label b"]);
    }

    #[test]
    fn only_layers_and_history_change() {
        let old = br#"{"os":"linux","zoo":1.50,"big":12345678901234567890123,"rootfs":{"type":"layers","diff_ids":[]},"config":{"Env":["B=1","A=2"]},"history":[{"created_by":"x"},{"created_by":"y","empty_layer":true}],"architecture":"amd64"}"#;
        let id = Digest::of(b"");
        let line = HistoryEntry { created: None, created_by: Some("relayer".into()) };
        let new = Config::parse(old).unwrap().with_layers(&[id], &[line]);
        let text = String::from_utf8(new.to_bytes().unwrap()).unwrap();
        let want = format!(
            r#"{{"os":"linux","zoo":1.50,"big":12345678901234567890123,"rootfs":{{"type":"layers","diff_ids":["{id}"]}},"config":{{"Env":["B=1","A=2"]}},"history":[{{"created_by":"x","empty_layer":true}},{{"created_by":"y","empty_layer":true}},{{"created_by":"relayer"}}],"architecture":"amd64"}}"#
        );
        assert_eq!(text, want);
        assert_eq!(new.diff_ids().unwrap(), [id]);
    }

    #[test]
    fn an_invalid_config_is_refused() {
        assert!(Config::parse(b"[]").is_err());
        let none = Config::parse(br#"{"rootfs":null}"#).unwrap();
        assert!(none.diff_ids_of(0).unwrap().is_empty() && none.diff_ids_of(1).is_err());
        assert!(Config::parse(br#"{"rootfs":{"diff_ids":[3]}}"#).unwrap().diff_ids().is_err());
    }
}
