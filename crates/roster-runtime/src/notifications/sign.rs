//! Signatures that receivers can verify.

use anyhow::Result;
use serde_json::Value;

/// Creates tokens that receivers can verify.
pub trait TokenSigner: Send + Sync {
    /// Returns a JWT of that type (`typ` in its header) with these claims.
    ///
    /// # Errors
    /// If there is no key to sign with.
    fn sign(&self, typ: &str, claims: &Value) -> Result<String>;

    /// Returns the `iss` of tokens: the URL where receivers find the keys.
    fn issuer(&self) -> String;
}
