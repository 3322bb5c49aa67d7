//! How a command ends, and what both leave out.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use shared::runtime::error_chain::Chain;
use tokio_util::sync::CancellationToken;

use super::error::BackupError;

/// 128 + SIGINT, as shells say it.
const INTERRUPTED: u8 = 130;

/// Collections that are about processes which run, and not about the log.
pub const LEFT_OUT: [&str; 2] = ["leases", shared::contract::log::MARKS];

/// What is under way may take so long to end after a stop was asked for: a database or a pipe that
/// does not answer is not waited for.
pub const GRACE: Duration = Duration::from_secs(2);

/// Works until it is done, or was asked to stop and does not.
pub async fn until_stopped<T>(
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
pub fn ended(
    command: &str,
    outcome: Result<(), BackupError>,
    stop: &CancellationToken,
) -> ExitCode {
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
