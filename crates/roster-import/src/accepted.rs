//! Users for whom an administrator has given consent.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::str::FromStr;

/// Users for whom an administrator has given consent. None by default.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Accepted {
    is_all: bool,
    names: BTreeSet<String>,
}

impl Accepted {
    /// Value that means all Users. It cannot be the name of one.
    pub const ALL: &str = "*";

    /// Returns whether there is consent for the User with this `metadata.name`.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.is_all || self.names.contains(name)
    }

    /// Returns whether there is consent for all Users.
    pub fn is_all(&self) -> bool {
        self.is_all
    }
}

impl FromStr for Accepted {
    type Err = Infallible;

    /// Reads names that are separated by commas, or [`Accepted::ALL`].
    fn from_str(text: &str) -> Result<Self, Infallible> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
        Ok(Self { is_all: text == Self::ALL, names: names.collect() })
    }
}
