//! What every process stands on.
//!
//! * [`settings`], [`public_url`]: read once from the environment.
//! * [`telemetry`], [`error_chain`]: logs and metrics, errors on a line.
//! * [`json_lines`]: a line of the log as JSON; [`span_fields`]: what lines say of their spans;
//!   [`refused_lines`]: how many could not be written.
//! * [`failing`]: what fails again and again is told once.
//! * [`trace`]: the spans of traces; [`otlp`]: sends them, and log lines.
//! * [`metric_table`], [`metric_rows`]: what is measured, as a table; each service has rows of its own.
//! * [`mongo_errors`]: what an error of MongoDB's driver means.
//! * [`tasks`]: background tasks, spawned in one place and waited for at shutdown.
//! * [`database_clock`]: MongoDB's clock, by which ids are made.
//! * [`open_files`]: how many files and connections may be open.
//! * [`crypto`]: the one provider of cryptography, installed before anything else.

pub mod crypto;
pub mod database_clock;
pub mod error_chain;
pub mod failing;
pub mod json_lines;
pub mod metric_rows;
pub mod metric_table;
pub mod mongo_errors;
pub mod open_files;
pub mod otlp;
pub mod public_url;
pub mod refused_lines;
pub mod settings;
pub mod span_fields;
pub mod tasks;
pub mod telemetry;
pub mod trace;
