//! I7 for groups and bindings: every order of apply converges to the same native RBAC, and a kill -9 at any instant
//! leaves neither extra nor missing bindings.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1 as rbac;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use roster_api::role_binding::{RoleBinding, RoleBindingSpec, RoleRef, Scope, Subject, SubjectKind};
use roster_api::{Group, GroupSpec, User, UserSpec};
use roster_harness::Operator;
use serde_json::json;

use crate::support::{
    Cluster, KillSchedule, Random, binary, eventually, operator_writes, rbac, unique, wait_for_text, wait_until_can,
};

/// Returns every permutation of the numbers below `n`.
fn orders(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(n - 1);
    let insert = |order: &Vec<usize>, at: usize| [&order[..at], &[n - 1], &order[at..]].concat();
    shorter.iter().flat_map(|order| (0..n).map(move |at| insert(order, at))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_bindings_have_the_same_result_in_every_order_of_apply() {
    let cluster = rbac();
    let all = orders(4);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 24);
    let mut names = Vec::new();
    for order in all {
        let n = unique("any-order");
        let objects = [
            format!("---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {n}}}}}\n"),
            format!(
                "---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {n}}}, spec: {{groups: [{n}]}}}}\n"
            ),
            format!(
                "---\n{{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {{name: {n}}}, spec: {{acceptDeclaredMembers: true}}}}\n"
            ),
            format!(
                "---\n{{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {{name: {n}}}, spec: {{subjects: [{{kind: Group, name: {n}}}, {{kind: User, name: {n}}}], roleRef: {{kind: Role, name: deployer}}, scope: {{namespaces: [{n}]}}}}}}\n"
            ),
        ];
        for i in order {
            cluster.apply(&objects[i]);
        }
        names.push(n);
    }
    // The role is created last.
    for n in &names {
        cluster.kubectl(&["create", "role", "deployer", "-n", n, "--verb=create", "--resource=pods"]);
    }
    for n in &names {
        wait_until_can(cluster, n, &["create", "pods", "-n", n], true).await;
        eventually("both subjects are bound", || async {
            let subjects = cluster
                .plane
                .kubectl
                .run(&[
                    "get",
                    "rolebinding.rbac.authorization.k8s.io",
                    &format!("roster:{n}"),
                    "-n",
                    n,
                    "-o",
                    "jsonpath={.subjects[*].kind}",
                ])
                .map_err(|error| error.to_string())?;
            if subjects == "User Group" || subjects == "Group User" { Ok(()) } else { Err(subjects) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_declared_memberships_have_the_same_result_in_every_order_of_apply() {
    let cluster = rbac();
    let mut names = Vec::new();
    for accepts in [true, false] {
        for order in orders(3) {
            let n = unique("any-order");
            let objects = [
                format!(
                    "---\n{{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {n}, labels: {{order: {n}}}}}, spec: {{groups: [{n}]}}}}\n"
                ),
                format!(
                    "---\n{{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {{name: {n}}}, spec: {{acceptDeclaredMembers: {accepts}}}}}\n"
                ),
                format!(
                    "---\n{{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {{name: {n}-by-label}}, spec: {{acceptDeclaredMembers: {accepts}, memberSelector: {{matchLabels: {{order: {n}}}}}}}}}\n"
                ),
            ];
            for i in order {
                cluster.apply(&objects[i]);
            }
            names.push((n, accepts));
        }
    }
    for (n, accepts) in &names {
        let both = format!("{n} {n}-by-label");
        let expected = if *accepts { format!("{both}|") } else { format!("|{both}") };
        let path = "{.status.groups[*]}|{.status.pendingGroups[*]}";
        wait_for_text(cluster, &["users.roster.dev", n], path, &expected).await;
        let counts = if *accepts { "1|" } else { "0|1" };
        for group in [n.clone(), format!("{n}-by-label")] {
            let path = "{.status.members}|{.status.waitingMembers}";
            wait_for_text(cluster, &["groups.roster.dev", &group], path, counts).await;
        }
    }
}

const NAMES: u64 = 5;

/// Declared objects, by number.
#[derive(Default)]
struct Declared {
    /// Whether the user is active.
    users: BTreeMap<u64, bool>,
    groups: BTreeSet<u64>,
    bindings: BTreeMap<u64, DeclaredBinding>,
}

struct DeclaredBinding {
    role: &'static str,
    users: BTreeSet<u64>,
    groups: BTreeSet<u64>,
    namespaces: BTreeSet<u64>,
}

/// Native bindings by namespace and name, with role and subjects.
type Natives = BTreeMap<(String, String), (String, BTreeSet<String>)>;

impl Declared {
    fn natives(&self) -> Natives {
        let mut natives = Natives::new();
        for (id, DeclaredBinding { role, users, groups, namespaces }) in &self.bindings {
            let users = users.iter().filter(|user| self.users.get(user) == Some(&true)).map(|id| format!("u{id}"));
            let groups = groups.intersection(&self.groups).map(|id| format!("g{id}"));
            let holders: BTreeSet<String> = users.chain(groups).collect();
            for namespace in namespaces.iter().filter(|_| !holders.is_empty()) {
                natives
                    .insert((format!("n{namespace}"), format!("roster:b{id}")), ((*role).to_owned(), holders.clone()));
            }
        }
        natives
    }
}

struct ChangingCluster {
    client: Client,
    random: Random,
    declared: Declared,
}

impl ChangingCluster {
    fn random_subset(&mut self) -> BTreeSet<u64> {
        let count = 1 + self.random.below(3);
        (0..count).map(|_| self.random.below(NAMES)).collect()
    }

    async fn edit(&mut self) {
        let id = self.random.below(NAMES);
        match self.random.below(10) {
            0..3 => self.edit_user(id).await,
            3..5 => self.edit_group(id).await,
            5..9 => self.edit_binding(id).await,
            _ => self.delete_native_binding().await,
        }
    }

    async fn edit_user(&mut self, id: u64) {
        let (users, name) = (Api::<User>::all(self.client.clone()), format!("u{id}"));
        match self.declared.users.get(&id).copied() {
            None => {
                users.create(&PostParams::default(), &User::new(&name, UserSpec::default())).await.unwrap();
                self.declared.users.insert(id, true);
            }
            Some(_) if self.random.below(3) == 0 => {
                users.delete(&name, &DeleteParams::default()).await.unwrap();
                self.declared.users.remove(&id);
            }
            Some(active) => {
                let state = if active { "Banned" } else { "Active" };
                let patch = Patch::Merge(json!({"spec": {"state": state}}));
                users.patch(&name, &PatchParams::default(), &patch).await.unwrap();
                self.declared.users.insert(id, !active);
            }
        }
    }

    async fn edit_group(&mut self, id: u64) {
        let (groups, name) = (Api::<Group>::all(self.client.clone()), format!("g{id}"));
        if self.declared.groups.remove(&id) {
            groups.delete(&name, &DeleteParams::default()).await.unwrap();
        } else {
            groups.create(&PostParams::default(), &Group::new(&name, GroupSpec::default())).await.unwrap();
            self.declared.groups.insert(id);
        }
    }

    async fn edit_binding(&mut self, id: u64) {
        let (bindings, name) = (Api::<RoleBinding>::all(self.client.clone()), format!("b{id}"));
        let existed = self.declared.bindings.remove(&id).is_some();
        // Sometimes without owner references, so that the garbage collector does not help.
        if existed && self.random.below(2) == 0 {
            let params = if self.random.below(2) == 0 { DeleteParams::background() } else { DeleteParams::orphan() };
            bindings.delete(&name, &params).await.unwrap();
            eventually("it is gone", || async {
                match bindings.get_opt(&name).await {
                    Ok(None) => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
            return;
        }
        let role = if self.random.below(2) == 0 { "view" } else { "edit" };
        let (users, groups, namespaces) = (self.random_subset(), self.random_subset(), self.random_subset());
        let subject = |kind, name| Subject { kind, name };
        let spec = RoleBindingSpec {
            subjects: users
                .iter()
                .map(|id| subject(SubjectKind::User, format!("u{id}")))
                .chain(groups.iter().map(|id| subject(SubjectKind::Group, format!("g{id}"))))
                .collect(),
            role_ref: RoleRef::cluster_role(role),
            scope: Scope {
                namespaces: Some(namespaces.iter().map(|id| format!("n{id}")).collect()),
                ..Scope::default()
            },
            ..RoleBindingSpec::default()
        };
        let binding = RoleBinding::new(&name, spec);
        let params = PatchParams::apply("chaos").force();
        bindings.patch(&name, &params, &Patch::Apply(&binding)).await.unwrap();
        self.declared.bindings.insert(id, DeclaredBinding { role, users, groups, namespaces });
    }

    /// Deletes a random native binding.
    async fn delete_native_binding(&mut self) {
        let natives = self.declared.natives();
        let Some((namespace, name)) = natives.keys().nth(usize::try_from(self.random.below(NAMES)).unwrap()) else {
            return;
        };
        let _ = Api::<rbac::RoleBinding>::namespaced(self.client.clone(), namespace)
            .delete(name, &DeleteParams::default())
            .await;
    }

    async fn found(&self) -> Natives {
        let api = Api::<rbac::RoleBinding>::all(self.client.clone());
        let all = api.list(&ListParams::default().labels("app.kubernetes.io/managed-by=roster")).await.unwrap();
        all.items
            .into_iter()
            .map(|native| {
                let subjects = native.subjects.iter().flatten().map(|subject| subject.name.clone()).collect();
                ((native.namespace().unwrap(), native.name_any()), (native.role_ref.name, subjects))
            })
            .collect()
    }

    async fn converged(&self) {
        eventually("native RBAC matches the declared objects", || async {
            let (found, declared) = (self.found().await, self.declared.natives());
            if found == declared { Ok(()) } else { Err(format!("found {found:#?}\ndeclared {declared:#?}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_bindings_survive_a_kill_at_any_instant() {
    const ROUNDS: u64 = 100;
    let seed = std::env::var("ROSTER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_122);
    println!("ROSTER_SEED={seed}");
    let cluster = Cluster::create("i7-bindings", &[]);
    let client = cluster.client().await;
    for i in 0..NAMES {
        let metadata = ObjectMeta { name: Some(format!("n{i}")), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        Api::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    }
    let mut chaos = ChangingCluster { client, random: Random(seed), declared: Declared::default() };
    // A replica with the same identity takes over its own lease at once: the rounds test crashes, not waiting.
    let identity = ["--identity", "i7"];
    let mut kills = KillSchedule::default();
    for round in 0..ROUNDS {
        let begun = Instant::now();
        let operator = Operator::spawn(&cluster.installation, binary(), "operator-i7", &identity).unwrap();
        for _ in 0..4 {
            chaos.edit().await;
        }
        if KillSchedule::is_uninterrupted(round) {
            chaos.converged().await;
            kills.note_duration(begun);
        }
        tokio::time::sleep_until(kills.at(begun, &mut chaos.random).into()).await;
        operator.kill();
    }
    let natives = operator_writes(&cluster, 0).iter().filter(|write| write.contains("rbac.authorization")).count();
    assert!(natives > 100, "{natives} native bindings written in {ROUNDS} rounds: nothing was interrupted");
    cluster.start_operator(&identity);
    chaos.converged().await;
}
