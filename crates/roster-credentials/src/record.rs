//! Identity Secrets: one per login identifier, in Roster's own namespace.
//!
//! The Secret of the username stores the credential. Annotations repeat what controllers need in order to decide
//! whether they have to act, so a metadata watch is enough and controllers read no hashes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use roster_api::{IDENTITY_SECRET_TYPE, USER_ANNOTATION, User};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::api_key::ApiKey;
use super::claim::{Identifier, IdentifierKind};
use super::credential::{Credential, Invitation, SetBy, SourceVersion, Summary};
use super::hash::PasswordHash;

/// Label of identity Secrets. The value is the kind of identifier.
pub const IDENTIFIER_LABEL: &str = "roster.dev/identifier";
/// Version of the password Secret that was last processed.
const SOURCE_ANNOTATION: &str = "roster.dev/password-source";
/// When the password was set, RFC 3339.
const CHANGED_ANNOTATION: &str = "roster.dev/password-changed";
/// Who set the password: see [`SetBy`].
const SET_BY_ANNOTATION: &str = "roster.dev/password-set-by";
/// Number of failed logins.
const FAILED_ANNOTATION: &str = "roster.dev/failed-logins";
/// End of the user's lockout, RFC 3339.
const LOCKED_ANNOTATION: &str = "roster.dev/locked-until";
/// When the second factor was confirmed, RFC 3339.
const SECOND_FACTOR_ANNOTATION: &str = "roster.dev/second-factor";

/// Set while the credential moves to another Secret, such as that of a new username.
const CLOSED_ANNOTATION: &str = "roster.dev/closed";

const SPARE_SUFFIX: &str = "-spare";

const HASH_KEY: &str = "passwordHash";
const SOURCE_HASH_KEY: &str = "sourcePasswordHash";
/// One hash per line, newest first.
const HISTORY_KEY: &str = "passwordHistory";
const INVITATION_KEY: &str = "invitation";
const SECOND_FACTOR_KEY: &str = "secondFactor";
const API_KEYS_KEY: &str = "apiKeys";
const FAILED_KEY: &str = "failedLogins";

/// A part of an identity Secret does not parse. Such a part must not count as absent: otherwise, a user with an
/// enrolled second factor could log in without it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the key {0} of the identity Secret does not parse")]
pub struct Corrupt(&'static str);

/// The metadata of an identity Secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claim {
    /// UID of the Secret.
    pub uid: String,
    /// resourceVersion of the Secret. Comparable, as Kubernetes 1.35 and later guarantee.
    pub resource_version: u64,
    /// Name of the User that holds the identifier.
    pub owner: String,
    /// UID of that User.
    pub owner_uid: String,
    /// Set if this is or was the claim on the username, which stores the credential.
    pub is_username: bool,
    /// Set while the credential moves to another Secret. It must not be changed in this one.
    pub is_closed: bool,
    /// Set if a manager owns the field `immutable`. Metadata does not contain its value.
    pub may_be_immutable: bool,
    /// See [`Credential::source`].
    pub source: Option<SourceVersion>,
    /// The parts of the credential that are not secret.
    pub summary: Summary,
}

impl Claim {
    /// Reads the metadata of an identity Secret. Returns `None` if it was never stored. If the Secret lost its owner
    /// (`kubectl delete --cascade=orphan`), `owner` and `owner_uid` are empty.
    pub fn read(metadata: &ObjectMeta) -> Option<Self> {
        let owner = metadata.owner_references.iter().flatten().find(|owner| owner.kind == User::kind(&()));
        let annotation = |key: &str| metadata.annotations.as_ref().and_then(|annotations| annotations.get(key));
        let time = |key: &str| annotation(key).and_then(|time| time.parse().ok());
        Some(Self {
            uid: metadata.uid.clone()?,
            resource_version: metadata.resource_version.as_ref()?.parse().ok()?,
            owner: owner.map(|owner| owner.name.clone()).unwrap_or_default(),
            owner_uid: owner.map(|owner| owner.uid.clone()).unwrap_or_default(),
            is_username: metadata.labels.as_ref().and_then(|labels| labels.get(IDENTIFIER_LABEL)).map(String::as_str)
                == Some(label(IdentifierKind::Username)),
            is_closed: annotation(CLOSED_ANNOTATION).is_some(),
            may_be_immutable: metadata
                .managed_fields
                .iter()
                .flatten()
                .any(|entry| entry.fields_v1.as_ref().is_some_and(|fields| fields.0.get("f:immutable").is_some())),
            source: annotation(SOURCE_ANNOTATION).cloned().map(SourceVersion::from),
            summary: Summary {
                changed: time(CHANGED_ANNOTATION),
                set_by: annotation(SET_BY_ANNOTATION).and_then(|text| SetBy::parse(text)),
                failed_logins: annotation(FAILED_ANNOTATION).and_then(|count| count.parse().ok()).unwrap_or(0),
                locked_until: time(LOCKED_ANNOTATION),
                second_factor: time(SECOND_FACTOR_ANNOTATION),
            },
        })
    }

