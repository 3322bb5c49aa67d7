//! `command-service`: accepts commands, appends events, publishes them.

use std::process::ExitCode;

use command_service::cli;
use shared::settings::Settings;
use shared::telemetry;

fn main() -> ExitCode {
    shared::crypto::install_provider();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("command-service: no threads to run on: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run());
    // What is left of the drivers ends with the process. Taken down task by task, one complains
    // that another is gone.
    std::mem::forget(runtime);
    code
}

async fn run() -> ExitCode {
    let arguments = match cli::parse() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let settings = match Settings::from_env().await {
        Ok(settings) => settings,
        Err(faults) => {
            eprintln!("{faults}");
            return cli::USAGE.into();
        }
    };
    telemetry::init_logs(settings.log_format, &settings.log_filter);
    cli::run(arguments, settings).await
}
