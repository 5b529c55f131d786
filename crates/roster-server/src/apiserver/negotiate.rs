//! Content negotiation: which form of response the client accepts.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};

use super::status::ApiError;

/// Form of a response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// The object, or the list of objects.
    Object,
    /// `PartialObjectMetadata`, or a list of them.
    Metadata,
    /// A `Table` of `meta.k8s.io/v1`, as kubectl prints it.
    Table,
}

/// Maximum number of media types considered. Clients send three or four.
const MAX_TYPES: usize = 32;

impl<S: Sync> FromRequestParts<S> for Form {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Self::of(&parts.headers)
    }
}

impl Form {
    /// Returns the first supported form in the `Accept` header. The only encoding is JSON.
    ///
    /// # Errors
    /// 406 if none is supported.
    pub fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let mut is_empty = true;
        for value in headers.get_all(header::ACCEPT) {
            let Ok(value) = value.to_str() else { continue };
            for media_type in value.split(',').take(MAX_TYPES) {
                is_empty = false;
                if let Some(form) = read(media_type) {
                    return Ok(form);
                }
            }
        }
        if is_empty { Ok(Self::Object) } else { Err(ApiError::not_acceptable()) }
    }
}

fn read(media_type: &str) -> Option<Form> {
    let mut parts = media_type.split(';').map(str::trim);
    if !matches!(parts.next()?, "application/json" | "application/*" | "*/*") {
        return None;
    }
    let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
    let value = |name: &str| parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    match value("as") {
        None => Some(Form::Object),
        Some(_) if value("g") != Some("meta.k8s.io") || value("v") != Some("v1") => None,
        Some("Table") => Some(Form::Table),
        Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Some(Form::Metadata),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Some(Form::Table))]
    #[case("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", Some(Form::Object))]
    #[case("application/vnd.kubernetes.protobuf,application/json;q=0.9", Some(Form::Object))]
    #[case("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some(Form::Metadata))]
    #[case("*/*", Some(Form::Object))]
    #[case("application/cbor", None)]
    #[case("application/json;as=Table", None)]
    #[case("text/html", None)]
    fn the_first_supported_form_is_chosen(#[case] accept: &str, #[case] expected: Option<Form>) {
        let headers = [(header::ACCEPT, accept.parse().unwrap())].into_iter().collect();
        assert_eq!(Form::of(&headers).ok(), expected);
    }
}
