use proptest::prelude::*;
use rstest::rstest;

use super::*;

const PASSWORD: &str = "correct horse battery staple";

/// Hashes of [`PASSWORD`], created by argon2-cffi 23, bcrypt 4.0 and passlib 1.7 unless noted otherwise.
const FOREIGN: &[(&str, Algorithm)] = &[
    (
        "$argon2id$v=19$m=65536,t=3,p=4$g6i79i7GD79Y/o0U8bpRCg$IIVtAguGCWylNR/2SA3uetNF/dYFvaUic4GQHsjLEvM",
        Algorithm::Argon2id,
    ),
    (
        "$argon2id$v=19$m=19456,t=2,p=1$L+E5AvBzOhWMe7M5vptaqg$atlZ/9mK6tL4/9ZXi4FlPz9EeT9N3M1eZaFh5yL/bcc",
        Algorithm::Argon2id,
    ),
    ("$2b$10$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW", Algorithm::Bcrypt),
    ("$bcrypt-sha256$2b,10$Crp.JRmPaTvHiaNv0vwaMO$LZQDYQSZ7cIMLvGDEjcBhbWqyE9kCqO", Algorithm::BcryptSha256),
    ("$bcrypt-sha256$2a,10$Crp.JRmPaTvHiaNv0vwaMO$LZQDYQSZ7cIMLvGDEjcBhbWqyE9kCqO", Algorithm::BcryptSha256),
    ("$bcrypt-sha256$v=2,t=2b,r=10$Crp.JRmPaTvHiaNv0vwaMO$JKkWh6lND5bGxGu8QKv19NcVd/ZH3FS", Algorithm::BcryptSha256),
    ("$scrypt$ln=14,r=8,p=1$xbh3TikF4Px/L6WU8j7nvA$KFDvUvSPqftXKUXp6lgtNNEJmBiK3xn8bTCNMHHXvpE", Algorithm::Scrypt),
    (
        "$pbkdf2-sha256$29000$xfj/f08JQQgBoHQupdRaCw$cj0Q5bg3unw2HJicqx5XI2Gd2VrQES7XqsZ2WSdqVWA",
        Algorithm::Pbkdf2Sha256,
    ),
    (
        "$pbkdf2-sha512$25000$UCoFQMj5v5dSSqm1dm6N0Q$O0Aij2pm3/fhwj1Ih/jwrhzeYJvm9OleYOFOXx29czWZwh57UYi/KIw89N760xYKNtUx0FkTyuEHiCPU25rXNw",
        Algorithm::Pbkdf2Sha512,
    ),
    // Python's hashlib, with Rancher's parameters.
    (
        "$pbkdf2-sha3-512$i=210000$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8$VYnncxt/yMhXQXrrLwhCPWO30mvBdtSvPRe9f/kE5yE",
        Algorithm::Pbkdf2Sha3,
    ),
    // Version 16 of Argon2. The reference implementation assumes it if the hash names none.
    (
        "$argon2id$v=16$m=19456,t=2,p=1$MDEyMzQ1Njc4OWFiY2RlZg$/4B9IQLNXUwqaY0TRpcIkX0VsyAGGSQr5jo467LMJc0",
        Algorithm::Argon2id,
    ),
    (
        "$argon2id$m=19456,t=2,p=1$MDEyMzQ1Njc4OWFiY2RlZg$/4B9IQLNXUwqaY0TRpcIkX0VsyAGGSQr5jo467LMJc0",
        Algorithm::Argon2id,
    ),
];

#[test]
fn hashes_of_other_implementations_verify() {
    let mut memory = Memory::default();
    for (text, algorithm) in FOREIGN {
        let hash = PasswordHash::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(hash.algorithm(), *algorithm);
        assert!(hash.verify(PASSWORD, &mut memory), "{text}");
        assert!(!hash.verify("correct horse battery stapler", &mut memory), "{text}");
    }
}

