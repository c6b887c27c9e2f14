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
    for word in [
        "570.0 kB of files; ratios with 1 layer\n",
        "1 layer  4 layers",
        "gzip:6",
        "32 KiB",
        "update to",
    ] {
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
    let wrong = tool::output(relayer().args(["bench", &new, "--compression", "lzma:3"]));
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn a_sample_says_what_the_whole_image_takes() {
    let dir = tempfile::tempdir().unwrap();
    // Text of a small vocabulary, more or less of it by folder, so that ratios differ.
    let mut state = 5u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
        state >> 33
    };
    let words: Vec<String> = (0..4000).map(|_| format!("{:x} ", next() % 99_999)).collect();
    let mut items = vec![Item::dir("srv/")];
    for folder in 0..24 {
        items.push(Item::dir(format!("srv/{folder}/")));
        for file in 0..60 {
            let mut text = String::new();
            while text.len() < 20_000 {
                text += &words[(next() % (20 + 150 * folder)) as usize];
            }
            items.push(Item::file(format!("srv/{folder}/{file}"), text.into_bytes()));
        }
    }
    let path = dir.path().join("words.tar");
    fs::write(&path, Image::new(vec![layer(&items)]).docker_legacy()).unwrap();
    let bench = |option: &[&str]| -> Value {
        let args = ["--compression", "gzip:6,zstd:3,zstd:9", "--layers", "2,8", "--json"];
        let text = ok(relayer().arg("bench").arg(&path).args(args).args(option));
        serde_json::from_str(&text).unwrap()
    };
    let (full, sampled) = (bench(&["--full"]), bench(&["--sample", "6MiB"]));
    assert_eq!(full["matrix"]["sample_bytes"], full["matrix"]["file_bytes"]);
    let bytes = |of: &str| sampled["matrix"][of].as_u64().unwrap();
    assert!(bytes("sample_bytes") < bytes("file_bytes") / 4);
    assert_eq!(sampled["matrix"]["compared_at"], 8);
    for row in 0..3 {
        for cell in 0..2 {
            let of = |bench: &Value| bench["matrix"]["rows"][row]["cells"][cell].clone();
            let (exact, found) = (of(&full), of(&sampled));
            // What the others are scaled by is known.
            let scale = (row, cell) == (1, 1);
            assert_eq!(
                (&exact["estimated"], &found["estimated"]),
                (&false.into(), &(!scale).into())
            );
            assert_eq!(exact["tar_bytes"], found["tar_bytes"]);
            let bytes = |cell: &Value| cell["blob_bytes"].as_f64().unwrap();
            let error = bytes(&found) / bytes(&exact) - 1.0;
            assert!(error.abs() < 0.03, "{error:+.3} in {row} {cell}");
        }
        let encode = |bench: &Value| bench["matrix"]["rows"][row]["encode"].as_f64().unwrap();
        assert!(encode(&sampled) > 1e5);
    }
    // Pulls are simulated with the same bytes.
    let form = &sampled["forms"][2];
    let layers = form["layers"].as_array().unwrap();
    let sum: u64 = layers.iter().map(|l| l["blob_bytes"].as_u64().unwrap()).sum();
    assert_eq!(
        (&form["target"], sum),
        (&8.into(), sampled["matrix"]["rows"][1]["cells"][1]["blob_bytes"].as_u64().unwrap())
    );
    let text = ok(relayer().arg("bench").arg(&path).args(["--sample", "6MiB", "--layers", "2"]));
    assert!(text.contains("; ~ is estimated from a sample of 6.3 MB (22 %), --full"), "{text}");
}

/// The text of a table's or tile's element that follows `from` in a page.
fn after<'a>(page: &'a str, from: &str, begin: &str, end: char) -> &'a str {
    let rest = page.split_once(from).unwrap_or_else(|| panic!("{from}")).1;
    let rest = rest.split_once(begin).unwrap_or_else(|| panic!("{begin}")).1;
    rest.split_once(end).unwrap().0
}

