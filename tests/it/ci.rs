//! The pipelines of docs/CI.md: their scripts publish two versions and stop at a secret.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use super::image::{Codec, Image, Item, layer, noise};
use super::registry::{Profile, TestRegistry};
use super::tidy::root;
use super::tool::{self, relayer};

fn page() -> String {
    fs::read_to_string(root().join("docs/CI.md")).unwrap()
}

/// The text of the code block below a heading.
fn block(heading: &str, kind: &str) -> String {
    let page = page();
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).unwrap();
    let (_, block) = section.split_once(&format!("\n```{kind}\n")).unwrap();
    block.split_once("```\n").unwrap().0.to_owned()
}

/// The scripts of a pipeline: the lines below each `KEY: |`.
fn scripts(pipeline: &str, key: &str) -> Vec<String> {
    let mut scripts = Vec::new();
    let mut lines = pipeline.lines().peekable();
    let indent = |line: &str| line.len() - line.trim_start().len();
    while let Some(line) = lines.next() {
        if line.trim_start() != format!("{key}: |") {
            continue;
        }
        let mut script = String::new();
        while let Some(next) = lines.next_if(|next| indent(next) > indent(line)) {
            script.push_str(next.trim_start());
            script.push('\n');
        }
        scripts.push(script);
    }
    scripts
}

/// Publishes versions by a script for each, which gets these variables.
fn publish(scripts: &[String], variables: &[(&str, &str)]) {
    let dir = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start(Profile::plain());
    let run = |version: &str| -> Output {
        let binary = Path::new(env!("CARGO_BIN_EXE_relayer")).parent().unwrap();
        let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
        let mut all = Command::new("sh");
        all.args(["-eu", "-c", &scripts.concat()]).current_dir(&dir).env("PATH", path);
        all.env("HOME", dir.path()).env("IMAGE", format!("{}/team/app", registry.host()));
        all.env("VERSION", version).envs(variables.iter().copied());
        all.env("GITHUB_STEP_SUMMARY", dir.path().join("summary.md"));
        all.env("CI_REGISTRY", registry.host());
        tool::output(&mut all)
    };
    let noise = |seed| noise(seed, 1_200_000);
    let build = |n: usize, more: &[Item]| {
        let base = layer(&[Item::file("usr/lib/base", noise(0))]);
        let app = layer(&[&[Item::file("srv/app", noise(n))][..], more].concat());
        registry.add_image(
            "team/app",
            "build",
            &Image::new(vec![base, app]).oci_files(Codec::Gzip),
        );
    };
    for version in [1, 2] {
        build(version, &[]);
        let out = run(&version.to_string());
        assert!(out.status.success(), "{}", tool::said(&out));
        let manifest = |tag: &str| registry.manifest("team/app", tag);
        assert_eq!(manifest("latest"), manifest(&version.to_string()));
    }
    let summary = fs::read_to_string(dir.path().join("summary.md")).unwrap();
    assert_eq!(summary.matches("### relayer split").count(), 2, "{summary}");
    assert_eq!(summary.matches("### relayer diff").count(), 1, "{summary}");
    assert!(summary.contains("kept 1 of 2 previous layers"), "{summary}");
    let token = format!("npm_{}", "0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX");
    build(3, &[Item::file("root/.npmrc", format!("//registry.npmjs.org/:_authToken={token}\n"))]);
    let out = run("3");
    assert!(!out.status.success() && tool::said(&out).contains("failed: secret: 1 likely secret"));
    assert_eq!(registry.tags("team/app"), ["1", "2", "build", "latest"]);
    assert_eq!(registry.manifest("team/app", "latest"), registry.manifest("team/app", "2"));
    assert!(registry.violations().is_empty(), "{:?}", registry.violations());
}

#[test]
fn the_plain_script_publishes() {
    publish(&[block("Plain shell", "sh")], &[]);
}

#[test]
fn the_scripts_for_github_publish() {
    let scripts = scripts(&block("GitHub Actions", "yaml"), "run");
    let (first, ours) = scripts.split_first().unwrap();
    assert!(first.contains("docker push \"$IMAGE:build\""), "{first}");
    assert_eq!(ours.len(), 3);
    publish(ours, &[]);
}

#[test]
fn the_scripts_for_gitlab_publish() {
    let pipeline = block("GitLab", "yaml");
    let (_, login) = pipeline.split_once("  before_script:\n").unwrap();
    let login: String = login
        .lines()
        .map_while(|line| line.strip_prefix("    - "))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(login.lines().count(), 3, "{login}");
    let ours = scripts(&pipeline, "script");
    let login = std::iter::once(login);
    publish(
        &login.chain(ours).collect::<Vec<_>>(),
        &[
            ("RELAYER_PREVIOUS_IF_EXISTS", "true"),
            ("CI_REGISTRY_USER", "user"),
            ("CI_REGISTRY_PASSWORD", "password"),
        ],
    );
}

#[test]
fn the_file_of_options_is_valid() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("relayer.toml"), block("Options for every command", "toml")).unwrap();
    let text = tool::ok(relayer().arg("config").current_dir(&dir));
    for option in ["threads", "compression", "target", "churn", "fail-on"] {
        assert!(text.contains(&format!("--{option} ")), "{option}: {text}");
    }
}

#[test]
fn a_package_has_a_page_for_each_command() {
    let dir = tempfile::tempdir().unwrap();
    let script = root().join(".ci/pages");
    tool::ok(Command::new(script).arg(env!("CARGO_BIN_EXE_relayer")).arg(dir.path().join("share")));
    let names = fs::read_dir(dir.path().join("share/man")).unwrap();
    let names: Vec<_> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    for page in ["relayer.1", "relayer-split.1", "relayer-config.1", "relayer-cache-prune.1"] {
        assert!(names.contains(&page.to_owned()), "{names:?}");
    }
    // What the package takes is what the script makes.
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    for name in ["relayer.bash", "_relayer", "relayer.fish"] {
        assert!(dir.path().join("share").join(name).exists(), "{name}");
        assert!(manifest.contains(&format!("\"target/share/{name}\"")), "{name}");
    }
}

#[test]
fn the_dockerfile_makes_an_image_without_root() {
    if !tool::needs("buildah, busybox, strip, root") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = root().join("tests/dockerfile.sh");
    let text = tool::ok(Command::new(script).arg(env!("CARGO_BIN_EXE_relayer")).arg(dir.path()));
    let [user, bytes, id, version] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
    assert_eq!((user, id), ("65532:65532", "65532"));
    assert_eq!(version, format!("relayer {}", env!("CARGO_PKG_VERSION")));
    // Alpine takes 8 MB, and an optimised program less than this one.
    assert!(bytes.parse::<u64>().unwrap() < 32_000_000, "{bytes}");
}
