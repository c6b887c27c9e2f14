//! Lists the files that a client would show of an image: `cargo run --example list_files IMAGE.tar`.

use std::io::Write;

use relayer::base::error::{Error, Result};
use relayer::base::progress::Silent;
use relayer::layers::flatten::{Keep, read};
use relayer::model::content::Budget;
use relayer::model::fileset::{InodeKind, display};
use relayer::transport::open::{Access, open};

const MAX_SIZE: u64 = 256 << 30;

fn main() -> Result<()> {
    let image = std::env::args().nth(1).ok_or_else(|| Error::refused("usage: list_files IMAGE"))?;
    let budget = Budget::new(512 << 20, None);
    let opened = open(&image.parse()?, None, &Access::new(&budget, MAX_SIZE))?;
    // The names of files are wanted, not their contents.
    let read = read(&opened.images[0].layers, Keep::Index, MAX_SIZE, &budget, &Silent)?;
    let files = read.flatten()?.rootfs.files;
    let mut out = std::io::stdout().lock();
    for entry in files.entries() {
        let inode = files.inode(entry);
        let bytes = if let InodeKind::File(file) = &inode.kind { file.size } else { 0 };
        writeln!(out, "{:04o} {bytes:>12} {}", inode.mode, display(&entry.path))?;
    }
    Ok(())
}
