//! Random stacks as umoci, containerd and docker show them, the last two on overlayfs: outputs of
//! relayer must be what the model says, whatever the stack; and where clients agree on the input,
//! so must that be, which is how the model itself is judged.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Output};
use std::time::SystemTime;

use serde_json::{Value, json};

use super::random::{Random, seed, setting};
use super::spec::Agreement;
use super::stacks::{Stack, Taste};
use super::view::{File, View, differences};
use super::{Case, cases, output};
use crate::clients::Client;
use crate::image::{Codec, Image, Item, archive, digest, finish_layout, write_files};
use crate::tool;

/// What a folder holds.
fn disk(root: &Path) -> View {
    let mut view = View::new();
    let mut inodes: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let nothing = super::spec::file(&Item::file("", ""));
    let mut todo = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        let full = root.join(std::ffi::OsStr::from_bytes(&path));
        let m = match fs::symlink_metadata(&full) {
            Ok(m) => m,
            Err(e) => {
                // A directory can list what an overlay then refuses to show.
                let odd = File { kind: b'?', data: e.to_string().into_bytes(), ..nothing.clone() };
                view.insert(path, odd);
                continue;
            }
        };
        let kind = m.file_type();
        let letter = match () {
            () if kind.is_dir() => b'5',
            () if kind.is_symlink() => b'2',
            () if kind.is_fifo() => b'6',
            () if kind.is_char_device() => b'3',
            () if kind.is_block_device() => b'4',
            () => b'0',
        };
        let data = match letter {
            b'0' => fs::read(&full).unwrap(),
            b'2' => fs::read_link(&full).unwrap().as_os_str().as_bytes().to_vec(),
            _ => Vec::new(),
        };
        let device = match letter {
            b'3' | b'4' => (rustix::fs::major(m.rdev()), rustix::fs::minor(m.rdev())),
            _ => (0, 0),
        };
        let mut list = vec![0; 4096];
        let length = rustix::fs::llistxattr(&full, &mut list).unwrap();
        let names = list[..length].split(|b| *b == 0).filter(|n| !n.is_empty());
        let xattr = |name: &[u8]| {
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(&full, name, &mut value).unwrap();
            value.truncate(length);
            (String::from_utf8(name.to_vec()).unwrap(), value)
        };
        let xattrs = names.map(xattr).collect();
        if letter == b'5' {
            for entry in fs::read_dir(&full).unwrap() {
                todo.push(super::spec::join(&path, entry.unwrap().file_name().as_bytes()));
            }
        } else if m.nlink() > 1 {
            let first = inodes.entry(m.ino()).or_insert_with(|| path.clone());
            *first = first.clone().min(path.clone());
        }
        let file = File {
            kind: letter,
            mode: m.mode() & 0o7777,
            owner: (m.uid().into(), m.gid().into()),
            mtime: (m.mtime(), m.mtime_nsec() as u32),
            data,
            device,
            xattrs,
            first: (letter != b'5' && m.nlink() > 1).then(|| m.ino().to_be_bytes().to_vec()),
            implied: false,
        };
        view.insert(path, file);
    }
    for file in view.values_mut() {
        if let Some(inode) = &mut file.first {
            inode.clone_from(&inodes[&u64::from_be_bytes(inode[..].try_into().unwrap())]);
        }
    }
    // A group of which only one name shows is none.
    let firsts: Vec<_> = view.values().filter_map(|f| f.first.clone()).collect();
    for file in view.values_mut() {
        file.first.take_if(|first| firsts.iter().filter(|f| *f == first).count() < 2);
    }
    view
}

/// An image, and what clients must show of it.
struct Subject {
    what: String,
    image: Image,
    want: View,
    by: Agreement,
}

