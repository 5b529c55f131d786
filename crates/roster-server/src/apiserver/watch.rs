//! Watches: the changes after a revision, for as long as the client likes.
//!
//! Nothing is queued for a watcher. It reads the log of changes at its own pace, and where it falls behind what the log
//! remembers, it is told so (410) and begins anew.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use roster_core::directory::index::query::Query;
use roster_core::directory::index::record::Record;
use roster_core::directory::index::view::{Change, View};
use roster_runtime::informers::catalogue::Catalogue;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::identity::Caller;
use super::limits::{HoldsOwnPermit, RequestPermit};
use super::params::ListParams;
use super::render::Renderer;
use super::revision::{blocking, expired, reached};
use super::state::{DirectoryApi, Right};
use super::status::ApiError;

/// Time between two bookmarks.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// How often it is looked at whether the caller is still active.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How often it is asked whether the caller still may.
const QUESTION_INTERVAL: Duration = Duration::from_secs(60);

/// How long a watch lasts where the client does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);

/// Events that are written at a time.
const CHUNK: usize = 128;

/// Marks an answer that is not to be compressed.
#[derive(Clone, Copy, Debug)]
pub struct Uncompressed;

struct Watcher {
    renderer: Renderer,
    query: Query,
    api: Arc<DirectoryApi>,
    caller: Arc<Caller>,
    /// What the caller was let in for.
    right: Right,
    catalogue: Arc<Catalogue>,
    changes: tokio::sync::watch::Receiver<()>,
    allow_bookmarks: bool,
    stage: Stage,
    /// Which list the revisions go back to.
    epoch: u64,
    /// Everything up to this revision is told.
    told: u64,
    next_bookmark: Instant,
    next_look: Instant,
    next_question: Instant,
    end: Instant,
    _permit: RequestPermit,
}

enum Stage {
    /// What there is is told first.
    Initial {
        records: Vec<Arc<Record>>,
        next: usize,
        bookmark: bool,
    },
    Following,
    /// Something has been said that nothing can follow.
    Ended,
}

/// Answers a watch.
///
/// # Errors
/// 504 where a revision is asked for that this replica has not seen.
pub async fn watch(
    api: &Arc<DirectoryApi>,
    caller: &Arc<Caller>,
    right: Right,
    params: ListParams,
    renderer: Renderer,
    permit: RequestPermit,
) -> Result<Response, ApiError> {
    let catalogue = Arc::clone((renderer.resource.catalogue)(&api.informers));
    let asked = params.resource_version.unwrap_or(0);
    // Without a revision, clients expect what there is to be told first, whether they say so or not.
    let initial = params.send_initial_events.unwrap_or(asked == 0);
    let changes = catalogue.changes();
    let view = if initial { reached(&catalogue, asked).await? } else { catalogue.view() };
    let (stage, permit) = if initial {
        let (table, query) = (Arc::clone(&view.table), params.query.clone());
        // With the permit: a client that disconnects meanwhile does not free it before the work ends.
        let (selected, permit) = blocking(move || (table.select(&query, 0, None), permit)).await?;
        let bookmark = params.send_initial_events == Some(true) && params.allow_bookmarks;
        (Stage::Initial { records: selected.records, next: 0, bookmark }, permit)
    } else {
        (Stage::Following, permit)
    };
    let timeout = params.timeout_seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs);
    let now = Instant::now();
    let watcher = Watcher {
        api: Arc::clone(api),
        caller: Arc::clone(caller),
        right,
        allow_bookmarks: params.allow_bookmarks,
        query: params.query,
        renderer,
        catalogue,
        changes,
        stage,
        epoch: view.epoch,
        told: if initial || asked == 0 { view.progress } else { asked },
        next_bookmark: now + BOOKMARK_INTERVAL,
        next_look: now + LOOK_INTERVAL,
        next_question: now + QUESTION_INTERVAL,
        end: now + timeout.unwrap_or(DEFAULT_TIMEOUT).min(DEFAULT_TIMEOUT * 2),
        _permit: permit,
    };
    let events = stream::unfold(watcher, |mut watcher| async move {
        let events = watcher.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(events)), watcher))
    });
    let body = Body::from_stream(events.fuse());
    let mut response = ([(header::CONTENT_TYPE, "application/json")], body).into_response();
    // A compressor would hold events back.
    response.extensions_mut().insert(Uncompressed);
    response.extensions_mut().insert(HoldsOwnPermit);
    Ok(response)
}

