//! The registry itself, by requests that are written by hand.

use serde_json::json;

use super::by_hand::{Client, token};
use super::*;
use crate::image::{self, Codec, add_index, finish_layout};

const ABC: &[u8] = b"abc";

#[test]
fn blobs_are_verified_and_counted() {
    let registry = TestRegistry::start(Profile::plain());
    let mut client = Client::new(registry.host());
    let name = digest(ABC);
    assert_eq!(client.get("/v2/").status, 200);
    assert_eq!(client.send("HEAD", &format!("/v2/a/b/blobs/{name}"), &[], b"").status, 404);
    let url = client.open("a/b");
    assert_eq!(client.finish(&url, &name, b"abd").code(), "DIGEST_INVALID");
    assert_eq!(client.finish(&url, &name, ABC).code(), "BLOB_UPLOAD_UNKNOWN");
    let url = client.open("a/b");
    let got = client.finish(&url, &name, ABC);
    assert_eq!((got.status, got.header("Docker-Content-Digest")), (201, &*name));
    assert_eq!(registry.blob("a/b", &name).unwrap(), ABC);
    registry.clear_log();
    let got = client.send("GET", &format!("/v2/a/b/blobs/{name}"), &[("Range", "bytes=1-")], b"");
    assert_eq!((got.status, &*got.body), (206, &b"bc"[..]));
    assert_eq!(got.header("Content-Range"), "bytes 1-2/3");
    let path = format!("/v2/a/b/blobs/uploads/?digest={name}");
    assert_eq!(client.send("POST", &path, &[], ABC).status, 201);
    assert_eq!(registry.bytes(), (3, 2));
    let log = registry.log();
    assert_eq!((log[0].status, log[0].header("range")), (206, Some("bytes=1-")));
    assert_eq!((log[0].connection, log[1].line()), (1, format!("POST {path} 201")));
    assert_eq!((registry.open_uploads(), registry.violations().len()), (0, 0));
}

#[test]
fn each_profile_has_its_dialect_of_chunks() {
    let chunks = [&[1; 40][..], &[2; 40], &[3; 10]];
    let (all, name) = (chunks.concat(), digest(&chunks.concat()));
    let sized = |mut profile: Profile| {
        profile.auth = Auth::None;
        (profile.chunk_min, profile.chunk_max) = (20, 50);
        let registry = TestRegistry::start(profile);
        registry.create_repo("r");
        let client = Client::new(registry.host());
        (registry, client)
    };
    // What each of two chunks is answered, and the status after them.
    let cases = [
        (Profile::plain(), 202, "0-39", "0-79", 204),
        (Profile::ecr(), 201, "0-39", "0-39", 404),
        (Profile { range_report: RangeReport::Last, ..Profile::zot() }, 202, "0-39", "40-79", 204),
    ];
    for (profile, status, first, second, asked) in cases {
        let (registry, mut client) = sized(profile);
        let url = client.open("r");
        let got = client.chunk(&url, 0, chunks[0]);
        assert_eq!((got.status, got.header("Range")), (status, first));
        assert_eq!(client.chunk(&url, 0, chunks[0]).status, 416, "the same again");
        assert_eq!(client.chunk(&url, 40, &[9; 51]).status, 416, "too large");
        let got = client.chunk(&url, 40, chunks[1]);
        assert_eq!((got.status, got.header("Range")), (status, second));
        assert_eq!(client.get(&url).status, asked);
        assert_eq!(client.finish(&url, &name, chunks[2]).status, 201);
        assert_eq!(registry.blob("r", &name).unwrap(), all);
        let url = client.open("r");
        assert_eq!(client.chunk(&url, 0, &[1; 10]).status / 100, 2);
        assert_eq!(client.chunk(&url, 10, &[1; 10]).status, 400, "too small before another");
    }
    let (registry, mut client) = sized(Profile::gar());
    let url = client.open("r");
    assert!(url.contains("/artifacts-uploads/"), "{url}");
    assert_eq!(client.chunk(&url, 0, ABC).status, 400);
    assert_eq!(client.send("PATCH", &url, &[], ABC).status, 202);
    assert_eq!(client.finish(&url, &digest(ABC), b"").status, 201);
    assert_eq!(registry.violations(), [""; 0]);
}

