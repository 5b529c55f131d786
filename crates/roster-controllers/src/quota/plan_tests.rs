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
    View { owner: "jane".to_owned(), is_known: true, limits: cpu(8000), tracked: cpu(8000), namespaces }
}

/// What each namespace gets, of those that get something else than they had.
fn planned(view: &View, now: Timestamp) -> BTreeMap<String, Amount> {
    let plan = plan(view, &Rules { term: "t", defaults: &Defaults::default(), counts_secrets: true, now });
    plan.changes.iter().map(|change| (change.namespace.clone(), change.spec[NAME_OF_CPU])).collect()
}

fn refused(at: i64, level: &str) -> Lately {
    let level = [(NAME_OF_CPU.to_owned(), level.to_owned())].into();
    Lately { refused: vec![QuotaRequest { since: second(at), at: second(at), level }], ..Lately::default() }
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
    patient.lately = refused(100, "7");
    patient.lately.reached = patient.lately.refused.clone();
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

/// In one namespace, a smaller request must not replace a larger one that is still waiting.
#[test]
fn of_several_requests_the_largest_counts() {
    let mut busy = owned("busy", 1000, 1000);
    busy.lately.refused = [("5", 100), ("2", 101)]
        .map(|(level, at)| {
            let level = [(NAME_OF_CPU.to_owned(), level.to_owned())].into();
            QuotaRequest { since: second(at), at: second(at), level }
        })
        .into();
    let planned = |busy| planned(&view(vec![busy, owned("idle", 0, 0)]), second(102));
    let after = planned(busy.clone());
    assert!(after["busy"] >= Amount::millis(5000), "{after:?}");
    // Nor once the smaller one, which is the later one, has what it wants.
    busy.lately.reached = vec![busy.lately.refused[1].clone()];
    let after = planned(busy);
    assert!(after["busy"] >= Amount::millis(5000), "{after:?}");
}

/// kube-apiserver counts a request some time after there is room for it. Until then nobody else may get it.
#[test]
fn what_was_moved_for_a_request_stays_until_it_is_used() {
    let mut asking = owned("asking", 0, 3000);
    asking.lately = refused(100, "3");
    let mut growing = owned("growing", 500, 1000);
    growing.lately.risen = [(NAME_OF_CPU.to_owned(), (second(101), Amount::millis(500)))].into();
    let view = View { limits: cpu(4000), tracked: cpu(4000), ..view(vec![asking, growing]) };
    assert_eq!(planned(&view, second(101)).get("asking"), None);
}

#[test]
fn namespaces_of_a_user_that_does_not_exist_are_opened_and_what_was_allotted_stays() {
    let labels = |owner: &str| Some([(roster_api::OWNER_LABEL.to_owned(), owner.to_owned())].into());
    let mut directory = Directory::new(false);
    for name in ["new", "former", "others"] {
        let metadata =
            k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta { labels: labels("jane"), ..Default::default() };
        let state = roster_core::directory::bindings::NamespaceState::of(&metadata);
        directory.set_namespace(name, Some(state));
    }
    directory.set_allotment("former", owned("former", 500, 1000).allotment);
    let of_another = Allotment { owner: Some("joe".to_owned()), ..owned("others", 500, 1000).allotment.unwrap() };
    directory.set_allotment("others", Some(of_another));
    let view = View::of("jane", &directory, |_| Lately::default()).unwrap();
    let rules = Rules { term: "t", defaults: &Defaults::default(), counts_secrets: true, now: second(1) };
    let plan = plan(&view, &rules);
    let opened: Vec<&str> = plan.changes.iter().map(|change| change.namespace.as_str()).collect();
    assert_eq!(opened, ["new", "others"]);
    assert!(plan.changes.iter().all(|change| change.spec[NAME_OF_CPU] == Amount::UNLIMITED && change.owner == "jane"));
    assert!(View::of("nobody", &directory, |_| Lately::default()).is_none());
}
