//! `inspect`, on images whose bytes, secrets and faults are known.

use std::path::Path;

use serde_json::{Value, json};

use super::image::{self, Codec, Image, Item, layer};
use super::tool::{self, relayer};

struct Run {
    status: i32,
    stdout: String,
    stderr: String,
}

fn run(args: &[&str]) -> Run {
    let out = tool::output(relayer().arg("inspect").args(args));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Run { status: out.status.code().unwrap(), stdout: text(out.stdout), stderr: text(out.stderr) }
}

/// What is said of an archive's image.
fn inspect(image: &Image, args: &[&str]) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("img.tar");
    std::fs::write(&path, image.docker_legacy()).unwrap();
    json_of(&path, args)
}

fn json_of(path: &Path, args: &[&str]) -> Value {
    let run = run(&[&["--json", path.to_str().unwrap()], args].concat());
    assert_eq!(run.status, 0, "{}", run.stderr);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    report["images"][0].clone()
}

fn bytes(n: usize, letter: u8) -> Vec<u8> {
    vec![letter; n]
}

#[test]
fn hidden_and_duplicate_bytes_are_exact() {
    let image = Image::new(vec![
        layer(&[
            Item::file("d/deleted", bytes(1, b'a')),
            Item::file("d/over", bytes(10, b'b')),
            Item::file("o/x", bytes(100, b'c')),
            Item::file("o/y", bytes(1000, b'd')),
            Item::file("g/one", bytes(10_000, b'e')),
            Item::link("g/two", "g/one"),
            Item::link("g/three", "g/one"),
            Item::file("same", bytes(100_000, b'f')),
            Item::symlink("link", "nowhere"),
        ]),
        layer(&[
            Item::whiteout("d/deleted"),
            Item::file("d/over", bytes(20, b'g')),
            Item::opaque("o"),
            Item::file("o/x", bytes(200, b'h')),
            // One name of three hides nothing.
            Item::whiteout("g/one"),
            Item::whiteout("link"),
            // The same bytes again, as chown leaves them.
            Item::file("same", bytes(100_000, b'f')).owner(5, 5),
        ]),
        layer(&[
            Item::whiteout("g/two"),
            Item::file("dup/a", bytes(3000, b'i')),
            Item::file("dup/b", bytes(3000, b'i')),
            Item::file("dup/c", bytes(3000, b'i')),
            Item::link("dup/d", "dup/c"),
            Item::file("dup/empty1", ""),
            Item::file("dup/empty2", ""),
        ]),
        layer(&[Item::whiteout("g/three")]),
    ]);
    let found = inspect(&image, &[]);
    let rows = |list: &Value| -> Vec<String> {
        let row = |h: &Value| {
            format!(
                "{} {} {}>{} {} {}",
                h["path"].as_str().unwrap(),
                h["bytes"],
                h["layer"],
                h["hidden_by"],
                h["how"].as_str().unwrap(),
                h["recoverable"]
            )
        };
        list.as_array().unwrap().iter().map(row).collect()
    };
    let waste = &found["waste"];
    assert_eq!(
        rows(&waste["hidden"]),
        [
            "/same 100000 1>2 overwritten false",
            "/g/three 10000 1>4 deleted true",
            "/o/y 1000 1>2 opaque true",
            "/o/x 100 1>2 opaque true",
            "/d/over 10 1>2 overwritten true",
            "/d/deleted 1 1>2 deleted true",
        ]
    );
    assert_eq!(
        waste["duplicates"],
        json!([{ "size": 3000, "bytes": 6000, "files": [
            {"layer": 3, "path": "/dup/a"}, {"layer": 3, "path": "/dup/b"}, {"layer": 3, "path": "/dup/c"}
        ]}])
    );
    let (all, shown) = (111_111 + 100_220 + 9000, 100_220 + 9000);
    for (field, want) in [
        ("hidden_files", 6),
        ("hidden_bytes", 111_111),
        ("recoverable_files", 5),
        ("recoverable_bytes", 11_111),
        ("duplicate_files", 2),
        ("duplicate_bytes", 6000),
        ("bytes", 117_111),
    ] {
        assert_eq!(waste[field], json!(want), "{field}");
    }
    let share = 117_111.0 / f64::from(all);
    assert!((waste["share"].as_f64().unwrap() - share).abs() < 1e-12);
    assert_eq!(found["totals"]["file_bytes"], json!(all));
    assert_eq!(found["files"]["bytes"], json!(shown));
    let layers: Vec<_> = found["layers"].as_array().unwrap().iter().collect();
    let column = |name: &str| layers.iter().map(|l| l[name].clone()).collect::<Vec<_>>();
    assert_eq!(column("file_bytes"), [111_111, 100_220, 9000, 0].map(Value::from));
    assert_eq!(column("hidden_bytes"), [111_111, 0, 0, 0].map(Value::from));
    assert_eq!(column("shown_bytes"), [0, 100_220, 9000, 0].map(Value::from));
    assert_eq!(column("files"), [6, 3, 5, 0].map(Value::from));
    assert_eq!(found["savings"]["dropped_bytes"], json!(111_111));
}

