//! Password hashes: PHC strings and bcrypt hashes, with a minimum and a maximum cost.
//!
//! New hashes are argon2id (RFC 9106). bcrypt, scrypt and PBKDF2 are supported for migrations. The minimum rejects hashes
//! whose passwords can be guessed quickly. The maximum prevents a login from exhausting memory or taking minutes.

use std::fmt;

use argon2::{Argon2, Block, Version};
use phc::{Output, ParamsString, PasswordHash as Phc, Salt};

use crate::bcrypt_sha256::{self, BcryptSha256};
use crate::password;

/// Maximum cost of argon2id and scrypt hashes: memory and work, both in KiB. Work is memory times passes over it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ceiling {
    /// Memory of one verification, in KiB.
    pub memory_kib: u32,
    /// Memory times passes over it, in KiB. A core takes about a second for 1 GiB.
    pub work_kib: u64,
}

impl Ceiling {
    /// Ceiling for stored hashes and for the configured cost. Earlier versions imported hashes up to this cost.
    pub const STORED: Self = Self { memory_kib: 256 * 1024, work_kib: 1024 * 1024 };

    /// Ceiling for imported hashes: enough for the defaults of common libraries (argon2id with m=65536 and t=3 or t=4).
    const IMPORTED: Self = Self { memory_kib: 64 * 1024, work_kib: 512 * 1024 };

    fn admits(self, demand: Demand) -> bool {
        demand.memory_kib <= u64::from(self.memory_kib) && demand.work_kib <= self.work_kib
    }
}

/// Cost of one verification, in KiB.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Demand {
    memory_kib: u64,
    work_kib: u64,
}

impl Demand {
    /// Cost of bcrypt and PBKDF2, which need a few KiB regardless of their parameters.
    const SMALL: Self = Self { memory_kib: 8, work_kib: 0 };
}

/// Algorithm of a hash.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Algorithm {
    /// RFC 9106.
    Argon2id,
    /// Provos and Mazières, `$2a$`, `$2b$`, `$2y$`.
    Bcrypt,
    /// bcrypt of a SHA-256 digest, as passlib and Keystone write it: `$bcrypt-sha256$`.
    BcryptSha256,
    /// RFC 7914.
    Scrypt,
    /// RFC 8018 with HMAC-SHA-256.
    Pbkdf2Sha256,
    /// RFC 8018 with HMAC-SHA-512.
    Pbkdf2Sha512,
    /// RFC 8018 with HMAC-SHA3-512, as used by Rancher.
    Pbkdf2Sha3,
}

/// Names of the supported algorithms, for messages.
pub const SUPPORTED: &str = "argon2id, bcrypt, bcrypt-sha256, scrypt, pbkdf2-sha256, pbkdf2-sha512 or pbkdf2-sha3-512";

/// Why a string is rejected as a password hash. The messages never contain the string.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HashError {
    /// Not a hash. It may be a password under the wrong key.
    #[error(
        "is not a password hash: it must begin with its algorithm between two '$'. A plaintext password belongs under the key password"
    )]
    NotAHash,
    #[error("uses an algorithm that is not supported: use {SUPPORTED}")]
    UnsupportedAlgorithm,
    /// Name of the algorithm, and what is wrong.
    #[error("is not a well-formed {0} hash: {1}")]
    Malformed(&'static str, &'static str),
    /// The parameters are below the minimum.
    #[error("is too weak: {0}")]
    Weak(&'static str),
    /// The parameters are above the ceiling.
    #[error("is too costly to verify: {0}")]
    TooCostly(String),
}

/// Number of bytes of a password that bcrypt reads, including the NUL at its end.
const BCRYPT_BYTES: usize = 72;

/// Maximum parallelism of argon2id.
const MAX_LANES: u32 = 16;

/// A configured cost that is not allowed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CostError {
    #[error(
        "argon2id needs at least memory {} KiB, {} iterations and parallelism {}",
        .0.memory_kib, .0.iterations, .0.parallelism
    )]
    TooLow(Argon2idCost),
    #[error(
        "argon2id takes at most memory {} KiB, memory times iterations {} and parallelism {MAX_LANES}",
        .0.memory_kib, .0.work_kib
    )]
    TooHigh(Ceiling),
}

/// Cost of new argon2id hashes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Argon2idCost {
    memory_kib: u32,
    iterations: u32,
    parallelism: u32,
}

