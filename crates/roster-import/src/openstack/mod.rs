//! Reads OpenStack Identity (Keystone): its tables as JSON or from `mysqldump` or `pg_dump`, or responses of its API.
//!
//! Only the tables contain hashes.

mod copy;
mod row;
mod sql;

use std::collections::HashMap;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::{Map, Value};

use super::columns::flag;
use super::documents::Text;
use super::draft::{GroupDraft, GroupRef, Input, Rejected, SourceId, UserDraft};
use row::{Row, Tables};

/// Tables with the members of groups.
const MEMBERSHIPS: [&str; 2] = ["user_group_membership", "memberships"];

/// Tables that are read. The API uses the plural names, the database the singular ones.
const TABLES: [&str; 10] = [
    "users",
    "user",
    "groups",
    "group",
    "local_user",
    "nonlocal_user",
    "federated_user",
    "password",
    MEMBERSHIPS[0],
    MEMBERSHIPS[1],
];

/// Reads tables or API responses.
pub(super) fn read(bytes: &[u8]) -> Input {
    let mut input = Input::default();
    let Some(text) = Text::new(bytes, &mut input) else { return input };
    let mut tables = if matches!(bytes.trim_ascii_start().first(), Some(b'{' | b'[')) {
        let mut tables = Tables::new();
        for (name, rows) in text.tables(&TABLES, &mut input) {
            let rows = rows.into_iter().filter_map(|row| match row.value {
                Value::Object(fields) => Some(Row { place: row.place, fields }),
                _ => None,
            });
            tables.entry(name).or_default().extend(rows);
        }
        tables
    } else {
        sql::read(bytes, &mut input)
    };
    let is_complete = input.rejected.is_empty();
    let has_table = MEMBERSHIPS.iter().any(|name| tables.contains_key(*name));
    let mut take = |name: &str| tables.remove(name).unwrap_or_default();
    let users = [take("users"), take("user")].concat_rows();
    let groups = [take("groups"), take("group")].concat_rows();
    let accounts = Accounts {
        local: by(take("local_user"), "user_id"),
        nonlocal: by(take("nonlocal_user"), "user_id"),
        federated: by(take("federated_user"), "user_id"),
        passwords: latest(take("password")),
    };
    let groups = Groups::read(groups, &mut input);
    let memberships = MEMBERSHIPS.map(&mut take).concat_rows();
    input.describes_memberships = has_table || users.iter().any(|row| row.groups().is_some());
    let memberships = groups.memberships(memberships, &mut input);
    for row in users {
        let mut person = user_draft(&row, &accounts);
        if person.source.is_some() || !person.login().is_empty() {
            for membership in memberships.get(&row.text("id")).into_iter().flatten() {
                match membership {
                    Ok(group) => person.join(group.clone()),
                    Err(id) => drop(person.unclear.groups.insert(id.clone())),
                }
            }
            groups.join_inline(&row, &mut person, &mut input);
            // The groups in a row describe only this user.
            person.unclear.all = !has_table && row.groups().is_none();
            input.add_user(person);
        } else {
            input.reject(row.place, "name: is missing");
        }
    }
    if !is_complete {
        input.lose_members();
    }
    input
}

trait ConcatRows {
    fn concat_rows(self) -> Vec<Row>;
}

impl ConcatRows for [Vec<Row>; 2] {
    fn concat_rows(self) -> Vec<Row> {
        self.into_iter().flatten().collect()
    }
}

/// Rows about users in tables other than `user`. `passwords` is keyed by local user, the others by user.
struct Accounts {
    local: HashMap<String, Row>,
    nonlocal: HashMap<String, Row>,
    federated: HashMap<String, Row>,
    passwords: HashMap<String, Row>,
}

fn by(rows: Vec<Row>, column: &str) -> HashMap<String, Row> {
    rows.into_iter().map(|row| (row.text(column), row)).collect()
}

/// Returns the newest password of each local user, which is the one in use.
fn latest(rows: Vec<Row>) -> HashMap<String, Row> {
    let mut latest: HashMap<String, Row> = HashMap::new();
    for row in rows {
        // Some releases have `created_at_int`, in microseconds, some only `created_at`.
        let created =
            |row: &Row| (row.text("created_at_int").parse::<i64>().unwrap_or_default(), row.text("created_at"));
        let user = row.text("local_user_id");
        if latest.get(&user).is_none_or(|known| created(known) <= created(&row)) {
            latest.insert(user, row);
        }
    }
    latest
}

