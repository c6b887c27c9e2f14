//! Finding credentials where docker, podman and skopeo keep them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::auth_file::{AuthFile, Found};
use super::config_file::{Environment, check_host, path, read};
use super::credentials::Credentials;
use super::helper;
use crate::base::error::{Context, Error, ErrorKind, Result};

/// Time for a helper's answer. Some wait for a network for minutes.
const HELPER_LIMIT: Duration = Duration::from_secs(30);

/// The helper and the server that it is asked for.
type Question = (String, String);

/// A helper's answer, which all who ask share; an error as its kind and message.
type Answer = Arc<OnceLock<Result<Option<Credentials>, (ErrorKind, String)>>>;

/// The files of credentials of a user, and the answers of their helpers.
#[derive(Debug)]
pub struct Keychain {
    files: Vec<(PathBuf, AuthFile)>,
    /// Whether the user named the file: its faults are errors.
    named: bool,
    /// Where helpers are: the value of `PATH`.
    search: Option<OsString>,
    limit: Duration,
    answers: Mutex<HashMap<Question, Answer>>,
    notes: Mutex<Notes>,
}

/// Messages about what could not be used.
#[derive(Debug, Default)]
struct Notes {
    all: Vec<String>,
    taken: usize,
}

impl Keychain {
    /// Reads the files of credentials. If the user names one, as `authfile` or in `REGISTRY_AUTH_FILE`,
    /// it is the only one, as for skopeo. Otherwise they are, in this order (`getAuthFilePaths` in
    /// `pkg/docker/config/config.go` of containers/image, and `containers-auth.json(5)`):
    ///
    /// 1. `$XDG_RUNTIME_DIR/containers/auth.json`, or `/run/containers/UID/auth.json` without that
    ///    variable
    /// 2. `$XDG_CONFIG_HOME/containers/auth.json`, by default in `~/.config`
    /// 3. `$DOCKER_CONFIG/config.json`, by default in `~/.docker`
    ///
    /// # Errors
    /// If the file that the user names is missing or can't be read. Others that can't be read are a
    /// [note](Self::take_notes).
    pub fn new(authfile: Option<PathBuf>, env: Environment<'_>) -> Result<Self> {
        let authfile = authfile.or_else(|| path(env, "REGISTRY_AUTH_FILE"));
        let mut keychain = Self {
            files: Vec::new(),
            named: authfile.is_some(),
            search: env("PATH"),
            limit: HELPER_LIMIT,
            answers: Mutex::default(),
            notes: Mutex::default(),
        };
        let places = authfile.map_or_else(|| default_files(env), |file| vec![file]);
        for place in places {
            let file =
                read(&place).and_then(|bytes| bytes.map(|b| AuthFile::parse(&b)).transpose());
            match file {
                Ok(Some(file)) => keychain.files.push((place, file)),
                Ok(None) if keychain.named => {
                    let e = Error::not_found("there is no such file; log in, or name another one");
                    return Err(e.context(reading(&place)));
                }
                Ok(None) => {}
                Err(e) => keychain.note_unless_named(e.context(reading(&place)))?,
            }
        }
        Ok(keychain)
    }

    /// Returns the credentials for a repository on a host. The first file that has some for it decides.
    /// A helper is asked once for each host, also if several threads want to know.
    ///
    /// # Errors
    /// If a helper fails or the host is not valid. An entry that is not valid is an error in the file
    /// that the user named, and a note in others.
    pub fn find(&self, host: &str, repository: &str) -> Result<Credentials> {
        check_host(host)?;
        for (file, content) in &self.files {
            match content.find(host, repository).with_context(|| reading(file)) {
                Ok(Found::Nothing) => {}
                Ok(Found::Credentials(credentials)) => return Ok(credentials),
                Ok(Found::Helper { name, server, for_all }) => match self.ask(name, server) {
                    Ok(Some(credentials)) => return Ok(credentials),
                    Ok(None) => {}
                    // A file that was copied from another machine names its store. It has no say in
                    // images that need no login.
                    Err(e) if for_all && e.kind() == ErrorKind::NotFound => {
                        self.note(&e.context(reading(file)));
                    }
                    Err(e) => return Err(e.context(reading(file))),
                },
                Err(e) => self.note_unless_named(e)?,
            }
        }
        Ok(Credentials::Anonymous)
    }

    /// Returns messages about what could not be used, each once.
    pub fn take_notes(&self) -> Vec<String> {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let new = notes.all[notes.taken..].to_vec();
        notes.taken = notes.all.len();
        new
    }

