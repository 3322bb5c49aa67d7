//! An environment, as far as it concerns us: the texts of our variables, and what is wrong with
//! them.

use std::collections::HashMap;
use std::ffi::OsString;

use super::faults::Faults;
use super::variables::{Text, VARIABLES, Variable};

pub(super) struct Environment {
    /// By the names of variables in small letters.
    texts: HashMap<String, String>,
    /// Names of variables of OpenTelemetry that are set and that nobody here reads.
    pub unread: Vec<String>,
    pub faults: Faults,
}

impl Environment {
    pub(super) fn gather(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut faults = Faults::default();
        let (mut texts, mut unread) = (Vec::new(), Vec::new());
        for (name, value) in vars {
            let Some(name) = name.to_str() else { continue };
            if !VARIABLES.contains(&name) {
                if name.starts_with("OTEL_") && !value.is_empty() {
                    unread.push(name.to_owned());
                }
                continue;
            }
            match value.into_string() {
                Ok(value) => texts.push((name.to_owned(), value)),
                Err(_) => faults.say(name, "text in UTF-8"),
            }
        }
        // All as texts: envy's own errors print values, so it is given nothing it could refuse.
        let texts = envy::from_iter(texts).unwrap_or_default();
        unread.sort();
        Self {
            texts,
            unread,
            faults,
        }
    }

    /// What a variable is set to.
    pub(super) fn text(&self, variable: &Text) -> Option<String> {
        self.given(variable.name).map(str::to_owned)
    }

    /// A variable's value: its default where it is not set, or wrong, which is a fault.
    pub(super) fn read<T>(&mut self, variable: &Variable<T>) -> T {
        self.read_if_set(variable)
            .or_else(|| (variable.parse)(variable.default))
            .unwrap_or_else(|| unreachable!("the default of {} is valid", variable.name))
    }

    /// A variable's value; `None` where it is not set, or wrong, which is a fault.
    pub(super) fn read_if_set<T>(&mut self, variable: &Variable<T>) -> Option<T> {
        let value = (variable.parse)(self.given(variable.name)?.trim());
        if value.is_none() {
            self.faults.say(variable.name, variable.wants);
        }
        value
    }

    fn given(&self, name: &str) -> Option<&str> {
        self.texts
            .get(&name.to_ascii_lowercase())
            .map(String::as_str)
    }
}
