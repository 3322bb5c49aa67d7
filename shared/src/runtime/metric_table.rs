//! The table of metrics: what each is called, what it counts, and which label values it may have.
//!
//! Both services record through rows of it and no other way (`clippy.toml` bans the macros of the
//! metrics crate), so that nothing is recorded that operators are not told of. Three things follow
//! from a row at the start of a process: its description (`# HELP`), the buckets of a histogram
//! (without them the exporter makes a summary, of its last few values only), and its counters at 0:
//! `increase()` does not see a counter that is born at 1.

use metrics::{Key, KeyName, Label as KeyLabel, Level, Metadata, SharedString, Unit};

/// Durations of requests in seconds: from a cache hit to a request that was given up.
pub const LATENCIES: &[f64] = &[
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Durations in seconds of what goes through the log, the stream and the fold, and may wait for an
/// engine.
pub const DELAYS: &[f64] = &[
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0,
];
/// How many of something, from none to all that follow a celebrity.
pub const SIZES: &[f64] = &[
    0.0,
    1.0,
    10.0,
    50.0,
    100.0,
    500.0,
    1_000.0,
    5_000.0,
    10_000.0,
    100_000.0,
    1_000_000.0,
];

/// The route of a request that no route matches: one series, whatever the path.
pub const UNMATCHED: &str = "unmatched";

/// What a metric is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The values that a label may have. No id, name or path is ever one.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    /// These and no others.
    Listed(&'static [&'static str]),
    /// The patterns of the service's routes, and [`UNMATCHED`].
    Routes,
    /// HTTP status codes.
    Statuses,
    /// The numbers of the partitions.
    Partitions,
    /// What this build is: one value in each process.
    Build,
}

impl Values {
    fn allow(self, value: &str) -> bool {
        match self {
            Self::Listed(listed) => listed.contains(&value),
            Self::Routes => value == UNMATCHED || value.starts_with('/'),
            Self::Statuses => matches!(value.parse::<u16>(), Ok(100..=599)),
            Self::Partitions => value.parse::<u16>().is_ok(),
            Self::Build => true,
        }
    }

    fn told(self) -> String {
        match self {
            Self::Listed(listed) => listed.join(", "),
            Self::Routes => format!("patterns of the routes, {UNMATCHED}"),
            Self::Statuses => "status codes".to_owned(),
            Self::Partitions => "0 to `PARTITIONS` - 1".to_owned(),
            Self::Build => "one in each build".to_owned(),
        }
    }
}

/// A label and its values.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    pub name: &'static str,
    pub values: Values,
}

/// A metric.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub name: &'static str,
    pub kind: Kind,
    /// What it counts, in the plural.
    pub unit: &'static str,
    pub help: &'static str,
    pub labels: &'static [Label],
    /// Of a histogram.
    pub buckets: &'static [f64],
}

static METADATA: Metadata<'static> = Metadata::new("microblog", Level::INFO, None);

impl Row {
    /// The series with these label values, in the order of the row's labels.
    fn key<const N: usize, V: Into<SharedString>>(&self, values: [V; N]) -> Key {
        debug_assert_eq!(
            N,
            self.labels.len(),
            "{}: a value for each label",
            self.name
        );
        let pairs = self.labels.iter().zip(values);
        let labels: Vec<KeyLabel> = pairs
            .map(|(label, value)| {
                let value = value.into();
                debug_assert!(
                    label.values.allow(&value),
                    "{}: the label {} is never {value}",
                    self.name,
                    label.name
                );
                KeyLabel::new(label.name, value)
            })
            .collect();
        Key::from_parts(self.name, labels)
    }

    fn description(&self) -> String {
        format!("{} [{}]", self.help, self.unit)
    }

    /// Describes it.
    pub(super) fn describe(&self) {
        let name = KeyName::from_const_str(self.name);
        let unit = match self.unit {
            "seconds" => Unit::Seconds,
            "bytes" => Unit::Bytes,
            _ => Unit::Count,
        };
        let (unit, help) = (Some(unit), self.description().into());
        metrics::with_recorder(|recorder| match self.kind {
            Kind::Counter => recorder.describe_counter(name, unit, help),
            Kind::Gauge => recorder.describe_gauge(name, unit, help),
            Kind::Histogram => recorder.describe_histogram(name, unit, help),
        });
    }

