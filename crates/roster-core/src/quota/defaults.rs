//! Default requests and limits of containers. Under a ResourceQuota for compute resources, kube-apiserver rejects
//! containers that have none.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem, LimitRangeSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::allotment::{DEFAULTS_ANNOTATION, MANAGED_BY, NAME};
use super::amount::{Amount, Amounts, write};

/// Prefix of the text of [`Defaults`]. No resource name starts like this, because it contains a space.
pub const DEFAULTS_START: &str = "requests ";

/// Default requests and limits of a container: `cpu`, `memory`, `ephemeral-storage`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Defaults {
    /// Default requests by resource name.
    pub requests: Amounts,
    /// Default limits by resource name.
    pub limits: Amounts,
}

/// Amounts in the syntax of a flag: `cpu=100m,memory=128Mi`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pairs(pub Amounts);

impl FromStr for Pairs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pairs = text.split(',').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, amount) = pair.split_once('=').ok_or_else(|| format!("{pair}: must be name=quantity"))?;
            if !["cpu", "memory", "ephemeral-storage"].contains(&name) {
                return Err(format!("{name}: must be cpu, memory or ephemeral-storage"));
            }
            let amount = Amount::parse(amount).filter(|amount| *amount >= Amount::ZERO);
            Ok((name.to_owned(), amount.ok_or_else(|| format!("{pair}: must be a quantity, such as 100m or 128Mi"))?))
        });
        pairs.collect::<Result<_, String>>().map(Self)
    }
}

impl Defaults {
    /// Returns the defaults for a namespace whose owner has these limits. CPU and memory that are only counted get a
    /// default request of zero, which has no further effect.
    #[must_use]
    pub fn for_limits(&self, limits: &Amounts) -> Self {
        let is_limited = |names: [String; 2]| names.iter().any(|name| limits.contains_key(name));
        let requests = ["cpu", "memory", "ephemeral-storage"].into_iter().filter_map(|name| {
            let declared = self.requests.get(name).copied().unwrap_or_default();
            if is_limited([name.to_owned(), format!("requests.{name}")]) {
                Some((name.to_owned(), declared))
            } else {
                (name != "ephemeral-storage").then(|| (name.to_owned(), Amount::ZERO))
            }
        });
        let limited = self.limits.iter().filter(|(name, _)| limits.contains_key(&format!("limits.{name}")));
        Self { requests: requests.collect(), limits: limited.map(|(name, limit)| (name.clone(), *limit)).collect() }
    }

    /// Returns the defaults without those that other LimitRanges already provide. `given` is in the form of
    /// [`given_by`].
    #[must_use]
    pub fn without(&self, given: &BTreeSet<String>) -> Self {
        let rest = |amounts: &Amounts, prefix: &str| {
            let left = amounts.iter().filter(|(name, _)| !given.contains(&format!("{prefix}{name}")));
            left.map(|(name, amount)| (name.clone(), *amount)).collect()
        };
        Self { requests: rest(&self.requests, ""), limits: rest(&self.limits, "limits.") }
    }

    /// Returns whether there are no defaults.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.limits.is_empty()
    }

    /// Builds the LimitRange that sets these defaults.
    pub fn build(&self, namespace: &str) -> LimitRange {
        let item = LimitRangeItem {
            type_: "Container".to_owned(),
            default_request: (!self.requests.is_empty()).then(|| write(&self.requests)),
            default: (!self.limits.is_empty()).then(|| write(&self.limits)),
            ..LimitRangeItem::default()
        };
        LimitRange {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                namespace: Some(namespace.to_owned()),
                labels: Some([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())].into()),
                annotations: Some([(DEFAULTS_ANNOTATION.to_owned(), self.to_string())].into()),
                ..ObjectMeta::default()
            },
            spec: Some(LimitRangeSpec { limits: vec![item] }),
        }
    }
}

/// Returns the defaults that a LimitRange provides, as resource names, with the prefix `limits.` for limits.
/// This includes defaults that kube-apiserver has derived from a minimum or maximum of the LimitRange.
pub fn given_by(range: &LimitRange) -> BTreeSet<String> {
    let items = range.spec.iter().flat_map(|spec| &spec.limits).filter(|item| item.type_ == "Container");
    let names = items.flat_map(|item| {
        let requests = item.default_request.iter().flat_map(BTreeMap::keys).cloned();
        requests.chain(item.default.iter().flat_map(BTreeMap::keys).map(|name| format!("limits.{name}")))
    });
    names.collect()
}

/// Formats the defaults for comparison. The text begins with [`DEFAULTS_START`].
impl fmt::Display for Defaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = |amounts: &Amounts| {
            let pairs: BTreeMap<&String, String> =
                amounts.iter().map(|(name, amount)| (name, amount.text_for(name))).collect();
            pairs.into_iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
        };
        write!(f, "{DEFAULTS_START}{} limits {}", pairs(&self.requests), pairs(&self.limits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_invalid_part_of_a_flag() {
        let pairs: Pairs = "cpu=100m,memory=128Mi".parse().unwrap();
        assert_eq!(pairs.0["memory"], Amount::units(128 << 20));
        for (text, expected) in [("cpu", "name=quantity"), ("gpu=1", "must be cpu"), ("cpu=much", "must be a quantity")]
        {
            assert!(text.parse::<Pairs>().unwrap_err().contains(expected));
        }
    }

    #[test]
    fn only_limited_resources_keep_their_declared_defaults() {
        let amounts = |pairs: &str| pairs.parse::<Pairs>().unwrap().0;
        let defaults = Defaults { requests: amounts("cpu=100m,memory=128Mi"), limits: amounts("cpu=1,memory=512Mi") };
        let limits = [("requests.cpu".to_owned(), Amount::units(8)), ("limits.memory".to_owned(), Amount::units(1))];
        let given = defaults.for_limits(&limits.into());
        assert_eq!(given.to_string(), "requests cpu=100m,memory=0 limits memory=512Mi");
        let by_others = ["memory".to_owned(), "limits.memory".to_owned()];
        assert_eq!(given.without(&by_others.into()).to_string(), "requests cpu=100m limits ");
    }
}
