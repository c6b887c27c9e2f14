//! Any bytes as the layers of an image, split in memory: no panic, and the result unfolds to the
//! file set of the input.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use relayer::content::Budget;
use relayer::digest::Digest;
use relayer::flatten::flatten;
use relayer::layer::Limits;
use relayer::oci::Config;
use relayer::plan::Target;
use relayer::progress::Silent;
use relayer::split::{self, Options};
use relayer::transport::Transport;
use relayer::transport::open::{Image, LayerBlob, Opened, open_archive};
use relayer::transport::write::{Form, write_archive};
use relayer::verify::compare;

const MAX: u64 = 64 << 20;

fuzz_target!(|bytes: &[u8]| {
    // The first byte says where to cut the rest in two layers, at a block.
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let cut = (usize::from(*cut) * 512).min(bytes.len());
    let (lower, upper) = bytes.split_at(cut);
    let layers: Vec<LayerBlob> = [lower, upper]
        .iter()
        .map(|tar| LayerBlob {
            name: "layer".into(),
            media_type: String::new(),
            digest: None,
            diff_id: Digest::of(tar),
            source: Arc::new(tar.to_vec()),
        })
        .collect();
    let budget = Budget::new(MAX, None);
    let Ok(want) = flatten(&layers, Some(&budget), &Limits::new(MAX, 10_000), &Silent) else { return };
    let config = br#"{"os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let image = Image {
        manifest: None,
        annotations: Default::default(),
        descriptor_annotations: Default::default(),
        config_bytes: config.to_vec(),
        config: Config::parse(config).unwrap(),
        platform: "linux/amd64".parse().unwrap(),
        layers,
    };
    let opened = Opened {
        images: vec![image],
        index: None,
        names: vec!["a:b".into()],
        transport: Transport::DockerArchive,
        notes: Vec::new(),
    };
    let options = Options {
        target: Target::Layers(3),
        threads: 1,
        memory: MAX,
        max_size: MAX,
        ..Options::default()
    };
    let (bundle, _) = match split::split(&opened, None, &options, &budget, &Silent) {
        Ok(done) => done,
        // A device number that tar can't hold, for example; the input was readable all the same.
        Err(_) => return,
    };
    let mut out = Vec::new();
    write_archive(&bundle, &bundle.names, Form::Universal, &mut out, &Silent).unwrap();
    let again = open_archive(Arc::new(out), None, None, None, &budget, MAX).unwrap();
    let got =
        flatten(&again.images[0].layers, None, &Limits::new(4 * MAX, 100_000), &Silent).unwrap();
    let differences = compare(&want.files, &got.files);
    assert!(differences.is_empty(), "{}", differences[0]);
});
