//! Quota admission: limits how many namespaces a user owns, and lets requests wait until quota is enforced and large
//! enough.
//!
//! ```text
//!  namespaces      enforcement ──┬──▶ seen        what kube-apiserver has seen
//!                  hints ────────┤
//!                    │           └──▶ permits     how many requests wait
//!                    └──▶ request ─▶ defaults     reviews: what they add to usage, and what their containers lack
//! ```

pub mod defaults;
pub mod enforcement;
pub mod hints;
pub mod namespaces;
pub mod permits;
pub mod request;
pub mod seen;
