//! Archives as other tools write them, through every command. docs/ARCHIVES.md lists both.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use super::clients::Client;
use super::image::{Codec, Image, Item, archive, digest, layer};
use super::tool::{self, relayer};

/// Two layers, of which neither hides anything of the other.
fn image(version: usize) -> Image {
    let text = format!("{version} is the version of this text\n").repeat(300);
    let lower = [Item::dir("etc/"), Item::file("etc/hosts", "x"), Item::file("etc/motd", "hello")];
    let mut upper = vec![Item::dir("app/")];
    for i in 0..20 {
        let text = if i < 5 { format!("{i} {text}") } else { format!("{i} stays\n").repeat(200) };
        upper.push(Item::file(format!("app/f{i:02}"), text).mtime(&format!("16000000{i:02}")));
    }
    let mut image = Image::new(vec![layer(&lower), layer(&upper)]);
    image.tag = format!("example/app:v{version}");
    image
}

/// What the tools that are not here write, as their sources have it.
fn shapes() -> Vec<(&'static str, Codec, Vec<u8>)> {
    let image = image(1);
    let packed = |codec, config, layer| archive(&image.docker(codec, config, layer));
    let gzip = |bytes: Vec<u8>| Codec::Gzip.encode(&bytes).0;
    vec![
        ("docker save to 24", Codec::Plain, image.docker_legacy()),
        ("docker save from 25", Codec::Plain, image.docker_new()),
        ("containerd, nerdctl, BuildKit, img", Codec::Gzip, image.docker_oci(Codec::Gzip)),
        ("BuildKit with zstd", Codec::Zstd, image.docker_oci(Codec::Zstd)),
        ("skopeo, podman", Codec::Plain, image.docker_skopeo()),
        ("crane, ko, kaniko, apko", Codec::Gzip, packed(Codec::Gzip, "sha256:HEX", "BLOB.tar.gz")),
        ("jib", Codec::Gzip, packed(Codec::Gzip, "config.json", "BLOB.tar.gz")),
        ("lower-case keys", Codec::Gzip, archive(&lower_case(&image))),
        (
            "rules_oci",
            Codec::Gzip,
            packed(Codec::Gzip, "blobs/sha256/HEX", "blobs/sha256/BLOB.tar.gz"),
        ),
        ("nix", Codec::Plain, gzip(packed(Codec::Plain, "HEX.json", "DIFF/layer.tar"))),
        ("zstd in a docker-archive", Codec::Zstd, packed(Codec::Zstd, "HEX.json", "DIFF.tar")),
        ("packed by hand", Codec::GzipMembers, by_hand(&image)),
    ]
}

fn lower_case(image: &Image) -> Vec<(String, Vec<u8>)> {
    let mut files = image.docker(Codec::Gzip, "config.json", "BLOB.tar.gz");
    let (_, manifest) = files.last_mut().unwrap();
    let text = String::from_utf8(manifest.clone()).unwrap();
    let text = text.replace("Config", "config").replace("RepoTags", "repoTags");
    *manifest = text.replace("Layers", "layers").into_bytes();
    files
}

/// `tar -c .` of a folder with links of all sorts, and xz or gzip on top.
fn by_hand(image: &Image) -> Vec<u8> {
    let mut items = vec![Item::dir("./"), Item::symlink("./blobs", "real/here")];
    items.extend([Item::dir("./real/"), Item::dir("./real/here/")]);
    for (i, (name, bytes)) in
        image.docker(Codec::GzipMembers, "c.json", "blobs/BLOB").into_iter().enumerate()
    {
        let name = name.replace("blobs/", "real/here/");
        if i == 1 {
            items.push(Item::file("./real/first", bytes));
            items.push(Item::link(format!("./{name}"), "./real/first"));
        } else {
            items.push(Item::file(format!("./{name}"), bytes));
        }
    }
    if !tool::needs("xz") {
        return Codec::Gzip.encode(&layer(&items)).0;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("i.tar");
    fs::write(&path, layer(&items)).unwrap();
    tool::run("xz", &[&path]);
    fs::read(dir.path().join("i.tar.xz")).unwrap()
}

fn run(args: &[&str]) -> String {
    tool::ok(relayer().args(args))
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&run(&[args, &["--json"]].concat())).unwrap()
}

