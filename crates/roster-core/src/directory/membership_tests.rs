use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::{Expression, Selector, SelectorExt};
use proptest::prelude::*;

use super::query::Pending;
use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn strings(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Builds a group that accepts declared members.
fn group(users: &[&str], groups: &[&str]) -> DeclaredMembers {
    DeclaredMembers { accepts_declared: true, ..closed(users, groups) }
}

/// Builds a group that does not accept declared members.
fn closed(users: &[&str], groups: &[&str]) -> DeclaredMembers {
    DeclaredMembers { users: strings(users), groups: strings(groups), ..DeclaredMembers::default() }
}

fn waiting(graph: &Memberships, group: &str) -> Vec<String> {
    graph.waiting(group).map(str::to_owned).collect()
}

fn user(graph: &mut Memberships, name: &str, groups: &[&str]) -> MembershipChanges {
    let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
    graph.set_user(name, Some((Labels::new(), &groups)))
}

fn groups_of(graph: &Memberships, user: &str) -> Vec<String> {
    let mut groups: Vec<String> = graph.groups_of(user).map(str::to_owned).collect();
    groups.sort();
    groups
}

#[test]
fn nested_groups_and_groups_that_are_created_later() {
    let mut graph = Memberships::default();
    user(&mut graph, "jane", &["backend"]);
    assert!(groups_of(&graph, "jane").is_empty(), "the group does not exist yet");
    graph.set_group("company", Some(group(&[], &["engineers"])), at(0));
    graph.set_group("engineers", Some(group(&["john"], &["backend"])), at(0));
    let changes = graph.set_group("backend", Some(group(&[], &[])), at(0));
    assert_eq!(changes.users, strings(&["jane"]));
    assert_eq!(changes.groups, strings(&["backend", "company", "engineers"]));
    assert_eq!(groups_of(&graph, "jane"), ["backend", "company", "engineers"]);
    let path = graph.path("jane", "company").unwrap();
    assert_eq!(
        (path.sources, path.groups),
        (vec![MembershipSource::User], vec!["backend".into(), "engineers".into(), "company".into()])
    );
    assert_eq!(graph.missing("engineers").collect::<Vec<_>>(), [("User", "john")]);
    assert_eq!(user(&mut graph, "john", &[]).groups, strings(&["company", "engineers"]));
    graph.set_group("engineers", None, at(0));
    assert_eq!(groups_of(&graph, "jane"), ["backend"]);
}

#[test]
fn declared_memberships_wait_until_the_group_accepts_them() {
    let mut graph = Memberships::default();
    user(&mut graph, "eve", &["admins"]);
    user(&mut graph, "jane", &["admins"]);
    let labels = Labels::from([("team".to_owned(), "x".to_owned())]);
    graph.set_user("mallory", Some((labels.clone(), &[])));
    assert_eq!(graph.pending_of("eve").collect::<Vec<_>>(), [("admins", Pending::NotFound)]);
    let selector = Some(Selector::from(Expression::Exists("team".into())));
    let declared = DeclaredMembers { selector, ..closed(&["jane"], &[]) };
    let changes = graph.set_group("admins", Some(declared.clone()), at(0));
    assert_eq!(changes.users, strings(&["eve", "jane", "mallory"]), "users that wait to be accepted are reported");
    assert_eq!(graph.members_of("admins").collect::<Vec<_>>(), ["jane"]);
    assert_eq!((waiting(&graph, "admins"), graph.waiting_count("admins")), (vec!["eve".into(), "mallory".into()], 2));
    assert!(graph.groups_of_version("mallory", &labels, &["admins".into()]).is_empty());
    assert_eq!(
        graph.would_claim("mallory", &labels, &[]),
        strings(&["admins"]),
        "the guard counts groups that have not accepted the user"
    );
    assert_eq!(graph.path("eve", "admins"), None);
    assert_eq!(graph.path("jane", "admins").unwrap().sources, [MembershipSource::Members]);

    let open = DeclaredMembers { accepts_declared: true, ..declared.clone() };
    for declared in [&declared, &open] {
        assert_eq!(graph.would_have(declared), strings(&["jane", "mallory"]), "whether or not it accepts them");
    }
    assert_eq!(graph.claimants("admins").collect::<BTreeSet<_>>(), ["eve", "jane", "mallory"].into());
    let changes = graph.set_group("admins", Some(open), at(0));
    assert_eq!(changes, MembershipChanges { users: strings(&["eve", "mallory"]), groups: strings(&["admins"]) });
    assert_eq!((graph.count("admins"), graph.waiting_count("admins")), (3, 0));
    assert_eq!(graph.path("jane", "admins").unwrap().sources, [MembershipSource::User, MembershipSource::Members]);

    let changes = graph.set_group("admins", Some(declared.clone()), at(0));
    assert_eq!(changes.users, strings(&["eve", "mallory"]));
    assert_eq!(graph.set_group("admins", Some(declared), at(0)), MembershipChanges::default());
    let changes = graph.set_group("admins", None, at(0));
    assert_eq!(changes.users, strings(&["eve", "jane", "mallory"]));
    assert_eq!(waiting(&graph, "admins"), [""; 0]);
}

#[test]
fn a_change_reports_only_what_it_affects() {
    let mut graph = Memberships::default();
    graph.set_group("engineers", Some(group(&["a", "b", "c"], &[])), at(0));
    for name in ["a", "b", "c"] {
        user(&mut graph, name, &[]);
    }
    let changes = graph.set_group("engineers", Some(group(&["a", "b"], &[])), at(0));
    assert_eq!(changes, MembershipChanges { users: strings(&["c"]), groups: strings(&["engineers"]) });
    let same = graph.set_group("engineers", Some(group(&["a", "b"], &[])), at(0));
    assert_eq!(same, MembershipChanges::default());
}

#[test]
fn a_cycle_is_cut_in_any_order_and_restored_when_it_is_broken() {
    let orders = [["a", "b", "c"], ["c", "b", "a"], ["b", "a", "c"]];
    for order in orders {
        let mut graph = Memberships::default();
        user(&mut graph, "jane", &["a"]);
        for name in order {
            let child = BTreeMap::from([("a", "b"), ("b", "c"), ("c", "a")])[name];
            graph.set_group(name, Some(group(&[], &[child])), at(0));
        }
        assert_eq!(groups_of(&graph, "jane"), ["a"], "no edge of the cycle counts");
        assert_eq!(graph.cycle_of("b").len(), 3);
        let changes = graph.set_group("b", Some(group(&[], &[])), at(0));
        assert!(graph.cycle_of("a").is_empty());
        assert_eq!(changes.groups, strings(&["a", "b", "c"]));
        assert_eq!(groups_of(&graph, "jane"), ["a", "c"], "c has a as a member, and nothing has c");
        assert_eq!(graph.would_cycle("b", &strings(&["c"])).unwrap(), ["b", "c", "a", "b"]);
        assert_eq!(graph.would_cycle("b", &strings(&["d"])), None);
    }
}

#[test]
fn timed_memberships_begin_and_end_by_the_clock() {
    let mut graph = Memberships::default();
    user(&mut graph, "jane", &[]);
    let validity = Validity { not_before: Some(Time(at(10))), not_after: Some(Time(at(20))) };
    let declared = DeclaredMembers { timed: [("jane".to_owned(), validity)].into(), ..DeclaredMembers::default() };
    graph.set_group("oncall", Some(declared), at(0));
    assert_eq!((graph.is_member("jane", "oncall"), graph.next_transition()), (false, Some(at(10))));
    assert_eq!(graph.advance(at(9)), MembershipChanges::default());
    assert_eq!(graph.would_claim("jane", &Labels::new(), &[]), strings(&["oncall"]));
    assert_eq!(graph.advance(at(10)).users, strings(&["jane"]));
    assert_eq!((graph.is_member("jane", "oncall"), graph.next_transition()), (true, Some(at(20))));
    assert_eq!(graph.advance(at(25)).users, strings(&["jane"]));
    assert_eq!((graph.is_member("jane", "oncall"), graph.next_transition()), (false, None));
    graph.set_user("jane", None);
    graph.set_group("oncall", None, at(30));
    assert!(graph.users.is_empty() && graph.groups.is_empty());
}

/// Naive model: keeps the declarations, and computes effective membership from scratch.
#[derive(Debug, Default)]
struct Naive {
    users: BTreeMap<String, (Labels, Vec<String>)>,
    groups: BTreeMap<String, DeclaredMembers>,
    now: i64,
}

impl Naive {
    fn reaches(&self, from: &str, to: &str) -> bool {
        let mut seen = BTreeSet::new();
        let mut work = vec![from];
        while let Some(next) = work.pop() {
            for child in self.groups.get(next).into_iter().flat_map(|group| &group.groups) {
                if child == to {
                    return true;
                }
                if seen.insert(child) {
                    work.push(child);
                }
            }
        }
        false
    }

    fn belongs(&self, user: &str, group: &str) -> bool {
        let Some(declared) = self.groups.get(group) else { return false };
        let Some((labels, groups)) = self.users.get(user) else { return false };
        declared.users.contains(user)
            || declared.accepts_declared
                && (groups.iter().any(|named| named == group)
                    || declared.selector.as_ref().is_some_and(|selector| selector.matches(labels)))
            || declared.timed.get(user).is_some_and(|validity| validity.contains(at(self.now)))
            || declared
                .groups
                .iter()
                .any(|child| child != group && !self.reaches(child, group) && self.belongs(user, child))
    }
}

impl Naive {
    fn pending(&self, user: &str) -> BTreeMap<String, Pending> {
        let Some((labels, groups)) = self.users.get(user) else { return BTreeMap::new() };
        let selects = |group: &DeclaredMembers| group.selector.as_ref().is_some_and(|asks| asks.matches(labels));
        let selected = self.groups.iter().filter(|(_, group)| selects(group)).map(|(name, _)| name);
        let declared = groups.iter().chain(selected).filter(|group| !self.belongs(user, group));
        let why = |group| if self.groups.contains_key(group) { Pending::NotAccepted } else { Pending::NotFound };
        declared.map(|group| (group.clone(), why(group))).collect()
    }
}

/// A User: whether it has the label, and its groups.
type SomeUser = (bool, Vec<u8>);

/// A Group: members, groups, whether it selects by the label, a membership (user, start, duration in seconds), and
/// whether it accepts declared members.
type SomeGroup = (Vec<u8>, Vec<u8>, bool, Option<(u8, i64, i64)>, bool);

#[derive(Clone, Debug)]
enum Edit {
    User(u8, Option<SomeUser>),
    Group(u8, Option<SomeGroup>),
    Clock(i64),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let ids = || proptest::collection::vec(0..5u8, 0..3);
    let user = (0..5u8, proptest::option::weighted(0.8, (any::<bool>(), ids())));
    let timed = proptest::option::of((0..5u8, 0..20i64, 1..20i64));
    let group = (0..5u8, proptest::option::weighted(0.85, (ids(), ids(), any::<bool>(), timed, any::<bool>())));
    let edit = prop_oneof![
        3 => user.prop_map(|(id, user)| Edit::User(id, user)),
        5 => group.prop_map(|(id, group)| Edit::Group(id, group)),
        1 => (0..4i64).prop_map(Edit::Clock),
    ];
    proptest::collection::vec(edit, 1..50)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn agrees_with_a_naive_model(edits in edits()) {
        let (mut graph, mut naive) = (Memberships::default(), Naive::default());
        let u = |id: u8| format!("u{id}");
        let g = |id: u8| format!("g{id}");
        let mut known = BTreeMap::<String, Vec<String>>::new();
        let mut counts = BTreeMap::<String, Vec<String>>::new();
        let mut pending = BTreeMap::<String, BTreeMap<String, Pending>>::new();
        for edit in edits {
            let edited = if let Edit::User(id, _) = &edit { Some(u(*id)) } else { None };
            let changes = match edit {
                Edit::User(id, user) => {
                    let user = user.map(|(labelled, groups)| {
                        let labels = labelled.then(|| ("team".to_owned(), "x".to_owned())).into_iter().collect();
                        (labels, groups.into_iter().map(g).collect())
                    });
                    match &user {
                        Some(user) => naive.users.insert(u(id), user.clone()),
                        None => naive.users.remove(&u(id)),
                    };
                    graph.set_user(&u(id), user.as_ref().map(|(labels, groups): &(Labels, Vec<String>)| (labels.clone(), &groups[..])))
                }
                Edit::Group(id, group) => {
                    let group = group.map(|(users, groups, selects, timed, accepts_declared)| DeclaredMembers {
                        accepts_declared,
                        users: users.into_iter().map(u).collect(),
                        groups: groups.into_iter().map(g).collect(),
                        selector: selects.then(|| Selector::from(Expression::Exists("team".into()))),
                        timed: timed
                            .map(|(user, begin, length)| {
                                let times = [begin, begin + length].map(|second| Some(Time(at(second))));
                                let [not_before, not_after] = times;
                                (u(user), Validity { not_before, not_after })
                            })
                            .into_iter()
                            .collect(),
                    });
                    match &group {
                        Some(group) => naive.groups.insert(g(id), group.clone()),
                        None => naive.groups.remove(&g(id)),
                    };
                    graph.set_group(&g(id), group, at(naive.now))
                }
                Edit::Clock(seconds) => {
                    naive.now += seconds;
                    graph.advance(at(naive.now))
                }
            };
            for user in (0..5).map(u) {
                let expected: Vec<String> = (0..5).map(g).filter(|group| naive.belongs(&user, group)).collect();
                let found = groups_of(&graph, &user);
                prop_assert_eq!(&found, &expected, "{}", user);
                prop_assert!(known.get(&user).unwrap_or(&Vec::new()) == &found || changes.users.contains(&user));
                for group in &found {
                    prop_assert!(graph.path(&user, group).is_some());
                }
                let waits = naive.pending(&user);
                prop_assert_eq!(&graph.pending_of(&user).map(|(group, why)| (group.to_owned(), why)).collect::<BTreeMap<_, _>>(), &waits);
                // The status of an edited User is updated anyway.
                let was = pending.insert(user.clone(), waits.clone()).unwrap_or_default();
                prop_assert!(was == waits || changes.users.contains(&user) || edited.as_ref() == Some(&user));
                if let Some((labels, groups)) = naive.users.get(&user) {
                    let would = graph.groups_of_version(&user, labels, groups);
                    prop_assert_eq!(&graph.pending_of_version(labels, groups, &would), &waits);
                    prop_assert_eq!(&would.into_iter().collect::<Vec<_>>(), &expected);
                }
                known.insert(user, found);
            }
            for group in (0..5).map(g) {
                let expected = (0..5).map(u).filter(|user| naive.belongs(user, &group)).count();
                prop_assert_eq!(graph.count(&group), expected);
                let expected: Vec<String> =
                    (0..5).map(u).filter(|user| naive.pending(user).get(&group) == Some(&Pending::NotAccepted)).collect();
                let is_same = counts.insert(group.clone(), expected.clone()).unwrap_or_default() == expected;
                prop_assert!(is_same || changes.groups.contains(&group));
                prop_assert_eq!(waiting(&graph, &group), expected);
                if let Some(declared) = naive.groups.get(&group) {
                    let claiming = (0..5).map(u).filter(|user| graph.claims(user).contains(&group));
                    let mut checked = graph.would_have(declared);
                    checked.extend(graph.claimants(&group).map(str::to_owned));
                    for user in claiming {
                        prop_assert!(checked.contains(&user), "{user} claims {group}, but the guard does not check it");
                    }
                }
            }
        }
        for id in 0..5 {
            graph.set_user(&u(id), None);
            graph.set_group(&g(id), None, at(naive.now));
        }
        prop_assert!(graph.users.is_empty() && graph.groups.is_empty() && graph.transitions.next().is_none());
    }
}
