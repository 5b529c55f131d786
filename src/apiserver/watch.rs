//! Watches: the changes after a revision, for as long as the client likes.
//!
//! Nothing is queued for a watcher. It reads the log of changes at its own pace, and where it falls behind what the log
//! remembers, it is told so (410) and begins anew.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::stream;
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::list::{expired, reached};
use super::params::ListParams;
use super::render::Renderer;
use super::server::{DirectoryApi, Uncompressed};
use super::status::ApiError;
use crate::directory::index::query::Query;
use crate::directory::index::record::Record;
use crate::directory::index::view::{Change, View};
use crate::informers::Informers;
use crate::informers::catalogue::Catalogue;

/// Time between two bookmarks.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// How long a watch lasts where the client does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);

/// Events that are written at a time.
const CHUNK: usize = 128;

struct Watcher {
    renderer: Renderer,
    query: Query,
    informers: Arc<Informers>,
    catalogue: Arc<Catalogue>,
    changes: tokio::sync::watch::Receiver<()>,
    shutdown: CancellationToken,
    allow_bookmarks: bool,
    stage: Stage,
    /// Which list the revisions go back to.
    epoch: u64,
    /// Everything up to this revision is told.
    told: u64,
    next_bookmark: Instant,
    end: Instant,
    _permit: OwnedSemaphorePermit,
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
    params: ListParams,
    renderer: Renderer,
    permit: OwnedSemaphorePermit,
) -> Result<Response, ApiError> {
    let catalogue = Arc::clone((renderer.resource.catalogue)(&api.informers));
    let asked = params.resource_version.unwrap_or(0);
    // Without a revision, clients expect what there is to be told first, whether they say so or not.
    let initial = params.send_initial_events.unwrap_or(asked == 0);
    let changes = catalogue.changes();
    let view = if initial { reached(&catalogue, asked).await? } else { catalogue.view() };
    let stage = if initial {
        let (table, query) = (view.table.clone(), params.query.clone());
        let selected = tokio::task::spawn_blocking(move || table.select(&query, 0, None)).await;
        let selected = selected.map_err(|_| ApiError::internal("the query could not be answered"))?;
        let bookmark = params.send_initial_events == Some(true) && params.allow_bookmarks;
        Stage::Initial { records: selected.records, next: 0, bookmark }
    } else {
        Stage::Following
    };
    let timeout = params.timeout_seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs);
    let now = Instant::now();
    let watcher = Watcher {
        informers: Arc::clone(&api.informers),
        shutdown: api.shutdown.clone(),
        allow_bookmarks: params.allow_bookmarks,
        query: params.query,
        renderer,
        catalogue,
        changes,
        stage,
        epoch: view.epoch,
        told: if initial || asked == 0 { view.revision } else { asked },
        next_bookmark: now + BOOKMARK_INTERVAL,
        end: now + timeout.unwrap_or(DEFAULT_TIMEOUT).min(DEFAULT_TIMEOUT * 2),
        _permit: permit,
    };
    let events = stream::unfold(watcher, |mut watcher| async move {
        let events = watcher.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(events)), watcher))
    });
    let body = Body::from_stream(events);
    let mut response = ([(header::CONTENT_TYPE, "application/json")], body).into_response();
    // A compressor would hold events back.
    response.extensions_mut().insert(Uncompressed);
    Ok(response)
}

impl Watcher {
    /// The next events. `None`: the end.
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            match &mut self.stage {
                Stage::Ended => return None,
                Stage::Initial { .. } => {
                    if let Some(events) = self.initial() {
                        return Some(events);
                    }
                }
                Stage::Following => {
                    self.changes.mark_unchanged();
                    if let Some(events) = self.follow() {
                        return Some(events);
                    }
                    tokio::select! {
                        () = self.shutdown.cancelled() => return None,
                        () = sleep_until(self.end) => return self.last_bookmark(),
                        () = sleep_until(self.next_bookmark), if self.allow_bookmarks => {
                            self.next_bookmark = Instant::now() + BOOKMARK_INTERVAL;
                            return Some(self.bookmark(false));
                        }
                        changed = self.changes.changed() => changed.ok()?,
                    }
                }
            }
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
        let (directory, now) = (self.informers.directory(), Timestamp::now());
        let mut out = Vec::new();
        for record in part {
            event("ADDED", &self.renderer.single(&record, &directory, now), &mut out);
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
            let (directory, now) = (self.informers.directory(), Timestamp::now());
            for change in &changes {
                self.tell(change, &directory, now, &mut out);
            }
        }
        Some(out)
    }

    fn pending(&self, view: &View) -> Option<Vec<Change>> {
        if view.epoch != self.epoch {
            return None;
        }
        Some(view.changes_since(self.told).ok()?.take(CHUNK).cloned().collect())
    }

    /// What a change means to whoever sees only the answers to the query.
    fn tell(&self, change: &Change, directory: &crate::directory::Directory, now: Timestamp, out: &mut Vec<u8>) {
        let fields = self.renderer.resource.fields;
        let answers =
            |record: &Option<Arc<Record>>| record.as_ref().filter(|record| self.query.matches(record, fields)).cloned();
        match (answers(&change.before), answers(&change.after)) {
            (None, None) => {}
            (None, Some(after)) => event("ADDED", &self.renderer.single(&after, directory, now), out),
            (Some(_), Some(after)) => event("MODIFIED", &self.renderer.single(&after, directory, now), out),
            (Some(before), None) => {
                event("DELETED", &self.renderer.gone(&before, change.revision, directory, now), out);
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
