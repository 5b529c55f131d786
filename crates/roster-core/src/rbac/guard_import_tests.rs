//! What an import goes by to recognize Users and Groups.

use roster_api::user::DesiredState;

use super::*;

#[test]
fn what_an_import_recognizes_a_group_by_requires_control() {
    let directory = directory();
    let old = group("power", GroupSpec::default());
    let named = group("power", GroupSpec { display_name: Some("Power*".to_owned()), ..GroupSpec::default() });
    let mut other = old.clone();
    other.metadata.annotations = Some([(SOURCE_ID_ANNOTATION.to_owned(), "ldap:cn=x".to_owned())].into());
    let described = group("power", GroupSpec { description: Some("x".to_owned()), ..GroupSpec::default() });
    assert_eq!(required(&GuardedChange::Group(Some(&old), Some(&named)), &directory), [EDIT]);
    assert_eq!(required(&GuardedChange::Group(Some(&old), Some(&other)), &directory), [EDIT]);
    assert_eq!(required(&GuardedChange::Group(Some(&old), Some(&described)), &directory), [""; 0]);
}

/// Otherwise the next import would give the User the credential of someone else in the source.
#[test]
fn what_an_import_recognizes_a_user_by_requires_control() {
    let mut directory = directory();
    let own = in_group("alice", "power");
    directory.set_user(&own, NOW);
    let mut other = own.clone();
    other.metadata.annotations = Some([(SOURCE_ID_ANNOTATION.to_owned(), "keycloak:mallory".to_owned())].into());
    for (old, new) in [(&own, &other), (&other, &own)] {
        assert_eq!(required(&GuardedChange::User(Some(old), Some(new)), &directory), [EDIT]);
    }
    // Not even together with a restriction, which namespace administrators cannot prevent.
    let native = [(SOURCE_ID_ANNOTATION.to_owned(), "keycloak:mallory".to_owned())];
    let mut disabled = own.clone();
    disabled.spec.state = DesiredState::Disabled;
    disabled.metadata.annotations = Some(native.into());
    assert_eq!(required(&GuardedChange::User(Some(&own), Some(&disabled)), &directory), [EDIT]);
}
