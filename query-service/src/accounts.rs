//! Users' own e-mail addresses: asked of the account where the answer is made, kept by nobody
//! here. No event and no view holds one ([decision 11](../../docs/decisions/11-addresses-stay-with-the-account.md)).

use std::sync::Arc;
use std::time::Duration;

use mongodb::Database;
use shared::contract::accounts::Addresses;
use shared::contract::ids::UserId;
use shared::runtime::error_chain::Chain;
use shared::runtime::tasks::Tasks;
use tokio::sync::Semaphore;
use tracing::debug;

/// Looks at once. It is one read by an index: more wait for each other only while the log's
/// database is slow, and then nobody waits for an address.
const AT_ONCE: usize = 32;
/// A profile is worth more than the address in it.
const PATIENCE: Duration = Duration::from_millis(500);

/// Reads addresses from the log's database.
#[derive(Clone)]
pub struct OwnAddresses {
    addresses: Addresses,
    at_once: Arc<Semaphore>,
    tasks: Tasks,
}

impl OwnAddresses {
    /// Those of the accounts in the log's database.
    pub fn new(log: &Database, tasks: &Tasks) -> Self {
        Self {
            addresses: Addresses::new(log),
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
            tasks: tasks.clone(),
        }
    }

    /// The address of the user who asks for it. `None` also while the log's database does not
    /// answer: the profile is shown without it then.
    pub async fn of(&self, user: UserId) -> Option<String> {
        let place = self.at_once.clone().try_acquire_owned().ok()?;
        let asking = self.addresses.clone();
        // Runs to its end, and holds its place until then, whoever goes away: a database call
        // that is dropped half way costs the connection it runs on.
        let asked = self.tasks.ask_within(PATIENCE, async move {
            let _place = place;
            asking.of(user).await
        });
        let answer = asked.await?;
        answer
            .inspect_err(|error| debug!(error = %Chain(error), "an address cannot be read"))
            .ok()
            .flatten()
    }
}
