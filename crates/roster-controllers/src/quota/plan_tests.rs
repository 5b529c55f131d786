use super::*;

const NAME_OF_CPU: &str = "requests.cpu";

fn cpu(millis: i64) -> Amounts {
    [(NAME_OF_CPU.to_owned(), Amount::millis(millis))].into()
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// Returns a namespace with this usage and this allotment of CPU, in thousandths.
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

/// Returns the planned allotments of the namespaces whose allotment changes.
fn planned(view: &View, now: Timestamp) -> BTreeMap<String, Amount> {
    let plan = plan(view, &Rules { term: "t", defaults: &Defaults::default(), counts_secrets: true, now });
    plan.changes.iter().map(|change| (change.namespace.clone(), change.spec[NAME_OF_CPU])).collect()
}

fn refused(at: i64, level: &str) -> History {
    let level = [(NAME_OF_CPU.to_owned(), level.to_owned())].into();
    History { refused: vec![QuotaRequest { since: second(at), at: second(at), level }], ..History::default() }
}

/// A controller whose pods were denied retries and finds the quota reserved for it, after any number of denials.
#[test]
fn requested_quota_stays_until_it_is_used() {
    let mut patient = owned("patient", 2500, 5500);
    patient.history = refused(100, "5");
    let view = view(vec![owned("full", 2500, 2500), patient, owned("idle", 0, 0)]);
    assert_eq!(planned(&view, second(400)), BTreeMap::new());
}

/// Free quota is not reserved for namespaces whose requests have been served.
#[test]
fn free_quota_is_redistributed_once_requests_are_served() {
    let mut patient = owned("patient", 5000, 6000);
    patient.history = refused(100, "5");
    let after = planned(&view(vec![owned("full", 2000, 2000), patient, owned("idle", 0, 0)]), second(101));
    assert!(after["patient"] < Amount::millis(6000), "{after:?}");
    // An allotment shrinks before others grow.
    let mut patient = owned("patient", 5000, 5500);
    patient.history = refused(100, "5");
    let after = planned(&view(vec![owned("full", 2000, 2000), patient, owned("idle", 0, 0)]), second(102));
    assert!(after["idle"] >= Amount::millis(80), "a quarter of an even share of 1000m: {after:?}");
}

/// A request whose usage was reached reserves nothing afterwards, even if the usage has ended.
#[test]
fn requests_that_were_served_reserve_nothing() {
    let mut patient = owned("patient", 2000, 2000);
    patient.history = refused(100, "7");
    patient.history.reached = patient.history.refused.clone();
    let after = planned(&view(vec![owned("full", 2000, 2000), patient, owned("idle", 0, 0)]), second(200));
    assert!(after.contains_key("idle"), "{after:?}");
}

/// In a rolling update, a pod is deleted before the denied one is admitted: the total usage is no higher than before.
#[test]
fn requests_served_by_replacing_usage_reserve_nothing() {
    let mut rolling = owned("rolling", 3000, 4000);
    rolling.history = refused(100, "4");
    let last_growth = [(NAME_OF_CPU.to_owned(), (second(103), Amount::millis(1000)))].into();
    rolling.history = History { used: cpu(3000), last_growth, ..rolling.history };
    let after = planned(&view(vec![owned("full", 2500, 2500), rolling, owned("idle", 0, 0)]), second(200));
    assert!(after.contains_key("idle"), "{after:?}");
}

/// If no retry arrives, the reservation ends by the clock.
#[test]
fn expected_growth_lapses_and_schedules_a_check() {
    let mut patient = owned("patient", 2500, 5500);
    patient.history = refused(100, "5");
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
    busy.history.refused = [("5", 100), ("2", 101)]
        .map(|(level, at)| {
            let level = [(NAME_OF_CPU.to_owned(), level.to_owned())].into();
            QuotaRequest { since: second(at), at: second(at), level }
        })
        .into();
    let planned = |busy| planned(&view(vec![busy, owned("idle", 0, 0)]), second(102));
    let after = planned(busy.clone());
    assert!(after["busy"] >= Amount::millis(5000), "{after:?}");
    // The same holds once the smaller, later request has been served.
    busy.history.reached = vec![busy.history.refused[1].clone()];
    let after = planned(busy);
    assert!(after["busy"] >= Amount::millis(5000), "{after:?}");
}

/// kube-apiserver counts a request some time after quota was moved for it. Until then, that quota must not be moved
/// elsewhere.
#[test]
fn quota_moved_for_a_request_stays_until_it_is_used() {
    let mut requesting = owned("requesting", 0, 3000);
    requesting.history = refused(100, "3");
    let mut growing = owned("growing", 500, 1000);
    growing.history.last_growth = [(NAME_OF_CPU.to_owned(), (second(101), Amount::millis(500)))].into();
    let view = View { limits: cpu(4000), tracked: cpu(4000), ..view(vec![requesting, growing]) };
    assert_eq!(planned(&view, second(101)).get("requesting"), None);
}

#[test]
fn namespaces_of_an_absent_user_are_unlimited_and_its_enforced_allotments_stay() {
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
    let view = View::of("jane", &directory, |_| History::default()).unwrap();
    let rules = Rules { term: "t", defaults: &Defaults::default(), counts_secrets: true, now: second(1) };
    let plan = plan(&view, &rules);
    let unlimited: Vec<&str> = plan.changes.iter().map(|change| change.namespace.as_str()).collect();
    assert_eq!(unlimited, ["new", "others"]);
    assert!(plan.changes.iter().all(|change| change.spec[NAME_OF_CPU] == Amount::UNLIMITED && change.owner == "jane"));
    assert!(View::of("unknown-user", &directory, |_| History::default()).is_none());
}