/// Groups of the source. Names of groups are unique only within a domain.
#[derive(Default)]
struct Groups {
    by_id: HashMap<String, GroupRef>,
    /// Domains by ID.
    domains: HashMap<String, String>,
    /// IDs by domain and name.
    ids: HashMap<(String, String), String>,
}

impl Groups {
    fn read(rows: Vec<Row>, input: &mut Input) -> Self {
        let mut groups = Self::default();
        for row in rows {
            let (id, name, domain) = (row.text("id"), row.text("name"), row.text("domain_id"));
            if id.is_empty() {
                input.reject(row.place, format!("id: is missing, but is needed to identify the group {name}"));
                continue;
            }
            let mut group = GroupDraft::new(row.place, SourceId::new("keystone", &id), &name);
            group.set("description", row.text("description"));
            set_domain(&mut group.spec, &domain);
            groups.by_id.insert(id.clone(), group.reference());
            groups.domains.insert(id.clone(), domain.clone());
            groups.ids.insert((domain, name), id);
            input.groups.push(group);
        }
        groups
    }

    /// Returns the groups of each user, by the user's ID, or their identities if they are not in this file.
    fn memberships(&self, rows: Vec<Row>, input: &mut Input) -> HashMap<String, Vec<Result<GroupRef, SourceId>>> {
        let mut memberships: HashMap<String, Vec<Result<GroupRef, SourceId>>> = HashMap::new();
        for row in rows {
            let id = row.text("group_id");
            let of_user = memberships.entry(row.text("user_id")).or_default();
            if let Some(group) = self.by_id.get(&id) {
                of_user.push(Ok(group.clone()));
            } else {
                // It may have been imported from another file.
                of_user.push(Err(SourceId::new("keystone", &id)));
                input.reject(row.place, format!("group_id: {id} is not the ID of a group in this file"));
            }
        }
        memberships
    }

    /// Reads the groups in the row of a user: IDs, objects with an ID, or names of groups. Only those of the user's domain count:
    /// an administrator of one domain must not add its users to groups of another.
    fn join_inline(&self, row: &Row, person: &mut UserDraft, input: &mut Input) {
        let domain = person.spec.get("domain").and_then(Value::as_str).unwrap_or_default().to_owned();
        for group in row.groups().and_then(Value::as_array).into_iter().flatten() {
            let explicit = group["id"].as_str();
            let text = explicit.or(group.as_str()).or(group["name"].as_str()).unwrap_or_default();
            // Groups can have names that look like the ID of another one.
            let named = self.ids.get(&(domain.clone(), text.to_owned())).filter(|_| explicit.is_none());
            let id = named.map_or(text, String::as_str);
            let is_own = self.domains.get(id).is_some_and(|of_group| *of_group == domain);
            if let Some(group) = self.by_id.get(id).filter(|_| is_own) {
                person.join(group.clone());
                continue;
            }
            person.unclear.groups.insert(SourceId::new("keystone", text));
            let reason =
                format!("{text:?} is neither the ID nor the name of a group in this file that is in the user's domain");
            let (place, who) = (row.place, person.login().to_owned());
            input.rejected.push(Rejected { place, who, field: "groups".to_owned(), reason });
        }
    }
}

fn set_domain(spec: &mut Map<String, Value>, domain: &str) {
    super::draft::set(spec, "domain", domain.into());
}

