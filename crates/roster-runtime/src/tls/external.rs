//! External serving certificate, maintained in a Secret, for example by cert-manager.

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Contents of a Secret of type `kubernetes.io/tls`.
pub struct ExternalCertificate {
    /// The certificate and its intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// Private key of the certificate.
    pub key: PrivateKeyDer<'static>,
    /// CA bundle that clients must trust, PEM.
    pub authority: String,
    /// When the certificate expires.
    pub not_after: Timestamp,
}

impl ExternalCertificate {
    /// Reads the Secret.
    ///
    /// # Errors
    /// If something is missing or does not parse; the message names the key of the Secret, never its value.
    pub fn read(secret: &Secret) -> Result<Self> {
        let bytes = |key: &str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
            bytes.filter(|bytes| !bytes.is_empty()).with_context(|| format!("{key} is missing"))
        };
        let chain = CertificateDer::pem_slice_iter(bytes("tls.crt")?)
            .collect::<Result<Vec<_>, _>>()
            .ok()
            .context("tls.crt does not parse")?;
        let leaf = chain.first().context("tls.crt contains no certificate")?;
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok().context("tls.crt does not parse")?;
        let not_after = Timestamp::from_second(parsed.validity().not_after.timestamp())?;
        // The parser's error is dropped: it might leak part of the key into a log.
        let key = PrivateKeyDer::from_pem_slice(bytes("tls.key")?).ok().context("tls.key does not parse")?;
        let authority = std::str::from_utf8(bytes("ca.crt")?).ok().context("ca.crt is not PEM")?.trim().to_owned();
        ensure!(authority.contains("BEGIN CERTIFICATE"), "ca.crt is not PEM");
        Ok(Self { chain, key, authority, not_after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use k8s_openapi::ByteString;
    use rstest::rstest;

    fn secret() -> Secret {
        let made = rcgen::generate_simple_self_signed(["roster.roster-system.svc".to_owned()]).unwrap();
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let entries = [("tls.crt", cert.clone()), ("tls.key", key), ("ca.crt", cert)];
        let data = entries.map(|(name, value)| (name.to_owned(), ByteString(value.into_bytes())));
        Secret { data: Some(data.into()), ..Secret::default() }
    }

    #[test]
    fn secrets_of_cert_manager_are_read() {
        let external = ExternalCertificate::read(&secret()).unwrap();
        assert_eq!(external.chain.len(), 1);
        assert!(external.not_after > Timestamp::now());
    }

    #[rstest]
    #[case("tls.crt", None, "tls.crt is missing")]
    #[case("tls.crt", Some("junk"), "tls.crt contains no certificate")]
    #[case("tls.key", Some("junk"), "tls.key does not parse")]
    #[case("ca.crt", Some(""), "ca.crt is missing")]
    #[case("ca.crt", Some("junk"), "ca.crt is not PEM")]
    fn errors_name_the_invalid_part(#[case] key: &str, #[case] value: Option<&str>, #[case] message: &str) {
        let mut secret = secret();
        let data = secret.data.as_mut().unwrap();
        match value {
            Some(value) => drop(data.insert(key.to_owned(), ByteString(value.as_bytes().to_vec()))),
            None => drop(data.remove(key)),
        }
        let error = format!("{:#}", ExternalCertificate::read(&secret).err().expect("it is refused"));
        assert_eq!(error, message);
    }
}
