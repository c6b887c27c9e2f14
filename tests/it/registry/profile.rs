//! How registries differ. A `Profile` is a list of facts; each constructor has those of one registry.

/// How a registry knows its clients.
#[derive(Clone, Debug)]
pub enum Auth {
    None,
    /// The name and password with each request.
    Basic,
    Bearer(Bearer),
}

/// A token service.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact by itself")]
pub struct Bearer {
    /// Seconds.
    pub lifetime: u64,
    /// Whether answers have `expires_in`. Without it clients assume 60 seconds.
    pub sends_expires_in: bool,
    /// Whether a mount is refused if the token has no `pull` on the source.
    pub source_scope: bool,
    /// Whether a token for `pull` needs no password.
    pub anonymous_pull: bool,
    /// Whether the token service is at another host.
    pub elsewhere: bool,
    /// Whether `POST` with a form (OAuth 2: `password`, `refresh_token`) works, too.
    pub oauth: bool,
    /// Whether the registry takes a password in place of a token.
    pub basic_too: bool,
}

/// A blob in the body of the `POST` that opens an upload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SinglePost {
    Created,
    /// The body is dropped and an upload opened: 202.
    Accepted,
    Refused,
}

/// Which `PATCH` requests an upload takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Patches {
    None,
    /// One without `Content-Range`, as clients do that stream.
    One,
    Many,
}

/// What the `Range` of an answer to `PATCH` says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RangeReport {
    Right,
    /// Always the first chunk.
    First,
    /// The last chunk only.
    Last,
}

/// What remains of a `PATCH` or `PUT` whose connection broke.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Broken {
    /// Nothing of that chunk.
    Dropped,
    /// The bytes that came.
    Kept,
    /// Nothing of the whole upload, which is unknown from then on.
    Lost,
}

/// What a `POST` with `mount` does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mount {
    /// 202, an upload as if nothing had been asked.
    Off,
    /// 201 if `from` has it, else 202.
    On,
    /// As `On`, but without `from` it is an error.
    NeedsFrom,
    /// 201 if any repository has it.
    FromIgnored,
    /// An error with this status.
    Refused(u16),
}

/// Which `GET`s of blobs are redirected to another host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Redirect {
    Never,
    Unranged,
    All,
}

/// 429 after some requests.
#[derive(Clone, Copy, Debug)]
pub struct Throttle {
    /// How many requests are answered before.
    pub after: usize,
    /// How many requests are refused then.
    pub times: usize,
    /// Seconds.
    pub retry_after: Option<u64>,
}

/// The facts of a registry.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact by itself")]
pub struct Profile {
    pub auth: Auth,
    /// What is said with 401 where a name and password are needed.
    pub basic_challenge: &'static str,
    pub user: &'static str,
    pub password: &'static str,
    /// The status for a token without the scope that is needed: 401 or 403.
    pub denied_status: u16,

    /// Whether a `PUT` may have bytes.
    pub monolithic: bool,
    pub single_post: SinglePost,
    pub patches: Patches,
    /// Bytes of a chunk that is not the last.
    pub chunk_min: usize,
    /// Bytes of a chunk, which is a `PATCH` with `Content-Range`.
    pub chunk_max: usize,
    /// Whether `OCI-Chunk-Min-Length` announces `chunk_min`.
    pub sends_chunk_min: bool,
    pub patch_status: u16,
    pub range_report: RangeReport,
    /// Whether a chunk that begins elsewhere than at the end of the bytes is refused: 416.
    pub content_range_checked: bool,
    /// The same for the `Content-Range` of a `PUT`.
    pub put_range_checked: bool,
    pub broken: Broken,
    /// Whether `GET` of an upload answers with its offset; else 404.
    pub status_get: bool,
    /// Whether that needs the last URL, as `location_state` has it, too.
    pub status_needs_state: bool,
    /// Whether an answer of 5xx ends the upload.
    pub error_ends_upload: bool,
    /// Seconds until an upload is forgotten.
    pub upload_lifetime: Option<u64>,
    /// The most bytes of a request's body; more are answered with 413.
    pub body_limit: Option<usize>,
    /// Whether `Location` has host and port.
    pub location_absolute: bool,
    /// Whether `Location` has a query, which depends on the offset.
    pub location_state: bool,
    /// What `Location`s of uploads begin with.
    pub upload_prefix: &'static str,
    /// Whether uploads go to another host, which needs no token.
    pub uploads_elsewhere: bool,
    /// Whether a refused request is answered before its body is read, and the connection closed.
    pub answers_early: bool,
    pub mount: Mount,

