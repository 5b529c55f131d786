//! Imports users and groups from other systems, and exports them. Pure: no cluster access.
//!
//! ```text
//!  bytes ─▶ decode ─▶ csv, manifest, ldif, htpasswd, passwd, ─▶ Input ─▶ assemble ─▶ Plan: manifests and rejections
//!                     openstack, kubesphere, rancher,                       │
//!                     keycloak, openshift, deckhouse, dex                   │
//!                                                        naming, rules, names, hashes
//!  Users, Groups, hashes ─▶ write ─▶ bytes
//! ```
//!
//! A reader only returns what its file contains ([`draft`]). [`assemble`] then validates the result of every reader
//! against the rules of the CRDs ([`rules`]), before anything is sent to the cluster.

#![forbid(unsafe_code)]
#![warn(unreachable_pub)]

mod acceptance;
pub mod accepted;
pub mod assemble;
mod columns;
pub mod conflict;
pub mod consent;
mod contested;
mod control;
pub mod csv;
pub mod current;
mod deckhouse;
mod decode;
mod dex;
mod documents;
pub mod draft;
pub mod existing;
mod expiry;
pub mod findings;
pub mod hashes;
pub mod held;
mod htpasswd;
mod identifiers;
mod keeper;
mod keycloak;
pub mod known;
mod kubesphere;
mod ldif;
mod manifest;
pub mod membership;
pub mod names;
mod naming;
mod openshift;
mod openstack;
mod passwd;
mod paths;
mod rancher;
pub mod restriction;
pub mod rules;
mod taken;
mod text;
mod ties;
pub mod write;

use draft::{Input, Place, Rejected};
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
    /// Options for reading CSV.
    pub csv: csv::Options,
}

impl Format {
    /// Returns whether the entries of a file have nothing but names. JSON and YAML can have the annotation of an import.
    fn has_only_names(self) -> bool {
        matches!(self, Self::Csv | Self::Json | Self::Yaml | Self::Htpasswd | Self::Passwd)
    }

    /// Returns what a file without memberships needs, or `None` if such files are usual.
    fn memberships(self) -> Option<&'static str> {
        match self {
            Self::Csv | Self::Json | Self::Yaml | Self::Htpasswd | Self::Dex => None,
            Self::Ldif => Some("export the groups with their members, or memberOf, as well"),
            Self::Openstack => Some("the table user_group_membership is missing"),
            Self::Kubesphere => Some("export the groupbindings.iam.kubesphere.io as well"),
            Self::Rancher => Some("export the userattributes.management.cattle.io as well"),
            Self::Keycloak => Some("kc.sh export writes the groups of each user"),
            Self::Openshift => Some("export the groups.user.openshift.io as well"),
            Self::Deckhouse => Some("export the groups.deckhouse.io as well"),
            Self::Passwd => Some("give --group-file"),
        }
    }

    /// Returns what a file of this format contains, for messages.
    fn content(self) -> &'static str {
        match self {
            Self::Csv => "a header, and a row for each user or group",
            Self::Json | Self::Yaml => "Users and Groups, or objects with the fields of their spec",
            Self::Ldif => "entries with the object class of a person or a group",
            Self::Htpasswd => "lines of a name, a colon and a hash",
            Self::Openstack => {
                "mysqldump or pg_dump of Keystone's tables user and group, or the same as JSON: {\"user\": […], \"group\": […]}. \
                 The output of openstack user list is not enough, because it contains neither groups nor hashes"
            }
            Self::Kubesphere => "Users, Groups and GroupBindings of iam.kubesphere.io",
            Self::Rancher => "Users and UserAttributes of management.cattle.io",
            Self::Keycloak => "the export of a realm by kc.sh: {\"realm\": …, \"users\": […], \"groups\": […]}",
            Self::Openshift => "Users, Groups and Identities of user.openshift.io",
            Self::Deckhouse => "Users and Groups of deckhouse.io",
            Self::Dex => "Passwords of dex.coreos.com",
            Self::Passwd => "accounts of /etc/passwd with a UID of --min-uid or above",
        }
    }
}

/// Reads a source. Lines that can't be read are in [`Input::rejected`]. If the source contains neither users nor
/// groups, there is at least one rejection.
pub fn read(format: Format, source: &Source, rules: &Rules) -> Input {
    let mut input = Input::default();
    let files = [Some(&source.main), source.group.as_ref(), source.shadow.as_ref()];
    let mut file = 0;
    let [main, group, shadow] = files.map(|bytes| {
        let decoded = bytes.map(|bytes| decode::without_mark(bytes));
        let decoded = decoded.transpose().unwrap_or_else(|error| {
            input.reject(Place { file, line: 1 }, error.to_string());
            None
        });
        file += 1;
        decoded
    });
    if !input.rejected.is_empty() {
        return input;
    }
    let main = main.unwrap_or_default();
    let mut input = match format {
        Format::Csv => csv::read(main, &source.csv, rules),
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
        Format::Passwd => passwd::read(main, group, shadow, source.min_uid),
    };
    input.has_only_names = format.has_only_names();
    input.refer_to_groups();
    if !input.describes_memberships && !input.users.is_empty() {
        lose_memberships(format, &mut input);
    }
    if input.is_empty() && input.rejected.is_empty() {
        input.reject(
            Place::line(1),
            format!("contains no user and no group. This format requires {}", format.content()),
        );
    }
    input
}

/// Makes all memberships unclear: a file that does not describe them must not take them away.
fn lose_memberships(format: Format, input: &mut Input) {
    input.unclear.all = true;
    let Some(missing) = format.memberships() else { return };
    let place = input.users.iter().map(|person| person.place).min().unwrap_or_default();
    let reason = format!(
        "this file does not say who is in which group: {missing}. No existing User is removed from a Group by this import"
    );
    input.warnings.push(Rejected { place, who: String::new(), field: "groups".to_owned(), reason });
}

#[cfg(test)]
#[path = "cases_tests.rs"]
mod cases;
#[cfg(test)]
#[path = "tests.rs"]
mod tests;
