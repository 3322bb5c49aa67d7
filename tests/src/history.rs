//! The outcomes that clients recorded, compared with what is stored afterwards.
//!
//! A command is *acknowledged*, *refused* (it never happens), or *unknown*: the connection broke,
//! or the service could not say. What is acknowledged must be there once; what was refused must
//! not be there; what is unknown must be there once or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a client asked for. A post's content is its own: no two commands share one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    Post { content: String },
    Follow { followee: String },
    Unfollow { followee: String },
    Like { post: String },
    Unlike { post: String },
}

impl Action {
    /// Where the edge leads that it switches, and whether it is on then; `None` for a post.
    pub fn edge(&self) -> Option<(&String, bool)> {
        match self {
            Self::Post { .. } => None,
            Self::Follow { followee: to } | Self::Like { post: to } => Some((to, true)),
            Self::Unfollow { followee: to } | Self::Unlike { post: to } => Some((to, false)),
        }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Post { .. } => "post",
            Self::Follow { .. } => "follow",
            Self::Unfollow { .. } => "unfollow",
            Self::Like { .. } => "like",
            Self::Unlike { .. } => "unlike",
        }
    }
}

/// What the client was told. For a post: the id.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Told {
    Accepted(Option<String>),
    Refused,
    /// Also every command that was not answered yet.
    Unknown,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    pub client: String,
    pub action: Action,
    pub told: Told,
}

/// The commands of all clients, each client's in order.
#[derive(Debug, Default)]
pub struct History {
    records: Mutex<Vec<Record>>,
    /// Answers that left a command unknown and were resolved by sending it again.
    resolved: Mutex<usize>,
}

impl History {
    /// A client is about to send a command. It is unknown until [`Self::told`].
    pub fn invoke(&self, client: &str, action: Action) -> usize {
        let mut records = self.records();
        records.push(Record {
            client: client.to_owned(),
            action,
            told: Told::Unknown,
        });
        records.len() - 1
    }

    pub fn told(&self, command: usize, told: Told) {
        self.records()[command].told = told;
    }

    pub fn resolved_by_asking_again(&self) {
        *self.resolved.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    pub fn resolved(&self) -> usize {
        *self.resolved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn records(&self) -> MutexGuard<'_, Vec<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn acknowledged(&self) -> usize {
        self.records()
            .iter()
            .filter(|record| matches!(record.told, Told::Accepted(_)))
            .count()
    }
}

/// Follower and followee, or who likes and the post: no id is of both a user and a post.
pub type Edge = (String, String);

/// What is stored once everything has caught up.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// How many posts of the log have this content.
    pub contents: BTreeMap<String, usize>,
    /// What readers get: content by the post's id.
    pub readable: BTreeMap<String, String>,
    /// The follows and likes that exist, of those that the history names.
    pub edges: BTreeSet<Edge>,
}

/// The judgement. Lines say what is wrong, one command each.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verdict {
    pub acknowledged: usize,
    pub refused: usize,
    /// Unknown to the end, and found to have happened.
    pub unknown_done: usize,
    /// Unknown to the end, and found not to have happened.
    pub unknown_not_done: usize,
    pub lost: Vec<String>,
    pub doubled: Vec<String>,
    /// Refused, but found in the log.
    pub phantoms: Vec<String>,
}

impl Verdict {
    pub fn of(history: &[Record], observed: &Observed) -> Self {
        let mut verdict = Self::default();
        // For each edge: the states that its recorded outcomes allow.
        let mut possible: BTreeMap<Edge, BTreeSet<bool>> = BTreeMap::new();
        let mut unknown_edges: Vec<(Edge, bool)> = Vec::new();
        for record in history {
            match record.told {
                Told::Accepted(_) => verdict.acknowledged += 1,
                Told::Refused => verdict.refused += 1,
                Told::Unknown => (),
            }
            if let Action::Post { content } = &record.action {
                verdict.judge_post(content, &record.told, observed);
            }
            let Some((to, on)) = record.action.edge() else {
                continue;
            };
            let edge = (record.client.clone(), to.clone());
            let states = possible
                .entry(edge.clone())
                .or_insert_with(|| BTreeSet::from([false]));
            match record.told {
                Told::Accepted(_) => *states = BTreeSet::from([on]),
                Told::Refused => (),
                Told::Unknown => {
                    states.insert(on);
                    unknown_edges.push((edge, on));
                }
            }
        }
        for (edge, states) in &possible {
            let stands = observed.edges.contains(edge);
            if !states.contains(&stands) {
                let said = if stands {
                    "switched off, but the edge stands"
                } else {
                    "switched on, but the edge is gone"
                };
                verdict
                    .lost
                    .push(format!("{} → {}: {said}", edge.0, edge.1));
            }
        }
        for (edge, on) in unknown_edges {
            verdict.count_unknown(observed.edges.contains(&edge) == on);
        }
        verdict
    }

    fn judge_post(&mut self, content: &str, told: &Told, observed: &Observed) {
        let times = observed.contents.get(content).copied().unwrap_or_default();
        if times > 1 {
            self.doubled
                .push(format!("{content}: {times} times in the log"));
        }
        match told {
            Told::Accepted(id) => {
                let read = id.as_ref().and_then(|id| observed.readable.get(id));
                if times == 0 {
                    self.lost.push(format!("{content}: not in the log"));
                } else if read.is_none_or(|read| read != content) {
                    self.lost.push(format!("{content}: reads as {read:?}"));
                }
            }
            Told::Refused if times > 0 => self
                .phantoms
                .push(format!("{content}: refused, but in the log")),
            Told::Refused => (),
            Told::Unknown => self.count_unknown(times > 0),
        }
    }

