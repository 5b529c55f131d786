//! What an import must not do without consent.

use std::collections::BTreeSet;
use std::fmt;

use super::draft::Place;
use super::ties::Ties;

/// Maximum number of Users that are reported by name, for each Group and, in total, for promotions. Further ones are
/// only counted.
pub(super) const MAX_NAMED: usize = 10;

/// What an import must not do without consent.
#[derive(Debug, Default)]
pub struct Findings<'a> {
    /// Groups that would accept existing Users, sorted by name.
    pub admitted: Vec<Admitted>,
    /// Existing Groups that no import has applied, and that have members of their own, sorted by name.
    pub present: Vec<Present>,
    /// Existing Users that would gain something or change hands.
    pub promotions: Promotions,
    /// Users that do not exist yet and would be administrators.
    pub administrators: Vec<Administrator>,
    /// What else must not be applied because of these.
    pub ties: Ties<'a>,
}

/// Existing Users that the plan adds to Groups, makes administrators or hands over.
///
/// It does not matter who created the User. Field managers, labels and annotations prove nothing, because anyone who
/// may write Users can choose them. Nor does an earlier import of the User: if it granted nothing, it needed no
/// consent.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Promotions {
    /// The first ones, at most `MAX_NAMED`. Users that no import has written come first, because they are the likely
    /// victims if many Users of earlier imports are among them.
    pub first: Vec<Promotion>,
    /// Names of all of them, sorted.
    pub users: BTreeSet<String>,
}

impl Promotions {
    pub(super) fn add(&mut self, promotion: Promotion) {
        self.users.insert(promotion.user.clone());
        if self.first.len() < MAX_NAMED {
            self.first.push(promotion);
        } else if !promotion.is_imported
            && let Some(imported) = self.first.iter_mut().rfind(|promotion| promotion.is_imported)
        {
            *imported = promotion;
        }
    }
}

/// An existing User that the plan adds to Groups, makes an administrator or hands over.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Promotion {
    /// Position of the User or Group in the source.
    pub place: Place,
    /// Name of the User.
    pub user: String,
    /// Groups of which the User would become a member.
    pub groups: Vec<String>,
    /// Whether the plan sets `spec.admin`, which the User does not have yet.
    pub is_admin: bool,
    /// Whether the plan replaces the password.
    pub gets_password: bool,
    /// Fields of `spec` that the plan changes and that give someone control of the User.
    pub fields: Vec<String>,
    /// Identity in the source that the User would belong to, and does not belong to yet.
    pub source: Option<String>,
    /// Whether an earlier import has written the User.
    pub is_imported: bool,
}

/// A User that does not exist yet and would be an administrator.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Administrator {
    /// Position of the User in the source.
    pub place: Place,
    /// Name of the User.
    pub user: String,
}

impl fmt::Display for Administrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "User {} does not exist yet, and this import would create it with spec.admin", self.user)
    }
}

/// Returns the items as `a, b and c`.
fn listed(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

impl fmt::Display for Promotion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gains = Vec::new();
        match &self.groups[..] {
            [] => {}
            [group] => gains.push(format!("add it to Group {group}")),
            groups => gains.push(format!("add it to the Groups {}", listed(groups))),
        }
        if self.is_admin {
            gains.push("set spec.admin".to_owned());
        }
        if self.gets_password {
            gains.push("set its password".to_owned());
        }
        if !self.fields.is_empty() {
            let fields: Vec<String> = self.fields.iter().map(|field| format!("spec.{field}")).collect();
            gains.push(format!("change {}", listed(&fields)));
        }
        gains.extend(self.source.as_ref().map(|source| format!("give it to {source}")));
        let (user, gains) = (&self.user, listed(&gains));
        write!(f, "User {user} already exists, and this import would {gains}")
    }
}

/// Existing Users that a Group would accept although the plan does not add them to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Admitted {
    /// Position of the Group in the source.
    pub place: Place,
    /// Name of the Group.
    pub group: String,
    /// Names of the first Users, at most `MAX_NAMED`.
    pub users: Vec<String>,
    /// Total number of Users.
    pub count: usize,
}

/// Members of an existing Group that no import has applied, which the plan does not add to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Present {
    /// Position of the Group in the source.
    pub place: Place,
    /// Name of the Group.
    pub group: String,
    /// The first members, each with its kind, at most `MAX_NAMED`.
    pub members: Vec<String>,
    /// Total number of members.
    pub count: usize,
}

impl fmt::Display for Present {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (group, members) = (&self.group, self.members.join(", "));
        write!(f, "Group {group} already exists and has members that this import does not add to it: {members}")?;
        more(f, self.count - self.members.len())
    }
}

/// Writes how many further ones are not named.
fn more(f: &mut fmt::Formatter<'_>, count: usize) -> fmt::Result {
    if count == 0 { Ok(()) } else { write!(f, " and {count} more") }
}

impl fmt::Display for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (group, count, users) = (&self.group, self.count, self.users.join(", "));
        let existing = if count == 1 { "User" } else { "Users" };
        write!(
            f,
            "Group {group} would accept {count} existing {existing} that this import does not add to it: {users}"
        )?;
        more(f, count - self.users.len())
    }
}