    /// The most layers of a manifest; more are answered with 405.
    pub layers_max: Option<usize>,
    pub immutable_tags: bool,
    /// Whether `PUT …/manifests/DIGEST?tag=a&tag=b` sets tags.
    pub tags_in_put: bool,
    pub repository_must_exist: bool,
    /// Whether there is the API of referrers, and `OCI-Subject`.
    pub referrers: bool,
    /// Whether the registry itself selects referrers by type.
    pub referrers_filtered: bool,
    pub deletes: bool,
    /// Entries of a page of tags or referrers, or all at once whatever `n` says.
    pub page: Option<usize>,
    pub redirect: Redirect,
    pub redirect_status: u16,
    /// How often a URL at the other host can be used.
    pub redirect_uses: usize,
    pub ranges: bool,
    /// Whether a manifest is found only if `Accept` names its type.
    pub accept_needed: bool,
    pub digest_header: bool,
    /// Whether manifests and lists come with `Transfer-Encoding: chunked`, without a length.
    pub chunked_answers: bool,
    /// The text of a `Warning` header, which all answers have.
    pub warning: Option<&'static str>,
    /// `GET`s of manifests in six hours, as the headers `ratelimit-*` say.
    pub rate_limit: Option<usize>,
    pub throttle: Option<Throttle>,
}

const MIB: usize = 1 << 20;

impl Profile {
    /// Without passwords, and as the specification has it.
    pub fn plain() -> Self {
        Self {
            auth: Auth::None,
            basic_challenge: r#"Basic realm="registry", charset="UTF-8""#,
            user: "tester",
            password: "pass-word:with colon",
            denied_status: 401,
            monolithic: true,
            single_post: SinglePost::Created,
            patches: Patches::Many,
            chunk_min: 0,
            chunk_max: usize::MAX,
            sends_chunk_min: false,
            patch_status: 202,
            range_report: RangeReport::Right,
            content_range_checked: true,
            put_range_checked: true,
            broken: Broken::Kept,
            status_get: true,
            status_needs_state: false,
            error_ends_upload: false,
            upload_lifetime: None,
            body_limit: None,
            location_absolute: false,
            location_state: false,
            upload_prefix: "/v2/",
            uploads_elsewhere: false,
            answers_early: false,
            mount: Mount::On,
            layers_max: None,
            immutable_tags: false,
            tags_in_put: false,
            repository_must_exist: false,
            referrers: true,
            referrers_filtered: true,
            deletes: true,
            page: Some(100),
            redirect: Redirect::Never,
            redirect_status: 307,
            redirect_uses: 1,
            ranges: true,
            accept_needed: false,
            digest_header: true,
            chunked_answers: false,
            warning: None,
            rate_limit: None,
            throttle: None,
        }
    }

    fn bearer(lifetime: u64) -> Self {
        let auth = Auth::Bearer(Bearer {
            lifetime,
            sends_expires_in: true,
            source_scope: false,
            anonymous_pull: false,
            elsewhere: false,
            oauth: false,
            basic_too: false,
        });
        Self { auth, ..Self::plain() }
    }

    /// Amazon ECR, with mounts off, as accounts have it unless they say otherwise.
    pub fn ecr() -> Self {
        Self {
            auth: Auth::Basic,
            basic_challenge: r#"Basic realm="https://123456789012.dkr.ecr.eu-west-1.amazonaws.com/",service="ecr.amazonaws.com""#,
            user: "AWS",
            password: "ecr-token-eyJwYXlsb2FkIjoi",
            chunk_min: 5 * MIB,
            chunk_max: 10 * MIB,
            patch_status: 201,
            range_report: RangeReport::First,
            broken: Broken::Dropped,
            status_get: false,
            location_absolute: true,
            mount: Mount::Off,
            layers_max: Some(295),
            repository_must_exist: true,
            redirect: Redirect::All,
            ..Self::plain()
        }
    }

