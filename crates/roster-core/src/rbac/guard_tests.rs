use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use kube::core::ObjectMeta;
use roster_api::condition::{DesiredCondition, NAME_CLAIMED, carry_over};
use roster_api::group::Membership;
use roster_api::role_binding::{ClusterScope, RoleBindingSpec, Scope as DeclaredScope};
use roster_api::{GroupSpec, UserSpec, UserStatus, Validity};

use super::*;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

fn user(name: &str, spec: UserSpec) -> User {
    User { metadata: metadata(name), spec, status: None }
}

fn metadata(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), uid: Some(format!("uid-of-{name}")), ..ObjectMeta::default() }
}

fn claimed(mut user: User, reason: &'static str) -> User {
    let claimed = DesiredCondition { kind: NAME_CLAIMED, status: reason == "Claimed", reason, message: String::new() };
    let (username, conditions) = (Some(user.username()), carry_over(&[], vec![claimed], None, NOW));
    user.status = Some(UserStatus { conditions, username, ..UserStatus::default() });
    user
}

fn in_group(name: &str, group: &str) -> User {
    user(name, UserSpec { groups: vec![group.to_owned()], ..UserSpec::default() })
}

fn binding(name: &str, kind: SubjectKind, subject: &str) -> RoleBinding {
    let spec = RoleBindingSpec {
        subjects: vec![Subject { kind, name: subject.to_owned() }],
        role_ref: RoleRef::cluster_role("edit"),
        scope: DeclaredScope { cluster: Some(ClusterScope {}), ..DeclaredScope::default() },
        ..RoleBindingSpec::default()
    };
    RoleBinding { metadata: metadata(name), spec, status: None }
}

fn group(name: &str, spec: GroupSpec) -> Group {
    Group { metadata: metadata(name), spec, status: None }
}

/// Returns a directory in which Group `power` holds `edit`.
fn directory() -> Directory {
    let mut directory = Directory::new(false);
    directory.set_binding(&binding("power-edit", SubjectKind::Group, "power"), NOW);
    directory
}

fn required(change: &GuardedChange<'_>, directory: &Directory) -> Vec<String> {
    let policy = Policy { administrator_role: "admin".to_owned(), ..Policy::default() };
    requirements(change, &change.ownership(), directory, &policy).keys().map(describe).collect()
}

fn describe(requirement: &Requirement) -> String {
    match requirement {
        Requirement::Bind(grant) => grant.to_string(),
        Requirement::Assign(user) => format!("assign on {user}"),
        Requirement::DeleteNamespace(name) => format!("delete of {name}"),
    }
}

fn labels_change<'a>(
    name: Option<&'a str>,
    old: Option<&'a Labels>,
    new: &'a Labels,
    by: Option<&'a str>,
) -> GuardedChange<'a> {
    static NONE: BTreeSet<String> = BTreeSet::new();
    GuardedChange::Namespace { name, old, new, removable: &NONE, by }
}

const EDIT: &str = "ClusterRole edit in the whole cluster";

#[test]
fn membership_counts_whether_or_not_the_group_exists() {
    let mut directory = directory();
    let jane = in_group("jane", "power");
    assert_eq!(required(&GuardedChange::User(None, Some(&jane)), &directory), [EDIT], "before the group");
    directory.set_group(&group("power", GroupSpec::default()), NOW);
    assert_eq!(required(&GuardedChange::User(None, Some(&jane)), &directory), [EDIT]);
    directory.set_user(&jane, NOW);
    directory.remove_group("power", NOW);
    assert_eq!(required(&GuardedChange::Credential(["jane"].into()), &directory), [EDIT], "after the group");
}

#[test]
fn descriptive_fields_are_free_and_unknown_fields_are_not() {
    let directory = directory();
    let jane = in_group("jane", "power");
    let mut named = jane.clone();
    named.spec.display_name = Some("Jane".into());
    named.metadata.labels = Some([("floor".to_owned(), "3".to_owned())].into());
    assert!(required(&GuardedChange::User(Some(&jane), Some(&named)), &directory).is_empty());
    let mut described = jane.clone();
    described.spec.extra = [("scope".to_owned(), vec!["all".to_owned()])].into();
    assert_eq!(required(&GuardedChange::User(Some(&jane), Some(&described)), &directory), [EDIT]);
}

