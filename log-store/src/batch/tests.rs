use super::{validate::MAX_REFUSED, *};
use crate::{
    config::{LogConfig, TimestampType},
    record::RecordField,
};

const NOW: i64 = 1_700_000_000_000;

fn rules() -> ProduceRules {
    ProduceRules::new(&LogConfig::default(), true)
}

/// Three records at NOW, NOW + 5 and NOW + 2.
fn builder(codec: Codec) -> BatchBuilder {
    let mut builder = BatchBuilder::new(codec).producer(7, 1, 40);
    builder.append(NOW, Some(b"a"), Some(b"first"), &[(b"h", Some(b"1")), (b"h", None)]);
    builder.append(NOW + 5, None, Some(&[9; 300]), &[]);
    builder.append(NOW + 2, Some(b""), None, &[]);
    builder
}

fn sent(codec: Codec) -> RecordBatch {
    builder(codec).build()
}

fn check(batch: &RecordBatch, rules: &ProduceRules) -> Result<RecordBatch, BatchError> {
    validate(batch.to_bytes(), rules, NOW)
}

/// `batch` with its header changed and the CRC made right again.
fn changed(mut batch: RecordBatch, change: impl FnOnce(&mut BatchHeader)) -> RecordBatch {
    let mut header = batch.header();
    change(&mut header);
    batch.head = header.encode();
    batch.refresh_crc();
    batch
}

/// `batch` with other (uncompressed) records, the CRC and length right.
fn with_records(batch: &RecordBatch, records: Vec<u8>) -> RecordBatch {
    let length = (HEADER_BYTES - LENGTH_OVERHEAD + records.len()) as i32;
    let batch = RecordBatch { head: batch.head, records: Bytes::from(records) };
    changed(batch, |header| header.batch_length = length)
}

/// Offset, timestamp, key, value.
type Values = (i64, i64, Option<Vec<u8>>, Option<Vec<u8>>);

fn values(batch: &RecordBatch) -> Vec<Values> {
    batch
        .records_in(&mut Inflater::default())
        .unwrap()
        .map(|record| record.unwrap())
        .map(|record| {
            (
                record.offset,
                record.timestamp,
                record.key.map(<[u8]>::to_vec),
                record.value.map(<[u8]>::to_vec),
            )
        })
        .collect()
}

#[test]
fn header_fields_round_trip_and_lie_where_kafka_has_them() {
    let header = BatchHeader {
        base_offset: 0x0102_0304_0506_0708,
        batch_length: 0x1112_1314,
        partition_leader_epoch: 0x2122_2324,
        crc: 0x3132_3334,
        attributes: 0x4142,
        last_offset_delta: 0x5152_5354,
        base_timestamp: 0x6162_6364_6566_6768,
        max_timestamp: 0x7172_7374_7576_7778,
        producer_id: 0x0a0b_0c0d_0e0f_1011,
        producer_epoch: 0x1213,
        base_sequence: 0x1415_1617,
        record_count: 0x1819_1a1b,
    };
    let head = header.encode();
    assert_eq!(BatchHeader::decode(&head), header);
    assert_eq!((head[0], head[8], head[12], head[16], head[17]), (0x01, 0x11, 0x21, 2, 0x31));
    assert_eq!((head[21], head[23], head[27], head[35]), (0x41, 0x51, 0x61, 0x71));
    assert_eq!((head[43], head[51], head[53], head[57]), (0x0a, 0x12, 0x14, 0x18));
}

#[test]
fn the_crc_is_castagnoli() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    let batch = sent(Codec::None);
    assert_eq!(crc32c(&batch.to_bytes()[ATTRIBUTES_AT..]), batch.header().crc);
    assert!(batch.crc_holds());
}

/// Proves: P6 (offset and epoch lie outside the CRC, no other byte changes).
#[test]
fn offset_and_epoch_are_written_in_place_outside_of_the_crc() {
    let before = sent(Codec::Gzip);
    let mut batch = check(&before, &rules()).unwrap();
    assert_eq!(batch, before);
    batch.set_base_offset(1 << 40);
    batch.set_leader_epoch(77);
    assert!(batch.crc_holds());
    assert_eq!(
        (batch.base_offset(), batch.last_offset(), batch.next_offset()),
        (1 << 40, (1 << 40) + 2, (1 << 40) + 3)
    );
    assert_eq!(batch.leader_epoch(), 77);
    assert_eq!(batch.to_bytes()[16..], before.to_bytes()[16..]);
}

