//! Certificates and keys of the components.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::pki::Authority;

/// A certificate and its key.
pub(crate) type Pair = (PathBuf, PathBuf);

/// Paths of the certificates and keys of a control plane.
pub(crate) struct Certificates {
    /// Authority of the API server, and of everybody who authenticates to it.
    pub(crate) ca: Pair,
    pub(crate) front_proxy_ca: Pair,
    pub(crate) serving: Pair,
    pub(crate) admin: Pair,
    pub(crate) controller_manager: Pair,
    pub(crate) front_proxy: Pair,
    /// Public and private key of ServiceAccount tokens.
    pub(crate) service_accounts: Pair,
}

/// Name of the API server's authority, which [`Authority::load`] takes.
pub(crate) const CA: &str = "ca";

impl Certificates {
    /// Creates them in `dir`. `addresses` are names and IP addresses of the API server besides loopback and the names of
    /// its Service.
    ///
    /// # Errors
    /// If files can't be written.
    pub(crate) fn create(dir: &Path, addresses: &[&str]) -> Result<()> {
        std::fs::create_dir_all(dir)?;
        let ca = Authority::create(dir, CA)?;
        let front_proxy_ca = Authority::create(dir, "front-proxy-ca")?;
        let key_pair = rcgen::KeyPair::generate()?;
        std::fs::write(dir.join("service-accounts.crt"), key_pair.public_key_pem())?;
        std::fs::write(dir.join("service-accounts.key"), key_pair.serialize_pem())?;
        let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        ca.server(dir, "kube-apiserver", &[&names, addresses].concat())?;
        ca.client(dir, "admin", "admin", &["system:masters"])?;
        ca.client(dir, "controller-manager", "system:kube-controller-manager", &[])?;
        front_proxy_ca.client(dir, "front-proxy", "front-proxy-client", &[])?;
        Ok(())
    }

    /// Loads what [`Certificates::create`] wrote to `dir`.
    pub(crate) fn load(dir: &Path) -> Self {
        let pair = |name: &str| (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        Self {
            ca: pair(CA),
            front_proxy_ca: pair("front-proxy-ca"),
            serving: pair("kube-apiserver"),
            admin: pair("admin"),
            controller_manager: pair("controller-manager"),
            front_proxy: pair("front-proxy"),
            service_accounts: pair("service-accounts"),
        }
    }
}
