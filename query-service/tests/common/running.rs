//! A fold that can be stopped in order, or killed.

use std::time::Duration;

use shared::runtime::tasks::Tasks;

/// A running fold, in a runtime of its own as in a process of its own.
pub struct Fold {
    pub runtime: tokio::runtime::Runtime,
    pub tasks: Tasks,
}

impl Fold {
    /// Stops in order: leases are released, checkpoints written.
    pub async fn stop(self) {
        let stopped = self
            .runtime
            .spawn(async move { self.tasks.stop_and_join(Duration::from_secs(10)).await });
        stopped.await.expect("a fold that stops");
        self.runtime.shutdown_background();
    }

    /// Drops everything wherever it is: leases are held, transactions are open.
    pub fn kill(self) {
        self.runtime.shutdown_background();
    }
}
