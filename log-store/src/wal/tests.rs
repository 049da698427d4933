use std::{fs, os::unix::fs::FileExt};

use proptest::prelude::*;

use super::*;
use crate::{GroupStates, disk::RealDisk};

const SALT: u64 = 0x5eed;

fn options(dir: &Path) -> WalOptions {
    WalOptions { dir: dir.to_owned(), file_bytes: 64 << 10, files: 3 }
}

/// A file that is no whole number of blocks could not be zeroed past the page cache.
#[test]
fn files_of_the_ring_are_whole_blocks() {
    let dir = tempfile::tempdir().unwrap();
    for (asked, bytes) in
        [(0, 8 << 10), (1, 8 << 10), (65_535, 60 << 10), (65_536, 64 << 10), (65_537, 64 << 10)]
    {
        let options = WalOptions::new(dir.path().to_owned(), asked, u64::MAX);
        assert_eq!(options.file_bytes, bytes);
        assert!(options.round_bytes() > 0);
        let file = NewWalFile::new(&options, 3).make(&RealDisk, &|_| {}).unwrap();
        assert_eq!(fs::metadata(&file.path).unwrap().len(), bytes);
    }
    assert_eq!(WalOptions::new(dir.path().to_owned(), u64::MAX, 0).file_bytes, u64::MAX - 4095);
}

/// A ring that cannot grow is full sooner, and grows when it can.
#[test]
fn a_stunted_ring_wants_its_checkpoints_sooner() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), SALT, 0);
    assert!(writer.next_file(false).is_some() && writer.next_file(false).is_none());
    write(&mut writer, &[control(44 << 10)]);
    assert!(!writer.checkpoint_due(), "48 KiB of three files of 64");
    writer.add(None);
    assert!(writer.checkpoint_due(), "48 KiB of one");
    let file = writer.next_file(false).expect("it is asked for again").make(&RealDisk, &|_| {}).unwrap();
    writer.add(Some(file));
    assert!(!writer.checkpoint_due());
}

fn writer(dir: &Path, salt: u64, round: u64) -> WalWriter {
    let first = NewWalFile::new(&options(dir), 0);
    WalWriter::new(options(dir), salt, round, vec![first.make(&RealDisk, &|_| {}).unwrap()])
}

fn vote(term: u64) -> WalRecord {
    WalRecord::Vote { replica: ReplicaId(7), vote: Vote { term, node: 7, committed: true } }
}

fn control(bytes: usize) -> WalRecord {
    let log_id = LogId { term: 1, index: 0 };
    WalRecord::Control { replica: ReplicaId(7), log_id, offset: 0, payload: vec![0xa5; bytes].into() }
}

fn write(writer: &mut WalWriter, records: &[WalRecord]) -> u64 {
    let mut round = writer.builder();
    for record in records {
        round.push(record);
    }
    while !writer.has_room(round.padded_len()) {
        let file = writer.next_file(false).expect("a file may be made").make(&RealDisk, &|_| {}).unwrap();
        writer.add(Some(file));
    }
    writer.write_round(&mut round).unwrap()
}

fn read(dir: &Path, salt: u64, after: WalPosition) -> Result<Vec<(u64, usize)>, LogStoreError> {
    let mut reader = WalReader::open(&RealDisk, dir, salt, after, Mutation::None)?;
    let mut rounds = Vec::new();
    while let Some(round) = reader.next_round()? {
        rounds.push((round.number, round.records().collect::<Result<Vec<_>, _>>()?.len()));
    }
    Ok(rounds)
}

fn start(round: u64) -> WalPosition {
    WalPosition { round, file: 0, position: 0 }
}

