//! The broker under test, and names for topics and groups that no other test uses.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::broker::Broker;

/// The broker under test.
pub(crate) struct Target {
    /// `host:port`.
    pub(crate) bootstrap: String,
    /// Whether it is one of ours, just started.
    pub(crate) ours: bool,
    _broker: Option<Broker>,
}

impl Target {
    /// Starts a broker, or takes the one that `ALLUVIUM_TEST_BOOTSTRAP` names.
    pub(crate) fn start() -> Self {
        if let Ok(bootstrap) = std::env::var("ALLUVIUM_TEST_BOOTSTRAP") {
            return Self { bootstrap, ours: false, _broker: None };
        }
        let broker = Broker::ephemeral();
        Self { bootstrap: broker.bootstrap.clone(), ours: true, _broker: Some(broker) }
    }
}

/// A name that starts with `what` and is used once.
pub(crate) fn fresh(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
