//! List and watch, with the revision that each list and each bookmark speaks of.
//!
//! `kube::runtime::watcher` keeps those to itself, and the directory's own API has to tell them: it serves lists and
//! watches at the revisions of etcd, so that they mean the same on every replica.
//!
//! A list is the beginning of a watch (a streaming list, KEP-3157): kube-apiserver tells it from memory, object by
//! object. Where it has none to offer, or breaks off in the midst of it, pages get there in small steps.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use kube::api::{ListParams, ObjectList, PartialObjectMeta, WatchEvent, WatchParams};
use kube::core::Request;
use kube::core::error_boundary::{DeserializeGuard, InvalidObject};
use kube::runtime::watcher::Event;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use thiserror::Error;
use tokio::task::JoinError;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::follow::Step;

/// Objects in one page of a list.
const PAGE: u32 = 500;

/// Longest watch, in seconds. kube-apiserver takes no longer one.
const WATCH_SECONDS: u32 = 290;

/// Longest silence. kube-apiserver sends a bookmark every minute; whoever says less is gone, whether or not the
/// connection knows.
const LONGEST_SILENCE: Duration = Duration::from_secs(120);

/// A watch that ends sooner than this without having told anything is no watch.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);

/// Annotation of the bookmark at the end of a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Why a list or a watch broke off.
#[derive(Debug, Error)]
pub enum Failure {
    /// The API server says so, or can't be reached.
    #[error(transparent)]
    Client(#[from] kube::Error),
    /// Nothing comes any more.
    #[error("nothing was heard for {LONGEST_SILENCE:?}")]
    Silence(#[from] Elapsed),
    /// It ends as soon as it has begun.
    #[error("the watch ended at once")]
    EndedAtOnce,
    /// It ends, or goes on otherwise, before it has told everything there is.
    #[error("the list broke off")]
    BrokenOff,
    /// Nobody reads on.
    #[error("a page was not read to its end")]
    Page(#[from] JoinError),
}

/// What a watch tells. The objects are parsed when it is their turn.
type Events = BoxStream<'static, kube::Result<WatchEvent<Box<RawValue>>>>;

/// Part of a list, as the text that it is.
type Page = ObjectList<Box<RawValue>>;

enum State {
    /// A watch is to be begun after this revision, or, after none, with everything there is.
    Begin(Option<String>),
    /// A watch goes on, and has told of everything up to this revision; of none before it has told everything there is.
    Watch { revision: Option<String>, events: Events, since: Instant, is_silent: bool },
    /// A list in pages is to be begun, or its next page is on its way.
    List(Option<AbortOnDropHandle<Result<Page, Failure>>>),
}

enum Ready<K> {
    Step(Box<Step<DeserializeGuard<K>>>),
    /// Of a list. Parsed when it is its turn, so that nothing else waits for a whole page.
    Listed(Box<RawValue>),
}

struct ListWatch<K> {
    api: Api<K>,
    state: State,
    ready: VecDeque<Ready<K>>,
}

/// Lists the objects and watches them from there, for ever. A failure is told and, when it is polled again, made up for.
pub fn list_watch<K>(api: Api<K>) -> impl Stream<Item = Result<Step<DeserializeGuard<K>>, Failure>> + Send
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let begun = ListWatch { api, state: State::Begin(None), ready: VecDeque::new() };
    stream::unfold(begun, |mut this| async move {
        loop {
            let told = match this.ready.pop_front() {
                Some(Ready::Step(step)) => Ok(*step),
                Some(Ready::Listed(object)) => this.listed(&object),
                None => match this.turn().await {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                },
            };
            return Some((told, this));
        }
    })
}

impl<K> ListWatch<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    async fn turn(&mut self) -> Result<(), Failure> {
        match std::mem::replace(&mut self.state, State::Begin(None)) {
            State::Begin(revision) => match watch(self.api.clone(), revision.as_deref()).await {
                Ok(events) => {
                    if revision.is_none() {
                        self.tell(Step::Event(Event::Init));
                    }
                    self.state = State::Watch { revision, events, since: Instant::now(), is_silent: true };
                    Ok(())
                }
                Err(error) if revision.is_none() && is_refused(&error) => {
                    self.state = State::List(None);
                    Ok(())
                }
                Err(error) => self.failed(State::Begin(revision), error),
            },
            State::Watch { revision, mut events, since, is_silent } => {
                match timeout(LONGEST_SILENCE, events.next()).await {
                    Err(elapsed) => self.failed(resume(revision), elapsed.into()),
                    Ok(None) if revision.is_none() => self.failed(State::List(None), Failure::BrokenOff),
                    Ok(None) if is_silent && since.elapsed() < SHORTEST_WATCH => {
                        self.failed(State::Begin(revision), Failure::EndedAtOnce)
                    }
                    // The end of its time.
                    Ok(None) => {
                        self.state = State::Begin(revision);
                        Ok(())
                    }
                    Ok(Some(event)) => match self.take(event, revision.clone()) {
                        Ok(revision) => {
                            self.state = State::Watch { revision, events, since, is_silent: false };
                            Ok(())
                        }
                        Err(error) => self.failed(resume(revision), error),
                    },
                }
            }
            State::List(next) => self.turn_page(next).await,
        }
    }

    async fn turn_page(&mut self, next: Option<AbortOnDropHandle<Result<Page, Failure>>>) -> Result<(), Failure> {
        let is_first = next.is_none();
        let page = match next {
            Some(next) => next.await??,
            None => read_page(self.api.clone(), None).await?,
        };
        // Asked for before this one is taken in: with many objects, either takes long.
        let next = page
            .metadata
            .continue_
            .filter(|token| !token.is_empty())
            .map(|token| AbortOnDropHandle::new(tokio::spawn(read_page(self.api.clone(), Some(token)))));
        if is_first {
            self.tell(Step::Event(Event::Init));
        }
        self.ready.extend(page.items.into_iter().map(Ready::Listed));
        self.state = match next {
            Some(next) => State::List(Some(next)),
            None => State::Begin(Some(self.complete(page.metadata.resource_version.unwrap_or_default()))),
        };
        Ok(())
    }

    fn tell(&mut self, step: Step<DeserializeGuard<K>>) {
        self.ready.push_back(Ready::Step(Box::new(step)));
    }

    /// Tells of a revision of etcd. What is none, an API server of another make tells; then nothing can be said of it.
    fn reach(&mut self, revision: &str) {
        if let Ok(revision) = revision.parse() {
            self.tell(Step::Revision(revision));
        }
    }

    /// Everything there is at this revision has been told.
    fn complete(&mut self, revision: String) -> String {
        self.reach(&revision);
        self.tell(Step::Event(Event::InitDone));
        revision
    }

    /// An object of a list. If nobody can tell which, the list begins anew.
    fn listed(&mut self, object: &RawValue) -> Result<Step<DeserializeGuard<K>>, Failure> {
        let guarded = guarded(object).inspect_err(|_| {
            self.ready.clear();
            self.state = State::Begin(None);
        });
        Ok(Step::Event(Event::InitApply(guarded?)))
    }

    /// Takes in an event. Returns the revision up to which everything has been told then.
    fn take(
        &mut self,
        event: kube::Result<WatchEvent<Box<RawValue>>>,
        revision: Option<String>,
    ) -> Result<Option<String>, Failure> {
        match (event?, revision) {
            (WatchEvent::Error(status), _) => Err(kube::Error::Api(status).into()),
            (WatchEvent::Added(object), None) => {
                self.ready.push_back(Ready::Listed(object));
                Ok(None)
            }
            (WatchEvent::Bookmark(bookmark), None) => {
                let is_end = bookmark.metadata.annotations.contains_key(INITIAL_EVENTS_END);
                Ok(is_end.then(|| self.complete(bookmark.metadata.resource_version)))
            }
            (_, None) => Err(Failure::BrokenOff),
            (WatchEvent::Bookmark(bookmark), Some(_)) => {
                self.reach(&bookmark.metadata.resource_version);
                Ok(Some(bookmark.metadata.resource_version))
            }
            (WatchEvent::Added(object) | WatchEvent::Modified(object), Some(revision)) => {
                self.changed(&object, Event::Apply, revision)
            }
            (WatchEvent::Deleted(object), Some(revision)) => self.changed(&object, Event::Delete, revision),
        }
    }

    fn changed(
        &mut self,
        object: &RawValue,
        event: impl FnOnce(DeserializeGuard<K>) -> Event<DeserializeGuard<K>>,
        since: String,
    ) -> Result<Option<String>, Failure> {
        let object = guarded::<K>(object)?;
        let led_to = object.meta().resource_version.clone();
        self.tell(Step::Event(event(object)));
        Ok(Some(led_to.unwrap_or(since)))
    }

    /// Goes on with `next`, or lists anew where the revision is no longer remembered.
    fn failed(&mut self, next: State, error: Failure) -> Result<(), Failure> {
        let is_expired = matches!(&error, Failure::Client(kube::Error::Api(status)) if status.code == 410);
        self.state = if is_expired { State::Begin(None) } else { next };
        Err(error)
    }
}

/// What comes after a watch that broke off: one after the revision. If it did so within its list, that is read in
/// pages: the same might become of it again.
fn resume(revision: Option<String>) -> State {
    match revision {
        Some(revision) => State::Begin(Some(revision)),
        None => State::List(None),
    }
}

/// Whether an API server does not know streaming lists, or has them switched off.
fn is_refused(error: &Failure) -> bool {
    matches!(error, Failure::Client(kube::Error::Api(status)) if matches!(status.code, 400 | 422))
}

async fn watch<K: Resource>(api: Api<K>, revision: Option<&str>) -> Result<Events, Failure> {
    let params = WatchParams { send_initial_events: revision.is_none(), ..WatchParams::default() };
    let params = params.timeout(WATCH_SECONDS);
    let request = Request::new(api.resource_url()).watch(&params, revision.unwrap_or_default());
    let request = request.map_err(kube::Error::BuildRequest)?;
    Ok(timeout(LONGEST_SILENCE, api.into_client().request_events(request)).await??.boxed())
}

async fn read_page<K: Resource>(api: Api<K>, token: Option<String>) -> Result<Page, Failure> {
    let params = ListParams { continue_token: token, ..ListParams::default().limit(PAGE) };
    let request = Request::new(api.resource_url()).list(&params).map_err(kube::Error::BuildRequest)?;
    Ok(timeout(LONGEST_SILENCE, api.into_client().request(request)).await??)
}

/// An object, or its metadata alone where the rest of it does not parse. `DeserializeGuard` by itself makes a tree of
/// values of each object, and a copy of that, before it reads it: with many objects, that is a third of the work of a
/// start.
fn guarded<K: Resource + DeserializeOwned>(object: &RawValue) -> kube::Result<DeserializeGuard<K>> {
    let read = serde_json::from_str(object.get()).map(Ok).or_else(|error| {
        let metadata = serde_json::from_str::<PartialObjectMeta<K>>(object.get())?.metadata;
        serde_json::Result::Ok(Err(InvalidObject { error: error.to_string(), metadata }))
    });
    read.map(DeserializeGuard).map_err(kube::Error::SerdeError)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use axum::http::{Request, Response};
    use kube::Client;
    use kube::client::Body;

    use super::*;
    use crate::api::User;

    /// An API server that gives these answers, one after the other, and notes down what it is asked for.
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

    /// The first things that are told.
    async fn told(api: Api<User>, count: usize) -> Vec<String> {
        let told = list_watch(api).take(count).map(|told| match told {
            Ok(Step::Revision(revision)) => format!("revision {revision}"),
            Ok(Step::Event(Event::Init)) => "begins".into(),
            Ok(Step::Event(Event::InitDone)) => "is complete".into(),
            Ok(Step::Event(Event::InitApply(user))) => format!("lists {}", user.meta().name.as_deref().unwrap()),
            Ok(Step::Event(Event::Apply(user))) => format!("sets {}", user.meta().name.as_deref().unwrap()),
            Ok(Step::Event(Event::Delete(user))) => format!("removes {}", user.meta().name.as_deref().unwrap()),
            Err(error) => error.to_string(),
        });
        told.collect().await
    }

    const STREAMED: &str = "watch=true&timeoutSeconds=290&allowWatchBookmarks=true&sendInitialEvents=true\
                            &resourceVersionMatch=NotOlderThan&resourceVersion=";
    const WATCHED: &str = "watch=true&timeoutSeconds=290&allowWatchBookmarks=true&resourceVersion=7";
    const END: &str = r#"{"k8s.io/initial-events-end": "true"}"#;

    #[tokio::test]
    async fn a_list_is_the_beginning_of_a_watch() {
        let changes = event("ADDED", "kim", 8) + &event("MODIFIED", "jane", 9) + &event("DELETED", "joe", 10);
        let streamed = event("ADDED", "jane", 3)
            + &bookmark(5, "{}")
            + &event("ADDED", "joe", 4)
            + &bookmark(7, END)
            + &changes
            + &bookmark(12, "{}");
        let (api, asked) = api_server(&[(200, streamed), (200, bookmark(13, "{}"))]);
        let listed = ["begins", "lists jane", "lists joe", "revision 7", "is complete"];
        let watched = ["sets kim", "sets jane", "removes joe", "revision 12", "revision 13"];
        assert_eq!(told(api, 10).await, [listed, watched].concat());
        assert_eq!(*asked.lock().unwrap(), [STREAMED.to_owned(), WATCHED.replace("=7", "=12")]);
    }

    #[tokio::test]
    async fn without_streaming_lists_pages_are_read() {
        let pages = [page(&["jane", "joe"], "next"), page(&["kim"], "")].map(|page| (200, page));
        let (api, asked) = api_server(&[&[status(422)], &pages[..], &[(200, bookmark(8, "{}"))]].concat());
        let listed = ["begins", "lists jane", "lists joe", "lists kim", "revision 7", "is complete", "revision 8"];
        assert_eq!(told(api, 7).await, listed);
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
            let told = told(api, 8).await;
            assert_eq!(told[..2], ["begins", "lists jane"]);
            assert!(told[2].contains(error), "{told:?}");
            assert_eq!(told[3..], ["begins", "lists joe", "revision 7", "is complete", "revision 8"]);
        }
    }

