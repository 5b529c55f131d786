//! Quota at the door: how many namespaces somebody may own, and room that is made while a request waits.

pub mod hints;
pub mod namespaces;
