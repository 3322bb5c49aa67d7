//! How it goes while it goes: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Between two lines where there is no terminal.
const EVERY: Duration = Duration::from_secs(5);

pub struct Progress {
    bar: ProgressBar,
    on_terminal: bool,
    begun: Instant,
    said: Instant,
    what: String,
    done: u64,
}

impl Progress {
    pub fn begin() -> Self {
        let on_terminal = std::io::stderr().is_terminal();
        let bar = if on_terminal {
            ProgressBar::new(0)
        } else {
            ProgressBar::hidden()
        };
        let template = "{prefix:14} {bar:40} {percent:>3} %  {pos}  {elapsed}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self {
            bar,
            on_terminal,
            begun: Instant::now(),
            said: Instant::now(),
            what: String::new(),
            done: 0,
        }
    }

    /// About so much is to be done of this.
    pub fn part(&mut self, what: &str, about: u64) {
        what.clone_into(&mut self.what);
        self.done = 0;
        self.bar.reset();
        self.bar.set_prefix(self.what.clone());
        self.bar.set_length(about);
    }

    pub fn advance(&mut self, by: usize) {
        self.done += by as u64;
        self.bar.set_position(self.done);
        if !self.on_terminal && self.said.elapsed() >= EVERY {
            self.said = Instant::now();
            eprintln!("{}: {}", self.what, self.done);
        }
    }

    pub fn is_of(&self, what: &str) -> bool {
        self.what == what
    }

    pub fn finish(&self) -> Duration {
        self.bar.finish_and_clear();
        self.begun.elapsed()
    }
}
