//! Topics, configurations and the cluster, administered (A).

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use alluvium::protocol::{
    Str,
    messages::{
        create_topics::{
            CreatableReplicaAssignment, CreatableTopic, CreatableTopicResult, CreateTopicsRequest,
        },
        delete_topics::{DeleteTopicState, DeleteTopicsRequest},
        describe_cluster::DescribeClusterRequest,
        describe_configs::{DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResult},
        metadata::MetadataTopic,
    },
};
use log_store::disk::overlay::SLOW_SYNC;
use uuid::Uuid;

use crate::{
    requests::{
        LONG_POLL_MS, batch, create, describe, ended_at_once, fetch_from, fresh, named, new_topic,
        produce_to, shared,
    },
    support::{broker::Broker, wire::Wire},
};

fn creating(topics: Vec<CreatableTopic>, validate_only: bool) -> CreateTopicsRequest {
    CreateTopicsRequest { topics, timeout_ms: 30_000, validate_only }
}

fn create_one(wire: &mut Wire, topic: CreatableTopic) -> CreatableTopicResult {
    wire.call(&creating(vec![topic], false), 7).topics.remove(0)
}

/// Numbers and names that cannot be are refused by Kafka's own codes, with a message.
///
/// Proves: A1, A3.
#[test]
fn create_topics_checks_what_it_is_given() {
    let mut wire = Wire::open(shared());
    let taken = fresh("taken");
    create(&mut wire, &taken, 1, &[]);
    let dotted = fresh("dotted.name");
    create(&mut wire, &dotted, 1, &[]);
    let factor =
        |replication_factor| CreatableTopic { replication_factor, ..new_topic(&fresh("factor"), 1, &[]) };
    let cases = [
        (new_topic(&taken, 1, &[]), 36),
        (new_topic("bad name", 1, &[]), 17),
        (new_topic(&dotted.replace('.', "_"), 1, &[]), 17),
        (new_topic(&fresh("partitions"), 0, &[]), 37),
        (new_topic(&fresh("partitions"), -2, &[]), 37),
        (factor(0), 38),
        (factor(-2), 38),
        (factor(2), 38),
        (new_topic(&fresh("config"), 1, &[("no.such.setting", "1")]), 40),
        (new_topic(&fresh("config"), 1, &[("retention.ms", "soon")]), 40),
        (new_topic(&fresh("config"), 1, &[("message.format.version", "2.8")]), 40),
    ];
    for (topic, error) in cases {
        let name = topic.name.clone();
        let result = create_one(&mut wire, topic);
        assert_eq!(result.error_code, error, "{name}: {:?}", result.error_message);
        assert!(result.error_message.is_some_and(|message| !message.is_empty()), "{name}");
    }
    let ours = create_one(&mut wire, new_topic(&fresh("config"), 1, &[("retention.mss", "1")]));
    assert!(ours.error_message.is_some_and(|message| message.contains("retention.ms")), "did you mean");
}

/// -1 is the broker's default; version 5 answers with numbers and configurations, version 7 with the id.
///
/// Proves: A1.
#[test]
fn create_topics_answers_what_it_made() {
    let mut wire = Wire::open(shared());
    let name = fresh("defaults");
    let topic = CreatableTopic { replication_factor: -1, ..new_topic(&name, -1, &[("retention.ms", "77")]) };
    let result = create_one(&mut wire, topic);
    assert_eq!((result.error_code, result.num_partitions, result.replication_factor), (0, 1, 1));
    assert_eq!(result.topic_id, describe(&mut wire, &name).topic_id);
    let configs = result.configs.expect("configurations");
    let retention = configs.iter().find(|config| &*config.name == "retention.ms").expect("retention.ms");
    assert_eq!((retention.value.as_deref(), retention.config_source), (Some("77"), 1));
    for version in 0..=7 {
        let request = creating(vec![new_topic(&fresh("versions"), 2, &[])], false);
        assert_eq!(wire.call(&request, version).topics[0].error_code, 0, "v{version}");
    }
}

