//! Splits an image file into eight layers: `cargo run --example split IMAGE.tar OUT.tar`.

#![expect(clippy::print_stdout, reason = "the result goes there")]

use relayer::base::error::{Error, Result};
use relayer::base::progress::Silent;
use relayer::split::{SplitOptions, split};
use relayer::transport::open::{Access, open};
use relayer::transport::registry::Registries;
use relayer::transport::write::Destination;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [input, output] = &args[..] else {
        return Err(Error::refused("usage: split IMAGE OUTPUT"));
    };
    let (input, options) = (input.parse()?, SplitOptions::default());
    let budget = options.budget();
    // Checked before the work begins: nothing is overwritten.
    let destination =
        Destination::new(output.parse()?, false, &[&input], &Registries::default(), &[])?;
    let opened = open(&input, None, &Access::new(&budget, options.max_size))?;
    let (bundle, reports) = split(&opened, None, &options, &budget, &Silent)?;
    destination.write(&bundle, &Silent)?;
    for report in &reports {
        println!("{}: {} layers", report.platform, report.layers.len());
    }
    Ok(())
}
