//! When a client tries again, how often, and how long it waits.

use std::time::Instant;

use super::super::registry::{Fault, Faults, On, Profile, TestRegistry, Throttle};
use super::table::{profiles, start};
use super::*;

/// A client that makes some attempts.
fn client(registry: &TestRegistry, attempts: u32) -> Client {
    Client::with(registry, Cache::default(), |options| options.retry.attempts = attempts)
}

#[test]
fn what_fails_always_is_given_up() {
    let registry = start(Profile::plain());
    registry.add_image("app", "v1", &usual());
    let busy = Fault::Status(503, None);
    for (on, is_push) in [
        (On::BlobGet, false),
        (On::ManifestGet, false),
        (On::UploadPost, true),
        (On::UploadPut, true),
        (On::ManifestPut, true),
    ] {
        registry.set_faults(Faults::none().times(on, 0, 60, busy));
        registry.clear_log();
        let e = if is_push {
            let to = registry.reference("other:v1");
            client(&registry, 4).push(&usual(), &to, &[]).unwrap_err()
        } else {
            client(&registry, 4).pull(&registry.reference("app:v1"), None).unwrap_err()
        };
        assert!(e.to_string().contains("503"), "{e}");
        let mut tried = BTreeMap::new();
        for e in registry.log().iter().filter(|e| e.fault.is_some()) {
            let blob = e.target.split("digest=").last().unwrap_or_default();
            let key = if on == On::UploadPut { blob } else { &e.target };
            *tried.entry(format!("{} {key} {:?}", e.method, e.header("range"))).or_insert(0) += 1;
        }
        assert_eq!(tried.values().max(), Some(&4), "{on:?}: {tried:#?}");
        assert!(tagged(&registry, "other", "v1").is_none());
    }
    // The machine that is not there, and an answer that is final.
    let dead = registry.reference("app:v1");
    let asleep = client(&registry, 100);
    drop(registry);
    let begin = Instant::now();
    asleep.pull(&dead, None).unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn final_answers_are_not_asked_for_again() {
    for status in [400, 403, 404, 405, 409] {
        let registry = start(Profile::plain());
        registry.set_faults(Faults::none().times(
            On::UploadPost,
            1,
            60,
            Fault::Status(status, None),
        ));
        client(&registry, 10).push(&usual(), &registry.reference("app:v1"), &[]).unwrap_err();
        let posts = registry.log().iter().filter(|e| e.method == "POST").count();
        assert!(posts <= 1 + 4, "{status}: {posts} for four blobs");
        assert_eq!(registry.open_uploads(), 0);
    }
}

#[test]
fn a_registry_is_given_the_time_that_it_asks_for() {
    for on in [On::BlobGet, On::ManifestGet, On::UploadPut, On::UploadPost, On::Token] {
        let profile = if on == On::Token { Profile::quay() } else { Profile::plain() };
        let registry = start(profile);
        registry.add_image("app", "v1", &usual());
        registry.set_faults(Faults::none().then(on, Fault::Status(429, Some(2))));
        let begin = Instant::now();
        client(&registry, 3).pull(&registry.reference("app:v1"), None).unwrap();
        client(&registry, 3).push(&usual(), &registry.reference("other:v1"), &[]).unwrap();
        assert!(begin.elapsed() >= Duration::from_secs(2), "{on:?}: {:?}", begin.elapsed());
        assert_discreet(&registry, "");
    }
}

#[test]
fn a_registry_that_limits_requests_gets_fewer_at_a_time() {
    let throttle = Some(Throttle { after: 6, times: 6, retry_after: Some(0) });
    let registry = start(Profile { throttle, ..Profile::plain() });
    let layers: Vec<_> = (0..30).map(|seed| (seed, 2_000)).collect();
    let files = of_layers(&layers).oci_files(Codec::Plain);
    Client::new(&registry).push(&files, &registry.reference("app:v1"), &[]).unwrap();
    assert_eq!(tagged(&registry, "app", "v1").unwrap().1, blobs(&files));
    assert!(registry.peak() <= 4, "{}", registry.peak());
    assert_discreet(&registry, "");
}

#[test]
fn tokens_that_expire_are_renewed_and_nothing_is_lost() {
    for (name, profile) in profiles() {
        let registry = start(profile);
        let reference = registry.reference("app:v1");
        let expire = |on| Faults::none().times(on, 0, 2, Fault::ExpireTokens);
        for on in [On::UploadPut, On::UploadPost, On::BlobHead, On::ManifestPut] {
            registry.set_faults(expire(on));
            let files = of_layers(&[(1, 3_000), (on as u64, 90_000)]).oci_files(Codec::Plain);
            Client::new(&registry).push(&files, &reference, &[]).unwrap();
            assert_eq!(tagged(&registry, "app", "v1").unwrap().1, blobs(&files), "{name} {on:?}");
        }
        for on in [On::BlobGet, On::ManifestGet, On::ManifestHead] {
            registry.set_faults(expire(on));
            Client::new(&registry).pull(&reference, None).unwrap();
        }
        assert_discreet(&registry, name);
    }
}

#[test]
fn a_limit_of_the_body_leads_to_chunks() {
    let files = usual();
    let kept = Profile { body_limit: Some(45 << 10), ..Profile::distribution3() };
    let lost = Profile { body_limit: Some(45 << 10), ..Profile::distribution2() };
    // As nginx does, before the body is read.
    for (profile, answers_early) in [(&kept, false), (&lost, false), (&kept, true)] {
        let registry = start(Profile { answers_early, ..profile.clone() });
        let reference = registry.reference("app:v1");
        Client::new(&registry).push(&files, &reference, &[]).unwrap();
        assert_eq!(tagged(&registry, "app", "v1").unwrap().1, blobs(&files));
        let log = registry.log();
        assert!(log.iter().any(|e| e.method == "PATCH"));
        let refused = log.iter().filter(|e| e.status == 413).map(|e| e.received).sum::<u64>();
        assert!(received(&log) <= total(&blobs(&files)) + refused);
        assert_discreet(&registry, "");
    }
}

#[test]
fn a_limit_that_is_told_before_the_body_is_read_leads_to_chunks() {
    let files = of_layers(&[(1, 8 << 20)]).oci_files(Codec::Plain);
    let registry = start(Profile { answers_early: true, ..Profile::distribution3() });
    // As nginx does, with a connection that is reset while the rest is sent.
    let blobs = blobs(&files);
    let large = blobs.iter().max_by_key(|(_, bytes)| bytes.len()).unwrap().0;
    let refused = Fault::Status(413, None);
    registry.set_faults(Faults::none().times(On::UploadPut, 0, 2, refused).only(large));
    let client = Client::with(&registry, Cache::default(), |options| {
        options.sizes.chunk = 1 << 20;
    });
    client.push(&files, &registry.reference("app:v1"), &[]).unwrap();
    assert_eq!(tagged(&registry, "app", "v1").unwrap().1, blobs);
    let log = registry.log();
    assert_eq!(log.iter().filter(|e| e.method == "PATCH").count(), 9);
}

#[test]
fn a_chunk_that_breaks_is_continued_where_the_registry_has_it() {
    let files = of_layers(&[(1, 200_000)]).oci_files(Codec::Plain);
    let all = total(&blobs(&files));
    for skip in 0..3 {
        for at in [0, 1, 2, 100, CHUNK - 1] {
            let profile = Profile { body_limit: Some(45 << 10), ..Profile::distribution3() };
            let registry = start(profile);
            let broken = Fault::ResetRequest(at);
            registry.set_faults(Faults::none().times(On::UploadPatch, skip, 1, broken));
            Client::new(&registry).push(&files, &registry.reference("app:v1"), &[]).unwrap();
            assert_eq!(tagged(&registry, "app", "v1").unwrap().1, blobs(&files));
            let log = registry.log();
            let refused = log.iter().filter(|e| matches!(e.status, 413 | 416)).map(|e| e.received);
            assert_eq!(received(&log), all + refused.sum::<u64>(), "{skip} {at}");
            let vain = log.iter().filter(|e| e.status == 416).count();
            // `Range: 0-0` is one byte or none.
            assert_eq!(vain, usize::from(skip == 0 && at == 1), "{skip} {at}");
            assert_discreet(&registry, "");
        }
    }
}
