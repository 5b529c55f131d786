//! Exports of other products, recognized by their headers. Their columns are known, so columns without a counterpart in
//! Roster are skipped. So are columns with the name of a field but another meaning: in these exports, `state` is part
//! of an address.

use super::names::{ENABLED, OKTA_STATUS, is_same_title};

/// Columns that a product exports.
#[derive(Debug)]
pub(super) struct Export {
    /// Column with the username.
    username: &'static str,
    /// Columns that identify the product together with the username column: one of them is enough. They are not
    /// imported, unless they are in `fields`.
    marks: &'static [&'static str],
    /// Further columns that are not imported.
    skipped: &'static [&'static str],
    /// Fields of columns for which the usual mapping does not apply.
    fields: &'static [(&'static str, &'static str)],
}

/// Download of users in the Microsoft Entra admin center, and `Get-MgUser | Export-Csv`.
const ENTRA: Export = Export {
    username: "userPrincipalName",
    marks: &[
        "accountEnabled",
        "objectId",
        "userType",
        "usageLocation",
        "physicalDeliveryOfficeName",
        "officeLocation",
        "ageGroup",
        "consentProvidedForMinor",
        "legalAgeGroupClassification",
        "creationType",
        "directorySynced",
        "invitationState",
        "identityIssuer",
    ],
    skipped: &[
        "id",
        "jobTitle",
        "department",
        "companyName",
        "streetAddress",
        "city",
        "state",
        "postalCode",
        "country",
        "telephoneNumber",
        "businessPhones",
        "alternateEmailAddress",
        "authenticationEmail",
        "authenticationPhoneNumber",
        "authenticationAlternativePhoneNumber",
        "createdDateTime",
        "employeeId",
        "manager",
    ],
    fields: &[("accountEnabled", ENABLED)],
};

/// CSV with the attributes of Okta's user profile.
const OKTA: Export = Export {
    username: "login",
    marks: &[
        "secondEmail",
        "middleName",
        "honorificPrefix",
        "honorificSuffix",
        "nickName",
        "profileUrl",
        "primaryPhone",
        "streetAddress",
        "zipCode",
        "countryCode",
        "postalAddress",
        "userType",
        "employeeNumber",
        "costCenter",
        "managerId",
    ],
    skipped: &[
        "id",
        "title",
        "city",
        "state",
        "locale",
        "organization",
        "division",
        "department",
        "manager",
        "created",
        "activated",
        "statusChanged",
        "lastLogin",
        "lastUpdated",
        "passwordChanged",
    ],
    fields: &[("status", OKTA_STATUS)],
};

/// Returns the product whose exports have this header.
pub(super) fn of(header: &csv::StringRecord) -> Option<&'static Export> {
    let has = |name: &str| header.iter().any(|title| is_same_title(title.trim(), name));
    let is = |export: &&Export| has(export.username) && export.marks.iter().any(|mark| has(mark));
    [&ENTRA, &OKTA].into_iter().find(is)
}

impl Export {
    /// Returns the field of a column, which is empty if the column is not imported. Returns `None` if the usual names apply.
    pub(super) fn field(&self, title: &str) -> Option<&'static str> {
        let known = self.fields.iter().find(|(name, _)| is_same_title(name, title)).map(|(_, field)| *field);
        let is_skipped = || self.marks.iter().chain(self.skipped).any(|name| is_same_title(name, title));
        known.or_else(|| is_skipped().then_some(""))
    }
}

/// Returns whether an account with this status in Okta can sign in. Returns `None` for a status that is not known.
pub(super) fn is_active_in_okta(status: &str) -> Option<bool> {
    let is_one_of = |known: &[&str]| known.iter().any(|known| is_same_title(known, status.trim()));
    if is_one_of(&["active", "provisioned", "recovery", "locked_out", "password_expired"]) {
        Some(true)
    } else if is_one_of(&["staged", "suspended", "deprovisioned"]) {
        Some(false)
    } else {
        None
    }
}
