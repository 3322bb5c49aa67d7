//! Who follows whom, for imports: a random graph, or the real one the project measures with.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Undirected edges, `a b` a line.
#[derive(Clone, Debug)]
pub struct Graph {
    pub text: String,
    pub people: usize,
    pub edges: usize,
}

impl Graph {
    /// A graph in which few have many neighbours and most have few.
    pub fn random(people: usize, edges: usize, seed: u64) -> Self {
        assert!(edges <= people * (people - 1) / 4, "too dense to be drawn");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut drawn = BTreeSet::new();
        // Everybody has at least one neighbour, so that the edges name everybody.
        for one in 1..people {
            drawn.insert((rng.random_range(0..one), one));
        }
        while drawn.len() < edges {
            // The square prefers low numbers: they become the well-connected.
            let popular: f64 = rng.random();
            let one = (popular * popular * people as f64) as usize;
            let other = rng.random_range(0..people);
            if one != other {
                drawn.insert((one.min(other), one.max(other)));
            }
        }
        Self::of(&drawn)
    }

    /// The Reed98 graph if it lies beside the repository, else a random one of its size.
    pub fn reed98(seed: u64) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = root.join("../../shared/data/socfb-Reed98.edges");
        let Ok(text) = std::fs::read_to_string(&path) else {
            println!("{} is not there: a random graph instead", path.display());
            return Self::random(962, 18_812, seed);
        };
        let mut read = BTreeSet::new();
        for line in text.lines() {
            let mut ends = line.split_whitespace().map(str::parse::<usize>);
            if let (Some(Ok(one)), Some(Ok(other))) = (ends.next(), ends.next()) {
                read.insert((one.min(other), one.max(other)));
            }
        }
        Self::of(&read)
    }

    fn of(edges: &BTreeSet<(usize, usize)>) -> Self {
        let mut text = String::new();
        for (one, other) in edges {
            writeln!(text, "{one} {other}").expect("a string takes everything");
        }
        let people: BTreeSet<usize> = edges
            .iter()
            .flat_map(|(one, other)| [*one, *other])
            .collect();
        Self {
            text,
            people: people.len(),
            edges: edges.len(),
        }
    }

    /// Events of an import in both directions: users, follows, posts.
    pub fn events(&self, posts_per_user: usize) -> usize {
        self.people + 2 * self.edges + self.people * posts_per_user
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_graph_has_the_size_it_was_asked_for_and_is_the_same_for_a_seed() {
        let graph = Graph::random(150, 750, 7);
        assert_eq!((graph.people, graph.edges), (150, 750));
        assert_eq!(graph.text.lines().count(), 750);
        assert_eq!(graph.events(5), 150 + 1_500 + 750);
        assert_eq!(graph.text, Graph::random(150, 750, 7).text);
        assert_ne!(graph.text, Graph::random(150, 750, 8).text);
    }
}
