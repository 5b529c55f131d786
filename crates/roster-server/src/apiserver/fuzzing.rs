//! Entry points for fuzzing: parsers of input from unauthenticated clients, and what runs on their output.

use aws_lc_rs::hmac;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use roster_core::directory::entries::user::FIELDS;
use roster_core::directory::index::view::View;

use super::identity::HeaderNames;
use super::negotiate::Form;
use super::pages::read;
use super::params::ListParams;

/// Parses a query string, and runs the query.
pub fn query(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(params) = ListParams::read(FIELDS, text) {
        let selection = View::empty(FIELDS).table.select(&params.query, 0, params.limit);
        assert_eq!(selection.total, 0, "the index is empty");
        let _ = params.single_name();
    }
}

/// Verifies a continue token.
pub fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"unused key");
    assert!(read(&[key], [0; 8], text).is_err(), "it is not signed with this key");
}

/// Parses headers, one per line: name, colon, value.
pub fn headers(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(200) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { continue };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let names = HeaderNames {
        username: vec![HeaderName::from_static("x-remote-user")],
        uid: vec![HeaderName::from_static("x-remote-uid")],
        groups: vec![HeaderName::from_static("x-remote-group")],
        extra_prefixes: vec!["x-remote-extra-".to_owned()],
    };
    if let Ok(Some(caller)) = names.read(&headers) {
        assert!(!caller.username.is_empty() && headers.contains_key("x-remote-user"));
    }
    let form = Form::of(&headers);
    assert!(form.is_err() || form.is_ok_and(|form| form == Form::Object) || headers.contains_key(header::ACCEPT));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inputs that fuzzing found worth keeping.
    #[test]
    fn the_corpus_is_read_without_a_panic() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        let corpus = |target: &str| -> Vec<Vec<u8>> {
            let files = std::fs::read_dir(root.join(target)).expect("the corpus exists");
            let inputs: Vec<Vec<u8>> = files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
            assert!(inputs.len() > 20, "{target}");
            inputs
        };
        corpus("query").iter().map(Vec::as_slice).for_each(query);
        corpus("token").iter().map(Vec::as_slice).for_each(token);
        corpus("headers").iter().map(Vec::as_slice).for_each(headers);
    }
}
