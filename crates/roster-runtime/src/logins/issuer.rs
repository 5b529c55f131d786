//! Issues tokens and verifies them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use jiff::Timestamp;
use roster_credentials::signing::SigningKeys;
use roster_credentials::token::{Claims, sign, verify};
use roster_credentials::token_id::TokenIds;
use serde_json::{Value, json};

use super::audiences::Audiences;
use super::login_user::LoginUser;
use crate::notifications::TokenSigner;

/// Path of the public keys.
pub const JWKS_PATH: &str = "/openid/v1/jwks";

/// Issues tokens.
pub struct Issuer {
    url: String,
    ids: TokenIds,
    /// Audiences of the tokens.
    pub audiences: Audiences,
    lifetime: Duration,
    keys: Arc<ArcSwap<SigningKeys>>,
}

impl Issuer {
    /// Creates an issuer with the current keys. Tokens and the discovery document contain `url` exactly as it is,
    /// because relying parties compare it byte by byte (OpenID Connect Discovery 1.0, section 4.3).
    pub fn new(url: &str, audiences: Audiences, lifetime: Duration, keys: Arc<ArcSwap<SigningKeys>>) -> Self {
        Self { url: url.to_owned(), ids: TokenIds::new(url), audiences, lifetime, keys }
    }

    /// Issues a token and returns it with its expiry. `password_changed` is when the presented password was set.
    ///
    /// # Errors
    /// If signing fails.
    pub fn issue(
        &self,
        person: &LoginUser,
        amr: &[&str],
        audience: Option<&str>,
        password_changed: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(String, Timestamp)> {
        let ends = now.checked_add(self.lifetime).context("the system time is out of range")?;
        // A token must not outlive its owner.
        let validity = person.spec.validity.as_ref().and_then(|validity| validity.not_after.as_ref());
        let ends = validity.map_or(ends, |end| end.0.min(ends));
        let audience = audience.or_else(|| self.audiences.issued().next().map(String::as_str)).unwrap_or_default();
        // The webhook returns current groups and extra, so tokens for it omit them.
        let is_for_third_party = self.audiences.relying_parties.iter().any(|relying_party| relying_party == audience);
        let mut claims = Claims {
            iss: self.url.clone(),
            sub: person.uid.clone(),
            aud: audience.to_owned(),
            iat: now.as_second(),
            nbf: now.as_second(),
            exp: ends.as_second(),
            jti: String::new(),
            amr: amr.iter().map(|method| (*method).to_owned()).collect(),
            preferred_username: person.username.clone(),
            groups: if is_for_third_party { person.groups.clone() } else { Vec::new() },
            extra: if is_for_third_party { person.spec.extra.clone() } else { BTreeMap::new() },
            password_changed: password_changed.map_or(0, Timestamp::as_second),
        };
        claims.jti = self.ids.create(&person.uid, claims.session());
        Ok((sign("JWT", &claims, &self.keys.load(), now)?, Timestamp::from_second(claims.exp)?))
    }

    /// Verifies a token and returns its claims. The owner's current state is not checked.
    pub fn read(&self, token: &str) -> Option<Claims> {
        verify(token, &self.keys.load(), &self.url, &self.audiences.accepted)
    }

    /// Returns the public keys.
    pub fn jwks(&self) -> Value {
        self.keys.load().jwks()
    }

    /// Returns the OpenID Connect Discovery 1.0 document. There is no authorization endpoint, because
    /// tokens are issued by logins.
    pub fn configuration(&self) -> Value {
        let url = &self.url;
        let algorithms: Vec<String> = self.keys.load().algorithms().iter().map(ToString::to_string).collect();
        json!({
            "issuer": url,
            "jwks_uri": format!("{}{JWKS_PATH}", url.strip_suffix('/').unwrap_or(url)),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
            "claims_supported": ["aud", "amr", "exp", "extra", "groups", "iat", "iss", "jti", "nbf", "preferred_username", "sub"],
        })
    }
}

/// Signs notices with the token keys, so that receivers verify them with the same public keys.
impl TokenSigner for Issuer {
    fn sign(&self, typ: &str, claims: &Value) -> Result<String> {
        Ok(sign(typ, claims, &self.keys.load(), Timestamp::now())?)
    }

    fn issuer(&self) -> String {
        self.url.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use roster_credentials::signing::SigningAlgorithm;
    use rstest::rstest;

    #[rstest]
    #[case("https://roster.example.com")]
    #[case("https://roster.example.com/")]
    #[case("https://example.com/roster/")]
    fn case_e2_the_issuer_is_the_configured_url_byte_by_byte(#[case] url: &str) {
        let now = Timestamp::now();
        let keys = Arc::new(ArcSwap::from_pointee(SigningKeys::create(now, SigningAlgorithm::default()).unwrap()));
        let audiences = Audiences { accepted: vec!["a".to_owned()], ..Audiences::default() };
        let issuer = Issuer::new(url, audiences, Duration::from_secs(60), keys);
        let configuration = issuer.configuration();
        assert_eq!(configuration["issuer"], url);
        let base = url.trim_end_matches('/');
        assert_eq!(configuration["jwks_uri"], format!("{base}{JWKS_PATH}"));
        let user = LoginUser {
            name: "jane".to_owned(),
            uid: "1".to_owned(),
            username: "jane".to_owned(),
            groups: Vec::new(),
            is_active: true,
            spec: roster_api::user::UserSpec::default(),
            status: roster_api::user::UserStatus::default(),
        };
        let (token, _) = issuer.issue(&user, &["pwd"], Some("a"), None, now).unwrap();
        assert_eq!(issuer.read(&token).unwrap().iss, url);
    }
}
