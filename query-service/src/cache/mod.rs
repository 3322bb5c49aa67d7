//! What this replica remembers of the views, and when it may still say it.
//!
//! * A key has a *slot*, made before its first load begins. A message that names the key counts the
//!   slot's version up and drops (or extends) the value. A load stores what it found only if the
//!   version is still the one it began with, or if all that came since are new items, which are
//!   added: what was loaded before a change is never remembered after it.
//! * Whoever misses a message forgets everything: the epoch counts up, values of older epochs are
//!   no hits. So does a partition's new holder, who cannot know what the one before did not tell.
//! * Nothing is a hit while the last message of any partition was sent [`SILENCE`](freshness::SILENCE) ago or longer
//!   (`freshness`), nor after a minute.
//! * What is no hit any more is still kept for when the database is away ([`ReadFrom::StaleCache`]); but
//!   not what somebody took back: a deleted post, an ended edge, a profile that is gone.
//!
//! A slot may be evicted at any time. A load that then stores into it stores into nowhere: the
//! next reader makes a new slot.
//!
//! * [`caches`]: all of them, and what an invalidation message does.
//! * [`slots`]: one value a key; [`newest`], [`values`]: what is cached.
//! * [`freshness`]: how old a message is when it comes.

mod caches;
mod freshness;
mod newest;
mod slots;
mod values;

pub use caches::{Caches, Since};
pub use newest::{MOST_ENTRIES, NewestItems};
pub use slots::{CacheSlots, Lookup, ReadFrom, Remembered};
pub use values::{Edges, Post, Pulled, Reactions, RecentlyPulled};
