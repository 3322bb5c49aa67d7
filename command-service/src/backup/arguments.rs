//! What the commands are asked for.

use std::path::PathBuf;

#[derive(Clone, Debug, clap::Args)]
pub struct BackupArguments {
    /// The file to be written, which must not be there yet, or - for standard output.
    #[arg(value_name = "FILE or -")]
    pub file: PathBuf,
    /// Also if the log has no event. Without it that fails, as the log was lost then.
    #[arg(long)]
    pub empty: bool,
}

#[derive(Clone, Debug, clap::Args)]
pub struct RestoreArguments {
    /// A backup, or - for standard input.
    #[arg(value_name = "FILE or -")]
    pub file: PathBuf,
    /// Only reads the backup to its end and checks it. Asks no database.
    #[arg(long, conflicts_with_all = ["as_copy", "sign_out"])]
    pub check: bool,
    /// Gives the log an identity of its own: for a copy beside the original, as for a drill. No
    /// stream and no views of the original are then used with it, nor the other way round.
    #[arg(long)]
    pub as_copy: bool,
    /// Leaves the sessions out, so that everybody signs in again: sessions that were ended since the
    /// backup would be good again.
    #[arg(long)]
    pub sign_out: bool,
    /// Also if the backup has no event. Without it that fails, as the log was lost when it was taken.
    #[arg(long)]
    pub empty: bool,
}

/// The name that stands for standard input or output.
pub fn is_standard(file: &std::path::Path) -> bool {
    file.as_os_str() == "-"
}
