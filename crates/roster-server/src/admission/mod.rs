//! Admission: what CEL can't do. Served by every replica on the TLS port.

pub mod access;
pub mod guard;
pub mod password_secret;
mod plaintext;
pub mod quota;
pub mod review;
pub mod server;