fn any_log_id() -> impl Strategy<Value = LogId> {
    any::<(u64, u64)>().prop_map(|(term, index)| LogId { term, index })
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

fn any_end() -> impl Strategy<Value = LogEnd> {
    (any::<i64>(), any::<u64>(), prop::option::of(any_log_id()), any::<i64>())
        .prop_map(|(segment, position, last, next_offset)| LogEnd { segment, position, last, next_offset })
}

fn any_record() -> impl Strategy<Value = WalRecord> {
    let replica = any::<u64>().prop_map(ReplicaId);
    replica.prop_flat_map(move |replica| {
        prop_oneof![
            (any::<u128>(), ".{0,40}", any::<i32>()).prop_map(move |(id, topic, partition)| {
                WalRecord::Created { replica, topic_id: Uuid::from_u128(id), topic, partition }
            }),
            Just(WalRecord::Dropped { replica }),
            any::<(u64, u64, bool)>().prop_map(move |(term, node, committed)| WalRecord::Vote {
                replica,
                vote: Vote { term, node, committed }
            }),
            (any_log_id(), any::<i64>(), any_bytes()).prop_map(move |(log_id, offset, payload)| {
                WalRecord::Control { replica, log_id, offset, payload }
            }),
            (any::<(u64, i64, u64)>(), prop::collection::vec(any::<u8>(), 61), any_bytes()).prop_map(
                move |((index, segment, position), head, records)| WalRecord::Batch {
                    replica,
                    index,
                    segment,
                    position,
                    batch: RecordBatch { head: head.try_into().unwrap(), records },
                }
            ),
            (any::<(u64, i64, u64)>(), prop::collection::vec(any::<u8>(), 61)).prop_map(
                move |((index, segment, position), head)| WalRecord::Placed {
                    replica,
                    index,
                    segment,
                    position,
                    head: head.try_into().unwrap(),
                }
            ),
            (prop::option::of(any_log_id()), any_end()).prop_map(move |(after, end)| WalRecord::Cut {
                replica,
                after,
                end
            }),
            (any_log_id(), any::<i64>()).prop_map(move |(floor, offset)| WalRecord::Purge {
                replica,
                floor,
                offset
            }),
            (any_log_id(), any_bytes(), any::<i64>()).prop_map(move |(log_id, snapshot, next_offset)| {
                WalRecord::Installed { replica, log_id, snapshot, next_offset }
            }),
        ]
    })
}

proptest! {
    #[test]
    fn records_round_trip(records in prop::collection::vec(any_record(), 1..20)) {
        let mut round = RoundBuilder::new(SALT);
        let mut len = ROUND_HEADER;
        for record in &records {
            round.push(record);
            len += record.encoded_len();
            prop_assert_eq!(round.len(), len);
        }
        let payload = round.len - ROUND_HEADER;
        let bytes = Bytes::copy_from_slice(round.seal(3, 9).1).slice(ROUND_HEADER..len);
        let round = Round {
            number: 3,
            end: start(3),
            padded_len: 0,
            records: bytes.slice(payload..),
            crc: 0,
            file: 0,
            payload: 0..payload as u64,
        };
        let read = round.records().collect::<Result<Vec<_>, _>>().unwrap();
        for ((read, held), record) in read.into_iter().zip(&records) {
            let read = match (read, held) {
                (WalRecord::Placed { replica, index, segment, position, head }, Some(held)) => {
                    let records = bytes.slice(held.bytes.start as usize..held.bytes.end as usize);
                    WalRecord::Batch { replica, index, segment, position, batch: RecordBatch { head, records } }
                }
                (read, _) => read,
            };
            prop_assert_eq!(format!("{read:?}"), format!("{record:?}"));
        }
        // and with what batches hold behind each
        let mut bytes = Vec::new();
        records.iter().for_each(|record| record.encode(&mut bytes));
        let mut bytes = Bytes::from(bytes);
        for record in &records {
            prop_assert_eq!(format!("{record:?}"), format!("{:?}", WalRecord::decode(&mut bytes).unwrap()));
        }
        prop_assert!(bytes.is_empty());
    }

    /// Proves: fault I09 (the log's records).
    #[test]
    fn hostile_bytes_are_no_records(bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 0u8..12) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        let len = bytes.len();
        let mut bytes = Bytes::from(bytes);
        while let Some(record) = WalRecord::decode(&mut bytes) {
            prop_assert!(record.encoded_len() <= len - bytes.len());
            // whatever it says, folding it is an answer and not a panic
            _ = GroupStates::default().fold(&record);
        }
    }

    /// Proves: fault I09 (the log's files).
    #[test]
    fn hostile_files_end_the_log(bytes in prop::collection::vec(any::<u8>(), 0..20_000), header in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = bytes;
        if header && bytes.len() > 32 {
            bytes[..8].copy_from_slice(&MAGIC);
            bytes[8..16].copy_from_slice(&SALT.to_be_bytes());
            bytes[16..24].copy_from_slice(&1u64.to_be_bytes());
        }
        fs::write(dir.path().join("0.wal"), &bytes).unwrap();
        prop_assert_eq!(read(dir.path(), SALT, start(0)).unwrap(), vec![]);
    }
}

