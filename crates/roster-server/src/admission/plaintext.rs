//! Finds and removes copies of a password in the metadata of a Secret. Pure.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use kube::api::ObjectMeta;
use roster_credentials::hash::{HashError, PasswordHash};
use roster_credentials::source::HASH_KEY;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use zeroize::Zeroizing;

/// Annotation in which kubectl stores the last applied manifest verbatim.
pub(super) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Known fields of a Secret manifest. Others are removed, because they may hold a password.
const FIELDS: [&str; 7] = ["apiVersion", "kind", "metadata", "type", "immutable", "data", "stringData"];

/// Shortest password that is searched for as a substring. Shorter ones must be the whole value, to avoid false matches.
const MIN_SUBSTRING_BYTES: usize = 8;

/// The metadata field that contains the password.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PasswordInMetadata(String);

/// Why the manifest in an annotation can't be redacted.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableManifest {
    /// It is not a JSON object, so a password may be anywhere in it.
    #[error("is not a JSON object and may contain a password: remove the annotation")]
    NotAnObject,
    /// The password is outside of data and stringData.
    #[error("contains the password outside of data and stringData: remove it from there")]
    PasswordOutsideData,
}

/// A password to search for, in the encodings that tools use.
pub(super) struct Needle {
    forms: Vec<Zeroizing<String>>,
    is_long: bool,
}

impl Needle {
    /// Prepares the encodings of `password`.
    pub(super) fn new(password: &SecretString) -> Self {
        let plain = password.expose_secret();
        let json = Zeroizing::new(Value::from(plain).to_string());
        let forms = [
            plain.to_owned(),
            json[1..json.len() - 1].to_owned(),
            BASE64_STANDARD.encode(plain),
            BASE64_STANDARD_NO_PAD.encode(plain),
            BASE64_URL_SAFE_NO_PAD.encode(plain),
        ];
        Self { forms: forms.map(Zeroizing::new).into(), is_long: plain.len() >= MIN_SUBSTRING_BYTES }
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

    /// Checks names, labels and annotations, except the annotation that [`without_plaintext`] redacts.
    ///
    /// # Errors
    /// If one of them contains the password.
    pub(super) fn forbid_in(&self, metadata: &ObjectMeta) -> Result<(), PasswordInMetadata> {
        for (field, name) in [("name", &metadata.name), ("generateName", &metadata.generate_name)] {
            if name.as_ref().is_some_and(|name| self.is_in(name)) {
                return Err(PasswordInMetadata(format!("metadata.{field}")));
            }
        }
        for (field, texts) in [("labels", &metadata.labels), ("annotations", &metadata.annotations)] {
            for (key, value) in texts.iter().flatten().filter(|(key, _)| *key != LAST_APPLIED) {
                if self.is_in(key) {
                    return Err(PasswordInMetadata(format!("a key of metadata.{field}")));
                }
                if self.is_in(value) || serde_json::from_str(value).is_ok_and(|value| self.is_in_json(&value)) {
                    return Err(PasswordInMetadata(format!("metadata.{field}[{key}]")));
                }
            }
        }
        Ok(())
    }
}

/// Returns the manifest without fields that may hold a password. Always reserializes it, because only the last of
/// duplicate keys is parsed.
///
/// # Errors
/// If it is not a manifest, or contains the password outside of data and stringData.
pub(super) fn without_plaintext(manifest: &str, password: Option<&Needle>) -> Result<String, UnreadableManifest> {
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
        return Err(UnreadableManifest::PasswordOutsideData);
    }
    Ok(format!("{manifest}\n"))
}

/// Returns whether the hash key of the manifest holds a hash and not a password.
fn is_hash(value: &Value, field: &str) -> bool {
    let text = value.as_str().map(str::as_bytes).unwrap_or_default();
    let bytes = if field == "data" { BASE64_STANDARD.decode(text).unwrap_or_default() } else { text.to_vec() };
    let parsed = PasswordHash::parse(String::from_utf8_lossy(&bytes).trim());
    !matches!(parsed, Err(HashError::NotAHash | HashError::UnsupportedAlgorithm))
}
