//! Handlers of the aggregated API, one file per resource.

pub mod api_keys;
pub mod assignments;
pub mod bearers;
pub mod groups;
pub mod logins;
pub mod passwords;
pub mod profile;
pub mod rename;
pub mod reviews;
pub mod totp;
pub mod users;
