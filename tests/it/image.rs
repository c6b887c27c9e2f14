//! Images made for tests, by code that shares nothing with relayer's.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// `sha256:…` of some bytes.
/// Bytes that do not compress.
pub fn noise(seed: usize, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

fn hex(bytes: &[u8]) -> String {
    digest(bytes)["sha256:".len()..].to_owned()
}

/// One entry of a layer.
#[derive(Clone)]
pub struct Item {
    pub path: Vec<u8>,
    pub kind: u8,
    pub mode: u32,
    pub owner: (u64, u64),
    pub mtime: String,
    pub xattrs: Vec<(String, Vec<u8>)>,
    pub link: Vec<u8>,
    pub device: (u32, u32),
    pub data: Vec<u8>,
}

impl Item {
    pub fn new(path: impl AsRef<[u8]>, kind: u8) -> Self {
        Self {
            path: path.as_ref().to_vec(),
            kind,
            mode: if kind == b'5' { 0o755 } else { 0o644 },
            owner: (0, 0),
            mtime: "1600000000".into(),
            xattrs: Vec::new(),
            link: Vec::new(),
            device: (0, 0),
            data: Vec::new(),
        }
    }

    pub fn dir(path: impl AsRef<[u8]>) -> Self {
        Self::new(path, b'5')
    }

    pub fn file(path: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        Self { data: data.as_ref().to_vec(), ..Self::new(path, b'0') }
    }

    pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self { link: target.as_ref().to_vec(), mode: 0o777, ..Self::new(path, b'2') }
    }

    pub fn link(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self { link: target.as_ref().to_vec(), ..Self::new(path, b'1') }
    }

    pub fn whiteout(path: &str) -> Self {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let slash = if dir.is_empty() { "" } else { "/" };
        Self::file(format!("{dir}{slash}.wh.{name}"), "")
    }

    pub fn opaque(dir: &str) -> Self {
        Self::file(format!("{dir}/.wh..wh..opq"), "")
    }

    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.owner = (uid, gid);
        self
    }

    pub fn mtime(mut self, mtime: &str) -> Self {
        self.mtime = mtime.into();
        self
    }

    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.xattrs.push((name.to_owned(), value.to_vec()));
        self
    }

    /// The entry as tar, with PAX records for all that is unusual.
    pub fn bytes(&self) -> Vec<u8> {
        let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut record = |k: &str, v: &[u8]| records.push((k.into(), v.to_vec()));
        if self.path.len() > 100 {
            record("path", &self.path);
        }
        if self.link.len() > 100 {
            record("linkpath", &self.link);
        }
        for (key, id) in [("uid", self.owner.0), ("gid", self.owner.1)] {
            if id > 0o7_777_777 {
                record(key, id.to_string().as_bytes());
            }
        }
        let plain: Option<u64> = self.mtime.parse().ok();
        if plain.is_none() {
            record("mtime", self.mtime.as_bytes());
        }
        for (name, value) in &self.xattrs {
            record(&format!("SCHILY.xattr.{name}"), value);
        }
        let mut out = Vec::new();
        if !records.is_empty() {
            let text: Vec<u8> = records.iter().flat_map(|(k, v)| pax_record(k, v)).collect();
            out.extend(block(b"PaxHeaders/x", b'x', text.len() as u64, |_| ()));
            out.extend(padded(text));
        }
        out.extend(block(&self.path, self.kind, self.data.len() as u64, |h| {
            h.set_mode(self.mode);
            h.set_uid(if self.owner.0 > 0o7_777_777 { 0 } else { self.owner.0 });
            h.set_gid(if self.owner.1 > 0o7_777_777 { 0 } else { self.owner.1 });
            h.set_mtime(plain.unwrap_or(0));
            let link = &self.link[..self.link.len().min(100)];
            h.as_ustar_mut().unwrap().linkname[..link.len()].copy_from_slice(link);
            h.set_device_major(self.device.0).unwrap();
            h.set_device_minor(self.device.1).unwrap();
        }));
        out.extend(padded(self.data.clone()));
        out
    }
}

pub fn pax_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let len =
        (1..8).map(|digits| rest + digits).find(|n| rest + n.to_string().len() == *n).unwrap();
    [format!("{len} ").as_bytes(), key, b"=", value, b"\n"].concat()
}

/// A header block.
pub fn block(path: &[u8], kind: u8, size: u64, fill: impl FnOnce(&mut tar::Header)) -> Vec<u8> {
    let mut h = tar::Header::new_ustar();
    let name = &path[..path.len().min(100)];
    h.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name);
    h.set_entry_type(tar::EntryType::new(kind));
    h.set_size(size);
    for set in [tar::Header::set_uid, tar::Header::set_gid, tar::Header::set_mtime] {
        set(&mut h, 0);
    }
    h.set_mode(0o644);
    fill(&mut h);
    h.set_cksum();
    h.as_bytes().to_vec()
}

