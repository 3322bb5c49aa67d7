//! `command-service`: accepts commands, appends events, publishes them.

use std::process::ExitCode;

use command_service::cli;

fn main() -> ExitCode {
    shared::runtime::crypto::install_provider();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("command-service: no threads to run on: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run());
    shared::process::end();
    // What is left of the drivers ends with the process. Taken down task by task, one complains
    // that another is gone.
    std::mem::forget(runtime);
    code
}

async fn run() -> ExitCode {
    match shared::process::arguments() {
        Ok(arguments) => cli::run(arguments).await,
        Err(code) => code,
    }
}
