//! Ports for servers that tests start.

use std::net::{Ipv4Addr, TcpListener};

/// Returns a loopback port that is currently free.
///
/// # Errors
/// If no port can be bound.
pub fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