pub fn padded(mut data: Vec<u8>) -> Vec<u8> {
    data.resize(data.len().next_multiple_of(512), 0);
    data
}

/// A layer's tar of some entries.
pub fn layer(items: &[Item]) -> Vec<u8> {
    let mut out: Vec<u8> = items.iter().flat_map(Item::bytes).collect();
    out.extend([0; 1024]);
    out
}

/// A tar of plain files.
pub fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<Item> = files.iter().map(|(path, data)| Item::file(path, data)).collect();
    layer(&items)
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Codec {
    Plain,
    Gzip,
    /// Several members.
    GzipMembers,
    Zstd,
    /// Several frames, and skippable ones as in zstd:chunked.
    ZstdFrames,
}

impl Codec {
    pub fn encode(self, data: &[u8]) -> (Vec<u8>, &'static str) {
        let gzip = |part: &[u8]| {
            let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(4));
            e.write_all(part).unwrap();
            e.finish().unwrap()
        };
        let zstd = |part: &[u8]| zstd::encode_all(part, 1).unwrap();
        let half = data.len() / 3;
        let skip = b"\x5f\x2a\x4d\x18\x04\0\0\0skip";
        let bytes = match self {
            Codec::Plain => data.to_vec(),
            Codec::Gzip => gzip(data),
            Codec::GzipMembers => [gzip(&data[..half]), gzip(&data[half..])].concat(),
            Codec::Zstd => zstd(data),
            Codec::ZstdFrames => {
                [&skip[..], &zstd(&data[..half]), skip, &zstd(&data[half..]), skip].concat()
            }
        };
        let suffix = match self {
            Codec::Plain => "",
            Codec::Gzip | Codec::GzipMembers => "+gzip",
            Codec::Zstd | Codec::ZstdFrames => "+zstd",
        };
        (bytes, suffix)
    }
}

/// An image of some layers.
#[derive(Clone)]
pub struct Image {
    pub layers: Vec<Vec<u8>>,
    pub config: Value,
    pub tag: String,
}

impl Image {
    pub fn new(layers: Vec<Vec<u8>>) -> Self {
        let history: Vec<Value> = (0..layers.len())
            .map(|i| json!({"created_by": format!("step {i}")}))
            .chain([json!({"created_by": "ENV A=1", "empty_layer": true})])
            .collect();
        let ids: Vec<String> = layers.iter().map(|l| digest(l)).collect();
        let config = json!({
            "created": "2025-01-02T03:04:05.123456789Z", "architecture": "amd64", "os": "linux",
            "config": {"Env": ["B=2", "A=1"], "Cmd": ["sh"], "StopSignal": "SIGQUIT", "Volumes": {"/srv": {}}},
            "x-unknown": {"z": 1.50, "a": [null, 12_345_678_901_234_567_u64]},
            "rootfs": {"type": "layers", "diff_ids": ids}, "history": history,
        });
        Self { layers, config, tag: "example/app:v1".into() }
    }

