//! Certificates for a registry, in the folders where docker, podman and skopeo look for them.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::config_file::{Environment, check_host, path, read};
use crate::base::error::{Context, Error, Result};

/// Folders that have a folder for each registry, after that of the user.
const SYSTEM: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

/// Certificates for a connection to a registry.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Certificates {
    /// Certificates of authorities that are trusted in addition to those of the system, each the PEM text
    /// of a file, which can have several.
    pub roots: Vec<Vec<u8>>,
    /// What the client shows to the registry.
    pub client: Option<ClientCertificate>,
}

/// A certificate of the client with its private key.
#[derive(PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, and others that lead to its authority, as PEM text.
    pub certificate: Vec<u8>,
    /// The private key as PEM text.
    pub key: Vec<u8>,
}

impl fmt::Debug for ClientCertificate {
    /// Shows nothing of the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}

/// Reads the certificates for a registry `host[:port]`: from `cert_dir` if the user names one, otherwise
/// from the first folder of this name in `~/.config/containers/certs.d`, `/etc/containers/certs.d` and
/// `/etc/docker/certs.d` (`dockerCertDir` in `docker/docker_client.go` of containers/image). Files are
/// used as `containers-certs.d(5)` says: `*.crt` are authorities, `*.cert` and `*.key` of one name are the
/// client's.
///
/// # Errors
/// If the host is not valid, the folder that the user names is missing, a file can't be read, a
/// certificate of the client has no key or a key no certificate, or there are several of them.
pub fn certificates(
    host: &str,
    cert_dir: Option<&Path>,
    env: Environment<'_>,
) -> Result<Certificates> {
    if let Some(dir) = cert_dir {
        return load(dir, true);
    }
    let user = path(env, "HOME").map(|home| home.join(".config/containers/certs.d"));
    first_of(user.into_iter().chain(SYSTEM.map(PathBuf::from)), host)
}

/// Reads the certificates of a host from the first of these folders that has some for it.
fn first_of(folders: impl Iterator<Item = PathBuf>, host: &str) -> Result<Certificates> {
    check_host(host)?;
    let mut dirs = folders.map(|folder| folder.join(host));
    dirs.find(|dir| dir.exists())
        .map_or_else(|| Ok(Certificates::default()), |dir| load(&dir, false))
}

/// Reads the certificates in a folder. One that the user did not name may be closed to the user.
fn load(dir: &Path, named: bool) -> Result<Certificates> {
    let place = || format!("reading certificates in {}", dir.display());
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::PermissionDenied && !named => {
            return Ok(Certificates::default());
        }
        entries => entries.with_context(place)?,
    };
    let files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>();
    let mut files = files.with_context(place)?;
    files.sort();
    let mut found = Certificates::default();
    for file in &files {
        match file.extension().and_then(OsStr::to_str) {
            Some("crt") => found.roots.push(read_file(file)?),
            Some("cert") => {
                let key = partner(file, "key", &files)?;
                if found.client.is_some() {
                    return Err(Error::refused(
                        "there are several certificates of the client; name a folder with one by \
                         --cert-dir DIR",
                    ))
                    .with_context(place);
                }
                let (certificate, key) = (read_file(file)?, read_file(&key)?);
                found.client = Some(ClientCertificate { certificate, key });
            }
            Some("key") => drop(partner(file, "cert", &files)?),
            _ => {}
        }
    }
    Ok(found)
}

/// Returns the file of the same name with another extension, which must exist.
fn partner(file: &Path, extension: &str, files: &[PathBuf]) -> Result<PathBuf> {
    let other = file.with_extension(extension);
    if files.contains(&other) {
        return Ok(other);
    }
    let name = other.file_name().unwrap_or_default().display().to_string();
    Err(Error::not_found(format!(
        "the folder has no {name:?} for it; authorities have the extension .crt"
    ))
    .context(format!("reading {}", file.display())))
}

