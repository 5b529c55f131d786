//! A plain argon2id loop: the upper limit for the rate of logins.

use std::time::Instant;

use roster_credentials::hash::{Argon2idCost, Memory, PasswordHash};

/// Returns the argon2id hashes per second of a loop on every core, with reused memory.
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
    let hashes = f64::from(rounds) * f64::from(u32::try_from(cores).expect("the number of cores fits into 32 bits"));
    hashes / start.elapsed().as_secs_f64()
}

/// Returns the hash of a password, in the form in which users store it in a Secret.
pub(crate) fn hash(password: &str) -> String {
    PasswordHash::create(password, Argon2idCost::default(), &mut Memory::default()).expose().to_owned()
}
