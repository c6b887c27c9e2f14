//! `relayer history`.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::image::Codec;
use super::tool;
use super::update::{application, write};

fn history(dir: &Path, args: &[&str]) -> Command {
    let mut command = tool::relayer();
    command.arg("history").args(args).arg("--history").arg(dir.join("history"));
    command
}

fn show(dir: &Path) -> Value {
    serde_json::from_str(&tool::ok(&mut history(dir, &["show", "--json"]))).unwrap()
}

fn images(shown: &Value) -> u64 {
    shown["sequences"].as_array().unwrap().iter().map(|s| s["images"].as_u64().unwrap()).sum()
}

#[test]
fn a_history_is_made_for_an_image_that_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let failed = tool::output(&mut history(dir, &["add", "nowhere.tar"]));
    assert_eq!(failed.status.code(), Some(tool::FAILED));
    assert!(!dir.join("history").exists());
    // A folder of somebody else stays, and stays empty.
    std::fs::create_dir(dir.join("history")).unwrap();
    tool::output(&mut history(dir, &["add", "nowhere.tar"]));
    assert_eq!(std::fs::read_dir(dir.join("history")).unwrap().count(), 0);
    tool::ok(&mut history(dir, &["add", write(dir, 0).to_str().unwrap()]));
    // What can't be locked is not always locked by another.
    std::fs::remove_file(dir.join("history/index/LOCK")).unwrap();
    std::fs::create_dir(dir.join("history/index/LOCK")).unwrap();
    let failed = tool::output(&mut history(dir, &["add", "nowhere.tar"]));
    let text = String::from_utf8_lossy(&failed.stderr);
    assert!(text.contains("LOCK") && !text.contains("another relayer"), "{text}");
}

#[test]
fn what_changes_is_learned_and_goes_on_top() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // Each version changes one part more: p0 every time, p7 never.
    let layouts: Vec<String> = (0..6).map(|v| write(dir, v).display().to_string()).collect();
    let mut args = vec!["add"];
    args.extend(layouts.iter().map(String::as_str));
    let text = tool::ok(&mut history(dir, &args));
    assert!(text.contains("number 6 of docker.io/example/app"), "{text}");
    // The same image again is no new one.
    let again = tool::ok(&mut history(dir, &["add", &layouts[3]]));
    assert!(again.contains("already in docker.io/example/app"), "{again}");
    let shown = show(dir);
    assert_eq!(images(&shown), 6);
    let component = |name: &str| {
        let all = shown["components"].as_array().unwrap();
        let found = all.iter().find(|c| c["component"]["name"] == name);
        found.unwrap_or_else(|| panic!("{name} in {shown}")).clone()
    };
    for (name, changed) in [("npm:p0", 5), ("npm:p3", 2), ("npm:p7", 0), ("state:logs", 5)] {
        let c = component(name);
        assert_eq!(
            (&c["component"]["seen"], &c["component"]["changed"]),
            (&5.into(), &changed.into()),
            "{name}"
        );
    }
    let chance = |name: &str| component(name)["chance"].as_f64().unwrap();
    assert!(chance("npm:p0") > 0.6 && chance("npm:p7") < 0.2 && chance("npm:p7") > 0.0);
    assert_eq!(shown["files"][0]["learned"]["changed"], 5);
    assert!(tool::ok(&mut history(dir, &["show"])).contains("least stable"));

    // The first layer that holds a component.
    let place = |name: &str, more: &[&str]| {
        let mut command = tool::relayer();
        command.args(["split", &layouts[0], "--dry-run", "--json", "--target", "8"]).args(more);
        let report: Value = serde_json::from_str(&tool::ok(&mut command)).unwrap();
        let layers = report["images"][0]["layers"].as_array().unwrap().clone();
        let holds = |layer: &Value| {
            layer["components"].as_array().unwrap().iter().any(|c| c["name"] == name)
        };
        layers.iter().position(holds).unwrap()
    };
    let history = dir.join("history");
    let learned = ["--history", history.to_str().unwrap()];
    assert!(place("npm:p7", &learned) < place("npm:p0", &learned));
    let distance = |more: &[&str]| place("npm:p0", more).abs_diff(place("npm:p7", more));
    assert!(distance(&learned) > distance(&[]));
}

#[test]
fn nothing_acknowledged_is_lost_by_kill() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    tool::ok(&mut history(dir, &["add", write(dir, 0).to_str().unwrap()]));
    let mut acknowledged = 1;
    for version in 1..25 {
        let image = write(dir, version);
        let mut child = history(dir, &["add", image.to_str().unwrap()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(13 * version as u64 % 170));
        let _ = child.kill();
        let out = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout).contains("number");
        let now = images(&show(dir));
        assert!(now >= acknowledged + u64::from(said), "version {version}: {now}, {acknowledged}");
        acknowledged = now;
    }
}

#[test]
fn one_writes_and_others_read() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let image = write(dir, 0);
    let image = image.to_str().unwrap();
    let missing = tool::output(&mut history(dir, &["show"]));
    assert_eq!(missing.status.code(), Some(tool::FAILED));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no history"));
    tool::ok(&mut history(dir, &["add", image]));
    // It has the lock while it waits for its image.
    let mut first =
        history(dir, &["add", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let second = tool::output(&mut history(dir, &["add", image]));
    assert_eq!(second.status.code(), Some(tool::FAILED));
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(text.contains("another relayer process is writing"), "{text}");
    assert_eq!(images(&show(dir)), 1);
    let archive = super::image::archive(&application(1).oci_files(Codec::Gzip));
    first.stdin.take().unwrap().write_all(&archive).unwrap();
    assert!(first.wait().unwrap().success());
    assert_eq!(images(&show(dir)), 2);
}