    /// Returns whether this Secret stores the credential and allows changes of it.
    pub fn holds_credential(&self) -> bool {
        self.is_username && !self.is_closed
    }
}

fn label(kind: IdentifierKind) -> &'static str {
    match kind {
        IdentifierKind::Username => "username",
        IdentifierKind::Email => "email",
    }
}

/// Builds the Secret that is `user`'s claim on `identifier`, and writes the credential into it.
pub fn build(user: &User, namespace: &str, identifier: &Identifier, credential: &Credential) -> Secret {
    let mut secret = Secret {
        metadata: ObjectMeta {
            name: Some(identifier.secret_name()),
            namespace: Some(namespace.to_owned()),
            labels: Some(
                [("app.kubernetes.io/managed-by", "roster"), (IDENTIFIER_LABEL, label(identifier.kind))]
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

/// Forbids further changes of the credential in this Secret, because it moves to another one.
pub fn close(secret: &mut Secret) {
    secret.metadata.annotations.get_or_insert_default().insert(CLOSED_ANNOTATION.to_owned(), "true".to_owned());
}

/// Returns the name of the spare: the Secret that stores the credential while the identity Secret `name` is recreated.
pub fn spare_name(name: &str) -> String {
    format!("{name}{SPARE_SUFFIX}")
}

/// Returns the name of the identity Secret that a spare replaces, or `None` if the name is not a spare's.
pub fn replaced_name(spare: &str) -> Option<&str> {
    spare.strip_suffix(SPARE_SUFFIX)
}

/// Copies an identity Secret to its spare, which is closed but not immutable. The spare looks like the Secret of an
/// earlier username, so that the credential moves back in the same way as after a rename.
pub fn spare_of(secret: &Secret) -> Secret {
    let metadata = ObjectMeta {
        name: Some(spare_name(&secret.name_any())),
        namespace: secret.metadata.namespace.clone(),
        labels: secret.metadata.labels.clone(),
        annotations: secret.metadata.annotations.clone(),
        owner_references: secret.metadata.owner_references.clone(),
        ..ObjectMeta::default()
    };
    let mut spare = Secret { metadata, data: secret.data.clone(), type_: secret.type_.clone(), ..Secret::default() };
    reopen_as(&mut spare, IdentifierKind::Username);
    close(&mut spare);
    spare
}

/// Turns an identity Secret into the claim on an identifier of this kind, and allows changes.
pub fn reopen_as(secret: &mut Secret, kind: IdentifierKind) {
    secret.metadata.annotations.get_or_insert_default().remove(CLOSED_ANNOTATION);
    secret.metadata.labels.get_or_insert_default().insert(IDENTIFIER_LABEL.to_owned(), label(kind).to_owned());
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

/// Reads the credential from an identity Secret. A hash that does not parse counts as absent.
///
/// # Errors
/// If any other part does not parse.
pub fn read_credential(secret: &Secret) -> Result<Credential, Corrupt> {
    let text = |key: &str| secret.data.as_ref()?.get(key).and_then(|bytes| str::from_utf8(&bytes.0).ok());
    let hash = |key: &str| PasswordHash::parse(text(key)?).ok();
    let claim = Claim::read(&secret.metadata);
    Ok(Credential {
        hash: hash(HASH_KEY),
        source_hash: hash(SOURCE_HASH_KEY),
        source: claim.as_ref().and_then(|claim| claim.source.clone()),
        changed: claim.as_ref().and_then(|claim| claim.summary.changed),
        set_by: claim.and_then(|claim| claim.summary.set_by),
        history: text(HISTORY_KEY)
            .unwrap_or_default()
            .lines()
            .filter_map(|hash| PasswordHash::parse(hash).ok())
            .collect(),
        invitation: part(secret, INVITATION_KEY)?,
        second_factor: part(secret, SECOND_FACTOR_KEY)?,
        api_keys: part::<Vec<ApiKey>>(secret, API_KEYS_KEY)?.unwrap_or_default(),
        failed: part(secret, FAILED_KEY)?.unwrap_or_default(),
    })
}

fn part<T: DeserializeOwned>(secret: &Secret, key: &'static str) -> Result<Option<T>, Corrupt> {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    bytes.map(|bytes| serde_json::from_slice(&bytes.0).map_err(|_| Corrupt(key))).transpose()
}

/// Writes the credential into an identity Secret. Does not touch other fields.
pub fn write_credential(secret: &mut Secret, credential: &Credential) {
    let data = secret.data.get_or_insert_default();
    set(data, HASH_KEY, credential.hash.as_ref().map(|hash| ByteString(hash.expose().into())));
    set(data, SOURCE_HASH_KEY, credential.source_hash.as_ref().map(|hash| ByteString(hash.expose().into())));
    let history: Vec<&str> = credential.history.iter().map(PasswordHash::expose).collect();
    set(data, HISTORY_KEY, (!history.is_empty()).then(|| ByteString(history.join("\n").into())));
    set(data, INVITATION_KEY, credential.invitation.as_ref().map(json::<Invitation>));
    set(data, SECOND_FACTOR_KEY, credential.second_factor.as_ref().map(json));
    set(data, API_KEYS_KEY, (!credential.api_keys.is_empty()).then(|| json(&credential.api_keys)));
    set(data, FAILED_KEY, (!credential.failed.is_empty()).then(|| json(&credential.failed)));
    let annotations = secret.metadata.annotations.get_or_insert_default();
    let summary = credential.summary();
    let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
    set(annotations, SOURCE_ANNOTATION, credential.source.as_ref().map(ToString::to_string));
    set(annotations, CHANGED_ANNOTATION, time(summary.changed));
    set(annotations, SET_BY_ANNOTATION, summary.set_by.map(|set_by| set_by.as_str().to_owned()));
    let failed = (summary.failed_logins > 0).then(|| summary.failed_logins.to_string());
    set(annotations, FAILED_ANNOTATION, failed);
    set(annotations, LOCKED_ANNOTATION, time(summary.locked_until));
    set(annotations, SECOND_FACTOR_ANNOTATION, time(summary.second_factor));
}

fn json<T: Serialize>(part: &T) -> ByteString {
    ByteString(serde_json::to_vec(part).expect("the parts of a credential are JSON"))
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
    use crate::digest::Digest;
    use crate::lockout::{FailedLogins, LockoutPolicy};
    use crate::seal::Sealer;
    use crate::totp::SecondFactor;
    use roster_api::UserSpec;
    use std::time::Duration;

    const BCRYPT: &str = "$2b$12$L6Bc/AlTQHyd9liGgGEZyOFLPHNgyxeEPfgYfBCVxJ7JIlwxyVU3u";

    #[test]
    fn a_credential_round_trips_through_the_secret() {
        let mut user = User::new("jane", UserSpec::default());
        user.metadata.uid = Some("u-1".into());
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let limits = LockoutPolicy {
            per_source: 1,
            per_user: 1,
            window: Duration::from_secs(60),
            duration: Duration::from_secs(60),
        };
        let mut confirmed = SecondFactor::create(&Sealer::new(&[7; 32]).unwrap());
        confirmed.confirmed = Some(now);
        let mut failed = FailedLogins::default();
        failed.fail("192.0.2.7", &limits, now);
        let credential = Credential {
            hash: Some(PasswordHash::parse(BCRYPT).unwrap()),
            source_hash: Some(PasswordHash::parse(BCRYPT).unwrap()),
            source: Some(SourceVersion::from("s-1/7".to_owned())),
            changed: Some(now),
            set_by: Some(SetBy::Owner),
            history: vec![PasswordHash::parse(BCRYPT).unwrap(), PasswordHash::parse(BCRYPT).unwrap()],
            invitation: Some(Invitation { digest: Digest::of("invited"), expires: now }),
            second_factor: Some(confirmed),
            api_keys: vec![ApiKey::create("2f1c9d1e-7c0b-4a55-9d3e-0123456789ab", "laptop", now, now).unwrap().0],
            failed,
        };
        let identifier = Identifier { kind: IdentifierKind::Username, text: "jane".into() };
        let mut secret = build(&user, "roster-system", &identifier, &credential);
        secret.metadata.uid = Some("s-2".into());
        secret.metadata.resource_version = Some("9".into());
        assert_eq!(read_credential(&secret).unwrap(), credential);
        let claim = Claim::read(&secret.metadata).unwrap();
        assert_eq!((claim.owner.as_str(), claim.owner_uid.as_str(), claim.resource_version), ("jane", "u-1", 9));
        assert_eq!(claim.summary, credential.summary());
        assert!(claim.holds_credential());
        close(&mut secret);
        assert!(!Claim::read(&secret.metadata).unwrap().holds_credential(), "the credential moves to another Secret");
        reopen_as(&mut secret, IdentifierKind::Email);
        assert!(!Claim::read(&secret.metadata).unwrap().holds_credential(), "claims on emails store no credential");
        reopen_as(&mut secret, IdentifierKind::Username);
        assert!(Claim::read(&secret.metadata).unwrap().holds_credential());
        write_credential(&mut secret, &Credential::default());
        assert_eq!(read_credential(&secret).unwrap(), Credential::default());
        assert!(secret.data.as_ref().unwrap().is_empty());
    }

    #[test]
    fn a_spare_keeps_the_credential_and_is_not_immutable() {
        let mut user = User::new("jane", UserSpec::default());
        user.metadata.uid = Some("u-1".into());
        let identifier = Identifier { kind: IdentifierKind::Username, text: "jane".into() };
        let credential = Credential { hash: Some(PasswordHash::parse(BCRYPT).unwrap()), ..Credential::default() };
        let mut secret = build(&user, "roster-system", &identifier, &credential);
        secret.immutable = Some(true);
        secret.metadata.uid = Some("s-1".into());
        secret.metadata.resource_version = Some("7".into());
        let patched = serde_json::json!([{"manager": "kubectl-patch", "fieldsV1": {"f:immutable": {}}}]);
        secret.metadata.managed_fields = serde_json::from_value(patched).unwrap();
        assert!(Claim::read(&secret.metadata).unwrap().may_be_immutable);
        let mut spare = spare_of(&secret);
        assert_eq!(replaced_name(&spare.name_any()), Some(secret.name_any().as_str()));
        assert_eq!(replaced_name(&secret.name_any()), None);
        assert_eq!((spare.immutable, spare.metadata.uid.as_ref()), (None, None));
        assert_eq!(read_credential(&spare).unwrap(), credential);
        spare.metadata.uid = Some("s-2".into());
        spare.metadata.resource_version = Some("9".into());
        let claim = Claim::read(&spare.metadata).unwrap();
        assert!(claim.is_username && claim.is_closed && !claim.may_be_immutable);
        assert_eq!(claim.owner_uid, "u-1");
    }

    #[test]
    fn parts_that_do_not_parse_do_not_count_as_absent() {
        let secret = Secret {
            data: Some([("secondFactor".to_owned(), ByteString(b"junk".to_vec()))].into()),
            ..Secret::default()
        };
        assert_eq!(read_credential(&secret), Err(Corrupt("secondFactor")));
    }

    #[test]
    fn metadata_does_not_contain_hashes() {
        let mut user = User::new("jane", UserSpec::default());
        user.metadata.uid = Some("u-1".into());
        let credential = Credential { hash: Some(PasswordHash::parse(BCRYPT).unwrap()), ..Credential::default() };
        let identifier = Identifier { kind: IdentifierKind::Username, text: "jane".into() };
        let secret = build(&user, "roster-system", &identifier, &credential);
        assert!(!serde_json::to_string(&secret.metadata).unwrap().contains("$2b$"));
        assert!(!format!("{credential:?}").contains("$2b$"));
    }
}
