//! `--mtime stable`: two builds of the same files are one image.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::image::{Codec, Image, Item, layer};
use super::tool;
use super::update::split;

/// The time of the package's own files.
const PACKAGED: u64 = 1_650_000_000;
/// The time of the first build.
const BUILT: u64 = 1_700_000_000;
/// The time of directories, and the last that a file can get.
const STABLE: std::ops::Range<i64> = 946_684_800..946_684_801 + (1 << 25);

/// An image that was built at a time, with a file of a package, what its installation left, Python and npm
/// packages, and files of an application.
fn build(time: u64, app: &str) -> Image {
    let now = |item: Item, after: u64| item.mtime(&(time + after).to_string());
    let source = time + 20;
    let compiled =
        [b"\xa7\x0d\r\n\0\0\0\0", &(source as u32).to_le_bytes()[..], b"size code"].concat();
    let system = [
        now(Item::dir("usr/bin/"), 9),
        Item::file("usr/bin/tool", "tool").mtime(&PACKAGED.to_string()),
        Item::symlink("usr/bin/alias", "tool").mtime(&PACKAGED.to_string()),
        now(Item::symlink("etc/alternatives/t", "/usr/bin/tool"), 6),
        now(Item::file("etc/tool.conf", "changed"), 8).mode(0o600).owner(5, 6),
        now(Item::file("var/lib/dpkg/status", "Package: tool\nStatus: install ok installed\n"), 7),
        now(
            Item::file(
                "var/lib/dpkg/info/tool.list",
                "/usr/bin/tool\n/usr/bin/alias\n/etc/tool.conf\n",
            ),
            4,
        ),
    ];
    let site = "opt/lib/site-packages";
    let packages = [
        now(Item::file(format!("{site}/m.py"), "x = 1"), 20),
        now(Item::file(format!("{site}/__pycache__/m.cpython-311.pyc"), compiled), 21),
        now(Item::file(format!("{site}/m-1.dist-info/RECORD"), "m.py,,\n"), 22),
        now(Item::dir("srv/node_modules/a/"), 30),
        now(Item::file("srv/node_modules/a/package.json", "{}"), 30).xattr("user.x", b"y"),
        now(Item::link("srv/node_modules/a/same.json", "srv/node_modules/a/package.json"), 30),
        now(Item::file("srv/node_modules/.package-lock.json", "{\"a\": 1}"), 31),
        now(Item::file("srv/app.js", app), 40),
    ];
    Image::new(vec![layer(&system), layer(&packages)])
}

fn verify(a: &Path, b: &Path, options: &[&str]) -> bool {
    let images = [a, b].map(|dir| format!("oci:{}", dir.display()));
    tool::output(tool::relayer().arg("verify").args(images).args(options)).status.success()
}

#[test]
fn two_builds_of_the_same_files_are_one_image() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    build(BUILT, "app").write_layout(&at("v1"), Codec::Gzip);
    build(BUILT + 5_000_000, "app").write_layout(&at("v2"), Codec::Gzip);
    build(BUILT + 6_000_000, "new").write_layout(&at("v3"), Codec::Gzip);
    let stable = ["--mtime", "stable"];
    let digests = |report: &Value| -> Vec<Value> {
        let layers = report["images"][0]["layers"].as_array().unwrap();
        layers.iter().map(|l| l["digest"].clone()).collect()
    };
    let one = split(&at("v1"), None, &at("one"), &stable);
    let two = split(&at("v2"), None, &at("two"), &stable);
    assert_eq!(digests(&one), digests(&two));
    assert_ne!(
        digests(&split(&at("v1"), None, &at("kept1"), &[])),
        digests(&split(&at("v2"), None, &at("kept2"), &[]))
    );
    assert_eq!(one["images"][0]["held"], serde_json::json!({ "by": {}, "restamped": 1 }));
    // The result of the rule is as the rule wants it, and a previous image changes nothing.
    assert_eq!(digests(&split(&at("one"), None, &at("again"), &stable)), digests(&one));
    assert_eq!(digests(&split(&at("v2"), Some(&at("one")), &at("on top"), &stable)), digests(&one));
    let three = split(&at("v3"), Some(&at("one")), &at("three"), &stable);
    let kept = digests(&three).iter().filter(|d| digests(&one).contains(d)).count();
    assert!(kept > 0 && kept + 1 >= digests(&one).len(), "{three}");
    assert!(verify(&at("v3"), &at("three"), &["--allow", "mtime=stable"]));
    assert!(!verify(&at("v1"), &at("three"), &["--allow", "mtime=stable"]));
    // flatten has the same files.
    for version in ["v1", "v2"] {
        let flat = at(&format!("flat {version}"));
        let (from, to) = (at(version).display().to_string(), format!("oci:{}:x", flat.display()));
        tool::ok(tool::relayer().args(["flatten", "-q", &from, "-o", &to, "--mtime", "stable"]));
        assert!(verify(&flat, &at("one"), &[]));
    }
}

