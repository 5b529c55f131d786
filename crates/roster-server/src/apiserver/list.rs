//! Lists: complete, or in pages at one revision.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use roster_core::directory::index::query::Query;
use roster_core::directory::index::record::Record;
use roster_core::directory::index::select::Selection;
use roster_core::directory::index::table::Table;
use roster_runtime::informers::Informers;
use roster_runtime::informers::catalogue::Catalogue;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::identity::Caller;
use super::limits::RequestPermit;
use super::negotiate::Form;
use super::pages::{ListId, Position, RevisionRange, list_id};
use super::params::ListParams;
use super::render::{Counts, Renderer};
use super::resource::Resource;
use super::revision::blocking;
use super::revision::expired;
use super::revision::reached;
use super::state::DirectoryApi;
use super::status::ApiError;

/// Maximum number of objects per chunk of the response.
const CHUNK: usize = 128;

/// A chunk of at least this many bytes gets no further object. Shorter lists are a single chunk, so that the compressor
/// knows their length.
const CHUNK_BYTES: usize = 128 * 1024;

/// Typical size of the members joined to an object, in bytes.
const JOINED_BYTES: usize = 256;

/// Maximum time that a response holds its permit. Slower callers can continue to read, but their own share stays in
/// use.
const MAX_ANSWER_TIME: Duration = Duration::from_secs(30);

/// Answers a list request.
///
/// # Errors
/// 410 or 504 if the revision is not available; 400 if the continue token is invalid.
pub async fn list(
    api: &Arc<DirectoryApi>,
    caller: &Arc<Caller>,
    resource: &'static Resource,
    params: &ListParams,
    form: Form,
    permit: RequestPermit,
) -> Result<Response, ApiError> {
    let id = list_id(resource.plural, &params.written);
    let catalogue = (resource.catalogue)(&api.informers);
    let (table, position) = start(api, (caller, &permit), resource, catalogue, params, id).await?;
    let offset = usize::try_from(position.offset).unwrap_or(usize::MAX);
    let (selection, permit) = select(&table, &params.query, (offset, params.limit), permit).await?;
    let (metadata, counts) = describe(api, params, id, position, &selection);
    if metadata.continue_.is_some() {
        api.snapshots.put(resource.plural, position.revisions, table).await;
        if position.offset == 0 {
            api.snapshots.note_first_page(caller, id, position.revisions).await;
        }
    }
    let current = api.user_of(caller);
    let renderer = Renderer { resource, form, include: params.include_object, current, alias: params.alias.clone() };
    let head = renderer.head(&metadata, counts);
    Ok(respond(renderer, head, selection.records, Arc::clone(&api.informers), permit))
}

/// Selects records, on this thread if that takes less time than handing the work to another one. The work holds the
/// permit, so a client that disconnects does not free it early.
async fn select(
    table: &Arc<Table>,
    query: &Query,
    (offset, limit): (usize, Option<usize>),
    permit: RequestPermit,
) -> Result<(Selection, RequestPermit), ApiError> {
    let found = table.is_found_quickly(query).then(|| table.find(query));
    if let Some(found) = &found
        && table.is_paged_quickly(found, &query.sort, offset, limit)
    {
        return Ok((table.page(found, &query.sort, offset, limit), permit));
    }
    let (table, query) = (Arc::clone(table), query.clone());
    let work = move || {
        let found = found.unwrap_or_else(|| table.find(&query));
        (table.page(&found, &query.sort, offset, limit), permit)
    };
    blocking(work).await
}

