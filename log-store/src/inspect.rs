//! Reading the files of a partition as they lie on disk: for `dump`, and for tests. Nothing is written and nothing is
//! believed; a damaged file is read as far as it goes, and what is wrong with it is said batch by batch.

use std::io::{self, Read};

use bytes::Bytes;

use crate::{
    RecordBatch,
    batch::{BatchError, BatchHeader, HEADER_BYTES},
};

/// A batch of a `.log` file, and what is wrong with it.
#[derive(Clone, Debug)]
pub struct StoredBatch {
    /// The byte at which it begins.
    pub position: u64,
    /// The batch.
    pub batch: RecordBatch,
    /// What does not hold; empty for a good one.
    pub faults: Vec<BatchFault>,
}

/// Something that does not hold for a batch in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchFault {
    /// The CRC.
    #[error("stored CRC {stored:08x}, computed {computed:08x}")]
    Crc {
        /// What the header says.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// The offset is not above those before (or not the segment's, for the first).
    #[error("base offset {found} where {expected} or more is expected")]
    Offset {
        /// The least it may be.
        expected: i64,
        /// What it is.
        found: i64,
    },
    /// The leader epoch is below that of the batch before.
    #[error("leader epoch {found} behind {before}")]
    Epoch {
        /// The batch before.
        before: i32,
        /// This one.
        found: i32,
    },
}

/// Why a `.log` file could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum SegmentFault {
    /// What follows is no batch, or only a part of one.
    #[error("no batch begins at byte {position}: {reason}; {bytes} bytes are left over")]
    NoBatch {
        /// The byte at which a batch should begin.
        position: u64,
        /// Bytes from there to the end of the file.
        bytes: u64,
        /// What does not hold.
        reason: BatchError,
    },
    /// The system's error.
    #[error("cannot read at byte {position}: {source}")]
    Io {
        /// Where.
        position: u64,
        /// The error.
        source: io::Error,
    },
}

/// Reads the batches of a `.log` file in order, one at a time in memory.
#[derive(Debug)]
pub struct BatchReader<R> {
    reader: R,
    position: u64,
    size: u64,
    next_offset: i64,
    epoch: i32,
    ended: bool,
}

impl<R: Read> BatchReader<R> {
    /// A reader of the segment that begins at `base_offset` and has `size` bytes.
    pub fn new(reader: R, base_offset: i64, size: u64) -> Self {
        Self { reader, position: 0, size, next_offset: base_offset, epoch: -1, ended: false }
    }

    fn read(&mut self) -> Result<StoredBatch, SegmentFault> {
        let (position, left) = (self.position, self.size - self.position);
        let no_batch = |reason| SegmentFault::NoBatch { position, bytes: left, reason };
        let failed = |source| SegmentFault::Io { position, source };
        let mut head = [0; HEADER_BYTES];
        let head_bytes = left.min(HEADER_BYTES as u64) as usize;
        self.reader.read_exact(&mut head[..head_bytes]).map_err(failed)?;
        let header = BatchHeader::parse(&head[..head_bytes]).map_err(no_batch)?;
        let size = header.size() as u64;
        if size > left {
            return Err(no_batch(BatchError::Truncated { have: left, need: size }));
        }
        let mut records = vec![0; header.size() - HEADER_BYTES];
        self.reader.read_exact(&mut records).map_err(failed)?;
        let batch = RecordBatch { head, records: Bytes::from(records) };
        let faults = self.faults(&header, batch.computed_crc());
        self.position += size;
        self.next_offset = self.next_offset.max(header.next_offset());
        self.epoch = self.epoch.max(header.partition_leader_epoch);
        Ok(StoredBatch { position, batch, faults })
    }

    fn faults(&self, header: &BatchHeader, computed: u32) -> Vec<BatchFault> {
        let (stored, found) = (header.crc, header.base_offset);
        let crc = (stored != computed).then_some(BatchFault::Crc { stored, computed });
        let offset = (found < self.next_offset || header.last_offset_delta < 0)
            .then_some(BatchFault::Offset { expected: self.next_offset, found });
        let epoch = (header.partition_leader_epoch < self.epoch)
            .then_some(BatchFault::Epoch { before: self.epoch, found: header.partition_leader_epoch });
        [crc, offset, epoch].into_iter().flatten().collect()
    }
}

impl<R: Read> Iterator for BatchReader<R> {
    type Item = Result<StoredBatch, SegmentFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended || self.position >= self.size {
            return None;
        }
        let result = self.read();
        self.ended = result.is_err();
        Some(result)
    }
}