/// A private key that opens nothing.
fn key() -> String {
    let body = "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC";
    format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
}

fn with_secrets() -> (Image, Vec<&'static str>) {
    let mut image = Image::new(vec![
        layer(&[
            Item::file("root/.ssh/id_ed25519", key()),
            Item::file("etc/app/token", "s3cr3t-tok3n-value\n"),
            Item::file("app/notes.txt", "nothing\nghp_0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX\n"),
        ]),
        layer(&[
            Item::whiteout("root/.ssh"),
            Item::file("etc/app/token", "redacted\n"),
            Item::file("app/.env", "DEBUG=1\nDB_PASSWORD=tr0ub4dor\n"),
        ]),
    ]);
    image.config["config"]["Env"] = json!(["PATH=/bin", "AWS_SECRET_ACCESS_KEY=abc/DEF/ghi1"]);
    image.config["history"][0]["created_by"] = json!("RUN |1 NPM_TOKEN=abcdef99 /bin/sh -c npm ci");
    image.config["history"][1]["created_by"] = json!("RUN curl https://u:hunter22@host/x");
    let values = vec![
        "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1",
        "s3cr3t-tok3n-value",
        "ghp_0aB1",
        "tr0ub4dor",
        "abc/DEF",
        "abcdef99",
        "hunter22",
    ];
    (image, values)
}

#[test]
fn secrets_are_found_and_never_printed() {
    let (image, values) = with_secrets();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("img.tar");
    std::fs::write(&path, image.docker_legacy()).unwrap();
    let path = path.to_str().unwrap();
    for args in
        [&[path][..], &[path, "-v"], &[path, "--json"], &[path, "-q", "--fail-on", "secret"]]
    {
        let run = run(args);
        for value in &values {
            assert!(
                !run.stdout.contains(value) && !run.stderr.contains(value),
                "{args:?}: {value}"
            );
        }
    }
    let found = json_of(Path::new(path), &[]);
    let rows: Vec<Value> = found["secrets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| {
            let fields = ["rule", "path", "layer", "hidden_by", "line", "offset", "length"];
            fields.iter().map(|f| s[*f].clone()).collect()
        })
        .collect();
    let want = [
        json!(["secret-in-config", "config.Env AWS_SECRET_ACCESS_KEY", null, null, null, 22, 12]),
        json!(["secret-in-config", "history 1", null, null, null, 17, 8]),
        json!(["url-password", "history 2", null, null, null, 19, 8]),
        json!(["dotenv", "/app/.env", 2, null, 2, 20, 9]),
        json!(["github-token", "/app/notes.txt", 1, null, 2, 8, 40]),
        json!(["token-file", "/etc/app/token", 1, 2, 1, 0, 18]),
        json!(["private-key", "/root/.ssh/id_ed25519", 1, 2, 1, 0, key().len() - 1]),
    ];
    assert_eq!(rows, want);
    assert_eq!(found["layers"][0]["created_by"], "RUN npm ci");
    assert_eq!(found["layers"][1]["created_by"], "RUN curl https://u:***@host/x");
}

#[test]
fn an_image_without_secrets_has_none() {
    let certificate = key().replace("PRIVATE KEY", "CERTIFICATE");
    let image = Image::new(vec![layer(&[
        Item::file("etc/ssl/certs/ca.crt", certificate),
        Item::file("etc/shadow", "root:*:19000:0:99999:7:::\n"),
        Item::file("root/.npmrc", "registry=https://registry.example/\n"),
        Item::file("root/.docker/config.json", r#"{"credsStore":"ecr-login"}"#),
        Item::file("app/.env.example", "PASSWORD=hunter22\n"),
        Item::file("app/tls.py", "if pem.startswith('-----BEGIN RSA PRIVATE KEY-----'):\n"),
        Item::file("app/tests/key.pem", key()),
        Item::file("app/node_modules/x/test/key.pem", key()),
        Item::file("usr/local/lib/python3.12/test/key.pem", key()),
        Item::file("etc/app/config.yml", "aws: AKIAIOSFODNN7EXAMPLE\npassword: $PASSWORD\n"),
    ])]);
    assert_eq!(inspect(&image, &[])["secrets"], json!([]));
    assert_eq!(inspect(&image::small(), &[])["secrets"], json!([]));
}

#[test]
fn limits_that_are_exceeded_are_status_1() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("img.tar");
    std::fs::write(&path, with_secrets().0.docker_legacy()).unwrap();
    let path = path.to_str().unwrap();
    let limited = |limits: &str| run(&[path, "--fail-on", limits]);
    for (limits, line) in [
        ("secret", "failed: secret: 7 likely secrets"),
        ("depth=1,waste=100%", "failed: depth=1: 2 layers"),
        ("waste=10%", "failed: waste=10%:"),
    ] {
        let run = limited(limits);
        assert_eq!(run.status, 1, "{limits}");
        assert!(run.stderr.contains(line) && run.stdout.contains("wasted"), "{}", run.stderr);
    }
    assert_eq!(limited("waste=99%,depth=2,client").status, 0);
    for wrong in ["frobs", "waste=20", "depth"] {
        assert_eq!(limited(wrong).status, 2, "{wrong}");
    }
    assert_eq!(run(&[path, "--client", "netscape"]).status, 2);
}

