//! Names of limited and counted resources.

use roster_api::QuotaSpec;
use roster_api::common::Quantity;

use super::amount::{Amount, Amounts, grain_of};

/// Number of namespaces that a user owns, which no ResourceQuota limits.
pub const NAMESPACES: &str = "namespaces";

/// Number of owned namespaces with pods that have not ended. Counted but never limited.
pub const RUNNING: &str = "namespaces.running";

/// Resources that are counted in every owned namespace, limited or not. Counting alone rejects nothing except pods
/// without requests, so a LimitRange provides default requests.
pub const COUNTED: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    PODS,
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

/// Resource name for pods that have not ended.
pub const PODS: &str = "pods";

/// Returns the limits that a `quota` declares. A value that is not a quantity counts as a limit of zero: the schema
/// rejects such values, but objects stored by earlier versions may have them.
pub fn declared(quota: Option<&QuotaSpec>) -> Amounts {
    let hard = quota.map(|quota| &quota.hard).into_iter().flatten();
    hard.map(|(name, quantity)| {
        let amount = match quantity {
            Quantity::Integer(number) => Amount::units(*number),
            Quantity::Text(text) => Amount::parse(text).unwrap_or(Amount::ZERO),
        };
        (name.clone(), amount.split(1, rounding_step(name)))
    })
    .collect()
}

/// Returns the step to which a limit is rounded down: 10 thousandths for CPU, and a whole unit for everything else.
/// kube-apiserver could store a finer limit differently from what was written.
fn rounding_step(name: &str) -> Amount {
    grain_of(name).min(Amount::units(1)).max(Amount::millis(1))
}

/// Returns the resources that ResourceQuotas track for an owner with these limits, each with its limit over all
/// namespaces.
pub fn tracked(limits: &Amounts) -> Amounts {
    let counted = COUNTED.iter().map(|name| ((*name).to_owned(), Amount::UNLIMITED));
    let limited = limits.iter().filter(|(name, _)| *name != NAMESPACES);
    counted.chain(limited.map(|(name, limit)| (name.clone(), (*limit).min(Amount::UNLIMITED)))).collect()
}

/// Returns the resources that exceed their limit, each with use and limit.
pub fn exceeded<'a>(hard: &'a Amounts, used: &'a Amounts) -> impl Iterator<Item = (&'a String, Amount, Amount)> {
    hard.iter().filter_map(|(name, hard)| {
        let used = used.get(name).copied().unwrap_or_default();
        (used > *hard).then_some((name, used, *hard))
    })
}