/// What is not ready within the request's time is answered with 7, and is there later all the same.
///
/// Proves: A2.
#[test]
fn a_creation_that_takes_too_long_is_a_timeout() {
    let mut wire = Wire::open(shared());
    let name = fresh("late");
    let request = CreateTopicsRequest {
        topics: vec![new_topic(&name, 20, &[])],
        timeout_ms: 0,
        ..CreateTopicsRequest::default()
    };
    let answer = wire.call(&request, 7).topics.remove(0);
    assert_eq!(answer.error_code, 7, "{:?}", answer.error_message);
    let deadline = Instant::now() + Duration::from_secs(60);
    let has_leaders = |topic: &MetadataTopic| {
        topic.error_code == 0 && topic.partitions.iter().all(|partition| partition.leader_id == 1)
    };
    let mut topic = describe(&mut wire, &name);
    while !has_leaders(&topic) {
        assert!(Instant::now() < deadline, "it was not created later: {topic:?}");
        topic = describe(&mut wire, &name);
    }
    assert_eq!(topic.partitions.len(), 20);
    for partition in 0..20 {
        let produced = wire.call(&produce_to(&name, topic.topic_id, partition, batch(&["x"])), 13);
        assert_eq!(produced.responses[0].partitions[0].error_code, 0, "a leader that is named serves");
    }
}

/// `validate_only` says what would be and changes nothing.
///
/// Proves: A1.
#[test]
fn validate_only_changes_nothing() {
    let mut wire = Wire::open(shared());
    let name = fresh("validated");
    let response = wire.call(&creating(vec![new_topic(&name, 3, &[])], true), 7);
    assert_eq!((response.topics[0].error_code, response.topics[0].num_partitions), (0, 3));
    assert_eq!(describe(&mut wire, &name).error_code, 3);
}

/// Assignments stand alone, number partitions without gaps, and name brokers that exist.
///
/// Proves: A1.
#[test]
fn assignments_are_checked() {
    let mut wire = Wire::open(shared());
    let assigned = |partitions: i32, assignments: &[(i32, &[i32])]| CreatableTopic {
        num_partitions: partitions,
        replication_factor: if partitions == -1 { -1 } else { 1 },
        assignments: assignments
            .iter()
            .map(|(partition_index, brokers)| CreatableReplicaAssignment {
                partition_index: *partition_index,
                broker_ids: brokers.to_vec(),
            })
            .collect(),
        ..new_topic(&fresh("assigned"), 0, &[])
    };
    for (topic, error) in [
        (assigned(-1, &[(0, &[1]), (1, &[1])]), 0),
        (assigned(2, &[(0, &[1]), (1, &[1])]), 42),
        (assigned(-1, &[(0, &[1]), (2, &[1])]), 39),
        (assigned(-1, &[(0, &[1]), (0, &[1])]), 39),
        (assigned(-1, &[(0, &[9])]), 39),
        (assigned(-1, &[(0, &[1, 1])]), 39),
        (assigned(-1, &[(0, &[])]), 39),
    ] {
        let result = create_one(&mut wire, topic);
        assert_eq!(result.error_code, error, "{:?}", result.error_message);
    }
}

/// One bad topic does not fail the others; a name twice fails for that name; too many partitions fail the whole request.
///
/// Proves: A1, A14.
#[test]
fn topics_of_one_request_stand_alone() {
    let mut wire = Wire::open(shared());
    let (good, twice) = (fresh("good"), fresh("twice"));
    let topics = vec![
        new_topic(&good, 1, &[]),
        new_topic("bad name", 1, &[]),
        new_topic(&twice, 1, &[]),
        new_topic(&twice, 1, &[]),
    ];
    let response = wire.call(&creating(topics, false), 7);
    let code = |name: &str| {
        let found: Vec<i16> = response
            .topics
            .iter()
            .filter(|topic| &*topic.name == name)
            .map(|topic| topic.error_code)
            .collect();
        assert_eq!(found.len(), 1, "{name} is answered once");
        found[0]
    };
    assert_eq!((code(&good), code("bad name"), code(&twice)), (0, 17, 42));
    let (many, one) = (fresh("many"), fresh("one"));
    let topics = vec![new_topic(&many, 10_000, &[]), new_topic(&one, 1, &[])];
    let response = wire.call(&creating(topics, false), 7);
    assert!(response.topics.iter().all(|topic| topic.error_code == 44), "{:?}", response.topics);
    assert_eq!(describe(&mut wire, &one).error_code, 3);
}

