//! Flags of `roster run`. Each has an environment variable.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use roster_core::quota::defaults::{Defaults, Pairs};
use roster_core::rbac::Policy;
use roster_credentials::hash::{Argon2idCost, CostError};
use roster_runtime::operations::leader::{LeaseOptions, default_identity};
use roster_runtime::operations::telemetry;
use roster_runtime::tls::certificates::CertificateOptions;

use duration::duration;
use error::ConfigError;
pub(crate) use login::LoginConfig;
pub(crate) use notification::NotificationConfig;

mod duration;
mod error;
mod login;
mod notification;

/// Flags of `roster run`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RunConfig {
    /// Namespace in which Roster runs and stores credentials.
    #[arg(long, env = "ROSTER_NAMESPACE", default_value = "roster-system")]
    pub namespace: String,

    /// Namespaces in which password Secrets are read. Default: all namespaces.
    #[arg(long, env = "ROSTER_PASSWORD_SECRET_NAMESPACES", value_delimiter = ',')]
    pub password_secret_namespaces: Vec<String>,

    /// Address of the TLS port: admission, directory API, logins.
    #[arg(long, env = "ROSTER_LISTEN", default_value = "0.0.0.0:8443")]
    pub listen: SocketAddr,

    /// Address of the probe port: /livez, /readyz and /metrics, without TLS.
    #[arg(long, env = "ROSTER_PROBE_LISTEN", default_value = "0.0.0.0:8080")]
    pub probe_listen: SocketAddr,

    /// Name of the Service for the TLS port. The serving certificate is issued for it.
    #[arg(long, env = "ROSTER_SERVICE", default_value = "roster")]
    pub service: String,

    /// Further DNS names and IP addresses for the serving certificate.
    #[arg(long, env = "ROSTER_TLS_SANS", value_delimiter = ',')]
    pub tls_sans: Vec<String>,

    /// Name of the MutatingWebhookConfiguration and the ValidatingWebhookConfiguration in which Roster maintains the
    /// caBundles and paths.
    #[arg(long, env = "ROSTER_WEBHOOK_CONFIGURATION", default_value = "roster")]
    pub webhook_configuration: String,

    /// Certificates.
    #[command(flatten)]
    pub certificates: CertificateConfig,

    /// Password hashing.
    #[command(flatten)]
    pub hashing: HashConfig,

    /// Logins.
    #[command(flatten)]
    pub logins: LoginConfig,

    /// RBAC.
    #[command(flatten)]
    pub rbac: RbacConfig,

    /// Notifications.
    #[command(flatten)]
    pub notification: NotificationConfig,

    /// Quota.
    #[command(flatten)]
    pub quota: QuotaConfig,

    /// Leader election.
    #[command(flatten)]
    pub lease: LeaseConfig,

    /// Maximum number of concurrent reconciliations of each kind, and of concurrent writes of native bindings. Each one uses
    /// a connection to kube-apiserver.
    #[arg(long, env = "ROSTER_CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub concurrency: u16,

    /// How long to serve requests after SIGTERM, until the Service stops sending new ones. A second signal ends the process
    /// immediately.
    #[arg(long, env = "ROSTER_DRAIN", default_value = "5s", value_parser = duration)]
    pub drain: Duration,

    /// Logs.
    #[command(flatten)]
    pub log: LogConfig,
}

/// Defaults for containers in owned namespaces that have no other LimitRange.
#[derive(Args, Clone, Debug)]
pub(crate) struct QuotaConfig {
    /// Default requests of containers, for the resources that the owner's quota limits.
    #[arg(long, env = "ROSTER_QUOTA_DEFAULT_REQUEST", default_value = "cpu=100m,memory=128Mi,ephemeral-storage=64Mi")]
    pub quota_default_request: Pairs,

    /// Default limits of containers, for the resources that the owner's quota limits.
    #[arg(long, env = "ROSTER_QUOTA_DEFAULT_LIMIT", default_value = "cpu=1,memory=512Mi,ephemeral-storage=1Gi")]
    pub quota_default_limit: Pairs,
}

impl QuotaConfig {
    /// Returns both defaults.
    pub(crate) fn defaults(&self) -> Defaults {
        Defaults { requests: self.quota_default_request.0.clone(), limits: self.quota_default_limit.0.clone() }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let limits = &self.quota_default_limit.0;
        let mut above = self
            .quota_default_request
            .0
            .iter()
            .filter(|(name, request)| limits.get(*name).is_some_and(|limit| limit < request));
        match above.next() {
            Some((name, _)) => Err(ConfigError::RequestAboveLimit(name.clone())),
            None => Ok(()),
        }
    }
}

/// Source of the serving certificate, and lifetimes of the certificates that Roster issues.
#[derive(Args, Clone, Debug)]
pub(crate) struct CertificateConfig {
    /// Lifetime of the certificate authority, which is replaced after two thirds of this time.
    #[arg(long, env = "ROSTER_CA_LIFETIME", default_value = "8760h", value_parser = duration)]
    pub ca_lifetime: Duration,

