//! What Roster keeps of an identity: one Secret per login identifier, in Roster's own namespace.
//!
//! The Secret of the username carries the credential. What controllers need for "is anything to be done?" stands in
//! annotations, so that a metadata watch answers it without reading a single hash.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};

use super::claim::{Identifier, IdentifierKind};
use super::hash::PasswordHash;
use crate::api::{IDENTITY_SECRET_TYPE, USER_ANNOTATION, User};

/// Label by which Roster finds its identity Secrets; the value is the kind of identifier.
pub const IDENTIFIER_LABEL: &str = "roster.dev/identifier";
/// Annotation: the version of the password Secret that was last looked at.
const SOURCE_ANNOTATION: &str = "roster.dev/password-source";
/// Annotation: when the password in use was set, RFC 3339.
const CHANGED_ANNOTATION: &str = "roster.dev/password-changed";

const HASH_KEY: &str = "passwordHash";
const SOURCE_HASH_KEY: &str = "sourcePasswordHash";

/// One state of a password Secret: its UID and resourceVersion.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SourceVersion(String);

impl SourceVersion {
    /// The version that `metadata` describes. `None` for an object that was never stored.
    pub fn of(metadata: &ObjectMeta) -> Option<Self> {
        Some(Self(format!("{}/{}", metadata.uid.as_ref()?, metadata.resource_version.as_ref()?)))
    }
}

/// The credential of a User.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Credential {
    /// The hash that logins are checked against.
    pub hash: Option<PasswordHash>,
    /// The hash that the password Secret last gave. It differs from `hash` once the password was changed by another
    /// way, and tells a changed Secret from one that was merely written again.
    pub source_hash: Option<PasswordHash>,
    /// The state of the password Secret that was last looked at.
    pub source: Option<SourceVersion>,
    /// When `hash` was set.
    pub changed: Option<Timestamp>,
}

/// What the metadata of an identity Secret tells.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claim {
    /// UID of the Secret.
    pub uid: String,
    /// resourceVersion of the Secret, which Kubernetes 1.35 and later define as comparable.
    pub resource_version: u64,
    /// Name of the User that holds the identifier.
    pub owner: String,
    /// UID of that User.
    pub owner_uid: String,
    /// See [`Credential::source`].
    pub source: Option<SourceVersion>,
    /// See [`Credential::changed`]; present where there is a password.
    pub changed: Option<Timestamp>,
}

impl Claim {
    /// Reads the metadata of an identity Secret. One that lost its owner (`kubectl delete --cascade=orphan`) has an
    /// empty one. `None` if it was never stored.
    pub fn read(metadata: &ObjectMeta) -> Option<Self> {
        let owner = metadata.owner_references.iter().flatten().find(|owner| owner.kind == User::kind(&()));
        let annotation = |key: &str| metadata.annotations.as_ref().and_then(|annotations| annotations.get(key));
        Some(Self {
            uid: metadata.uid.clone()?,
            resource_version: metadata.resource_version.as_ref()?.parse().ok()?,
            owner: owner.map(|owner| owner.name.clone()).unwrap_or_default(),
            owner_uid: owner.map(|owner| owner.uid.clone()).unwrap_or_default(),
            source: annotation(SOURCE_ANNOTATION).cloned().map(SourceVersion),
            changed: annotation(CHANGED_ANNOTATION).and_then(|time| time.parse().ok()),
        })
    }
}

/// The Secret that is `user`'s claim on `identifier`, with a credential where it is the username's.
pub fn build(user: &User, namespace: &str, identifier: &Identifier, credential: &Credential) -> Secret {
    let kind = match identifier.kind {
        IdentifierKind::Username => "username",
        IdentifierKind::Email => "email",
    };
    let mut secret = Secret {
        metadata: ObjectMeta {
            name: Some(identifier.secret_name()),
            namespace: Some(namespace.to_owned()),
            labels: Some(
                [("app.kubernetes.io/managed-by", "roster"), (IDENTIFIER_LABEL, kind)]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ),
            annotations: Some([(USER_ANNOTATION.to_owned(), user.name_any())].into()),
            owner_references: Some(vec![owner_reference(user)]),
            ..ObjectMeta::default()
        },
        type_: Some(IDENTITY_SECRET_TYPE.to_owned()),
        ..Secret::default()
    };
    write_credential(&mut secret, credential);
    secret
}

