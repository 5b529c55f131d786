//! Reads `/etc/passwd`, with `/etc/group` and `/etc/shadow`.

use std::collections::HashMap;

use super::draft::{GroupDraft, Input, Place, SourceId, UserDraft};
use super::expiry::{self, days};
use super::text::{NotUtf8, lines, take_password};

/// UID of the account `nobody` on most systems.
const NOBODY: u32 = 65_534;

/// A line that can't be read.
#[derive(Debug, thiserror::Error)]
enum LineError {
    #[error(transparent)]
    NotUtf8(#[from] NotUtf8),
    #[error("must have the {count} fields of {file}")]
    Fields { count: &'static str, file: &'static str },
    #[error("the UID and GID must be numbers")]
    Id,
}

/// Reads the files. Skips system accounts, which have a UID below `min_uid`.
pub(super) fn read(passwd: &[u8], group: Option<&[u8]>, shadow: Option<&[u8]>, min_uid: u32) -> Input {
    let mut input = Input::default();
    let mut accounts = Accounts::default();
    for (place, line) in lines(passwd, 0) {
        match line.map_err(LineError::from).and_then(|line| account(place, line, min_uid)) {
            Ok(Some(Account { user, gid })) => {
                accounts.by_name.insert(user.login().to_owned(), input.users.len());
                accounts.by_gid.entry(gid).or_default().push(input.users.len());
                input.add_user(user);
            }
            Ok(None) => {}
            Err(error) => input.reject(place, error.to_string()),
        }
    }
    for (place, line) in lines(shadow.unwrap_or_default(), 2) {
        let result = line.map_err(LineError::from).and_then(|line| read_shadow(place, line, &accounts, &mut input));
        if let Err(error) = result {
            input.reject(place, error.to_string());
        }
    }
    input.describes_memberships = group.is_some();
    for (place, line) in lines(group.unwrap_or_default(), 1) {
        let result = line.map_err(LineError::from).and_then(|line| read_group(place, line, &accounts, &mut input));
        if let Err(error) = result {
            input.unclear.others = true;
            input.reject(place, error.to_string());
        }
    }
    input
}

/// Indexes of users in [`Input::users`], by name and by primary group.
#[derive(Default)]
struct Accounts {
    by_name: HashMap<String, usize>,
    by_gid: HashMap<u32, Vec<usize>>,
}

struct Account {
    user: UserDraft,
    /// Primary group.
    gid: u32,
}

fn id(text: &str) -> Result<u32, LineError> {
    text.parse().map_err(|_| LineError::Id)
}

/// Reads `name:password:uid:gid:gecos:home:shell`. Returns `None` for system accounts.
fn account(place: Place, line: &str, min_uid: u32) -> Result<Option<Account>, LineError> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, password, uid, gid, gecos, _home, shell] = fields[..] else {
        return Err(LineError::Fields { count: "seven", file: "/etc/passwd" });
    };
    let (uid, gid) = (id(uid)?, id(gid)?);
    if uid < min_uid || uid == NOBODY {
        return Ok(None);
    }
    let mut user = UserDraft::new(place, name);
    // The other parts of the GECOS field are room and telephone numbers, without a fixed format.
    user.set("displayName", gecos.split(',').next().unwrap_or_default());
    if !shell.ends_with("/nologin") && !shell.ends_with("/false") {
        user.set("preferredShell", shell);
    }
    set_password(&mut user, password);
    Ok(Some(Account { user, gid }))
}

/// Reads `name:password:changed:min:max:warn:inactive:expires:` into the user of that name.
fn read_shadow(place: Place, line: &str, accounts: &Accounts, input: &mut Input) -> Result<(), LineError> {
    let fields: Vec<&str> = line.split(':').collect();
    if fields.len() != 9 {
        return Err(LineError::Fields { count: "nine", file: "/etc/shadow" });
    }
    if let Some(user) = accounts.by_name.get(fields[0]).and_then(|index| input.users.get_mut(*index)) {
        set_password(user, fields[1]);
        // The day of the last change is 0 if the password must be changed at the next login.
        if fields[2] == "0" {
            user.set("requirePasswordChange", true);
        }
        match days(fields[7]) {
            Ok(time) => user.set("validity.notAfter", time.map(expiry::text)),
            Err(error) => user.fault("expires", format!("{error} (line {} of /etc/shadow)", place.line)),
        }
    }
    Ok(())
}

