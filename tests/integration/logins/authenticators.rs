//! The two authenticators by which kube-apiserver accepts Roster's tokens, and how tokens end.

use std::time::{Duration, Instant};

use kube::api::{Patch, PatchParams};
use roster_harness::control_plane::OIDC_AUDIENCE;
use serde_json::{Value, json};

use super::{FLAGS, PASSWORD, attempt, kubectl_as, logins, own_status, person, token, token_of, whoami};
use crate::directory::{Direct, wait_until_served};
use crate::support::{Cluster, eventually, unique, wait_until_can};

/// Waits until the token is rejected. Returns how long it was still accepted.
async fn refused_after(kubectl: &roster_harness::Kubectl) -> Duration {
    let since = Instant::now();
    eventually("the token is refused", || async {
        match whoami(kubectl) {
            Err(error) if error.contains("Unauthorized") || error.contains("logged in") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    since.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_authenticators_give_the_same_identity() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let group = unique("group");
    cluster.apply(&format!("apiVersion: roster.dev/v1alpha1\nkind: Group\nmetadata: {{name: {group}}}\nspec: {{acceptDeclaredMembers: true}}\n"));
    let name = person(cluster, "authenticators", |user| {
        user.spec.groups = vec![group.clone()];
        user.spec.email = Some(format!("{}@example.com", user.metadata.name.as_ref().unwrap()));
        user.spec.extra = [("costCenter".to_owned(), vec!["42".to_owned()])].into();
    })
    .await;
    eventually("the group is known", || async {
        let user = cluster.users().await.get(&name).await.unwrap();
        if user.status.unwrap().groups == [group.clone()] { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    let uid = cluster.users().await.get(&name).await.unwrap().metadata.uid.unwrap();
    // By the email address, in upper case.
    let webhook = token(&direct, &format!("{}@EXAMPLE.com", name.to_uppercase()), PASSWORD).await;
    let spec = json!({"username": name, "password": PASSWORD, "audience": OIDC_AUDIENCE});
    let oidc = token_of(&attempt(&direct, &spec).await);
    for (authenticator, token) in [("webhook", &webhook), ("oidc", &oidc)] {
        let kubectl = kubectl_as(cluster, token);
        // kube-apiserver fetches the public keys asynchronously.
        let user = eventually(&format!("{authenticator} accepts the token"), || async { whoami(&kubectl) }).await;
        assert_eq!((&user["username"], &user["uid"]), (&json!(name), &json!(uid)), "{authenticator}");
        let groups: Vec<Value> = user["groups"].as_array().unwrap().clone();
        assert!(
            groups.contains(&json!(group)) && groups.contains(&json!("system:authenticated")),
            "{authenticator}: {user}"
        );
    }
    let user = whoami(&kubectl_as(cluster, &webhook)).unwrap();
    assert_eq!(user["extra"]["costCenter"], json!(["42"]));
    let user = whoami(&kubectl_as(cluster, &oidc)).unwrap();
    assert_eq!(user["extra"]["example.com/recognised-by"], json!(["pwd"]));

    cluster.apply(&format!(
        "apiVersion: roster.dev/v1alpha1\nkind: RoleBinding\nmetadata: {{name: {name}}}\nspec:\n  \
         subjects: [{{kind: Group, name: {group}}}]\n  roleRef: {{kind: ClusterRole, name: view}}\n  \
         scope: {{namespaces: [default]}}\n"
    ));
    wait_until_can(cluster, &name, &["list", "pods", "-n", "default"], true).await;
    for token in [&webhook, &oidc] {
        kubectl_as(cluster, token).run(&["get", "pods", "-n", "default"]).unwrap();
        let refused = kubectl_as(cluster, token).run(&["get", "pods", "-n", "kube-system"]).unwrap_err();
        assert!(format!("{refused:#}").contains("Forbidden"));
    }
}

/// Some providers' kube-apiservers accept nothing but RS256, which OpenID Connect Core requires.
#[tokio::test(flavor = "multi_thread")]
async fn case_e1_tokens_signed_with_rs256_are_accepted() {
    let cluster = Cluster::create("rs256", &[]);
    cluster.start_operator(&[FLAGS, &["--token-signing-algorithm=RS256"]].concat());
    wait_until_served(&cluster);
    let direct = Direct::new(&cluster, 0, None).await;
    let name = person(&cluster, "rs256", |_| {}).await;
    let webhook = token(&direct, &name, PASSWORD).await;
    let spec = json!({"username": name, "password": PASSWORD, "audience": OIDC_AUDIENCE});
    let oidc = token_of(&attempt(&direct, &spec).await);
    for (authenticator, token) in [("webhook", &webhook), ("oidc", &oidc)] {
        assert_eq!(jsonwebtoken::decode_header(token).unwrap().alg, jsonwebtoken::Algorithm::RS256);
        let kubectl = kubectl_as(&cluster, token);
        let user = eventually(&format!("{authenticator} accepts the token"), || async { whoami(&kubectl) }).await;
        assert_eq!(user["username"], json!(name), "{authenticator}");
    }
    let configuration = direct.send("GET", "/.well-known/openid-configuration", &[], "").await.unwrap().json();
    assert_eq!(configuration["id_token_signing_alg_values_supported"], json!(["RS256"]));
}

/// I3 for sessions: kube-apiserver calls the webhook for each request, except for results that it has cached.
#[tokio::test(flavor = "multi_thread")]
async fn i3_every_way_to_end_a_user_ends_its_tokens_and_keys() {
    let cluster = logins();
    let direct = Direct::new(cluster, 1, None).await;
    let users = cluster.users().await;
    let past = (jiff::Timestamp::now() - Duration::from_secs(60)).to_string();
    let ends: [(&str, Value); 4] = [
        ("disabled", json!({"spec": {"state": "Disabled"}})),
        ("banned", json!({"spec": {"state": "Banned"}})),
        ("expired", json!({"spec": {"validity": {"notAfter": past}}})),
        ("deleted", Value::Null),
    ];
    for (end, patch) in ends {
        let name = person(cluster, end, |_| {}).await;
        let token = token(&direct, &name, PASSWORD).await;
        let key = super::api_keys::key(&direct, &token).await;
        let (by_token, by_key) = (kubectl_as(cluster, &token), kubectl_as(cluster, &key));
        whoami(&by_token).unwrap();
        whoami(&by_key).unwrap();
        let params = PatchParams::default();
        if patch.is_null() {
            users.delete(&name, &kube::api::DeleteParams::default()).await.unwrap();
        } else {
            users.patch(&name, &params, &Patch::Merge(patch)).await.unwrap();
        }
        let since = Instant::now();
        eventually("Roster refuses the token and the key", || async {
            match (own_status(&direct, &token).await, own_status(&direct, &key).await) {
                (401, 401) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        println!("{end}: Roster refused token and key after {:?}", since.elapsed());
        // kube-apiserver caches successful authentication for ten seconds, regardless of the webhook's own cache.
        let duration = refused_after(&by_token).await;
        println!("{end}: kube-apiserver refused the token after {duration:?} more");
        refused_after(&by_key).await;
        assert_eq!(super::with_password(&direct, &name, PASSWORD).await.status, 401, "{end}");
        assert_eq!(own_status(&direct, &token).await, 401, "{end}: at Roster's own port");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_openid_connect_token_ends_at_its_expiry() {
    let cluster = crate::support::Cluster::create("short-tokens", &[]);
    cluster.start_operator(&["--token-lifetime", "12s"]);
    let direct = Direct::new(&cluster, 0, None).await;
    let name = person(&cluster, "short", |_| {}).await;
    let kubectl = eventually("kube-apiserver has fetched the keys", || async {
        let spec = json!({"username": name, "password": PASSWORD, "audience": OIDC_AUDIENCE});
        let kubectl = kubectl_as(&cluster, &token_of(&attempt(&direct, &spec).await));
        whoami(&kubectl).map(|_| kubectl)
    })
    .await;
    let patch = Patch::Merge(json!({"spec": {"state": "Disabled"}}));
    cluster.users().await.patch(&name, &PatchParams::default(), &patch).await.unwrap();
    let duration = refused_after(&kubectl).await;
    println!("disabled: the token by OpenID Connect was refused after {duration:?} of at most 12 s");
}

#[tokio::test]
async fn openid_documents_and_reviews_need_no_authentication() {
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let configuration = direct.get("/.well-known/openid-configuration", &[]).await.json();
    assert_eq!(configuration["issuer"], format!("https://localhost:{}", cluster.plane.balancer.port));
    let keys = direct.get("/openid/v1/jwks", &[]).await;
    assert!(keys.head.contains("application/jwk-set+json"), "{}", keys.head);
    let other = Direct::new(cluster, 1, None).await.get("/openid/v1/jwks", &[]).await;
    assert_eq!(keys.json(), other.json(), "replicas sign with the same keys");

    let review = |token: &str, audiences: Value| {
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": audiences}})
        .to_string()
    };
    let name = person(cluster, "reviewed", |_| {}).await;
    let token = token(&direct, &name, PASSWORD).await;
    let answer = direct.send("POST", "/tokenreview", &[], &review(&token, json!(["kubernetes", "x"]))).await.unwrap();
    let status = answer.json()["status"].clone();
    assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!(["kubernetes"])));
    assert_eq!(status["user"]["username"], json!(name));
    for nonsense in ["", "nonsense", "a.b.c", "rstr_00"] {
        let answer = direct.send("POST", "/tokenreview", &[], &review(nonsense, Value::Null)).await.unwrap();
        assert_eq!(answer.json()["status"], json!({"authenticated": false}), "{nonsense}");
    }
    let broken =
        direct.send("POST", "/tokenreview", &[], r#"{"spec": {"token": 5, "secret": "s3cret"}}"#).await.unwrap();
    assert_eq!(broken.status, 400);
    assert!(!broken.body.contains("s3cret"));
}

/// As specified by the TokenReview API: only requested audiences count.
#[tokio::test(flavor = "multi_thread")]
async fn a_review_answers_for_the_requested_audiences() {
    const API_SERVER: &str = "https://kubernetes.default.svc";
    let cluster = logins();
    let direct = Direct::new(cluster, 0, None).await;
    let name = person(cluster, "audiences", |_| {}).await;
    let token = token(&direct, &name, PASSWORD).await;
    let key = super::api_keys::key(&direct, &token).await;
    let spec = json!({"username": name, "password": PASSWORD, "audience": OIDC_AUDIENCE});
    let oidc = token_of(&attempt(&direct, &spec).await);
    let reviewed = async |token: &str, asked: &[&str]| {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": asked}});
        let answer = direct.send("POST", "/tokenreview", &[], &review.to_string()).await.unwrap();
        answer.json()["status"].clone()
    };
    for bearer in [&token, &key] {
        for (asked, audiences) in [
            (&[][..], Value::Null),
            (&["kubernetes"], json!(["kubernetes"])),
            (&["vault", "kubernetes"], json!(["kubernetes"])),
            // kube-apiserver's own audience, as in the operator's token.
            (&[API_SERVER], json!([API_SERVER])),
        ] {
            let status = reviewed(bearer, asked).await;
            assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &audiences), "{asked:?}");
            assert_eq!(status["user"]["username"], json!(name));
        }
        for asked in [&["vault"][..], &[OIDC_AUDIENCE], &["vault", "x"], &[""]] {
            assert_eq!(reviewed(bearer, asked).await, json!({"authenticated": false}), "{asked:?}");
        }
    }
    for asked in [&[][..], &[OIDC_AUDIENCE], &["kubernetes"], &[API_SERVER]] {
        assert_eq!(reviewed(&oidc, asked).await, json!({"authenticated": false}), "{asked:?}");
    }
}
