//! Reads group memberships, which refer to users and groups by DN, username or GID.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::dn::{Dn, DnError};
use super::parser::{Attribute, Range, Record};
use crate::draft::{GroupDraft, GroupRef, Input, Place, Rejected, SourceId, UserDraft};

/// Attributes that list members by DN. Active Directory returns only some of the values if there are many.
pub(super) const MEMBERS: [&str; 2] = ["member", "uniquemember"];

/// Indexes of users and groups in [`Input`].
#[derive(Default)]
pub(super) struct Entries {
    /// Users by normalized DN. Several have one DN only if they are copies of one entry, or if the DNs differ for the server.
    users: HashMap<String, Vec<usize>>,
    /// Users by lower-case username. Two users can have one name in different subtrees.
    usernames: HashMap<String, Vec<usize>>,
    /// Users by the GID of their primary group.
    by_gid: HashMap<String, Vec<usize>>,
    /// Groups by normalized DN.
    groups: HashMap<String, Vec<usize>>,
    /// Groups by GID.
    gids: HashMap<String, Vec<usize>>,
}

/// Refers to a group by its DN.
pub(super) fn reference(dn: &Dn) -> GroupRef {
    GroupRef { id: SourceId::new("ldap", &dn.to_string()), name: dn.name().to_owned() }
}

impl Entries {
    pub(super) fn add_user(&mut self, dn: &Dn, username: &str, record: &Record, index: usize) {
        self.users.entry(dn.to_string()).or_default().push(index);
        self.usernames.entry(username.to_lowercase()).or_default().push(index);
        if let Some(gid) = record.first("gidnumber") {
            self.by_gid.entry(gid.to_owned()).or_default().push(index);
        }
    }

    pub(super) fn add_group(&mut self, dn: &Dn, record: &Record, index: usize) {
        if let Some(gid) = record.first("gidnumber") {
            self.gids.entry(gid.to_owned()).or_default().push(index);
        }
        self.groups.entry(dn.to_string()).or_default().push(index);
    }

    /// Returns the index of the first group with this DN.
    pub(super) fn group(&self, dn: &Dn) -> Option<usize> {
        self.groups.get(&dn.to_string()).map(|groups| groups[0])
    }

    /// Returns the DNs of several different entries, with their users and groups: the server may compare DNs more strictly,
    /// and anyone who may create an entry could otherwise take the memberships of another one. `is_same` says whether two groups
    /// are copies of one entry.
    pub(super) fn ambiguous(
        &self,
        input: &Input,
        is_same: impl Fn(usize, usize) -> bool,
    ) -> Vec<(&str, &[usize], &[usize])> {
        let dns = self.users.keys().chain(self.groups.keys().filter(|dn| !self.users.contains_key(*dn)));
        let all = dns.map(|dn| {
            (
                &**dn,
                self.users.get(dn).map_or(&[][..], Vec::as_slice),
                self.groups.get(dn).map_or(&[][..], Vec::as_slice),
            )
        });
        let mut ambiguous: Vec<_> = all
            .filter(|(_, users, groups)| {
                let content = |index: &usize| input.users[*index].content;
                let is_mixed = !users.is_empty() && !groups.is_empty();
                is_mixed
                    || users.iter().any(|user| content(user) != content(&users[0]))
                    || groups.iter().any(|group| !is_same(*group, groups[0]))
            })
            .collect();
        ambiguous.sort_unstable();
        ambiguous
    }

    /// Reads the members of a group. They can be spread over several records.
    pub(super) fn read_members(&self, index: usize, records: &[&Record], input: &mut Input) {
        let group = input.groups[index].reference();
        for name in MEMBERS {
            if report_missing(name, &group.name, records, input) {
                input.unclear.groups.insert(group.id.clone());
            }
            for member in records.iter().flat_map(|record| record.all(name)) {
                match self.read_member(member, index, &group, input) {
                    Ok(true) => {}
                    Ok(false) => reject_unknown(member, &group.name, input),
                    Err(error) => reject(member, &group.name, error, input),
                }
            }
        }
        let mut claimed = HashSet::new();
        for member in records.iter().flat_map(|record| record.all("memberuid")) {
            match self.usernames.get(&member.value.to_lowercase()).map(Vec::as_slice) {
                Some([person]) => input.users[*person].join(group.clone()),
                Some(people @ [_, ..]) => {
                    if !claimed.insert(member.value.to_lowercase()) {
                        continue;
                    }
                    for person in people {
                        input.users[*person].claimed.push((group.clone(), member.value.clone()));
                    }
                    let reason = format!(
                        "the group {} has the member {}, and several users of this file have that name: only the one who was \
                         imported before with this name is a member",
                        group.name, member.value
                    );
                    input.rejected.push(rejected(member, &group.name, reason));
                }
                _ => reject_unknown(member, &group.name, input),
            }
        }
        for gid in records.iter().filter_map(|record| record.first("gidnumber")) {
            self.read_primary(gid, index, &group, input);
        }
    }

