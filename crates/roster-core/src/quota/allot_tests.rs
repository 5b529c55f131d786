use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const LIMIT: i64 = 8000;

fn amount(millis: i64) -> Amount {
    Amount::millis(millis)
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A namespace whose controller-manager may count from a stale cache.
#[derive(Clone, Debug, Default)]
struct Namespace {
    spec: i64,
    enforced: i64,
    used: i64,
    actual: i64,
    /// Use that was admitted so recently that a cache may not contain it yet.
    recent: i64,
    /// The claim when quota was last allotted.
    claim: i64,
}

impl Namespace {
    /// Simulates the admission of a pod by kube-apiserver.
    fn admit(&mut self, size: i64) -> bool {
        let fits = self.used + size <= self.enforced;
        if fits {
            self.used += size;
            self.actual += size;
            self.recent += size;
        }
        fits
    }

    /// Simulates that native ResourceQuota admits a pod although it does not fit, because controller-manager has
    /// counted too little. It admits none that is larger than the enforced quota.
    fn leak(&mut self, size: i64) -> bool {
        let is_possible = size <= self.enforced && self.actual <= self.enforced;
        if is_possible {
            self.used = self.used.min(self.enforced - size);
            self.admit(size);
        }
        is_possible
    }

    /// Simulates controller-manager. A stale cache may miss recent use while a reduction of the quota is published, but
    /// no more than the amount of the reduction: beyond that, native ResourceQuota admits too much even in a single
    /// namespace.
    fn synchronize(&mut self, missed: i64) {
        let shrunk = (self.enforced - self.spec).max(0);
        self.used = self.actual - missed.min(self.recent).min(shrunk);
        self.recent -= missed.min(self.recent);
        self.enforced = self.spec;
    }

    fn share(&self, wanted: i64) -> ResourceShare {
        ResourceShare {
            spec: amount(self.spec),
            enforced: amount(self.enforced),
            used: amount(self.used),
            counted: Some(amount(self.actual)),
            wanted: amount(wanted),
            waiting_since: Some(at(0)),
            growth: Amount::ZERO,
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Create(Index, i64),
    Delete(Index, i64),
    Synchronize(Index, i64),
    /// The allotter reads everything and writes all its steps, or crashes after some of them.
    Allot {
        asks: Option<(Index, i64)>,
        written: Index,
        crashes: bool,
    },
    /// The caches catch up with a namespace: none of its use counts as recent any more.
    CatchUp(Index),
    /// Native ResourceQuota admits a pod of this size even if it does not fit.
    Leak(Index, i64),
    /// The allotter reads everything and writes all its steps, and controller-manager publishes them.
    Settle,
}

fn event() -> impl Strategy<Value = Event> {
    let index = any::<Index>;
    prop_oneof![
        4 => (index(), 1..900i64).prop_map(|(at, size)| Event::Create(at, size)),
        2 => (index(), 1..900i64).prop_map(|(at, size)| Event::Delete(at, size)),
        3 => (index(), 0..3000i64).prop_map(|(at, missed)| Event::Synchronize(at, missed)),
        3 => (proptest::option::of((index(), 1..900i64)), index(), any::<bool>())
            .prop_map(|(asks, written, crashes)| Event::Allot { asks, written, crashes }),
        1 => index().prop_map(Event::CatchUp),
    ]
}

/// Returns an event that may also be one of native ResourceQuota admitting too much.
fn leaky_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => event(),
        1 => (any::<Index>(), 1..900i64).prop_map(|(at, size)| Event::Leak(at, size)),
        2 => Just(Event::Settle),
    ]
}

fn millis(amount: Amount) -> i64 {
    i64::try_from(amount.nanos() / 1_000_000).unwrap()
}

fn allot(world: &mut [Namespace], wants: &[i64], written: usize) {
    let shares: Vec<ResourceShare> = world.iter().zip(wants).map(|(namespace, want)| namespace.share(*want)).collect();
    let targets = targets(amount(LIMIT), &shares, Amount::ZERO, amount(10));
    let steps = steps(amount(LIMIT), &shares, &targets);
    for (at, step) in steps.into_iter().enumerate().take(written) {
        world[at].spec = millis(step);
    }
    for (namespace, share) in world.iter_mut().zip(&shares) {
        namespace.claim = millis(share.claim()).max(namespace.spec);
    }
}

/// Lets an event happen. Returns whether native ResourceQuota admitted too much.
fn happen(world: &mut [Namespace], event: &Event) -> bool {
    let count = world.len();
    match event {
        Event::Create(at, size) => {
            at.get_mut(world).admit(*size);
        }
        Event::Delete(at, size) => {
            let namespace = at.get_mut(world);
            let deleted = (*size).min(namespace.actual);
            // controller-manager lowers the counted use later.
            namespace.actual -= deleted;
            namespace.recent = namespace.recent.min(namespace.actual);
        }
        Event::Synchronize(at, missed) => at.get_mut(world).synchronize(*missed),
        Event::Allot { asks, written, crashes } => {
            let mut wants = vec![0; count];
            if let Some((at, size)) = asks {
                let at = at.index(count);
                wants[at] = world[at].used + size;
            }
            let written = if *crashes { written.index(count + 1) } else { count };
            allot(world, &wants, written);
        }
        Event::CatchUp(at) => at.get_mut(world).recent = 0,
        Event::Leak(at, size) => return at.get_mut(world).leak(*size),
        Event::Settle => {
            allot(world, &vec![0; count], count);
            for namespace in world {
                namespace.synchronize(0);
            }
        }
    }
    false
}

fn actual(world: &[Namespace]) -> i64 {
    world.iter().map(|namespace| namespace.actual).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// **Safety**: holds for creations, deletions, late counts, moves of quota and crashes in any order.
    #[test]
    fn the_sum_of_what_is_used_never_exceeds_the_limit(
        count in 1..6usize,
        events in proptest::collection::vec(event(), 1..120),
    ) {
        let mut world = vec![Namespace::default(); count];
        for event in events {
            happen(&mut world, &event);
            let actual = actual(&world);
            prop_assert!(actual <= LIMIT, "{actual} of {LIMIT}: {world:?}");
        }
    }

    /// **No ratchet**: if native ResourceQuota admits too much, no allotment grows by that. Once Roster has seen the
    /// excess, nothing else is admitted beyond the limit, not even in place of what ends.
    #[test]
    fn an_excess_admitted_by_native_quota_is_not_allotted(
        count in 1..6usize,
        events in proptest::collection::vec(leaky_event(), 1..120),
    ) {
        // All of the limit is in use, so that most of what native ResourceQuota admits by mistake exceeds it.
        let even = LIMIT / i64::try_from(count).unwrap();
        let full = Namespace { spec: even, enforced: even, used: even, actual: even, ..Namespace::default() };
        let mut world = vec![full; count];
        let mut is_settled = true;
        for event in events {
            let before = actual(&world);
            let is_settling = matches!(event, Event::Settle);
            let has_leaked = happen(&mut world, &event);
            is_settled = (is_settled || is_settling) && !has_leaked;
            let allotted: i64 = world.iter().map(|namespace| namespace.spec.max(namespace.enforced)).sum();
            prop_assert!(allotted <= LIMIT, "{allotted} of {LIMIT} are allotted after {event:?}: {world:?}");
            let after = actual(&world);
            let is_admitted_beyond = after > before && after > LIMIT;
            prop_assert!(!(is_settled && is_admitted_beyond), "{after} of {LIMIT} after {event:?}: {world:?}");
        }
    }

    /// **Progress**: in any state, a waiting namespace is served if enough of the limit is unused, wherever it is
    /// allotted.
    #[test]
    fn waiting_namespaces_get_free_quota_from_any_other(
        specs in proptest::collection::vec((0..3000i64, 0..=100u8), 2..6),
        at in any::<Index>(),
        size in 1..1000i64,
    ) {
        let mut world: Vec<Namespace> = Vec::new();
        let mut left = LIMIT;
        for (spec, share) in specs {
            let spec = spec.min(left);
            left -= spec;
            let used = spec * i64::from(share) / 100;
            world.push(Namespace { spec, enforced: spec, used, actual: used, ..Namespace::default() });
        }
        let count = world.len();
        let at = at.index(count);
        let free = LIMIT - world.iter().map(|namespace| namespace.actual).sum::<i64>();
        let mut wants = vec![0; count];
        wants[at] = world[at].used + size;
        // The first round lowers allotments, the second raises them.
        for _ in 0..2 {
            allot(&mut world, &wants, count);
            for namespace in &mut world {
                namespace.synchronize(0);
            }
        }
        prop_assert_eq!(world[at].admit(size), size <= free, "{} of {} free: {:?}", size, free, world);
    }

    /// Without changes in use, the allotments settle and are not written again.
    #[test]
    fn steady_state_moves_nothing(
        used in proptest::collection::vec(0..2500i64, 1..6),
        useful in 0..2000i64,
    ) {
        let mut world: Vec<Namespace> = used
            .iter()
            .map(|used| Namespace { used: *used, actual: *used, ..Namespace::default() })
            .collect();
        let step = |world: &[Namespace]| {
            let shares: Vec<ResourceShare> = world.iter().map(|namespace| namespace.share(0)).collect();
            let targets = targets(amount(LIMIT), &shares, amount(useful), amount(10));
            steps(amount(LIMIT), &shares, &targets)
        };
        for _ in 0..3 {
            let steps = step(&world);
            for (namespace, step) in world.iter_mut().zip(steps) {
                namespace.spec = millis(step);
                namespace.enforced = namespace.spec;
            }
        }
        let again: Vec<i64> = step(&world).into_iter().map(millis).collect();
        prop_assert_eq!(again, world.iter().map(|namespace| namespace.spec).collect::<Vec<_>>());
    }
}

#[test]
fn a_lowered_limit_stops_growth_and_takes_all_headroom() {
    let shares = [(5000, 6000), (4000, 4000)].map(|(used, spec)| ResourceShare {
        spec: amount(spec),
        enforced: amount(spec),
        used: amount(used),
        counted: Some(amount(used)),
        ..ResourceShare::default()
    });
    let targets = targets(amount(LIMIT), &shares, Amount::ZERO, amount(10));
    // 1000m are too much. Whichever namespace frees them, they cannot be used again.
    assert_eq!(targets, [amount(4000), amount(3000)]);
    assert_eq!(steps(amount(LIMIT), &shares, &targets), targets);
}

#[test]
fn an_allotment_is_not_raised_to_a_use_that_exceeds_the_limit() {
    let share = |spec: i64, used: i64| ResourceShare {
        spec: amount(spec),
        enforced: amount(spec),
        used: amount(used),
        counted: Some(amount(used)),
        ..ResourceShare::default()
    };
    let next = |shares: &[ResourceShare]| {
        steps(amount(LIMIT), shares, &targets(amount(LIMIT), shares, Amount::ZERO, amount(10)))
    };
    assert_eq!(next(&[share(4000, 4600), share(4000, 4000)]), [amount(4000), amount(3400)]);
    // Once the sum is within the limit, the allotment follows the use, and the rest is headroom.
    assert_eq!(next(&[share(4000, 4600), share(3400, 3000)]), [amount(4600), amount(3300)]);
}

#[test]
fn a_remainder_too_small_to_share_stays_with_the_last_requester() {
    let share = |used: i64, wanted: i64, since| ResourceShare {
        spec: amount(used),
        enforced: amount(used),
        used: amount(used),
        counted: Some(amount(used)),
        wanted: amount(wanted),
        waiting_since: Some(at(since)),
        growth: Amount::ZERO,
    };
    let shares = [share(2000, 0, 0), share(2000, 2500, 1), share(2500, 0, 0)];
    let targets = targets(amount(LIMIT), &shares, amount(500), amount(10));
    assert_eq!(targets, [amount(2000), amount(3500), amount(2500)]);
}

#[test]
fn the_longest_wait_is_served_first_unless_it_does_not_fit() {
    let share = |wanted: i64, since| ResourceShare {
        wanted: amount(wanted),
        waiting_since: Some(at(since)),
        ..ResourceShare::default()
    };
    let shares = [share(9000, 1), share(5000, 3), share(4000, 2)];
    let targets = targets(amount(LIMIT), &shares, amount(9000), amount(10));
    assert_eq!(targets[2], amount(4000), "served in full, before the one that started to wait later");
    assert_eq!(targets[0], amount(4000), "it asks for more than the limit, so it gets the rest");
    assert_eq!(targets[1], Amount::ZERO);
}

#[test]
fn usage_missing_from_a_stale_count_stays_claimed() {
    let share = ResourceShare {
        spec: amount(3000),
        enforced: amount(3000),
        used: amount(1000),
        counted: Some(amount(6000)),
        ..ResourceShare::default()
    };
    assert_eq!(share.claim(), amount(8000), "6000m are in use, and kube-apiserver would admit another 2000m");
}