#[test]
fn a_profile_can_refuse_ways_to_upload() {
    let name = digest(ABC);
    // A POST, a PATCH and a PUT with all bytes.
    let plain = Profile::plain;
    let cases = [
        (plain(), [201, 202, 201]),
        (Profile { single_post: SinglePost::Accepted, ..plain() }, [202, 202, 201]),
        (Profile { single_post: SinglePost::Refused, ..plain() }, [405, 202, 201]),
        (Profile { patches: Patches::None, ..plain() }, [201, 405, 201]),
        (Profile { monolithic: false, ..plain() }, [201, 202, 405]),
        (Profile { upload_lifetime: Some(0), ..plain() }, [201, 404, 404]),
    ];
    for (i, (profile, answers)) in cases.into_iter().enumerate() {
        let registry = TestRegistry::start(profile);
        let mut client = Client::new(registry.host());
        let path = format!("/v2/r/blobs/uploads/?digest={name}");
        let post = client.send("POST", &path, &[], ABC).status;
        let url = client.open("r");
        let patched = client.send("PATCH", &url, &[], ABC).status;
        let url = client.open("r");
        assert_eq!([post, patched, client.finish(&url, &name, ABC).status], answers, "{i}");
    }
    let elsewhere = Profile { uploads_elsewhere: true, ..Profile::quay() };
    let registry = TestRegistry::start(Profile { auth: Auth::Basic, ..elsewhere });
    let url = Client::known(&registry).open("r");
    assert_eq!(Client::known(&registry).finish(&url, &name, ABC).status, 404);
    assert_eq!(Client::new(registry.other_host()).finish(&url, &name, ABC).status, 201);
}

#[test]
fn a_refusal_can_come_before_the_body_is_read() {
    let registry = TestRegistry::start(Profile { answers_early: true, ..Profile::zot() });
    let body = vec![0; 100_000];
    let got = Client::new(registry.host()).send("PUT", "/v2/r/manifests/a", &[], &body);
    assert_eq!((got.status, got.header("Connection")), (401, "close"));
    assert_eq!(registry.log()[0].received, 0);
}

#[test]
fn a_broken_chunk_is_kept_or_dropped_or_loses_the_upload() {
    // The status after it, and the range that it tells.
    let cases = [
        (Profile::distribution2(), 404, ""),
        (Profile::distribution3(), 204, "0-1"),
        (Profile { status_get: true, ..Profile::ecr() }, 204, "0-0"),
    ];
    for (mut profile, status, range) in cases {
        profile.auth = Auth::None;
        let registry = TestRegistry::start(profile);
        registry.create_repo("r");
        registry.set_faults(Faults::none().then(On::UploadPatch, Fault::ResetRequest(2)));
        let url = Client::new(registry.host()).open("r");
        let broken = Client::new(registry.host()).try_send("PATCH", &url, &[], ABC);
        broken.unwrap_err();
        let entry = registry.log().pop().unwrap();
        assert_eq!((entry.received, entry.status), (2, 0));
        let mut client = Client::new(registry.host());
        let got = client.get(&url);
        assert_eq!((got.status, got.header("Range")), (status, range));
        if range == "0-1" {
            assert_eq!(client.chunk(&url, 2, b"c").status, 404, "an old URL");
            let url = got.header("Location").to_owned();
            assert_eq!(client.finish(&url, &digest(ABC), b"c").status, 201);
            assert_eq!(client.chunk(url.split('?').next().unwrap(), 0, ABC).status, 404);
        }
    }
}

#[test]
fn tokens_have_scopes_and_expire() {
    let registry = TestRegistry::start(Profile::docker_hub());
    registry.put_blob("b", ABC);
    let name = digest(ABC);
    let mut client = Client::new(registry.host());
    let path = format!("/v2/a/blobs/uploads/?mount={name}&from=b");
    let got = client.send("POST", &path, &[], b"");
    let scopes = r#"scope="repository:a:pull,push repository:b:pull""#;
    assert!(got.status == 401 && got.header("WWW-Authenticate").contains(scopes), "{got:?}");
    let host = registry.other_host();
    assert!(got.header("WWW-Authenticate").contains(host));
    let scopes = "&scope=repository:a:pull,push&scope=repository:b:pull";
    // Without a password there is a token, which allows nothing but to pull.
    client.authorization = token(&registry, host, scopes, false);
    assert_eq!(client.send("POST", &path, &[], b"").status, 401);
    client.authorization = token(&registry, host, "&scope=repository:a:pull,push", true);
    assert_eq!(client.send("POST", &path, &[], b"").status, 401, "no pull on the source");
    client.authorization = token(&registry, host, scopes, true);
    assert_eq!(client.send("POST", &path, &[], b"").status, 201);
    registry.advance(299);
    assert_eq!(client.send("POST", &path, &[], b"").status, 201);
    registry.advance(1);
    assert_eq!(client.send("POST", &path, &[], b"").status, 401, "five minutes have passed");
    // By a form, with an identity token.
    let form = format!(
        "grant_type=refresh_token&service=test-registry&refresh_token={REFRESH_TOKEN}&scope={}",
        "repository%3Aa%3Apull%2Cpush+repository%3Ab%3Apull"
    );
    let got = Client::new(host).send("POST", "/token", &[], form.as_bytes());
    client.authorization = Some(format!("Bearer {}", got.json()["access_token"].as_str().unwrap()));
    assert_eq!(client.send("POST", &path, &[], b"").status, 201);
    registry.deny("a", "push");
    assert_eq!(client.send("POST", &path, &[], b"").status, 401, "denied");
    assert_eq!((registry.tokens().len(), registry.violations()), (4, vec![]));
}

