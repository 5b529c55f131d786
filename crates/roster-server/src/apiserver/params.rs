//! Query parameters of lists and watches.

use std::collections::BTreeMap;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use form_urlencoded::parse;
use roster_core::directory::index::field::Field;
use roster_core::directory::index::query::{Condition, Query, ValueTest};
use roster_core::directory::index::record::NAME;

use super::status::ApiError;

/// Maximum length of a query string, in bytes.
pub const MAX_QUERY_BYTES: usize = 16 * 1024;

/// Parameters of every Kubernetes list, and those of Roster's query language. `shardSelector` (KEP-5866) is ignored, as
/// by API servers without that feature: clients notice that `metadata.shardInfo` is missing.
const ALLOWED: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "filterBy",
    "includeObject",
    "labelSelector",
    "limit",
    "page",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "shardSelector",
    "sortBy",
    "timeoutSeconds",
    "watch",
];

/// Value of `includeObject`: what is included with each table row.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// The object's metadata.
    #[default]
    Metadata,
    /// Whole object.
    Object,
}

/// Parameters of a list or a watch.
#[derive(Clone, Debug, Default)]
pub struct ListParams {
    /// Filters and sort order.
    pub query: Query,
    /// The query as written, to check that a continue token belongs to it.
    pub written: String,
    /// Maximum number of items per page.
    pub limit: Option<usize>,
    /// Page number, from 1.
    pub page: Option<usize>,
    /// Continue token.
    pub continue_token: Option<String>,
    /// Requested revision; 0 or absent: any.
    pub resource_version: Option<u64>,
    /// Whether the revision must match exactly.
    pub is_exact: bool,
    /// Whether this is a watch.
    pub is_watch: bool,
    /// Whether to send bookmarks.
    pub allow_bookmarks: bool,
    /// Whether a watch begins with the existing objects.
    pub send_initial_events: Option<bool>,
    /// Duration of a watch, in seconds.
    pub timeout_seconds: Option<u64>,
    /// What is included with each table row.
    pub include_object: IncludeObject,
    /// Name to return for the selected object instead of its own. See
    /// [`Renderer::alias`](super::render::Renderer::alias).
    pub alias: Option<String>,
}

impl ListParams {
    /// Parses a query string.
    ///
    /// # Errors
    /// 400 for any unknown parameter or invalid value.
    pub fn read(fields: &[Field], query: &str) -> Result<Self, ApiError> {
        let pairs = pairs(query)?;
        let mut params = Self::default();
        for (key, value) in &pairs {
            if EVERYWHERE.contains(&key.as_str()) {
                continue;
            }
            if !ALLOWED.contains(&key.as_str()) {
                return Err(unknown(key, ALLOWED));
            }
            let is_repeated = pairs.iter().filter(|(other, _)| other == key).count() > 1;
            if is_repeated && !matches!(key.as_str(), "filterBy" | "sortBy") {
                return Err(ApiError::bad_parameter(key, "must not be given more than once"));
            }
            params.set(fields, key, value)?;
        }
        params.check()?;
        Ok(params)
    }