    #[tokio::test]
    async fn what_is_no_longer_remembered_is_listed_anew() {
        let listed = |name| (200, event("ADDED", name, 3) + &bookmark(7, END));
        let (api, asked) = api_server(&[status(500), listed("jane"), status(410), listed("joe")]);
        let told = told(api, 10).await;
        assert!(told[0].contains("no") && told[5].contains("no"), "{told:?}");
        assert_eq!(told[1..5], ["begins", "lists jane", "revision 7", "is complete"]);
        assert_eq!(told[6..], ["begins", "lists joe", "revision 7", "is complete"]);
        assert_eq!(*asked.lock().unwrap(), [STREAMED, STREAMED, WATCHED, STREAMED]);
    }

    fn read(object: &str) -> kube::Result<DeserializeGuard<User>> {
        guarded(&RawValue::from_string(object.to_owned()).unwrap())
    }

    #[test]
    fn of_an_object_that_does_not_parse_the_metadata_is_read() {
        let jane = object("jane", 3);
        assert_eq!(read(&jane).unwrap().0.unwrap().metadata.name.as_deref(), Some("jane"));
        let invalid = read(&jane.replace(r#""spec": {}"#, r#""spec": {"groups": 7}"#)).unwrap().0.unwrap_err();
        assert_eq!(invalid.metadata.name.as_deref(), Some("jane"));
        assert!(invalid.error.contains("expected a sequence"), "{}", invalid.error);
        assert!(read(r#"{"metadata": 7}"#).is_err(), "nobody can tell which object that is");
    }
}
