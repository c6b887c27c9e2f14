//! Any bytes as the layers of an image, split in memory, alone and on top of one another: no panic,
//! and the result unfolds to the file set of the input.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use relayer::model::content::Budget;
use relayer::model::digest::Digest;
use relayer::model::fileset::FileSet;
use relayer::layers::flatten::{self, Keep};
use relayer::model::oci::Config;
use relayer::plan::Target;
use relayer::base::progress::Silent;
use relayer::split::{self, SplitOptions};
use relayer::transport::Transport;
use relayer::transport::bundle::Bundle;
use relayer::transport::image::{Image, LayerBlob, Opened};
use relayer::transport::open::open_archive;
use relayer::transport::write::{Form, write_archive};
use relayer::compare::verify::compare;

const MAX: u64 = 64 << 20;

fn opened(layers: Vec<LayerBlob>) -> Opened {
    let config = br#"{"os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let diff_ids: Vec<Digest> = layers.iter().map(|l| l.diff_id).collect();
    let config = Config::parse(config).unwrap().with_layers(&diff_ids, &[]);
    let image = Image {
        manifest: None,
        annotations: Default::default(),
        descriptor_annotations: Default::default(),
        config_bytes: config.to_bytes().unwrap(),
        config,
        platform: "linux/amd64".parse().unwrap(),
        layers,
    };
    Opened {
        images: vec![image],
        index: None,
        names: vec!["a:b".into()],
        transport: Transport::DockerArchive,
        notes: Vec::new(),
    }
}

fn written(bundle: &Bundle, budget: &Arc<Budget>) -> Opened {
    let mut out = Vec::new();
    write_archive(bundle, &bundle.names, None, Form::Universal, &mut out, &Silent).unwrap();
    open_archive(Arc::new(out), None, None, None, budget, MAX).unwrap()
}

fn files(layers: &[LayerBlob]) -> relayer::base::error::Result<FileSet> {
    let budget = Budget::new(MAX, None);
    Ok(flatten::read(layers, Keep::Index, 4 * MAX, &budget, &Silent)?.flatten()?.rootfs.files)
}

fuzz_target!(|bytes: &[u8]| {
    // The first byte says where to cut the rest in two layers, at a block.
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let cut = (usize::from(*cut) * 512).min(bytes.len());
    let (lower, upper) = bytes.split_at(cut);
    let budget = Budget::new(MAX, None);
    let layers: Result<Vec<LayerBlob>, _> = [lower, upper]
        .iter()
        .map(|tar| {
            let source = Arc::new(tar.to_vec());
            LayerBlob::undescribed("layer".into(), Digest::of(tar), source, MAX, budget.windows())
        })
        .collect();
    let Ok(layers) = layers else { return };
    let Ok(want) = files(&layers) else { return };
    let lower = opened(layers[..1].to_vec());
    let both = opened(layers);
    let mut options = SplitOptions {
        target: Target::Layers(3),
        threads: 1,
        memory: MAX,
        max_size: MAX,
        ..SplitOptions::default()
    };
    options.update.exact = true;
    // Alone; on top of the image without its upper layer; and that on top of the first result.
    let Ok((alone, _)) = split::split(&both, None, &options, &budget, &Silent) else {
        // A device number that tar can't hold, for example; the input was readable all the same.
        return;
    };
    let alone = written(&alone, &budget);
    let wanted_lower = files(&lower.images[0].layers).unwrap();
    for (image, previous, want) in
        [(&both, None, &want), (&both, Some(&lower), &want), (&lower, Some(&alone), &wanted_lower)]
    {
        let Ok((bundle, _)) = split::split(image, previous, &options, &budget, &Silent) else {
            continue;
        };
        let got = files(&written(&bundle, &budget).images[0].layers).unwrap();
        let differences = compare(want, &got);
        assert!(differences.is_empty(), "{}", differences[0]);
    }
});
