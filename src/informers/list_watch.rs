//! List and watch, with the revision that each list and each bookmark speaks of.
//!
//! `kube::runtime::watcher` keeps those to itself, and the directory's own API has to tell them: it serves lists and
//! watches at the revisions of etcd, so that they mean the same on every replica.

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
    /// Nobody reads on.
    #[error("a page was not read to its end")]
    Page(#[from] JoinError),
}

type Events<K> = BoxStream<'static, kube::Result<WatchEvent<DeserializeGuard<K>>>>;

/// Part of a list, as the text that it is.
type Page = ObjectList<Box<RawValue>>;

enum State<K> {
    /// A list is to be begun, or its next page is on its way.
    List(Option<AbortOnDropHandle<Result<Page, Failure>>>),
    /// A watch is to be begun after this revision.
    Begin(String),
    /// A watch goes on, and has told of everything up to this revision.
    Watch { revision: String, events: Events<K>, since: Instant, is_silent: bool },
}

enum Ready<K> {
    Step(Box<Step<DeserializeGuard<K>>>),
    /// Of a page. Parsed when it is its turn, so that nothing else waits for a whole page.
    Listed(Box<RawValue>),
}

struct ListWatch<K> {
    api: Api<DeserializeGuard<K>>,
    state: State<K>,
    ready: VecDeque<Ready<K>>,
}

/// Lists the objects and watches them from there, for ever. A failure is told and, when it is polled again, made up for.
pub fn list_watch<K>(
    api: Api<DeserializeGuard<K>>,
) -> impl Stream<Item = Result<Step<DeserializeGuard<K>>, Failure>> + Send
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    stream::unfold(ListWatch { api, state: State::List(None), ready: VecDeque::new() }, |mut this| async move {
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
        match std::mem::replace(&mut self.state, State::List(None)) {
            State::List(next) => {
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
                if next.is_some() {
                    self.state = State::List(next);
                    return Ok(());
                }
                let revision = page.metadata.resource_version.unwrap_or_default();
                self.reach(&revision);
                self.tell(Step::Event(Event::InitDone));
                self.state = State::Begin(revision);
                Ok(())
            }
            State::Begin(revision) => {
                let params = WatchParams::default().timeout(WATCH_SECONDS);
                match timeout(LONGEST_SILENCE, self.api.watch(&params, &revision)).await {
                    Ok(Ok(events)) => {
                        let events = events.boxed();
                        self.state = State::Watch { revision, events, since: Instant::now(), is_silent: true };
                        Ok(())
                    }
                    Ok(Err(error)) => self.failed(revision, error.into()),
                    Err(elapsed) => self.failed(revision, elapsed.into()),
                }
            }
            State::Watch { revision, mut events, since, is_silent } => {
                match timeout(LONGEST_SILENCE, events.next()).await {
                    Err(elapsed) => self.failed(revision, elapsed.into()),
                    Ok(None) if is_silent && since.elapsed() < SHORTEST_WATCH => {
                        self.failed(revision, Failure::EndedAtOnce)
                    }
                    // The end of its time.
                    Ok(None) => {
                        self.state = State::Begin(revision);
                        Ok(())
                    }
                    Ok(Some(Ok(WatchEvent::Error(status)))) => self.failed(revision, kube::Error::Api(status).into()),
                    Ok(Some(Err(error))) => self.failed(revision, error.into()),
                    Ok(Some(Ok(event))) => {
                        let revision = self.take(event).unwrap_or(revision);
                        self.state = State::Watch { revision, events, since, is_silent: false };
                        Ok(())
                    }
                }
            }
        }
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

    /// An object of a list. If nobody can tell which, the list begins anew.
    fn listed(&mut self, object: &RawValue) -> Result<Step<DeserializeGuard<K>>, Failure> {
        let guarded = guarded(object).inspect_err(|_| {
            self.ready.clear();
            self.state = State::List(None);
        });
        let guarded = guarded.map_err(kube::Error::SerdeError)?;
        Ok(Step::Event(Event::InitApply(guarded)))
    }

    /// Takes in an event. Returns the revision that it led to.
    fn take(&mut self, event: WatchEvent<DeserializeGuard<K>>) -> Option<String> {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let revision = object.meta().resource_version.clone();
                self.tell(Step::Event(Event::Apply(object)));
                revision
            }
            WatchEvent::Deleted(object) => {
                let revision = object.meta().resource_version.clone();
                self.tell(Step::Event(Event::Delete(object)));
                revision
            }
            WatchEvent::Bookmark(bookmark) => {
                let revision = bookmark.metadata.resource_version;
                self.reach(&revision);
                Some(revision)
            }
            WatchEvent::Error(_) => None,
        }
    }

    /// Goes on after the revision, or lists anew where that is no longer remembered.
    fn failed(&mut self, revision: String, error: Failure) -> Result<(), Failure> {
        let is_expired = matches!(&error, Failure::Client(kube::Error::Api(status)) if status.code == 410);
        self.state = if is_expired { State::List(None) } else { State::Begin(revision) };
        Err(error)
    }
}

async fn read_page<K: Resource>(api: Api<DeserializeGuard<K>>, token: Option<String>) -> Result<Page, Failure> {
    let params = ListParams { continue_token: token, ..ListParams::default().limit(PAGE) };
    let request = Request::new(api.resource_url()).list(&params).map_err(kube::Error::BuildRequest)?;
    Ok(timeout(LONGEST_SILENCE, api.into_client().request(request)).await??)
}

/// An object, or its metadata alone where the rest of it does not parse. `DeserializeGuard` by itself makes a tree of
/// values of each object, and a copy of that, before it reads it: with many objects, that is a third of the work of a
/// start.
fn guarded<K: Resource + DeserializeOwned>(object: &RawValue) -> serde_json::Result<DeserializeGuard<K>> {
    let read = serde_json::from_str(object.get()).map(Ok).or_else(|error| {
        let metadata = serde_json::from_str::<PartialObjectMeta<K>>(object.get())?.metadata;
        serde_json::Result::Ok(Err(InvalidObject { error: error.to_string(), metadata }))
    });
    read.map(DeserializeGuard)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::User;

    fn read(object: &str) -> serde_json::Result<DeserializeGuard<User>> {
        guarded(&RawValue::from_string(object.to_owned()).unwrap())
    }

    #[test]
    fn of_an_object_that_does_not_parse_the_metadata_is_read() {
        let user = |spec: &str| {
            format!(
                r#"{{"apiVersion": "roster.dev/v1alpha1", "kind": "User", "metadata": {{"name": "jane"}}, "spec": {spec}}}"#
            )
        };
        let jane = read(&user("{}")).unwrap().0.unwrap();
        assert_eq!(jane.metadata.name.as_deref(), Some("jane"));
        let invalid = read(&user(r#"{"groups": 7}"#)).unwrap().0.unwrap_err();
        assert_eq!(invalid.metadata.name.as_deref(), Some("jane"));
        assert!(invalid.error.contains("expected a sequence"), "{}", invalid.error);
        assert!(read(r#"{"metadata": 7}"#).is_err(), "nobody can tell which object that is");
    }
}