impl Default for Argon2idCost {
    fn default() -> Self {
        Self { memory_kib: 19_456, iterations: 2, parallelism: 1 }
    }
}

impl Argon2idCost {
    /// Returns a cost at or above the default, which follows the OWASP Password Storage Cheat Sheet.
    ///
    /// # Errors
    /// If a parameter is below the default or above [`Ceiling::STORED`].
    pub fn new(memory_kib: u32, iterations: u32, parallelism: u32) -> Result<Self, CostError> {
        let floor = Self::default();
        if memory_kib < floor.memory_kib || iterations < floor.iterations || parallelism < floor.parallelism {
            return Err(CostError::TooLow(floor));
        }
        let cost = Self { memory_kib, iterations, parallelism };
        if !Ceiling::STORED.admits(cost.demand()) || parallelism > MAX_LANES {
            return Err(CostError::TooHigh(Ceiling::STORED));
        }
        Ok(cost)
    }

    /// Returns the memory of one hash, in KiB.
    pub fn memory_kib(self) -> u32 {
        self.memory_kib
    }

    /// Returns the ceiling for imported hashes: a fixed one, or this cost if it is higher.
    pub fn ceiling(self) -> Ceiling {
        Ceiling {
            memory_kib: Ceiling::IMPORTED.memory_kib.max(self.memory_kib),
            work_kib: Ceiling::IMPORTED.work_kib.max(self.demand().work_kib),
        }
    }

    fn demand(self) -> Demand {
        let memory_kib = u64::from(self.memory_kib);
        Demand { memory_kib, work_kib: memory_kib * u64::from(self.iterations) }
    }

    fn params(self) -> argon2::Params {
        argon2::Params::new(self.memory_kib, self.iterations, self.parallelism, Some(32))
            .expect("the constructor checks the bounds")
    }
}

/// Working memory of argon2id. It is reused, because getting fresh pages from the kernel takes a third of the time of a
/// hash.
#[derive(Default)]
pub struct Memory(Vec<Block>);

impl Memory {
    /// Returns this many blocks of 1 KiB.
    fn blocks(&mut self, count: usize) -> &mut [Block] {
        if self.0.len() < count {
            // Free the old blocks first, because growing the vector may hold both at the same time.
            self.0 = Vec::new();
            self.0.resize(count, Block::default());
        }
        &mut self.0[..count]
    }

    /// Returns the size in KiB.
    pub fn kib(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }
}

/// A password hash whose format and cost were checked.
#[derive(Clone, Eq, PartialEq)]
pub struct PasswordHash {
    text: String,
    algorithm: Algorithm,
    demand: Demand,
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PasswordHash({:?}, [redacted])", self.algorithm)
    }
}

impl PasswordHash {
    /// Parses a hash that Roster stored: a PHC string, a bcrypt hash, or a PBKDF2 or bcrypt-sha256 hash in passlib's notation. Use
    /// [`Self::parse_within`] for hashes from elsewhere.
    ///
    /// # Errors
    /// If the string is not a hash, or the hash is unsupported, malformed, too weak or too costly.
    pub fn parse(text: &str) -> Result<Self, HashError> {
        Self::parse_within(text, Ceiling::STORED)
    }

