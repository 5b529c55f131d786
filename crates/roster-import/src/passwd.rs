//! `/etc/passwd`, and `/etc/group` and `/etc/shadow` beside it.

use std::collections::HashMap;

use super::draft::{Input, Person, Place, Team};
use super::ldif::end_of;
use super::text::{lines, take_password};

/// The nobody of most systems, who has a high number and is no person.
const NOBODY: u32 = 65_534;

/// Reads the files. Accounts below `min_uid` are those of the system itself and are passed over.
pub(super) fn read(passwd: &[u8], group: Option<&[u8]>, shadow: Option<&[u8]>, min_uid: u32) -> Input {
    let mut input = Input::default();
    let mut known = Known::default();
    for (place, line) in lines(passwd, 0) {
        match line.and_then(|line| account(place, line, min_uid)) {
            Ok(Some((person, number))) => {
                known.names.insert(person.login().to_owned(), input.people.len());
                known.primary.entry(number).or_default().push(input.people.len());
                input.people.push(person);
            }
            Ok(None) => {}
            Err(reason) => input.reject(place, reason),
        }
    }
    for (place, line) in lines(shadow.unwrap_or_default(), 2) {
        if let Err(reason) = line.and_then(|line| aged(line, &known, &mut input)) {
            input.reject(place, reason);
        }
    }
    for (place, line) in lines(group.unwrap_or_default(), 1) {
        if let Err(reason) = line.and_then(|line| team(place, line, &known, &mut input)) {
            input.reject(place, reason);
        }
    }
    input
}

#[derive(Default)]
struct Known {
    names: HashMap<String, usize>,
    primary: HashMap<u32, Vec<usize>>,
}

/// `name:password:uid:gid:gecos:home:shell`
fn account(place: Place, line: &str, min_uid: u32) -> Result<Option<(Person, u32)>, String> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, password, uid, gid, gecos, _home, shell] = fields[..] else {
        return Err("must have the seven fields of /etc/passwd".to_owned());
    };
    let number =
        |text: &str| text.parse::<u32>().map_err(|_| "the numbers of user and group must be numbers".to_owned());
    let (uid, gid) = (number(uid)?, number(gid)?);
    if uid < min_uid || uid == NOBODY {
        return Ok(None);
    }
    let mut person = Person::new(place, name);
    // The other parts are room and telephone numbers, in whatever form.
    person.set("displayName", gecos.split(',').next().unwrap_or_default());
    if !shell.ends_with("/nologin") && !shell.ends_with("/false") {
        person.set("preferredShell", shell);
    }
    set_password(&mut person, password);
    Ok(Some((person, gid)))
}

/// `name:password:changed:min:max:warn:inactive:expires:`
fn aged(line: &str, known: &Known, input: &mut Input) -> Result<(), String> {
    let fields: Vec<&str> = line.split(':').collect();
    if fields.len() != 9 {
        return Err("must have the nine fields of /etc/shadow".to_owned());
    }
    if let Some(person) = known.names.get(fields[0]).and_then(|index| input.people.get_mut(*index)) {
        set_password(person, fields[1]);
        if let Some(end) = end_of(fields[7]) {
            person.set("validity.notAfter", end);
        }
    }
    Ok(())
}

/// `x` stands for /etc/shadow, `*` for none, and an exclamation mark before the hash for a locked account.
fn set_password(person: &mut Person, field: &str) {
    let hash = field.trim_start_matches('!');
    if hash.len() < field.len() && !hash.is_empty() && hash != "*" {
        person.set("state", "Disabled");
    }
    if !matches!(hash, "" | "*" | "x" | "NP" | "*LK*") {
        take_password(person, hash);
    }
}

/// `name:password:gid:members`
fn team(place: Place, line: &str, known: &Known, input: &mut Input) -> Result<(), String> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _password, gid, members] = fields[..] else {
        return Err("must have the four fields of /etc/group".to_owned());
    };
    let gid = gid.parse::<u32>().map_err(|_| "the number of the group must be a number".to_owned())?;
    let primary = known.primary.get(&gid).map(Vec::as_slice).unwrap_or_default();
    // The private group that many systems make for each account says nothing.
    let is_private = members.is_empty() && primary.iter().all(|index| input.people[*index].login() == name);
    if is_private {
        return Ok(());
    }
    // Members that the main file does not have are accounts of the system itself.
    let named = members.split(',').map(str::trim).filter(|member| !member.is_empty());
    let mut people: Vec<usize> = primary.to_vec();
    people.extend(named.filter_map(|member| known.names.get(member)));
    if people.is_empty() {
        return Ok(());
    }
    for index in people {
        input.people[index].add("groups", name);
    }
    input.teams.push(Team::new(place, name));
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
    fn the_three_files_go_together() {
        let input = read(PASSWD, Some(GROUP), Some(SHADOW), 1000);
        let names: Vec<&str> = input.people.iter().map(Person::login).collect();
        assert_eq!(names, ["ada", "bob"]);
        let [ada, bob] = &input.people[..] else { panic!("two people") };
        assert_eq!(ada.spec["displayName"], "Ada Lovelace");
        assert_eq!(ada.spec["validity"], json!({"notAfter": "2024-10-04T00:00:00Z"}));
        assert_eq!(ada.spec["groups"], json!(["math"]));
        let Some(Credential::Hash(hash)) = &ada.credential else { panic!("a hash") };
        assert_eq!(hash.expose_secret(), "$y$j9T$x$y");
        assert_eq!((bob.spec["state"].as_str(), bob.spec.get("preferredShell")), (Some("Disabled"), None));
        assert_eq!(bob.spec["groups"], json!(["users", "math"]));
        assert_eq!(input.teams.iter().map(|team| team.name.as_str()).collect::<Vec<_>>(), ["users", "math"]);
        assert_eq!(input.rejected, [Rejected::line(Place::line(5), "must have the seven fields of /etc/passwd")]);
    }
}