#[test]
fn setting_and_clearing_the_administrator_flag_counts() {
    let directory = Directory::new(false);
    let (plain, root) =
        (user("jane", UserSpec::default()), user("jane", UserSpec { admin: true, ..UserSpec::default() }));
    for change in [GuardedChange::User(Some(&plain), Some(&root)), GuardedChange::User(Some(&root), Some(&plain))] {
        assert_eq!(required(&change, &directory), ["ClusterRole admin in the whole cluster"]);
    }
}

#[test]
fn memberships_and_bindings_count_outside_their_validity() {
    for validity in [
        Validity { not_before: Some(at(100)), not_after: None },
        Validity { not_before: None, not_after: Some(at(-100)) },
    ] {
        let mut directory = directory();
        let memberships = vec![Membership { user: "jane".into(), validity: validity.clone() }];
        directory.set_group(&group("power", GroupSpec { memberships, ..GroupSpec::default() }), NOW);
        directory.set_user(&user("jane", UserSpec::default()), NOW);
        assert_eq!(required(&GuardedChange::Credential(["jane"].into()), &directory), [EDIT], "it may be extended");
        let mut bound = binding("b", SubjectKind::User, "john");
        bound.spec.validity = Some(validity);
        directory.set_binding(&bound, NOW);
        assert_eq!(required(&GuardedChange::Credential(["john"].into()), &directory), [EDIT]);
    }
}

#[test]
fn releasing_a_username_requires_control_of_the_user_that_waits_for_it() {
    let mut directory = directory();
    let holder = claimed(user("Alice", UserSpec { username: Some("Alice".into()), ..UserSpec::default() }), "Claimed");
    let waiting = UserSpec { username: Some("alice".into()), groups: vec!["power".into()], ..UserSpec::default() };
    let waiting = claimed(user("waiting", waiting), "UsernameConflict");
    directory.set_user(&holder, NOW);
    directory.set_user(&waiting, NOW);
    assert_eq!(required(&GuardedChange::User(Some(&holder), None), &directory), [EDIT]);
    let idle =
        claimed(user("idle", UserSpec { username: Some("alice".into()), ..UserSpec::default() }), "UsernameConflict");
    assert!(
        required(&GuardedChange::User(Some(&idle), None), &directory).is_empty(),
        "a User that does not hold the username releases nothing"
    );
}

#[test]
fn releasing_an_email_that_another_user_wants_as_its_username_counts() {
    let mut directory = directory();
    let mail = |email: Option<&str>| UserSpec { email: email.map(str::to_owned), ..UserSpec::default() };
    let (before, after) =
        (claimed(user("jane", mail(Some("x@example.com"))), "Claimed"), claimed(user("jane", mail(None)), "Claimed"));
    let spec = UserSpec { username: Some("x@example.com".into()), groups: vec!["power".into()], ..UserSpec::default() };
    directory.set_user(&before, NOW);
    directory.set_user(&claimed(user("waiting", spec), "UsernameConflict"), NOW);
    assert_eq!(required(&GuardedChange::User(Some(&before), Some(&after)), &directory), [EDIT]);
}

#[test]
fn declaring_members_requires_control_of_the_group_even_if_empty() {
    let mut directory = directory();
    let (empty, named) = (
        group("power", GroupSpec::default()),
        group("power", GroupSpec { members: vec!["nobody".into()], ..GroupSpec::default() }),
    );
    assert_eq!(required(&GuardedChange::Group(Some(&empty), Some(&named)), &directory), [EDIT]);
    assert_eq!(
        required(&GuardedChange::Group(Some(&empty), None), &directory),
        [EDIT],
        "a new Group of that name could accept anyone"
    );
    let outer = group("outer", GroupSpec { member_groups: vec!["inner".into()], ..GroupSpec::default() });
    directory.set_group(&outer, NOW);
    directory.set_binding(&binding("outer", SubjectKind::Group, "outer"), NOW);
    let inner = group("inner", GroupSpec::default());
    assert_eq!(required(&GuardedChange::Group(None, Some(&inner)), &directory), [EDIT]);
    let mut described = empty.clone();
    described.spec.description = Some("Power".into());
    assert!(required(&GuardedChange::Group(Some(&empty), Some(&described)), &directory).is_empty());
}

