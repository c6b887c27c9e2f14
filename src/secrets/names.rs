//! Finds secrets by the name of their file: the table lists the files in which clients store logins,
//! and where in the file the login is. Such a file without a login is not a secret.

use super::addresses;
use super::patterns::{Hit, is_secret, lone_word};
use crate::model::fileset::{base_name, parts};

/// The place of a secret in a file.
enum Look {
    /// The value of one of these keys, given in lower case, in lines of `key = value` or `key: value`
    /// or in JSON.
    Keys(&'static [&'static str]),
    /// The value of every key whose name suggests a secret.
    SecretKeys,
    /// Passwords in URLs.
    Addresses,
    /// The word after `password`, as in `.netrc`.
    AfterPassword,
    /// `<password>…</password>`.
    Element,
    /// The whole file, if it is one word.
    Word,
    /// A password hash in the second field.
    Hash,
    /// The whole file.
    All,
}

struct Rule {
    name: &'static str,
    /// Suffixes of paths, in whole parts; `*` stands for any prefix or suffix of the last part.
    files: &'static [&'static str],
    looks: &'static [Look],
}

use Look::{Addresses, AfterPassword, All, Element, Hash, Keys, SecretKeys, Word};

const RULES: [Rule; 25] = {
    const fn r(name: &'static str, files: &'static [&'static str], looks: &'static [Look]) -> Rule {
        Rule { name, files, looks }
    }
    const YARN: &[&str] = &["_authtoken", "_auth", "_password", "npmauthtoken", "npmauthident"];
    const DOCKER: &[&str] = &["auth", "identitytoken", "registrytoken", "password"];
    const KUBE: &[&str] =
        &["client-key-data", "token", "password", "id-token", "refresh-token", "access-token"];
    const AWS: &[&str] = &[
        "aws_secret_access_key",
        "aws_session_token",
        "secret_key",
        "gs_secret_access_key",
        "gs_oauth2_refresh_token",
    ];
    [
        r("npm-token", &[".npmrc", "npmrc", ".yarnrc", ".yarnrc.yml"], &[Keys(YARN), Addresses]),
        r("netrc", &[".netrc", "_netrc", "apt/auth.conf", "auth.conf.d/*.conf"], &[AfterPassword]),
        r("pypi-password", &[".pypirc"], &[Keys(&["password"]), Addresses]),
        r("pip-password", &["pip.conf", "pip.ini", "uv.toml"], &[Addresses]),
        r(
            "git-credentials",
            &[".git-credentials", ".gitconfig", ".git/config", "git/credentials"],
            &[Addresses],
        ),
        r(
            "docker-auth",
            &[".docker/config.json", ".dockercfg", ".dockerconfigjson", "containers/auth.json"],
            &[Keys(DOCKER)],
        ),
        r(
            "kubeconfig",
            &[".kube/config", "kubeconfig", "*.kubeconfig", "k3s.yaml", "etc/kubernetes/*.conf"],
            &[Keys(KUBE)],
        ),
        r("kubernetes-token", &["serviceaccount/token"], &[Word]),
        r("aws-credentials", &[".aws/credentials", ".aws/config", ".boto", ".s3cfg"], &[Keys(AWS)]),
        r(
            "gcloud-credentials",
            &["application_default_credentials.json", "adc.json"],
            &[Keys(&["refresh_token", "private_key"])],
        ),
        r("gcloud-credentials", &["gcloud/credentials.db", "gcloud/access_tokens.db"], &[All]),
        r(
            "azure-credentials",
            &[
                ".azure/accessTokens.json",
                ".azure/msal_token_cache.json",
                ".azure/msal_token_cache.bin",
                ".azure/service_principal_entries.json",
            ],
            &[All],
        ),
        r("dotenv", &[".env", ".env.*", "*.env", "*.tfvars"], &[SecretKeys, Addresses]),
        r("cargo-token", &[".cargo/credentials", ".cargo/credentials.toml"], &[Keys(&["token"])]),
        r("github-token", &["gh/hosts.yml"], &[Keys(&["oauth_token"])]),
        r("terraform-token", &["credentials.tfrc.json", ".terraformrc"], &[Keys(&["token"])]),
        r("composer-auth", &["composer/auth.json"], &[All]),
        r("gem-key", &[".gem/credentials"], &[Keys(&["rubygems_api_key"])]),
        r("maven-password", &[".m2/settings.xml"], &[Element]),
        r("gradle-password", &[".gradle/gradle.properties"], &[SecretKeys]),
        r("database-password", &[".pgpass"], &[All]),
        r("database-password", &[".my.cnf"], &[Keys(&["password"])]),
        r("password-hash", &["etc/shadow", "etc/shadow-", ".htpasswd"], &[Hash]),
        r("key-store", &["*.p12", "*.pfx", "*.jks", "*.kdbx"], &[All]),
        r(
            "token-file",
            &[
                "token",
                "secret",
                "password",
                "passphrase",
                "api_key",
                "apikey",
                "api-key",
                "access_token",
                "auth_token",
                "secret_key",
                "private_key",
                "credentials",
                "*.token",
                "*.secret",
                "*.password",
                ".vault-token",
                "master.key",
            ],
            &[Word],
        ),
    ]
};

/// Returns the rules that apply to a file of this path, as indexes for [`look`].
pub(super) fn rules_for(path: &[u8]) -> Vec<usize> {
    let name = base_name(path);
    // Excludes examples of files, and key stores that hold public certificates.
    let sample = [&b".example"[..], b".sample", b".template", b".tmpl", b".dist", b".pub"];
    if sample.iter().any(|end| name.ends_with(end))
        || [&b"cacert"[..], b"trust"].iter().any(|part| super::patterns::contains(name, part))
    {
        return Vec::new();
    }
    let fits = |rule: &Rule| rule.files.iter().any(|file| matches(path, file.as_bytes()));
    (0..RULES.len()).filter(|i| fits(&RULES[*i])).collect()
}

fn matches(path: &[u8], pattern: &[u8]) -> bool {
    let mut path = parts(path).rev();
    let mut same = |want: &[u8]| {
        let Some(part) = path.next() else { return false };
        match want.iter().position(|b| *b == b'*') {
            None => part == want,
            Some(star) => {
                let (start, end) = (&want[..star], &want[star + 1..]);
                part.len() > start.len() + end.len()
                    && part.starts_with(start)
                    && part.ends_with(end)
            }
        }
    };
    parts(pattern).rev().all(&mut same)
}

/// Returns the secrets in a file to which rule number `rule` applies.
pub(super) fn look(rule: usize, text: &[u8]) -> Vec<Hit> {
    let Rule { name, looks, .. } = &RULES[rule];
    let mut hits = Vec::new();
    for look in *looks {
        let found: Vec<_> = match look {
            Keys(keys) => valued(text, |key| {
                let lower = key.to_ascii_lowercase();
                let last = lower.rsplit(|b| b":/.".contains(b)).next().unwrap_or_default();
                keys.iter().any(|k| k.as_bytes() == last)
            }),
            SecretKeys => secret_values(text),
            Addresses => addresses::in_urls(text).into_iter().map(|hit| hit.at).collect(),
            AfterPassword => after_password(text),
            Element => elements(text),
            Word => lone_word(text).into_iter().collect(),
            Hash => hashes(text),
            All if text.trim_ascii().len() < 3 => Vec::new(),
            All => std::iter::once(0..text.len()).collect(),
        };
        hits.extend(found.into_iter().map(|at| Hit { rule: name, at }));
    }
    hits.sort_by_key(|hit| hit.at.start);
    hits
}

/// Returns the whole text as a hit if one of these rules is for logins and no settings can be found in
/// the text. Somebody deleted such a file for a reason, and nothing shows that it is harmless.
pub(super) fn unread_login(rules: &[usize], text: &[u8]) -> Option<Hit> {
    let at = span(text, text.trim_ascii());
    let is_login =
        |rule: &usize| !matches!(RULES[*rule].name, "token-file" | "password-hash" | "dotenv");
    let login = !at.is_empty() && rules.iter().any(is_login);
    (login && pairs(text).is_empty()).then_some(Hit { rule: "deleted-login", at })
}

type Spans = Vec<std::ops::Range<usize>>;

/// Returns the range of a part of a text.
fn span(text: &[u8], part: &[u8]) -> std::ops::Range<usize> {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.len()
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|l| !l.starts_with(b"#"))
}