    /// Parses a hash from elsewhere, such as a password Secret.
    ///
    /// # Errors
    /// As [`Self::parse`]. A hash above `ceiling` is too costly.
    pub fn parse_within(text: &str, ceiling: Ceiling) -> Result<Self, HashError> {
        let (identifier, _) =
            text.strip_prefix('$').and_then(|rest| rest.split_once('$')).ok_or(HashError::NotAHash)?;
        if identifier.is_empty() || !identifier.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(HashError::NotAHash);
        }
        let (algorithm, demand) = match identifier {
            "argon2id" => (Algorithm::Argon2id, check_argon2id(text, ceiling)?),
            "2a" | "2b" | "2y" => (check_bcrypt(text)?, Demand::SMALL),
            bcrypt_sha256::IDENTIFIER => (check_bcrypt_sha256(text)?, Demand::SMALL),
            "scrypt" => (Algorithm::Scrypt, check_scrypt(text, ceiling)?),
            "pbkdf2-sha256" | "pbkdf2-sha512" | "pbkdf2-sha3-512" => (check_pbkdf2(text)?, Demand::SMALL),
            _ => return Err(HashError::UnsupportedAlgorithm),
        };
        Ok(Self { text: text.to_owned(), algorithm, demand })
    }

    /// Hashes a password with argon2id and a fresh 128-bit salt, in the form of [`password::normalize`].
    pub fn create(password: &str, cost: Argon2idCost, memory: &mut Memory) -> Self {
        let demand = cost.demand();
        let params = cost.params();
        let salt = Salt::generate();
        let mut output = [0; 32];
        let blocks = params.block_count();
        let phc_params = ParamsString::try_from(&params).expect("argon2 writes its own parameters");
        Argon2::new(argon2::Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into_with_memory(
                password::normalize(password).as_bytes(),
                salt.as_ref(),
                &mut output,
                memory.blocks(blocks),
            )
            .expect("lengths are within argon2's bounds: passwords have at most 1 KiB, salt and output are fixed");
        let phc = Phc {
            algorithm: argon2::ARGON2ID_IDENT,
            version: Some(Version::V0x13.into()),
            params: phc_params,
            salt: Some(salt),
            hash: Some(Output::new(&output).expect("32 bytes is an allowed length")),
        };
        Self { text: phc.to_string(), algorithm: Algorithm::Argon2id, demand }
    }

    /// Returns whether this is the hash of `password`, normalized or as typed: other systems do not normalize, and
    /// earlier versions of Roster did not. Takes as long for a wrong password as for the right one, unless
    /// normalization changes the password.
    pub fn verify(&self, password: &str, memory: &mut Memory) -> bool {
        let normalized = password::normalize(password);
        self.matches(normalized.as_bytes(), memory)
            || (*normalized != *password && self.matches(password.as_bytes(), memory))
    }

    fn matches(&self, password: &[u8], memory: &mut Memory) -> bool {
        if self.algorithm == Algorithm::Bcrypt {
            return bcrypt::verify(password, &self.text).unwrap_or(false);
        }
        if self.algorithm == Algorithm::BcryptSha256 {
            let Some(hash) = BcryptSha256::parse(&self.text) else { return false };
            return bcrypt::verify(hash.digest(password).as_bytes(), &hash.bcrypt).unwrap_or(false);
        }
        let Ok(phc) = Phc::new(&to_phc(&self.text)) else { return false };
        let (Some(salt), Some(expected)) = (&phc.salt, &phc.hash) else { return false };
        let computed = Output::init_with(expected.len(), |output| {
            match self.algorithm {
                Algorithm::Argon2id => {
                    let params = argon2::Params::try_from(&phc).map_err(|_| phc::Error::ParamValueInvalid)?;
                    let version = argon2_version(&phc).ok_or(phc::Error::ParamValueInvalid)?;
                    let blocks = memory.blocks(params.block_count());
                    Argon2::new(argon2::Algorithm::Argon2id, version, params)
                        .hash_password_into_with_memory(password, salt.as_ref(), output, blocks)
                        .map_err(|_| phc::Error::ParamValueInvalid)?;
                }
                Algorithm::Scrypt => {
                    let params = scrypt_params(&phc).ok_or(phc::Error::ParamValueInvalid)?;
                    scrypt::scrypt(password, salt.as_ref(), &params, output)
                        .map_err(|_| phc::Error::ParamValueInvalid)?;
                }
                Algorithm::Pbkdf2Sha256 => {
                    pbkdf2::pbkdf2_hmac::<sha2::Sha256>(password, salt.as_ref(), rounds(&phc), output);
                }
                Algorithm::Pbkdf2Sha512 => {
                    pbkdf2::pbkdf2_hmac::<sha2::Sha512>(password, salt.as_ref(), rounds(&phc), output);
                }
                Algorithm::Pbkdf2Sha3 => {
                    // HMAC's optimization of a precomputed block state does not apply to sponges.
                    pbkdf2::pbkdf2::<pbkdf2::hmac::SimpleHmac<sha3::Sha3_512>>(
                        password,
                        salt.as_ref(),
                        rounds(&phc),
                        output,
                    )
                    .map_err(|_| phc::Error::ParamValueInvalid)?;
                }
                Algorithm::Bcrypt | Algorithm::BcryptSha256 => unreachable!("handled above"),
            }
            Ok(())
        });
        // `Output` compares in constant time.
        computed.is_ok_and(|computed| computed == *expected)
    }

    /// Returns whether a match proves that this hash was created from exactly `password`. bcrypt reads only 72 bytes,
    /// including the NUL at the end, so all passwords with the same first 72 bytes match the same hashes.
    pub fn covers(&self, password: &str) -> bool {
        let longest = password.len().max(password::normalize(password).len());
        self.algorithm != Algorithm::Bcrypt || longest < BCRYPT_BYTES
    }

    /// Returns the memory of one verification, in KiB. At most that of [`Ceiling::STORED`].
    pub fn memory_kib(&self) -> u32 {
        u32::try_from(self.demand.memory_kib).unwrap_or(Ceiling::STORED.memory_kib)
    }

    /// Returns whether the next login should replace the hash, because its algorithm is not the current version of
    /// argon2id, its cost is below `cost`, or its cost is so high that it would no longer be imported.
    pub fn is_outdated(&self, cost: Argon2idCost) -> bool {
        if !cost.ceiling().admits(self.demand) {
            return true;
        }
        let Some(phc) = Phc::new(&self.text).ok().filter(|_| self.algorithm == Algorithm::Argon2id) else {
            return true;
        };
        let Ok(params) = argon2::Params::try_from(&phc) else { return true };
        argon2_version(&phc) != Some(Version::V0x13)
            || params.m_cost() < cost.memory_kib
            || params.t_cost() < cost.iterations
            || params.p_cost() < cost.parallelism
    }

    /// Returns the algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the hash as a string. It is secret and may only be written to Secrets in Roster's own namespace.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

fn parse_phc(name: &'static str, text: &str) -> Result<Phc, HashError> {
    let phc = Phc::new(text).map_err(|_| HashError::Malformed(name, "it does not follow the PHC string format"))?;
    if phc.salt.is_none() {
        return Err(HashError::Malformed(name, "the salt is missing"));
    }
    match &phc.hash {
        None => Err(HashError::Malformed(name, "the hash itself is missing")),
        Some(hash) if hash.len() < 16 => Err(HashError::Weak("the hash itself has fewer than 16 bytes")),
        Some(_) => Ok(phc),
    }
}

/// Returns the version of an Argon2 hash, or `None` if it is unknown. Hashes from before version 19 do not name one: the
/// reference implementation reads them as version 16.
fn argon2_version(phc: &Phc) -> Option<Version> {
    phc.version.map_or(Some(Version::V0x10), |version| Version::try_from(version).ok())
}

fn check_argon2id(text: &str, ceiling: Ceiling) -> Result<Demand, HashError> {
    let phc = parse_phc("argon2id", text)?;
    let params = argon2::Params::try_from(&phc)
        .map_err(|_| HashError::Malformed("argon2id", "its parameters m, t and p are missing or out of range"))?;
    if argon2_version(&phc).is_none() {
        return Err(HashError::Malformed("argon2id", "its version must be 19 or 16"));
    }
    // OWASP's equivalent settings.
    let floor = match params.t_cost() {
        1 => 47_104,
        2 => 19_456,
        3 => 12_288,
        4 => 9_216,
        _ => 7_168,
    };
    if params.m_cost() < floor {
        return Err(HashError::Weak(
            "argon2id needs m=19456,t=2 or an equivalent (m=47104,t=1; m=12288,t=3; m=9216,t=4; m=7168,t=5) or above",
        ));
    }
    let memory_kib = u64::from(params.m_cost());
    let demand = Demand { memory_kib, work_kib: memory_kib * u64::from(params.t_cost()) };
    if !ceiling.admits(demand) || params.p_cost() > MAX_LANES {
        let Ceiling { memory_kib, work_kib } = ceiling;
        return Err(HashError::TooCostly(format!(
            "argon2id is accepted up to m={memory_kib} ({} MiB), m·t={work_kib} and p={MAX_LANES}",
            memory_kib / 1024
        )));
    }
    Ok(demand)
}

fn check_bcrypt(text: &str) -> Result<Algorithm, HashError> {
    let malformed = HashError::Malformed("bcrypt", "it must look like $2b$12$ and 53 more characters of its base64");
    // The crate does not check the alphabet.
    let body = text.get(7..).filter(|_| text.len() == 60 && text.as_bytes()[6] == b'$').ok_or(malformed.clone())?;
    if !body.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'/') {
        return Err(malformed);
    }
    let parts: bcrypt::HashParts = text.parse().map_err(|_| malformed)?;
    match parts.get_cost() {
        ..10 => Err(HashError::Weak("bcrypt needs a cost of 10 or above (htpasswd: -B -C 10)")),
        15.. => Err(HashError::TooCostly("bcrypt is accepted up to a cost of 14".to_owned())),
        _ => Ok(Algorithm::Bcrypt),
    }
}

