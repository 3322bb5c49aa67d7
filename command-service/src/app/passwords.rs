//! Argon2id, off the threads that serve, a bounded number at once.

use std::sync::Arc;
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use shared::runtime::settings::Secret;
use tokio::sync::{OnceCell, Semaphore};

use super::CommandError;
use super::error::{Internal, Unavailable};
use crate::domain::text::Password;

/// A hash takes some 30 ms of one core: more waiting than this is a queue nobody gets through.
const MAX_WAITING: usize = 64;
const MAX_WAIT: Duration = Duration::from_secs(2);

/// Hashes passwords and compares guesses.
pub struct Passwords {
    at_work: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// What a guess at an unknown account is compared with.
    decoy: OnceCell<String>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self::new()
    }
}

impl Passwords {
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            at_work: Arc::new(Semaphore::new(cores)),
            waiting: Arc::new(Semaphore::new(cores + MAX_WAITING)),
            decoy: OnceCell::new(),
        }
    }

    pub async fn hash(&self, password: Password) -> Result<String, CommandError> {
        self.blocking(move || hash(&password)).await
    }

    /// Whether the guess is the password. Without a hash the work is done all the same.
    pub async fn verify(
        &self,
        guess: Password,
        hash: Option<Secret>,
    ) -> Result<bool, CommandError> {
        let known = hash.is_some();
        let hash = match hash {
            Some(hash) => hash.expose().to_owned(),
            None => self.decoy().await?.to_owned(),
        };
        let matches = self.blocking(move || verify(&guess, &hash)).await?;
        Ok(known && matches)
    }

    /// Makes the decoy ahead of the first unknown account, whose answer would be the slower for it.
    pub async fn warm_up(&self) -> Result<(), CommandError> {
        self.decoy().await.map(|_| ())
    }

    async fn decoy(&self) -> Result<&str, CommandError> {
        let make = || self.hash(Password::guess("nobody's password"));
        self.decoy.get_or_try_init(make).await.map(String::as_str)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, CommandError> + Send + 'static,
    ) -> Result<T, CommandError> {
        let place = self.waiting.clone().try_acquire_owned();
        let place = place.map_err(|_| Unavailable::Overloaded)?;
        let turn = tokio::time::timeout(MAX_WAIT, self.at_work.clone().acquire_owned());
        let turn = turn.await.map_err(|_| Unavailable::Overloaded)?;
        let turn = turn.map_err(|_| Unavailable::Overloaded)?;
        #[expect(
            clippy::disallowed_methods,
            reason = "awaited by a command, which is a task of its own"
        )]
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop((turn, place));
            result
        });
        done.await.map_err(|_| Internal::Panicked)?
    }
}

/// Argon2id with the crate's parameters, which are OWASP's: 19 MiB, two passes, one lane.
fn hash(password: &Password) -> Result<String, CommandError> {
    let hashed: Result<PasswordHash, _> =
        Argon2::default().hash_password(password.expose().as_bytes());
    let hash = hashed.map_err(|error| Internal::Hashing(Box::new(error)))?;
    Ok(hash.to_string())
}

fn verify(guess: &Password, hash: &str) -> Result<bool, CommandError> {
    let hash = PasswordHash::new(hash).map_err(|error| Internal::Hashing(Box::new(error)))?;
    let compared = Argon2::default().verify_password(guess.expose().as_bytes(), &hash);
    Ok(compared.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_password_matches_its_hash() {
        let passwords = Passwords::new();
        let hash = passwords
            .hash(Password::guess("correct horse"))
            .await
            .unwrap();
        assert!(hash.starts_with("$argon2id$"));
        let right = passwords.verify(
            Password::guess("correct horse"),
            Some(Secret::new(hash.clone())),
        );
        assert!(right.await.unwrap());
        let wrong = passwords.verify(Password::guess("correct house"), Some(Secret::new(hash)));
        assert!(!wrong.await.unwrap());
    }

    #[tokio::test]
    async fn an_unknown_account_matches_nothing_not_even_the_decoy() {
        let passwords = Passwords::new();
        let guess = Password::guess("nobody's password");
        assert!(!passwords.verify(guess, None).await.unwrap());
    }
}
