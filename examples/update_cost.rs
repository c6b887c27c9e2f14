//! Prints what clients download to get from one image to the next:
//! `cargo run --example update_cost OLD.tar NEW.tar`.

#![expect(clippy::print_stdout, reason = "the result goes there")]

use relayer::base::error::{Error, Result};
use relayer::base::progress::Silent;
use relayer::compare::diff::{ComparedImage, diff};
use relayer::layers::flatten::{Keep, read};
use relayer::model::content::Budget;
use relayer::transport::open::{Access, open};

const MEMORY: u64 = 512 << 20;
const MAX_SIZE: u64 = 256 << 30;

fn compared(image: &str) -> Result<ComparedImage> {
    let budget = Budget::new(MEMORY, None);
    let opened = open(&image.parse()?, None, &Access::new(&budget, MAX_SIZE))?;
    let flat =
        read(&opened.images[0].layers, Keep::Contents, MAX_SIZE, &budget, &Silent)?.flatten()?;
    ComparedImage::new(flat.rootfs, flat.layers)
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [old, new] = &args[..] else {
        return Err(Error::refused("usage: update_cost OLD NEW"));
    };
    let loads = diff(&compared(old)?, &compared(new)?).loads;
    println!("by digest: {} bytes in {} layers", loads.digest.bytes, loads.digest.layers);
    println!("by chain ID: {} bytes in {} layers", loads.chain.bytes, loads.chain.layers);
    Ok(())
}
