//! Bulk loading: many users, follows, posts and reactions, by the same decisions as one at a time.
//!
//! Four passes over the input, in the order in which things depend on each other: users, follows,
//! posts, likes and reposts. Each goes in batches: decide, append all, and look closer at the few
//! that were not appended. Every event has a key of its own, so that a run after a crash finds
//! what the crashed one did.
//!
//! * `arguments`: where the data comes from; [`source`]: lines of files as items.
//! * `users`, `follows`, `posts`, `reactions`: one pass each.
//! * `order`: which posts are the same, and which wait for others.
//! * `report`: progress and the summary.

mod arguments;
mod error;
mod follows;
mod loader;
mod order;
mod posts;
mod reactions;
mod report;
pub mod source;
mod users;

use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;

use shared::error_chain::Chain;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::app::ports::StoreError;
use loader::Loader;
use report::Report;
use source::{Pass, Source};

pub use arguments::Arguments;
pub use error::ImportError;
pub use report::Summary;

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