#[test]
fn groups_without_consent_require_control_of_selected_and_waiting_users() {
    let mut directory = directory();
    directory.set_user(&in_group("boss", "power"), NOW);
    let all_users = GroupSpec { member_selector: Some(LabelSelector::default()), ..GroupSpec::default() };
    let trap = group("trap", all_users);
    assert_eq!(required(&GuardedChange::Group(None, Some(&trap)), &directory), [EDIT]);
    directory.set_group(&group("closed", GroupSpec::default()), NOW);
    let mut waiting = in_group("boss", "power");
    waiting.spec.groups.push("closed".to_owned());
    directory.set_user(&waiting, NOW);
    let nesting = group("nesting", GroupSpec { member_groups: vec!["closed".into()], ..GroupSpec::default() });
    assert_eq!(required(&GuardedChange::Group(None, Some(&nesting)), &directory), [EDIT]);
}

#[test]
fn a_label_that_adds_a_second_path_into_a_group_counts() {
    let mut directory = directory();
    let team = Labels::from([("team".to_owned(), "x".to_owned())]);
    let selector = LabelSelector { match_labels: Some(team.clone()), ..LabelSelector::default() };
    let spec = GroupSpec {
        members: vec!["jane".into()],
        member_selector: Some(selector),
        accept_declared_members: true,
        ..GroupSpec::default()
    };
    directory.set_group(&group("power", spec), NOW);
    let jane = user("jane", UserSpec::default());
    directory.set_user(&jane, NOW);
    let mut labelled = jane.clone();
    labelled.metadata.labels = Some(team);
    for change in [GuardedChange::User(Some(&jane), Some(&labelled)), GuardedChange::User(Some(&labelled), Some(&jane))]
    {
        assert_eq!(
            required(&change, &directory),
            [EDIT],
            "the label would keep her in the group after her removal from spec.members"
        );
    }
}

#[test]
fn deleting_a_user_requires_control_of_it() {
    let mut directory = directory();
    let (jane, root) = (in_group("jane", "power"), user("root", UserSpec { admin: true, ..UserSpec::default() }));
    directory.set_user(&jane, NOW);
    directory.set_user(&root, NOW);
    assert_eq!(required(&GuardedChange::User(Some(&jane), None), &directory), [EDIT]);
    assert_eq!(
        required(&GuardedChange::User(Some(&root), None), &directory),
        ["ClusterRole admin in the whole cluster"]
    );
    let plain = user("plain", UserSpec::default());
    directory.set_user(&plain, NOW);
    assert!(required(&GuardedChange::User(Some(&plain), None), &directory).is_empty());
}

#[test]
fn a_binding_counts_before_and_after_a_change() {
    let directory = Directory::new(false);
    let edit = binding("b", SubjectKind::User, "jane");
    let with_change = |change: &dyn Fn(&mut RoleBindingSpec)| {
        let mut changed = edit.clone();
        change(&mut changed.spec);
        changed
    };
    let view = with_change(&|spec| spec.role_ref = RoleRef::cluster_role("view"));
    let view_everywhere = "ClusterRole view in the whole cluster";
    for change in
        [GuardedChange::RoleBinding(Some(&edit), Some(&view)), GuardedChange::RoleBinding(Some(&view), Some(&edit))]
    {
        assert_eq!(required(&change, &directory), [EDIT, view_everywhere]);
    }
    let narrowed = with_change(&|spec| {
        spec.scope = DeclaredScope { namespaces: Some(vec!["a".into()]), ..DeclaredScope::default() };
    });
    let in_a = "ClusterRole edit in namespace a";
    assert_eq!(required(&GuardedChange::RoleBinding(Some(&edit), Some(&narrowed)), &directory), [EDIT, in_a]);
    let other = with_change(&|spec| spec.subjects[0].name = "john".into());
    assert_eq!(required(&GuardedChange::RoleBinding(Some(&edit), Some(&other)), &directory), [EDIT]);
    let over = with_change(&|spec| spec.validity = Some(Validity { not_before: None, not_after: Some(at(-100)) }));
    assert_eq!(required(&GuardedChange::RoleBinding(Some(&edit), Some(&over)), &directory), [EDIT]);
    assert_eq!(required(&GuardedChange::RoleBinding(Some(&over), Some(&edit)), &directory), [EDIT]);
    assert_eq!(
        required(&GuardedChange::RoleBinding(Some(&over), None), &directory),
        [EDIT],
        "as in the admission policies"
    );
    assert!(required(&GuardedChange::RoleBinding(Some(&edit), Some(&edit)), &directory).is_empty());
}

