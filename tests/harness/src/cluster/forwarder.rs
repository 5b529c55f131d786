//! Makes a port of a network namespace available on loopback.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::balancer::relay;

/// Forwards connections from a loopback port to an address in a network namespace, until it is dropped.
#[derive(Debug)]
pub(super) struct Forwarder {
    /// The loopback port.
    pub(super) port: u16,
    is_stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Forwards a free port of loopback to `target` in the namespace that the file `namespace` stands for.
    pub(super) fn start(namespace: &Path, target: SocketAddr) -> Result<Self> {
        // A socket stays in the namespace in which it was created: this one in that of the process.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let namespace = File::open(namespace).with_context(|| namespace.display().to_string())?;
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_stopped);
        let (entered, result) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            // Only this thread and the threads that it starts move.
            let moved = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
            let is_inside = moved.is_ok();
            let _ = entered.send(moved);
            if is_inside {
                forward(&listener, target, &stop);
            }
        });
        result.recv()?.context("the node's network namespace can't be entered")?;
        Ok(Self { port, is_stopped, thread: Some(thread) })
    }
}

fn forward(listener: &TcpListener, target: SocketAddr, stop: &AtomicBool) {
    for client in listener.incoming().flatten() {
        if stop.load(Ordering::Acquire) {
            return;
        }
        // Without a server, the client's connection is closed.
        if let Ok(server) = TcpStream::connect(target) {
            let _ = relay(client, server);
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Release);
        // Wakes the thread.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
