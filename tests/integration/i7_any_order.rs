//! I7: every order of apply converges to the same result, and a kill -9 at any instant loses nothing and leaves no
//! orphan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Instant;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use roster_api::User;
use roster_credentials::claim;
use roster_credentials::hash::{Memory, PasswordHash};
use roster_harness::Operator;
use serde_json::json;

use crate::support::{
    Cluster, KillSchedule, Random, binary, create, eventually, operator_writes, password_secret, shared, stored_hash,
    unique, user, wait_until_ready,
};

#[tokio::test(flavor = "multi_thread")]
async fn i7_every_order_of_apply_has_the_same_result() {
    let cluster = shared();
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for order in orders {
        let name = unique("order");
        let objects = [
            format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n"),
            format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: pw, namespace: {name}, annotations: {{roster.dev/user: {name}}}}}\n\
                 type: roster.dev/password\nstringData: {{password: hunter2}}\n"
            ),
            format!(
                "apiVersion: roster.dev/v1alpha1\nkind: User\nmetadata: {{name: {name}}}\n\
                 spec: {{passwordSecretRef: {{namespace: {name}, name: pw}}}}\n"
            ),
        ];
        for i in order {
            // A Secret can't be created before its Namespace, so retry it, like kubectl users do.
            if i == 1 && order.iter().position(|o| *o == 0) > order.iter().position(|o| *o == 1) {
                assert!(cluster.plane.kubectl.apply(&objects[1]).is_err());
            } else {
                cluster.apply(&objects[i]);
            }
        }
        cluster.apply(&objects[1]);
        let user = wait_until_ready(&cluster.users().await, &name).await;
        assert!(stored_hash(cluster, &user).await.is_some(), "{order:?}");
    }
}

/// Expected final state: each User's last password, or `None` if it was deleted.
type Expected = BTreeMap<String, Option<String>>;

/// A cluster in use while its operator crashes.
struct ChangingCluster {
    users: Api<User>,
    secrets: Api<Secret>,
    random: Random,
    expected: Expected,
}

impl ChangingCluster {
    /// Creates a User and its password Secret, in random order.
    async fn create_user(&mut self, round: u64) {
        let name = format!("crash-{round}");
        let password = format!("password {round}");
        let mut newcomer = user(&name, true);
        newcomer.spec.email = Some(format!("{name}@example.com"));
        let user_first = self.random.below(2) == 0;
        if user_first {
            create(&self.users, &newcomer).await;
        }
        create(&self.secrets, &password_secret(&name, "password", &password)).await;
        if !user_first {
            create(&self.users, &newcomer).await;
        }
        self.expected.insert(name, Some(password));
    }

    /// Changes, deletes or recreates a random User.
    async fn change_user(&mut self, round: u64) {
        let name = format!("crash-{}", self.random.below(round + 1));
        if self.expected[&name].is_none() {
            return;
        }
        let merge = PatchParams::default();
        match self.random.below(4) {
            0 => {
                self.users.delete(&name, &DeleteParams::default()).await.unwrap();
                self.expected.insert(name, None);
            }
            1 => {
                let password = format!("changed in round {round}");
                let patch = Patch::Merge(json!({"stringData": {"password": password}}));
                self.secrets.patch(&name, &merge, &patch).await.unwrap();
                self.expected.insert(name, Some(password));
            }
            2 => {
                let patch = Patch::Merge(json!({"spec": {"email": format!("round-{round}@example.com")}}));
                self.users.patch(&name, &merge, &patch).await.unwrap();
            }
            // Deleted and recreated at once: the new User is a different one.
            _ => {
                self.users.delete(&name, &DeleteParams::default()).await.unwrap();
                create(&self.users, &user(&name, true)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_kill_at_any_instant_loses_nothing_and_leaves_no_orphan() {
    const ROUNDS: u64 = 200;
    let seed = std::env::var("ROSTER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_121);
    println!("ROSTER_SEED={seed}");
    // Without admission, so that password Secrets can be written while no operator runs.
    let cluster = Cluster::create("i7", &["passwordAdmission=false"]);
    let (users, secrets) = (cluster.users().await, cluster.secrets("default").await);
    let mut chaos = ChangingCluster { users, secrets, random: Random(seed), expected: Expected::new() };
    // A replica with the same identity takes over its own lease at once: the rounds test crashes, not waiting.
    let identity = ["--identity", "i7"];
    let mut kills = KillSchedule::default();
    for round in 0..ROUNDS {
        let begun = Instant::now();
        let operator = Operator::spawn(&cluster.installation, binary(), "operator-i7", &identity).unwrap();
        chaos.create_user(round).await;
        if KillSchedule::is_uninterrupted(round) {
            wait_until_ready(&chaos.users, &format!("crash-{round}")).await;
            kills.note_duration(begun);
        }
        chaos.change_user(round).await;
        tokio::time::sleep_until(kills.at(begun, &mut chaos.random).into()).await;
        operator.kill();
    }
    let writes = operator_writes(&cluster, 0).iter().filter(|write| !write.contains("/leases/")).count();
    assert!(writes > 200, "{writes} writes in {ROUNDS} rounds: nothing was interrupted");
    cluster.start_operator(&identity);
    for (name, password) in &chaos.expected {
        if let Some(password) = password {
            let user = wait_until_ready(&chaos.users, name).await;
            wait_for_password(&cluster, &user, password).await;
        }
    }
    no_orphans(&cluster, &chaos.users).await;
}

async fn wait_for_password(cluster: &Cluster, user: &User, password: &str) {
    let looked_at = Mutex::new(None);
    eventually(&format!("{} has the password {password:?}", user.name_any()), || async {
        let hash = stored_hash(cluster, user).await.ok_or("none is stored")?;
        // Verify each hash only once: verification is slow.
        if looked_at.lock().unwrap().as_ref() == Some(&hash) {
            return Err("another one".to_owned());
        }
        let parsed = PasswordHash::parse(&hash).map_err(|error| error.to_string())?;
        *looked_at.lock().unwrap() = Some(hash);
        if parsed.verify(password, &mut Memory::default()) { Ok(()) } else { Err("another one".to_owned()) }
    })
    .await;
}

async fn no_orphans(cluster: &Cluster, users: &Api<User>) {
    let identities = cluster.secrets("roster-system").await;
    eventually("every identity Secret belongs to an existing User that wants it", || async {
        let all = users.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let claims = |user: &User| {
            let uid = user.uid().unwrap_or_default();
            claim::wanted(user).into_iter().map(move |claim| (claim.secret_name(), uid.clone()))
        };
        let wanted: BTreeSet<(String, String)> = all.items.iter().flat_map(claims).collect();
        let labelled = ListParams::default().labels("roster.dev/identifier");
        let kept = identities.list(&labelled).await.map_err(|error| error.to_string())?.items;
        let kept: BTreeSet<(String, String)> =
            kept.iter().map(|secret| (secret.name_any(), secret.owner_references()[0].uid.clone())).collect();
        let (orphans, missing) = (kept.difference(&wanted).count(), wanted.difference(&kept).count());
        if orphans + missing == 0 { Ok(()) } else { Err(format!("{orphans} orphans, {missing} missing")) }
    })
    .await;
}
