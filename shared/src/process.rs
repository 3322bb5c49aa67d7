//! What the processes of both services have in common, from settings and ports to the end.

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use clap::Parser;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::auth::keys_in_use::KeysInUse;
use crate::runtime::open_files;
use crate::runtime::otlp;
use crate::runtime::settings::Settings;
use crate::runtime::tasks::{GRACE, Tasks};
use crate::runtime::telemetry::{self, Measured};
use crate::web::ops::{OpsServer, Readiness};

/// EX_USAGE of sysexits.h: the exit code for bad settings or arguments.
pub const USAGE: u8 = 64;

/// The arguments of this process.
///
/// # Errors
/// [`USAGE`], after the fault was printed; success, after help or the version was.
pub fn arguments<A: Parser>() -> Result<A, ExitCode> {
    A::try_parse().map_err(|error| {
        // Nobody is left to be told if this cannot be printed.
        let _ = error.print();
        if error.use_stderr() {
            ExitCode::from(USAGE)
        } else {
            ExitCode::SUCCESS
        }
    })
}

/// The settings of this process of `service`, after which it logs and traces as they say.
///
/// # Errors
/// [`USAGE`], after all faults were printed.
pub async fn settings(service: &str) -> Result<Settings, ExitCode> {
    let settings = Settings::from_env().await.map_err(|faults| {
        eprintln!("{faults}");
        ExitCode::from(USAGE)
    })?;
    telemetry::init(service, &settings);
    Ok(settings)
}

/// The last act of a process: what is still to be sent of its traces and logs is sent, for two
/// seconds at most, and what is still to be written of its log is written, for one. To be called
/// outside of the runtime.
pub fn end() {
    otlp::finish();
    telemetry::finish();
}

/// A port cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listen on {0}: is the port taken?")]
pub struct BindError(SocketAddr, #[source] std::io::Error);

/// The task of a process that failed is named in the log.
#[derive(Debug, thiserror::Error)]
#[error("a background task failed")]
pub struct TaskFailed;

/// The ports of a process.
#[derive(Debug)]
pub struct Ports {
    pub api: TcpListener,
    pub ops: TcpListener,
}

impl Ports {
    /// Binds both; port 0 takes a free one.
    pub fn bind(api: SocketAddr, ops: SocketAddr) -> Result<Self, BindError> {
        let bind = |addr| TcpListener::bind(addr).map_err(|error| BindError(addr, error));
        Ok(Self {
            api: bind(api)?,
            ops: bind(ops)?,
        })
    }

    /// Where the API and the operator's port are.
    pub fn addresses(&self) -> std::io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.api.local_addr()?, self.ops.local_addr()?))
    }
}

/// What a running process has, whatever its service.
#[derive(Debug)]
pub struct Process {
    pub readiness: Readiness,
    /// Shown on the operator's port.
    pub keys: KeysInUse,
    pub tasks: Tasks,
    /// Fires when the process begins to end: each answer is the last of its connection.
    pub draining: CancellationToken,
    /// Fires when no more requests are taken: what would go on for ever ends.
    pub drained: CancellationToken,
    drain: Duration,
    ops: OpsServer,
}

impl Process {
    /// Measures, and answers probes from here on: not ready while any of `conditions` does not hold.
    /// Asked to stop, it takes requests for as long as `drain`.
    pub fn begin(
        ops: TcpListener,
        drain: Duration,
        conditions: &[&str],
        measured: &Measured,
    ) -> std::io::Result<Self> {
        open_files::raise_limit();
        let readiness = Readiness::default();
        for condition in conditions {
            readiness.expect(*condition);
        }
        let keys = KeysInUse::default();
        Ok(Self {
            ops: OpsServer::start(ops, readiness.clone(), keys.clone(), measured)?,
            readiness,
            keys,
            tasks: Tasks::default(),
            draining: CancellationToken::new(),
            drained: CancellationToken::new(),
            drain,
        })
    }

    /// Goes on until `stop`, or until a task fails. From then on it is not ready. If it was asked
    /// to stop, it still takes requests until whoever sends them can have noticed. Then requests in
    /// flight are answered, and tasks end. Where nothing could be started they end at once.
    ///
    /// # Errors
    /// What kept it from starting, or [`TaskFailed`].
    pub async fn run_until<E: From<TaskFailed>>(
        self,
        stop: &CancellationToken,
        started: Result<Option<ServerHandle>, E>,
    ) -> Result<(), E> {
        let (server, mut outcome) = match started {
            Ok(server) => {
                let failure = self.tasks.failure();
                let outcome = tokio::select! {
                    () = stop.cancelled() => Ok(()),
                    () = failure.cancelled() => Err(TaskFailed.into()),
                };
                (server, outcome)
            }
            Err(error) => (None, Err(error)),
        };
        info!("shutting down");
        self.readiness.withdraw();
        self.draining.cancel();
        if server.is_some() && outcome.is_ok() {
            let failure = self.tasks.failure();
            tokio::select! {
                () = tokio::time::sleep(self.drain) => (),
                () = failure.cancelled() => outcome = Err(TaskFailed.into()),
            }
        }
        self.drained.cancel();
        if let Some(server) = server {
            server.stop(true).await;
        }
        self.tasks.stop_and_join(GRACE).await;
        self.ops.stop().await;
        outcome
    }
}
