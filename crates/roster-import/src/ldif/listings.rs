//! Checks the attribute `memberOf` against the groups of the file.
//!
//! Active Directory, FreeIPA and others compute `memberOf`. In other directories it is an attribute like any other, and
//! people may be able to write it in their own entries. So if a group is in the file and the groups of the file list members,
//! the group decides who is a member, even if it lists no entry. Otherwise nothing can be checked, and `memberOf` is accepted
//! with a warning, because many exports have nothing else.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use roaring::RoaringBitmap;

use super::above::Above;
use super::dn::Dn;
use super::members::{Entries, MEMBERS, member_dn, missing, reference, reject, rejected, report_missing};
use super::parser::Record;
use crate::draft::{Input, Place, Rejected, SourceId};

/// What the entry of a group says about its members.
#[derive(Default)]
struct Listing {
    has_members: bool,
    /// Whether the server returned only some of the members.
    is_partial: bool,
    gids: Vec<String>,
}

/// Group with a GID.
#[derive(Eq, PartialEq)]
enum GidOwner {
    One(SourceId),
    /// Several groups have the GID, so it says nothing about the members of either.
    Several,
}

/// An entry that has `memberOf`.
struct Member<'a> {
    id: SourceId,
    record: &'a Record,
    /// Name for messages.
    name: &'a str,
    is_group: bool,
}

/// Result of a check.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    Listed,
    /// The group lists a username that several users of the file have.
    Claimed,
    /// The file does not say who the members are.
    Unknown,
    NotListed,
}

/// The members that the groups of the file list. Groups are referred to by their index in `entries`.
#[derive(Default)]
pub(super) struct Listings {
    entries: Vec<Listing>,
    groups: HashMap<SourceId, Vec<u32>>,
    /// Groups that list an entry by its DN.
    by_dn: HashMap<SourceId, Vec<u32>>,
    /// Groups that list each group by its DN.
    above: Above,
    /// Groups that list a user by the lower-case username.
    by_username: HashMap<String, Vec<u32>>,
    gids: HashMap<String, GidOwner>,
    /// Whether any group of the file lists members, so that a group without them has none.
    has_members: bool,
    /// Results of [`Listings::unclear`].
    unclear: [Option<Arc<HashSet<SourceId>>>; 2],
    /// Groups whose memberships could not be checked, and the first line with one of them.
    unknown: HashSet<SourceId>,
    first: Option<(usize, String)>,
}

impl Listings {
    /// Indexes the groups of the file, with all records of each.
    pub(super) fn of<'a>(groups: impl Iterator<Item = (SourceId, &'a [&'a Record])>) -> Self {
        let mut listings = Self::default();
        for (index, (id, records)) in (0_u32..).zip(groups) {
            let all = |name: &'static str| records.iter().flat_map(move |record| record.all(name));
            let mut listing = Listing::default();
            for name in MEMBERS {
                listing.is_partial |= missing(name, records).is_some();
                for member in all(name) {
                    listing.has_members = true;
                    if let Ok(dn) = member_dn(member) {
                        listings.by_dn.entry(reference(&dn).id).or_default().push(index);
                    }
                }
            }
            for member in all("memberuid") {
                listing.has_members = true;
                listings.by_username.entry(member.value.to_lowercase()).or_default().push(index);
            }
            listing.gids = all("gidnumber").map(|gid| gid.value.clone()).collect();
            for gid in &listing.gids {
                let owner = listings.gids.entry(gid.clone()).or_insert_with(|| GidOwner::One(id.clone()));
                if *owner != GidOwner::One(id.clone()) {
                    *owner = GidOwner::Several;
                }
            }
            listings.has_members |= listing.has_members;
            listings.groups.entry(id).or_default().push(index);
            listings.entries.push(listing);
        }
        let mut above = vec![Vec::new(); listings.entries.len()];
        for (id, indexes) in &listings.groups {
            for index in indexes {
                above[*index as usize] = listings.by_dn.get(id).cloned().unwrap_or_default();
            }
        }
        listings.above = Above::new(above);
        listings
    }

    /// Reads the groups of which a group is a member. Adds those that are not in this file.
    pub(super) fn read_parents(&mut self, index: usize, record: &Record, entries: &mut Entries, input: &mut Input) {
        let group = input.groups[index].reference();
        report_missing("memberof", &group.name, &[record], input);
        let member = Member { id: group.id.clone(), record, name: &group.name, is_group: true };
        for (line, dn, _) in self.parents(&member, entries, input) {
            let parent = entries.group_or_add(&dn, line, input);
            input.groups[parent].nest(group.clone());
        }
    }

    /// Removes the groups of a user that list their members and not this user.
    pub(super) fn check_groups(
        &mut self,
        index: usize,
        dn: &Dn,
        record: &Record,
        entries: &Entries,
        input: &mut Input,
    ) {
        let name = input.users[index].login().to_owned();
        let is_missing = report_missing("memberof", &name, &[record], input);
        let is_faulty = record.faults.iter().any(|fault| fault.may_be(&["memberof", "gidnumber"]));
        if is_missing || is_faulty {
            // Those that list their members decide.
            let unclear = self.unclear(is_faulty);
            let known = &mut input.users[index].unclear;
            known.shared.push(unclear);
            known.others = true;
        }
        let member = Member { id: reference(dn).id, record, name: &name, is_group: false };
        let parents = self.parents(&member, entries, input);
        let person = &mut input.users[index];
        person.groups.clear();
        for (_, dn, is_claimed) in parents {
            if is_claimed {
                person.claimed.push((reference(&dn), name.clone()));
            } else {
                person.join(reference(&dn));
            }
        }
    }

