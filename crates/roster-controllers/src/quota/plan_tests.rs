use super::*;

const NAME_OF_CPU: &str = "requests.cpu";

fn cpu(millis: i64) -> Amounts {
    [(NAME_OF_CPU.to_owned(), Amount::millis(millis))].into()
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A namespace that uses so much of what it has.
fn owned(name: &str, used: i64, hard: i64) -> Owned {
    let allotment = Allotment {
        term: Some("t".to_owned()),
        owner: Some("jane".to_owned()),
        spec: cpu(hard),
        enforced: Some(cpu(hard)),
        used: cpu(used),
        ..Allotment::default()
    };
    Owned { name: name.to_owned(), allotment: Some(allotment), counted: Some(cpu(used)), ..Owned::default() }
}

fn view(namespaces: Vec<Owned>) -> View {
    View { owner: "jane".to_owned(), limits: cpu(8000), tracked: cpu(8000), namespaces }
}

/// What each namespace gets, of those that get something else than they had.
fn planned(view: &View, now: Timestamp) -> BTreeMap<String, Amount> {
    let plan = plan(view, &Rules { term: "t", defaults: &Defaults::default(), counts_secrets: true, now });
    plan.changes.iter().map(|change| (change.namespace.clone(), change.spec[NAME_OF_CPU])).collect()
}

fn refused(at: i64, level: &str) -> Lately {
    let level = [(NAME_OF_CPU.to_owned(), level.to_owned())].into();
    Lately { refused: Some(QuotaRequest { since: second(at), at: second(at), level }), ..Lately::default() }
}

/// A controller whose pods were denied retries and finds the quota reserved for it, after any number of denials.
#[test]
fn requested_quota_stays_until_it_is_used() {
    let mut patient = owned("patient", 2500, 5500);
    patient.lately = refused(100, "5");
    let view = view(vec![owned("full", 2500, 2500), patient, owned("idle", 0, 0)]);
    assert_eq!(planned(&view, second(400)), BTreeMap::new());
}

/// Free quota is not reserved for namespaces whose requests have been served.
#[test]
fn free_quota_is_redistributed_once_requests_are_served() {
    let mut patient = owned("patient", 5000, 6000);
    patient.lately = refused(100, "5");
    let after = planned(&view(vec![owned("full", 2000, 2000), patient, owned("idle", 0, 0)]), second(101));
    assert!(after["patient"] < Amount::millis(6000), "{after:?}");
    // Room has to be taken before it is given.
    let mut patient = owned("patient", 5000, 5500);
    patient.lately = refused(100, "5");
    let after = planned(&view(vec![owned("full", 2000, 2000), patient, owned("idle", 0, 0)]), second(102));
    assert!(after["idle"] >= Amount::millis(80), "a quarter of an even part of 1000m: {after:?}");
}

/// Not even where it is given back later: who wants it again asks again.
#[test]
fn short_lived_usage_is_not_counted_as_growth() {
    let mut patient = owned("patient", 2000, 2000);
    patient.lately = Lately { reached: Some(second(100)), ..refused(100, "7") };
    let after = planned(&view(vec![owned("full", 2000, 2000), patient, owned("idle", 0, 0)]), second(200));
    assert!(after.contains_key("idle"), "{after:?}");
}

/// A pod is deleted for the one that was denied, as in a rolling update: the usage is no higher than before.
#[test]
fn replaced_usage_is_not_counted_as_growth() {
    let mut rolling = owned("rolling", 3000, 4000);
    rolling.lately = refused(100, "4");
    let risen = [(NAME_OF_CPU.to_owned(), (second(103), Amount::millis(1000)))].into();
    rolling.lately = Lately { used: cpu(3000), risen, ..rolling.lately };
    let after = planned(&view(vec![owned("full", 2500, 2500), rolling, owned("idle", 0, 0)]), second(200));
    assert!(after.contains_key("idle"), "{after:?}");
}

/// If no retry arrives, the reservation ends by the clock.
#[test]
fn expected_growth_lapses_and_schedules_a_check() {
    let mut patient = owned("patient", 2500, 5500);
    patient.lately = refused(100, "5");
    let view = view(vec![owned("full", 2500, 2500), patient, owned("idle", 0, 0)]);
    assert_eq!(view.until_expected_lapses(second(400)), Some(Duration::from_secs(301)));
    let after = planned(&view, second(701));
    assert!(after["patient"] < Amount::millis(5500), "{after:?}");
    assert_eq!(view.until_expected_lapses(second(701)), None);
}
