//! Values that must not be printed.

use std::fmt;

use serde::Deserialize;

/// A value that is never printed: settings, and what callers send or are sent to prove who they
/// are.
#[derive(Clone, Deserialize)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
