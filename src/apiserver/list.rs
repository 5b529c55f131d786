//! Lists: whole, or page by page at one revision.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::identity::Caller;
use super::negotiate::Form;
use super::pages::{ListId, Position, list_id};
use super::params::ListParams;
use super::render::Renderer;
use super::resource::Resource;
use super::server::DirectoryApi;
use super::status::ApiError;
use crate::directory::index::record::Record;
use crate::directory::index::select::Selection;
use crate::directory::index::table::Table;
use crate::directory::index::view::{Unavailable, View};
use crate::informers::Informers;
use crate::informers::catalogue::Catalogue;

/// How long to wait for a revision that this replica has not seen yet, as kube-apiserver does.
const PATIENCE: Duration = Duration::from_secs(3);

/// Objects that are written at a time.
const CHUNK: usize = 128;

/// Answers a list.
///
/// # Errors
/// 410 and 504, where the revision can't be had; 400 for a token that is none.
pub async fn list(
    api: &Arc<DirectoryApi>,
    caller: &Arc<Caller>,
    resource: &'static Resource,
    params: &ListParams,
    form: Form,
    permit: OwnedSemaphorePermit,
) -> Result<Response, ApiError> {
    let id = list_id(resource.plural, &params.written);
    let catalogue = (resource.catalogue)(&api.informers);
    let (table, position) = start(api, caller, resource, catalogue, params, id).await?;
    let offset = usize::try_from(position.offset).unwrap_or(usize::MAX);
    let selection = {
        let (table, query, limit) = (table.clone(), params.query.clone(), params.limit);
        let selected = tokio::task::spawn_blocking(move || table.select(&query, offset, limit)).await;
        selected.map_err(|_| ApiError::internal("the query could not be answered"))?
    };
    let (metadata, counts) = describe(api, params, id, position, &selection);
    if !metadata["continue"].is_null() {
        api.revisions.begin(resource.plural, position.revision, table, caller, id).await;
    }
    let renderer = Renderer { resource, form, include: params.include_object, current: api.user_of(caller) };
    let head = renderer.head(&metadata, &counts);
    Ok(respond(renderer, head, selection.records, Arc::clone(&api.informers), permit))
}

/// The table to read from, and where to begin.
async fn start(
    api: &DirectoryApi,
    caller: &Arc<Caller>,
    resource: &'static Resource,
    catalogue: &Catalogue,
    params: &ListParams,
    id: ListId,
) -> Result<(Table, Position), ApiError> {
    if let Some(token) = &params.continue_token {
        let position = api.tokens.read(id, token)?;
        let table = table_at(api, resource, catalogue, position.revision).await?;
        return Ok((table, position));
    }
    let before = match (params.page, params.limit) {
        (Some(page), Some(limit)) => (page - 1).saturating_mul(limit),
        _ => 0,
    };
    let offset = u64::try_from(before).unwrap_or(u64::MAX);
    let asked = params.resource_version.filter(|revision| *revision > 0);
    let same_list = match params.page {
        Some(page) if page > 1 && asked.is_none() => api.revisions.of_first_page(caller, id).await,
        _ => None,
    };
    if let Some(revision) = same_list.or(asked.filter(|_| params.is_exact)) {
        let table = table_at(api, resource, catalogue, revision).await?;
        return Ok((table, Position { revision, offset }));
    }
    let view = reached(catalogue, asked.unwrap_or(0)).await?;
    Ok((view.table.clone(), Position { revision: view.revision, offset }))
}

async fn table_at(
    api: &DirectoryApi,
    resource: &'static Resource,
    catalogue: &Catalogue,
    revision: u64,
) -> Result<Table, ApiError> {
    let view = reached(catalogue, revision).await?;
    api.revisions.table(resource.plural, &view, revision).await.map_err(|unavailable| match unavailable {
        Unavailable::Gone => expired(revision),
        Unavailable::Ahead => ApiError::too_large_resource_version(revision, view.progress),
    })
}

/// 410 for a revision that is no longer remembered.
pub fn expired(revision: u64) -> ApiError {
    ApiError::expired(format!("resourceVersion {revision} is too old and no longer remembered: begin anew without it"))
}

/// The state of the moment, as soon as it knows everything up to `revision`.
///
/// # Errors
/// 504 if that takes too long.
pub async fn reached(catalogue: &Catalogue, revision: u64) -> Result<Arc<View>, ApiError> {
    let view = catalogue.view();
    if view.progress >= revision {
        return Ok(view);
    }
    let mut changes = catalogue.changes();
    let waiting = async {
        loop {
            let view = catalogue.view();
            if view.progress >= revision || changes.changed().await.is_err() {
                return view;
            }
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.map_err(|_| ApiError::too_large_resource_version(revision, catalogue.peek().progress))
}

/// The metadata of the list, and its counts.
fn describe(
    api: &DirectoryApi,
    params: &ListParams,
    id: ListId,
    position: Position,
    selection: &Selection,
) -> (Value, Value) {
    let total = selection.total as u64;
    let end = position.offset.saturating_add(selection.records.len() as u64);
    let mut metadata = json!({"resourceVersion": position.revision.to_string()});
    if end < total && !selection.records.is_empty() {
        metadata["continue"] = api.tokens.write(id, Position { offset: end, ..position }).into();
        metadata["remainingItemCount"] = (total - end).into();
    }
    let mut counts = json!({"total": total});
    if let Some(limit) = params.limit {
        let limit = limit as u64;
        counts["limit"] = limit.into();
        counts["page"] = (position.offset / limit + 1).into();
        counts["pages"] = total.div_ceil(limit).into();
    }
    (metadata, counts)
}

/// Writes the objects, a few at a time: a list of everybody is not held in memory twice.
fn respond(
    renderer: Renderer,
    head: String,
    records: Vec<Arc<Record>>,
    informers: Arc<Informers>,
    permit: OwnedSemaphorePermit,
) -> Response {
    let write = move |from: usize, records: &[Arc<Record>], out: &mut Vec<u8>| {
        let now = Timestamp::now();
        let directory = informers.directory();
        for (at, record) in records.iter().enumerate().skip(from).take(CHUNK) {
            if at > 0 {
                out.push(b',');
            }
            renderer.item(record, &directory, now, out);
        }
        if from + CHUNK >= records.len() {
            out.extend(b"]}\n");
        }
    };
    let mut first = head.into_bytes();
    write(0, &records, &mut first);
    let body = if records.len() <= CHUNK {
        Body::from(first)
    } else {
        // The place is held until the last of it is on its way.
        let rest = stream::unfold((CHUNK, records, write, permit), |(from, records, write, permit)| async move {
            if from >= records.len() {
                return None;
            }
            let mut out = Vec::new();
            write(from, &records, &mut out);
            Some((Bytes::from(out), (from + CHUNK, records, write, permit)))
        });
        let all = stream::once(async { Bytes::from(first) }).chain(rest);
        Body::from_stream(all.map(Ok::<_, Infallible>))
    };
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