/// skopeo copies the image, which verifies its digests and diff IDs, and shows its manifest. Of what
/// containerd exports `None`: an index, or one of Docker's types in a layout, which skopeo passes over.
fn manifest(image: &str) -> Option<Value> {
    let shown = json(&["inspect", image]);
    let kind = shown["images"][0]["layers"][0]["media_type"].as_str();
    if kind.is_some_and(|kind| kind.starts_with("application/vnd.docker.")) {
        return None;
    }
    Some(serde_json::from_str(&tool::manifest(image)).unwrap())
        .filter(|m: &Value| m["layers"].is_array())
}

/// Runs every command on the image `i`, whose files are those of `image(1)`. Its layers are of
/// `codec`, if that is known.
fn through_every_command(i: &str, codec: Option<Codec>) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (plain, next) = (at("plain.tar"), at("next.tar"));
    fs::write(&plain, image(1).docker_skopeo()).unwrap();
    fs::write(&next, image(2).docker_new()).unwrap();
    let same = |out: &str| drop(run(&["verify", out, &plain]));
    same(i);

    // split, flatten, --dry-run, --previous of itself and of a result.
    run(&["split", i, "--dry-run"]);
    run(&["split", i, "-o", &at("s.tar"), "--target", "2"]);
    run(&["flatten", i, "-o", &at("f.tar"), "--compression", "gzip"]);
    let own = json(&["split", i, "--previous", i, "-o", &at("p.tar")]);
    let again = json(&["split", i, "--previous", &at("p.tar"), "-o", &at("q.tar")]);
    run(&["split", &next, "--previous", i, "-o", &at("u.tar")]);
    assert_eq!(own["digest"], again["digest"]);
    for name in ["s.tar", "f.tar", "p.tar"] {
        same(&at(name));
        manifest(&format!("oci-archive:{}", at(name)));
    }
    run(&["verify", &at("u.tar"), &next]);

    // inspect, diff, bench, report.
    let layers = json(&["inspect", i])["images"][0]["layers"].clone();
    let text = |value: &Value, key: &str| -> Vec<String> {
        let all = value.as_array().unwrap().iter();
        all.map(|l| l[key].as_str().unwrap().to_owned()).collect()
    };
    let digests = text(&layers, "digest");
    if let Some(codec) = codec {
        let want: Vec<_> = image(1).layers.iter().map(|l| digest(&codec.encode(l).0)).collect();
        assert_eq!(digests, want);
    }
    run(&["diff", i, &next]);
    run(&["diff", &next, i]);
    run(&["bench", i, &next, "--compression", "gzip:6", "--layers", "2", "--sample", "100kB"]);
    run(&["report", i, &next, "-o", &at("page.html"), "--sample", "100kB"]);

    // delta and apply, from it and to it.
    run(&["delta", i, &next, "-o", &at("to")]);
    run(&["apply", i, &at("to"), "-o", &at("applied-next.tar")]);
    run(&["verify", &at("applied-next.tar"), &next]);
    run(&["delta", &next, i, "-o", &at("from")]);
    run(&["apply", &next, &at("from"), "-o", &at("applied.tar")]);
    same(&at("applied.tar"));
    manifest(&format!("oci-archive:{}", at("applied.tar")));

    // copy to every form: the same blobs, under the right digests and types.
    let oci = format!("oci:{}:v1", at("layout"));
    let outs = [&oci, &format!("oci-archive:{}", at("o.tar")), &at("c.tar")];
    for out in outs {
        run(&["copy", i, out]);
        same(out);
        let prefix = if out.starts_with("oci") { "" } else { "oci-archive:" };
        let Some(copied) = manifest(&format!("{prefix}{out}")) else { continue };
        assert_eq!(text(&copied["layers"], "digest"), digests, "{out}");
        if let Some(codec) = codec {
            let kind = format!("application/vnd.oci.image.layer.v1.tar{}", codec.encode(b"").1);
            assert_eq!(text(&copied["layers"], "mediaType"), [kind.clone(), kind], "{out}");
        }
    }
    let docker = format!("docker-archive:{}", at("d.tar"));
    run(&["copy", i, &docker]);
    same(&docker);
    manifest(&docker);
    assert_eq!(text(&json(&["inspect", &docker])["images"][0]["layers"], "digest"), digests);

    // The same of a docker-archive's own list, where a layout lies beside it.
    if codec.is_some() {
        let archive = format!("docker-archive:{i}");
        run(&["copy", &archive, &at("c2.tar")]);
        same(&at("c2.tar"));
        assert_eq!(text(&json(&["inspect", &archive])["images"][0]["layers"], "digest"), digests);
    }

    // A pipe.
    if Path::new(i).is_file() {
        let mut split = relayer();
        split.args(["split", "-", "-o", &at("pipe.tar")]).stdin(Stdio::piped());
        split.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = split.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&fs::read(i).unwrap()).unwrap();
        assert!(child.wait().unwrap().success());
        same(&at("pipe.tar"));
    }

    if cfg!(feature = "store") {
        let store = at("store");
        let command = |args: &[&str]| run(&[&["store", "--store", &store], args].concat());
        command(&["add", i, "--name", "app:v1"]);
        command(&["add", &next, "--name", "app:v2"]);
        assert!(command(&["check", "--blobs"]).contains("no damage"));
        assert!(command(&["check"]).contains("no damage"));
        command(&["extract", "app:v1", "-o", &at("e.tar")]);
        same(&at("e.tar"));
        let (out, copied) = (at("e.tar"), at("c.tar"));
        let [a, b] = [out, copied].map(|file| manifest(&format!("oci-archive:{file}")));
        assert_eq!(a, b);
        run(&["split", &format!("store:{store}:app:v1"), "-o", &at("es.tar")]);
        same(&at("es.tar"));
        run(&["history", "add", i, &next, "--name", "app", "--history", &at("history")]);
    }
}

