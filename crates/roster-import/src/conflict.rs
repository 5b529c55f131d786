//! Objects of the cluster that have the name of a planned one but stand for another user or group.
//!
//! Names of objects are derived from names in the source, and different names can result in the same one: `Admins*` and
//! `admins`. Applying the plan would put the members of one group into the other, or give the names of one person to
//! another.

use std::collections::HashMap;
use std::fmt;

use serde_json::Value;

use super::assemble::{Item, Plan};
use super::draft::{Place, SOURCE_ANNOTATION};
use super::rules::Kind;

/// An existing object that a planned one must not replace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Conflict {
    /// Where the source has the planned object.
    pub place: Place,
    kind: Kind,
    /// Name of both objects.
    name: String,
    difference: Difference,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Difference {
    /// They come from different groups of a source.
    Source { existing: String, planned: String },
    /// They are the same group, and the planned one has another name.
    Name { source: String, planned: String },
    /// They have different titles.
    Title { existing: String, planned: String },
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = (self.kind.name(), &self.name);
        match (&self.difference, self.kind) {
            (Difference::Source { existing, planned }, _) => write!(
                f,
                "{kind} {name} already exists for {existing}, and this import would use it for {planned}: rename one of them in \
                 the source, or delete the {kind}; if both are the same, set its annotation {SOURCE_ANNOTATION} to {planned}"
            ),
            (Difference::Name { source, planned }, _) => write!(
                f,
                "{kind} {name} already exists for {source}, and this import would use {planned} for it, which has none of its \
                 roles: delete {kind} {name}, or remove its annotation {SOURCE_ANNOTATION}"
            ),
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

/// What the plan says about one object.
struct Planned<'a> {
    place: Place,
    /// Name in the source, if the name of the object was derived from it.
    derived_from: Option<&'a str>,
    /// Title that the object gets.
    title: Option<&'a str>,
    /// Identity of the group in the source.
    source: Option<&'a str>,
}

/// The planned objects, and the Groups that they refer to.
pub struct Conflicts<'a> {
    planned: HashMap<(Kind, &'a str), Planned<'a>>,
    /// Names of Groups by their identity in the source.
    by_source: HashMap<&'a str, &'a str>,
    found: Vec<Conflict>,
}

impl<'a> Conflicts<'a> {
    /// Returns the plan, before any object of the cluster is known.
    pub fn new(plan: &'a Plan) -> Self {
        // Users refer to Groups that the plan does not create: with --no-groups, and if the group was rejected.
        let references = plan.references.iter().map(|group| {
            let (derived_from, source) = (group.derived_from.as_deref(), group.source.as_deref());
            ((Kind::Group, &*group.name), Planned { place: group.place, derived_from, title: None, source })
        });
        let items = plan.items.iter().map(|item| ((item.kind, &*item.name), planned(item)));
        let sources = plan.references.iter().filter_map(|group| Some((group.source.as_deref()?, &*group.name)));
        Self { planned: references.chain(items).collect(), by_source: sources.collect(), found: Vec::new() }
    }

    /// Takes an object of the cluster into account. `source` is the annotation [`SOURCE_ANNOTATION`].
    pub fn existing(&mut self, kind: Kind, name: &str, source: Option<&str>, spec: &Value) {
        let renamed = source.filter(|_| kind == Kind::Group).and_then(|source| self.by_source.get_key_value(source));
        if let Some((source, planned)) = renamed.filter(|(_, planned)| **planned != name) {
            let difference = Difference::Name { source: (*source).to_owned(), planned: (*planned).to_owned() };
            let place = self.planned.get(&(kind, *planned)).map(|planned| planned.place).unwrap_or_default();
            self.found.push(Conflict { place, kind, name: name.to_owned(), difference });
        }
        let Some(planned) = self.planned.get(&(kind, name)) else { return };
        let difference = difference(planned, kind, name, source, spec);
        let place = planned.place;
        self.found.extend(difference.map(|difference| Conflict { place, kind, name: name.to_owned(), difference }));
    }

    /// Returns the conflicts, in the order of the source.
    pub fn finish(mut self) -> Vec<Conflict> {
        self.found.sort_by_key(|conflict| conflict.place);
        self.found
    }
}

/// Field with the title of an object.
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
        source: item.object["metadata"]["annotations"][SOURCE_ANNOTATION].as_str(),
    }
}

fn difference(planned: &Planned, kind: Kind, name: &str, source: Option<&str>, spec: &Value) -> Option<Difference> {
    if let (Some(existing), Some(planned)) = (source, planned.source) {
        let (existing, planned) = (existing.to_owned(), planned.to_owned());
        return (existing != planned).then_some(Difference::Source { existing, planned });
    }
    // A name that was not derived is the name of the object.
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
    fn case_a19_groups_that_are_not_created_count_as_well() {
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
            "Group admins already exists for ldap:cn=admins,ou=a,dc=x, and this import would use admins-"
        ));
        assert_eq!(conflicts(&both, Kind::Group, "admins", None, &json!({})), [""; 0]);
    }

    fn conflicts(plan: &Plan, kind: Kind, name: &str, source: Option<&str>, spec: &Value) -> Vec<String> {
        let mut conflicts = Conflicts::new(plan);
        conflicts.existing(kind, name, source, spec);
        conflicts.finish().iter().map(ToString::to_string).collect()
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
    fn the_name_of_the_group_is_no_conflict() {
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
        assert_eq!(with(None), [""; 0]);
        let found = with(Some("ldap:cn=admins,ou=b,dc=x"));
        assert!(found[0].starts_with("Group admins already exists for ldap:cn=admins,ou=b,dc=x, and"), "{found:?}");
    }

    #[test]
    fn case_a19_a_user_with_another_username_is_a_conflict() {
        let plan = plan(Format::Csv, "username\nJane_Doe\n");
        assert_eq!(conflicts(&plan, Kind::User, "jane-doe", None, &json!({})).len(), 1);
        assert_eq!(conflicts(&plan, Kind::User, "jane-doe", None, &json!({"username": "jane_doe"})), [""; 0]);
        assert_eq!(conflicts(&plan, Kind::User, "joe", None, &json!({})), [""; 0]);
    }
}
