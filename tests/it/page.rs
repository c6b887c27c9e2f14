//! `relayer bench` and `relayer report`, and what a browser makes of the page.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::image::{Image, Item, layer};
use super::tool::{self, ok, relayer};

/// Two versions of an image with some packages' worth of files, and a name that must be escaped.
fn versions(dir: &Path) -> [String; 2] {
    let noise = |seed: u64, n: usize| {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            b'a' + (state >> 60) as u8
        };
        (0..n).map(|_| next()).collect::<Vec<u8>>()
    };
    let build = |version: u64, name: &str| {
        let mut items =
            vec![Item::dir("usr/"), Item::dir("srv/"), Item::dir("srv/<script>alert(1)</script>/")];
        items.push(Item::file("srv/<script>alert(1)</script>/x", noise(7, 90_000)));
        for i in 0..12 {
            items.push(Item::dir(format!("usr/p{i}/")));
            let seed = if i == 3 { 100 * version } else { i };
            items.push(Item::file(format!("usr/p{i}/data"), noise(seed, 40_000)));
        }
        let gone = [Item::dir("tmp/"), Item::file("tmp/cache", noise(50, 30_000))];
        let path = dir.join(name);
        let image =
            Image::new(vec![layer(&gone), layer(&items), layer(&[Item::whiteout("tmp/cache")])]);
        fs::write(&path, image.docker_legacy()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    [build(1, "v1.tar"), build(2, "v2.tar")]
}

#[test]
fn bench_measures_what_split_would_write() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new] = versions(dir.path());
    let args = ["--compression", "gzip:6,zstd:3,none", "--layers", "1,4"];
    let text = ok(relayer().arg("bench").args([&old, &new]).args(args).arg("--json"));
    let bench: Value = serde_json::from_str(&text).unwrap();
    super::cli::is_documented(&bench);
    let matrix = &bench["matrix"];
    assert_eq!(matrix["file_bytes"], 12 * 40_000 + 90_000);
    assert_eq!(matrix["sample_bytes"], matrix["file_bytes"]);
    let out = dir.path().join("s.tar");
    for (row, codec) in ["gzip", "zstd", "none"].iter().enumerate() {
        for (cell, target) in ["1", "4"].iter().enumerate() {
            let found = &matrix["rows"][row]["cells"][cell];
            let args = ["--target", target, "--compression", codec, "--force", "--json", "-o"];
            let split = ok(relayer().arg("split").arg(&new).args(args).arg(&out));
            let split: Value = serde_json::from_str(&split).unwrap();
            assert_eq!(found["blob_bytes"], split["images"][0]["after"]["blob_bytes"]);
            assert_eq!(found["tar_bytes"], split["images"][0]["after"]["tar_bytes"]);
        }
    }
    let step = &bench["updates"][0];
    let bytes = |form: &str| step["loads"][form]["digest"]["bytes"].as_u64().unwrap();
    assert!(bytes("previous") <= bytes("split") && bytes("split") < bytes("built"), "{step}");

    let text = ok(relayer().arg("bench").args([&old, &new]).args(args));
    for word in ["the whole image, 570.0 kB", "1 layer  4 layers", "gzip:6", "32 KiB", "update to"]
    {
        assert!(text.contains(word), "{word} is missing in\n{text}");
    }
    let pulls = bench["cold_pulls"].as_array().unwrap();
    assert_eq!(pulls.len(), 5 * 3, "clients and links");
    for row in pulls {
        let of = |form: usize, what: &str| row["pulls"][form][what].as_f64().unwrap();
        // Both are sums of the same numbers, in another order.
        let least = |form| of(form, "bound") * (1.0 - 1e-9);
        assert!((0..3).all(|form| of(form, "makespan") >= least(form)), "{row}");
        assert_eq!(row["pulls"][2]["spans"].as_array().unwrap().len(), 4);
    }
    let slow = ["--link", "5MB/10MB/200ms", "--client", "docker", "--cores", "1", "--json"];
    let slow = ok(relayer().args(["bench", &new]).args(args).args(slow));
    let slow: Value = serde_json::from_str(&slow).unwrap();
    let row = &slow["cold_pulls"][0];
    assert_eq!(row["rates"]["latency"], 0.2);
    assert!(row["pulls"][1]["makespan"].as_f64() > pulls[0]["pulls"][1]["makespan"].as_f64());
    for (option, value) in [("--link", "fast"), ("--link", "1MB/2MB"), ("--client", "wget")] {
        let wrong = tool::output(relayer().args(["bench", &new, option, value]));
        assert_eq!(wrong.status.code(), Some(2), "{option} {value}");
    }
    let sampled = ok(relayer().args(["bench", &new, "--sample", "100kB"]).args(args));
    assert!(sampled.starts_with("a sample of "), "{sampled}");
    let wrong = tool::output(relayer().args(["bench", &new, "--compression", "lzma:3"]));
    assert_eq!(wrong.status.code(), Some(2));
}

