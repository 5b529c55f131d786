//! Detects that the key by which a watch selects a User has come to stand for another User.

use std::collections::BTreeMap;

use super::identity::Caller;
use super::state::DirectoryApi;
use super::target::keyed;

/// A key, and the Users that it stood for when the watch began.
#[derive(Debug)]
pub struct SelectedKey {
    key: String,
    /// UID by name, without a User whose name is the key: the query selects that name in any case.
    users: BTreeMap<String, String>,
}

impl SelectedKey {
    /// Resolves the key.
    pub fn new(api: &DirectoryApi, caller: &Caller, key: String) -> Self {
        let users = users(api, caller, &key);
        Self { key, users }
    }

    /// Returns the key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns whether the key stands for other Users now. The deletion of a User does not count: watchers get an
    /// event.
    pub fn has_moved(&self, api: &DirectoryApi, caller: &Caller) -> bool {
        let now = users(api, caller, &self.key);
        if now.is_empty() {
            let directory = api.informers.directory();
            let exists = |(name, uid): (&String, &String)| directory.user(name).is_some_and(|user| user.uid == *uid);
            return self.users.iter().any(exists);
        }
        now != self.users
    }
}

fn users(api: &DirectoryApi, caller: &Caller, key: &str) -> BTreeMap<String, String> {
    let directory = api.informers.directory();
    let names = keyed(api, &directory, caller, key).into_iter().filter(|name| name != key);
    names.filter_map(|name| directory.user(&name).map(|user| user.uid.clone()).map(|uid| (name, uid))).collect()
}
