//! Messages of the broker: read or refused, and what was read reads back.

#![no_main]

use shared::contract::events::Event;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(event) = Event::decode(bytes) {
        assert_eq!(Event::decode(&event.encode()).ok(), Some(event));
    }
});
