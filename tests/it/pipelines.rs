//! What pipelines use: summaries in Markdown, SARIF, limits, and options from the environment and a file.

use std::fs;
use std::process::Output;

use serde_json::Value;

use super::image::{Codec, Image, Item, layer, noise};
use super::tool::{self, FAILED, relayer};

/// A folder with two versions of an image; the second has a secret.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let noise = |seed| noise(seed, 200_000);
    let base = layer(&[Item::file("opt/base", noise(1))]);
    let token = format!(
        "//registry.npmjs.org/:_authToken=npm_{}\n",
        "0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX"
    );
    let app = |n| layer(&[Item::file("opt/__app__|@x.bin", noise(n))]);
    let more = layer(&[Item::file("root/.npmrc", format!("# settings\n{token}"))]);
    Image::new(vec![base.clone(), app(2)]).write_layout(&dir.path().join("v1"), Codec::Gzip);
    Image::new(vec![base, app(3), more]).write_layout(&dir.path().join("v2"), Codec::Gzip);
    dir
}

fn run(dir: &tempfile::TempDir, args: &[&str], env: &[(&str, &str)]) -> Output {
    tool::output(relayer().args(args).current_dir(dir).envs(env.iter().copied()))
}

fn ok(dir: &tempfile::TempDir, args: &[&str], env: &[(&str, &str)]) -> String {
    let out = run(dir, args, env);
    assert!(out.status.success(), "{args:?}: {}", tool::said(&out));
    String::from_utf8(out.stdout).unwrap()
}

fn json(dir: &tempfile::TempDir, args: &[&str], env: &[(&str, &str)]) -> Value {
    serde_json::from_str(&ok(dir, &[args, &["--json"]].concat(), env)).unwrap()
}

#[test]
fn summaries_are_markdown_in_one_file() {
    let dir = folder();
    for args in [
        &["split", "v2", "-o", "out.tar", "-q"][..],
        &["inspect", "v2"],
        &["diff", "v1", "v2", "--fail-on", "layers=0"],
    ] {
        run(&dir, &[args, &["--summary", "summary.md"]].concat(), &[]);
    }
    let text = fs::read_to_string(dir.path().join("summary.md")).unwrap();
    for part in [
        "### relayer split v2\n",
        "|  | layers | download | unpacked |  |\n|---|--:|--:|--:|--:|\n| before, as gzip | 3 | ",
        "### relayer inspect v2\n",
        "| npm-token | /root/.npmrc | 3 | - | 2 | ",
        "| `/opt/__app__\\|@x.bin` | 2 | 200.0 kB |",
        "### relayer diff\n",
        "| by chain ID: docker, eks | 2 | ",
        "\nfailed: layers=0: clients by digest download 2 layers  \n",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let none = run(&dir, &["inspect", "v2", "--summary", "no/folder.md"], &[]);
    assert!(tool::said(&none).contains("writing no/folder.md"), "{}", tool::said(&none));
}

#[test]
fn secrets_are_written_as_sarif() {
    let dir = folder();
    ok(&dir, &["inspect", "v2", "--sarif", "secrets.sarif"], &[]);
    let text = fs::read_to_string(dir.path().join("secrets.sarif")).unwrap();
    let sarif: Value = serde_json::from_str(&text).unwrap();
    let run = &sarif["runs"][0];
    let result = &run["results"][0];
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(sarif["version"], "2.1.0");
    assert_eq!(run["tool"]["driver"]["rules"][0]["id"], result["ruleId"]);
    assert_eq!((&result["ruleId"], &result["level"]), (&"npm-token".into(), &"error".into()));
    assert_eq!(place["artifactLocation"]["uri"], "root/.npmrc");
    assert_eq!(place["region"]["startLine"], 2);
    assert!(!text.contains("0aB1cD2eF3"));
}

#[test]
fn limits_of_size_and_updates_fail_a_pipeline() {
    let dir = folder();
    for (args, status, text) in [
        (&["inspect", "v2", "--fail-on", "size=1MB"][..], 0, ""),
        (&["inspect", "v2", "--fail-on", "size=300kB"], FAILED, "size=300.0 kB: 40"),
        (&["diff", "v1", "v2", "--fail-on", "update=1MB,layers=2"], 0, ""),
        (&["diff", "v1", "v2", "--fail-on", "update=100kB"], FAILED, "by diff ID download 20"),
        (&["diff", "v1", "v2", "--fail-on", "size=1"], 2, "use update=50MB or layers=5"),
    ] {
        let out = run(&dir, args, &[]);
        assert_eq!(out.status.code(), Some(status), "{args:?} {}", tool::said(&out));
        assert!(tool::said(&out).contains(text), "{args:?} {}", tool::said(&out));
    }
    let report = run(&dir, &["diff", "v1", "v2", "--fail-on", "layers=1", "--json"], &[]);
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["exceeded"].as_array().unwrap().len(), 3, "{report}");
}