#[test]
fn hashes_of_an_old_argon2_version_are_outdated() {
    let outdated = FOREIGN.iter().filter(|(text, algorithm)| {
        *algorithm == Algorithm::Argon2id && PasswordHash::parse(text).unwrap().is_outdated(Argon2idCost::default())
    });
    let old: Vec<&str> = outdated.map(|(text, _)| *text).collect();
    assert_eq!(old.len(), 2, "{old:?}");
    assert!(old.iter().all(|text| !text.contains("v=19")), "{old:?}");
}

#[test]
fn pbkdf2_hashes_in_phc_notation_verify() {
    let text = "$pbkdf2-sha256$i=29000,l=32$xfj/f08JQQgBoHQupdRaCw$cj0Q5bg3unw2HJicqx5XI2Gd2VrQES7XqsZ2WSdqVWA";
    assert!(PasswordHash::parse(text).unwrap().verify(PASSWORD, &mut Memory::default()));
}

#[test]
fn each_hash_has_its_own_salt() {
    let mut memory = Memory::default();
    let first = PasswordHash::create(PASSWORD, Argon2idCost::default(), &mut memory);
    let second = PasswordHash::create(PASSWORD, Argon2idCost::default(), &mut memory);
    assert_ne!(first.expose(), second.expose());
    assert!(first.verify(PASSWORD, &mut memory) && second.verify(PASSWORD, &mut memory));
    assert_eq!(PasswordHash::parse(first.expose()), Ok(first));
}

#[rstest]
#[case("hunter2", HashError::NotAHash)]
#[case("", HashError::NotAHash)]
#[case("$1$salt$qJH7.N4xYta3aEG/dfqo/0", HashError::UnsupportedAlgorithm)]
#[case("$argon2i$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b4dWRWJTmaaJObG", HashError::UnsupportedAlgorithm)]
#[case("$", HashError::NotAHash)]
#[case("$ecret", HashError::NotAHash)]
#[case("$my secret$", HashError::NotAHash)]
#[case("$$x", HashError::NotAHash)]
fn unknown_hashes_are_rejected(#[case] text: &str, #[case] error: HashError) {
    assert_eq!(PasswordHash::parse(text), Err(error));
}

#[rstest]
#[case("$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA")]
#[case("$argon2id$v=19$m=19456,t=2,p=1")]
#[case("$argon2id$v=19$m=abc,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b4dWRWJTmaaJObG")]
#[case("$argon2id$v=18$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b4dWRWJTmaaJObG")]
#[case("$argon2id$v=19$m=19456,t=2,p=1$not base64$x")]
#[case("$2b$12$tooshort")]
#[case("$2b$12$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6W!!")]
#[case("$2b$xx$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW")]
#[case("$bcrypt-sha256$v=2,t=2b,r=12$Crp.JRmPaTvHiaNv0vwaMO")]
#[case("$bcrypt-sha256$v=3,t=2b,r=12$Crp.JRmPaTvHiaNv0vwaMO$JKkWh6lND5bGxGu8QKv19NcVd/ZH3FS")]
#[case("$bcrypt-sha256$v=2,t=2b,r=12$Crp.JRmPaTvHiaNv0vwaMP$JKkWh6lND5bGxGu8QKv19NcVd/ZH3FS")]
#[case("$bcrypt-sha256$v=2,t=2b,r=+12$Crp.JRmPaTvHiaNv0vwaMO$JKkWh6lND5bGxGu8QKv19NcVd/ZH3FS")]
#[case("$bcrypt-sha256$2b,12$Crp.JRmPaTvHiaNv0vwaM$OJKkWh6lND5bGxGu8QKv19NcVd/ZH3FS")]
#[case("$scrypt$r=8,p=1$xbh3TikF4Px/L6WU8j7nvA$KFDvUvSPqftXKUXp6lgtNNEJmBiK3xn8bTCNMHHXvpE")]
#[case("$pbkdf2-sha256$l=32$xfj/f08JQQgBoHQupdRaCw$cj0Q5bg3unw2HJicqx5XI2Gd2VrQES7XqsZ2WSdqVWA")]
#[case("$pbkdf2-sha256$i=29000,l=64$xfj/f08JQQgBoHQupdRaCw$cj0Q5bg3unw2HJicqx5XI2Gd2VrQES7XqsZ2WSdqVWA")]
fn malformed_hashes_are_rejected(#[case] text: &str) {
    assert!(matches!(PasswordHash::parse(text), Err(HashError::Malformed(..))), "{:?}", PasswordHash::parse(text));
}