    /// Makes its series, all of which are known from the start. A gauge is not 0 because nobody has
    /// set it yet.
    pub(super) fn begin_at_zero(&self, partitions: u16) {
        let Some(series) = self.series(partitions) else {
            return;
        };
        for labels in series {
            let key = Key::from_parts(self.name, labels);
            metrics::with_recorder(|recorder| match self.kind {
                Kind::Counter => drop(recorder.register_counter(&key, &METADATA)),
                Kind::Histogram => drop(recorder.register_histogram(&key, &METADATA)),
                Kind::Gauge => (),
            });
        }
    }

    /// Every combination of its labels' values; `None` where those of one are too many.
    fn series(&self, partitions: u16) -> Option<Vec<Vec<KeyLabel>>> {
        let mut all = vec![Vec::new()];
        for label in self.labels {
            let values: Vec<SharedString> = match label.values {
                Values::Listed(listed) => listed.iter().map(|it| (*it).into()).collect(),
                Values::Partitions => (0..partitions).map(|it| it.to_string().into()).collect(),
                Values::Routes | Values::Statuses | Values::Build => return None,
            };
            let longer = all.iter().flat_map(|before: &Vec<KeyLabel>| {
                values.iter().map(|value| {
                    let mut labels = before.clone();
                    labels.push(KeyLabel::new(label.name, value.clone()));
                    labels
                })
            });
            all = longer.collect();
        }
        Some(all)
    }

    /// Its line in `docs/metrics.md`.
    pub fn line(&self) -> String {
        let labels = self.labels.iter().map(|label| {
            let told = label.values.told();
            format!("`{}`: {told}", label.name)
        });
        let labels: Vec<String> = labels.collect();
        format!(
            "| `{}` | {}, {} | {} | {} |",
            self.name,
            self.kind.name(),
            self.unit,
            labels.join("; "),
            self.help
        )
    }
}

/// For tests: `docs`, which is `docs/metrics.md`, is the table for people.
///
/// # Panics
/// A row's line is not in it as the row says it.
pub fn assert_documented(docs: &str, rows: &[&Row]) {
    let lines = rows.iter().map(|row| row.line());
    let missing: Vec<String> = lines
        .filter(|line| !docs.lines().any(|told| told == line))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/metrics.md lacks\n{}",
        missing.join("\n")
    );
}

macro_rules! kinds {
    ($($kind:ident $handle:ident $register:ident;)*) => { $(
        /// A row of the table, of this kind.
        #[derive(Clone, Copy, Debug)]
        pub struct $kind(pub Row);

        impl $kind {
            /// Its only series.
            pub fn only(&self) -> metrics::$handle {
                self.of::<0, &'static str>([])
            }

            /// The series with these label values, in the order of the row's labels. In debug
            /// builds it panics at a value that the row does not list.
            pub fn of<const N: usize, V: Into<SharedString>>(
                &self,
                values: [V; N],
            ) -> metrics::$handle {
                let key = self.0.key(values);
                metrics::with_recorder(|recorder| recorder.$register(&key, &METADATA))
            }
        }
    )* };
}

kinds! {
    Counter Counter register_counter;
    Gauge Gauge register_gauge;
    Histogram Histogram register_histogram;
}

/// Writes a part of the table: a static of the right kind for each row, and `ROWS` with all.
#[macro_export]
macro_rules! metric_rows {
    (@buckets) => { &[] };
    (@buckets $buckets:expr) => { $buckets };
    ($(
        $row:ident: $kind:ident $(($buckets:expr))? $name:literal $unit:literal
        [$($label:literal: $values:expr),*] $help:literal;
    )*) => {
        $(
            #[doc = $help]
            pub static $row: $crate::runtime::metric_table::$kind =
                $crate::runtime::metric_table::$kind($crate::runtime::metric_table::Row {
                    name: $name,
                    kind: $crate::runtime::metric_table::Kind::$kind,
                    unit: $unit,
                    help: $help,
                    labels: &[$($crate::runtime::metric_table::Label {
                        name: $label,
                        values: $values,
                    }),*],
                    buckets: $crate::metric_rows!(@buckets $($buckets)?),
                });
        )*

        /// All rows of this part.
        pub static ROWS: &[&$crate::runtime::metric_table::Row] = &[$(&$row.0),*];
    };
}
