//! How an import goes: a bar on a terminal, a line now and then elsewhere, and a summary.

use std::fmt;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Between two lines where there is no terminal.
const EVERY: Duration = Duration::from_secs(5);

/// What is counted apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    Users,
    Follows,
    Posts,
    Likes,
    Reposts,
}

const KINDS: [Kind; 5] = [
    Kind::Users,
    Kind::Follows,
    Kind::Posts,
    Kind::Likes,
    Kind::Reposts,
];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Follows => "follows",
            Self::Posts => "posts",
            Self::Likes => "likes",
            Self::Reposts => "reposts",
        }
    }
}

/// How it went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    appended: [u64; KINDS.len()],
    already_there: u64,
    refused: u64,
    took: Duration,
}

impl Summary {
    pub fn appended(&self) -> u64 {
        self.appended.iter().sum()
    }

    pub fn appended_of(&self, kind: Kind) -> u64 {
        self.appended[kind as usize]
    }

    pub fn already_there(&self) -> u64 {
        self.already_there
    }

    pub fn refused(&self) -> u64 {
        self.refused
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64().max(0.001);
        if self.appended() == 0 {
            f.write_str("nothing appended")?;
        } else {
            let parts = KINDS.iter().filter(|kind| self.appended_of(**kind) > 0);
            let parts = parts.map(|kind| format!("{} {}", self.appended_of(*kind), kind.name()));
            write!(f, "appended {}", parts.collect::<Vec<_>>().join(", "))?;
        }
        write!(
            f,
            "; {} already there, {} refused; {} events in {seconds:.1} s, {:.0} events/s",
            self.already_there,
            self.refused,
            self.appended(),
            // Counts far below 2^52 keep their value.
            self.appended() as f64 / seconds,
        )
    }
}

/// Tells how it goes while it goes.
pub struct Report {
    summary: Summary,
    started: Instant,
    bar: ProgressBar,
    voice: Voice,
    said: Instant,
    what: &'static str,
    total: u64,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Voice {
    Bar,
    Lines,
}

impl Report {
    /// A bar if standard error is a terminal, lines if not.
    pub fn on_terminal() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self::new(if terminal { Voice::Bar } else { Voice::Lines })
    }

    fn new(voice: Voice) -> Self {
        let bar = if voice == Voice::Bar {
            ProgressBar::new(0)
        } else {
            ProgressBar::hidden()
        };
        let template = "{prefix:8} {bar:40} {percent:>3} %  {msg}  {elapsed} / {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self {
            summary: Summary::default(),
            started: Instant::now(),
            bar,
            voice,
            said: Instant::now(),
            what: "",
            total: 0,
        }
    }

    /// A pass begins, over `total` of whatever it advances by.
    pub fn begin(&mut self, what: &'static str, total: u64) {
        (self.what, self.total) = (what, total);
        self.bar.reset();
        self.bar.set_prefix(what);
        self.bar.set_length(total);
    }

    pub fn advance(&mut self, position: u64) {
        let appended = self.summary.appended();
        self.bar.set_position(position);
        self.bar.set_message(format!("{appended} events"));
        if self.voice == Voice::Lines && self.said.elapsed() >= EVERY {
            let percent = position * 100 / self.total.max(1);
            self.say(&format!(
                "{}: {percent} %, {appended} events appended",
                self.what
            ));
        }
    }

    pub fn appended(&mut self, kind: Kind, count: u64) {
        self.summary.appended[kind as usize] += count;
    }

    pub fn already_there(&mut self, count: u64) {
        self.summary.already_there += count;
    }

    /// A line is not loaded, and why.
    pub fn refused(&mut self, line: u64, why: &str) {
        self.summary.refused += 1;
        self.say(&format!("line {line}: {why}"));
    }

    pub fn say(&mut self, text: &str) {
        self.said = Instant::now();
        match self.voice {
            Voice::Bar => self.bar.suspend(|| eprintln!("{text}")),
            Voice::Lines => eprintln!("{text}"),
        }
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    pub fn summary(&self) -> Summary {
        Summary {
            took: self.started.elapsed(),
            ..self.summary
        }
    }
}
