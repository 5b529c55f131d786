//! Reads CSV: a header, and one row per user or group.

mod dialect;
mod exports;
pub mod formula;
mod header;
mod names;

use std::borrow::Cow;
use std::collections::BTreeMap;

use secrecy::SecretString;
use serde_json::{Map, Value};

use super::columns::{Column, flag, pairs};
use super::draft::{Credential, GroupDraft, Input, Place, Rejected, UserDraft};
use super::rules::{Fault, Kind, Rules};
use dialect::Dialect;
use header::Cell;
use names::ENABLED;
pub(super) use names::{KIND, LABELS, NAME, PASSWORD_HASH};

/// Options for reading CSV.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Field for each column, by its title. An empty field skips the column.
    pub map: BTreeMap<String, String>,
    /// Skip columns that are not fields, instead of rejecting the file.
    pub ignore_unknown_columns: bool,
    /// Character between cells. Detected from the header if it is not given.
    pub delimiter: Option<u8>,
}

/// Reads CSV.
pub(super) fn read(bytes: &[u8], options: &Options, rules: &Rules) -> Input {
    let mut input = Input::default();
    let dialect = dialect::detect(bytes, options.delimiter);
    let broken = dialect::broken_quote(dialect.rows, dialect.delimiter);
    let rows = &dialect.rows[..broken.as_ref().map_or(dialect.rows.len(), |broken| broken.row)];
    read_rows(rows, &dialect, options, rules, &mut input);
    if let Some(broken) = broken {
        input.reject(Place::line(dialect.skipped + broken.line), broken.error.to_string());
    }
    input
}

/// Reads the header and the rows. `rows` ends before the first row with a malformed quote.
fn read_rows(rows: &[u8], dialect: &Dialect, options: &Options, rules: &Rules, input: &mut Input) {
    if rows.is_empty() {
        return;
    }
    let mut reader = csv::ReaderBuilder::new().flexible(true).delimiter(dialect.delimiter).from_reader(rows);
    let place = Place::line(dialect.skipped + 1);
    let Ok(header) = reader.headers().cloned() else {
        return input.reject(place, "the header is not UTF-8 text");
    };
    let cells = match header::cells(&header, place, &options.map, options.ignore_unknown_columns, rules) {
        Ok(cells) => cells,
        Err(faults) => return input.rejected.extend(faults),
    };
    let is_groups = |column: &Option<Column>| column.as_ref().is_some_and(|column| column.path == "groups");
    input.describes_memberships = cells.iter().any(|cell| matches!(cell, Cell::Field { user, .. } if is_groups(user)));
    let begin = |position: Option<&csv::Position>| begin(position, rows, dialect.skipped);
    let mut record = csv::StringRecord::new();
    loop {
        match reader.read_record(&mut record) {
            Ok(false) => return,
            Ok(true) => row(begin(record.position()), &record, &cells, dialect.delimiter, input),
            Err(error) => {
                input.reject(begin(error.position()), "is not UTF-8 text");
                if error.is_io_error() {
                    return;
                }
            }
        }
    }
}

/// Returns where a record begins. The reader's position includes the empty lines before the record.
fn begin(position: Option<&csv::Position>, bytes: &[u8], skipped: usize) -> Place {
    let number = |number: u64| usize::try_from(number).unwrap_or_default();
    let (byte, line) = position.map_or((0, 0), |position| (number(position.byte()), number(position.line())));
    let empty = bytes.iter().skip(byte).take_while(|byte| matches!(byte, b'\n' | b'\r'));
    Place::line(skipped + line + empty.filter(|byte| **byte == b'\n').count())
}

fn row(place: Place, record: &csv::StringRecord, cells: &[Cell], delimiter: u8, input: &mut Input) {
    if record.iter().all(|cell| cell.trim().is_empty()) {
        return;
    }
    if record.len() != cells.len() {
        let mut reason = format!("has {} cells, but the header has {}", record.len(), cells.len());
        if delimiter != b',' {
            reason = format!("{reason}: {:?} separates cells", char::from(delimiter));
        }
        return input.reject(place, reason);
    }
    let kinds = values(cells, record).filter(|(cell, _)| matches!(cell, Cell::Kind));
    let kind = kinds.map(|(_, text)| text).next().unwrap_or_default();
    let result = match &*kind {
        "" | "User" => user_draft(place, record, cells).map(|person| input.add_user(person)),
        "Group" => group_draft(place, record, cells).map(|group| input.groups.push(group)),
        _ => Err(fault(KIND, "must be User or Group")),
    };
    if let Err(Fault { field, reason }) = result {
        input.rejected.push(Rejected { place, who: String::new(), field, reason });
    }
}

