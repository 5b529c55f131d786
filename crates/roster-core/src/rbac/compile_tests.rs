use kube::core::ObjectMeta;
use proptest::prelude::*;
use roster_api::condition::{DesiredCondition as Condition, NAME_CLAIMED, carry_over};
use roster_api::role_binding::{ClusterScope, RoleBindingSpec, RoleRef, Scope as DeclaredScope};
use roster_api::user::DesiredState;
use roster_api::{Group, GroupSpec, RoleBinding, User, UserSpec, UserStatus};

use super::*;
use crate::directory::RoleKey;
use crate::directory::bindings::NamespaceState;
use crate::directory::native::Native;
use crate::rbac::plan::{Write, plan};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn metadata(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), uid: Some(format!("uid-of-{name}")), ..ObjectMeta::default() }
}

fn user(name: &str, state: DesiredState, groups: &[String]) -> User {
    let claimed = Condition { kind: NAME_CLAIMED, status: true, reason: "Claimed", message: String::new() };
    User {
        metadata: metadata(name),
        spec: UserSpec { state, groups: groups.to_vec(), ..UserSpec::default() },
        status: Some(UserStatus {
            username: Some(name.to_owned()),
            conditions: carry_over(&[], vec![claimed], None, NOW),
            ..UserStatus::default()
        }),
    }
}

fn group(name: &str, member_groups: &[String], accept_declared_members: bool) -> Group {
    Group {
        metadata: metadata(name),
        spec: GroupSpec { member_groups: member_groups.to_vec(), accept_declared_members, ..GroupSpec::default() },
        status: None,
    }
}

fn binding(name: &str, subjects: &[(SubjectKind, String)], namespaces: Option<Vec<String>>) -> RoleBinding {
    let cluster = namespaces.is_none().then(ClusterScope::default);
    RoleBinding {
        metadata: metadata(name),
        spec: RoleBindingSpec {
            subjects: subjects.iter().map(|(kind, name)| Subject { kind: *kind, name: name.clone() }).collect(),
            role_ref: RoleRef::cluster_role("edit"),
            scope: DeclaredScope { cluster, namespaces, ..DeclaredScope::default() },
            ..RoleBindingSpec::default()
        },
        status: None,
    }
}

fn policy(expand_groups: bool) -> Policy {
    Policy { bindable_cluster_roles: ["edit".to_owned()].into(), expand_groups, ..Policy::default() }
}

fn with_role(expand_groups: bool) -> Directory {
    let mut directory = Directory::new(expand_groups);
    directory.set_role(RoleKey { role: RoleRef::cluster_role("edit"), namespace: None }, Some([].into()));
    directory
}

/// Applies writes to the directory, as the controller applies them to the cluster.
fn apply_writes(directory: &mut Directory, writes: Vec<Write>, version: &mut u64) {
    for write in writes {
        *version += 1;
        match write {
            Write::Delete(key, uid) => drop(directory.remove_native(&key, Some(&uid))),
            Write::Apply(key, desired) => {
                let uid =
                    directory.natives.get(&key).map_or_else(|| format!("native-{version}"), |known| known.uid.clone());
                directory.set_native(Native {
                    key,
                    uid,
                    resource_version: *version,
                    role: desired.role,
                    holders: (*desired.holders).clone(),
                    has_others: false,
                    owner: Some(desired.owner.uid),
                    is_marked: true,
                });
            }
        }
    }
}

fn held(directory: &Directory, uid: &str) -> BTreeSet<(Option<String>, Holder)> {
    let natives = directory.natives.owned_by(uid);
    natives
        .flat_map(|native| native.holders.iter().map(|holder| (native.key.namespace.clone(), holder.clone())))
        .collect()
}

/// Subjects of a binding (whether each is a user), and its namespaces unless it is for the whole cluster.
type SomeBinding = (Vec<(bool, u8)>, Option<Vec<u8>>);

#[derive(Clone, Debug)]
enum Edit {
    User(u8, Option<(bool, Vec<u8>)>),
    /// A group: the groups nested in it, and whether it accepts declared members.
    Group(u8, Option<(Vec<u8>, bool)>),
    Namespace(u8, bool),
    Binding(Option<SomeBinding>),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let ids = || proptest::collection::vec(0..4u8, 0..3);
    let subjects = proptest::collection::vec((any::<bool>(), 0..4u8), 1..4);
    let edit = prop_oneof![
        (0..4u8, proptest::option::weighted(0.8, (any::<bool>(), ids()))).prop_map(|(id, user)| Edit::User(id, user)),
        (0..4u8, proptest::option::weighted(0.8, (ids(), proptest::bool::weighted(0.7))))
            .prop_map(|(id, group)| Edit::Group(id, group)),
        (0..4u8, any::<bool>()).prop_map(|(id, exists)| Edit::Namespace(id, exists)),
        proptest::option::weighted(0.9, (subjects, proptest::option::of(ids()))).prop_map(Edit::Binding),
    ];
    proptest::collection::vec(edit, 1..40)
}

