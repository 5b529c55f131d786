use std::net::Ipv4Addr;

use super::*;
use crate::metrics::Metrics;
use crate::tls::activity::Activity;
use crate::tls::connections::{ConnectionTable, LIMITS, OpenConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

const TIMEOUT: Duration = Duration::from_secs(60);

/// Returns a client with the smallest receive buffer that the kernel allows, and the socket that serves it.
async fn pair(trust: Trust) -> (TcpStream, Socket, OpenConnection) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpSocket::new_v4().unwrap();
    client.set_recv_buffer_size(1).unwrap();
    let client = client.connect(listener.local_addr().unwrap()).await.unwrap();
    let table = ConnectionTable::new(LIMITS, Metrics::default().connections_shed);
    let open = table.admit(Ipv4Addr::LOCALHOST.into()).unwrap();
    let socket = Socket::new(listener.accept().await.unwrap().0, Arc::clone(open.connection())).unwrap();
    open.connection().mark(trust);
    socket.bound_sending().unwrap();
    (client, socket, open)
}

/// Writes until the client would have to read. Returns the number of bytes.
async fn fill(socket: &mut Socket) -> usize {
    let mut written = 0;
    while let Poll::Ready(count) = futures::poll!(Box::pin(socket.write(&[0; 16 * 1024]))) {
        written += count.unwrap();
    }
    written
}

/// Reads from the client until the socket can write one more byte.
async fn read_on(client: &mut TcpStream, socket: &mut Socket) {
    let read = async {
        let mut buffer = [0; 4096];
        loop {
            client.read_exact(&mut buffer).await.unwrap();
        }
    };
    let write = socket.write_all(&[0]);
    tokio::select! {
        written = tokio::time::timeout(TIMEOUT, write) => written.unwrap().unwrap(),
        () = read => {}
    }
}

async fn is_blocked(activity: &Activity) -> bool {
    tokio::time::timeout(Duration::from_millis(50), activity.stalled_for(|| Duration::ZERO)).await.is_ok()
}

fn user_timeout(socket: &Socket) -> Option<Duration> {
    SockRef::from(&socket.stream).tcp_user_timeout().unwrap()
}

#[tokio::test]
async fn the_kernel_buffers_little_unread_data() {
    for trust in [Trust::Anonymous, Trust::Authenticated, Trust::ApiServer] {
        let (_client, mut socket, _open) = pair(trust).await;
        let written = fill(&mut socket).await;
        assert!(written <= 160 * 1024, "{trust:?}: {written} bytes");
    }
}

#[tokio::test]
async fn the_send_buffer_is_fixed_for_all_clients_except_kube_apiserver() {
    let (_client, socket, _open) = pair(Trust::Authenticated).await;
    assert_eq!(SockRef::from(&socket.stream).send_buffer_size().unwrap(), 2 * SEND_BUFFER_BYTES);
    let (_client, socket, _open) = pair(Trust::ApiServer).await;
    assert_ne!(SockRef::from(&socket.stream).send_buffer_size().unwrap(), 2 * SEND_BUFFER_BYTES);
}

#[tokio::test]
async fn the_receive_buffer_is_small_until_kube_apiserver_is_recognized() {
    const LOOPBACK_SEGMENT: usize = 64 * 1024;
    let size = |socket: &Socket| SockRef::from(&socket.stream).recv_buffer_size().unwrap();
    let (mut client, mut socket, open) = pair(Trust::Anonymous).await;
    for trust in [Trust::Anonymous, Trust::Authenticated] {
        open.connection().mark(trust);
        client.write_all(b"x").await.unwrap();
        socket.read_u8().await.unwrap();
        assert_eq!(size(&socket), 2 * RECEIVE_BUFFER_BYTES, "{trust:?}");
    }
    open.connection().mark(Trust::ApiServer);
    client.write_all(b"x").await.unwrap();
    socket.read_u8().await.unwrap();
    // With less, the client waits for a delayed acknowledgement after each segment.
    assert!(size(&socket) >= 2 * 2 * LOOPBACK_SEGMENT);
}

/// The kernel would count the time in which a client with a small window reads a large segment piece by piece.
#[tokio::test]
async fn the_kernel_does_not_end_connections_whose_client_reads() {
    for trust in [Trust::Anonymous, Trust::Authenticated, Trust::ApiServer] {
        let (mut client, mut socket, _open) = pair(trust).await;
        fill(&mut socket).await;
        socket.unblocked = Instant::now() - USER_TIMEOUT;
        socket.flush().await.unwrap();
        assert_eq!(user_timeout(&socket), None, "{trust:?}: a write waits");
        read_on(&mut client, &mut socket).await;
        socket.flush().await.unwrap();
        assert_eq!(user_timeout(&socket), None, "{trust:?}: a write waited a moment ago");
    }
}

#[tokio::test]
async fn disappeared_clients_are_detected() {
    let (_client, socket, _open) = pair(Trust::Anonymous).await;
    let options = SockRef::from(&socket.stream);
    assert!(options.keepalive().unwrap());
    assert_eq!(options.tcp_keepalive_time().unwrap(), Duration::from_secs(30));
}

/// Without it, the kernel retransmits for 15 minutes and sends no keepalive probes in the meantime.
#[tokio::test]
async fn clients_that_disappear_with_unacknowledged_data_are_detected() {
    let (mut client, mut socket, _open) = pair(Trust::Anonymous).await;
    socket.write_all(&[0]).await.unwrap();
    socket.unblocked = Instant::now() - USER_TIMEOUT;
    socket.flush().await.unwrap();
    assert_eq!(user_timeout(&socket), Some(USER_TIMEOUT));
    fill(&mut socket).await;
    assert_eq!(user_timeout(&socket), None, "Activity decides whether the client reads");
    read_on(&mut client, &mut socket).await;
    socket.unblocked = Instant::now() - USER_TIMEOUT;
    socket.flush().await.unwrap();
    assert_eq!(user_timeout(&socket), Some(USER_TIMEOUT));
}

#[tokio::test]
async fn a_client_that_resumes_reading_unblocks_the_connection() {
    let (mut client, mut socket, open) = pair(Trust::Anonymous).await;
    let activity = open.connection().activity();
    fill(&mut socket).await;
    assert!(is_blocked(activity).await);
    read_on(&mut client, &mut socket).await;
    assert!(!is_blocked(activity).await);
}

/// The client gets a reset instead of the rest of the response.
#[tokio::test]
async fn a_blocked_connection_that_is_closed_leaves_nothing_in_the_kernel() {
    let (mut client, mut socket, _open) = pair(Trust::Anonymous).await;
    let written = fill(&mut socket).await;
    drop(socket);
    let mut rest = Vec::new();
    let outcome = tokio::time::timeout(TIMEOUT, client.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(rest.len() < written, "all {written} bytes arrived");
}

/// After the connection is closed, kube-apiserver has as long to read the rest as before.
#[tokio::test]
async fn closing_waits_until_the_client_has_read_the_response() {
    for trust in [Trust::Anonymous, Trust::Authenticated, Trust::ApiServer] {
        let (_client, socket, _open) = pair(trust).await;
        let kept = SockRef::from(&socket.stream).try_clone().unwrap();
        drop(socket);
        assert_eq!(kept.tcp_user_timeout().unwrap(), Some(stall_timeout(trust)), "{trust:?}");
    }
}
