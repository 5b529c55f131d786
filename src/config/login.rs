//! Login flags of `roster run`.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use ipnet::IpNet;
use roster_credentials::lockout::LockoutPolicy;
use roster_credentials::policy::PasswordPolicy;
use roster_credentials::signing::{MAX_TOKEN_LIFETIME, SigningAlgorithm};

use super::duration::duration;
use super::error::ConfigError;

/// Minimum lifetime of a signing key: it is published for hours before and after it is used.
const MIN_SIGNING_KEY_LIFETIME: Duration = Duration::from_secs(4 * 3600);

/// Flags for logins, tokens, lockout and passwords.
#[derive(Args, Clone, Debug)]
pub(crate) struct LoginConfig {
    /// Issuer of tokens: an https URL at which OpenID Connect relying parties find /.well-known/openid-configuration.
    /// Default: the URL of the Service.
    #[arg(long, env = "ROSTER_ISSUER_URL")]
    pub issuer_url: Option<String>,

    /// Audiences that a login may request and that the token webhook accepts. The first one stands for the cluster and is
    /// the default of logins.
    #[arg(long, env = "ROSTER_TOKEN_AUDIENCES", value_delimiter = ',', default_value = "kubernetes")]
    pub token_audiences: Vec<String>,

    /// Further audiences that a login may request, for OpenID Connect relying parties. The token webhook rejects them.
    #[arg(long, env = "ROSTER_OIDC_AUDIENCES", value_delimiter = ',')]
    pub oidc_audiences: Vec<String>,

    /// Lifetime of a token, at most 1h.
    #[arg(long, env = "ROSTER_TOKEN_LIFETIME", default_value = "1h", value_parser = duration)]
    pub token_lifetime: Duration,

    /// Algorithm of token signatures: ES256 or RS256. Some relying parties accept only RS256, such as Amazon EKS, and
    /// kube-apiserver with --oidc-* flags but without --oidc-signing-algs. A change takes effect after 2 hours.
    #[arg(long, env = "ROSTER_TOKEN_SIGNING_ALGORITHM", default_value_t, value_name = "ALGORITHM")]
    pub token_signing_algorithm: SigningAlgorithm,

    /// How long a key signs tokens before the next one replaces it.
    #[arg(long, env = "ROSTER_SIGNING_KEY_LIFETIME", default_value = "720h", value_parser = duration)]
    pub signing_key_lifetime: Duration,

    /// Number of failed logins of one user from one source after which that source is locked out.
    #[arg(long, env = "ROSTER_LOCKOUT_THRESHOLD", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub lockout_threshold: u32,

    /// Number of failed logins of one user from all sources after which the user is locked out.
    #[arg(long, env = "ROSTER_LOCKOUT_USER_THRESHOLD", default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub lockout_user_threshold: u32,

    /// How long a failed login counts towards a lockout.
    #[arg(long, env = "ROSTER_LOCKOUT_WINDOW", default_value = "15m", value_parser = duration)]
    pub lockout_window: Duration,

    /// How long a lockout lasts.
    #[arg(long, env = "ROSTER_LOCKOUT_DURATION", default_value = "15m", value_parser = duration)]
    pub lockout_duration: Duration,

    /// Minimum length of a new password, in characters.
    #[arg(long, env = "ROSTER_PASSWORD_MIN_LENGTH", default_value_t = 12, value_parser = clap::value_parser!(u16).range(8..=128))]
    pub password_min_length: u16,

    /// Number of previous passwords that can't be used again.
    #[arg(long, env = "ROSTER_PASSWORD_HISTORY", default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=24))]
    pub password_history: u8,

    /// How long a password may be used. Default: no limit, as NIST SP 800-63B recommends.
    #[arg(long, env = "ROSTER_PASSWORD_MAX_AGE", value_parser = duration)]
    pub password_max_age: Option<Duration>,

    /// File with passwords to reject in addition to common ones, one per line.
    #[arg(long, env = "ROSTER_PASSWORD_DENYLIST")]
    pub password_denylist: Option<PathBuf>,

    /// Maximum lifetime of an API key.
    #[arg(long, env = "ROSTER_API_KEY_MAX_LIFETIME", default_value = "8760h", value_parser = duration)]
    pub api_key_max_lifetime: Duration,

    /// Networks of proxies whose X-Forwarded-For header is trusted. kube-apiserver is trusted by its certificate.
    #[arg(long, env = "ROSTER_TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Vec<IpNet>,

    /// How long the times of last logins and last uses of API keys are batched before they are written.
    #[arg(long, env = "ROSTER_LAST_USE_INTERVAL", default_value = "30s", value_parser = duration)]
    pub last_use_interval: Duration,
}

impl LoginConfig {
    /// Returns the limits for lockouts.
    pub(crate) fn limits(&self) -> LockoutPolicy {
        LockoutPolicy {
            per_source: self.lockout_threshold,
            per_user: self.lockout_user_threshold,
            window: self.lockout_window,
            duration: self.lockout_duration,
        }
    }

    /// Returns the password policy.
    ///
    /// # Errors
    /// If the file of denied passwords can't be read.
    pub(crate) fn password_policy(&self) -> Result<PasswordPolicy> {
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

    /// Checks flags that depend on each other.
    ///
    /// # Errors
    /// If flags contradict each other. The message names them.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if self.token_lifetime > MAX_TOKEN_LIFETIME {
            return Err(ConfigError::TokenLifetimeTooLong);
        }
        if self.signing_key_lifetime < MIN_SIGNING_KEY_LIFETIME {
            return Err(ConfigError::SigningKeyLifetimeTooShort);
        }
        if self.issuer_url.as_ref().is_some_and(|url| !url.starts_with("https://") || url.contains(['?', '#'])) {
            return Err(ConfigError::InvalidIssuerUrl);
        }
        if self.token_audiences.iter().chain(&self.oidc_audiences).any(String::is_empty) {
            return Err(ConfigError::EmptyAudience);
        }
        if self.oidc_audiences.iter().any(|audience| self.token_audiences.contains(audience)) {
            return Err(ConfigError::SharedAudience);
        }
        if self.lockout_user_threshold <= self.lockout_threshold {
            return Err(ConfigError::UserThresholdTooLow);
        }
        Ok(())
    }
}
