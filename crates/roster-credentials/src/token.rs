//! Tokens: JWTs (RFC 7519) that are bound to the UID of a User and to the password at the time of the login.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jsonwebtoken::{Header, TokenData, Validation, decode, decode_header, encode};
use serde::{Deserialize, Serialize};

use super::signing::SigningKeys;
use super::token_id::{LEEWAY, Session};

/// Value of `amr` (RFC 8176) for a password.
pub const PASSWORD: &str = "pwd";
/// Value of `amr` for a one-time password.
pub const ONE_TIME_PASSWORD: &str = "otp";

/// Claims of a token. Times are Unix times in seconds.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Claims {
    /// Issuer.
    pub iss: String,
    /// UID of the User.
    pub sub: String,
    /// Audience.
    pub aud: String,
    /// Issued at.
    pub iat: i64,
    /// Not valid before.
    pub nbf: i64,
    /// Expiration.
    pub exp: i64,
    /// Unique ID of the token, from [`TokenIds`](super::token_id::TokenIds).
    pub jti: String,
    /// Authentication methods (RFC 8176).
    pub amr: Vec<String>,
    /// Username for kube-apiserver.
    pub preferred_username: String,
    /// Effective groups at the time of the login. Only in tokens that are verified without asking Roster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// `spec.extra`. Only in tokens that are verified without asking Roster.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
    /// When the password used at the login was set. A later password revokes the token.
    #[serde(rename = "roster.dev/password-changed")]
    pub password_changed: i64,
}

impl Claims {
    /// Returns the session that the token belongs to.
    pub fn session(&self) -> Session {
        Session {
            expires: self.exp,
            password_changed: self.password_changed,
            has_second_factor: self.amr.iter().any(|method| method == ONE_TIME_PASSWORD),
        }
    }
}

/// Signs claims with the current key. `typ` is the type in the header.
///
/// # Errors
/// If signing fails.
pub fn sign(
    typ: &str,
    claims: &impl Serialize,
    keys: &SigningKeys,
    now: Timestamp,
) -> jsonwebtoken::errors::Result<String> {
    let key = keys.signer(now);
    let header = Header::new(key.algorithm.into());
    let header = Header { typ: Some(typ.to_owned()), kid: Some(key.id.clone()), ..header };
    encode(&header, claims, &key.private)
}

/// Verifies a token and returns its claims. Returns `None` unless one of the keys signed it, issuer and audience match, and
/// it is valid now.
pub fn verify(token: &str, keys: &SigningKeys, issuer: &str, audiences: &[String]) -> Option<Claims> {
    let header = decode_header(token).ok()?;
    // Notifications are signed with the same keys but must not be accepted as tokens.
    if header.typ.as_deref() != Some("JWT") {
        return None;
    }
    let key = keys.get(header.kid.as_deref()?)?;
    let mut validation = Validation::new(key.algorithm.into());
    validation.set_issuer(&[issuer]);
    validation.set_audience(audiences);
    validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
    validation.validate_nbf = true;
    validation.leeway = LEEWAY;
    let TokenData { claims, .. } = decode::<Claims>(token, &key.public, &validation).ok()?;
    Some(claims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::SigningAlgorithm;
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use jsonwebtoken::Algorithm;
    use rstest::rstest;
    use serde_json::{Value, json};

    const ISSUER: &str = "https://roster.example.com";

    fn claims(now: Timestamp) -> Claims {
        Claims {
            iss: ISSUER.into(),
            sub: "u-1".into(),
            aud: "kubernetes".into(),
            iat: now.as_second(),
            nbf: now.as_second(),
            exp: now.as_second() + 600,
            jti: "1".into(),
            amr: vec![PASSWORD.into()],
            preferred_username: "jane".into(),
            groups: vec!["engineers".into()],
            extra: BTreeMap::new(),
            password_changed: 7,
        }
    }

    fn audiences(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[rstest]
    #[case(SigningAlgorithm::Es256)]
    #[case::case_e1(SigningAlgorithm::Rs256)]
    fn signed_claims_round_trip(#[case] algorithm: SigningAlgorithm) {
        let now = Timestamp::now();
        let keys = SigningKeys::create(now, algorithm).unwrap();
        let claims = claims(now);
        let token = sign("JWT", &claims, &keys, now).unwrap();
        assert_eq!(decode_header(&token).unwrap().alg, algorithm.into());
        assert_eq!(verify(&token, &keys, ISSUER, &audiences(&["other", "kubernetes"])), Some(claims));
    }

    #[test]
    fn tokens_with_another_audience_issuer_time_type_or_key_are_rejected() {
        let now = Timestamp::now();
        let keys = SigningKeys::create(now, SigningAlgorithm::Es256).unwrap();
        let good = claims(now);
        let sign = |claims: &Claims| sign("JWT", claims, &keys, now).unwrap();
        let accepts = |token: &str| verify(token, &keys, ISSUER, &audiences(&["kubernetes"])).is_some();
        assert!(accepts(&sign(&good)));
        assert!(!accepts(&sign(&Claims { aud: "other".into(), ..good.clone() })));
        assert!(!accepts(&sign(&Claims { iss: "https://evil.example.com".into(), ..good.clone() })));
        assert!(!accepts(&sign(&Claims { exp: now.as_second() - 60, ..good.clone() })));
        assert!(!accepts(&sign(&Claims { nbf: now.as_second() + 60, ..good.clone() })));
        assert!(!accepts(&super::sign("secevent+jwt", &good, &keys, now).unwrap()));
        let others = SigningKeys::create(now, SigningAlgorithm::Es256).unwrap();
        assert!(!accepts(&super::sign("JWT", &good, &others, now).unwrap()));
        assert!(!accepts("") && !accepts("a.b.c") && !accepts("é.é.é"));
    }

    #[rstest]
    fn other_algorithms_and_none_are_rejected(
        #[values(SigningAlgorithm::Es256, SigningAlgorithm::Rs256)] algorithm: SigningAlgorithm,
    ) {
        let now = Timestamp::now();
        let keys = SigningKeys::create(now, algorithm).unwrap();
        let token = sign("JWT", &claims(now), &keys, now).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let exchanged = if algorithm == SigningAlgorithm::Es256 { "RS256" } else { "ES256" };
        for alg in ["none", "HS256", "ES384", "PS256", exchanged] {
            let header = json!({"typ": "JWT", "alg": alg, "kid": keys.signer(now).id});
            let header = BASE64_URL_SAFE_NO_PAD.encode(header.to_string());
            for signature in ["", parts[2]] {
                let forged = format!("{header}.{}.{signature}", parts[1]);
                assert_eq!(verify(&forged, &keys, ISSUER, &audiences(&["kubernetes"])), None, "{alg}");
            }
        }
    }

    /// RFC 7515, appendix A.3: a signature with ES256, and its key.
    #[test]
    fn the_test_vector_of_rfc_7515_verifies() {
        let key = json!({"kty": "EC", "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"});
        let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(key).unwrap();
        let key = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
        // Header and claims are also those of RFC 7519, section 3.1.
        let token = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
                     DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
        let mut validation = Validation::new(Algorithm::ES256);
        validation.validate_exp = false;
        let read = decode::<Value>(token, &key, &validation).unwrap();
        assert_eq!(read.claims, json!({"iss": "joe", "exp": 1_300_819_380, "http://example.com/is_root": true}));
        let broken = token.replace("Q.Dt", "Q.Du");
        assert!(decode::<Value>(broken, &key, &validation).is_err());
    }
}
