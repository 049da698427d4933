//! The sparse offset index of a segment, in Kafka's format: the **last** offset of a batch -> the byte at which that
//! batch begins.
//!
//! ```text
//! .index   0 relativeOffset  int32  last offset of the batch, less the segment's base offset
//!          4 position        int32  first byte of the batch in the .log
//! .raft    0 ordinal         int32  batches of the segment before this one (one per entry, see `raft_file`)
//! ```
//! Entries follow each other strictly in all three. The first batch has none: a search that finds no entry begins at
//! byte 0. In memory an entry has its ordinal beside it, so that a Raft index is found the same way as an offset.

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetIndexEntry {
    /// Last offset of the batch, less the segment's base offset.
    pub relative_offset: u32,
    /// First byte of the batch.
    pub position: u32,
    /// Batches of the segment before it.
    pub ordinal: u32,
}

/// Bytes of an entry in the `.index` file.
pub const OFFSET_ENTRY_BYTES: usize = 8;
/// Bytes of an entry's ordinal in the `.raft` file.
pub const ORDINAL_BYTES: usize = 4;

/// The entries of one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffsetIndex {
    entries: Vec<OffsetIndexEntry>,
}

impl OffsetIndex {
    /// Reads the content of an `.index` file and the ordinals that belong to it.
    ///
    /// # Errors
    /// What does not hold, where the content cannot be an index of a segment of `segment_bytes`.
    pub fn decode(index: &[u8], ordinals: &[u8], segment_bytes: u64) -> Result<Self, &'static str> {
        let (index, rest) = index.as_chunks::<OFFSET_ENTRY_BYTES>();
        let (ordinals, odd) = ordinals.as_chunks::<ORDINAL_BYTES>();
        if !rest.is_empty() || !odd.is_empty() || index.len() != ordinals.len() {
            return Err("its length is not that of whole entries");
        }
        let entries: Vec<_> = index
            .iter()
            .zip(ordinals)
            .map(|(&[a, b, c, d, e, f, g, h], ordinal)| OffsetIndexEntry {
                relative_offset: u32::from_be_bytes([a, b, c, d]),
                position: u32::from_be_bytes([e, f, g, h]),
                ordinal: u32::from_be_bytes(*ordinal),
            })
            .collect();
        let ascending = entries.is_sorted_by(|one, next| {
            one.relative_offset < next.relative_offset
                && one.position < next.position
                && one.ordinal < next.ordinal
        });
        if !ascending {
            return Err("its entries are not in order");
        }
        if entries.last().is_some_and(|last| u64::from(last.position) >= segment_bytes) {
            return Err("it points beyond the segment");
        }
        Ok(Self { entries })
    }

    /// The bytes of the entries from number `first` on: those of the `.index` file, and the ordinals.
    pub fn encode_from(&self, first: usize) -> (Vec<u8>, Vec<u8>) {
        let entries = self.entries.get(first..).unwrap_or_default();
        let mut index = Vec::with_capacity(entries.len() * OFFSET_ENTRY_BYTES);
        let mut ordinals = Vec::with_capacity(entries.len() * ORDINAL_BYTES);
        for entry in entries {
            index.extend_from_slice(&entry.relative_offset.to_be_bytes());
            index.extend_from_slice(&entry.position.to_be_bytes());
            ordinals.extend_from_slice(&entry.ordinal.to_be_bytes());
        }
        (index, ordinals)
    }

    /// Adds the entry of the next batch to be indexed.
    pub fn push(&mut self, entry: OffsetIndexEntry) {
        self.entries.push(entry);
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
    pub fn entries(&self) -> &[OffsetIndexEntry] {
        &self.entries
    }

    /// The last entry.
    pub fn last(&self) -> Option<&OffsetIndexEntry> {
        self.entries.last()
    }

    /// The last entry whose batch ends at or before a relative offset: a search for that offset begins there.
    pub fn floor_by_offset(&self, relative_offset: u32) -> Option<&OffsetIndexEntry> {
        self.floor(|entry| entry.relative_offset <= relative_offset)
    }

    /// The last entry whose batch begins at or before a position.
    pub fn floor_by_position(&self, position: u64) -> Option<&OffsetIndexEntry> {
        self.floor(|entry| u64::from(entry.position) <= position)
    }

    /// The last entry whose ordinal is at or below the given one.
    pub fn floor_by_ordinal(&self, ordinal: u32) -> Option<&OffsetIndexEntry> {
        self.floor(|entry| entry.ordinal <= ordinal)
    }

    /// Forgets the entries of batches that begin at or behind `position`.
    pub fn truncate(&mut self, position: u64) {
        let kept = self.entries.partition_point(|entry| u64::from(entry.position) < position);
        self.entries.truncate(kept);
    }

    fn floor(&self, is_before: impl FnMut(&OffsetIndexEntry) -> bool) -> Option<&OffsetIndexEntry> {
        self.entries[..self.entries.partition_point(is_before)].last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> OffsetIndex {
        let mut index = OffsetIndex::default();
        for (relative_offset, position, ordinal) in [(9, 5000, 2), (10, 9100, 3), (40, 14000, 7)] {
            index.push(OffsetIndexEntry { relative_offset, position, ordinal });
        }
        index
    }

    #[test]
    fn bytes_are_kafkas() {
        let (index, ordinals) = three().encode_from(0);
        assert_eq!(index[..16], [0, 0, 0, 9, 0, 0, 0x13, 0x88, 0, 0, 0, 10, 0, 0, 0x23, 0x8c]);
        assert_eq!(ordinals, [0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 7]);
        assert_eq!(OffsetIndex::decode(&index, &ordinals, 20_000), Ok(three()));
        let (tail, _) = three().encode_from(2);
        assert_eq!(tail, index[16..]);
        assert_eq!(three().encode_from(9).0.len(), 0);
    }

    #[test]
    fn searches_find_the_entry_at_or_before() {
        let index = three();
        let positions = |found: Option<&OffsetIndexEntry>| found.map(|entry| entry.position);
        assert_eq!(positions(index.floor_by_offset(8)), None);
        assert_eq!(positions(index.floor_by_offset(9)), Some(5000));
        assert_eq!(positions(index.floor_by_offset(39)), Some(9100));
        assert_eq!(positions(index.floor_by_offset(u32::MAX)), Some(14000));
        assert_eq!(positions(index.floor_by_position(4999)), None);
        assert_eq!(positions(index.floor_by_position(9099)), Some(5000));
        assert_eq!(positions(index.floor_by_ordinal(6)), Some(9100));
        assert_eq!(positions(index.floor_by_ordinal(7)), Some(14000));
    }

    #[test]
    fn truncation_keeps_what_begins_before() {
        let mut index = three();
        index.truncate(14000);
        assert_eq!(index.len(), 2);
        index.truncate(9101);
        assert_eq!(index.len(), 2);
        index.truncate(0);
        assert!(index.is_empty());
    }

    #[test]
    fn doubtful_content_is_refused() {
        let (index, ordinals) = three().encode_from(0);
        assert!(OffsetIndex::decode(&index[..23], &ordinals, 20_000).is_err(), "half an entry");
        assert!(OffsetIndex::decode(&index[..16], &ordinals, 20_000).is_err(), "too few entries");
        assert!(OffsetIndex::decode(&index, &ordinals, 14_000).is_err(), "beyond the segment");
        let mut swapped = index.clone();
        swapped[..8].copy_from_slice(&index[8..16]);
        swapped[8..16].copy_from_slice(&index[..8]);
        assert!(OffsetIndex::decode(&swapped, &ordinals, 20_000).is_err(), "not in order");
        let zeros = vec![0; index.len()];
        assert!(OffsetIndex::decode(&zeros, &ordinals, 20_000).is_err(), "zeros, as after a power cut");
    }
}
