//! Backup and restore of the log's database, at one point of its commit order, while it is used.
//!
//! 1. Take a token *T* of the database's change stream.
//! 2. Copy every collection, in whatever order it comes, while others write. Before each, write a mark
//!    with a majority: what was committed before *T* can be read behind it.
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
//! * `progress`: how it goes; `ending`: how it ends.

mod arguments;
mod ending;
mod error;
mod file;
mod output;
mod progress;
mod restore;
mod take;

pub use arguments::{BackupArguments, RestoreArguments};
pub use error::BackupError;
pub use restore::{Target, main as restore};
pub use take::main as backup;
