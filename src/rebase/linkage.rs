//! Reads what a program or library needs to be loaded, and what a library offers: headers and the dynamic
//! section of ELF files, and first lines of scripts.
//!
//! The layout is that of [elf(5)](https://man7.org/linux/man-pages/man5/elf.5.html) and of the
//! [symbol versions](https://refspecs.linuxfoundation.org/LSB_5.0.0/LSB-Core-generic/LSB-Core-generic/symversion.html).
//! As loaders do, it goes by program headers and addresses: sections may be missing. Files are not trusted: each
//! read is bounded, and what can't be parsed is as if it were not there.

use std::collections::BTreeSet;

use elf::abi;
use elf::dynamic::Dyn;
use elf::endian::AnyEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::gnu_symver::{VerDefIterator, VerNeedIterator};
use elf::parse::{ParseAt, ParsingIterator};
use elf::segment::ProgramHeader;

use crate::base::error::Result;
use crate::base::limits::{MAX_ELF_NAME, MAX_ELF_TABLE, MAX_ELF_VERSIONS};
use crate::model::content::Contents;
use crate::model::fileset::FileData;

/// Bytes of the header of a 64-bit file, and of a 32-bit file.
const HEADERS: (u64, usize) = (64, 52);
/// Flag of a needed version that may be missing.
const WEAK: u16 = 2;
/// Bytes of the first line of a script that Linux reads.
const SCRIPT_LINE: u64 = 256;

/// The form of machine code: a process loads libraries of one form only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct CodeForm {
    is_64: bool,
    is_little: bool,
    machine: u16,
}

/// What a program or library needs and offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Linkage {
    pub(super) form: CodeForm,
    /// The loader, for programs.
    pub(super) interpreter: Option<Vec<u8>>,
    /// Names or paths of libraries.
    pub(super) needed: Vec<Vec<u8>>,
    /// Folders to search for them, separated by colons.
    pub(super) search: Vec<u8>,
    /// Libraries and versions of their symbols.
    pub(super) versions: BTreeSet<(Vec<u8>, Vec<u8>)>,
    /// Versions that it defines.
    pub(super) defined: BTreeSet<Vec<u8>>,
}

/// Reads parts of one file.
struct Parts<'a> {
    contents: &'a Contents,
    file: &'a FileData,
}

impl Parts<'_> {
    /// Returns as many of the bytes at an offset as there are.
    fn at(&self, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        let bytes = bytes.min(self.file.size.saturating_sub(offset));
        let mut buf = vec![0; usize::try_from(bytes).unwrap_or(0)];
        if !buf.is_empty() {
            self.contents.read_at(self.file, &mut buf, offset)?;
        }
        Ok(buf)
    }

    /// Returns the text that ends with a NUL, unless it is empty or too long.
    fn text(&self, offset: u64) -> Result<Option<Vec<u8>>> {
        let mut text = self.at(offset, MAX_ELF_NAME)?;
        text.truncate(memchr::memchr(0, &text).unwrap_or(0));
        Ok((!text.is_empty()).then_some(text))
    }
}

/// The dynamic section.
#[derive(Default)]
struct Dynamic {
    /// Tags and values.
    entries: Vec<(i64, u64)>,
    /// Address, offset in the file, and bytes of what is loaded.
    loads: Vec<(u64, u64, u64)>,
}

impl Dynamic {
    fn get(&self, tag: i64) -> Option<u64> {
        self.entries.iter().find(|entry| entry.0 == tag).map(|entry| entry.1)
    }

    /// Returns the offset in the file of the address that an entry has.
    fn offset(&self, tag: i64) -> Option<u64> {
        let address = self.get(tag)?;
        let found = |(start, offset, bytes): &(u64, u64, u64)| {
            let into = address.checked_sub(*start).filter(|into| into < bytes)?;
            offset.checked_add(into)
        };
        self.loads.iter().find_map(found)
    }
}

