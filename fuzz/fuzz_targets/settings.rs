//! The environment: a variable and its value. A fault names the variable and never repeats the
//! value.

#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use shared::runtime::settings::{Settings, VARIABLES};

libfuzzer_sys::fuzz_target!(|input: (u8, Vec<u8>)| {
    let (at, value) = input;
    let name = VARIABLES[usize::from(at) % VARIABLES.len()];
    let canary = [b"canary", &value[..]].concat();
    for value in [value, canary] {
        let vars = [(OsString::from(name), OsString::from_vec(value))];
        if let Err(faults) = Settings::from_vars(vars) {
            let said = faults.to_string();
            assert!(said.starts_with(name) && !said.contains("canary"));
        }
    }
});
