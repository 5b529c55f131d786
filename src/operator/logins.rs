//! Creates the components for logins, tokens and API keys, which run on every replica.

use std::sync::Arc;

use roster_credentials::seal::Sealer;
use roster_runtime::logins::Logins;
use roster_runtime::logins::audiences::Audiences;
use roster_runtime::logins::issuer::Issuer;
use roster_runtime::logins::last_use::LastUse;
use roster_runtime::logins::signing_keys::SigningKeyStore;
use roster_runtime::logins::token_authenticator::TokenAuthenticator;
use roster_runtime::logins::vault::Vault;
use roster_runtime::logins::verifier::{Verifier, VerifierParts};
use roster_runtime::notifications::Notifier;
use tracing::warn;

use super::replica::Replica;

/// Creates the issuer of tokens. `of_api_server` are kube-apiserver's audiences, if known.
pub(super) fn issuer(replica: &Replica, of_api_server: Vec<String>, keys: &SigningKeyStore) -> Issuer {
    let (config, logins) = (&replica.config, &replica.config.logins);
    let audiences = Audiences {
        accepted: logins.token_audiences.clone(),
        relying_parties: logins.oidc_audiences.clone(),
        of_api_server,
    };
    if audiences.of_api_server.is_empty() {
        warn!("kube-apiserver's audiences are unknown: the token webhook accepts only those of --token-audiences");
    }
    Issuer::new(&config.issuer_url(), audiences, logins.token_lifetime, keys.keys())
}

/// Creates the components that serve logins, and the batch of last-use times to write.
pub(super) fn logins(
    replica: &Replica,
    issuer: Arc<Issuer>,
    notifier: Notifier,
    sealer: Arc<Sealer>,
) -> (Logins, Arc<LastUse>) {
    let Replica { client, config, informers, metrics, pool, policy, .. } = replica;
    let vault = Arc::new(Vault::new(client.clone(), &config.namespace, Arc::clone(metrics)));
    let last_use = LastUse::new(client.clone(), Arc::clone(informers), Arc::clone(&vault), Arc::clone(metrics));
    let last_use = Arc::new(last_use);
    let token_authenticator =
        TokenAuthenticator::new(Arc::clone(informers), Arc::clone(&issuer), Arc::clone(&vault), Arc::clone(&last_use));
    let verifier = Verifier::new(VerifierParts {
        informers: Arc::clone(informers),
        vault: Arc::clone(&vault),
        last_use: Arc::clone(&last_use),
        // Separate slots: a flood of logins must not delay the hashing of password Secrets. The memory is shared.
        pool: pool.sibling(),
        limits: config.logins.limits(),
        policy: Arc::clone(policy),
        sealer: Arc::clone(&sealer),
        metrics: Arc::clone(metrics),
    });
    let logins = Logins {
        verifier,
        issuer,
        token_authenticator: Arc::new(token_authenticator),
        vault,
        sealer,
        notifier,
        max_key_lifetime: config.logins.api_key_max_lifetime,
        trusted_proxies: config.logins.trusted_proxies.clone(),
    };
    (logins, last_use)
}
