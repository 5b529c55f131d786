//! Secret with the key that seals TOTP seeds: created by the first replica and never changed. If it is lost, enrolled
//! second factors are lost and must be removed and enrolled again.

use anyhow::{Context, Result};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use roster_credentials::digest::random;
use roster_credentials::seal::{KEY_BYTES, Sealer};

/// Name of the Secret.
const SECRET: &str = "roster-sealing-key";

const KEY: &str = "key";

/// Reads or creates the key.
///
/// # Errors
/// If kube-apiserver does not answer, or the Secret holds no valid key.
pub async fn load(client: Client, namespace: &str) -> Result<Sealer> {
    let secrets: Api<Secret> = Api::namespaced(client, namespace);
    let secret = match secrets.get_opt(SECRET).await? {
        Some(secret) => secret,
        None => create(&secrets).await?,
    };
    let key = secret.data.as_ref().and_then(|data| data.get(KEY));
    let sealer = key.and_then(|key| Sealer::new(&key.0));
    sealer
        .with_context(|| format!("Secret {SECRET} has no key of {KEY_BYTES} bytes in {KEY}: restore it from a backup"))
}

async fn create(secrets: &Api<Secret>) -> Result<Secret> {
    let secret = Secret {
        metadata: ObjectMeta { name: Some(SECRET.to_owned()), ..ObjectMeta::default() },
        data: Some([(KEY.to_owned(), ByteString(random::<KEY_BYTES>().to_vec()))].into()),
        ..Secret::default()
    };
    match secrets.create(&PostParams::default(), &secret).await {
        // Another replica created it first.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(secrets.get(SECRET).await?),
        created => Ok(created?),
    }
}
