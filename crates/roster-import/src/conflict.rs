//! Detects existing objects that have the name of a planned object but represent a different user or group.
//!
//! Names of objects are derived from names in the source, and different names can result in the same object name, such
//! as `Admins*` and `admins`. Applying the plan would then add the members of one group to another, or give one
//! person's username and emails to another. The same applies to a User that would have the username or email of another.

use std::collections::HashMap;
use std::fmt;

use roster_api::SOURCE_ID_ANNOTATION;
use serde_json::Value;

use super::assemble::{Item, Plan};
use super::draft::Place;
use super::existing::ExistingUser;
use super::identifiers::{Identifiers, Shared};
use super::rules::Kind;

/// An existing object that a planned one must not overwrite.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Conflict {
    /// Position of the planned object in the source.
    pub place: Place,
    kind: Kind,
    /// Name of both objects.
    name: String,
    difference: Difference,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Difference {
    /// The existing and the planned object come from different users or groups of a source.
    Source { existing: String, planned: String },
    /// The planned User would have an identifier of another existing User.
    Identifier { field: &'static str, text: String, other: String, other_field: &'static str },
    /// The existing Group has no identity, so only its name suggests that it is the group of the source.
    Unidentified { planned: String },
    /// The existing and the planned object come from the same user or group, but the planned one has another name.
    Name { source: String, planned: String },
    /// The existing and the planned object have different titles.
    Title { existing: String, planned: String },
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = (self.kind.name(), &self.name);
        match (&self.difference, self.kind) {
            (Difference::Source { existing, planned }, _) => write!(
                f,
                "{kind} {name} already exists for {existing}, and this import would use it for {planned}: rename one of them in \
                 the source, or delete the {kind}; if both are the same, set its annotation {SOURCE_ID_ANNOTATION} to {planned}"
            ),
            (Difference::Identifier { field, text, other, other_field }, _) => write!(
                f,
                "{kind} {name} would have the {field} {text}, which is the {other_field} of {kind} {other}: change one of them"
            ),
            (Difference::Unidentified { planned }, _) => write!(
                f,
                "{kind} {name} already exists without the annotation {SOURCE_ID_ANNOTATION}, and this import would use it for \
                 {planned}: rename one of them, or delete the {kind}; if both are the same, set the annotation to {planned}"
            ),
            (Difference::Name { source, planned }, _) => {
                let who = if self.kind == Kind::User { "person" } else { "group" };
                write!(
                    f,
                    "{kind} {name} already exists for {source}, and this import would use {kind} {planned} for the same {who}: \
                     remove the annotation {SOURCE_ID_ANNOTATION} from the one that does not belong to this {who}, or delete it"
                )
            }
            (Difference::Title { existing, planned }, Kind::Group) => write!(
                f,
                "{kind} {name} already exists as {existing:?}, and this import would use it for {planned:?}: rename one of them, or \
                 delete the {kind}; if both are the same, set its spec.displayName to {planned:?}"
            ),
            (Difference::Title { existing, planned }, Kind::User) => write!(
                f,
                "{kind} {name} already exists with the username {existing:?}, and this import would use it for {planned:?}: give \
                 one of them another name, or delete the {kind}"
            ),
        }
    }
}

impl Conflict {
    /// Returns the kind and name of the planned object that must not be applied.
    pub fn held(&self) -> (Kind, &str) {
        match &self.difference {
            Difference::Name { planned, .. } => (self.kind, planned),
            _ => (self.kind, &self.name),
        }
    }
}

/// Conflicts between a plan and the objects of the cluster.
#[derive(Debug, Default)]
pub struct Conflicting {
    /// Conflicts, in the order of the source.
    pub conflicts: Vec<Conflict>,
    /// Further conflicts that exist if a User of the plan is not applied, by its name: it keeps what others would get.
    pub(super) if_held: HashMap<String, Vec<Conflict>>,
}

