//! Who is at the other end of a connection.
//!
//! A client certificate is asked for and not required, and any chain is let through the handshake, which proves no more
//! than that the client has its key. Whether the chain counts for anything is decided for each request: the authorities
//! that count change while connections last, and a wrong certificate is to be answered, not cut off.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

/// Longest certificate chain, in bytes. It is kept as long as the connection, and anybody can show one.
const MAX_CHAIN_BYTES: usize = 16 * 1024;

/// The other end of a connection, an extension of each request on it.
#[derive(Debug)]
pub struct Peer {
    /// Its address.
    pub remote: SocketAddr,
    /// The certificates that it has shown, its own first. It has the key of that one; nothing else is proven.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// Takes whatever certificate a client has the key of.
#[derive(Debug)]
pub struct AnyClientCertificate(Arc<CryptoProvider>);

impl AnyClientCertificate {
    /// By way of the process's TLS provider.
    ///
    /// # Errors
    /// If none is installed.
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
