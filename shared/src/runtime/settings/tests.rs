//! Settings as an environment gives them.

use super::*;
use proptest::prelude::*;

fn read(vars: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    Settings::from_vars(vars.iter().map(|(name, value)| (name.into(), value.into())))
}

#[test]
fn an_empty_environment_gives_the_documented_defaults() {
    let settings = read(&[("PATH", "/bin")]).unwrap();
    assert_eq!(settings.partitions.count(), 4);
    assert_eq!(
        settings.jwks_url,
        "http://127.0.0.1:8081/.well-known/jwks.json"
    );
    assert_eq!(settings.cors_origins, CorsOrigins::None);
    assert_eq!(settings.stream_heartbeat, Duration::from_secs(15));
    assert_eq!(settings.public_url, PublicUrl::default());
    assert_eq!(settings.log_filter, "info,async_nats=off");
}

#[test]
fn where_the_operator_s_port_is_depends_on_no_other_setting() {
    let read = |port: OpsPort, vars: &[(&str, &str)]| {
        port.read_vars(vars.iter().map(|(name, value)| (name.into(), value.into())))
    };
    let bad = ("MONGODB_URI", "nonsense");
    let address = read(OpsPort::Query, &[bad, ("QUERY_OPS_ADDR", " 0.0.0.0:1 ")]);
    assert_eq!(address.unwrap().to_string(), "0.0.0.0:1");
    let address = read(OpsPort::Command, &[bad, ("QUERY_OPS_ADDR", "nonsense")]);
    assert_eq!(address.unwrap().to_string(), "127.0.0.1:9081");
    let SettingsError(faults) = read(OpsPort::Query, &[("QUERY_OPS_ADDR", "x")]).unwrap_err();
    assert_eq!(faults.len(), 1);
    assert!(faults[0].starts_with("QUERY_OPS_ADDR must be an address"));
}

#[test]
fn a_public_url_is_absolute_and_bears_a_path() {
    let below = |text: &str| {
        let settings = read(&[("PUBLIC_URL", text)]);
        settings.map(|settings| settings.public_url.to("/x"))
    };
    assert_eq!(below(" ").unwrap(), "/x");
    assert_eq!(
        below(" http://example.org:8080/social/ ").unwrap(),
        "http://example.org:8080/social/x"
    );
    assert!(below("/social").is_err());
}

#[test]
fn the_client_of_nats_is_heard_only_where_the_filter_names_it() {
    let filter = |text: &str| read(&[("RUST_LOG", text)]).unwrap().log_filter;
    assert_eq!(filter("debug"), "debug,async_nats=off");
    assert_eq!(filter("info,async_nats=debug"), "info,async_nats=debug");
    assert_eq!(filter(""), "async_nats=off");
}

#[test]
fn every_bad_value_is_named_at_once_and_never_printed() {
    const CANARY: &str = "canary secret!";
    let bad: Vec<_> = VARIABLES
        .iter()
        .filter(|name| !["JWT_PRIVATE_KEY_FILE", "RUST_LOG"].contains(name))
        .map(|name| (*name, CANARY))
        .chain([("JWT_PRIVATE_KEY_FILE", ""), ("RUST_LOG", "==canary==[")])
        .collect();
    let SettingsError(faults) = read(&bad).unwrap_err();
    for name in VARIABLES {
        assert!(
            faults
                .iter()
                .any(|fault| fault.starts_with(&format!("{name} must be "))),
            "{name}"
        );
    }
    assert!(!faults.join("\n").contains("canary"));
}

/// Found by fuzzing.
#[test]
fn a_filter_with_letters_its_parser_does_not_expect_is_named() {
    for filter in ["é[a]", "info,[ü{x", "\u{a01}[11*\u{11}{7"] {
        let SettingsError(faults) = read(&[("RUST_LOG", filter)]).unwrap_err();
        assert!(faults[0].starts_with("RUST_LOG must be "), "{faults:?}");
    }
}

#[test]
fn a_value_that_is_not_utf_8_is_named_and_another_program_s_is_ignored() {
    use std::os::unix::ffi::OsStringExt;
    let bytes = || OsString::from_vec(vec![0xff]);
    let vars = vec![
        (OsString::from("OTHER"), bytes()),
        (OsString::from("PARTITIONS"), bytes()),
    ];
    let SettingsError(faults) = Settings::from_vars(vars).unwrap_err();
    assert_eq!(faults, ["PARTITIONS must be text in UTF-8"]);
}

#[test]
fn secrets_are_not_printed() {
    let settings = read(&[("MONGODB_URI", "mongodb://me:canary@localhost")]).unwrap();
    assert!(!format!("{settings:?}").contains("canary"));
}

proptest! {
    #[test]
    fn any_text_is_a_setting_or_a_fault_that_does_not_repeat_it(
        at in 0..VARIABLES.len(),
        text in "[!-~]{0,40}",
        any in "\\PC{0,40}",
    ) {
        let _ = read(&[(VARIABLES[at], &any)]);
        let text = format!("{text}canary{text}");
        if let Err(SettingsError(faults)) = read(&[(VARIABLES[at], &text)]) {
            prop_assert!(faults.iter().any(|fault| fault.starts_with(VARIABLES[at])));
            prop_assert!(!faults.join("\n").contains("canary"));
        }
    }
}

#[test]
fn networks_are_read_with_and_without_a_prefix() {
    let settings = read(&[("TRUSTED_PROXIES", "10.0.0.0/8, ::1,")]).unwrap();
    assert_eq!(settings.trusted_proxies.len(), 2);
    for wrong in ["10.0.0.0/33", "10.0.0.0/", "010.0.0.0/8", "/8"] {
        assert!(read(&[("TRUSTED_PROXIES", wrong)]).is_err(), "{wrong}");
    }
}

/// Defaults that depend on others, or that are nothing, are described in words.
#[test]
fn the_documentation_lists_every_variable_with_its_default() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/settings.md");
    let page = std::fs::read_to_string(page).unwrap();
    for (name, default) in VARIABLES.into_iter().zip(DEFAULTS) {
        let rows = page.lines().filter(|line| line.starts_with('|'));
        let mut cells = rows.map(|row| row.split('|').skip(1).map(str::trim));
        let quoted = format!("`{name}`");
        let row = cells.find_map(|mut row| row.next()?.contains(&quoted).then(|| row.next()));
        let documented = row.flatten().map(|cell| cell.trim_matches('`'));
        assert!(documented.is_some(), "{name} is not in docs/settings.md");
        if !default.is_empty() {
            assert_eq!(documented, Some(default), "{name}");
        }
    }
}
