//! The Postman collection through the gateway, in the long form: it needs newman, which
//! `scripts/dev.py` installs where it is missing.

use std::path::Path;

use system_tests::process::{Process, describe};
use system_tests::world::{PATIENCE, Roles};
use system_tests::{alone, is_long, root};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_postman_collection_passes_against_two_of_each_role() {
    let _alone = alone().await;
    if !is_long() {
        println!("skipped: it is for the long form");
        return;
    }
    let roles = Roles::start(&[("IP_RATE_PER_SECOND", "1000"), ("POST_QUOTA", "300")]).await;
    let program = root().join("scripts/dev.py").display().to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let address = roles.address.trim_start_matches("http://").to_owned();
    let newman = Process::new("newman", Path::new("/usr/bin/env"), folder.path())
        .arguments(["python3", &program, "postman"])
        .environment([("GATEWAY_ADDR".to_owned(), address)]);
    newman.start();
    let status = newman.wait(PATIENCE).await;
    let printed = newman.output();
    println!("{printed}");
    let status = status.unwrap_or_else(|| panic!("newman still runs after {PATIENCE:?}"));
    assert!(
        status.success(),
        "{}:\n{}",
        describe(status),
        newman.tail(60)
    );
}