/// Reads a file that must exist.
fn read_file(file: &Path) -> Result<Vec<u8>> {
    let missing = || Error::not_found("the file is missing, or is a link to one that is");
    let bytes = read(file).and_then(|bytes| bytes.ok_or_else(missing));
    bytes.with_context(|| format!("reading {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Folders, the first with files for `reg.io:5000`.
    fn folders(files: &[(&str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let folders = ["none", "one", "two"].map(|name| dir.path().join(name));
        let host = folders[1].join("reg.io:5000");
        fs::create_dir_all(&host).unwrap();
        fs::create_dir_all(folders[2].join("reg.io:5000")).unwrap();
        fs::write(folders[2].join("reg.io:5000/other.crt"), "other").unwrap();
        for (name, text) in files {
            fs::write(host.join(name), text).unwrap();
        }
        (dir, folders.into())
    }

    fn found(files: &[(&str, &str)]) -> Result<Certificates> {
        let (_dir, folders) = folders(files);
        first_of(folders.into_iter(), "reg.io:5000")
    }

    #[test]
    fn the_first_folder_of_a_host_has_its_certificates() {
        let files =
            [("b.crt", "B"), ("a.crt", "A"), ("c.cert", "C"), ("c.key", "K"), ("x.pem", "")];
        let certificates = found(&files).unwrap();
        assert_eq!(certificates.roots, [b"A", b"B"]);
        assert!(!format!("{certificates:?}").contains("key"));
        let client = certificates.client.unwrap();
        assert_eq!((client.certificate, client.key), (b"C".into(), b"K".into()));
        assert_eq!(found(&[]).unwrap(), Certificates::default(), "the first folder only");
        let (dir, folders) = folders(&files);
        assert_eq!(first_of(folders.into_iter(), "reg.io").unwrap(), Certificates::default());
        let home = dir.path().join("home");
        fs::create_dir_all(home.join(".config/containers")).unwrap();
        fs::rename(dir.path().join("two"), home.join(".config/containers/certs.d")).unwrap();
        let env = |name: &str| (name == "HOME").then(|| home.clone().into_os_string());
        assert_eq!(certificates_of("reg.io:5000", None, &env).roots, [b"other"]);
        // The folder that the user names has no folders of hosts.
        let named = dir.path().join("one/reg.io:5000");
        assert_eq!(certificates_of("elsewhere", Some(&named), &env).roots, [b"A", b"B"]);
        assert!(super::certificates("r", Some(&dir.path().join("none")), &env).is_err());
    }

    fn certificates_of(host: &str, dir: Option<&Path>, env: Environment<'_>) -> Certificates {
        certificates(host, dir, env).unwrap()
    }

    #[test]
    fn incomplete_folders_are_errors_that_name_the_file() {
        let e = found(&[("a.cert", "A")]).unwrap_err().to_string();
        assert!(e.contains("a.cert: the folder has no \"a.key\""), "{e}");
        let e = found(&[("a.key", "A")]).unwrap_err().to_string();
        assert!(e.contains("a.key: the folder has no \"a.cert\""), "{e}");
        let two = [("a.cert", "A"), ("a.key", "A"), ("b.cert", "B"), ("b.key", "B")];
        assert!(found(&two).unwrap_err().to_string().contains("several"));
        let (_dir, folders) = folders(&[]);
        let link = folders[1].join("reg.io:5000/a.crt");
        std::os::unix::fs::symlink("nowhere", link).unwrap();
        let e = first_of(folders.into_iter(), "reg.io:5000").unwrap_err().to_string();
        assert!(e.contains("a.crt: the file is missing"), "{e}");
    }

    #[test]
    fn a_host_stays_below_the_folder() {
        let (_dir, folders) = folders(&[]);
        for host in ["..", "../two/reg.io:5000", "reg.io:5000/x", ""] {
            assert!(first_of(folders.clone().into_iter(), host).is_err(), "{host}");
        }
    }
}
