//! Where a password may hide in the metadata of a Secret. Pure.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use kube::api::ObjectMeta;
use roster_credentials::hash::{HashError, PasswordHash};
use roster_credentials::source::HASH_KEY;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use zeroize::Zeroizing;

/// Where kubectl keeps the manifest that was applied last, as typed.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Fields of a manifest of a Secret. Others mean nothing, and may hold anything.
const FIELDS: [&str; 7] = ["apiVersion", "kind", "metadata", "type", "immutable", "data", "stringData"];

/// Shortest password that is looked for within longer texts: shorter ones stand in many a text by chance, and count where
/// they are the whole of it.
const SHORTEST_PART: usize = 8;

/// A copy of the password, by the field that holds it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Copied(String);

/// Why nothing can be taken out of an annotation with a manifest.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableManifest {
    /// It may hold a password anywhere.
    #[error("is not a JSON object and may hold a password: remove the annotation")]
    NotAnObject,
    /// The password stands elsewhere than in the data.
    #[error("contains the password outside of data and stringData: remove it there")]
    Copied,
}

/// A password that is looked for, in the forms in which tools write it down.
pub struct Needle {
    forms: Vec<Zeroizing<String>>,
    is_long: bool,
}

impl Needle {
    /// Looks for `password`.
    pub fn new(password: &SecretString) -> Self {
        let plain = password.expose_secret();
        let json = Zeroizing::new(Value::from(plain).to_string());
        let forms = [
            plain.to_owned(),
            json[1..json.len() - 1].to_owned(),
            BASE64_STANDARD.encode(plain),
            BASE64_STANDARD_NO_PAD.encode(plain),
            BASE64_URL_SAFE_NO_PAD.encode(plain),
        ];
        Self { forms: forms.map(Zeroizing::new).into(), is_long: plain.len() >= SHORTEST_PART }
    }

    fn is_in(&self, text: &str) -> bool {
        self.forms.iter().any(|form| if self.is_long { text.contains(form.as_str()) } else { text == form.as_str() })
    }

    fn is_in_json(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.is_in(text),
            Value::Array(items) => items.iter().any(|item| self.is_in_json(item)),
            Value::Object(fields) => fields.iter().any(|(key, value)| self.is_in(key) || self.is_in_json(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }

    /// Looks at names, labels and annotations; the manifest that kubectl keeps is left to [`without_plaintext`].
    ///
    /// # Errors
    /// If one of them holds the password.
    pub fn forbid_in(&self, metadata: &ObjectMeta) -> Result<(), Copied> {
        for (field, name) in [("name", &metadata.name), ("generateName", &metadata.generate_name)] {
            if name.as_ref().is_some_and(|name| self.is_in(name)) {
                return Err(Copied(format!("metadata.{field}")));
            }
        }
        for (field, texts) in [("labels", &metadata.labels), ("annotations", &metadata.annotations)] {
            for (key, value) in texts.iter().flatten().filter(|(key, _)| *key != LAST_APPLIED) {
                if self.is_in(key) {
                    return Err(Copied(format!("a key of metadata.{field}")));
                }
                if self.is_in(value) || serde_json::from_str(value).is_ok_and(|value| self.is_in_json(&value)) {
                    return Err(Copied(format!("metadata.{field}[{key}]")));
                }
            }
        }
        Ok(())
    }
}

/// kubectl's copy of the manifest without all that may be a password. It is written anew in any case: of a key that
/// stands twice, only the last is read.
///
/// # Errors
/// If it is no manifest, or holds the password where it can't be taken out.
pub fn without_plaintext(manifest: &str, password: Option<&Needle>) -> Result<String, UnreadableManifest> {
    let Ok(Value::Object(mut fields)) = serde_json::from_str(manifest) else {
        return Err(UnreadableManifest::NotAnObject);
    };
    fields.retain(|field, _| FIELDS.contains(&field.as_str()));
    for field in ["data", "stringData"] {
        match fields.get_mut(field) {
            Some(Value::Object(data)) => data.retain(|key, value| key == HASH_KEY && is_hash(value, field)),
            Some(_) => drop(fields.remove(field)),
            None => {}
        }
    }
    let manifest = Value::Object(fields);
    if password.is_some_and(|password| password.is_in_json(&manifest)) {
        return Err(UnreadableManifest::Copied);
    }
    Ok(format!("{manifest}\n"))
}

/// Whether the manifest has a hash, and not a password, under the hash's key.
fn is_hash(value: &Value, field: &str) -> bool {
    let text = value.as_str().map(str::as_bytes).unwrap_or_default();
    let bytes = if field == "data" { BASE64_STANDARD.decode(text).unwrap_or_default() } else { text.to_vec() };
    let parsed = PasswordHash::parse(String::from_utf8_lossy(&bytes).trim());
    !matches!(parsed, Err(HashError::NotAHash | HashError::UnsupportedAlgorithm))
}
