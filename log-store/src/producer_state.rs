//! What a partition remembers of its idempotent producers: epoch and the last five batches of each, as of a prefix of the
//! log; and the `.snapshot` files that hold it at a segment's start.
//!
//! ```text
//! .snapshot: version int16 = 1, CRC-32C uint32 of all behind it, rows int32, then for each row 46 bytes:
//!   producerId int64  epoch int16  lastSequence int32  lastOffset int64  offsetDelta int32
//!   timestamp int64  coordinatorEpoch int32  currentTxnFirstOffset int64 (-1 = none)
//! ```
//! The file is Kafka's, byte for byte. Kafka keeps one row a producer, its last batch; a batch that is sent again after
//! a restart, and is not the last, then counts as out of order. Here a producer has up to five rows, oldest first:
//! Kafka's reader puts row after row into a map, so that the last row stays, which is the row that Kafka would have
//! written; ours takes all five. Nothing else is needed for duplicates to be recognised after a restart: the state
//! is the snapshot of some segment's start and the headers of the batches behind it.
//!
//! What happens to a batch is decided elsewhere, by the newer of this state and of what is in flight; the rules are
//! [`check_sequence`] and [`Producer::find`].
//!
//! Source: KIP-98, KIP-360; `ProducerStateManager`, `ProducerAppendInfo` of Kafka.

use std::collections::HashMap;

use crate::{BatchHeader, batch::crc32c};

/// Batches remembered for each producer: clients keep at most as many in flight.
pub const REMEMBERED_BATCHES: usize = 5;

/// A batch that was appended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RememberedBatch {
    /// Sequence of its last record.
    pub last_sequence: i32,
    /// Offset of its last record.
    pub last_offset: i64,
    /// That offset less the first record's.
    pub offset_delta: i32,
    /// Its largest timestamp.
    pub timestamp: i64,
}

impl RememberedBatch {
    fn of(header: &BatchHeader) -> Self {
        Self {
            last_sequence: header.last_sequence(),
            last_offset: header.last_offset(),
            offset_delta: header.last_offset_delta,
            timestamp: header.max_timestamp,
        }
    }

    /// Sequence of its first record.
    pub fn first_sequence(&self) -> i32 {
        self.last_sequence.wrapping_sub(self.offset_delta) & i32::MAX
    }

    /// Offset of its first record.
    pub fn base_offset(&self) -> i64 {
        self.last_offset.wrapping_sub(i64::from(self.offset_delta))
    }
}

/// One producer of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Its epoch.
    pub epoch: i16,
    /// Epoch of the coordinator that wrote the last marker, or -1.
    pub coordinator_epoch: i32,
    /// Where its open transaction begins.
    pub transaction_start: Option<i64>,
    /// When it last wrote, by this broker's clock, milliseconds.
    pub last_write_ms: i64,
    batches: [RememberedBatch; REMEMBERED_BATCHES],
    count: u8,
}

impl Producer {
    fn new(epoch: i16, now_ms: i64) -> Self {
        Self {
            epoch,
            coordinator_epoch: -1,
            transaction_start: None,
            last_write_ms: now_ms,
            batches: Default::default(),
            count: 0,
        }
    }

    /// The batches remembered under the current epoch, oldest first.
    pub fn batches(&self) -> &[RememberedBatch] {
        &self.batches[..usize::from(self.count)]
    }

    /// Sequence of the last record under the current epoch, or -1.
    pub fn last_sequence(&self) -> i32 {
        self.batches().last().map_or(-1, |batch| batch.last_sequence)
    }

    /// The batch with these sequences, if it is remembered: then one that is sent again is not appended again.
    pub fn find(&self, epoch: i16, first_sequence: i32, last_sequence: i32) -> Option<RememberedBatch> {
        let same = |batch: &&RememberedBatch| {
            (batch.first_sequence(), batch.last_sequence) == (first_sequence, last_sequence)
        };
        self.batches().iter().find(same).copied().filter(|_| epoch == self.epoch)
    }

    fn remember(&mut self, batch: RememberedBatch) {
        if usize::from(self.count) == REMEMBERED_BATCHES {
            self.batches.rotate_left(1);
            self.count -= 1;
        }
        self.batches[usize::from(self.count)] = batch;
        self.count += 1;
    }

    fn enter_epoch(&mut self, epoch: i16) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.count = 0;
        }
    }
}

