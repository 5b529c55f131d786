//! Watches: streams of changes after a revision.
//!
//! Nothing is queued for a watcher. It reads the change log at its own pace. If it falls behind the oldest logged
//! change, it gets 410 and must relist.

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
use roster_core::directory::index::view::{RecordChange, View};
use roster_runtime::informers::catalogue::Catalogue;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::authenticate::RequestCredential;
use super::identity::Caller;
use super::limits::{HoldsOwnPermit, RequestPermit};
use super::open_credential::OpenCredential;
use super::params::ListParams;
use super::render::Renderer;
use super::revision::{blocking, expired, reached};
use super::selected_key::SelectedKey;
use super::state::{DirectoryApi, Permission};
use super::status::ApiError;

/// Time between two bookmarks.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// Time between two checks that the caller is still active, and that nothing has changed about its credential.
const ACTIVITY_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two authorization checks.
const AUTHORIZATION_INTERVAL: Duration = Duration::from_secs(60);

/// Duration of a watch without `timeoutSeconds`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);

/// Maximum number of events per chunk.
const CHUNK: usize = 128;

/// Response extension that disables compression.
#[derive(Clone, Copy, Debug)]
pub struct Uncompressed;

struct Watcher {
    renderer: Renderer,
    query: Query,
    api: Arc<DirectoryApi>,
    credential: OpenCredential,
    /// The permission that the caller was admitted with.
    permission: Permission,
    /// The key that the query selects a User by.
    key: Option<SelectedKey>,
    catalogue: Arc<Catalogue>,
    changes: tokio::sync::watch::Receiver<()>,
    allow_bookmarks: bool,
    stage: Stage,
    /// Epoch of the list that the revisions refer to.
    epoch: u64,
    /// All changes up to this revision have been sent.
    sent: u64,
    next_bookmark: Instant,
    next_activity_check: Instant,
    next_authorization: Instant,
    end: Instant,
    _permit: RequestPermit,
}

enum Stage {
    /// The existing objects are being sent.
    Initial { records: Vec<Arc<Record>>, next: usize, bookmark: bool },
    /// Changes are sent as they occur.
    Following,
    /// A final event, such as an error, has been sent.
    Ended,
}

/// Answers a watch request.
///
/// # Errors
/// 504 for a revision that this replica has not seen.
pub async fn watch(
    api: &Arc<DirectoryApi>,
    (caller, credential): (&Arc<Caller>, RequestCredential),
    (permission, key): (Permission, Option<SelectedKey>),
    params: ListParams,
    renderer: Renderer,
    permit: RequestPermit,
) -> Result<Response, ApiError> {
    let catalogue = Arc::clone((renderer.resource.catalogue)(&api.informers));
    let asked = params.resource_version.unwrap_or(0);
    // Without a revision, clients expect the existing objects first, even if they do not ask for them.
    let initial = params.send_initial_events.unwrap_or(asked == 0);
    let changes = catalogue.changes();
    let view = if initial { reached(&catalogue, asked).await? } else { catalogue.view() };
    let (stage, permit) = if initial {
        let (table, query) = (Arc::clone(&view.table), params.query.clone());
        // The work holds the permit, so a client that disconnects does not free it early.
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
        credential: OpenCredential::new(api, credential, Arc::clone(caller)),
        permission,
        key,
        allow_bookmarks: params.allow_bookmarks,
        query: params.query,
        renderer,
        catalogue,
        changes,
        stage,
        epoch: view.epoch,
        sent: if initial || asked == 0 { view.progress } else { asked },
        next_bookmark: now + BOOKMARK_INTERVAL,
        next_activity_check: now + ACTIVITY_CHECK_INTERVAL,
        next_authorization: now + AUTHORIZATION_INTERVAL,
        end: now + timeout.unwrap_or(DEFAULT_TIMEOUT).min(DEFAULT_TIMEOUT * 2),
        _permit: permit,
    };
    let events = stream::unfold(watcher, |mut watcher| async move {
        let events = watcher.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(events)), watcher))
    });
    let body = Body::from_stream(events.fuse());
    let mut response = ([(header::CONTENT_TYPE, "application/json")], body).into_response();
    // A compressor would delay events.
    response.extensions_mut().insert(Uncompressed);
    response.extensions_mut().insert(HoldsOwnPermit);
    Ok(response)
}

