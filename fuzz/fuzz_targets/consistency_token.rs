//! Consistency tokens: read or refused, and what was read reads back.

#![no_main]

use shared::contract::consistency::ConsistencyToken;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(token) = ConsistencyToken::decode(text) {
        assert_eq!(ConsistencyToken::decode(&token.encode()), Ok(token));
    }
});
