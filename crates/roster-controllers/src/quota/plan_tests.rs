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
    Lately { refused: Some(Asked { since: second(at), at: second(at), level }), ..Lately::default() }
}

/// A controller whose pods were refused comes back for the room that lies ready for it, after however many refusals.
#[test]
fn what_was_asked_for_stays_where_it_is_until_it_is_used() {
    let mut patient = owned("patient", 2500, 5500);
    patient.lately = refused(100, "5");
    let view = view(vec![owned("full", 2500, 2500), patient, owned("idle", 0, 0)]);
    assert_eq!(planned(&view, second(400)), BTreeMap::new());
}

/// Nobody is kept from what is free for the sake of somebody who has got theirs.
#[test]
fn what_is_free_is_spread_again_as_soon_as_those_who_had_asked_have_theirs() {
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
fn what_came_and_went_again_is_not_hoped_for() {
    let mut patient = owned("patient", 2000, 2000);
    patient.lately = Lately { reached: Some(second(100)), ..refused(100, "7") };
    let after = planned(&view(vec![owned("full", 2000, 2000), patient, owned("idle", 0, 0)]), second(200));
    assert!(after.contains_key("idle"), "{after:?}");
}

/// A pod that makes room for the one that was refused, as in a rolling update: the use is no higher than before.
#[test]
fn what_came_while_others_went_is_not_hoped_for() {
    let mut rolling = owned("rolling", 3000, 4000);
    rolling.lately = refused(100, "4");
    let risen = [(NAME_OF_CPU.to_owned(), (second(103), Amount::millis(1000)))].into();
    rolling.lately = Lately { used: cpu(3000), risen, ..rolling.lately };
    let after = planned(&view(vec![owned("full", 2500, 2500), rolling, owned("idle", 0, 0)]), second(200));
    assert!(after.contains_key("idle"), "{after:?}");
}

/// Nobody tells when nobody comes back: the clock does.
#[test]
fn hope_lapses_and_somebody_looks_then() {
    let mut patient = owned("patient", 2500, 5500);
    patient.lately = refused(100, "5");
    let view = view(vec![owned("full", 2500, 2500), patient, owned("idle", 0, 0)]);
    assert_eq!(view.until_lapse(second(400)), Some(Duration::from_secs(301)));
    let after = planned(&view, second(701));
    assert!(after["patient"] < Amount::millis(5500), "{after:?}");
    assert_eq!(view.until_lapse(second(701)), None);
}
