//! Handlers of the aggregated API, one file per resource.

pub(super) mod api_keys;
pub(super) mod assignments;
pub(super) mod bearers;
pub(super) mod groups;
pub(super) mod logins;
pub(super) mod passwords;
pub(super) mod profile;
pub(super) mod rename;
pub(super) mod reviews;
pub(super) mod totp;
pub(super) mod users;
