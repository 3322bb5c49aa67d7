//! `command-service`: accepts commands, appends events, publishes them.

use std::process::ExitCode;

use command_service::cli;
use shared::settings::Settings;
use shared::telemetry;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match cli::parse() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let settings = match Settings::from_vars(std::env::vars_os()) {
        Ok(settings) => settings,
        Err(faults) => {
            eprintln!("{faults}");
            return cli::USAGE.into();
        }
    };
    telemetry::init_logs(settings.log_format, &settings.log_filter);
    cli::run(arguments, settings).await
}