/// The entries of an `.index` file: (offset, position), and the bytes behind the last whole one.
pub fn offset_entries(bytes: &[u8], base_offset: i64) -> (Vec<(i64, u32)>, usize) {
    let (entries, rest) = bytes.as_chunks();
    let entries = entries
        .iter()
        .map(|&[a, b, c, d, e, f, g, h]| {
            let relative = i32::from_be_bytes([a, b, c, d]);
            (base_offset.wrapping_add(i64::from(relative)), u32::from_be_bytes([e, f, g, h]))
        })
        .collect();
    (entries, rest.len())
}

/// The entries of a `.timeindex` file: (timestamp, offset), and the bytes behind the last whole one.
pub fn time_entries(bytes: &[u8], base_offset: i64) -> (Vec<(i64, i64)>, usize) {
    let (entries, rest) = bytes.as_chunks();
    let entries = entries
        .iter()
        .map(|&[a, b, c, d, e, f, g, h, i, j, k, l]| {
            let relative = i32::from_be_bytes([i, j, k, l]);
            (i64::from_be_bytes([a, b, c, d, e, f, g, h]), base_offset.wrapping_add(i64::from(relative)))
        })
        .collect();
    (entries, rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{batch::BatchBuilder, compression::Codec};

    fn segment(base_offset: i64, epochs: &[i32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (at, epoch) in epochs.iter().enumerate() {
            let mut builder = BatchBuilder::new(Codec::None);
            builder.append(1000, Some(b"key"), Some(&[at as u8; 100]), &[]).append(1001, None, None, &[]);
            let mut batch = builder.build();
            batch.set_base_offset(base_offset + at as i64 * 2);
            batch.set_leader_epoch(*epoch);
            bytes.extend_from_slice(&batch.to_bytes());
        }
        bytes
    }

    fn read(bytes: &[u8], base_offset: i64) -> (Vec<StoredBatch>, Option<SegmentFault>) {
        let mut batches = Vec::new();
        for result in BatchReader::new(bytes, base_offset, bytes.len() as u64) {
            match result {
                Ok(batch) => batches.push(batch),
                Err(fault) => return (batches, Some(fault)),
            }
        }
        (batches, None)
    }

    #[test]
    fn a_good_segment_is_read_to_its_end() {
        let bytes = segment(100, &[1, 1, 4]);
        let (batches, fault) = read(&bytes, 100);
        assert!(fault.is_none());
        assert!(batches.iter().all(|batch| batch.faults.is_empty()));
        let places: Vec<_> =
            batches.iter().map(|batch| (batch.position, batch.batch.base_offset())).collect();
        let size = bytes.len() as u64 / 3;
        assert_eq!(places, [(0, 100), (size, 102), (2 * size, 104)]);
        assert!(read(&[], 0).1.is_none());
    }

    #[test]
    fn what_does_not_hold_is_said_and_reading_goes_on() {
        let mut bytes = segment(100, &[2, 1, 2]);
        let size = bytes.len() / 3;
        bytes[size - 1] ^= 1;
        let (batches, fault) = read(&bytes, 101);
        assert!(fault.is_none());
        assert!(matches!(
            batches[0].faults[..],
            [BatchFault::Crc { .. }, BatchFault::Offset { expected: 101, found: 100 }]
        ));
        assert_eq!(batches[1].faults, [BatchFault::Epoch { before: 2, found: 1 }]);
        assert!(batches[2].faults.is_empty());
    }

    #[test]
    fn a_torn_end_and_a_zero_tail_are_no_batches() {
        let bytes = segment(0, &[0, 0]);
        let size = bytes.len() as u64 / 2;
        for cut in 1..size {
            let (batches, fault) = read(&bytes[..bytes.len() - cut as usize], 0);
            assert_eq!(batches.len(), 1, "cut by {cut}");
            assert!(
                matches!(fault, Some(SegmentFault::NoBatch { position, bytes, .. }) if position == size && bytes == size - cut)
            );
        }
        let zeros = [&bytes[..], &[0; 4096]].concat();
        let (batches, fault) = read(&zeros, 0);
        assert_eq!(batches.len(), 2);
        assert!(matches!(fault, Some(SegmentFault::NoBatch { bytes: 4096, .. })));
        // A length that claims two gigabytes is compared with the file before anything is allocated.
        let mut claim = bytes.clone();
        claim[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
        assert!(matches!(read(&claim, 0).1, Some(SegmentFault::NoBatch { position: 0, .. })));
    }

    #[test]
    fn index_entries_are_those_of_kafka() {
        let bytes = [0, 0, 0, 9, 0, 0, 0x10, 0, 0, 0, 0, 19, 0, 0, 0x20, 0, 7];
        assert_eq!(offset_entries(&bytes, 100), (vec![(109, 4096), (119, 8192)], 1));
        let bytes = [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 5, 1, 2];
        assert_eq!(time_entries(&bytes, 100), (vec![(256, 105)], 2));
    }
}
