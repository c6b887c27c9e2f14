//! The three-way merge of image configs.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{Judge, KeepRule, MergeItem, Merged, Reason, Side, three_way};
use crate::base::error::{Error, Result};
use crate::model::oci::Config;

type Object = Map<String, Value>;

/// Fields of the whole config that are not merged: the platform is the new base's, the time of creation is
/// the app's, and layers and history are set apart.
const APART: [&str; 9] = [
    "architecture",
    "os",
    "os.version",
    "os.features",
    "variant",
    "created",
    "rootfs",
    "history",
    "config",
];
/// Fields of the whole config about the build or the parent image, which are left out.
const OF_BUILD: [&str; 5] = ["id", "parent", "container", "container_config", "docker_version"];
/// Fields of the container's part about the parent image and the container of the build.
const OF_CONTAINER: [&str; 3] = ["Image", "Hostname", "Domainname"];
/// Fields whose keys are merged one by one.
const BY_KEY: [&str; 3] = ["Labels", "ExposedPorts", "Volumes"];

/// Merges the configs of the old base, the app and the new base. The diff IDs are still those of the app.
///
/// # Errors
/// If the platforms differ.
pub(super) fn merge(
    old: &Config,
    app: &Config,
    new: &Config,
    keep: &[KeepRule],
) -> Result<Merged<Config>> {
    let (of_app, of_new) = (app.platform(), new.platform());
    if (&of_app.os, &of_app.architecture, &of_app.variant)
        != (&of_new.os, &of_new.architecture, &of_new.variant)
    {
        return Err(Error::refused(format!(
            "the image is for {of_app}, and the new base for {of_new}; select one of its images with --platform"
        )));
    }
    let mut judge = Judge::new(keep);
    let value = app.edited(|fields| {
        let [old, app, new] = [old, app, new].map(Config::fields);
        fields.clear();
        for key in keys([old, app, new]).filter(|key| !OF_BUILD.contains(key)) {
            let merged = match app.get(key) {
                own if APART.contains(&key) => own.cloned(),
                own => field(&mut judge, key, [old.get(key), own, new.get(key)]),
            };
            fields.extend(merged.map(|value| (key.to_owned(), value)));
        }
        for key in ["os.version", "os.features"] {
            put(fields, key, new.get(key).cloned());
        }
        let empty = Object::new();
        let part = |all| Object::get(all, "config").and_then(Value::as_object).unwrap_or(&empty);
        let parts = [old, app, new].map(part);
        note_expanded(&mut judge, parts);
        let merged = container(&mut judge, parts);
        fields.insert("config".into(), Value::Object(merged));
        let lines = history([old, app, new].map(lines));
        fields.insert("history".into(), Value::Array(lines));
    });
    Ok(judge.finish(value))
}

/// Merges the fields that containers get.
fn container(judge: &mut Judge<'_>, sides: [&Object; 3]) -> Object {
    let [old, app, _] = sides;
    let mut merged = Object::new();
    for key in keys(sides).filter(|key| !OF_CONTAINER.contains(key)) {
        let values = sides.map(|side| side.get(key));
        let value = match key {
            "Env" => environment(judge, values),
            // ENTRYPOINT resets what the base has here, so the app's is not the base's.
            "Cmd" if filled(app.get("Entrypoint")) != filled(old.get("Entrypoint")) => {
                values[1].cloned()
            }
            _ if BY_KEY.contains(&key) => members(judge, key, values),
            _ => field(judge, key, values),
        };
        merged.extend(value.map(|value| (key.to_owned(), value)));
    }
    merged
}

/// Returns all keys: those of the app first, in order, then those of the new base.
fn keys(sides: [&Object; 3]) -> impl Iterator<Item = &str> {
    let [old, app, new] = sides;
    let mut seen = BTreeSet::new();
    let all = app.keys().chain(new.keys()).chain(old.keys());
    all.map(String::as_str).filter(move |key| seen.insert(*key)).collect::<Vec<_>>().into_iter()
}

fn put(object: &mut Object, key: &str, value: Option<Value>) {
    match value {
        Some(value) => {
            object.insert(key.to_owned(), value);
        }
        None => {
            object.shift_remove(key);
        }
    }
}

/// Returns a value unless it is empty, which means the same as a missing field.
fn filled(value: Option<&Value>) -> Option<&Value> {
    value.filter(|value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    })
}

fn field(judge: &mut Judge<'_>, key: &str, values: [Option<&Value>; 3]) -> Option<Value> {
    let [old, app, new] = values.map(filled);
    let side = three_way(&old, &app, &new).or_else(|| {
        judge.decide(MergeItem::Config(key.to_owned()), Reason::of(app.is_some(), new.is_some()))
    });
    let [_, app, new] = values;
    // What is empty on both sides stays in the app's form.
    match side {
        Some(Side::Base) if filled(app) != filled(new) => new.cloned(),
        _ => app.cloned(),
    }
}

