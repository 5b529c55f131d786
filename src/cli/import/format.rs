//! Formats of `roster import`.

use clap::ValueEnum;

/// Formats that `--from` accepts.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum ImportFormat {
    /// A header, and one row for each person or group.
    Csv,
    /// Manifests, or objects with the fields of a User's spec: an array, a List, or one object per line.
    Json,
    /// Like JSON, in YAML.
    Yaml,
    /// Output of slapcat, ldapsearch or ldifde (RFC 2849).
    Ldif,
    /// Password file of the Apache HTTP Server.
    Htpasswd,
    /// OpenStack Keystone: its tables as JSON or from mysqldump, or responses of its API.
    Openstack,
    /// Custom resources of KubeSphere.
    Kubesphere,
    /// Custom resources and password Secrets of Rancher.
    Rancher,
    /// Realm of Keycloak, exported by kc.sh.
    Keycloak,
    /// Users, Groups and Identities of OpenShift.
    Openshift,
    /// Static Users and Groups of Deckhouse.
    Deckhouse,
    /// Passwords of Dex.
    Dex,
    /// /etc/passwd.
    Passwd,
}

impl From<ImportFormat> for roster_import::Format {
    fn from(format: ImportFormat) -> Self {
        match format {
            ImportFormat::Csv => Self::Csv,
            ImportFormat::Json => Self::Json,
            ImportFormat::Yaml => Self::Yaml,
            ImportFormat::Ldif => Self::Ldif,
            ImportFormat::Htpasswd => Self::Htpasswd,
            ImportFormat::Openstack => Self::Openstack,
            ImportFormat::Kubesphere => Self::Kubesphere,
            ImportFormat::Rancher => Self::Rancher,
            ImportFormat::Keycloak => Self::Keycloak,
            ImportFormat::Openshift => Self::Openshift,
            ImportFormat::Deckhouse => Self::Deckhouse,
            ImportFormat::Dex => Self::Dex,
            ImportFormat::Passwd => Self::Passwd,
        }
    }
}