/// Topics go by name and by id, where a UUID of zeros is none; both, neither or twice is refused; consumers are told at once, also those
/// that wait.
///
/// Proves: A5, D22, W18.
#[test]
fn delete_topics_by_name_and_id() {
    let mut wire = Wire::open(shared());
    let (by_name, by_id, both) = (fresh("name"), fresh("id"), fresh("both"));
    create(&mut wire, &by_name, 2, &[]);
    let id = create(&mut wire, &by_id, 2, &[]);
    let both_id = create(&mut wire, &both, 1, &[]);
    wire.call(&produce_to(&by_id, id, 0, batch(&["kept until now"])), 13);
    let mut waiting = Wire::open(shared());
    let polling = waiting.send(&fetch_from(id, 0, 1, LONG_POLL_MS), 16);

    let state = |name: Option<&str>, topic_id| DeleteTopicState { name: name.map(Str::from), topic_id };
    let request = DeleteTopicsRequest {
        topics: vec![
            state(Some(&by_name), Uuid::nil()),
            state(None, id),
            state(Some(&both), both_id),
            state(None, Uuid::nil()),
            state(Some("no-such"), Uuid::nil()),
            state(None, Uuid::from_u128(9)),
        ],
        timeout_ms: 30_000,
        ..DeleteTopicsRequest::default()
    };
    let response = wire.call(&request, 6);
    let deleted = Instant::now();
    let mut codes: Vec<i16> = response.responses.iter().map(|topic| topic.error_code).collect();
    codes.sort();
    assert_eq!(codes, [0, 0, 3, 42, 42, 100]);
    assert_eq!(describe(&mut wire, &by_name).error_code, 3);
    assert_eq!(describe(&mut wire, &by_id).error_code, 3);
    assert_eq!(describe(&mut wire, &both).error_code, 0);

    let ended = ended_at_once(&mut waiting, 16, polling, deleted);
    let code = ended.responses[0].partitions[0].error_code;
    assert!([3, 6, 100].contains(&code), "a waiting fetch ends with {code}");
    let fetched = wire.call(&fetch_from(id, 0, 0, 0), 16);
    assert_eq!(fetched.responses[0].partitions[0].error_code, 100);
    let again = create(&mut wire, &by_id, 1, &[]);
    let fresh_start = wire.call(&fetch_from(again, 0, 0, 0), 16);
    assert_eq!(fresh_start.responses[0].partitions[0].high_watermark, 0, "a new topic starts at 0");
    for version in 0..=5 {
        let name = fresh("old-delete");
        create(&mut wire, &name, 1, &[]);
        let topic_names = vec![Str::from(name.as_str())];
        let request =
            DeleteTopicsRequest { topic_names, timeout_ms: 30_000, ..DeleteTopicsRequest::default() };
        assert_eq!(wire.call(&request, version).responses[0].error_code, 0, "v{version}");
    }
}