/// Returns the values of `wanted` keys that are secrets.
fn valued(text: &[u8], wanted: impl Fn(&[u8]) -> bool) -> Spans {
    let found = pairs(text).into_iter().filter(|(key, value)| wanted(key) && is_secret(value));
    found.map(|(_, value)| span(text, value)).collect()
}

/// Returns the values of keys whose name suggests a secret.
pub(super) fn secret_values(text: &[u8]) -> Spans {
    let found = pairs(text).into_iter().filter(|(key, value)| suggests_secret(key, value));
    found.map(|(_, value)| span(text, value)).collect()
}

/// Returns the keys and values of a text of lines, or of a JSON document.
fn pairs(text: &[u8]) -> Vec<(&[u8], &[u8])> {
    if matches!(text.trim_ascii_start().first(), Some(b'{')) {
        return json_pairs(text);
    }
    lines(text).filter_map(pair).collect()
}

/// Parses `key = "value"`, `key: value`, `export KEY=value` or `"key": "value",`.
pub(super) fn pair(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.strip_prefix(b"export ").or(line.strip_prefix(b"- ")).unwrap_or(line);
    let equals = line.iter().position(|b| *b == b'=');
    let colon = line.windows(2).position(|w| w[0] == b':' && w[1] == b' ');
    let at = match (equals, colon) {
        (Some(a), Some(b)) => a.min(b),
        (a, b) => a.or(b)?,
    };
    let quotes = |b: &u8| b"\"',;".contains(b);
    let strip = |mut part: &'_ [u8]| -> (usize, usize) {
        let whole = part.len();
        part = part.trim_ascii_start();
        let mut start = whole - part.len();
        let skip = part.iter().take_while(|b| quotes(b)).count();
        start += skip;
        part = part[skip..].trim_ascii_end();
        let end = part.len() - part.iter().rev().take_while(|b| quotes(b)).count();
        (start, start + end)
    };
    let (a, b) = strip(&line[..at]);
    let rest = &line[at + 1..];
    let (c, d) = strip(rest);
    Some((&line[a..b], &rest[c..d]))
}

