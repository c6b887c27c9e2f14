//! The simulation: the activities at a moment, their speeds, and which one ends first.
//!
//! Downloads share the link evenly, up to the speed of a connection. Computations share the cores
//! evenly, up to the number that each can use. Both are fluid: the state is how much is left of each,
//! and time advances to the next end.

use super::{ClientModel, CompressionKind, Interval, Layer, LayerTimes, Link, Machine, Need};

/// The work of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Job {
    /// Bytes to download.
    pub(super) bytes: u64,
    /// Number of requests; 0 if it is not downloaded.
    pub(super) requests: u64,
    /// Core seconds during the download.
    pub(super) fetching: f64,
    /// Core seconds to unpack it.
    pub(super) unpacking: f64,
    /// Number of cores that unpacking can use.
    pub(super) width: f64,
    unpacks: bool,
}

const NANO: f64 = 1e-9;

impl Job {
    pub(super) fn new(layer: &Layer, need: Need, client: &ClientModel, machine: &Machine) -> Self {
        let costs = &client.costs;
        let decode = match layer.compression {
            CompressionKind::None => 0.0,
            CompressionKind::Gzip => costs.gzip,
            CompressionKind::Zstd => costs.zstd,
        };
        let tar_bytes = layer.tar_bytes as f64;
        let decoding = decode * tar_bytes * NANO;
        let hashing = costs.hash * tar_bytes * NANO;
        let writing = (costs.write * tar_bytes + costs.file * layer.entries as f64) * NANO;

        let mut fetching = costs.fetch * layer.blob_bytes as f64 * NANO;
        if client.decodes_twice {
            fetching += decoding + hashing;
        }
        // Decompression runs in a process or goroutine of its own.
        let rest = hashing + writing + costs.layer;
        let unpacking = decoding + rest;
        let longest = decoding.max(rest);
        let unpacks = need.unpack && client.unpacks > 0;
        let requests = match client.range {
            Some(range) => layer.blob_bytes.div_ceil(range).max(1),
            None => 1,
        };
        Self {
            bytes: if need.download { layer.blob_bytes } else { 0 },
            requests: if need.download { requests } else { 0 },
            fetching: if need.download { fetching / machine.speed } else { 0.0 },
            unpacking: if unpacks { unpacking / machine.speed } else { 0.0 },
            width: if longest > 0.0 { unpacking / longest } else { 1.0 },
            unpacks,
        }
    }
}

/// A running request.
struct Flow {
    layer: usize,
    waiting: f64,
    bytes: f64,
    work: f64,
}

/// A layer being unpacked.
struct Unpack {
    layer: usize,
    work: f64,
    width: f64,
}

/// The rest of a layer's download.
#[derive(Clone, Copy)]
struct Left {
    unasked: u64,
    unanswered: u64,
    bytes: u64,
}

/// Simulates a pull from the first request for a layer on, and returns a span for each job.
pub(super) fn run(
    jobs: &[Job],
    client: &ClientModel,
    link: &Link,
    machine: &Machine,
) -> Vec<LayerTimes> {
    let mut state = State {
        jobs,
        client,
        spans: (0..jobs.len()).map(|layer| LayerTimes { layer, ..LayerTimes::default() }).collect(),
        left: jobs
            .iter()
            .map(|j| Left { unasked: j.requests, unanswered: j.requests, bytes: j.bytes })
            .collect(),
        flows: Vec::new(),
        unpacks: Vec::new(),
        next: 0,
        waiting: (0..jobs.len()).filter(|i| jobs[*i].unpacks).collect(),
        now: 0.0,
    };
    let trip = f64::from(client.layer_trips) * link.latency;
    loop {
        state.start(trip);
        if state.flows.is_empty() && state.unpacks.is_empty() {
            return state.spans;
        }
        state.step(link, machine);
    }
}

struct State<'a> {
    jobs: &'a [Job],
    client: &'a ClientModel,
    spans: Vec<LayerTimes>,
    left: Vec<Left>,
    flows: Vec<Flow>,
    unpacks: Vec<Unpack>,
    /// All layers before this one have been requested.
    next: usize,
    /// Layers to unpack, lowest first.
    waiting: Vec<usize>,
    now: f64,
}

