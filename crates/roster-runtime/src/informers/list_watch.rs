//! List and watch that report the revision of each list and bookmark.
//!
//! `kube::runtime::watcher` hides these revisions, and the aggregated API needs them: it serves lists and watches at
//! etcd's revisions, so that a revision means the same on every replica.
//!
//! A list is the start of a watch (a streaming list, KEP-3157): kube-apiserver sends it from memory, object by object.
//! If streaming lists are not supported, or one breaks off, the objects are listed in pages.
//!
//! A connection can hang without closing: a proxy, a firewall or a frozen kube-apiserver drops all events. The guard
//! and the token webhook rely on the watches, so each watch is short: kube-apiserver sends a bookmark just before the
//! end of the watch, and then ends it. If neither happens, the watch has failed. Unlike TCP keepalive, which a proxy
//! answers itself, this also works through proxies.

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

use super::follow::{WatchFailure, WatchStep};
use crate::operations::client::{is_unreachable, retry_after};

/// Objects in one page of a list.
const PAGE: u32 = 500;

/// Maximum duration of a streaming list, in seconds: with many objects it takes a while.
const LIST_SECONDS: u32 = 290;

/// Duration of a watch, in seconds. kube-apiserver sends a bookmark two seconds before the end. One request every 9
/// seconds per resource and replica costs little: kube-apiserver answers from memory.
const WATCH_SECONDS: u32 = 9;

/// Timeouts for kube-apiserver.
#[derive(Clone, Copy)]
struct Timeouts {
    /// For the next event or page of a list.
    list: Duration,
    /// For the next event of a watch.
    silence: Duration,
    /// For the response to a watch that resumes from a revision, which kube-apiserver has in memory.
    resumption: Duration,
    /// For missed events at the start of a resumed watch. They arrive immediately, as does the error that the revision
    /// has expired; if nothing arrives, nothing was missed.
    missed_events: Duration,
}

/// Timeouts in production. Once the directory may be older than the longest silence, the watch counts as failing.
const TIMEOUTS: Timeouts = Timeouts {
    list: Duration::from_secs(30),
    silence: Duration::from_secs(14),
    resumption: Duration::from_secs(10),
    missed_events: Duration::from_secs(1),
};

/// A watch that ends sooner than this without an event has failed.
const MIN_WATCH_DURATION: Duration = Duration::from_secs(1);

