//! One file set is one set of layers, however it came and whatever the machine.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::image::{Codec, Image, Item, archive, layer};
use super::tool;

fn digests(args: &[&str], env: &[(&str, &str)]) -> (Vec<String>, String) {
    let dir = tempfile::tempdir().unwrap();
    let dest = format!("oci:{}:x", dir.path().join("somewhere/else").display());
    fs::create_dir(dir.path().join("somewhere")).unwrap();
    let mut command = tool::relayer();
    command.arg("split").args(args).args(["-o", &dest, "--json"]).envs(env.iter().copied());
    let report: Value = serde_json::from_str(&tool::ok(&mut command)).unwrap();
    let layers = report["images"][0]["layers"].as_array().unwrap().clone();
    let digest = |l: &Value| l["digest"].as_str().unwrap().to_owned();
    (layers.iter().map(digest).collect(), report["digest"].as_str().unwrap().to_owned())
}

/// Files of several components, so that there is something to plan.
fn items() -> Vec<Item> {
    let mut items = vec![];
    let text = |n: usize| format!("line {n} of some text\n").repeat(400 + n * 7 % 300);
    for dir in
        ["app", "etc", "srv", "srv/node_modules", "usr", "usr/lib", "usr/share", "var", "var/log"]
    {
        items.push(Item::dir(format!("{dir}/")));
    }
    for p in 0..12 {
        let dir = format!("srv/node_modules/p{p}");
        items.push(Item::dir(format!("{dir}/")));
        items.push(Item::file(format!("{dir}/package.json"), "{}"));
        items.push(Item::file(format!("{dir}/index.js"), text(p)));
    }
    for i in 0..40 {
        items.push(Item::file(format!("usr/lib/l{i}"), text(i * 3)));
        items.push(Item::file(format!("app/f{i}"), text(i)));
    }
    items.push(Item::link("usr/share/linked", "usr/lib/l3"));
    items.push(Item::file("var/log/x", "x"));
    items
}

#[test]
fn every_form_of_an_image_gives_one_digest() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let image = Image::new(vec![layer(&items()), layer(&[Item::file("app/f1", "new")])]);
    fs::write(at("legacy.tar"), image.docker_legacy()).unwrap();
    fs::write(at("skopeo.tar"), image.docker_skopeo()).unwrap();
    fs::write(at("new.tar"), image.docker_new()).unwrap();
    fs::write(at("new.tar.gz"), Codec::Gzip.encode(&image.docker_new()).0).unwrap();
    fs::write(at("new.tar.zst"), Codec::Zstd.encode(&image.docker_new()).0).unwrap();
    let mut sources = vec![
        at("legacy.tar"),
        at("skopeo.tar"),
        at("new.tar"),
        at("new.tar.gz"),
        at("new.tar.zst"),
    ];
    sources.push(format!("docker-archive:{}", at("new.tar")));
    for (i, codec) in
        [Codec::Plain, Codec::Gzip, Codec::GzipMembers, Codec::Zstd, Codec::ZstdFrames]
            .into_iter()
            .enumerate()
    {
        image.write_layout(&dir.path().join(format!("layout{i}")), codec);
        sources.push(format!("oci:{}:v1", at(&format!("layout{i}"))));
        // Archives made by tar(1) have "./" before each name.
        let dotted: Vec<_> =
            image.oci_files(codec).into_iter().map(|(n, b)| (format!("./{n}"), b)).collect();
        fs::write(at(&format!("archive{i}.tar")), archive(&dotted)).unwrap();
        sources.push(format!("oci-archive:{}", at(&format!("archive{i}.tar"))));
    }
    let mut seen = BTreeSet::new();
    for (i, source) in sources.iter().enumerate() {
        let threads = ["1", "2", "7"][i % 3];
        let env =
            [("TZ", ["UTC", "Asia/Kathmandu"][i % 2]), ("LC_ALL", ["C", "tr_TR.UTF-8"][i % 2])];
        seen.insert(digests(&[source, "--threads", threads, "--target", "5"], &env));
        assert_eq!(seen.len(), 1, "{source}");
    }
    for threads in ["1", "2", "7"] {
        for memory in ["1MiB", "4GiB"] {
            let args = [&*sources[0], "--threads", threads, "--memory", memory, "--target", "5"];
            seen.insert(digests(&args, &[]));
        }
    }
    assert_eq!(seen.len(), 1);
}

#[test]
fn layers_merged_or_reshuffled_give_the_same_layers() {
    let dir = tempfile::tempdir().unwrap();
    let items = items();
    let mut reversed = items.clone();
    // Links must follow what they link to; directories may come late.
    reversed.sort_by_key(|i| (i.kind == b'1', std::cmp::Reverse(i.path.clone())));
    let half = items.len() / 2;
    let junk = [Item::dir("junk/"), Item::file("junk/x", "x"), Item::file("app/f7", "old")];
    let stacks: [Vec<Vec<u8>>; 4] = [
        vec![layer(&items)],
        vec![layer(&reversed)],
        vec![layer(&items[..half]), layer(&items[half..])],
        vec![layer(&junk), layer(&[Item::whiteout("junk")]), layer(&[]), layer(&items)],
    ];
    let mut seen = BTreeSet::new();
    for (i, stack) in stacks.into_iter().enumerate() {
        let path = dir.path().join(format!("{i}.tar"));
        fs::write(&path, Image::new(stack).docker_skopeo()).unwrap();
        seen.insert(digests(&[path.to_str().unwrap(), "--target", "5"], &[]).0);
        assert_eq!(seen.len(), 1, "stack {i}");
    }
}

#[test]
fn another_file_moves_few_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    let layers = |items: &[Item]| {
        fs::write(&path, Image::new(vec![layer(items)]).docker_skopeo()).unwrap();
        digests(&[path.to_str().unwrap(), "--target", "5"], &[]).0
    };
    let before = layers(&items());
    // One that moves a cut may happen, so all of them count together.
    let added = ["app/g", "etc/a", "srv/a", "usr/lib/m", "usr/share/a", "var/log/a", "var/log/y"];
    let kept = added.map(|added| {
        let items = [items(), vec![Item::file(added, "another line")]].concat();
        layers(&items).iter().filter(|digest| before.contains(digest)).count()
    });
    assert!(2 * kept.iter().sum::<usize>() > 5 * added.len(), "of 5 layers are the same: {kept:?}");
}
