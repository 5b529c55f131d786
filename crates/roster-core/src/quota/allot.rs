//! Distributes a user's limit among their namespaces. Pure; handles one resource name at a time.
//!
//! kube-apiserver enforces `status.hard` of each namespace's ResourceQuota, so a user's limit holds over all namespaces
//! if no two ResourceQuotas ever promise the same amount. **Safety**: what a namespace may come to use is its *claim*,
//! and allotments grow only by what the claims of all namespaces leave free. **Progress**: allotments grow where use is
//! requested, and partly ahead of need.
//!
//! ```text
//!  observed ─▶ targets ─▶ steps: lower those above their target at once,
//!                                raise those below it as far as the claims allow
//! ```

use jiff::Timestamp;

use super::amount::Amount;

/// State of one resource in one namespace.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ResourceShare {
    /// `spec.hard`: the allotment.
    pub spec: Amount,
    /// `status.hard`: what kube-apiserver enforces.
    pub enforced: Amount,
    /// `status.used`: what kube-apiserver counts. It is too high for a while after deletions, and too low after
    /// controller-manager recounts from a stale cache.
    pub used: Amount,
    /// Use counted by a consistent list, which was taken after reading all of the above.
    pub counted: Option<Amount>,
    /// Total use, not headroom, that a request is waiting for.
    pub wanted: Amount,
    /// When they started to wait.
    pub waiting_since: Option<Timestamp>,
    /// Recent increase in use: more may follow.
    pub growth: Amount,
}

impl ResourceShare {
    /// Returns the higher of both counts of use.
    fn in_use(&self) -> Amount {
        self.used.max(self.counted.unwrap_or_default())
    }

    /// Returns the most that the namespace may come to use. If `status.used` is too low, the counted use may still grow
    /// by all the headroom that kube-apiserver sees.
    fn claim(&self) -> Amount {
        let headroom = self.enforced.saturating_sub(self.used);
        let counted = self.counted.unwrap_or(self.used) + headroom;
        self.spec.max(self.enforced).max(self.used).max(counted)
    }
}

/// Returns the target allotment of each namespace: its use, what is waited for, and headroom.
///
/// `useful` is the amount requested recently; less headroom than that is useless. Headroom is rounded down to `grain`.
pub fn targets(limit: Amount, shares: &[ResourceShare], useful: Amount, grain: Amount) -> Vec<Amount> {
    let mut targets: Vec<Amount> = shares.iter().map(ResourceShare::in_use).collect();
    let free = limit.saturating_sub(targets.iter().copied().sum());
    // If the limit was lowered below the use, nothing more is given and nothing deleted.
    let (free, latest) = serve_waiting(shares, &mut targets, free);
    let fair = free.split(2 * shares.len(), grain);
    let is_tight = fair < useful;
    let growing = shares.iter().filter(|share| share.growth > Amount::ZERO).count();
    // Ahead of need: namespaces that grow and lack headroom for twice their last growth get half of what is left.
    // Others with little headroom get a fair share. Both come from idle amounts or from those with the most.
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
    // An even split of too little would reject everybody forever, so the latest request gets the rest.
    if let Some(latest) = latest.filter(|_| is_tight) {
        targets[latest] += idle;
    }
    targets
}

/// Serves those who wait, the longest wait first. Requests that do not fit do not block others and get what is left in
/// the end, because several callers may wait in one namespace. Returns what remains, and who started to wait last.
fn serve_waiting(shares: &[ResourceShare], targets: &mut [Amount], mut free: Amount) -> (Amount, Option<usize>) {
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

/// Returns the highest level to which vessels of these sizes can be filled with at most `sum` in total.
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

/// Returns the next `spec.hard` of each namespace on the way to its target.
pub fn steps(limit: Amount, shares: &[ResourceShare], targets: &[Amount]) -> Vec<Amount> {
    let claimed: Amount = shares.iter().map(ResourceShare::claim).sum();
    let mut free = limit.saturating_sub(claimed);
    let mut steps: Vec<Amount> = shares.iter().zip(targets).map(|(share, target)| share.spec.min(*target)).collect();
    let mut growing: Vec<usize> = (0..shares.len()).filter(|at| targets[*at] > shares[*at].spec).collect();
    // Waiting namespaces go first, sorted by the longest wait.
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