#[test]
fn the_headline_the_charts_and_inspect_agree() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new] = versions(dir.path());
    let path = dir.path().join("page.html");
    ok(relayer().args(["report", &old, &new, "--client", "podman", "-o"]).arg(&path));
    let page = fs::read_to_string(&path).unwrap();
    let json = |args: &[&str]| -> Value {
        serde_json::from_str(&ok(relayer().args(args).arg("--json"))).unwrap()
    };
    let inspected = &json(&["inspect", &new])["images"][0];
    let out = dir.path().join("split.tar");
    let split = &json(&["split", &new, "-o", out.to_str().unwrap()])["images"][0];
    let size =
        |value: &Value| relayer::base::byte_size::ByteSize(value.as_u64().unwrap()).to_string();
    let built = size(&inspected["totals"]["download_bytes"]);
    let written = size(&split["after"]["blob_bytes"]);
    assert_eq!(built, size(&split["before"]["download_bytes"]));
    let tile = |id: &str| after(&page, &format!("href=\"#{id}\"><strong"), ">", '<');
    assert_eq!(tile("layers"), format!("{built} → {written}"));
    assert_eq!(after(&page, "id=\"layers\"", "<h3>As built: ", '<'), format!("{built}, 3 layers"));
    let layers = split["after"]["layers"].as_u64().unwrap();
    let plural = if layers == 1 { "layer" } else { "layers" };
    assert_eq!(
        after(&page, "id=\"layers\"", "<h3>Split: ", '<'),
        format!("{written}, {layers} {plural}")
    );
    assert_eq!(after(&page, "id=\"compression\"", "zstd:3</th><td class=\"n\">", '<'), written);
    assert_eq!(tile("deleted"), size(&inspected["waste"]["hidden_bytes"]));
    assert_eq!(tile("duplicates"), size(&inspected["waste"]["duplicate_bytes"]));
    assert_eq!(tile("secrets"), inspected["secrets"].as_array().unwrap().len().to_string());
    assert_eq!(tile("largest"), size(&inspected["largest"][0]["bytes"]));
    // Updates are those of the chosen client.
    let bench = json(&["bench", &old, &new, "--layers", "1", "--compression", "zstd:1"]);
    let loads = &bench["updates"][0]["loads"];
    let by = |form: &str| size(&loads[form]["diff_id"]["bytes"]);
    assert_eq!(tile("updates"), format!("{} → {}", by("built"), by("previous")));
    assert!(page.contains("What podman, which recognises layers by diff ID"));
    // Every link leads somewhere.
    let mut links: Vec<&str> =
        page.split("href=\"#").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    links.sort_unstable();
    links.dedup();
    assert_eq!(links.len(), 11, "{links:?}");
    for id in links {
        assert_eq!(page.matches(&format!("id=\"{id}\"")).count(), 1, "{id}");
    }
}

#[test]
fn a_page_is_the_same_each_time_but_for_speeds() {
    let dir = tempfile::tempdir().unwrap();
    let [_, image] = versions(dir.path());
    let write = |name: &str, threads: &str| {
        let path = dir.path().join(name);
        ok(relayer().args(["report", &image, "--threads", threads, "-o"]).arg(&path));
        let page = fs::read_to_string(path).unwrap();
        // Speeds are in the section of compressions only.
        let (before, rest) = page.split_once("<section id=\"compression\"").unwrap();
        format!("{before}{}", rest.split_once("</section>").unwrap().1)
    };
    assert_eq!(write("1.html", "1"), write("2.html", "3"));
}