#[test]
fn consent_to_declared_members_requires_control_of_the_group_and_new_members() {
    let mut directory = directory();
    let mut selected = in_group("selected", "power");
    selected.metadata.labels = Some([("team".to_owned(), "x".to_owned())].into());
    directory.set_user(&selected, NOW);
    directory.set_user(&in_group("boss", "power"), NOW);
    let selector =
        LabelSelector { match_labels: Some([("team".to_owned(), "x".to_owned())].into()), ..LabelSelector::default() };
    let consent = |name: &str, accept_declared_members, member_selector: Option<&LabelSelector>| {
        let spec =
            GroupSpec { accept_declared_members, member_selector: member_selector.cloned(), ..GroupSpec::default() };
        group(name, spec)
    };
    // The group's own roles, even if no User joins or leaves.
    let (closed, open) = (consent("power", false, None), consent("power", true, None));
    let mut empty = self::directory();
    empty.set_group(&closed, NOW);
    for change in [GuardedChange::Group(Some(&closed), Some(&open)), GuardedChange::Group(Some(&open), Some(&closed))] {
        assert_eq!(required(&change, &empty), [EDIT]);
    }
    // The roles of Users that join or leave, by their groups and by their labels.
    let mut boss = in_group("boss", "power");
    boss.spec.groups.push("harmless".to_owned());
    directory.set_user(&boss, NOW);
    for selector in [None, Some(&selector)] {
        let (closed, open) = (consent("harmless", false, selector), consent("harmless", true, selector));
        for group in [&closed, &open] {
            directory.set_group(group, NOW);
            for change in
                [GuardedChange::Group(Some(&closed), Some(&open)), GuardedChange::Group(Some(&open), Some(&closed))]
            {
                assert_eq!(required(&change, &directory), [EDIT]);
            }
        }
    }
    let (closed, open) = (consent("labelled", false, Some(&selector)), consent("labelled", true, Some(&selector)));
    directory.set_group(&closed, NOW);
    assert_eq!(required(&GuardedChange::Group(Some(&closed), Some(&open)), &directory), [EDIT]);
    let none = consent("labelled", false, None);
    let end = required(&GuardedChange::Group(Some(&closed), Some(&none)), &directory);
    assert_eq!(end, [EDIT], "the roles of the group count for Users that it selects, accepted or not");
    // Writing a User requires the roles of its groups, whether or not the groups accept it.
    for member in [in_group("new", "power"), in_group("new", "harmless")] {
        let expected = if member.spec.groups == ["power"] { vec![EDIT] } else { vec![] };
        assert_eq!(required(&GuardedChange::User(None, Some(&member)), &directory), expected);
    }
}