/// Whether a batch may follow what a producer wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceCheck {
    /// It may.
    InOrder,
    /// Its sequence is not the next one (45).
    OutOfOrder {
        /// The next one.
        expected: i32,
    },
    /// A later epoch of the producer exists (47).
    Fenced {
        /// The newest.
        current: i16,
    },
}

/// Checks a batch against the producer's newest (epoch, last sequence), where -1 is no sequence yet. A producer of whom
/// nothing is known (expired, or its records deleted) may begin anywhere; a new epoch begins at 0.
pub fn check_sequence(newest: Option<(i16, i32)>, epoch: i16, first_sequence: i32) -> SequenceCheck {
    let Some((current, last_sequence)) = newest else { return SequenceCheck::InOrder };
    if epoch < current {
        return SequenceCheck::Fenced { current };
    }
    let expected = if epoch > current { 0 } else { last_sequence.wrapping_add(1) & i32::MAX };
    if first_sequence == expected { SequenceCheck::InOrder } else { SequenceCheck::OutOfOrder { expected } }
}

/// A transaction that a marker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedTransaction {
    /// The producer.
    pub producer_id: i64,
    /// Offset of its first record.
    pub first_offset: i64,
    /// Offset of the marker.
    pub last_offset: i64,
}

/// The producers of one partition, as of a prefix of its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerState {
    producers: HashMap<i64, Producer>,
}

impl ProducerState {
    /// The producer, if it is remembered.
    pub fn get(&self, producer_id: i64) -> Option<&Producer> {
        self.producers.get(&producer_id)
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// All producers by id, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &Producer)> {
        self.producers.iter().map(|(id, producer)| (*id, producer))
    }

    /// Takes in a batch of records. It is in the log, so it is not judged. Batches without a producer, and markers
    /// (see [`ProducerState::end_transaction`]), change nothing.
    pub fn apply(&mut self, header: &BatchHeader, now_ms: i64) {
        if !header.has_producer() || header.is_control() {
            return;
        }
        let epoch = header.producer_epoch;
        let producer =
            self.producers.entry(header.producer_id).or_insert_with(|| Producer::new(epoch, now_ms));
        producer.enter_epoch(epoch);
        producer.last_write_ms = producer.last_write_ms.max(now_ms);
        if header.base_sequence >= 0 {
            producer.remember(RememberedBatch::of(header));
        }
        if header.is_transactional() {
            producer.transaction_start.get_or_insert(header.base_offset);
        }
    }

    /// Takes in a transaction marker: the transaction that it ended, if one was open.
    pub fn end_transaction(
        &mut self,
        marker: &BatchHeader,
        coordinator_epoch: i32,
        now_ms: i64,
    ) -> Option<EndedTransaction> {
        let epoch = marker.producer_epoch;
        let producer =
            self.producers.entry(marker.producer_id).or_insert_with(|| Producer::new(epoch, now_ms));
        producer.enter_epoch(epoch);
        producer.coordinator_epoch = coordinator_epoch;
        producer.last_write_ms = producer.last_write_ms.max(now_ms);
        producer.transaction_start.take().map(|first_offset| EndedTransaction {
            producer_id: marker.producer_id,
            first_offset,
            last_offset: marker.last_offset(),
        })
    }

    /// Where the earliest open transaction begins: nothing from there on is stable.
    pub fn first_unstable_offset(&self) -> Option<i64> {
        self.producers.values().filter_map(|producer| producer.transaction_start).min()
    }

    /// Forgets producers that wrote nothing since `before_ms`, unless `keep` holds on to one or a transaction is open.
    pub fn expire(&mut self, before_ms: i64, mut keep: impl FnMut(i64) -> bool) {
        self.producers.retain(|id, producer| {
            producer.last_write_ms >= before_ms || producer.transaction_start.is_some() || keep(*id)
        });
    }

