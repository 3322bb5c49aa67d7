//! The commands of the binary. Results go to standard output, everything else to standard error.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shared::runtime::error_chain::Chain;
use shared::runtime::settings::{OpsPort, Settings};
use shared::runtime::tasks::stop_on_signals;
use shared::{health, process};
use tokio_util::sync::CancellationToken;

use crate::operator::{dead_letters, rebuild, verify};
use crate::startup::{Application, Role, StartupError};

/// Folds the event stream into timelines and serves them. Settings come from the environment:
/// see docs/settings.md.
#[derive(Parser)]
#[command(version)]
pub struct Arguments {
    /// What this process runs.
    #[arg(long, value_enum, default_value = "all")]
    role: Role,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Asks the service beside it, at QUERY_OPS_ADDR, whether it is ready. Exits with 0 if it is,
    /// 1 if not.
    Health,
    /// Asks the service beside it with which keys it signs and verifies access tokens, and prints their
    /// ids in JSON.
    Keys,
    #[command(flatten)]
    Task(Task),
}

/// What needs the settings.
#[derive(Subcommand)]
enum Task {
    /// Recomputes from the log what every reader should see, and compares. Exits with 1 on any
    /// difference.
    Verify(verify::Arguments),
    /// Folds new views beside the live ones, compares, and switches readers to them.
    Rebuild(rebuild::Arguments),
    /// Messages that the fold could not understand.
    DeadLetters(dead_letters::Arguments),
}

pub async fn run(arguments: Arguments) -> ExitCode {
    let task = match arguments.command {
        Some(Command::Health) => return health::main(OpsPort::Query).await,
        Some(Command::Keys) => return health::keys(OpsPort::Query).await,
        Some(Command::Task(task)) => Some(task),
        None => None,
    };
    let settings = match process::settings("query-service").await {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let stop = stop_on_signals();
    match task {
        Some(Task::Verify(arguments)) => verify::main(&settings, &arguments).await,
        Some(Task::DeadLetters(arguments)) => dead_letters::main(&settings, &arguments, stop).await,
        Some(Task::Rebuild(arguments)) => rebuild::main(&settings, &arguments, stop).await,
        None => match serve(settings, arguments.role, stop).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("query-service: {}", Chain(&error));
                ExitCode::FAILURE
            }
        },
    }
}

async fn serve(
    settings: Settings,
    role: Role,
    stop: CancellationToken,
) -> Result<(), StartupError> {
    Application::build(settings, role)?.run_until(stop).await
}