#[rstest]
#[case("$argon2id$v=19$m=4096,t=3,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b4dWRWJTmaaJObG")]
#[case("$argon2id$v=19$m=19456,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b4dWRWJTmaaJObG")]
#[case("$argon2id$v=19$m=17920,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b4dWRWJTmaaJObG")]
#[case("$argon2id$v=19$m=35840,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b4dWRWJTmaaJObG")]
#[case("$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$c2hvcnRoYXNoaGFz")]
#[case("$2y$05$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW")]
#[case("$bcrypt-sha256$v=2,t=2b,r=9$Crp.JRmPaTvHiaNv0vwaMO$JKkWh6lND5bGxGu8QKv19NcVd/ZH3FS")]
#[case("$scrypt$ln=10,r=8,p=1$xbh3TikF4Px/L6WU8j7nvA$KFDvUvSPqftXKUXp6lgtNNEJmBiK3xn8bTCNMHHXvpE")]
#[case("$pbkdf2-sha256$1000$xfj/f08JQQgBoHQupdRaCw$cj0Q5bg3unw2HJicqx5XI2Gd2VrQES7XqsZ2WSdqVWA")]
fn weak_hashes_are_rejected(#[case] text: &str) {
    assert!(matches!(PasswordHash::parse(text), Err(HashError::Weak(_))), "{:?}", PasswordHash::parse(text));
}

#[rstest]
#[case("$argon2id$v=19$m=1048576,t=3,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b4dWRWJTmaaJObG")]
#[case("$argon2id$v=19$m=262144,t=5,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b4dWRWJTmaaJObG")]
#[case("$scrypt$ln=18,r=8,p=2$xbh3TikF4Px/L6WU8j7nvA$KFDvUvSPqftXKUXp6lgtNNEJmBiK3xn8bTCNMHHXvpE")]
#[case("$bcrypt-sha256$v=2,t=2b,r=15$Crp.JRmPaTvHiaNv0vwaMO$JKkWh6lND5bGxGu8QKv19NcVd/ZH3FS")]
#[case("$2b$20$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW")]
#[case("$scrypt$ln=24,r=8,p=1$xbh3TikF4Px/L6WU8j7nvA$KFDvUvSPqftXKUXp6lgtNNEJmBiK3xn8bTCNMHHXvpE")]
#[case("$pbkdf2-sha256$20000000$xfj/f08JQQgBoHQupdRaCw$cj0Q5bg3unw2HJicqx5XI2Gd2VrQES7XqsZ2WSdqVWA")]
fn hashes_that_would_exhaust_the_process_are_rejected(#[case] text: &str) {
    assert!(matches!(PasswordHash::parse(text), Err(HashError::TooCostly(_))), "{:?}", PasswordHash::parse(text));
}

#[test]
fn hashes_are_not_revealed() {
    let hash = PasswordHash::parse(FOREIGN[2].0).unwrap();
    assert_eq!(format!("{hash:?}"), "PasswordHash(Bcrypt, [redacted])");
    let error = PasswordHash::parse("$2b$12$hunter2").unwrap_err();
    assert!(!error.to_string().contains("hunter2"));
}

#[rstest]
#[case(19_455, 2, 1)]
#[case(19_456, 1, 1)]
#[case(1_000_000, 2, 1)]
fn the_cost_can_only_be_raised_and_not_above_the_ceiling(
    #[case] memory: u32,
    #[case] iterations: u32,
    #[case] parallelism: u32,
) {
    assert!(Argon2idCost::new(memory, iterations, parallelism).is_err());
    assert!(Argon2idCost::new(65_536, 3, 4).is_ok());
}

const LEGACY: &str = "$argon2id$v=19$m=262144,t=4,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b4dWRWJTmaaJObG";

