//! Distributes a user's limit among their namespaces. Pure logic, for one resource name at a time.
//!
//! kube-apiserver enforces `status.hard` of each namespace's ResourceQuota, so a user's limit holds over all namespaces
//! if no two ResourceQuotas ever promise the same amount. **Safety**: the most that a namespace may come to use is its
//! *claim*, and allotments grow only by what the claims of all namespaces leave free. **Progress**: allotments grow
//! where requests are waiting for quota, and, as far as quota is free, ahead of need.
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
    /// When that request started to wait.
    pub waiting_since: Option<Timestamp>,
    /// Recent increase in use, which suggests that more will follow.
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

/// Returns the target allotment of each namespace: its use, what requests wait for, and headroom.
///
/// `useful` is the amount requested recently: less headroom than that would not admit another such request. Headroom is
/// rounded down to `grain`.
pub fn targets(limit: Amount, shares: &[ResourceShare], useful: Amount, grain: Amount) -> Vec<Amount> {
    let mut targets: Vec<Amount> = shares.iter().map(ResourceShare::in_use).collect();
    let in_use: Amount = targets.iter().copied().sum();
    if in_use > limit {
        return targets_beyond(in_use.saturating_sub(limit), shares);
    }
    let free = limit.saturating_sub(in_use);
    let (free, latest) = serve_waiting(shares, &mut targets, free);
    let fair = free.split(2 * shares.len(), grain);
    let is_tight = fair < useful;
    let growing = shares.iter().filter(|share| share.growth > Amount::ZERO).count();
    // Ahead of need: namespaces that grow and lack headroom for twice their last growth share half of what is left.
    // Others with little headroom get a fair share. Both come from unallotted amounts, or from the namespaces with the
    // most headroom.
    let growth_headroom = free.split(2 * growing.max(1), grain);
    let wanted = shares.iter().zip(&targets).map(|(share, target)| {
        let headroom = share.spec.saturating_sub(*target);
        let little = fair.split(2, grain);
        if share.growth > Amount::ZERO && headroom < little.max(share.growth + share.growth) {
            headroom.max(growth_headroom)
        } else if !is_tight && headroom < little {
            fair
        } else {
            headroom
        }
    });
    let wanted: Vec<Amount> = wanted.collect();
    let cap = max_min_fair_cap(&wanted, free, grain);
    let mut idle = free;
    for (target, wanted) in targets.iter_mut().zip(wanted) {
        let given = wanted.min(cap);
        *target += given;
        idle = idle.saturating_sub(given);
    }
    // An even split of too little would never admit any request, so the latest one gets the rest.
    if let Some(latest) = latest.filter(|_| is_tight) {
        targets[latest] += idle;
    }
    targets
}

/// Returns the targets while the use exceeds the limit by `excess`: the limit was lowered, or native ResourceQuota has
/// admitted too much. Nothing is deleted, but in whichever namespaces use ends, none of it may be replaced before the
/// sum is within the limit. So each target is below the use by the excess. None grows, because an allotment that
/// follows the use would stay when the use falls.
fn targets_beyond(excess: Amount, shares: &[ResourceShare]) -> Vec<Amount> {
    shares.iter().map(|share| share.spec.min(share.in_use().saturating_sub(excess))).collect()
}

/// Serves the namespaces in which requests wait, the longest wait first. A namespace that waits for more than is free
/// does not block the others. It gets what is left at the end, because several callers may wait in it, and that may be
/// enough for one of them. Returns what remains, and the index of the namespace that started to wait last.
fn serve_waiting(shares: &[ResourceShare], targets: &mut [Amount], mut free: Amount) -> (Amount, Option<usize>) {
    let mut waiting: Vec<usize> = (0..shares.len()).filter(|at| shares[*at].wanted > targets[*at]).collect();
    waiting.sort_by_key(|at| shares[*at].waiting_since);
    for is_partial in [false, true] {
        for at in &waiting {
            let asked = shares[*at].wanted.saturating_sub(targets[*at]);
            if asked <= free || is_partial {
                let given = asked.min(free);
                targets[*at] += given;
                free = free.saturating_sub(given);
            }
        }
    }
    (free, waiting.last().copied())
}

/// Returns the largest cap for which these sizes, each limited to the cap, add up to at most `sum` (max-min fairness).
/// Rounded down to `grain`; the largest size if all of them fit.
fn max_min_fair_cap(sizes: &[Amount], sum: Amount, grain: Amount) -> Amount {
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
    if claimed > limit {
        // Not even up to its claim may an allotment grow: the sum of the allotments could exceed the limit.
        return steps;
    }
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
