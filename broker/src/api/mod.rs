//! The requests that the broker answers: one file per API, and here the table that leads to them.
//!
//! A handler is one async function from a typed request to a typed response. It never sees the socket; a partition
//! that fails is a code in the response. Produce alone is no async function: it is submitted and answered by the
//! connection itself (`produce/pending.rs`), so that a batch costs no task.
//!
//! ```text
//! frame -> key, version -> [`APIS`] -> header -> body -> handler -> response -> pieces
//! ```

use std::{future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use bytes::Bytes;
use prometheus::Histogram;
use replication::{CompletionQueue, Node, metadata::BrokerInfo};

use crate::{
    budget::Budget,
    clock::Clock,
    config::Config,
    connection::Close,
    limits::Limits,
    metrics::Metrics,
    output::Answer,
    partitions::Partitions,
    protocol::{
        DecodeError, Request, RequestHeader, Str, decode_request, encode_response,
        header::key_and_version,
        messages::{
            api_versions::ApiVersionsRequest, create_topics::CreateTopicsRequest,
            delete_groups::DeleteGroupsRequest, delete_topics::DeleteTopicsRequest,
            describe_cluster::DescribeClusterRequest, describe_configs::DescribeConfigsRequest,
            describe_groups::DescribeGroupsRequest, fetch::FetchRequest,
            find_coordinator::FindCoordinatorRequest, heartbeat::HeartbeatRequest,
            init_producer_id::InitProducerIdRequest, join_group::JoinGroupRequest,
            leave_group::LeaveGroupRequest, list_groups::ListGroupsRequest, list_offsets::ListOffsetsRequest,
            metadata::MetadataRequest, offset_commit::OffsetCommitRequest, offset_fetch::OffsetFetchRequest,
            offset_for_leader_epoch::OffsetForLeaderEpochRequest, produce::ProduceRequest,
            sync_group::SyncGroupRequest,
        },
    },
    state_machines::Coordinators,
    stopping::Stopping,
};

pub mod api_versions;
mod create_topics;
pub mod delete_groups;
mod delete_topics;
mod describe_cluster;
mod describe_configs;
pub mod describe_groups;
pub mod fetch;
pub mod find_coordinator;
pub mod heartbeat;
pub mod init_producer_id;
pub mod join_group;
pub mod leave_group;
pub mod list_groups;
pub mod list_offsets;
mod metadata;
pub mod offset_commit;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
pub mod produce;
pub mod sync_group;

use produce::PendingProduce;

/// An API that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Api {
    /// Kafka's name.
    pub name: &'static str,
    /// Its number.
    pub key: i16,
    /// Lowest version told to clients.
    pub min: i16,
    /// Highest version.
    pub max: i16,
    /// Lowest version that is really served: Produce tells 0 for the sake of old librdkafka (KAFKA-18659).
    pub served_from: i16,
}

macro_rules! apis {
    ($($name:literal $request:ty, $min:literal..=$max:literal, $handler:expr;)*) => {
        /// Everything that is served, by key; what ApiVersions tells and README shows.
        pub const APIS: &[Api] = &[
            Api {
                name: "Produce",
                key: ProduceRequest::KEY,
                min: 0,
                max: 13,
                served_from: 3,
            },
            $(Api {
                name: $name,
                key: <$request as Request>::KEY,
                min: $min,
                max: $max,
                served_from: $min,
            },)*
        ];

        /// Starts the handler of a request other than Produce.
        fn start_task(
            broker: &Arc<Broker>,
            context: &Context,
            header: RequestHeader,
            body: crate::protocol::Reader,
        ) -> Result<Pin<Box<dyn Future<Output = Handled> + Send>>, DecodeError> {
            match header.api_key {
                $(<$request as Request>::KEY => {
                    let request: $request = decode_request(body)?;
                    let (broker, context) = (Arc::clone(broker), context.clone());
                    Ok(Box::pin(async move {
                        let response = $handler(&broker, &context, request).await;
                        let pieces = encode_response::<$request>(&response, header.api_version, header.correlation_id);
                        Ok(Answer { pieces })
                    }))
                })*
                _ => Err(DecodeError::Malformed("an API without a handler")),
            }
        }

        fn flexible_from(key: i16) -> i16 {
            match key {
                $(<$request as Request>::KEY => <$request as Request>::FLEXIBLE,)*
                _ => ProduceRequest::FLEXIBLE,
            }
        }
    };
}