#[test]
fn verify_allows_what_the_rule_changes_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    build(BUILT, "app").write_layout(&at("in"), Codec::Gzip);
    split(&at("in"), None, &at("stable"), &["--mtime", "stable"]);
    split(&at("in"), None, &at("zero"), &["--mtime", "zero"]);
    build(BUILT + 1, "app").write_layout(&at("other"), Codec::Gzip);
    for (other, rule, same) in [
        ("stable", "stable", true),
        ("zero", "zero", true),
        ("stable", "zero", false),
        ("zero", "stable", false),
        ("other", "stable", false),
        ("in", "stable", false),
        ("in", "preserve", true),
    ] {
        let allow = format!("mtime={rule}");
        assert_eq!(verify(&at("in"), &at(other), &["--allow", &allow]), same, "{other} {rule}");
    }
    assert!(!verify(&at("in"), &at("stable"), &[]));
    // A package that was built again with the same files: its times are carried over.
    split(&at("other"), Some(&at("in")), &at("both"), &["--mtime", "zero"]);
    let both = ["--allow", "mtime=zero", "--allow", "carried-mtimes"];
    assert!(verify(&at("other"), &at("both"), &both));
    let images = ["in", "stable"].map(|name| format!("oci:{}", at(name).display()));
    let says = |options: &[&str]| {
        let out = tool::output(tool::relayer().arg("verify").args(&images).args(options));
        String::from_utf8([out.stdout, out.stderr].concat()).unwrap()
    };
    assert!(says(&["--allow", "mtime=stable"]).contains("with the timestamps of --mtime stable"));
    for wrong in ["times", "mtime=", "mtime=soon"] {
        assert!(says(&["--allow", wrong]).contains("--allow"), "{wrong}");
    }
    let twice = says(&["--allow", "mtime=zero", "--allow", "mtime=stable"]);
    assert!(twice.contains("only once"), "{twice}");
}

#[test]
fn a_client_gets_the_times_that_the_rule_names_and_all_else_as_it_was() {
    if !tool::needs("umoci, python3, root") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    build(BUILT, "app").write_layout(&at("in"), Codec::Gzip);
    split(&at("in"), None, &at("out"), &["--mtime", "stable"]);
    for work in ["a", "b"] {
        fs::create_dir(at(work)).unwrap();
    }
    let (input, output) = (tool::unpack(&at("in"), &at("a")), tool::unpack(&at("out"), &at("b")));
    let time = |root: &Path, path: &str| {
        use std::os::unix::fs::MetadataExt as _;
        fs::symlink_metadata(root.join(path)).unwrap().mtime()
    };
    let packaged = i64::try_from(PACKAGED).unwrap();
    for path in ["usr/bin/tool", "usr/bin/alias"] {
        assert_eq!(time(&output, path), packaged, "{path}");
    }
    for path in ["usr/bin", "srv", "srv/node_modules", "etc/alternatives/t"] {
        assert_eq!(time(&output, path), STABLE.start, "{path}");
    }
    for path in ["etc/tool.conf", "srv/app.js", "opt/lib/site-packages/m.py"] {
        let hash = blake3::hash(&fs::read(output.join(path)).unwrap());
        let [a, b, c, d, ..] = *hash.as_bytes();
        let after = u32::from_le_bytes([a, b, c, d]) % (1 << 25);
        assert_eq!(time(&output, path), STABLE.start + 1 + i64::from(after), "{path}");
        assert!(STABLE.contains(&time(&output, path)));
    }
    // The compiled file is in step with its source, and differs in nothing else.
    let compiled = "opt/lib/site-packages/__pycache__/m.cpython-311.pyc";
    let [before, after] = [&input, &output].map(|root| fs::read(root.join(compiled)).unwrap());
    let source = u32::try_from(time(&output, "opt/lib/site-packages/m.py")).unwrap();
    assert_eq!(after, [&before[..8], &source.to_le_bytes(), &before[12..]].concat());
    // umoci sees no other difference.
    fs::write(output.join(compiled), before).unwrap();
    let script = "import sys, tree
a, b = (tree.tree(root) for root in sys.argv[1:])
for e in [*a.values(), *b.values()]: e[6] = 0
print('\\n'.join(tree.differences(a, b)))";
    let out = tool::python(script, &[&input, &output]);
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "");
}

#[test]
fn the_summary_of_a_first_split_has_the_expected_cost_of_the_next_release() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    build(BUILT, "new").write_layout(&at("new"), Codec::Gzip);
    // Older than any container: the fixed time of an archive's files.
    let fixed = [Item::dir("srv/").mtime("500000000"), Item::file("srv/a", "a").mtime("500000000")];
    Image::new(vec![layer(&fixed)]).write_layout(&at("fixed"), Codec::Gzip);
    let report = split(&at("new"), None, &at("first"), &["--target", "8"]);
    let next = &report["images"][0]["next_release"];
    let bytes = |way: &str, by: &str| next[way][by].as_u64().unwrap();
    let all = report["images"][0]["after"]["blob_bytes"].as_u64().unwrap();
    assert!(bytes("same", "set_bytes") <= bytes("same", "chain_bytes"), "{next}");
    assert!(bytes("same", "chain_bytes") <= all, "{next}");
    for by in ["set_bytes", "chain_bytes"] {
        assert!(bytes("previous", by) <= bytes("stable", by), "{next}");
        assert!(0 < bytes("stable", by) && bytes("stable", by) < bytes("same", by), "{next}");
    }
    for (image, options) in [("new", &["--mtime", "stable"][..]), ("fixed", &[])] {
        let other = split(&at(image), None, &at("other"), options);
        assert_eq!(other["images"][0]["next_release"]["stable"], Value::Null);
    }
    let first = format!("oci:{}", at("first").display());
    let said = |command: &str, options: &[&str]| {
        let image = format!("oci:{}", at("new").display());
        let args = [command, &image, "--dry-run"];
        tool::ok(tool::relayer().args(args).args(options))
    };
    let text = said("split", &["--target", "8"]);
    let places = ["\nnext release, about", "\nwith --mtime stable ", "\nwith --previous "];
    assert!(places.iter().all(|part| text.contains(part)), "{text}");
    let text = said("split", &["--target", "8", "--mtime", "zero"]);
    assert!(text.contains("\nwith --previous ") && !text.contains("stable"), "{text}");
    for text in [said("split", &["--previous", &first]), said("flatten", &[])] {
        assert!(!text.contains("next release"), "{text}");
    }
}
