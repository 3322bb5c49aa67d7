//! `query-service rebuild`: new views beside the live ones, compared, switched, reversible.
//!
//! The new generation is a row in the catalog; whoever folds finds it and folds it from the first
//! message on, this command included. Killed half way, the next run goes on with it, if the same
//! build is asked for the same number of partitions; else it starts over. Readers are switched by
//! one pointer, and the generation before is folded until it is dropped, so that the switch can be
//! reverted. What is neither shown nor before it cannot be shown again, and is dropped
//! (`docs/decisions/14-what-a-generation-is.md`).

mod error;
pub mod readable_letters;
mod turn;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use async_nats::jetstream;
use futures_util::{StreamExt, TryStreamExt, stream};
use shared::connections;
use shared::contract::ids::UserId;
use shared::runtime::error_chain::Chain;
use shared::runtime::settings::Settings;
use shared::runtime::tasks::Tasks;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::error::RebuildError;
use self::readable_letters::count_readable;
use self::turn::Turn;
use crate::operator::verify::command::{AT_ONCE, ROUNDS};
use crate::operator::verify::generations::compare_generations;
use crate::operator::verify::progress::progress;
use crate::projection::Projector;
use crate::projection::generations::EVERY;
use crate::projection::settings::FoldSettings;
use crate::projection::stream_check::{self, StreamCheck};
use crate::reads::model::ReadModel;
use crate::reads::unanswered::Unanswered;
use crate::views::generation::{Catalog, Generation};
use crate::views::writer::ViewWriter;

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
    /// Begin with the first message, also where an interrupted rebuild could go on.
    #[arg(long)]
    fresh: bool,
}

impl Arguments {
    /// A rebuild that is meant to change what users see, of every message.
    pub fn of_everything() -> Self {
        Self {
            accept: true,
            fresh: true,
            ..Self::default()
        }
    }
}

/// Longer than a lease: views that do not move for so long come no further.
const STANDS_STILL: Duration = Duration::from_secs(6);
/// How long this command's own partitions have to stop, and its other tasks after them.
const STOPPED: Duration = Duration::from_secs(10);
/// Those who fold a dropped generation have stopped after this.
const NOTICED: Duration = Duration::from_millis(EVERY.as_millis() as u64 * 2);

