//! The documents as they are checked in. Tests of the services compare them with what the code says.

use std::path::PathBuf;

use serde_json::Value;

/// Cargo runs tests in the folder of their crate.
fn path(name: &str) -> PathBuf {
    PathBuf::from(format!("../docs/openapi/{name}.json"))
}

/// The document of this name, if there is one.
pub fn read(name: &str) -> Option<Value> {
    let text = std::fs::read_to_string(path(name)).ok()?;
    serde_json::from_str(&text).ok()
}

/// For tests of the services: the file is what the code says, or is made so if `write` is set.
///
/// # Panics
/// It is not.
pub fn assert_checked_in(name: &str, document: &Value, write: bool) {
    if write {
        let text = serde_json::to_string_pretty(document).expect("a document in JSON");
        std::fs::write(path(name), format!("{text}\n")).expect("docs/openapi can be written");
    }
    // No assert_eq: it would print both.
    let same = read(name).is_some_and(|there| there == *document);
    assert!(
        same,
        "docs/openapi/{name}.json is not what the code says: run `make openapi`"
    );
}