/// Finds `"key": "value"` at any depth. A quoted text is a key if a colon and another quoted text
/// follow.
fn json_pairs(text: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut strings: Vec<std::ops::Range<usize>> = Vec::new();
    let mut at = 0;
    while let Some(open) = memchr::memchr(b'"', &text[at..]) {
        let start = at + open + 1;
        let mut end = start;
        while end < text.len() && text[end] != b'"' {
            end += 1 + usize::from(text[end] == b'\\');
        }
        let end = end.min(text.len());
        strings.push(start..end);
        at = (end + 1).min(text.len());
    }
    let between = |w: &[std::ops::Range<usize>]| {
        text.get(w[0].end + 1..w[1].start - 1).is_some_and(|gap| gap.trim_ascii() == b":")
    };
    let pairs = strings.windows(2).filter(|w| between(w));
    pairs.map(|w| (&text[w[0].clone()], &text[w[1].clone()])).collect()
}

fn after_password(text: &[u8]) -> Spans {
    let mut words = lines(text).flat_map(|l| l.split(u8::is_ascii_whitespace));
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        if word == b"password"
            && let Some(value) = words.find(|w| !w.is_empty())
            && is_secret(value)
        {
            found.push(span(text, value));
        }
    }
    found
}

fn elements(text: &[u8]) -> Spans {
    let mut found = Vec::new();
    for open in [&b"<password>"[..], b"<passphrase>", b"<privateKey>"] {
        for start in memchr::memmem::find_iter(text, open).map(|i| i + open.len()) {
            let len = memchr::memchr(b'<', &text[start..]).unwrap_or_default();
            if is_secret(&text[start..start + len]) {
                found.push(start..start + len);
            }
        }
    }
    found
}

fn hashes(text: &[u8]) -> Spans {
    let fields = lines(text).filter_map(|line| line.split(|b| *b == b':').nth(1));
    let is = |f: &&[u8]| {
        let hash = f.trim_ascii_start();
        hash.len() >= 13 && !matches!(hash[0], b'!' | b'*')
    };
    fields.filter(is).map(|field| span(text, field)).collect()
}

/// Words in the names of keys whose values are secrets; two words must follow each other.
const TELLING: [&[&str]; 18] = [
    &["password"],
    &["passwd"],
    &["passphrase"],
    &["secret"],
    &["secrets"],
    &["token"],
    &["credential"],
    &["credentials"],
    &["apikey"],
    &["authtoken"],
    &["api", "key"],
    &["access", "key"],
    &["private", "key"],
    &["secret", "key"],
    &["encryption", "key"],
    &["signing", "key"],
    &["auth", "key"],
    &["account", "key"],
];

/// Last words of keys that describe a secret but do not contain it.
const ABOUT: [&str; 28] = [
    "file",
    "path",
    "dir",
    "name",
    "id",
    "ttl",
    "url",
    "uri",
    "type",
    "length",
    "size",
    "expiry",
    "expires",
    "header",
    "endpoint",
    "arn",
    "issuer",
    "algorithm",
    "host",
    "port",
    "lifetime",
    "timeout",
    "version",
    "user",
    "username",
    "policy",
    "enabled",
    "required",
];

/// Whether a variable of this name and value holds a secret.
pub(super) fn suggests_secret(key: &[u8], value: &[u8]) -> bool {
    let key = words(key);
    let has = |wanted: &&[&str]| key.windows(wanted.len()).any(|w| *w == **wanted);
    let path = value.starts_with(b"/") || value.starts_with(b"./");
    TELLING.iter().any(has)
        && key.last().is_some_and(|last| !ABOUT.contains(&last.as_str()))
        && is_secret(value)
        && !path
        && !super::patterns::contains(value, b"://")
}

