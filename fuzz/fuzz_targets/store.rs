//! Any bytes as values of a store: what can be read comes back the same, the rest is refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use relayer::store::encoding::{ChunkRuns, PackHeader, put_step, take_step};

const LIMIT: u64 = 1 << 40;

fuzz_target!(|bytes: &[u8]| {
    if let Some(header) = PackHeader::parse(bytes, LIMIT) {
        assert_eq!(PackHeader::parse(&header.to_value(), LIMIT).as_ref(), Some(&header));
        let head = header.to_head(LIMIT);
        assert_eq!(PackHeader::parse_head(&head, header.location), Some((LIMIT, header)));
    }
    if let Some(runs) = ChunkRuns::parse(bytes, LIMIT) {
        assert!(runs.all_below(LIMIT));
        assert_eq!(ChunkRuns::parse(&runs.to_bytes(), LIMIT), Some(runs));
    }
    let (mut rest, mut end) = (bytes, 0);
    let (mut again, mut put, mut taken) = (Vec::new(), 0, 0);
    while let Some(step) = take_step(&mut rest, &mut end, LIMIT) {
        let from = again.len();
        put_step(&mut again, &step, &mut put);
        let mut one = &again[from..];
        assert_eq!(take_step(&mut one, &mut taken, LIMIT), Some(step));
    }
});
