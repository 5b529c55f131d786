use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::http::{Request, Response};
use kube::Client;
use kube::client::Body;
use roster_api::User;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::*;
use crate::informers::failures::WatchFailures;
use crate::informers::follow::follow;
use crate::metrics::Metrics;

/// Mock API server that returns these answers in order and records the requests.
fn api_server(answers: &[(u16, String)]) -> (Api<User>, Arc<Mutex<Vec<String>>>) {
    let (asked, answers) = (Arc::<Mutex<Vec<String>>>::default(), Mutex::new(VecDeque::from(answers.to_vec())));
    let (notes, answers) = (Arc::clone(&asked), Arc::new(answers));
    let service = tower::service_fn(move |request: Request<Body>| {
        let query = request.uri().query().unwrap_or_default();
        notes.lock().unwrap().push(query.trim_start_matches('&').to_owned());
        let (code, text) = answers.lock().unwrap().pop_front().expect("another answer");
        let response = Response::builder().status(code).body(Body::from(text.into_bytes())).unwrap();
        std::future::ready(Ok::<_, Infallible>(response))
    });
    (Api::all(Client::new(service, "default")), asked)
}

fn object(name: &str, revision: u64) -> String {
    format!(
        r#"{{"apiVersion": "roster.dev/v1alpha1", "kind": "User", "spec": {{}},
            "metadata": {{"name": "{name}", "resourceVersion": "{revision}"}}}}"#
    )
    .replace('\n', "")
}

fn event(kind: &str, name: &str, revision: u64) -> String {
    format!("{{\"type\": \"{kind}\", \"object\": {}}}\n", object(name, revision))
}

fn bookmark(revision: u64, annotations: &str) -> String {
    let metadata = format!(r#"{{"resourceVersion": "{revision}", "annotations": {annotations}}}"#);
    format!(
        r#"{{"type": "BOOKMARK", "object": {{"apiVersion": "roster.dev/v1alpha1", "kind": "User",
            "metadata": {metadata}, "spec": {{}}}}}}"#
    )
    .replace('\n', "")
        + "\n"
}

fn page(names: &[&str], token: &str) -> String {
    let items: Vec<String> = names.iter().map(|name| object(name, 3)).collect();
    format!(
        r#"{{"apiVersion": "roster.dev/v1alpha1", "kind": "UserList", "items": [{}],
            "metadata": {{"resourceVersion": "7", "continue": "{token}"}}}}"#,
        items.join(", ")
    )
}

fn status(code: u16) -> (u16, String) {
    let status = r#"{"kind": "Status", "status": "Failure", "message": "no", "reason": "Invalid", "code": CODE}"#;
    (code, status.replace("CODE", &code.to_string()))
}

/// Returns the first `count` steps reported.
async fn steps(api: Api<User>, count: usize) -> Vec<String> {
    let steps = list_watch(api).take(count).map(|step| match step {
        Ok(WatchStep::Revision(revision)) => format!("revision {revision}"),
        Ok(WatchStep::Event(Event::Init)) => "begins".into(),
        Ok(WatchStep::Event(Event::InitDone)) => "is complete".into(),
        Ok(WatchStep::Event(Event::InitApply(user))) => format!("lists {}", user.meta().name.as_deref().unwrap()),
        Ok(WatchStep::Event(Event::Apply(user))) => format!("sets {}", user.meta().name.as_deref().unwrap()),
        Ok(WatchStep::Event(Event::Delete(user))) => format!("removes {}", user.meta().name.as_deref().unwrap()),
        Err(error) => error.to_string(),
    });
    steps.collect().await
}

const STREAMED: &str = "watch=true&timeoutSeconds=290&allowWatchBookmarks=true&sendInitialEvents=true\
                        &resourceVersionMatch=NotOlderThan&resourceVersion=";
