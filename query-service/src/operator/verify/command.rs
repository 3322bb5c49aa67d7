//! The command: how it reads, when it looks again, and what it prints.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use async_nats::jetstream;
use bson::doc;
use futures_util::{StreamExt, TryStreamExt, stream};
use shared::connections;
use shared::contract::events::Event;
use shared::contract::ids::UserId;
use shared::contract::log::LogDocument;
use shared::runtime::error_chain::Chain;
use shared::runtime::settings::Settings;
use tokio::time::Instant;

use super::model::{Model, is_consistent};
use super::progress::progress;
use super::visible::Visible;
use crate::reads::model::ReadModel;
use crate::reads::unanswered::Unanswered;
use crate::views::error::ViewError;
use crate::views::generation::Catalog;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How long the views may take to catch up with the log, in seconds.
    #[arg(long, default_value_t = 60)]
    patience: u64,
}

/// Why nothing could be compared.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Connect(#[from] connections::ConnectError),
    #[error("read the log")]
    Log(#[from] mongodb::error::Error),
    #[error("the log is corrupt")]
    Corrupt(#[from] shared::contract::log::CorruptLog),
    #[error("event {0} is not of the stream it is in")]
    Misplaced(shared::contract::ids::EventId),
    #[error("read the views")]
    Views(#[from] ViewError),
    #[error("read the views")]
    Read(#[from] Unanswered),
    #[error("there are no views yet: start a query-service")]
    NoViews,
    #[error("ask NATS for the stream's end")]
    Nats(#[source] async_nats::Error),
    #[error("the fold has not caught up within {0:?}: is a query-service running?")]
    NotCaughtUp(Duration),
}

/// What was compared, and what differs.
#[derive(Debug, Default)]
pub struct Report {
    pub users: usize,
    pub posts: usize,
    pub follows: usize,
    pub entries: usize,
    /// A line per difference, by user.
    pub differences: BTreeMap<UserId, Vec<String>>,
}

const COULD_NOT: u8 = 2;
/// Differences printed at the most.
const SHOWN: usize = 100;
pub const AT_ONCE: usize = 8;
/// Looks at what differs again, each time with a newer copy of the log.
pub const ROUNDS: usize = 5;

/// Runs the command.
pub async fn main(settings: &Settings, arguments: &Arguments) -> ExitCode {
    match verify(settings, Duration::from_secs(arguments.patience)).await {
        Ok(report) => {
            let lines: Vec<&String> = report.differences.values().flatten().collect();
            for line in lines.iter().take(SHOWN) {
                println!("{line}");
            }
            if lines.len() > SHOWN {
                println!("… and {} more", lines.len() - SHOWN);
            }
            println!(
                "verify: {} users, {} posts, {} follows, {} timeline entries: {} differences",
                report.users,
                report.posts,
                report.follows,
                report.entries,
                lines.len()
            );
            if lines.is_empty() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("query-service verify: {}", Chain(&error));
            ExitCode::from(COULD_NOT)
        }
    }
}

/// Compares all that readers can see with the log.
pub async fn verify(settings: &Settings, patience: Duration) -> Result<Report, VerifyError> {
    const POOL: u32 = 16;
    let log = connections::open_log(settings, "query-service verify", POOL).await?;
    let database = connections::open_views(settings, "query-service verify", POOL).await?;
    let current = Catalog::new(&database)
        .current()
        .await?
        .ok_or(VerifyError::NoViews)?;
    let views = ReadModel::of(current).await?;
    let nats = connections::nats(&settings.nats, "query-service verify").await?;
    let jetstream = nats.jetstream();
    let stream = settings.names.stream();
    let caught_up = || catch_up(&jetstream, &stream, &views, patience);

    let mut report = Report::default();
    for round in 0..ROUNDS {
        let model = read_log(&log).await?;
        caught_up().await?;
        let suspects: Vec<UserId> = if round == 0 {
            model.users().collect()
        } else {
            report.differences.keys().copied().collect()
        };
        let (users, entries) = (report.users, report.entries);
        report = compare(&model, &views, &suspects).await?;
        report.users = report.users.max(users);
        report.entries = report.entries.max(entries);
        if report.differences.is_empty() {
            break;
        }
    }
    Ok(report)
}

/// What the log says now.
pub async fn read_log(log: &mongodb::Database) -> Result<Model, VerifyError> {
    let collection = log.collection::<LogDocument>(shared::contract::log::COLLECTION);
    let bar = progress(
        "reading the log",
        collection.estimated_document_count().await?,
    );
    let mut documents = collection.find(doc! {}).batch_size(5_000).await?;
    let mut events: Vec<Event> = Vec::new();
    while let Some(document) = documents.try_next().await? {
        let event = document.to_event()?;
        if !is_consistent(&event) {
            return Err(VerifyError::Misplaced(event.id));
        }
        events.push(event);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(Model::of(events))
}

/// Waits until every partition has passed what the stream holds now. The relay may still have
/// something to publish; the rounds of [`verify`] cover that.
pub async fn catch_up(
    jetstream: &jetstream::Context,
    stream: &str,
    views: &ReadModel,
    patience: Duration,
) -> Result<(), VerifyError> {
    let mut stream = jetstream
        .get_stream(stream)
        .await
        .map_err(|error| VerifyError::Nats(error.into()))?;
    let mut last_end = 0;
    let give_up = Instant::now() + patience;
    loop {
        let end = stream
            .info()
            .await
            .map_err(|error| VerifyError::Nats(error.into()))?
            .state
            .last_sequence;
        let checkpoints = views.generation().checkpoints().await?;
        let behind = |partition| {
            checkpoints
                .iter()
                .find(|(at, _)| *at == partition)
                .is_none_or(|(_, at)| at.seq < end)
        };
        let settled = end == last_end && !views.partitions().all().any(behind);
        if settled {
            return Ok(());
        }
        if Instant::now() > give_up {
            return Err(VerifyError::NotCaughtUp(patience));
        }
        last_end = end;
        // Settled is what does not move from one look to the next.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn compare(
    model: &Model,
    views: &ReadModel,
    users: &[UserId],
) -> Result<Report, VerifyError> {
    let bar = progress("comparing users", users.len() as u64);
    let mut report = Report {
        users: users.len(),
        posts: model.posts_len(),
        follows: model.follows_len(),
        ..Report::default()
    };
    let mut compared = stream::iter(users.iter().copied())
        .map(|user| async move {
            compare_user(model, views, user)
                .await
                .map(|found| (user, found))
        })
        .buffer_unordered(AT_ONCE);
    while let Some((user, (entries, differences))) = compared.try_next().await? {
        report.entries += entries;
        if !differences.is_empty() {
            report.differences.insert(user, differences);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(report)
}

/// Everything that one user sees and shows: how many entries, and what differs.
async fn compare_user(
    model: &Model,
    views: &ReadModel,
    user: UserId,
) -> Result<(usize, Vec<String>), Unanswered> {
    let shown = Visible::of(views, user).await?;
    let expected = model.visible(user, &shown.cuts);
    Ok((shown.entries(), expected.differences(user, &shown)))
}
