//! Requests to kube-apiserver: how Roster identifies itself, what a new leader reads, and what happens when packets are
//! lost.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use socket2::{SockFilter, SockRef};

use crate::support::{
    Cluster, FAST_LEASE, audit_position, create, eventually, has_streamed, operator_events, operator_requests, user,
    wait_for_text, wait_until_ready,
};

/// Every kind of object that Roster writes.
const WRITTEN: &str = "users.roster.dev,groups.roster.dev,rolebindings.roster.dev,clusterrolebindings,\
                       rolebindings.rbac.authorization.k8s.io,secrets,leases,events,resourcequotas,limitranges,\
                       validatingwebhookconfigurations,mutatingwebhookconfigurations";

/// Returns the index of the operator that is the leader.
fn leader(cluster: &Cluster) -> Option<usize> {
    let leads = |metrics: String| metrics.lines().any(|line| line == "roster_leader 1");
    cluster.operators().iter().position(|operator| operator.probe("/metrics").is_ok_and(leads))
}

async fn wait_for_leader(cluster: &Cluster) -> usize {
    eventually("one leads", || std::future::ready(leader(cluster).ok_or_else(|| "none leads".to_owned()))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_lists_neither_users_nor_secrets_and_every_request_identifies_its_sender() {
    let cluster = Cluster::create("warm", &[]);
    cluster.start_operator(FAST_LEASE);
    cluster.start_operator(FAST_LEASE);
    // With kubectl, which names itself as the field manager.
    cluster.apply(
        "---\n{apiVersion: v1, kind: Secret, metadata: {name: jane, namespace: default, annotations: {roster.dev/user: \
         jane}}, type: roster.dev/password, stringData: {password: correct horse battery}}\n\
         ---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: jane}, spec: {passwordSecretRef: {name: jane, \
         namespace: default}}}\n\
         ---\n{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {name: engineers}, spec: {members: [jane]}}\n\
         ---\n{apiVersion: roster.dev/v1alpha1, kind: RoleBinding, metadata: {name: engineers-edit}, spec: {subjects: \
         [{kind: Group, name: engineers}], roleRef: {kind: ClusterRole, name: edit}, scope: {cluster: {}}}}\n\
         ---\n{apiVersion: v1, kind: Namespace, metadata: {name: apollo, labels: {roster.dev/owner: jane}}}\n",
    );
    let users = cluster.users().await;
    wait_until_ready(&users, "jane").await;
    for object in [["groups.roster.dev", "engineers"], ["rolebindings.roster.dev", "engineers-edit"]] {
        wait_for_text(&cluster, &object, "{.status.conditions[?(@.type=='Ready')].status}", "True").await;
    }

    let position = audit_position(&cluster);
    let leading = wait_for_leader(&cluster).await;
    cluster.operators().remove(leading).kill();
    wait_for_leader(&cluster).await;
    cluster.apply("---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: joe}, spec: {}}");
    wait_until_ready(&users, "joe").await;
    // A Secret by its name is not a list, and quota only counts Secrets.
    let is_list = |request: &&String| {
        let is_small = request.contains("fieldSelector=metadata.name") || request.ends_with("limit=1");
        request.starts_with("list ") && (request.contains("/users?") || request.contains("/secrets?")) && !is_small
    };
    let requests = operator_requests(&cluster, position);
    let lists: Vec<&String> = requests.iter().filter(is_list).collect();
    assert!(lists.is_empty(), "{lists:?}");
    for path in ["/users?", "/secrets?"] {
        assert!(!has_streamed(&cluster, position, path), "{path}");
    }

    let agents: BTreeSet<String> = operator_events(&cluster, 0)
        .iter()
        .map(|event| event["userAgent"].as_str().unwrap_or_default().to_owned())
        .collect();
    let components = ["controllers", "informers", "leader-election", "server"];
    let expected = components.map(|component| format!("roster/{} ({component})", env!("CARGO_PKG_VERSION")));
    assert_eq!(agents, BTreeSet::from(expected));
    let written = cluster.plane.kubectl.get(&[WRITTEN, "-A", "--show-managed-fields"]).unwrap();
    let mut managers = BTreeSet::new();
    for object in written["items"].as_array().unwrap() {
        for entry in object["metadata"]["managedFields"].as_array().into_iter().flatten() {
            let manager = entry["manager"].as_str().unwrap_or_default().to_owned();
            assert_ne!(manager, "unknown", "{} {}", object["kind"], object["metadata"]["name"]);
            managers.insert((object["kind"].as_str().unwrap_or_default().to_owned(), manager));
        }
    }
    for kind in ["User", "Group", "RoleBinding", "ClusterRoleBinding", "Secret", "Lease"] {
        assert!(managers.contains(&(kind.to_owned(), "roster".to_owned())), "{kind}: {managers:?}");
    }
}

/// The network between an operator and kube-apiserver. It can lose every packet.
struct Network {
    url: String,
    listener: Arc<TcpListener>,
    is_down: Arc<AtomicBool>,
    /// The operator's connections. Kept open, so that no peer sees them end.
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Network {
    fn to(api_server: SocketAddr) -> Self {
        let listener = Arc::new(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (is_down, connections) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<TcpStream>>>::default());
        let network = Self { url, listener, is_down: Arc::clone(&is_down), connections: Arc::clone(&connections) };
        let accepting = Arc::clone(&network.listener);
        thread::spawn(move || {
            for operator in accepting.incoming().flatten() {
                let Ok(api_server) = TcpStream::connect(api_server) else { continue };
                connections.lock().unwrap().push(operator.try_clone().unwrap());
                let ends = (operator.try_clone().unwrap(), api_server.try_clone().unwrap());
                for (from, to) in [ends, (api_server, operator)] {
                    let is_down = Arc::clone(&is_down);
                    thread::spawn(move || forward(from, to, &is_down));
                }
            }
        });
        network
    }

    /// Loses every packet from now on. The kernel drops those that arrive, connection requests and keepalive probes too.
    fn lose_packets(&self) {
        let drop_all = [SockFilter::new(6, 0, 0, 0)];
        self.is_down.store(true, Ordering::SeqCst);
        SockRef::from(&*self.listener).attach_filter(&drop_all).unwrap();
        for connection in &*self.connections.lock().unwrap() {
            SockRef::from(connection).attach_filter(&drop_all).unwrap();
        }
    }

    /// Delivers packets again. Earlier connections stay broken.
    fn repair(&self) {
        self.is_down.store(false, Ordering::SeqCst);
        SockRef::from(&*self.listener).detach_filter().unwrap();
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, is_down: &AtomicBool) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).unwrap_or(0);
        if is_down.load(Ordering::SeqCst) {
            return;
        }
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            let _ = to.shutdown(Shutdown::Write);
            return;
        }
    }
}