const WATCHED: &str = "watch=true&timeoutSeconds=25&allowWatchBookmarks=true&resourceVersion=7";
const END: &str = r#"{"k8s.io/initial-events-end": "true"}"#;

#[tokio::test]
async fn a_streaming_list_continues_as_a_watch() {
    let streamed = event("ADDED", "jane", 3) + &bookmark(5, "{}") + &event("ADDED", "joe", 4) + &bookmark(7, END);
    let changes = event("ADDED", "kim", 8) + &event("MODIFIED", "jane", 9) + &event("DELETED", "joe", 10);
    // Changes after the list in the same response are reported again from the revision of the list.
    let answers = [streamed + &changes, changes + &bookmark(12, "{}"), bookmark(13, "{}")];
    let (api, asked) = api_server(&answers.map(|answer| (200, answer)));
    let listed = ["begins", "lists jane", "lists joe", "revision 7", "is complete"];
    let watched = ["sets kim", "sets jane", "removes joe", "revision 12", "revision 13"];
    assert_eq!(steps(api, 10).await, [listed, watched].concat());
    let watches = [STREAMED.to_owned(), WATCHED.to_owned(), WATCHED.replace("=7", "=12")];
    assert_eq!(*asked.lock().unwrap(), watches);
}

#[tokio::test]
async fn without_streaming_lists_pages_are_read() {
    let pages = [page(&["jane", "joe"], "next"), page(&["kim"], "")].map(|page| (200, page));
    let (api, asked) = api_server(&[&[status(422)], &pages[..], &[(200, bookmark(8, "{}"))]].concat());
    let listed = ["begins", "lists jane", "lists joe", "lists kim", "revision 7", "is complete", "revision 8"];
    assert_eq!(steps(api, 7).await, listed);
    assert_eq!(*asked.lock().unwrap(), [STREAMED, "limit=500", "limit=500&continue=next", WATCHED]);
}

#[tokio::test]
async fn a_streaming_list_that_breaks_off_is_read_in_pages() {
    let jane = event("ADDED", "jane", 3);
    for (rest, error) in [
        (String::new(), "the list broke off"),
        (event("DELETED", "jane", 9), "the list broke off"),
        (format!("{{\"type\": \"ERROR\", \"object\": {}}}\n", status(500).1), "no"),
    ] {
        let answers = [(200, jane.clone() + &rest), (200, page(&["joe"], "")), (200, bookmark(8, "{}"))];
        let (api, _) = api_server(&answers);
        let steps = steps(api, 8).await;
        assert_eq!(steps[..2], ["begins", "lists jane"]);
        assert!(steps[2].contains(error), "{steps:?}");
        assert_eq!(steps[3..], ["begins", "lists joe", "revision 7", "is complete", "revision 8"]);
    }
}

#[tokio::test]
async fn an_expired_revision_is_listed_again() {
    let listed = |name| (200, event("ADDED", name, 3) + &bookmark(7, END));
    let (api, asked) = api_server(&[status(500), listed("jane"), status(410), listed("joe")]);
    let steps = steps(api, 10).await;
    assert!(steps[0].contains("no") && steps[5].contains("no"), "{steps:?}");
    assert_eq!(steps[1..5], ["begins", "lists jane", "revision 7", "is complete"]);
    assert_eq!(steps[6..], ["begins", "lists joe", "revision 7", "is complete"]);
    assert_eq!(*asked.lock().unwrap(), [STREAMED, STREAMED, WATCHED, STREAMED]);
}