fn owner_reference(user: &User) -> OwnerReference {
    OwnerReference {
        api_version: User::api_version(&()).into_owned(),
        kind: User::kind(&()).into_owned(),
        name: user.name_any(),
        uid: user.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

/// Reads the credential from an identity Secret. A hash that no longer parses counts as absent.
pub fn read_credential(secret: &Secret) -> Credential {
    let hash = |key: &str| {
        let bytes = secret.data.as_ref()?.get(key)?;
        PasswordHash::parse(str::from_utf8(&bytes.0).ok()?).ok()
    };
    let claim = Claim::read(&secret.metadata);
    Credential {
        hash: hash(HASH_KEY),
        source_hash: hash(SOURCE_HASH_KEY),
        source: claim.as_ref().and_then(|claim| claim.source.clone()),
        changed: claim.and_then(|claim| claim.changed),
    }
}

/// Writes the credential into an identity Secret and leaves the rest of it as it is.
pub fn write_credential(secret: &mut Secret, credential: &Credential) {
    let data = secret.data.get_or_insert_default();
    set(data, HASH_KEY, credential.hash.as_ref().map(|hash| ByteString(hash.expose().into())));
    set(data, SOURCE_HASH_KEY, credential.source_hash.as_ref().map(|hash| ByteString(hash.expose().into())));
    let annotations = secret.metadata.annotations.get_or_insert_default();
    set(annotations, SOURCE_ANNOTATION, credential.source.as_ref().map(|source| source.0.clone()));
    set(annotations, CHANGED_ANNOTATION, credential.changed.map(|time| time.to_string()));
}

fn set<T>(map: &mut BTreeMap<String, T>, key: &str, value: Option<T>) {
    match value {
        Some(value) => map.insert(key.to_owned(), value),
        None => map.remove(key),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::UserSpec;

    const BCRYPT: &str = "$2b$12$L6Bc/AlTQHyd9liGgGEZyOFLPHNgyxeEPfgYfBCVxJ7JIlwxyVU3u";

    #[test]
    fn a_credential_survives_being_written_and_read() {
        let mut user = User::new("jane", UserSpec::default());
        user.metadata.uid = Some("u-1".into());
        let credential = Credential {
            hash: Some(PasswordHash::parse(BCRYPT).unwrap()),
            source_hash: Some(PasswordHash::parse(BCRYPT).unwrap()),
            source: Some(SourceVersion("s-1/7".into())),
            changed: Some(Timestamp::from_second(1_800_000_000).unwrap()),
        };
        let identifier = Identifier { kind: IdentifierKind::Username, text: "jane".into() };
        let mut secret = build(&user, "roster-system", &identifier, &credential);
        secret.metadata.uid = Some("s-2".into());
        secret.metadata.resource_version = Some("9".into());
        assert_eq!(read_credential(&secret), credential);
        let claim = Claim::read(&secret.metadata).unwrap();
        assert_eq!((claim.owner.as_str(), claim.owner_uid.as_str(), claim.resource_version), ("jane", "u-1", 9));
        write_credential(&mut secret, &Credential::default());
        assert_eq!(read_credential(&secret), Credential::default());
    }

    #[test]
    fn no_metadata_holds_a_hash() {
        let mut user = User::new("jane", UserSpec::default());
        user.metadata.uid = Some("u-1".into());
        let credential = Credential { hash: Some(PasswordHash::parse(BCRYPT).unwrap()), ..Credential::default() };
        let identifier = Identifier { kind: IdentifierKind::Username, text: "jane".into() };
        let secret = build(&user, "roster-system", &identifier, &credential);
        assert!(!serde_json::to_string(&secret.metadata).unwrap().contains("$2b$"));
        assert!(!format!("{credential:?}").contains("$2b$"));
    }
}