    fn count_unknown(&mut self, done: bool) {
        if done {
            self.unknown_done += 1;
        } else {
            self.unknown_not_done += 1;
        }
    }

    pub fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.doubled.is_empty() && self.phantoms.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "acknowledged {}, lost {}, doubled {}, refused {} (found all the same {}), unknown {} ({} done, {} not)",
            self.acknowledged,
            self.lost.len(),
            self.doubled.len(),
            self.refused,
            self.phantoms.len(),
            self.unknown_done + self.unknown_not_done,
            self.unknown_done,
            self.unknown_not_done
        )?;
        for line in self
            .lost
            .iter()
            .chain(&self.doubled)
            .chain(&self.phantoms)
            .take(20)
        {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(content: &str, told: Told) -> Record {
        Record {
            client: "ada".to_owned(),
            action: Action::Post {
                content: content.to_owned(),
            },
            told,
        }
    }

    fn accepted(id: &str) -> Told {
        Told::Accepted(Some(id.to_owned()))
    }

    fn follow(on: bool, told: Told) -> Record {
        let followee = "bob".to_owned();
        let action = if on {
            Action::Follow { followee }
        } else {
            Action::Unfollow { followee }
        };
        Record {
            client: "ada".to_owned(),
            action,
            told,
        }
    }

    fn observed(contents: &[(&str, usize)], readable: &[(&str, &str)], follows: bool) -> Observed {
        let edge = ("ada".to_owned(), "bob".to_owned());
        Observed {
            contents: contents
                .iter()
                .map(|(text, times)| ((*text).to_owned(), *times))
                .collect(),
            readable: readable
                .iter()
                .map(|(id, text)| ((*id).to_owned(), (*text).to_owned()))
                .collect(),
            edges: follows.then_some(edge).into_iter().collect(),
        }
    }

    #[test]
    fn a_history_that_was_kept_is_clean_and_its_unknowns_are_counted() {
        let history = [
            post("a", accepted("1")),
            post("b", Told::Refused),
            post("c", Told::Unknown),
            post("d", Told::Unknown),
            follow(true, Told::Accepted(None)),
        ];
        let verdict = Verdict::of(
            &history,
            &observed(&[("a", 1), ("c", 1)], &[("1", "a")], true),
        );
        assert!(verdict.is_clean(), "{verdict}");
        assert_eq!((verdict.acknowledged, verdict.refused), (2, 1));
        assert_eq!((verdict.unknown_done, verdict.unknown_not_done), (1, 1));
    }

    #[test]
    fn a_lost_post_is_found_in_the_log_and_in_what_readers_get() {
        let history = [post("a", accepted("1"))];
        assert_eq!(
            Verdict::of(&history, &observed(&[], &[], false)).lost.len(),
            1
        );
        assert_eq!(
            Verdict::of(&history, &observed(&[("a", 1)], &[], false))
                .lost
                .len(),
            1
        );
        assert_eq!(
            Verdict::of(&history, &observed(&[("a", 1)], &[("1", "b")], false))
                .lost
                .len(),
            1
        );
    }

    #[test]
    fn a_doubled_post_is_found_even_where_nothing_was_promised() {
        for told in [accepted("1"), Told::Refused, Told::Unknown] {
            let verdict = Verdict::of(
                &[post("a", told)],
                &observed(&[("a", 2)], &[("1", "a")], false),
            );
            assert_eq!(verdict.doubled.len(), 1);
        }
    }

    #[test]
    fn a_refused_post_that_happened_is_found() {
        let verdict = Verdict::of(
            &[post("a", Told::Refused)],
            &observed(&[("a", 1)], &[], false),
        );
        assert_eq!(verdict.phantoms.len(), 1);
    }

    #[test]
    fn an_edge_must_stand_as_it_was_last_acknowledged_unless_something_unknown_came_after() {
        let (yes, no) = (observed(&[], &[], true), observed(&[], &[], false));
        let followed = [follow(true, Told::Accepted(None))];
        assert!(Verdict::of(&followed, &yes).is_clean());
        assert_eq!(Verdict::of(&followed, &no).lost.len(), 1);
        let unfollowed = [
            follow(true, Told::Accepted(None)),
            follow(false, Told::Accepted(None)),
        ];
        assert!(Verdict::of(&unfollowed, &no).is_clean());
        assert_eq!(Verdict::of(&unfollowed, &yes).lost.len(), 1);
        let refused = [
            follow(true, Told::Accepted(None)),
            follow(false, Told::Refused),
        ];
        assert_eq!(Verdict::of(&refused, &no).lost.len(), 1);
        let unknown = [
            follow(true, Told::Accepted(None)),
            follow(false, Told::Unknown),
        ];
        assert!(Verdict::of(&unknown, &yes).is_clean());
        assert!(Verdict::of(&unknown, &no).is_clean());
        // What is certain again after something unknown counts.
        let again = [
            follow(true, Told::Unknown),
            follow(true, Told::Accepted(None)),
        ];
        assert_eq!(Verdict::of(&again, &no).lost.len(), 1);
    }
}
