//! What posts of the input are called, and which of them wait for others.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use xxhash_rust::xxh3::xxh3_64;

/// Replies that wait for their parent at a time, at most: some 1,500 bytes each.
pub(super) const MOST_WAITING: usize = 10_000;

/// The hash by which a post of the input is found by its name.
pub(super) fn name_hash(name: &str) -> u64 {
    xxh3_64(name.as_bytes())
}

/// What the lines read so far say, so that each is told from the others. Some 40 bytes for each
/// post.
#[derive(Default)]
pub(super) struct Said {
    /// How often a post without a name was written, by a hash of all of it.
    unnamed: HashMap<u64, u32>,
    /// Where a name was given, and a hash of what the post says.
    named: HashMap<u64, (u64, i64)>,
}

/// What a line with a name is to the lines before it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Naming {
    New,
    /// The same post once more.
    Again,
    /// Another post has the name, from this line.
    Taken(u64),
}

impl Said {
    /// Counts a post without a name: the how manieth like it this is, from 1.
    pub(super) fn count(&mut self, post: &[u8]) -> u32 {
        let count = self.unnamed.entry(xxh3_64(post)).or_default();
        *count += 1;
        *count
    }

    pub(super) fn name(&mut self, name: u64, line: u64, says: i64) -> Naming {
        match self.named.get(&name) {
            None => {
                self.named.insert(name, (line, says));
                Naming::New
            }
            Some((_, before)) if *before == says => Naming::Again,
            Some((line, _)) => Naming::Taken(*line),
        }
    }
}

/// Replies by the parent they wait for. Past a bound the oldest ones are left to another look at
/// the input.
pub(super) struct Waiting<T> {
    most: usize,
    by_line: BTreeMap<u64, Reply<T>>,
    by_parent: BTreeSet<(u64, u64)>,
    /// Lines that were let go, with what their post was counted as.
    pub(super) left: HashMap<u64, u32>,
}

struct Reply<T> {
    parent: u64,
    count: u32,
    reply: T,
}

impl<T> Waiting<T> {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            by_line: BTreeMap::new(),
            by_parent: BTreeSet::new(),
            left: HashMap::new(),
        }
    }

    pub(super) fn add(&mut self, line: u64, parent: u64, count: u32, reply: T) {
        let reply = Reply {
            parent,
            count,
            reply,
        };
        self.by_line.insert(line, reply);
        self.by_parent.insert((parent, line));
        if self.by_line.len() > self.most
            && let Some((line, reply)) = self.by_line.pop_first()
        {
            self.by_parent.remove(&(reply.parent, line));
            self.left.insert(line, reply.count);
        }
    }

    /// Takes the replies that wait for a post, in the order of their lines.
    pub(super) fn take(&mut self, parent: u64) -> Vec<T> {
        let lines = self.by_parent.range((parent, 0)..=(parent, u64::MAX));
        let lines: Vec<u64> = lines.map(|(_, line)| *line).collect();
        let mut replies = Vec::with_capacity(lines.len());
        for line in lines {
            self.by_parent.remove(&(parent, line));
            replies.extend(self.by_line.remove(&line).map(|reply| reply.reply));
        }
        replies
    }

    /// Ends a look at the input: those for whom nobody came, or, if any were let go, the lines of
    /// all, for the next look.
    pub(super) fn end(mut self) -> Result<Vec<T>, HashMap<u64, u32>> {
        if self.left.is_empty() {
            return Ok(self.by_line.into_values().map(|it| it.reply).collect());
        }
        let waiting = self.by_line.iter().map(|(line, it)| (*line, it.count));
        self.left.extend(waiting);
        Err(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn posts_without_a_name_are_counted_and_names_are_given_once() {
        let mut said = Said::default();
        assert_eq!([b"a", b"b", b"a"].map(|post| said.count(post)), [1, 1, 2]);
        assert_eq!(said.name(1, 10, 7), Naming::New);
        assert_eq!(said.name(2, 11, 7), Naming::New);
        assert_eq!(said.name(1, 12, 7), Naming::Again);
        assert_eq!(said.name(1, 13, 8), Naming::Taken(10));
    }

    #[test]
    fn replies_wait_for_their_parent_and_the_oldest_are_left_past_the_bound() {
        let mut waiting = Waiting::new(3);
        for (line, parent) in [(1, 100), (2, 200), (3, 100)] {
            waiting.add(line, parent, 1, line);
        }
        assert_eq!(waiting.take(100), [1, 3]);
        assert!(waiting.take(100).is_empty() && waiting.take(300).is_empty());
        for (line, parent) in [(4, 100), (5, 100), (6, 300)] {
            waiting.add(line, parent, 2, line);
        }
        assert_eq!(waiting.left, HashMap::from([(2, 1)]));
        assert!(waiting.take(200).is_empty());
        assert_eq!(waiting.take(100), [4, 5]);
        let left = waiting.end().unwrap_err();
        assert_eq!(left, HashMap::from([(2, 1), (6, 2)]));
    }

    #[test]
    fn for_whom_nobody_came_is_known_once_every_line_was_looked_at() {
        let mut waiting = Waiting::new(2);
        waiting.add(9, 1, 1, "b");
        waiting.add(8, 1, 1, "a");
        assert_eq!(waiting.end().unwrap(), ["a", "b"]);
    }
}
