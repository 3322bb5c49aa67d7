//! Users' own e-mail addresses and sessions: asked of the account where the answer is made, kept by
//! nobody here. No event and no view holds one
//! ([decision 11](../../docs/decisions/11-addresses-stay-with-the-account.md)).

use std::sync::Arc;
use std::time::Duration;

use mongodb::Database;
use shared::contract::accounts::Addresses;
use shared::contract::ids::UserId;
use shared::contract::sessions::{OwnSession, Sessions};
use shared::runtime::error_chain::Chain;
use shared::runtime::tasks::Tasks;
use tokio::sync::Semaphore;
use tracing::debug;

/// Looks at once. It is one read by an index, or two: more wait for each other only while the log's
/// database is slow, and then nobody waits for an address.
const AT_ONCE: usize = 32;
/// A profile is worth more than the address in it.
const PATIENCE: Duration = Duration::from_millis(500);

/// Reads users' own accounts from the log's database.
#[derive(Clone)]
pub struct OwnAccounts {
    addresses: Addresses,
    sessions: Sessions,
    at_once: Arc<Semaphore>,
    tasks: Tasks,
}

impl OwnAccounts {
    /// Those in the log's database.
    pub fn new(log: &Database, tasks: &Tasks) -> Self {
        Self {
            addresses: Addresses::new(log),
            sessions: Sessions::new(log),
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
            tasks: tasks.clone(),
        }
    }

    /// The address of the user who asks for it. `None` also while the log's database does not
    /// answer: the profile is shown without it then.
    pub async fn address(&self, user: UserId) -> Option<String> {
        let asking = self.addresses.clone();
        self.ask(async move { asking.of(user).await })
            .await
            .flatten()
    }

    /// The sessions of the user who asks for them, the one used last first; `None` while the log's
    /// database does not answer.
    pub async fn sessions(&self, user: UserId) -> Option<Vec<OwnSession>> {
        let asking = self.sessions.clone();
        self.ask(async move { asking.of(user).await }).await
    }

    /// One look, or none while there are too many.
    async fn ask<T: Send + 'static>(
        &self,
        look: impl Future<Output = mongodb::error::Result<T>> + Send + 'static,
    ) -> Option<T> {
        let place = self.at_once.clone().try_acquire_owned().ok()?;
        // Runs to its end, and holds its place until then, whoever goes away: a database call
        // that is dropped half way costs the connection it runs on.
        let asked = self.tasks.ask_within(PATIENCE, async move {
            let _place = place;
            look.await
        });
        let answer = asked.await?;
        answer
            .inspect_err(|error| debug!(error = %Chain(error), "an account cannot be read"))
            .ok()
    }
}