#[rstest]
#[case(LEGACY)]
#[case("$argon2id$v=19$m=65537,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b4dWRWJTmaaJObG")]
#[case("$argon2id$v=19$m=32768,t=17,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b4dWRWJTmaaJObG")]
#[case("$scrypt$ln=17,r=8,p=1$xbh3TikF4Px/L6WU8j7nvA$KFDvUvSPqftXKUXp6lgtNNEJmBiK3xn8bTCNMHHXvpE")]
#[case("$scrypt$ln=16,r=8,p=3$xbh3TikF4Px/L6WU8j7nvA$KFDvUvSPqftXKUXp6lgtNNEJmBiK3xn8bTCNMHHXvpE")]
fn stored_hashes_above_the_import_ceiling_are_kept_until_the_next_login(#[case] text: &str) {
    let cost = Argon2idCost::default();
    let stored = PasswordHash::parse(text).unwrap();
    assert!(stored.is_outdated(cost), "the next login replaces it");
    assert!(stored.memory_kib() <= Ceiling::STORED.memory_kib);
    let error = PasswordHash::parse_within(text, cost.ceiling()).unwrap_err();
    assert!(matches!(&error, HashError::TooCostly(why) if why.contains("64 MiB")), "{error}");
}

#[test]
fn defaults_of_common_libraries_are_imported() {
    let ceiling = Argon2idCost::default().ceiling();
    for (text, _) in FOREIGN {
        assert!(PasswordHash::parse_within(text, ceiling).is_ok(), "{text}");
    }
    // PHP's password_hash, Keystone's scrypt.
    let php = "$argon2id$v=19$m=65536,t=4,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b4dWRWJTmaaJObG";
    let keystone = "$scrypt$ln=16,r=8,p=1$xbh3TikF4Px/L6WU8j7nvA$KFDvUvSPqftXKUXp6lgtNNEJmBiK3xn8bTCNMHHXvpE";
    for text in [php, keystone] {
        assert_eq!(PasswordHash::parse_within(text, ceiling).unwrap().memory_kib(), 65_536);
    }
    let django = "$scrypt$ln=14,r=8,p=5$xbh3TikF4Px/L6WU8j7nvA$KFDvUvSPqftXKUXp6lgtNNEJmBiK3xn8bTCNMHHXvpE";
    assert_eq!(PasswordHash::parse_within(django, ceiling).unwrap().memory_kib(), 16_384);
}

#[test]
fn a_higher_configured_cost_raises_the_import_ceiling() {
    let cost = Argon2idCost::new(262_144, 4, 1).unwrap();
    let hash = PasswordHash::parse_within(LEGACY, cost.ceiling()).unwrap();
    assert!(!hash.is_outdated(cost));
}

const ORIGINAL: &str = "the first seventy-two bytes of this password are read by bcrypt, the rest is not: \u{e9}";

