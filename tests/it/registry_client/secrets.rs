//! Passwords and tokens appear in no output, whether a command succeeds or fails.

use std::path::Path;
use std::process::{Command, Output};

use relayer::transport::registry::credentials::{Credentials, Secret};
use relayer::transport::registry::keychain::Keychain;

use super::super::registry::{Fault, Faults, On, Profile, REFRESH_TOKEN, TestRegistry};
use super::super::tool::{self, said};
use super::*;

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(text: &str) -> String {
    let bits: String = text.bytes().map(|b| format!("{b:08b}")).collect();
    let digit = |bits: &[u8]| {
        let text = format!("{:0<6}", std::str::from_utf8(bits).unwrap());
        DIGITS[usize::from_str_radix(&text, 2).unwrap()] as char
    };
    let mut out: String = bits.as_bytes().chunks(6).map(digit).collect();
    while !out.len().is_multiple_of(4) {
        out.push('=');
    }
    out
}

/// A secret in the forms in which it is sent, without what the form ends with.
fn forms(secret: &str) -> Vec<String> {
    let escaped = |plus: bool| -> String {
        let escape = |b: u8| match b {
            b' ' if plus => "+".to_owned(),
            b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => (b as char).to_string(),
            b => format!("%{b:02X}"),
        };
        secret.bytes().map(escape).collect()
    };
    let all =
        [secret.to_owned(), base64(secret), escaped(true), escaped(false), format!("{secret:?}")];
    all.iter().map(|form| form.trim_matches(['=', '"']).to_owned()).collect()
}

/// What may not be seen of a registry.
fn secrets(registry: &TestRegistry) -> Vec<String> {
    let mut all = registry.tokens();
    all.push(registry.password());
    all.push(format!("{}:{}", registry.user(), registry.password()));
    all.push(REFRESH_TOKEN.to_owned());
    let mut forms: Vec<String> = all.iter().flat_map(|secret| forms(secret)).collect();
    // The beginning of any token.
    forms.push("test-token-".to_owned());
    forms
}

fn check(registry: &TestRegistry, text: &str, what: &str) {
    for secret in secrets(registry) {
        assert!(!text.contains(&secret), "{what}: {secret:.20} in {text}");
    }
}

/// Runs a command with a file of credentials.
fn run(dir: &Path, authfile: &str, args: &[&str]) -> Output {
    fs::write(dir.join("auth.json"), authfile).unwrap();
    let mut command: Command = tool::relayer();
    command.args(args).args(["--authfile", "auth.json", "--cache", "cache"]);
    if args[0] != "inspect" {
        command.arg("--force");
    }
    command.env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full");
    tool::output(command.current_dir(dir))
}

#[test]
fn no_command_prints_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    image::write_files(&dir.path().join("in"), &usual());
    for (name, profile) in Profile::all() {
        let registry = TestRegistry::start(profile);
        for repo in ["app", "denied"] {
            registry.create_repo(repo);
        }
        registry.deny("denied", "push");
        let (good, user) = (registry.auth_file(), registry.user().to_owned());
        let pair = base64(&format!("{user}:{}", registry.password()));
        let identity = serde_json::json!({"auths": {registry.host(): {"auth": base64(&format!("{user}:")),
            "identitytoken": REFRESH_TOKEN}}});
        let fields = serde_json::json!({"auths": {registry.host(): {"username": user,
            "password": registry.password()}}});
        let (ok, fail) = (Some(0), Some(tool::FAILED));
        let at = |name: &str| registry.reference(name);
        let mut texts = 0;
        let mut go = |authfile: &str, args: &[&str], code: Option<i32>, faults: Faults| {
            registry.set_faults(faults);
            let out = run(dir.path(), authfile, args);
            let text = said(&out);
            check(&registry, &text, &format!("{name}: {args:?}"));
            assert!(code.is_none() || out.status.code() == code, "{name}: {args:?}: {text}");
            texts += text.len();
        };
        let none = Faults::none;
        go(&good, &["copy", "in", &at("app:v1"), "--verbose"], ok, none());
        go(&good, &["copy", &at("app:v1"), "oci:out", "--verbose"], ok, none());
        go(&good, &["copy", &at("app:v1"), "oci:out", "--json"], ok, none());
        go(&good, &["inspect", &at("app:v1")], ok, none());
        go(&good, &["split", &at("app:v1"), "-o", &at("app:v2"), "-v"], ok, none());
        go(&fields.to_string(), &["inspect", &at("app:v2"), "--json"], ok, none());
        go(&identity.to_string(), &["copy", "in", &at("app:v1"), "-v"], None, none());
        go(&good, &["copy", "in", &at("denied:v1"), "-v"], None, none());
        go(&good, &["copy", &at("app:none"), "oci:out", "-v"], fail, none());
        go(&good, &["copy", &at("none:v1"), "oci:out", "-v"], fail, none());
        go(&pair, &["copy", "in", &at("app:v1")], None, none());
        go(&good.replace('}', ""), &["copy", "in", &at("app:v1")], None, none());
        go(
            &good.replace(&*pair, &registry.password()),
            &["copy", "in", &at("app:v1")],
            None,
            none(),
        );
        let all = |on, fault| none().times(on, 0, 1_000, fault);
        go(
            &good,
            &["copy", "in", &at("app:v3"), "-v"],
            None,
            all(On::Token, Fault::Status(400, None)),
        );
        let location = Fault::WrongLocation("ftp://u:p@127.0.0.1/nowhere");
        let posts = all(On::UploadPost, location);
        let files = of_layers(&[(99, 1_000)]).oci_files(Codec::Gzip);
        image::write_files(&dir.path().join("other"), &files);
        go(&good, &["copy", "other", &at("app:v4"), "-v"], fail, posts);
        let loops = all(On::ManifestHead, Fault::RedirectTo("http://u:p@127.0.0.1:1/"));
        go(&good, &["copy", &at("app:v1"), "oci:out", "-v"], fail, loops);
        registry.set_password("another");
        go(&good, &["copy", "in", &at("app:v5"), "-v"], None, none());
        go(&good, &["copy", &at("app:v1"), "oci:out", "-v"], None, none());
        assert!(texts > 1_000, "{name}");
    }
}

#[test]
fn debug_shows_no_secret() {
    let registry = TestRegistry::start(Profile::docker_hub());
    let client = Client::new(&registry);
    client.push(&usual(), &registry.reference("app:v1"), &[]).unwrap();
    let reference: Reference = registry.reference("app:v2").parse().unwrap();
    let to = Destination::new(reference, false, &[], &client.access.registries, &[]).unwrap();
    let place = Place::at(&registry.reference("app:v1").parse().unwrap(), &client.access).unwrap();
    let (bundle, _) = place.unchanged(None, None, false, ROOM).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let authfile = dir.path().join("auth.json");
    fs::write(&authfile, registry.auth_file()).unwrap();
    let keychain = Keychain::new(Some(authfile), &|_| None).unwrap();
    let found = keychain.find(registry.host(), "app").unwrap();
    assert!(matches!(&found, Credentials::Basic { .. }));
    let identity = Credentials::IdentityToken(Secret::new(REFRESH_TOKEN.to_owned()));
    let shown = format!(
        "{:?} {:#?} {to:?} {place:?} {bundle:?} {keychain:?} {found:?} {identity:?} {:#?}",
        client.access, client.access.registries, found
    );
    check(&registry, &shown, "Debug");
    assert!(!registry.tokens().is_empty());
}
