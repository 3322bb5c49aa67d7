//! Where a backup is written: a task of its own compresses and writes, so that the database is read
//! meanwhile.
//!
//! A file has its name only once it is whole and on the disk. Until then it is a hidden one beside
//! it, which goes away with the process unless that is killed.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::arguments::is_standard;
use super::ending::GRACE;
use super::error::BackupError;
use super::file::{End, Record, Writer};

/// Batches that wait to be written.
const WAITING: usize = 4;

/// A backup that is being written.
pub struct Output {
    records: mpsc::Sender<Step>,
    /// `None` once it has told its outcome.
    written: Option<JoinHandle<Result<u64, BackupError>>>,
}

enum Step {
    Record(Record),
    /// Without it nothing is kept.
    End(End),
}

impl Output {
    #[expect(
        clippy::disallowed_methods,
        reason = "its handle is waited for, unless nobody reads the pipe"
    )]
    pub fn open(path: &Path) -> Result<Self, BackupError> {
        let place = Place::of(path)?;
        let path = path.to_owned();
        let (records, steps) = mpsc::channel(WAITING);
        let written = tokio::task::spawn_blocking(move || write(place, &path, steps));
        Ok(Self {
            records,
            written: Some(written),
        })
    }

    /// # Errors
    /// Why nothing more can be written.
    pub async fn write(&mut self, record: Record) -> Result<(), BackupError> {
        self.step(Step::Record(record)).await
    }

    /// How many bytes it has become.
    pub async fn finish(mut self, end: End) -> Result<u64, BackupError> {
        self.step(Step::End(end)).await?;
        self.outcome().await
    }

    async fn step(&mut self, step: Step) -> Result<(), BackupError> {
        if self.records.send(step).await.is_ok() {
            return Ok(());
        }
        self.outcome().await?;
        Err(BackupError::TaskGone)
    }

    async fn outcome(&mut self) -> Result<u64, BackupError> {
        let written = self.written.take().ok_or(BackupError::TaskGone)?;
        written.await.map_err(|_| BackupError::TaskGone)?
    }

    /// Leaves nothing behind: when this returns, the hidden file is gone. A pipe that nobody reads is
    /// not waited for.
    pub async fn abandon(self) {
        drop(self.records);
        if let Some(written) = self.written {
            let _ = tokio::time::timeout(GRACE, written).await;
        }
    }
}

enum Place {
    Standard,
    File(NamedTempFile),
}

impl Place {
    fn of(path: &Path) -> Result<Self, BackupError> {
        if is_standard(path) {
            return Ok(Self::Standard);
        }
        if path.exists() {
            return Err(BackupError::Exists(path.to_owned()));
        }
        let folder = folder_of(path);
        // Readable by its owner alone: it has addresses and hashes of passwords in it.
        let file = tempfile::Builder::new()
            .prefix(".microblog-")
            .suffix(".partial")
            .tempfile_in(folder)
            .map_err(|error| BackupError::Write(path.to_owned(), error))?;
        Ok(Self::File(file))
    }
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

fn write(place: Place, path: &Path, mut steps: mpsc::Receiver<Step>) -> Result<u64, BackupError> {
    let failed = |error: io::Error| BackupError::Write(path.to_owned(), error);
    match place {
        Place::Standard => {
            let out = BufWriter::new(io::stdout().lock());
            let (_, bytes) = records(out, path, &mut steps)?.ok_or(BackupError::Interrupted)?;
            Ok(bytes)
        }
        Place::File(file) => {
            let out = BufWriter::new(file);
            let (out, bytes) = records(out, path, &mut steps)?.ok_or(BackupError::Interrupted)?;
            let file = out
                .into_inner()
                .map_err(|error| failed(error.into_error()))?;
            file.as_file().sync_all().map_err(failed)?;
            file.persist_noclobber(path).map_err(|error| {
                if error.error.kind() == io::ErrorKind::AlreadyExists {
                    BackupError::Exists(path.to_owned())
                } else {
                    failed(error.error)
                }
            })?;
            // The name too must outlive a power failure.
            File::open(folder_of(path))
                .and_then(|folder| folder.sync_all())
                .map_err(failed)?;
            Ok(bytes)
        }
    }
}

/// Writes until the end; `None` if there is none.
fn records<W: Write>(
    out: W,
    path: &Path,
    steps: &mut mpsc::Receiver<Step>,
) -> Result<Option<(W, u64)>, BackupError> {
    let failed = |error| BackupError::File(path.to_owned(), error);
    let mut writer =
        Writer::new(out).map_err(|error| BackupError::Write(path.to_owned(), error))?;
    while let Some(step) = steps.blocking_recv() {
        match step {
            Step::Record(record) => writer.write(&record).map_err(failed)?,
            Step::End(end) => return writer.finish(end).map(Some).map_err(failed),
        }
    }
    Ok(None)
}
