//! Random objects and steps for the tests of sequences.

use super::*;

fn metadata(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), uid: Some(format!("uid-of-{name}")), ..ObjectMeta::default() }
}

fn some_of(names: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop::sample::subsequence(names, 0..=2).prop_map(|names| names.into_iter().map(str::to_owned).collect())
}

pub(super) fn users() -> impl Strategy<Value = Object> {
    let some = prop::sample::subsequence(vec!["team", "level", "contractor"], 1..=3);
    let labels = some.prop_map(|keys| keys.into_iter().map(|key| (key.to_owned(), "a".to_owned())).collect());
    let labels = prop::option::weighted(0.4, labels);
    let username = prop::option::weighted(0.1, Just(NATIVE_USERNAME.to_owned()));
    let states = vec![DesiredState::Active, DesiredState::Disabled, DesiredState::Banned];
    let activity = (prop::sample::select(states), prop::option::weighted(0.2, validities()));
    let admin = prop::bool::weighted(0.1);
    let fields = (prop::sample::select(&USERS[..]), some_of(&GROUPS), labels, username, admin, activity);
    fields.prop_map(|(name, groups, labels, username, admin, (state, validity))| {
        let spec = UserSpec { username, admin, groups, state, validity, ..UserSpec::default() };
        Object::User(Box::new(User { metadata: ObjectMeta { labels, ..metadata(name) }, spec, status: None }))
    })
}

pub(super) fn groups() -> impl Strategy<Value = Object> {
    let fields = (
        prop::sample::select(&GROUPS[..]),
        some_of(&USERS),
        some_of(&GROUPS),
        prop::option::weighted(0.2, selectors()),
        any::<bool>(),
        prop::option::weighted(0.3, (prop::sample::select(&USERS[..]), validities())),
    );
    // Half of them have members by a selector alone.
    let fields = (fields, prop::option::of(selectors()));
    fields.prop_map(|(fields, selector_alone)| {
        let (name, mut members, mut member_groups, mut member_selector, accept_declared_members, mut timed) = fields;
        member_groups.retain(|group| group != name);
        if selector_alone.is_some() {
            (members, member_groups, member_selector, timed) = (Vec::new(), Vec::new(), selector_alone, None);
        }
        let memberships = timed.into_iter().map(|(user, validity)| Membership { user: user.to_owned(), validity });
        let spec = GroupSpec {
            members,
            member_groups,
            member_selector,
            accept_declared_members,
            memberships: memberships.collect(),
            ..GroupSpec::default()
        };
        Object::Group(Box::new(Group { metadata: metadata(name), spec, status: None }))
    })
}

/// Selectors with one or several conditions.
fn selectors() -> impl Strategy<Value = LabelSelector> {
    let expression = |(key, operator): (&str, &str)| LabelSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: None,
    };
    let conditions = [("team", "Exists"), ("level", "Exists"), ("contractor", "DoesNotExist")];
    prop::sample::subsequence(conditions.to_vec(), 1..=3).prop_map(move |conditions| LabelSelector {
        match_expressions: Some(conditions.into_iter().map(expression).collect()),
        match_labels: None,
    })
}

pub(super) fn bindings() -> impl Strategy<Value = Object> {
    let user = prop::sample::select(&USERS[..]).prop_map(|name| (SubjectKind::User, name));
    let group = prop::sample::select(&GROUPS[..]).prop_map(|name| (SubjectKind::Group, name));
    let fields = (
        prop::sample::select(&BINDINGS[..]),
        prop::collection::vec(prop_oneof![user, group], 1..=2),
        prop::sample::select(&["view", "edit"][..]),
        prop::option::of(some_of(&NAMESPACES).prop_filter("a namespace", |names| !names.is_empty())),
        prop::option::weighted(0.3, validities()),
    );
    fields.prop_map(|(name, subjects, role, namespaces, validity)| {
        let cluster = namespaces.is_none().then_some(ClusterScope {});
        let spec = RoleBindingSpec {
            subjects: subjects.into_iter().map(|(kind, name)| Subject { kind, name: name.to_owned() }).collect(),
            role_ref: RoleRef::cluster_role(role),
            scope: DeclaredScope { cluster, namespaces, ..DeclaredScope::default() },
            validity,
            ..RoleBindingSpec::default()
        };
        Object::RoleBinding(Box::new(RoleBinding { metadata: metadata(name), spec, status: None }))
    })
}

/// Validities that have not begun or have ended.
fn validities() -> impl Strategy<Value = Validity> {
    prop_oneof![
        Just(Validity { not_before: Some(Time(Timestamp::MAX)), not_after: None }),
        Just(Validity { not_before: None, not_after: Some(Time(Timestamp::MIN)) }),
    ]
}

pub(super) fn objects() -> impl Strategy<Value = Object> {
    prop_oneof![users(), groups(), bindings()]
}

pub(super) fn steps() -> impl Strategy<Value = Step> {
    let names = [&USERS[..], &GROUPS[..], &BINDINGS[..]].concat();
    prop_oneof![
        4 => objects().prop_map(Step::Write),
        3 => prop::sample::select(names).prop_map(|name| Step::Delete(name.to_owned())),
        2 => prop::sample::select(&USERS[..]).prop_map(|name| Step::SetPassword(name.to_owned())),
        2 => prop::sample::select(&USERS[..]).prop_map(|name| Step::Offboard(name.to_owned())),
        2 => prop::sample::select(&GROUPS[..]).prop_map(|name| Step::Dismantle(name.to_owned())),
        2 => any::<prop::sample::Index>().prop_map(Step::Restore),
        2 => any::<prop::sample::Index>().prop_map(Step::ApplyLabels),
    ]
}

/// A Group that selects Users by label and holds `edit`.
pub(super) fn bound_selector() -> impl Strategy<Value = Vec<Object>> {
    selectors().prop_map(|selector| {
        let spec = GroupSpec { member_selector: Some(selector), accept_declared_members: true, ..GroupSpec::default() };
        let group = Group { metadata: metadata("g0"), spec, status: None };
        let spec = RoleBindingSpec {
            subjects: vec![Subject { kind: SubjectKind::Group, name: "g0".to_owned() }],
            role_ref: RoleRef::cluster_role("edit"),
            scope: DeclaredScope { cluster: Some(ClusterScope {}), ..DeclaredScope::default() },
            ..RoleBindingSpec::default()
        };
        let binding = RoleBinding { metadata: metadata("b0"), spec, status: None };
        vec![Object::Group(Box::new(group)), Object::RoleBinding(Box::new(binding))]
    })
}

/// Steps that concern the labels of Users.
pub(super) fn label_steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => users().prop_map(Step::Write),
        2 => prop::sample::select(&USERS[..]).prop_map(|name| Step::SetPassword(name.to_owned())),
        2 => prop::sample::select(&USERS[..]).prop_map(|name| Step::Offboard(name.to_owned())),
        3 => any::<prop::sample::Index>().prop_map(Step::ApplyLabels),
        1 => steps(),
    ]
}
