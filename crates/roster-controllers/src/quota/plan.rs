//! Plans the allotments of an owner's namespaces. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ResourceQuota;
use roster_core::directory::Directory;
use roster_core::quota::allot::{ResourceShare, steps, targets};
use roster_core::quota::allotment::{Allotment, QuotaRequest};
use roster_core::quota::amount::{Amount, Amounts, grain_of};
use roster_core::quota::countable::is_countable;
use roster_core::quota::defaults::Defaults;
use roster_core::quota::limits::{NAMESPACES, tracked};

/// How long after a growth of usage further growth is expected.
const GROWING: SignedDuration = SignedDuration::from_secs(2);

/// How long a refused request may take to be retried. Controllers double their wait after each refusal.
pub(super) const MAX_RETRY_WAIT: SignedDuration = SignedDuration::from_mins(10);

/// State of an owner and its namespaces.
#[derive(Debug)]
pub(super) struct View {
    /// Name of the User.
    pub(super) owner: String,
    /// Whether the User exists.
    pub(super) is_known: bool,
    /// Limits, except the number of namespaces.
    pub(super) limits: Amounts,
    /// Tracked resources, with the limit over all namespaces.
    pub(super) tracked: Amounts,
    /// Namespaces of the owner.
    pub(super) namespaces: Vec<Owned>,
}

/// An owned namespace.
#[derive(Clone, Debug, Default)]
pub(super) struct Owned {
    pub(super) name: String,
    pub(super) is_terminating: bool,
    /// Current allotment.
    pub(super) allotment: Option<Allotment>,
    /// The ResourceQuota, if it was read.
    pub(super) object: Option<ResourceQuota>,
    /// Usage that was counted after the ResourceQuota was read.
    pub(super) counted: Option<Amounts>,
    /// Recent history.
    pub(super) history: History,
    /// Resources for which LimitRanges of others set defaults.
    pub(super) given: BTreeSet<String>,
    /// The defaults of Roster's own LimitRange.
    pub(super) defaults: Option<String>,
}

/// Recent history of a namespace.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// Refused requests.
    pub(super) refused: Vec<QuotaRequest>,
    /// Usage at the last reconciliation.
    pub(super) used: Amounts,
    /// Time and amount of the last growth, by resource.
    pub(super) last_growth: BTreeMap<String, (Timestamp, Amount)>,
    /// Requests whose usage has been reached at some time.
    pub(super) reached: Vec<QuotaRequest>,
}

/// Planned writes.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) changes: Vec<Change>,
    /// LimitRanges to create (with their defaults) or to delete, by namespace.
    pub(super) ranges: Vec<(String, Option<Defaults>)>,
    /// Whether all namespaces will have their target allotments.
    pub(super) is_reached: bool,
}

/// Planned allotment of a namespace.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) namespace: String,
    /// Name of the owner.
    pub(super) owner: String,
    /// Leadership term and attempt that writes it.
    pub(super) term: String,
    pub(super) spec: Amounts,
    /// Usage for the status that kube-apiserver enforces, if all of it is known.
    pub(super) used: Option<Amounts>,
    /// The ResourceQuota to replace.
    pub(super) object: Option<ResourceQuota>,
    /// Whether any limit grows.
    pub(super) grows: bool,
    /// Whether any limit shrinks.
    pub(super) shrinks: bool,
    /// Whether it is written to fence off a previous leader.
    pub(super) fences: bool,
}

/// Parameters of a plan.
pub(super) struct Rules<'a> {
    pub(super) term: &'a str,
    pub(super) defaults: &'a Defaults,
    /// Whether Secrets can be counted.
    pub(super) counts_secrets: bool,
    pub(super) now: Timestamp,
}

impl View {
    /// Reads the state from the directory. Returns `None` if there is nothing to do because the User does not exist.
    ///
    /// Without a User there is no limit. Limits that are already enforced stay in force: the User may be recreated, and
    /// usage must not have grown since it was deleted.
    pub(super) fn of(owner: &str, directory: &Directory, history: impl Fn(&str) -> History) -> Option<Self> {
        let is_known = directory.user(owner).is_some();
        let mut limits = if is_known { directory.limits_of(owner) } else { Amounts::new() };
        limits.remove(NAMESPACES);
        let namespaces = directory.owned_by(owner).into_iter().map(|name| Owned {
            is_terminating: directory.bindings.is_terminating(&name),
            allotment: directory.quotas.allotment(&name).cloned(),
            history: history(&name),
            given: directory.quotas.defaults_of_others(&name),
            defaults: directory.quotas.own_defaults(&name).map(str::to_owned),
            name: name.clone(),
            ..Owned::default()
        });
        let is_concerned = |owned: &Owned| {
            let is_open = owned.allotment.as_ref().is_some_and(|allotment| allotment.is_in_force(owner));
            is_known || !is_open && !owned.is_terminating
        };
        let namespaces: Vec<Owned> = namespaces.filter(is_concerned).collect();
        let (owner, tracked) = (owner.to_owned(), tracked(&limits));
        (is_known || !namespaces.is_empty()).then_some(Self { owner, is_known, limits, tracked, namespaces })
    }