#[test]
fn the_command_line_comes_before_the_environment_and_that_before_the_file() {
    let dir = folder();
    let file = "target = 1\nthreads = 1\n\n[split]\ncompression = \"gzip\"\nchurn = [\"/opt/base=0.01\"]\n";
    fs::write(dir.path().join("relayer.toml"), file).unwrap();
    let layers = |args: &[&str], env: &[(&str, &str)]| {
        let report = json(&dir, &[&["split", "v2", "--dry-run"], args].concat(), env);
        report["images"][0]["layers"].as_array().unwrap().len()
    };
    assert_eq!(layers(&[], &[]), 1);
    assert_eq!(layers(&[], &[("RELAYER_TARGET", "2")]), 2);
    assert_eq!(layers(&["--target", "3"], &[("RELAYER_TARGET", "2")]), 3);
    // What it contradicts gives way.
    assert!(layers(&["--layer-size", "250kB"], &[("RELAYER_TARGET", "1")]) > 1);
    let other = [("RELAYER_CONFIG", "other.toml")];
    fs::write(dir.path().join("other.toml"), "dry-run = true\n").unwrap();
    assert!(ok(&dir, &["split", "v2", "--target", "3"], &other).contains("dry run"));
    let out = json(&dir, &["config"], &[("RELAYER_TARGET", "2")]);
    let found: Vec<_> = out["options"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| {
            let text = |key: &str| o[key].as_str().unwrap();
            format!("{}|{}|{}|{}", text("command"), text("option"), text("value"), text("from"))
        })
        .collect();
    for line in [
        "|threads|1|relayer.toml",
        "split|target|2|RELAYER_TARGET",
        "split|compression|gzip|relayer.toml",
        "split|churn|/opt/base=0.01|relayer.toml",
    ] {
        assert!(found.contains(&line.to_owned()), "{line}: {found:?}");
    }
    assert!(!found.iter().any(|line| line.starts_with("flatten|compression")), "{found:?}");
    let all = ok(&dir, &["config", "split"], &[]);
    let line = |option: &str| {
        all.lines().find(|l| l.contains(&format!("--{option} "))).unwrap().to_owned()
    };
    assert!(
        line("mtime").ends_with("default") && line("threads").ends_with("relayer.toml"),
        "{all}"
    );
    let none = ok(&dir, &["config"], &[("RELAYER_CONFIG", "/dev/null")]);
    assert!(none.starts_with("all options have their defaults"), "{none}");
}

#[test]
fn wrong_settings_say_where_they_are() {
    let dir = folder();
    for (text, env, want) in [
        ("targte = 1", ("A", "b"), "relayer.toml: targte is not an option"),
        ("target = 1000", ("A", "b"), "relayer.toml: invalid value '1000' for '--target <N>'"),
        ("[spilt]\ntarget = 1", ("A", "b"), "relayer.toml: spilt is not a command"),
        ("[split]\nthreads = 1", ("A", "b"), "split.threads is not an option of this command"),
        ("dry-run = 1", ("A", "b"), "relayer.toml: dry-run must be true or false"),
        ("target = {a = 1}", ("A", "b"), "target is not a command"),
        ("target = ", ("A", "b"), "reading relayer.toml: "),
        ("", ("RELAYER_THREADS", "x"), "RELAYER_THREADS: invalid value 'x'"),
        ("", ("RELAYER_CONFIG", "none.toml"), "reading none.toml: "),
    ] {
        fs::write(dir.path().join("relayer.toml"), text).unwrap();
        let out = run(&dir, &["split", "v2", "--dry-run"], &[env]);
        assert_eq!(out.status.code(), Some(2), "{text} {}", tool::said(&out));
        assert!(tool::said(&out).contains(want), "{want}: {}", tool::said(&out));
    }
}