    /// The bytes of a `.snapshot` file.
    pub fn to_snapshot(&self) -> Vec<u8> {
        let mut rows: Vec<_> = self.producers.iter().collect();
        rows.sort_unstable_by_key(|(id, _)| **id);
        let count: usize = rows.iter().map(|(_, producer)| producer.batches().len().max(1)).sum();
        let mut bytes = Vec::with_capacity(HEAD_BYTES + count * ROW_BYTES);
        bytes.extend_from_slice(&SNAPSHOT_VERSION.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&(count as i32).to_be_bytes());
        for (id, producer) in rows {
            for (batch, is_last) in rows_of(producer) {
                let transaction_start = producer.transaction_start.filter(|_| is_last).unwrap_or(-1);
                bytes.extend_from_slice(&id.to_be_bytes());
                bytes.extend_from_slice(&producer.epoch.to_be_bytes());
                bytes.extend_from_slice(&batch.last_sequence.to_be_bytes());
                bytes.extend_from_slice(&batch.last_offset.to_be_bytes());
                bytes.extend_from_slice(&batch.offset_delta.to_be_bytes());
                bytes.extend_from_slice(&batch.timestamp.to_be_bytes());
                bytes.extend_from_slice(&producer.coordinator_epoch.to_be_bytes());
                bytes.extend_from_slice(&transaction_start.to_be_bytes());
            }
        }
        let crc = crc32c(&bytes[CRC_FROM..]);
        bytes[2..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// Reads a `.snapshot` file. When its producers last wrote is not in it: `now_ms` counts.
    ///
    /// # Errors
    /// The bytes are not a whole, undamaged snapshot of a known version. It is a cache: begin at the one before.
    pub fn from_snapshot(bytes: &[u8], now_ms: i64) -> Result<Self, SnapshotError> {
        let mut state = Self::default();
        for row in SnapshotRow::read_all(bytes)? {
            let producer =
                state.producers.entry(row.producer_id).or_insert_with(|| Producer::new(row.epoch, now_ms));
            producer.enter_epoch(row.epoch);
            producer.coordinator_epoch = row.coordinator_epoch;
            producer.transaction_start = row.transaction_start;
            if row.batch.last_sequence >= 0 {
                producer.remember(row.batch);
            }
        }
        Ok(state)
    }
}

/// The batches of a producer as rows; one without sequence where it has none under its epoch.
fn rows_of(producer: &Producer) -> impl Iterator<Item = (RememberedBatch, bool)> {
    const NO_BATCH: [RememberedBatch; 1] =
        [RememberedBatch { last_sequence: -1, last_offset: -1, offset_delta: 0, timestamp: -1 }];
    let batches = if producer.count == 0 { &NO_BATCH } else { producer.batches() };
    batches.iter().enumerate().map(|(at, batch)| (*batch, at + 1 == batches.len()))
}

const SNAPSHOT_VERSION: i16 = 1;
const CRC_FROM: usize = 6;
const HEAD_BYTES: usize = 10;
const ROW_BYTES: usize = 46;

/// A row of a `.snapshot` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotRow {
    /// The producer.
    pub producer_id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// One of its last batches.
    pub batch: RememberedBatch,
    /// Epoch of the coordinator that wrote the last marker, or -1.
    pub coordinator_epoch: i32,
    /// Where its open transaction begins.
    pub transaction_start: Option<i64>,
}

/// Why a `.snapshot` file cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// It does not hold as many rows as it says, or more bytes.
    #[error("{bytes} bytes do not hold {rows} rows")]
    Size {
        /// Bytes of the file.
        bytes: u64,
        /// Rows it says.
        rows: i32,
    },
    /// Another version.
    #[error("snapshot version {version}, only 1 is known")]
    Version {
        /// The version found.
        version: i16,
    },
    /// The CRC does not hold.
    #[error("stored CRC {stored:08x}, computed {computed:08x}")]
    Crc {
        /// What the file says.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
}

impl SnapshotRow {
    /// All rows of a file, in its order.
    ///
    /// # Errors
    /// The bytes are not a whole, undamaged snapshot of a known version.
    pub fn read_all(bytes: &[u8]) -> Result<impl Iterator<Item = Self> + '_, SnapshotError> {
        let size = |rows| SnapshotError::Size { bytes: bytes.len() as u64, rows };
        let head: &[u8; HEAD_BYTES] = bytes.first_chunk().ok_or(size(0))?;
        let version = i16::from_be_bytes(piece(head, 0));
        if version != SNAPSHOT_VERSION {
            return Err(SnapshotError::Version { version });
        }
        let (stored, computed) = (u32::from_be_bytes(piece(head, 2)), crc32c(&bytes[CRC_FROM..]));
        if stored != computed {
            return Err(SnapshotError::Crc { stored, computed });
        }
        let rows = i32::from_be_bytes(piece(head, CRC_FROM));
        let body = &bytes[HEAD_BYTES..];
        if usize::try_from(rows).ok().and_then(|rows| rows.checked_mul(ROW_BYTES)) != Some(body.len()) {
            return Err(size(rows));
        }
        Ok(body.chunks_exact(ROW_BYTES).map(Self::decode))
    }

