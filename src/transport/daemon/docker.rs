//! Images of docker, through the API on its socket
//! ([Engine API](https://docs.docker.com/reference/api/engine/)).

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::DaemonImage;
use super::http::{Answer, Connection};
use crate::base::error::{Context, Error, Result};
use crate::base::limits::MAX_MESSAGE;
use crate::base::text::percent_encode;
use crate::format::codec::Format;
use crate::model::content::{Source, SourceReader};
use crate::transport::bundle::Bundle;

/// Where docker listens if `DOCKER_HOST` does not say otherwise.
const DEFAULT: &str = "/var/run/docker.sock";

/// How long docker may take to state its version.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long docker may be silent while it prepares an archive, or unpacks one.
const WORK: Duration = Duration::from_secs(3600);

/// Number of layers that docker takes (`layer/layer_store.go`).
const MOST_LAYERS: usize = 125;

/// The first version that reads zstd layers.
const ZSTD_SINCE: u64 = 23;

/// Docker, which answers.
pub(super) struct Docker {
    socket: PathBuf,
    version: Version,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    version: String,
    #[serde(default)]
    components: Vec<VersionPart>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VersionPart {
    name: String,
}

/// The body of an error.
#[derive(Debug, Deserialize)]
struct Refusal {
    message: String,
}

impl Docker {
    /// Connects to the socket that `DOCKER_HOST` names, and asks for the version.
    ///
    /// # Errors
    /// If this is no unix socket, or docker does not answer there.
    pub(super) fn connect() -> Result<Self> {
        let socket = socket(std::env::var("DOCKER_HOST").ok().as_deref())?;
        let mut docker =
            Self { socket, version: Version { version: String::new(), components: Vec::new() } };
        let asked = docker.ask(PATIENCE, |connection| connection.get("/version"))?;
        let place = || format!("asking docker at {} for its version", docker.socket.display());
        let body = success(asked).and_then(Answer::bytes).with_context(place)?;
        let version = serde_json::from_slice(&body)
            .map_err(|_| Error::malformed("its answer is not valid").context(place()))?;
        docker.version = version;
        Ok(docker)
    }

    /// Makes a request.
    fn ask(
        &self,
        wait: Duration,
        request: impl FnOnce(Connection) -> Result<Answer>,
    ) -> Result<Answer> {
        let opened = Connection::open(&self.socket, wait).map_err(unreachable);
        let place = || format!("asking docker at {}", self.socket.display());
        opened.and_then(request).with_context(place)
    }

    /// Returns an archive of an image, as `docker save` writes it.
    ///
    /// # Errors
    /// If there is no such image, or docker does not answer.
    pub(super) fn save(&self, image: &DaemonImage) -> Result<impl Read + use<>> {
        let path = format!("/images/{}/get", escaped(&image.to_string()));
        let answer = self.ask(WORK, |connection| connection.get(&path))?;
        if answer.status == 404 {
            return Err(Error::not_found(format!(
                "docker has no image {image}; `docker images` lists those that it has, and docker://{image} \
                 reads it from its registry"
            )));
        }
        Ok(success(answer)?.body)
    }

    /// Fails if docker would not take an image.
    ///
    /// # Errors
    /// If it has too many layers, or layers that this docker can't read.
    pub(super) fn check(&self, bundle: &Bundle) -> Result<()> {
        if bundle.listed.is_empty() {
            return Err(Error::unsupported("docker takes container images only"));
        }
        // Podman has the same API and other versions.
        let others = !self.version.components.is_empty()
            && self.version.components.iter().all(|part| part.name != "Engine");
        let major = self.version.version.split('.').next().and_then(|n| n.parse::<u64>().ok());
        let reads_zstd = others || major.is_none_or(|major| major >= ZSTD_SINCE);
        for image in &bundle.listed {
            if image.layers.len() > MOST_LAYERS {
                return Err(Error::unsupported(format!(
                    "docker takes at most {MOST_LAYERS} layers and the image has {}; `relayer split` writes \
                     fewer",
                    image.layers.len()
                )));
            }
            for layer in image.layers.iter().filter_map(|digest| bundle.blobs.get(digest)) {
                if !reads_zstd && Format::of(layer.source.as_ref())? == Format::Zstd {
                    return Err(Error::unsupported(format!(
                        "docker {} can't read zstd layers; use `relayer split --compression gzip`, or docker \
                         {ZSTD_SINCE} or newer",
                        self.version.version
                    )));
                }
            }
        }
        Ok(())
    }

