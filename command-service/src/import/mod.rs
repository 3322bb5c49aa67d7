//! Bulk loading: many users, follows, posts and reactions, by the same decisions as one at a time.
//!
//! Four passes over the input, in the order in which things depend on each other: users, follows,
//! posts, likes and reposts. Each goes in batches: decide, append all, and look closer at the few
//! that were not appended. Every event has a key of its own, so that a run after a crash finds
//! what the crashed one did.
//!
//! * [`source`]: lines of files as items.
//! * `users`, `follows`, `posts`, `reactions`: one pass each.
//! * `order`: which posts are the same, and which wait for others.
//! * `report`: progress and the summary.

mod follows;
mod loader;
mod order;
mod posts;
mod reactions;
mod report;
pub mod source;
mod users;

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use shared::error_chain::Chain;
use tokio_util::sync::CancellationToken;

use crate::app::store::StoreError;
use crate::app::{App, CommandError};
use loader::Loader;
use report::Report;
use source::{Pass, Source};

pub use report::Summary;

/// Where the data comes from.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(group = clap::ArgGroup::new("input").args(["edges", "file"]).required(true).multiple(true))]
pub struct Arguments {
    /// A list of edges, `a b` on each line: user_a follows user_b. Users are registered as
    /// user_N with the address user_N@example.invalid and no password; `token` lets them in.
    #[arg(long, value_name = "FILE")]
    pub edges: Option<PathBuf>,
    /// Each edge goes both ways.
    #[arg(long, requires = "edges")]
    pub undirected: bool,
    /// Writes this many posts for every user of the input, authors taking turns.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub posts_per_user: u32,
    /// A file of JSON objects, one on each line, or - for standard input. Types: user {username,
    /// email?, password?, display_name?, bio?}, follow {follower, followee}, post {username,
    /// content, id?, reply_to?}, like and repost {username, post}; id, reply_to and post are names
    /// for posts within the input.
    pub file: Option<PathBuf>,
}

/// Why an import ended early. What it appended stays; the next run goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("interrupted")]
    Interrupted,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Command(CommandError),
}

const REFUSED: u8 = 2;
/// 128 + SIGINT, as shells say it.
const INTERRUPTED: u8 = 130;

/// The command: imports, tells how it went, and what the exit code is.
pub async fn main<P, F>(
    app: Arc<App>,
    prepare: P,
    arguments: Arguments,
    stop: CancellationToken,
) -> ExitCode
where
    P: Fn() -> F,
    F: Future<Output = Result<(), StoreError>>,
{
    let mut report = Report::on_terminal();
    let imported = import(&app, prepare, &arguments, &mut report, &stop).await;
    report.finish();
    match imported {
        Ok(summary) => {
            println!("{summary}");
            if summary.refused() > 0 {
                return REFUSED.into();
            }
            ExitCode::SUCCESS
        }
        Err(ImportError::Interrupted) => {
            println!("{}", report.summary());
            eprintln!("interrupted: run the same command again to go on");
            INTERRUPTED.into()
        }
        Err(error) => {
            eprintln!("command-service: import: {}", Chain(&error));
            eprintln!("run the same command again to go on");
            ExitCode::FAILURE
        }
    }
}

/// Imports everything, or as much as there is time for until `stop`.
pub async fn import<P, F>(
    app: &App,
    prepare: P,
    arguments: &Arguments,
    report: &mut Report,
    stop: &CancellationToken,
) -> Result<Summary, ImportError>
where
    P: Fn() -> F,
    F: Future<Output = Result<(), StoreError>>,
{
    let sources = Source::open_all(arguments)?;
    let mut loader = Loader::new(app, report, stop, arguments.posts_per_user > 0);
    loader.patiently(prepare).await?;
    load(&mut loader, &sources, arguments).await?;
    loader.look_again().await?;
    Ok(loader.summary())
}

async fn load(
    loader: &mut Loader<'_>,
    sources: &[Source],
    arguments: &Arguments,
) -> Result<(), ImportError> {
    for source in sources {
        users::load(loader, source.items(Pass::Users)?).await?;
    }
    for source in sources {
        follows::load(loader, source.items(Pass::Follows)?).await?;
    }
    for source in sources {
        posts::load(loader, source).await?;
    }
    posts::generate(loader, arguments.posts_per_user).await?;
    for source in sources {
        reactions::load(loader, source.items(Pass::Reactions)?).await?;
    }
    Ok(())
}

/// A report that says nothing, for whoever imports from within.
pub fn silent_report() -> Report {
    Report::silent()
}