    fn decode(row: &[u8]) -> Self {
        let transaction_start = i64::from_be_bytes(piece(row, 38));
        Self {
            producer_id: i64::from_be_bytes(piece(row, 0)),
            epoch: i16::from_be_bytes(piece(row, 8)),
            batch: RememberedBatch {
                last_sequence: i32::from_be_bytes(piece(row, 10)),
                last_offset: i64::from_be_bytes(piece(row, 14)),
                offset_delta: i32::from_be_bytes(piece(row, 22)),
                timestamp: i64::from_be_bytes(piece(row, 26)),
            },
            coordinator_epoch: i32::from_be_bytes(piece(row, 34)),
            transaction_start: (transaction_start >= 0).then_some(transaction_start),
        }
    }
}

fn piece<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut piece = [0; N];
    piece.copy_from_slice(&bytes[at..at + N]);
    piece
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        batch::{BatchBuilder, TRANSACTIONAL_BIT},
        compression::Codec,
    };

    const NOW: i64 = 1_700_000_000_000;

    fn header(producer: i64, epoch: i16, sequence: i32, records: i32, base_offset: i64) -> BatchHeader {
        let mut builder = BatchBuilder::new(Codec::None).producer(producer, epoch, sequence);
        for record in 0..records {
            builder.append(NOW + i64::from(record), None, None, &[]);
        }
        let mut batch = builder.build();
        batch.set_base_offset(base_offset);
        batch.header()
    }

    fn newest(state: &ProducerState, producer: i64) -> Option<(i16, i32)> {
        state.get(producer).map(|producer| (producer.epoch, producer.last_sequence()))
    }

    /// Proves: I3, I4, I6 (the rules, case by case).
    #[test]
    fn sequences_follow_kafkas_rules() {
        use SequenceCheck::{Fenced, InOrder, OutOfOrder};
        for (newest, epoch, first, expected) in [
            (None, 0, 0, InOrder),
            (None, 3, 77, InOrder),
            (Some((1, 9)), 1, 10, InOrder),
            (Some((1, 9)), 1, 9, OutOfOrder { expected: 10 }),
            (Some((1, 9)), 1, 11, OutOfOrder { expected: 10 }),
            (Some((1, 9)), 1, 0, OutOfOrder { expected: 10 }),
            (Some((1, 9)), 2, 0, InOrder),
            (Some((1, 9)), 2, 10, OutOfOrder { expected: 0 }),
            (Some((1, 9)), 0, 10, Fenced { current: 1 }),
            (Some((1, i32::MAX)), 1, 0, InOrder),
            (Some((1, i32::MAX)), 1, 1, OutOfOrder { expected: 0 }),
            (Some((1, -1)), 1, 0, InOrder),
            (Some((1, -1)), 1, 5, OutOfOrder { expected: 0 }),
        ] {
            assert_eq!(check_sequence(newest, epoch, first), expected, "{newest:?} {epoch} {first}");
        }
    }

    /// Proves: I5 (five batches, no more; by exact sequences and epoch), I3 (a batch across the wrap).
    #[test]
    fn five_batches_are_remembered() {
        let mut state = ProducerState::default();
        let mut sequence = i32::MAX - 10;
        let mut batches = Vec::new();
        for batch in 0..8 {
            let header = header(7, 1, sequence, 3, batch * 10);
            assert_eq!(check_sequence(newest(&state, 7), 1, sequence), SequenceCheck::InOrder);
            state.apply(&header, NOW);
            batches.push(header);
            sequence = sequence.wrapping_add(3) & i32::MAX;
        }
        assert!(batches.iter().any(|header| header.last_sequence() < header.base_sequence));
        let producer = state.get(7).unwrap();
        for (at, header) in batches.iter().enumerate() {
            let found = producer.find(1, header.base_sequence, header.last_sequence());
            assert_eq!(
                found.map(|batch| batch.base_offset()),
                (at >= 3).then_some(header.base_offset),
                "{at}"
            );
            assert_eq!(found.map(|batch| batch.timestamp), (at >= 3).then_some(NOW + 2));
            assert_eq!(producer.find(0, header.base_sequence, header.last_sequence()), None);
            assert_eq!(producer.find(1, header.base_sequence, header.last_sequence() - 1), None);
        }
    }

    #[test]
    fn a_new_epoch_forgets_the_batches_of_the_old_one() {
        let mut state = ProducerState::default();
        state.apply(&header(7, 1, 0, 2, 0), NOW);
        state.apply(&header(7, 2, 0, 1, 2), NOW);
        let producer = state.get(7).unwrap();
        assert_eq!((producer.epoch, producer.last_sequence(), producer.batches().len()), (2, 0, 1));
        assert_eq!(producer.find(1, 0, 1), None);
    }

    /// Proves: I9 (the clock of the writes counts, not that of the records).
    #[test]
    fn producers_expire_by_their_last_write() {
        let mut state = ProducerState::default();
        state.apply(&header(1, 0, 0, 1, 0), 100);
        state.apply(&header(2, 0, 0, 1, 1), 200);
        state.apply(&header(3, 0, 0, 1, 2), 100);
        let mut open = header(4, 0, 0, 1, 3);
        open.attributes |= TRANSACTIONAL_BIT;
        state.apply(&open, 100);
        state.expire(200, |producer| producer == 3);
        let mut left: Vec<_> = state.iter().map(|(id, _)| id).collect();
        left.sort_unstable();
        assert_eq!(left, [2, 3, 4]);
        state.apply(&header(-1, -1, -1, 1, 4), 300);
        assert_eq!(state.len(), 3);
    }

    #[test]
    fn the_earliest_open_transaction_bounds_what_is_stable() {
        let mut state = ProducerState::default();
        let transactional = |producer, offset| {
            let mut header = header(producer, 0, 0, 2, offset);
            header.attributes |= TRANSACTIONAL_BIT;
            header
        };
        state.apply(&transactional(1, 10), NOW);
        state.apply(&transactional(2, 12), NOW);
        assert_eq!(state.first_unstable_offset(), Some(10));
        let marker = header(1, 0, -1, 1, 14);
        let ended = state.end_transaction(&marker, 5, NOW);
        assert_eq!(ended, Some(EndedTransaction { producer_id: 1, first_offset: 10, last_offset: 14 }));
        assert_eq!(state.first_unstable_offset(), Some(12));
        assert_eq!(state.end_transaction(&marker, 5, NOW), None);
        let read = ProducerState::from_snapshot(&state.to_snapshot(), NOW).unwrap();
        assert_eq!(read, state);
    }

    /// Proves: I7 (the file remembers all five batches, not only the last).
    #[test]
    fn snapshots_round_trip_with_all_batches() {
        let mut state = ProducerState::default();
        assert_eq!(ProducerState::from_snapshot(&state.to_snapshot(), NOW), Ok(state.clone()));
        for batch in 0..7 {
            state.apply(&header(7, 1, batch * 2, 2, i64::from(batch) * 4), NOW);
            state.apply(&header(-1, -1, -1, 1, i64::from(batch) * 4 + 2), NOW);
            state.apply(&header(8, 0, batch, 1, i64::from(batch) * 4 + 3), NOW);
        }
        let bytes = state.to_snapshot();
        assert_eq!(bytes.len(), HEAD_BYTES + 10 * ROW_BYTES);
        assert_eq!(ProducerState::from_snapshot(&bytes, NOW), Ok(state));
    }

    #[test]
    fn a_damaged_snapshot_is_refused_at_every_bit() {
        let mut state = ProducerState::default();
        state.apply(&header(7, 1, 0, 2, 0), NOW);
        let bytes = state.to_snapshot();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(ProducerState::from_snapshot(&damaged, NOW).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(ProducerState::from_snapshot(&bytes[..length], NOW).is_err());
        }
        let mut forged = bytes.clone();
        forged[6..10].copy_from_slice(&i32::MAX.to_be_bytes());
        let crc = crc32c(&forged[CRC_FROM..]);
        forged[2..6].copy_from_slice(&crc.to_be_bytes());
        assert!(matches!(ProducerState::from_snapshot(&forged, NOW), Err(SnapshotError::Size { .. })));
    }

    #[test]
    fn a_row_holds_what_kafkas_would() {
        let mut state = ProducerState::default();
        state.apply(&header(1000, 0, 0, 10, 0), NOW);
        let bytes = state.to_snapshot();
        let rows: Vec<_> = SnapshotRow::read_all(&bytes).unwrap().collect();
        let batch = RememberedBatch { last_sequence: 9, last_offset: 9, offset_delta: 9, timestamp: NOW + 9 };
        assert_eq!(
            rows,
            [SnapshotRow {
                producer_id: 1000,
                epoch: 0,
                batch,
                coordinator_epoch: -1,
                transaction_start: None
            }]
        );
        // Kafka 4.3.1's DumpLogSegments reads these very bytes, and checks their CRC.
        let kafka = "000189961a930000000100000000000003e8000000000009000000000000000900000009\
                     0000018bcfe56809ffffffffffffffffffffffff";
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, kafka);
    }
}
