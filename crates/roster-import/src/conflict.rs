//! Objects of the cluster that have the name of a planned one, and are somebody or something else.
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

/// The planned objects, by kind and name.
pub struct Conflicts<'a> {
    planned: HashMap<(Kind, &'a str), &'a Item>,
    found: Vec<Conflict>,
}

impl<'a> Conflicts<'a> {
    /// Returns the plan, before any object of the cluster is known.
    pub fn new(plan: &'a Plan) -> Self {
        Self { planned: plan.items.iter().map(|item| ((item.kind, &*item.name), item)).collect(), found: Vec::new() }
    }

    /// Takes an object of the cluster into account.
    pub fn existing(&mut self, kind: Kind, name: &str, source: Option<&str>, spec: &Value) {
        let Some(item) = self.planned.get(&(kind, name)) else { return };
        let difference = difference(item, source, spec);
        self.found.extend(difference.map(|difference| {
            let name = name.to_owned();
            Conflict { place: item.place, kind, name, difference }
        }));
    }

    /// Returns the conflicts, in the order of the source.
    pub fn finish(mut self) -> Vec<Conflict> {
        self.found.sort_by_key(|conflict| conflict.place);
        self.found
    }
}

fn difference(item: &Item, source: Option<&str>, spec: &Value) -> Option<Difference> {
    let planned = &item.object;
    if let (Some(existing), Some(planned)) = (source, planned["metadata"]["annotations"][SOURCE_ANNOTATION].as_str()) {
        let (existing, planned) = (existing.to_owned(), planned.to_owned());
        return (existing != planned).then_some(Difference::Source { existing, planned });
    }
    // A name that was not derived is the name of the object.
    let title = item.derived_from.as_deref()?;
    let field = if item.kind == Kind::Group { "displayName" } else { "username" };
    let existing = spec[field].as_str().unwrap_or(&item.name);
    let is_same = |title: &str| title.to_lowercase() == existing.to_lowercase();
    let is_known = is_same(title) || planned["spec"][field].as_str().is_some_and(is_same);
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
