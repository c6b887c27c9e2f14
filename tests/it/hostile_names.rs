//! Names that images give, and links where outputs go: none reaches a terminal or another path.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use super::image::{self, Image, Item, layer};
use super::tool::{self, said};

#[test]
fn nothing_of_an_image_moves_a_cursor() {
    const EVIL: &str = "\x1b[31mEVIL\u{9b}1m\x07\r\u{202e}";
    let status = format!("Package: p{EVIL}\nStatus: install ok installed\nVersion: 1\n\n");
    let secret = "//registry.example/:_authToken=npm_abcdefghijklmnopqrstuvwxyz0123456789";
    let items = |i: usize| {
        vec![
            Item::file("var/lib/dpkg/status", &status),
            Item::file(format!("var/lib/dpkg/info/p{EVIL}.list"), format!("/a{EVIL}/big\n")),
            Item::file(format!("a{EVIL}/big"), vec![i as u8; 2_000_000]),
            Item::file(format!("b\n{EVIL}/small{i}"), "x"),
            Item::file(format!("home/{EVIL}/.npmrc"), secret),
            Item::file(format!("w/node_modules/{EVIL}/package.json"), "{}"),
            Item::file(format!("lib/{EVIL}.jar"), "x"),
        ]
    };
    let dir = tempfile::tempdir().unwrap();
    for i in 0..2 {
        let mut image =
            Image::new(vec![layer(&items(i)), layer(&[Item::whiteout(&format!("home/{EVIL}"))])]);
        image.tag = format!("evil:{EVIL}");
        image.config["os"] = json!(format!("linux{EVIL}"));
        image.config["history"] = json!([
            {"created_by": format!("RUN {EVIL}"), "author": EVIL}, {"created_by": EVIL, "comment": EVIL}
        ]);
        image.config["config"]["Labels"] = json!({EVIL: EVIL});
        image.config["config"]["Env"] = json!([format!("TOKEN={secret}{EVIL}")]);
        fs::write(dir.path().join(format!("{i}.tar")), image.docker_new()).unwrap();
        // Broken in as many ways as there are names.
        image.config["rootfs"]["diff_ids"][0] = json!(EVIL);
        fs::write(dir.path().join(format!("bad{i}.tar")), image.docker_new()).unwrap();
    }
    fs::write(dir.path().join("type.tar"), image::archive(&[(format!("x{EVIL}"), vec![1])]))
        .unwrap();
    let commands: &[&[&str]] = &[
        &["split", "0.tar", "-o", "s0.tar"],
        &["split", "1.tar", "-o", "s1.tar", "--previous", "s0.tar", "-v"],
        &["split", "0.tar", "--dry-run", "--target", "3", "-v"],
        &["flatten", "0.tar", "-o", "f0.tar"],
        &["inspect", "0.tar", "-v"],
        &["inspect", "0.tar", "--fail-on", "secret,waste=1%"],
        &["diff", "0.tar", "1.tar"],
        &["diff", "s0.tar", "s1.tar", "-v"],
        &["verify", "0.tar", "1.tar"],
        &["verify", "0.tar", "s0.tar"],
        &["bench", "0.tar", "--layers", "1", "--compression", "zstd:1"],
        &["copy", "0.tar", "oci:c0"],
        &["delta", "s0.tar", "s1.tar", "-o", "d", "--level", "1"],
        &["apply", "s0.tar", "d", "-o", "a1.tar"],
        &["report", "0.tar", "1.tar", "-o", "r.html", "--sample", "1MiB"],
        &["split", "0.tar:none", "-o", "x.tar"],
        &["split", "bad0.tar", "-o", "x.tar"],
        &["inspect", "type.tar"],
        &["split", "0.tar", "--platform", "linux/none", "-o", "x.tar"],
    ];
    let evil = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
    for command in commands {
        for json in [false, true] {
            let mut run = tool::relayer();
            run.current_dir(dir.path()).args(*command).args(json.then_some("--json"));
            if command.contains(&"-o") && json {
                run.arg("--force");
            }
            let out = tool::output(&mut run);
            let said = said(&out);
            assert!(!said.contains("panicked"), "{command:?}: {said}");
            assert!(!said.contains(evil), "{command:?}: {said:?}");
        }
    }
    // Nor does the image that is written have names that clients make files of.
    assert!(
        !tool::ok(tool::relayer().args(["inspect", "--json"]).arg(dir.path().join("s0.tar")))
            .contains("evil:")
    );
}

#[test]
fn names_that_lead_up_are_left_out() {
    let mut image = image::small();
    image.tag = "../../x:y".into();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("i.tar"), image.docker_skopeo()).unwrap();
    let out = tool::output(
        tool::relayer().current_dir(dir.path()).args(["split", "i.tar", "-o", "oci:o"]),
    );
    assert!(
        out.status.success() && said(&out).contains("the name ../../x:y is left out"),
        "{}",
        said(&out)
    );
    assert!(!fs::read_to_string(dir.path().join("o/index.json")).unwrap().contains(".."));
}

#[test]
fn a_symlink_to_nothing_is_no_output() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("i.tar"), image::small().docker_skopeo()).unwrap();
    let (link, target) = (dir.path().join("link"), dir.path().join("elsewhere"));
    symlink(&target, &link).unwrap();
    for args in [
        &["split", "i.tar", "-o", "link"][..],
        &["split", "i.tar", "-o", "link", "--force"],
        &["split", "i.tar", "-o", "oci:link"],
        &["copy", "i.tar", "link"],
        &["report", "i.tar", "-o", "link", "--force"],
    ] {
        let out = tool::output(tool::relayer().current_dir(dir.path()).args(args));
        assert!(
            out.status.code() == Some(tool::FAILED) && said(&out).contains("a dangling symlink"),
            "{}",
            said(&out)
        );
        assert!(link.is_symlink() && !target.exists(), "{args:?}");
    }
}
