//! Uploads, manifests that are put, and deletes.

use std::sync::Arc;

use serde_json::Value;

use super::answer::Answer;
use super::auth::not_found;
use super::http::Head;
use super::profile::{Broken, Mount, Patches, RangeReport, SinglePost};
use super::route::is_digest;
use super::state::{Site, State, Upload};
use crate::image::digest;

/// Bytes of a manifest.
const MANIFEST_MAX: usize = 4 << 20;

fn unknown_upload() -> Answer {
    Answer::error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
}

fn wrong_range() -> Answer {
    Answer::error(416, "RANGE_INVALID", "invalid content range")
}

fn wrong_digest() -> Answer {
    Answer::error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
}

/// `Location` of an upload, whose query tells how far it is.
fn location(site: &Site, repo: &str, id: &str, offset: usize) -> String {
    let profile = &site.profile;
    let host = if profile.uploads_elsewhere {
        format!("http://{}", site.elsewhere)
    } else if profile.location_absolute {
        format!("http://{}", site.host)
    } else {
        String::new()
    };
    let state =
        if profile.location_state { format!("?_state=at%3D{offset}") } else { String::new() };
    format!("{host}{}{repo}/blobs/uploads/{id}{state}", profile.upload_prefix)
}

fn created(site: &Site, repo: &str, kind: &str, digest: &str) -> Answer {
    let host = if site.profile.location_absolute {
        format!("http://{}", site.host)
    } else {
        String::new()
    };
    let location = format!("{host}/v2/{repo}/{kind}/{digest}");
    Answer::new(201).with("Location", location).with("Docker-Content-Digest", digest)
}

/// `a-b`, as chunks have it.
fn content_range(text: &str) -> Option<(usize, usize)> {
    let (start, end) = text.split_once('-')?;
    Some((start.parse().ok()?, end.parse().ok()?))
}

impl State {
    pub fn post(&mut self, site: &Site, head: &Head, repo: &str, body: Vec<u8>) -> Answer {
        let profile = &site.profile;
        if profile.repository_must_exist && !self.repos.contains_key(repo) {
            let message = "The repository with that name does not exist in the registry";
            return Answer::error(404, "NAME_UNKNOWN", message);
        }
        if head.parameter("mount").is_none() && head.parameter("from").is_some() {
            self.violation(head, "from without mount");
            return Answer::error(405, "UNSUPPORTED", "from without mount");
        }
        if let Some(wanted) = head.parameter("mount") {
            if let Some(answer) = self.mount(site, head, repo, wanted) {
                return answer;
            }
        } else if let Some(wanted) = head.parameter("digest") {
            match profile.single_post {
                SinglePost::Created if digest(&body) == wanted => {
                    self.repo(repo).blobs.insert(wanted.to_owned(), Arc::new(body));
                    return created(site, repo, "blobs", wanted);
                }
                SinglePost::Created => return wrong_digest(),
                SinglePost::Refused => return Answer::error(405, "UNSUPPORTED", "no single POST"),
                SinglePost::Accepted => {}
            }
        } else if !body.is_empty() {
            self.violation(head, "a body without a digest");
        }
        let id = format!("upload-{}", self.id());
        let upload = Upload { repo: repo.to_owned(), begun: self.now, ..Upload::default() };
        self.uploads.insert(id.clone(), upload);
        let mut answer = Answer::new(202)
            .with("Location", location(site, repo, &id, 0))
            .with("Range", "0-0")
            .with("Docker-Upload-UUID", id);
        if profile.sends_chunk_min {
            answer = answer.with("OCI-Chunk-Min-Length", profile.chunk_min.to_string());
        }
        answer
    }

    /// The answer, unless it is an upload.
    fn mount(&mut self, site: &Site, head: &Head, repo: &str, wanted: &str) -> Option<Answer> {
        if !is_digest(wanted) {
            self.violation(head, "mount of no digest");
        }
        let from = head.parameter("from");
        let found = match site.profile.mount {
            Mount::Refused(status) => {
                return Some(Answer::error(status, "UNSUPPORTED", "mounts are not supported"));
            }
            Mount::NeedsFrom if from.is_none() => {
                return Some(Answer::error(400, "BLOB_UPLOAD_INVALID", "mount without from"));
            }
            Mount::Off => None,
            Mount::On | Mount::NeedsFrom => self.repos.get(from?)?.blobs.get(wanted).cloned(),
            Mount::FromIgnored => self.repos.values().find_map(|r| r.blobs.get(wanted)).cloned(),
        };
        self.repo(repo).blobs.insert(wanted.to_owned(), found?);
        Some(created(site, repo, "blobs", wanted))
    }

