//! The store on MongoDB: the only room that knows its documents. Each file below keeps the data of
//! one of [`crate::app::ports`].
//!
//! | collection | what |
//! |---|---|
//! | `events` | the log (`shared::contract::log`) |
//! | `usernames` | who has a name; unique by `_id`, for good |
//! | `emails` | who has an address (`shared::contract::accounts`), until they leave; unique by `_id` |
//! | `credentials` | Argon2id hashes |
//! | `sessions` | one document per family of refresh tokens |
//! | `follow_counts`, `post_quotas`, `edit_quotas` | guards of limits; the log is what they guard |
//! | `jobs` | cleanups after users who left |
//!
//! The driver's futures are polled to their end, never dropped: commands run in tasks of their
//! own (`App::run`), and nothing here is wrapped in `select!` or `timeout`.

mod accounts;
mod calls;
mod cleanups;
mod errors;
mod follows;
mod indexes;
mod log;
mod quotas;
mod sessions;
mod streams;
mod views;

use std::sync::{Arc, Mutex, PoisonError};

use mongodb::{Collection, Database};
use shared::connections::log_identity::{IdentityError, LogId, OwnLog};
use shared::contract::log::LogDocument;
use shared::resilience::Breaker;
use shared::runtime::database_clock::{ClockReading, DatabaseClock};
use shared::runtime::tasks::Tasks;

use crate::app::ports::{Result, Store, StoreError};
use accounts::Accounts;
use calls::Calls;
use cleanups::CleanupJobs;
use errors::translate;
use follows::FollowCounts;
use log::Log;
use quotas::Quotas;
use sessions::Sessions;
use streams::Streams;
use views::Views;

/// MongoDB behind [`Store`].
pub struct MongoStore {
    ports: Store,
    database: Database,
    clock: Arc<DatabaseClock>,
    calls: Calls,
    /// The identity of the log that is written to, once it has one.
    log: Mutex<Option<LogId>>,
}

impl MongoStore {
    /// A store on this database; `views` is where the query service keeps its own. `clock` learns
    /// from every reading of the database's.
    pub fn new(
        database: Database,
        views: Database,
        clock: Arc<DatabaseClock>,
        tasks: Tasks,
        breaker: Arc<Breaker>,
    ) -> Self {
        let events: Collection<LogDocument> =
            database.collection(shared::contract::log::COLLECTION);
        let calls = Calls::new(breaker);
        let accounts = Accounts::new(&database, events.clone(), calls.clone());
        let follows = FollowCounts::new(&database, events.clone(), calls.clone());
        Self {
            ports: Store {
                log: Arc::new(Log::new(events.clone(), calls.clone())),
                streams: Arc::new(Streams::new(events, clock.clone(), calls.clone())),
                accounts: Arc::new(accounts),
                sessions: Arc::new(Sessions::new(&database, calls.clone())),
                quotas: Arc::new(Quotas::new(&database, calls.clone())),
                follows: Arc::new(follows),
                cleanups: Arc::new(CleanupJobs::new(&database, calls.clone())),
                projections: Arc::new(Views::new(views, tasks)),
            },
            database,
            clock,
            calls,
            log: Mutex::default(),
        }
    }

    /// The doors that the use cases know.
    pub fn ports(&self) -> &Store {
        &self.ports
    }

    /// Learns the time and makes the indexes. Nothing is appended before, nor to a log that is not
    /// whole.
    pub async fn prepare(&self) -> Result<()> {
        self.read_clock().await?;
        match OwnLog::new(&self.database).id().await {
            Ok(found) => *self.log.lock().unwrap_or_else(PoisonError::into_inner) = found,
            Err(IdentityError::Log(error)) => return Err(translate(error)),
            Err(error @ IdentityError::Stream(_)) => {
                return Err(StoreError::Unexpected(Box::new(error)));
            }
        }
        self.index().await?;
        self.calls.set_prepared();
        Ok(())
    }

    /// Whether the log may be written to: it was prepared, and is still the same as far as was looked.
    pub fn is_prepared(&self) -> bool {
        self.calls.is_prepared()
    }

    /// Looks whether the log is still the one that was prepared. Once it is not, nothing is written any
    /// more: the other may be a part of a backup, it may have no indexes, and what is remembered here is
    /// not of it.
    pub async fn look_at_log(&self) -> Result<()> {
        let own = OwnLog::new(&self.database);
        let known = *self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let same = match known {
            Some(known) => own.is_still(known).await,
            None => own.id().await.map(|found| {
                *self.log.lock().unwrap_or_else(PoisonError::into_inner) = found;
                true
            }),
        };
        match same {
            Ok(true) => (),
            Err(IdentityError::Log(error)) => return Err(translate(error)),
            Ok(false) | Err(IdentityError::Stream(_)) => self.calls.set_replaced(),
        }
        Ok(())
    }

    /// Makes the indexes.
    pub async fn index(&self) -> Result<()> {
        indexes::make(&self.database).await.map_err(translate)
    }

    /// Reads the database's clock, and so finds out whether it answers.
    pub async fn read_clock(&self) -> Result<ClockReading> {
        let reading = ClockReading::at(&self.database).await.map_err(translate)?;
        self.clock.learn(&reading);
        Ok(reading)
    }
}
