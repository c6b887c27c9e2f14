//! What a client shows on overlayfs, which heeds attributes that umoci does not set: podman mounts
//! the input and the output, and both must be the same tree.

use std::fs;
use std::path::{Path, PathBuf};

use super::clients::Client;
use super::image::{Image, Item, layer};
use super::tool;

const CAPABILITY: (&str, &[u8]) = (
    "security.capability",
    b"\x01\x00\x00\x02\x0a\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
);
const OPAQUE: (&str, &[u8]) = ("trusted.overlay.opaque", b"y");

/// A file that fills a good part of a layer.
fn big(path: String, seed: u8) -> Item {
    let mut data = vec![0; 60_000];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut data);
    Item::file(path, data)
}

/// Loads an archive and mounts its image.
fn mounted(podman: &Client, archive: &Path) -> PathBuf {
    podman.ok(&["load", "-i", archive.to_str().unwrap()]);
    let at = podman.ok(&["image", "mount", "example/app:v1"]);
    PathBuf::from(at.trim())
}

/// Splits the image, and compares what podman shows of both; gives what relayer said.
fn shown_alike(image: &Image, args: &[&str]) -> String {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("in.tar"), image.docker_skopeo()).unwrap();
    let mut split = tool::relayer();
    split.arg("split").arg(at("in.tar")).arg("-o").arg(at("out.tar"));
    let out = tool::output(split.args(["--compression", "gzip", "--target", "4"]).args(args));
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{said}");
    let podman = Client::podman(dir.path());
    let copy = at("copy");
    // A copy keeps everything but the mount, which the second image takes the place of.
    let first = mounted(&podman, &at("in.tar"));
    tool::run("cp", &[Path::new("-a"), &first, &copy]);
    podman.ok(&["image", "unmount", "example/app:v1"]);
    let second = mounted(&podman, &at("out.tar"));
    tool::same_tree(&copy, &second, "podman's mounts");
    podman.ok(&["image", "unmount", "example/app:v1"]);
    said + &String::from_utf8_lossy(&out.stdout)
}

#[test]
fn a_drivers_marks_hide_nothing_but_what_they_hid() {
    if !tool::needs("podman, python3, cp, root") {
        return;
    }
    let marked = |path: &str| Item::dir(path).xattr(OPAQUE.0, OPAQUE.1);
    let mut below = vec![Item::dir("data/"), Item::dir("lower/"), Item::file("lower/old", "x")];
    below.extend((0..8).map(|i| big(format!("data/{i}"), i)));
    // As a tar of an upper folder has it.
    let mut base = vec![marked("all/")];
    base.extend((0..12).map(|i| big(format!("all/{i}"), 100 + i)));
    base.extend(below);
    let upper = vec![
        marked("lower/").xattr("trusted.overlay.impure", b"y"),
        Item::file("lower/new", "x"),
        Item::dir("data/").xattr("trusted.overlay.origin", b"\0\xfb\x1d").xattr("user.kept", b"1"),
        Item { device: (0, 0), ..Item::new("data/3", b'3').mode(0) },
    ];
    let image = Image::new(vec![layer(&base), layer(&upper)]);
    let said = shown_alike(&image, &[]);
    assert!(said.contains("storage drivers are left out"), "{said}");
    assert!(said.contains("trusted.overlay.opaque on 2 entries"), "{said}");
    let json = shown_alike(&image, &["--json"]);
    assert!(json.contains("\"notes\"") && json.contains("trusted.overlay.impure on 1 entry"));
}

#[test]
fn hard_links_without_attributes_leave_those_of_their_file() {
    if !tool::needs("podman, python3, cp, root") {
        return;
    }
    let file = |path: &str| {
        let item = Item::file(path, path).mode(0o755).owner(5, 6).mtime("1000");
        item.xattr(CAPABILITY.0, CAPABILITY.1).xattr("user.a", b"1")
    };
    let link = |path: &str, to: &str| Item::link(path, to).mode(0o755).owner(5, 6).mtime("1000");
    let same = layer(&[
        Item::dir("d/"),
        // As GNU tar writes links.
        file("d/same"),
        link("d/same-link", "d/same"),
        file("d/other"),
        link("d/other-link", "d/other").owner(7, 8).mode(0o600).mtime("2000.5"),
        file("d/more"),
        link("d/more-link", "d/more").xattr("user.a", b"2").xattr("user.b", b"3"),
        file("d/cap"),
        link("d/cap-link", "d/cap").owner(7, 8).xattr(CAPABILITY.0, CAPABILITY.1),
        file("d/nobody"),
        link("d/nobody-link", "d/nobody").owner(u64::from(u32::MAX), u64::from(u32::MAX)),
        Item::symlink("d/sym", "nowhere").owner(5, 6).mtime("1000"),
        link("d/sym-link", "d/sym").owner(7, 8).mtime("2000"),
    ]);
    shown_alike(&Image::new(vec![same]), &[]);
}

#[test]
fn paths_and_owners_at_the_edge_are_what_clients_make_of_them() {
    if !tool::needs("podman, python3, cp, root") {
        return;
    }
    let all = u64::from(u32::MAX);
    let base = layer(&[
        Item::dir("a/"),
        Item::file("a/../b", "x"),
        Item::link("a/hard", "a/x/../../b"),
        Item::dir("e/"),
        Item::file("c/../e/./f", "x"),
        Item::file("edge", "x").owner(all - 1, 1 << 31),
        Item::file("none", "x").owner(all, all),
        Item::file("beyond", "x").owner(all + 6, all + 1),
        Item::dir("gone/"),
        Item::file("gone/x", "x"),
    ]);
    let upper = layer(&[
        Item::dir("a/../.wh.gone/"),
        Item::file("e/.wh.f", "a marker with data"),
        Item::symlink(".wh.edge", "b"),
    ]);
    // `git archive` of nothing is a global header alone.
    let mut nothing = super::image::block(b"pax_global_header", b'g', 13, |_| ());
    nothing.extend(super::image::padded(super::image::pax_record(b"comment", b"c")));
    shown_alike(&Image::new(vec![base, upper, nothing]), &[]);
}
