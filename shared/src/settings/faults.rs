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

    /// The value of a variable; the default where it is not set, or wrong, which is then a fault.
    pub(super) fn read<T>(
        &mut self,
        name: &str,
        given: Option<String>,
        default: &str,
        wants: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> T {
        let parsed = given.as_deref().map(|text| parse(text.trim()));
        if let Some(Some(value)) = parsed {
            return value;
        }
        if parsed.is_some() {
            self.say(name, wants);
        }
        parse(default).unwrap_or_else(|| unreachable!("the default of {name} is valid"))
    }
}