impl Subject {
    /// What went wrong, if anything.
    fn judge(&self, client: &str, root: &Path) -> Option<String> {
        let (mut want, mut got) = (self.want.clone(), disk(root));
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs().cast_signed();
        if client != "umoci" || !want.contains_key(&b""[..]) {
            // Others never touch the root's own attributes.
            want.remove(&b""[..]);
            got.remove(&b""[..]);
        }
        for (path, file) in &mut want {
            if client == "containerd" {
                file.xattrs.retain(|name, _| !name.starts_with("trusted."));
            }
            if file.mtime.0 < 0 && (client != "umoci" || file.kind == b'2') {
                // Docker and containerd know no time before 1970, and umoci none of a symlink.
                file.mtime = got.get(path).map_or(file.mtime, |f| f.mtime);
            }
            // umoci leaves the time of its work on a directory out of which a later entry takes
            // something.
            let worked = |f: &File| (now - 3600..=now).contains(&f.mtime.0);
            let above = path.is_empty()
                || self.by == Agreement::Umoci && file.kind == b'5'
                || file.kind == b'5' && got.get(path).is_some_and(worked);
            if file.implied || above && client == "umoci" {
                // It is changed or made in the course of unpacking.
                file.mtime = got.get(path).map_or(file.mtime, |f| f.mtime);
            }
        }
        let lines = differences(&want, &got);
        (!lines.is_empty())
            .then(|| format!("{}, {client}: expected / found\n{}", self.what, lines.join("\n")))
    }
}

/// Layout and docker-archive of the images that `by` show, named by their places.
fn together(subjects: &[Subject], by: Agreement) -> Vec<(String, Vec<u8>)> {
    let (mut files, mut roots, mut listed) = (Vec::new(), Vec::new(), Vec::new());
    let at = |digest: &str| format!("blobs/{}", digest.replace(':', "/"));
    for (i, subject) in subjects.iter().enumerate().filter(|(_, s)| s.by >= by) {
        let image = &subject.image;
        let mut root = image.oci_blobs(Codec::Plain, &mut files);
        root["annotations"] = json!({
            "org.opencontainers.image.ref.name": format!("m{i}"),
            "io.containerd.image.name": format!("docker.io/example/m:{i}"),
        });
        roots.push(root);
        let config = at(&digest(&serde_json::to_vec(&image.config).unwrap()));
        let layers: Vec<String> = image.layers.iter().map(|l| at(&digest(l))).collect();
        listed.push(
            json!({"Config": config, "RepoTags": [format!("example/m:{i}")], "Layers": layers}),
        );
    }
    finish_layout(&roots, &mut files);
    files.push(("manifest.json".into(), Value::Array(listed).to_string().into_bytes()));
    BTreeMap::from_iter(files).into_iter().collect()
}

/// Something mounted on a folder, as long as it is needed.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = tool::output(Command::new("umount").arg(self.0));
    }
}

fn by_umoci(dir: &Path, subjects: &[Subject]) -> Vec<String> {
    let judge = |(i, subject): (usize, &Subject)| {
        let bundle = dir.join("bundle");
        let image = format!("{}:m{i}", dir.join("layout").display());
        let out =
            tool::output(Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle));
        let found = if out.status.success() {
            subject.judge("umoci", &bundle.join("rootfs"))
        } else {
            Some(format!("{}, umoci: {}", subject.what, String::from_utf8_lossy(&out.stderr)))
        };
        fs::remove_dir_all(&bundle).unwrap();
        found
    };
    subjects
        .iter()
        .enumerate()
        .filter(|(_, s)| s.by >= Agreement::Umoci)
        .filter_map(judge)
        .collect()
}

/// The image that a client stumbled over, which is the one behind those it has done.
fn refused(client: &str, out: &Output, done: &str, subjects: &[Subject]) -> Option<String> {
    let loaded = String::from_utf8_lossy(&out.stdout).matches(done).count();
    let next = subjects.iter().filter(|s| s.by == Agreement::All).nth(loaded);
    let errors = String::from_utf8_lossy(&out.stderr);
    (!out.status.success()).then(|| format!("{}, {client}: {errors}", next.map_or("", |s| &s.what)))
}

fn by_containerd(dir: &Path, file: &str, subjects: &[Subject]) -> Vec<String> {
    let ctr = Client::containerd(dir);
    let out = tool::output(&mut ctr.command(&["image", "import", file]));
    if let Some(refused) = refused("containerd", &out, ")...done\n", subjects) {
        return vec![refused];
    }
    let judge = |(i, subject): (usize, &Subject)| {
        // The folder's name is that of the snapshot.
        let at = dir.join(format!("m{i}"));
        fs::create_dir(&at).unwrap();
        ctr.ok(&["image", "mount", &format!("docker.io/example/m:{i}"), at.to_str().unwrap()]);
        let _mounted = Mounted(&at);
        subject.judge("containerd", &at)
    };
    subjects.iter().enumerate().filter(|(_, s)| s.by == Agreement::All).filter_map(judge).collect()
}