/// kube-apiserver reports an expired revision within a watch that started well. Until the relist, the known state is
/// out of date.
#[tokio::test]
async fn a_watch_that_ends_at_once_is_not_a_recovery() {
    let listed = |name| (200, event("ADDED", name, 3) + &bookmark(7, END));
    let gone = format!("{{\"type\": \"ERROR\", \"object\": {}}}\n", status(410).1);
    let (api, asked) = api_server(&[listed("jane"), (200, gone), listed("joe")]);
    let (steps, errors): (Vec<_>, Vec<_>) =
        list_watch(api).take(9).map(|step| (step.is_ok(), step.err())).unzip().await;
    assert_eq!(steps, [true, true, true, true, false, true, true, true, true], "{errors:?}");
    assert!(errors[4].as_ref().is_some_and(WatchFailure::is_gap), "{errors:?}");
    assert_eq!(*asked.lock().unwrap(), [STREAMED, WATCHED, STREAMED]);
}

fn read(object: &str) -> kube::Result<DeserializeGuard<User>> {
    guarded(&RawValue::from_string(object.to_owned()).unwrap())
}

#[test]
fn the_metadata_of_unparseable_objects_is_read() {
    let jane = object("jane", 3);
    assert_eq!(read(&jane).unwrap().0.unwrap().metadata.name.as_deref(), Some("jane"));
    let invalid = read(&jane.replace(r#""spec": {}"#, r#""spec": {"groups": 7}"#)).unwrap().0.unwrap_err();
    assert_eq!(invalid.metadata.name.as_deref(), Some("jane"));
    assert!(invalid.error.contains("expected a sequence"), "{}", invalid.error);
    assert!(read(r#"{"metadata": 7}"#).is_err(), "nobody can tell which object that is");
}

/// Mock API server that lists no objects and sends one late bookmark into each watch. While `hangs` is set, nothing
/// gets through and no connection ends.
fn hanging_api_server(hangs: &Arc<AtomicBool>) -> Api<User> {
    async fn pass(hangs: Arc<AtomicBool>) {
        while hangs.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(5)).await;
        }
    }
    let hangs = Arc::clone(hangs);
    let service = tower::service_fn(move |request: Request<Body>| {
        let is_list = request.uri().query().unwrap_or_default().contains("sendInitialEvents");
        let hangs = Arc::clone(&hangs);
        async move {
            pass(Arc::clone(&hangs)).await;
            let events = stream::once(async move {
                if is_list {
                    return bookmark(7, END);
                }
                sleep(Duration::from_millis(500)).await;
                pass(hangs).await;
                bookmark(8, "{}")
            });
            let body = axum::body::Body::from_stream(events.map(Ok::<_, Infallible>));
            Ok::<_, Infallible>(Response::new(body))
        }
    });
    Api::all(Client::new(service, "default"))
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

/// The guard and the token webhook refuse while a watch fails, so this bounds the age of the data they rely on.
#[tokio::test]
async fn a_hanging_watch_fails_until_it_reports_again() {
    let (hangs, failures) = (Arc::default(), Arc::new(WatchFailures::new(Metrics::default().watch_errors)));
    let (sender, synced) = oneshot::channel();
    let [silence, resumption, missed_events] = [1500, 300, 100].map(Duration::from_millis);
    let timeouts = Timeouts { silence, resumption, missed_events };
    let watch = list_watch_as(hanging_api_server(&hangs), guarded::<User>, timeouts);
    let following = follow("users", watch, |_| {}, sender, Arc::clone(&failures));
    let _following = AbortOnDropHandle::new(tokio::spawn(following));
    synced.await.unwrap();
    assert!(!failures.any_of(&["users"]));
    hangs.store(true, Ordering::Relaxed);
    until("one silence is enough", || failures.any_of(&["users"])).await;
    hangs.store(false, Ordering::Relaxed);
    until("it works again", || !failures.any_of(&["users"])).await;
}

/// kube-apiserver sends an event at the latest two seconds before the end of a watch, and ends it on time.
#[test]
fn timeouts_limit_staleness_to_30_seconds() {
    assert!(TIMEOUTS.silence <= Duration::from_secs(30));
    let longest = Duration::from_secs(u64::from(WATCH_SECONDS));
    assert!(longest + Duration::from_secs(5) <= TIMEOUTS.silence, "time for an answer that is late");
}