#[test]
fn clients_are_warned_of_what_they_would_not_take() {
    let many: Vec<_> =
        (0..126).map(|i| layer(&[Item::file(format!("f{i}"), format!("{i}"))])).collect();
    let deep = inspect(&Image::new(many), &["--client", "docker"]);
    assert_eq!(deep["warnings"][0]["clients"], json!(["docker"]));
    assert_eq!(deep["warnings"][0]["outcome"], "fails");
    let most: Vec<_> = (0..501).map(|_| layer(&[Item::file("f", "")])).collect();
    let deeper = Image::new(most);

    let dir = tempfile::tempdir().unwrap();
    let zstd = |codec: Codec, name: &str| {
        let path = dir.path().join(name);
        image::small().write_layout(&path, codec);
        path
    };
    let warned = |path: &Path, client: &str| {
        let found = json_of(path, &["--client", client]);
        let list = found["warnings"].as_array().unwrap().clone();
        list.iter().map(|w| format!("{} {}", w["outcome"].as_str().unwrap(), w["layers"])).collect()
    };
    let none: [String; 0] = [];
    let one: &Path = &zstd(Codec::Zstd, "zstd");
    let found: Vec<String> = warned(one, "docker-20.10");
    assert_eq!(found, ["fails [1,2]"]);
    for client in ["docker", "containerd", "podman", "bootc", "ecr", "ghcr"] {
        let found: Vec<String> = warned(one, client);
        assert_eq!(found, none, "{client}");
    }
    // Those that unpack alike share rules, and are named as they were asked for.
    let eks = inspect(&deeper, &["--client", "eks", "--client", "skopeo"]);
    assert_eq!(eks["warnings"][0]["clients"], json!(["eks", "skopeo"]));
    let frames: Vec<String> = warned(&zstd(Codec::ZstdFrames, "frames"), "bootc");
    assert_eq!(frames, ["fails [1,2]"]);
    let gzip: Vec<String> = warned(&zstd(Codec::Gzip, "gzip"), "docker-20.10");
    assert_eq!(gzip, none);
    let run = run(&[one.to_str().unwrap(), "--fail-on", "client"]);
    assert_eq!(run.status, 1);
    assert!(run.stderr.contains("client: fails with docker-20.10, lambda"), "{}", run.stderr);
}

#[test]
fn a_window_that_clients_must_hold_and_chunked_layers_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("img.tar");
    let mut noise = vec![0; 9 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let image = Image::new(vec![layer(&[Item::file("big", noise)])]);
    std::fs::write(&input, image.docker_legacy()).unwrap();
    let split = |name: &str, args: &[&str]| {
        let out = dir.path().join(name);
        let places = [input.to_str().unwrap(), "-o", out.to_str().unwrap()];
        tool::split(&[&places, args].concat());
        json_of(&out, &[])
    };
    let about = |found: &Value, word: &str| {
        let warnings = found["warnings"].as_array().unwrap().clone();
        warnings.iter().filter(|w| w["what"].as_str().unwrap().contains(word)).count()
    };
    let wide = split("wide.tar", &["--long", "25"]);
    assert_eq!((about(&wide, "window"), about(&wide, "zstd frame")), (1, 0));
    let chunked = split("chunked.tar", &["--compression", "zstd:chunked"]);
    assert_eq!(chunked["layers"][0]["compression"], "zstd:chunked");
    assert_eq!((about(&chunked, "window"), about(&chunked, "zstd frame")), (0, 1));
}

#[test]
fn every_platform_is_shown_and_lists_say_what_they_leave_out() {
    let mut files = Vec::new();
    let mut manifests = Vec::new();
    for arch in ["amd64", "arm64"] {
        let mut one = Image::new(vec![
            layer(
                &(0..20)
                    .map(|i| Item::file(format!("f{i:02}"), format!("{i}")))
                    .collect::<Vec<_>>(),
            ),
            layer(&(0..20).map(|i| Item::whiteout(&format!("f{i:02}"))).collect::<Vec<_>>()),
        ]);
        one.config["architecture"] = json!(arch);
        let mut d = one.oci_blobs(Codec::Gzip, &mut files);
        d["platform"] = json!({"os": "linux", "architecture": arch});
        manifests.push(d);
    }
    let index = image::add_index(&manifests, &mut files);
    image::finish_layout(&[index], &mut files);
    let dir = tempfile::tempdir().unwrap();
    image::write_files(dir.path(), &files);
    let path = dir.path().to_str().unwrap();
    let both = run(&[path]);
    assert!(both.stdout.contains("linux/amd64\n") && both.stdout.contains("linux/arm64\n"));
    assert!(both.stdout.contains("and 10 more; -v lists all"), "{}", both.stdout);
    assert!(both.stdout.contains("lambda"), "an index is nothing for it");
    let one = run(&[path, "--platform", "linux/arm64", "-v"]);
    assert!(one.stdout.contains("/f19") && !one.stdout.contains("more;"));
    assert!(!one.stdout.contains("lambda"));
}
