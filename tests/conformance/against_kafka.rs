//! The same requests to a real Kafka and to this broker: codes and values must be the same, but for what [`ON_PURPOSE`] names.
//!
//! Needs Kafka's jars (`tests/peers/kafka-install` fetches them); skipped with a line on stderr without them, or failing where
//! `ALLUVIUM_REQUIRE_CLIENTS=1`. `ALLUVIUM_PEER=host:port` takes a Kafka that runs already, started by `tests/peers/kafka-start`.

use std::{collections::BTreeMap, fmt::Debug};

use alluvium::protocol::{
    Str,
    messages::{
        api_versions::ApiVersionsRequest,
        create_topics::{CreatableReplicaAssignment, CreatableTopic, CreateTopicsRequest},
        delete_groups::DeleteGroupsRequest,
        delete_topics::{DeleteTopicState, DeleteTopicsRequest},
        describe_cluster::DescribeClusterRequest,
        describe_configs::{DescribeConfigsRequest, DescribeConfigsResource},
        describe_groups::DescribeGroupsRequest,
        fetch::FetchRequest,
        find_coordinator::FindCoordinatorRequest,
        heartbeat::HeartbeatRequest,
        init_producer_id::InitProducerIdRequest,
        join_group::{JoinGroupRequest, JoinGroupRequestProtocol},
        leave_group::{LeaveGroupRequest, MemberIdentity},
        list_groups::ListGroupsRequest,
        list_offsets::{
            ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic, ListOffsetsTopicResponse,
        },
        metadata::{MetadataRequest, MetadataRequestTopic},
        offset_commit::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_fetch::{
            OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
        },
        offset_for_leader_epoch::{
            OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
        },
        produce::ProduceRequest,
        sync_group::{SyncGroupRequest, SyncGroupRequestAssignment},
    },
};
use bytes::Bytes;
use uuid::Uuid;

use crate::{
    requests::{batch_at, fetch_from, named, new_topic, produce_to},
    support::{broker::Broker, toolchain, wire::Wire},
};

/// Where the two differ for a reason: the beginning of the question, and why.
const ON_PURPOSE: &[(&str, &str)] = &[
    ("CreateTopics: validate only", "Kafka invents an id for a topic that is not made"),
    (
        "DescribeConfigs of all brokers",
        "Kafka has a dynamic min.insync.replicas; there are no dynamic settings here",
    ),
    ("DescribeConfigs v1: min.insync.replicas", "the same, and the peer sets it"),
    ("DescribeConfigs v2: min.insync.replicas", "the same"),
    ("DescribeConfigs v3: min.insync.replicas", "the same"),
    ("DescribeConfigs v4: min.insync.replicas", "the same"),
    ("DescribeConfigs v1: file.delete.delay.ms", "the peer sets log.segment.delete.delay.ms"),
    ("DescribeConfigs v2: file.delete.delay.ms", "the same"),
    ("DescribeConfigs v3: file.delete.delay.ms", "the same"),
    ("DescribeConfigs v4: file.delete.delay.ms", "the same"),
    ("Metadata v12 by neither", "Kafka fails with an unknown error; here the name is illegal"),
    ("Metadata v13 by neither", "the same"),
    ("Produce v3 of null", "Kafka neither answers nor closes"),
    ("Produce v7 of null", "the same"),
    ("Produce v8 of null", "the same"),
    ("Produce v9 of null", "the same"),
    ("Produce v12 of null", "the same"),
    ("Produce v13 of null", "the same"),
];

/// Questions in order, each with the answer in a form that can be compared.
#[derive(Default)]
struct Answers(BTreeMap<String, String>);

impl Answers {
    fn note(&mut self, question: impl Into<String>, answer: impl Debug) {
        let question = question.into();
        assert!(self.0.insert(question.clone(), format!("{answer:?}")).is_none(), "{question} twice");
    }
}

/// One broker under questioning.
struct Asked {
    bootstrap: String,
    wire: Wire,
    prefix: String,
    answers: Answers,
}