    /// Returns the groups that do not list their members, and those with a GID if the GID of an entry can't be read.
    fn unclear(&mut self, with_gids: bool) -> Arc<HashSet<SourceId>> {
        if let Some(known) = &self.unclear[usize::from(with_gids)] {
            return Arc::clone(known);
        }
        let has_gid = |indexes: &[u32]| indexes.iter().any(|index| !self.entries[*index as usize].gids.is_empty());
        let unclear = self.groups.iter().filter(|(_, indexes)| self.is_open(indexes) || with_gids && has_gid(indexes));
        let unclear = Arc::new(unclear.map(|(id, _)| id.clone()).collect());
        self.unclear[usize::from(with_gids)] = Some(Arc::clone(&unclear));
        unclear
    }

    /// Returns whether the file does not say who all members of a group are.
    fn is_open(&self, indexes: &[u32]) -> bool {
        !self.has_members || indexes.iter().any(|index| self.entries[*index as usize].is_partial)
    }

    /// Returns the groups in `memberOf` of an entry that may have it as a member, and whether this depends on the owner of its
    /// username. Reports the others.
    fn parents(&mut self, member: &Member, entries: &Entries, input: &mut Input) -> Vec<(usize, Dn, bool)> {
        let mut parents = Vec::new();
        // Computed only once, because a group can have many values.
        let mut listed_by = None;
        for attribute in member.record.all("memberof") {
            let dn = match Dn::parse(&attribute.value) {
                Ok(dn) => dn,
                Err(error) => {
                    reject(attribute, member.name, error, input);
                    continue;
                }
            };
            let group = reference(&dn).id;
            let verdict = self.verdict(&group, member, entries, &mut listed_by);
            match verdict {
                Verdict::Listed | Verdict::Claimed => {}
                Verdict::Unknown => {
                    self.first.get_or_insert_with(|| (attribute.line, attribute.value.clone()));
                    self.unknown.insert(group);
                }
                Verdict::NotListed => {
                    let reason = format!(
                        "the group {} is in this file and does not list {}, which is not made a member: add it to the \
                         group in the source, or remove this value",
                        attribute.value, member.name
                    );
                    input.rejected.push(rejected(attribute, member.name, reason));
                    continue;
                }
            }
            parents.push((attribute.line, dn, verdict == Verdict::Claimed));
        }
        parents
    }

    /// `listed_by` caches the result of [`Listings::listed_by`].
    fn verdict(
        &self,
        group: &SourceId,
        member: &Member,
        entries: &Entries,
        listed_by: &mut Option<[RoaringBitmap; 2]>,
    ) -> Verdict {
        let Some(indexes) = self.groups.get(group) else { return Verdict::Unknown };
        if self.is_open(indexes) {
            return Verdict::Unknown;
        }
        let gid = member.record.first("gidnumber").filter(|_| !member.is_group);
        if gid.is_some_and(|gid| self.gids.get(gid) == Some(&GidOwner::One(group.clone()))) {
            return Verdict::Listed;
        }
        let [certain, by_name] = listed_by.get_or_insert_with(|| self.listed_by(member, entries));
        let is_in = |listed: &RoaringBitmap| indexes.iter().any(|index| listed.contains(*index));
        match () {
            () if is_in(certain) => Verdict::Listed,
            () if is_in(by_name) => Verdict::Claimed,
            () => Verdict::NotListed,
        }
    }

    /// Returns the groups that list the entry, or list a group that does, and so on: some servers also write the groups above
    /// those of an entry to `memberOf`. The second set contains those that list a username which other users have as well.
    fn listed_by(&self, member: &Member, entries: &Entries) -> [RoaringBitmap; 2] {
        let by_name = self.by_username.get(&member.name.to_lowercase()).filter(|_| !member.is_group);
        let by_name: Vec<u32> = by_name.into_iter().flatten().copied().collect();
        let by_dn: Vec<u32> = self.by_dn.get(&member.id).into_iter().flatten().copied().collect();
        if entries.is_unique(member.name) {
            [self.above.with_above(&[by_dn, by_name].concat()), RoaringBitmap::new()]
        } else {
            [self.above.with_above(&by_dn), self.above.with_above(&by_name)]
        }
    }

    /// Adds a warning if memberships could not be checked.
    pub(super) fn warn(self, input: &mut Input) {
        let Some((line, group)) = self.first else { return };
        let reason = format!(
            "the members of {} groups, such as {group}, are known only from memberOf, because this file does not list them. \
             Make sure that people cannot write memberOf in their own entries, or export the groups with their members",
            self.unknown.len()
        );
        let (place, who, field) = (Place::line(line), String::new(), "memberOf".to_owned());
        input.warnings.push(Rejected { place, who, field, reason });
    }
}
