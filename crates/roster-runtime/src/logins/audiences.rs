//! Audiences that a token or key is valid for, as the TokenReview API defines them.

use std::path::Path;

use kube::Config;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// Audiences by who accepts them.
#[derive(Clone, Debug, Default)]
pub struct Audiences {
    /// `--token-audiences`: accepted by the token webhook. The first stands for the cluster (kube-apiserver and Roster
    /// itself) and is the default audience of a login.
    pub accepted: Vec<String>,
    /// `--oidc-audiences`: audiences of third parties.
    pub relying_parties: Vec<String>,
    /// kube-apiserver's own audiences (`--api-audiences`), which it passes to the webhook.
    pub of_api_server: Vec<String>,
}

impl Audiences {
    /// Returns all audiences that tokens are issued for.
    pub fn issued(&self) -> impl Iterator<Item = &String> {
        self.accepted.iter().chain(&self.relying_parties)
    }

    /// Whether a token for `audience` is valid for the cluster. API keys have no audience and are always valid for it.
    pub fn is_of_cluster(&self, audience: Option<&str>) -> bool {
        audience.is_none_or(|audience| self.accepted.first().is_some_and(|first| first == audience))
    }

    /// Returns the audiences of `asked` that a token for `audience` is valid for, or `None` if there are none.
    /// A caller that asks for no audience means kube-apiserver, and gets an empty list.
    pub fn compatible(&self, audience: Option<&str>, asked: &[String]) -> Option<Vec<String>> {
        let is_of_cluster = self.is_of_cluster(audience);
        if asked.is_empty() {
            return is_of_cluster.then(Vec::new);
        }
        let counts = |asked: &&String| {
            audience == Some(asked.as_str())
                || is_of_cluster && (self.accepted.first() == Some(*asked) || self.of_api_server.contains(asked))
        };
        let compatible: Vec<String> = asked.iter().filter(counts).cloned().collect();
        (!compatible.is_empty()).then_some(compatible)
    }
}

/// Audiences of a ServiceAccount token: those of kube-apiserver, unless others were requested.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    aud: OneOrMany,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

/// Returns kube-apiserver's audiences as in the operator's own ServiceAccount token. Empty if the operator has no such
/// token: then `--token-audiences` must begin with them.
pub async fn of_api_server(config: &Config) -> Vec<String> {
    let auth = &config.auth_info;
    let token = match (&auth.token, &auth.token_file) {
        (Some(token), _) => Some(token.clone()),
        (None, Some(file)) => tokio::fs::read_to_string(Path::new(file)).await.ok().map(SecretString::from),
        (None, None) => None,
    };
    token.map(|token| audiences_in(token.expose_secret())).unwrap_or_default()
}

fn audiences_in(token: &str) -> Vec<String> {
    // Not verified: it is the token that Roster itself presents to kube-apiserver.
    let claims = jsonwebtoken::dangerous::insecure_decode_claims::<Claims>(token.trim());
    match claims.map(|claims| claims.aud) {
        Ok(OneOrMany::One(audience)) => vec![audience],
        Ok(OneOrMany::Many(audiences)) => audiences,
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use rstest::rstest;

    fn audiences() -> Audiences {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Audiences {
            accepted: owned(&["kubernetes", "vault"]),
            relying_parties: owned(&["kubernetes-oidc"]),
            of_api_server: owned(&[API_SERVER, "api"]),
        }
    }

    const API_SERVER: &str = "https://kubernetes.default.svc";

    #[rstest]
    // For the cluster: valid for its own name, kube-apiserver's audiences, and if none are requested.
    #[case(Some("kubernetes"), vec![], Some(vec![]))]
    #[case(Some("kubernetes"), vec!["kubernetes", "x"], Some(vec!["kubernetes"]))]
    #[case(Some("kubernetes"), vec![API_SERVER], Some(vec![API_SERVER]))]
    #[case(Some("kubernetes"), vec!["x", "api"], Some(vec!["api"]))]
    #[case(Some("kubernetes"), vec!["vault"], None)]
    #[case(Some("kubernetes"), vec!["x"], None)]
    #[case(Some("kubernetes"), vec!["kubernetes-oidc"], None)]
    // For a third party: valid for its own name only.
    #[case(Some("vault"), vec!["vault", "kubernetes"], Some(vec!["vault"]))]
    #[case(Some("vault"), vec![], None)]
    #[case(Some("vault"), vec![API_SERVER], None)]
    #[case(Some("vault"), vec!["kubernetes"], None)]
    // An API key: like a token for the cluster.
    #[case(None, vec![], Some(vec![]))]
    #[case(None, vec!["api"], Some(vec!["api"]))]
    #[case(None, vec!["vault"], None)]
    #[case(None, vec!["x"], None)]
    fn tokens_and_keys_are_valid_only_for_the_audience_they_were_issued_for(
        #[case] audience: Option<&str>,
        #[case] asked: Vec<&str>,
        #[case] expected: Option<Vec<&str>>,
    ) {
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(audiences().compatible(audience, &owned(asked)), expected.map(owned));
    }

    #[test]
    fn the_audiences_of_kube_apiserver_are_read_from_a_service_account_token() {
        let token = |claims: &str| {
            let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
            format!("{}.{}.signature", part(r#"{"alg": "RS256"}"#), part(claims))
        };
        assert_eq!(audiences_in(&token(r#"{"aud": ["a", "b"], "sub": "x"}"#)), ["a", "b"]);
        assert_eq!(audiences_in(&token(r#"{"aud": "a"}"#)), ["a"]);
        for other in [token("{}"), "nonsense".to_owned(), String::new()] {
            assert!(audiences_in(&other).is_empty(), "{other}");
        }
    }
}