/// Runs the command.
pub async fn main(settings: &Settings, arguments: &Arguments, stop: CancellationToken) -> ExitCode {
    let tasks = Tasks::default();
    let outcome = async {
        let turn = Turn::take(&Rebuild::catalog(settings).await?, &tasks).await?;
        // Whatever was switched or dropped while we waited for our turn is seen.
        let outcome = match Rebuild::open(settings, turn.lost.clone()).await {
            Ok(rebuild) => match arguments {
                Arguments { revert: true, .. } => rebuild.revert().await,
                Arguments { drop: true, .. } => rebuild.drop_others().await,
                Arguments { .. } => rebuild.run(settings, arguments, stop).await,
            },
            Err(error) => Err(error),
        };
        turn.end().await;
        outcome
    };
    let outcome = outcome.await;
    tasks.stop_and_join(STOPPED).await;
    match outcome {
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
    check: StreamCheck,
    /// Nothing more is changed: another command has the turn.
    lost: CancellationToken,
}

impl Rebuild {
    async fn catalog(settings: &Settings) -> Result<Catalog, RebuildError> {
        const POOL: u32 = 16;
        let database = connections::open_views(settings, "query-service rebuild", POOL).await?;
        Ok(Catalog::new(&database))
    }

    async fn open(settings: &Settings, lost: CancellationToken) -> Result<Self, RebuildError> {
        let catalog = Self::catalog(settings).await?;
        let current = catalog.current().await?.ok_or(RebuildError::NoViews)?;
        let previous = catalog.pointer().await?.and_then(|(_, previous)| previous);
        let check = StreamCheck::of(settings).await?;
        Ok(Self {
            catalog,
            current,
            previous,
            check,
            lost,
        })
    }

    /// Between two steps: none is dropped half way.
    fn has_turn(&self) -> Result<(), RebuildError> {
        if self.lost.is_cancelled() {
            return Err(RebuildError::TurnLost);
        }
        Ok(())
    }

    async fn revert(&self) -> Result<String, RebuildError> {
        let before = self.previous.ok_or(RebuildError::NothingBefore)?;
        let all = self.catalog.all().await?;
        let before = all
            .into_iter()
            .find(|generation| generation.number == before)
            .ok_or(RebuildError::NothingBefore)?;
        self.tell_seen(&self.current, &before).await?;
        self.switch(&before).await
    }

    async fn drop_others(&self) -> Result<String, RebuildError> {
        let mut others = self.catalog.all().await?;
        others.retain(|generation| generation.number != self.current.number);
        for other in &others {
            self.tell_seen(other, &self.current).await?;
        }
        self.forget(&others).await?;
        self.catalog.drop_strays().await?;
        Ok(format!(
            "rebuild: dropped {} generations; generation {} stays",
            others.len(),
            self.current.number
        ))
    }

    /// Reads are noted in the generation that is shown at the time: another learns of them before
    /// it is shown, or is all that is left.
    async fn tell_seen(&self, from: &Generation, to: &Generation) -> Result<(), RebuildError> {
        let from = ViewWriter::of(from.clone()).await?;
        let to = ViewWriter::of(to.clone()).await?;
        Ok(from.copy_seen_to(&to).await?)
    }

    async fn forget(&self, generations: &[Generation]) -> Result<(), RebuildError> {
        if generations.is_empty() {
            return Ok(());
        }
        let mut retired = Vec::new();
        for generation in generations {
            self.has_turn()?;
            if self.catalog.retire(generation.number).await? {
                retired.push(generation);
            }
        }
        // Whoever folds them looks at the catalog this often; then nobody writes to them any more.
        tokio::time::sleep(NOTICED).await;
        for generation in retired {
            self.catalog.drop_views(generation).await?;
        }
        Ok(())
    }

    async fn forget_all_but(&self, kept: &[i64]) -> Result<(), RebuildError> {
        let mut others = self.catalog.all().await?;
        others.retain(|generation| !kept.contains(&generation.number));
        self.forget(&others).await
    }

    async fn switch(&self, to: &Generation) -> Result<String, RebuildError> {
        self.has_turn()?;
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

    /// Shows readers a new generation, once it knows when they were last seen. Or everybody who
    /// registered long ago would be taken for inactive. What is read until everybody has noticed the
    /// switch the fold looks up itself.
    async fn show(&self, new: &Generation, writer: &ViewWriter) -> Result<String, RebuildError> {
        self.has_turn()?;
        let current = ViewWriter::of(self.current.clone()).await?;
        current.copy_seen_to(writer).await?;
        if !self.catalog.complete(new).await? {
            return Err(RebuildError::Dropped);
        }
        self.switch(new).await
    }

    async fn run(
        &self,
        settings: &Settings,
        arguments: &Arguments,
        stop: CancellationToken,
    ) -> Result<String, RebuildError> {
        let new = self.new_generation(settings, arguments.fresh).await?;
        let new = ReadModel::of(new).await?;
        let old = ReadModel::of(self.current.clone()).await?;
        let nats = connections::nats(&settings.nats, "query-service rebuild").await?;
        let tasks = Tasks::default();
        let (shown, current) = tokio::sync::watch::channel(old.clone());
        let writer = ViewWriter::of(new.generation().clone()).await?;
        let projector = Projector {
            views: writer.clone(),
            current,
            settings: FoldSettings::of(settings, self.check.clone(), &tasks),
        };
        projector.spawn(&tasks, &tasks.stop_signal());
        let work = async {
            let stream = settings.names.stream();
            let jetstream = nats.jetstream();
            self.look_at_stream(settings, &jetstream, &new).await?;
            self.follow_progress(&jetstream, &stream, &new).await?;
            let differing = compare(&old, &new, &jetstream, &stream).await?;
            for line in differing.values().flatten().take(20) {
                println!("{line}");
            }
            if !differing.is_empty() && !arguments.accept {
                return Err(RebuildError::Differs(differing.len()));
            }
            let missed = count_readable(&jetstream, &stream, new.generation()).await?;
            if missed.readable > 0 {
                // Nobody goes on with it, these partitions least of all.
                tasks.stop_and_join(STOPPED).await;
                self.forget(&[new.generation().clone()]).await?;
                return Err(RebuildError::FoldedByOthers(missed.readable));
            }
            let said = self.show(new.generation(), &writer).await?;
            // From now on readers are told what these partitions fold, and they are handed over.
            shown.send_replace(new.clone());
            tasks.stop_and_join(STOPPED).await;
            // What was before the one before cannot be shown again: nobody has to fold it.
            let kept = [self.current.number, new.generation().number];
            self.forget_all_but(&kept).await?;
            Ok(said)
        };
        // Reads of the views are dropped half way on an interruption: the process ends with them.
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = stop.cancelled() => Err(RebuildError::Interrupted),
        };
        tasks.stop_and_join(STOPPED).await;
        outcome
    }

    /// The generation that an earlier run of this build has begun, if it fits, else a new one.
    /// What cannot be shown any more is dropped.
    async fn new_generation(
        &self,
        settings: &Settings,
        fresh: bool,
    ) -> Result<Generation, RebuildError> {
        let known = [Some(self.current.number), self.previous];
        let mut others = self.catalog.all().await?;
        others.retain(|generation| !known.contains(&Some(generation.number)));
        let fits = |other: &Generation| {
            !fresh && other.is_unfinished_here() && other.partitions == settings.partitions
        };
        let begun = others.iter().position(fits);
        let begun = begun.map(|at| others.swap_remove(at));
        self.forget(&others).await?;
        match begun {
            Some(begun) => Ok(begun),
            None => Ok(self.catalog.create(settings.partitions).await?),
        }
    }

    /// A stream of another log would never be folded.
    async fn look_at_stream(
        &self,
        settings: &Settings,
        jetstream: &jetstream::Context,
        new: &ReadModel,
    ) -> Result<(), RebuildError> {
        let (names, replicas) = (&settings.names, settings.stream_replicas);
        let (stream, end) = stream_check::open(jetstream, names, replicas, &self.check).await?;
        self.check
            .judge(names, new.generation(), &stream, &end)
            .await?;
        Ok(())
    }

    /// Waits until the new generation has folded what the stream holds.
    async fn follow_progress(
        &self,
        jetstream: &jetstream::Context,
        stream: &str,
        new: &ReadModel,
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
            self.has_turn()?;
            if !self.catalog.has(new.generation()).await? {
                return Err(RebuildError::Dropped);
            }
            // Another fold moves it, and tells nobody here; the stream's end, the turn and the
            // generation may change meanwhile as well.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn stream_end(jetstream: &jetstream::Context, stream: &str) -> Result<u64, RebuildError> {
    let stream = jetstream
        .get_stream(stream)
        .await
        .map_err(|error| RebuildError::Nats(error.into()))?;
    Ok(stream.cached_info().state.last_sequence)
}

/// What users see otherwise in the new generation. While others write, the two are at different
/// positions for moments: a difference counts if it is there in every round.
async fn compare(
    old: &ReadModel,
    new: &ReadModel,
    jetstream: &jetstream::Context,
    stream: &str,
) -> Result<BTreeMap<UserId, Vec<String>>, RebuildError> {
    let mut suspects = old.all_users().await?;
    let (mut differing, mut stands_still) = (BTreeMap::new(), false);
    for _ in 0..ROUNDS {
        let end = stream_end(jetstream, stream).await?;
        stands_still = both_have(end, old, new, stands_still).await?;
        differing = compare_users(old, new, &suspects).await?;
        if differing.is_empty() {
            break;
        }
        suspects = differing.keys().copied().collect();
    }
    Ok(differing)
}

/// Waits until both have folded up to `end`, the old one unless it stands still: the stream may be
/// another one than it was folded from. Says whether it does.
async fn both_have(
    end: u64,
    old: &ReadModel,
    new: &ReadModel,
    stood_still: bool,
) -> Result<bool, RebuildError> {
    let (mut reached, mut since) = (0, Instant::now());
    loop {
        let (before, at) = (old.position_now().await?, new.position_now().await?);
        if at >= end && (before >= end || stood_still) {
            return Ok(stood_still);
        }
        if before > reached || at < end {
            (reached, since) = (before, Instant::now());
        } else if since.elapsed() >= STANDS_STILL {
            println!(
                "rebuild: the views that readers are shown stand still at {before} of {end}: they are compared as they are"
            );
            return Ok(true);
        }
        // That nothing moves is seen only by looking again.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn compare_users(
    old: &ReadModel,
    new: &ReadModel,
    users: &[UserId],
) -> Result<BTreeMap<UserId, Vec<String>>, RebuildError> {
    let bar = progress("comparing users", users.len() as u64);
    let mut compared = stream::iter(users.iter().copied())
        .map(|user| async move {
            let lines = compare_generations(old, new, user).await?;
            Ok::<_, Unanswered>((user, lines))
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