#[test]
fn a_ring_is_read_back_across_files_and_wraps() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), SALT, 0);
    let mut covered = start(0);
    for turn in 0..20 {
        let mut expected = Vec::new();
        for _ in 0..3 {
            expected.push((write(&mut writer, &[control(9000), vote(turn)]), 2));
        }
        assert_eq!(read(dir.path(), SALT, covered).unwrap(), expected, "turn {turn}");
        covered = writer.position();
        writer.release(covered.round);
        assert_eq!(writer.uncovered_bytes(), 0);
    }
    assert!(fs::read_dir(dir.path()).unwrap().count() <= 3);
}

#[test]
fn a_full_ring_waits_for_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), SALT, 0);
    let mut round = writer.builder();
    let mut due_after = 0;
    for written in 0..3 {
        round.push(&control(60_000));
        if !writer.has_room(round.padded_len()) {
            assert!(matches!(writer.write_round(&mut round), Err(LogStoreError::WalFull)));
            let file = writer.next_file(false).unwrap();
            assert!(writer.next_file(false).is_none(), "one at a time");
            writer.add(Some(file.make(&RealDisk, &|_| {}).unwrap()));
        }
        writer.write_round(&mut round).unwrap();
        if writer.checkpoint_due() && due_after == 0 {
            due_after = written + 1;
        }
    }
    assert_eq!(due_after, 3, "two thirds of three files");
    round.push(&control(60_000));
    assert!(!writer.has_room(round.padded_len()) && writer.next_file(false).is_none());
    assert!(matches!(writer.write_round(&mut round), Err(LogStoreError::WalFull)));
    writer.release(1);
    assert_eq!(writer.write_round(&mut round).unwrap(), 4);
}

/// A torn last round is the end of the log; whatever is torn before it is damage.
/// Proves: fault P04.
#[test]
fn a_torn_round_ends_the_log_unless_a_later_one_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), SALT, 10);
    write(&mut writer, &[control(5000)]);
    write(&mut writer, &[control(9000)]);
    write(&mut writer, &[vote(1)]);
    let path = dir.path().join("0.wal");
    let whole = fs::read(&path).unwrap();
    let begins = [0, 8192, 20480, 24576];
    for sector in (0..24576).step_by(512) {
        let mut torn = whole.clone();
        torn[sector..sector + 512].iter_mut().for_each(|byte| *byte = 0);
        if torn == whole {
            continue;
        }
        fs::write(&path, &torn).unwrap();
        let found = read(dir.path(), SALT, start(10));
        let round = begins.iter().rposition(|begin| *begin <= sector).unwrap();
        if round == 2 {
            assert_eq!(found.unwrap(), [(11, 1), (12, 1)], "sector {sector}");
        } else {
            let Err(LogStoreError::Refused(why)) = found else { panic!("sector {sector}: {found:?}") };
            assert!(why.starts_with(&format!("round {} ", 11 + round)), "{why}");
        }
    }
}

#[test]
fn a_lost_file_in_the_middle_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), SALT, 0);
    for _ in 0..3 {
        write(&mut writer, &[control(50_000)]);
    }
    fs::remove_file(dir.path().join("1.wal")).unwrap();
    assert!(matches!(read(dir.path(), SALT, start(0)), Err(LogStoreError::Refused(_))));
    fs::remove_file(dir.path().join("0.wal")).unwrap();
    let Err(LogStoreError::Refused(why)) = read(dir.path(), SALT, start(0)) else { panic!("not refused") };
    assert!(why.contains("wal.dir"), "{why}");
}

#[test]
fn an_old_salt_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = writer(dir.path(), SALT, 0);
    for term in 0..4 {
        write(&mut old, &[vote(term)]);
    }
    drop(old);
    let file = WalFile::open(&RealDisk, 0, dir.path().join("0.wal")).unwrap();
    let mut new = WalWriter::new(options(dir.path()), SALT + 1, 0, vec![file]);
    write(&mut new, &[vote(9)]);
    assert_eq!(read(dir.path(), SALT + 1, start(0)).unwrap(), [(1, 1)]);
    assert!(
        read(dir.path(), SALT, start(0)).is_err(),
        "its first round is overwritten, later ones are there"
    );
}

#[test]
fn a_round_waits_for_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), SALT, 0);
    let mut round = writer.builder();
    round.push(&vote(1));
    writer.write(&mut round).unwrap();
    round.push(&vote(2));
    let overtaking = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| writer.write(&mut round)));
    assert!(overtaking.is_err());
}

