//! The aggregated API `directory.roster.dev/v1alpha1`, on every replica: queries over the directory, and the actions on
//! credentials that must not pass through etcd.
//!
//! ```text
//!  server: routes ─▶ authenticate (front_proxy, identity) ─▶ limits ─▶ users, groups, assignments, reviews, profile
//!                                                              │ authorize
//!                    params, negotiate, pages ─▶ list, watch ──┘─▶ render ─▶ bytes
//!                    discovery, openapi: what there is           status: errors
//!
//!          ─▶ logins, bearers ──────────▶ crate::logins          everybody
//!          ─▶ authenticate ─▶ passwords, api_keys, totp ─▶ crate::logins, the guard
//! ```

pub mod api_keys;
pub mod assignments;
pub mod authenticate;
pub mod authorize;
pub mod bearers;
pub mod confirm;
pub mod discovery;
pub mod front_proxy;
#[doc(hidden)]
pub mod fuzzing;
pub mod groups;
pub mod identity;
pub mod limits;
pub mod list;
pub mod logins;
pub mod negotiate;
pub mod openapi;
pub mod pages;
pub mod params;
pub mod passwords;
pub mod profile;
pub mod rename;
pub mod render;
pub mod resource;
pub mod reviews;
pub mod server;
pub mod source;
pub mod status;
pub mod totp;
pub mod users;
pub mod watch;