/// Returns the table to read from, and where to begin.
async fn start(
    api: &DirectoryApi,
    (caller, permit): (&Arc<Caller>, &RequestPermit),
    resource: &'static Resource,
    catalogue: &Catalogue,
    params: &ListParams,
    id: ListId,
) -> Result<(Arc<Table>, Position), ApiError> {
    if let Some(token) = &params.continue_token {
        let Position { revisions, offset } = api.tokens.read(id, token)?;
        let (table, _) = table_of(api, permit, resource, catalogue, revisions).await?;
        return Ok((table, Position { revisions, offset }));
    }
    let before = match (params.page, params.limit) {
        (Some(page), Some(limit)) => (page - 1).saturating_mul(limit),
        _ => 0,
    };
    let offset = u64::try_from(before).unwrap_or(u64::MAX);
    let asked = params.resource_version.filter(|revision| *revision > 0);
    if let Some(revision) = asked.filter(|_| params.is_exact) {
        let revisions = RevisionRange { since: revision, until: revision };
        let (table, revisions) = table_of(api, permit, resource, catalogue, revisions).await?;
        return Ok((table, Position { revisions, offset }));
    }
    if params.page.is_some_and(|page| page > 1)
        && asked.is_none()
        && let Some(revisions) = api.snapshots.of_first_page(caller, id).await
    {
        match table_of(api, permit, resource, catalogue, revisions).await {
            Ok((table, revisions)) => return Ok((table, Position { revisions, offset })),
            Err(error) if error.code() == StatusCode::TOO_MANY_REQUESTS => return Err(error),
            // The revision of the first page has expired. The client did not specify it, so it gets the current one.
            Err(_) => {}
        }
    }
    let view = reached(catalogue, asked.unwrap_or(0)).await?;
    let revisions = RevisionRange { since: view.revision, until: view.progress };
    Ok((Arc::clone(&view.table), Position { revisions, offset }))
}

/// Returns all records at a past revision, and that revision's [`RevisionRange`] on this replica.
async fn table_of(
    api: &DirectoryApi,
    permit: &RequestPermit,
    resource: &'static Resource,
    catalogue: &Catalogue,
    revisions: RevisionRange,
) -> Result<(Arc<Table>, RevisionRange), ApiError> {
    let view = reached(catalogue, revisions.since).await?;
    if view.revision <= revisions.until {
        return Ok((Arc::clone(&view.table), revisions));
    }
    if let Some(table) = api.snapshots.table(resource.plural, revisions).await {
        return Ok((table, revisions));
    }
    let slot = api.undoing.acquire(permit.clone()).await?;
    let past = blocking(move || (view.at(revisions.until), slot)).await?.0;
    let past = past.map_err(|_| expired(revisions.until))?;
    Ok((past.table, RevisionRange { since: past.revision, until: revisions.until }))
}

/// Builds the metadata of the list, and its counts.
fn describe(
    api: &DirectoryApi,
    params: &ListParams,
    id: ListId,
    position: Position,
    selection: &Selection,
) -> (ListMeta, Counts) {
    let total = selection.total as u64;
    let end = position.offset.saturating_add(selection.records.len() as u64);
    let has_more = end < total && !selection.records.is_empty();
    let metadata = ListMeta {
        resource_version: Some(position.revisions.until.to_string()),
        continue_: has_more.then(|| api.tokens.write(id, Position { offset: end, ..position })),
        remaining_item_count: i64::try_from(total - end.min(total)).ok().filter(|_| has_more),
        ..ListMeta::default()
    };
    let limit = params.limit.map(|limit| limit as u64);
    let counts = Counts {
        limit,
        page: limit.map(|limit| position.offset / limit + 1),
        pages: limit.map(|limit| total.div_ceil(limit)),
        total: Some(total),
    };
    (metadata, counts)
}

/// Returns the next records to write, beginning with `from`: fewer if they are large, at least one if any are left.
fn next_chunk(records: &[Arc<Record>], from: usize) -> &[Arc<Record>] {
    let rest = &records[from..];
    let mut bytes = 0;
    let fits = |record: &&Arc<Record>| {
        let has_space = bytes < CHUNK_BYTES;
        bytes += record.json().len() + JOINED_BYTES;
        has_space
    };
    let count = rest.iter().take(CHUNK).take_while(fits).count();
    &rest[..count]
}

