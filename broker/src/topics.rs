//! Topics as the admin and metadata APIs see them: which names are legal, which topics are internal, how one is made.

use replication::metadata::{MetadataError, NewTopic, TopicInfo};

use std::{collections::BTreeMap, sync::Arc};

use crate::api::Broker;

/// The topic that holds committed offsets and group metadata.
pub(crate) const CONSUMER_OFFSETS: &str = "__consumer_offsets";
/// The topic that will hold the state of transactions; its name is reserved.
pub(crate) const TRANSACTION_STATE: &str = "__transaction_state";
/// The topic of Kafka's share groups; its name is reserved.
const SHARE_GROUP_STATE: &str = "__share_group_state";
/// Topics that clients may not produce to.
pub(crate) const INTERNAL: [&str; 3] = [CONSUMER_OFFSETS, TRANSACTION_STATE, SHARE_GROUP_STATE];
/// The directory of the metadata group has the form of a partition's, so no topic may take its name.
const CLUSTER_METADATA: &str = "__cluster_metadata";

/// The longest name of a topic: with `-` and a partition it must fit a file name, with room for a deleted one's id.
pub(crate) const MAX_NAME: usize = 249;

/// Whether clients may not produce to it.
pub(crate) fn is_internal(name: &str) -> bool {
    INTERNAL.contains(&name)
}

/// What is wrong with a topic's name, in words.
pub(crate) fn name_error(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("a topic's name must not be empty".to_owned());
    }
    if name == "." || name == ".." {
        return Some(format!("a topic cannot be named '{name}'"));
    }
    if name.len() > MAX_NAME {
        return Some(format!(
            "a topic's name has at most {MAX_NAME} characters, this one has {}",
            name.len()
        ));
    }
    let illegal = name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')))?;
    Some(format!("'{name}' contains {illegal:?}: letters, digits, '.', '_' and '-' are allowed"))
}

/// [`name_error`], and names that only the broker itself may use.
pub(crate) fn creation_error(name: &str) -> Option<String> {
    if name == CLUSTER_METADATA {
        return Some(format!("'{name}' is reserved"));
    }
    name_error(name)
}

/// So many partitions with so many replicas each, spread over the brokers.
///
/// # Errors
/// [`MetadataError::ReplicationFactor`].
pub(crate) fn place(brokers: &[i32], partitions: i32, factor: i16) -> Result<Vec<Vec<i32>>, MetadataError> {
    let factor = usize::try_from(factor).unwrap_or(0);
    if factor > brokers.len() {
        return Err(MetadataError::ReplicationFactor { factor, brokers: brokers.len() });
    }
    let replicas = |partition: usize| (0..factor).map(|n| brokers[(partition + n) % brokers.len()]).collect();
    Ok((0..usize::try_from(partitions).unwrap_or(0)).map(replicas).collect())
}

/// Creates the topics where the system's limits leave room for all of them.
pub(crate) async fn create_within_limits(
    broker: &Broker,
    topics: Vec<NewTopic>,
    validate_only: bool,
) -> Vec<Result<Arc<TopicInfo>, MetadataError>> {
    let _turn = broker.creations.lock().await;
    let partitions: usize = topics.iter().map(|new| new.partitions.len()).sum();
    let open = broker.node.partitions().len();
    match broker.limits.allow_partitions(open as u64, partitions as u64) {
        Ok(()) => broker.node.create_topics(topics, validate_only).await,
        Err(words) => topics.iter().map(|_| Err(MetadataError::Limit(words.clone()))).collect(),
    }
}

/// How the offsets topic is made, as in Kafka.
const CONSUMER_OFFSETS_CONFIGS: [(&str, &str); 3] =
    [("cleanup.policy", "compact"), ("compression.type", "producer"), ("segment.bytes", "104857600")];

/// Creates a topic as auto-create and the coordinators do: with the broker's defaults, the offsets topic with its own; it serves when this
/// returns.
///
/// # Errors
/// As [`replication::Node::create_topics`]; a topic that exists is no error but the topic.
pub(crate) async fn create_with_defaults(
    broker: &Broker,
    name: &str,
) -> Result<Arc<TopicInfo>, MetadataError> {
    let (partitions, factor, configs) = if name == CONSUMER_OFFSETS {
        // Groups must work on one broker, too, whatever Kafka's default of three says.
        (broker.config.offsets_topic_partitions, 1, &CONSUMER_OFFSETS_CONFIGS[..])
    } else {
        (broker.config.num_partitions, broker.config.default_replication_factor, &[][..])
    };
    let brokers: Vec<i32> = broker.node.metadata().brokers.keys().copied().collect();
    let placed = place(&brokers, partitions, factor)?;
    let configs: BTreeMap<_, _> =
        configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let new = NewTopic { name: name.to_owned(), partitions: placed, configs };
    match create_within_limits(broker, vec![new], false).await.pop() {
        Some(Err(MetadataError::TopicExists(name))) => match broker.node.metadata().topics.get(name.as_str())
        {
            Some(topic) => Ok(Arc::clone(topic)),
            None => Err(MetadataError::UnknownTopic),
        },
        Some(result) => result,
        None => Err(MetadataError::UnknownTopic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_spread_over_the_brokers_there_are() {
        assert_eq!(place(&[4, 7], 3, 1).unwrap(), [[4], [7], [4]]);
        assert_eq!(place(&[4, 7], 2, 2).unwrap(), [[4, 7], [7, 4]]);
        assert!(matches!(place(&[4], 1, 2), Err(MetadataError::ReplicationFactor { factor: 2, brokers: 1 })));
    }

    /// Proves: M3.
    #[test]
    fn names_are_checked() {
        for legal in ["a", "A.b_c-9", "__consumer_offsets", &"x".repeat(249)] {
            assert_eq!(name_error(legal), None, "{legal}");
        }
        for illegal in ["", ".", "..", "a b", "a/b", "\u{e9}", "a\0", &"x".repeat(250)] {
            assert!(name_error(illegal).is_some(), "{illegal}");
        }
        assert!(creation_error("__cluster_metadata").is_some());
    }
}