#[test]
fn batches_are_taken_off_the_front_until_a_cut_one() {
    let one = sent(Codec::None).to_bytes();
    let all = [&one[..], &one, &one[..one.len() - 1]].concat();
    let mut bytes = Bytes::from(all);
    let mut batches = 0;
    while let Some(batch) = RecordBatch::take_first(&mut bytes).unwrap() {
        assert!(batch.crc_holds());
        batches += 1;
    }
    assert_eq!((batches, bytes.len()), (2, one.len() - 1));
}

/// Proves: P11 (`producer` stores the bytes as sent, each codec), P19.
#[test]
fn batches_of_every_codec_are_taken_as_they_are() {
    for codec in Codec::ALL {
        let batch = sent(codec);
        assert_eq!(check(&batch, &rules()).unwrap(), batch, "{codec}");
        assert_eq!(values(&batch).len(), 3);
        assert_eq!(batch.header().last_sequence(), 42);
    }
}

/// Proves: P11, D25 (any other `compression.type` recompresses; records, producer and times stay).
#[test]
fn a_topic_with_a_codec_recompresses() {
    for from in Codec::ALL {
        for to in Codec::ALL {
            let rules = ProduceRules { compression: Some((to, None)), ..rules() };
            let before = sent(from);
            let after = check(&before, &rules).unwrap();
            assert!(after.crc_holds());
            assert_eq!(after.header().codec(), Ok(to));
            assert_eq!(values(&after), values(&before), "{from} to {to}");
            assert_eq!(RecordBatch::from_bytes(after.to_bytes()).unwrap(), after);
            let identity = |batch: &RecordBatch| {
                let header = batch.header();
                (header.producer_id, header.producer_epoch, header.base_sequence, header.max_timestamp)
            };
            assert_eq!(identity(&after), identity(&before));
            if from == to {
                assert_eq!(after, before);
            }
        }
    }
}

/// Proves: P5 (the limit counts what is stored: a batch that grows by recompression is measured again).
#[test]
fn sizes_are_limited_before_and_after_recompression() {
    let mut builder = BatchBuilder::new(Codec::Zstd);
    builder.append(NOW, None, Some(&[0; 10_000]), &[]);
    let batch = builder.build();
    let size = batch.size() as u64;
    let limited = |limit, compression| {
        check(&batch, &ProduceRules { max_message_bytes: limit, compression, ..rules() })
            .map(|batch| batch.size())
    };
    assert_eq!(limited(size, None), Ok(size as usize));
    assert_eq!(limited(size - 1, None), Err(BatchError::TooLarge { size, limit: size - 1 }));
    let grown = limited(size, Some((Codec::None, None))).unwrap_err();
    assert!(matches!(grown, BatchError::TooLarge { size: 10_000.., limit } if limit == size));
    let segment = check(&batch, &ProduceRules { segment_bytes: size - 1, ..rules() });
    assert_eq!(segment, Err(BatchError::LargerThanSegment { size, limit: size - 1 }));
}

/// Proves: P11, F18 (the gate for old clients).
#[test]
fn zstd_is_refused_where_the_request_is_too_old() {
    let old = ProduceRules { zstd: false, ..rules() };
    assert_eq!(check(&sent(Codec::Zstd), &old), Err(BatchError::ZstdTooEarly));
    assert!(check(&sent(Codec::Lz4), &old).is_ok());
}