/// A planned object, or a Group that the plan refers to.
struct Planned<'a> {
    place: Place,
    /// Name in the source, if the name of the object was derived from it.
    derived_from: Option<&'a str>,
    /// Title of the planned object: `displayName` of a Group, `username` of a User.
    title: Option<&'a str>,
    /// Identity of the user or group in the source.
    source: Option<&'a str>,
}

/// Finds the conflicts between a plan and the objects of the cluster.
pub struct Conflicts<'a> {
    /// Planned objects, and the Groups that they refer to.
    planned: HashMap<(Kind, &'a str), Planned<'a>>,
    /// Names of Groups and Users by their identity in the source.
    by_source: HashMap<(Kind, &'a str), &'a str>,
    identifiers: Identifiers<'a>,
    found: Vec<Conflict>,
}

impl<'a> Conflicts<'a> {
    /// Indexes the plan. Existing objects are added by [`Conflicts::existing_group`] and [`Conflicts::existing_user`].
    pub fn new(plan: &'a Plan) -> Self {
        // Users can refer to Groups that the plan does not create: with --no-groups, or if the Group was rejected.
        let references = plan.references.iter().map(|group| {
            let (derived_from, source) = (group.derived_from.as_deref(), group.source.as_deref());
            ((Kind::Group, &*group.name), Planned { place: group.place, derived_from, title: None, source })
        });
        let items = plan.items.iter().map(|item| ((item.kind, &*item.name), planned(item)));
        let groups =
            plan.references.iter().filter_map(|group| Some(((Kind::Group, group.source.as_deref()?), &*group.name)));
        let people = plan.items.iter().filter(|item| item.kind == Kind::User);
        let people = people.filter_map(|item| Some(((Kind::User, planned(item).source?), &*item.name)));
        let (planned, by_source) = (references.chain(items).collect(), groups.chain(people).collect());
        Self { planned, by_source, identifiers: Identifiers::new(plan), found: Vec::new() }
    }

    /// Compares an existing Group with the plan. `source` is the value of the annotation [`SOURCE_ID_ANNOTATION`].
    pub fn existing_group(&mut self, name: &str, source: Option<&str>, spec: &Value) {
        self.existing(Kind::Group, name, source, spec);
    }

    /// Compares an existing User with the plan.
    pub fn existing_user(&mut self, user: &ExistingUser) {
        self.existing(Kind::User, user.name, user.source, user.spec);
        self.identifiers.existing(user);
    }

    fn existing(&mut self, kind: Kind, name: &str, source: Option<&str>, spec: &Value) {
        let known = source.and_then(|source| self.by_source.get_key_value(&(kind, source)));
        if let Some(((_, source), planned)) = known.filter(|(_, planned)| **planned != name) {
            let difference = Difference::Name { source: (*source).to_owned(), planned: (*planned).to_owned() };
            let place = self.planned.get(&(kind, *planned)).map(|planned| planned.place).unwrap_or_default();
            self.found.push(Conflict { place, kind, name: name.to_owned(), difference });
        }
        let Some(planned) = self.planned.get(&(kind, name)) else { return };
        let difference = difference(planned, kind, name, source, spec);
        let place = planned.place;
        self.found.extend(difference.map(|difference| Conflict { place, kind, name: name.to_owned(), difference }));
    }

    /// Returns the conflicts.
    pub fn finish(mut self) -> Conflicting {
        let of = |shared: Shared| {
            let Shared { item, field, text, other, other_field } = shared;
            let difference = Difference::Identifier { field, text, other, other_field };
            Conflict { place: item.place, kind: Kind::User, name: item.name.clone(), difference }
        };
        let (shared, kept) = self.identifiers.finish();
        self.found.extend(shared.into_iter().map(of));
        self.found.sort_by_key(|conflict| conflict.place);
        let mut if_held: HashMap<String, Vec<Conflict>> = HashMap::new();
        for shared in kept {
            if_held.entry(shared.other.clone()).or_default().push(of(shared));
        }
        Conflicting { conflicts: self.found, if_held }
    }
}

/// Returns the field that contains the title of an object.
fn title_field(kind: Kind) -> &'static str {
    match kind {
        Kind::Group => "displayName",
        Kind::User => "username",
    }
}