    /// GitHub's registry.
    pub fn ghcr() -> Self {
        let mut profile = Self::bearer(300).with_bearer(|b| {
            b.sends_expires_in = false;
            b.anonymous_pull = true;
        });
        profile.denied_status = 403;
        profile.chunk_max = 4 * MIB;
        profile.broken = Broken::Lost;
        profile.status_get = false;
        profile.upload_lifetime = Some(600);
        profile.referrers = false;
        profile.redirect = Redirect::All;
        profile
    }

    /// Google Artifact Registry.
    pub fn gar() -> Self {
        Self {
            user: "oauth2accesstoken",
            denied_status: 403,
            patches: Patches::One,
            status_get: false,
            location_absolute: true,
            upload_prefix: "/artifacts-uploads/namespaces/",
            chunked_answers: true,
            redirect: Redirect::All,
            redirect_status: 302,
            ..Self::bearer(3600)
        }
    }

    /// Quay.
    pub fn quay() -> Self {
        Self {
            mount: Mount::NeedsFrom,
            page: Some(50),
            chunked_answers: true,
            redirect: Redirect::All,
            redirect_status: 302,
            ..Self::bearer(3600).with_bearer(|b| b.anonymous_pull = true)
        }
    }

    /// Docker Hub.
    pub fn docker_hub() -> Self {
        Self {
            content_range_checked: false,
            broken: Broken::Lost,
            status_needs_state: true,
            location_absolute: true,
            location_state: true,
            put_range_checked: false,
            referrers: false,
            single_post: SinglePost::Accepted,
            redirect: Redirect::All,
            accept_needed: true,
            rate_limit: Some(100),
            ..Self::bearer(300).with_bearer(|b| {
                b.source_scope = true;
                b.anonymous_pull = true;
                b.elsewhere = true;
                b.oauth = true;
            })
        }
    }

    /// `JFrog` Artifactory, for a user who may not delete.
    pub fn artifactory() -> Self {
        Self {
            mount: Mount::Off,
            deletes: false,
            ranges: false,
            location_absolute: true,
            ..Self::bearer(3600).with_bearer(|b| b.basic_too = true)
        }
    }

    /// zot 2.1.8.
    pub fn zot() -> Self {
        Self {
            auth: Auth::Basic,
            error_ends_upload: true,
            mount: Mount::FromIgnored,
            redirect: Redirect::Unranged,
            ..Self::plain()
        }
    }

    /// Distribution 2.8.
    pub fn distribution2() -> Self {
        Self {
            auth: Auth::Basic,
            single_post: SinglePost::Accepted,
            content_range_checked: false,
            put_range_checked: false,
            broken: Broken::Lost,
            status_needs_state: true,
            page: None,
            location_absolute: true,
            location_state: true,
            referrers: false,
            deletes: false,
            accept_needed: true,
            ..Self::plain()
        }
    }

    /// Distribution 3.
    pub fn distribution3() -> Self {
        Self {
            content_range_checked: true,
            broken: Broken::Kept,
            status_needs_state: false,
            page: Some(100),
            accept_needed: false,
            ..Self::distribution2()
        }
    }

    /// All of them, with their names.
    pub fn all() -> [(&'static str, Self); 10] {
        [
            ("plain", Self::plain()),
            ("ecr", Self::ecr()),
            ("ghcr", Self::ghcr()),
            ("gar", Self::gar()),
            ("quay", Self::quay()),
            ("docker_hub", Self::docker_hub()),
            ("artifactory", Self::artifactory()),
            ("zot", Self::zot()),
            ("distribution2", Self::distribution2()),
            ("distribution3", Self::distribution3()),
        ]
    }

    /// The same with another token service.
    pub fn with_bearer(mut self, change: impl FnOnce(&mut Bearer)) -> Self {
        match &mut self.auth {
            Auth::Bearer(bearer) => change(bearer),
            _ => panic!("the profile has no token service"),
        }
        self
    }
}
