//! The aggregated API `directory.roster.dev/v1alpha1`, served by every replica: directory queries, and changes to
//! credentials that must not pass through etcd.
//!
//! ```text
//!  router: routes ─▶ authenticate (front_proxy, identity) ─▶ limits ─▶ users, groups, assignments, reviews, profile
//!                                                              │ authorize
//!                    params, negotiate, pages ─▶ list, watch ──┘─▶ render ─▶ bytes
//!                    discovery, openapi: API description         status: errors
//!
//!          ─▶ logins, bearers ──────────▶ roster_runtime::logins          all callers
//!          ─▶ authenticate ─▶ passwords, api_keys, totp ─▶ roster_runtime::logins, the guard
//! ```

pub mod authenticate;
pub mod authorize;
mod body;
mod collection;
pub mod confirm;
mod control;
mod delegation;
pub mod discovery;
pub mod front_proxy;
#[doc(hidden)]
pub mod fuzzing;
mod handlers;
pub mod identity;
pub mod limits;
pub mod list;
pub mod negotiate;
mod object;
mod open_credential;
pub mod openapi;
pub mod pages;
pub mod params;
pub mod permit_holder;
mod read_only;
pub mod render;
pub mod resource;
mod revision;
pub mod router;
mod selected_key;
pub mod source;
pub mod state;
pub mod status;
mod target;
mod undoing;
pub mod watch;
