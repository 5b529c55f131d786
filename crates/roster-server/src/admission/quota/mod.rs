//! Quota admission: limits how many namespaces a user owns, and has allotments enlarged while a request waits.

pub mod hints;
pub mod namespaces;
