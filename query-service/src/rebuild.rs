//! `query-service rebuild`: new views beside the live ones, compared, switched, reversible.
//!
//! The new generation is a row in the catalog; whoever folds finds it and folds it from the first
//! message on, this command included. Killed half way, the next run goes on with it, or starts
//! over where another number of partitions is asked for. Readers are switched by one pointer, and
//! the generation before is folded until it is dropped, so that the switch can be reverted.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use async_nats::jetstream;
use futures_util::{StreamExt, TryStreamExt, stream};
use shared::engines;
use shared::error_chain::Chain;
use shared::ids::UserId;
use shared::settings::Settings;
use shared::tasks::Tasks;
use tokio_util::sync::CancellationToken;

use crate::projection::Projector;
use crate::projection::generations::{EVERY, FoldSettings};
use crate::read_model::generation::{Catalog, Generation};
use crate::read_model::{ViewError, Views};
use crate::verify::{self, AT_ONCE, ROUNDS, progress};

/// Rebuilds the views with PARTITIONS partitions from the stream's first message on.
#[derive(Debug, Default, clap::Args)]
pub struct Arguments {
    /// Show readers the generation before the last switch again.
    #[arg(long, conflicts_with = "drop")]
    revert: bool,
    /// Drop every generation that readers are not shown.
    #[arg(long)]
    drop: bool,
    /// Switch even if users see something else: after a replay of dead letters, or a mended bug.
    #[arg(long)]
    accept: bool,
}

