//! What the broker counts about itself.
//!
//! Scalars and histograms live in a `prometheus` registry; what exists per topic and partition is written straight
//! from the counters and watermarks at the time of the scrape, so that counting costs one relaxed atomic. A scrape of
//! ten thousand partitions takes each one's lock for as long as its watermarks are copied, and that of each coordinator
//! while its commits are; nothing is computed or written under any of them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, atomic::Ordering},
};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

use crate::{api::Broker, config::PartitionLevel};

/// Where the time of a request goes.
#[derive(Clone, Debug)]
pub struct Phases {
    /// From the frame's last byte to the start of its handler: what came before it on the connection.
    pub queue: Histogram,
    /// In the handler, waiting for watermarks included.
    pub local: Histogram,
    /// From the finished answer to its last byte handed to the kernel.
    pub send: Histogram,
}

/// The broker's own metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    phases: Vec<Phases>,
    /// Open connections of clients.
    pub connections: IntGauge,
    /// Connections accepted.
    pub connections_accepted: IntCounter,
    /// Connections closed by us, by reason.
    pub connections_closed: IntCounterVec,
    /// Bytes read from clients.
    pub bytes_received: IntCounter,
    /// Bytes written to clients.
    pub bytes_sent: IntCounter,
    /// Bytes of requests in memory.
    pub budget_bytes: IntGauge,
}

const SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];

/// Where the times of the syncs of the write-ahead log are counted.
///
/// # Errors
/// A mistake in this file.
pub fn fsync_seconds() -> prometheus::Result<Histogram> {
    Histogram::with_opts(
        HistogramOpts::new(
            "alluvium_fsync_seconds",
            "Time of each sync of the write-ahead log, or of a segment for it",
        )
        .buckets(SECONDS.to_vec()),
    )
}

