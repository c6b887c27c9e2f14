//! Images in registries, and the files that say how to reach them.
//!
//! Types to know: [`Keychain`](keychain::Keychain), which finds [`Credentials`](credentials::Credentials)
//! where docker and podman keep them; [`Settings`](settings::Settings), the mirrors of
//! `registries.conf`; and [`Certificates`](certificates::Certificates).

mod auth_file;
pub mod certificates;
pub mod config_file;
pub mod credentials;
mod helper;
pub mod keychain;
pub mod settings;