impl Watcher {
    /// The next events. `None`: the end.
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            // Before anything else: somebody who always finds something to read meets these, too.
            if matches!(self.stage, Stage::Ended) || self.api.shutdown.is_cancelled() || !self.is_allowed().await {
                return None;
            }
            if Instant::now() >= self.end {
                return self.last_bookmark();
            }
            let found = match &self.stage {
                Stage::Initial { .. } => self.initial(),
                Stage::Following | Stage::Ended => {
                    self.changes.mark_unchanged();
                    self.follow()
                }
            };
            if found.is_some() {
                return found;
            }
            tokio::select! {
                () = self.api.shutdown.cancelled() => {}
                () = sleep_until(self.end.min(self.next_look)) => {}
                () = sleep_until(self.next_bookmark), if self.allow_bookmarks => {
                    self.next_bookmark = Instant::now() + BOOKMARK_INTERVAL;
                    return Some(self.bookmark(false));
                }
                changed = self.changes.changed() => changed.ok()?,
            }
        }
    }

    /// Whether the caller is active at this moment, and has been allowed to watch lately.
    async fn is_allowed(&mut self) -> bool {
        let now = Instant::now();
        self.next_look = now + LOOK_INTERVAL;
        if now < self.next_question {
            return !self.api.is_inactive(&self.caller);
        }
        self.next_question = now + QUESTION_INTERVAL;
        let Right { verb, resource, name } = &self.right;
        match self.api.admit(&self.caller, verb, resource, name, name).await {
            Ok(()) => true,
            // Where nobody answers, what was said before holds on.
            Err(error) => error.code() == StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The next part of what there is. `None`: all of it is told.
    fn initial(&mut self) -> Option<Vec<u8>> {
        let Stage::Initial { records, next, bookmark } = &mut self.stage else { return None };
        let part: Vec<Arc<Record>> = records.iter().skip(*next).take(CHUNK).cloned().collect();
        *next += part.len();
        if part.is_empty() {
            let bookmark = *bookmark;
            self.stage = Stage::Following;
            return bookmark.then(|| self.bookmark(true));
        }
        let now = Timestamp::now();
        let mut out = Vec::new();
        for (record, joined) in part.iter().zip(self.renderer.joined(&part, &self.api.informers, now)) {
            event("ADDED", &self.renderer.single(record, &joined, now), &mut out);
        }
        Some(out)
    }

    /// The next changes, if there are any.
    fn follow(&mut self) -> Option<Vec<u8>> {
        let view = self.catalogue.view();
        let mut out = Vec::new();
        while out.is_empty() {
            let Some(changes) = self.pending(&view) else {
                self.stage = Stage::Ended;
                event("ERROR", expired(self.told).to_json().to_string().as_bytes(), &mut out);
                return Some(out);
            };
            let last = changes.last()?;
            self.told = last.revision;
            let now = Timestamp::now();
            for change in &changes {
                self.tell(change, now, &mut out);
            }
        }
        Some(out)
    }

    fn pending(&self, view: &View) -> Option<Vec<Change>> {
        if view.epoch != self.epoch {
            return None;
        }
        Some(view.changes_since(self.told).ok()?.into_iter().take(CHUNK).collect())
    }

    /// What a change means to whoever sees only the answers to the query.
    fn tell(&self, change: &Change, now: Timestamp, out: &mut Vec<u8>) {
        let fields = self.renderer.resource.fields;
        let answers =
            |record: &Option<Arc<Record>>| record.as_ref().filter(|record| self.query.matches(record, fields)).cloned();
        match (answers(&change.before), answers(&change.after)) {
            (None, None) => {}
            (Some(before), None) => event("DELETED", &self.renderer.gone(&before, change.revision, now), out),
            (before, Some(after)) => {
                let joined = self.renderer.joined(std::slice::from_ref(&after), &self.api.informers, now).concat();
                let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
                event(kind, &self.renderer.single(&after, &joined, now), out);
            }
        }
    }

    fn bookmark(&self, ends_initial_events: bool) -> Vec<u8> {
        let known = self.catalogue.peek();
        // Of a later list nothing is told here.
        let revision = if known.epoch == self.epoch && !ends_initial_events && known.revision <= self.told {
            known.progress.max(self.told)
        } else {
            self.told
        };
        let mut out = Vec::new();
        event("BOOKMARK", self.renderer.bookmark(revision, ends_initial_events).to_string().as_bytes(), &mut out);
        out
    }

    fn last_bookmark(&mut self) -> Option<Vec<u8>> {
        self.stage = Stage::Ended;
        self.allow_bookmarks.then(|| self.bookmark(false))
    }
}

fn event(kind: &str, object: &[u8], out: &mut Vec<u8>) {
    out.extend(json!({"type": kind}).to_string().trim_end_matches('}').as_bytes());
    out.extend(br#","object":"#);
    out.extend_from_slice(object);
    out.extend(b"}\n");
}