/// Reads a user.
fn user_draft(row: &Row, accounts: &Accounts) -> UserDraft {
    let id = row.text("id");
    let (local, nonlocal, federated) =
        (accounts.local.get(&id), accounts.nonlocal.get(&id), accounts.federated.get(&id));
    let of = |account: Option<&Row>, column: &str| account.map(|row| row.text(column)).filter(|text| !text.is_empty());
    let name = of(Some(row), "name").or(of(local, "name")).or(of(nonlocal, "name")).or(of(federated, "display_name"));
    let mut person = UserDraft::new(row.place, name.as_deref().unwrap_or_default());
    if name.is_none() {
        person.fault("name", "is missing");
    }
    person.identify("keystone", &id);
    let domain = of(Some(row), "domain_id").or(of(local, "domain_id")).or(of(nonlocal, "domain_id"));
    set_domain(&mut person.spec, &domain.unwrap_or_default());
    let extra = row.extra();
    let either = |name: &str| of(Some(row), name).or(extra[name].as_str().map(str::to_owned)).unwrap_or_default();
    person.add_email(&either("email"));
    person.set("displayName", either("description"));
    if row.fields.contains_key("enabled") && flag(&row.text("enabled")) != Some(true) {
        person.set("state", "Disabled");
    }
    if let Some(federated) = federated {
        person.set(
            "connector",
            serde_json::json!({"type": federated.text("protocol_id"), "id": federated.text("idp_id")}),
        );
        person.set(
            "identities",
            serde_json::json!([{"type": federated.text("protocol_id"), "id": federated.text("unique_id")}]),
        );
    }
    let password = local.and_then(|local| accounts.passwords.get(&local.text("id")));
    let expiry = of(password, "expires_at_int").or(of(password, "expires_at")).or(of(Some(row), "password_expires_at"));
    if expiry.is_some_and(|expiry| is_past(&expiry)) {
        person.set("requirePasswordChange", true);
    }
    // Before the Newton release, the table `user` had the hash.
    let hash = of(password, "password_hash").or(of(password, "password"));
    let hash = hash.or(of(Some(row), "password_hash")).or(of(Some(row), "password"));
    super::text::take_password(&mut person, &hash.unwrap_or_default());
    person
}