impl Asked {
    fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.prefix)
    }

    fn create(&mut self, topic: CreatableTopic, version: i16) -> (i16, Uuid) {
        let request =
            CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, ..CreateTopicsRequest::default() };
        let result = self.wire.call(&request, version).topics.remove(0);
        (result.error_code, result.topic_id)
    }

    /// The id of a topic that exists, once the leader of every partition serves it: Kafka announces a topic, and then its leaders, a moment
    /// before it answers produces with anything but 6.
    fn settled(&mut self, name: &str) -> Uuid {
        loop {
            let topic = self.wire.call(&named(&[name]), 12).topics.remove(0);
            let announced =
                topic.error_code == 0 && topic.partitions.iter().all(|partition| partition.error_code == 0);
            let end = |partition_index| ListOffsetsPartition {
                partition_index,
                timestamp: -1,
                ..Default::default()
            };
            let partitions =
                topic.partitions.iter().map(|partition| end(partition.partition_index)).collect();
            let request = ListOffsetsRequest {
                topics: vec![ListOffsetsTopic { name: name.into(), partitions }],
                ..ListOffsetsRequest::default()
            };
            let serves =
                |topic: &ListOffsetsTopicResponse| topic.partitions.iter().all(|found| found.error_code == 0);
            if announced && self.wire.call(&request, 5).topics.iter().all(serves) {
                return topic.topic_id;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    fn versions(&mut self) {
        let ask = |name: &str| ApiVersionsRequest {
            client_software_name: name.into(),
            client_software_version: "1".into(),
        };
        for name in ["ok", "not ok", ""] {
            for version in [0, 3, 4] {
                let response = self.wire.call(&ask(name), version);
                let keys = response.api_keys.is_empty();
                self.answers.note(format!("ApiVersions v{version} of {name:?}"), (response.error_code, keys));
            }
        }
    }

    fn topics(&mut self) {
        let base = self.name("base");
        let dotted = self.name("with.dot");
        for name in [&base, &dotted] {
            assert_eq!(self.create(new_topic(name, 2, &[]), 7).0, 0);
            self.settled(name);
        }
        let factor = |name: String, replication_factor| CreatableTopic {
            replication_factor,
            ..new_topic(&name, 1, &[])
        };
        let assigned = |name: String, count: i32, assignments: &[(i32, &[i32])]| CreatableTopic {
            num_partitions: count,
            replication_factor: count.clamp(-1, 1) as i16,
            assignments: assignments
                .iter()
                .map(|(partition_index, brokers)| CreatableReplicaAssignment {
                    partition_index: *partition_index,
                    broker_ids: brokers.to_vec(),
                })
                .collect(),
            ..new_topic(&name, 1, &[])
        };
        let n = |what: &str| self.name(what);
        let underscored = dotted.replace('.', "_");
        let cases = vec![
            ("exists", new_topic(&base, 1, &[])),
            ("collides", new_topic(&underscored, 1, &[])),
            ("bad name", new_topic("a b", 1, &[])),
            ("no name", new_topic("", 1, &[])),
            ("dot", new_topic(".", 1, &[])),
            ("long name", new_topic(&"x".repeat(250), 1, &[])),
            ("no partitions", new_topic(&n("p0"), 0, &[])),
            ("-2 partitions", new_topic(&n("p2"), -2, &[])),
            ("factor 0", factor(n("f0"), 0)),
            ("factor -2", factor(n("f2"), -2)),
            ("factor 2", factor(n("f3"), 2)),
            ("unknown setting", new_topic(&n("c0"), 1, &[("no.such", "1")])),
            ("not a number", new_topic(&n("c1"), 1, &[("retention.ms", "soon")])),
            ("out of range", new_topic(&n("c2"), 1, &[("retention.ms", "-2")])),
            ("small segment", new_topic(&n("c3"), 1, &[("segment.bytes", "1024")])),
            ("policy", new_topic(&n("c4"), 1, &[("cleanup.policy", "shred")])),
            ("both policies", new_topic(&n("c5"), 1, &[("cleanup.policy", "compact,delete")])),
            ("spaced policies", new_topic(&n("c6"), 1, &[("cleanup.policy", "compact, delete")])),
            ("no policy", new_topic(&n("c7"), 1, &[("cleanup.policy", "")])),
            ("removed", new_topic(&n("c8"), 1, &[("message.format.version", "3.0")])),
            (
                "lags",
                new_topic(&n("c9"), 1, &[("min.compaction.lag.ms", "9"), ("max.compaction.lag.ms", "8")]),
            ),
            ("codec", new_topic(&n("c10"), 1, &[("compression.type", "brotli")])),
            ("codec zstd", new_topic(&n("c11"), 1, &[("compression.type", "zstd")])),
            ("level", new_topic(&n("c12"), 1, &[("compression.zstd.level", "99")])),
            ("throttles", new_topic(&n("c13"), 1, &[("leader.replication.throttled.replicas", "0:1")])),
            ("bad throttles", new_topic(&n("c14"), 1, &[("leader.replication.throttled.replicas", "x")])),
            ("all throttled", new_topic(&n("c15"), 1, &[("leader.replication.throttled.replicas", "*")])),
            ("boolean", new_topic(&n("c16"), 1, &[("preallocate", "yes")])),
            ("BOOLEAN", new_topic(&n("c17"), 1, &[("preallocate", "TRUE")])),
            ("ratio", new_topic(&n("c18"), 1, &[("min.cleanable.dirty.ratio", "1.5")])),
            ("in sync", new_topic(&n("c19"), 1, &[("min.insync.replicas", "0")])),
            ("spaced", new_topic(&n("c20"), 1, &[("retention.ms", " 5 ")])),
            ("timestamps", new_topic(&n("c21"), 1, &[("message.timestamp.type", "Whenever")])),
            ("after", new_topic(&n("c22"), 1, &[("message.timestamp.after.max.ms", "-1")])),
            ("messages", new_topic(&n("c23"), 1, &[("max.message.bytes", "-1")])),
            ("index", new_topic(&n("c24"), 1, &[("segment.index.bytes", "3")])),
            ("remote", new_topic(&n("c25"), 1, &[("remote.storage.enable", "true")])),
            ("local", new_topic(&n("c26"), 1, &[("local.retention.ms", "-2")])),
            ("assigned", assigned(n("a0"), -1, &[(0, &[1]), (1, &[1])])),
            ("assigned and counted", assigned(n("a1"), 1, &[(0, &[1])])),
            ("assigned with a gap", assigned(n("a2"), -1, &[(0, &[1]), (2, &[1])])),
            ("assigned from 1", assigned(n("a3"), -1, &[(1, &[1])])),
            ("assigned to nobody", assigned(n("a4"), -1, &[(0, &[])])),
            ("assigned twice", assigned(n("a5"), -1, &[(0, &[1, 1])])),
            ("assigned elsewhere", assigned(n("a6"), -1, &[(0, &[9])])),
            ("partition twice", assigned(n("a7"), -1, &[(0, &[1]), (0, &[1])])),
            ("defaults", CreatableTopic { replication_factor: -1, ..new_topic(&n("d"), -1, &[]) }),
        ];
        for (what, topic) in cases {
            let request = CreateTopicsRequest {
                topics: vec![topic],
                timeout_ms: 30_000,
                ..CreateTopicsRequest::default()
            };
            let result = self.wire.call(&request, 7).topics.remove(0);
            let configs = result.configs.as_ref().map(|configs| !configs.is_empty());
            self.answers.note(
                format!("CreateTopics: {what}"),
                (
                    result.error_code,
                    result.error_message.is_some(),
                    result.num_partitions,
                    result.replication_factor,
                    configs,
                    result.topic_id.is_nil(),
                ),
            );
        }
        let twice = self.name("twice");
        let topics = vec![
            new_topic(&twice, 1, &[]),
            new_topic(&twice, 1, &[]),
            new_topic(&self.name("beside"), 1, &[]),
        ];
        let request = CreateTopicsRequest { topics, timeout_ms: 30_000, ..CreateTopicsRequest::default() };
        let mut codes: Vec<_> = self
            .wire
            .call(&request, 7)
            .topics
            .iter()
            .map(|topic| (topic.error_code, topic.name.len()))
            .collect();
        codes.sort();
        self.answers.note("CreateTopics: twice in a request", codes);
        let topics = vec![new_topic(&self.name("huge"), 10_001, &[]), new_topic(&self.name("small"), 1, &[])];
        let request = CreateTopicsRequest { topics, timeout_ms: 30_000, ..CreateTopicsRequest::default() };
        let mut codes: Vec<_> =
            self.wire.call(&request, 7).topics.iter().map(|topic| topic.error_code).collect();
        codes.sort();
        self.answers.note("CreateTopics: too many partitions", codes);
        let validated = self.name("validated");
        let request = CreateTopicsRequest {
            topics: vec![new_topic(&validated, 3, &[("retention.ms", "5")])],
            timeout_ms: 30_000,
            validate_only: true,
        };
        let result = self.wire.call(&request, 7).topics.remove(0);
        self.answers.note(
            "CreateTopics: validate only",
            (
                result.error_code,
                result.num_partitions,
                result.topic_id.is_nil(),
                result.configs.map(|configs| !configs.is_empty()),
            ),
        );
        let configs = vec![alluvium::protocol::messages::create_topics::CreatableTopicConfig {
            name: "retention.ms".into(),
            value: None,
        }];
        let null = CreatableTopic { configs, ..new_topic(&self.name("null"), 1, &[]) };
        let code = self.create(null, 7).0;
        self.answers.note("CreateTopics: a null value", code);
    }

    fn metadata(&mut self) {
        let base = self.name("base");
        let id = self.settled(&base);
        for version in 0..=13 {
            for (what, name) in
                [("known", base.as_str()), ("unknown", "no-such"), ("illegal", "a b"), ("empty", "")]
            {
                let request = MetadataRequest {
                    allow_auto_topic_creation: false,
                    include_topic_authorized_operations: true,
                    ..named(&[name])
                };
                if version < 4 && what == "unknown" {
                    continue;
                }
                let response = self.wire.call(&request, version);
                let topic = &response.topics[0];
                let partitions: Vec<_> = topic
                    .partitions
                    .iter()
                    .map(|p| {
                        (
                            p.error_code,
                            p.partition_index,
                            p.leader_id,
                            p.leader_epoch >= 0,
                            p.replica_nodes.clone(),
                            p.isr_nodes.clone(),
                            p.offline_replicas.clone(),
                        )
                    })
                    .collect::<Vec<_>>();
                let mut partitions = partitions;
                partitions.sort();
                self.answers.note(
                    format!("Metadata v{version} of a topic that is {what}"),
                    (
                        topic.error_code,
                        topic.name.clone().map(|name| name.len()),
                        topic.topic_id.is_nil(),
                        topic.is_internal,
                        partitions,
                        topic.topic_authorized_operations,
                        response.topics.len(),
                    ),
                );
                self.answers.note(
                    format!("Metadata v{version} beside a topic that is {what}"),
                    (
                        response.error_code,
                        response.controller_id,
                        response.cluster_id.is_some(),
                        response.cluster_authorized_operations,
                        response.brokers.len(),
                        response.brokers[0].rack.clone(),
                    ),
                );
            }
        }
        let by_id = |topic_id, name: Option<&str>| MetadataRequest {
            topics: Some(vec![MetadataRequestTopic { topic_id, name: name.map(Str::from) }]),
            allow_auto_topic_creation: false,
            ..MetadataRequest::default()
        };
        for (what, request) in [
            ("known id", by_id(id, None)),
            ("unknown id", by_id(Uuid::from_u128(77), None)),
            ("neither", by_id(Uuid::nil(), None)),
            ("both", by_id(id, Some(&base))),
        ] {
            for version in [10, 11, 12, 13] {
                if version < 12 && what == "neither" {
                    continue;
                }
                let response = self.wire.call(&request, version);
                let topics: Vec<_> = response
                    .topics
                    .iter()
                    .map(|topic| {
                        (
                            topic.error_code,
                            topic.name.as_ref().map(|name| name.len()),
                            topic.topic_id.is_nil(),
                            topic.partitions.len(),
                        )
                    })
                    .collect();
                self.answers.note(format!("Metadata v{version} by {what}"), topics);
            }
        }
        let response =
            self.wire.call(&MetadataRequest { include_cluster_authorized_operations: true, ..named(&[]) }, 8);
        self.answers
            .note("Metadata of no topics", (response.topics.len(), response.cluster_authorized_operations));
        for version in [0, 13] {
            let twice = MetadataRequest { allow_auto_topic_creation: false, ..named(&[&base, &base]) };
            let response = self.wire.call(&twice, version);
            self.answers.note(format!("Metadata v{version} of a topic twice"), response.topics.len());
        }
    }

    fn cluster(&mut self) {
        for version in 0..=2 {
            for endpoint_type in [0, 1, 2, 9, -1] {
                let request = DescribeClusterRequest {
                    endpoint_type,
                    include_cluster_authorized_operations: true,
                    ..DescribeClusterRequest::default()
                };
                let response = self.wire.call(&request, version);
                self.answers.note(
                    format!("DescribeCluster v{version} of endpoint type {endpoint_type}"),
                    (
                        response.error_code,
                        response.endpoint_type,
                        response.controller_id,
                        response.brokers.len(),
                        response.cluster_id.is_empty(),
                        response.cluster_authorized_operations,
                    ),
                );
            }
        }
    }

    fn configs(&mut self) {
        let name = self.name("configured");
        let own = [("cleanup.policy", "compact"), ("retention.ms", "12345"), ("compression.type", "lz4")];
        assert_eq!(self.create(new_topic(&name, 1, &own), 7).0, 0);
        self.settled(&name);
        let ask = |kind, name: &str, keys: Option<&[&str]>| DescribeConfigsRequest {
            resources: vec![DescribeConfigsResource {
                resource_type: kind,
                resource_name: name.into(),
                configuration_keys: keys.map(|keys| keys.iter().map(|key| Str::from(*key)).collect()),
            }],
            include_synonyms: true,
            include_documentation: false,
        };
        for version in 1..=4 {
            let result = self.wire.call(&ask(2, &name, None), version).results.remove(0);
            for entry in &result.configs {
                let synonyms: Vec<_> =
                    entry.synonyms.iter().map(|s| (s.name.clone(), s.value.clone(), s.source)).collect();
                self.answers.note(
                    format!("DescribeConfigs v{version}: {}", entry.name),
                    (
                        entry.value.clone(),
                        entry.read_only,
                        entry.config_source,
                        entry.is_sensitive,
                        entry.config_type,
                        synonyms,
                    ),
                );
            }
        }
        let bad = "a b";
        for (what, request) in [
            ("unknown topic", ask(2, "no-such", None)),
            ("illegal topic", ask(2, bad, None)),
            ("empty topic", ask(2, "", None)),
            ("some keys", ask(2, &name, Some(&["retention.ms", "unknown"]))),
            ("unknown type", ask(77, "x", None)),
            ("type 0", ask(0, "x", None)),
            ("another broker", ask(4, "2", None)),
            ("broker without number", ask(4, "two", None)),
            ("all brokers", ask(4, "", None)),
            ("no keys", ask(2, &name, Some(&[]))),
        ] {
            let result = self.wire.call(&request, 4).results.remove(0);
            let count = if what == "no keys" {
                usize::from(!result.configs.is_empty())
            } else {
                result.configs.len()
            };
            self.answers.note(
                format!("DescribeConfigs of {what}"),
                (
                    result.error_code,
                    result.error_message.is_some(),
                    result.resource_type,
                    result.resource_name.clone(),
                    count,
                ),
            );
        }
        let keys =
            ["num.partitions", "log.retention.hours", "message.max.bytes", "auto.create.topics.enable"];
        let result = self.wire.call(&ask(4, "1", Some(&keys)), 4).results.remove(0);
        for entry in &result.configs {
            self.answers.note(
                format!("DescribeConfigs of the broker: {}", entry.name),
                (entry.value.clone(), entry.is_sensitive, entry.config_type),
            );
        }
    }

    fn deletion(&mut self) {
        let names: Vec<String> = (0..4).map(|n| self.name(&format!("deleted{n}"))).collect();
        let ids: Vec<Uuid> = names
            .iter()
            .map(|name| {
                assert_eq!(self.create(new_topic(name, 1, &[]), 7).0, 0);
                self.settled(name)
            })
            .collect();
        let state = |name: Option<&str>, topic_id| DeleteTopicState { name: name.map(Str::from), topic_id };
        for (what, topics) in [
            ("name", vec![state(Some(&names[0]), Uuid::nil())]),
            ("id", vec![state(None, ids[1])]),
            ("unknown name", vec![state(Some("no-such"), Uuid::nil())]),
            ("unknown id", vec![state(None, Uuid::from_u128(78))]),
            ("both", vec![state(Some(&names[2]), ids[2])]),
            ("neither", vec![state(None, Uuid::nil())]),
            ("name twice", vec![state(Some(&names[2]), Uuid::nil()), state(Some(&names[2]), Uuid::nil())]),
            ("id twice", vec![state(None, ids[2]), state(None, ids[2])]),
            ("name and id of one", vec![state(Some(&names[3]), Uuid::nil()), state(None, ids[3])]),
            ("illegal name", vec![state(Some("a b"), Uuid::nil())]),
        ] {
            let request =
                DeleteTopicsRequest { topics, timeout_ms: 30_000, ..DeleteTopicsRequest::default() };
            let mut answers: Vec<_> = self
                .wire
                .call(&request, 6)
                .responses
                .iter()
                .map(|topic| {
                    (
                        topic.error_code,
                        topic.name.as_ref().map(|name| name.len()),
                        topic.topic_id.is_nil(),
                        topic.error_message.is_some(),
                    )
                })
                .collect();
            answers.sort();
            self.answers.note(format!("DeleteTopics by {what}"), answers);
        }
    }

    fn records(&mut self) {
        let name = self.name("records");
        // The records are old: retention must not take them in between.
        assert_eq!(self.create(new_topic(&name, 2, &[("retention.ms", "-1")]), 7).0, 0);
        let id = self.settled(&name);
        let now = 1_700_000_000_000;
        let good = batch_at(&["a", "b", "c"], now);
        let altered = |at: usize, value: u8| {
            let mut bytes = good.to_vec();
            bytes[at] = value;
            Bytes::from(bytes)
        };
        let twice: Bytes = [&good[..], &good[..]].concat().into();
        let produced = |records: Option<Bytes>| {
            let mut request = produce_to(&name, id, 0, Bytes::new());
            request.topics[0].partitions[0].records = records;
            request
        };
        let partition = |index: i32| {
            let mut request = produced(Some(good.clone()));
            request.topics[0].partitions[0].index = index;
            request
        };
        let acks = |acks: i16| ProduceRequest { acks, ..produced(Some(good.clone())) };
        let elsewhere = |name: &str, id| {
            let mut request = produced(Some(good.clone()));
            request.topics[0].name = name.into();
            request.topics[0].topic_id = id;
            request
        };
        for (what, request) in [
            ("plain", produced(Some(good.clone()))),
            ("acks 1", acks(1)),
            ("acks 2", acks(2)),
            ("acks -2", acks(-2)),
            ("no bytes", produced(Some(Bytes::new()))),
            ("null", produced(None)),
            ("two batches", produced(Some(twice))),
            ("crc", produced(Some(altered(good.len() - 1, 0xff)))),
            ("magic 1", produced(Some(altered(16, 1)))),
            ("magic 9", produced(Some(altered(16, 9)))),
            ("cut", produced(Some(good.slice(..good.len() - 1)))),
            ("short", produced(Some(good.slice(..20)))),
            ("partition 9", partition(9)),
            ("partition -1", partition(-1)),
            ("unknown topic", elsewhere("no-such", Uuid::from_u128(5))),
        ] {
            for version in [3, 7, 8, 9, 12, 13] {
                let question = format!("Produce v{version} of {what}");
                // Some of these Kafka neither answers nor closes.
                let mut wire = Wire::open(&self.bootstrap);
                wire.send(&request, version);
                let mut length = [0; 4];
                let limit = Some(std::time::Duration::from_secs(2));
                wire.stream.set_read_timeout(limit).expect("a read time-out");
                match wire.stream.peek(&mut length) {
                    Ok(0) => self.answers.note(question, "closed"),
                    Err(_) => self.answers.note(question, "silent"),
                    Ok(_) => {
                        let answer = wire
                            .receive::<ProduceRequest>(version, 1)
                            .responses
                            .remove(0)
                            .partitions
                            .remove(0);
                        self.answers.note(
                            question,
                            (
                                answer.error_code,
                                answer.base_offset >= 0,
                                answer.log_append_time_ms,
                                answer.log_start_offset,
                                answer.record_errors.len(),
                            ),
                        );
                    }
                }
            }
        }
        let end = crate::requests::end_of(&mut self.wire, &name, 0);
        self.answers.note("the end", end);

        for version in [4, 7, 11, 12, 13, 16, 17] {
            for offset in [-1, 0, 1, end, end + 1] {
                for (what, index, epoch) in
                    [("", 0, -1), (" of partition 9", 9, -1), (" of epoch 999", 0, 999)]
                {
                    let mut request = fetch_from(id, index, offset, 0);
                    request.topics[0].name = name.as_str().into();
                    request.topics[0].partitions[0].current_leader_epoch = epoch;
                    if version < 9 && epoch > 0 {
                        continue;
                    }
                    let response = self.wire.call(&request, version);
                    let answer = &response.responses[0].partitions[0];
                    self.answers.note(
                        format!("Fetch v{version} at {offset}{what}"),
                        (
                            response.error_code,
                            response.session_id,
                            answer.error_code,
                            answer.high_watermark,
                            answer.last_stable_offset,
                            answer.log_start_offset,
                            answer.aborted_transactions.is_none(),
                            answer.preferred_read_replica,
                            answer.records.len(),
                        ),
                    );
                }
            }
        }
        let unknown = fetch_from(Uuid::from_u128(6), 0, 0, 0);
        let answer = self.wire.call(&unknown, 16);
        self.answers.note(
            "Fetch of an unknown id",
            (answer.error_code, answer.responses[0].partitions[0].error_code),
        );
        for (session_id, session_epoch) in [(0, 0), (0, -1), (0, 5), (99, 1), (99, 0), (99, -1)] {
            let request = FetchRequest { session_id, session_epoch, ..fetch_from(id, 0, 0, 0) };
            let answer = self.wire.call(&request, 16);
            self.answers.note(
                format!("Fetch in session {session_id}, {session_epoch}"),
                (answer.error_code, answer.session_id != 0, answer.responses.len()),
            );
        }
        let committed = FetchRequest { isolation_level: 1, ..fetch_from(id, 0, 0, 0) };
        let answer = self.wire.call(&committed, 16);
        self.answers
            .note("Fetch of the committed", answer.responses[0].partitions[0].aborted_transactions.clone());

        let asked = |partition_index: i32, timestamp: i64, current_leader_epoch: i32| ListOffsetsRequest {
            topics: vec![ListOffsetsTopic {
                name: name.as_str().into(),
                partitions: vec![ListOffsetsPartition { partition_index, timestamp, current_leader_epoch }],
            }],
            ..ListOffsetsRequest::default()
        };
        for version in 1..=10 {
            for timestamp in [-1, -2, -3, -4, -5, -6, -7, 0, now, now + 1, now + 2, now + 3, i64::MAX] {
                let answer =
                    self.wire.call(&asked(0, timestamp, -1), version).topics.remove(0).partitions.remove(0);
                self.answers.note(
                    format!("ListOffsets v{version} at {timestamp}"),
                    (answer.error_code, answer.timestamp, answer.offset, answer.leader_epoch >= 0),
                );
            }
            for (index, epoch) in [(9, -1), (-1, -1), (0, 999)] {
                if version < 4 && epoch > 0 {
                    continue;
                }
                let answer =
                    self.wire.call(&asked(index, -1, epoch), version).topics.remove(0).partitions.remove(0);
                self.answers.note(
                    format!("ListOffsets v{version} of {index} in epoch {epoch}"),
                    (answer.error_code, answer.timestamp, answer.offset),
                );
            }
            let answer = self.wire.call(&asked(1, -3, -1), version).topics.remove(0).partitions.remove(0);
            self.answers.note(
                format!("ListOffsets v{version} of the largest timestamp where nothing is"),
                (answer.error_code, answer.timestamp, answer.offset),
            );
        }
        let mut double = asked(0, -1, -1);
        let again = double.topics[0].partitions[0].clone();
        double.topics[0].partitions.push(again);
        let answers: Vec<_> = self
            .wire
            .call(&double, 7)
            .topics
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|p| (p.error_code, p.offset)))
            .collect();
        self.answers.note("ListOffsets of a partition twice", answers);

        let epochs = |partition, current_leader_epoch, leader_epoch| OffsetForLeaderEpochRequest {
            topics: vec![OffsetForLeaderTopic {
                topic: name.as_str().into(),
                partitions: vec![OffsetForLeaderPartition { partition, current_leader_epoch, leader_epoch }],
            }],
            ..OffsetForLeaderEpochRequest::default()
        };
        for version in 2..=4 {
            for (partition, current, epoch) in [(0, -1, 9999), (0, 9999, 0), (9, -1, 0), (0, -1, -1)] {
                let answer = self
                    .wire
                    .call(&epochs(partition, current, epoch), version)
                    .topics
                    .remove(0)
                    .partitions
                    .remove(0);
                self.answers.note(
                    format!("OffsetForLeaderEpoch v{version} of {partition}, {current}, {epoch}"),
                    (answer.error_code, answer.leader_epoch, answer.end_offset),
                );
            }
        }
        let mut known = 5;
        for version in 0..=5 {
            for (what, producer_id, producer_epoch) in [
                ("new", -1, -1),
                ("half", 5, -1),
                ("other half", -1, 5),
                ("known", known, 5),
                ("last", known, i16::MAX - 1),
            ] {
                if version < 3 && what != "new" {
                    continue;
                }
                let request = InitProducerIdRequest {
                    transactional_id: None,
                    transaction_timeout_ms: 1_000,
                    producer_id,
                    producer_epoch,
                };
                let mut answer = self.wire.call(&request, version);
                // Kafka fetches its first block of ids in the background.
                while answer.error_code == 14 {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    answer = self.wire.call(&request, version);
                }
                self.answers.note(
                    format!("InitProducerId v{version} {what}"),
                    (
                        answer.error_code,
                        answer.producer_id >= 0,
                        answer.producer_id == known,
                        answer.producer_epoch,
                    ),
                );
                if what == "new" {
                    known = answer.producer_id;
                }
            }
        }
    }

    fn groups(&mut self) {
        let group = Str::from(self.name("group"));
        for _ in 0..500 {
            let find = FindCoordinatorRequest { key: group.clone(), ..FindCoordinatorRequest::default() };
            if self.wire.call(&find, 3).error_code == 0 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        for version in 0..=5 {
            for key_type in [0, 2, 9] {
                let request = FindCoordinatorRequest {
                    key: group.clone(),
                    key_type,
                    coordinator_keys: vec![group.clone(), "".into()],
                };
                if version == 0 && key_type != 0 {
                    continue;
                }
                let answer = self.wire.call(&request, version);
                let many: Vec<_> =
                    answer.coordinators.iter().map(|c| (c.error_code, c.node_id, c.key.len())).collect();
                self.answers.note(
                    format!("FindCoordinator v{version} of type {key_type}"),
                    (answer.error_code, answer.node_id, many),
                );
            }
        }
        // An unloaded coordinator answers 14 for a moment.
        let describe =
            DescribeGroupsRequest { groups: vec![group.clone()], ..DescribeGroupsRequest::default() };
        while [14, 15, 16].contains(&self.wire.call(&describe, 5).groups[0].error_code) {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        for version in 0..=6 {
            let answer = self.wire.call(&describe, version).groups.remove(0);
            self.answers.note(
                format!("DescribeGroups v{version} of no group"),
                (answer.error_code, answer.group_state, answer.protocol_type, answer.error_message.is_some()),
            );
        }
        let join = |group_id: &str,
                    member_id: &str,
                    session_timeout_ms,
                    protocol_type: &str,
                    protocols: &[&str],
                    instance: Option<&str>| JoinGroupRequest {
            group_id: group_id.into(),
            session_timeout_ms,
            rebalance_timeout_ms: 5_000,
            member_id: member_id.into(),
            group_instance_id: instance.map(Str::from),
            protocol_type: protocol_type.into(),
            protocols: protocols
                .iter()
                .map(|name| JoinGroupRequestProtocol {
                    name: (*name).into(),
                    metadata: Bytes::from_static(b"\0\0"),
                })
                .collect(),
            reason: None,
        };
        for version in [0, 3, 4, 5, 7, 9] {
            for (what, request) in [
                ("without group", join("", "", 10_000, "consumer", &["range"], None)),
                ("impatient", join(&group, "", 1, "consumer", &["range"], None)),
                ("lazy", join(&group, "", i32::MAX, "consumer", &["range"], None)),
                ("without type", join(&group, "", 10_000, "", &["range"], None)),
                ("without protocols", join(&group, "", 10_000, "consumer", &[], None)),
                ("unknown member", join(&group, "nobody", 10_000, "consumer", &["range"], None)),
                ("illegal instance", join(&group, "", 10_000, "consumer", &["range"], Some("a b"))),
            ] {
                if version < 5 && what == "illegal instance" {
                    continue;
                }
                let mut wire = Wire::open(&self.bootstrap);
                match wire.try_call(&request, version) {
                    Some(answer) => self.answers.note(
                        format!("JoinGroup v{version} {what}"),
                        (
                            answer.error_code,
                            answer.generation_id,
                            answer.member_id.is_empty(),
                            answer.leader.is_empty(),
                            answer.protocol_name,
                            answer.protocol_type,
                        ),
                    ),
                    None => self.answers.note(format!("JoinGroup v{version} {what}"), "closed"),
                }
            }
        }
        // A group of one, through its life.
        let live = Str::from(self.name("live"));
        let first = self.wire.call(&join(&live, "", 10_000, "consumer", &["range", "sticky"], None), 9);
        let member = first.member_id.clone();
        self.answers.note("JoinGroup first", (first.error_code, first.generation_id, member.is_empty()));
        let joined = self.wire.call(&join(&live, &member, 10_000, "consumer", &["range", "sticky"], None), 9);
        self.answers.note(
            "JoinGroup second",
            (
                joined.error_code,
                joined.generation_id,
                joined.protocol_name.clone(),
                joined.protocol_type.clone(),
                joined.leader == member,
                joined.members.len(),
                joined.skip_assignment,
            ),
        );
        let heartbeat = |generation_id, member: &Str| HeartbeatRequest {
            group_id: live.clone(),
            generation_id,
            member_id: member.clone(),
            group_instance_id: None,
        };
        for (what, generation, member) in [
            ("completing", 1, member.clone()),
            ("wrong generation", 7, member.clone()),
            ("wrong member", 1, "x".into()),
        ] {
            let code = self.wire.call(&heartbeat(generation, &member), 4).error_code;
            self.answers.note(format!("Heartbeat {what}"), code);
        }
        let name = self.name("records");
        let commit = |group: &Str, generation, member: &Str, topic: &str, partition_index, metadata: &str| {
            OffsetCommitRequest {
                group_id: group.clone(),
                generation_id_or_member_epoch: generation,
                member_id: member.clone(),
                topics: vec![OffsetCommitRequestTopic {
                    name: topic.into(),
                    partitions: vec![OffsetCommitRequestPartition {
                        partition_index,
                        committed_offset: 5,
                        committed_leader_epoch: -1,
                        committed_metadata: Some(metadata.into()),
                    }],
                }],
                ..OffsetCommitRequest::default()
            }
        };
        let code =
            self.wire.call(&commit(&live, 1, &member, &name, 0, ""), 8).topics[0].partitions[0].error_code;
        self.answers.note("OffsetCommit while completing", code);
        let sync = |generation_id, protocol: &str| SyncGroupRequest {
            group_id: live.clone(),
            generation_id,
            member_id: member.clone(),
            group_instance_id: None,
            protocol_type: Some("consumer".into()),
            protocol_name: Some(protocol.into()),
            assignments: vec![SyncGroupRequestAssignment {
                member_id: member.clone(),
                assignment: Bytes::from_static(b"plan"),
            }],
        };
        for (what, request) in [
            ("wrong protocol", sync(1, "other")),
            ("wrong generation", sync(9, "range")),
            ("right", sync(1, "range")),
        ] {
            let answer = self.wire.call(&request, 5);
            self.answers.note(
                format!("SyncGroup {what}"),
                (answer.error_code, answer.assignment, answer.protocol_name, answer.protocol_type),
            );
        }
        let code = self.wire.call(&heartbeat(1, &member), 4).error_code;
        self.answers.note("Heartbeat stable", code);
        for version in [0, 4, 5, 6] {
            let answer = self
                .wire
                .call(
                    &DescribeGroupsRequest {
                        groups: vec![live.clone()],
                        include_authorized_operations: true,
                    },
                    version,
                )
                .groups
                .remove(0);
            let m = &answer.members[0];
            self.answers.note(
                format!("DescribeGroups v{version} stable"),
                (
                    answer.error_code,
                    answer.group_state,
                    answer.protocol_type,
                    answer.protocol_data,
                    m.client_id.clone(),
                    m.client_host.clone(),
                    m.member_metadata.clone(),
                    m.member_assignment.clone(),
                    answer.authorized_operations,
                ),
            );
        }
        let long = "x".repeat(5_000);
        for version in [2, 5, 8, 9] {
            for (what, request) in [
                ("good", commit(&live, 1, &member, &name, 0, "note")),
                ("unknown topic", commit(&live, 1, &member, "no-such", 0, "")),
                ("unknown partition", commit(&live, 1, &member, &name, 9, "")),
                ("long note", commit(&live, 1, &member, &name, 0, &long)),
                ("wrong generation", commit(&live, 3, &member, &name, 0, "")),
                ("no member", commit(&live, -1, &"".into(), &name, 0, "")),
                ("unknown member", commit(&live, 1, &"nobody".into(), &name, 0, "")),
                ("unknown group", commit(&self.name("ghost").into(), 3, &"m".into(), &name, 0, "")),
                ("no group name", commit(&"".into(), 3, &"m".into(), &name, 0, "")),
            ] {
                let code = self.wire.call(&request, version).topics[0].partitions[0].error_code;
                self.answers.note(format!("OffsetCommit v{version} {what}"), code);
            }
        }
        for version in 1..=7 {
            for (what, topics) in [
                (
                    "named",
                    Some(vec![OffsetFetchRequestTopic {
                        name: name.as_str().into(),
                        partition_indexes: vec![0, 1, 9],
                    }]),
                ),
                (
                    "unknown",
                    Some(vec![OffsetFetchRequestTopic {
                        name: "no-such".into(),
                        partition_indexes: vec![0],
                    }]),
                ),
                ("all", None),
                ("none", Some(vec![])),
            ] {
                if version < 2 && what == "all" {
                    continue;
                }
                let request =
                    OffsetFetchRequest { group_id: live.clone(), topics, ..OffsetFetchRequest::default() };
                let answer = self.wire.call(&request, version);
                let rows: Vec<_> = answer
                    .topics
                    .iter()
                    .flat_map(|t| {
                        t.partitions.iter().map(|p| {
                            (
                                t.name.len(),
                                p.partition_index,
                                p.committed_offset,
                                p.committed_leader_epoch,
                                p.metadata.clone(),
                                p.error_code,
                            )
                        })
                    })
                    .collect();
                self.answers.note(format!("OffsetFetch v{version} {what}"), (answer.error_code, rows));
            }
        }
        for version in [8, 9] {
            let ask = |group: &str, topics| OffsetFetchRequestGroup {
                group_id: group.into(),
                topics,
                ..OffsetFetchRequestGroup::default()
            };
            let some = Some(vec![OffsetFetchRequestTopics {
                name: name.as_str().into(),
                partition_indexes: vec![0, 9],
            }]);
            let request = OffsetFetchRequest {
                groups: vec![
                    ask(&live, some.clone()),
                    ask(&live, None),
                    ask("nobody-here", some),
                    ask("nobody-here", None),
                    ask("", None),
                ],
                ..OffsetFetchRequest::default()
            };
            let answer = self.wire.call(&request, version);
            let mut rows: Vec<_> = answer
                .groups
                .iter()
                .map(|g| {
                    (
                        g.group_id.len(),
                        g.error_code,
                        g.topics
                            .iter()
                            .flat_map(|t| {
                                t.partitions.iter().map(|p| {
                                    (
                                        p.partition_index,
                                        p.committed_offset,
                                        p.committed_leader_epoch,
                                        p.metadata.clone(),
                                        p.error_code,
                                    )
                                })
                            })
                            .collect::<Vec<_>>(),
                    )
                })
                .collect();
            rows.sort_by_key(|row| format!("{row:?}"));
            self.answers.note(format!("OffsetFetch v{version} of groups"), rows);
        }
        let listed = |answer: alluvium::protocol::messages::list_groups::ListGroupsResponse| {
            let group = answer.groups.iter().find(|group| group.group_id == live).cloned();
            (answer.error_code, group.map(|group| (group.protocol_type, group.group_state, group.group_type)))
        };
        for version in 0..=5 {
            for (what, states, types) in [
                ("all", vec![], vec![]),
                ("stable", vec!["Stable"], vec![]),
                ("STABLE", vec!["sTABLE"], vec![]),
                ("empty", vec!["Empty"], vec![]),
                ("nonsense", vec!["Nonsense"], vec![]),
                ("classic", vec![], vec!["classic"]),
                ("Consumer", vec![], vec!["Consumer"]),
                ("no type", vec![], vec!["nonsense"]),
            ] {
                let texts = |texts: Vec<&str>| texts.into_iter().map(Str::from).collect();
                let answer = self.wire.call(
                    &ListGroupsRequest { states_filter: texts(states), types_filter: texts(types) },
                    version,
                );
                self.answers.note(format!("ListGroups v{version} {what}"), listed(answer));
            }
        }
        let delete = |name: &Str| DeleteGroupsRequest {
            groups_names: vec![name.clone(), "nobody-here".into(), "".into()],
        };
        let codes = |answer: alluvium::protocol::messages::delete_groups::DeleteGroupsResponse| {
            let mut codes: Vec<_> =
                answer.results.iter().map(|result| (result.group_id.len(), result.error_code)).collect();
            codes.sort();
            codes
        };
        let answer = codes(self.wire.call(&delete(&live), 2));
        self.answers.note("DeleteGroups while stable", answer);
        let leave = |members: Vec<(&str, Option<&str>)>| LeaveGroupRequest {
            group_id: live.clone(),
            member_id: "nobody".into(),
            members: members
                .into_iter()
                .map(|(id, instance)| MemberIdentity {
                    member_id: id.into(),
                    group_instance_id: instance.map(Str::from),
                    reason: None,
                })
                .collect(),
        };
        for version in [0, 2, 3, 5] {
            let answer = self.wire.call(&leave(vec![("nobody", None), ("", Some("no-instance"))]), version);
            let members: Vec<_> = answer
                .members
                .iter()
                .map(|m| (m.member_id.clone(), m.group_instance_id.clone(), m.error_code))
                .collect();
            self.answers.note(format!("LeaveGroup v{version} of others"), (answer.error_code, members));
        }
        let answer = self.wire.call(&leave(vec![(&member, None)]), 5);
        self.answers.note(
            "LeaveGroup",
            (answer.error_code, answer.members.iter().map(|m| m.error_code).collect::<Vec<_>>()),
        );
        let code = self.wire.call(&heartbeat(1, &member), 4).error_code;
        self.answers.note("Heartbeat after leaving", code);
        let answer = self
            .wire
            .call(
                &DescribeGroupsRequest { groups: vec![live.clone()], ..DescribeGroupsRequest::default() },
                6,
            )
            .groups
            .remove(0);
        self.answers.note(
            "DescribeGroups empty",
            (
                answer.error_code,
                answer.group_state,
                answer.protocol_type,
                answer.protocol_data,
                answer.members.len(),
            ),
        );
        let code = self.wire.call(&commit(&live, -1, &"".into(), &name, 1, "simple"), 8).topics[0].partitions
            [0]
        .error_code;
        self.answers.note("OffsetCommit from outside", code);
        let answer = codes(self.wire.call(&delete(&live), 2));
        self.answers.note("DeleteGroups while empty", answer);
    }

    fn framing(&mut self) {
        let header = |key: i16, version: i16| {
            [&key.to_be_bytes()[..], &version.to_be_bytes(), &7_i32.to_be_bytes(), &(-1_i16).to_be_bytes()]
                .concat()
        };
        for (what, key, version, body) in [
            ("Metadata, trailing bytes", 3_i16, 1_i16, &b"\0\0\0\0trailing"[..]),
            ("Metadata, a negative count", 3, 1, b"\xff\xff\xff\xfe"),
            ("Metadata, a forged count", 3, 1, b"\x7f\xff\xff\xff"),
            ("Metadata, a null topic", 3, 1, b"\0\0\0\x01\xff\xff"),
            ("Metadata, no body", 3, 1, b""),
            ("ApiVersions 0, trailing bytes", 18, 0, b"trailing"),
            ("ApiVersions 3, a tag", 18, 3, b"\0\x02a\x021\x01\x09\x01x"),
            ("ApiVersions 3, tags out of order", 18, 3, b"\0\x02a\x021\x02\x09\x01x\x08\x01x"),
            ("ApiVersions 3, a tag that is too long", 18, 3, b"\0\x02a\x021\x01\x09\x7fx"),
            ("ApiVersions 3, bytes that are no UTF-8", 18, 3, b"\0\x02\xff\x021\0"),
            ("ApiVersions 99", 18, 99, b"\0"),
            ("ApiVersions -1", 18, -1, b"\0"),
            ("Metadata 99", 3, 99, b"\0\0\0\0"),
            ("an unknown API", 999, 0, b""),
        ] {
            let mut wire = Wire::open(&self.bootstrap);
            wire.raw_frame(&[&header(key, version), body].concat());
            let answered = wire.frame().map(|frame| {
                let code = frame
                    .get(4..6)
                    .filter(|_| key == 18)
                    .map(|bytes| i16::from_be_bytes([bytes[0], bytes[1]]));
                let count = frame.len() > 24;
                (code, count)
            });
            self.answers.note(format!("Frame: {what}"), answered);
        }
    }
}

fn question(bootstrap: &str, prefix: &str) -> BTreeMap<String, String> {
    let mut asked = Asked {
        bootstrap: bootstrap.to_owned(),
        wire: Wire::open(bootstrap),
        prefix: prefix.to_owned(),
        answers: Answers::default(),
    };
    asked.versions();
    asked.topics();
    asked.metadata();
    asked.cluster();
    asked.configs();
    asked.deletion();
    asked.records();
    asked.groups();
    asked.framing();
    asked.answers.0
}

/// About a thousand answers, one by one.
///
/// Proves: V1, V2, M3, M7, M9, A1, A3, A5, A7, A8, A11, P1, P3, P4, P14, P15, F3, F8, F10, F14.
/// Proves: L1, L2, L4, L12, G2, G7, G9, G16, G17, G18, G19, O1, O3, O4, O5, O7.
#[test]
fn a_real_kafka_answers_the_same() {
    let Some(kafka) = toolchain::kafka() else { return };
    let broker = Broker::ephemeral_with(&["--set", "group.initial.rebalance.delay.ms=0"]);
    let prefix = format!("diff{}", std::process::id());
    let theirs = question(&kafka.bootstrap, &prefix);
    let ours = question(&broker.bootstrap, &prefix);
    let mut differences = Vec::new();
    let mut used = vec![false; ON_PURPOSE.len()];
    for question in theirs.keys().chain(ours.keys().filter(|question| !theirs.contains_key(*question))) {
        let (theirs, ours) = (theirs.get(question), ours.get(question));
        if theirs == ours {
            continue;
        }
        match ON_PURPOSE.iter().position(|(start, _)| question.starts_with(start)) {
            Some(reason) => used[reason] = true,
            None => differences.push(format!(
                "{question}\n    Kafka: {}\n    ours:  {}",
                theirs.map_or("-", String::as_str),
                ours.map_or("-", String::as_str)
            )),
        }
    }
    assert!(differences.is_empty(), "{} of {}:\n{}", differences.len(), theirs.len(), differences.join("\n"));
    for ((start, reason), used) in ON_PURPOSE.iter().zip(used) {
        assert!(used, "no difference any more where one is on purpose: {start} ({reason})");
    }
    assert!(theirs.len() > 500, "{} questions", theirs.len());
}