/// Merges objects key by key: those of the new base first, then those that only the app has.
fn members(judge: &mut Judge<'_>, of: &str, values: [Option<&Value>; 3]) -> Option<Value> {
    let empty = Object::new();
    let [old, app, new] = values.map(|v| v.and_then(Value::as_object).unwrap_or(&empty));
    let mut merged = Object::new();
    for key in keys([old, new, app]) {
        let (old, app, new) = (old.get(key), app.get(key), new.get(key));
        let side = three_way(&old, &app, &new).or_else(|| {
            let subject = MergeItem::Config(format!("{of}.{key}"));
            judge.decide(subject, Reason::of(app.is_some(), new.is_some()))
        });
        let value = if side == Some(Side::Base) { new } else { app };
        merged.extend(value.map(|value| (key.to_owned(), value.clone())));
    }
    if merged.is_empty() {
        // An empty field of the app stays as it is.
        return values[1].filter(|value| filled(Some(value)).is_none()).cloned();
    }
    Some(Value::Object(merged))
}

/// Merges environments by variable. If a list has one several times, the last one counts.
fn environment(judge: &mut Judge<'_>, values: [Option<&Value>; 3]) -> Option<Value> {
    let variables = |value: Option<&Value>| {
        let mut all = Object::new();
        for entry in value.and_then(Value::as_array).into_iter().flatten() {
            let Some(text) = entry.as_str() else { continue };
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            all.insert(name.to_owned(), Value::String(value.to_owned()));
        }
        all
    };
    let [mut old, mut app, new] = values.map(variables);
    for (name, value) in &mut app {
        let texts = (old.get(name), &*value, new.get(name));
        let (Some(Value::String(before)), Value::String(own), Some(Value::String(now))) = texts
        else {
            continue;
        };
        let extended = if before == now { None } else { extended(before, own, now) };
        if let Some(extended) = extended {
            judge.notes.push(format!(
                "config:Env.{name}: the image's value contains that of the old base, in whose place is now that of the new base"
            ));
            // It has both changes, so the new base has nothing to add.
            old.insert(name.clone(), Value::String(now.clone()));
            *value = Value::String(extended);
        }
    }
    let [old, app, new] = [old, app, new].map(Value::Object);
    let merged = members(judge, "Env", [Some(&old), Some(&app), Some(&new)])?;
    let line = |(name, value): (&String, &Value)| {
        Value::String(format!("{name}={}", value.as_str().unwrap_or_default()))
    };
    if merged.as_object().is_none_or(Object::is_empty) {
        return values[1].filter(|value| filled(Some(value)).is_none()).cloned();
    }
    Some(Value::Array(merged.as_object().into_iter().flatten().map(line).collect()))
}

/// Adds notes on what the app set to texts that contain the old base's value of another variable, which the
/// new base changed: `ENV OWN=$BASE/own`.
fn note_expanded(judge: &mut Judge<'_>, sides: [&Object; 3]) {
    /// Shorter values are there by chance.
    const LEAST: usize = 3;
    /// Maximum number of variables that are searched for.
    const MOST: usize = 256;
    let texts = |side: &Object| -> Vec<(String, String)> {
        let mut all = Vec::new();
        for entry in side.get("Env").and_then(Value::as_array).into_iter().flatten() {
            let text = entry.as_str().and_then(|text| text.split_once('='));
            all.extend(text.map(|(name, value)| (format!("Env.{name}"), value.to_owned())));
        }
        for (key, value) in side.iter().filter(|(key, _)| *key != "Env") {
            match value {
                Value::Object(map) => all.extend(map.iter().filter_map(|(name, value)| {
                    Some((format!("{key}.{name}"), value.as_str()?.to_owned()))
                })),
                Value::String(text) => all.push((key.clone(), text.clone())),
                _ => {}
            }
        }
        all
    };
    let [old, app, new] = sides.map(texts).map(BTreeSet::from_iter);
    let is_long =
        |(name, value): &&(String, String)| name.starts_with("Env.") && value.len() >= LEAST;
    for (of, value) in old.difference(&new).filter(is_long).take(MOST) {
        for (name, text) in app.difference(&old) {
            if name != of && text.contains(value.as_str()) {
                judge.notes.push(format!(
                    "config:{name} contains the old base's value of config:{of}, which the new base changed"
                ));
            }
        }
    }
}

/// Returns the app's value with that of the new base in the place of that of the old base, if it is there
/// once, between separators, and with something beside it.
fn extended(old: &str, app: &str, new: &str) -> Option<String> {
    let separates = |c: Option<char>| c.is_none_or(|c| matches!(c, ':' | ' ' | ',' | ';'));
    if old.is_empty() || app == old || app.matches(old).count() != 1 {
        return None;
    }
    let (before, after) = app.split_once(old)?;
    let whole = separates(before.chars().next_back()) && separates(after.chars().next());
    whole.then(|| format!("{before}{new}{after}"))
}