apis! {
    "Fetch" FetchRequest, 4..=17, fetch::handle;
    "ListOffsets" ListOffsetsRequest, 1..=10, list_offsets::handle;
    "Metadata" MetadataRequest, 0..=13, metadata::handle;
    "OffsetCommit" OffsetCommitRequest, 2..=9, offset_commit::handle;
    "OffsetFetch" OffsetFetchRequest, 1..=9, offset_fetch::handle;
    "FindCoordinator" FindCoordinatorRequest, 0..=5, find_coordinator::handle;
    "JoinGroup" JoinGroupRequest, 0..=9, join_group::handle;
    "Heartbeat" HeartbeatRequest, 0..=4, heartbeat::handle;
    "LeaveGroup" LeaveGroupRequest, 0..=5, leave_group::handle;
    "SyncGroup" SyncGroupRequest, 0..=5, sync_group::handle;
    "DescribeGroups" DescribeGroupsRequest, 0..=6, describe_groups::handle;
    "ListGroups" ListGroupsRequest, 0..=5, list_groups::handle;
    "ApiVersions" ApiVersionsRequest, 0..=4, api_versions::handle;
    "CreateTopics" CreateTopicsRequest, 0..=7, create_topics::handle;
    "DeleteTopics" DeleteTopicsRequest, 0..=6, delete_topics::handle;
    "InitProducerId" InitProducerIdRequest, 0..=5, init_producer_id::handle;
    "OffsetForLeaderEpoch" OffsetForLeaderEpochRequest, 2..=4, offset_for_leader_epoch::handle;
    "DescribeConfigs" DescribeConfigsRequest, 0..=4, describe_configs::handle;
    "DeleteGroups" DeleteGroupsRequest, 0..=2, delete_groups::handle;
    "DescribeCluster" DescribeClusterRequest, 0..=2, describe_cluster::handle;
}

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
    /// Bytes of requests in memory.
    pub budget: Budget,
    /// Held from the look at the system's limits until the topics are there: creations that run side by side must not
    /// exceed them together.
    pub creations: tokio::sync::Mutex<()>,
    /// What the operating system allows.
    pub limits: Limits,
    /// What clients of each listener are told to connect to, in the order of the settings' listeners.
    pub endpoints: Vec<Endpoint>,
    /// The signal that the server stops.
    pub stopping: Arc<Stopping>,
    /// The coordinators of groups.
    pub coordinators: Coordinators,
    /// The runtime of handlers and coordinators.
    pub runtime: tokio::runtime::Handle,
    /// Incremental fetch sessions.
    pub fetch_sessions: fetch::session::Sessions,
}

impl Broker {
    /// Everything that handlers share, over a node that has started.
    ///
    /// # Errors
    /// Two metrics of one name: a mistake in `metrics.rs`.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn new(
        config: Config,
        clock: Clock,
        node: Arc<Node>,
        endpoints: Vec<Endpoint>,
        limits: Limits,
        stopping: Arc<Stopping>,
        fsync_seconds: Histogram,
    ) -> prometheus::Result<Self> {
        let names: Vec<&'static str> = APIS.iter().map(|api| api.name).collect();
        Ok(Self {
            partitions: Partitions::new(Arc::clone(&node), config.node_id, config.log_defaults.clone()),
            metrics: Metrics::new(&names, fsync_seconds)?,
            budget: Budget::new(config.queued_max_bytes),
            creations: tokio::sync::Mutex::default(),
            coordinators: Coordinators::new(&config),
            runtime: tokio::runtime::Handle::current(),
            fetch_sessions: fetch::session::Sessions::new(config.fetch_session_slots),
            config,
            clock,
            node,
            limits,
            endpoints,
            stopping,
        })
    }
}

impl Broker {
    /// Where clients of the listener at this position reach a broker: what it tells clients of its listener of that name. None where it
    /// has no such listener, which cannot be of this broker itself.
    pub(crate) fn reached(&self, broker: &BrokerInfo, listener: usize) -> Option<(Str, i32)> {
        let own = &self.endpoints[listener];
        if broker.id == self.config.node_id {
            return Some((Str::from(own.host.as_str()), i32::from(own.port)));
        }
        let (_, host, port) = broker.endpoints.iter().find(|(name, ..)| *name == own.listener)?;
        Some((Str::from(host.as_str()), i32::from(*port)))
    }
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
    pub client_id: Str,
    /// Software name and version, if the client told them on this connection (ApiVersions v3).
    pub software: Str,
    /// Position of the listener in [`Broker::endpoints`].
    pub listener: usize,
    /// The client's address.
    pub peer: SocketAddr,
    /// Bytes of the request.
    pub frame_bytes: usize,
}

impl Context {
    /// Of a connection that sent nothing so far.
    pub fn new(peer: SocketAddr, listener: usize) -> Self {
        let (client_id, software) = (Str::default(), Str::default());
        Self { version: 0, client_id, software, listener, peer, frame_bytes: 0 }
    }
}

/// What a handler ends with: an answer, or the end of the connection.
pub type Handled = Result<Answer, Close>;

/// A request that was taken on.
pub enum Started {
    /// Its batches are submitted.
    Produce(PendingProduce),
    /// Its handler is to be polled.
    Task {
        /// Position in [`APIS`].
        api: usize,
        /// The handler.
        future: Pin<Box<dyn Future<Output = Handled> + Send>>,
    },
}

/// Whether a frame is a Produce request.
pub fn is_produce(frame: &[u8]) -> bool {
    key_and_version(frame).is_some_and(|(key, _)| key == ProduceRequest::KEY)
}