    pub fn config_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.config).unwrap()
    }

    /// What old `docker save` wrote: a folder a layer, equal layers as links.
    pub fn docker_legacy(&self) -> Vec<u8> {
        let config = self.config_bytes();
        let name = format!("{}.json", hex(&config));
        let mut items = Vec::new();
        let mut paths = Vec::new();
        let mut first: Vec<(&Vec<u8>, String)> = Vec::new();
        for (i, l) in self.layers.iter().enumerate() {
            let id = hex(format!("{i}").as_bytes());
            items.push(Item::dir(format!("{id}/")));
            items.push(Item::file(format!("{id}/VERSION"), "1.0"));
            items.push(Item::file(format!("{id}/json"), "{}"));
            match first.iter().find(|(bytes, _)| *bytes == l) {
                Some((_, other)) => {
                    items.push(Item::symlink(
                        format!("{id}/layer.tar"),
                        format!("../{other}/layer.tar"),
                    ));
                }
                None => items.push(Item::file(format!("{id}/layer.tar"), l)),
            }
            first.push((l, id.clone()));
            paths.push(format!("{id}/layer.tar"));
        }
        items.push(Item::file(&name, &config));
        let manifest = json!([{"Config": name, "RepoTags": [self.tag], "Layers": paths}]);
        items.push(Item::file("manifest.json", manifest.to_string()));
        items.push(Item::file("repositories", "{}"));
        layer(&items)
    }

    /// What skopeo writes.
    pub fn docker_skopeo(&self) -> Vec<u8> {
        archive(&self.docker(Codec::Plain, "HEX.json", "DIFF.tar"))
    }

    /// The files of a docker-archive, `manifest.json` last. The config's name is of its digest, a
    /// layer's of its blob's digest or its diff ID.
    pub fn docker(&self, codec: Codec, config: &str, layer: &str) -> Vec<(String, Vec<u8>)> {
        let bytes = self.config_bytes();
        let config = config.replace("HEX", &hex(&bytes));
        let mut files = vec![(config.clone(), bytes)];
        let mut paths = Vec::new();
        for l in &self.layers {
            let (blob, _) = codec.encode(l);
            let path = layer.replace("BLOB", &hex(&blob)).replace("DIFF", &hex(l));
            if !paths.contains(&path) {
                files.push((path.clone(), blob));
            }
            paths.push(path);
        }
        let manifest = json!([{"Config": config, "RepoTags": [self.tag], "Layers": paths}]);
        files.push(("manifest.json".into(), manifest.to_string().into_bytes()));
        files
    }

    /// The files of an OCI layout.
    pub fn oci_files(&self, codec: Codec) -> Vec<(String, Vec<u8>)> {
        let mut files = Vec::new();
        let root = self.oci_blobs(codec, &mut files);
        let mut root = root;
        root["annotations"] = json!({
            "org.opencontainers.image.ref.name": "v1",
            "io.containerd.image.name": format!("docker.io/{}", self.tag),
        });
        finish_layout(&[root], &mut files);
        files
    }

    /// Adds the image's blobs, and gives its descriptor.
    pub fn oci_blobs(&self, codec: Codec, files: &mut Vec<(String, Vec<u8>)>) -> Value {
        let mut add = |media_type: String, bytes: Vec<u8>| {
            let d = json!({"mediaType": media_type, "digest": digest(&bytes), "size": bytes.len()});
            files.push((format!("blobs/sha256/{}", hex(&bytes)), bytes));
            d
        };
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|l| {
                let (bytes, suffix) = codec.encode(l);
                add(format!("application/vnd.oci.image.layer.v1.tar{suffix}"), bytes)
            })
            .collect();
        let config = add("application/vnd.oci.image.config.v1+json".into(), self.config_bytes());
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers});
        add(kind.into(), manifest.to_string().into_bytes())
    }

    /// New `docker save`: an OCI layout and manifest.json.
    pub fn docker_new(&self) -> Vec<u8> {
        self.docker_oci(Codec::Plain)
    }

    /// The same with compressed layers, as containerd and `BuildKit` write it.
    pub fn docker_oci(&self, codec: Codec) -> Vec<u8> {
        let mut files = self.oci_files(codec);
        files.extend(self.docker(codec, "blobs/sha256/HEX", "blobs/sha256/BLOB").pop());
        archive(&files)
    }

    pub fn write_layout(&self, dir: &Path, codec: Codec) {
        write_files(dir, &self.oci_files(codec));
    }
}

/// Adds `index.json` and `oci-layout`.
pub fn finish_layout(roots: &[Value], files: &mut Vec<(String, Vec<u8>)>) {
    let index = json!({"schemaVersion": 2, "manifests": roots});
    files.push(("index.json".into(), index.to_string().into_bytes()));
    files.push(("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
}

/// Adds an index as a blob and gives its descriptor.
pub fn add_index(manifests: &[Value], files: &mut Vec<(String, Vec<u8>)>) -> Value {
    let kind = "application/vnd.oci.image.index.v1+json";
    let bytes = json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests})
        .to_string()
        .into_bytes();
    let d = json!({"mediaType": kind, "digest": digest(&bytes), "size": bytes.len()});
    files.push((format!("blobs/sha256/{}", hex(&bytes)), bytes));
    d
}

pub fn write_files(dir: &Path, files: &[(String, Vec<u8>)]) {
    for (name, bytes) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// A small image with a few files.
pub fn small() -> Image {
    let text = "some text that is compressed\n".repeat(40);
    let lower: Vec<Item> = [Item::dir("app/"), Item::dir("etc/"), Item::file("etc/hosts", "x")]
        .into_iter()
        .chain((0..30).map(|i| Item::file(format!("app/f{i:02}"), format!("{i} {text}"))))
        .collect();
    let upper = [Item::dir("app/"), Item::whiteout("app/f00"), Item::file("app/f01", "new")];
    Image::new(vec![layer(&lower), layer(&upper)])
}
