//! The requests that the broker answers.
//!
//! A handler is one async function from a typed request to a typed response. It never sees the socket; a partition
//! that fails is a code in the response.

use std::{net::SocketAddr, sync::Arc};

use replication::Node;

use crate::{budget::Budget, clock::Clock, config::Config, metrics::Metrics, partitions::Partitions};

/// What handlers share: one for the life of the server.
pub struct Broker {
    /// The settings.
    pub config: Config,
    /// Wall and monotonic time.
    pub clock: Clock,
    /// Topics and partitions.
    pub node: Arc<Node>,
    /// Partitions by name and id.
    pub partitions: Partitions,
    /// What is counted.
    pub metrics: Metrics,
    /// Bytes of requests and responses in memory.
    pub budget: Budget,
    /// What clients of each listener are told to connect to, in the order of the settings' listeners.
    pub endpoints: Vec<Endpoint>,
}

/// Where clients of one listener are told to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The listener's name.
    pub listener: String,
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// What a handler knows of the request besides its body.
#[derive(Clone, Debug)]
pub struct Context {
    /// Version of the API in which it came.
    pub version: i16,
    /// The client's own name; empty if it gave none.
    pub client_id: Arc<str>,
    /// Position of the listener in [`Broker::endpoints`].
    pub listener: usize,
    /// The client's address.
    pub peer: SocketAddr,
}