/// Writes the objects in chunks, so that a list of all users is not held in memory twice.
fn respond(
    renderer: Renderer,
    head: String,
    records: Vec<Arc<Record>>,
    informers: Arc<Informers>,
    permit: RequestPermit,
) -> Response {
    // Writes the next chunk, and returns the index at which to continue.
    let write = move |from: usize, records: &[Arc<Record>], out: &mut Vec<u8>| {
        let (part, now) = (next_chunk(records, from), Timestamp::now());
        out.reserve(part.iter().map(|record| record.json().len() + JOINED_BYTES).sum());
        for (at, (record, joined)) in (from..).zip(part.iter().zip(renderer.joined(part, &informers, now))) {
            if at > 0 {
                out.push(b',');
            }
            renderer.item(record, &joined, now, out);
        }
        let end = from + part.len();
        if end == records.len() {
            out.extend(b"]}\n");
        }
        end
    };
    let mut first = head.into_bytes();
    let next = write(0, &records, &mut first);
    let body = if next == records.len() {
        Body::from(first)
    } else {
        let held = hold_permit(permit, MAX_ANSWER_TIME);
        let rest = stream::unfold((next, records, write, held), |(from, records, write, held)| async move {
            if from >= records.len() {
                return None;
            }
            // Let other tasks run.
            tokio::task::yield_now().await;
            let mut out = Vec::new();
            let next = write(from, &records, &mut out);
            Some((Bytes::from(out), (next, records, write, held)))
        });
        // The compressor polls once more after the end.
        let all = stream::once(async { Bytes::from(first) }).chain(rest).fuse();
        Body::from_stream(all.map(Ok::<_, Infallible>))
    };
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Holds a permit until the guard is dropped, but at most for `max_duration`.
fn hold_permit(permit: RequestPermit, max_duration: Duration) -> DropGuard {
    let done = CancellationToken::new();
    let returned = done.clone();
    tokio::spawn(async move {
        let _permit = permit;
        let _ = tokio::time::timeout(max_duration, returned.cancelled()).await;
    });
    done.drop_guard()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::pin::Pin;

    use crate::apiserver::params::IncludeObject;
    use crate::apiserver::permit_holder::PermitHolder;
    use crate::apiserver::resource::USERS;
    use axum::body::HttpBody;
    use roster_api::{User, UserSpec};
    use roster_core::directory::entries::user::record;
    use roster_runtime::metrics::Metrics;
    use rstest::rstest;
    use serde_json::Value;

    /// Returns records of `count` Users with a display name of `bytes` bytes.
    fn users(count: usize, bytes: usize) -> Vec<Arc<Record>> {
        let spec = UserSpec { display_name: Some("x".repeat(bytes)), ..UserSpec::default() };
        (0..count).map(|at| Arc::new(record(&User::new(&format!("user-{at}"), spec.clone())))).collect()
    }

    /// Enough objects for several chunks. A body that has ended stays ended.
    #[rstest]
    #[case::many(300, 1, 3)]
    #[case::few_and_large(20, 30_000, 4)]
    #[case::larger_than_a_chunk(2, CHUNK_BYTES, 2)]
    #[case::none(0, 1, 1)]
    #[tokio::test]
    async fn a_long_list_is_complete_and_ends(#[case] count: usize, #[case] bytes: usize, #[case] chunks: usize) {
        let informers = Arc::new(Informers::new(false, Arc::new(Metrics::default())));
        let renderer = Renderer {
            resource: &USERS,
            form: Form::Object,
            include: IncludeObject::Metadata,
            current: None,
            alias: None,
        };
        let permit = RequestPermit::for_test(PermitHolder::Exempt);
        let head = renderer.head(&ListMeta::default(), Counts::default());
        let mut body = respond(renderer, head, users(count, bytes), informers, permit).into_body();
        let (mut whole, mut frames) = (Vec::new(), 0);
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() < CHUNK_BYTES + bytes + 4096, "{} bytes at a time", data.len());
            whole.extend(data);
            frames += 1;
        }
        assert!(poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.is_none());
        let list: Value = serde_json::from_slice(&whole).unwrap();
        assert_eq!((list["items"].as_array().unwrap().len(), frames), (count, chunks));
    }
}
