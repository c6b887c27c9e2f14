//! The table: which files record which times, and how.

use std::collections::BTreeSet;

use super::parse;
use super::relations::Relations;
use super::values::{Candidates, Form};
use crate::base::error::Result;
use crate::model::fileset::{Entry, base_name, parent};
use crate::model::index::InodeId;

/// A sort of file that records times of others.
struct Format {
    /// What summaries call it.
    by: &'static str,
    /// Whether a regular file of this path and size may be one.
    is: fn(&[u8], u64) -> bool,
    /// How it records.
    rule: Rule,
}

enum Rule {
    /// The times are numbers in it. Those that it holds stay, and so do those that would become
    /// one of its numbers.
    Values {
        form: Form,
        /// How a file of this sort begins.
        begins: fn(&[u8]) -> bool,
        /// They are within so many bytes.
        most: u64,
        /// Whose times they may be.
        of: fn(&Relations<'_>, &Entry) -> bool,
    },
    /// Its name, or its place, tells which.
    Name(fn(&mut Relations<'_>, &Entry, &'static str)),
    /// It is read for them.
    Read(fn(&mut Relations<'_>, &Entry, &'static str) -> Result<()>),
}

/// Times as numbers anywhere in a file.
const fn values(form: Form, of: fn(&Relations<'_>, &Entry) -> bool) -> Rule {
    Rule::Values { form, begins: |_| true, most: u64::MAX, of }
}

/// Compiled Python has its own module, as the only format whose notes are changed.
const FORMATS: &[Format] = &[
    // OpenJDK: cds.h has the magic numbers, SharedClassPathEntry in filemap.hpp (8 to 21) and
    // AOTClassLocation in aotClassLocation.hpp (24 on) time and size of each jar, side by side.
    Format {
        by: "JVM archives",
        is: |_, size| size >= 64 << 10,
        rule: Rule::Values {
            form: Form::Sized(4),
            begins: |head| {
                let magic =
                    head.first_chunk().map(|b| [u32::from_le_bytes(*b), u32::from_be_bytes(*b)]);
                magic.is_some_and(|both| {
                    both.iter().any(|m| matches!(m, 0xF00B_ABA0..=0xF00B_ABAF | 0xCAFE_A07C))
                })
            },
            most: u64::MAX,
            of: any_file,
        },
    },
    // Eclipse OpenJ9: runtime/shared_common, ClasspathEntryItem::timestamp in milliseconds.
    Format {
        by: "JVM archives",
        is: |path, _| {
            base_name(path).starts_with(b"C")
                && parts_of(path, &[b".scc", b"javasharedresources", b".classCache"])
        },
        rule: values(Form::Alone, any_file),
    },
    // fontconfig: FcCache in fcint.h, FcCacheTimeValid in fccache.c.
    Format {
        by: "fontconfig caches",
        is: |path, _| parse::is_font_cache(base_name(path)),
        rule: Rule::Read(parse::font_cache),
    },
    // GTK: gtkiconcache.c passes over a cache that is older than its folder.
    Format {
        by: "icon caches",
        is: |path, _| base_name(path) == b"icon-theme.cache",
        rule: Rule::Name(|r, e, by| {
            r.older_than_any(e, by, parent(&e.path).and_then(|dir| r.at(dir)));
        }),
    },
    Format {
        by: "MIME caches",
        is: |path, _| path.ends_with(b"mime/mime.cache"),
        rule: Rule::Name(|r, e, by| {
            let folder = r.beside(&e.path, b"packages");
            let dir = [parent(&e.path).unwrap_or_default(), b"/packages"].concat();
            let all: Vec<_> = folder.into_iter().chain(r.children(&dir).map(|c| c.inode)).collect();
            r.older_than_any(e, by, all);
        }),
    },
    // GstRegistryChunkPluginElement in gstregistrychunks.h: file_size, file_mtime.
    Format {
        by: "GStreamer registries",
        is: |path, _| {
            base_name(path).starts_with(b"registry.") && parts_of(path, &[b"gstreamer-1.0"])
        },
        rule: values(Form::Sized(1), any_file),
    },
    // Ruby's bootsnap: bs_cache_key in bootsnap.c; the load path's cache is MessagePack.
    Format {
        by: "bootsnap caches",
        is: |path, _| contains(path, b"bootsnap/compile-cache"),
        rule: Rule::Values { form: Form::Sized(1), begins: |_| true, most: 128, of: any_file },
    },
    Format {
        by: "bootsnap caches",
        is: |path, _| contains(path, b"bootsnap/load-path-cache"),
        rule: values(Form::Alone, any_dir),
    },
    // PHP: zend_file_cache_metainfo in zend_file_cache.c.
    Format {
        by: "PHP opcache files",
        is: |path, _| path.ends_with(b".bin") && parse::cached_script(path).is_some(),
        rule: Rule::Read(parse::opcache),
    },
    // Laravel's Blade: a compiled view must be newer than the view, and its last line names that.
    Format {
        by: "compiled views",
        is: |path, _| contains(path, b"framework/views/") && path.ends_with(b".php"),
        rule: Rule::Read(parse::blade_view),
    },
    // Julia: write_dependency_list in staticdata_utils.c, times as doubles.
    Format {
        by: "Julia caches",
        is: |path, _| path.ends_with(b".ji"),
        rule: Rule::Values {
            form: Form::Real,
            begins: |head| head.starts_with(b"\xfbjli"),
            most: u64::MAX,
            of: any_file,
        },
    },
    // Numba: IndexDataCacheFile in caching.py pickles st_mtime, a double, and the size.
    Format {
        by: "Numba caches",
        is: |path, _| path.ends_with(b".nbi"),
        rule: Rule::Values {
            form: Form::Real,
            begins: |_| true,
            most: 64 << 10,
            of: |_, e| e.path.ends_with(b".py"),
        },
    },
    Format {
        by: "mypy caches",
        is: |path, _| parts_of(path, &[b".mypy_cache"]),
        rule: values(Form::Decimal, |_, e| e.path.ends_with(b".py") || e.path.ends_with(b".pyi")),
    },
    Format {
        by: "conda caches",
        is: |path, _| contains(path, b"pkgs/cache/") && path.ends_with(b".json"),
        rule: values(Form::Decimal, |_, e| contains(&e.path, b"pkgs/cache/")),
    },
    // npm: the hidden lockfile counts while no package's folder is newer (arborist, shrinkwrap.js).
    Format {
        by: "npm lockfiles",
        is: |path, _| path.ends_with(b"node_modules/.package-lock.json"),
        rule: Rule::Name(|r, e, by| {
            let below = r.files().below(parent(&e.path).unwrap_or_default());
            let package = |e: &&Entry| {
                let dir = parent(&e.path).unwrap_or_default();
                let scope = base_name(dir).starts_with(b"@");
                let dir = if scope { parent(dir).unwrap_or_default() } else { dir };
                base_name(dir) == b"node_modules"
            };
            let all: Vec<_> = below.iter().filter(package).map(|e| e.inode).collect();
            r.older_than_any(e, by, all);
        }),
    },
    Format {
        by: "rpm's database",
        is: |path, _| parse::is_rpm(path, b"rpmdb.sqlite"),
        rule: Rule::Name(parse::rpm),
    },
    // Berkeley DB and rpm's own: FILEMTIMES is a run of big-endian numbers in each header.
    Format {
        by: "rpm's database",
        is: |path, _| parse::is_rpm(path, b"Packages") || parse::is_rpm(path, b"Packages.db"),
        rule: values(Form::Alone, any_file),
    },
    Format {
        by: "pacman's database",
        is: |path, _| path.starts_with(b"var/lib/pacman/local/") && base_name(path) == b"mtree",
        rule: Rule::Read(parse::mtree),
    },
    // apt: pkgCache::ReleaseFile and PackageFile in pkgcache.h; CheckValidity in pkgcachegen.cc.
    Format {
        by: "apt caches",
        is: is_apt_cache,
        rule: values(Form::Alone, |_, e| {
            e.path.starts_with(b"var/lib/apt/") || e.path.starts_with(b"var/lib/dpkg/status")
        }),
    },
    Format {
        by: "apt caches",
        is: is_apt_cache,
        rule: Rule::Name(|r, e, by| {
            let mut all: Vec<_> = r.children(b"etc/apt/sources.list.d").map(|e| e.inode).collect();
            for path in [&b"etc/apt/sources.list"[..], b"etc/apt/sources.list.d"] {
                all.extend(r.at(path));
            }
            r.older_than_any(e, by, all);
        }),
    },
    Format {
        by: "man-db's index",
        is: |path, _| path.starts_with(b"var/cache/man/") && base_name(path).starts_with(b"index."),
        rule: values(Form::Decimal, |_, e| parts_of(&e.path, &[b"man"])),
    },
    Format {
        by: "ccache",
        is: |path, _| {
            parts_of(path, &[b"ccache", b".ccache"])
                && matches!(base_name(path), b"ccache.conf" | b"CACHEDIR.TAG" | b"stats")
        },
        rule: Rule::Name(parse::ccache),
    },
    // cmd/go indexes the standard library by the times of its files (modindex/read.go, dirHash).
    Format {
        by: "Go's build cache",
        is: |path, _| path.ends_with(b"go-build/trim.txt"),
        rule: Rule::Name(parse::go_cache),
    },
    Format {
        by: "build trees",
        is: |path, _| base_name(path) == b".ninja_log",
        rule: Rule::Read(parse::ninja),
    },
    Format {
        by: "build trees",
        is: |path, _| base_name(path) == b".rustc_info.json",
        rule: Rule::Name(|r, e, by| {
            let target = parent(&e.path).unwrap_or_default();
            let package = parent(target).filter(|p| !p.is_empty()).unwrap_or(target);
            r.hold_below(package, by);
        }),
    },
    Format {
        by: "build trees",
        is: |path, _| parse::is_object(path),
        rule: Rule::Name(parse::objects),
    },
    Format {
        by: "build trees",
        is: |path, _| [&b".d"[..], b".Po", b".Plo"].iter().any(|s| path.ends_with(s)),
        rule: Rule::Read(parse::dependencies),
    },
    Format {
        by: "module lists",
        is: |path, _| {
            contains(path, b"lib/modules/")
                && matches!(base_name(path), b"modules.dep" | b"modules.dep.bin")
        },
        rule: Rule::Name(|r, e, by| {
            let below = r.files().below(parent(&e.path).unwrap_or_default()).iter();
            let modules = below.filter(|m| contains(base_name(&m.path), b".ko"));
            let all: Vec<_> = modules.map(|e| e.inode).collect();
            r.older_than_any(e, by, all);
        }),
    },
    // systemd's ConditionNeedsUpdate= compares /usr with these.
    Format {
        by: "systemd's update marks",
        is: |path, _| matches!(path, b"etc/.updated" | b"var/.updated"),
        rule: Rule::Name(|r, e, by| {
            r.hold(e.inode, by);
            if let Some(usr) = r.at(b"usr") {
                r.hold(usr, by);
            }
        }),
    },
    // Qt: CompiledData::Unit::sourceTimeStamp; KDE's service cache lists its folders' times.
    Format {
        by: "Qt caches",
        is: |path, _| path.ends_with(b".qmlc") || path.ends_with(b".jsc"),
        rule: Rule::Values { form: Form::Alone, begins: |_| true, most: 256, of: any_file },
    },
    Format {
        by: "Qt caches",
        is: |path, _| base_name(path).starts_with(b"ksycoca"),
        rule: values(Form::Alone, any_dir),
    },
    Format {
        by: "Emacs's compiled files",
        is: |path, _| path.ends_with(b".eln"),
        rule: Rule::Name(parse::native_lisp),
    },
    Format {
        by: "Guile's compiled files",
        is: |path, _| path.ends_with(b".go"),
        rule: Rule::Name(parse::guile),
    },
    Format {
        by: "Lisp's compiled files",
        is: |path, _| path.ends_with(b".fasl"),
        rule: Rule::Name(parse::fasl),
    },
    Format {
        by: "zsh's compiled files",
        is: |path, _| path.ends_with(b".zwc"),
        rule: Rule::Name(parse::zwc),
    },
    // What lies beside what it was made of: Emacs, Racket, javac, lib2to3, libselinux, Postfix.
    Format {
        by: "compiled files",
        is: |path, _| !parse::made_of(path).is_empty(),
        rule: Rule::Name(|r, e, by| {
            let all: Vec<_> =
                parse::made_of(&e.path).iter().filter_map(|path| r.at(path)).collect();
            r.older_than_any(e, by, all);
        }),
    },
];

/// Finds all that records a time which is to be another.
pub(super) fn find(relations: &mut Relations<'_>) -> Result<()> {
    let mut scopes: Vec<Option<Candidates>> = FORMATS.iter().map(|_| None).collect();
    let files = relations.files();
    // Of a file with several names the numbers are the same.
    let mut scanned = BTreeSet::new();
    for entry in files.entries() {
        if relations.is_exhausted() {
            break;
        }
        let Some(file) = relations.file(entry) else { continue };
        for (i, (format, scope)) in FORMATS.iter().zip(&mut scopes).enumerate() {
            if !(format.is)(&entry.path, file.size) {
                continue;
            }
            match &format.rule {
                Rule::Name(find) => find(relations, entry, format.by),
                Rule::Read(read) => read(relations, entry, format.by)?,
                Rule::Values { form, begins, most, of } => {
                    if !scanned.insert((i, entry.inode)) || !begins(&relations.head(entry, 16)?) {
                        continue;
                    }
                    let scope = scope.get_or_insert_with(|| {
                        let of = files.entries().iter().filter(|e| of(relations, e));
                        let mut ids: Vec<InodeId> = of.map(|e| e.inode).collect();
                        ids.sort_unstable();
                        ids.dedup();
                        Candidates::new(files, &relations.after, ids.into_iter(), *form)
                    });
                    relations.values(entry, *most, *form, scope, format.by)?;
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

/// Whether a part of the path is one of these.
fn parts_of(path: &[u8], names: &[&[u8]]) -> bool {
    path.split(|b| *b == b'/').any(|part| names.contains(&part))
}
