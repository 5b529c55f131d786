//! Quotas: what a user may use in total, over all namespaces that they own. Pure logic.
//!
//! ```text
//!              usage     what an object uses
//!                │
//!  limits ──▶ amount ◀── defaults, allot      declared limits; container defaults;
//!                ▲                            distribution of a limit over namespaces
//!            allotment   the ResourceQuota of a namespace
//! ```

pub mod allot;
pub mod allotment;
pub mod amount;
pub mod countable;
pub mod defaults;
pub mod limits;
pub mod usage;
