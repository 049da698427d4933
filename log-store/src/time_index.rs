//! The sparse time index of a segment, in Kafka's format: the largest timestamp so far and the batch that holds it.
//!
//! ```text
//! .timeindex   0 timestamp       int64  largest of the segment up to some batch
//!              8 relativeOffset  int32  last offset of the batch that holds it, less the segment's base offset
//! ```
//! Timestamps rise strictly and offsets never fall. An entry (T, o) says: no batch up to o has a timestamp above T. So
//! a search for timestamp t begins behind the batch of the last entry with T < t.

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeIndexEntry {
    /// Largest timestamp so far, milliseconds.
    pub timestamp: i64,
    /// Last offset of the batch that holds it, less the segment's base offset.
    pub relative_offset: u32,
}

/// Bytes of an entry in the `.timeindex` file.
pub const TIME_ENTRY_BYTES: usize = 12;

/// The entries of one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimeIndex {
    entries: Vec<TimeIndexEntry>,
}

impl TimeIndex {
    /// Reads the content of a `.timeindex` file.
    ///
    /// # Errors
    /// What does not hold, where the content cannot be a time index.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let (chunks, rest) = bytes.as_chunks::<TIME_ENTRY_BYTES>();
        if !rest.is_empty() {
            return Err("its length is not that of whole entries");
        }
        let entries: Vec<_> = chunks
            .iter()
            .map(|&[a, b, c, d, e, f, g, h, i, j, k, l]| TimeIndexEntry {
                timestamp: i64::from_be_bytes([a, b, c, d, e, f, g, h]),
                relative_offset: u32::from_be_bytes([i, j, k, l]),
            })
            .collect();
        let ascending = entries.is_sorted_by(|one, next| {
            one.timestamp < next.timestamp && one.relative_offset < next.relative_offset
        });
        if !ascending {
            return Err("its entries are not in order");
        }
        Ok(Self { entries })
    }

    /// The bytes of the entries from number `first` on.
    pub fn encode_from(&self, first: usize) -> Vec<u8> {
        let entries = self.entries.get(first..).unwrap_or_default();
        let mut bytes = Vec::with_capacity(entries.len() * TIME_ENTRY_BYTES);
        for entry in entries {
            bytes.extend_from_slice(&entry.timestamp.to_be_bytes());
            bytes.extend_from_slice(&entry.relative_offset.to_be_bytes());
        }
        bytes
    }

    /// Adds an entry, unless the largest timestamp is that of the last entry (or there is none: -1).
    pub fn push(&mut self, entry: TimeIndexEntry) {
        if entry.timestamp > self.entries.last().map_or(-1, |last| last.timestamp) {
            self.entries.push(entry);
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries, in order.
    pub fn entries(&self) -> &[TimeIndexEntry] {
        &self.entries
    }

    /// The last entry below `timestamp`: every batch up to its offset is older.
    pub fn last_before(&self, timestamp: i64) -> Option<&TimeIndexEntry> {
        self.entries[..self.entries.partition_point(|entry| entry.timestamp < timestamp)].last()
    }

    /// Forgets the entries of batches at or behind a relative offset.
    pub fn truncate(&mut self, relative_offset: u32) {
        let kept = self.entries.partition_point(|entry| entry.relative_offset < relative_offset);
        self.entries.truncate(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> TimeIndex {
        let mut index = TimeIndex::default();
        for (timestamp, relative_offset) in [(100, 4), (100, 9), (250, 12), (90, 15), (251, 20)] {
            index.push(TimeIndexEntry { timestamp, relative_offset });
        }
        index
    }

    #[test]
    fn only_a_larger_timestamp_is_added() {
        assert_eq!(three().len(), 3);
        let mut index = TimeIndex::default();
        index.push(TimeIndexEntry { timestamp: -1, relative_offset: 3 });
        assert!(index.is_empty(), "batches without timestamps are not indexed");
    }

    #[test]
    fn bytes_are_kafkas() {
        let bytes = three().encode_from(0);
        assert_eq!(bytes[..12], [0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0, 4]);
        assert_eq!(TimeIndex::decode(&bytes), Ok(three()));
        assert_eq!(three().encode_from(1), bytes[12..]);
    }

    #[test]
    fn a_search_begins_behind_everything_older() {
        let index = three();
        assert_eq!(index.last_before(100), None);
        assert_eq!(index.last_before(101).map(|entry| entry.relative_offset), Some(4));
        assert_eq!(index.last_before(250).map(|entry| entry.relative_offset), Some(4));
        assert_eq!(index.last_before(i64::MAX).map(|entry| entry.relative_offset), Some(20));
    }

    #[test]
    fn doubtful_content_is_refused() {
        let bytes = three().encode_from(0);
        assert!(TimeIndex::decode(&bytes[..13]).is_err());
        assert!(TimeIndex::decode(&[0; 24]).is_err());
    }
}
