//! Any bytes as an image archive: opening, reading and copying must end without panic.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use relayer::model::content::Budget;
use relayer::layers::flatten::{self, Keep, ReadLayers};
use relayer::base::progress::Silent;
use relayer::transport::bundle::Bundle;
use relayer::transport::open::open_archive;
use relayer::transport::write::{Form, write_archive};

const MAX: u64 = 64 << 20;

fuzz_target!(|bytes: &[u8]| {
    let budget = Budget::new(MAX, None);
    let Ok(opened) = open_archive(Arc::new(bytes.to_vec()), None, None, None, &budget, MAX) else {
        return;
    };
    for image in &opened.images {
        let _ = flatten::read(&image.layers, Keep::Contents, MAX, &budget, &Silent)
            .and_then(ReadLayers::flatten);
    }
    if let Ok(bundle) = Bundle::unchanged(&opened) {
        let _ =
            write_archive(&bundle, &bundle.names, None, Form::Universal, std::io::sink(), &Silent);
    }
});