/// Returns whether a time is in the past: microseconds since 1970, or date and time in UTC. A time that can't be read counts as
/// past, because the password may have expired.
fn is_past(text: &str) -> bool {
    let parsed = match text.parse() {
        Ok(microseconds) => Timestamp::from_microsecond(microseconds),
        Err(_) => text.parse::<DateTime>().and_then(|time| time.to_zoned(TimeZone::UTC)).map(|time| time.timestamp()),
    };
    !parsed.is_ok_and(|time| time > Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::{Credential, Place};
    use secrecy::ExposeSecret;
    use serde_json::json;

    fn hash(person: &UserDraft) -> &str {
        let Some(Credential::Hash(hash)) = &person.credential else { panic!("a hash") };
        hash.expose_secret()
    }

    #[test]
    fn json_and_sql_tables_are_equivalent() {
        let json = read(include_bytes!("../../../../examples/import/keystone.json"));
        let sql = read(include_bytes!("../../../../examples/import/keystone.sql"));
        for input in [&json, &sql] {
            assert_eq!(input.rejected, []);
            let [ada, bob, eve] = &input.users[..] else { panic!("three users") };
            assert_eq!(
                Value::from(ada.spec.clone()),
                json!({
                    "username": "ada", "email": "ada@example.com", "displayName": "Ada O'Neil", "domain": "default",
                })
            );
            assert!(hash(ada).starts_with("$2b$"), "the newer of two");
            assert_eq!(ada.group_names(), ["Operators"]);
            assert_eq!(bob.spec["state"], "Disabled");
            assert!(hash(bob).starts_with("$scrypt$"));
            assert_eq!(eve.spec["connector"], json!({"type": "openid", "id": "corporate"}));
            assert_eq!(eve.spec["identities"], json!([{"type": "openid", "id": "eve-4711"}]));
            assert_eq!(
                (input.groups[0].name.as_str(), &input.groups[0].spec["description"]),
                ("Operators", &json!("Who runs it"))
            );
        }
        assert_eq!(json.users[0].place, Place::line(3));
    }

    #[test]
    fn api_responses_are_read() {
        let input = read(b"{\"links\": {}, \"users\": [{\"id\": \"1\", \"name\": \"ada\", \"enabled\": true, \"email\": \"a@example.com\"}, {\"id\": \"2\", \"enabled\": false}, {\"enabled\": false}]}");
        assert_eq!(input.users[0].spec["email"], "a@example.com");
        assert_eq!((input.rejected.len(), input.rejected[0].reason.as_str()), (1, "name: is missing"));
        // The User that was imported before is restricted.
        let unnamed = &input.users[1];
        assert_eq!((unnamed.source.as_deref(), &unnamed.spec["state"]), (Some("keystone:2"), &json!("Disabled")));
        assert_eq!(unnamed.faults[0].reason, "is missing");
    }

    #[test]
    fn groups_in_users_are_ids_or_names_in_the_users_domain() {
        let groups =
            r#"[{"id": "g1", "domain_id": "a", "name": "admins"}, {"id": "g2", "domain_id": "b", "name": "admins"}]"#;
        let users = r#"[{"id": "1", "name": "ada", "domain_id": "b", "groups": ["admins"]}, {"id": "2", "name": "bob", "domain_id": "a", "groups": ["ops", {"id": "g1", "name": "x"}, {"id": "g2"}]}]"#;
        let input = read(format!("{{\"groups\": {groups},\n\"users\": {users},\n\"memberships\": [{{\"user_id\": \"1\", \"group_id\": \"g9\"}}]}}").as_bytes());
        let ids = |person: &UserDraft| person.groups.iter().map(|group| group.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&input.users[0]), [SourceId::new("keystone", "g2")]);
        assert_eq!(ids(&input.users[1]), [SourceId::new("keystone", "g1")]);
        let rejected: Vec<String> =
            input.rejected.iter().map(|rejected| format!("{}: {rejected}", rejected.place.line)).collect();
        assert_eq!(
            rejected,
            [
                "3: group_id: g9 is not the ID of a group in this file",
                "2: groups: \"ops\" is neither the ID nor the name of a group in this file that is in the user's domain",
                "2: groups: \"g2\" is neither the ID nor the name of a group in this file that is in the user's domain",
            ]
        );
    }

    /// Keystone's API returns additional attributes of a user among the others, and people may be able to set them.
    #[test]
    fn an_attribute_of_one_user_does_not_describe_memberships() {
        let user = |id: &str, more: serde_json::Value| {
            let mut user = json!({"id": id, "name": format!("u{id}"), "domain_id": "a"});
            user.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            user
        };
        let tables = |user: &serde_json::Value, other: &serde_json::Value| {
            json!({"groups": [{"id": "g1", "name": "ops", "domain_id": "a"}], "users": [user, other]}).to_string()
        };
        let links = json!({"links": {"self": "x"}, "groups": ["g1"]});
        let input = read(tables(&user("1", links), &user("2", json!({"links": {}}))).as_bytes());
        assert!(!input.describes_memberships && input.users.iter().all(|person| person.groups.is_empty()));
        // The row of a user describes only this one.
        let input = read(tables(&user("1", json!({"groups": ["g1"]})), &user("2", json!({}))).as_bytes());
        assert!(input.describes_memberships);
        let unclear = input.users.iter().map(|person| (person.groups.len(), person.unclear.all));
        assert_eq!(unclear.collect::<Vec<_>>(), [(1, false), (0, true)]);
    }

    #[test]
    fn an_expired_password_must_be_changed() {
        for (field, time, expected) in [
            ("expires_at", json!("2001-01-01 00:00:00"), true),
            ("expires_at", json!("9000-01-01 00:00:00.000000"), false),
            ("expires_at", json!("soon"), true),
            ("expires_at", json!(null), false),
            ("expires_at_int", json!(978_307_200_000_000_i64), true),
            ("expires_at_int", json!(99_999_999_999_000_000_i64), false),
        ] {
            let tables = json!({"user": [{"id": "1"}], "local_user": [{"id": 1, "user_id": "1", "name": "ada"}],
                "password": [{"local_user_id": 1, "password_hash": "$2b$x", field: time}]});
            let input = read(tables.to_string().as_bytes());
            assert_eq!(input.users[0].spec.get("requirePasswordChange").is_some(), expected, "{tables}");
        }
        let input =
            read(br#"{"users": [{"id": "1", "name": "ada", "password_expires_at": "2016-11-06T15:32:17.000000"}]}"#);
        assert_eq!(input.users[0].spec["requirePasswordChange"], true);
    }

    #[test]
    fn an_id_is_not_looked_up_as_a_name() {
        let tables = json!({"groups": [{"id": "g1", "name": "ops"}, {"id": "g2", "name": "g1"}],
            "users": [{"id": "1", "name": "ada", "groups": [{"id": "g1", "name": "ops"}]}]});
        let input = read(tables.to_string().as_bytes());
        assert_eq!(input.users[0].groups[0].id, SourceId::new("keystone", "g1"));
    }
}
