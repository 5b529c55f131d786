//! Configuration of logins: flags, each with an environment variable.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use ipnet::IpNet;
use roster_credentials::lockout::Limits;
use roster_credentials::policy::PasswordPolicy;
use roster_credentials::signing::MAX_TOKEN_LIFETIME;

use super::duration::duration;

/// A key is published for hours before it signs and after it has.
const SHORTEST_KEY: Duration = Duration::from_secs(4 * 3600);

/// How people log in, and what with.
#[derive(Args, Clone, Debug)]
pub struct LoginConfig {
    /// What tokens say that they were issued by: an https URL under which /.well-known/openid-configuration is found, for
    /// those who trust tokens by OpenID Connect. Default: that of the Service.
    #[arg(long, env = "ROSTER_ISSUER_URL")]
    pub issuer_url: Option<String>,

    /// Audiences of the tokens that the token webhook accepts, and that a login may ask for. A login that asks for none
    /// gets a token for the first, which stands for the cluster.
    #[arg(long, env = "ROSTER_TOKEN_AUDIENCES", value_delimiter = ',', default_value = "kubernetes")]
    pub token_audiences: Vec<String>,

    /// Further audiences that a login may ask for: their tokens are accepted by whoever trusts them by OpenID Connect, and
    /// not by the token webhook.
    #[arg(long, env = "ROSTER_OIDC_AUDIENCES", value_delimiter = ',')]
    pub oidc_audiences: Vec<String>,

    /// Lifetime of a token, at most 1h.
    #[arg(long, env = "ROSTER_TOKEN_LIFETIME", default_value = "1h", value_parser = duration)]
    pub token_lifetime: Duration,

    /// How long a key signs tokens before the next one does.
    #[arg(long, env = "ROSTER_SIGNING_KEY_LIFETIME", default_value = "720h", value_parser = duration)]
    pub signing_key_lifetime: Duration,

    /// Failed logins of one user from one source before that source is locked out.
    #[arg(long, env = "ROSTER_LOCKOUT_THRESHOLD", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub lockout_threshold: u32,

    /// Failed logins of one user from all sources together before the user is locked.
    #[arg(long, env = "ROSTER_LOCKOUT_USER_THRESHOLD", default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub lockout_user_threshold: u32,

    /// How long a failed login counts.
    #[arg(long, env = "ROSTER_LOCKOUT_WINDOW", default_value = "15m", value_parser = duration)]
    pub lockout_window: Duration,

    /// How long a lockout lasts.
    #[arg(long, env = "ROSTER_LOCKOUT_DURATION", default_value = "15m", value_parser = duration)]
    pub lockout_duration: Duration,

    /// Fewest characters of a new password.
    #[arg(long, env = "ROSTER_PASSWORD_MIN_LENGTH", default_value_t = 12, value_parser = clap::value_parser!(u16).range(8..=128))]
    pub password_min_length: u16,

    /// How many passwords before the present one can't be used again.
    #[arg(long, env = "ROSTER_PASSWORD_HISTORY", default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=24))]
    pub password_history: u8,

    /// How long a password may be used. Default: for ever, as NIST SP 800-63B advises.
    #[arg(long, env = "ROSTER_PASSWORD_MAX_AGE", value_parser = duration)]
    pub password_max_age: Option<Duration>,

    /// File with passwords that are refused beside the common ones, one a line.
    #[arg(long, env = "ROSTER_PASSWORD_DENYLIST")]
    pub password_denylist: Option<PathBuf>,

    /// Longest lifetime of an API key.
    #[arg(long, env = "ROSTER_API_KEY_MAX_LIFETIME", default_value = "8760h", value_parser = duration)]
    pub api_key_max_lifetime: Duration,

    /// Networks of proxies whose X-Forwarded-For is believed. kube-apiserver's is, where it shows its certificate.
    #[arg(long, env = "ROSTER_TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Vec<IpNet>,

    /// How long last logins and last uses of API keys are gathered before they are written.
    #[arg(long, env = "ROSTER_LAST_USE_INTERVAL", default_value = "30s", value_parser = duration)]
    pub last_use_interval: Duration,
}

impl LoginConfig {
    /// When somebody is locked out.
    pub fn limits(&self) -> Limits {
        Limits {
            of_source: self.lockout_threshold,
            of_user: self.lockout_user_threshold,
            window: self.lockout_window,
            duration: self.lockout_duration,
        }
    }

    /// What passwords have to be.
    ///
    /// # Errors
    /// If the list of denied passwords can't be read.
    pub fn password_policy(&self) -> Result<PasswordPolicy> {
        let denied = match &self.password_denylist {
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).with_context(|| format!("--password-denylist {}", path.display()))?;
                text.lines().map(|line| line.trim().to_lowercase()).filter(|line| !line.is_empty()).collect()
            }
            None => HashSet::new(),
        };
        Ok(PasswordPolicy {
            min_length: usize::from(self.password_min_length),
            history: usize::from(self.password_history),
            max_age: self.password_max_age,
            denied: Arc::new(denied),
        })
    }

    /// Checks what a single flag can't.
    ///
    /// # Errors
    /// If flags contradict each other; the message names them.
    pub fn validate(&self) -> Result<(), String> {
        if self.token_lifetime > MAX_TOKEN_LIFETIME {
            return Err("--token-lifetime must be at most 1h".to_owned());
        }
        if self.signing_key_lifetime < SHORTEST_KEY {
            return Err("--signing-key-lifetime must be at least 4h".to_owned());
        }
        if self.issuer_url.as_ref().is_some_and(|url| !url.starts_with("https://") || url.contains(['?', '#'])) {
            return Err("--issuer-url must be an https URL without query and fragment".to_owned());
        }
        if self.token_audiences.iter().chain(&self.oidc_audiences).any(String::is_empty) {
            return Err("--token-audiences and --oidc-audiences must not be empty".to_owned());
        }
        if self.oidc_audiences.iter().any(|audience| self.token_audiences.contains(audience)) {
            return Err("--oidc-audiences must differ from --token-audiences".to_owned());
        }
        if self.lockout_user_threshold <= self.lockout_threshold {
            return Err("--lockout-user-threshold must be above --lockout-threshold".to_owned());
        }
        Ok(())
    }
}
