//! `query-service dead-letters`: messages that the fold could not understand.
//!
//! The fold keeps them and goes on. Replaying one out of its order would have to undo whatever
//! was folded since without it; so a replay folds everything anew, in order, in a second
//! generation (`docs/decisions/04-replay-is-a-rebuild.md`).

use std::process::ExitCode;

use shared::engines;
use shared::error_chain::Chain;
use shared::event_stream;
use shared::events::Event;
use shared::settings::Settings;
use tokio_util::sync::CancellationToken;

use crate::read_model::generation::Catalog;
use crate::read_model::{ViewError, Views};
use crate::rebuild;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Prints sequence, time, subject and reason of each, oldest first.
    List,
    /// Rebuilds the views with those that this build can read; the others stay.
    Replay,
    /// Forgets dead letters; the messages stay on the stream.
    Drop {
        /// Stream sequences, as listed.
        #[arg(required_unless_present = "all")]
        sequences: Vec<u64>,
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, thiserror::Error)]
enum DeadLetterError {
    #[error(transparent)]
    Connect(#[from] engines::ConnectError),
    #[error("work on the dead letters")]
    Views(#[from] ViewError),
    #[error("there are no views yet: start a query-service")]
    NoViews,
    #[error("read the stream")]
    Nats(#[source] async_nats::Error),
    #[error("there is no dead letter {0}")]
    Unknown(u64),
}

/// Runs the command.
pub async fn main(settings: &Settings, arguments: &Arguments, stop: CancellationToken) -> ExitCode {
    let outcome = async {
        let views = open(settings).await?;
        match &arguments.action {
            Action::List => list(&views).await.map(|()| false),
            Action::Drop { sequences, all } => drop(&views, sequences, *all).await.map(|()| false),
            Action::Replay => any_readable(settings, &views).await,
        }
    };
    match outcome.await {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => rebuild::main(settings, &rebuild::Arguments::accepting(), stop).await,
        Err(error) => {
            eprintln!("query-service dead-letters: {}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn open(settings: &Settings) -> Result<Views, DeadLetterError> {
    const POOL: u32 = 4;
    let database = engines::open_views(settings, "query-service dead-letters", POOL).await?;
    let catalog = Catalog::new(&database);
    let current = catalog.current().await?.ok_or(DeadLetterError::NoViews)?;
    Ok(Views::of(current).await?)
}

async fn list(views: &Views) -> Result<(), DeadLetterError> {
    let letters = views.dead_letters().await?;
    for letter in &letters {
        println!(
            "{}\t{}\t{}\t{}",
            letter.seq, letter.at, letter.subject, letter.reason
        );
    }
    eprintln!("{} dead letters", letters.len());
    Ok(())
}

async fn drop(views: &Views, sequences: &[u64], all: bool) -> Result<(), DeadLetterError> {
    let known: Vec<u64> = views
        .dead_letters()
        .await?
        .iter()
        .filter_map(|letter| u64::try_from(letter.seq).ok())
        .collect();
    if let Some(unknown) = sequences.iter().find(|seq| !known.contains(seq)) {
        return Err(DeadLetterError::Unknown(*unknown));
    }
    let gone = if all { &known[..] } else { sequences };
    views.drop_dead_letters(gone).await?;
    println!("{} dead letters dropped", gone.len());
    Ok(())
}

/// Whether this build can read any of them.
async fn any_readable(settings: &Settings, views: &Views) -> Result<bool, DeadLetterError> {
    let nats = engines::nats(&settings.nats, "query-service dead-letters").await?;
    let stream = nats
        .jetstream()
        .get_stream(settings.names.stream())
        .await
        .map_err(|error| DeadLetterError::Nats(error.into()))?;
    let (mut readable, mut others) = (0, 0);
    for letter in views.dead_letters().await? {
        let seq = u64::try_from(letter.seq).unwrap_or(0);
        let message = stream
            .get_raw_message(seq)
            .await
            .map_err(|error| DeadLetterError::Nats(error.into()))?;
        let from_relay = event_stream::event_id_of(Some(&message.headers)).is_some();
        match Event::decode(&message.payload) {
            Ok(_) if from_relay => readable += 1,
            Ok(_) | Err(_) => others += 1,
        }
    }
    println!("{readable} dead letters can be read by this build, {others} cannot");
    Ok(readable > 0)
}
