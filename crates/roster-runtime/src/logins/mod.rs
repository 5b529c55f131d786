//! Logins: verifies credentials, exchanges them for tokens, and authenticates tokens and API keys.
//!
//! ```text
//!  attempt ─▶ verifier ──▶ credentials::login (pure) ──▶ vault: identity Secrets, by compare-and-swap
//!                │                                         ▲
//!                ├──▶ issuer ──▶ token                     │
//!  token, key ──▶ token_authenticator ──▶ UserInfo ────────┤
//!                └──▶ last_use: written in batches ────────┘
//!  attempt: judges one login attempt                       verifier: checks passwords, counts failures
//!  judgement: serializes attempts on one user              login_user: the User, from the directory
//!  uncounted: failures that could not be written yet       recount: writes them later
//!  signing_keys, sealing_key: Secrets with keys
//! ```

pub mod attempt;
pub mod audiences;
pub mod hashed;
pub mod issuer;
pub mod judgement;
pub mod last_use;
pub mod login_user;
pub mod recount;
pub mod sealing_key;
pub mod signing_keys;
pub mod token_authenticator;
pub mod uncounted;
pub mod vault;
pub mod verifier;

use std::sync::Arc;
use std::time::Duration;

use crate::notifications::Notifier;
use ipnet::IpNet;
use roster_credentials::seal::Sealer;

use issuer::Issuer;
use token_authenticator::TokenAuthenticator;
use vault::Vault;
use verifier::Verifier;

/// Everything that logins and credentials need.
pub struct Logins {
    /// Judges login attempts.
    pub verifier: Verifier,
    /// Issues tokens.
    pub issuer: Arc<Issuer>,
    /// Authenticates tokens and API keys.
    pub token_authenticator: Arc<TokenAuthenticator>,
    /// Stores credentials.
    pub vault: Arc<Vault>,
    /// Seals and opens TOTP seeds.
    pub sealer: Arc<Sealer>,
    /// Notifies users of security events.
    pub notifier: Notifier,
    /// Maximum lifetime of an API key.
    pub max_key_lifetime: Duration,
    /// Proxies that are trusted to report a client's address.
    pub trusted_proxies: Vec<IpNet>,
}

/// Returns an active User that holds its name.
#[cfg(test)]
fn active_user(name: &str) -> roster_api::User {
    let claimed = serde_json::json!({
        "type": "NameClaimed", "status": "True", "reason": "Claimed", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let user = serde_json::json!({
        "apiVersion": roster_api::API_VERSION,
        "kind": "User",
        "metadata": {"name": name, "uid": "0a0a0a0a-0000-4000-8000-000000000001", "resourceVersion": "1"},
        "spec": {},
        "status": {"username": name, "conditions": [claimed]},
    });
    serde_json::from_value(user).expect("it is a User")
}
