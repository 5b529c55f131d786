//! Certificates of a control plane for one test run.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

/// A certificate authority on disk.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Path of its certificate, PEM.
    pub cert: PathBuf,
    /// Path of its key, PEM.
    pub key: PathBuf,
}

impl Authority {
    /// Creates an authority and writes it to `dir` as `<name>.crt` and `<name>.key`.
    ///
    /// # Errors
    /// If the files can't be written.
    pub fn create(dir: &Path, name: &str) -> Result<Self> {
        let key_pair = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        let now = std::time::SystemTime::now();
        params.not_before = (now - Duration::from_secs(3600)).into();
        params.not_after = (now + Duration::from_secs(365 * 24 * 3600)).into();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let (cert, key) = write(dir, name, &params.self_signed(&key_pair)?.pem(), &key_pair)?;
        Ok(Self { issuer: Issuer::new(params, key_pair), cert, key })
    }

    /// Loads the authority from `<name>.crt` and `<name>.key` in `dir`.
    ///
    /// # Errors
    /// If they can't be read.
    pub fn load(dir: &Path, name: &str) -> Result<Self> {
        let (cert, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        let key_pair = KeyPair::from_pem(&std::fs::read_to_string(&key)?)?;
        let issuer = Issuer::from_ca_cert_pem(&std::fs::read_to_string(&cert)?, key_pair)?;
        Ok(Self { issuer, cert, key })
    }

    /// Issues a client certificate with this common name (the username) and these organizations (the groups).
    ///
    /// # Errors
    /// If the files can't be written.
    pub fn client(
        &self,
        dir: &Path,
        file: &str,
        common_name: &str,
        organizations: &[&str],
    ) -> Result<(PathBuf, PathBuf)> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        for organization in organizations {
            params.distinguished_name.push(DnType::OrganizationName, *organization);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(dir, file, &params)
    }

    /// Issues a serving certificate for loopback and these names.
    ///
    /// # Errors
    /// If the files can't be written.
    pub fn server(&self, dir: &Path, file: &str, names: &[&str]) -> Result<(PathBuf, PathBuf)> {
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, file);
        params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(dir, file, &params)
    }

    fn issue(&self, dir: &Path, file: &str, params: &CertificateParams) -> Result<(PathBuf, PathBuf)> {
        let key = KeyPair::generate()?;
        write(dir, file, &params.signed_by(&key, &self.issuer)?.pem(), &key)
    }
}

fn write(dir: &Path, name: &str, cert_pem: &str, key_pair: &KeyPair) -> Result<(PathBuf, PathBuf)> {
    let (cert, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    std::fs::write(&cert, cert_pem)?;
    std::fs::write(&key, key_pair.serialize_pem())?;
    Ok((cert, key))
}
