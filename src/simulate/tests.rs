//! Properties of pulls.

use proptest::prelude::*;

use super::events::share;
use super::*;
use crate::model::digest::Digest;

const FAST: Machine = Machine { cores: 1000, speed: 1.0 };

fn layer(stored: u64) -> Layer {
    Layer {
        blob_bytes: stored,
        tar_bytes: stored * 3,
        entries: stored / 10_000,
        compression: CompressionKind::Gzip,
    }
}

fn layers() -> impl Strategy<Value = Vec<Layer>> {
    let codec = prop::sample::select(vec![
        CompressionKind::None,
        CompressionKind::Gzip,
        CompressionKind::Zstd,
    ]);
    let one = (0u64..60_000_000, 1u64..6, 0u64..9_000, codec).prop_map(
        |(stored, ratio, files, compression)| Layer {
            blob_bytes: stored,
            tar_bytes: stored * ratio,
            entries: files,
            compression,
        },
    );
    prop::collection::vec(one, 0..24)
}

fn links() -> impl Strategy<Value = Link> {
    (1.0..900.0f64, 1.0..8.0f64, 0.0..0.2f64).prop_map(|(mb, times, latency)| Link {
        per_connection: mb * 1e6,
        total: mb * 1e6 * times,
        latency,
    })
}

