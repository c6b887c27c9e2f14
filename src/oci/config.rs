//! Image configs.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Platform, parse, to_json};
use crate::digest::Digest;
use crate::error::{Error, Result};

/// An image config
/// ([config.md](https://github.com/opencontainers/image-spec/blob/main/config.md)), kept as the
/// JSON object it came as, so that no field, order or number is lost.
#[derive(Debug, Clone, PartialEq)]
pub struct Config(Map<String, Value>);

/// One line of an image's history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
}

impl Config {
    /// Reads a config.
    ///
    /// # Errors
    /// When it is no JSON object.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        parse(bytes, "the image config").map(Self)
    }

    /// The bytes to write.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        to_json(&self.0)
    }

    /// The diff IDs, lowest layer first.
    ///
    /// # Errors
    /// When there are none where the spec wants them, or one is no digest.
    pub fn diff_ids(&self) -> Result<Vec<Digest>> {
        let ids = self.0.get("rootfs").and_then(|r| r.get("diff_ids"));
        match ids {
            Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids
                .iter()
                .map(|id| match id.as_str() {
                    Some(id) => id.parse(),
                    None => Err(Error::malformed("a diff ID in the image config is no text")),
                })
                .collect(),
            _ => Err(Error::malformed(
                "the image config has no rootfs.diff_ids; is this a container image?",
            )),
        }
    }

    /// What the image runs on, as far as the config says.
    pub fn platform(&self) -> Platform {
        let text = |key| self.0.get(key).and_then(Value::as_str).map(str::to_owned);
        Platform {
            os: text("os").unwrap_or_else(|| "linux".into()),
            architecture: text("architecture").unwrap_or_default(),
            variant: text("variant").filter(|v| !v.is_empty()),
            os_version: text("os.version"),
            os_features: None,
        }
    }

    /// A field, as it came.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// When the image was made, in RFC 3339.
    pub fn created(&self) -> Option<&str> {
        self.0.get("created").and_then(Value::as_str)
    }

    /// The commands that made the layers, lowest first, as far as the history tells.
    pub fn layer_history(&self) -> Vec<&str> {
        let lines = self.0.get("history").and_then(Value::as_array);
        let made = |line: &&Value| line.get("empty_layer").and_then(Value::as_bool) != Some(true);
        let by = |line| Value::get(line, "created_by").and_then(Value::as_str).unwrap_or_default();
        lines.into_iter().flatten().filter(made).map(by).collect()
    }

    /// The same config without the lines of its history that were made by commands beginning
    /// with `prefix`.
    #[must_use]
    pub fn without_history(&self, prefix: &str) -> Self {
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

    /// The same config for other layers: their diff IDs, and a history with one entry a layer.
    /// The old history stays, as entries that made no layer, so the counts agree as the spec
    /// wants.
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
    fn a_document_that_is_no_config_is_refused() {
        assert!(Config::parse(b"[]").is_err());
        assert!(Config::parse(b"{}").unwrap().diff_ids().is_err());
        assert!(Config::parse(br#"{"rootfs":{"diff_ids":[3]}}"#).unwrap().diff_ids().is_err());
    }
}
