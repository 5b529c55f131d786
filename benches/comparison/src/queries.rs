//! What is asked, in the form of each contender.

use roster_api::directory::{GROUP, VERSION};

use crate::population::Population;

/// Where the custom resources themselves are.
const DECLARED: &str = "/apis/roster.dev/v1alpha1/users";

/// What users are to be found, in no contender's own terms.
#[derive(Clone, Debug, Default)]
pub(crate) struct Condition {
    /// Fields and the values that they must have.
    pub equal: Vec<(&'static str, String)>,
    /// Text that the display name must have within.
    pub within: Option<String>,
    /// Group that they must be in.
    pub group: Option<String>,
}

/// What is answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Answer {
    /// One user.
    Single,
    /// Users from an offset on, and how many there are in all; by last login, latest first, or else by name.
    Page { offset: u64, limit: u64, by_login: bool },
    /// How many there are.
    Count,
    /// All of them.
    All,
    /// What a user may do. No stand-in can tell.
    Permissions,
}

/// A query.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    /// What it is called in the table.
    pub name: String,
    /// Whom.
    pub condition: Condition,
    /// What.
    pub answer: Answer,
    /// The path on Roster.
    pub roster: String,
    /// What kube-apiserver can do for the same custom resources; the client has to do the rest.
    pub declared: Option<String>,
    /// Whether that is a whole list.
    pub declared_is_list: bool,
}

/// The queries over that many users.
pub(crate) fn queries(population: Population) -> Vec<Query> {
    let at = population.users * 7 / 9;
    let (name, email) = (Population::name(at), Population::email(at));
    let group = Population::group(2);
    let base = format!("/apis/{GROUP}/{VERSION}/users");
    let listed = |selector: &str| Some(format!("{DECLARED}?resourceVersion=0{selector}"));
    let in_group =
        Condition { equal: vec![("state", "Active".into())], group: Some(group.clone()), ..Condition::default() };
    // The departments are of one size, and nineteen of twenty users are active: the page is full at any size.
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
            name: "everybody".into(),
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
