//! ELF files for tests.

/// A 64-bit file for x86-64 with these libraries, versions that it needs and defines, and folders to search.
#[derive(Clone, Copy)]
pub(in crate::rebase) struct Made<'a> {
    pub(in crate::rebase) loader: &'a str,
    pub(in crate::rebase) needed: &'a [&'a str],
    pub(in crate::rebase) search: &'a str,
    pub(in crate::rebase) versions: &'a [(&'a str, &'a [&'a str])],
    pub(in crate::rebase) defined: &'a [&'a str],
    pub(in crate::rebase) machine: u16,
}

impl Made<'_> {
    pub(in crate::rebase) const NONE: Self =
        Self { loader: "", needed: &[], search: "", versions: &[], defined: &[], machine: 0 };

    pub(in crate::rebase) fn bytes(self) -> Vec<u8> {
        let mut strings = vec![0u8];
        let mut name = |text: &str| {
            let at = strings.len() as u64;
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at
        };
        let mut dynamic: Vec<(u64, u64)> = self.needed.iter().map(|n| (1, name(n))).collect();
        if !self.search.is_empty() {
            dynamic.push((29, name(self.search)));
        }
        let (mut needs, mut defs) = (Vec::new(), Vec::new());
        for (i, (library, versions)) in self.versions.iter().enumerate() {
            let next =
                if i + 1 == self.versions.len() { 0 } else { 16 + 16 * versions.len() as u32 };
            needs.extend([1u16, versions.len() as u16].iter().flat_map(|n| n.to_le_bytes()));
            needs.extend([name(library) as u32, 16, next].iter().flat_map(|n| n.to_le_bytes()));
            for (i, version) in versions.iter().enumerate() {
                let next = if i + 1 == versions.len() { 0u32 } else { 16 };
                let (flags_and_index, text) = (2u32 << 16, name(version) as u32);
                needs.extend([0, flags_and_index, text, next].iter().flat_map(|n| n.to_le_bytes()));
            }
        }
        for (i, version) in self.defined.iter().enumerate() {
            let next = if i + 1 == self.defined.len() { 0u32 } else { 28 };
            defs.extend([1u16, 0, i as u16 + 1, 1].iter().flat_map(|n| n.to_le_bytes()));
            defs.extend(
                [0, 20, next, name(version) as u32, 0].iter().flat_map(|n: &u32| n.to_le_bytes()),
            );
        }
        let loader = name(self.loader);
        let start = 64 + 3 * 56;
        let (needs_at, defs_at) = (start + strings.len(), start + strings.len() + needs.len());
        dynamic.extend([(5, start as u64), (10, strings.len() as u64)]);
        if !needs.is_empty() {
            dynamic.extend([
                (0x6fff_fffe, needs_at as u64),
                (0x6fff_ffff, self.versions.len() as u64),
            ]);
        }
        if !defs.is_empty() {
            dynamic
                .extend([(0x6fff_fffc, defs_at as u64), (0x6fff_fffd, self.defined.len() as u64)]);
        }
        dynamic.push((0, 0));
        let dynamic_at = defs_at + defs.len();
        let size = dynamic_at + 16 * dynamic.len();
        let mut out = b"\x7fELF\x02\x01\x01".to_vec();
        out.resize(16, 0);
        let machine = if self.machine == 0 { 62 } else { self.machine };
        out.extend([3u16, machine, 1, 0].iter().flat_map(|n| n.to_le_bytes()));
        out.extend([0u64, 64, 0].iter().flat_map(|n| n.to_le_bytes()));
        out.extend([0u16, 0, 64, 56, 3, 0, 0, 0].iter().flat_map(|n| n.to_le_bytes()));
        let interpreter = if self.loader.is_empty() { 0u32 } else { 3 };
        let segments = [
            (1u32, 0, size),
            (2, dynamic_at, 16 * dynamic.len()),
            (interpreter, start + loader as usize, 1),
        ];
        for (kind, at, bytes) in segments {
            out.extend([kind, 4].iter().flat_map(|n| n.to_le_bytes()));
            let fields = [at, at, at, bytes, bytes, 8].map(|n| n as u64);
            out.extend(fields.iter().flat_map(|n| n.to_le_bytes()));
        }
        out.extend([strings, needs, defs].concat());
        out.extend(
            dynamic
                .iter()
                .flat_map(|(tag, value)| [tag.to_le_bytes(), value.to_le_bytes()].concat()),
        );
        out
    }
}