    /// Loads the archive that `fill` writes, as `docker load` does.
    ///
    /// # Errors
    /// Those of `fill`; or if docker refuses the archive.
    pub(super) fn load(&self, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
        let answer = self.ask(WORK, |connection| connection.post("/images/load?quiet=1", fill))?;
        let body = success(answer)?.bytes().with_context(|| "reading what docker says")?;
        for message in serde_json::Deserializer::from_slice(&body).into_iter::<LoadMessage>() {
            match message {
                Ok(LoadMessage { error: Some(error) }) => {
                    return Err(Error::refused(format!("docker could not load it: {error}")));
                }
                Ok(_) => {}
                Err(_) => return Err(Error::malformed("docker's answer is not JSON")),
            }
        }
        Ok(())
    }
}

/// What an error begins with where a stream has begun (`pkg/streamformatter`).
const ERROR: &[u8] = br#"{"errorDetail":"#;

/// A line of the answer to a load.
#[derive(Debug, Deserialize)]
struct LoadMessage {
    error: Option<String>,
}

/// Returns the error at the end of an archive that docker could not complete: it can't take back the
/// status that it has sent.
pub(super) fn error_at_end(archive: &Source) -> Option<Error> {
    let begin = archive.size().saturating_sub(MAX_MESSAGE as u64 * 8);
    let mut end = Vec::new();
    SourceReader::new(archive.as_ref(), begin, archive.size() - begin)
        .read_to_end(&mut end)
        .ok()?;
    let at = end.windows(ERROR.len()).rposition(|w| w == ERROR)?;
    let message: LoadMessage = serde_json::from_slice(end[at..].trim_ascii_end()).ok()?;
    Some(Error::refused(format!("docker could not save it: {}", message.error?)))
}

/// Returns the path of the socket that a value of `DOCKER_HOST` names.
fn socket(host: Option<&str>) -> Result<PathBuf> {
    let host = host.filter(|host| !host.is_empty());
    let Some(host) = host else { return Ok(DEFAULT.into()) };
    match host.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(path.into()),
        _ => Err(Error::unsupported(format!(
            "DOCKER_HOST is {host:?}, and relayer reaches docker by unix:///PATH only; use pipes: \
             `docker save NAME | relayer … -`, and `relayer … -o - | docker load`"
        ))),
    }
}

/// Returns what to do if there is no connection.
fn unreachable(e: Error) -> Error {
    match e.io_kind() {
        Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Error::not_found(
            "no docker listens there; start it, or name its socket with DOCKER_HOST=unix:///PATH",
        ),
        Some(io::ErrorKind::PermissionDenied) => Error::refused(
            "this user may not use the socket; run relayer as root or as a member of its group, which \
             usually is docker",
        ),
        _ => e,
    }
}

/// Returns an answer unless it is an error.
fn success(answer: Answer) -> Result<Answer> {
    let status = answer.status;
    if (200..300).contains(&status) {
        return Ok(answer);
    }
    let body = answer.bytes().unwrap_or_default();
    let message = serde_json::from_slice::<Refusal>(&body).ok().map(|refusal| refusal.message);
    let text = message.unwrap_or_else(|| String::from_utf8_lossy(&body).trim().to_owned());
    Err(Error::refused(format!("docker answers with status {status}: {text}")))
}

/// Escapes what can't stand in the path of a URL, such as the brackets around an IPv6 address.
fn escaped(name: &str) -> String {
    percent_encode(name, b"._-/:@")
}
