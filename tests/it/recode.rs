//! Blobs of stock tools are reproduced from their uncompressed bytes and small corrections.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use relayer::base::progress::Silent;
use relayer::format::recode;
use relayer::model::digest::Digest;

use super::clients::Client;
use super::image::{Image, Item, layer};
use super::pulls::Registry;
use super::tool;

/// Programs and text: a layer of some MiB.
fn archive(dir: &Path) -> PathBuf {
    let mut items: Vec<Item> = (0..3000)
        .map(|i| Item::file(format!("text/{i}"), format!("{i} files\n").repeat(i)))
        .collect();
    for program in ["/bin/busybox", "/usr/bin/umoci"] {
        items.push(Item::file(&program[1..], fs::read(program).unwrap()));
    }
    let path = dir.join("in.tar");
    fs::write(&path, Image::new(vec![layer(&items)]).docker_skopeo()).unwrap();
    path
}

/// Analyzes the largest file below `dir`, which a tool wrote, and reproduces it.
fn check(tool: &str, dir: &Path) {
    let mut files = vec![(0, PathBuf::new())];
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                dirs.push(entry.path());
            } else {
                files.push((meta.len(), entry.path()));
            }
        }
    }
    let blob = fs::read(&files.iter().max().unwrap().1).unwrap();
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(&blob[..]).read_to_end(&mut plain).unwrap();

    let mut corrections = Vec::new();
    let analysis = recode::analyze(&mut &blob[..], &mut corrections, &Silent).unwrap().expect(tool);
    assert_eq!(analysis.plain, Digest::of(&plain));
    let (size, cost) = (blob.len(), corrections.len());
    println!("{tool}: {cost} bytes of corrections for a blob of {size}");
    assert!(cost < size / 400, "{tool}: {cost} of {size}");
    let mut again = Vec::new();
    recode::rebuild(&mut &plain[..], &mut &corrections[..], size as u64, &mut again).unwrap();
    assert!(again == blob, "{tool}");
}

#[test]
fn blobs_of_skopeo_and_docker_are_reproduced() {
    if !tool::needs("umoci, busybox, skopeo, docker-registry, docker, dockerd, root") {
        return;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let input = archive(dir.path());
    let (input, copy) = (input.to_str().unwrap(), dir.path().join("copy"));
    let to = format!("oci:{}:x", copy.display());
    tool::run("skopeo", &["copy", "-q", &format!("docker-archive:{input}"), &to]);
    check("skopeo", &copy);

    let registry = Registry::start(dir.path());
    let docker = Client::docker(dir.path());
    let loaded = docker.ok(&["load", "-q", "-i", input]);
    let name = loaded.trim().rsplit(' ').next().unwrap();
    let to = format!("{}/image:x", registry.address);
    docker.ok(&["tag", name, &to]);
    docker.ok(&["push", "-q", &to]);
    check("docker", &dir.path().join("registry"));
}