impl Watcher {
    /// Returns the next events, or `None` at the end of the watch.
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            // Checked first, so that a watcher that always has events to read is checked, too.
            if matches!(self.stage, Stage::Ended) || self.api.shutdown.is_cancelled() || !self.is_allowed().await {
                return None;
            }
            if Instant::now() >= self.end {
                return self.last_bookmark();
            }
            // Checked before the changes are read, because catalogues learn of a change before the directory does.
            let has_moved = self.key.as_ref().is_some_and(|key| key.has_moved(&self.api, self.credential.caller()));
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
            if let Some(key) = self.key.as_ref().filter(|_| has_moved) {
                let message = format!("{} stands for another user now: list again", key.key());
                return Some(self.error(&ApiError::expired(message)));
            }
            tokio::select! {
                () = self.api.shutdown.cancelled() => {}
                () = sleep_until(self.end.min(self.next_activity_check)) => {}
                () = sleep_until(self.next_bookmark), if self.allow_bookmarks => {
                    self.next_bookmark = Instant::now() + BOOKMARK_INTERVAL;
                    return Some(self.bookmark(false));
                }
                changed = self.changes.changed() => changed.ok()?,
            }
        }
    }

    /// Returns whether the caller is active and its credential valid now, and was authorized at the last check.
    async fn is_allowed(&mut self) -> bool {
        let (now, before) = (Instant::now(), Arc::clone(self.credential.caller()));
        self.next_activity_check = now + ACTIVITY_CHECK_INTERVAL;
        if self.api.is_inactive(&before) || !self.credential.is_valid(&self.api).await {
            return false;
        }
        let caller = self.credential.caller();
        if now < self.next_authorization && *caller == before {
            return true;
        }
        self.next_authorization = now + AUTHORIZATION_INTERVAL;
        let Permission { verb, resource, name } = &self.permission;
        match self.api.admit(caller, verb, resource, name, name).await {
            Ok(()) => true,
            // If kube-apiserver does not respond, the previous answer stays valid.
            Err(error) => error.code() == StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Returns the next part of the existing objects, or `None` once all have been sent.
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

    /// Returns the next changes, if there are any.
    fn follow(&mut self) -> Option<Vec<u8>> {
        let view = self.catalogue.view();
        let mut out = Vec::new();
        while out.is_empty() {
            let Some(changes) = self.pending(&view) else {
                return Some(self.error(&expired(self.sent)));
            };
            let last = changes.last()?;
            self.sent = last.revision;
            let now = Timestamp::now();
            for change in &changes {
                self.write_change(change, now, &mut out);
            }
        }
        Some(out)
    }

    /// Returns the event of an error, and ends the watch.
    fn error(&mut self, error: &ApiError) -> Vec<u8> {
        self.stage = Stage::Ended;
        let mut out = Vec::new();
        event("ERROR", error.to_json().to_string().as_bytes(), &mut out);
        out
    }

    fn pending(&self, view: &View) -> Option<Vec<RecordChange>> {
        if view.epoch != self.epoch {
            return None;
        }
        Some(view.changes_since(self.sent).ok()?.into_iter().take(CHUNK).collect())
    }

    /// Writes the event that a change causes for a watcher of this query, if any.
    fn write_change(&self, change: &RecordChange, now: Timestamp, out: &mut Vec<u8>) {
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
        // Revisions of a later list are not reported here.
        let revision = if known.epoch == self.epoch && !ends_initial_events && known.revision <= self.sent {
            known.progress.max(self.sent)
        } else {
            self.sent
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