/// Reads the linkage of an ELF file; returns `None` for other files.
///
/// # Errors
/// If the file's content can't be read.
pub(super) fn read(contents: &Contents, file: &FileData) -> Result<Option<Linkage>> {
    let parts = Parts { contents, file };
    let head = parts.at(0, HEADERS.0)?;
    // The parser takes for granted that the first bytes are there.
    if head.len() < HEADERS.1 {
        return Ok(None);
    }
    let parsed = parse_ident::<AnyEndian>(&head)
        .and_then(|ident| FileHeader::parse_tail(ident, &head[abi::EI_NIDENT..]));
    let Ok(header) = parsed else { return Ok(None) };
    let (endian, class) = (header.endianness, header.class);
    let form = CodeForm {
        is_64: class == Class::ELF64,
        is_little: endian == AnyEndian::Little,
        machine: header.e_machine,
    };
    let mut linkage = Linkage {
        form,
        interpreter: None,
        needed: Vec::new(),
        search: Vec::new(),
        versions: BTreeSet::new(),
        defined: BTreeSet::new(),
    };
    if usize::from(header.e_phentsize) != ProgramHeader::size_for(class) {
        return Ok(Some(linkage));
    }
    let bytes = u64::from(header.e_phnum) * u64::from(header.e_phentsize);
    let table = parts.at(header.e_phoff, bytes.min(MAX_ELF_TABLE))?;
    let mut dynamic = Dynamic::default();
    for segment in ParsingIterator::<_, ProgramHeader>::new(endian, class, &table) {
        match segment.p_type {
            abi::PT_LOAD => {
                dynamic.loads.push((segment.p_vaddr, segment.p_offset, segment.p_filesz));
            }
            abi::PT_INTERP => linkage.interpreter = parts.text(segment.p_offset)?,
            abi::PT_DYNAMIC => {
                let table = parts.at(segment.p_offset, segment.p_filesz.min(MAX_ELF_TABLE))?;
                let all = ParsingIterator::<_, Dyn>::new(endian, class, &table);
                let entries = all.take_while(|entry| entry.d_tag != abi::DT_NULL);
                dynamic.entries = entries.map(|entry| (entry.d_tag, entry.d_val())).collect();
            }
            _ => {}
        }
    }
    linkage.fill(&parts, &dynamic, endian, class)?;
    Ok(Some(linkage))
}

impl Linkage {
    /// Reads what the entries of the dynamic section refer to.
    fn fill(
        &mut self,
        parts: &Parts<'_>,
        dynamic: &Dynamic,
        endian: AnyEndian,
        class: Class,
    ) -> Result<()> {
        let Some(strings) = dynamic.offset(abi::DT_STRTAB) else { return Ok(()) };
        let text = |at: u64| strings.checked_add(at).map_or(Ok(None), |at| parts.text(at));
        for (tag, value) in &dynamic.entries {
            if *tag == abi::DT_NEEDED {
                self.needed.extend(text(*value)?);
            }
        }
        // Loaders ignore DT_RPATH if the newer one is there.
        let search = dynamic.get(abi::DT_RUNPATH).or_else(|| dynamic.get(abi::DT_RPATH));
        self.search = search.map_or(Ok(None), text)?.unwrap_or_default();
        let mut names = Vec::new();
        if let Some(at) = dynamic.offset(abi::DT_VERNEED) {
            let table = parts.at(at, MAX_ELF_TABLE)?;
            let count = dynamic.get(abi::DT_VERNEEDNUM).unwrap_or(0);
            for (of, versions) in VerNeedIterator::new(endian, class, count, 0, &table) {
                let needed = versions.filter(|version| version.vna_flags & WEAK == 0);
                let room = room(&names);
                names.extend(needed.map(|version| (of.vn_file, version.vna_name)).take(room));
                if room == 0 {
                    break;
                }
            }
        }
        for (library, version) in names {
            if let (Some(library), Some(version)) = (text(library.into())?, text(version.into())?) {
                self.versions.insert((library, version));
            }
        }
        let mut names = Vec::new();
        if let Some(at) = dynamic.offset(abi::DT_VERDEF) {
            let table = parts.at(at, MAX_ELF_TABLE)?;
            let count = dynamic.get(abi::DT_VERDEFNUM).unwrap_or(0);
            // The first name is that of the version; others are those that it continues.
            for (_, mut versions) in VerDefIterator::new(endian, class, count, 0, &table) {
                names.extend(versions.next().map(|version| version.vda_name));
                if room(&names) == 0 {
                    break;
                }
            }
        }
        for name in names {
            self.defined.extend(text(name.into())?);
        }
        Ok(())
    }
}

/// Returns how many more versions may be read: tables can refer to the same entries again and again.
fn room<T>(names: &[T]) -> usize {
    MAX_ELF_VERSIONS.saturating_sub(names.len())
}

/// Returns the words after `#!` of a script; `None` for other files.
///
/// # Errors
/// If the file's content can't be read.
pub(super) fn script(contents: &Contents, file: &FileData) -> Result<Option<Vec<Vec<u8>>>> {
    let line = Parts { contents, file }.at(0, SCRIPT_LINE)?;
    let Some(rest) = line.strip_prefix(b"#!") else { return Ok(None) };
    let line = rest.split(|b| *b == b'\n').next().unwrap_or_default();
    let words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    Ok(Some(words.map(<[u8]>::to_vec).collect()))
}

#[cfg(test)]
pub(super) mod made;
#[cfg(test)]
mod tests;
