//! Errors as a Kubernetes `Status` with code, reason, details and causes.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use kube::core::Status;
use kube::core::response::{StatusCause, StatusDetails, StatusSummary};
use roster_api::directory::GROUP;
use roster_core::directory::index::dialect::InvalidParameter;
use serde_json::{Value, json};

/// An error response.
#[derive(Clone, Debug)]
pub struct ApiError(Box<Status>);

/// The object that an error is about.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// Resource, with the subresource after a slash.
    pub resource: &'a str,
    /// Name of the object; may be empty.
    pub name: &'a str,
}

impl ApiError {
    fn new(code: u16, reason: &str, message: String) -> Self {
        Self(Box::new(Status {
            status: Some(StatusSummary::Failure),
            code,
            reason: reason.to_owned(),
            message,
            ..Status::default()
        }))
    }

    fn about(mut self, about: About<'_>) -> Self {
        let details = self.details();
        details.name = about.name.to_owned();
        details.group = GROUP.to_owned();
        details.kind = about.resource.split('/').next().unwrap_or_default().to_owned();
        self
    }

    fn details(&mut self) -> &mut StatusDetails {
        self.0.details.get_or_insert_with(|| StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: 0,
        })
    }

    fn cause(mut self, reason: &str, field: &str, message: &str) -> Self {
        let (reason, field, message) = (reason.to_owned(), field.to_owned(), message.to_owned());
        self.details().causes.push(StatusCause { reason, field, message });
        self
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        self.details().retry_after_seconds = seconds;
        self
    }

    /// 400: malformed request.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message.into())
    }

    /// 400: invalid parameter.
    pub fn bad_parameter(parameter: &str, message: &str) -> Self {
        Self::bad_request(format!("{parameter}: {message}")).cause("FieldValueInvalid", parameter, message)
    }

    /// 401: unauthenticated caller.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized".to_owned())
    }

    /// 403: the caller may not do this, or may not know whether the object exists.
    pub fn forbidden(user: &str, verb: &str, about: About<'_>) -> Self {
        let About { resource, name } = about;
        let what = if name.is_empty() { format!("{resource}.{GROUP}") } else { format!("{resource}.{GROUP} {name:?}") };
        let message = format!(
            "{what} is forbidden: User {user:?} cannot {verb} resource {resource:?} in API group {GROUP:?} at the cluster scope"
        );
        Self::new(403, "Forbidden", message).about(about)
    }

    /// 403 with a specific message.
    pub fn refused(message: impl Into<String>, about: About<'_>) -> Self {
        Self::new(403, "Forbidden", message.into()).about(about)
    }

    /// 404: no such object.
    pub fn not_found(about: About<'_>) -> Self {
        let message = format!("{}.{GROUP} {:?} not found", about.resource, about.name);
        Self::new(404, "NotFound", message).about(about)
    }

    /// 404: no such path.
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource".to_owned())
    }

    /// 405: unsupported method.
    pub fn method_not_allowed(message: impl Into<String>) -> Self {
        Self::new(405, "MethodNotAllowed", message.into())
    }

    /// 406: no accepted media type is supported.
    pub fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json, and application/json;as=Table and \
                       application/json;as=PartialObjectMetadata(List) of v=v1;g=meta.k8s.io";
        Self::new(406, "NotAcceptable", message.to_owned())
    }

    /// 409: conflict with another writer or the current state.
    pub fn conflict(message: impl Into<String>, about: About<'_>) -> Self {
        Self::new(409, "Conflict", message.into()).about(about)
    }

    /// 410: expired revision.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message.into())
    }

    /// 413: the body has more than `max` bytes.
    pub fn too_large(max: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("the body must have at most {max} bytes"))
    }

    /// 414: the URI has more than `max` bytes.
    pub fn uri_too_long(max: usize) -> Self {
        Self::new(414, "RequestURITooLong", format!("the URL must have at most {max} bytes"))
    }

    /// 415: unsupported media type.
    pub fn unsupported_media_type(allowed: &str) -> Self {
        Self::new(415, "UnsupportedMediaType", format!("the content type must be one of: {allowed}"))
    }

    /// 422: invalid field.
    pub fn invalid(about: About<'_>, field: &str, message: &str) -> Self {
        let whole = format!("{}.{GROUP} {:?} is invalid: {field}: {message}", about.resource, about.name);
        Self::new(422, "Invalid", whole).about(about).cause("FieldValueInvalid", field, message)
    }

    /// 429: too many requests in flight.
    pub fn too_many_requests() -> Self {
        Self::new(429, "TooManyRequests", "too many concurrent requests, please try again later".to_owned())
            .retry_after(1)
    }

    /// 429: a caller has used up its share. `what` names the caller and the requests, as in `user jane has 32
    /// requests`.
    pub fn over_share(what: &str) -> Self {
        let message = format!("{what} in flight, and no more are allowed: wait until one has ended");
        Self::new(429, "TooManyRequests", message).retry_after(1)
    }

    /// 500: internal error. The message says which operation failed, and contains no values.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalError", message.into())
    }

    /// 503: a dependency does not respond.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message.into()).retry_after(1)
    }

    /// 504: this replica has not seen the revision yet. Clients recognize it by the cause.
    pub fn too_large_resource_version(asked: u64, known: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {known}");
        Self::new(504, "Timeout", message)
            .cause("ResourceVersionTooLarge", "", "Too large resource version")
            .retry_after(1)
    }

    /// Passes on the status of another API server, about an object of this one.
    pub fn passed_on(status: Status, about: About<'_>) -> Self {
        Self(Box::new(status)).about(about)
    }

    /// Passes on kube-apiserver's response to a write on the caller's behalf, or 503 if it did not respond.
    pub fn of_kube(error: kube::Error, about: About<'_>) -> Self {
        match error {
            kube::Error::Api(status) => Self::passed_on(*status, about),
            _ => Self::unavailable("the API server does not answer"),
        }
    }

    /// HTTP status code.
    pub fn code(&self) -> StatusCode {
        StatusCode::from_u16(self.0.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Returns the error as a JSON object.
    pub fn to_json(&self) -> Value {
        let mut value = json!(self.0);
        value["kind"] = "Status".into();
        value["apiVersion"] = "v1".into();
        value["metadata"] = json!({});
        value
    }
}

impl From<InvalidParameter> for ApiError {
    fn from(invalid: InvalidParameter) -> Self {
        Self::bad_parameter(invalid.parameter, &invalid.message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.code(), axum::Json(self.to_json())).into_response();
        let retry_after = self.0.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        if retry_after > 0 {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after));
        }
        response
    }
}
