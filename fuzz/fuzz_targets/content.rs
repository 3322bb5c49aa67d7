//! Posts: parsing what was parsed changes nothing, and the bound holds.

#![no_main]

use command_service::domain::text::{CONTENT_MAX, Content};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(content) = Content::parse(text) {
        assert!((1..=CONTENT_MAX).contains(&content.as_str().chars().count()));
        assert_eq!(Content::parse(content.as_str()).as_ref(), Ok(&content));
    }
});
