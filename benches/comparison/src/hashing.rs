//! The bare argon2 loop: the minimum cost of passwords.

use std::time::Instant;

use roster_credentials::hash::{Argon2idCost, Memory, PasswordHash};

/// Hashes of argon2id to the second, on every core, with memory reused.
pub(crate) fn bare_loop(rounds: u32) -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                let mut memory = Memory::default();
                for at in 0..rounds {
                    PasswordHash::create(&format!("password {at}"), Argon2idCost::default(), &mut memory);
                }
            });
        }
    });
    let hashes = f64::from(rounds) * f64::from(u32::try_from(cores).expect("so many cores there are not"));
    hashes / start.elapsed().as_secs_f64()
}

/// A hash of a password, as people write it into a Secret.
pub(crate) fn hash(password: &str) -> String {
    PasswordHash::create(password, Argon2idCost::default(), &mut Memory::default()).expose().to_owned()
}
