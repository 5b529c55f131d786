//! Roster's certificate authority: pure functions over its current and previous certificates.
//!
//! Replicas share the authority through a Secret, so rotation must never let one replica serve a certificate that
//! kube-apiserver does not trust yet. The order follows from the certificates: a new authority is first published
//! beside the old one, and signs only after a twentieth of its lifetime. The old one stays trusted until it expires.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use aws_lc_rs::hmac;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use zeroize::Zeroizing;

/// One authority: a self-signed certificate and its key.
#[derive(Clone)]
pub struct Authority {
    cert_pem: String,
    key_pem: Zeroizing<String>,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// All trusted authorities, oldest first. Never empty.
#[derive(Clone)]
pub struct Authorities(Vec<Authority>);

/// A serving certificate.
pub struct Leaf {
    /// Certificate, DER.
    pub cert_der: Vec<u8>,
    /// Private key, PKCS #8 DER.
    pub key_der: Zeroizing<Vec<u8>>,
    /// When to renew it.
    pub renew_at: Timestamp,
    /// When it expires.
    pub not_after: Timestamp,
}

/// Returns how far to backdate certificates, for clients whose clocks run behind.
fn backdating(lifetime: Duration) -> Duration {
    Duration::from_secs(300).min(lifetime / 10)
}

impl Authority {
    /// Creates a new authority.
    ///
    /// # Errors
    /// If key generation fails.
    pub fn create(now: Timestamp, lifetime: Duration) -> Result<Self> {
        let key = KeyPair::generate()?;
        let (not_before, not_after) = (now - backdating(lifetime), now + lifetime);
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("roster-ca-{}", now.as_second()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.not_before = std::time::SystemTime::from(not_before).into();
        params.not_after = std::time::SystemTime::from(not_after).into();
        let cert_pem = params.self_signed(&key)?.pem();
        Self::read(cert_pem, Zeroizing::new(key.serialize_pem()))
    }

    fn read(cert_pem: String, key_pem: Zeroizing<String>) -> Result<Self> {
        let (_, pem) =
            x509_parser::pem::parse_x509_pem(cert_pem.as_bytes()).context("the CA certificate is not PEM")?;
        let validity = pem.parse_x509().context("the CA certificate does not parse")?.validity().clone();
        KeyPair::from_pem(&key_pem).context("the CA key does not parse")?;
        let (not_before, not_after) = (
            Timestamp::from_second(validity.not_before.timestamp())?,
            Timestamp::from_second(validity.not_after.timestamp())?,
        );
        Ok(Self { cert_pem, key_pem, not_before, not_after })
    }

    fn lifetime(&self) -> Duration {
        (self.not_after - self.not_before).try_into().unwrap_or_default()
    }

    fn age(&self, now: Timestamp) -> Duration {
        Duration::try_from(now.duration_since(self.not_before)).unwrap_or_default()
    }

    /// Whether a successor is due.
    fn is_successor_due(&self, now: Timestamp) -> bool {
        self.age(now) > self.lifetime() * 2 / 3
    }

    /// Whether it was published long enough ago for every client to trust it.
    fn has_propagated(&self, now: Timestamp) -> bool {
        self.age(now) > backdating(self.lifetime()) + self.lifetime() / 20
    }

    /// Issues a serving certificate that expires before the authority does.
    ///
    /// # Errors
    /// If a name is neither a DNS name nor an IP address.
    pub fn issue(&self, names: &[String], now: Timestamp, lifetime: Duration) -> Result<Leaf> {
        let issuer = Issuer::from_ca_cert_pem(&self.cert_pem, KeyPair::from_pem(&self.key_pem)?)?;
        let key = KeyPair::generate()?;
        let not_after = self.not_after.min(now + lifetime);
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, "roster");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = std::time::SystemTime::from(now - backdating(lifetime)).into();
        params.not_after = std::time::SystemTime::from(not_after).into();
        let cert = params.signed_by(&key, &issuer)?;
        let left = Duration::try_from(not_after.duration_since(now)).unwrap_or_default();
        Ok(Leaf {
            cert_der: cert.der().to_vec(),
            key_der: Zeroizing::new(key.serialize_der()),
            renew_at: now + left * 2 / 3,
            not_after,
        })
    }

