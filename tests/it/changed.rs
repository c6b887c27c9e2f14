//! An input that changes while it is read, or a disk that gives other bytes the second time: the
//! result is right, or an error.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use relayer::base::error::Result;
use relayer::base::progress::Silent;
use relayer::delta;
use relayer::format::codec::Compression;
use relayer::layers::flatten::{self, Keep};
use relayer::layers::read::LayerContent;
use relayer::model::content::{Budget, ReadAt, Source};
use relayer::split::{self, SplitOptions};
#[cfg(feature = "store")]
use relayer::transport::Reference;
use relayer::transport::bundle::Bundle;
use relayer::transport::image::Opened;
use relayer::transport::open::open_archive;
use relayer::transport::write::{Form, write_archive};

use super::image::{self, Codec, Image, Item, archive};
use super::update::application;

/// Bytes of which one is another once it has been read some times; for good, or for one read.
struct Fickle {
    bytes: Vec<u8>,
    at: u64,
    good_reads: u64,
    for_good: bool,
    reads: AtomicU64,
}

impl ReadAt for Fickle {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.bytes.read_exact_at(buf, offset)?;
        if let Some(byte) = self.at.checked_sub(offset).and_then(|i| buf.get_mut(i as usize)) {
            let before = self.reads.fetch_add(1, Ordering::Relaxed);
            if before == self.good_reads || (self.for_good && before > self.good_reads) {
                *byte ^= 0x10;
            }
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// Bytes of which one read fails.
struct Failing {
    bytes: Vec<u8>,
    good_reads: u64,
    reads: AtomicU64,
}

impl ReadAt for Failing {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.reads.fetch_add(1, Ordering::Relaxed) == self.good_reads {
            return Err(io::Error::other("the disk is bad"));
        }
        self.bytes.read_exact_at(buf, offset)
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
}

fn budget() -> Arc<Budget> {
    Budget::new(64 << 20, None)
}

fn opened(source: Source) -> Result<Opened> {
    open_archive(source, None, None, None, &budget(), 1 << 30)
}

fn bytes(bundle: &Bundle) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    write_archive(bundle, &bundle.names, None, Form::Universal, &mut out, &Silent)?;
    Ok(out)
}

fn split(image: Source, previous: Option<Source>, compression: &str) -> Result<Vec<u8>> {
    let options = SplitOptions {
        compression: Compression::parse(compression)?,
        threads: 1,
        ..SplitOptions::default()
    };
    let previous = previous.map(opened).transpose()?;
    let (bundle, _) =
        split::split(&opened(image)?, previous.as_ref(), &options, &budget(), &Silent)?;
    bytes(&bundle)
}

fn copy(image: Source) -> Result<Vec<u8>> {
    bytes(&Bundle::unchanged(&opened(image)?)?)
}

fn layers(opened: &Opened, budget: &Arc<Budget>) -> Result<Vec<LayerContent>> {
    let layers = &opened.images[0].layers;
    Ok(flatten::read(layers, Keep::Contents, 1 << 30, budget, &Silent)?.layers)
}

fn make_delta(old: Source, new: Source) -> Result<Vec<u8>> {
    let (old, new, budget) = (opened(old)?, opened(new)?, budget());
    let (before, now) = (layers(&old, &budget)?, layers(&new, &budget)?);
    let mut delta = Vec::new();
    let side = |opened, layers| delta::ImageContents { image: opened, layers };
    let (old, side_new) = (side(&old.images[0], &before), side(&new.images[0], &now));
    delta::make(old, side_new, &new.names, 1, &budget, &mut delta, &Silent)?;
    Ok(delta)
}

fn apply_delta(old: Source, delta: &[u8]) -> Result<Bundle> {
    let (old, budget) = (opened(old)?, budget());
    let before = layers(&old, &budget)?;
    let delta = delta::Delta::open(Arc::new(delta.to_vec()))?;
    Ok(delta::apply(&delta, &old.images[0], &before, 1, 1 << 30, &budget, &Silent)?.0)
}

/// Runs `job` on an input that is another from one of its reads on. Only what is read for the first
/// time may change what comes out.
fn right_or_an_error(
    what: &str,
    input: &[u8],
    step: usize,
    job: impl Fn(Source) -> Result<Vec<u8>>,
) {
    let want = job(Arc::new(input.to_vec())).unwrap();
    let mut tried = 0;
    for at in (1000..input.len() as u64).step_by(step) {
        for for_good in [true, false] {
            for good_reads in 1.. {
                let reads = AtomicU64::new(0);
                let bytes = input.to_vec();
                let source = Arc::new(Fickle { bytes, at, good_reads, for_good, reads });
                let got = job(Arc::clone(&source) as Source);
                if source.reads.load(Ordering::Relaxed) <= good_reads {
                    // It was not read so often.
                    break;
                }
                tried += 1;
                assert!(
                    got.is_err() || got.is_ok_and(|got| got == want),
                    "{what}: byte {at}, after {good_reads} reads"
                );
            }
        }
    }
    assert!(tried > 0, "{what}: nothing was read twice");
}

const STEP: usize = 399_989;

#[test]
fn a_split_is_right_or_an_error() {
    for compression in ["zstd", "none", "zstd:chunked"] {
        let input = application(1).docker_skopeo();
        right_or_an_error(compression, &input, STEP, |image| split(image, None, compression));
    }
}

#[test]
fn an_update_is_right_or_an_error() {
    let old = split(Arc::new(application(0).docker_skopeo()), None, "zstd").unwrap();
    let new = application(2).docker_skopeo();
    let given = |bytes: &Vec<u8>| -> Source { Arc::new(bytes.clone()) };
    right_or_an_error("the previous image", &old, STEP, |old| {
        split(given(&new), Some(old), "zstd")
    });
    right_or_an_error("the new image", &new, STEP, |new| split(new, Some(given(&old)), "zstd"));
    // One that stays as it is.
    let same = application(0).docker_skopeo();
    right_or_an_error("the same", &old, STEP, |old| split(given(&same), Some(old), "zstd"));
}

#[test]
fn a_copy_is_right_or_an_error() {
    for codec in [Codec::Plain, Codec::Gzip, Codec::Zstd] {
        let input = archive(&application(1).oci_files(codec));
        // Blobs are read once only.
        for at in (STEP as u64..input.len() as u64).step_by(STEP) {
            let (bytes, reads) = (input.clone(), AtomicU64::new(0));
            let source = Fickle { bytes, at, good_reads: 0, for_good: true, reads };
            assert!(copy(Arc::new(source)).is_err() || at > input.len() as u64 - 4096, "byte {at}");
        }
        assert!(copy(Arc::new(input)).is_ok());
    }
}

#[test]
fn a_delta_is_right_or_an_error() {
    let (old, new) = (application(0).docker_skopeo(), application(2).docker_skopeo());
    let given = |bytes: &Vec<u8>| -> Source { Arc::new(bytes.clone()) };
    // Blobs may have been compressed in another way; applying verifies what is in them.
    let result = |delta: Result<Vec<u8>>| {
        let made = apply_delta(given(&old), &delta?).expect("no delta that does not fit");
        Ok(made.listed[0].config.to_string().into_bytes())
    };
    right_or_an_error("making, new", &new, STEP, |new| result(make_delta(given(&old), new)));
    right_or_an_error("making, old", &old, STEP, |old| result(make_delta(old, given(&new))));
    let gzip = archive(&application(2).oci_files(Codec::Gzip));
    right_or_an_error("making, gzip", &gzip, STEP, |new| result(make_delta(given(&old), new)));
    let delta = make_delta(given(&old), given(&new)).unwrap();
    right_or_an_error("applying", &old, STEP, |old| bytes(&apply_delta(old, &delta)?));
}

#[cfg(feature = "store")]
#[test]
fn what_a_store_has_is_right_or_an_error() {
    use relayer::store::{self, Store};
    use relayer::transport::open::Access;

    let add = |image: Source| {
        let (dir, budget) = (tempfile::tempdir().unwrap(), budget());
        let packing = store::Packing::new(3, 256 << 20, 2);
        let options = store::AddOptions { packing, max_size: 1 << 30, now: 0 };
        let opened = opened(image)?;
        let bundle = Bundle::unchanged(&opened)?;
        let store = Store::open(dir.path(), &budget)?;
        store.add(&bundle, &opened.images, options, &budget, &Silent)?;
        drop(store);
        let image: Reference = format!("store:{}", dir.path().display()).parse()?;
        let place = store::open::place(&image, &Access::new(&budget, u64::MAX))?;
        bytes(&Bundle::unchanged(&place.images(None, None, 1 << 30)?)?)
    };
    for codec in [Codec::Plain, Codec::Gzip, Codec::ZstdFrames] {
        let input = archive(&application(1).oci_files(codec));
        right_or_an_error(&format!("{codec:?}"), &input, 3 * STEP, add);
    }
}

/// Runs `job` as often as it reads its input, each time with another read that fails.
fn no_failure_is_passed_over(what: &str, input: &[u8], job: impl Fn(Source) -> Result<Vec<u8>>) {
    let want = job(Arc::new(input.to_vec())).unwrap();
    for good_reads in 0.. {
        let (bytes, reads) = (input.to_vec(), AtomicU64::new(0));
        let source = Arc::new(Failing { bytes, good_reads, reads });
        let got = job(Arc::clone(&source) as Source);
        if source.reads.load(Ordering::Relaxed) <= good_reads {
            assert!(good_reads > 10, "{what}");
            break;
        }
        match got {
            Ok(got) => assert!(got == want, "{what}: read {good_reads} changed what came out"),
            Err(e) => assert!(e.to_string().contains("the disk is bad"), "{what}: {e}"),
        }
    }
}

#[test]
fn a_read_that_fails_is_never_taken_for_an_input_that_is_not_valid() {
    let database = |version: &str| {
        image::layer(&[
            Item::file("lib/apk/db/installed", format!("P:p\nV:{version}\nF:usr/lib\nR:p\n\n")),
            Item::file("usr/lib/p", version.repeat(5000)),
            Item::file("usr/lib/python3/p-1.dist-info/RECORD", "p/a.py,,\n"),
            Item::file("usr/lib/python3/p/a.py", "x"),
            Item::file("var/lib/dpkg/status", "Package: q\n\n"),
            Item::file("var/lib/dpkg/info/q.list", "/usr/bin/q\n"),
            Item::file("usr/bin/q", "q"),
        ])
    };
    let image = |version| Image::new(vec![database("1"), database(version)]);
    let (old, new) = (image("2"), image("3"));
    for (what, input) in [
        ("universal", new.docker_oci(Codec::Plain)),
        ("gzip", new.docker_oci(Codec::Gzip)),
        ("docker", new.docker_legacy()),
    ] {
        no_failure_is_passed_over(&format!("copy, {what}"), &input, copy);
        no_failure_is_passed_over(&format!("split, {what}"), &input, |image| {
            split(image, None, "zstd")
        });
        let before = old.docker_oci(Codec::Plain);
        no_failure_is_passed_over(&format!("delta, {what}"), &input, |image| {
            make_delta(Arc::new(before.clone()), image)
        });
        no_failure_is_passed_over(&format!("delta from it, {what}"), &input, |image| {
            make_delta(image, Arc::new(before.clone()))
        });
    }
}