/// Returns the cells with their columns, as they were before an export made them text. Passwords are not exported.
fn values<'a>(cells: &'a [Cell], record: &'a csv::StringRecord) -> impl Iterator<Item = (&'a Cell, Cow<'a, str>)> {
    let value = |cell: &Cell, text: &'a str| match cell {
        Cell::Password => text.into(),
        _ => formula::restored(text),
    };
    cells.iter().zip(record).map(move |(cell, text)| (cell, value(cell, text)))
}

fn fault(field: &str, reason: impl Into<String>) -> Fault {
    Fault { field: field.to_owned(), reason: reason.into() }
}

fn user_draft(place: Place, record: &csv::StringRecord, cells: &[Cell]) -> Result<UserDraft, Fault> {
    let mut person = UserDraft { place, ..UserDraft::default() };
    for (cell, text) in values(cells, record) {
        let text = &*text;
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
                    person.credential = Some(Credential::password(text));
                }
            }
            Cell::Enabled if !text.is_empty() => {
                let enabled = flag(text).ok_or_else(|| fault(ENABLED, "must be true or false"))?;
                person.set("state", if enabled { "Active" } else { "Disabled" });
            }
            Cell::OktaStatus if !text.is_empty() => {
                let allowed = "must be an Okta status: active, provisioned, recovery, locked_out or password_expired, which \
                    become Active, or staged, suspended or deprovisioned, which become Disabled";
                let active = exports::is_active_in_okta(text).ok_or_else(|| fault("status", allowed))?;
                person.set("state", if active { "Active" } else { "Disabled" });
            }
            Cell::Field { user: Some(column), .. } => field(column, text, &mut person.spec)?,
            Cell::Field { user: None, group } if !text.is_empty() => return Err(misplaced(group.as_ref(), Kind::User)),
            Cell::Ignored | Cell::Kind | Cell::Enabled | Cell::OktaStatus | Cell::Field { .. } => {}
        }
    }
    Ok(person)
}

