//! Exact amounts of resources, and their conversion from and to Kubernetes quantities.
//!
//! An amount is accurate to a billionth of a unit, the finest precision that Kubernetes supports. Its whole units are
//! bounded by 63 bits, the largest quantity that Kubernetes documents. Finer values are rounded away from zero and
//! larger ones are capped, so no nonzero request becomes zero and no sum wraps.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub, SubAssign};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Nano-units in one unit.
const UNIT: i128 = 1_000_000_000;

/// The largest amount, in nano-units.
const BOUND: i128 = i64::MAX as i128 * UNIT;

/// Decimal suffixes and their powers of ten, ascending.
const DECIMAL: [(&str, i64); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

/// Binary suffixes: the first is 1024, and each is 1024 times the one before.
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// Suffix of the resource name for the storage requests of one storage class.
const OF_CLASS: &str = ".storageclass.storage.k8s.io/requests.storage";

/// Amount of a resource: an exact number with nine decimal places.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Amount(i128);

impl Amount {
    /// Zero.
    pub const ZERO: Self = Self(0);

    /// Limit for resources that are counted but not limited: 2^53.
    ///
    /// Kubernetes converts quantities to 64 bits of thousandths in some places (for example to check whether one is
    /// whole) without detecting overflow. This is the largest power of two that does not overflow, 8 PiB in bytes, and
    /// it is exact as a floating-point number.
    pub const UNLIMITED: Self = Self::units(1 << 53);

    /// Returns this many whole units.
    pub const fn units(units: i64) -> Self {
        Self::bounded(units as i128 * UNIT)
    }

    /// Returns this many thousandths.
    pub const fn millis(millis: i64) -> Self {
        Self(millis as i128 * (UNIT / 1000))
    }

    /// Returns the amount in billionths.
    pub const fn nanos(self) -> i128 {
        self.0
    }

    const fn bounded(nanos: i128) -> Self {
        if nanos > BOUND {
            Self(BOUND)
        } else if nanos < -BOUND {
            Self(-BOUND)
        } else {
            Self(nanos)
        }
    }

    /// Parses a quantity; `None` if the text is not one.
    ///
    /// A quantity is a number with an optional sign and fraction, optionally followed by a suffix or a power of ten
    /// (`1e3`). At least one digit is required. Kubernetes contradicts its own grammar here: it accepts `m` as zero.
    pub fn parse(text: &str) -> Option<Self> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let (whole, rest) = split_digits(unsigned);
        let (fraction, suffix) = rest.strip_prefix('.').map_or(("", rest), split_digits);
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let (factor, exponent) = scale_of(suffix)?;
        let nanos = nanos_of(whole, fraction, factor, exponent);
        Some(Self(if text.starts_with('-') { -nanos } else { nanos }))
    }

    /// Subtracts, but not below zero.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        (self - other).max(Self::ZERO)
    }

    /// Rounds to a whole number, away from zero.
    #[must_use]
    pub fn round_up(self) -> Self {
        let missing = match self.0 % UNIT {
            0 => 0,
            rest if rest > 0 => UNIT - rest,
            rest => -UNIT - rest,
        };
        Self::bounded(self.0 + missing)
    }

    /// Splits evenly into this many parts, rounded down to whole grains. Zero if there are no parts.
    #[must_use]
    pub fn split(self, parts: usize, grain: Self) -> Self {
        let Some(share) = i128::try_from(parts).ok().and_then(|parts| self.0.checked_div_euclid(parts)) else {
            return Self::ZERO;
        };
        if grain <= Self::ZERO {
            return Self(share);
        }
        Self::bounded(share.div_euclid(grain.0) * grain.0)
    }

    /// Formats an amount of bytes canonically: with the largest binary suffix that leaves a whole number.
    ///
    /// If no binary suffix fits, uses the decimal text: kube-apiserver reads digits without a suffix as decimal, and
    /// would turn `3000000` into `3M`.
    pub fn to_binary(self) -> String {
        if self.0 % UNIT != 0 {
            return self.to_string();
        }
        let (mut mantissa, mut suffix) = (self.0 / UNIT, "");
        for next in BINARY {
            // Zero stops here, too: it has no suffix.
            if mantissa.abs() < 1024 || mantissa % 1024 != 0 {
                break;
            }
            (mantissa, suffix) = (mantissa / 1024, next);
        }
        if suffix.is_empty() { self.to_string() } else { format!("{mantissa}{suffix}") }
    }

    /// Formats the amount canonically for a resource name of a ResourceQuota.
    pub fn text_for(self, name: &str) -> String {
        if is_bytes(name) { self.to_binary() } else { self.to_string() }
    }
}

/// Formats canonically in decimal: with the largest suffix that leaves a whole number.
impl Display for Amount {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return formatter.pad("0");
        }
        let mut mantissa = self.0;
        let mut suffixes = DECIMAL.iter().map(|(suffix, _)| *suffix);
        let mut suffix = suffixes.next().unwrap_or_default();
        while mantissa % 1000 == 0
            && let Some(next) = suffixes.next()
        {
            (mantissa, suffix) = (mantissa / 1000, next);
        }
        formatter.pad(&format!("{mantissa}{suffix}"))
    }
}