fn lines(config: &Object) -> &[Value] {
    config.get("history").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Returns the new base's history, and above it what the app's has above that of the old base.
fn history([old, app, new]: [&[Value]; 3]) -> Vec<Value> {
    let own = app.strip_prefix(old).unwrap_or(app);
    [new, own].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        let rest = text.strip_prefix('{').unwrap();
        Config::parse(format!(r#"{{"os":"linux","architecture":"amd64",{rest}"#).as_bytes())
            .unwrap()
    }

    fn merged(texts: [&str; 3], keep: &[&str]) -> (Option<String>, Vec<String>, Vec<String>) {
        let [old, app, new] = texts.map(|t| config(&format!(r#"{{"config":{t}}}"#)));
        let keep: Vec<KeepRule> = keep.iter().map(|rule| rule.parse().unwrap()).collect();
        let merged = merge(&old, &app, &new, &keep).unwrap();
        let text = merged.value.map(|c| c.get("config").unwrap().to_string());
        (text, merged.conflicts.iter().map(|c| c.subject.to_string()).collect(), merged.notes)
    }

    #[test]
    fn each_variable_and_label_is_merged_by_itself() {
        let (text, conflicts, notes) = merged(
            [
                r#"{"Env":["PATH=/bin","V=1","GONE=x","OLD=1"],"Labels":{"v":"1","who":"base"}}"#,
                r#"{"Env":["PATH=/bin","V=1","GONE=x","OLD=1","A=b","OLD=2"],"Labels":{"v":"1","who":"app","x":""}}"#,
                r#"{"Env":["PATH=/usr/bin","V=2","OLD=1","N=1"],"Labels":{"v":"2","who":"base"}}"#,
            ],
            &[],
        );
        let want = r#"{"Env":["PATH=/usr/bin","V=2","OLD=2","N=1","A=b"],"Labels":{"v":"2","who":"app","x":""}}"#;
        assert_eq!((text.as_deref(), conflicts.len(), notes.len()), (Some(want), 0, 0));
    }

    #[test]
    fn a_value_that_extends_the_old_one_extends_the_new_one() {
        let texts = [
            r#"{"Env":["PATH=/bin"]}"#,
            r#"{"Env":["PATH=/app:/bin"]}"#,
            r#"{"Env":["PATH=/x:/bin"]}"#,
        ];
        let (text, conflicts, notes) = merged(texts, &[]);
        assert_eq!(text.as_deref(), Some(r#"{"Env":["PATH=/app:/x:/bin"]}"#), "{conflicts:?}");
        assert_eq!(notes.len(), 1);
        assert_eq!(extended("/bin", "/usr/bin", "/x"), None);
        assert_eq!(extended("1", "1:1", "2"), None);
        assert_eq!(extended("", "1", "2"), None);
    }

    #[test]
    fn what_both_changed_is_a_conflict_until_a_rule_decides() {
        let texts = [
            r#"{"Env":["V=1"],"User":"a","Cmd":null,"WorkingDir":""}"#,
            r#"{"Env":["V=2"],"User":"b","Cmd":[]}"#,
            r#"{"Env":["V=3"],"User":"","WorkingDir":"/"}"#,
        ];
        let (text, conflicts, _) = merged(texts, &["app=/etc"]);
        assert_eq!((text, conflicts), (None, vec!["config:Env.V".into(), "config:User".into()]));
        let (text, ..) = merged(texts, &["base", "app=config:Env"]);
        assert_eq!(text.as_deref(), Some(r#"{"Env":["V=2"],"User":"","Cmd":[],"WorkingDir":"/"}"#));
    }

    #[test]
    fn an_entrypoint_of_the_app_resets_the_command_of_the_base() {
        let (text, conflicts, _) = merged(
            [
                r#"{"Cmd":["sh"]}"#,
                r#"{"Entrypoint":["x"]}"#,
                r#"{"Cmd":["bash"],"Image":"sha256:1"}"#,
            ],
            &[],
        );
        assert_eq!((text.as_deref(), conflicts.len()), (Some(r#"{"Entrypoint":["x"]}"#), 0));
    }

    #[test]
    fn the_history_is_that_of_the_new_base_and_the_app() {
        let of = |lines: &str| config(&format!(r#"{{"history":[{lines}],"id":"x"}}"#));
        let get = |old, app, new| {
            let merged = merge(&of(old), &of(app), &of(new), &[]).unwrap().value.unwrap();
            assert!(merged.get("id").is_none());
            merged.get("history").unwrap().to_string()
        };
        assert_eq!(get("1", "1,2", "3,4"), "[3,4,2]");
        assert_eq!(get("1", "5,2", "3"), "[3,5,2]");
        let arm = Config::parse(br#"{"os":"linux","architecture":"arm64"}"#).unwrap();
        assert!(merge(&arm, &of(""), &arm, &[]).is_err());
    }
}