/// What measures a page in a frame: a script of the test's own, which the page has none of.
const PROBE: &str = "<script>addEventListener('load', () => { const d = document, e = d.documentElement; \
    const all = q => [...d.querySelectorAll(q)]; \
    const names = all('[tabindex],input,summary').filter(n => \
    !(n.getAttribute('aria-label') || n.textContent.trim() || n.labels?.length || n.querySelector('table'))).length; \
    const seen = n => n.getClientRects().length > 0; \
    const cut = all('.tile span').filter(n => seen(n) && (n.scrollWidth > n.clientWidth + 1 || n.scrollHeight > n.clientHeight + 1)).length; \
    const marks = all('.mark').filter(seen).map(n => n.getBoundingClientRect()).filter(r => r.width > 0); \
    const over = marks.filter((a, i) => marks.some((b, j) => j < i && \
    a.left < b.right && b.left < a.right && a.top + 3 < b.bottom && b.top + 3 < a.bottom)).length; \
    const tile = d.querySelector('.tile'), colour = () => getComputedStyle(tile).backgroundColor; \
    const kind = colour(); d.getElementById('by-churn').click(); const churn = colour(); \
    d.getElementById('pull-1').click(); \
    const panels = [0, 1].map(i => getComputedStyle(d.querySelector('.panel-' + i)).display).join('+'); \
    parent.document.title = ['probe', innerWidth, e.scrollWidth - innerWidth, names, all('figure').length, \
    getComputedStyle(d.body).backgroundColor, cut, over, marks.length > 0, kind != churn, panels, d.scripts.length].join('|'); \
    console.log('probe was here'); });</script>";

/// What Chromium has of a page in a frame of a width: the title that the probe sets, and what it logged.
fn browse(page: &str, width: u32, dark: bool, dir: &Path) -> (String, String) {
    // Windows are not as narrow as phones, but frames are.
    let escaped = page.replace('&', "&amp;").replace('"', "&quot;");
    let frame = format!(
        "<title>none</title><iframe width={width} height=900 srcdoc=\"{escaped}\"></iframe>"
    );
    let path = dir.join("frame.html");
    fs::write(&path, frame).unwrap();
    let mut chromium = Command::new("chromium");
    chromium
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--dump-dom",
            "--enable-logging=stderr",
        ])
        .arg(format!("--user-data-dir={}", dir.join("profile").display()))
        .arg("--window-size=1800,1000")
        .arg(format!("file://{}", path.display()));
    if dark {
        chromium.arg("--blink-settings=preferredColorScheme=0");
    }
    let out = tool::output(&mut chromium);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let document = text(&out.stdout);
    let title = document.split("<title>").nth(1).and_then(|rest| rest.split('<').next());
    (title.unwrap_or_default().to_owned(), text(&out.stderr))
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
    assert!(text.contains("&lt;script&gt;alert(1)"));
    if !tool::needs("chromium") {
        return;
    }
    let probed = text.replace("</body>", &format!("{PROBE}</body>"));
    for (width, dark) in
        [(400, false), (400, true), (800, false), (800, true), (1600, false), (1600, true)]
    {
        let (title, log) = browse(&probed, width, dark, dir.path());
        assert!(log.contains("probe was here"), "the console is seen: {log}");
        let console = log.lines().filter(|l| l.contains("CONSOLE")).count();
        assert_eq!(console, 1, "{log}");
        let found: Vec<&str> = title.split('|').collect();
        assert_eq!(found[1], width.to_string());
        assert!(found[2].parse::<i32>().unwrap() <= 0, "wider than {width}: {title}");
        assert_eq!(found[3], "0", "something that takes the focus has no name");
        assert!(found[4].parse::<u32>().unwrap() >= 5, "{title}");
        assert_eq!(found[5] == "rgb(255, 255, 255)", !dark, "{title}");
        assert_eq!(found[6], "0", "a label of the treemap is cut off at {width}");
        assert_eq!(
            found[7..9],
            ["0", "true"],
            "labels of points overlap at {width}, or there are none"
        );
        assert_eq!(
            found[9..],
            ["true", "none+block", "1"],
            "tabs switch without scripts of the page"
        );
    }
}
