//! `kubectl roster whoami`.

use anyhow::Result;
use serde_json::Value;

use super::client::path_of;
use super::global::Global;
use super::output::{at, table};

/// Displayed attributes and the JSON pointers to their values.
const ATTRIBUTES: &[(&str, &str)] = &[
    ("Name", "/metadata/name"),
    ("Username", "/status/username"),
    ("UID", "/metadata/uid"),
    ("State", "/status/state"),
    ("Groups", "/status/groups"),
    ("Roles", "/status/roles"),
    ("Last login", "/status/lastLoginTime"),
    ("Second factor", "/status/secondFactorEnabled"),
    ("Password expires", "/status/passwordExpiresTime"),
];

pub(super) async fn execute(global: &Global) -> Result<()> {
    let user = global.connection.directory().await?.get(&path_of(None, &[])?).await?;
    global.output.print(&user, || describe(&user))
}

fn describe(user: &Value) -> String {
    let row = |(name, pointer): &(&str, &str)| [(*name).to_owned(), at(user, pointer)];
    let rows: Vec<_> = ATTRIBUTES.iter().map(row).collect();
    table(["ATTRIBUTE", "VALUE"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_attribute_is_one_line() {
        let user = json!({"metadata": {"name": "jane", "uid": "1"}, "status": {"username": "jane.doe",
            "state": "Active", "groups": ["a", "b"], "roles": ["ClusterRole/edit"], "secondFactorEnabled": true}});
        let text = describe(&user);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), ATTRIBUTES.len() + 1);
        assert_eq!(lines[1], "Name               jane");
        assert_eq!(lines[5], "Groups             a, b");
        assert_eq!(lines[9], "Password expires   <none>");
    }
}
