use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::http::{Request, Response};
use kube::Client;
use kube::client::{Body, ClientBuilder};
use roster_api::User;
use rstest::rstest;
use tokio::sync::{Notify, oneshot};
use tokio::time::sleep;
use tower::BoxError;
use tower::util::MapResultLayer;

use super::*;
use crate::informers::failures::WatchFailures;
use crate::informers::follow::{follow, follow_pausing};
use crate::metrics::Metrics;
use crate::operations::client::throttled;

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

/// Mock API server whose last answer repeats. Returns responses with headers.
fn repeating_api_server(answers: Vec<Response<String>>) -> Api<User> {
    let answers = Mutex::new(answers);
    let service = tower::service_fn(move |_: Request<Body>| {
        let mut answers = answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
        std::future::ready(Ok::<_, BoxError>(answer.map(|text| Body::from(text.into_bytes()))))
    });
    Api::all(ClientBuilder::new(service, "default").with_layer(&MapResultLayer::new(throttled)).build())
}

fn answer(code: u16, retry_after: Option<&str>, text: String) -> Response<String> {
    let answer = Response::builder().status(code);
    let answer = retry_after.into_iter().fold(answer, |answer, after| answer.header("retry-after", after));
    answer.body(text).unwrap()
}

/// Follows the list and watch of Users until it is complete, or has failed `count` times. Returns how long it would
/// have waited after each failure, and whether it counts as failing.
async fn pauses(api: Api<User>, count: usize) -> (Vec<Duration>, bool) {
    let failures = Arc::new(WatchFailures::new(Metrics::default().watch_errors));
    let (sender, synced) = oneshot::channel();
    let (paused, enough) = (Mutex::<Vec<Duration>>::default(), Notify::new());
    let pause = |wait| {
        let mut paused = paused.lock().unwrap();
        paused.push(wait);
        if paused.len() == count {
            enough.notify_one();
        }
        tokio::task::yield_now()
    };
    let following = follow_pausing("users", list_watch(api), |_| {}, sender, Arc::clone(&failures), pause);
    tokio::select! {
        biased;
        () = enough.notified() => {}
        complete = synced => complete.unwrap(),
        ended = following => panic!("it never ends: {ended:?}"),
    }
    (paused.into_inner().unwrap(), failures.any_of(&["users"]))
}

/// The start of a list must not reset the backoff, because the list breaks off again.
#[tokio::test]
async fn a_list_that_always_ends_in_an_error_event_is_retried_with_growing_backoff() {
    let error = format!("{{\"type\": \"ERROR\", \"object\": {}}}\n", status(500).1);
    let broken = answer(200, None, event("ADDED", "jane", 3) + &error);
    let (pauses, is_failing) = pauses(repeating_api_server(vec![broken]), 8).await;
    assert!(is_failing);
    assert!(pauses[0] < Duration::from_secs(2), "{pauses:?}");
    assert!(pauses[5..].iter().all(|pause| *pause > Duration::from_secs(20)), "{pauses:?}");
}

#[rstest]
#[case::in_the_header(answer(429, Some("20"), "Too many requests, please try again later.".to_owned()))]
#[case::of_a_starting_server(answer(503, Some("20"), "starting".to_owned()))]
#[case::in_the_body(answer(429, None, r#"{"kind": "Status", "status": "Failure", "message": "slow down", "code": 429,
    "reason": "TooManyRequests", "details": {"retryAfterSeconds": 20}}"#.to_owned()))]
#[case::in_an_event(answer(200, None, r#"{"type": "ERROR", "object": {"kind": "Status", "status": "Failure",
    "message": "slow down", "reason": "TooManyRequests", "code": 429, "details": {"retryAfterSeconds": 20}}}"#
    .replace('\n', "") + "\n"))]
#[tokio::test]
async fn a_watch_that_is_throttled_waits_as_long_as_kube_apiserver_asks_for(#[case] throttled: Response<String>) {
    let (paused, is_failing) = pauses(repeating_api_server(vec![throttled]), 1).await;
    assert_eq!(paused, [Duration::from_secs(20)]);
    assert!(is_failing, "meanwhile, changes may be missed");
}

#[tokio::test]
async fn after_a_throttled_request_the_list_is_read() {
    let listed = answer(200, None, event("ADDED", "jane", 3) + &bookmark(7, END));
    let answers = vec![answer(429, Some("20"), String::new()), listed];
    let (paused, is_failing) = pauses(repeating_api_server(answers), 2).await;
    assert_eq!((paused, is_failing), (vec![Duration::from_secs(20)], false));
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
const WATCHED: &str = "watch=true&timeoutSeconds=9&allowWatchBookmarks=true&resourceVersion=7";
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
        (String::new(), "the list ended before it was complete"),
        (event("DELETED", "jane", 9), "the list ended before it was complete"),
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
async fn an_expired_revision_causes_a_relist() {
    let listed = |name| (200, event("ADDED", name, 3) + &bookmark(7, END));
    let (api, asked) = api_server(&[status(500), listed("jane"), status(410), listed("joe")]);
    let steps = steps(api, 10).await;
    assert!(steps[0].contains("no") && steps[5].contains("no"), "{steps:?}");
    assert_eq!(steps[1..5], ["begins", "lists jane", "revision 7", "is complete"]);
    assert_eq!(steps[6..], ["begins", "lists joe", "revision 7", "is complete"]);
    assert_eq!(*asked.lock().unwrap(), [STREAMED, STREAMED, WATCHED, STREAMED]);
}

/// A watch that resumes would receive it again. A list no longer contains it once it is deleted.
#[tokio::test]
async fn an_object_that_cannot_be_read_causes_a_relist() {
    let listed = |name| (200, event("ADDED", name, 3) + &bookmark(7, END));
    let unreadable = "{\"type\": \"ADDED\", \"object\": {\"metadata\": 7}}\n".to_owned();
    let (api, asked) = api_server(&[listed("jane"), (200, unreadable), listed("joe")]);
    let steps = steps(api, 9).await;
    assert_eq!(steps[..4], ["begins", "lists jane", "revision 7", "is complete"]);
    assert_eq!(steps[5..], ["begins", "lists joe", "revision 7", "is complete"], "{}", steps[4]);
    assert_eq!(*asked.lock().unwrap(), [STREAMED, WATCHED, STREAMED]);
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
    assert!(read(r#"{"metadata": 7}"#).is_err(), "without metadata, the object is unknown");
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
    let [list, silence, resumption, missed_events] = [1500, 1500, 300, 100].map(Duration::from_millis);
    let timeouts = Timeouts { list, silence, resumption, missed_events };
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
fn the_known_state_is_at_most_15_seconds_old() {
    assert!(TIMEOUTS.silence.max(TIMEOUTS.resumption) < Duration::from_secs(15));
    let longest = Duration::from_secs(u64::from(WATCH_SECONDS));
    assert!(longest + Duration::from_secs(5) <= TIMEOUTS.silence, "this leaves time for a late bookmark");
}
