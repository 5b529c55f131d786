//! Configuration of `roster run`: flags, each with an environment variable.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use roster_core::quota::defaults::{Defaults, Pairs};
use roster_core::rbac::Policy;
use roster_credentials::hash::{Argon2idCost, CostError};
use roster_runtime::operations::leader::LeaseOptions;
use roster_runtime::operations::telemetry;
use roster_runtime::tls::certificates::CertificateOptions;

use duration::duration;
pub use login::LoginConfig;
pub use notification::NotificationConfig;

mod duration;
mod login;
mod notification;

/// Flags of `roster run`.
#[derive(Args, Clone, Debug)]
pub struct RunConfig {
    /// Namespace that Roster runs in and keeps credentials in.
    #[arg(long, env = "ROSTER_NAMESPACE", default_value = "roster-system")]
    pub namespace: String,

    /// Namespaces in which password Secrets are read. Default: all namespaces.
    #[arg(long, env = "ROSTER_PASSWORD_SECRET_NAMESPACES", value_delimiter = ',')]
    pub password_secret_namespaces: Vec<String>,

    /// Address of the TLS port: admission, directory, logins.
    #[arg(long, env = "ROSTER_LISTEN", default_value = "0.0.0.0:8443")]
    pub listen: SocketAddr,

    /// Address of the probe port: /livez, /readyz and /metrics, without TLS.
    #[arg(long, env = "ROSTER_PROBE_LISTEN", default_value = "0.0.0.0:8080")]
    pub probe_listen: SocketAddr,

    /// Name of the Service in front of the TLS port; the serving certificate is made out to it.
    #[arg(long, env = "ROSTER_SERVICE", default_value = "roster")]
    pub service: String,

    /// Further DNS names and IP addresses that the serving certificate is made out to.
    #[arg(long, env = "ROSTER_TLS_SANS", value_delimiter = ',')]
    pub tls_sans: Vec<String>,

    /// Name of the MutatingWebhookConfiguration and of the ValidatingWebhookConfiguration whose caBundles and paths
    /// Roster keeps right.
    #[arg(long, env = "ROSTER_WEBHOOK_CONFIGURATION", default_value = "roster")]
    pub webhook_configuration: String,

    /// How Roster's own certificate authority is kept.
    #[command(flatten)]
    pub certificates: CertificateConfig,

    /// How passwords are hashed.
    #[command(flatten)]
    pub hashing: HashConfig,

    /// How people log in.
    #[command(flatten)]
    pub logins: LoginConfig,

    /// What may be bound.
    #[command(flatten)]
    pub rbac: RbacConfig,

    /// Where notices may go.
    #[command(flatten)]
    pub notification: NotificationConfig,

    /// What containers get that state nothing.
    #[command(flatten)]
    pub quota: QuotaConfig,

    /// How the leader is elected.
    #[command(flatten)]
    pub lease: LeaseConfig,

    /// Objects of a kind that are reconciled at the same time, and native bindings that are written at the same time.
    /// Each takes a connection to the API server.
    #[arg(long, env = "ROSTER_CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub concurrency: u16,

    /// How long requests are still answered after SIGTERM, while the Service learns that this replica is no longer
    /// ready. A second signal ends it at once.
    #[arg(long, env = "ROSTER_DRAIN", default_value = "5s", value_parser = duration)]
    pub drain: Duration,

    /// How logs are written.
    #[command(flatten)]
    pub log: LogConfig,
}

/// What containers get, in owned namespaces where nobody else keeps a LimitRange.
#[derive(Args, Clone, Debug)]
pub struct QuotaConfig {
    /// Requests of a container that states none, of what its owner's quota limits.
    #[arg(long, env = "ROSTER_QUOTA_DEFAULT_REQUEST", default_value = "cpu=100m,memory=128Mi,ephemeral-storage=64Mi")]
    pub quota_default_request: Pairs,

    /// Limits of a container that states none, of what its owner's quota limits.
    #[arg(long, env = "ROSTER_QUOTA_DEFAULT_LIMIT", default_value = "cpu=1,memory=512Mi,ephemeral-storage=1Gi")]
    pub quota_default_limit: Pairs,
}

impl QuotaConfig {
    /// Both together.
    pub fn defaults(&self) -> Defaults {
        Defaults { requests: self.quota_default_request.0.clone(), limits: self.quota_default_limit.0.clone() }
    }

    fn validate(&self) -> Result<(), String> {
        let limits = &self.quota_default_limit.0;
        let mut above = self
            .quota_default_request
            .0
            .iter()
            .filter(|(name, request)| limits.get(*name).is_some_and(|limit| limit < request));
        match above.next() {
            Some((name, _)) => Err(format!("--quota-default-request must not be above --quota-default-limit: {name}")),
            None => Ok(()),
        }
    }
}

