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
    /// Admitted so recently that a cache may not contain it yet.
    recent: i64,
    /// The claim at the last allotment.
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

    /// Simulates controller-manager. What a stale cache may miss while a shrink is published is bounded by the shrink:
    /// beyond that, native ResourceQuota admits too much in a single namespace, too.
    fn synchronise(&mut self, missed: i64) {
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
    Synchronise(Index, i64),
    /// The allotter reads everything and writes all its steps, or crashes after some of them.
    Allot {
        asks: Option<(Index, i64)>,
        written: Index,
        crashes: bool,
    },
    /// An allotter pauses between reading and writing. Its later writes succeed only on objects that have not changed
    /// since (compare-and-swap).
    Settle(Index),
}

fn event() -> impl Strategy<Value = Event> {
    let index = any::<Index>;
    prop_oneof![
        4 => (index(), 1..900i64).prop_map(|(at, size)| Event::Create(at, size)),
        2 => (index(), 1..900i64).prop_map(|(at, size)| Event::Delete(at, size)),
        3 => (index(), 0..3000i64).prop_map(|(at, missed)| Event::Synchronise(at, missed)),
        3 => (proptest::option::of((index(), 1..900i64)), index(), any::<bool>())
            .prop_map(|(asks, written, crashes)| Event::Allot { asks, written, crashes }),
        1 => index().prop_map(Event::Settle),
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// **Safety**: holds through creation, deletion, late counts, moves and crashes in any order.
    #[test]
    fn the_sum_of_what_is_used_never_exceeds_the_limit(
        count in 1..6usize,
        events in proptest::collection::vec(event(), 1..120),
    ) {
        let mut world = vec![Namespace::default(); count];
        for event in events {
            match event {
                Event::Create(at, size) => { at.get_mut(&mut world).admit(size); }
                Event::Delete(at, size) => {
                    let namespace = at.get_mut(&mut world);
                    let gone = size.min(namespace.actual);
                    // controller-manager lowers the counted use later.
                    namespace.actual -= gone;
                    namespace.recent = namespace.recent.min(namespace.actual);
                }
                Event::Synchronise(at, missed) => at.get_mut(&mut world).synchronise(missed),
                Event::Allot { asks, written, crashes } => {
                    let mut wants = vec![0; count];
                    if let Some((at, size)) = asks {
                        let at = at.index(count);
                        wants[at] = world[at].used + size;
                    }
                    let written = if crashes { written.index(count + 1) } else { count };
                    allot(&mut world, &wants, written);
                }
                Event::Settle(at) => at.get_mut(&mut world).recent = 0,
            }
            let actual: i64 = world.iter().map(|namespace| namespace.actual).sum();
            prop_assert!(actual <= LIMIT, "{actual} of {LIMIT}: {world:?}");
        }
    }

    /// **Progress**: in any state, those who wait are served as soon as there is enough anywhere.
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
        // One round to take, one to give.
        for _ in 0..2 {
            allot(&mut world, &wants, count);
            for namespace in &mut world {
                namespace.synchronise(0);
            }
        }
        prop_assert_eq!(world[at].admit(size), size <= free, "{} of {} free: {:?}", size, free, world);
    }

    /// If nothing happens, nothing is written.
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
    assert_eq!(targets(amount(LIMIT), &shares, Amount::ZERO, amount(10)), [amount(5000), amount(4000)]);
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
    assert_eq!(targets[2], amount(4000), "all of it, before the one that has begun to wait later");
    assert_eq!(targets[0], amount(4000), "more than there is: the rest of it");
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
    assert_eq!(share.claim(), amount(8000), "six are there, and two more would be let in");
}
