//! Maps the columns in the header of a CSV file to fields.

use std::collections::BTreeMap;

use super::exports;
use super::names::{ENABLED, KIND, LABELS, NAME, OKTA_STATUS, PASSWORD, PASSWORD_HASH, is_same_title};
use crate::columns::{Column, columns};
use crate::draft::{Place, Rejected};
use crate::rules::{Kind, Rules};

/// Column names of other systems for our fields. Case, hyphens, underscores and spaces are ignored.
const ALIASES: &[(&str, &str)] = &[
    ("user", "username"),
    ("login", "username"),
    ("uid", "username"),
    ("userPrincipalName", "username"),
    ("mail", "email"),
    ("emailAddress", "email"),
    ("fullName", "displayName"),
    ("cn", "displayName"),
    ("givenName", "firstName"),
    ("sn", "lastName"),
    ("surname", "lastName"),
    ("familyName", "lastName"),
    ("phone", "mobile"),
    ("mobilePhone", "mobile"),
    ("lang", "language"),
    ("preferredLanguage", "language"),
    ("tz", "timezone"),
    ("shell", "preferredShell"),
    ("github", "githubUsername"),
    ("group", "groups"),
    ("memberOf", "groups"),
    ("notBefore", "validity.notBefore"),
    ("notAfter", "validity.notAfter"),
    ("expires", "validity.notAfter"),
    ("cidrs", "allowedCIDRs"),
    ("quota", "quota.hard"),
    ("hash", PASSWORD_HASH),
    ("active", ENABLED),
    ("accountEnabled", ENABLED),
];

/// Meaning of a column.
pub(super) enum Cell {
    Ignored,
    Kind,
    Name,
    Labels,
    Hash,
    Password,
    Enabled,
    /// State of an account in Okta.
    OktaStatus,
    /// Field of the spec of a User, of a Group, or of both.
    Field {
        user: Option<Column>,
        group: Option<Column>,
    },
}

/// Returns the meaning of each column. `map` contains fields by column title; an empty field skips the column.
///
/// # Errors
/// If there are unknown columns that are not ignored, or if two columns have the same field. Reports all of them.
pub(super) fn cells(
    header: &csv::StringRecord,
    place: Place,
    map: &BTreeMap<String, String>,
    ignore_unknown: bool,
    rules: &Rules,
) -> Result<Vec<Cell>, Vec<Rejected>> {
    let (user, group) = (columns(rules, Kind::User), columns(rules, Kind::Group));
    let export = exports::of(header);
    let (mut taken, mut unknown, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    let mut cells = Vec::new();
    for title in header.iter().map(str::trim) {
        let given = map.get(title);
        let exported = || export.and_then(|export| export.field(title)).map(str::to_owned);
        let field = given.cloned().or_else(exported).unwrap_or_else(|| field_of(title, &user, &group));
        let find = |columns: &[Column]| columns.iter().find(|column| column.path == field).cloned();
        cells.push(match (field.as_str(), find(&user), find(&group)) {
            ("", ..) => Cell::Ignored,
            (KIND, ..) => Cell::Kind,
            (NAME, ..) => Cell::Name,
            (LABELS, ..) => Cell::Labels,
            (PASSWORD_HASH, ..) => Cell::Hash,
            (PASSWORD, ..) => Cell::Password,
            (ENABLED, ..) => Cell::Enabled,
            (OKTA_STATUS, ..) => Cell::OktaStatus,
            (_, None, None) if ignore_unknown && given.is_none() => Cell::Ignored,
            (_, None, None) => {
                unknown.push(if title == field { format!("{title:?}") } else { format!("{title:?} ({field})") });
                Cell::Ignored
            }
            (_, user, group) => Cell::Field { user, group },
        });
        if !matches!(cells.last(), Some(Cell::Ignored)) {
            if taken.contains(&field) {
                let reason = format!("two columns have the field {field}: skip one with --map COLUMN=");
                faults.push(Rejected::line(place, reason));
            }
            taken.push(field);
        }
    }
    if !unknown.is_empty() {
        faults.insert(0, Rejected::line(place, unknown_columns(&unknown, header.len(), &user)));
    }
    if faults.is_empty() { Ok(cells) } else { Err(faults) }
}

fn field_of(title: &str, user: &[Column], group: &[Column]) -> String {
    let own = [KIND, NAME, LABELS, PASSWORD_HASH, PASSWORD, ENABLED].into_iter();
    let paths = own.chain(user.iter().chain(group).map(|column| column.path.as_str()));
    let names = paths.map(|path| (path, path)).chain(ALIASES.iter().copied());
    let mut names = names.filter(|(name, _)| is_same_title(name, title));
    names.next().map_or_else(|| title.to_owned(), |(_, field)| field.to_owned())
}

fn unknown_columns(titles: &[String], columns: usize, user: &[Column]) -> String {
    let fields: Vec<&str> = user.iter().map(|column| column.path.as_str()).collect();
    let what = match titles {
        [title] => format!("the column {title} is not a field"),
        titles => format!("the columns {} are not fields", titles.join(", ")),
    };
    let delimiter =
        if columns == 1 { ". It is the only one: set the character between columns with --delimiter" } else { "" };
    format!(
        "{what}: set the field with --map COLUMN=FIELD, skip a column with --map COLUMN=, or skip all columns that are not \
         fields with --ignore-unknown-columns{delimiter}. The fields are kind, name, labels, passwordHash, {}",
        fields.join(", ")
    )
}