/// Who makes the serving certificate, and how long what Roster makes lasts.
#[derive(Args, Clone, Debug)]
pub struct CertificateConfig {
    /// Lifetime of the certificate authority. A new one takes over after two thirds of it.
    #[arg(long, env = "ROSTER_CA_LIFETIME", default_value = "8760h", value_parser = duration)]
    pub ca_lifetime: Duration,

    /// Lifetime of a serving certificate. It is replaced after two thirds of it.
    #[arg(long, env = "ROSTER_CERTIFICATE_LIFETIME", default_value = "720h", value_parser = duration)]
    pub certificate_lifetime: Duration,

    /// Secret of type kubernetes.io/tls in Roster's namespace, as cert-manager keeps it, that holds the serving
    /// certificate. Roster makes none of its own then, and leaves the caBundles to whoever makes this one.
    #[arg(long, env = "ROSTER_SERVING_CERTIFICATE_SECRET")]
    pub serving_certificate_secret: Option<String>,
}

/// Parameters of argon2id and of the pool that runs it.
#[derive(Args, Clone, Debug)]
pub struct HashConfig {
    /// Memory of a hash, KiB. Raising it rehashes at the next login.
    #[arg(long = "hash-memory-kib", env = "ROSTER_HASH_MEMORY_KIB", default_value_t = 19_456)]
    pub memory_kib: u32,

    /// Iterations of a hash.
    #[arg(long = "hash-iterations", env = "ROSTER_HASH_ITERATIONS", default_value_t = 2)]
    pub iterations: u32,

    /// Lanes of a hash.
    #[arg(long = "hash-parallelism", env = "ROSTER_HASH_PARALLELISM", default_value_t = 1)]
    pub parallelism: u32,

    /// Hashes at the same time. Default: one a core.
    #[arg(long = "hash-slots", env = "ROSTER_HASH_SLOTS", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub slots: Option<u16>,

    /// Callers that may wait for a slot. Whoever comes beyond that is turned away.
    #[arg(long = "hash-queue", env = "ROSTER_HASH_QUEUE", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    pub queue: u16,
}

impl HashConfig {
    /// The cost of new hashes.
    ///
    /// # Errors
    /// If a parameter is below the floor or above the ceiling.
    pub fn cost(&self) -> Result<Argon2idCost, CostError> {
        Argon2idCost::new(self.memory_kib, self.iterations, self.parallelism)
    }

    /// Number of hashes at the same time.
    pub fn slots(&self) -> usize {
        self.slots.map_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get), usize::from)
    }
}

/// What Roster binds, and how.
#[derive(Args, Clone, Debug)]
pub struct RbacConfig {
    /// ClusterRoles that Roster may bind. Its own RBAC has to allow `bind` on each.
    #[arg(long, env = "ROSTER_BINDABLE_CLUSTER_ROLES", value_delimiter = ',', default_value = "view,edit,admin")]
    pub bindable_cluster_roles: Vec<String>,

    /// Roles that Roster may bind, in whatever namespace.
    #[arg(long, env = "ROSTER_BINDABLE_ROLES", value_delimiter = ',')]
    pub bindable_roles: Vec<String>,

    /// ClusterRole that a User with spec.admin is bound to, cluster-wide. One of the bindable ones.
    #[arg(long, env = "ROSTER_ADMINISTRATOR_ROLE", default_value = "admin")]
    pub administrator_role: String,

    /// Whether groups are expanded to their users in native bindings, for authenticators that know no groups.
    #[arg(long, env = "ROSTER_EXPAND_GROUPS")]
    pub expand_groups: bool,
}

impl RbacConfig {
    /// What may be bound.
    pub fn policy(&self) -> Policy {
        Policy {
            bindable_cluster_roles: self.bindable_cluster_roles.iter().cloned().collect(),
            bindable_roles: self.bindable_roles.iter().cloned().collect(),
            administrator_role: self.administrator_role.clone(),
            expand_groups: self.expand_groups,
        }
    }
}

/// Timing of the leader election.
#[derive(Args, Clone, Debug)]
pub struct LeaseConfig {
    /// Name of the Lease, in Roster's namespace.
    #[arg(long, env = "ROSTER_LEASE", default_value = "roster")]
    pub lease: String,

    /// Name of this replica. Default: host name and a random part.
    #[arg(long, env = "ROSTER_IDENTITY")]
    pub identity: Option<String>,

    /// How long the others wait for a leader that no longer renews.
    #[arg(long, env = "ROSTER_LEASE_DURATION", default_value = "15s", value_parser = duration)]
    pub lease_duration: Duration,

    /// How long the leader tries to renew before it gives up.
    #[arg(long, env = "ROSTER_RENEW_DEADLINE", default_value = "10s", value_parser = duration)]
    pub renew_deadline: Duration,

    /// Time between two attempts.
    #[arg(long, env = "ROSTER_RETRY_PERIOD", default_value = "2s", value_parser = duration)]
    pub retry_period: Duration,
}

