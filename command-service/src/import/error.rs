//! Why an import ends early.

use std::io;
use std::path::PathBuf;

use crate::app::CommandError;
use crate::app::ports::StoreError;

/// Why an import ended early. What it appended stays; the next run goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("interrupted")]
    Interrupted,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Command(CommandError),
}
