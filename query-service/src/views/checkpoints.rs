//! How far each partition has folded.

use bson::doc;
use shared::contract::event_stream::ChainHash;
use shared::contract::partition::{Partition, Partitions};

use super::documents::CheckpointRow;
use super::error::ViewError;
use super::generation::{Generation, View};

/// How far a partition has folded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Checkpoint {
    pub seq: u64,
    pub chain: ChainHash,
    pub epoch: i64,
    /// The greatest event id applied.
    pub top: i64,
}

impl Checkpoint {
    pub(super) fn of(row: &CheckpointRow) -> Result<Self, ViewError> {
        let seq = u64::try_from(row.seq).map_err(|_| ViewError::Corrupt("a checkpoint"))?;
        let chain = ChainHash::from_hex(&row.chain).ok_or(ViewError::Corrupt("a checkpoint"))?;
        Ok(Checkpoint {
            seq,
            chain,
            epoch: row.epoch,
            top: row.top,
        })
    }
}

impl Generation {
    /// Where every partition stands, by partition; none where it was never taken.
    pub async fn checkpoints(&self) -> Result<Vec<(Partition, Checkpoint)>, ViewError> {
        let rows: Vec<CheckpointRow> = self.all(View::Checkpoints, doc! {}).await?;
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            let partition = u16::try_from(row.p).map_err(|_| ViewError::Corrupt("a checkpoint"))?;
            all.push((Partition(partition), Checkpoint::of(&row)?));
        }
        Ok(all)
    }
}

/// The lowest sequence that all partitions have applied.
pub fn lowest(checkpoints: &[(Partition, Checkpoint)], partitions: Partitions) -> u64 {
    let of = |partition| {
        let found = checkpoints.iter().find(|(at, _)| *at == partition);
        found.map_or(0, |(_, at)| at.seq)
    };
    partitions.all().map(of).min().unwrap_or(0)
}