impl LeaseConfig {
    /// Options of the leader election.
    pub fn options(&self) -> LeaseOptions {
        LeaseOptions {
            name: self.lease.clone(),
            identity: self.identity.clone(),
            duration: self.lease_duration,
            renew_deadline: self.renew_deadline,
            retry_period: self.retry_period,
        }
    }
}

/// What is logged and how.
#[derive(Args, Clone, Debug)]
pub struct LogConfig {
    /// Form of the log lines.
    #[arg(long, env = "ROSTER_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,

    /// What is logged, as tracing directives: info, or roster=debug,kube=warn.
    #[arg(long, env = "ROSTER_LOG", default_value = "info")]
    pub log: String,
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
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

/// A DNS label (RFC 1123), as names of namespaces are.
fn is_dns_label(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with('-') && !name.ends_with('-')
}

impl RunConfig {
    /// Username of the ServiceAccount that the chart gives the operator.
    pub fn service_account(&self) -> String {
        format!("system:serviceaccount:{}:roster", self.namespace)
    }

    /// Options of the serving certificate.
    pub fn certificates(&self) -> CertificateOptions {
        CertificateOptions {
            namespace: self.namespace.clone(),
            service: self.service.clone(),
            subject_alt_names: self.tls_sans.clone(),
            authority_lifetime: self.certificates.ca_lifetime,
            certificate_lifetime: self.certificates.certificate_lifetime,
            given_secret: self.certificates.serving_certificate_secret.clone(),
        }
    }

    /// Checks what a single flag can't.
    ///
    /// # Errors
    /// If flags contradict each other; the message names them.
    pub fn validate(&self) -> Result<(), String> {
        self.hashing.cost().map_err(|error| error.to_string())?;
        if let Some(wrong) = self.password_secret_namespaces.iter().find(|name| !is_dns_label(name)) {
            return Err(format!("--password-secret-namespaces: {wrong:?} is not the name of a namespace"));
        }
        if !self.rbac.bindable_cluster_roles.contains(&self.rbac.administrator_role) {
            return Err("--administrator-role must be one of --bindable-cluster-roles".to_owned());
        }
        let lease = &self.lease;
        if lease.renew_deadline >= lease.lease_duration {
            return Err("--renew-deadline must be shorter than --lease-duration".to_owned());
        }
        if lease.retry_period >= lease.renew_deadline {
            return Err("--retry-period must be shorter than --renew-deadline".to_owned());
        }
        if lease.lease_duration.subsec_nanos() != 0 {
            return Err("--lease-duration must be whole seconds: a Lease counts no others".to_owned());
        }
        self.logins.validate()?;
        self.quota.validate()?;
        if self.certificates.certificate_lifetime > self.certificates.ca_lifetime {
            return Err("--certificate-lifetime must not be longer than --ca-lifetime".to_owned());
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
        cli.run.validate()
    }

    #[rstest]
    #[case(&["--hash-memory-kib", "1024"], "argon2id needs at least")]
    #[case(&["--renew-deadline", "20s"], "--renew-deadline must be shorter")]
    #[case(&["--retry-period", "12s"], "--retry-period must be shorter")]
    #[case(&["--lease-duration", "12500ms"], "whole seconds")]
    #[case(&["--lease-duration", "fast"], "write a duration such as")]
    #[case(&["--lease-duration", "0s"], "longer than zero")]
    #[case(&["--lockout-duration", "900000h"], "at most 876000h")]
    #[case(&["--certificate-lifetime", "9000h"], "--certificate-lifetime must not")]
    #[case(&["--administrator-role", "cluster-admin"], "one of --bindable-cluster-roles")]
    #[case(&["--concurrency", "0"], "--concurrency")]
    #[case(&["--signing-key-lifetime", "1h"], "--signing-key-lifetime must be at least 4h")]
    #[case(&["--token-lifetime", "2h"], "--token-lifetime must be at most 1h")]
    #[case(&["--issuer-url", "http://roster.example.com"], "--issuer-url must be an https URL")]
    #[case(&["--password-min-length", "7"], "--password-min-length")]
    #[case(&["--lockout-user-threshold", "4"], "--lockout-user-threshold must be above --lockout-threshold")]
    #[case(&["--trusted-proxies", "10.0.0.0"], "--trusted-proxies")]
    #[case(&["--password-secret-namespaces", "team-a,Team_B"], "--password-secret-namespaces: \"Team_B\"")]
    #[case(&["--listen", "here"], "--listen")]
    #[case(&["--notification-allowed-cidrs", "10.0.0.0/8,here"], "--notification-allowed-cidrs")]
    fn nonsense_is_refused_by_name(#[case] args: &[&str], #[case] message: &str) {
        let error = parse(args).unwrap_err();
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn defaults_are_valid() {
        parse(&[]).unwrap();
    }
}