    /// Adds a member to the group. Returns `false` if the member is not in this file.
    fn read_member(
        &self,
        member: &Attribute,
        index: usize,
        group: &GroupRef,
        input: &mut Input,
    ) -> Result<bool, DnError> {
        let dn = member_dn(member)?;
        let people = self.users.get(&dn.to_string());
        for person in people.into_iter().flatten() {
            input.users[*person].join(group.clone());
        }
        if let Some(nested) = self.group(&dn) {
            let nested = input.groups[nested].reference();
            input.groups[index].nest(nested);
        } else if people.is_none() {
            // It may be a group that was imported from another file.
            input.groups[index].unclear.groups.insert(reference(&dn).id);
            return Ok(false);
        }
        Ok(true)
    }

    /// Adds the users whose primary group has this GID, unless several groups have it.
    fn read_primary(&self, gid: &str, index: usize, group: &GroupRef, input: &mut Input) {
        let Some(people) = self.by_gid.get(gid) else { return };
        let is_other = |other: &&usize| input.groups[**other].id != group.id;
        let other = self.gids.get(gid).into_iter().flatten().find(is_other);
        if let Some(other) = other.map(|other| &input.groups[*other]) {
            let reason = format!(
                "the group {} on line {} also has the GID {gid}, so users with this primary group are added to \
                 neither of the groups, and existing Users stay in those that they are in",
                other.name, other.place.line
            );
            let sharing = &self.gids[gid];
            if sharing.first() == Some(&index) {
                let ids: Arc<HashSet<SourceId>> =
                    Arc::new(sharing.iter().map(|other| input.groups[*other].id.clone()).collect());
                for person in people {
                    input.users[*person].unclear.shared.push(Arc::clone(&ids));
                }
            }
            let (place, who) = (input.groups[index].place, group.name.clone());
            input.rejected.push(Rejected { place, who, field: "gidNumber".to_owned(), reason });
            return;
        }
        for person in people {
            input.users[*person].join(group.clone());
        }
    }

    /// Returns the index of a group. Adds the group if it is not in this file.
    pub(super) fn group_or_add(&mut self, dn: &Dn, line: usize, input: &mut Input) -> usize {
        self.groups.entry(dn.to_string()).or_insert_with(|| {
            let GroupRef { id, name } = reference(dn);
            input.groups.push(GroupDraft::new(Place::line(line), id, &name));
            vec![input.groups.len() - 1]
        })[0]
    }

    /// Returns whether the file has exactly one user with this name.
    pub(super) fn is_unique(&self, username: &str) -> bool {
        self.usernames.get(&username.to_lowercase()).is_some_and(|users| users.len() == 1)
    }
}

/// Reads the groups that the entry of a user names. They must be checked when all groups are known.
pub(super) fn read_groups(record: &Record, person: &mut UserDraft) {
    for dn in record.all("memberof").filter_map(|attribute| Dn::parse(&attribute.value).ok()) {
        person.join(reference(&dn));
    }
}

/// Parses the DN of a member.
pub(super) fn member_dn(member: &Attribute) -> Result<Dn, DnError> {
    let parse = if member.name == "uniquemember" { Dn::parse_with_uid } else { Dn::parse };
    parse(&member.value)
}

/// Reports values that the server did not return, and returns whether there are any. Active Directory returns at most 1,500
/// at a time, as `;range=0-1499`.
pub(super) fn report_missing(name: &str, who: &str, records: &[&Record], input: &mut Input) -> bool {
    let Some((next, line)) = missing(name, records) else { return false };
    let attribute = if name == "memberof" { "memberOf" } else { name };
    let field = format!("{attribute};range");
    let reason = format!(
        "{who} has more values than the server returned: append the output of ldapsearch for this entry with the attribute \
         {attribute};range={next}-*, and repeat until it returns a range that ends in *"
    );
    input.rejected.push(Rejected { place: Place::line(line), who: who.to_owned(), field, reason });
    true
}

/// Returns the number of the first value that the server did not return, and the line of the attribute.
pub(super) fn missing(name: &str, records: &[&Record]) -> Option<(u64, usize)> {
    let attributes = records.iter().flat_map(|record| &record.attributes).filter(|attribute| attribute.name == name);
    let mut ranges: Vec<(Range, usize)> =
        attributes.filter_map(|attribute| Some((attribute.range?, attribute.line))).collect();
    ranges.sort_by_key(|(range, _)| range.first);
    let (_, line) = ranges.first().copied()?;
    // `None` once the last value is known.
    let next = ranges.iter().try_fold(0, |next, (range, _)| match range.last {
        Some(last) if range.first <= next => Some(next.max(last.saturating_add(1))),
        None if range.first <= next => None,
        Some(_) | None => Some(next),
    });
    Some((next?, line))
}

pub(super) fn rejected(attribute: &Attribute, who: &str, reason: String) -> Rejected {
    Rejected { place: Place::line(attribute.line), who: who.to_owned(), field: attribute.name.clone(), reason }
}

pub(super) fn reject(attribute: &Attribute, who: &str, error: DnError, input: &mut Input) {
    input.rejected.push(rejected(attribute, who, format!("{error}: {}", attribute.value)));
}

fn reject_unknown(member: &Attribute, group: &str, input: &mut Input) {
    let reason =
        format!("the group {group} has a member that is neither a user nor a group in this file: {}", member.value);
    input.rejected.push(rejected(member, group, reason));
}
