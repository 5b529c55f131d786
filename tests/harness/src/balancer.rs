//! TCP load balancer: one address in front of several operators, like a Service.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A TCP load balancer on loopback. It sends each connection to the next backend that accepts it.
#[derive(Clone, Debug)]
pub struct Balancer {
    /// Port that it listens on.
    pub port: u16,
    backends: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Balancer {
    /// Starts a balancer without backends. Its threads run until this process ends.
    ///
    /// # Errors
    /// If no port can be bound.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let balancer = Self { port: listener.local_addr()?.port(), backends: Arc::default() };
        let backends = Arc::clone(&balancer.backends);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Some(server) = connect(&backends) else { continue };
                let _ = relay(client, server);
            }
        });
        Ok(balancer)
    }

    /// Adds a backend.
    pub fn add(&self, backend: SocketAddr) {
        self.backends.lock().unwrap_or_else(PoisonError::into_inner).push(backend);
    }

    /// Removes a backend.
    pub fn remove(&self, backend: SocketAddr) {
        self.backends.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| *other != backend);
    }
}

fn connect(backends: &Mutex<Vec<SocketAddr>>) -> Option<TcpStream> {
    let mut backends = backends.lock().unwrap_or_else(PoisonError::into_inner);
    if !backends.is_empty() {
        backends.rotate_left(1);
    }
    backends.iter().find_map(|backend| TcpStream::connect_timeout(backend, Duration::from_secs(1)).ok())
}

/// Copies bytes in both directions, in threads, until both sides have closed the connection.
pub(crate) fn relay(client: TcpStream, server: TcpStream) -> io::Result<()> {
    // Like a Service, do not delay small packets.
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    for (mut from, mut to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
    Ok(())
}
