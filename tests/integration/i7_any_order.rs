//! I7: any order of apply converges to the same result, and a kill -9 at any instant loses nothing and leaves no orphan.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use roster::api::user::PasswordSecretRef;
use roster::credentials::hash::{Memory, PasswordHash};
use roster_harness::Operator;
use serde_json::json;

use crate::support::{
    Cluster, binary, eventually, password_secret, shared, stored_hash, unique, user, wait_until_ready,
};

#[tokio::test(flavor = "multi_thread")]
async fn i7_every_order_of_apply_ends_the_same() {
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
            // A Secret can't come before its Namespace: like kubectl, which tries again, it comes later.
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

/// A small generator, so that a failing run can be repeated from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_kill_at_any_instant_loses_nothing_and_leaves_no_orphan() {
    const ROUNDS: u64 = 200;
    let seed = std::env::var("ROSTER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_121);
    println!("ROSTER_SEED={seed}");
    let mut random = Random(seed);
    // Without admission, so that password Secrets can be written while no operator runs.
    let cluster = Cluster::create("i7", &["passwordAdmission=false"]);
    let (users, secrets) = (cluster.users().await, cluster.secrets("default").await);
    let mut expected: BTreeMap<String, Option<String>> = BTreeMap::new();

    for round in 0..ROUNDS {
        // The same identity takes its own lease up at once: the rounds are about crashes, not about waiting.
        let operator = Operator::spawn(&cluster.installation, binary(), "operator-i7", &["--identity", "i7"]).unwrap();
        let death = tokio::time::sleep(Duration::from_millis(random.below(700)));
        let name = format!("crash-{round}");
        let password = format!("password {round}");
        let mut newcomer = user(&name, true);
        newcomer.spec.email = Some(format!("{name}@example.com"));
        let secret = password_secret(&name, "password", &password);
        let user_first = random.below(2) == 0;
        if user_first {
            users.create(&PostParams::default(), &newcomer).await.unwrap();
        }
        secrets.create(&PostParams::default(), &secret).await.unwrap();
        if !user_first {
            users.create(&PostParams::default(), &newcomer).await.unwrap();
        }
        expected.insert(name, Some(password));

        let earlier = format!("crash-{}", random.below(round + 1));
        match random.below(4) {
            0 if expected[&earlier].is_some() => {
                users.delete(&earlier, &DeleteParams::default()).await.unwrap();
                expected.insert(earlier, None);
            }
            1 if expected[&earlier].is_some() => {
                let password = format!("changed in round {round}");
                let patch = Patch::Merge(json!({"stringData": {"password": password}}));
                secrets.patch(&earlier, &PatchParams::default(), &patch).await.unwrap();
                expected.insert(earlier, Some(password));
            }
            2 if expected[&earlier].is_some() => {
                let patch = Patch::Merge(json!({"spec": {"email": format!("round-{round}@example.com")}}));
                users.patch(&earlier, &PatchParams::default(), &patch).await.unwrap();
            }
            // Deleted and created again at once: the new one is somebody else.
            3 if expected[&earlier].is_some() => {
                users.delete(&earlier, &DeleteParams::default()).await.unwrap();
                users.create(&PostParams::default(), &user(&earlier, true)).await.unwrap();
            }
            _ => {}
        }
        death.await;
        operator.kill();
    }

    cluster.start_operator(&["--identity", "i7"]);
    let mut memory = Memory::default();
    for (name, password) in &expected {
        let Some(password) = password else { continue };
        let user = wait_until_ready(&users, name).await;
        eventually(&format!("{name} has its last password"), || async {
            let hash = stored_hash(&cluster, &user).await.ok_or("none is stored")?;
            Ok(PasswordHash::parse(&hash).map_err(|error| error.to_string())?)
        })
        .await;
        let hash = PasswordHash::parse(&stored_hash(&cluster, &user).await.unwrap()).unwrap();
        assert!(hash.verify(password.as_bytes(), &mut memory), "{name}: {password}");
    }
    eventually("every identity Secret belongs to a User that is there and wants it", || async {
        let all = users.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let wanted: BTreeSet<(String, String)> = all
            .items
            .iter()
            .flat_map(|user| {
                let uid = user.uid().unwrap_or_default();
                roster::credentials::claim::wanted(user)
                    .into_iter()
                    .map(move |claim| (claim.secret_name(), uid.clone()))
            })
            .collect();
        let identities = cluster.secrets("roster-system").await;
        let identities = identities
            .list(&ListParams::default().labels("roster.dev/identifier"))
            .await
            .map_err(|error| error.to_string())?;
        let kept: BTreeSet<(String, String)> = identities
            .items
            .iter()
            .map(|secret| (secret.name_any(), secret.owner_references()[0].uid.clone()))
            .collect();
        if kept == wanted {
            Ok(())
        } else {
            Err(format!(
                "orphans {:?}, missing {:?}",
                kept.difference(&wanted).count(),
                wanted.difference(&kept).count()
            ))
        }
    })
    .await;
    // The reference stays what the manifest says, whatever happened.
    let survivor = expected.iter().find(|(_, password)| password.is_some()).unwrap().0;
    let reference = users.get(survivor).await.unwrap().spec.password_secret_ref;
    assert_eq!(reference, Some(PasswordSecretRef { namespace: "default".into(), name: survivor.clone() }));
}