/// Naive model: keeps the declarations, and computes the expected result from scratch.
#[derive(Default)]
struct Naive {
    users: BTreeMap<String, (bool, Vec<String>)>,
    groups: BTreeMap<String, (Vec<String>, bool)>,
    namespaces: BTreeSet<String>,
    binding: Option<RoleBinding>,
}

impl Naive {
    fn within(&self, group: &str, outer: &str, seen: &mut BTreeSet<String>) -> bool {
        if group == outer {
            return self.groups.contains_key(outer);
        }
        let Some((children, _)) = self.groups.get(outer) else { return false };
        seen.insert(outer.to_owned());
        children.iter().any(|child| {
            child != outer && !seen.contains(child) && !self.reaches(child, outer) && self.within(group, child, seen)
        })
    }

    fn reaches(&self, from: &str, to: &str) -> bool {
        let (mut seen, mut work) = (BTreeSet::new(), vec![from]);
        while let Some(next) = work.pop() {
            for child in self.groups.get(next).into_iter().flat_map(|(children, _)| children) {
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

    fn holders(&self, expand: bool) -> BTreeSet<Holder> {
        let subjects = self.binding.iter().flat_map(|binding| &binding.spec.subjects);
        let mut holders = BTreeSet::new();
        for subject in subjects {
            match subject.kind {
                SubjectKind::User if self.users.get(&subject.name).is_some_and(|(active, _)| *active) => {
                    holders.insert(Holder::User(subject.name.clone()));
                }
                SubjectKind::User => {}
                SubjectKind::Group if !self.groups.contains_key(&subject.name) => {}
                SubjectKind::Group if !expand => {
                    holders.insert(Holder::Group(subject.name.clone()));
                }
                SubjectKind::Group => holders.extend(
                    self.users
                        .iter()
                        .filter(|(_, (active, _))| *active)
                        .filter(|(_, (_, groups))| {
                            groups.iter().any(|group| {
                                self.groups.get(group).is_some_and(|(_, accepts)| *accepts)
                                    && self.within(group, &subject.name, &mut BTreeSet::new())
                            })
                        })
                        .map(|(name, _)| Holder::User(name.clone())),
                ),
            }
        }
        holders
    }

    fn held(&self, expand: bool) -> BTreeSet<(Option<String>, Holder)> {
        let Some(binding) = &self.binding else { return BTreeSet::new() };
        let targets: Vec<Option<String>> = match &binding.spec.scope.namespaces {
            None => vec![None],
            Some(namespaces) => {
                namespaces.iter().filter(|name| self.namespaces.contains(*name)).cloned().map(Some).collect()
            }
        };
        let holders = self.holders(expand);
        targets
            .into_iter()
            .flat_map(|target| holders.iter().map(move |holder| (target.clone(), holder.clone())))
            .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// After any events, recompiling only the bindings that are reported as affected gives the same result as a full
    /// recomputation, and only the last stage of the writes grants anything.
    #[test]
    fn recompiling_affected_bindings_agrees_with_a_naive_model(edits in edits(), expand in any::<bool>()) {
        let (u, g, ns) = (|id: u8| format!("u{id}"), |id: u8| format!("g{id}"), |id: u8| format!("ns{id}"));
        let (mut directory, mut naive) = (with_role(expand), Naive::default());
        let policy = policy(expand);
        let uid = "uid-of-b";
        let mut version = 0;
        for edit in edits {
            let affected = match edit {
                Edit::User(id, None) => {
                    naive.users.remove(&u(id));
                    directory.remove_user(&u(id), NOW)
                }
                Edit::User(id, Some((active, groups))) => {
                    let groups: Vec<String> = groups.into_iter().map(g).collect();
                    naive.users.insert(u(id), (active, groups.clone()));
                    let state = if active { DesiredState::Active } else { DesiredState::Banned };
                    directory.set_user(&user(&u(id), state, &groups), NOW)
                }
                Edit::Group(id, None) => {
                    naive.groups.remove(&g(id));
                    directory.remove_group(&g(id), NOW)
                }
                Edit::Group(id, Some((children, accepts))) => {
                    let children: Vec<String> = children.into_iter().map(g).collect();
                    naive.groups.insert(g(id), (children.clone(), accepts));
                    directory.set_group(&group(&g(id), &children, accepts), NOW)
                }
                Edit::Namespace(id, exists) => {
                    if exists { naive.namespaces.insert(ns(id)) } else { naive.namespaces.remove(&ns(id)) };
                    let state = NamespaceState { labels: BTreeMap::new(), is_terminating: false, locked_by: None };
                    directory.set_namespace(&ns(id), exists.then_some(state))
                }
                Edit::Binding(None) => {
                    naive.binding = None;
                    directory.remove_binding("b")
                }
                Edit::Binding(Some((subjects, namespaces))) => {
                    let subjects: Vec<_> = subjects
                        .into_iter()
                        .map(|(is_user, id)| if is_user { (SubjectKind::User, u(id)) } else { (SubjectKind::Group, g(id)) })
                        .collect();
                    let declared = binding("b", &subjects, namespaces.map(|ids| ids.into_iter().map(ns).collect()));
                    naive.binding = Some(declared.clone());
                    directory.set_binding(&declared, NOW)
                }
            };
            let declared = directory.bindings.get("b").cloned();
            if affected.bindings.contains("b") && let Some(declared) = declared {
                let compiled = compile(&declared, &directory, &policy, NOW);
                let stages = plan(uid, compiled.desired, &directory.natives);
                let before = held(&directory, uid);
                apply_writes(&mut directory, stages.moves, &mut version);
                apply_writes(&mut directory, stages.revocations, &mut version);
                prop_assert!(held(&directory, uid).is_subset(&before), "a role is granted before the last stage");
                prop_assert!(held(&directory, uid).is_subset(&naive.held(expand)), "a role is still to be revoked after the revocations");
                apply_writes(&mut directory, stages.grants, &mut version);
            }
            if !affected.orphaned.is_empty() {
                let orphans: Vec<Write> = directory
                    .natives
                    .owned_by(uid)
                    .map(|native| Write::Delete(native.key.clone(), native.uid.clone()))
                    .collect();
                apply_writes(&mut directory, orphans, &mut version);
            }
            prop_assert_eq!(held(&directory, uid), naive.held(expand));
            if let Some(declared) = directory.bindings.get("b") {
                let again = compile(declared, &directory, &policy, NOW);
                prop_assert_eq!(plan(uid, again.desired, &directory.natives), crate::rbac::plan::Stages::default());
            }
        }
    }
}

#[test]
fn spreading_a_growing_group_never_revokes_the_role() {
    let mut directory = with_role(true);
    let policy = policy(true);
    directory.set_group(&group("all", &[], true), NOW);
    directory.set_binding(&binding("b", &[(SubjectKind::Group, "all".into())], None), NOW);
    let mut version = 0;
    for count in [1999, 2000, 2001, 2002] {
        for i in 0..count {
            directory.set_user(&user(&format!("u{i}"), DesiredState::Active, &["all".to_owned()]), NOW);
        }
        let before = held(&directory, "uid-of-b");
        let declared = directory.bindings.get("b").unwrap().clone();
        let compiled = compile(&declared, &directory, &policy, NOW);
        let stages = plan("uid-of-b", compiled.desired, &directory.natives);
        let grants = stages.grants.len();
        apply_writes(&mut directory, stages.moves, &mut version);
        apply_writes(&mut directory, stages.revocations, &mut version);
        let between = held(&directory, "uid-of-b");
        apply_writes(&mut directory, stages.grants, &mut version);
        let parts = directory.natives.count_owned_in("uid-of-b", None);
        assert_eq!(parts, if count > 2000 { 2 } else { 1 }, "{count}");
        assert_eq!(held(&directory, "uid-of-b").len(), count);
        if count == 2002 {
            assert_eq!((grants, between), (1, before), "one more holder changes one native binding");
        }
    }
}

#[test]
fn relisting_an_unchanged_user_does_not_lose_the_end_of_its_validity() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let mut directory = with_role(false);
    let mut jane = user("jane", DesiredState::Active, &[]);
    jane.spec.validity = Some(roster_api::Validity {
        not_before: None,
        not_after: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(10))),
    });
    directory.set_user(&jane, at(0));
    directory.set_binding(&binding("b", &[(SubjectKind::User, "jane".into())], None), at(0));
    // A relist delivers her after the end of her validity, before the clock has advanced.
    directory.set_user(&jane, at(11));
    assert!(directory.advance(at(11)).bindings.contains("b"));
}

#[test]
fn a_delegated_binding_is_rechecked_when_its_source_becomes_delegated() {
    let mut directory = with_role(false);
    let policy = policy(false);
    for name in ["jane", "john", "eve"] {
        directory.set_user(&user(name, DesiredState::Active, &[]), NOW);
    }
    let mut base = binding("base", &[(SubjectKind::User, "jane".into())], None);
    let mut delegated = binding("delegated", &[(SubjectKind::User, "eve".into())], None);
    delegated.spec.delegated_by = Some("jane".into());
    let mut version = 0;
    let mut reconcile = |directory: &mut Directory, name: &str| {
        let declared = directory.bindings.get(name).unwrap().clone();
        let compiled = compile(&declared, directory, &policy, NOW);
        let stages = plan(&declared.uid, compiled.desired, &directory.natives);
        apply_writes(directory, [stages.moves, stages.revocations, stages.grants].concat(), &mut version);
        compiled.pending.first().map(|pending| pending.reason.clone())
    };
    directory.set_binding(&base, NOW);
    directory.set_binding(&delegated, NOW);
    reconcile(&mut directory, "base");
    assert_eq!(reconcile(&mut directory, "delegated"), None);
    base.spec.delegated_by = Some("john".into());
    assert!(directory.set_binding(&base, NOW).bindings.contains("delegated"));
    assert_eq!(reconcile(&mut directory, "delegated").as_deref(), Some(reason::DELEGATOR_LACKS_ROLE));
}
