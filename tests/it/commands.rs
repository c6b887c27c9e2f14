//! The commands of README.md and docs: each is run as it is written, or is listed here with the reason why not.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::image::{Codec, Image, Item, layer, noise};
use super::registry::{Profile, TestRegistry};
use super::tidy::root;
use super::tool::{self, relayer};

/// First words of lines that are commands, but can't run here.
const NOT_HERE: [(&str, &str); 16] = [
    (".ci/deb", "tests/deb.sh runs it"),
    ("RELAYER_SEED=1000000", "takes hours"),
    ("RELAYER_SEED=1234", "a test with another seed"),
    ("RELAYER_TEST_TOOLS=1", "a test with another seed"),
    ("aws", "needs an account"),
    ("benches/", "need images with a history, and a quiet machine"),
    ("cargo", "runs this test"),
    ("ctr", "tests/it/clients.rs runs it"),
    ("docker", "tests/it/clients.rs and tests/dockerfile.sh run it"),
    ("echo", "needs an account"),
    ("perf", "is for people"),
    ("podman", "tests/it/clients.rs runs it"),
    ("tests/rebase.py", "takes ten minutes; tests/run.sh runs some of it"),
    ("rustup", "compiles everything"),
    ("tests/run.sh", "runs this test"),
    ("tests/try.sh", "compiles everything"),
];

/// First words of indented lines that are no commands.
const NO_COMMANDS: [&str; 10] = [
    "#",
    "[storage.options]",
    "plain",
    "payload",
    "pull_options",
    "segment",
    "size",
    "update",
    "version",
    "…",
];

/// Images of these need a client that runs; tests/it/daemons.rs has them.
const CLIENTS: [&str; 3] = ["docker-daemon:", "containers-storage:", "containerd:"];

/// Returns the indented lines of a page and those after `$ ` in its code blocks.
fn lines(page: &str) -> Vec<String> {
    let mut is_block = false;
    let mut found = Vec::new();
    for line in page.replace("\\\n", " ").lines() {
        is_block ^= line.starts_with("```");
        let prefix = if is_block { "$ " } else { "    " };
        found.extend(line.strip_prefix(prefix).map(|line| line.trim().to_owned()));
    }
    found
}

/// Returns the pages of users with their names.
fn pages() -> Vec<(String, String)> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        docs.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    paths.extend([root().join("README.md"), root().join("CONTRIBUTING.md")]);
    paths.sort();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    paths.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

/// Version `n` of an image on a base, with a secret in a lower layer.
fn image(n: usize) -> Image {
    let base = layer(&[
        Item::file("etc/os-release", "ID=debian\n"),
        Item::file("usr/lib/base", noise(0, 1_200_000)),
    ]);
    let token = format!("npm_{}", "0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX");
    let secret = format!("//registry.npmjs.org/:_authToken={token}\n");
    let app = [
        Item::file("root/.npmrc", secret),
        Item::file("srv/same", noise(1, 300_000)),
        Item::file("srv/app", noise(10 + n, 300_000)),
    ];
    Image::new(vec![base, layer(&app), layer(&[Item::whiteout("root/.npmrc")])])
}

