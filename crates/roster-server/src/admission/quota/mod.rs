//! Quota admission: limits how many namespaces a user owns, and lets requests wait until quota is enforced and large
//! enough.
//!
//! ```text
//!  namespaces      enforcement ──┬──▶ seen      what kube-apiserver has seen
//!                  hints ────────┘
//!                    └──▶ request               reviews, and what they add to usage
//! ```

pub mod enforcement;
pub mod hints;
pub mod namespaces;
pub mod request;
pub mod seen;