    /// Asks a helper, or waits for its answer to another thread.
    fn ask(&self, name: &str, server: &str) -> Result<Option<Credentials>> {
        let cell = {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            Answer::clone(answers.entry((name.to_owned(), server.to_owned())).or_default())
        };
        let answer = cell.get_or_init(|| {
            let answer = helper::ask(name, server, self.search.as_deref(), self.limit);
            answer.map_err(|e| (e.kind(), e.to_string()))
        });
        answer.clone().map_err(|(kind, message)| Error::new(kind, message))
    }

    /// Notes that a file is of no use, or fails if the user wants it used.
    fn note_unless_named(&self, e: Error) -> Result<()> {
        if self.named {
            return Err(e);
        }
        self.note(&e);
        Ok(())
    }

    fn note(&self, e: &Error) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let text = format!("{e}; it is ignored");
        if !notes.all.contains(&text) {
            notes.all.push(text);
        }
    }
}

fn reading(file: &Path) -> String {
    format!("reading credentials in {}", file.display())
}

/// Returns the files that may have credentials, in their order.
fn default_files(env: Environment<'_>) -> Vec<PathBuf> {
    let home = path(env, "HOME");
    let below_home = |folder: &str| home.as_ref().map(|home| home.join(folder));
    let runtime = path(env, "XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json"));
    let uid = rustix::process::getuid().as_raw();
    let config = path(env, "XDG_CONFIG_HOME").or_else(|| below_home(".config"));
    let docker = path(env, "DOCKER_CONFIG").or_else(|| below_home(".docker"));
    let files = [
        runtime.or_else(|| Some(format!("/run/containers/{uid}/auth.json").into())),
        config.map(|dir| dir.join("containers/auth.json")),
        docker.map(|dir| dir.join("config.json")),
    ];
    files.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::super::credentials::Secret;
    use super::super::helper::tests::install;
    use super::*;

    /// A home of a user, and its environment.
    struct Home {
        dir: tempfile::TempDir,
        env: BTreeMap<&'static str, OsString>,
    }

    impl Home {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let env = |name, folder| (name, dir.path().join(folder).into_os_string());
            // Without a variable, the file is a real one of this machine.
            let runtime = env("XDG_RUNTIME_DIR", "run");
            Self { env: [env("HOME", ""), runtime].into(), dir }
        }

        fn write(&self, file: &str, text: &str) -> PathBuf {
            let file = self.dir.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, text).unwrap();
            file
        }

        fn set(&mut self, name: &'static str, folder: &Path) {
            self.env.insert(name, folder.into());
        }

        fn open(&self, authfile: Option<PathBuf>) -> Result<Keychain> {
            Keychain::new(authfile, &|name| self.env.get(name).cloned())
        }

        fn user(&self) -> String {
            user(&self.open(None).unwrap().find("r", "a").unwrap())
        }
    }

    fn user(found: &Credentials) -> String {
        match found {
            Credentials::Basic { user, .. } => user.clone(),
            other => format!("{other:?}"),
        }
    }

    fn login(user: &str) -> String {
        format!(r#"{{"auths": {{"r": {{"username": "{user}", "password": "p"}}}}}}"#)
    }

    #[test]
    fn files_are_searched_in_order() {
        let mut home = Home::new();
        assert_eq!(home.user(), "Anonymous");
        home.write(".docker/config.json", &login("docker"));
        assert_eq!(home.user(), "docker");
        let folder = home.write("conf/config.json", &login("docker config"));
        home.set("DOCKER_CONFIG", folder.parent().unwrap());
        assert_eq!(home.user(), "docker config");
        home.write(".config/containers/auth.json", &login("home"));
        assert_eq!(home.user(), "home");
        home.write("xdg/containers/auth.json", &login("xdg"));
        home.set("XDG_CONFIG_HOME", &home.dir.path().join("xdg"));
        assert_eq!(home.user(), "xdg");
        home.write("run/containers/auth.json", &login("run"));
        assert_eq!(home.user(), "run");
        // Without an entry for the registry, the next file has its turn.
        home.write("run/containers/auth.json", r#"{"auths": {"other": {"auth": "dTpw"}}}"#);
        assert_eq!(home.user(), "xdg");
        home.set("XDG_CONFIG_HOME", Path::new(""));
        assert_eq!(home.user(), "home");
        let named = home.write("named.json", &login("named"));
        home.set("REGISTRY_AUTH_FILE", &named);
        assert_eq!(home.user(), "named");
        let authfile = home.write("auth.json", &login("option"));
        let keychain = home.open(Some(authfile)).unwrap();
        assert_eq!(user(&keychain.find("r", "a").unwrap()), "option");
        // Nothing else is searched then.
        assert_eq!(keychain.find("other", "a").unwrap(), Credentials::Anonymous);
        assert!(keychain.find("a/b", "c").is_err());
    }

    #[test]
    fn a_broken_file_is_an_error_only_if_it_was_named() {
        let mut home = Home::new();
        home.write(".docker/config.json", &login("docker"));
        let broken = home.write("run/containers/auth.json", r#"{"auths": {"r": "hunter2"}}"#);
        let keychain = home.open(None).unwrap();
        assert_eq!(user(&keychain.find("r", "a").unwrap()), "docker");
        let notes = keychain.take_notes();
        assert!(notes.len() == 1 && notes[0].contains("run/containers/auth.json"), "{notes:?}");
        assert!(!format!("{notes:?} {keychain:?}").contains("hunter"));
        assert!(keychain.take_notes().is_empty());

        fs::write(&broken, r#"{"auths": {"r": {"auth": "hunter2!"}, "s": {"auth": "dTpw"}}}"#)
            .unwrap();
        let keychain = home.open(None).unwrap();
        assert!(keychain.take_notes().is_empty());
        assert_eq!(user(&keychain.find("r", "a").unwrap()), "docker");
        keychain.find("r", "b").unwrap();
        assert_eq!(keychain.take_notes().len(), 1);

        let keychain = home.open(Some(broken.clone())).unwrap();
        let e = keychain.find("r", "a").unwrap_err().to_string();
        assert!(e.contains("auth.json: entry \"r\"") && !e.contains("hunter"), "{e}");
        assert_eq!(user(&keychain.find("s", "a").unwrap()), "u");
        fs::write(&broken, "[").unwrap();
        let e = home.open(Some(broken)).unwrap_err().to_string();
        assert!(e.contains("auth.json: it is not JSON"), "{e}");
        home.set("REGISTRY_AUTH_FILE", &home.dir.path().join("none"));
        let e = home.open(None).unwrap_err().to_string();
        assert!(e.contains("none: there is no such file"), "{e}");
    }

    #[test]
    fn a_helper_is_asked_once() {
        let mut home = Home::new();
        let log = home.dir.path().join("log");
        let answer = r#"sleep 0.2; echo '{"Username":"<token>","Secret":"t"}'"#;
        let script = format!("cat >> {}; {answer}", log.display());
        install(home.dir.path(), "good", &script);
        home.set("PATH", home.dir.path().to_owned().as_path());
        home.write(".docker/config.json", r#"{"credHelpers": {"r": "good", "s": "good"}}"#);
        let keychain = home.open(None).unwrap();
        let token = Credentials::IdentityToken(Secret::new("t"));
        std::thread::scope(|scope| {
            for name in ["a", "b", "c/d"] {
                scope.spawn(|| assert_eq!(keychain.find("r", name).unwrap(), token));
            }
        });
        assert_eq!(fs::read_to_string(&log).unwrap(), "r");
        assert_eq!(keychain.find("s", "a").unwrap(), token);
        assert_eq!(fs::read_to_string(&log).unwrap(), "rs");
    }

    #[test]
    fn a_helper_that_fails_is_an_error() {
        let mut home = Home::new();
        home.set("PATH", home.dir.path().to_owned().as_path());
        let file = home.write(".docker/config.json", r#"{"credHelpers": {"r": "bad"}}"#);
        let error = |keychain: &Keychain| keychain.find("r", "a").unwrap_err().to_string();
        let e = error(&home.open(None).unwrap());
        assert!(e.contains("config.json") && e.contains("docker-credential-bad"), "{e}");
        // The store of another machine is no reason to refuse a public image.
        fs::write(&file, r#"{"credsStore": "bad"}"#).unwrap();
        let keychain = home.open(None).unwrap();
        for host in ["r", "r", "s"] {
            assert_eq!(keychain.find(host, "a").unwrap(), Credentials::Anonymous);
        }
        let notes = keychain.take_notes();
        assert!(notes.len() == 2 && notes[0].contains("docker-credential-bad"), "{notes:?}");
        // One that fails or hangs is.
        install(home.dir.path(), "bad", "echo locked; exit 1");
        let keychain = home.open(None).unwrap();
        assert!(error(&keychain).contains("locked"));
        install(home.dir.path(), "bad", "while :; do :; done");
        assert!(error(&keychain).contains("locked"), "the answer is kept");
        let limit = Duration::from_secs(1);
        let keychain = Keychain { limit, ..home.open(None).unwrap() };
        assert!(error(&keychain).contains("within 1 s"));
        // A later file has its turn after "not found".
        install(home.dir.path(), "bad", "echo credentials not found in native keychain; exit 1");
        home.write("run/containers/auth.json", r#"{"credsStore": "bad"}"#);
        fs::write(&file, login("docker")).unwrap();
        assert_eq!(home.user(), "docker");
    }
}