    fn derive(&self, purpose: &str) -> hmac::Key {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, self.key_pem.as_bytes());
        hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&secret, purpose.as_bytes()).as_ref())
    }

    /// Returns its certificate, PEM.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }
}

impl Authorities {
    /// Creates the first authority.
    ///
    /// # Errors
    /// If key generation fails.
    pub fn create(now: Timestamp, lifetime: Duration) -> Result<Self> {
        Ok(Self(vec![Authority::create(now, lifetime)?]))
    }

    /// Parses the data of the Secret.
    ///
    /// # Errors
    /// If it has no authority, or one does not parse.
    pub fn read(data: &BTreeMap<String, ByteString>) -> Result<Self> {
        let text = |key: &str| -> Result<String> {
            let bytes = data.get(key).with_context(|| format!("the key {key} is missing"))?;
            Ok(String::from_utf8(bytes.0.clone())?)
        };
        let mut authorities = data
            .keys()
            .filter_map(|key| key.strip_suffix(".crt"))
            .map(|name| Authority::read(text(&format!("{name}.crt"))?, Zeroizing::new(text(&format!("{name}.key"))?)))
            .collect::<Result<Vec<_>>>()?;
        authorities.sort_by_key(|authority| authority.not_before);
        anyhow::ensure!(!authorities.is_empty(), "the Secret contains no certificate");
        Ok(Self(authorities))
    }

    /// Returns the data of the Secret: `ca-<time>.crt` and `.key` for each authority.
    pub fn write(&self) -> BTreeMap<String, ByteString> {
        let entries = self.0.iter().flat_map(|authority| {
            let name = format!("ca-{}", authority.not_before.as_second());
            [
                (format!("{name}.crt"), ByteString(authority.cert_pem.clone().into_bytes())),
                (format!("{name}.key"), ByteString(authority.key_pem.as_bytes().to_vec())),
            ]
        });
        entries.collect()
    }

    /// Returns the signing authority: the newest that has propagated, else the oldest valid one, else the newest.
    pub fn signer(&self, now: Timestamp) -> &Authority {
        let valid = |authority: &&Authority| authority.not_after > now;
        let propagated = self.0.iter().rev().filter(valid).find(|authority| authority.has_propagated(now));
        // If none has propagated, the oldest valid one has had the most time to.
        propagated.or_else(|| self.0.iter().find(valid)).unwrap_or_else(|| self.0.last().expect("never empty"))
    }

    /// Returns the rotated set: adds a successor if one is due and removes expired authorities. `None` if unchanged.
    ///
    /// # Errors
    /// If key generation fails.
    pub fn rotated(&self, now: Timestamp, lifetime: Duration) -> Result<Option<Self>> {
        let mut next: Vec<Authority> = self.0.iter().filter(|authority| authority.not_after > now).cloned().collect();
        if next.last().is_none_or(|newest| newest.is_successor_due(now)) {
            next.push(Authority::create(now, lifetime)?);
        } else if next.len() == self.0.len() {
            return Ok(None);
        }
        Ok(Some(Self(next)))
    }

    /// Derives keys for data that only replicas read, one from each authority, the signer's first. They live as long as
    /// the authorities and reveal nothing about their keys (HMAC-SHA-256 as a key derivation, NIST SP 800-108).
    pub fn derive(&self, purpose: &str, now: Timestamp) -> Vec<hmac::Key> {
        self.signer_first(now).map(|authority| authority.derive(purpose)).collect()
    }

