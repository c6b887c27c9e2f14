//! Manifests, indexes and tags of a registry.

use std::io::{self, Read};

use serde::Deserialize;

use super::auth::scope;
use super::client::{Call, Payload, RegistryClient};
use super::http::{Method, Response};
use super::retry::is_momentary;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::limits::{MAX_DOCUMENT_BYTES, MAX_TAGS};
use crate::model::digest::Digest;
use crate::model::oci::{self, Descriptor, media_type};

const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// What a registry has under a tag or digest.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) descriptor: Descriptor,
    /// The manifest or index, if the registry sent it.
    pub(super) bytes: Option<Vec<u8>>,
}

impl RegistryClient {
    /// Finds a manifest or index by tag or digest, without downloading it if the registry tells its
    /// digest.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none; others if the registry can't be asked.
    pub(super) fn find(&self, repository: &str, reference: &str) -> Result<Found> {
        let (url, scopes) =
            (self.url(repository, &format!("manifests/{reference}")), [scope(repository, false)]);
        let call =
            Call { headers: &[("accept", MANIFESTS)], ..Call::new(Method::Head, &url, &scopes) };
        let answer = self.call(&call)?;
        let kind = answer.header("content-type").map(plain_type);
        let digest = answer.header("docker-content-digest").and_then(|d| d.parse().ok());
        if let (200, Some(kind), Some(digest), Some(size)) =
            (answer.status, kind, digest, answer.length().filter(|size| *size > 0))
            && (media_type::is_manifest(&kind) || media_type::is_index(&kind))
        {
            let descriptor = Descriptor::new(&kind, digest, size);
            return Ok(Found { descriptor, bytes: None });
        }
        // An answer to HEAD has no message, and some registries refuse the method.
        self.manifest(repository, reference)
    }

    /// Downloads a manifest or index by tag or digest. A digest is verified.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none; others if it can't be downloaded or is not valid.
    pub(super) fn manifest(&self, repository: &str, reference: &str) -> Result<Found> {
        let (url, scopes) =
            (self.url(repository, &format!("manifests/{reference}")), [scope(repository, false)]);
        let call =
            Call { headers: &[("accept", MANIFESTS)], ..Call::new(Method::Get, &url, &scopes) };
        let mut attempt = 0;
        loop {
            let answer = self.call(&call)?;
            if answer.status != 200 {
                return Err(self.error(answer));
            }
            let stated = answer.header("content-type").map(plain_type);
            match document(answer) {
                Ok(bytes) => return found(reference, stated, bytes),
                Err(e) if is_momentary(&e) && self.retry.goes_on(attempt) => {
                    self.retry.wait(attempt, None);
                }
                Err(e) => return Err(e.into()),
            }
            attempt += 1;
        }
    }

    /// Uploads a manifest or index under a tag or digest.
    ///
    /// # Errors
    /// If the registry refuses it.
    pub(super) fn put_manifest(
        &self,
        repository: &str,
        reference: &str,
        kind: &str,
        bytes: &[u8],
        scopes: &[String],
    ) -> Result<()> {
        let url = self.url(repository, &format!("manifests/{reference}"));
        let answer = self.call(&Call {
            headers: &[("content-type", kind)],
            payload: Payload::Bytes(bytes),
            ..Call::new(Method::Put, &url, scopes)
        })?;
        match answer.status {
            200..300 => Ok(()),
            _ => Err(self.error(answer)),
        }
    }

    /// Returns whether the registry has the manifest of this digest under a tag or digest, as far as it
    /// tells.
    pub(super) fn has_manifest(
        &self,
        repository: &str,
        reference: &str,
        digest: &Digest,
        scopes: &[String],
    ) -> Result<bool> {
        let url = self.url(repository, &format!("manifests/{reference}"));
        let call =
            Call { headers: &[("accept", MANIFESTS)], ..Call::new(Method::Head, &url, scopes) };
        let answer = self.call(&call)?;
        let stated = answer.header("docker-content-digest").and_then(|d| d.parse().ok());
        let is_same =
            stated.map_or(reference == digest.to_string(), |stated: Digest| stated == *digest);
        Ok(answer.status == 200 && is_same)
    }

