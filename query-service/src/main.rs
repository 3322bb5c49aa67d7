//! `query-service`: folds the event stream into views, and serves them.

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use query_service::operator::{dead_letters, rebuild, verify};
use query_service::startup::{Application, Role};
use shared::error_chain::Chain;
use shared::settings::Settings;
use shared::telemetry;
use tokio_util::sync::CancellationToken;

/// Folds the event stream into timelines and serves them. Settings come from the environment:
/// see docs/settings.md.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// What this process runs.
    #[arg(long, value_enum, default_value = "all")]
    role: RoleArgument,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Copy, ValueEnum)]
enum RoleArgument {
    /// The API and the projector.
    All,
    /// The HTTP API alone.
    Api,
    /// The fold alone.
    Projector,
}

#[derive(Subcommand)]
enum Command {
    /// Recomputes from the log what every reader should see, and compares. Exits with 1 on any
    /// difference.
    Verify(verify::Arguments),
    /// Folds new views beside the live ones, compares, and switches readers to them.
    Rebuild(rebuild::Arguments),
    /// Messages that the fold could not understand.
    DeadLetters(dead_letters::Arguments),
}

/// Bad settings or arguments: EX_USAGE of sysexits.h.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    shared::crypto::install_provider();
    let system = actix_web::rt::System::new();
    let code = system.block_on(run());
    // What is left of the drivers ends with the process. Taken down task by task, one complains
    // that another is gone.
    std::mem::forget(system);
    code
}

async fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nobody is left to be told if this cannot be printed.
            let _ = error.print();
            let is_fault = error.use_stderr();
            return ExitCode::from(if is_fault { USAGE } else { 0 });
        }
    };
    let settings = match Settings::from_env().await {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(USAGE);
        }
    };
    telemetry::init_logs(settings.log_format, &settings.log_filter);
    let stop = shared::tasks::stop_on_signals();
    let outcome = match arguments.command {
        None => serve(settings, arguments.role, stop).await,
        Some(Command::Verify(arguments)) => return verify::main(&settings, &arguments).await,
        Some(Command::DeadLetters(arguments)) => {
            return dead_letters::main(&settings, &arguments, stop).await;
        }
        Some(Command::Rebuild(arguments)) => {
            return rebuild::main(&settings, &arguments, stop).await;
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("query-service: {}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn serve(
    settings: Settings,
    role: RoleArgument,
    stop: CancellationToken,
) -> Result<(), query_service::startup::StartupError> {
    telemetry::init_metrics();
    let role = match role {
        RoleArgument::All => Role::All,
        RoleArgument::Api => Role::Api,
        RoleArgument::Projector => Role::Projector,
    };
    Application::build(settings, role)?.run_until(stop).await
}
