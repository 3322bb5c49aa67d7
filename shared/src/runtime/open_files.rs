//! How many files, and so connections, this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// The live streams that a process has at most, and what it needs besides.
const ENOUGH: u64 = 12_000;

/// Raises the limit to what the system allows. What starts services (systemd, and so containerd 2)
/// gives 1,024 and allows half a million: the small number is for programs that know no better than
/// `select`.
///
/// Past the limit no connection is accepted: the log says so where that may happen.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // What cannot be raised stays as it is.
    let _ = setrlimit(Resource::Nofile, raised);
    if let Some(most) = getrlimit(Resource::Nofile).current
        && most < ENOUGH
    {
        warn!(
            files.most = most,
            "only {most} files may be open: the limit of this process (ulimit -n) leaves no room for {ENOUGH} connections"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_may_be_open_as_the_system_allows() {
        let before = getrlimit(Resource::Nofile);
        let low = Rlimit {
            // Other tests of this process have their files open meanwhile.
            current: before.current.map(|most| most.min(1_024) - 1),
            ..before
        };
        setrlimit(Resource::Nofile, low).unwrap();
        assert_ne!(getrlimit(Resource::Nofile).current, before.maximum);
        raise_limit();
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }
}