    /// Returns tags of a repository, sorted; not all if there are very many.
    ///
    /// # Errors
    /// If the registry can't be asked, or does not know the repository.
    pub(super) fn tags(&self, repository: &str) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct List {
            tags: Option<Vec<String>>,
        }
        let scopes = [scope(repository, false)];
        let mut url = self.url(repository, "tags/list?n=1000");
        let mut tags = Vec::new();
        while tags.len() < MAX_TAGS {
            let answer = self.call(&Call::new(Method::Get, &url, &scopes))?;
            if answer.status != 200 {
                return Err(self.error(answer));
            }
            let next = answer.header("link").and_then(next_page).map(str::to_owned);
            let list: List = serde_json::from_slice(&document(answer)?)
                .map_err(|e| Error::malformed(format!("the list of tags is not valid: {e}")))?;
            let list = list.tags.unwrap_or_default();
            let Some(next) = next.filter(|_| !list.is_empty()) else {
                tags.extend(list);
                break;
            };
            tags.extend(list);
            url = self.follow(&url, &next)?;
        }
        tags.sort_unstable();
        tags.dedup();
        Ok(tags)
    }
}

/// Returns a media type without parameters.
fn plain_type(header: &str) -> String {
    header.split(';').next().unwrap_or_default().trim().to_owned()
}

/// Returns the address of the next page in a header `<…>; rel="next"`.
fn next_page(header: &str) -> Option<&str> {
    let (address, rest) = header.trim().strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then_some(address)
}

/// Reads the whole body of an answer, which must not be larger than a document may be.
fn document(mut answer: Response) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    answer.body.by_ref().take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        let what = format!("a document is larger than the limit of {MAX_DOCUMENT_BYTES} bytes");
        return Err(Error::limit(what).into());
    }
    Ok(bytes)
}

/// Describes a downloaded manifest. What it says of itself counts, not what the registry says.
fn found(reference: &str, stated: Option<String>, bytes: Vec<u8>) -> Result<Found> {
    let digest = Digest::of(&bytes);
    if let Ok(wanted) = reference.parse::<Digest>()
        && wanted != digest
    {
        return Err(Error::mismatch(format!(
            "the registry sent a manifest with digest {digest} for {wanted}"
        )));
    }
    let usable = |kind: &String| media_type::is_manifest(kind) || media_type::is_index(kind);
    let kind = oci::media_type_of(&bytes, stated.filter(usable))?;
    let descriptor = Descriptor::new(&kind, digest, bytes.len() as u64);
    Ok(Found { descriptor, bytes: Some(bytes) })
}

/// Returns whether an error says that what was asked for does not exist.
pub(super) fn is_missing(e: &Error) -> bool {
    e.kind() == ErrorKind::NotFound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_tags_are_linked() {
        assert_eq!(
            next_page("</v2/a/tags/list?n=2&last=b>; rel=\"next\""),
            Some("/v2/a/tags/list?n=2&last=b")
        );
        assert_eq!(next_page("</v2/a>; rel=\"prev\""), None);
        assert_eq!(next_page("nonsense"), None);
    }

    #[test]
    fn a_manifest_says_what_it_is() {
        let of = |bytes: &[u8], stated: &str| {
            found("v1", Some(stated.into()), bytes.to_vec()).unwrap().descriptor.media_type
        };
        assert_eq!(
            of(b"{\"schemaVersion\":2,\"manifests\":[]}", "application/json"),
            media_type::INDEX
        );
        assert_eq!(of(b"{\"schemaVersion\":2}", "text/plain"), media_type::MANIFEST);
        assert_eq!(of(b"{\"mediaType\":\"x\"}", media_type::INDEX), "x");
        assert!(found("v1", None, b"{\"schemaVersion\":1}".to_vec()).is_err());
        assert!(found("v1", None, b"<html>".to_vec()).is_err());
        let wrong = Digest::of(b"x").to_string();
        assert!(found(&wrong, None, b"{}".to_vec()).is_err());
    }
}