    /// Whether the upload of a request is there, and its URL the last that was given out.
    fn check_upload(
        &mut self,
        site: &Site,
        head: &Head,
        repo: &str,
        id: &str,
    ) -> Result<(), Answer> {
        let Some(upload) = self.upload(site, repo, id) else { return Err(unknown_upload()) };
        let at = format!("at={}", upload.bytes.len());
        if site.profile.location_state {
            match head.parameter("_state") {
                None => self.violation(head, "URL of an upload without its query"),
                Some(state) if state == at => return Ok(()),
                Some(_) => {}
            }
            return Err(Answer::error(404, "BLOB_UPLOAD_INVALID", "blob upload invalid"));
        }
        Ok(())
    }

    fn progress(
        &mut self,
        site: &Site,
        status: u16,
        id: &str,
        end: Option<(usize, usize)>,
    ) -> Answer {
        let upload = &self.uploads[id];
        let url = location(site, &upload.repo, id, upload.bytes.len());
        let (from, to) = end.unwrap_or((0, upload.bytes.len().saturating_sub(1)));
        Answer::new(status)
            .with("Location", url)
            .with("Range", format!("{from}-{to}"))
            .with("Docker-Upload-UUID", id)
    }

    pub fn patch(&mut self, site: &Site, head: &Head, repo: &str, id: &str, body: &[u8]) -> Answer {
        let profile = &site.profile;
        if let Err(answer) = self.check_upload(site, head, repo, id) {
            return answer;
        }
        let said = head.header("content-range");
        let upload = &self.uploads[id];
        let have = upload.bytes.len();
        let is_second = upload.last.is_some();
        let previous = upload.last.map_or(usize::MAX, |(from, to)| to + 1 - from);
        let is_streamed = said.is_none() && !is_second;
        match profile.patches {
            Patches::None => return Answer::error(405, "UNSUPPORTED", "no PATCH"),
            Patches::One if !is_streamed => {
                return Answer::error(400, "UNSUPPORTED", "chunked uploads are not supported");
            }
            _ => {}
        }
        if let Some(text) = said {
            let Some((start, end)) = content_range(text) else {
                self.violation(head, "invalid Content-Range");
                return wrong_range();
            };
            if end + 1 != start + body.len() {
                self.violation(head, "Content-Range of another length than the body");
                return wrong_range();
            }
            if body.len() > profile.chunk_max || start != have && profile.content_range_checked {
                return wrong_range();
            }
            if previous < profile.chunk_min {
                return Answer::error(400, "BLOB_UPLOAD_INVALID", "a chunk is too small");
            }
        }
        let upload = self.uploads.get_mut(id).unwrap();
        upload.bytes.extend_from_slice(body);
        let chunk = (have, (have + body.len()).saturating_sub(1));
        upload.first.get_or_insert(chunk);
        upload.last = Some(chunk);
        let end = match profile.range_report {
            RangeReport::Right => None,
            RangeReport::First => upload.first,
            RangeReport::Last => upload.last,
        };
        self.progress(site, profile.patch_status, id, end)
    }

    pub fn put_upload(
        &mut self,
        site: &Site,
        head: &Head,
        repo: &str,
        id: &str,
        body: &[u8],
    ) -> Answer {
        let profile = &site.profile;
        if let Err(answer) = self.check_upload(site, head, repo, id) {
            return answer;
        }
        let Some(wanted) = head.parameter("digest").filter(|d| is_digest(d)) else {
            self.violation(head, "no digest");
            return wrong_digest();
        };
        let have = self.uploads[id].bytes.len();
        if have == 0 && !body.is_empty() && !profile.monolithic {
            return Answer::error(405, "UNSUPPORTED", "no monolithic uploads");
        }
        if let Some(text) = head.header("content-range") {
            let range = content_range(text);
            if range.is_none_or(|(start, end)| end + 1 != start + body.len()) {
                self.violation(head, "invalid Content-Range");
            }
            if profile.put_range_checked && range.is_none_or(|(start, _)| start != have) {
                return wrong_range();
            }
        }
        let Upload { mut bytes, .. } = self.uploads.remove(id).unwrap();
        bytes.extend_from_slice(body);
        if digest(&bytes) != wanted {
            return wrong_digest();
        }
        self.repo(repo).blobs.insert(wanted.to_owned(), Arc::new(bytes));
        created(site, repo, "blobs", wanted)
    }

    pub fn upload_status(&mut self, site: &Site, head: &Head, repo: &str, id: &str) -> Answer {
        if !site.profile.status_get || self.upload(site, repo, id).is_none() {
            return unknown_upload();
        }
        if site.profile.status_needs_state
            && let Err(answer) = self.check_upload(site, head, repo, id)
        {
            return answer;
        }
        self.progress(site, 204, id, None)
    }