/// A deletion that takes longer than the request allows is told so, and goes on.
///
/// Proves: A5.
#[test]
fn a_deletion_outlives_its_request() {
    const TOPICS: usize = 200;
    let data = tempfile::tempdir().expect("a data directory");
    let broker = Broker::on(data.path(), &["--simulate-power-cuts", "slow-sync=150"]);
    let mut wire = Wire::open(&broker.bootstrap);
    let names: Vec<String> = (0..TOPICS).map(|n| format!("late-{n}")).collect();
    let topics = names.iter().map(|name| new_topic(name, 1, &[])).collect();
    assert!(wire.call(&creating(topics, false), 7).topics.iter().all(|topic| topic.error_code == 0));
    for name in &names {
        let topic_names = vec![Str::from(name.as_str())];
        let request = DeleteTopicsRequest { topic_names, timeout_ms: 500, ..DeleteTopicsRequest::default() };
        let begun = Instant::now();
        let code = wire.call(&request, 5).responses[0].error_code;
        if code == 7 {
            assert!(begun.elapsed() < SLOW_SYNC, "{:?}", begun.elapsed());
            let deadline = Instant::now() + Duration::from_secs(30);
            while describe(&mut wire, name).error_code != 3 {
                assert!(Instant::now() < deadline, "it is still there");
                std::thread::sleep(Duration::from_millis(10));
            }
            return;
        }
        assert_eq!(code, 0);
    }
    panic!("no sync was slow");
}

/// Where there is no room for more partitions, a topic that exists is said to exist: clients that create what is absent
/// go on then.
///
/// Proves: A3.
#[test]
fn what_exists_is_told_before_the_limits() {
    let broker = Broker::ephemeral_with_descriptors(2_000, &[]);
    let mut wire = Wire::open(&broker.bootstrap);
    create(&mut wire, "there", 1, &[]);
    let topic = |name: &str, num_partitions| CreatableTopic {
        name: name.into(),
        num_partitions,
        replication_factor: 1,
        ..CreatableTopic::default()
    };
    let request = CreateTopicsRequest {
        topics: vec![topic("there", 4_000), topic("large", 4_000), topic("a/b", 1)],
        timeout_ms: 30_000,
        ..CreateTopicsRequest::default()
    };
    let answer = wire.call(&request, 7);
    let mut codes: Vec<_> =
        answer.topics.iter().map(|topic| (topic.name.to_string(), topic.error_code)).collect();
    codes.sort();
    assert_eq!(codes, [("a/b".to_owned(), 17), ("large".to_owned(), 44), ("there".to_owned(), 36)]);
}

/// Proves: A5.
#[test]
fn deletion_can_be_disabled() {
    let broker = Broker::ephemeral_with(&["--set", "delete.topic.enable=false"]);
    let mut wire = Wire::open(&broker.bootstrap);
    create(&mut wire, "kept", 1, &[]);
    let topic_names = vec![Str::from("kept")];
    let request = DeleteTopicsRequest { topic_names, timeout_ms: 30_000, ..DeleteTopicsRequest::default() };
    assert_eq!(wire.call(&request, 2).responses[0].error_code, 42);
    assert_eq!(wire.call(&request, 3).responses[0].error_code, 73);
    assert_eq!(describe(&mut wire, "kept").error_code, 0);
}

fn configs_of(
    wire: &mut Wire,
    kind: i8,
    name: &str,
    keys: Option<&[&str]>,
    version: i16,
) -> DescribeConfigsResult {
    let request = DescribeConfigsRequest {
        resources: vec![DescribeConfigsResource {
            resource_type: kind,
            resource_name: Str::from(name),
            configuration_keys: keys.map(|keys| keys.iter().map(|key| Str::from(*key)).collect()),
        }],
        include_synonyms: true,
        include_documentation: true,
    };
    wire.call(&request, version).results.remove(0)
}