#[test]
fn ecr_uses_basic_authentication() {
    let registry = TestRegistry::start(Profile::ecr());
    let mut client = Client::new(registry.host());
    let got = client.get("/v2/");
    assert_eq!((got.status, &got.header("WWW-Authenticate")[..6]), (401, "Basic "));
    assert_eq!(client.get("/token?service=test-registry").status, 404);
    let mut client = Client::known(&registry);
    let got = client.send("POST", "/v2/new/blobs/uploads/", &[], b"");
    assert_eq!((got.status, got.code()), (404, "NAME_UNKNOWN".to_owned()));
    registry.create_repo("new");
    client.open("new");
    registry.set_password("another");
    assert_eq!(client.get("/v2/").status, 401);
    assert!(registry.auth_file().contains(registry.host()));
}

#[test]
fn mounts_depend_on_the_profile() {
    let name = digest(ABC);
    // With the right source, with another, and without.
    let cases = [
        (Mount::On, [201, 202, 202]),
        (Mount::Off, [202, 202, 202]),
        (Mount::NeedsFrom, [201, 202, 400]),
        (Mount::FromIgnored, [201, 201, 201]),
        (Mount::Refused(405), [405, 405, 405]),
    ];
    for (mount, answers) in cases {
        for (i, (from, wanted)) in ["&from=b", "&from=c", ""].into_iter().zip(answers).enumerate() {
            let registry = TestRegistry::start(Profile { mount, ..Profile::plain() });
            registry.put_blob("b", ABC);
            let path = format!("/v2/a/blobs/uploads/?mount={name}{from}");
            let got = Client::new(registry.host()).send("POST", &path, &[], b"");
            assert_eq!(got.status, wanted, "{mount:?} {i}");
            assert_eq!(registry.blobs("a").len(), usize::from(wanted == 201));
        }
    }
}

#[test]
fn manifests_need_their_children_and_their_type() {
    let registry = TestRegistry::start(Profile { tags_in_put: true, ..Profile::plain() });
    let mut client = Client::new(registry.host());
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let blob = json!({"mediaType": "x/y", "digest": digest(ABC), "size": 3});
    let subject = json!({"mediaType": kind, "digest": digest(b"else"), "size": 4});
    let body = json!({"schemaVersion": 2, "mediaType": kind, "config": blob, "layers": [],
        "artifactType": "test/kind", "subject": subject, "annotations": {"a": "b"}});
    let (body, name) = (body.to_string().into_bytes(), digest(body.to_string().as_bytes()));
    let headers = [("Content-Type", kind)];
    let path = format!("/v2/r/manifests/{name}?tag=x&tag=y");
    let got = client.send("PUT", &path, &headers, &body);
    assert_eq!((got.status, got.code()), (400, "MANIFEST_BLOB_UNKNOWN".to_owned()));
    assert!(registry.violations()[0].contains("a manifest before sha256:"));
    registry.put_blob("r", ABC);
    let got = client.send("PUT", &path, &headers, &body);
    assert_eq!((got.status, got.header("OCI-Subject")), (201, &*digest(b"else")));
    assert_eq!(registry.tags("r"), ["x", "y"]);
    assert_eq!(registry.manifest("r", "x").unwrap(), (kind.to_owned(), body));
    let got = client.get(&format!("/v2/r/referrers/{}?artifactType=test/kind", digest(b"else")));
    assert_eq!(got.json()["manifests"][0]["digest"], name);
    assert_eq!(got.header("OCI-Filters-Applied"), "artifactType");
    assert_eq!(client.send("DELETE", "/v2/r/manifests/x", &[], b"").status, 202);
    assert_eq!((registry.tags("r"), registry.manifests("r")), (vec!["y".into()], vec![name]));
}

