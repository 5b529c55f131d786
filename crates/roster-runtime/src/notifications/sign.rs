//! Signatures that receivers can verify.

use anyhow::Result;
use serde_json::Value;

/// Makes tokens that receivers can check.
pub trait Sign: Send + Sync {
    /// A JWT of that type (`typ` in its header) with these claims.
    ///
    /// # Errors
    /// If there is no key to sign with.
    fn sign(&self, typ: &str, claims: &Value) -> Result<String>;

    /// The `iss` of tokens: where receivers find the keys.
    fn issuer(&self) -> String;
}
