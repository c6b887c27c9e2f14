//! The table of formats: which files record which times, and how.

use std::collections::BTreeSet;

use super::parse;
use super::relations::Relations;
use super::values::{Candidates, TimeForm};
use crate::base::error::Result;
use crate::model::fileset::{Entry, base_name, parent};
use crate::model::index::InodeId;

/// A format of files that record times of other files.
struct Format {
    /// Its name in summaries.
    by: &'static str,
    /// Whether a regular file with this path and size may be of this format.
    matches: fn(&[u8], u64) -> bool,
    rule: Rule,
}

/// How a format records times.
enum Rule {
    /// The file contains times as numbers. A time keeps its value if that is one of the numbers, or
    /// would become one.
    Values {
        form: TimeForm,
        /// Checks the first bytes of a file.
        has_magic: fn(&[u8]) -> bool,
        /// The times are within this many bytes from the start.
        max_bytes: u64,
        /// Whether the times may be of this entry.
        of: fn(&Relations<'_>, &Entry) -> bool,
    },
    /// The path says which files it is about.
    Path(fn(&mut Relations<'_>, &Entry, &'static str)),
    /// The content must be read.
    Read(fn(&mut Relations<'_>, &Entry, &'static str) -> Result<()>),
}

/// Times as numbers anywhere in a file.
const fn values(form: TimeForm, of: fn(&Relations<'_>, &Entry) -> bool) -> Rule {
    Rule::Values { form, has_magic: |_| true, max_bytes: u64::MAX, of }
}

/// All formats except compiled Python. That has its own module, since it is the only one whose
/// recorded times are changed.
const FORMATS: &[Format] = &[
    // OpenJDK: cds.h has the magic numbers, SharedClassPathEntry in filemap.hpp (8 to 21) and
    // AOTClassLocation in aotClassLocation.hpp (24 on) time and size of each jar, side by side.
    Format {
        by: "JVM archives",
        matches: |_, size| size >= 64 << 10,
        rule: Rule::Values {
            form: TimeForm::Sized(4),
            has_magic: |head| {
                let magic =
                    head.first_chunk().map(|b| [u32::from_le_bytes(*b), u32::from_be_bytes(*b)]);
                magic.is_some_and(|both| {
                    both.iter().any(|m| matches!(m, 0xF00B_ABA0..=0xF00B_ABAF | 0xCAFE_A07C))
                })
            },
            max_bytes: u64::MAX,
            of: any_file,
        },
    },
    // Eclipse OpenJ9: runtime/shared_common, ClasspathEntryItem::timestamp in milliseconds.
    Format {
        by: "JVM archives",
        matches: |path, _| {
            base_name(path).starts_with(b"C")
                && has_component(path, &[b".scc", b"javasharedresources", b".classCache"])
        },
        rule: values(TimeForm::Alone, any_file),
    },
    // fontconfig: FcCache in fcint.h, FcCacheTimeValid in fccache.c.
    Format {
        by: "fontconfig caches",
        matches: |path, _| parse::is_font_cache(base_name(path)),
        rule: Rule::Read(parse::font_cache),
    },
    // GTK: gtkiconcache.c ignores a cache that is older than its folder.
    Format {
        by: "icon caches",
        matches: |path, _| base_name(path) == b"icon-theme.cache",
        rule: Rule::Path(|r, e, by| {
            r.keep_staleness_all(e, by, parent(&e.path).and_then(|dir| r.lookup(dir)));
        }),
    },
    Format {
        by: "MIME caches",
        matches: |path, _| path.ends_with(b"mime/mime.cache"),
        rule: Rule::Path(|r, e, by| {
            let folder = r.sibling(&e.path, b"packages");
            let dir = [parent(&e.path).unwrap_or_default(), b"/packages"].concat();
            let all: Vec<_> = folder.into_iter().chain(r.children(&dir).map(|c| c.inode)).collect();
            r.keep_staleness_all(e, by, all);
        }),
    },
    // GstRegistryChunkPluginElement in gstregistrychunks.h: file_size, file_mtime.
    Format {
        by: "GStreamer registries",
        matches: |path, _| {
            base_name(path).starts_with(b"registry.") && has_component(path, &[b"gstreamer-1.0"])
        },
        rule: values(TimeForm::Sized(1), any_file),
    },
    // Ruby's bootsnap: bs_cache_key in bootsnap.c; the load path's cache is MessagePack.
    Format {
        by: "bootsnap caches",
        matches: |path, _| contains(path, b"bootsnap/compile-cache"),
        rule: Rule::Values {
            form: TimeForm::Sized(1),
            has_magic: |_| true,
            max_bytes: 128,
            of: any_file,
        },
    },
    Format {
        by: "bootsnap caches",
        matches: |path, _| contains(path, b"bootsnap/load-path-cache"),
        rule: values(TimeForm::Alone, any_dir),
    },
    // PHP: zend_file_cache_metainfo in zend_file_cache.c.
    Format {
        by: "PHP opcache files",
        matches: |path, _| path.ends_with(b".bin") && parse::cached_script(path).is_some(),
        rule: Rule::Read(parse::opcache),
    },
    // Laravel's Blade: a compiled view must be newer than its view. Its last line names the view.
    Format {
        by: "compiled views",
        matches: |path, _| contains(path, b"framework/views/") && path.ends_with(b".php"),
        rule: Rule::Read(parse::blade_view),
    },
    // Julia: write_dependency_list in staticdata_utils.c, times as doubles.
    Format {
        by: "Julia caches",
        matches: |path, _| path.ends_with(b".ji"),
        rule: Rule::Values {
            form: TimeForm::Real,
            has_magic: |head| head.starts_with(b"\xfbjli"),
            max_bytes: u64::MAX,
            of: any_file,
        },
    },
    // Numba: IndexDataCacheFile in caching.py pickles st_mtime, a double, and the size.
    Format {
        by: "Numba caches",
        matches: |path, _| path.ends_with(b".nbi"),
        rule: Rule::Values {
            form: TimeForm::Real,
            has_magic: |_| true,
            max_bytes: 64 << 10,
            of: |_, e| e.path.ends_with(b".py"),
        },
    },
    Format {
        by: "mypy caches",
        matches: |path, _| has_component(path, &[b".mypy_cache"]),
        rule: values(TimeForm::Decimal, |_, e| {
            e.path.ends_with(b".py") || e.path.ends_with(b".pyi")
        }),
    },
    Format {
        by: "conda caches",
        matches: |path, _| contains(path, b"pkgs/cache/") && path.ends_with(b".json"),
        rule: values(TimeForm::Decimal, |_, e| contains(&e.path, b"pkgs/cache/")),
    },
    // npm: the hidden lockfile is valid while no package's folder is newer (arborist, shrinkwrap.js).
    Format {
        by: "npm lockfiles",
        matches: |path, _| path.ends_with(b"node_modules/.package-lock.json"),
        rule: Rule::Path(|r, e, by| {
            let below = r.files().below(parent(&e.path).unwrap_or_default());
            let package = |e: &&Entry| {
                let dir = parent(&e.path).unwrap_or_default();
                let scope = base_name(dir).starts_with(b"@");
                let dir = if scope { parent(dir).unwrap_or_default() } else { dir };
                base_name(dir) == b"node_modules"
            };
            let all: Vec<_> = below.iter().filter(package).map(|e| e.inode).collect();
            r.keep_staleness_all(e, by, all);
        }),
    },
    Format {
        by: "rpm's database",
        matches: |path, _| parse::is_rpm(path, b"rpmdb.sqlite"),
        rule: Rule::Path(parse::rpm),
    },
    // Berkeley DB and rpm's own format: FILEMTIMES is a sequence of big-endian numbers in each header.
    Format {
        by: "rpm's database",
        matches: |path, _| parse::is_rpm(path, b"Packages") || parse::is_rpm(path, b"Packages.db"),
        rule: values(TimeForm::Alone, any_file),
    },
    Format {
        by: "pacman's database",
        matches: |path, _| {
            path.starts_with(b"var/lib/pacman/local/") && base_name(path) == b"mtree"
        },
        rule: Rule::Read(parse::mtree),
    },
    // apt: pkgCache::ReleaseFile and PackageFile in pkgcache.h; CheckValidity in pkgcachegen.cc.
    Format {
        by: "apt caches",
        matches: is_apt_cache,
        rule: values(TimeForm::Alone, |_, e| {
            e.path.starts_with(b"var/lib/apt/") || e.path.starts_with(b"var/lib/dpkg/status")
        }),
    },
    Format {
        by: "apt caches",
        matches: is_apt_cache,
        rule: Rule::Path(|r, e, by| {
            let mut all: Vec<_> = r.children(b"etc/apt/sources.list.d").map(|e| e.inode).collect();
            for path in [&b"etc/apt/sources.list"[..], b"etc/apt/sources.list.d"] {
                all.extend(r.lookup(path));
            }
            r.keep_staleness_all(e, by, all);
        }),
    },
    Format {
        by: "man-db's index",
        matches: |path, _| {
            path.starts_with(b"var/cache/man/") && base_name(path).starts_with(b"index.")
        },
        rule: values(TimeForm::Decimal, |_, e| has_component(&e.path, &[b"man"])),
    },
    Format {
        by: "ccache",
        matches: |path, _| {
            has_component(path, &[b"ccache", b".ccache"])
                && matches!(base_name(path), b"ccache.conf" | b"CACHEDIR.TAG" | b"stats")
        },
        rule: Rule::Path(parse::ccache),
    },
    // cmd/go indexes the standard library by the times of its files (modindex/read.go, dirHash).
    Format {
        by: "Go's build cache",
        matches: |path, _| path.ends_with(b"go-build/trim.txt"),
        rule: Rule::Path(parse::go_cache),
    },
    Format {
        by: "build trees",
        matches: |path, _| base_name(path) == b".ninja_log",
        rule: Rule::Read(parse::ninja),
    },
    Format {
        by: "build trees",
        matches: |path, _| base_name(path) == b".rustc_info.json",
        rule: Rule::Path(|r, e, by| {
            let target = parent(&e.path).unwrap_or_default();
            let package = parent(target).filter(|p| !p.is_empty()).unwrap_or(target);
            r.hold_below(package, by);
        }),
    },
    Format {
        by: "build trees",
        matches: |path, _| parse::is_object(path),
        rule: Rule::Path(parse::objects),
    },
    Format {
        by: "build trees",
        matches: |path, _| [&b".d"[..], b".Po", b".Plo"].iter().any(|s| path.ends_with(s)),
        rule: Rule::Read(parse::dependencies),
    },
    Format {
        by: "module lists",
        matches: |path, _| {
            contains(path, b"lib/modules/")
                && matches!(base_name(path), b"modules.dep" | b"modules.dep.bin")
        },
        rule: Rule::Path(|r, e, by| {
            let below = r.files().below(parent(&e.path).unwrap_or_default()).iter();
            let modules = below.filter(|m| contains(base_name(&m.path), b".ko"));
            let all: Vec<_> = modules.map(|e| e.inode).collect();
            r.keep_staleness_all(e, by, all);
        }),
    },
    // systemd's ConditionNeedsUpdate= compares /usr with these.
    Format {
        by: "systemd's update marks",
        matches: |path, _| matches!(path, b"etc/.updated" | b"var/.updated"),
        rule: Rule::Path(|r, e, by| {
            r.hold(e.inode, by);
            if let Some(usr) = r.lookup(b"usr") {
                r.hold(usr, by);
            }
        }),
    },
    // Qt: CompiledData::Unit::sourceTimeStamp; KDE's service cache lists its folders' times.
    Format {
        by: "Qt caches",
        matches: |path, _| path.ends_with(b".qmlc") || path.ends_with(b".jsc"),
        rule: Rule::Values {
            form: TimeForm::Alone,
            has_magic: |_| true,
            max_bytes: 256,
            of: any_file,
        },
    },
    Format {
        by: "Qt caches",
        matches: |path, _| base_name(path).starts_with(b"ksycoca"),
        rule: values(TimeForm::Alone, any_dir),
    },
    Format {
        by: "Emacs's compiled files",
        matches: |path, _| path.ends_with(b".eln"),
        rule: Rule::Path(parse::native_lisp),
    },
    Format {
        by: "Guile's compiled files",
        matches: |path, _| path.ends_with(b".go"),
        rule: Rule::Path(parse::guile),
    },
    Format {
        by: "Lisp's compiled files",
        matches: |path, _| path.ends_with(b".fasl"),
        rule: Rule::Path(parse::fasl),
    },
    Format {
        by: "zsh's compiled files",
        matches: |path, _| path.ends_with(b".zwc"),
        rule: Rule::Path(parse::zwc),
    },
    // Files beside their source: Emacs, Racket, javac, lib2to3, libselinux, Postfix.
    Format {
        by: "compiled files",
        matches: |path, _| !parse::source_paths(path).is_empty(),
        rule: Rule::Path(|r, e, by| {
            let all: Vec<_> =
                parse::source_paths(&e.path).iter().filter_map(|path| r.lookup(path)).collect();
            r.keep_staleness_all(e, by, all);
        }),
    },
];

/// Finds files that record times which are about to change.
pub(super) fn find(relations: &mut Relations<'_>) -> Result<()> {
    let mut scopes: Vec<Option<Candidates>> = FORMATS.iter().map(|_| None).collect();
    let files = relations.files();
    // Hard links of a file contain the same numbers.
    let mut scanned = BTreeSet::new();
    for entry in files.entries() {
        if relations.is_exhausted() {
            break;
        }
        let Some(file) = relations.file(entry) else { continue };
        for (i, (format, scope)) in FORMATS.iter().zip(&mut scopes).enumerate() {
            if !(format.matches)(&entry.path, file.size) {
                continue;
            }
            match &format.rule {
                Rule::Path(find) => find(relations, entry, format.by),
                Rule::Read(read) => read(relations, entry, format.by)?,
                Rule::Values { form, has_magic, max_bytes, of } => {
                    if !scanned.insert((i, entry.inode)) || !has_magic(&relations.head(entry, 16)?)
                    {
                        continue;
                    }
                    let scope = scope.get_or_insert_with(|| {
                        let of = files.entries().iter().filter(|e| of(relations, e));
                        let mut ids: Vec<InodeId> = of.map(|e| e.inode).collect();
                        ids.sort_unstable();
                        ids.dedup();
                        Candidates::new(files, &relations.after, ids.into_iter(), *form)
                    });
                    relations.hold_values(entry, *max_bytes, *form, scope, format.by)?;
                }
            }
        }
    }
    Ok(())
}

fn any_file(relations: &Relations<'_>, entry: &Entry) -> bool {
    relations.file(entry).is_some()
}

fn any_dir(relations: &Relations<'_>, entry: &Entry) -> bool {
    matches!(relations.inode(entry.inode).kind, crate::model::fileset::InodeKind::Dir)
}

fn is_apt_cache(path: &[u8], _: u64) -> bool {
    matches!(path, b"var/cache/apt/pkgcache.bin" | b"var/cache/apt/srcpkgcache.bin")
}

fn contains(path: &[u8], part: &[u8]) -> bool {
    path.windows(part.len()).any(|w| w == part)
}

/// Whether a component of the path is one of these names.
fn has_component(path: &[u8], names: &[&[u8]]) -> bool {
    path.split(|b| *b == b'/').any(|part| names.contains(&part))
}
