//! The commands of the binary. Results go to standard output, everything else to standard error.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use shared::contract::events::Payload;
use shared::runtime::error_chain::Chain;
use shared::runtime::settings::{OpsPort, Settings};
use shared::runtime::tasks::{Tasks, stop_on_signals};
use shared::runtime::trace::Span;
use shared::{connections, health, process};

use crate::app::ports::StoreError;
use crate::app::{CommandError, ModerationAction, TAKEN_BACK};
use crate::backup;
use crate::import;
use crate::keys::Signer;
use crate::relay::{BeyondLog, RelayError, beyond_log};
use crate::startup::{Application, Core, Role, StartupError, keep_time};

/// Accepts commands over HTTP, appends them to the event log in MongoDB, and publishes the log on
/// NATS. Settings come from the environment: see docs/settings.md.
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
    /// Asks the service beside it, at COMMAND_OPS_ADDR, whether it is ready. Exits with 0 if it is,
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
    /// Loads users, follows, posts and reactions in bulk. May be interrupted and run again: it
    /// goes on where it was, and what is there already, by its name or id, is left as it is.
    ///
    /// Exits with 0 if all is there, 2 if lines were refused, 1 if it failed, 130 if it was
    /// interrupted.
    Import(import::Arguments),
    /// Copies the log's database into a file, as it is at one moment, while the services run: the
    /// events, and all that the command service keeps beside them. Views and stream are made of it.
    ///
    /// Exits with 0 if the backup is whole, 1 if it failed, 130 if it was interrupted.
    Backup(backup::BackupArguments),
    /// Writes a backup into an empty database. All services are stopped before. One that did not
    /// finish is refused by the services, and is run again.
    ///
    /// Exits with 0 if all is there, 1 if it failed, 130 if it was interrupted.
    Restore(backup::RestoreArguments),
    /// Prints an access token for each user; with several, as `username<TAB>token`. Needs the
    /// key of the running service: JWT_PRIVATE_KEY_FILE.
    Token {
        #[arg(required = true, value_name = "USERNAME")]
        usernames: Vec<String>,
    },
    /// What operators decide on users.
    #[command(subcommand)]
    Admin(AdminCommand),
}

#[derive(Subcommand)]
enum AdminCommand {
    /// Marks a user as verified.
    Verify { username: String },
    /// Forbids a user to write.
    Suspend { username: String },
    /// Allows a suspended user to write again.
    Unsuspend { username: String },
    /// Deactivates a user's account for good, as if they had left: for who asks for it, and for who
    /// left after the backup that was restored.
    Deactivate { username: String },
    /// After a restore, as long as the stream is newer than the log: deactivates again who has left
    /// since the backup, and deletes posts again that were deleted since, as the stream has it. Safe
    /// to repeat. Needs NATS.
    RepeatDeletions,
}