    fn set(&mut self, fields: &[Field], key: &str, value: &str) -> Result<(), ApiError> {
        match key {
            "filterBy" => self.query.filter_by(fields, value)?,
            "fieldSelector" => self.query.field_selector(fields, value)?,
            "labelSelector" => self.query.label_selector(value)?,
            "sortBy" => self.query.sort_by(fields, value)?,
            // Clients send zero for "no limit".
            "limit" => self.limit = Some(number(key, value, 0)?).filter(|limit| *limit > 0),
            "page" => self.page = Some(number(key, value, 1)?),
            "continue" => self.continue_token = Some(value.to_owned()).filter(|token| !token.is_empty()),
            "resourceVersion" => {
                self.resource_version = match value {
                    "" => None,
                    value => Some(value.parse().map_err(|_| {
                        ApiError::bad_parameter(
                            key,
                            &format!("{value:?} must be a resourceVersion that a list returned"),
                        )
                    })?),
                }
            }
            "resourceVersionMatch" => match value {
                "" | "NotOlderThan" => {}
                "Exact" => self.is_exact = true,
                _ => return Err(ApiError::bad_parameter(key, "must be Exact or NotOlderThan")),
            },
            "watch" => self.is_watch = flag(key, value)?,
            "allowWatchBookmarks" => self.allow_bookmarks = flag(key, value)?,
            "sendInitialEvents" => self.send_initial_events = Some(flag(key, value)?),
            "timeoutSeconds" => self.timeout_seconds = Some(number(key, value, 0)?),
            "includeObject" => self.include_object = include_object(value)?,
            // `shardSelector`.
            _ => {}
        }
        if matches!(key, "filterBy" | "fieldSelector" | "labelSelector" | "sortBy") {
            self.written.extend([key, "=", value, "&"]);
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ApiError> {
        if self.page.is_some() && self.continue_token.is_some() {
            return Err(ApiError::bad_parameter("page", "can't be combined with continue"));
        }
        if self.page.is_some() && self.limit.is_none() {
            return Err(ApiError::bad_parameter("page", "requires a limit of 1 or more, which is the page size"));
        }
        if self.continue_token.is_some() && self.resource_version.is_some_and(|version| version > 0) {
            return Err(ApiError::bad_parameter(
                "resourceVersion",
                "can't be combined with continue, which contains one",
            ));
        }
        if self.is_exact && self.resource_version.is_none_or(|version| version == 0) {
            return Err(ApiError::bad_parameter("resourceVersionMatch", "Exact requires a resourceVersion"));
        }
        if self.is_watch {
            let not_for_watches = [
                ("page", self.page.is_some()),
                ("continue", self.continue_token.is_some()),
                ("sortBy", !self.query.sort.is_empty()),
                ("resourceVersionMatch", self.is_exact),
            ];
            if let Some((key, _)) = not_for_watches.iter().find(|(_, is_set)| *is_set) {
                return Err(ApiError::bad_parameter(key, "is not supported for a watch"));
            }
        } else if self.send_initial_events.is_some() {
            return Err(ApiError::bad_parameter("sendInitialEvents", "is supported only for a watch"));
        }
        Ok(())
    }

    /// Returns the name, if the query selects a single object by name.
    pub fn single_name(&self) -> Option<SelectedName> {
        let is_single = |condition: &Condition| match condition {
            Condition { field: NAME, any, none, compare, .. } if none.is_empty() && compare.is_empty() => {
                matches!(any.as_slice(), [ValueTest::Equal(name)] if !name.is_empty())
            }
            _ => false,
        };
        let condition = self.query.conditions.iter().position(is_single)?;
        let Condition { any, is_open, .. } = &self.query.conditions[condition];
        let text = String::from_utf8(any[0].text().to_vec()).ok()?;
        Some(SelectedName { condition, text, is_selector: !is_open })
    }

    /// Returns whether the request looks like that of a client that keeps a copy of the objects, such as an informer or
    /// `kubectl wait`: it accepts a list of any age, or asks for bookmarks in a watch.
    pub fn is_for_cache(&self) -> bool {
        if self.is_watch { self.allow_bookmarks } else { self.resource_version == Some(0) }
    }
}

/// The name of the single object that a query selects.
#[derive(Debug)]
pub struct SelectedName {
    /// Index of the condition.
    pub condition: usize,
    /// The name, folded.
    pub text: String,
    /// Whether a field selector selects it rather than a filter.
    pub is_selector: bool,
}

/// Splits a query string into pairs.
///
/// # Errors
/// 414 if it is too long.
pub fn pairs(query: &str) -> Result<Vec<(String, String)>, ApiError> {
    if query.len() > MAX_QUERY_BYTES {
        return Err(ApiError::uri_too_long(MAX_QUERY_BYTES));
    }
    Ok(parse(query.as_bytes()).into_owned().collect())
}

/// 400 for an unknown parameter.
pub fn unknown(key: &str, allowed: &[&str]) -> ApiError {
    let allowed = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
    ApiError::bad_parameter(key, &format!("unknown parameter; allowed: {allowed}"))
}

/// Parses a value of `includeObject`.
///
/// # Errors
/// 400 for any other value.
pub fn include_object(value: &str) -> Result<IncludeObject, ApiError> {
    match value {
        "None" => Ok(IncludeObject::None),
        "" | "Metadata" => Ok(IncludeObject::Metadata),
        "Object" => Ok(IncludeObject::Object),
        _ => Err(ApiError::bad_parameter("includeObject", "must be None, Metadata or Object")),
    }
}

/// Parses a whole number that is at least `least`.
///
/// # Errors
/// 400 for any other value.
pub fn number<N>(key: &str, value: &str, least: N) -> Result<N, ApiError>
where
    N: std::str::FromStr + Copy + PartialOrd + std::fmt::Display,
{
    let parsed = value.parse().ok().filter(|number| *number >= least);
    parsed.ok_or_else(|| ApiError::bad_parameter(key, &format!("{value:?} must be a whole number of at least {least}")))
}

/// Parses a boolean like `strconv.ParseBool` in Go. An empty value means true, as in kube-apiserver.
///
/// # Errors
/// 400 for any other value.
pub fn flag(key: &str, value: &str) -> Result<bool, ApiError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" | "" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(ApiError::bad_parameter(key, &format!("{value:?} must be true or false"))),
    }
}

