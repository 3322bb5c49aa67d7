//! Why a backup or a restore ends early.

use std::io;
use std::path::PathBuf;

use shared::connections::log_identity::IdentityError;

use super::file::FileError;
use crate::app::ports::StoreError;

/// Why a backup or a restore ended early. A backup leaves nothing behind then; a restore leaves a
/// database that says that it is not whole.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{} is there already", .0.display())]
    Exists(PathBuf),
    #[error("write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
    #[error("read {}", .0.display())]
    Open(PathBuf, #[source] io::Error),
    #[error("{}", .0.display())]
    File(PathBuf, #[source] FileError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the database")]
    Database(#[from] mongodb::error::Error),
    #[error(
        "the database no longer knows what happened while it was copied: its oplog must reach back further than a backup takes"
    )]
    HistoryLost(#[source] mongodb::error::Error),
    #[error("{collection} was changed in a way that cannot be copied ({operation}): try again")]
    UnknownChange {
        collection: String,
        operation: String,
    },
    #[error(
        "the log has no event, so this would be a backup of nothing: is it the right database, and is it all there? --empty, if it is to be empty"
    )]
    EmptyLog,
    #[error(
        "{} has no event, so nothing would be restored: take an earlier backup; --empty, if it is to be empty", .0.display()
    )]
    EmptyBackup(PathBuf),
    #[error("the database became another log while it was copied: try again")]
    OtherLog,
    #[error("the change stream of the database ended")]
    ChangesEnded,
    #[error(
        "the database {database} is not empty ({holds}): restore into an empty one, or into one of another name in MONGODB_URI"
    )]
    NotEmpty { database: String, holds: String },
    #[error("a command-service runs on the database {0}: stop all of them first")]
    InUse(String),
    #[error(
        "{collection} has {found} documents where {expected} were restored: somebody else writes into the database; stop all services, and run the restore again"
    )]
    Counted {
        collection: String,
        found: u64,
        expected: u64,
    },
    #[error("another restore into this database has begun since")]
    Overtaken,
    #[error("make the indexes")]
    Indexes(#[source] StoreError),
    #[error("interrupted")]
    Interrupted,
    #[error("a task ended without a word")]
    TaskGone,
}