fn clients() -> impl Strategy<Value = ClientModel> {
    prop::sample::select(MODELS.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_pull_is_faster_than_its_bound(
        layers in layers(), link in links(), client in clients(), cores in 1u32..9,
    ) {
        let machine = Machine { cores, speed: 1.0 };
        let pull = simulate(&layers, &client, &link, &machine);
        prop_assert!(pull.makespan >= pull.bound * (1.0 - 1e-9), "{} {}", pull.makespan, pull.bound);
        prop_assert_eq!(pull.bytes, layers.iter().map(|l| l.blob_bytes).sum::<u64>());
        for (span, layer) in pull.spans.iter().zip(&layers) {
            let download = span.download.unwrap();
            let bytes = layer.blob_bytes as f64;
            let connections = f64::from(if client.range.is_some() { client.downloads } else { 1 });
            let fastest = (link.per_connection * connections).min(link.total);
            prop_assert!((download.end - download.start) * fastest >= bytes * (1.0 - 1e-6) - 1.0);
            if let Some(unpack) = span.unpack {
                prop_assert!(unpack.start >= download.end);
            }
        }
        if client.unpacks == 1 {
            let ends = pull.spans.windows(2).map(|w| (w[0].unpack.unwrap(), w[1].unpack.unwrap()));
            for (below, above) in ends {
                prop_assert!(above.start >= below.end);
            }
        }
    }

    /// With cores for all, since sharing them has the anomalies of any schedule, as have slots
    /// that unpacking takes.
    #[test]
    fn better_is_never_slower(
        layers in layers(), link in links(), client in clients(),
        at in any::<prop::sample::Index>(), more in 1u64..50_000_000, times in 1.0..4.0f64,
    ) {
        prop_assume!(!client.unpacks_in_slot && client.unpacks < 2 && client.range.is_none());
        prop_assume!(!layers.is_empty());
        let link = Link { latency: 0.0, ..link };
        // Bytes alone: what is computed of them would end after them otherwise.
        let client = ClientModel { costs: Costs { fetch: 0.0, ..client.costs }, decodes_twice: false, ..client };
        let slack = 1.0 + 1e-9;
        let base = simulate(&layers, &client, &link, &FAST).makespan;
        let faster = Link { per_connection: link.per_connection * times, ..link };
        prop_assert!(simulate(&layers, &client, &faster, &FAST).makespan <= base * slack);
        let wider = Link { total: link.total * times, ..link };
        prop_assert!(simulate(&layers, &client, &wider, &FAST).makespan <= base * slack);
        let quick = Machine { speed: times, ..FAST };
        prop_assert!(simulate(&layers, &client, &link, &quick).makespan <= base * slack);
        let mut larger = layers.clone();
        let i = at.index(layers.len());
        larger[i].blob_bytes += more;
        prop_assert!(simulate(&larger, &client, &link, &FAST).makespan * slack >= base);
        larger[i].tar_bytes += more;
        prop_assert!(simulate(&larger, &client, &link, &FAST).makespan * slack >= base);
    }

    #[test]
    fn one_layer_is_a_formula(stored in 1u64..90_000_000, link in links()) {
        for client in &MODELS {
            if client.range.is_some() {
                continue;
            }
            let one = layer(stored);
            let costs = &client.costs;
            let (bytes, unpacked) = (stored as f64, one.tar_bytes as f64);
            let (decoding, hashing) = (costs.gzip * unpacked / 1e9, costs.hash * unpacked / 1e9);
            let writing = (costs.write * unpacked + costs.file * one.entries as f64) / 1e9 + costs.layer;
            let again = if client.decodes_twice { decoding + hashing } else { 0.0 };
            let trips = f64::from(client.image_trips) * link.latency;
            let asked = f64::from(client.layer_trips) * link.latency;
            let download =
                asked + (bytes / link.per_connection.min(link.total)).max(costs.fetch * bytes / 1e9 + again);
            let unpack = if client.unpacks == 0 { 0.0 } else { decoding.max(hashing + writing) };
            let want = trips + download + unpack + costs.image;
            let got = simulate(&[one], client, &link, &FAST).makespan;
            prop_assert!((got - want).abs() < want * 1e-9, "{}: {} {}", client.client, got, want);
        }
    }
}

#[test]
fn three_downloads_share_a_link_and_a_fourth_waits() {
    let costs = Costs {
        fetch: 0.0,
        gzip: 0.0,
        zstd: 0.0,
        hash: 0.0,
        write: 0.0,
        file: 0.0,
        layer: 0.0,
        image: 0.0,
    };
    let docker = ClientModel { costs, ..*Client::Docker.model().unwrap() };
    let link = Link { per_connection: 10e6, total: 15e6, latency: 0.0 };
    let pull = simulate(&[layer(10_000_000); 4], &docker, &link, &FAST);
    let ends: Vec<f64> = pull.spans.iter().map(|s| s.download.unwrap().end).collect();
    // Three at 5 MB/s, then one at 10.
    for (end, want) in ends.iter().zip([2.0, 2.0, 2.0, 3.0]) {
        assert!((end - want).abs() < 1e-9, "{ends:?}");
    }
    assert!((pull.bound - 8.0 / 3.0).abs() < 1e-9 && pull.requests == 7);
}

#[test]
fn cores_are_shared_up_to_what_each_can_use() {
    assert!(share(vec![1.0, 1.0], 2.0).is_infinite());
    assert!((share(vec![1.0, 1.0, 1.0, 1.0], 2.0) - 0.5).abs() < 1e-12);
    assert!((share(vec![0.2, 3.0, 3.0], 2.0) - 0.9).abs() < 1e-12);
}

#[test]
fn an_update_loads_what_is_missing_and_unpacks_what_is_above() {
    let id = |name: &u8| {
        let digest = Digest::of(&[*name]);
        Identity { digest, diff_id: digest }
    };
    let stack = |names: &str| -> Vec<Identity> { names.as_bytes().iter().map(id).collect() };
    let (old, new) = (stack("abcd"), stack("acdee"));
    let text = |reuse| -> String {
        let one = |n: &Need| match (n.download, n.unpack) {
            (true, true) => 'B',
            (true, false) => 'D',
            (false, true) => 'u',
            (false, false) => '-',
        };
        needs(reuse, &old, &new).iter().map(one).collect()
    };
    assert_eq!(text(Reuse::Chain), "-BBBu");
    assert_eq!(text(Reuse::Digest), "-uuBu");
    assert_eq!(text(Reuse::DiffId), "-uuBu");
    let podman = Client::Podman.model().unwrap();
    let layers = [layer(5_000_000); 5];
    let cold = simulate(&layers, podman, &LINKS[0].link, &MACHINE);
    let update = simulate_update(
        &layers,
        &needs(Reuse::DiffId, &old, &new),
        podman,
        &LINKS[0].link,
        &MACHINE,
    );
    assert!(update.makespan < cold.makespan && update.bytes == 5_000_000);
    assert!(update.spans[0].unpack.is_none() && update.spans[1].download.is_none());
    assert!(update.bound <= update.makespan);
    // Nothing to do takes no longer than asking.
    let none = vec![Need { download: false, unpack: false }; 5];
    let nothing = simulate_update(&layers, &none, podman, &LINKS[0].link, &MACHINE);
    assert!((nothing.makespan - nothing.bound).abs() < 1e-12);
}

#[test]
fn ranges_take_a_large_layer_apart() {
    let soci = Client::Soci.model().unwrap();
    let link = Link { per_connection: 10e6, total: 1e9, latency: 0.01 };
    let many = Machine { cores: 64, speed: 1.0 };
    let ranges = simulate(&[layer(400_000_000)], soci, &link, &many);
    let whole =
        simulate(&[layer(400_000_000)], &ClientModel { range: None, ..*soci }, &link, &many);
    assert!(ranges.spans[0].download.unwrap().end < whole.spans[0].download.unwrap().end / 8.0);
    assert_eq!(ranges.requests, 3 + 24);
}

#[test]
fn every_client_is_found_by_its_name_and_others_are_told_the_list() {
    for client in Client::ALL {
        assert_eq!(client.name().parse::<Client>().unwrap(), client);
        assert_eq!(client.profile().map(|p| p.client), client.model().copied());
    }
    let modelled: Vec<Client> = Client::ALL.into_iter().filter(|c| c.model().is_some()).collect();
    assert_eq!(modelled, MODELS.map(|model| model.client));
    let unknown = "nerdctl".parse::<Client>().unwrap_err().to_string();
    assert!(unknown.contains("containerd-2, ctr, eks, podman"), "{unknown}");
}