/// Half-open connections are detected, so that the guard does not decide on outdated data. No restart is needed.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_loses_kube_apiserver_refuses_and_recovers() {
    let cluster = Cluster::create("half-open", &[]);
    let network = Network::to(cluster.plane.url.trim_start_matches("https://").parse().unwrap());
    let kubeconfig = &cluster.installation.kubeconfig;
    let direct = std::fs::read_to_string(kubeconfig).unwrap();
    std::fs::write(kubeconfig, direct.replace(&cluster.plane.url, &network.url)).unwrap();
    // Enough time to stop the controllers before the lease expires, on a busy machine too.
    cluster.start_operator(&["--lease-duration", "20s", "--renew-deadline", "5s", "--retry-period", "200ms"]);
    wait_for_leader(&cluster).await;
    let judged = || {
        let probe = "---\n{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {name: probe}, spec: {}}";
        let args = ["create", "--dry-run=server", "--as", "eve", "-f", "-"];
        let answer = cluster.plane.kubectl.run_with_input(&args, probe);
        answer.map_err(|error| error.to_string())
    };
    // kube-apiserver does not call the guard for requesters that may bind every role.
    cluster.kubectl(&["create", "clusterrole", "creator", "--verb=create", "--resource=users.roster.dev"]);
    cluster.kubectl(&["create", "clusterrolebinding", "creator", "--clusterrole=creator", "--user=eve"]);
    eventually("the guard decides", || async { judged() }).await;

    network.lose_packets();
    eventually("the guard reports that it can't decide", || async {
        match judged() {
            Ok(_) => Err("it still decides".to_owned()),
            Err(error) if error.contains("a watch of the directory is failing") => Ok(()),
            Err(error) => Err(error),
        }
    })
    .await;
    let log = || std::fs::read_to_string(cluster.operators()[0].log()).unwrap();
    eventually("it stops leading", || async {
        if log().contains("leadership lost, stopped the controllers") { Ok(()) } else { Err(log()) }
    })
    .await;
    assert_eq!(leader(&cluster), None);

    network.repair();
    let users = cluster.users().await;
    eventually("the guard decides again", || async { judged() }).await;
    create(&users, &user("afterwards", false)).await;
    wait_until_ready(&users, "afterwards").await;
    assert!(cluster.operators()[0].is_running());
}
