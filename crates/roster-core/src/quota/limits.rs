//! What is limited, and what is counted beside it.

use roster_api::QuotaSpec;
use roster_api::common::Quantity;

use super::amount::{Amount, Amounts, grain_of};

/// How many namespaces somebody owns: what no ResourceQuota knows.
pub const NAMESPACES: &str = "namespaces";

/// How many of them hold pods that have not ended. Counted, never limited.
pub const RUNNING: &str = "namespaces.running";

/// What is counted in every owned namespace, limited or not. None of it is refused for being counted, but requests that are
/// not stated; a LimitRange states them.
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

/// Pods that have not ended.
pub const PODS: &str = "pods";

/// Returns the limits that a `quota` declares. A value that is not a quantity limits to zero: the schema rejects such values,
/// but objects of earlier versions may have them.
pub fn declared(quota: Option<&QuotaSpec>) -> Amounts {
    let hard = quota.map(|quota| &quota.hard).into_iter().flatten();
    hard.map(|(name, quantity)| {
        let amount = match quantity {
            Quantity::Integer(number) => Amount::units(*number),
            Quantity::Text(text) => Amount::parse(text).unwrap_or(Amount::ZERO),
        };
        (name.clone(), amount.split(1, finest(name)))
    })
    .collect()
}

/// kube-apiserver counts whole ones of what is neither CPU nor bytes, and rounds what is finer than a thousandth: what it
/// stores would never be what was written.
fn finest(name: &str) -> Amount {
    grain_of(name).min(Amount::units(1)).max(Amount::millis(1))
}

/// The names that a ResourceQuota holds for somebody with these limits, each with the limit over all namespaces together.
pub fn tracked(limits: &Amounts) -> Amounts {
    let counted = COUNTED.iter().map(|name| ((*name).to_owned(), Amount::UNLIMITED));
    let limited = limits.iter().filter(|(name, _)| *name != NAMESPACES);
    counted.chain(limited.map(|(name, limit)| (name.clone(), (*limit).min(Amount::UNLIMITED)))).collect()
}

/// Names of which more is used than there may be.
pub fn exceeded<'a>(hard: &'a Amounts, used: &'a Amounts) -> impl Iterator<Item = (&'a String, Amount, Amount)> {
    hard.iter().filter_map(|(name, hard)| {
        let used = used.get(name).copied().unwrap_or_default();
        (used > *hard).then_some((name, used, *hard))
    })
}
