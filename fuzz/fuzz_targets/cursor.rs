//! Cursors: nobody makes one without the key.

#![no_main]

use query_service::reads::cursor::{CursorKey, CursorKind};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let key = CursorKey::new([7; 32]);
    assert!(key.decode(CursorKind::Home, 1, text).is_err());
});