fn by_docker(dir: &Path, file: &str, subjects: &[Subject]) -> Vec<String> {
    let docker = Client::docker(dir);
    let out = tool::output(&mut docker.command(&["load", "-q", "-i", file]));
    if let Some(refused) = refused("docker", &out, "Loaded image", subjects) {
        return vec![refused];
    }
    let at = dir.join("by-docker");
    let empty = dir.join("empty");
    fs::create_dir(&at).unwrap();
    fs::create_dir(&empty).unwrap();
    let judge = |(i, subject): (usize, &Subject)| {
        let inspect = docker.ok(&["image", "inspect", &format!("example/m:{i}")]);
        let inspect: Value = serde_json::from_str(&inspect).unwrap();
        let driver = &inspect[0]["GraphDriver"];
        assert_eq!(driver["Name"], "overlay2");
        let dirs = ["UpperDir", "LowerDir"].map(|key| driver["Data"][key].as_str());
        let dirs: Vec<&str> = dirs.into_iter().flatten().chain(empty.to_str()).collect();
        let lower = format!("lowerdir={}", dirs.join(":"));
        tool::run("mount", &["-t", "overlay", "overlay", "-o", &lower, at.to_str().unwrap()]);
        let _mounted = Mounted(&at);
        subject.judge("docker", &at)
    };
    subjects.iter().enumerate().filter(|(_, s)| s.by == Agreement::All).filter_map(judge).collect()
}

/// Whether a file system can hold a file: xattr(7) knows user attributes of regular files and
/// directories only. A hard link's header can give them to a device.
fn is_possible(file: &File) -> bool {
    matches!(file.kind, b'0' | b'5') || !file.xattrs.keys().any(|name| name.starts_with("user."))
}

/// What clients are asked about a stack: the input as far as they agree, and one of the outputs.
fn subjects(seed: u64) -> Vec<Subject> {
    let random = &mut Random(seed);
    let taste = *random.of(&[Taste::Careful, Taste::Careful, Taste::Bold]);
    let stack = Stack::new(random, taste);
    let what = |what: &str| format!("RELAYER_SEED={seed}, {what}");
    let mut found = vec![Subject {
        what: what("the input"),
        image: stack.image(false, random),
        want: stack.view(),
        by: stack.tree.agreement,
    }];
    let mut cases = cases(&stack, random).unwrap_or_else(|e| panic!("RELAYER_SEED={seed}: {e}"));
    cases.retain(|case| !case.what.ends_with("a delta to the input"));
    let Case { what: made, output, want } = cases.swap_remove(random.below(cases.len()));
    let image = Image::new(output::tars(&output));
    found.push(Subject { what: what(&made), image, want, by: Agreement::All });
    found.retain(|s| {
        s.by > Agreement::Spec && !s.image.layers.is_empty() && s.want.values().all(is_possible)
    });
    found
}

#[test]
fn clients_show_random_stacks_as_the_model_does() {
    if !tool::needs("umoci, docker, dockerd, containerd, ctr, mount, umount, root") {
        return;
    }
    let (seed, stacks) = (seed(), setting("RELAYER_CLIENT_STACKS", 300));
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let subjects: Vec<Subject> = (seed..seed + stacks).flat_map(subjects).collect();
    write_files(&dir.path().join("layout"), &together(&subjects, Agreement::Umoci));
    let file = dir.path().join("all.tar").to_str().unwrap().to_owned();
    fs::write(&file, archive(&together(&subjects, Agreement::All))).unwrap();
    let (dir, subjects) = (dir.path(), &subjects[..]);
    let failed: Vec<String> = std::thread::scope(|scope| {
        let umoci = scope.spawn(|| by_umoci(dir, subjects));
        let containerd = scope.spawn(|| by_containerd(dir, &file, subjects));
        let docker = scope.spawn(|| by_docker(dir, &file, subjects));
        [umoci, containerd, docker].into_iter().flat_map(|judge| judge.join().unwrap()).collect()
    });
    let of = |by: Agreement| subjects.iter().filter(|s| s.by >= by).count();
    println!(
        "{stacks} stacks: umoci was asked {} times, containerd and docker {}",
        of(Agreement::Umoci),
        of(Agreement::All)
    );
    assert!(
        failed.is_empty(),
        "{} wrong; RELAYER_CLIENT_STACKS=1 with its seed repeats one:\n{}",
        failed.len(),
        failed[..failed.len().min(20)].join("\n")
    );
}