/// What Chromium has of a page at a width: its document, and what it logged.
fn browse(page: &Path, width: u32, dark: bool, profile: &Path) -> (String, String) {
    let mut chromium = Command::new("chromium");
    chromium
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--dump-dom",
            "--enable-logging=stderr",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--window-size={width},900"))
        .arg(format!("file://{}", page.display()));
    if dark {
        chromium.arg("--blink-settings=preferredColorScheme=0");
    }
    let out = tool::output(&mut chromium);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&out.stdout), text(&out.stderr))
}

#[test]
fn a_browser_shows_the_page_at_every_width() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new] = versions(dir.path());
    let page = dir.path().join("page.html");
    let said = ok(relayer().args(["report", &old, &new, "-o"]).arg(&page));
    assert!(said.starts_with("wrote "), "{said}");
    let again = tool::output(relayer().args(["report", &new, "-o"]).arg(&page));
    assert_eq!(again.status.code(), Some(tool::FAILED), "a page is replaced only with --force");
    let text = fs::read_to_string(&page).unwrap();
    assert!(text.len() < 300_000, "{}", text.len());
    for banned in ["<script", "http://", "https://", "@import", "url("] {
        assert!(!text.contains(banned), "{banned}");
    }
    if !tool::needs("chromium") {
        return;
    }
    // A script of the test's own, which the page has none of, measures it.
    let probe = "<script>addEventListener('load', () => { const d = document, e = d.documentElement; \
        const names = [...d.querySelectorAll('[tabindex],input,summary')].filter(n => \
        !(n.getAttribute('aria-label') || n.textContent.trim() || n.labels?.length || n.querySelector('table'))).length; \
        d.title = ['probe', e.scrollWidth - innerWidth, names, d.querySelectorAll('figure').length, \
        getComputedStyle(d.body).backgroundColor].join('|'); console.log('probe was here'); });</script>";
    let probed = dir.path().join("probed.html");
    fs::write(&probed, text.replace("</body>", &format!("{probe}</body>"))).unwrap();
    for (width, dark) in [(400, false), (800, true), (1600, false)] {
        let (document, log) = browse(&probed, width, dark, &dir.path().join("profile"));
        assert!(log.contains("probe was here"), "the console is seen: {log}");
        let console = log.lines().filter(|l| l.contains("CONSOLE")).count();
        assert_eq!(console, 1, "{log}");
        let title = document.split("<title>").nth(1).unwrap().split('<').next().unwrap();
        let found: Vec<&str> = title.split('|').collect();
        assert!(found[1].parse::<i32>().unwrap() <= 0, "wider than {width}: {title}");
        assert_eq!(found[2], "0", "something that takes the focus has no name");
        assert!(found[3].parse::<u32>().unwrap() >= 5, "{title}");
        assert_eq!(found[4] == "rgb(255, 255, 255)", !dark, "{title}");
        assert!(document.contains("&lt;script&gt;alert(1)"));
    }
}