fn check_bcrypt_sha256(text: &str) -> Result<Algorithm, HashError> {
    let malformed =
        HashError::Malformed(bcrypt_sha256::IDENTIFIER, "it must look like $bcrypt-sha256$v=2,t=2b,r=12$salt$checksum");
    let hash = BcryptSha256::parse(text).ok_or(malformed.clone())?;
    match check_bcrypt(&hash.bcrypt) {
        Err(HashError::Malformed(..)) => Err(malformed),
        checked => checked.map(|_| Algorithm::BcryptSha256),
    }
}

fn scrypt_params(phc: &Phc) -> Option<scrypt::Params> {
    let log_n = u8::try_from(phc.params.get_decimal("ln")?).ok()?;
    scrypt::Params::new(log_n, phc.params.get_decimal("r")?, phc.params.get_decimal("p")?).ok()
}

fn check_scrypt(text: &str, ceiling: Ceiling) -> Result<Demand, HashError> {
    let phc = parse_phc("scrypt", text)?;
    let params = scrypt_params(&phc)
        .ok_or(HashError::Malformed("scrypt", "its parameters ln, r and p are missing or out of range"))?;
    if params.log_n() < 14 || params.r() < 8 {
        return Err(HashError::Weak("scrypt needs ln=14,r=8,p=1 or above"));
    }
    // The p lanes run one after another in the same memory. Each writes and reads it once, at about half of argon2id's speed.
    let memory_kib = (u64::from(params.r()) << params.log_n()) / 8;
    let work_kib = memory_kib.saturating_mul(4 * u64::from(params.p()));
    let demand = Demand { memory_kib, work_kib };
    if !ceiling.admits(demand) {
        return Err(HashError::TooCostly(format!(
            "scrypt is accepted up to {} MiB (128 · r · 2^ln bytes), and with p up to {} MiB (128 · r · 2^ln · p bytes)",
            ceiling.memory_kib / 1024,
            ceiling.work_kib / 4096
        )));
    }
    Ok(demand)
}

