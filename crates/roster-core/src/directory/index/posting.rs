//! Sets of ids that share a value, and maps of such sets by value.

use std::sync::Arc;

use imbl::OrdMap;
use roaring::RoaringBitmap;

/// Ids that share a value.
#[derive(Clone, Debug)]
pub enum Posting {
    /// A single id. Most emails belong to one User, for which a bitmap would take too much memory.
    One(u32),
    /// Several ids.
    Many(Arc<RoaringBitmap>),
}

impl Posting {
    /// Returns the number of ids.
    pub fn count(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(several) => usize::try_from(several.len()).expect("ids are 32 bits"),
        }
    }

    /// Removes from a set all ids that this posting does not contain.
    pub fn narrow(&self, ids: &mut RoaringBitmap) {
        match self {
            Self::One(id) => *ids &= RoaringBitmap::from([*id]),
            Self::Many(several) => *ids &= &**several,
        }
    }

    /// Adds the ids to a set.
    pub fn add_to(&self, ids: &mut RoaringBitmap) {
        match self {
            Self::One(id) => {
                ids.insert(*id);
            }
            Self::Many(several) => *ids |= &**several,
        }
    }

    /// Returns the posting with this id added.
    pub fn with(&self, id: u32) -> Self {
        match self {
            Self::One(one) => Self::Many(Arc::new([*one, id].into_iter().collect())),
            Self::Many(several) => {
                let mut several = RoaringBitmap::clone(several);
                several.insert(id);
                Self::Many(Arc::new(several))
            }
        }
    }

    /// Returns the posting with this id removed; `None` if no ids remain.
    pub fn without(&self, id: u32) -> Option<Self> {
        match self {
            Self::One(one) => (*one != id).then_some(Self::One(*one)),
            Self::Many(several) => {
                let mut several = RoaringBitmap::clone(several);
                several.remove(id);
                Self::of(several)
            }
        }
    }

    /// Returns a posting of these ids, or `None` if the list is empty.
    pub fn of(ids: RoaringBitmap) -> Option<Self> {
        match (ids.len(), ids.min()) {
            (_, None) => None,
            (1, Some(one)) => Some(Self::One(one)),
            _ => Some(Self::Many(Arc::new(ids))),
        }
    }
}

/// Ids by value, sorted by value.
pub(super) type Postings = OrdMap<Box<[u8]>, Posting>;
