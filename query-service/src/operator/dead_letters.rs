//! `query-service dead-letters`: messages that the fold could not understand.
//!
//! Each partition keeps those that it did not understand, and goes on; while builds change, one
//! may understand what another does not. They are listed by message. Replaying one out of its order would have to undo whatever
//! was folded since without it; so a replay folds everything anew, in order, in a second
//! generation (`docs/decisions/04-replay-is-a-rebuild.md`).

use std::process::ExitCode;

use shared::connections;
use shared::contract::partition::Partition;
use shared::runtime::error_chain::Chain;
use shared::runtime::settings::Settings;
use tokio_util::sync::CancellationToken;

use crate::operator::rebuild;
use crate::operator::rebuild::readable_letters::{DeadLetterError, count_readable};
use crate::views::dead_letters::{DeadLetter, MOST_LISTED};
use crate::views::generation::{Catalog, Generation};
use crate::views::writer::ViewWriter;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Prints sequence, time, subject, reason and partitions of each, oldest first.
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

/// Runs the command.
pub async fn main(settings: &Settings, arguments: &Arguments, stop: CancellationToken) -> ExitCode {
    let outcome = async {
        let views = open(settings).await?;
        match &arguments.action {
            Action::List => list(views.generation()).await.map(|()| false),
            Action::Drop { sequences, all } => drop(&views, sequences, *all).await.map(|()| false),
            Action::Replay => any_readable(settings, views.generation()).await,
        }
    };
    match outcome.await {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => rebuild::main(settings, &rebuild::Arguments::of_everything(), stop).await,
        Err(error) => {
            eprintln!("query-service dead-letters: {}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn open(settings: &Settings) -> Result<ViewWriter, DeadLetterError> {
    const POOL: u32 = 4;
    let database = connections::open_views(settings, "query-service dead-letters", POOL).await?;
    let catalog = Catalog::new(&database);
    let current = catalog.current().await?.ok_or(DeadLetterError::NoViews)?;
    Ok(ViewWriter::of(current).await?)
}

async fn list(views: &Generation) -> Result<(), DeadLetterError> {
    let letters = views.dead_letters().await?;
    for letter in &letters {
        println!(
            "{}\t{}\t{}\t{}\t{}",
            letter.seq,
            letter.at,
            letter.subject,
            letter.reason,
            partitions(letter)
        );
    }
    let more = if letters.len() == MOST_LISTED {
        ", and maybe more"
    } else {
        ""
    };
    eprintln!("{} dead letters{more}", letters.len());
    Ok(())
}

/// `partitions 0, 2-5`: who did not understand a message.
fn partitions(letter: &DeadLetter) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for Partition(next) in &letter.partitions {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *next => *last = *next,
            Some(_) | None => runs.push((*next, *next)),
        }
    }
    let runs = runs.iter().map(|(first, last)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    });
    format!("partitions {}", runs.collect::<Vec<_>>().join(", "))
}

async fn drop(views: &ViewWriter, sequences: &[u64], all: bool) -> Result<(), DeadLetterError> {
    if !all {
        let letters = views.generation().dead_letters().await?;
        let unknown = |seq: &&u64| !letters.iter().any(|letter| letter.seq == **seq);
        if let Some(unknown) = sequences.iter().find(unknown) {
            return Err(DeadLetterError::Unknown(*unknown));
        }
        views.drop_dead_letters(sequences).await?;
        println!("{} dead letters dropped", sequences.len());
        return Ok(());
    }
    let mut dropped = 0;
    loop {
        let letters = views.generation().dead_letters().await?;
        if letters.is_empty() {
            break;
        }
        let sequences: Vec<u64> = letters.iter().map(|letter| letter.seq).collect();
        views.drop_dead_letters(&sequences).await?;
        dropped += sequences.len();
    }
    println!("{dropped} dead letters dropped");
    Ok(())
}

/// Whether this build can read any of them.
async fn any_readable(settings: &Settings, views: &Generation) -> Result<bool, DeadLetterError> {
    let nats = connections::nats(&settings.nats, "query-service dead-letters").await?;
    let found = count_readable(&nats.jetstream(), &settings.names.stream(), views).await?;
    println!(
        "{} dead letters can be read by this build, {} cannot",
        found.readable, found.others
    );
    Ok(found.readable > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_told_in_runs() {
        let letter = |partitions: &[u16]| DeadLetter {
            seq: 7,
            partitions: partitions.iter().copied().map(Partition).collect(),
            subject: String::new(),
            reason: String::new(),
            at: shared::contract::time::Timestamp::from_millis(0),
        };
        for (given, told) in [
            (&[0][..], "partitions 0"),
            (&[0, 1, 2, 3], "partitions 0-3"),
            (&[0, 2, 3, 9], "partitions 0, 2-3, 9"),
        ] {
            assert_eq!(partitions(&letter(given)), told);
        }
    }
}
