//! Writes LDIF: users as inetOrgPerson, groups as groupOfMembers.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use base64::prelude::{BASE64_STANDARD, Engine};

use super::record::{Record, Writer};
use crate::rules::Kind;

/// Maximum length of a line in bytes. Longer ones are folded.
const MAX_LINE_BYTES: usize = 76;

/// Writes groups after users, because in LDIF, groups list their members. Keeps the groups and usernames until then.
pub(super) struct Ldif<W> {
    out: W,
    base: String,
    groups: BTreeMap<String, Group>,
    /// Usernames by User name, where they differ. Groups refer to Users by name.
    usernames: BTreeMap<String, String>,
}

#[derive(Default)]
struct Group {
    accepts_declared: bool,
    description: String,
    members: BTreeSet<String>,
    users: Vec<String>,
}

impl<W: Write> Ldif<W> {
    pub(super) fn new(out: W, base: &str) -> Self {
        Self { out, base: base.to_owned(), groups: BTreeMap::new(), usernames: BTreeMap::new() }
    }

    fn person_dn(&self, username: &str) -> String {
        format!("uid={},ou=people,{}", escaped(username), self.base)
    }

    fn group_dn(&self, name: &str) -> String {
        format!("cn={},ou=groups,{}", escaped(name), self.base)
    }

    fn user(&mut self, record: Record<'_>) -> io::Result<()> {
        let dn = self.person_dn(record.username());
        if record.username() != record.name() {
            self.usernames.insert(record.name().to_owned(), record.username().to_owned());
        }
        // LDIF lists actual members, so memberships that the group has not accepted are not written.
        for group in record.list("groups") {
            if let Some(group) = self.groups.get_mut(group).filter(|group| group.accepts_declared) {
                group.members.insert(dn.clone());
            }
        }
        let out = &mut self.out;
        attribute(out, "dn", &dn)?;
        attribute(out, "objectClass", "inetOrgPerson")?;
        attribute(out, "uid", record.username())?;
        // `cn` and `sn` are required: use the username if the user has no name.
        let or_username = |field: &str| if field.is_empty() { record.username().to_owned() } else { field.to_owned() };
        attribute(out, "cn", &or_username(record.spec("displayName")))?;
        attribute(out, "sn", &or_username(record.spec("lastName")))?;
        attribute(out, "givenName", record.spec("firstName"))?;
        attribute(out, "mail", record.spec("email"))?;
        for email in record.list("additionalEmails") {
            attribute(out, "mail", email)?;
        }
        attribute(out, "mobile", record.spec("mobile"))?;
        attribute(out, "preferredLanguage", record.spec("language"))?;
        if !record.spec("preferredShell").is_empty() {
            // Of the standard classes, only posixAccount allows loginShell, and it requires a UID and a home directory.
            attribute(out, "objectClass", "extensibleObject")?;
            attribute(out, "loginShell", record.spec("preferredShell"))?;
        }
        if matches!(record.spec("state"), "Disabled" | "Banned") {
            attribute(out, "pwdAccountLockedTime", "000001010000Z")?;
        }
        if let Some(hash) = record.hash {
            let scheme = if hash.starts_with("$argon2") { "{ARGON2}" } else { "{CRYPT}" };
            attribute(out, "userPassword", &format!("{scheme}{hash}"))?;
        }
        out.write_all(b"\n")
    }
}

impl<W: Write> Writer for Ldif<W> {
    fn begin(&mut self) -> io::Result<()> {
        self.out.write_all(b"version: 1\n\n")
    }

    fn record(&mut self, record: Record<'_>) -> io::Result<()> {
        if record.kind == Kind::User {
            return self.user(record);
        }
        let users = record.list("members").map(str::to_owned).collect();
        let nested: Vec<String> = record.list("memberGroups").map(|group| self.group_dn(group)).collect();
        let description = record.spec("description").to_owned();
        let accepts_declared = record.object["spec"]["acceptDeclaredMembers"] == true;
        let group = self.groups.entry(record.name().to_owned()).or_default();
        group.accepts_declared = accepts_declared;
        group.description = description;
        group.users = users;
        group.members.extend(nested);
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        for (name, mut group) in std::mem::take(&mut self.groups) {
            for user in &group.users {
                let dn = self.person_dn(self.usernames.get(user).unwrap_or(user));
                group.members.insert(dn);
            }
            let dn = self.group_dn(&name);
            let out = &mut self.out;
            attribute(out, "dn", &dn)?;
            attribute(out, "objectClass", "groupOfMembers")?;
            attribute(out, "cn", &name)?;
            attribute(out, "description", &group.description)?;
            for member in &group.members {
                attribute(out, "member", member)?;
            }
            out.write_all(b"\n")?;
        }
        self.out.flush()
    }
}

/// Escapes a value for a distinguished name (RFC 4514). Usernames and group names contain no other special characters.
fn escaped(value: &str) -> String {
    value.replace('+', "\\+")
}

/// Writes an attribute, folded and, if necessary, base64-encoded. Skips empty values.
pub(crate) fn attribute(out: &mut impl Write, name: &str, value: &str) -> io::Result<()> {
    if value.is_empty() {
        return Ok(());
    }
    let is_safe = value.bytes().all(|byte| (0x20..0x7f).contains(&byte))
        && !value.starts_with([' ', ':', '<'])
        && !value.ends_with(' ');
    let line = if is_safe { format!("{name}: {value}") } else { format!("{name}:: {}", BASE64_STANDARD.encode(value)) };
    for (index, part) in line.as_bytes().chunks(MAX_LINE_BYTES).enumerate() {
        out.write_all(if index == 0 { b"" } else { b" " })?;
        out.write_all(part)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}
