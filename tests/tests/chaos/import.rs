//! An import that is killed again and again, and started again.

use std::sync::Arc;

use system_tests::graph::Graph;
use system_tests::process::Process;
use system_tests::world::{PATIENCE, World};

/// An import in parts, so that there is always one under way; each is started again until it has
/// ended well, and at last so is that of the whole graph, which by then has nothing left to do.
pub struct Import<'a> {
    world: &'a World,
    pub process: Arc<Process>,
    /// Edges still to be imported, the current part last.
    parts: Vec<String>,
    whole: String,
    runs: usize,
}

impl<'a> Import<'a> {
    pub fn new(world: &'a World, graph: &Graph, parts: usize, posts_per_user: usize) -> Self {
        let lines: Vec<&str> = graph.text.lines().collect();
        let parts = lines.chunks(lines.len().div_ceil(parts));
        let parts = parts.rev().map(|lines| lines.join("\n")).collect();
        let (file, posts) = (world.file(Self::FILE, ""), posts_per_user.to_string());
        let file = file.to_str().expect("a path in UTF-8");
        let arguments = [
            "import",
            "--undirected",
            "--edges",
            file,
            "--posts-per-user",
            &posts,
        ];
        let process = world.operator("import", "command-service", &arguments);
        Self {
            world,
            process,
            parts,
            whole: graph.text.clone(),
            runs: 0,
        }
    }

    const FILE: &'static str = "graph.edges";

    /// Goes on with the current part, or begins the next.
    pub fn keep_running(&mut self) {
        match self.process.ended() {
            Some(status) if status.success() => drop(self.parts.pop()),
            Some(_) => (),
            None if self.process.is_running() => return,
            None => (),
        }
        if let Some(part) = self.parts.last() {
            self.world.file(Self::FILE, part);
            self.runs += 1;
            self.process.start();
        }
    }

    /// Imports what is left, then everything once more. Says how often it was started in all.
    pub async fn finish(&mut self) -> usize {
        const FAILURES: usize = 5;
        // What runs may still end well; what has ended may have.
        if self.ends_well().await {
            self.parts.pop();
        }
        self.parts.insert(0, self.whole.clone());
        let mut failures = 0;
        while let Some(part) = self.parts.last() {
            self.world.file(Self::FILE, part);
            self.runs += 1;
            self.process.start();
            if self.ends_well().await {
                self.parts.pop();
            } else {
                failures += 1;
                assert!(
                    failures < FAILURES,
                    "the import does not end well:\n{}",
                    self.process.tail(20)
                );
            }
        }
        self.runs
    }

    async fn ends_well(&self) -> bool {
        let ended = self.process.wait(PATIENCE * 5).await;
        ended.is_some_and(|status| status.success())
    }
}