impl Metrics {
    /// All at zero; `apis` are the names under which requests are counted, found again by their position, and `fsync_seconds` is
    /// of [`fsync_seconds`].
    ///
    /// # Errors
    /// Two metrics of one name: a mistake in this file.
    pub fn new(apis: &[&'static str], fsync_seconds: Histogram) -> prometheus::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let requests = HistogramVec::new(
            HistogramOpts::new("alluvium_request_seconds", "Time of requests by API and phase")
                .buckets(SECONDS.to_vec()),
            &["api", "phase"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        let phases = apis
            .iter()
            .map(|api| Phases {
                queue: requests.with_label_values(&[api, "queue"]),
                local: requests.with_label_values(&[api, "local"]),
                send: requests.with_label_values(&[api, "send"]),
            })
            .collect();
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let connections_closed = IntCounterVec::new(
            Opts::new("alluvium_connections_closed_total", "Connections closed by the broker"),
            &["reason"],
        )?;
        registry.register(Box::new(connections_closed.clone()))?;
        registry.register(Box::new(fsync_seconds))?;
        let build_info = IntGauge::with_opts(
            Opts::new("alluvium_build_info", "Always 1; the labels tell the build")
                .const_label("version", env!("CARGO_PKG_VERSION")),
        )?;
        build_info.set(1);
        registry.register(Box::new(build_info))?;
        Ok(Self {
            phases,
            connections: gauge(
                "kafka_server_socket_server_metrics_connection_count",
                "Open connections of clients",
            )?,
            connections_accepted: counter(
                "alluvium_connections_accepted_total",
                "Connections accepted from clients",
            )?,
            connections_closed,
            bytes_received: counter("alluvium_received_bytes_total", "Bytes read from clients")?,
            bytes_sent: counter("alluvium_sent_bytes_total", "Bytes written to clients")?,
            budget_bytes: gauge(
                "alluvium_request_memory_bytes",
                "Bytes of requests in memory, each until it is answered",
            )?,
            registry,
        })
    }

    /// The phases of the API at this position.
    pub fn phases(&self, api: usize) -> &Phases {
        &self.phases[api]
    }
}

/// One sample: labels already written, value.
type Sample = (String, String);

/// Families of samples that are written at scrape time, in the order of their names.
#[derive(Default)]
struct Families {
    families: BTreeMap<&'static str, (&'static str, &'static str, Vec<Sample>)>,
}

impl Families {
    fn add(
        &mut self,
        name: &'static str,
        kind: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        value: impl ToString,
    ) {
        let mut text = String::new();
        for (index, (label, value)) in labels.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let _ = write!(text, "{comma}{label}=\"{}\"", escape(value));
        }
        self.families
            .entry(name)
            .or_insert_with(|| (kind, help, Vec::new()))
            .2
            .push((text, value.to_string()));
    }

    fn write(self, out: &mut String) {
        for (name, (kind, help, samples)) in self.families {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in samples {
                if labels.is_empty() {
                    let _ = writeln!(out, "{name} {value}");
                } else {
                    let _ = writeln!(out, "{name}{{{labels}}} {value}");
                }
            }
        }
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The whole text of `/metrics`.
pub fn render(broker: &Broker) -> String {
    broker.metrics.budget_bytes.set(i64::try_from(broker.budget.used()).unwrap_or(i64::MAX));
    let mut out = TextEncoder::new().encode_to_string(&broker.metrics.registry.gather()).unwrap_or_default();
    let mut families = Families::default();
    storage(broker, &mut families);
    brokers(broker, &mut families);
    topics(broker, &mut families);
    // Every replica held here leads as long as there is one node, so that `leaders` is as good as `all`.
    let by_partition = broker.config.metrics_partition_level != PartitionLevel::Off;
    if by_partition {
        partitions(broker, &mut families);
    }
    groups(broker, &mut families, by_partition);
    families.write(&mut out);
    out
}

fn storage(broker: &Broker, families: &mut Families) {
    let bytes = broker.node.flusher_stats().bytes;
    families.add(
        "alluvium_append_bytes_total",
        "counter",
        "Bytes written to the write-ahead log",
        &[],
        bytes,
    );
    // Of a disk that does not answer nothing is known.
    if let Ok(space) = broker.node.disk_space() {
        let help = "Bytes that may still be written to the data disk";
        families.add("alluvium_storage_free_bytes", "gauge", help, &[], space.free_bytes);
    }
}

fn groups(broker: &Broker, families: &mut Families, by_partition: bool) {
    let mut sums: BTreeMap<(Arc<str>, Arc<str>), (i64, i64)> = BTreeMap::new();
    let mut by_group: BTreeMap<Arc<str>, (i64, i64)> = BTreeMap::new();
    for lag in broker.coordinators.lags(broker) {
        if by_partition {
            let number = lag.partition.to_string();
            let labels =
                [("consumergroup", &*lag.group), ("topic", &*lag.topic), ("partition", number.as_str())];
            families.add(
                "kafka_consumergroup_current_offset",
                "gauge",
                "Committed offset",
                &labels,
                lag.committed,
            );
            families.add("kafka_consumergroup_lag", "gauge", "Messages not read so far", &labels, lag.lag);
        }
        let sum = sums.entry((Arc::clone(&lag.group), Arc::clone(&lag.topic))).or_default();
        *sum = (sum.0.saturating_add(lag.committed), sum.1.saturating_add(lag.lag));
        let of_group = by_group.entry(lag.group).or_default();
        *of_group = (of_group.0.max(lag.lag), of_group.1 + lag.lag);
    }
    for ((group, topic), (committed, lag)) in &sums {
        let labels = [("consumergroup", &**group), ("topic", &**topic)];
        families.add(
            "kafka_consumergroup_current_offset_sum",
            "gauge",
            "Committed offsets of a topic",
            &labels,
            committed,
        );
        families.add(
            "kafka_consumergroup_lag_sum",
            "gauge",
            "Messages of a topic not read so far",
            &labels,
            lag,
        );
    }
    for (group, (max, sum)) in &by_group {
        let labels = [("group", &**group)];
        families.add(
            "alluvium_consumer_group_lag_max",
            "gauge",
            "Largest lag of a partition, messages",
            &labels,
            max,
        );
        families.add(
            "alluvium_consumer_group_lag_sum",
            "gauge",
            "Lag over all partitions, messages",
            &labels,
            sum,
        );
    }
    for (group, members) in broker.coordinators.members(broker) {
        let labels = [("consumergroup", &*group)];
        families.add("kafka_consumergroup_members", "gauge", "Members of a group", &labels, members);
    }
}

fn brokers(broker: &Broker, families: &mut Families) {
    let image = broker.node.metadata();
    families.add("kafka_brokers", "gauge", "Brokers of the cluster", &[], image.brokers.len());
    for info in image.brokers.values() {
        let address =
            info.endpoints.first().map(|(_, host, port)| format!("{host}:{port}")).unwrap_or_default();
        let labels = [("id", info.id.to_string()), ("address", address)];
        let labels = [(labels[0].0, labels[0].1.as_str()), (labels[1].0, labels[1].1.as_str())];
        families.add("kafka_broker_info", "gauge", "A broker and its address", &labels, 1);
    }
}

fn topics(broker: &Broker, families: &mut Families) {
    let (mut total_partitions, mut offline) = (0, 0);
    for topic in broker.partitions.topics() {
        let labels = [("topic", &*topic.info.name)];
        let count = topic.info.partitions.len();
        families.add("kafka_topic_partitions", "gauge", "Partitions of a topic", &labels, count);
        total_partitions += count;
        for index in 0..count {
            let index = i32::try_from(index).unwrap_or(i32::MAX);
            match broker.partitions.partition(&topic, index) {
                crate::partitions::Lookup::Here(partition) if partition.offsets().is_ok() => {}
                _ => offline += 1,
            }
        }
        let counters = &topic.counters;
        for (name, help, counter) in [
            ("kafka_server_brokertopicmetrics_messagesin_total", "Records appended", &counters.messages_in),
            (
                "kafka_server_brokertopicmetrics_bytesin_total",
                "Bytes of record batches appended",
                &counters.bytes_in,
            ),
            (
                "kafka_server_brokertopicmetrics_bytesout_total",
                "Bytes of record batches sent",
                &counters.bytes_out,
            ),
            (
                "kafka_server_brokertopicmetrics_totalproducerequests_total",
                "Partitions in produce requests",
                &counters.produce_requests,
            ),
            (
                "kafka_server_brokertopicmetrics_failedproducerequests_total",
                "Partitions in produce requests answered by an error",
                &counters.failed_produce_requests,
            ),
            (
                "kafka_server_brokertopicmetrics_totalfetchrequests_total",
                "Partitions in fetch requests",
                &counters.fetch_requests,
            ),
            (
                "kafka_server_brokertopicmetrics_failedfetchrequests_total",
                "Partitions in fetch requests answered by an error",
                &counters.failed_fetch_requests,
            ),
        ] {
            families.add(name, "counter", help, &labels, counter.load(Ordering::Relaxed));
        }
    }
    families.add(
        "kafka_server_replicamanager_partitioncount",
        "gauge",
        "Replicas held by this broker",
        &[],
        total_partitions,
    );
    families.add(
        "kafka_server_replicamanager_leadercount",
        "gauge",
        "Partitions led by this broker",
        &[],
        total_partitions - offline,
    );
    families.add(
        "kafka_controller_kafkacontroller_offlinepartitionscount",
        "gauge",
        "Partitions without a leader",
        &[],
        offline,
    );
    families.add(
        "kafka_controller_kafkacontroller_activecontrollercount",
        "gauge",
        "Whether this broker is the controller",
        &[],
        1,
    );
}

fn partitions(broker: &Broker, families: &mut Families) {
    for (info, index, partition) in broker.node.partitions() {
        let Ok(offsets) = partition.offsets() else { continue };
        let number = index.to_string();
        let labels = [("topic", &*info.name), ("partition", number.as_str())];
        let replicas = usize::try_from(index).ok().and_then(|index| info.partitions.get(index));
        let preferred = replicas.is_some_and(|replicas| replicas.first() == Some(&broker.config.node_id));
        let replicas = replicas.map_or(0, Vec::len);
        families.add(
            "kafka_topic_partition_current_offset",
            "gauge",
            "High watermark",
            &labels,
            offsets.high_watermark,
        );
        families.add("kafka_topic_partition_oldest_offset", "gauge", "Log start", &labels, offsets.log_start);
        families.add(
            "kafka_topic_partition_leader",
            "gauge",
            "Node id of the leader",
            &labels,
            broker.config.node_id,
        );
        families.add(
            "kafka_topic_partition_leader_is_preferred",
            "gauge",
            "Whether the first replica leads",
            &labels,
            u8::from(preferred),
        );
        families.add("kafka_topic_partition_replicas", "gauge", "Replicas", &labels, replicas);
        families.add("kafka_topic_partition_in_sync_replica", "gauge", "In-sync replicas", &labels, replicas);
        families.add(
            "kafka_topic_partition_under_replicated_partition",
            "gauge",
            "Whether replicas are missing",
            &labels,
            0,
        );
        families.add("kafka_log_log_size", "gauge", "Bytes in segments", &labels, partition.size());
    }
}