#[test]
fn every_shape_goes_through_every_command() {
    let dir = tempfile::tempdir().unwrap();
    for (n, (name, codec, bytes)) in shapes().into_iter().enumerate() {
        println!("{name}");
        let path = dir.path().join(format!("i{n}.tar"));
        fs::write(&path, bytes).unwrap();
        through_every_command(path.to_str().unwrap(), Some(codec));
    }
}

/// Docker loads it, and its image ID is the digest of the config as it is.
#[test]
fn a_config_edited_under_its_old_name_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let mut files = image(1).docker(Codec::Plain, "HEX.json", "DIFF.tar");
    let text = String::from_utf8(files[0].1.clone()).unwrap().replace("SIGQUIT", "SIGTERM");
    files[0].1 = text.into_bytes();
    fs::write(at("i.tar"), archive(&files)).unwrap();
    let out = tool::output(relayer().args(["split", &at("i.tar"), "-o", &at("o.tar")]));
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && errors.contains("it was edited or is damaged"), "{errors}");
    let config = tool::config(&format!("oci-archive:{}", at("o.tar")));
    assert!(config.contains("SIGTERM"), "{config}");
}

/// Nothing but the diff ID says what a compressed layer of a docker-archive must be.
#[test]
fn copy_finds_damage_where_no_digest_is_stated() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let mut files = image(1).docker(Codec::Gzip, "sha256:HEX", "BLOB.tar.gz");
    files[1].1 = Codec::Gzip.encode(&image(2).layers[1]).0;
    fs::write(at("i.tar"), archive(&files)).unwrap();
    let store = at("store");
    for args in [
        &["copy", &at("i.tar"), &at("o.tar")][..],
        &["split", &at("i.tar"), "-o", &at("o.tar")],
        &["store", "--store", &store, "add", &at("i.tar")],
    ] {
        if args[0] == "store" && !cfg!(feature = "store") {
            continue;
        }
        let out = tool::output(relayer().args(args));
        let errors = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success(), "{args:?}");
        assert!(errors.contains("layer 1 (") && errors.contains("diff ID"), "{errors}");
        assert!(!Path::new(&at("o.tar")).exists());
    }
}

/// Loads an archive, and gives the name of the image as the client has it.
fn load(client: &Client, file: &str) -> String {
    client.ok(&["load", "-i", file]).trim().rsplit(' ').next().unwrap().to_owned()
}