/// All settings of a topic with value, source and synonyms; those asked for and known, if some are; errors for topics that are not
/// there.
///
/// Proves: A7, A8.
#[test]
fn describe_configs_of_topics() {
    let broker = Broker::ephemeral_with(&["--set", "log.retention.hours=2"]);
    let mut wire = Wire::open(&broker.bootstrap);
    let own = [("cleanup.policy", "compact"), ("follower.replication.throttled.replicas", "0:1")];
    create(&mut wire, "configured", 1, &own);
    let described = configs_of(&mut wire, 2, "configured", None, 4);
    assert_eq!(described.error_code, 0);
    let entry =
        |name: &str| described.configs.iter().find(|entry| &*entry.name == name).expect("the setting");
    assert_eq!(
        (entry("cleanup.policy").value.as_deref(), entry("cleanup.policy").config_source),
        (Some("compact"), 1)
    );
    assert_eq!(
        (entry("retention.ms").value.as_deref(), entry("retention.ms").config_source),
        (Some("7200000"), 4)
    );
    assert_eq!(
        (entry("segment.bytes").value.as_deref(), entry("segment.bytes").config_source),
        (Some("1073741824"), 5)
    );
    assert_eq!(
        entry("follower.replication.throttled.replicas").value.as_deref(),
        Some("0:1"),
        "accepted and shown"
    );
    let names: HashSet<&str> = described.configs.iter().map(|entry| &*entry.name).collect();
    for known in [
        "min.insync.replicas",
        "remote.storage.enable",
        "unclean.leader.election.enable",
        "max.message.bytes",
    ] {
        assert!(names.contains(known), "{known}");
    }
    assert!(entry("cleanup.policy").synonyms.len() >= 2, "the default is a synonym");
    assert!(entry("cleanup.policy").documentation.as_deref().is_some_and(|text| !text.is_empty()));
    assert!(entry("segment.bytes").config_type == 3 && entry("retention.ms").config_type == 5);

    let some = configs_of(&mut wire, 2, "configured", Some(&["retention.ms", "unknown"]), 4);
    assert_eq!(some.configs.len(), 1);
    let all = configs_of(&mut wire, 2, "configured", Some(&[]), 4);
    assert_eq!(all.configs.len(), described.configs.len(), "empty keys are all keys");
    assert_eq!(configs_of(&mut wire, 2, "missing", None, 4).error_code, 3);
    assert_eq!(configs_of(&mut wire, 2, "bad name", None, 4).error_code, 17);
    for version in 0..=4 {
        assert_eq!(configs_of(&mut wire, 2, "configured", None, version).error_code, 0, "v{version}");
    }
}

/// A broker describes itself; another broker's are refused, the cluster-wide default lists none.
///
/// Proves: A7, A15.
#[test]
fn describe_configs_of_brokers() {
    let mut wire = Wire::open(shared());
    let described = configs_of(&mut wire, 4, "1", None, 4);
    let entry =
        |name: &str| described.configs.iter().find(|entry| &*entry.name == name).expect("the setting");
    assert_eq!(entry("num.partitions").value.as_deref(), Some("1"));
    assert!(entry("num.partitions").read_only);
    assert_eq!(configs_of(&mut wire, 4, "2", None, 4).error_code, 42);
    let default = configs_of(&mut wire, 4, "", None, 4);
    assert_eq!((default.error_code, default.configs.len()), (0, 0));
    assert_eq!(configs_of(&mut wire, 77, "x", None, 4).error_code, 42);
}

/// DescribeCluster and Metadata say the same, from any version; any broker takes admin requests. A controller's endpoint is 114 and one that
/// does not exist 115, as a real Kafka answers (`against_kafka.rs`): the checklist has the two the other way round.
///
/// Proves: A4, A11.
#[test]
fn describe_cluster_agrees_with_metadata() {
    let mut wire = Wire::open(shared());
    let metadata = wire.call(&named(&[]), 12);
    for version in 0..=2 {
        let cluster = wire.call(&DescribeClusterRequest::default(), version);
        assert_eq!(cluster.error_code, 0, "v{version}");
        assert_eq!(Some(cluster.cluster_id), metadata.cluster_id);
        assert_eq!(cluster.controller_id, metadata.controller_id);
        let brokers: Vec<_> = cluster.brokers.iter().map(|b| (b.broker_id, b.host.clone(), b.port)).collect();
        let named: Vec<_> = metadata.brokers.iter().map(|b| (b.node_id, b.host.clone(), b.port)).collect();
        assert_eq!(brokers, named);
    }
    let typed = |endpoint_type| DescribeClusterRequest { endpoint_type, ..DescribeClusterRequest::default() };
    let errors = [wire.call(&typed(2), 1).error_code, wire.call(&typed(9), 1).error_code];
    assert_eq!(errors, [114, 115], "a controller's endpoint, and one that does not exist");
}
