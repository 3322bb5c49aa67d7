//! Bulk loading: many users, follows, posts and reactions, by the same decisions as one at a time.
//!
//! Four passes over the input, in the order in which things depend on each other: users, follows,
//! posts, likes and reposts. Each goes in batches: decide, append all, and look closer at the few
//! that were not appended. Every event has a key of its own, so that a run after a crash finds
//! what the crashed one did.
//!
//! * `arguments`: where the data comes from; [`source`]: lines of files as items.
//! * `pass`: what a pass is, and how it is taken; `users`, `follows`, `posts`, `reactions`: one each.
//! * `loader`: what all passes share; `people`, `lookup`: who is who; `append`: in bulk, and one by
//!   one.
//! * `order`: which posts are the same, and which wait for others; `named_posts`, `keys`: what they
//!   are known by.
//! * `report`: progress and the summary.

mod append;
mod arguments;
mod error;
mod follows;
mod keys;
mod loader;
mod lookup;
mod named_posts;
mod order;
mod pass;
mod people;
mod posts;
mod reactions;
mod report;
pub mod source;
mod users;

use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;

use shared::runtime::error_chain::Chain;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::app::ports::StoreError;
use follows::Follows;
use loader::Loader;
use named_posts::NamedPosts;
use pass::run_pass;
use reactions::Reactions;
use report::Report;
use source::{ItemKind, Source};
use users::Users;

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
    let mut loader = Loader::new(app, report, stop);
    loader.with_retries(prepare).await?;
    load(&mut loader, &sources, arguments).await?;
    loader.reconcile_deactivated().await?;
    Ok(loader.summary())
}

async fn load(
    loader: &mut Loader<'_>,
    sources: &[Source],
    arguments: &Arguments,
) -> Result<(), ImportError> {
    let mut everybody = (arguments.posts_per_user > 0).then(Vec::new);
    for source in sources {
        let items = source.items(ItemKind::Users)?;
        let mut users = Users::new(&items, &mut everybody);
        run_pass(loader, &mut users, items).await?;
    }
    let mut follows = Follows::default();
    for source in sources {
        run_pass(loader, &mut follows, source.items(ItemKind::Follows)?).await?;
    }
    let mut named = NamedPosts::default();
    for source in sources {
        posts::load(loader, &mut named, source).await?;
    }
    if let Some(everybody) = everybody {
        posts::generate(loader, &mut named, &everybody, arguments.posts_per_user).await?;
    }
    let mut reactions = Reactions::new(&named);
    for source in sources {
        run_pass(loader, &mut reactions, source.items(ItemKind::Reactions)?).await?;
    }
    Ok(())
}