/// Results of every shape go into the clients.
#[test]
fn clients_load_what_comes_of_every_shape() {
    if !tool::needs("docker, dockerd, podman, root") {
        return;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let docker = Client::docker(dir.path());
    let podman = Client::podman(dir.path());
    let id = digest(&image(1).config_bytes());
    for (name, codec, bytes) in shapes() {
        fs::write(at("i.tar"), bytes).unwrap();
        run(&["copy", &at("i.tar"), &at("copy.tar"), "-f"]);
        let docker_form = format!("docker-archive:{}", at("docker.tar"));
        run(&["copy", &at("i.tar"), &docker_form, "-f"]);
        run(&["split", &at("i.tar"), "-o", &at("split.tar"), "-f", "--compression", "gzip"]);
        for file in ["split.tar", "docker.tar", "copy.tar"] {
            for client in [&docker, &podman] {
                // Docker 20.10 reads no zstd.
                if codec == Codec::Zstd
                    && file != "split.tar"
                    && std::ptr::eq(client, &raw const docker)
                {
                    continue;
                }
                let loaded = load(client, &at(file));
                assert!(loaded.ends_with("example/app:v1"), "{name}, {file}: {loaded}");
                let found = client.ok(&["image", "inspect", "--format", "{{.Id}}", &loaded]);
                let same = id.ends_with(found.trim().trim_start_matches("sha256:"));
                assert_eq!(same, file != "split.tar", "{name}, {file}");
            }
        }
    }
}

/// What the tools that are here write.
#[test]
fn archives_of_real_tools_go_through_every_command() {
    if !tool::needs("skopeo, docker, dockerd, podman, buildah, containerd, ctr, root") {
        return;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("in.tar"), image(1).docker_skopeo()).unwrap();
    fs::write(at("other.tar"), image(2).docker_skopeo()).unwrap();
    let (input, oci) = (format!("docker-archive:{}", at("in.tar")), format!("oci:{}:v1", at("l")));
    tool::run("skopeo", &["copy", "-q", &input, &format!("docker-archive:{}", at("s1.tar"))]);
    tool::run("skopeo", &["copy", "-q", &input, &format!("oci-archive:{}", at("s2.tar"))]);
    tool::run("skopeo", &["copy", "-q", &input, &oci]);
    let mut images = vec![at("s1.tar"), at("s2.tar"), oci];

    let docker = Client::docker(dir.path());
    docker.ok(&["save", "-o", &at("docker.tar"), &load(&docker, &at("in.tar"))]);
    images.push(at("docker.tar"));
    drop(docker);

    let podman = Client::podman(dir.path());
    let (one, two) = (load(&podman, &at("in.tar")), load(&podman, &at("other.tar")));
    let (one, two) = (one.as_str(), two.as_str());
    podman.ok(&["save", "-o", &at("p1.tar"), one]);
    podman.ok(&["save", "--format", "oci-archive", "-o", &at("p2.tar"), one]);
    podman.ok(&["save", "--format", "oci-dir", "-o", &at("p3"), one]);
    podman.ok(&["save", "--multi-image-archive", "-o", &at("p4.tar"), one, two]);
    images.extend([at("p1.tar"), at("p2.tar"), at("p3"), format!("{}:{one}", at("p4.tar"))]);
    let (root, runroot) = (at("root"), at("run"));
    for (to, name) in [("docker-archive", "b1.tar"), ("oci-archive", "b2.tar")] {
        let to = format!("{to}:{}:{one}", at(name));
        tool::run("buildah", &["--root", &root, "--runroot", &runroot, "push", "-q", one, &to]);
        images.push(at(name));
    }
    drop(podman);

    let ctr = Client::containerd(dir.path());
    for (from, name) in [("in.tar", "c1.tar"), ("s2.tar", "c2.tar")] {
        // Not the name that an archive has: it would be taken from the index, which would be gone.
        ctr.ok(&["image", "import", "--index-name", "docker.io/example/whole:v1", &at(from)]);
        ctr.ok(&["image", "export", &at(name), "docker.io/example/whole:v1"]);
        images.push(at(name));
    }
    drop(ctr);
    for image in &images {
        println!("{image}");
        through_every_command(image, None);
    }
}
