//! Imports users and groups from other systems, and exports them. Pure: no cluster access.
//!
//! ```text
//!  bytes ─▶ csv, manifest, ldif, htpasswd, passwd,     ─▶ Input ─▶ assemble ─▶ Plan: manifests and rejections
//!           openstack, kubesphere, rancher,                           │
//!           keycloak, openshift, deckhouse, dex                       │
//!                                                    naming, rules, names, hashes
//!  Users, Groups, hashes ─▶ write ─▶ bytes
//! ```
//!
//! A reader only returns what its file says ([`draft`]). [`assemble`] then validates the result of every reader against
//! the rules of the CRDs ([`rules`]), before anything is sent to the cluster.

#![forbid(unsafe_code)]
#![warn(unreachable_pub)]

pub mod assemble;
mod columns;
pub mod conflict;
pub mod consent;
mod csv;
mod deckhouse;
mod dex;
mod documents;
pub mod draft;
mod expiry;
pub mod hashes;
mod htpasswd;
mod keycloak;
mod kubesphere;
mod ldif;
mod manifest;
pub mod names;
mod naming;
mod openshift;
mod openstack;
mod passwd;
mod rancher;
pub mod rules;
mod text;
pub mod write;

use std::collections::BTreeMap;

use draft::Input;
use rules::Rules;

/// Format to import.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// A header, and one row per user or group.
    Csv,
    /// Manifests, or objects with the fields of a User's spec: an array, a List, or one object per line.
    Json,
    /// Like [`Format::Json`], in YAML.
    Yaml,
    /// Output of slapcat, ldapsearch and ldifde (RFC 2849).
    Ldif,
    /// Password file of Apache and nginx.
    Htpasswd,
    /// OpenStack Identity: Keystone's tables as JSON or from mysqldump, or responses of its API.
    Openstack,
    /// Custom resources of KubeSphere.
    Kubesphere,
    /// Custom resources and password Secrets of Rancher.
    Rancher,
    /// Realm of Keycloak, exported by `kc.sh`.
    Keycloak,
    /// Users, Groups and Identities of OpenShift.
    Openshift,
    /// Static Users and Groups of Deckhouse.
    Deckhouse,
    /// Passwords of Dex.
    Dex,
    /// `/etc/passwd`, with `/etc/group` and `/etc/shadow` if given.
    Passwd,
}

/// Content to import. Not `Debug`, because it contains hashes.
#[derive(Default)]
pub struct Source {
    /// Content of the main file.
    pub main: Vec<u8>,
    /// Content of `/etc/group`.
    pub group: Option<Vec<u8>>,
    /// Content of `/etc/shadow`.
    pub shadow: Option<Vec<u8>>,
    /// Lowest UID that is imported from `/etc/passwd`. Lower ones are system accounts.
    pub min_uid: u32,
    /// Field for each CSV column, by header. An empty field skips the column.
    pub map: BTreeMap<String, String>,
}

/// Reads a source. Lines that can't be read are in [`Input::rejected`].
pub fn read(format: Format, source: &Source, rules: &Rules) -> Input {
    let main = &source.main;
    match format {
        Format::Csv => csv::read(main, &source.map, rules),
        Format::Json | Format::Yaml => manifest::read(main),
        Format::Ldif => ldif::read(main),
        Format::Htpasswd => htpasswd::read(main),
        Format::Openstack => openstack::read(main),
        Format::Kubesphere => kubesphere::read(main),
        Format::Rancher => rancher::read(main),
        Format::Keycloak => keycloak::read(main),
        Format::Openshift => openshift::read(main),
        Format::Deckhouse => deckhouse::read(main),
        Format::Dex => dex::read(main),
        Format::Passwd => passwd::read(main, source.group.as_deref(), source.shadow.as_deref(), source.min_uid),
    }
}

#[cfg(test)]
#[path = "cases_tests.rs"]
mod cases;
#[cfg(test)]
#[path = "tests.rs"]
mod tests;
