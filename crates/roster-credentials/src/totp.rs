//! The second factor: time-based one-time passwords (RFC 6238 with SHA-1, six digits and 30 seconds, which all apps support)
//! and recovery codes.

use std::fmt;

use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use roster_api::credentials::Enrollment;
use serde::{Deserialize, Serialize};
use totp_rs::{Builder, Secret, Totp};
use zeroize::Zeroizing;

use super::digest::{Digest, random};
use super::seal::Sealer;

/// Number of recovery codes per enrollment.
const RECOVERY_CODES: usize = 10;

/// Alphabet of recovery codes: base32 (RFC 4648).
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Length of a recovery code without hyphens: 60 bits.
const RECOVERY_CODE_LENGTH: usize = 12;

/// Secret that the authenticator app and Roster share: base32, sealed.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
struct Seed(String);

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed([sealed])")
    }
}

impl Seed {
    /// Generates 160 bits, as RFC 4226 recommends.
    fn generate(sealer: &Sealer) -> Self {
        Self(sealer.seal(&Zeroizing::new(Secret::generate().to_base32())))
    }

    /// Returns the TOTP of the seed, or `None` if the seed was sealed with another key. It also accepts codes of the
    /// periods before and after the current one, because clocks differ (RFC 6238, section 5.2).
    fn totp(&self, sealer: &Sealer) -> Option<Totp> {
        let text = sealer.open(&self.0)?;
        Builder::new().with_secret(Secret::try_from_base32(text.as_str()).ok()?).build().ok()
    }

    /// Returns the period of the code, or `None` if the code is wrong.
    fn step_of(&self, code: &str, sealer: &Sealer, now: Timestamp) -> Option<u64> {
        let seconds = u64::try_from(now.as_second()).ok()?;
        self.totp(sealer)?.check(code.trim(), seconds)
    }
}

/// A second factor and the state that prevents replays.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecondFactor {
    seed: Seed,
    /// When the first code confirmed that the app has the seed. Until then, logins do not ask for a code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<Timestamp>,
    /// Last period whose code was used. Codes of this and earlier periods are rejected.
    #[serde(default)]
    last_step: u64,
    #[serde(default)]
    recovery: Vec<Digest>,
}

impl SecondFactor {
    /// Creates an unconfirmed second factor with a new seed.
    pub fn create(sealer: &Sealer) -> Self {
        Self { seed: Seed::generate(sealer), confirmed: None, last_step: 0, recovery: Vec::new() }
    }

    /// Returns the seed for the app. `issuer` is the name that the app displays. Returns `None` if the seed was sealed with
    /// another key.
    pub fn enrollment(&self, sealer: &Sealer, issuer: &str, username: &str) -> Option<Enrollment> {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let (issuer, account, secret) = (encode(issuer), encode(username), sealer.open(&self.seed.0)?.to_string());
        let url = format!(
            "otpauth://totp/{issuer}:{account}?secret={secret}&issuer={issuer}&algorithm=SHA1&digits=6&period=30"
        );
        Some(Enrollment { secret, url })
    }

    /// Confirms the seed with a first code. Returns the recovery codes, of which only digests are stored.
    pub fn confirm(&mut self, code: &str, sealer: &Sealer, now: Timestamp) -> Option<Vec<String>> {
        self.last_step = self.seed.step_of(code, sealer, now)?;
        self.confirmed = Some(now);
        let codes: Vec<String> = (0..RECOVERY_CODES).map(|_| recovery_code()).collect();
        self.recovery = codes.iter().map(|code| Digest::of(code)).collect();
        Some(codes)
    }

    /// Returns whether a code of the app or a recovery code is valid. A valid code is invalidated.
    pub fn accept(&mut self, code: &str, sealer: &Sealer, now: Timestamp) -> bool {
        if let Some(step) = self.seed.step_of(code, sealer, now) {
            let is_unused = step > self.last_step;
            self.last_step = self.last_step.max(step);
            return is_unused;
        }
        let normalized = code.trim().to_ascii_lowercase();
        let found = self.recovery.iter().position(|digest| digest.is_of(&normalized));
        found.map(|index| self.recovery.remove(index)).is_some()
    }

    /// Returns the number of unused recovery codes.
    pub fn recovery_codes_left(&self) -> usize {
        self.recovery.len()
    }
}

fn recovery_code() -> String {
    let letters = random::<RECOVERY_CODE_LENGTH>().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
    let (first, rest) = letters.split_at(4);
    let (second, third) = rest.split_at(4);
    [first, second, third].map(String::from_iter).join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// RFC 6238, appendix B: the seed of the SHA-1 rows. The tests use the last six of the eight digits.
    fn rfc() -> SecondFactor {
        let seed = Secret::from(*b"12345678901234567890");
        SecondFactor { seed: Seed(sealer().seal(&seed.to_base32())), ..SecondFactor::create(&sealer()) }
    }

    fn sealer() -> Sealer {
        Sealer::new(&[7; 32]).unwrap()
    }

    #[rstest]
    #[case(59, "287082")]
    #[case(1_111_111_109, "081804")]
    #[case(1_111_111_111, "050471")]
    #[case(1_234_567_890, "005924")]
    #[case(2_000_000_000, "279037")]
    #[case(20_000_000_000, "353130")]
    fn codes_match_the_test_vectors_of_rfc_6238(#[case] second: i64, #[case] code: &str) {
        assert_eq!(rfc().seed.step_of(code, &sealer(), at(second)), Some(u64::try_from(second).unwrap() / 30));
        assert_eq!(rfc().seed.step_of(code, &sealer(), at(second + 300)), None);
    }

    #[test]
    fn a_code_is_valid_once_and_invalidates_older_ones() {
        let mut factor = rfc();
        // 1111111109 and 1111111111 are in adjacent periods.
        assert!(factor.accept("050471", &sealer(), at(1_111_111_111)));
        assert!(!factor.accept("050471", &sealer(), at(1_111_111_111)), "already used");
        assert!(!factor.accept("081804", &sealer(), at(1_111_111_112)), "older than the last one");
    }

    #[test]
    fn confirming_invalidates_the_code_and_creates_recovery_codes() {
        let mut factor = rfc();
        assert_eq!(factor.confirm("000000", &sealer(), at(59)), None);
        let codes = factor.confirm("287082", &sealer(), at(59)).unwrap();
        assert_eq!((codes.len(), factor.recovery_codes_left()), (10, 10));
        assert!(!factor.accept("287082", &sealer(), at(59)), "the code that confirmed the seed");
        assert!(factor.accept(&format!(" {}", codes[3].to_uppercase()), &sealer(), at(59)));
        assert!(!factor.accept(&codes[3], &sealer(), at(59)), "a recovery code is valid once");
        assert_eq!(factor.recovery_codes_left(), 9);
        let stored = serde_json::to_string(&factor).unwrap();
        assert!(codes.iter().all(|code| !stored.contains(code)));
    }

    #[test]
    fn the_url_has_the_format_of_authenticator_apps() {
        let enrollment = rfc().enrollment(&sealer(), "Roster", "jane@example.com").unwrap();
        assert_eq!(
            enrollment.url,
            "otpauth://totp/Roster:jane%40example%2Ecom?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Roster&algorithm=SHA1&digits=6&period=30"
        );
    }

    #[test]
    fn the_seed_is_not_revealed() {
        assert!(!format!("{:?}{}", rfc(), serde_json::to_string(&rfc()).unwrap()).contains("GEZDGNBV"));
    }
}
