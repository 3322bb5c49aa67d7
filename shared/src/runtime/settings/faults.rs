//! Gathers what is wrong, so that all of it can be told at once.

use std::fmt;

/// Every fault of the environment, a line each.
#[derive(Debug, Eq, PartialEq)]
pub struct SettingsError(pub Vec<String>);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for SettingsError {}

/// The faults found so far.
#[derive(Default)]
pub(super) struct Faults(Vec<String>);

impl Faults {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value if nothing was wrong.
    pub(super) fn or<T>(self, value: T) -> Result<T, SettingsError> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(SettingsError(self.0))
        }
    }

    pub(super) fn say(&mut self, name: &str, wants: impl fmt::Display) {
        self.0.push(format!("{name} must be {wants}"));
    }
}