/// Annotation of the bookmark at the end of a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Why a list or watch failed.
#[derive(Debug, Error)]
pub(super) enum ListWatchError {
    /// kube-apiserver returned an error or can't be reached.
    #[error(transparent)]
    Client(#[from] kube::Error),
    /// No more events arrive.
    #[error("timed out waiting for events")]
    Silence(#[from] Elapsed),
    /// The watch ended immediately.
    #[error("the watch ended immediately")]
    EndedAtOnce,
    /// The watch ended, or sent other events, before its list was complete.
    #[error("the list ended before it was complete")]
    BrokenOff,
    /// The task that reads a page failed.
    #[error("reading a page failed")]
    Page(#[from] JoinError),
}

impl ListWatchError {
    /// Whether the revision to resume from has expired.
    fn is_expired(&self) -> bool {
        matches!(self, Self::Client(kube::Error::Api(status)) if status.code == 410)
    }

    /// Whether an object cannot be read. A watch that resumes would receive it again, even after it has been changed or
    /// deleted.
    fn is_unreadable(&self) -> bool {
        matches!(self, Self::Client(kube::Error::SerdeError(_)))
    }
}

/// Events of a watch. Objects are parsed later, one at a time.
type Events = BoxStream<'static, kube::Result<WatchEvent<Box<RawValue>>>>;

/// A page of a list, with unparsed objects.
type Page = ObjectList<Box<RawValue>>;

enum State {
    /// Start a watch after this revision, or with a streaming list if there is none.
    Begin(Option<String>),
    /// A watch is running and has reported everything up to `revision`, which is `None` until its list is complete.
    /// `is_settled`: no missed events are expected any more.
    Watch { revision: Option<String>, events: Events, since: Instant, is_silent: bool, is_settled: bool },
    /// Start to list in pages, or wait for the next page.
    List(Option<AbortOnDropHandle<Result<Page, ListWatchError>>>),
}

impl WatchFailure for ListWatchError {
    fn is_gap(&self) -> bool {
        let is_unreachable = matches!(self, Self::Client(error) if is_unreachable(error));
        matches!(self, Self::Silence(_)) || is_unreachable || self.is_expired()
    }

    fn retry_after(&self) -> Option<Duration> {
        if let Self::Client(error) = self { retry_after(error) } else { None }
    }
}

enum Ready<P> {
    Step(Box<WatchStep<P>>),
    /// Object of a list, parsed only when it is returned, so that nothing waits for a whole page to be parsed.
    Listed(Box<RawValue>),
}

struct ListWatch<K, P> {
    api: Api<K>,
    parse: fn(&RawValue) -> kube::Result<P>,
    timeouts: Timeouts,
    state: State,
    ready: VecDeque<Ready<P>>,
}

/// Lists the objects and watches them from there, forever. A failure is reported, and the next poll recovers from it.
/// For an object that does not parse, its metadata is reported.
pub(super) fn list_watch<K>(
    api: Api<K>,
) -> impl Stream<Item = Result<WatchStep<DeserializeGuard<K>>, ListWatchError>> + Send
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    list_watch_as(api, guarded, TIMEOUTS)
}

/// Like [`list_watch`], for kinds of Kubernetes itself: an object that does not parse is a failure.
pub(super) fn list_watch_parsed<K>(api: Api<K>) -> impl Stream<Item = Result<WatchStep<K>, ListWatchError>> + Send
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    list_watch_as(api, |object| serde_json::from_str(object.get()).map_err(kube::Error::SerdeError), TIMEOUTS)
}

fn list_watch_as<K, P>(
    api: Api<K>,
    parse: fn(&RawValue) -> kube::Result<P>,
    timeouts: Timeouts,
) -> impl Stream<Item = Result<WatchStep<P>, ListWatchError>> + Send
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    P: Resource + Send + 'static,
{
    let begun = ListWatch { api, parse, timeouts, state: State::Begin(None), ready: VecDeque::new() };
    stream::unfold(begun, |mut this| async move {
        loop {
            let step = match this.ready.pop_front() {
                Some(Ready::Step(step)) => Ok(*step),
                Some(Ready::Listed(object)) => this.listed(&object),
                None => match this.advance().await {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                },
            };
            return Some((step, this));
        }
    })
}

impl<K, P> ListWatch<K, P>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    P: Resource + Send + 'static,
{
    async fn advance(&mut self) -> Result<(), ListWatchError> {
        match std::mem::replace(&mut self.state, State::Begin(None)) {
            State::Begin(revision) => match watch(self.api.clone(), revision.as_deref(), self.timeouts).await {
                Ok(events) => {
                    let is_settled = revision.is_none();
                    if is_settled {
                        self.push(WatchStep::Event(Event::Init));
                    }
                    self.state = State::Watch { revision, events, since: Instant::now(), is_silent: true, is_settled };
                    Ok(())
                }
                Err(error) if revision.is_none() && is_refused(&error) => {
                    self.state = State::List(None);
                    Ok(())
                }
                Err(error) => self.failed(State::Begin(revision), error),
            },
            State::Watch { revision, mut events, since, is_silent, is_settled } => {
                let timeouts = match &revision {
                    None => self.timeouts.list,
                    Some(_) if is_settled => self.timeouts.silence,
                    Some(_) => self.timeouts.missed_events,
                };
                match timeout(timeouts, events.next()).await {
                    Err(_) if !is_settled => {
                        // A watch that failed before works again.
                        if let Some(revision) = &revision {
                            self.reach(revision);
                        }
                        self.state = State::Watch { revision, events, since, is_silent, is_settled: true };
                        Ok(())
                    }
                    Err(elapsed) => self.failed(resume(revision), elapsed.into()),
                    Ok(None) if revision.is_none() => self.failed(State::List(None), ListWatchError::BrokenOff),
                    Ok(None) if is_silent && since.elapsed() < MIN_WATCH_DURATION => {
                        self.failed(State::Begin(revision), ListWatchError::EndedAtOnce)
                    }
                    // The watch reached its timeout.
                    Ok(None) => {
                        self.state = State::Begin(revision);
                        Ok(())
                    }
                    Ok(Some(event)) => match self.handle(event, revision.clone()) {
                        // Continue with short watches.
                        Ok(Some(listed)) if revision.is_none() => {
                            self.state = State::Begin(Some(listed));
                            Ok(())
                        }
                        Ok(revision) => {
                            self.state = State::Watch { revision, events, since, is_silent: false, is_settled: true };
                            Ok(())
                        }
                        Err(error) => self.failed(resume(revision), error),
                    },
                }
            }
            State::List(next) => self.advance_page(next).await,
        }
    }

    async fn advance_page(
        &mut self,
        next: Option<AbortOnDropHandle<Result<Page, ListWatchError>>>,
    ) -> Result<(), ListWatchError> {
        let is_first = next.is_none();
        let page = match next {
            Some(next) => next.await??,
            None => read_page(self.api.clone(), None, self.timeouts).await?,
        };
        // Requested before this page is processed: with many objects, both take a long time.
        let next =
            page.metadata.continue_.filter(|token| !token.is_empty()).map(|token| {
                AbortOnDropHandle::new(tokio::spawn(read_page(self.api.clone(), Some(token), self.timeouts)))
            });
        if is_first {
            self.push(WatchStep::Event(Event::Init));
        }
        self.ready.extend(page.items.into_iter().map(Ready::Listed));
        self.state = match next {
            Some(next) => State::List(Some(next)),
            None => State::Begin(Some(self.complete(page.metadata.resource_version.unwrap_or_default()))),
        };
        Ok(())
    }

