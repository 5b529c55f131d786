//! The remote end of a connection.
//!
//! A client certificate is requested but not required, and the handshake accepts any chain: it proves only that the
//! client has the private key. Whether the chain is trusted is decided for each request, because the trusted
//! authorities can change during a connection, and a wrong certificate should get a response, not a closed connection.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

/// Maximum size of a certificate chain, in bytes. It is kept as long as the connection, and any client can present one.
const MAX_CHAIN_BYTES: usize = 16 * 1024;

/// The remote end of a connection; an extension of each request on it.
#[derive(Debug)]
pub struct Peer {
    /// Address of the client.
    pub remote: SocketAddr,
    /// Certificates presented by the client, its own first. The handshake proves only that the client has the private
    /// key of its own certificate.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// Accepts any client certificate whose private key the client has.
#[derive(Debug)]
pub struct AnyClientCertificate(Arc<CryptoProvider>);

impl AnyClientCertificate {
    /// Uses the process's TLS provider.
    ///
    /// # Errors
    /// If no provider is installed.
    pub fn new() -> Result<Self> {
        Ok(Self(Arc::clone(CryptoProvider::get_default().context("no TLS provider is installed")?)))
    }
}

impl ClientCertVerifier for AnyClientCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let bytes = intermediates.iter().fold(certificate.len(), |sum, certificate| sum + certificate.len());
        if bytes > MAX_CHAIN_BYTES {
            return Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
