//! Finds the groups above others, through any number of levels.

use std::sync::OnceLock;

use petgraph::algo::kosaraju_scc;
use petgraph::graphmap::DiGraphMap;
use roaring::RoaringBitmap;

/// Groups by the groups that list them. Groups are referred to by an index.
#[derive(Default)]
pub(super) struct Above {
    /// Groups that list each group.
    listed_by: Vec<Vec<u32>>,
    /// Computed when it is needed, because many files have no `memberOf`.
    closure: OnceLock<Closure>,
}

/// All groups above each group. Groups that contain each other have one set. Bitmaps are small even if thousands of groups are
/// nested.
struct Closure {
    /// Index in `sets` of each group.
    set_of: Vec<usize>,
    sets: Vec<RoaringBitmap>,
}

impl Above {
    /// Takes the groups that list each group.
    pub(super) fn new(listed_by: Vec<Vec<u32>>) -> Self {
        Self { listed_by, closure: OnceLock::new() }
    }

    /// Returns these groups and all groups above them.
    pub(super) fn with_above(&self, groups: &[u32]) -> RoaringBitmap {
        let Closure { set_of, sets } = self.closure.get_or_init(|| Closure::of(&self.listed_by));
        let mut found = RoaringBitmap::new();
        for group in groups {
            if !found.contains(*group) {
                found |= &sets[set_of[*group as usize]];
            }
        }
        found
    }
}

impl Closure {
    fn of(listed_by: &[Vec<u32>]) -> Self {
        let edges =
            || (0_u32..).zip(listed_by).flat_map(|(group, above)| above.iter().map(move |above| (group, *above)));
        let mut graph: DiGraphMap<u32, ()> = edges().collect();
        for (group, _) in (0_u32..).zip(listed_by) {
            graph.add_node(group);
        }
        let (mut set_of, mut sets) = (vec![0; listed_by.len()], Vec::new());
        // The groups above come first.
        for component in kosaraju_scc(&graph) {
            let mut set: RoaringBitmap = component.iter().copied().collect();
            for above in component.iter().flat_map(|group| &listed_by[*group as usize]) {
                if !set.contains(*above) {
                    set |= &sets[set_of[*above as usize]];
                }
            }
            set.optimize();
            for group in component {
                set_of[group as usize] = sets.len();
            }
            sets.push(set);
        }
        Self { set_of, sets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Follows each edge.
    fn naive(listed_by: &[Vec<u32>], groups: &[u32]) -> BTreeSet<u32> {
        let (mut open, mut seen) = (groups.to_vec(), groups.iter().copied().collect::<BTreeSet<u32>>());
        while let Some(next) = open.pop() {
            open.extend(listed_by[next as usize].iter().copied().filter(|above| seen.insert(*above)));
        }
        seen
    }

    proptest! {
        #[test]
        fn all_groups_above_are_found(
            edges in prop::collection::vec((0_u32..9, 0_u32..9), 0..20),
            groups in prop::collection::vec(0_u32..9, 0..3),
        ) {
            let mut listed_by = vec![Vec::new(); 9];
            for (group, above) in &edges {
                listed_by[*group as usize].push(*above);
            }
            let found: BTreeSet<u32> = Above::new(listed_by.clone()).with_above(&groups).iter().collect();
            prop_assert_eq!(found, naive(&listed_by, &groups));
        }
    }

    /// Deep nesting must not overflow the stack, and each question must not follow all levels.
    #[test]
    fn many_levels_are_computed_once() {
        let count = 20_000;
        let above =
            Above::new((0..count).map(|group| if group + 1 < count { vec![group + 1] } else { vec![] }).collect());
        assert!((0..count).all(|group| above.with_above(&[group]).len() == u64::from(count - group)));
    }
}