#[test]
fn images_are_added_and_tags_listed_in_pages() {
    let profile = Profile { page: Some(2), ..Profile::distribution2() };
    let registry = TestRegistry::start(Profile { auth: Auth::None, ..profile });
    let mut files = Vec::new();
    let image = image::small().oci_blobs(Codec::Gzip, &mut files);
    let index = add_index(&[image], &mut files);
    finish_layout(&[index], &mut files);
    let root = registry.add_image("r", "a", &files);
    for tag in ["b", "c", "d", "e"] {
        registry.add_image("r", tag, &files);
    }
    assert_eq!((registry.blobs("r").len(), registry.manifests("r").len()), (3, 2));
    let mut client = Client::new(registry.host());
    assert_eq!(client.get("/v2/r/manifests/a").status, 404, "without Accept");
    let accept = [("Accept", "text/plain, application/vnd.oci.image.index.v1+json;q=0.5")];
    let got = client.send("GET", "/v2/r/manifests/a", &accept, b"");
    assert_eq!((got.status, got.header("Docker-Content-Digest")), (200, &*root));
    let (mut url, mut tags) = ("/v2/r/tags/list?n=100".to_owned(), Vec::new());
    while !url.is_empty() {
        let got = client.get(&url);
        let page = got.json()["tags"].as_array().unwrap().clone();
        assert!(page.len() <= 2);
        tags.extend(page);
        let link = got.header("Link");
        url = link.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
    }
    assert_eq!(tags, registry.tags("r"));
}

#[test]
fn redirects_refuse_authorization_and_expire() {
    let mut profile = Profile::quay();
    profile.auth = Auth::Basic;
    let registry = TestRegistry::start(profile);
    let name = registry.put_blob("r", ABC);
    let got = Client::known(&registry).get(&format!("/v2/r/blobs/{name}"));
    let url = got.header("Location").to_owned();
    assert!(got.status == 302 && url.contains(registry.other_host()), "{got:?}");
    let mut client = Client::new(registry.other_host());
    client.authorization = Some("Basic abc".to_owned());
    assert_eq!(client.get(&url).status, 400);
    assert!(registry.violations()[0].contains("Authorization at another host"));
    client.authorization = None;
    assert_eq!(client.get(&url[..url.len() - 10]).status, 403, "wrong signature");
    assert_eq!(client.get(&url).body, ABC);
    assert_eq!(client.get(&url).status, 403, "used up");
    let log = registry.log();
    assert_eq!((log[1].elsewhere, log[1].authorization()), (true, Some("Basic abc")));
    let registry = TestRegistry::start(Profile { auth: Auth::None, ..Profile::zot() });
    let path = format!("/v2/r/blobs/{}", registry.put_blob("r", ABC));
    let mut client = Client::new(registry.host());
    assert_eq!(client.send("GET", &path, &[("Range", "bytes=0-1")], b"").status, 206);
    assert_eq!(client.get(&path).status, 307);
    let profile = Profile { redirect: Redirect::Never, auth: Auth::None, ..Profile::artifactory() };
    let registry = TestRegistry::start(profile);
    registry.put_blob("r", ABC);
    let mut client = Client::new(registry.host());
    let got = client.send("GET", &path, &[("Range", "bytes=0-1")], b"");
    assert_eq!((got.status, &*got.body), (200, ABC));
}

#[test]
fn limits_are_enforced_and_announced() {
    let throttle = Some(Throttle { after: 1, times: 2, retry_after: Some(0) });
    let limits = Profile { throttle, body_limit: Some(2), ..Profile::plain() };
    let registry = TestRegistry::start(limits);
    let mut client = Client::new(registry.host());
    let mut ask = || client.get("/v2/").status;
    assert_eq!([ask(), ask(), ask(), ask()], [200, 429, 429, 200]);
    let url = client.open("r");
    assert_eq!(client.finish(&url, &digest(ABC), ABC).status, 413);

    let limits = Profile {
        auth: Auth::None,
        warning: Some("old"),
        rate_limit: Some(1),
        ..Profile::docker_hub()
    };
    let registry = TestRegistry::start(Profile { accept_needed: false, ..limits });
    registry.add_image("r", "v1", &image::small().oci_files(Codec::Plain));
    let mut client = Client::new(registry.host());
    assert_eq!((client.get("/v2/").header("Warning"), registry.peak()), ("299 - \"old\"", 1));
    for (method, status, left) in [("HEAD", 200, 1), ("GET", 200, 0), ("GET", 429, 0)] {
        let got = client.send(method, "/v2/r/manifests/v1", &[], b"");
        let left = format!("{left};w=21600");
        assert_eq!((got.status, got.header("ratelimit-remaining")), (status, &*left));
    }
}