/// Proves: P7.
#[test]
fn log_append_time_sets_bit_and_maximum_and_leaves_the_rest() {
    let rules = ProduceRules { timestamp_type: TimestampType::LogAppendTime, ..rules() };
    for codec in Codec::ALL {
        let mut builder = builder(codec);
        // Outside of what a CreateTime topic would take (P9: such topics skip the check).
        builder.append(NOW + (1 << 40), None, None, &[]);
        let before = builder.build();
        let after = check(&before, &rules).unwrap();
        assert!(after.crc_holds());
        assert!(after.header().is_log_append_time());
        assert_eq!(after.max_timestamp(), NOW);
        assert_eq!(after.records, before.records);
        assert_eq!(after.header().base_timestamp, before.header().base_timestamp);
        assert!(values(&after).iter().all(|record| record.1 == NOW));
    }
    let set_by_producer = changed(sent(Codec::None), |header| header.attributes |= LOG_APPEND_TIME_BIT);
    let refused = |index| RefusedRecord { index, reason: RefusalReason::LogAppendTime };
    assert_eq!(check(&set_by_producer, &rules), Err(BatchError::Refused((0..3).map(refused).collect())));
}

/// Proves: P8.
#[test]
fn a_wrong_largest_timestamp_is_corrected_and_a_right_one_leaves_the_bytes_alone() {
    for codec in Codec::ALL {
        for lie in [-1, NOW, NOW + 4, NOW + 6, i64::MAX] {
            let batch = changed(sent(codec), |header| header.max_timestamp = lie);
            let taken = check(&batch, &rules()).unwrap();
            assert!(taken.crc_holds());
            assert_eq!(taken, sent(codec), "{codec} {lie}");
        }
    }
    let bit = changed(sent(Codec::None), |header| header.attributes |= LOG_APPEND_TIME_BIT);
    assert_eq!(check(&bit, &rules()).unwrap(), sent(Codec::None));
}

/// Proves: P9 (which records are named, and that each is).
#[test]
fn timestamps_too_far_from_the_clock_are_refused_record_by_record() {
    let narrow = ProduceRules { timestamp_before_max_ms: 10, timestamp_after_max_ms: 4, ..rules() };
    let refused = |index, timestamp| RefusedRecord {
        index,
        reason: RefusalReason::Timestamp { timestamp, earliest: NOW - 10, latest: NOW + 4 },
    };
    for codec in Codec::ALL {
        let batch = |timestamps: &[i64]| {
            let mut builder = BatchBuilder::new(codec);
            for timestamp in timestamps {
                builder.append(*timestamp, None, None, &[]);
            }
            builder.build()
        };
        assert!(check(&batch(&[NOW - 10, NOW + 4, -1]), &narrow).is_ok());
        assert_eq!(
            check(&batch(&[NOW - 11, NOW, NOW + 5, -1]), &narrow),
            Err(BatchError::Refused(vec![refused(0, NOW - 11), refused(2, NOW + 5)]))
        );
    }
    // Kafka's defaults: any past, one hour of future.
    let hour = 3_600_000;
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(i64::MIN / 2, None, None, &[]);
    builder.append(NOW + hour, None, None, &[]);
    assert!(check(&builder.clone().build(), &rules()).is_ok());
    builder.append(NOW + hour + 1, None, None, &[]);
    assert!(
        matches!(check(&builder.build(), &rules()), Err(BatchError::Refused(records)) if records[0].index == 2)
    );
}

/// Proves: P10 (which records are named).
#[test]
fn a_compacted_topic_names_the_records_without_key() {
    let compacted = ProduceRules { compacted: true, ..rules() };
    for codec in Codec::ALL {
        let refused = RefusedRecord { index: 1, reason: RefusalReason::NullKey };
        assert_eq!(check(&sent(codec), &compacted), Err(BatchError::Refused(vec![refused])));
    }
    let mut keyed = BatchBuilder::new(Codec::None);
    keyed.append(NOW, Some(b""), None, &[]);
    assert!(check(&keyed.build(), &compacted).is_ok());
}

#[test]
fn a_million_refused_records_are_not_all_named() {
    let mut builder = BatchBuilder::new(Codec::Zstd);
    for _ in 0..1_000_000 {
        builder.append(NOW, None, None, &[]);
    }
    let compacted = ProduceRules { compacted: true, ..rules() };
    let Err(BatchError::Refused(records)) = check(&builder.build(), &compacted) else { panic!() };
    assert_eq!(records.len(), MAX_REFUSED);
}