impl Arguments {
    /// A rebuild that is meant to change what users see.
    pub fn accepting() -> Self {
        Self {
            accept: true,
            ..Self::default()
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error(transparent)]
    Connect(#[from] engines::ConnectError),
    #[error("work on the views")]
    Views(#[from] ViewError),
    #[error("there are no views yet: start a query-service")]
    NoViews,
    #[error("there is no generation to go back to")]
    NothingBefore,
    #[error("somebody else switched the generation meanwhile")]
    Raced,
    #[error("ask NATS for the stream's end")]
    Nats(#[source] async_nats::Error),
    #[error("interrupted: run it again to go on")]
    Interrupted,
    #[error(
        "{0} users see something else in the new generation; readers stay with the old one, unless you `rebuild --accept`"
    )]
    Differs(usize),
}

/// Those who fold a dropped generation have stopped after this.
const NOTICED: Duration = Duration::from_millis(EVERY.as_millis() as u64 * 2);

/// Runs the command.
pub async fn main(settings: &Settings, arguments: &Arguments, stop: CancellationToken) -> ExitCode {
    let outcome = async {
        let rebuild = Rebuild::open(settings).await?;
        match arguments {
            Arguments { revert: true, .. } => rebuild.revert().await,
            Arguments { drop: true, .. } => rebuild.drop_others().await,
            Arguments { accept, .. } => rebuild.run(settings, *accept, stop).await,
        }
    };
    match outcome.await {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("query-service rebuild: {}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}

struct Rebuild {
    catalog: Catalog,
    current: Generation,
    previous: Option<i64>,
}

impl Rebuild {
    async fn open(settings: &Settings) -> Result<Self, RebuildError> {
        const POOL: u32 = 16;
        let database = engines::open_views(settings, "query-service rebuild", POOL).await?;
        let catalog = Catalog::new(&database);
        let current = catalog.current().await?.ok_or(RebuildError::NoViews)?;
        let previous = catalog.pointer().await?.and_then(|(_, previous)| previous);
        Ok(Self {
            catalog,
            current,
            previous,
        })
    }

    async fn revert(&self) -> Result<String, RebuildError> {
        let before = self.previous.ok_or(RebuildError::NothingBefore)?;
        let all = self.catalog.all().await?;
        let before = all
            .into_iter()
            .find(|generation| generation.number == before)
            .ok_or(RebuildError::NothingBefore)?;
        self.switch(&before).await
    }

    async fn drop_others(&self) -> Result<String, RebuildError> {
        let mut dropped = 0;
        for generation in self.catalog.all().await? {
            if generation.number != self.current.number {
                self.forget(&generation).await?;
                dropped += 1;
            }
        }
        Ok(format!(
            "rebuild: dropped {dropped} generations; generation {} stays",
            self.current.number
        ))
    }

    async fn forget(&self, generation: &Generation) -> Result<(), RebuildError> {
        self.catalog.retire(generation).await?;
        // Whoever folds it looks at the catalog this often; then nobody writes to it any more.
        tokio::time::sleep(NOTICED).await;
        self.catalog.drop_views(generation).await?;
        Ok(())
    }

    async fn switch(&self, to: &Generation) -> Result<String, RebuildError> {
        if !self.catalog.switch(self.current.number, to.number).await? {
            return Err(RebuildError::Raced);
        }
        let (now, before) = (to.number, self.current.number);
        let count = to.partitions.count();
        Ok(format!(
            "rebuild: readers are shown generation {now} ({count} partitions). Generation {before} is kept: \
             `rebuild --revert` goes back to it, `rebuild --drop` removes it. Start services with PARTITIONS={count} from now on."
        ))
    }

    async fn run(
        &self,
        settings: &Settings,
        accept: bool,
        stop: CancellationToken,
    ) -> Result<String, RebuildError> {
        let new = Views::of(self.new_generation(settings).await?).await?;
        let old = Views::of(self.current.clone()).await?;
        let nats = engines::nats(&settings.nats, "query-service rebuild").await?;
        let tasks = Tasks::default();
        let (_, current) = tokio::sync::watch::channel(old.clone());
        let projector = Projector {
            views: new.clone(),
            current,
            settings: FoldSettings::of(settings),
        };
        projector.spawn(&tasks, &tasks.stop_signal());
        let work = async {
            let stream = settings.names.stream();
            let jetstream = nats.jetstream();
            follow_progress(&jetstream, &stream, &new).await?;
            // Or everybody who registered long ago would be taken for idle.
            old.copy_seen_to(&new).await?;
            let differing = compare(&old, &new, &jetstream, &stream).await?;
            if !differing.is_empty() {
                for line in differing.values().flatten().take(20) {
                    println!("{line}");
                }
                if !accept {
                    return Err(RebuildError::Differs(differing.len()));
                }
            }
            self.switch(new.generation()).await
        };
        // Reads of the views are dropped half way on an interruption: the process ends with them.
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = stop.cancelled() => Err(RebuildError::Interrupted),
        };
        tasks.stop_and_join(Duration::from_secs(10)).await;
        outcome
    }

    /// The unfinished generation of an earlier run if it fits, else a new one.
    async fn new_generation(&self, settings: &Settings) -> Result<Generation, RebuildError> {
        let all = self.catalog.all().await?;
        let known = [Some(self.current.number), self.previous];
        for unfinished in all
            .into_iter()
            .filter(|generation| !known.contains(&Some(generation.number)))
        {
            if unfinished.partitions == settings.partitions {
                return Ok(unfinished);
            }
            self.forget(&unfinished).await?;
        }
        Ok(self.catalog.create(settings.partitions).await?)
    }
}

async fn stream_end(jetstream: &jetstream::Context, stream: &str) -> Result<u64, RebuildError> {
    let stream = jetstream
        .get_stream(stream)
        .await
        .map_err(|error| RebuildError::Nats(error.into()))?;
    Ok(stream.cached_info().state.last_sequence)
}

/// Waits until the new generation has folded what the stream holds.
async fn follow_progress(
    jetstream: &jetstream::Context,
    stream: &str,
    new: &Views,
) -> Result<(), RebuildError> {
    let bar = progress("folding the stream", stream_end(jetstream, stream).await?);
    loop {
        let (end, at) = (
            stream_end(jetstream, stream).await?,
            new.position_now().await?,
        );
        bar.set_length(end);
        bar.set_position(at);
        if at >= end {
            bar.finish_and_clear();
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What users see otherwise in the new generation. While others write, the two are at different
/// positions for moments: a difference counts if it is there in every round.
async fn compare(
    old: &Views,
    new: &Views,
    jetstream: &jetstream::Context,
    stream: &str,
) -> Result<BTreeMap<UserId, Vec<String>>, RebuildError> {
    let mut suspects = old.all_users().await?;
    let mut differing = BTreeMap::new();
    for _ in 0..ROUNDS {
        let end = stream_end(jetstream, stream).await?;
        while old.position_now().await?.min(new.position_now().await?) < end {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        differing = compare_users(old, new, &suspects).await?;
        if differing.is_empty() {
            break;
        }
        suspects = differing.keys().copied().collect();
    }
    Ok(differing)
}

async fn compare_users(
    old: &Views,
    new: &Views,
    users: &[UserId],
) -> Result<BTreeMap<UserId, Vec<String>>, RebuildError> {
    let bar = progress("comparing users", users.len() as u64);
    let mut compared = stream::iter(users.iter().copied())
        .map(|user| async move {
            let lines = verify::compare_generations(old, new, user).await?;
            Ok::<_, ViewError>((user, lines))
        })
        .buffer_unordered(AT_ONCE);
    let mut differing = BTreeMap::new();
    while let Some((user, lines)) = compared.try_next().await? {
        bar.inc(1);
        if !lines.is_empty() {
            differing.insert(user, lines);
        }
    }
    bar.finish_and_clear();
    Ok(differing)
}