#[test]
fn labels_that_add_a_namespace_to_a_binding_require_its_role() {
    let mut directory = Directory::new(false);
    let mut by_label = binding("by-label", SubjectKind::User, "jane");
    by_label.spec.scope = DeclaredScope { domain: Some("x".into()), ..DeclaredScope::default() };
    let mut all = binding("all", SubjectKind::User, "jane");
    all.spec.scope = DeclaredScope { namespace_selector: Some(LabelSelector::default()), ..DeclaredScope::default() };
    directory.set_binding(&by_label, NOW);
    directory.set_binding(&all, NOW);
    let (bare, labelled) = (Labels::new(), Labels::from([("roster.dev/domain".to_owned(), "x".to_owned())]));
    assert!(required(&labels_change(Some("a"), None, &bare, None), &directory).is_empty());
    let expected = ["ClusterRole edit in namespace a"];
    assert_eq!(required(&labels_change(Some("a"), None, &labelled, None), &directory), expected);
    assert_eq!(required(&labels_change(Some("a"), Some(&bare), &labelled, None), &directory), expected);
    assert!(required(&labels_change(Some("a"), Some(&labelled), &bare, None), &directory).is_empty());
    assert_eq!(
        required(&labels_change(None, None, &labelled, None), &directory),
        [EDIT],
        "the name is still to be generated"
    );
}

fn owned_by(owner: &str) -> Labels {
    [(OWNER_LABEL.to_owned(), owner.to_owned())].into()
}

#[test]
fn transferring_a_namespace_requires_control_of_both_owners() {
    let mut directory = directory();
    directory.set_user(&in_group("boss", "power"), NOW);
    directory.set_user(&user("jane", UserSpec::default()), NOW);
    let (bare, boss, jane) = (Labels::new(), owned_by("boss"), owned_by("jane"));
    let transfer =
        |old: Option<&Labels>, new: &Labels, by| required(&labels_change(Some("a"), old, new, by), &directory);
    let assign = |names: &[&str]| names.iter().map(|name| format!("assign on {name}")).collect::<Vec<_>>();
    let edit_and = |names: &[&str]| [vec![EDIT.to_owned()], assign(names)].concat();
    for old in [None, Some(&bare)] {
        assert_eq!(transfer(old, &boss, Some("jane")), edit_and(&["boss"]));
        assert_eq!(transfer(old, &boss, None), edit_and(&["boss"]), "the requester is not a User");
        assert!(transfer(old, &boss, Some("boss")).is_empty(), "the requester itself");
    }
    for (new, others) in [(&bare, &[][..]), (&jane, &["jane"]), (&owned_by(""), &[])] {
        assert_eq!(
            transfer(Some(&boss), new, Some("boss")),
            edit_and(others),
            "owners cannot release their own namespace"
        );
        assert_eq!(transfer(Some(&boss), new, Some("jane")), edit_and(&["boss"]));
    }
    let both = owned_by("boss").into_iter().chain([("floor".to_owned(), "3".to_owned())]).collect();
    assert!(transfer(Some(&boss), &both, None).is_empty(), "another label");
    assert_eq!(transfer(Some(&jane), &bare, None), assign(&["jane"]), "even if the owner has no roles");
    assert_eq!(transfer(None, &jane, None), assign(&["jane"]));
    assert_eq!(transfer(Some(&jane), &bare, Some("jane")), assign(&[]));
    directory.set_binding(&binding("late", SubjectKind::User, "late"), NOW);
    let late = required(&labels_change(None, None, &owned_by("late"), None), &directory);
    assert_eq!(late, edit_and(&["late"]), "the new owner does not exist yet");
}

#[test]
fn the_reason_names_the_label() {
    let (mut directory, policy, labels) = (directory(), Policy::default(), owned_by("x"));
    directory.set_user(&in_group("x", "power"), NOW);
    let change = labels_change(Some("a"), None, &labels, None);
    let found = requirements(&change, &change.ownership(), &directory, &policy);
    assert_eq!(found.values().next().unwrap().identity.text, "User x (metadata.labels[roster.dev/owner])");
}