fn group_draft(place: Place, record: &csv::StringRecord, cells: &[Cell]) -> Result<GroupDraft, Fault> {
    let mut group = GroupDraft::named(place, "");
    for (cell, text) in values(cells, record).filter(|(_, text)| !text.is_empty()) {
        let text = &*text;
        match cell {
            Cell::Name => {
                group = GroupDraft { labels: group.labels, spec: group.spec, ..GroupDraft::named(place, text.trim()) };
            }
            Cell::Labels => group.labels = labels(text)?,
            Cell::Field { group: Some(column), .. } => field(column, text, &mut group.spec)?,
            Cell::Field { user, group: None } => return Err(misplaced(user.as_ref(), Kind::Group)),
            Cell::Ignored | Cell::Kind | Cell::Hash | Cell::Password | Cell::Enabled | Cell::OktaStatus => {}
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
        read_with(text, &Options::default())
    }

    fn read_with(text: &str, options: &Options) -> Input {
        read(text.as_bytes(), options, &Rules::default())
    }

    fn rejected(input: &Input) -> Vec<String> {
        input.rejected.iter().map(|rejected| format!("{}: {rejected}", rejected.place.line)).collect()
    }

    fn logins(input: &Input) -> Vec<&str> {
        input.users.iter().map(UserDraft::login).collect()
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
        assert_eq!(
            rejected(&input),
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
        let mapped = |field: &str| {
            let map = BTreeMap::from([("shoe size".to_owned(), field.to_owned())]);
            read_with(text, &Options { map, ..Options::default() })
        };
        assert_eq!(mapped("").users.len(), 1);
        assert_eq!(mapped("zone").users[0].spec["zone"], "38");
        assert!(mapped("shoes").rejected[0].reason.contains("\"shoe size\" (shoes)"));
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

    #[test]
    fn case_a12_a_quote_that_is_never_closed_is_rejected_where_it_opens() {
        let input = read_text("username,displayName\nada,\"Ada\nLovelace\"\nbob,\"Bob\ncyd,Cyd\ndan,Dan\n");
        assert_eq!(logins(&input), ["ada"], "rows before it are read");
        assert_eq!(input.rejected.len(), 1);
        assert!(rejected(&input)[0].starts_with("4: the quote that opens on this line is never closed"));
        // A quote further down seems to close it.
        let input = read_text("username,displayName\nada,Ada\nbob,\"Bob\ncyd,\"Cyd\"\ndan,Dan\n");
        assert_eq!(logins(&input), ["ada"]);
        assert!(rejected(&input)[0].starts_with("3: the quote that opens on this line is followed by text"));
        let input = read_text("sep=,\nusername,\"displayName\nada,Ada\n");
        assert!(rejected(&input)[0].starts_with("2: the quote that opens") && input.users.is_empty());
    }

    #[test]
    fn case_a13_other_delimiters_are_detected_or_given() {
        for text in [
            "username;groups;zone\r\nada;\"math;poets\";eu\r\n",
            "sep=;\r\nusername;groups;zone\r\nada;\"math;poets\";eu\r\n",
            "username\tgroups\tzone\nada\tmath;poets\teu\n",
            "#TYPE User\nusername|groups|zone\nada|math;poets|eu\n",
        ] {
            let input = read_text(text);
            assert_eq!(rejected(&input), Vec::<String>::new(), "{text}");
            assert_eq!(input.users[0].spec["groups"], json!(["math", "poets"]), "{text}");
        }
        let text = "username:zone\nada:eu\n";
        assert!(read_text(text).rejected[0].reason.contains("--delimiter"));
        let options = Options { delimiter: Some(b':'), ..Options::default() };
        assert_eq!(read_with(text, &options).users[0].spec["zone"], "eu");
        let input = read_text("sep=;\nusername;groups\nada;math;poets\n");
        assert_eq!(rejected(&input), ["3: has 3 cells, but the header has 2: ';' separates cells"]);
    }

    #[test]
    fn case_a14_all_unknown_columns_are_reported_at_once_or_ignored() {
        let text = "username,shoe size,hat size,zone\nada,38,56,eu\n";
        let input = read_text(text);
        assert_eq!(input.rejected.len(), 1);
        let reason = &input.rejected[0].reason;
        assert!(reason.starts_with("the columns \"shoe size\", \"hat size\" are not fields"), "{reason}");
        assert!(reason.contains("--ignore-unknown-columns"));
        let options = Options { ignore_unknown_columns: true, ..Options::default() };
        let input = read_with(text, &options);
        assert_eq!(Value::from(input.users[0].spec.clone()), json!({"username": "ada", "zone": "eu"}));
    }

    #[test]
    fn case_a14_exports_of_entra_id_are_recognized() {
        let input = read_text(
            "userPrincipalName,displayName,surname,mail,givenName,objectId,userType,jobTitle,department,accountEnabled,\
             usageLocation,streetAddress,state,country,physicalDeliveryOfficeName,city,postalCode,telephoneNumber,mobile,\
             authenticationPhoneNumber,authenticationEmail,alternateEmailAddress,ageGroup,consentProvidedForMinor\n\
             ada@example.com,Ada Lovelace,Lovelace,ada@example.com,Ada,1,Member,Countess,Math,True,GB,1 St James,Greater \
             London,UK,,London,SW1,,+44 20 7946 0000,,,,,\n\
             bob@example.com,Bob,,,,2,Member,,,False,,,Disabled?,,,,,,,,,,,\n",
        );
        assert_eq!(rejected(&input), Vec::<String>::new());
        assert_eq!(
            Value::from(input.users[0].spec.clone()),
            json!({
                "username": "ada@example.com", "displayName": "Ada Lovelace", "lastName": "Lovelace", "firstName": "Ada",
                "email": "ada@example.com", "mobile": "+44 20 7946 0000", "state": "Active",
            })
        );
        assert_eq!(input.users[1].spec["state"], "Disabled", "from accountEnabled");
    }

    #[test]
    fn case_a14_exports_of_okta_are_recognized() {
        let input = read_text(
            "login,firstName,lastName,middleName,honorificPrefix,email,title,displayName,nickName,secondEmail,mobilePhone,\
             primaryPhone,streetAddress,city,state,zipCode,countryCode,preferredLanguage,locale,timezone,userType,status\n\
             ada@example.com,Ada,Lovelace,,,ada@example.com,,Ada,,a@home.example,,,,London,CA,,GB,en,en_GB,Europe/London,,ACTIVE\n\
             bob@example.com,Bob,,,,bob@example.com,,,,,,,,,,,,,,,,DEPROVISIONED\n\
             cyd@example.com,Cyd,,,,cyd@example.com,,,,,,,,,,,,,,,,Password expired\n\
             dan@example.com,Dan,,,,dan@example.com,,,,,,,,,,,,,,,,gone\n",
        );
        let states: Vec<&Value> = input.users.iter().map(|person| &person.spec["state"]).collect();
        assert_eq!(states, ["Active", "Disabled", "Active"]);
        assert_eq!(input.users[0].spec["language"], "en");
        assert!(!input.users[0].spec.contains_key("additionalEmails"), "the second email must not become a login name");
        assert!(rejected(&input)[0].starts_with("5: status: must be an Okta status"));
    }

    #[test]
    fn state_is_the_state_of_the_user_in_unrecognized_exports() {
        let input = read_text("userPrincipalName,state\nada,Disabled\n");
        assert_eq!(input.users[0].spec["state"], "Disabled");
    }
}
