//! Record batches for tests: well-formed ones, and well-formed ones with single bytes changed.

use alluvium::protocol::{Records, messages::fetch::PartitionRecords};
use bytes::{Bytes, BytesMut};
use log_store::{
    LogSlice, RecordBatch,
    batch::{BatchBuilder, BatchHeader, crc32c},
    compression::{Codec, Inflater},
};

/// Where the CRC begins to count.
const ATTRIBUTES: usize = 21;

/// A record as tests compare it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plain {
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) key: Option<String>,
    pub(crate) value: Option<String>,
    pub(crate) headers: Vec<(String, Option<String>)>,
}

/// A batch of `count` records of an idempotent producer.
pub(crate) fn of_producer(id: i64, epoch: i16, sequence: i32, count: usize) -> Bytes {
    let mut builder = BatchBuilder::default().producer(id, epoch, sequence);
    for number in 0..count {
        builder.append(
            now(),
            None,
            Some(format!("{id}-{epoch}-{}", i64::from(sequence) + number as i64).as_bytes()),
            &[],
        );
    }
    builder.build().to_bytes()
}

/// A batch with one record of `size` bytes of value, which no codec makes small.
pub(crate) fn of_size(size: usize) -> Bytes {
    let mut state = 1_u64;
    let value: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u8
    })
    .take(size)
    .collect();
    let mut builder = BatchBuilder::default();
    builder.append(now(), None, Some(&value), &[]);
    builder.build().to_bytes()
}

/// A batch in a codec.
pub(crate) fn in_codec(codec: Codec, values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    for value in values {
        builder.append(now(), None, Some(value.as_bytes()), &[]);
    }
    builder.build().to_bytes()
}

/// The same batch with bytes changed from `at` on, and the CRC made right again.
pub(crate) fn with(batch: &Bytes, at: usize, bytes: &[u8]) -> Bytes {
    let mut changed = BytesMut::from(&batch[..]);
    changed[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c(&changed[ATTRIBUTES..]);
    changed[17..21].copy_from_slice(&crc.to_be_bytes());
    changed.freeze()
}

/// Milliseconds since the epoch.
pub(crate) fn now() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a clock after 1970")
        .as_millis()
        .try_into()
        .expect("a clock before the year 292 million")
}

/// The bytes of a fetched partition.
pub(crate) fn bytes(records: &Records) -> Bytes {
    let mut all = BytesMut::new();
    for slice in &records.0 {
        match slice {
            LogSlice::Bytes(bytes) => all.extend_from_slice(bytes),
            other => panic!("{other:?} was decoded from the wire"),
        }
    }
    all.freeze()
}

/// The whole batches of a fetched partition.
pub(crate) fn batches(partition: &PartitionRecords) -> Vec<RecordBatch> {
    let mut rest = bytes(&partition.records);
    let mut batches = Vec::new();
    while let Ok(Some(batch)) = RecordBatch::take_first(&mut rest) {
        batches.push(batch);
    }
    batches
}

/// Their headers.
pub(crate) fn headers(partition: &PartitionRecords) -> Vec<BatchHeader> {
    batches(partition).iter().map(RecordBatch::header).collect()
}

/// Their records.
pub(crate) fn records(partition: &PartitionRecords) -> Vec<Plain> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut all = Vec::new();
    let mut inflater = Inflater::default();
    for batch in batches(partition) {
        assert!(batch.crc_holds(), "a stored batch with a wrong CRC");
        for record in batch.records_in(&mut inflater).expect("a known codec") {
            let record = record.expect("a well-formed record");
            all.push(Plain {
                offset: record.offset,
                timestamp: record.timestamp,
                key: record.key.map(text),
                value: record.value.map(text),
                headers: record.headers.map(|(key, value)| (text(key), value.map(text))).collect(),
            });
        }
    }
    all
}

/// The values of a fetched partition's records.
pub(crate) fn values(partition: &PartitionRecords) -> Vec<String> {
    records(partition).into_iter().map(|record| record.value.unwrap_or_default()).collect()
}