/// A new User of the same name would take over what the deleted one declared about itself.
#[test]
fn reusing_the_name_of_a_deleted_user_requires_control_of_it() {
    let mut directory = directory();
    let spec = UserSpec {
        username: Some("Alice.Smith".into()),
        groups: vec!["power".into(), "waiting".into()],
        ..UserSpec::default()
    };
    let alice = user("alice", spec);
    directory.set_user(&alice, NOW);
    // Before and after the directory has seen the deletion.
    for is_deletion_known in [false, true] {
        if is_deletion_known {
            directory.remove_user("alice", NOW);
        }
        let new = user("alice", UserSpec::default());
        assert_eq!(
            required(&GuardedChange::User(None, Some(&new)), &directory),
            [EDIT],
            "by name; deletion known: {is_deletion_known}"
        );
        assert_eq!(
            required(&GuardedChange::Credential(["alice"].into()), &directory),
            [EDIT],
            "a password Secret for the deleted User"
        );
    }
    let policy = Policy::default();
    let alice = user("alice", UserSpec::default());
    let change = GuardedChange::User(None, Some(&alice));
    let reasons = requirements(&change, &change.ownership(), &directory, &policy);
    let reason = reasons.into_values().next().unwrap();
    assert_eq!(
        (reason.identity.text.as_str(), reason.by.as_str()),
        (
            "User alice (deleted on 1970-01-01, its name is protected until 1970-04-01)",
            "Group power, RoleBinding power-edit"
        )
    );
    let taker = |username: &str| user("mallory", UserSpec { username: Some(username.into()), ..UserSpec::default() });
    assert_eq!(required(&GuardedChange::User(None, Some(&taker("alice.smith"))), &directory), [EDIT], "by username");
    let renamed = GuardedChange::User(Some(&taker("mallory")), Some(&taker("ALICE.SMITH")));
    assert_eq!(required(&renamed, &directory), [EDIT], "by a rename");
    let described = GuardedChange::User(Some(&taker("alice.smith")), Some(&taker("alice.smith")));
    assert!(required(&described, &directory).is_empty());
    // The group gets a role while the User is deleted.
    directory.remove_binding("power-edit");
    assert!(required(&GuardedChange::User(None, Some(&user("alice", UserSpec::default()))), &directory).is_empty());
    directory.set_binding(&binding("late", SubjectKind::Group, "waiting"), NOW);
    assert_eq!(required(&GuardedChange::User(None, Some(&user("alice", UserSpec::default()))), &directory), [EDIT]);
    // Creating the next User of that name has already required it.
    directory.set_user(&user("alice", UserSpec::default()), NOW);
    assert!(required(&GuardedChange::Credential(["alice"].into()), &directory).is_empty());
}

#[path = "guard_conflict_tests.rs"]
mod conflicts;
#[path = "guard_deleted_tests.rs"]
mod deleted;
#[path = "guard_email_tests.rs"]
mod emails;
#[path = "guard_import_tests.rs"]
mod imports;
#[path = "guard_label_tests.rs"]
mod labels;
#[path = "guard_owner_tests.rs"]
mod owners;
#[path = "guard_reduction_tests.rs"]
mod reductions;

#[test]
fn fields_that_a_tool_would_remove_require_control() {
    let directory = directory();
    let manifest = |spec: &str| {
        let text = format!("{{\"spec\": {spec}}}");
        Some([("kubectl.kubernetes.io/last-applied-configuration".to_owned(), text)].into())
    };
    let with = |user: &User, spec: &str| {
        let mut user = user.clone();
        user.metadata.annotations = manifest(spec);
        user
    };
    for (user, expected) in [(in_group("jane", "power"), &[EDIT][..]), (in_group("joe", "none"), &[])] {
        let (old, new) = (with(&user, "{}"), with(&user, r#"{"state": "Banned"}"#));
        assert_eq!(required(&GuardedChange::User(Some(&old), Some(&new)), &directory), expected);
        assert_eq!(required(&GuardedChange::User(Some(&old), Some(&old)), &directory), [""; 0]);
        let change = GuardedChange::User(Some(&old), Some(&new));
        for reason in requirements(&change, &change.ownership(), &directory, &Policy::default()).values() {
            let field = "(metadata.annotations[kubectl.kubernetes.io/last-applied-configuration])";
            assert_eq!(reason.identity.text, format!("User jane {field}"), "a denial names the field");
        }
    }
    let old = binding("power-edit", SubjectKind::Group, "power");
    let mut new = old.clone();
    new.metadata.annotations = manifest("{}");
    assert_eq!(required(&GuardedChange::RoleBinding(Some(&old), Some(&new)), &directory), [EDIT]);
}
