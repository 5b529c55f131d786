//! Reads CSV: a header, and one row per user or group.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde_json::{Map, Value};

use super::columns::{Column, columns, flag, pairs};
use super::draft::{Credential, GroupDraft, Input, Place, Rejected, UserDraft};
use super::rules::{Fault, Kind, Rules};

/// Column names of other systems for our fields. Case, hyphens, underscores and spaces are ignored.
const ALIASES: &[(&str, &str)] = &[
    ("user", "username"),
    ("login", "username"),
    ("uid", "username"),
    ("mail", "email"),
    ("emailAddress", "email"),
    ("fullName", "displayName"),
    ("cn", "displayName"),
    ("givenName", "firstName"),
    ("sn", "lastName"),
    ("surname", "lastName"),
    ("familyName", "lastName"),
    ("phone", "mobile"),
    ("lang", "language"),
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
];

/// Column with the kind, User or Group. Empty means User.
pub(super) const KIND: &str = "kind";
/// Column with `metadata.name`.
pub(super) const NAME: &str = "name";
/// Column with `metadata.labels`.
pub(super) const LABELS: &str = "labels";
/// Column with a password hash.
pub(super) const PASSWORD_HASH: &str = "passwordHash";
const PASSWORD: &str = "password";
const ENABLED: &str = "enabled";

enum Cell {
    Ignored,
    Kind,
    Name,
    Labels,
    Hash,
    Password,
    Enabled,
    /// Field of the spec of a User, of a Group, or of both.
    Field {
        user: Option<Column>,
        group: Option<Column>,
    },
}

/// Reads CSV. `map` has the field for each header; an empty field skips the column.
pub(super) fn read(bytes: &[u8], map: &BTreeMap<String, String>, rules: &Rules) -> Input {
    let mut input = Input::default();
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(bytes);
    let Ok(header) = reader.headers().cloned() else {
        input.reject(Place::line(1), "the header is not UTF-8 text");
        return input;
    };
    let cells = match cells(&header, map, rules) {
        Ok(cells) => cells,
        Err(reason) => {
            input.rejected.push(reason);
            return input;
        }
    };
    let mut record = csv::StringRecord::new();
    loop {
        match reader.read_record(&mut record) {
            Ok(false) => return input,
            Ok(true) => row(begin(record.position(), bytes), &record, &cells, &mut input),
            Err(error) => {
                input.reject(begin(error.position(), bytes), "is not UTF-8 text");
                if error.is_io_error() {
                    return input;
                }
            }
        }
    }
}

/// Returns where a record begins. The reader's position includes the empty lines before the record.
fn begin(position: Option<&csv::Position>, bytes: &[u8]) -> Place {
    let number = |number: u64| usize::try_from(number).unwrap_or_default();
    let (byte, line) = position.map_or((0, 0), |position| (number(position.byte()), number(position.line())));
    let empty = bytes.iter().skip(byte).take_while(|byte| matches!(byte, b'\n' | b'\r'));
    Place::line(line + empty.filter(|byte| **byte == b'\n').count())
}

fn cells(header: &csv::StringRecord, map: &BTreeMap<String, String>, rules: &Rules) -> Result<Vec<Cell>, Rejected> {
    let (user, group) = (columns(rules, Kind::User), columns(rules, Kind::Group));
    let mut taken = Vec::new();
    header
        .iter()
        .map(|title| {
            let field = map.get(title).map_or_else(|| field_of(title, &user, &group), Clone::clone);
            let find = |columns: &[Column]| columns.iter().find(|column| column.path == field).cloned();
            let cell = match (field.as_str(), find(&user), find(&group)) {
                ("", ..) => Cell::Ignored,
                (KIND, ..) => Cell::Kind,
                (NAME, ..) => Cell::Name,
                (LABELS, ..) => Cell::Labels,
                (PASSWORD_HASH, ..) => Cell::Hash,
                (PASSWORD, ..) => Cell::Password,
                (ENABLED, ..) => Cell::Enabled,
                (_, None, None) => return Err(unknown(title, &field, &user)),
                (_, user, group) => Cell::Field { user, group },
            };
            if !field.is_empty() && taken.contains(&field) {
                return Err(Rejected::line(
                    Place::line(1),
                    format!("two columns have the field {field}: skip one with --map COLUMN="),
                ));
            }
            taken.push(field);
            Ok(cell)
        })
        .collect()
}

