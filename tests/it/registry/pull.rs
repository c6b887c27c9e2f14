//! Blobs, manifests and lists.

use serde_json::{Value, json};

use super::answer::Answer;
use super::auth::not_found;
use super::http::Head;
use super::state::{Site, State};
use crate::image::digest;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn unknown_manifest() -> Answer {
    Answer::error(404, "MANIFEST_UNKNOWN", "manifest unknown")
}

impl State {
    pub fn blob(
        &mut self,
        site: &Site,
        head: &Head,
        repo: &str,
        digest: &str,
        is_redirected: bool,
    ) -> Answer {
        let found = self.repos.get(repo).and_then(|r| r.blobs.get(digest)).cloned();
        let Some(bytes) = found else {
            return Answer::error(404, "BLOB_UNKNOWN", "blob unknown to registry");
        };
        let is_get = head.method == "GET";
        if is_get && (is_redirected || Self::redirects(site, head)) {
            return self.redirect(site, bytes, site.profile.redirect_uses);
        }
        let ranges = site.profile.ranges && is_get;
        let answer = Answer::blob(bytes, head, ranges);
        if site.profile.digest_header && answer.status < 300 {
            return answer.with("Docker-Content-Digest", digest);
        }
        answer
    }

    /// A blob at the other host.
    pub fn redirected(&mut self, site: &Site, head: &Head, id: &str) -> Answer {
        let error =
            |status, what: &str| Answer::new(status).whole(format!("<Error>{what}</Error>"));
        if head.header("authorization").is_some() {
            return error(400, "only one authorization is allowed");
        }
        match self.signed.get_mut(id).filter(|s| s.uses > 0) {
            Some(signed) if head.parameter("X-Signature") == Some(&format!("/a={id}")) => {
                signed.uses -= 1;
                Answer::blob(signed.bytes.clone(), head, site.profile.ranges)
            }
            _ => error(403, "the signature is wrong or has expired"),
        }
    }

    pub fn manifest(&mut self, site: &Site, head: &Head, repo: &str, reference: &str) -> Answer {
        let profile = &site.profile;
        let found = self.repos.get(repo).and_then(|r| {
            let digest = r.resolve(reference)?;
            let (media_type, bytes) = r.manifests.get(&digest)?;
            Some((digest, media_type.clone(), bytes.clone()))
        });
        let Some((digest, media_type, bytes)) = found else { return unknown_manifest() };
        let accepts = head.headers.iter().filter(|(k, _)| k.eq_ignore_ascii_case("accept"));
        let mut accepts = accepts.flat_map(|(_, v)| v.split(','));
        let accepts = accepts.any(|a| a.split(';').next().map(str::trim) == Some(&media_type));
        if profile.accept_needed && !accepts {
            return unknown_manifest();
        }
        let mut answer = Answer::new(200).with("Content-Type", media_type).shared(bytes);
        if profile.digest_header {
            answer = answer.with("Docker-Content-Digest", digest);
        }
        let Some(limit) = profile.rate_limit else { return answer };
        // Only what is fetched counts.
        if head.method == "GET" {
            self.pulls += 1;
        }
        if self.pulls > limit {
            let message = "You have reached your pull rate limit";
            answer = Answer::error(429, "TOOMANYREQUESTS", message);
        }
        let left = limit.saturating_sub(self.pulls);
        answer
            .with("ratelimit-limit", format!("{limit};w=21600"))
            .with("ratelimit-remaining", format!("{left};w=21600"))
    }

    pub fn tags(&mut self, site: &Site, head: &Head, name: &str) -> Answer {
        let Some(repo) = self.repos.get(name).filter(|r| !r.manifests.is_empty()) else {
            return Answer::error(404, "NAME_UNKNOWN", "repository name not known to registry");
        };
        let asked = head.parameter("n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
        let count = site.profile.page.map_or(usize::MAX, |page| asked.min(page));
        let last = head.parameter("last").unwrap_or_default();
        // What Distribution says of a repository without tags.
        if repo.tags.is_empty() {
            return Answer::new(200).json(&json!({"name": name, "tags": null}));
        }
        let mut tags: Vec<_> = repo.tags.keys().filter(|t| t.as_str() > last).collect();
        let has_more = tags.len() > count;
        tags.truncate(count);
        let found = json!({"name": name, "tags": tags});
        let mut answer = Answer::new(200).json(&found);
        if let Some(last) = tags.last().filter(|_| has_more) {
            let host = if site.profile.location_absolute {
                format!("http://{}", site.host)
            } else {
                String::new()
            };
            let next = format!(r#"<{host}/v2/{name}/tags/list?last={last}&n={count}>; rel="next""#);
            answer = answer.with("Link", next);
        }
        answer
    }

    pub fn referrers(&mut self, site: &Site, head: &Head, name: &str, subject: &str) -> Answer {
        let profile = &site.profile;
        if !profile.referrers {
            return not_found();
        }
        let mut list = Vec::new();
        let wanted = head.parameter("artifactType").filter(|_| profile.referrers_filtered);
        for (media_type, bytes) in
            self.repos.get(name).into_iter().flat_map(|r| r.manifests.values())
        {
            let manifest: Value = serde_json::from_slice(bytes).unwrap_or_default();
            if manifest["subject"]["digest"] != subject {
                continue;
            }
            let own = manifest["artifactType"].as_str();
            let kind = own.or_else(|| manifest["config"]["mediaType"].as_str()).unwrap_or_default();
            if wanted.is_some_and(|w| w != kind) {
                continue;
            }
            let mut entry = json!({
                "mediaType": media_type, "digest": digest(bytes), "size": bytes.len(),
                "artifactType": kind,
            });
            if let Some(annotations) = manifest.get("annotations") {
                entry["annotations"] = annotations.clone();
            }
            list.push(entry);
        }
        let from = head.parameter("from").and_then(|n| n.parse().ok()).unwrap_or(0);
        let end = list.len().min(profile.page.unwrap_or(usize::MAX).saturating_add(from));
        let page = list.get(from..end).unwrap_or_default();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": page});
        let mut answer = Answer::new(200).with("Content-Type", INDEX);
        if wanted.is_some() {
            answer = answer.with("OCI-Filters-Applied", "artifactType");
        }
        if end < list.len() {
            let path = head.target.split('?').next().unwrap_or_default();
            let filter = wanted.map(|w| format!("&artifactType={w}")).unwrap_or_default();
            answer = answer.with("Link", format!(r#"<{path}?from={end}{filter}>; rel="next""#));
        }
        answer.whole(index.to_string())
    }
}