/// Parameters of a get.
#[derive(Debug, Default)]
pub struct GetParams {
    /// What is included with the table row.
    pub include: IncludeObject,
    /// Oldest acceptable revision.
    pub resource_version: u64,
}

impl GetParams {
    /// Parses a query string.
    ///
    /// # Errors
    /// 400 for any other parameter or value.
    pub fn read(query: Option<&str>) -> Result<Self, ApiError> {
        let params = only(query, &["includeObject", "resourceVersion"])?;
        let value = |key: &str| params.get(key).map_or("", String::as_str);
        let revision = Some(value("resourceVersion")).filter(|revision| !revision.is_empty()).unwrap_or("0");
        Ok(Self {
            include: include_object(value("includeObject"))?,
            resource_version: number("resourceVersion", revision, 0)?,
        })
    }
}

/// Parameters of a get that is always answered from the current state.
pub const GET_OPTIONS: &[&str] = &["resourceVersion"];

/// Extractor that rejects all parameters but [`GET_OPTIONS`] and [`EVERYWHERE`].
#[derive(Clone, Copy, Debug)]
pub struct NoParams;

impl<S: Sync> FromRequestParts<S> for NoParams {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        only(parts.uri.query(), GET_OPTIONS).map(|_| Self)
    }
}

/// Parameters that are allowed in every request, and ignored: responses are always compact, time is limited anyway, and
/// the type of the options follows from the request.
pub const EVERYWHERE: &[&str] = &["apiVersion", "kind", "pretty", "timeout"];

/// Returns the parameters by key. Accepts only `allowed` and [`EVERYWHERE`].
///
/// # Errors
/// 400 for any other.
pub fn only(query: Option<&str>, allowed: &[&str]) -> Result<BTreeMap<String, String>, ApiError> {
    let mut found = BTreeMap::new();
    for (key, value) in pairs(query.unwrap_or_default())? {
        if EVERYWHERE.contains(&key.as_str()) {
            continue;
        }
        if !allowed.contains(&key.as_str()) {
            return Err(unknown(&key, allowed));
        }
        if found.insert(key.clone(), value).is_some() {
            return Err(ApiError::bad_parameter(&key, "must not be given more than once"));
        }
    }
    Ok(found)
}