    /// Lifetime of a serving certificate, which is replaced after two thirds of this time.
    #[arg(long, env = "ROSTER_CERTIFICATE_LIFETIME", default_value = "720h", value_parser = duration)]
    pub certificate_lifetime: Duration,

    /// Secret of type kubernetes.io/tls in Roster's namespace that contains the serving certificate, for example from
    /// cert-manager. Roster then issues no certificate and does not write caBundles.
    #[arg(long, env = "ROSTER_SERVING_CERTIFICATE_SECRET")]
    pub serving_certificate_secret: Option<String>,
}

/// Parameters of argon2id and of the hashing pool.
#[derive(Args, Clone, Debug)]
pub(crate) struct HashConfig {
    /// Memory of a hash, in KiB. If it is raised, passwords are rehashed at the next login.
    #[arg(long = "hash-memory-kib", env = "ROSTER_HASH_MEMORY_KIB", default_value_t = 19_456)]
    pub memory_kib: u32,

    /// Iterations of a hash.
    #[arg(long = "hash-iterations", env = "ROSTER_HASH_ITERATIONS", default_value_t = 2)]
    pub iterations: u32,

    /// Parallelism (lanes) of a hash.
    #[arg(long = "hash-parallelism", env = "ROSTER_HASH_PARALLELISM", default_value_t = 1)]
    pub parallelism: u32,

    /// Maximum number of concurrent hashes. Default: the number of cores.
    #[arg(long = "hash-slots", env = "ROSTER_HASH_SLOTS", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub slots: Option<u16>,

    /// Maximum number of callers that wait for a slot. Further callers are rejected.
    #[arg(long = "hash-queue", env = "ROSTER_HASH_QUEUE", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    pub queue: u16,
}

impl HashConfig {
    /// Returns the cost of new hashes.
    ///
    /// # Errors
    /// If a parameter is out of range.
    pub(crate) fn cost(&self) -> Result<Argon2idCost, CostError> {
        Argon2idCost::new(self.memory_kib, self.iterations, self.parallelism)
    }

    /// Returns the maximum number of concurrent hashes.
    pub(crate) fn slots(&self) -> usize {
        self.slots.map_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get), usize::from)
    }
}

/// Roles that Roster may bind.
#[derive(Args, Clone, Debug)]
pub(crate) struct RbacConfig {
    /// ClusterRoles that Roster may bind. Its own RBAC must allow `bind` on each.
    #[arg(long, env = "ROSTER_BINDABLE_CLUSTER_ROLES", value_delimiter = ',', default_value = "view,edit,admin")]
    pub bindable_cluster_roles: Vec<String>,

    /// Roles that Roster may bind, in any namespace.
    #[arg(long, env = "ROSTER_BINDABLE_ROLES", value_delimiter = ',')]
    pub bindable_roles: Vec<String>,

    /// ClusterRole to which Users with spec.admin are bound, cluster-wide. Must be one of the bindable ClusterRoles.
    #[arg(long, env = "ROSTER_ADMINISTRATOR_ROLE", default_value = "admin")]
    pub administrator_role: String,

    /// Whether to replace groups with their members in native bindings, for authenticators that do not report groups.
    #[arg(long, env = "ROSTER_EXPAND_GROUPS")]
    pub expand_groups: bool,
}

impl RbacConfig {
    /// Returns the policy for native bindings.
    pub(crate) fn policy(&self) -> Policy {
        Policy {
            bindable_cluster_roles: self.bindable_cluster_roles.iter().cloned().collect(),
            bindable_roles: self.bindable_roles.iter().cloned().collect(),
            administrator_role: self.administrator_role.clone(),
            expand_groups: self.expand_groups,
        }
    }
}

/// Flags for the leader election.
#[derive(Args, Clone, Debug)]
pub(crate) struct LeaseConfig {
    /// Name of the Lease, in Roster's namespace.
    #[arg(long, env = "ROSTER_LEASE", default_value = "roster")]
    pub lease: String,

    /// Identity of this replica in the Lease. Default: the host name and a random suffix.
    #[arg(long, env = "ROSTER_IDENTITY")]
    pub identity: Option<String>,

    /// How long other replicas wait before they replace a leader that does not renew its Lease.
    #[arg(long, env = "ROSTER_LEASE_DURATION", default_value = "15s", value_parser = duration)]
    pub lease_duration: Duration,

    /// How long the leader tries to renew before it gives up.
    #[arg(long, env = "ROSTER_RENEW_DEADLINE", default_value = "10s", value_parser = duration)]
    pub renew_deadline: Duration,

    /// Time between two attempts to acquire or renew the Lease.
    #[arg(long, env = "ROSTER_RETRY_PERIOD", default_value = "2s", value_parser = duration)]
    pub retry_period: Duration,
}

impl LeaseConfig {
    /// Returns the options of the leader election. Without `--identity`, each call returns a different identity.
    pub(crate) fn options(&self) -> LeaseOptions {
        LeaseOptions {
            name: self.lease.clone(),
            identity: self.identity.clone().unwrap_or_else(default_identity),
            duration: self.lease_duration,
            renew_deadline: self.renew_deadline,
            retry_period: self.retry_period,
        }
    }
}

