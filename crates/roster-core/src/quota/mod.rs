//! Quotas: what a user may use over all namespaces that they own. Pure.
//!
//! ```text
//!              usage     what an object counts for
//!                │
//!  limits ──▶ amount ◀── defaults, allot      who may have how much; what a container gets that states nothing;
//!                ▲                            how a limit is shared out
//!            allotment   what a namespace has
//! ```

pub mod allot;
pub mod allotment;
pub mod amount;
pub mod countable;
pub mod defaults;
pub mod limits;
pub mod usage;
