//! Which audiences a token or key counts for, as the TokenReview API defines it.

use std::path::Path;

use kube::Config;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// Audiences, by who accepts them.
#[derive(Clone, Debug, Default)]
pub struct Audiences {
    /// `--token-audiences`: accepted by the token webhook. The first stands for the cluster (kube-apiserver and Roster
    /// itself), and is that of a login that asks for none.
    pub accepted: Vec<String>,
    /// `--oidc-audiences`: tokens for others.
    pub foreign: Vec<String>,
    /// What kube-apiserver calls itself, and asks the webhook about: its `--api-audiences`.
    pub of_api_server: Vec<String>,
}

impl Audiences {
    /// All audiences that tokens are issued for.
    pub fn issued(&self) -> impl Iterator<Item = &String> {
        self.accepted.iter().chain(&self.foreign)
    }

    /// Whether a token for `audience` counts for the cluster. An API key has no audience, and does.
    pub fn is_of_cluster(&self, audience: Option<&str>) -> bool {
        audience.is_none_or(|audience| self.accepted.first().is_some_and(|first| first == audience))
    }

    /// Those of the audiences `asked` for that a token for `audience` counts for. `None`: for none of them. Whoever asks
    /// for none in particular means kube-apiserver, and gets an empty list.
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

/// Audiences of a ServiceAccount's token: those of kube-apiserver, unless it was asked for with others.
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

/// What kube-apiserver calls itself, as the token of the operator's own ServiceAccount says. Nothing, if the operator
/// has no such token: then `--token-audiences` has to begin with it.
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
    // Not verified: it is the one that Roster shows kube-apiserver itself.
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
            foreign: owned(&["kubernetes-oidc"]),
            of_api_server: owned(&[API_SERVER, "api"]),
        }
    }

    const API_SERVER: &str = "https://kubernetes.default.svc";

    #[rstest]
    // For the cluster: by its own name, by kube-apiserver's, and where nobody asks for anything.
    #[case(Some("kubernetes"), vec![], Some(vec![]))]
    #[case(Some("kubernetes"), vec!["kubernetes", "x"], Some(vec!["kubernetes"]))]
    #[case(Some("kubernetes"), vec![API_SERVER], Some(vec![API_SERVER]))]
    #[case(Some("kubernetes"), vec!["x", "api"], Some(vec!["api"]))]
    #[case(Some("kubernetes"), vec!["vault"], None)]
    #[case(Some("kubernetes"), vec!["x"], None)]
    #[case(Some("kubernetes"), vec!["kubernetes-oidc"], None)]
    // For another: by its own name alone.
    #[case(Some("vault"), vec!["vault", "kubernetes"], Some(vec!["vault"]))]
    #[case(Some("vault"), vec![], None)]
    #[case(Some("vault"), vec![API_SERVER], None)]
    #[case(Some("vault"), vec!["kubernetes"], None)]
    // An API key: as a token for the cluster.
    #[case(None, vec![], Some(vec![]))]
    #[case(None, vec!["api"], Some(vec!["api"]))]
    #[case(None, vec!["vault"], None)]
    #[case(None, vec!["x"], None)]
    fn tokens_and_keys_count_for_what_they_were_issued_for(
        #[case] audience: Option<&str>,
        #[case] asked: Vec<&str>,
        #[case] expected: Option<Vec<&str>>,
    ) {
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(audiences().compatible(audience, &owned(asked)), expected.map(owned));
    }

    #[test]
    fn a_service_accounts_token_says_what_kube_apiserver_calls_itself() {
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
