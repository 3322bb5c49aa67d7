//! Backup and restore of the log's database, at one point of its commit order, while it is used.
//!
//! 1. Take a token *T* of the database's change stream, then write a mark with a majority: what was
//!    committed before *T* can be read from here on.
//! 2. Copy every collection, in whatever order it comes, while others write.
//! 3. Write another mark. Copy from the change stream all that happened between *T* and the mark.
//!
//! The documents with these changes made to them, one after the other, are the database as it was
//! at the mark: a change that a document had already is made to it again, and the later ones follow.
//! So the events are a prefix of the commit order, who is registered has a password, and nothing
//! stands without what it was decided on. Memory is bounded by batches.
//!
//! * `arguments`: what the commands are asked for.
//! * `file`: the backup as bytes: what it begins and ends with, so that a part of one is no backup.
//! * `output`: where it is written, so that no part of one is left behind.
//! * `take`: the copy; `restore`: back into an empty database.
//! * `progress`: how it goes.

mod arguments;
mod error;
mod file;
mod output;
mod progress;
mod restore;
mod take;

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use shared::runtime::error_chain::Chain;
use tokio_util::sync::CancellationToken;

pub use arguments::{BackupArguments, RestoreArguments};
pub use error::BackupError;
pub use restore::{Target, main as restore};
pub use take::main as backup;

/// 128 + SIGINT, as shells say it.
const INTERRUPTED: u8 = 130;

/// Collections that are about processes which run, and not about the log.
const LEFT_OUT: [&str; 2] = ["leases", shared::contract::log::MARKS];

/// What is under way may take so long to end after a stop was asked for: a database or a pipe that
/// does not answer is not waited for.
const GRACE: Duration = Duration::from_secs(2);

/// Works until it is done, or was asked to stop and does not.
async fn until_stopped<T>(
    stop: &CancellationToken,
    work: impl Future<Output = Result<T, BackupError>>,
) -> Result<T, BackupError> {
    let stopped = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        biased;
        outcome = work => outcome,
        () = stopped => Err(BackupError::Interrupted),
    }
}

/// What the exit code is after the outcome was told.
fn ended(command: &str, outcome: Result<(), BackupError>, stop: &CancellationToken) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(BackupError::Interrupted) => {
            eprintln!("command-service: {command}: interrupted");
            INTERRUPTED.into()
        }
        // Whatever failed last after a stop was asked for, the stop is why.
        Err(error) => {
            eprintln!("command-service: {command}: {}", Chain(&error));
            if stop.is_cancelled() {
                return INTERRUPTED.into();
            }
            ExitCode::FAILURE
        }
    }
}
