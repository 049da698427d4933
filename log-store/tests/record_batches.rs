//! Record batches against an independent reader and writer of the same format (crate `kafka-protocol`), and files of
//! batches against damage.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    indexmap::IndexMap,
    protocol::StrBytes,
    records::{
        Compression, Record as OracleRecord, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions,
        TimestampType,
    },
};
use log_store::{
    RecordBatch,
    batch::{BatchBuilder, ProduceRules, validate},
    compression::{Codec, Inflater},
    config::LogConfig,
    inspect::BatchReader,
};
use proptest::prelude::*;

const NOW: i64 = 1_700_000_000_000;

/// A record as plain values. Header names are unique: the oracle keeps them in a map.
#[derive(Clone, Debug, PartialEq)]
struct Plain {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: BTreeMap<String, Option<Vec<u8>>>,
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        (any::<u8>(), 0..max).prop_map(|(byte, length)| vec![byte; length]),
    ]
}

prop_compose! {
    fn plain()(
        timestamp in prop_oneof![NOW - 20_000..NOW, 0..NOW],
        key in proptest::option::of(bytes(300)),
        value in proptest::option::of(bytes(40_000)),
        headers in proptest::collection::btree_map("[a-z]{0,9}", proptest::option::of(bytes(200)), 0..4),
    ) -> Plain {
        Plain { timestamp, key, value, headers }
    }
}

fn codec() -> impl Strategy<Value = (Codec, Compression)> {
    prop_oneof![
        Just((Codec::None, Compression::None)),
        Just((Codec::Gzip, Compression::Gzip)),
        Just((Codec::Snappy, Compression::Snappy)),
        Just((Codec::Lz4, Compression::Lz4)),
        Just((Codec::Zstd, Compression::Zstd)),
    ]
}

fn built(codec: Codec, records: &[Plain]) -> RecordBatch {
    let mut builder = BatchBuilder::new(codec).producer(77, 3, 5);
    for record in records {
        let headers: Vec<_> =
            record.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_deref())).collect();
        builder.append(record.timestamp, record.key.as_deref(), record.value.as_deref(), &headers);
    }
    builder.build()
}

fn read(batch: &RecordBatch) -> Vec<Plain> {
    let mut inflater = Inflater::default();
    let records = batch.records_in(&mut inflater).expect("inflates");
    records
        .map(|record| record.expect("a record"))
        .map(|record| Plain {
            timestamp: record.timestamp,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record
                .headers
                .map(|(name, value)| {
                    (String::from_utf8(name.to_vec()).expect("a name"), value.map(<[u8]>::to_vec))
                })
                .collect(),
        })
        .collect()
}

fn from_oracle(record: &OracleRecord) -> Plain {
    Plain {
        timestamp: record.timestamp,
        key: record.key.as_ref().map(|key| key.to_vec()),
        value: record.value.as_ref().map(|value| value.to_vec()),
        headers: record
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.as_ref().map(|value| value.to_vec())))
            .collect(),
    }
}