impl Add for Amount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        // The sum of two amounts is far below the limit of 128 bits.
        Self::bounded(self.0 + other.0)
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Amount {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self::bounded(self.0 - other.0)
    }
}

impl SubAssign for Amount {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Amount {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl<'a> Sum<&'a Self> for Amount {
    fn sum<I: Iterator<Item = &'a Self>>(amounts: I) -> Self {
        amounts.copied().sum()
    }
}

/// Splits a text after its leading digits.
fn split_digits(text: &str) -> (&str, &str) {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// Returns the multiplier of a suffix: a factor and a power of ten.
fn scale_of(suffix: &str) -> Option<(u128, i64)> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(known, _)| *known == suffix) {
        return Some((1, *exponent));
    }
    if let Some((_, bits)) = BINARY.iter().zip((10_u32..).step_by(10)).find(|(known, _)| **known == suffix) {
        return Some((1 << bits, 0));
    }
    // A lone `E` is a suffix and was found above.
    let exponent = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    Some((1, exponent))
}

/// Returns the nano-units in `whole.fraction` times a factor times a power of ten.
///
/// Processes digits one by one, because there may be more than any integer holds.
fn nanos_of(whole: &str, fraction: &str, factor: u128, exponent: i64) -> i128 {
    let all = format!("{whole}{fraction}");
    let digits = all.trim_start_matches('0').as_bytes();
    if digits.is_empty() {
        return 0;
    }
    // Position of the decimal point after the first significant digit.
    let length = |text: &[u8]| i64::try_from(text.len()).unwrap_or(i64::MAX);
    let skipped = length(all.as_bytes()) - length(digits);
    let point = exponent.saturating_add(length(whole.as_bytes()) - skipped);
    // Beyond these bounds, every value is too large, or less than a nano-unit even in exbibytes. Within them, the loops
    // below are short.
    if point > 20 {
        return BOUND;
    }
    if point < -30 {
        return 1;
    }

    let places = usize::try_from(point).unwrap_or(0);
    let value = |digit: u8| u128::from(digit - b'0');
    let units = (0..places).fold(0, |sum, place| sum * 10 + digits.get(place).copied().map_or(0, value));
    // From the last digit to the first: rounding up after each gives the same result as rounding up once.
    let scale = factor * UNIT.unsigned_abs();
    let mut part = 0_u128;
    for digit in digits.iter().skip(places).rev() {
        part = (part + value(*digit) * scale).div_ceil(10);
    }
    for _ in point..0 {
        part = part.div_ceil(10);
    }
    let nanos = units.saturating_mul(scale).saturating_add(part);
    i128::try_from(nanos).map_or(BOUND, |nanos| nanos.min(BOUND))
}

/// Returns the name without the prefix for requests or limits.
fn kind_of(name: &str) -> &str {
    name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name)
}

/// Returns whether the resource of this name in a ResourceQuota is measured in bytes.
fn is_bytes(name: &str) -> bool {
    let kind = kind_of(name);
    matches!(kind, "memory" | "storage" | "ephemeral-storage")
        || kind.starts_with("hugepages-")
        || name.ends_with(OF_CLASS)
}

/// Returns the smallest amount of this ResourceQuota resource that is worth moving between namespaces.
pub fn grain_of(name: &str) -> Amount {
    let kind = kind_of(name);
    if kind == "cpu" {
        return Amount::millis(10);
    }
    if !is_bytes(name) {
        return Amount::units(1);
    }
    // Only whole pages are useful.
    let page = kind.strip_prefix("hugepages-").and_then(Amount::parse).filter(|page| *page > Amount::ZERO);
    page.unwrap_or(Amount::units(1 << 20))
}

/// Amounts by resource name of a ResourceQuota.
pub type Amounts = BTreeMap<String, Amount>;

/// Adds amounts by name.
pub fn add_all(sums: &mut Amounts, amounts: &Amounts) {
    for (name, amount) in amounts {
        *sums.entry(name.clone()).or_default() += *amount;
    }
}

/// Parses quantities, and leaves out those that are invalid.
pub fn read(quantities: &BTreeMap<String, Quantity>) -> Amounts {
    let amount = |(name, text): (&String, &Quantity)| Some((name.clone(), Amount::parse(&text.0)?));
    quantities.iter().filter_map(amount).collect()
}

/// Formats amounts as text.
pub fn texts(amounts: &Amounts) -> BTreeMap<String, String> {
    amounts.iter().map(|(name, amount)| (name.clone(), amount.text_for(name))).collect()
}

/// Formats amounts as quantities that kube-apiserver stores unchanged.
pub fn write(amounts: &Amounts) -> BTreeMap<String, Quantity> {
    amounts.iter().map(|(name, amount)| (name.clone(), Quantity(amount.text_for(name)))).collect()
}

#[cfg(test)]
#[path = "amount_tests.rs"]
mod tests;
