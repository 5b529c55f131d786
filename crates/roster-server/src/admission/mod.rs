//! Admission webhooks for checks that CEL cannot express. Every replica serves them on the TLS port.

pub mod access;
pub mod guard;
pub mod limits;
pub mod password_secret;
pub mod password_shares;
mod plaintext;
pub mod quantities;
pub mod quota;
pub mod review;
pub mod review_origin;
pub mod server;
