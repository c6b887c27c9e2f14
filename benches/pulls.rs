//! Predicts pulls for `benches/pulls.py`: reads a JSON object per line and prints its makespan in seconds and its
//! bound.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a filter for one script")]

use std::io::BufRead as _;

use relayer::simulate::{Client, Layer, Link, Machine, simulate};
use serde::Deserialize;

#[derive(Deserialize)]
struct Question {
    layers: Vec<Layer>,
    client: String,
    link: Link,
    machine: Machine,
}

fn main() {
    for line in std::io::stdin().lock().lines() {
        let question: Question = serde_json::from_str(&line.unwrap()).unwrap();
        let client = question.client.parse::<Client>().unwrap().model().unwrap();
        let pull = simulate(&question.layers, client, &question.link, &question.machine);
        println!("{} {}", pull.makespan, pull.bound);
    }
}