fn field_of(title: &str, user: &[Column], group: &[Column]) -> String {
    let fold = |text: &str| text.to_lowercase().replace(['-', '_', ' '], "");
    let own = [KIND, NAME, LABELS, PASSWORD_HASH, PASSWORD, ENABLED].into_iter();
    let paths = own.chain(user.iter().chain(group).map(|column| column.path.as_str()));
    let names = paths.map(|path| (path, path)).chain(ALIASES.iter().copied());
    let title = title.trim();
    let mut names = names.filter(|(name, _)| fold(name) == fold(title));
    names.next().map_or_else(|| title.to_owned(), |(_, field)| field.to_owned())
}

fn unknown(title: &str, field: &str, user: &[Column]) -> Rejected {
    let fields: Vec<&str> = user.iter().map(|column| column.path.as_str()).collect();
    let reason = format!(
        "the column {title:?} is not a field{}: set its field with --map COLUMN=FIELD, or skip it with --map COLUMN=. \
         The fields are kind, name, labels, passwordHash, {}",
        if title == field { String::new() } else { format!(" ({field})") },
        fields.join(", ")
    );
    Rejected::line(Place::line(1), reason)
}

fn row(place: Place, record: &csv::StringRecord, cells: &[Cell], input: &mut Input) {
    if record.iter().all(|cell| cell.trim().is_empty()) {
        return;
    }
    if record.len() != cells.len() {
        let reason = format!("has {} cells, but the header has {}", record.len(), cells.len());
        return input.reject(place, reason);
    }
    let kinds = cells.iter().zip(record).filter(|(cell, _)| matches!(cell, Cell::Kind));
    let kind = kinds.map(|(_, text)| text).next().unwrap_or_default();
    let result = match kind {
        "" | "User" => user_draft(place, record, cells).map(|person| input.users.push(person)),
        "Group" => group_draft(place, record, cells).map(|group| input.groups.push(group)),
        _ => Err(fault(KIND, "must be User or Group")),
    };
    if let Err(Fault { field, reason }) = result {
        input.rejected.push(Rejected { place, who: String::new(), field, reason });
    }
}

fn fault(field: &str, reason: impl Into<String>) -> Fault {
    Fault { field: field.to_owned(), reason: reason.into() }
}

fn user_draft(place: Place, record: &csv::StringRecord, cells: &[Cell]) -> Result<UserDraft, Fault> {
    let mut person = UserDraft { place, ..UserDraft::default() };
    for (cell, text) in cells.iter().zip(record) {
        match cell {
            Cell::Name => person.name = (!text.is_empty()).then(|| text.trim().to_owned()),
            Cell::Labels => person.labels = labels(text)?,
            Cell::Hash => {
                if !text.is_empty() {
                    person.credential = Some(Credential::Hash(SecretString::from(text)));
                }
            }
            Cell::Password => {
                if !text.is_empty() {
                    person.credential = Some(Credential::Plain(SecretString::from(text)));
                }
            }
            Cell::Enabled if !text.is_empty() => {
                let enabled = flag(text).ok_or_else(|| fault(ENABLED, "must be true or false"))?;
                person.set("state", if enabled { "Active" } else { "Disabled" });
            }
            Cell::Field { user: Some(column), .. } => field(column, text, &mut person.spec)?,
            Cell::Field { user: None, group } if !text.is_empty() => return Err(misplaced(group.as_ref(), Kind::User)),
            Cell::Ignored | Cell::Kind | Cell::Enabled | Cell::Field { .. } => {}
        }
    }
    Ok(person)
}