    pub fn cancel(&mut self, site: &Site, repo: &str, id: &str) -> Answer {
        if self.upload(site, repo, id).is_none() {
            return unknown_upload();
        }
        self.uploads.remove(id);
        Answer::new(204)
    }

    /// The connection broke after these bytes of a request that sends some.
    pub fn broke(&mut self, site: &Site, repo: &str, id: &str, bytes: &[u8]) {
        let Some(upload) = self.upload(site, repo, id) else { return };
        match site.profile.broken {
            Broken::Dropped => {}
            Broken::Kept => upload.bytes.extend_from_slice(bytes),
            Broken::Lost => drop(self.uploads.remove(id)),
        }
    }

    pub fn put_manifest(
        &mut self,
        site: &Site,
        head: &Head,
        repo: &str,
        reference: &str,
        body: Vec<u8>,
    ) -> Answer {
        let profile = &site.profile;
        let invalid = |what: &str| Answer::error(400, "MANIFEST_INVALID", what);
        if body.len() > MANIFEST_MAX {
            return Answer::error(413, "SIZE_INVALID", "manifest too large");
        }
        if profile.repository_must_exist && !self.repos.contains_key(repo) {
            return Answer::error(404, "NAME_UNKNOWN", "repository does not exist");
        }
        let Ok(manifest) = serde_json::from_slice::<Value>(&body) else {
            return invalid("not JSON");
        };
        let media_type = head.header("content-type").unwrap_or_default().to_owned();
        if manifest["mediaType"].as_str().is_some_and(|m| m != media_type) || media_type.is_empty()
        {
            self.violation(head, "Content-Type is not the manifest's media type");
            return invalid("media type");
        }
        let name = digest(&body);
        if is_digest(reference) && reference != name {
            return wrong_digest();
        }
        let layers = manifest["layers"].as_array().map_or(0, Vec::len);
        if profile.layers_max.is_some_and(|max| layers > max) {
            return Answer::error(405, "UNSUPPORTED", "Limit on number of layers exceeded");
        }
        if let Some(missing) = self.repo(repo).missing(&manifest) {
            self.violation(head, &format!("a manifest before {missing}"));
            return Answer::error(400, "MANIFEST_BLOB_UNKNOWN", &format!("unknown: {missing}"));
        }
        let repo_tags = self.repo(repo);
        let mut tags: Vec<&str> = Vec::new();
        if profile.tags_in_put {
            tags.extend(head.parameters("tag"));
        }
        let mut answer = created(site, repo, "manifests", &name);
        for tag in &tags {
            answer = answer.with("OCI-Tag", *tag);
        }
        if !is_digest(reference) {
            tags.push(reference);
        }
        for tag in &tags {
            let is_other = repo_tags.tags.get(*tag).is_some_and(|old| *old != name);
            if profile.immutable_tags && is_other {
                let message = format!("tag '{tag}' already exists and is immutable");
                return Answer::error(400, "TAG_INVALID", &message);
            }
        }
        for tag in tags {
            repo_tags.tags.insert(tag.to_owned(), name.clone());
        }
        repo_tags.manifests.insert(name, (media_type, Arc::new(body)));
        match manifest["subject"]["digest"].as_str() {
            Some(subject) if profile.referrers => answer.with("OCI-Subject", subject),
            _ => answer,
        }
    }

    pub fn delete(&mut self, site: &Site, repo: &str, kind: &str, reference: &str) -> Answer {
        if !site.profile.deletes {
            return Answer::error(405, "UNSUPPORTED", "deletes are off");
        }
        let repo = self.repo(repo);
        let found = if kind == "blobs" {
            repo.blobs.remove(reference).is_some()
        } else if is_digest(reference) {
            repo.tags.retain(|_, digest| digest != reference);
            repo.manifests.remove(reference).is_some()
        } else {
            repo.tags.remove(reference).is_some()
        };
        if found { Answer::new(202) } else { not_found() }
    }
}

impl super::state::Repo {
    /// A blob or manifest that a manifest names and that is not here.
    fn missing(&self, manifest: &Value) -> Option<String> {
        let list = |name: &str| manifest[name].as_array().into_iter().flatten();
        let name = |d: &Value| d["digest"].as_str().unwrap_or_default().to_owned();
        // Foreign layers are elsewhere.
        let own = list("layers").filter(|l| l.get("urls").is_none());
        let config = manifest.get("config").into_iter();
        let blobs = own.chain(config).map(name);
        let mut missing = blobs.filter(|d| !self.blobs.contains_key(d));
        missing
            .next()
            .or_else(|| list("manifests").map(name).find(|d| !self.manifests.contains_key(d)))
    }
}