/// What an import has begun at the database has this long to end.
const LAST_TASKS: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Startup(#[from] StartupError),
    #[error("prepare the database")]
    Prepare(#[source] StoreError),
    #[error(transparent)]
    Connect(#[from] connections::ConnectError),
    #[error("read the stream")]
    Stream(#[from] RelayError),
    #[error("{failed} were not repeated, and {unreadable} messages cannot be read by this build")]
    NotRepeated { failed: usize, unreadable: u64 },
    #[error("{username}")]
    Command {
        username: String,
        #[source]
        source: CommandError,
    },
}

pub async fn run(arguments: Arguments) -> ExitCode {
    let task = match arguments.command {
        Some(Command::Health) => return health::main(OpsPort::Command).await,
        Some(Command::Keys) => return health::keys(OpsPort::Command).await,
        Some(Command::Task(task)) => Some(task),
        None => None,
    };
    let settings = match process::settings("command-service").await {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let outcome = match task {
        None => serve(settings, arguments.role).await,
        Some(Task::Import(arguments)) => return import(&settings, arguments).await,
        Some(Task::Backup(arguments)) => return back_up(&settings, &arguments).await,
        Some(Task::Restore(arguments)) => return restore(&settings, &arguments).await,
        Some(Task::Token { usernames }) => tokens(&settings, &usernames).await,
        Some(Task::Admin(command)) => admin(&settings, command).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("command-service: {}", Chain(error));
    ExitCode::FAILURE
}

async fn serve(settings: Settings, role: Role) -> Result<(), CliError> {
    let application = Application::build(settings, role)?;
    Ok(application.run_until(stop_on_signals()).await?)
}

async fn import(settings: &Settings, arguments: import::Arguments) -> ExitCode {
    let tasks = Tasks::default();
    let core = match without_key(settings, &tasks).await {
        Ok(core) => core,
        Err(error) => return failed(&error),
    };
    let clock = keep_time(core.store.clone(), tasks.stop_signal());
    tasks.spawn("clock", clock);
    let prepare = || async { core.store.prepare().await };
    let code = import::main(core.app.clone(), prepare, arguments, stop_on_signals()).await;
    tasks.stop_and_join(LAST_TASKS).await;
    code
}

async fn back_up(settings: &Settings, arguments: &backup::BackupArguments) -> ExitCode {
    match without_key(settings, &Tasks::default()).await {
        Ok(core) => backup::backup(&core.log, arguments, &stop_on_signals()).await,
        Err(error) => failed(&error),
    }
}

async fn restore(settings: &Settings, arguments: &backup::RestoreArguments) -> ExitCode {
    match without_key(settings, &Tasks::default()).await {
        Ok(core) => {
            let target = backup::Target {
                database: &core.log,
                index: || async { core.store.index().await },
            };
            backup::restore(target, arguments, &stop_on_signals()).await
        }
        Err(error) => failed(&error),
    }
}

/// For commands that sign nothing: they need no key, and make none.
async fn without_key(settings: &Settings, tasks: &Tasks) -> Result<Core, StartupError> {
    Core::open(settings, Signer::unknown()?, tasks).await
}

async fn tokens(settings: &Settings, usernames: &[String]) -> Result<(), CliError> {
    // One that is made now is not the key of a service that runs.
    let signer = Signer::load(&settings.jwt_private_key_file).map_err(StartupError::from)?;
    let core = Core::open(settings, signer, &Tasks::default()).await?;
    core.store.prepare().await.map_err(CliError::Prepare)?;
    for username in usernames {
        let token = core.app.token_for(username).await;
        let token = token.map_err(|source| of(username, source))?;
        if usernames.len() == 1 {
            println!("{token}");
        } else {
            println!("{username}\t{token}");
        }
    }
    Ok(())
}

async fn admin(settings: &Settings, command: AdminCommand) -> Result<(), CliError> {
    let core = without_key(settings, &Tasks::default()).await?;
    core.store.prepare().await.map_err(CliError::Prepare)?;
    let (username, action, done) = match command {
        AdminCommand::Verify { username } => (username, ModerationAction::Verify, "verified"),
        AdminCommand::Suspend { username } => (username, ModerationAction::Suspend, "suspended"),
        AdminCommand::Unsuspend { username } => {
            (username, ModerationAction::Unsuspend, "not suspended")
        }
        AdminCommand::Deactivate { username } => {
            (username, ModerationAction::Deactivate, "deactivated")
        }
        AdminCommand::RepeatDeletions => return repeat_deletions(settings, &core).await,
    };
    let span = Span::root(match action {
        ModerationAction::Verify => "admin verify",
        ModerationAction::Suspend => "admin suspend",
        ModerationAction::Unsuspend => "admin unsuspend",
        ModerationAction::Deactivate => "admin deactivate",
    });
    let decided = span.around(core.app.moderate(&username, action)).await;
    if decided.is_err() {
        span.fails("failed");
    }
    let user = decided.map_err(|source| of(&username, source))?.value;
    println!("{} ({}) is {done}", user.username, user.id);
    Ok(())
}

async fn repeat_deletions(settings: &Settings, core: &Core) -> Result<(), CliError> {
    let nats = connections::nats(&settings.nats, "command-service admin").await?;
    let lost = beyond_log(&nats, &settings.names, &core.log, &TAKEN_BACK).await?;
    let BeyondLog { events, unreadable } = lost;
    let (mut accounts, mut posts, mut failed) = (0, 0, 0);
    for event in &events {
        match core.app.take_back_again(event).await {
            Ok(repeated) => {
                let is_post = matches!(event.payload, Payload::PostDeleted(_));
                posts += u64::from(repeated && is_post);
                accounts += u64::from(repeated && !is_post);
            }
            // One of them keeps none of the others from being repeated.
            Err(error) => {
                failed += 1;
                eprintln!("command-service: event {}: {}", event.id, Chain(&error));
            }
        }
    }
    println!(
        "of {} deactivations and deletions that the log lacks, {accounts} accounts are deactivated again and \
         {posts} posts are deleted again; the rest was about what the log does not have either",
        events.len()
    );
    if failed > 0 || unreadable > 0 {
        return Err(CliError::NotRepeated { failed, unreadable });
    }
    Ok(())
}

fn of(username: &str, source: CommandError) -> CliError {
    CliError::Command {
        username: username.to_owned(),
        source,
    }
}