/// Flags for logs.
#[derive(Args, Clone, Debug)]
pub(crate) struct LogConfig {
    /// Format of the logs.
    #[arg(long, env = "ROSTER_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,

    /// Log level, as tracing directives: info, or roster=debug,kube=warn.
    #[arg(long, env = "ROSTER_LOG", default_value = "info")]
    pub log: String,
}

/// Format of the logs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Plain text for people.
    Text,
}

impl From<LogFormat> for telemetry::LogFormat {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Json => Self::Json,
            LogFormat::Text => Self::Text,
        }
    }
}

/// Returns whether `name` is a DNS label (RFC 1123), as names of namespaces are.
fn is_dns_label(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with('-') && !name.ends_with('-')
}

impl RunConfig {
    /// Returns the username of the operator's ServiceAccount, as the chart creates it.
    pub(crate) fn service_account(&self) -> String {
        format!("system:serviceaccount:{}:roster", self.namespace)
    }

    /// Returns the issuer of tokens: `--issuer-url`, or the Service.
    pub(crate) fn issuer_url(&self) -> String {
        let url = self.logins.issuer_url.clone();
        url.unwrap_or_else(|| format!("https://{}.{}.svc", self.service, self.namespace))
    }

    /// Returns the options of the serving certificate.
    pub(crate) fn certificates(&self) -> CertificateOptions {
        CertificateOptions {
            namespace: self.namespace.clone(),
            service: self.service.clone(),
            subject_alt_names: self.tls_sans.clone(),
            authority_lifetime: self.certificates.ca_lifetime,
            certificate_lifetime: self.certificates.certificate_lifetime,
            external_secret: self.certificates.serving_certificate_secret.clone(),
        }
    }

    /// Checks flags that depend on each other.
    ///
    /// # Errors
    /// If flags contradict each other. The message names them.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        self.hashing.cost()?;
        if let Some(wrong) = self.password_secret_namespaces.iter().find(|name| !is_dns_label(name)) {
            return Err(ConfigError::InvalidNamespace(wrong.clone()));
        }
        if !self.rbac.bindable_cluster_roles.contains(&self.rbac.administrator_role) {
            return Err(ConfigError::AdministratorRoleNotBindable);
        }
        let lease = &self.lease;
        if lease.renew_deadline >= lease.lease_duration {
            return Err(ConfigError::RenewDeadlineTooLong);
        }
        if lease.retry_period >= lease.renew_deadline {
            return Err(ConfigError::RetryPeriodTooLong);
        }
        if lease.lease_duration.subsec_nanos() != 0 {
            return Err(ConfigError::FractionalLeaseDuration);
        }
        self.logins.validate()?;
        self.quota.validate()?;
        if self.certificates.certificate_lifetime > self.certificates.ca_lifetime {
            return Err(ConfigError::CertificateOutlivesAuthority);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use rstest::rstest;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        run: RunConfig,
    }

    fn parse(args: &[&str]) -> Result<(), String> {
        let cli = Cli::try_parse_from(["roster"].iter().chain(args)).map_err(|error| error.to_string())?;
        cli.run.validate().map_err(|error| error.to_string())
    }

    #[rstest]
    #[case(&["--hash-memory-kib", "1024"], "argon2id needs at least")]
    #[case(&["--renew-deadline", "20s"], "--renew-deadline must be shorter")]
    #[case(&["--retry-period", "12s"], "--retry-period must be shorter")]
    #[case(&["--lease-duration", "12500ms"], "whole seconds")]
    #[case(&["--lease-duration", "fast"], "must be a duration such as")]
    #[case(&["--lease-duration", "0s"], "longer than zero")]
    #[case(&["--lockout-duration", "900000h"], "at most 876000h")]
    #[case(&["--certificate-lifetime", "9000h"], "--certificate-lifetime must not")]
    #[case(&["--administrator-role", "cluster-admin"], "one of --bindable-cluster-roles")]
    #[case(&["--concurrency", "0"], "--concurrency")]
    #[case(&["--signing-key-lifetime", "1h"], "--signing-key-lifetime must be at least 4h")]
    #[case(&["--token-lifetime", "2h"], "--token-lifetime must be at most 1h")]
    #[case(&["--token-signing-algorithm", "HS256"], "must be ES256 or RS256")]
    #[case(&["--issuer-url", "http://roster.example.com"], "--issuer-url must be an https URL")]
    #[case(&["--password-min-length", "7"], "--password-min-length")]
    #[case(&["--lockout-user-threshold", "4"], "--lockout-user-threshold must be greater than --lockout-threshold")]
    #[case(&["--trusted-proxies", "10.0.0.0"], "--trusted-proxies")]
    #[case(&["--password-secret-namespaces", "team-a,Team_B"], "--password-secret-namespaces: \"Team_B\"")]
    #[case(&["--listen", "here"], "--listen")]
    #[case(&["--notification-allowed-cidrs", "10.0.0.0/8,here"], "--notification-allowed-cidrs")]
    fn invalid_flags_are_rejected_by_name(#[case] args: &[&str], #[case] message: &str) {
        let error = parse(args).unwrap_err();
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn defaults_are_valid() {
        parse(&[]).unwrap();
    }
}
