//! Stored offsets: how large their records are, and when they expire.
//!
//! An offset goes when its retention has passed, counted from the moment the group became empty, or from the commit
//! where nobody ever joined the group (a consumer that only stores offsets) or where its members no longer read the
//! topic. Offsets of topics that members read stay, and so do those of a group that is rebalancing. An expiry time that
//! the client asked for (OffsetCommit v2 to v4) stands instead of the retention.
//!
//! Source: KIP-211.

use std::sync::Arc;

use crate::{
    classic::ClassicGroup,
    request::{CommittedOffset, OffsetsByTopic},
};

/// The offsets of a group that have expired.
pub(crate) fn expired(
    group: &ClassicGroup,
    offsets: &OffsetsByTopic,
    now_ms: i64,
    retention_ms: i64,
) -> Vec<(Arc<str>, i32)> {
    let has_expired = |committed: &CommittedOffset| {
        group.retention_start_ms(committed.commit_timestamp_ms).is_some_and(|start_ms| {
            match committed.expire_timestamp_ms {
                Some(expire_ms) => now_ms >= expire_ms,
                None => now_ms.saturating_sub(start_ms) >= retention_ms,
            }
        })
    };
    let mut gone = Vec::new();
    for (topic, partitions) in offsets.iter().filter(|(topic, _)| !group.is_subscribed_to(topic)) {
        let expired = partitions.iter().filter(|(_, committed)| has_expired(committed));
        gone.extend(expired.map(|(&partition, _)| (topic.clone(), partition)));
    }
    gone
}

/// Bytes of the key of an offset.
pub(crate) fn key_bytes(group_id: &str, topic: &str) -> usize {
    2 + 2 + group_id.len() + 2 + topic.len() + 4
}

impl CommittedOffset {
    /// Bytes of [`CommittedOffset::encode`].
    pub fn encoded_len(&self) -> usize {
        let text = self.metadata.len();
        if self.expire_timestamp_ms.is_some() {
            return 2 + 8 + 2 + text + 8 + 8;
        }
        let length = match text + 1 {
            0..0x80 => 1,
            0x80..0x4000 => 2,
            _ => 3,
        };
        let tags = if self.topic_id.is_nil() { 1 } else { 1 + 2 + 16 };
        2 + 8 + 4 + length + text + 8 + tags
    }
}
