//! People and groups from other systems, and back: pure, no cluster access.
//!
//! ```text
//!  bytes ─▶ csv, manifest, ldif, htpasswd, passwd,     ─▶ Input ─▶ assemble ─▶ Plan: manifests, and what is rejected
//!           openstack, kubesphere, rancher                            │
//!                                                          rules, names, hashes
//!  Users, Groups, hashes ─▶ write ─▶ bytes
//! ```
//!
//! A format says what its file says ([`draft`]). What is allowed is decided in one place for all of them
//! ([`assemble`]), by the rules of the CRDs ([`rules`]), before anything is sent.

#![forbid(unsafe_code)]

pub mod assemble;
mod columns;
pub mod consent;
mod csv;
mod documents;
pub mod draft;
pub mod hashes;
mod htpasswd;
mod kubesphere;
mod ldif;
mod manifest;
pub mod names;
mod openstack;
mod passwd;
mod rancher;
pub mod rules;
mod text;
pub mod write;

use std::collections::BTreeMap;

use draft::Input;
use rules::Rules;

/// What is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// A header, and a row a person or group.
    Csv,
    /// Manifests, or objects with the fields of a User's spec: an array, a List, or one a line.
    Json,
    /// The same in YAML.
    Yaml,
    /// What slapcat, ldapsearch and ldifde write (RFC 2849).
    Ldif,
    /// Apache's.
    Htpasswd,
    /// OpenStack Identity: Keystone's tables as JSON or by mysqldump, or answers of its API.
    Openstack,
    /// Custom resources of KubeSphere.
    Kubesphere,
    /// Custom resources and password Secrets of Rancher.
    Rancher,
    /// /etc/passwd.
    Passwd,
}

/// What is read, beside the format. Not `Debug`: there are hashes in it.
#[derive(Default)]
pub struct Source {
    /// Content of the file.
    pub main: Vec<u8>,
    /// Content of `/etc/group`.
    pub group: Option<Vec<u8>>,
    /// Content of `/etc/shadow`.
    pub shadow: Option<Vec<u8>>,
    /// Least number of an account that is a person's.
    pub min_uid: u32,
    /// Fields of CSV columns.
    pub map: BTreeMap<String, String>,
}

/// Reads a source. What can't be read is in the result, with its line.
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
        Format::Passwd => passwd::read(main, source.group.as_deref(), source.shadow.as_deref(), source.min_uid),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