#[test]
fn a_huge_record_is_a_round_of_its_own_and_gives_its_memory_back() {
    let mut round = RoundBuilder::new(SALT);
    round.push(&vote(1));
    round.push(&control(40 << 20));
    let bytes = round.seal(1, 0).1.to_vec();
    assert_eq!(bytes.len() % BLOCK, 0);
    let dir = tempfile::tempdir().unwrap();
    fs::File::create(dir.path().join("0.wal")).unwrap().write_all_at(&bytes, 0).unwrap();
    assert_eq!(read(dir.path(), SALT, start(0)).unwrap(), [(1, 2)]);
    round.reset();
    assert!(round.buffer.len() < 2 * ROUND_BYTES);
}

/// A batch as a producer would send it.
fn held(bytes: usize) -> WalRecord {
    let header = BatchHeader {
        base_offset: 0,
        batch_length: 49 + bytes as i32,
        partition_leader_epoch: 1,
        crc: 0,
        attributes: 0,
        last_offset_delta: 0,
        base_timestamp: 0,
        max_timestamp: 0,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        record_count: 1,
    };
    let mut batch = RecordBatch { head: header.encode(), records: vec![7; bytes].into() };
    let crc = batch.computed_crc();
    batch.head = BatchHeader { crc, ..header }.encode();
    WalRecord::Batch { replica: ReplicaId(7), index: 0, segment: 0, position: 0, batch }
}

/// The last round's payload is torn, and the round that takes its number begins in the next file: what is left of the torn one
/// is never believed again, also when the rounds are read a second time.
#[test]
fn a_torn_round_is_not_believed_when_another_one_has_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = writer(dir.path(), SALT, 0);
    write(&mut first, &[control(64_000)]);
    write(&mut first, &[held(500)]);
    drop(first);
    let path = |number| dir.path().join(format!("{number}.wal"));
    let mut bytes = fs::read(path(1)).unwrap();
    bytes[200] ^= 1;
    fs::write(path(1), bytes).unwrap();

    let open = || WalReader::open(&RealDisk, dir.path(), SALT, start(0), Mutation::None).unwrap();
    let mut reader = open();
    assert_eq!(reader.next_round().unwrap().map(|round| round.number), Some(1));
    assert!(reader.next_round().unwrap().is_none(), "its payload is torn");
    let there = |number| WalFile::open(&RealDisk, number, path(number)).unwrap();
    let new = NewWalFile::new(&options(dir.path()), 2).make(&RealDisk, &|_| {}).unwrap();
    let files = vec![there(0), new, there(1)];
    let uncovered = VecDeque::from([(1, 65_536)]);
    let mut resumed = WalWriter::resume(options(dir.path()), &mut reader, uncovered, files).unwrap();
    assert_eq!((resumed.position().round, resumed.uncovered_bytes()), (2, 69_632), "with the mark");
    write(&mut resumed, &[control(9000)]);
    write(&mut resumed, &[held(600)]);

    let mut reader = open();
    for _ in 0..3 {
        let mut seen = Vec::new();
        while let Some(round) = reader.next_round().unwrap() {
            seen.push((round.number, round.end.file, round.marks_recovery()));
        }
        assert_eq!(seen, [(1, 0, false), (2, 2, true), (3, 2, false), (4, 2, false)]);
        assert_eq!(reader.end().round, 4);
        reader.rewind();
    }
}

/// What another version wrote behind the checkpoint is not passed over.
#[test]
fn rounds_of_another_version_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), SALT, 0);
    write(&mut writer, &[vote(1)]);
    let covered = writer.position();
    write(&mut writer, &[vote(2)]);
    let path = dir.path().join("0.wal");
    let mut bytes = fs::read(&path).unwrap();
    for begin in [0, BLOCK] {
        bytes[begin + 7] = 1;
    }
    fs::write(&path, &bytes).unwrap();
    let Err(LogStoreError::Refused(why)) = read(dir.path(), SALT, covered) else { panic!("not refused") };
    assert!(why.contains("another version"), "{why}");
    // one that is in the checkpoint is no matter
    bytes[BLOCK..2 * BLOCK].fill(0);
    fs::write(&path, &bytes).unwrap();
    assert_eq!(read(dir.path(), SALT, covered).unwrap(), []);
}
