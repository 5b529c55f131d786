//! Reads group memberships, which refer to users and groups by DN, username or GID.

use std::collections::HashMap;

use super::dn::{Dn, DnError};
use super::parser::{Attribute, Range, Record};
use crate::draft::{GroupDraft, GroupRef, Input, Place, Rejected, SourceId};

/// Attributes that list members by DN. Active Directory returns only some of the values if there are many.
const MEMBERS: [&str; 2] = ["member", "uniquemember"];

/// Indexes of users and groups in [`Input`].
#[derive(Default)]
pub(super) struct Entries {
    /// Users by normalized DN.
    users: HashMap<String, usize>,
    /// Users by lower-case username. Two users can have one name in different subtrees.
    usernames: HashMap<String, Vec<usize>>,
    /// Users by the GID of their primary group.
    by_gid: HashMap<String, Vec<usize>>,
    /// Groups by normalized DN.
    groups: HashMap<String, usize>,
    /// Groups by GID.
    gids: HashMap<String, Vec<usize>>,
}

/// Refers to a group by its DN.
pub(super) fn reference(dn: &Dn) -> GroupRef {
    GroupRef { id: SourceId::new("ldap", &dn.to_string()), name: dn.name().to_owned() }
}

impl Entries {
    pub(super) fn add_user(&mut self, dn: &Dn, username: &str, record: &Record, index: usize) {
        self.users.entry(dn.to_string()).or_insert(index);
        self.usernames.entry(username.to_lowercase()).or_default().push(index);
        if let Some(gid) = record.first("gidnumber") {
            self.by_gid.entry(gid.to_owned()).or_default().push(index);
        }
    }

    /// Adds a group. Returns whether it is the first one with this DN.
    pub(super) fn add_group(&mut self, dn: &Dn, record: &Record, index: usize) -> bool {
        if let Some(gid) = record.first("gidnumber") {
            self.gids.entry(gid.to_owned()).or_default().push(index);
        }
        let first = *self.groups.entry(dn.to_string()).or_insert(index);
        first == index
    }

    /// Returns the index of a group.
    pub(super) fn group(&self, dn: &Dn) -> Option<usize> {
        self.groups.get(&dn.to_string()).copied()
    }

    /// Reads the members of a group. They can be spread over several records.
    pub(super) fn read_members(&self, index: usize, records: &[&Record], input: &mut Input) {
        let group = input.groups[index].reference();
        for name in MEMBERS {
            report_missing(name, &group.name, records, input);
            for member in records.iter().flat_map(|record| record.all(name)) {
                match self.read_member(member, index, &group, input) {
                    Ok(true) => {}
                    Ok(false) => reject_unknown(member, &group.name, input),
                    Err(error) => reject(member, &group.name, error, input),
                }
            }
        }
        for member in records.iter().flat_map(|record| record.all("memberuid")) {
            match self.usernames.get(&member.value.to_lowercase()).map(Vec::as_slice) {
                Some([person]) => input.users[*person].join(group.clone()),
                Some([_, ..]) => {
                    let reason = format!(
                        "the group {} has the member {}, and several users of this file have that name",
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
        let parse = if member.name == "uniquemember" { Dn::parse_with_uid } else { Dn::parse };
        let dn = parse(&member.value)?;
        if let Some(person) = self.users.get(&dn.to_string()) {
            input.users[*person].join(group.clone());
        } else if let Some(nested) = self.group(&dn) {
            let nested = input.groups[nested].reference();
            input.groups[index].nest(nested);
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// Adds the users whose primary group has this GID, unless several groups have it.
    fn read_primary(&self, gid: &str, index: usize, group: &GroupRef, input: &mut Input) {
        let Some(people) = self.by_gid.get(gid) else { return };
        let other = self.gids.get(gid).into_iter().flatten().find(|other| **other != index);
        if let Some(other) = other.map(|other| &input.groups[*other]) {
            let reason = format!(
                "the group {} on line {} also has the GID {gid}, so users with this primary group are added to \
                 neither of the groups",
                other.name, other.place.line
            );
            let (place, who) = (input.groups[index].place, group.name.clone());
            input.rejected.push(Rejected { place, who, field: "gidNumber".to_owned(), reason });
            return;
        }
        for person in people {
            input.users[*person].join(group.clone());
        }
    }

    /// Reads the groups of which a group is a member. Adds those that are not in this file.
    pub(super) fn read_parents(&mut self, index: usize, record: &Record, input: &mut Input) {
        let group = input.groups[index].reference();
        report_missing("memberof", &group.name, &[record], input);
        for attribute in record.all("memberof") {
            match Dn::parse(&attribute.value) {
                Ok(dn) => {
                    let parent = *self.groups.entry(dn.to_string()).or_insert_with(|| {
                        let GroupRef { id, name } = reference(&dn);
                        input.groups.push(GroupDraft::new(Place::line(attribute.line), id, &name));
                        input.groups.len() - 1
                    });
                    input.groups[parent].nest(group.clone());
                }
                Err(error) => reject(attribute, &group.name, error, input),
            }
        }
    }
}

/// Reads the groups of a user.
pub(super) fn read_groups(record: &Record, index: usize, input: &mut Input) {
    let who = input.users[index].login().to_owned();
    report_missing("memberof", &who, &[record], input);
    for attribute in record.all("memberof") {
        match Dn::parse(&attribute.value) {
            Ok(dn) => input.users[index].join(reference(&dn)),
            Err(error) => reject(attribute, &who, error, input),
        }
    }
}

/// Reports values that the server did not return. Active Directory returns at most 1,500 at a time, as `;range=0-1499`.
fn report_missing(name: &str, who: &str, records: &[&Record], input: &mut Input) {
    let attributes = || records.iter().flat_map(|record| &record.attributes).filter(|attribute| attribute.name == name);
    let mut ranges: Vec<(Range, usize)> =
        attributes().filter_map(|attribute| Some((attribute.range?, attribute.line))).collect();
    ranges.sort_by_key(|(range, _)| range.first);
    let Some((_, line)) = ranges.first().copied() else { return };
    // `None` once the last value is known.
    let next = ranges.iter().try_fold(0, |next, (range, _)| match range.last {
        Some(last) if range.first <= next => Some(next.max(last + 1)),
        None if range.first <= next => None,
        Some(_) | None => Some(next),
    });
    let Some(next) = next else { return };
    let attribute = if name == "memberof" { "memberOf" } else { name };
    let field = format!("{attribute};range");
    let reason = format!(
        "{who} has more values than the server returned: append the output of ldapsearch for this entry with the attribute \
         {attribute};range={next}-*, and repeat until it returns a range that ends in *"
    );
    input.rejected.push(Rejected { place: Place::line(line), who: who.to_owned(), field, reason });
}

fn rejected(attribute: &Attribute, who: &str, reason: String) -> Rejected {
    Rejected { place: Place::line(attribute.line), who: who.to_owned(), field: attribute.name.clone(), reason }
}

fn reject(attribute: &Attribute, who: &str, error: DnError, input: &mut Input) {
    input.rejected.push(rejected(attribute, who, format!("{error}: {}", attribute.value)));
}

fn reject_unknown(member: &Attribute, group: &str, input: &mut Input) {
    let reason =
        format!("the group {group} has a member that is neither a user nor a group in this file: {}", member.value);
    input.rejected.push(rejected(member, group, reason));
}