/// Sets the password from a field of `/etc/passwd` or `/etc/shadow`: `x` refers to `/etc/shadow`, `*` means no password, and
/// `!` before the hash means that the account is locked.
fn set_password(person: &mut UserDraft, field: &str) {
    let hash = field.trim_start_matches('!');
    if hash.len() < field.len() && !hash.is_empty() && hash != "*" {
        person.set("state", "Disabled");
    }
    if !matches!(hash, "" | "*" | "x" | "NP" | "*LK*") {
        take_password(person, hash);
    }
}

/// Reads `name:password:gid:members`. Skips private groups and groups without imported members.
fn read_group(place: Place, line: &str, accounts: &Accounts, input: &mut Input) -> Result<(), LineError> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _password, gid, members] = fields[..] else {
        return Err(LineError::Fields { count: "four", file: "/etc/group" });
    };
    let primary = accounts.by_gid.get(&id(gid)?).map(Vec::as_slice).unwrap_or_default();
    // Many systems create a group for each account, with that account as its only member.
    let is_private = members.is_empty() && primary.iter().all(|index| input.users[*index].login() == name);
    if is_private {
        return Ok(());
    }
    // Members that were not imported are system accounts.
    let named = members.split(',').map(str::trim).filter(|member| !member.is_empty());
    let mut indexes: Vec<usize> = primary.to_vec();
    indexes.extend(named.filter_map(|member| accounts.by_name.get(member)));
    if indexes.is_empty() {
        return Ok(());
    }
    let group = GroupDraft::new(place, SourceId::new("unix", name), name);
    for index in indexes {
        input.users[index].join(group.reference());
    }
    input.groups.push(group);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::{Credential, Rejected};
    use secrecy::ExposeSecret;
    use serde_json::json;

    const PASSWD: &[u8] =
        b"root:x:0:0:root:/root:/bin/bash\nada:x:1000:1000:Ada Lovelace,Room 1,,:/home/ada:/bin/zsh\n\
        bob:!$2b$10$hash:1001:100::/home/bob:/usr/sbin/nologin\nnobody:x:65534:65534::/:/usr/sbin/nologin\nshort:x\n";
    const GROUP: &[u8] = b"root:x:0:\nada:x:1000:\nusers:x:100:\nmath:x:2000:ada,bob,root\nempty:x:2001:\n";
    const SHADOW: &[u8] = b"root:*:19000:0:99999:7:::\nada:$y$j9T$x$y:19000:0:99999:7::20000:\n";

    #[test]
    fn case_a5_the_shadow_file_says_who_must_change_the_password_and_whose_expiry_is_unclear() {
        let passwd = b"ada:x:1000:1000::/:/bin/sh\nbob:x:1001:1001::/:/bin/sh\ncyd:x:1002:1002::/:/bin/sh\n";
        let shadow = b"ada:*:0:0:99999:7:::\nbob:*:19000:0:99999:7::0:\ncyd:*:19000:0:99999:7::soon:\n";
        let input = read(passwd, None, Some(shadow), 1000);
        let [ada, bob, cyd] = &input.users[..] else { panic!("three users") };
        assert_eq!((&ada.spec["requirePasswordChange"], &ada.faults[..]), (&true.into(), &[][..]));
        assert!(bob.faults[0].reason.contains("0 is ambiguous: it means never to some systems"), "{:?}", bob.faults);
        assert!(bob.faults[0].reason.ends_with("(line 2 of /etc/shadow)"), "{:?}", bob.faults);
        assert!(cyd.faults[0].reason.starts_with("must be a number of days"), "{:?}", cyd.faults);
    }

    #[test]
    fn the_three_files_are_combined() {
        let input = read(PASSWD, Some(GROUP), Some(SHADOW), 1000);
        let names: Vec<&str> = input.users.iter().map(UserDraft::login).collect();
        assert_eq!(names, ["ada", "bob"]);
        let [ada, bob] = &input.users[..] else { panic!("two users") };
        assert_eq!(ada.spec["displayName"], "Ada Lovelace");
        assert_eq!(ada.spec["validity"], json!({"notAfter": "2024-10-04T00:00:00Z"}));
        assert_eq!(ada.group_names(), ["math"]);
        let Some(Credential::Hash(hash)) = &ada.credential else { panic!("a hash") };
        assert_eq!(hash.expose_secret(), "$y$j9T$x$y");
        assert_eq!((bob.spec["state"].as_str(), bob.spec.get("preferredShell")), (Some("Disabled"), None));
        assert_eq!(bob.group_names(), ["users", "math"]);
        assert_eq!(input.groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>(), ["users", "math"]);
        assert_eq!(input.rejected, [Rejected::line(Place::line(5), "must have the seven fields of /etc/passwd")]);
    }
}