impl State<'_> {
    /// Starts all activities that can start now.
    fn start(&mut self, trip: f64) {
        let (now, client) = (self.now, self.client);
        let all_there = self.left.iter().all(|l| l.unanswered == 0);
        let mut at = 0;
        while at < self.waiting.len() && self.unpacks.len() < client.unpacks as usize {
            let layer = self.waiting[at];
            if self.left[layer].unanswered == 0 && (all_there || !client.after_all) {
                let Job { unpacking: work, width, .. } = self.jobs[layer];
                self.unpacks.push(Unpack { layer, work, width });
                self.spans[layer].unpack = Some(Interval { start: now, end: now });
                self.waiting.remove(at);
            } else if client.unpacks == 1 {
                break;
            } else {
                at += 1;
            }
        }
        let taken = if client.unpacks_in_slot { self.unpacks.len() } else { 0 };
        // An unpacking takes a slot, but never the last one.
        let slots = (client.downloads as usize).saturating_sub(taken).max(1);
        while self.flows.len() < slots && self.next < self.jobs.len() {
            let left = &mut self.left[self.next];
            if left.unasked == 0 {
                self.next += 1;
                continue;
            }
            let job = &self.jobs[self.next];
            let bytes = left.bytes.min(client.range.unwrap_or(u64::MAX));
            left.bytes -= bytes;
            left.unasked -= 1;
            let work = job.fetching / job.requests as f64;
            self.flows.push(Flow { layer: self.next, waiting: trip, bytes: bytes as f64, work });
            let span = &mut self.spans[self.next];
            span.download.get_or_insert(Interval { start: now, end: now });
        }
    }

    /// Advances to the first end of an activity.
    fn step(&mut self, link: &Link, machine: &Machine) {
        let receiving = self.flows.iter().filter(|f| f.waiting <= 0.0 && f.bytes > 0.0).count();
        let rate = (link.total / receiving.max(1) as f64).min(link.per_connection);
        let working = self.flows.iter().filter(|f| f.waiting <= 0.0 && f.work > 0.0);
        let widths = working.map(|_| 1.0).chain(self.unpacks.iter().map(|u| u.width));
        let share = share(widths.collect(), f64::from(machine.cores));
        let mut dt = f64::INFINITY;
        for flow in &self.flows {
            if flow.waiting > 0.0 {
                dt = dt.min(flow.waiting);
                continue;
            }
            if flow.bytes > 0.0 {
                dt = dt.min(flow.bytes / rate);
            }
            if flow.work > 0.0 {
                dt = dt.min(flow.work / share.min(1.0));
            }
            if flow.bytes <= 0.0 && flow.work <= 0.0 {
                dt = 0.0;
            }
        }
        for unpack in &self.unpacks {
            dt = dt.min(unpack.work / share.min(unpack.width));
        }
        self.now += dt;
        // Activities that end in this step end now, despite rounding.
        let spend = |left: &mut f64, rate: f64| {
            *left = if *left / rate <= dt { 0.0 } else { *left - rate * dt };
        };
        for flow in &mut self.flows {
            if flow.waiting > 0.0 {
                spend(&mut flow.waiting, 1.0);
                continue;
            }
            spend(&mut flow.bytes, rate);
            spend(&mut flow.work, share.min(1.0));
        }
        for unpack in &mut self.unpacks {
            spend(&mut unpack.work, share.min(unpack.width));
        }
        let Self { flows, unpacks, spans, left, now, .. } = self;
        flows.retain(|flow| {
            let done = flow.waiting <= 0.0 && flow.bytes <= 0.0 && flow.work <= 0.0;
            if done {
                left[flow.layer].unanswered -= 1;
                if let Some(download) = &mut spans[flow.layer].download {
                    download.end = *now;
                }
            }
            !done
        });
        unpacks.retain(|unpack| {
            if unpack.work <= 0.0
                && let Some(interval) = &mut spans[unpack.layer].unpack
            {
                interval.end = *now;
            }
            unpack.work > 0.0
        });
    }
}

/// Returns the cores of each activity: none takes more than its width, and the rest is shared evenly.
pub(super) fn share(mut widths: Vec<f64>, cores: f64) -> f64 {
    widths.sort_by(f64::total_cmp);
    let mut left = cores;
    for (i, width) in widths.iter().enumerate() {
        let even = left / (widths.len() - i) as f64;
        if *width > even {
            return even;
        }
        left -= width;
    }
    f64::INFINITY
}
