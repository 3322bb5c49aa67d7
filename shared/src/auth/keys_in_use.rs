//! Which keys a process works with, for whoever rotates them: `/keys` of the operator's port.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

/// Cloning gives another handle on the same.
#[derive(Clone, Debug, Default)]
pub struct KeysInUse(Arc<Mutex<Ids>>);

/// Ids of keys are fingerprints of what is public.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Ids {
    /// Which key signs; none in a process that signs nothing.
    signs: Option<String>,
    /// Whose tokens are accepted.
    verifies: BTreeSet<String>,
}

impl KeysInUse {
    pub fn ids(&self) -> Ids {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Says which key signs from now on.
    pub fn sign(&self, key: Option<String>) {
        let mut ids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ids.signs = key;
    }

    /// Says whose tokens are accepted from now on.
    pub(super) fn verify(&self, keys: BTreeSet<String>) {
        let mut ids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ids.verifies = keys;
    }
}