/// In builds for tests, requests of this client panic: to see what a panic ends.
#[cfg(debug_assertions)]
pub const PANIC_CLIENT_ID: &str = "alluvium-test-panic";

/// Whether an API's handler has copied what it needs of the request once it waits: what is held by a rebalance for minutes
/// must not keep others from being read.
pub fn lets_go_of_frame(api: usize) -> bool {
    [JoinGroupRequest::KEY, SyncGroupRequest::KEY].contains(&APIS[api].key)
}

/// Whether the answer may wait for what others do.
pub fn may_wait(api: usize) -> bool {
    lets_go_of_frame(api) || APIS[api].key == FetchRequest::KEY
}

/// The position in [`APIS`] of an API.
fn position(key: i16) -> Option<usize> {
    APIS.iter().position(|api| api.key == key)
}

/// Takes on the request in a frame. `number` is what a produce is called in its completions.
///
/// # Errors
/// What the connection has to be closed for.
pub fn start(
    broker: &Arc<Broker>,
    context: &mut Context,
    frame: Bytes,
    number: u64,
    completions: &Arc<CompletionQueue>,
) -> Result<Started, Close> {
    let Some((key, version)) = key_and_version(&frame) else {
        let reason = format!("a frame of {} bytes", frame.len());
        return Err(Close::Malformed { api: "request header", version: -1, reason });
    };
    let unsupported =
        |name: &'static str, client_id: String| Close::Unsupported { api: name, key, version, client_id };
    let Some(api) = position(key) else {
        return Err(unsupported("unknown", client_of(&frame, context)));
    };
    let row = APIS[api];
    let correlation_id = frame.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes);
    if key == ApiVersionsRequest::KEY
        && !(row.served_from..=row.max).contains(&version)
        && let Some(correlation_id) = correlation_id
    {
        let pieces = encode_response::<ApiVersionsRequest>(&api_versions::unsupported(), 0, correlation_id);
        return Ok(Started::Task { api, future: Box::pin(std::future::ready(Ok(Answer { pieces }))) });
    }
    if version < row.served_from || version > row.max {
        return Err(unsupported(row.name, client_of(&frame, context)));
    }
    let malformed =
        |error: DecodeError| Close::Malformed { api: row.name, version, reason: error.to_string() };
    context.version = version;
    context.frame_bytes = frame.len();
    let (header, body) = RequestHeader::decode(frame, flexible_from(key)).map_err(malformed)?;
    if context.client_id != header.client_id {
        // A copy: the connection keeps it, and a slice would keep the whole buffer that the frame came in.
        context.client_id = Str::from(&*header.client_id);
    }
    #[cfg(debug_assertions)]
    assert!(&*context.client_id != PANIC_CLIENT_ID, "a client asked for it");
    if key == ProduceRequest::KEY {
        let request: ProduceRequest = decode_request(body).map_err(malformed)?;
        let produce = produce::start(broker, context, header.correlation_id, request, number, completions)?;
        return Ok(Started::Produce(PendingProduce { api, ..produce }));
    }
    if key == ApiVersionsRequest::KEY {
        context.software = software(&body);
    }
    let future = start_task(broker, context, header, body).map_err(malformed)?;
    Ok(Started::Task { api, future })
}

/// What an ApiVersions request says of the client's software, for the log.
fn software(body: &crate::protocol::Reader) -> Str {
    let request: Result<ApiVersionsRequest, _> = decode_request(body.clone());
    match request {
        Ok(request) if !request.client_software_name.is_empty() => {
            Str::from(format!("{} {}", request.client_software_name, request.client_software_version))
        }
        _ => Str::default(),
    }
}

/// The client's name in a frame whose version is not known: every header so far begins alike.
fn client_of(frame: &Bytes, context: &Context) -> String {
    let name = RequestHeader::decode(frame.clone(), i16::MAX)
        .map(|(header, _)| header.client_id)
        .unwrap_or_default();
    if context.software.is_empty() { name.to_string() } else { format!("{name} ({})", context.software) }
}

/// The table of [`APIS`] as README shows it.
pub fn table() -> String {
    let mut text = String::from("| key | API | versions |\n| --- | --- | --- |\n");
    for api in APIS {
        let told = match api.served_from == api.min {
            true => String::new(),
            false => format!(" (told as {} to {} for the sake of old librdkafka)", api.min, api.max),
        };
        text.push_str(&format!(
            "| {} | {} | {} to {}{told} |\n",
            api.key, api.name, api.served_from, api.max
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readme_shows_the_table() {
        let readme = include_str!("../../../README.md");
        assert!(readme.contains(&table()), "README.md lacks this table:\n{}", table());
    }

    #[test]
    fn every_api_stands_in_the_table_once() {
        for (index, api) in APIS.iter().enumerate() {
            assert!(api.min <= api.served_from && api.served_from <= api.max, "{api:?}");
            assert_eq!(position(api.key), Some(index), "{api:?}");
        }
    }
}
