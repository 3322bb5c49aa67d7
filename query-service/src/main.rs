//! `query-service`: folds the event stream into views, and serves them.

use std::process::ExitCode;

use query_service::cli;

fn main() -> ExitCode {
    shared::runtime::crypto::install_provider();
    let system = actix_web::rt::System::new();
    let code = system.block_on(run());
    shared::process::end();
    // What is left of the drivers ends with the process. Taken down task by task, one complains
    // that another is gone.
    std::mem::forget(system);
    code
}

async fn run() -> ExitCode {
    match shared::process::arguments() {
        Ok(arguments) => cli::run(arguments).await,
        Err(code) => code,
    }
}