/// Returns the words of a name such as `AWS_SECRET_ACCESS_KEY`, `npm-token` or `apiKey`, in lower case.
fn words(key: &[u8]) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut before = b' ';
    for b in key {
        if b.is_ascii_alphanumeric() {
            let begins = !before.is_ascii_alphanumeric()
                || b.is_ascii_uppercase() && before.is_ascii_lowercase();
            match words.last_mut().filter(|_| !begins) {
                Some(word) => word.push(char::from(b.to_ascii_lowercase())),
                None => words.push(char::from(b.to_ascii_lowercase()).to_string()),
            }
        }
        before = *b;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<(&'static str, String)> {
        let rules = rules_for(path.as_bytes());
        let hits = rules.into_iter().flat_map(|rule| look(rule, text.as_bytes()));
        hits.map(|hit| (hit.rule, text[hit.at].to_owned())).collect()
    }

    #[test]
    fn logins_are_found_where_their_clients_store_them() {
        for (path, text, rule, value) in [
            ("root/.npmrc", "a=b\n//r.invalid/:_authToken=CORPUS-1\n", "npm-token", "CORPUS-1"),
            (".netrc", "machine h\n login u\n password hunter22\n", "netrc", "hunter22"),
            ("home/u/.pypirc", "[pypi]\npassword = pypi-abcdef\n", "pypi-password", "pypi-abcdef"),
            (
                "etc/pip.conf",
                "[global]\nindex-url = https://u:s3cr3t9@h/simple\n",
                "pip-password",
                "s3cr3t9",
            ),
            (
                "root/.docker/config.json",
                r#"{"auths":{"h":{"auth":"dXNlcjpwYXNzMTIz"}}}"#,
                "docker-auth",
                "dXNlcjpwYXNzMTIz",
            ),
            (
                "root/.kube/config",
                "users:\n- name: a\n  user:\n    client-key-data: LS0tLS1CRUdJTg==\n",
                "kubeconfig",
                "LS0tLS1CRUdJTg==",
            ),
            (
                "root/.aws/credentials",
                "[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n",
                "aws-credentials",
                "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            ),
            ("app/.env", "DEBUG=1\nexport DB_PASSWORD=\"hunter 22\"\n", "dotenv", "hunter 22"),
            ("app/.env.prod", "DATABASE_URL=postgres://u:hunter22@db/x", "dotenv", "hunter22"),
            ("etc/app/token", "CORPUS-TOKEN-1\n", "token-file", "CORPUS-TOKEN-1"),
            ("etc/shadow", "a:*:1:\nroot:$6$abc$defghijk:1:\n", "password-hash", "$6$abc$defghijk"),
            ("r/.m2/settings.xml", "<password>hunter22</password>", "maven-password", "hunter22"),
            ("etc/apt/auth.conf.d/x.conf", "machine h password hunter22", "netrc", "hunter22"),
        ] {
            assert_eq!(found(path, text), [(rule, value.to_owned())], "{path}");
        }
    }

    #[test]
    fn files_of_that_name_without_a_login_are_not_secrets() {
        for (path, text) in [
            ("root/.npmrc", "registry=https://r.invalid/\n_authToken=${NPM_TOKEN}\n; comment\n"),
            ("root/.docker/config.json", r#"{"auths":{"h":{}},"credsStore":"ecr-login"}"#),
            ("app/.env.example", "DB_PASSWORD=hunter22\n"),
            ("app/.env", "TOKENIZERS_PARALLELISM=false\nTOKEN_TTL=1234567\nSECRET_FILE=/run/x/y\n"),
            ("app/.env", "# DB_PASSWORD=hunter22\nDB_PASSWORD=changeme\n"),
            ("etc/shadow", "root:*:19000:0:99999:7:::\napp:!:19000::::::\n"),
            ("etc/app/token", "redacted\n"),
            ("etc/ssl/cacerts.jks", "binary"),
            ("root/xnpmrc", "_authToken=abcdefgh"),
        ] {
            assert_eq!(found(path, text), [], "{path}");
        }
    }

    #[test]
    fn names_of_variables_suggest_secrets() {
        for telling in ["AWS_SECRET_ACCESS_KEY", "npmToken", "db.password", "API_KEY", "X_PASSWD"] {
            assert!(suggests_secret(telling.as_bytes(), b"hunter22"), "{telling}");
        }
        for not in ["GPG_KEY", "AWS_ACCESS_KEY_ID", "TOKEN_FILE", "KEYBOARD", "SECRETARY", "PATH"] {
            assert!(!suggests_secret(not.as_bytes(), b"hunter22"), "{not}");
        }
    }
}
