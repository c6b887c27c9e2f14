//! Likely secrets as SARIF 2.1.0, which code scanning services import.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::inspect::Inspection;
use crate::model::digest::Digest;
use crate::secrets::LikelySecret;

/// Returns the document for the secrets of images, which are `named` so.
pub(super) fn document(named: &str, images: &[Inspection]) -> Value {
    let found = images.iter().flat_map(|image| &image.secrets);
    let rules: BTreeSet<&str> = found.clone().map(|secret| secret.rule).collect();
    let rules: Vec<Value> = rules
        .iter()
        .map(|rule| {
            let text = format!("Likely secret: {}", rule.replace('-', " "));
            json!({
                "id": rule,
                "shortDescription": { "text": text },
                "help": { "text": "Build the image without the secret, and renew it: everybody who has \
                                   the image can read it." },
                "properties": { "tags": ["security"], "security-severity": "8.0" },
            })
        })
        .collect();
    // An index has images for several platforms, mostly with the same findings.
    let mut seen = BTreeSet::new();
    let results: Vec<Value> =
        found.map(|secret| result(named, secret)).filter(|r| seen.insert(r.to_string())).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "relayer",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "results": results,
        }],
    })
}

fn result(named: &str, secret: &LikelySecret) -> Value {
    let LikelySecret { rule, path, layer, hidden_by, line, places, .. } = secret;
    let place = match (layer, hidden_by) {
        (Some(layer), Some(by)) => {
            format!(" in layer {layer}, hidden by layer {by} and still readable")
        }
        (Some(layer), None) => format!(" in layer {layer}"),
        _ => String::new(),
    };
    let text = format!("{named}: {path} has a likely secret ({rule}){place}");
    let mut location = json!({ "artifactLocation": { "uri": uri(path) } });
    // A file that is not text has no lines.
    location["region"] = json!({ "startLine": line.unwrap_or(1) });
    json!({
        "ruleId": rule,
        "level": if hidden_by.is_some() { "warning" } else { "error" },
        "message": { "text": text },
        "locations": [{ "physicalLocation": location }],
        "occurrenceCount": places,
        "partialFingerprints": {
            "relayer/v1": Digest::of(format!("{rule} {path}").as_bytes()).to_string(),
        },
    })
}

/// Returns the path in the image as a relative URI.
fn uri(path: &str) -> String {
    crate::base::text::percent_encode(path.trim_start_matches('/'), b"/-._~")
}
