//! Credentials for a registry, which no message shows.

use std::fmt;

use serde::Deserialize;

/// A password or token. Its text forms are `***`, so that it appears in no message.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Makes a secret of a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text itself: for a request, never for a message.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How to log in to a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Without a login.
    Anonymous,
    /// With a user and a password.
    Basic {
        /// Name of the user.
        user: String,
        /// Password, or a token that takes its place.
        password: Secret,
    },
    /// With an OAuth 2 refresh token, which the registry's token server exchanges for access tokens.
    IdentityToken(Secret),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_form_shows_a_secret() {
        let secret = Secret::new("hunter2");
        let basic = Credentials::Basic { user: "u".into(), password: secret.clone() };
        let token = Credentials::IdentityToken(secret.clone());
        let text = format!("{secret} {secret:?} {basic:?} {token:#?}");
        assert!(!text.contains("hunter2") && text.contains("***"), "{text}");
    }
}