fn group_draft(place: Place, record: &csv::StringRecord, cells: &[Cell]) -> Result<GroupDraft, Fault> {
    let mut group = GroupDraft::named(place, "");
    for (cell, text) in cells.iter().zip(record).filter(|(_, text)| !text.is_empty()) {
        match cell {
            Cell::Name => {
                group = GroupDraft { labels: group.labels, spec: group.spec, ..GroupDraft::named(place, text.trim()) }
            }
            Cell::Labels => group.labels = labels(text)?,
            Cell::Field { group: Some(column), .. } => field(column, text, &mut group.spec)?,
            Cell::Field { user, group: None } => return Err(misplaced(user.as_ref(), Kind::Group)),
            Cell::Ignored | Cell::Kind | Cell::Hash | Cell::Password | Cell::Enabled => {}
        }
    }
    Ok(group)
}

fn field(column: &Column, cell: &str, spec: &mut Map<String, Value>) -> Result<(), Fault> {
    column.read(cell, spec).map_err(|error| fault(&column.path, error.to_string()))
}

fn misplaced(column: Option<&Column>, kind: Kind) -> Fault {
    let path = column.map(|column| column.path.as_str()).unwrap_or_default();
    fault(path, format!("is not a field of a {}", kind.name()))
}

fn labels(cell: &str) -> Result<Map<String, Value>, Fault> {
    let labels = pairs(cell).map_err(|error| fault(LABELS, error.to_string()))?;
    Ok(labels.map(|(key, value)| (key, value.into())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_text(text: &str) -> Input {
        read(text.as_bytes(), &BTreeMap::new(), &Rules::default())
    }

    #[test]
    fn headers_of_other_systems_are_recognized() {
        let input =
            read_text("Login,E-Mail,Full Name,Member-Of,Active\nada,ada@example.com,\"Lovelace, Ada\",math;Poets,no\n");
        assert_eq!(input.rejected, []);
        assert_eq!(
            Value::from(input.users[0].spec.clone()),
            json!({
                "username": "ada", "email": "ada@example.com", "displayName": "Lovelace, Ada", "groups": ["math", "Poets"],
                "state": "Disabled",
            })
        );
    }

    #[test]
    fn bad_rows_are_rejected_with_line_and_field() {
        let input = read_text("username,admin,validity.notAfter\nada,maybe,\nbob,true\n\ncyd,\"tr\nue\",\ndan,yes,\n");
        let rejected: Vec<String> =
            input.rejected.iter().map(|rejected| format!("{}: {rejected}", rejected.place.line)).collect();
        assert_eq!(
            rejected,
            [
                "2: admin: must be true or false",
                "3: has 2 cells, but the header has 3",
                "5: admin: must be true or false"
            ]
        );
        assert_eq!((input.users.len(), input.users[0].place.line), (1, 7));
    }

    #[test]
    fn an_unknown_column_rejects_the_file_unless_it_is_mapped() {
        let text = "username,shoe size\nada,38\n";
        let input = read_text(text);
        assert!(input.users.is_empty() && input.rejected[0].reason.contains("\"shoe size\" is not a field"));
        let map = BTreeMap::from([("shoe size".to_owned(), String::new())]);
        assert_eq!(read(text.as_bytes(), &map, &Rules::default()).users.len(), 1);
        let map = BTreeMap::from([("shoe size".to_owned(), "zone".to_owned())]);
        assert_eq!(read(text.as_bytes(), &map, &Rules::default()).users[0].spec["zone"], "38");
    }

    #[test]
    fn rows_can_be_groups() {
        let input =
            read_text("kind,name,displayName,members,email\nGroup,poets,Poets,ada;bob,\nGroup,odd,,,x@example.com\n");
        assert_eq!(input.groups[0].name, "poets");
        assert_eq!(
            Value::from(input.groups[0].spec.clone()),
            json!({"displayName": "Poets", "members": ["ada", "bob"]})
        );
        assert_eq!(input.rejected[0].to_string(), "email: is not a field of a Group");
    }
}