    fn expected(&self, name: &str, now: Timestamp) -> impl Iterator<Item = (Amount, Timestamp)> {
        self.namespaces.iter().flat_map(move |owned| owned.expected(name, now))
    }

    /// Returns the time until a retry is no longer expected, so that the quota reserved for it can be redistributed.
    pub(super) fn until_expected_lapses(&self, now: Timestamp) -> Option<Duration> {
        let requested = self.limits.keys().flat_map(|name| self.expected(name, now)).map(|(_, at)| at).min()?;
        let left = MAX_RETRY_WAIT.saturating_sub(now.duration_since(requested));
        // Timestamps have a resolution of one second.
        Some(Duration::try_from(left).unwrap_or_default() + Duration::from_secs(1))
    }
}

impl Owned {
    fn share(&self, name: &str, now: Timestamp) -> ResourceShare {
        let allotment = self.allotment.as_ref();
        let requests = self.requests().filter(|request| request.counts_at(now));
        // A request counts until its usage has been reached. Otherwise the quota that was moved for it could be moved
        // elsewhere before kube-apiserver has counted the request.
        let reached = self.reached();
        let requests = requests.filter(|request| !reached.contains(request));
        let requests: Vec<(Amount, Timestamp)> =
            requests.filter_map(|request| Some((Amount::parse(request.level.get(name)?)?, request.since))).collect();
        ResourceShare {
            counted: self.counted.as_ref().and_then(|counted| counted.get(name).copied()),
            wanted: requests.iter().map(|(level, _)| *level).max().unwrap_or_default(),
            waiting_since: requests.iter().map(|(_, since)| *since).min(),
            growth: self
                .last_growth(name, now)
                .filter(|(at, _)| now.duration_since(*at) <= GROWING)
                .map_or(Amount::ZERO, |(_, growth)| growth),
            ..Allotment::share(allotment, name)
        }
    }

    fn requests(&self) -> impl Iterator<Item = &QuotaRequest> {
        let by_hint = self.allotment.iter().flat_map(|allotment| &allotment.requests);
        by_hint.chain(&self.history.refused)
    }

    /// Returns the requests whose usage has been reached at some time.
    pub(super) fn reached(&self) -> Vec<QuotaRequest> {
        let Some(used) = self.allotment.as_ref().map(|allotment| &allotment.used) else { return Vec::new() };
        let is_used = |(name, level): (&String, &String)| {
            used.get(name).is_none_or(|used| Amount::parse(level).is_none_or(|level| level <= *used))
        };
        let is_reached =
            |request: &&QuotaRequest| self.history.reached.contains(request) || request.level.iter().all(is_used);
        self.requests().filter(is_reached).cloned().collect()
    }

    /// Returns the amounts beyond the current usage that were requested recently and are not used yet, with the times of the
    /// requests.
    fn expected(&self, name: &str, now: Timestamp) -> impl Iterator<Item = (Amount, Timestamp)> {
        let reached = self.reached();
        let requests = self.requests().filter(move |request| now.duration_since(request.at) <= MAX_RETRY_WAIT);
        let requests = requests.filter(move |request| !reached.contains(request));
        let used = self.allotment.as_ref().and_then(|allotment| allotment.used.get(name)).copied().unwrap_or_default();
        let last_growth = self.last_growth(name, now);
        requests.filter_map(move |request| {
            let missing = Amount::parse(request.level.get(name)?)?.saturating_sub(used);
            // Other usage may have ended in the meantime, so the total may be no higher than before.
            let has_grown = last_growth.is_some_and(|(at, growth)| at > request.at && growth >= missing);
            (missing > Amount::ZERO && !has_grown).then_some((missing, request.at))
        })
    }

    /// Returns time and amount of the last growth of usage.
    pub(super) fn last_growth(&self, name: &str, now: Timestamp) -> Option<(Timestamp, Amount)> {
        let used = self.allotment.as_ref().and_then(|allotment| allotment.used.get(name));
        let growth = self.history.used.get(name).zip(used).map(|(before, used)| used.saturating_sub(*before));
        let growth = growth.filter(|growth| *growth > Amount::ZERO);
        growth.map(|growth| (now, growth)).or_else(|| self.history.last_growth.get(name).copied())
    }

    /// Returns the usage of all resources in `spec`, if all of it is known.
    fn used(&self, spec: &Amounts, limits: &Amounts) -> Option<Amounts> {
        let known = |name: &String| {
            let reported = self.allotment.as_ref().and_then(|allotment| allotment.used.get(name)).copied();
            let counted = self.counted.as_ref().and_then(|counted| counted.get(name)).copied();
            // The higher of the two. The usage of unlimited resources may be too low for a moment.
            reported.max(counted).or((!limits.contains_key(name)).then_some(Amount::ZERO))
        };
        spec.keys().map(|name| Some((name.clone(), known(name)?))).collect()
    }

