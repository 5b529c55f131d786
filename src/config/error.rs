//! Errors of flags that depend on each other.

use roster_credentials::hash::CostError;
use thiserror::Error;

/// Flags that are out of range or contradict each other. Messages name the flags.
#[derive(Debug, Error)]
pub(crate) enum ConfigError {
    #[error(transparent)]
    HashCost(#[from] CostError),
    #[error("--password-secret-namespaces: {0:?} is not the name of a namespace")]
    InvalidNamespace(String),
    #[error("--administrator-role must be one of --bindable-cluster-roles")]
    AdministratorRoleNotBindable,
    #[error("--renew-deadline must be shorter than --lease-duration")]
    RenewDeadlineTooLong,
    #[error("--retry-period must be shorter than --renew-deadline")]
    RetryPeriodTooLong,
    #[error("--lease-duration must be in whole seconds, as in a Lease")]
    FractionalLeaseDuration,
    #[error("--certificate-lifetime must not be longer than --ca-lifetime")]
    CertificateOutlivesAuthority,
    #[error("--token-lifetime must be at most 1h")]
    TokenLifetimeTooLong,
    #[error("--signing-key-lifetime must be at least 4h")]
    SigningKeyLifetimeTooShort,
    #[error("--issuer-url must be an https URL without a query or fragment")]
    InvalidIssuerUrl,
    #[error("--token-audiences and --oidc-audiences must not be empty")]
    EmptyAudience,
    #[error("--oidc-audiences must differ from --token-audiences")]
    SharedAudience,
    #[error("--lockout-user-threshold must be greater than --lockout-threshold")]
    UserThresholdTooLow,
    /// Holds the name of the resource.
    #[error("--quota-default-request must not be greater than --quota-default-limit: {0}")]
    RequestAboveLimit(String),
}
