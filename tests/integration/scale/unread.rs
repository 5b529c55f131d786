//! Clients that send requests and never read responses.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::{count, resident_memory};
use crate::directory::{Direct, wait_until_served};
use crate::support::{Cluster, eventually, shared};

/// Address of the attacker. No other test uses it.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 7);

/// TCP states in /proc/net/tcp that hold no data: `TIME_WAIT` and `LISTEN`.
const EMPTY_STATES: [&str; 2] = ["06", "0A"];

/// Returns what the kernel holds for the attacker at the operator's port: sockets, and bytes that are unacknowledged or
/// unread. Closed sockets count until their data is gone.
fn held_by_kernel(port: u16) -> (usize, usize) {
    let hex = |text: &str| usize::from_str_radix(text, 16).unwrap();
    let local = format!(":{port:04X}");
    let remote = format!("{:08X}:", u32::from_le_bytes(ATTACKER.octets()));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let sockets = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let attacked = sockets.filter(|fields| {
        fields[1].ends_with(&local) && fields[2].starts_with(&remote) && !EMPTY_STATES.contains(&fields[3])
    });
    let queued = attacked.map(|fields| fields[4].split(':').map(hex).sum::<usize>());
    queued.fold((0, 0), |(sockets, bytes), queued| (sockets + 1, bytes + queued))
}

/// Returns the id of the operator's process, and its port.
fn process(cluster: &Cluster) -> (u32, u16) {
    let operators = cluster.operators();
    (operators[0].id(), operators[0].url().rsplit(':').next().unwrap().parse().unwrap())
}

/// Sends requests until the connection accepts no more, and reads nothing.
async fn ask_and_never_read(direct: &Direct, request: &str) -> Option<TlsStream<TcpStream>> {
    const BYTES: usize = 2 * 1024 * 1024;
    let mut stream = direct.connect_unread(ATTACKER).await.ok()?;
    let requests = request.repeat(BYTES / request.len());
    let _ = tokio::time::timeout(Duration::from_secs(3), stream.write_all(requests.as_bytes())).await;
    Some(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_responses_cost_little_memory_and_end_the_connection() {
    const CONNECTIONS: usize = 100;
    const MAX_KERNEL_BYTES: usize = CONNECTIONS * 128 * 1024;
    const MAX_GROWTH_MIB: u64 = 32;
    let cluster = shared();
    wait_until_served(cluster);
    let direct = Direct::new(cluster, 0, None).await;
    let (pid, port) = process(cluster);
    let before = resident_memory(pid);
    let requests = [
        "GET /.well-known/openid-configuration HTTP/1.1\r\nHost: localhost\r\n\r\n",
        // Responses that consist of headers.
        "HEAD /openid/v1/jwks HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /apis HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ];
    let attack = (0..CONNECTIONS).map(|at| ask_and_never_read(&direct, requests[at % requests.len()]));
    let held: Vec<_> = stream::iter(attack).buffer_unordered(CONNECTIONS).collect().await;
    assert_eq!(held.iter().flatten().count(), CONNECTIONS, "connections were refused");
    assert_eq!(direct.get("/livez", &[]).await.status, 200);
    let (most_bytes, most_memory) = (AtomicUsize::new(0), AtomicU64::new(0));
    eventually("the connections and their data are gone", || async {
        let held = held_by_kernel(port);
        most_bytes.fetch_max(held.1, Ordering::Relaxed);
        most_memory.fetch_max(resident_memory(pid), Ordering::Relaxed);
        if held == (0, 0) { Ok(()) } else { Err(format!("{held:?}")) }
    })
    .await;
    let (bytes, grown) = (most_bytes.into_inner(), most_memory.into_inner().saturating_sub(before));
    println!("at most {bytes} bytes in the kernel, {grown} MiB more in the process");
    assert!(bytes < MAX_KERNEL_BYTES, "{bytes} bytes were in the kernel");
    assert!(grown < MAX_GROWTH_MIB, "{grown} MiB more");
    let metrics = cluster.operators()[0].probe("/metrics").unwrap();
    let stalled = count(&metrics, "roster_connections_shed_total{outcome=\"stalled\"}");
    assert!(stalled as usize >= CONNECTIONS / 2, "{stalled} are counted");
    drop(held);
}