    fn range(&self, defaults: &Defaults) -> Option<(String, Option<Defaults>)> {
        let wanted = Some(defaults.without(&self.given)).filter(|wanted| !wanted.is_empty() && !self.is_terminating);
        let is_right = wanted.as_ref().map(ToString::to_string) == self.defaults || self.is_terminating;
        (!is_right).then(|| (self.name.clone(), wanted))
    }
}

/// Plans the allotment of each namespace.
pub(super) fn plan(view: &View, rules: &Rules<'_>) -> Plan {
    let mut plan = Plan { is_reached: true, ..Plan::default() };
    let mut specs: Vec<Amounts> = vec![Amounts::new(); view.namespaces.len()];
    let mut grows = false;
    for (name, limit) in &view.tracked {
        let shares: Vec<ResourceShare> = view.namespaces.iter().map(|owned| owned.share(name, rules.now)).collect();
        let now = if view.limits.contains_key(name) {
            let expected = view.expected(name, rules.now).map(|(missing, _)| missing).max().unwrap_or_default();
            let can_count = is_countable(name, rules.counts_secrets);
            distribute((name, can_count), *limit, &shares, expected, &mut plan)
        } else {
            vec![Amount::UNLIMITED; shares.len()]
        };
        for ((spec, amount), share) in specs.iter_mut().zip(now).zip(&shares) {
            grows |= view.limits.contains_key(name) && amount > share.spec;
            spec.insert(name.clone(), amount);
        }
    }
    // Writes of an earlier leader may still be in flight. The quota that they allot must not be allotted twice, so they
    // are fenced off first.
    let is_foreign =
        |owned: &Owned| owned.allotment.as_ref().is_some_and(|had| had.term.as_deref() != Some(rules.term));
    let fences = grows && view.namespaces.len() > 1 && view.namespaces.iter().any(is_foreign);
    let defaults = rules.defaults.for_limits(&view.limits);
    for (owned, spec) in view.namespaces.iter().zip(specs) {
        plan.ranges.extend(owned.range(&defaults));
        if owned.is_terminating && owned.allotment.is_none() {
            continue;
        }
        let change = change(owned, spec, (view, rules), (fences, fences && is_foreign(owned)));
        if change.is_needed(owned) {
            plan.changes.push(change);
        }
    }
    plan.is_reached &= !fences;
    plan
}

/// Distributes the limit of one resource over the namespaces, and returns their next allotments. `can_count`: whether
/// usage of the resource can be counted. `expected`: the largest amount that a retried request may need.
fn distribute(
    (name, can_count): (&str, bool),
    limit: Amount,
    shares: &[ResourceShare],
    expected: Amount,
    plan: &mut Plan,
) -> Vec<Amount> {
    let targets = targets(limit, shares, expected, grain_of(name));
    let mut now = steps(limit, shares, &targets);
    let promised: Amount = shares.iter().map(|share| share.spec.max(share.used)).sum();
    if !can_count && promised <= limit {
        // Without a count, an allotment is not known to be unused, so it does not shrink unless the sum exceeds the
        // limit.
        for (share, amount) in shares.iter().zip(&mut now).filter(|(share, _)| share.spec < Amount::UNLIMITED) {
            *amount = (*amount).max(share.spec);
        }
    }
    plan.is_reached &= targets == now || !can_count;
    now
}

/// Returns the change of one namespace. `defers_growth`: no limit grows yet, because writes of an earlier leader are
/// fenced off first. `fences`: this change does that in this namespace.
fn change(
    owned: &Owned,
    mut spec: Amounts,
    (view, rules): (&View, &Rules<'_>),
    (defers_growth, fences): (bool, bool),
) -> Change {
    let limits = &view.limits;
    let had = owned.allotment.as_ref().map(|allotment| &allotment.spec);
    let before = |name: &String| had.and_then(|had| had.get(name)).copied();
    if defers_growth {
        for (name, amount) in spec.iter_mut().filter(|(name, _)| limits.contains_key(*name)) {
            *amount = before(name).unwrap_or_default().min(*amount);
        }
    }
    let limited = || spec.iter().filter(|(name, _)| limits.contains_key(*name));
    Change {
        namespace: owned.name.clone(),
        owner: view.owner.clone(),
        term: rules.term.to_owned(),
        grows: had.is_some() && limited().any(|(name, amount)| before(name).is_some_and(|before| *amount > before)),
        shrinks: limited().any(|(name, amount)| before(name).is_some_and(|before| *amount < before)),
        used: owned.used(&spec, limits),
        object: owned.object.clone(),
        fences,
        spec,
    }
}

impl Change {
    fn is_needed(&self, owned: &Owned) -> bool {
        let Some(had) = &owned.allotment else { return true };
        // If some usage is unknown, kube-controller-manager counts it and then enforces the limits.
        let is_right = |used: &Amounts| {
            let is_reported =
                |(name, used): (&String, &Amount)| had.used.get(name).is_some_and(|reported| reported >= used);
            had.enforced.as_ref() == Some(&self.spec) && used.iter().all(is_reported)
        };
        let has_other_owner = had.owner.as_ref() != Some(&self.owner);
        self.fences
            || had.has_scopes
            || has_other_owner
            || had.spec != self.spec
            || !self.used.as_ref().is_none_or(is_right)
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
