//! Users and Groups of the cluster, with which a plan is compared.

use std::collections::BTreeMap;

use serde_json::Value;

/// A User of the cluster.
#[derive(Clone, Copy, Debug)]
pub struct ExistingUser<'a> {
    /// `metadata.name`.
    pub name: &'a str,
    /// `metadata.labels`.
    pub labels: &'a BTreeMap<String, String>,
    /// `spec`.
    pub spec: &'a Value,
    /// Value of the annotation [`SOURCE_ID_ANNOTATION`](roster_api::SOURCE_ID_ANNOTATION).
    pub source: Option<&'a str>,
    /// Fields of `spec` that earlier imports applied, in the notation of `managedFields`. JSON null if no import has applied the User.
    pub owned: &'a Value,
    /// Whether the plan has a password Secret for the User that does not exist or has other content.
    pub gets_password: bool,
}

/// An existing Group of the cluster.
#[derive(Clone, Copy, Debug)]
pub struct ExistingGroup<'a> {
    /// `metadata.name`.
    pub name: &'a str,
    /// `spec`.
    pub spec: &'a Value,
    /// Fields of `spec` that earlier imports applied, in the notation of `managedFields`. JSON null if no import has applied the Group.
    pub owned: &'a Value,
}