/// Proves: I04, P3, P4, W17 (on the level of the log: each kind of lie is refused, and by its own reason).
#[test]
fn lying_batches_are_refused() {
    type Lie = (&'static str, RecordBatch, fn(&BatchError) -> bool);
    let plain = || sent(Codec::None);
    let head = |change: fn(&mut BatchHeader)| changed(sent(Codec::None), change);
    let record = |body: &[u8]| {
        let mut one = BatchBuilder::new(Codec::None);
        one.append(NOW, None, None, &[]);
        let mut records = Vec::new();
        record::put_varint(&mut records, body.len() as i32);
        records.extend_from_slice(body);
        with_records(&one.build(), records)
    };
    let reencoded = |deltas: &[i32]| {
        let mut records = Vec::new();
        for delta in deltas {
            record::put_record(&mut records, *delta, 0, None, None, &[]);
        }
        let batch = with_records(&plain(), records);
        let count = deltas.len() as i32;
        changed(batch, |header| {
            header.record_count = count;
            header.last_offset_delta = count - 1;
        })
    };
    let compressed = |codec: Codec, records: &[u8]| {
        let batch = with_records(&plain(), compression::deflate(codec, None, records));
        changed(batch, |header| header.attributes = codec as i16)
    };
    let as_codec = |codec: i16, records: &[u8]| {
        changed(with_records(&plain(), records.to_vec()), |header| header.attributes = codec)
    };
    let plain_records = plain().records;
    let grown = [&plain_records[..], &[0]].concat();
    let cut = &plain_records[..plain_records.len() - 1];
    let long = |bytes: usize| vec![0x80; bytes];
    let lies: Vec<Lie> = vec![
        (
            "magic 0",
            {
                let mut batch = plain();
                batch.head[MAGIC_AT] = 0;
                batch
            },
            |error| matches!(error, BatchError::UnsupportedMagic { magic: 0 }),
        ),
        (
            "magic 1",
            {
                let mut batch = plain();
                batch.head[MAGIC_AT] = 1;
                batch
            },
            |error| matches!(error, BatchError::UnsupportedMagic { magic: 1 }),
        ),
        (
            "magic 3",
            {
                let mut batch = plain();
                batch.head[MAGIC_AT] = 3;
                batch
            },
            |error| matches!(error, BatchError::UnsupportedMagic { magic: 3 }),
        ),
        (
            "magic -1",
            {
                let mut batch = plain();
                batch.head[MAGIC_AT] = 0xff;
                batch
            },
            |error| matches!(error, BatchError::UnsupportedMagic { magic: -1 }),
        ),
        ("length 0", head(|header| header.batch_length = 0), |error| {
            matches!(error, BatchError::Length { batch_length: 0 })
        }),
        ("length 48", head(|header| header.batch_length = 48), |error| {
            matches!(error, BatchError::Length { batch_length: 48 })
        }),
        ("length -1", head(|header| header.batch_length = -1), |error| {
            matches!(error, BatchError::Length { .. })
        }),
        ("length minimum", head(|header| header.batch_length = i32::MIN), |error| {
            matches!(error, BatchError::Length { .. })
        }),
        ("length 49", head(|header| header.batch_length = 49), |error| {
            matches!(error, BatchError::TrailingBytes { .. })
        }),
        ("length one short", head(|header| header.batch_length -= 1), |error| {
            matches!(error, BatchError::TrailingBytes { bytes: 1 })
        }),
        ("length one long", head(|header| header.batch_length += 1), |error| {
            matches!(error, BatchError::Truncated { .. })
        }),
        ("length maximum", head(|header| header.batch_length = i32::MAX), |error| {
            matches!(error, BatchError::Truncated { .. })
        }),
        ("base offset 1", head(|header| header.base_offset = 1), |error| {
            matches!(error, BatchError::BaseOffset { base_offset: 1 })
        }),
        ("base offset -1", head(|header| header.base_offset = -1), |error| {
            matches!(error, BatchError::BaseOffset { base_offset: -1 })
        }),
        ("base offset maximum", head(|header| header.base_offset = i64::MAX), |error| {
            matches!(error, BatchError::BaseOffset { .. })
        }),
        (
            "CRC",
            {
                let mut batch = plain();
                batch.head[CRC_AT] ^= 1;
                batch
            },
            |error| matches!(error, BatchError::Crc { .. }),
        ),
        (
            "CRC of other records",
            RecordBatch { head: plain().head, records: Bytes::from(vec![0; plain().records.len()]) },
            |error| matches!(error, BatchError::Crc { .. }),
        ),
        ("count 0", head(|header| header.record_count = 0), |error| {
            matches!(error, BatchError::OffsetRange { .. })
        }),
        (
            "count 0, delta -1",
            head(|header| {
                header.record_count = 0;
                header.last_offset_delta = -1;
            }),
            |error| matches!(error, BatchError::OffsetRange { .. }),
        ),
        ("count -1", head(|header| header.record_count = -1), |error| {
            matches!(error, BatchError::OffsetRange { .. })
        }),
        (
            "count minimum",
            head(|header| {
                header.record_count = i32::MIN;
                header.last_offset_delta = i32::MAX;
            }),
            |error| matches!(error, BatchError::OffsetRange { .. }),
        ),
        ("count above delta", head(|header| header.record_count += 1), |error| {
            matches!(error, BatchError::OffsetRange { .. })
        }),
        ("delta above count", head(|header| header.last_offset_delta += 1), |error| {
            matches!(error, BatchError::OffsetRange { .. })
        }),
        ("delta -1", head(|header| header.last_offset_delta = -1), |error| {
            matches!(error, BatchError::OffsetRange { .. })
        }),
        (
            "delta maximum",
            head(|header| {
                header.last_offset_delta = i32::MAX;
                header.record_count = i32::MAX;
            }),
            |error| matches!(error, BatchError::OffsetRange { .. }),
        ),
        (
            "one record more than there are",
            head(|header| {
                header.last_offset_delta += 1;
                header.record_count += 1;
            }),
            |error| matches!(error, BatchError::RecordCount { record_count: 4, found: 3 }),
        ),
        (
            "one record less",
            head(|header| {
                header.last_offset_delta -= 1;
                header.record_count -= 1;
            }),
            |error| matches!(error, BatchError::RecordCount { record_count: 2, found: 3 }),
        ),
        (
            "2^31-2 records",
            head(|header| {
                header.last_offset_delta = i32::MAX - 2;
                header.record_count = i32::MAX - 1;
            }),
            |error| matches!(error, BatchError::RecordCount { .. }),
        ),
        ("control", head(|header| header.attributes |= CONTROL_BIT), |error| {
            matches!(error, BatchError::Control)
        }),
        (
            "control and transactional",
            head(|header| header.attributes |= CONTROL_BIT | TRANSACTIONAL_BIT),
            |error| matches!(error, BatchError::Control),
        ),
        (
            "transactional outside a transaction",
            head(|header| header.attributes |= TRANSACTIONAL_BIT),
            |error| matches!(error, BatchError::Transactional { has_producer: true }),
        ),
        (
            "transactional without producer",
            head(|header| {
                header.attributes |= TRANSACTIONAL_BIT;
                header.producer_id = -1;
            }),
            |error| matches!(error, BatchError::Transactional { has_producer: false }),
        ),
        ("producer without sequence", head(|header| header.base_sequence = -1), |error| {
            matches!(error, BatchError::Producer { base_sequence: -1, .. })
        }),
        ("producer with sequence -2", head(|header| header.base_sequence = -2), |error| {
            matches!(error, BatchError::Producer { .. })
        }),
        ("producer without epoch", head(|header| header.producer_epoch = -1), |error| {
            matches!(error, BatchError::Producer { producer_epoch: -1, .. })
        }),
        ("producer -2", head(|header| header.producer_id = -2), |error| {
            matches!(error, BatchError::Producer { producer_id: -2, .. })
        }),
        ("codec 5", as_codec(5, &plain_records), |error| {
            matches!(error, BatchError::Compression(CompressionError::UnknownCodec { id: 5 }))
        }),
        ("codec 6", as_codec(6, &plain_records), |error| {
            matches!(error, BatchError::Compression(CompressionError::UnknownCodec { id: 6 }))
        }),
        ("codec 7", as_codec(7, &plain_records), |error| {
            matches!(error, BatchError::Compression(CompressionError::UnknownCodec { id: 7 }))
        }),
        ("plain as gzip", as_codec(1, &plain_records), |error| {
            matches!(error, BatchError::Compression(CompressionError::Corrupt { codec: Codec::Gzip }))
        }),
        ("plain as snappy", as_codec(2, &plain_records), |error| {
            matches!(error, BatchError::Compression(CompressionError::Corrupt { codec: Codec::Snappy }))
        }),
        ("plain as lz4", as_codec(3, &plain_records), |error| {
            matches!(error, BatchError::Compression(CompressionError::Corrupt { codec: Codec::Lz4 }))
        }),
        ("plain as zstd", as_codec(4, &plain_records), |error| {
            matches!(error, BatchError::Compression(CompressionError::Corrupt { codec: Codec::Zstd }))
        }),
        ("compressed as plain", as_codec(0, &sent(Codec::Zstd).records), |error| {
            matches!(error, BatchError::Record(_))
        }),
        ("gzip cut off", as_codec(1, &sent(Codec::Gzip).records[..30]), |error| {
            matches!(error, BatchError::Compression(_))
        }),
        ("nothing as zstd", as_codec(4, &[]), |error| {
            matches!(error, BatchError::RecordCount { found: 0, .. })
        }),
        ("no records", as_codec(0, &[]), |error| matches!(error, BatchError::RecordCount { found: 0, .. })),
        ("a byte behind the records", with_records(&plain(), grown.clone()), |error| {
            matches!(error, BatchError::Record(MalformedRecord { index: 3, .. }))
        }),
        ("a byte behind compressed records", compressed(Codec::Zstd, &grown), |error| {
            matches!(error, BatchError::Record(MalformedRecord { index: 3, .. }))
        }),
        ("the last record cut", with_records(&plain(), cut.to_vec()), |error| {
            matches!(error, BatchError::Record(MalformedRecord { index: 2, field: RecordField::Length }))
        }),
        ("the last compressed record cut", compressed(Codec::Lz4, cut), |error| {
            matches!(error, BatchError::Record(MalformedRecord { index: 2, field: RecordField::Length }))
        }),
        ("offset deltas from 1", reencoded(&[1, 2, 3]), |error| matches!(error, BatchError::OffsetDeltas)),
        ("offset deltas with a gap", reencoded(&[0, 2]), |error| matches!(error, BatchError::OffsetDeltas)),
        ("offset deltas twice", reencoded(&[0, 0]), |error| matches!(error, BatchError::OffsetDeltas)),
        ("offset deltas negative", reencoded(&[0, -1, 2]), |error| matches!(error, BatchError::OffsetDeltas)),
        ("record of length 0", record(&[]), |error| {
            matches!(error, BatchError::Record(MalformedRecord { index: 0, .. }))
        }),
        ("record of length -1", with_records(&plain(), vec![1]), |error| {
            matches!(error, BatchError::Record(MalformedRecord { field: RecordField::Length, .. }))
        }),
        ("record of length maximum", with_records(&plain(), vec![0xfe, 0xff, 0xff, 0xff, 0x0f]), |error| {
            matches!(error, BatchError::Record(MalformedRecord { field: RecordField::Length, .. }))
        }),
        ("record length of six bytes", with_records(&plain(), long(6)), |error| {
            matches!(error, BatchError::Record(MalformedRecord { field: RecordField::Length, .. }))
        }),
        (
            "timestamp delta of eleven bytes",
            record(&[&[0][..], &long(10), &[0, 0, 1, 1, 0]].concat()),
            |error| {
                matches!(
                    error,
                    BatchError::Record(MalformedRecord { field: RecordField::TimestampDelta, .. })
                )
            },
        ),
        ("offset delta of six bytes", record(&[&[0, 0][..], &long(5), &[0, 1, 1, 0]].concat()), |error| {
            matches!(error, BatchError::Record(MalformedRecord { field: RecordField::OffsetDelta, .. }))
        }),
        ("key longer than the record", record(&[0, 0, 0, 20, 1, 0]), |error| {
            matches!(error, BatchError::Record(MalformedRecord { field: RecordField::Key, .. }))
        }),
        ("key length -2", record(&[0, 0, 0, 3, 1, 0]), |error| {
            matches!(error, BatchError::Record(MalformedRecord { field: RecordField::Key, .. }))
        }),
        ("value longer than the record", record(&[0, 0, 0, 1, 20, 0]), |error| {
            matches!(error, BatchError::Record(MalformedRecord { field: RecordField::Value, .. }))
        }),
        ("value length -2", record(&[0, 0, 0, 1, 3, 0]), |error| {
            matches!(error, BatchError::Record(MalformedRecord { field: RecordField::Value, .. }))
        }),
        ("header count -1", record(&[0, 0, 0, 1, 1, 1]), |error| {
            matches!(error, BatchError::Record(MalformedRecord { field: RecordField::HeaderCount, .. }))
        }),
        ("header count beyond the record", record(&[0, 0, 0, 1, 1, 4, 0, 0]), |error| {
            matches!(error, BatchError::Record(MalformedRecord { field: RecordField::HeaderCount, .. }))
        }),
        ("header key null", record(&[0, 0, 0, 1, 1, 2, 1, 0]), |error| {
            matches!(error, BatchError::Record(MalformedRecord { field: RecordField::HeaderKey, .. }))
        }),
        ("header value longer than the record", record(&[0, 0, 0, 1, 1, 2, 0, 8]), |error| {
            matches!(error, BatchError::Record(MalformedRecord { field: RecordField::HeaderValue, .. }))
        }),
        ("a byte inside the record too many", record(&[0, 0, 0, 1, 1, 0, 0]), |error| {
            matches!(error, BatchError::Record(MalformedRecord { field: RecordField::End, .. }))
        }),
        ("no header count", record(&[0, 0, 0, 1, 1]), |error| {
            matches!(error, BatchError::Record(MalformedRecord { field: RecordField::HeaderCount, .. }))
        }),
        ("timestamp beyond 64 bits", head(|header| header.base_timestamp = i64::MAX), |error| {
            matches!(error, BatchError::TimestampOverflow { .. })
        }),
    ];
    assert!(lies.len() >= 50);
    for (name, batch, expected) in lies {
        let error = check(&batch, &rules()).expect_err(name);
        assert!(expected(&error), "{name}: {error:?}");
    }
    let two = [plain().to_bytes(), plain().to_bytes()].concat();
    assert!(matches!(validate(Bytes::from(two), &rules(), NOW), Err(BatchError::TrailingBytes { .. })));
    assert_eq!(validate(Bytes::new(), &rules(), NOW), Err(BatchError::Empty));
}

/// Kafka reads the low byte of the attributes alone, and bit 7 of it means nothing: such batches pass, as they are.
#[test]
fn unknown_attribute_bits_pass() {
    for bits in [1 << 7, 1 << 8, 1 << 14, i16::MIN, DELETE_HORIZON_BIT] {
        let batch = changed(sent(Codec::None), |header| header.attributes |= bits);
        assert_eq!(check(&batch, &rules()), Ok(batch));
    }
}

/// Proves: I04, I05 (a batch cut anywhere, or with any bit turned, is refused).
#[test]
fn every_cut_and_every_flipped_bit_is_noticed() {
    for codec in [Codec::None, Codec::Zstd] {
        let whole = sent(codec).to_bytes();
        for length in 0..whole.len() {
            assert!(validate(whole.slice(..length), &rules(), NOW).is_err(), "cut to {length}");
        }
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let taken = validate(Bytes::from(damaged), &rules(), NOW);
            // The leader epoch is the broker's to write: what a client put there means nothing.
            assert_eq!(taken.is_ok(), (EPOCH_AT..MAGIC_AT).contains(&(bit / 8)), "bit {bit}");
        }
    }
}

/// Proves: I03 (through the whole of what Produce checks).
#[test]
fn bombs_are_refused_with_their_limit() {
    for codec in [Codec::Gzip, Codec::Zstd] {
        let mut batch = BatchBuilder::new(codec);
        batch.append(NOW, None, Some(&vec![0; 65 << 20]), &[]);
        let error = check(&batch.build(), &rules()).unwrap_err();
        assert_eq!(error, BatchError::Compression(CompressionError::TooLarge { codec, limit: 64 << 20 }));
    }
}