    /// Derives keys that change every `period`: from each authority those of the current, previous and next period,
    /// because replicas' clocks differ. The signer's current key comes first.
    pub fn derive_periodic(&self, purpose: &str, period: Duration, now: Timestamp) -> Vec<hmac::Key> {
        let periods = |authority: &Authority| {
            let current = authority.age(now).as_secs() / period.as_secs().max(1);
            [Some(current), current.checked_sub(1), Some(current + 1)].into_iter().flatten()
        };
        let keys = |authority| periods(authority).map(|number| authority.derive(&format!("{purpose} {number}")));
        self.signer_first(now).flat_map(keys).collect()
    }

    fn signer_first(&self, now: Timestamp) -> impl Iterator<Item = &Authority> {
        let signer = self.signer(now);
        let others = self.0.iter().filter(|authority| authority.cert_pem != signer.cert_pem);
        [signer].into_iter().chain(others)
    }

    /// Returns the PEM bundle that clients must trust.
    pub fn bundle(&self) -> String {
        self.0.iter().map(Authority::cert_pem).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const YEAR: Duration = Duration::from_secs(365 * 86_400);

    fn start() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    #[test]
    fn the_secret_keeps_every_authority() {
        let first = Authorities::create(start(), YEAR).unwrap();
        let second = first.rotated(start() + YEAR * 7 / 10, YEAR).unwrap().unwrap();
        let read = Authorities::read(&second.write()).unwrap();
        assert_eq!(read.bundle(), second.bundle());
        assert_eq!(read.bundle().matches("BEGIN CERTIFICATE").count(), 2);
    }

    #[test]
    fn a_successor_is_trusted_before_it_signs_and_the_old_one_until_it_expires() {
        let first = Authorities::create(start(), YEAR).unwrap();
        let old = first.0[0].cert_pem.clone();
        assert!(first.rotated(start() + YEAR / 2, YEAR).unwrap().is_none());
        assert_eq!(first.signer(start()).cert_pem, old, "a lone authority signs from the start");

        let handover = start() + YEAR * 7 / 10;
        let both = first.rotated(handover, YEAR).unwrap().unwrap();
        assert!(both.bundle().contains(&old));
        assert_eq!(both.signer(handover).cert_pem, old, "the successor is not known everywhere yet");
        let later = handover + YEAR / 15;
        assert_ne!(both.signer(later).cert_pem, old);
        assert!(both.rotated(later, YEAR).unwrap().is_none(), "the old one stays trusted");

        let gone = both.rotated(start() + YEAR + DAY, YEAR).unwrap().unwrap();
        assert!(!gone.bundle().contains(&old));
    }

    #[test]
    fn after_a_long_pause_a_new_authority_signs_at_once() {
        let first = Authorities::create(start(), YEAR).unwrap();
        let now = start() + YEAR * 3;
        let next = first.rotated(now, YEAR).unwrap().unwrap();
        assert_eq!(next.0.len(), 1);
        assert_eq!(next.signer(now).cert_pem, next.0[0].cert_pem);
    }

    #[test]
    fn a_leaf_does_not_outlive_its_issuer() {
        let authorities = Authorities::create(start(), YEAR).unwrap();
        let now = start() + YEAR - DAY;
        let leaf = authorities.signer(now).issue(&["roster.svc".into(), "127.0.0.1".into()], now, 30 * DAY).unwrap();
        let (_, cert) = x509_parser::parse_x509_certificate(&leaf.cert_der).unwrap();
        assert_eq!(cert.validity().not_after.timestamp(), (start() + YEAR).as_second());
        assert!(leaf.renew_at < start() + YEAR);
    }

    #[test]
    fn an_invalid_authority_secret_is_an_error() {
        assert!(Authorities::read(&BTreeMap::new()).is_err());
        let mut data = Authorities::create(start(), YEAR).unwrap().write();
        let key = data.keys().find_map(|key| key.strip_suffix(".key")).unwrap().to_owned() + ".key";
        data.insert(key, ByteString(b"junk".to_vec()));
        assert!(Authorities::read(&data).is_err());
    }
}