    fn push(&mut self, step: WatchStep<P>) {
        self.ready.push_back(Ready::Step(Box::new(step)));
    }

    /// Reports an etcd revision. Revisions of other API servers may not be numbers and are ignored.
    fn reach(&mut self, revision: &str) {
        if let Ok(revision) = revision.parse() {
            self.push(WatchStep::Revision(revision));
        }
    }

    /// Reports that the list at this revision is complete.
    fn complete(&mut self, revision: String) -> String {
        self.reach(&revision);
        self.push(WatchStep::Event(Event::InitDone));
        revision
    }

    /// Parses an object of a list. If that fails, the list starts over.
    fn listed(&mut self, object: &RawValue) -> Result<WatchStep<P>, ListWatchError> {
        let parsed = (self.parse)(object).inspect_err(|_| {
            self.ready.clear();
            self.state = State::Begin(None);
        });
        Ok(WatchStep::Event(Event::InitApply(parsed?)))
    }

    /// Handles an event. Returns the revision up to which everything has then been reported.
    fn handle(
        &mut self,
        event: kube::Result<WatchEvent<Box<RawValue>>>,
        revision: Option<String>,
    ) -> Result<Option<String>, ListWatchError> {
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
            (_, None) => Err(ListWatchError::BrokenOff),
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
        event: impl FnOnce(P) -> Event<P>,
        since: String,
    ) -> Result<Option<String>, ListWatchError> {
        let object = (self.parse)(object)?;
        let reached = object.meta().resource_version.clone();
        self.push(WatchStep::Event(event(object)));
        Ok(Some(reached.unwrap_or(since)))
    }

    /// Continues with `next`, or relists if that could not succeed.
    fn failed(&mut self, next: State, error: ListWatchError) -> Result<(), ListWatchError> {
        let must_relist = error.is_expired() || error.is_unreadable();
        self.state = if must_relist { State::Begin(None) } else { next };
        Err(error)
    }
}

/// Returns the state after a watch that broke off: resume from the revision. If its list was incomplete, list in pages,
/// because a streaming list might break off again.
fn resume(revision: Option<String>) -> State {
    match revision {
        Some(revision) => State::Begin(Some(revision)),
        None => State::List(None),
    }
}

/// Whether the API server does not support streaming lists or has them disabled.
fn is_refused(error: &ListWatchError) -> bool {
    matches!(error, ListWatchError::Client(kube::Error::Api(status)) if matches!(status.code, 400 | 422))
}

async fn watch<K: Resource>(api: Api<K>, revision: Option<&str>, timeouts: Timeouts) -> Result<Events, ListWatchError> {
    let (seconds, longest) = match revision {
        None => (LIST_SECONDS, timeouts.list),
        Some(_) => (WATCH_SECONDS, timeouts.resumption),
    };
    let params = WatchParams { send_initial_events: revision.is_none(), ..WatchParams::default() };
    let params = params.timeout(seconds);
    let request = Request::new(api.resource_url()).watch(&params, revision.unwrap_or_default());
    let request = request.map_err(kube::Error::BuildRequest)?;
    Ok(timeout(longest, api.into_client().request_events(request)).await??.boxed())
}

async fn read_page<K: Resource>(
    api: Api<K>,
    token: Option<String>,
    timeouts: Timeouts,
) -> Result<Page, ListWatchError> {
    let params = ListParams { continue_token: token, ..ListParams::default().limit(PAGE) };
    let request = Request::new(api.resource_url()).list(&params).map_err(kube::Error::BuildRequest)?;
    Ok(timeout(timeouts.list, api.into_client().request(request)).await??)
}

/// Parses an object, or only its metadata if the rest does not parse. `DeserializeGuard` itself first builds a tree of
/// values of each object and copies it, which with many objects is a third of the work at startup.
fn guarded<K: Resource + DeserializeOwned>(object: &RawValue) -> kube::Result<DeserializeGuard<K>> {
    let read = serde_json::from_str(object.get()).map(Ok).or_else(|error| {
        let metadata = serde_json::from_str::<PartialObjectMeta<K>>(object.get())?.metadata;
        serde_json::Result::Ok(Err(InvalidObject { error: error.to_string(), metadata }))
    });
    read.map(DeserializeGuard).map_err(kube::Error::SerdeError)
}

#[cfg(test)]
#[path = "list_watch_tests.rs"]
mod tests;