/// Converts PBKDF2 hashes from passlib's notation, `$pbkdf2-sha256$29000$salt$hash` with `.` for `+` in the base64, to PHC.
fn to_phc(text: &str) -> String {
    let mut fields: Vec<String> = text.split('$').map(str::to_owned).collect();
    let is_passlib = fields.len() == 5
        && fields[1].starts_with("pbkdf2-")
        && !fields[2].is_empty()
        && fields[2].bytes().all(|byte| byte.is_ascii_digit());
    if is_passlib {
        fields[2] = format!("i={}", fields[2]);
        fields[3] = fields[3].replace('.', "+");
        fields[4] = fields[4].replace('.', "+");
    }
    fields.join("$")
}

fn rounds(phc: &Phc) -> u32 {
    phc.params.get_decimal("i").unwrap_or_default()
}

fn check_pbkdf2(text: &str) -> Result<Algorithm, HashError> {
    let phc = parse_phc("PBKDF2", &to_phc(text))?;
    let rounds = phc
        .params
        .get_decimal("i")
        .ok_or(HashError::Malformed("PBKDF2", "its parameter i, the number of iterations, is missing"))?;
    if phc.params.get_decimal("l").is_some_and(|length| Some(length as usize) != phc.hash.as_ref().map(Output::len)) {
        return Err(HashError::Malformed("PBKDF2", "its parameter l is not the length of its hash"));
    }
    match rounds {
        // NIST SP 800-132 requires at least 1,000 iterations, and SP 800-63B (revision 3) at least 10,000.
        ..10_000 => Err(HashError::Weak("PBKDF2 needs 10000 iterations or more")),
        2_000_001.. => Err(HashError::TooCostly("PBKDF2 is accepted up to 2000000 iterations".to_owned())),
        _ => Ok(match phc.algorithm.as_str() {
            "pbkdf2-sha256" => Algorithm::Pbkdf2Sha256,
            "pbkdf2-sha3-512" => Algorithm::Pbkdf2Sha3,
            _ => Algorithm::Pbkdf2Sha512,
        }),
    }
}

#[cfg(test)]
#[path = "hash_tests.rs"]
mod tests;
