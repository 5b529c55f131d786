//! Step 2: plans the changes from the observed state. Pure.

use roster_credentials::claim::Identifier;
use roster_credentials::credential::{SourceVersion, Summary};
use roster_credentials::record::Claim;
use roster_credentials::source::Source;

use super::dereference::{CredentialLocation, Holder, Observation, Observed, Obstacle, Problem};

/// Planned changes for a User.
#[derive(Debug)]
pub(super) struct Plan {
    /// The username. Everything else depends on it.
    pub(super) username: (Identifier, Step),
    /// The emails. Empty if another User has the username: a User without its username holds no emails.
    pub(super) emails: Vec<(Identifier, Step)>,
    /// Name and UID of identity Secrets to delete.
    pub(super) release: Vec<(String, String)>,
    /// Location of the credential. If it is elsewhere, it moves to the Secret of the username.
    pub(super) location: CredentialLocation,
    /// Change of the credential.
    pub(super) credential: CredentialStep,
    /// Summary of the credential before the changes.
    pub(super) summary: Summary,
}

/// Planned change for an identifier.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// The User holds it already.
    Keep,
    /// No identity Secret exists for it: claim it.
    Claim,
    /// A User that no longer exists holds it: take it over.
    TakeOver(Claim),
    /// Something else holds it.
    Concede(Obstacle),
}

/// Planned change of the credential.
#[derive(Debug)]
pub(super) enum CredentialStep {
    /// No change.
    Keep,
    /// Report the problem and keep the last valid credential.
    Report(Problem),
    /// Store the content of the password Secret.
    Store(SourceVersion, Source),
}

/// Plans the changes. `is_being_deleted`: the User is being deleted. It keeps what it has but claims nothing more.
pub(super) fn plan(observed: Observed, is_being_deleted: bool) -> Plan {
    let step = |holder| if is_being_deleted { Step::Keep } else { step(holder) };
    let mut release = observed.surplus;
    let (wanted, holders): (Vec<_>, Vec<_>) = observed.claims.into_iter().unzip();
    let has_name = !matches!(holders[0], Holder::Other(_));
    if !has_name {
        release.extend(holders[1..].iter().zip(&wanted[1..]).filter_map(|(holder, wanted)| match holder {
            Holder::Me(uid) => Some((wanted.secret_name(), uid.clone())),
            _ => None,
        }));
    }
    let mut claims = wanted.into_iter().zip(holders.into_iter().map(step));
    Plan {
        username: claims.next().expect("the username is always wanted"),
        emails: if has_name { claims.collect() } else { Vec::new() },
        release,
        // The credential moves only if the User has the new username.
        location: if has_name && !is_being_deleted { observed.location } else { CredentialLocation::Current },
        credential: match observed.source {
            Observation::Problem(problem) => CredentialStep::Report(problem),
            Observation::New(version, source) if has_name && !is_being_deleted => {
                CredentialStep::Store(version, source)
            }
            Observation::New(..) | Observation::NothingNew => CredentialStep::Keep,
        },
        summary: observed.credential,
    }
}

fn step(holder: Holder) -> Step {
    match holder {
        Holder::Me(_) => Step::Keep,
        Holder::Nobody => Step::Claim,
        Holder::Gone(claim) => Step::TakeOver(claim),
        Holder::Other(obstacle) => Step::Concede(obstacle),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::dereference::Predecessor;
    use roster_credentials::claim::IdentifierKind;
    use roster_credentials::source::Source;
    use secrecy::SecretString;

    fn observed(username: Holder, email: Holder) -> Observed {
        let identifier = |kind, text: &str| Identifier { kind, text: text.to_owned() };
        Observed {
            claims: vec![
                (identifier(IdentifierKind::Username, "jane"), username),
                (identifier(IdentifierKind::Email, "jane@example.com"), email),
            ],
            immutable: None,
            surplus: vec![("login-old".into(), "s-1".into())],
            location: CredentialLocation::Earlier(Predecessor {
                secret: "login-former".into(),
                uid: "s-0".into(),
                is_email: false,
            }),
            source: Observation::New(
                SourceVersion::of(&kube::api::ObjectMeta {
                    uid: Some("u".into()),
                    resource_version: Some("1".into()),
                    ..Default::default()
                })
                .unwrap(),
                Source::Password(SecretString::from("x")),
            ),
            credential: Summary::default(),
            namespaces: Vec::new(),
        }
    }

    #[test]
    fn free_names_are_claimed_and_the_password_is_stored() {
        let plan = plan(observed(Holder::Nobody, Holder::Nobody), false);
        assert_eq!((plan.username.1, &plan.emails[0].1), (Step::Claim, &Step::Claim));
        assert!(matches!(plan.credential, CredentialStep::Store(..)));
        assert_eq!(plan.release.len(), 1);
        assert!(matches!(plan.location, CredentialLocation::Earlier(_)), "the credential moves");
    }

    #[test]
    fn a_user_without_its_username_holds_nothing_else() {
        let plan = plan(observed(Holder::Other(Obstacle::User), Holder::Me("s-2".into())), false);
        assert_eq!(plan.username.1, Step::Concede(Obstacle::User));
        assert!(plan.emails.is_empty());
        assert_eq!(plan.location, CredentialLocation::Current, "the credential stays where it is");
        assert!(plan.release.iter().any(|(_, uid)| uid == "s-2"), "an email that it holds is released");
        assert!(matches!(plan.credential, CredentialStep::Keep), "no credential without a name to log in with");
    }

    #[test]
    fn a_deleted_user_makes_no_new_claims() {
        let plan = plan(observed(Holder::Me("s-1".into()), Holder::Nobody), true);
        assert_eq!((plan.username.1, &plan.emails[0].1), (Step::Keep, &Step::Keep));
        assert!(matches!(plan.credential, CredentialStep::Keep));
    }

    #[test]
    fn an_email_conflict_affects_only_the_email() {
        let plan = plan(observed(Holder::Me("s-1".into()), Holder::Other(Obstacle::User)), false);
        assert_eq!((plan.username.1, &plan.emails[0].1), (Step::Keep, &Step::Concede(Obstacle::User)));
        assert!(matches!(plan.credential, CredentialStep::Store(..)));
    }
}