fn planned(item: &Item) -> Planned<'_> {
    Planned {
        place: item.place,
        derived_from: item.derived_from.as_deref(),
        title: item.object["spec"][title_field(item.kind)].as_str(),
        source: item.object["metadata"]["annotations"][SOURCE_ID_ANNOTATION].as_str(),
    }
}

fn difference(planned: &Planned, kind: Kind, name: &str, source: Option<&str>, spec: &Value) -> Option<Difference> {
    if let (Some(existing), Some(planned)) = (source, planned.source) {
        let (existing, planned) = (existing.to_owned(), planned.to_owned());
        return (existing != planned).then_some(Difference::Source { existing, planned });
    }
    // Anyone who may create groups in the source can choose their names. Existing Users require consent instead.
    if let (Kind::Group, None, Some(planned)) = (kind, source, planned.source) {
        return Some(Difference::Unidentified { planned: planned.to_owned() });
    }
    // A name that was not derived from another one can't be ambiguous.
    let title = planned.derived_from?;
    let existing = spec[title_field(kind)].as_str().unwrap_or(name);
    let is_same = |title: &str| title.to_lowercase() == existing.to_lowercase();
    let is_known = is_same(title) || planned.title.is_some_and(is_same);
    (!is_known).then(|| Difference::Title { existing: existing.to_owned(), planned: title.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assemble::{Options, assemble};
    use crate::rules::Rules;
    use crate::{Format, Source, read};
    use serde_json::json;

    fn plan(format: Format, text: &str) -> Plan {
        let (rules, source) = (Rules::default(), Source { main: text.as_bytes().to_vec(), ..Source::default() });
        let plan = assemble(read(format, &source, &rules), &Options::default(), &rules);
        assert_eq!(plan.rejected, []);
        plan
    }

    #[test]
    fn case_a19_groups_that_are_not_created_can_conflict_too() {
        let (rules, text) = (Rules::default(), b"username,groups\nada,Admins*\n");
        let source = Source { main: text.to_vec(), ..Source::default() };
        let options = Options { no_groups: true, ..Options::default() };
        let plan = assemble(read(Format::Csv, &source, &rules), &options, &rules);
        assert_eq!(conflicts(&plan, Kind::Group, "admins", None, &json!({})).len(), 1);
        let rejected = "kind,name,username,groups,labels\nGroup,Admins*,,,a b=c\nUser,,ada,Admins*,\n";
        let source = Source { main: rejected.into(), ..Source::default() };
        let plan = assemble(read(Format::Csv, &source, &rules), &Options::default(), &rules);
        assert_eq!(plan.rejected.len(), 1);
        assert_eq!(conflicts(&plan, Kind::Group, "admins", None, &json!({})).len(), 1);
    }

    #[test]
    fn case_a19_a_group_that_changes_its_name_is_reported() {
        let person = |name: &str, unit: &str| {
            format!("dn: uid={name},dc=x\nobjectClass: person\nuid: {name}\nmemberOf: cn=admins,ou={unit},dc=x\n\n")
        };
        let both = plan(Format::Ldif, &format!("{}{}", person("ada", "a"), person("bob", "b")));
        let found = conflicts(&both, Kind::Group, "admins", Some("ldap:cn=admins,ou=a,dc=x"), &json!({}));
        assert!(found[0].starts_with(
            "Group admins already exists for ldap:cn=admins,ou=a,dc=x, and this import would use Group admins-"
        ));
        assert!(found[0].ends_with("from the one that does not belong to this group, or delete it"), "{found:?}");
        assert_eq!(conflicts(&both, Kind::Group, "admins", None, &json!({})), [""; 0]);
    }

    fn conflicts(plan: &Plan, kind: Kind, name: &str, source: Option<&str>, spec: &Value) -> Vec<String> {
        let mut conflicts = Conflicts::new(plan);
        conflicts.existing(kind, name, source, spec);
        conflicts.finish().conflicts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn case_a19_a_group_with_another_title_is_a_conflict() {
        for title in ["Admins*", "Ädmins", "-admins"] {
            let plan = plan(Format::Csv, &format!("username,groups\nada,{title}\n"));
            let with = |spec| conflicts(&plan, Kind::Group, "admins", None, &spec);
            assert_eq!(with(json!({})).len(), 1, "{title}");
            assert!(
                with(json!({}))[0]
                    .starts_with("Group admins already exists as \"admins\", and this import would use it for")
            );
            assert_eq!(with(json!({"displayName": "Administrators"})).len(), 1, "{title}");
            // The Group of an earlier import.
            assert_eq!(with(json!({"displayName": title})), [""; 0]);
        }
    }

    #[test]
    fn a_group_with_the_same_name_is_not_a_conflict() {
        for title in ["admins", "Admins"] {
            let plan = plan(Format::Csv, &format!("username,groups\nada,{title}\n"));
            assert_eq!(conflicts(&plan, Kind::Group, "admins", None, &json!({"displayName": "The admins"})), [""; 0]);
        }
        let renamed = plan(Format::Csv, "kind,name,displayName\nGroup,Domain Admins,Masters\n");
        assert_eq!(
            conflicts(&renamed, Kind::Group, "domain-admins", None, &json!({"displayName": "Masters"})),
            [""; 0]
        );
    }

    #[test]
    fn case_a19_a_group_of_another_source_is_a_conflict() {
        let ldif = "dn: uid=ada,dc=x\nobjectClass: person\nuid: ada\nmemberOf: cn=admins,ou=a,dc=x\n";
        let plan = plan(Format::Ldif, ldif);
        let with = |source| conflicts(&plan, Kind::Group, "admins", source, &json!({}));
        assert_eq!(with(Some("ldap:cn=admins,ou=a,dc=x")), [""; 0]);
        let found = with(Some("ldap:cn=admins,ou=b,dc=x"));
        assert!(found[0].starts_with("Group admins already exists for ldap:cn=admins,ou=b,dc=x, and"), "{found:?}");
    }

    #[test]
    fn a_group_without_an_identity_is_not_recognized_by_its_name() {
        let ldif = "dn: uid=ada,dc=x\nobjectClass: person\nuid: ada\nmemberOf: cn=Admins,ou=a,dc=x\n";
        for no_groups in [false, true] {
            let (rules, source) = (Rules::default(), Source { main: ldif.into(), ..Source::default() });
            let options = Options { no_groups, ..Options::default() };
            let plan = assemble(read(Format::Ldif, &source, &rules), &options, &rules);
            for spec in [json!({}), json!({"displayName": "Admins"})] {
                let found = conflicts(&plan, Kind::Group, "admins", None, &spec);
                assert_eq!(
                    found,
                    [
                        "Group admins already exists without the annotation roster.dev/source-id, and this import would use it \
                         for ldap:cn=admins,ou=a,dc=x: rename one of them, or delete the Group; if both are the same, set the \
                         annotation to ldap:cn=admins,ou=a,dc=x"
                    ]
                );
            }
        }
    }

    #[test]
    fn a_user_of_another_source_is_a_conflict() {
        let ldif = "dn: uid=admin,ou=b,dc=x\nobjectClass: person\nuid: admin\n";
        let plan = plan(Format::Ldif, ldif);
        let with = |source| conflicts(&plan, Kind::User, "admin", source, &json!({}));
        assert_eq!(with(Some("ldap:uid=admin,ou=b,dc=x")), [""; 0]);
        // This requires consent.
        assert_eq!(with(None), [""; 0]);
        let found = with(Some("ldap:uid=admin,ou=a,dc=x"));
        assert!(found[0].starts_with("User admin already exists for ldap:uid=admin,ou=a,dc=x, and this"), "{found:?}");
    }

    /// Returns the conflicts of a plan with existing Users: name, identity in the source, `spec`.
    fn with_users(plan: &Plan, users: &[(&str, Option<&str>, Value)]) -> Vec<String> {
        let mut conflicts = Conflicts::new(plan);
        let labels = std::collections::BTreeMap::new();
        for (name, source, spec) in users {
            let user = ExistingUser {
                name,
                labels: &labels,
                spec,
                source: *source,
                owned: &Value::Null,
                gets_password: false,
            };
            conflicts.existing_user(&user);
        }
        conflicts.finish().conflicts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn two_users_for_one_person_are_a_conflict() {
        let plan = plan(Format::Ldif, "dn: uid=ada,dc=x\nobjectClass: person\nuid: ada\n");
        let source = Some("ldap:uid=ada,dc=x");
        assert_eq!(with_users(&plan, &[("ada", source, json!({}))]), [""; 0]);
        let found = with_users(&plan, &[("ada", source, json!({})), ("countess", source, json!({}))]);
        let says = "User countess already exists for ldap:uid=ada,dc=x, and this import would use User ada for the same person";
        assert!(found.len() == 1 && found[0].starts_with(says), "{found:?}");
    }

    /// References of RoleBindings to the existing User would otherwise mean the new one.
    #[test]
    fn a_new_user_with_an_identifier_of_another_user_is_a_conflict() {
        let of = |row: &str, name: &str, spec: Value| {
            with_users(
                &plan(Format::Csv, &format!("name,username,email,additionalEmails\n{row}\n")),
                &[(name, None, spec)],
            )
        };
        for (row, name, spec, says) in [
            ("ada,,,", "u1", json!({"username": "Ada"}), "metadata.name Ada, which is the spec.username of User u1"),
            ("x,Ada,,", "ada", json!({"username": "bob"}), "spec.username ada, which is the metadata.name of User ada"),
            ("x,ada,,", "u1", json!({"username": "ADA"}), "spec.username ADA, which is the spec.username of User u1"),
            (
                "x,ada,a@example.com,",
                "u1",
                json!({"email": "A@example.com"}),
                "spec.email A@example.com, which is the spec.email of User u1",
            ),
            (
                "x,a@example.com,,",
                "u1",
                json!({"additionalEmails": ["a@example.com"]}),
                "spec.username a@example.com, which is the spec.additionalEmails of User u1",
            ),
            (
                "x,ada,,a@example.com",
                "u1",
                json!({"username": "a@example.com"}),
                "spec.additionalEmails a@example.com, which is the spec.username of User u1",
            ),
        ] {
            let found = of(row, name, spec);
            assert!(found.len() == 1 && found[0].contains(says), "{row}: {found:?}");
        }
        assert_eq!(of("ada,,,", "u1", json!({"username": "bob", "email": "ada@example.com"})), [""; 0]);
    }

    #[test]
    fn identifiers_that_a_user_has_or_another_one_gives_up_are_no_conflict() {
        let text = "name,username,email\na,ada,x@example.com\nb,bob,y@example.com\n";
        let plan = plan(Format::Csv, text);
        let user = |username: &str, email: &str| json!({"username": username, "email": format!("{email}@example.com")});
        // Both exchange their emails.
        assert_eq!(with_users(&plan, &[("a", None, user("ada", "y")), ("b", None, user("bob", "x"))]), [""; 0]);
        // The conflict exists before the import.
        let users = [("ada", None, json!({})), ("a", None, user("ada", "x"))];
        assert_eq!(with_users(&plan, &users), [""; 0]);
        // Emails that the import does not own stay.
        let more = json!({"username": "ada", "additionalEmails": ["y@example.com"]});
        assert_eq!(with_users(&plan, &[("a", None, more)]).len(), 1);
    }

    #[test]
    fn case_a19_a_user_with_another_username_is_a_conflict() {
        let plan = plan(Format::Csv, "username\nJane_Doe\n");
        assert_eq!(conflicts(&plan, Kind::User, "jane-doe", None, &json!({})).len(), 1);
        assert_eq!(conflicts(&plan, Kind::User, "jane-doe", None, &json!({"username": "jane_doe"})), [""; 0]);
        assert_eq!(conflicts(&plan, Kind::User, "joe", None, &json!({})), [""; 0]);
    }
}
