//! Lists with and without streaming.

use crate::support::{
    Cluster, WITHOUT_STREAMING_LISTS, audit_position, create, eventually, has_streamed, operator_requests, user,
    wait_until_ready,
};

/// Waits until a query finds the User.
async fn wait_until_found(cluster: &Cluster, name: &str) {
    let path = format!("/apis/directory.roster.dev/v1alpha1/users/{name}");
    eventually("a query finds the User", || async {
        cluster.plane.kubectl.run(&["get", "--raw", &path]).map_err(|error| error.to_string())
    })
    .await;
}

/// Otherwise lists are streamed, which `i6_restart_leader_change_and_relist_write_nothing` tests.
#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged_where_streaming_lists_are_disabled() {
    let cluster = Cluster::create_with("pages", &[], WITHOUT_STREAMING_LISTS);
    cluster.start_operator(&[]);
    let users = cluster.users().await;
    create(&users, &user("known", false)).await;
    wait_until_ready(&users, "known").await;

    let from = audit_position(&cluster);
    let operator = cluster.operators().remove(0);
    operator.stop().unwrap();
    cluster.start_operator(&[]);
    wait_until_found(&cluster, "known").await;
    create(&users, &user("later", false)).await;
    wait_until_ready(&users, "later").await;
    wait_until_found(&cluster, "later").await;

    let requests = operator_requests(&cluster, from);
    for resource in ["users", "groups", "rolebindings"] {
        assert!(!has_streamed(&cluster, from, &format!("/{resource}?")), "{resource}");
        let list = format!("list /apis/roster.dev/v1alpha1/{resource}?");
        assert!(requests.iter().any(|request| request.starts_with(&list)), "{resource}: {requests:?}");
    }
    let log = std::fs::read_to_string(cluster.operators()[0].log()).unwrap();
    assert!(!log.contains("watch failed"), "paged lists must not be logged as a failure: {log}");
}
