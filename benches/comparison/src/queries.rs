//! The queries, in the form that each contender takes.

use roster_api::directory::{GROUP, VERSION};

use crate::population::Population;

/// Path of the custom resources.
const DECLARED: &str = "/apis/roster.dev/v1alpha1/users";

/// Condition on users, independent of any contender's syntax.
#[derive(Clone, Debug, Default)]
pub(crate) struct Condition {
    /// Fields and the values that they must have.
    pub equal: Vec<(&'static str, String)>,
    /// Text that the display name must contain.
    pub within: Option<String>,
    /// Group that they must be in.
    pub group: Option<String>,
}

/// Kind of result.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Answer {
    /// One user.
    Single,
    /// A page of users and the total number. Sorted by last login, latest first, if `by_login`; otherwise by name.
    Page { offset: u64, limit: u64, by_login: bool },
    /// The number of users.
    Count,
    /// All users.
    All,
    /// The permissions of a user. No stand-in supports this.
    Permissions,
}

/// A query.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    /// Name in the report.
    pub name: String,
    /// Users that the query selects.
    pub condition: Condition,
    /// Kind of result.
    pub answer: Answer,
    /// Path on Roster.
    pub roster: String,
    /// Path of the closest request for the custom resources on kube-apiserver. The client would have to do the rest.
    pub declared: Option<String>,
    /// Whether `declared` is a list.
    pub declared_is_list: bool,
}

/// Returns the queries for this number of users.
pub(crate) fn queries(population: Population) -> Vec<Query> {
    let at = population.users * 7 / 9;
    let (name, email) = (Population::name(at), Population::email(at));
    let group = Population::group(2);
    let base = format!("/apis/{GROUP}/{VERSION}/users");
    let listed = |selector: &str| Some(format!("{DECLARED}?resourceVersion=0{selector}"));
    let in_group =
        Condition { equal: vec![("state", "Active".into())], group: Some(group.clone()), ..Condition::default() };
    // Departments are of equal size and 19 of 20 users are active, so the page is full for any number of users.
    let late = (population.users / 5 * 18 / 20 / 20).clamp(1, 500);
    let sorted = |page: u64| Query {
        name: format!("group and state, by last login, page {page} of 20"),
        condition: in_group.clone(),
        answer: Answer::Page { offset: (page - 1) * 20, limit: 20, by_login: true },
        roster: format!("{base}?filterBy=groups,{group},state,Active&sortBy=-lastLoginTime&limit=20&page={page}"),
        declared: listed("&fieldSelector=spec.state%3DActive"),
        declared_is_list: true,
    };
    let equal =
        |field: &'static str, value: &str| Condition { equal: vec![(field, value.to_owned())], ..Condition::default() };
    let text = Population::TEXT_WITHIN;
    let first = Answer::Page { offset: 0, limit: 20, by_login: false };
    let exact =
        Condition { equal: vec![("domain", "domain-7".into()), ("zone", "eu-west".into())], ..Condition::default() };
    let mut queries = vec![
        Query {
            name: "get by name".into(),
            condition: equal("name", &name),
            answer: Answer::Single,
            roster: format!("{base}/{name}"),
            declared: Some(format!("{DECLARED}/{name}")),
            declared_is_list: false,
        },
        Query {
            name: "get by email".into(),
            condition: equal("email", &email),
            answer: Answer::Single,
            roster: format!("{base}/{email}"),
            declared: listed(&format!("&fieldSelector=spec.email%3D{email}")),
            declared_is_list: true,
        },
        Query {
            name: "domain and zone, 20 by name".into(),
            condition: exact,
            answer: first,
            roster: format!("{base}?filterBy=domain,domain-7,zone,eu-west&limit=20"),
            declared: listed("&fieldSelector=spec.domain%3Ddomain-7,spec.zone%3Deu-west"),
            declared_is_list: true,
        },
        Query {
            name: "text within display names, 20 by name".into(),
            condition: Condition { within: Some(text.to_owned()), ..Condition::default() },
            answer: first,
            roster: format!("{base}?filterBy=displayName,*{}*&limit=20", text.replace(' ', "%20")),
            declared: listed(""),
            declared_is_list: true,
        },
        sorted(1),
        sorted(late),
        Query {
            name: "count by state".into(),
            condition: equal("state", "Active"),
            answer: Answer::Count,
            roster: format!("{base}?filterBy=state,Active&limit=1"),
            declared: listed("&fieldSelector=spec.state%3DActive"),
            declared_is_list: true,
        },
        Query {
            name: "all users".into(),
            condition: Condition::default(),
            answer: Answer::All,
            roster: base.clone(),
            declared: listed(""),
            declared_is_list: true,
        },
        Query {
            name: "permissions of one user".into(),
            condition: Condition::default(),
            answer: Answer::Permissions,
            roster: format!("{base}/{name}/permissions"),
            declared: None,
            declared_is_list: false,
        },
    ];
    queries.dedup_by(|a, b| a.name == b.name);
    queries
}