/// What the commands of a page find: the archives and layouts that they name, and a registry.
struct Place {
    dir: tempfile::TempDir,
    registry: TestRegistry,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
            registry: TestRegistry::start(Profile::plain()),
        };
        for n in 1..=3 {
            let layout = place.dir.path().join(format!("layout-{n}"));
            image(n).write_layout(&layout, Codec::Gzip);
            let to = format!("docker-archive:app-v{n}.tar:app:v{n}");
            place.ok(&["copy", &format!("oci:layout-{n}"), &to]);
            place.ok(&["copy", &format!("oci:layout-{n}"), &format!("oci:images:{n}.0")]);
        }
        for (from, to) in [
            ("app-v1", "app"),
            ("app-v1", "py-data"),
            ("app-v2", "py-data-2"),
            ("app-v1", "web-node"),
        ] {
            fs::copy(place.at(&format!("{from}.tar")), place.at(&format!("{to}.tar"))).unwrap();
        }
        for name in ["app", "app-v1", "py-data"] {
            place.ok(&["split", &format!("{name}.tar")]);
        }
        let files = |n| image(n).oci_files(Codec::Gzip);
        for repo in ["app", "team/app"] {
            place.registry.add_image(repo, "v1", &files(1));
            place.registry.add_image(repo, "build", &files(2));
        }
        let base = image(1).layers[0].clone();
        let more = layer(&[Item::file("usr/lib/new", noise(2, 20_000))]);
        for (tag, layers) in
            [("12", vec![base.clone()]), ("12.9", vec![base.clone()]), ("12.11", vec![base, more])]
        {
            place.registry.add_image("debian", tag, &Image::new(layers).oci_files(Codec::Gzip));
        }
        place
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn ok(&self, args: &[&str]) {
        tool::ok(relayer().args(args).current_dir(self.dir.path()));
    }

    /// Runs a line in a shell. `relayer` is ours, and words in capitals are what they stand for.
    fn run(&self, page: &str, line: &str) {
        let host = self.registry.host();
        let line = line
            .replace("registry.example.com", host)
            .replace("REGISTRY", host)
            .replace("CLIENT", "docker")
            .replace("IMAGE", "app.tar");
        // Other lines of a page may write the same.
        let words: Vec<&str> =
            line.split_whitespace().take_while(|word| !word.starts_with('#')).collect();
        let mut written: Vec<String> = words
            .windows(2)
            .filter(|pair| ["-o", "--sarif"].contains(&pair[0]))
            .map(|pair| pair[1].to_owned())
            .collect();
        if words[1] == "split" && !words.contains(&"-o") {
            let image = words.iter().find_map(|word| word.strip_suffix(".tar"));
            written.extend(image.map(|image| format!("{image}.relayer.tar")));
        }
        for name in written {
            let _ = fs::remove_file(self.at(&name));
        }
        let binary = Path::new(env!("CARGO_BIN_EXE_relayer")).parent().unwrap();
        let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        shell.args(["-euc", &line]).current_dir(&self.dir).env("PATH", path).env("REG", host);
        shell.env("HOME", self.dir.path()).env("GITHUB_STEP_SUMMARY", self.at("summary.md"));
        let out = tool::output(&mut shell);
        let is_gate = line.contains("--fail-on") && tool::said(&out).contains("\nfailed: ");
        assert!(out.status.success() || is_gate, "{page}: {line}: {}", tool::said(&out));
    }
}

#[test]
fn every_command_of_the_documents_runs() {
    let (mut ran, mut unused) = (0, NOT_HERE.map(|(word, _)| word).to_vec());
    for (page, text) in pages() {
        let mut place = None;
        for line in lines(&text).iter().filter(|line| !line.is_empty()) {
            let first = line.split_whitespace().next().unwrap();
            if first != "relayer" {
                let is_it =
                    |word: &&str| first == *word || word.ends_with('/') && first.starts_with(word);
                unused.retain(|word| !is_it(word));
                let known = NOT_HERE.iter().any(|(word, _)| is_it(word));
                assert!(known || NO_COMMANDS.contains(&first), "{page}: what is {line:?}?");
                continue;
            }
            let needs_store =
                ["store", "history"].contains(&line.split_whitespace().nth(1).unwrap());
            let can_run = cfg!(feature = "store") || !needs_store;
            if can_run && !CLIENTS.iter().any(|client| line.contains(client)) {
                place.get_or_insert_with(Place::new).run(&page, line);
                ran += 1;
            }
        }
    }
    assert!(unused.is_empty(), "no document has these: {unused:?}");
    assert!(ran >= if cfg!(feature = "store") { 40 } else { 30 }, "{ran}");
}
