//! Tests of settings.

use std::fmt::Write as _;

use super::*;

/// A system with a home below `home`, and `/etc`.
struct System(tempfile::TempDir);

impl System {
    fn new(files: &[(&str, &str)]) -> Self {
        let system = Self(tempfile::tempdir().unwrap());
        for (file, text) in files {
            system.write(file, text);
        }
        system
    }

    fn write(&self, file: &str, text: &str) {
        let file = self.0.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    fn load(&self, named: Option<&str>) -> Result<Settings> {
        let root = self.0.path();
        Settings::load_in(root, &|name| match name {
            "HOME" => Some(root.join("home").into()),
            "CONTAINERS_REGISTRIES_CONF" => named.map(|file| root.join(file).into()),
            _ => None,
        })
    }
}

fn settings(text: &str) -> Result<Settings> {
    System::new(&[(SYSTEM_FILE, text)]).load(None)
}

/// Endpoints as text; `!` marks those that are insecure.
fn places(settings: &Settings, host: &str, repository: &str, by_digest: bool) -> String {
    let endpoints = settings.endpoints(host, repository, by_digest).unwrap();
    let text =
        |e: &Endpoint| format!("{}{} {}", if e.insecure { "!" } else { "" }, e.host, e.repository);
    endpoints.iter().map(text).collect::<Vec<_>>().join(", ")
}

#[test]
fn mirrors_come_first_and_the_location_last() {
    let settings = settings(
        r#"unqualified-search-registries = ["example.com"]
        short-name-mode = "enforcing"
        [aliases]
        a = "b/c"
        [[registry]]
        prefix = "example.com/foo"
        location = "internal.example.net/bar"
        [[registry.mirror]]
        location = "mirror-0.local/mirror-for-foo/"
        [[registry.mirror]]
        location = "mirror-1.local:5000"
        insecure = true
        [[registry]]
        location = "plain.local:5000"
        insecure = true"#,
    )
    .unwrap();
    let text = "mirror-0.local mirror-for-foo/image, !mirror-1.local:5000 image, \
                internal.example.net bar/image";
    assert_eq!(places(&settings, "example.com", "foo/image", false), text);
    assert_eq!(places(&settings, "example.com", "food/image", false), "example.com food/image");
    assert_eq!(places(&settings, "plain.local:5000", "a/b", true), "!plain.local:5000 a/b");
    assert_eq!(places(&settings, "other", "a", true), "other a");
    // The name of the mirror itself is left when the prefix is all of the name.
    let e = settings.endpoints("example.com", "foo", false).unwrap_err().to_string();
    assert!(e.contains("\"mirror-1.local:5000\" is not a valid repository"), "{e}");
    assert!(e.contains("registries.conf"), "{e}");
}

#[test]
fn mirrors_can_be_for_tags_or_digests_only() {
    let settings = settings(
        r#"
        [[registry]]
        location = "a"
        mirror = [{ location = "d", pull-from-mirror = "digest-only" },
                  { location = "t", pull-from-mirror = "tag-only" },
                  { location = "x", pull-from-mirror = "all" },
                  { location = "y", pull-from-mirror = "" }]
        [[registry]]
        location = "b"
        mirror-by-digest-only = true
        mirror = [{ location = "m" }]"#,
    )
    .unwrap();
    assert_eq!(places(&settings, "a", "r", true), "d r, x r, y r, a r");
    assert_eq!(places(&settings, "a", "r", false), "t r, x r, y r, a r");
    assert_eq!(places(&settings, "b", "r", true), "m r, b r");
    assert_eq!(places(&settings, "b", "r", false), "b r");
}

#[test]
fn the_longest_prefix_wins() {
    let mut text = String::from("[[registry]]\nprefix = \"*.io\"\ninsecure = true\n");
    for (prefix, location) in [
        ("reg.io", "host"),
        ("reg.io/org", "org"),
        ("reg.io/org/app", "app/app"),
        ("*.reg.io", "sub"),
        ("a.reg.io", "exact"),
    ] {
        let _ = write!(text, "[[registry]]\nprefix = {prefix:?}\nlocation = {location:?}\n");
    }
    let settings = settings(&text).unwrap();
    assert_eq!(places(&settings, "reg.io", "org/app", false), "app app");
    assert_eq!(places(&settings, "reg.io", "org/apple", false), "org apple");
    assert_eq!(places(&settings, "reg.io", "organ/app", false), "host organ/app");
    assert_eq!(places(&settings, "reg.io:5000", "org/app", false), "host:5000 org/app");
    assert_eq!(places(&settings, "x.y.reg.io:1", "a", false), "sub:1 a");
    assert_eq!(places(&settings, "a.reg.io", "a", false), "exact a");
    assert_eq!(places(&settings, "b.io", "a", false), "!b.io a");
    assert_eq!(places(&settings, "io", "b.io/a", false), "io b.io/a");
}

#[test]
fn files_are_read_in_order() {
    let table = |location: &str| format!("[[registry]]\nprefix = 'p'\nlocation = '{location}'\n");
    let system = System::new(&[(SYSTEM_FILE, &(table("system") + &table("second")))]);
    let host = |named| places(&system.load(named).unwrap(), "p", "a", false);
    assert_eq!(host(None), "system a");
    system.write("etc/containers/registries.conf.d/2.conf", &table("second"));
    system.write("etc/containers/registries.conf.d/1.conf", &table("first"));
    system.write("etc/containers/registries.conf.d/3.toml", &table("third"));
    system.write("etc/containers/registries.conf.d/4.conf/x.conf", &table("fourth"));
    assert_eq!(host(None), "second a");
    system.write("home/.config/containers/registries.conf.d/0.conf", &table("home.d"));
    assert_eq!(host(None), "home.d a");
    fs::remove_dir_all(system.0.path().join("home")).unwrap();
    system.write(&format!("home/{USER_FILE}"), &table("home"));
    assert_eq!(host(None), "home a");
    system.write("named", &table("named"));
    assert_eq!(host(Some("named")), "second a");
    let e = system.load(Some("none")).unwrap_err().to_string();
    assert!(e.contains("none: there is no such file"), "{e}");
    assert_eq!(places(&System::new(&[]).load(None).unwrap(), "p", "a", false), "p a");
}

#[test]
fn what_is_blocked_is_an_error_that_names_the_file() {
    let settings = settings("[[registry]]\nlocation = 'docker.io'\nblocked = true").unwrap();
    let e = settings.endpoints("docker.io", "library/a", true).unwrap_err().to_string();
    assert!(e.contains("docker.io/library/a is blocked") && e.contains("registries.conf"), "{e}");
    settings.endpoints("docker.iox", "library/a", true).unwrap();
}

#[test]
fn broken_files_are_errors_that_name_the_place() {
    for (text, expected) in [
        ("\n\n[[registry", "line 3: "),
        ("\n[[registry]]\ninsecure = 'no'", "line 3: "),
        (
            "[[registry]]\nlocation = 'a'\nmirror = [{ location = 'b', pull-from-mirror = 'x' }]",
            "line 3: ",
        ),
        ("[[registry]]\n[[registry.mirror]]\ninsecure = true", "missing field"),
        ("\n\u{0}", "line 2: "),
        ("[[registry]]\ninsecure = true", "neither a prefix nor a location"),
        ("[[registry]]\nprefix = 'a'", "\"a\": it has no location"),
        ("[[registry]]\nlocation = 'https://a'", "is a URL"),
        ("[[registry]]\nprefix = '*.a/b'", "a host only"),
        ("[[registry]]\nlocation = 'a'\nmirror = [{ location = '/' }]", "a mirror has no"),
        (
            "[[registry]]\nlocation = 'a'\nmirror-by-digest-only = true\n\
             mirror = [{ location = 'b', pull-from-mirror = 'all' }]",
            "remove one",
        ),
        ("[registries.insecure]\nregistries = ['a']", "version 1"),
    ] {
        let e = settings(text).unwrap_err().to_string();
        assert!(e.contains(expected) && e.contains("registries.conf"), "{text:?}: {e}");
    }
    settings("[registries.search]\nregistries = ['docker.io']").unwrap();
    assert!(settings(&format!("a = {}", "[".repeat(100_000))).is_err());
    assert!(settings(&"#".repeat(2 << 20)).unwrap_err().to_string().contains("1048576"));
    let system = System::new(&[]);
    let file = system.0.path().join(SYSTEM_FILE);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, b"a = 1\nb = '\xff'").unwrap();
    assert!(system.load(None).unwrap_err().to_string().contains("line 2: it is not UTF-8"));
    for location in ["a b", "a/B", "a//b", "..", "a/b:tag"] {
        let text = format!("[[registry]]\nprefix = 'p'\nlocation = '{location}'");
        assert!(settings(&text).unwrap().endpoints("p", "r", false).is_err(), "{location}");
    }
}
