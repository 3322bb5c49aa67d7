//! All ports in memory: a use case on it runs in milliseconds. `tests/store/conformance.rs` holds it
//! to the same promises as MongoDB.

mod data;
mod guards;
mod log;

pub use data::Memory;

#[path = "../../../../tests/store/conformance.rs"]
mod conformance;

mod tests {
    use std::future::{Ready, ready};
    use std::sync::Arc;

    use super::Memory;
    use super::conformance::{self, World, promises};
    use crate::app::ports::Store;

    struct InMemory {
        memory: Arc<Memory>,
        store: Store,
    }

    fn world() -> Ready<InMemory> {
        let memory = Arc::new(Memory::default());
        let store = memory.store();
        ready(InMemory { memory, store })
    }

    impl World for InMemory {
        fn store(&self) -> &Store {
            &self.store
        }

        async fn events(&self) -> usize {
            self.memory.events().len()
        }

        async fn end(self) {}
    }

    promises!(world);
}
