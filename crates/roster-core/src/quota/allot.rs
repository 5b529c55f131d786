//! How a user's limit is shared out among their namespaces. Pure; one resource name at a time.
//!
//! kube-apiserver enforces what stands in `status.hard` of each namespace's ResourceQuota. So a user's limit holds over
//! all of them together if no two ResourceQuotas ever promise the same room. **Safety**: what a namespace may come to use
//! is its *claim*; room is given only out of what the claims of all namespaces leave. **Progress**: room lies where it is
//! asked for, and some of it ahead of need.
//!
//! ```text
//!  observed ─▶ targets ─▶ steps: take from those above their target at once,
//!                                give to those below it as far as the claims leave room
//! ```

use jiff::Timestamp;

use super::amount::Amount;

/// What one namespace has of one resource.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Share {
    /// `spec.hard`: what it is to have.
    pub spec: Amount,
    /// `status.hard`: what the API server goes by.
    pub enforced: Amount,
    /// `status.used`: what the API server counts. After deletions it lags upwards; after controller-manager has counted
    /// anew from a cache that lags, downwards.
    pub used: Amount,
    /// What was counted in a consistent list, taken after all of the above was read.
    pub counted: Option<Amount>,
    /// The use, and not the headroom, that somebody waits to come to.
    pub wanted: Amount,
    /// Since when they wait.
    pub waiting_since: Option<Timestamp>,
    /// By how much more is used than a moment ago: there may be more to come.
    pub growth: Amount,
}

impl Share {
    /// What is in use, by the higher count.
    fn in_use(&self) -> Amount {
        self.used.max(self.counted.unwrap_or_default())
    }

    /// The most that the namespace may come to use, whatever happens. What was counted beside a `status.used` that is too
    /// low may still grow by all the headroom that the API server sees.
    fn claim(&self) -> Amount {
        let headroom = self.enforced.saturating_sub(self.used);
        let counted = self.counted.unwrap_or(self.used) + headroom;
        self.spec.max(self.enforced).max(self.used).max(counted)
    }
}

/// What each namespace is to have of a limit: what it uses, what is waited for, and headroom.
///
/// `useful`: what people have asked for lately; less headroom than that is of no use to them. `grain`: what headroom is
/// rounded down to.
pub fn targets(limit: Amount, shares: &[Share], useful: Amount, grain: Amount) -> Vec<Amount> {
    let mut targets: Vec<Amount> = shares.iter().map(Share::in_use).collect();
    let free = limit.saturating_sub(targets.iter().copied().sum());
    // Where a limit was lowered below what is used, nothing more is given, and nothing deleted.
    let (free, latest) = serve_waiting(shares, &mut targets, free);
    let fair = free.split(2 * shares.len(), grain);
    let is_tight = fair < useful;
    let growing = shares.iter().filter(|share| share.growth > Amount::ZERO).count();
    // Ahead of need: whoever grows and has no room for two more like the last gets half of what is left, and whoever else has
    // little a fair part, from what lies idle or from those with the most.
    let lively = free.split(2 * growing.max(1), grain);
    let wanted = shares.iter().zip(&targets).map(|(share, target)| {
        let headroom = share.spec.saturating_sub(*target);
        let few = fair.split(2, grain);
        if share.growth > Amount::ZERO && headroom < few.max(share.growth + share.growth) {
            headroom.max(lively)
        } else if !is_tight && headroom < few {
            fair
        } else {
            headroom
        }
    });
    let wanted: Vec<Amount> = wanted.collect();
    let most = level(&wanted, free, grain);
    let mut idle = free;
    for (target, wanted) in targets.iter_mut().zip(wanted) {
        let given = wanted.min(most);
        *target += given;
        idle = idle.saturating_sub(given);
    }
    // An even split of too little would refuse everybody for ever: it lies with whoever asked last.
    if let Some(latest) = latest.filter(|_| is_tight) {
        targets[latest] += idle;
    }
    targets
}

/// Makes room for those who wait, the longest wait first. What does not fit does not keep others from theirs; what is left
/// then goes to it, since several may wait in one namespace. Returns what is left in the end, and who has begun to wait
/// last.
fn serve_waiting(shares: &[Share], targets: &mut [Amount], mut free: Amount) -> (Amount, Option<usize>) {
    let mut waiting: Vec<usize> = (0..shares.len()).filter(|at| shares[*at].wanted > targets[*at]).collect();
    waiting.sort_by_key(|at| shares[*at].waiting_since);
    for is_in_part in [false, true] {
        for at in &waiting {
            let asked = shares[*at].wanted.saturating_sub(targets[*at]);
            if asked <= free || is_in_part {
                let given = asked.min(free);
                targets[*at] += given;
                free = free.saturating_sub(given);
            }
        }
    }
    (free, waiting.last().copied())
}

/// The height at which vessels of these sizes, filled evenly, hold `sum` together at most.
fn level(sizes: &[Amount], sum: Amount, grain: Amount) -> Amount {
    let mut sorted = sizes.to_vec();
    sorted.sort();
    let mut left = sum;
    for (at, size) in sorted.iter().enumerate() {
        let even = left.split(sorted.len() - at, grain);
        if *size > even {
            return even;
        }
        left = left.saturating_sub(*size);
    }
    sorted.last().copied().unwrap_or_default()
}

/// What `spec.hard` of each namespace is to be now, on the way to its target.
pub fn steps(limit: Amount, shares: &[Share], targets: &[Amount]) -> Vec<Amount> {
    let claimed: Amount = shares.iter().map(Share::claim).sum();
    let mut free = limit.saturating_sub(claimed);
    let mut steps: Vec<Amount> = shares.iter().zip(targets).map(|(share, target)| share.spec.min(*target)).collect();
    let mut growing: Vec<usize> = (0..shares.len()).filter(|at| targets[*at] > shares[*at].spec).collect();
    // Who waits goes first, the longest wait before the others.
    growing.sort_by_key(|at| (shares[*at].waiting_since.is_none(), shares[*at].waiting_since));
    for at in growing {
        let claim = shares[at].claim();
        let step = targets[at].min(claim + free);
        if step > shares[at].spec {
            free = free.saturating_sub(step.saturating_sub(claim));
            steps[at] = step;
        }
    }
    steps
}

#[cfg(test)]
#[path = "allot_tests.rs"]
mod tests;