/// Returns a hash of [`ORIGINAL`] for each supported algorithm, at the lowest cost that is accepted.
fn hashes_of_original() -> Vec<PasswordHash> {
    let password = ORIGINAL.as_bytes();
    let salt = "xbh3TikF4Px/L6WU8j7nvA";
    let bytes = Salt::from_b64(salt).unwrap();
    let mut texts = vec![bcrypt::hash(password, 10).unwrap()];
    // passlib 1.7.4, both versions.
    texts.push("$bcrypt-sha256$2b,10$Crp.JRmPaTvHiaNv0vwaMO$AoP6jWclqYIKJOSC8qZ10U7P.LglZ2i".to_owned());
    texts.push("$bcrypt-sha256$v=2,t=2b,r=10$Crp.JRmPaTvHiaNv0vwaMO$Q7C8NhNvRdYEugRmO2YYW8atzy94NBy".to_owned());
    let phc = |prefix: &str, output: [u8; 32]| format!("${prefix}${salt}${}", Output::new(&output).unwrap());
    let mut output = [0; 32];
    scrypt::scrypt(password, bytes.as_ref(), &scrypt::Params::new(14, 8, 1).unwrap(), &mut output).unwrap();
    texts.push(phc("scrypt$ln=14,r=8,p=1", output));
    pbkdf2::pbkdf2_hmac::<sha2::Sha256>(password, bytes.as_ref(), 10_000, &mut output);
    texts.push(phc("pbkdf2-sha256$i=10000", output));
    pbkdf2::pbkdf2_hmac::<sha2::Sha512>(password, bytes.as_ref(), 10_000, &mut output);
    texts.push(phc("pbkdf2-sha512$i=10000", output));
    pbkdf2::pbkdf2::<pbkdf2::hmac::SimpleHmac<sha3::Sha3_512>>(password, bytes.as_ref(), 10_000, &mut output).unwrap();
    texts.push(phc("pbkdf2-sha3-512$i=10000", output));
    let mut hashes: Vec<_> = texts.iter().map(|text| PasswordHash::parse(text).expect(text)).collect();
    hashes.push(PasswordHash::create(ORIGINAL, Argon2idCost::default(), &mut Memory::default()));
    hashes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    /// A login stores a new hash only if [`PasswordHash::covers`] says that the match proves the password.
    #[test]
    fn case_b1_no_other_password_is_proven_by_a_match(end in 0..ORIGINAL.len(), rest in "[ -~é]{0,12}") {
        let end = ORIGINAL.floor_char_boundary(end);
        let other = format!("{}{rest}", &ORIGINAL[..end]);
        prop_assume!(other != ORIGINAL);
        let mut memory = Memory::default();
        for hash in hashes_of_original() {
            prop_assert!(hash.verify(ORIGINAL, &mut memory), "{hash:?}");
            prop_assert!(!hash.verify(&other, &mut memory) || !hash.covers(&other), "{hash:?}: {other}");
        }
    }
}

/// bcrypt-sha256 hashes, as passlib 1.7.4 and Keystone create them, of a password that bcrypt alone would not read in
/// full.
#[rstest]
#[case(&hashes_of_original()[1])]
#[case(&hashes_of_original()[2])]
fn case_a10_bcrypt_sha256_reads_the_whole_password_and_is_replaced_at_login(#[case] hash: &PasswordHash) {
    let mut memory = Memory::default();
    assert_eq!(hash.algorithm(), Algorithm::BcryptSha256);
    assert!(hash.verify(ORIGINAL, &mut memory) && hash.covers(ORIGINAL));
    assert!(!hash.verify(&ORIGINAL[..72], &mut memory) && !hash.verify(&format!("{ORIGINAL}x"), &mut memory));
    assert!(hash.is_outdated(Argon2idCost::default()));
    assert_eq!(PasswordHash::parse_within(hash.expose(), Argon2idCost::default().ceiling()).as_ref(), Ok(hash));
}

#[rstest]
#[case(71, true)]
#[case(72, false)]
#[case(100, false)]
fn bcrypt_covers_passwords_below_72_bytes(#[case] length: usize, #[case] covers: bool) {
    let password = "x".repeat(length);
    let hash = PasswordHash::parse(&bcrypt::hash(&password, 10).unwrap()).unwrap();
    assert!(hash.verify(&password, &mut Memory::default()));
    assert_eq!(hash.covers(&password), covers);
    let longer = format!("{password}x");
    assert_eq!(hash.verify(&longer, &mut Memory::default()), !covers, "{longer}");
}

#[rstest]
#[case("cafe\u{301}", "caf\u{e9}")]
#[case("one\u{a0}two\u{3000}three", "one two three")]
fn case_b2_either_form_of_a_password_matches(#[case] one: &str, #[case] other: &str) {
    let mut memory = Memory::default();
    for (set, typed) in [(one, other), (other, one)] {
        let created = PasswordHash::create(set, Argon2idCost::default(), &mut memory);
        assert!(created.verify(typed, &mut memory) && created.verify(set, &mut memory));
        let imported = PasswordHash::parse(&bcrypt::hash(set, 10).unwrap()).unwrap();
        assert!(imported.verify(set, &mut memory), "as typed");
    }
}