fn to_oracle(record: &Plain, index: usize) -> OracleRecord {
    let headers: IndexMap<StrBytes, Option<Bytes>> = record
        .headers
        .iter()
        .map(|(name, value)| (StrBytes::from_string(name.clone()), value.clone().map(Bytes::from)))
        .collect();
    OracleRecord {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: 0,
        producer_id: 77,
        producer_epoch: 3,
        timestamp_type: TimestampType::Creation,
        offset: index as i64,
        sequence: 5 + index as i32,
        timestamp: record.timestamp,
        key: record.key.clone().map(Bytes::from),
        value: record.value.clone().map(Bytes::from),
        headers,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Proves: P11, P19 (what is built here, an independent reader reads, CRC and compression included).
    #[test]
    fn the_oracle_reads_what_is_built((codec, _) in codec(), records in proptest::collection::vec(plain(), 1..20)) {
        let batch = built(codec, &records);
        prop_assert_eq!(&read(&batch), &records);
        let set = RecordBatchDecoder::decode(&mut batch.to_bytes()).expect("the oracle decodes");
        prop_assert_eq!(set.records.iter().map(from_oracle).collect::<Vec<_>>(), records);
        for (index, record) in set.records.iter().enumerate() {
            prop_assert_eq!((record.offset, record.sequence), (index as i64, 5 + index as i32));
            prop_assert_eq!((record.producer_id, record.producer_epoch), (77, 3));
        }
    }

    /// Proves: P8, P11 (what an independent writer wrote is taken as it is, up to the largest timestamp).
    #[test]
    fn what_the_oracle_writes_is_taken((codec, compression) in codec(), records in proptest::collection::vec(plain(), 1..20)) {
        let mut buffer = BytesMut::new();
        let oracle: Vec<_> = records.iter().enumerate().map(|(index, record)| to_oracle(record, index)).collect();
        let options = RecordEncodeOptions { version: 2, compression };
        RecordBatchEncoder::encode(&mut buffer, &oracle, &options).expect("the oracle encodes");
        let sent = buffer.freeze();
        let config = LogConfig { max_message_bytes: 64 << 20, ..LogConfig::default() };
        let batch = validate(sent.clone(), &ProduceRules::new(&config, true), NOW).expect("a good batch");
        prop_assert!(batch.crc_holds());
        prop_assert_eq!(batch.header().codec(), Ok(codec));
        prop_assert_eq!(&batch.records[..], &sent[61..]);
        prop_assert_eq!(batch.max_timestamp(), records.iter().map(|record| record.timestamp).max().expect("one"));
        prop_assert_eq!(read(&batch), records);
    }

    /// Proves: I04 (no bytes whatever make the checks panic, or take anything that does not read back whole).
    #[test]
    fn any_bytes_are_refused_or_read_back_whole(
        (codec, _) in codec(),
        records in proptest::collection::vec(plain(), 1..4),
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut sent = built(codec, &records).to_bytes().to_vec();
        for (place, value) in flips {
            let place = place.index(sent.len());
            sent[place] = value;
        }
        // The CRC is made right, so that what lies behind it is reached.
        let crc = log_store::batch::crc32c(&sent[21..]);
        sent[17..21].copy_from_slice(&crc.to_be_bytes());
        let config = LogConfig { max_message_bytes: 64 << 20, timestamp_after_max_ms: i64::MAX, ..LogConfig::default() };
        if let Ok(batch) = validate(Bytes::from(sent), &ProduceRules::new(&config, true), NOW) {
            prop_assert!(batch.crc_holds());
            let mut inflater = Inflater::default();
            let count = batch.records_in(&mut inflater).expect("inflates").inspect(|record| assert!(record.is_ok())).count();
            prop_assert_eq!(count as i32, batch.record_count());
        }
    }
}

/// A segment's file of 64 KiB, of which any bit is turned: the reader says so, at the batch where it lies.
///
/// Proves: D08 (of the batches; indexes are caches).
#[test]
fn every_flipped_bit_of_a_segment_is_found() {
    let mut file = Vec::new();
    let mut starts = Vec::new();
    for number in 0.. {
        let value = [number as u8; 900];
        let mut builder = BatchBuilder::new(Codec::ALL[number % 5]);
        builder.append(NOW, Some(b"key"), Some(&value), &[]).append(NOW + 1, None, Some(&value), &[]);
        let mut batch = builder.build();
        batch.set_base_offset(number as i64 * 2);
        batch.set_leader_epoch(3);
        starts.push(file.len());
        file.extend_from_slice(&batch.to_bytes());
        if file.len() >= 64 << 10 {
            break;
        }
    }
    let faults = |file: &[u8]| {
        BatchReader::new(file, 0, file.len() as u64)
            .map(|batch| batch.map(|stored| stored.faults.len()).unwrap_or(1))
            .sum::<usize>()
    };
    assert_eq!(faults(&file), 0);
    // Only the batch with the flipped bit, and the one behind it, have to be looked at.
    for (at, start) in starts.iter().enumerate() {
        let end = starts.get(at + 2).copied().unwrap_or(file.len());
        let own_end = starts.get(at + 1).copied().unwrap_or(file.len());
        let mut piece = file[*start..end].to_vec();
        for bit in 0..(own_end - start) * 8 {
            let place = bit / 8;
            piece[place] ^= 1 << (bit % 8);
            let found: usize = BatchReader::new(&piece[..], at as i64 * 2, piece.len() as u64)
                .map(|batch| match batch {
                    // The reader of a partition knows the epoch and the exact offset that it expects; this one does not.
                    Ok(stored)
                        if stored.batch.base_offset() == at as i64 * 2
                            && stored.batch.leader_epoch() != 3 =>
                    {
                        1
                    }
                    Ok(stored) if stored.position == 0 && stored.batch.base_offset() != at as i64 * 2 => 1,
                    Ok(stored) => stored.faults.len(),
                    Err(_) => 1,
                })
                .sum();
            assert!(found > 0, "bit {} of byte {} is not noticed", bit % 8, start + place);
            piece[place] ^= 1 << (bit % 8);
        }
    }
}
