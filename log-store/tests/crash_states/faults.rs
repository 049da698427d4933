//! Faults of the medium and of the system: rot, failing syncs, a full disk, a directory that may not be read.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use log_store::{
    LogStoreError, RecordBatch, ReplicaId,
    disk::{Access, Disk},
    recovery::Mutation,
};

use crate::{
    compare,
    model::{Allowed, World},
    node::{Bug, DATA, INDEXED, Node, Started, start},
    recording::RecordingDisk,
};

const A: ReplicaId = ReplicaId(1);
const B: ReplicaId = ReplicaId(2);

/// A node with two groups and a few rounds, its disk as a power cut leaves it, and what was promised.
#[expect(clippy::unwrap_used, reason = "part of tests: no step of it may fail")]
fn served() -> (RecordingDisk, World) {
    let disk = RecordingDisk::new(None, Allowed::default());
    let started = start(&disk, 1, Mutation::None).unwrap();
    let mut node = Node::new(&disk, started, World::default(), Bug::None);
    node.create("a").unwrap();
    node.create("b").unwrap();
    node.append(&[(A, vec![0, 700, 900], false), (B, vec![600], false)], 1).unwrap();
    node.checkpoint().unwrap();
    node.append(&[(A, vec![800], false), (B, vec![500, 0], false)], 2).unwrap();
    node.vote(A).unwrap();
    node.append(&[(B, vec![40], false)], 3).unwrap();
    (powered_off(&disk), node.world.clone())
}

/// The disk after a power cut that lost everything that it could lose.
fn powered_off(disk: &RecordingDisk) -> RecordingDisk {
    let files = disk.files();
    let choices = files.choices(4096);
    let nothing = vec![0; choices.arities().len()];
    RecordingDisk::new(Some(files.image(&choices, &nothing)), Allowed::default())
}

fn again(disk: &RecordingDisk) -> RecordingDisk {
    RecordingDisk::new(Some(disk.files()), Allowed::default())
}

/// Every sector of the log's rounds rots in turn: only the last round may be taken for one that was cut off. Where an earlier one
/// holds a batch that its segment lacks, that group is offline and keeps its promised end.
///
/// Proves: fault D13 (the write-ahead log).
#[test]
fn rot_in_the_log_is_an_end_only_in_its_last_round() {
    let (disk, world) = served();
    let (mut refused, mut offline, mut ended) = (0, 0, 0);
    // rounds 1 and 2 created the groups, 3 is in the checkpoint; 4, 5 and 6 are behind it, a block each, 5 and 6 in
    // the second file
    for sector in (3 * 4096..6 * 4096).step_by(512) {
        let (file, at) = (sector / 16384, sector % 16384);
        let wal = Path::new("/data/wal").join(format!("{file}.wal"));
        let rotten = again(&disk);
        let mut changed = false;
        rotten.rot(&wal, |bytes| {
            for byte in &mut bytes[at..at + 512] {
                changed |= *byte != 0;
                *byte = !*byte;
            }
        });
        match start(&rotten, 2, Mutation::None) {
            Err(LogStoreError::Refused(why)) => {
                assert!(changed && sector < 5 * 4096, "sector {sector}: {why}");
                assert!(why.contains("Restore"), "{why}");
                refused += 1;
                // the bug: damage is taken for the end, and what was promised is gone without a word
                let mut started = start(&rotten, 2, Mutation::LaterRoundIgnored).unwrap();
                assert!(compare(&rotten, &mut started, &world).is_err());
            }
            Err(other) => panic!("sector {sector}: {other}"),
            Ok(mut started) => match compare(&rotten, &mut started, &world) {
                Ok(()) => assert!(!changed, "sector {sector} is not checked"),
                Err(_) if sector >= 5 * 4096 => ended += 1,
                Err(difference) => {
                    let groups = &started.recovered.groups;
                    assert!(groups.iter().any(|group| group.log.is_err()), "sector {sector}: {difference}");
                    for group in groups {
                        let promised = world.groups[&group.state.replica].next_offset();
                        assert_eq!(group.state.end.next_offset, promised, "sector {sector}");
                    }
                    offline += 1;
                }
            },
        }
    }
    assert!(refused > 1 && offline > 0 && ended > 0, "{refused} refused, {offline} offline, {ended} ended");
}

/// Every 16 bytes of the checkpoint rot in turn: the copy stands in. Both rot: one group at most is lost, and nothing of
/// it is removed.
///
/// Proves: fault D25 (the vote and the snapshot live in the checkpoint).
#[test]
fn a_rotten_checkpoint_costs_nothing_and_two_cost_one_group() {
    let (disk, world) = served();
    let path = Path::new("/data/checkpoint");
    let copy = Path::new("/data/checkpoint.copy");
    let mut len = 0;
    disk.rot(path, |bytes| len = bytes.len());
    let (mut refused, mut lost) = (0, 0);
    for at in (0..len).step_by(16) {
        let flip = |bytes: &mut Vec<u8>| bytes[at] ^= 0x55;
        let one = again(&disk);
        one.rot(path, flip);
        let mut started = start(&one, 2, Mutation::None).unwrap();
        compare(&one, &mut started, &world).unwrap_or_else(|difference| panic!("byte {at}: {difference}"));
        let two = again(&disk);
        two.rot(path, flip);
        two.rot(copy, flip);
        match start(&two, 2, Mutation::None) {
            Err(LogStoreError::Refused(why)) => {
                assert!(why.contains("checkpoint"), "{why}");
                refused += 1;
            }
            Err(other) => panic!("byte {at}: {other}"),
            Ok(started) => {
                lost += 1;
                assert_eq!((started.recovered.lost.len(), started.recovered.groups.len()), (1, 1));
                assert!(started.recovered.groups[0].log.is_ok());
                let before = disk.paths().len();
                assert!(two.paths().len() >= before, "files of the lost group were removed");
                // and it is still known to be lost at the next start
                drop(started);
                assert_eq!(start(&two, 3, Mutation::None).unwrap().recovered.lost.len(), 1);
            }
        }
    }
    assert!(refused > 0 && lost > 0, "{refused} refused, {lost} with a lost group");
}

/// A batch that was cut may come back from the disk, whole, where another one was appended since whose page was lost: what the
/// round holds is written over it.
///
/// Proves: fault C02 (in recovery).
#[test]
fn another_batch_that_is_whole_is_written_over() {
    let disk = RecordingDisk::new(None, Allowed::default());
    let started = start(&disk, 1, Mutation::None).unwrap();
    let mut node = Node::new(&disk, started, World::default(), Bug::None);
    node.create("a").unwrap();
    node.append(&[(A, vec![500], false)], 1).unwrap();
    for (mutation, is_written) in [(Mutation::None, true), (Mutation::HeadsNotCompared, false)] {
        let disk = again(&disk);
        disk.rot(&Path::new(DATA).join("a-0/00000000000000000000.log"), |bytes| {
            let (head, records) = bytes.split_at_mut(61);
            records[100] ^= 1;
            let batch =
                RecordBatch { head: (&*head).try_into().unwrap(), records: Bytes::copy_from_slice(records) };
            head[17..21].copy_from_slice(&batch.computed_crc().to_be_bytes());
        });
        let mut started = start(&disk, 2, mutation).unwrap();
        assert_eq!(started.recovered.wal.salt(), 1, "it goes on");
        assert_eq!(compare(&disk, &mut started, &node.world).is_ok(), is_written, "{mutation:?}");
    }
}

/// Recovery goes on behind the last round once; the next one ends for itself unless there is a checkpoint since. Where crashes come
/// sooner than checkpoints, rounds would pile up, and a full ring acknowledges nothing.
#[test]
fn recovery_goes_on_once_before_the_next_checkpoint() {
    let (disk, world) = served();
    let mut started = start(&disk, 2, Mutation::None).unwrap();
    assert_eq!(started.recovered.wal.salt(), 1, "it goes on");
    compare(&disk, &mut started, &world).unwrap();
    drop(started);

    let disk = again(&disk);
    let mut started = start(&disk, 3, Mutation::None).unwrap();
    assert_eq!(started.recovered.wal.salt(), 3, "it ends for itself");
    compare(&disk, &mut started, &world).unwrap();
    let mut node = Node::new(&disk, started, world, Bug::None);
    node.append(&[(A, vec![300], false)], 4).unwrap();

    let disk = again(&disk);
    let started = start(&disk, 5, Mutation::None).unwrap();
    assert_eq!(started.recovered.wal.salt(), 3, "it goes on");
    let mut node = Node::new(&disk, started, node.world.clone(), Bug::None);
    node.append(&[(A, vec![300], false)], 5).unwrap();
    node.checkpoint().unwrap();
    node.append(&[(A, vec![300], false)], 6).unwrap();

    let disk = again(&disk);
    let mut started = start(&disk, 6, Mutation::None).unwrap();
    assert_eq!(started.recovered.wal.salt(), 3, "there is a checkpoint since");
    compare(&disk, &mut started, &node.world).unwrap();
}

/// A sync of the log fails: nothing is written after it, and a restart shows what was promised, or that and the round.
///
/// Proves: fault D01 (the log store's part).
#[test]
fn nothing_follows_a_failed_sync() {
    let (disk, world) = served();
    let started = start(&disk, 2, Mutation::None).unwrap();
    let mut node = Node::new(&disk, started, world.clone(), Bug::None);
    disk.fail_syncs_after(Some(0));
    assert!(matches!(node.append(&[(A, vec![300], false)], 4), Err(LogStoreError::Io { .. })));
    assert_eq!(node.world, world, "a round was promised whose sync failed");
    disk.fail_syncs_after(None);
    assert!(matches!(node.append(&[(B, vec![300], false)], 5), Err(LogStoreError::Poisoned)));
    assert_eq!(node.world, world);
    let after = powered_off(&disk);
    let mut started = start(&after, 3, Mutation::None).unwrap();
    compare(&after, &mut started, &world).expect("what was promised, and nothing else");
}

/// The disk fills while batches are written into segments: the write fails as "out of space", and what was promised
/// is there afterwards, with and without a power cut.
///
/// Proves: fault D04, fault D07 (partial writes).
#[test]
fn a_full_disk_costs_nothing_that_was_promised() {
    for space in (0..1500).step_by(37) {
        let (disk, world) = served();
        let started = start(&disk, 2, Mutation::None).unwrap();
        let mut node = Node::new(&disk, started, world.clone(), Bug::None);
        disk.limit_space(Some(space));
        let error = node.append(&[(A, vec![900], false), (B, vec![700], false)], 4).unwrap_err();
        assert!(error.is_out_of_space(), "{error}");
        assert_eq!(node.world, world);
        disk.limit_space(None);
        for after in [again(&disk), powered_off(&disk)] {
            let mut started = start(&after, 3, Mutation::None).unwrap();
            compare(&after, &mut started, &world)
                .unwrap_or_else(|difference| panic!("{space}: {difference}"));
        }
    }
}

/// One partition's directory may not be read: it alone is offline, and once it may be read again nothing is missing, a
/// power cut in between or not.
///
/// Proves: fault D22.
#[test]
fn a_directory_that_may_not_be_read_takes_only_its_partition_offline() {
    let (disk, world) = served();
    for power_cut in [false, true] {
        let disk = again(&disk);
        disk.deny(Some(&Path::new(DATA).join("a-0")));
        for salt in [2, 3] {
            let started = start(&disk, salt, Mutation::None).unwrap();
            let open: Vec<_> = started
                .recovered
                .groups
                .iter()
                .map(|group| (group.state.replica, group.log.is_ok()))
                .collect();
            assert_eq!(open, [(A, false), (B, true)]);
        }
        disk.deny(None);
        let disk = if power_cut { powered_off(&disk) } else { disk };
        disk.allow(Allowed(vec![Arc::new(world.clone())]));
        let mut started = start(&disk, 4, Mutation::None).unwrap();
        compare(&disk, &mut started, &world).unwrap_or_else(|difference| panic!("{difference}"));
        assert!(disk.paths().iter().all(|path| path.extension().is_none_or(|it| it != "rescued")));
    }
    // the bug: the rounds are given up while the partition could not take them
    let lossy = again(&disk);
    lossy.deny(Some(&Path::new(DATA).join("a-0")));
    drop(start(&lossy, 2, Mutation::NothingRescued).unwrap());
    lossy.deny(None);
    let mut started = start(&lossy, 3, Mutation::None).unwrap();
    assert!(compare(&lossy, &mut started, &world).is_err());
}

/// What the disk makes of the redo is not what was written: the walk finds it, this partition alone is offline, nothing of
/// it is cut or removed, and it stays so, with its promised end, until the bytes are there again.
///
/// Proves: fault D12, fault D13 (what recovery itself writes).
#[test]
fn a_promised_batch_that_is_bad_takes_only_its_partition_offline() {
    let (disk, world) = served();
    let segment = Path::new(DATA).join("a-0/00000000000000000000.log");
    let spoiled = |mutation| {
        let disk = again(&disk);
        disk.garble(Some(&segment));
        let started = start(&disk, 2, mutation).unwrap();
        disk.garble(None);
        (disk, started)
    };
    let (bad, started) = spoiled(Mutation::None);
    let end = |started: &Started| started.recovered.groups[0].state.end;
    let promised = end(&started);
    let open =
        |started: &Started| started.recovered.groups.iter().map(|it| it.log.is_ok()).collect::<Vec<_>>();
    assert_eq!(open(&started), [false, true]);
    assert!(matches!(started.recovered.groups[0].log, Err(LogStoreError::Corrupt { .. })));
    drop(started);
    // the rounds are gone with the new checkpoint: what the partition promised is not
    let len = |disk: &RecordingDisk| disk.open(&segment, Access::Read).unwrap().len().unwrap();
    for salt in [3, 4] {
        let started = start(&bad, salt, Mutation::None).unwrap();
        assert_eq!((end(&started), len(&bad)), (promised, promised.position));
    }
    bad.rot(&segment, |bytes| *bytes.last_mut().unwrap() = !*bytes.last().unwrap());
    let mut started = start(&bad, 5, Mutation::None).unwrap();
    compare(&bad, &mut started, &world).expect("the bytes are back");
    // the bug: a batch is believed because it was written
    let (bad, mut started) = spoiled(Mutation::WalkSkipped);
    assert_eq!(open(&started), [true, true]);
    compare(&bad, &mut started, &world).expect_err("a bad batch is served");
}

/// Every byte of every index file rots in turn: what the log answers stays the same.
///
/// Proves: fault D15 (rot, over a recovery).
#[test]
fn a_rotten_index_is_made_anew() {
    let disk = RecordingDisk::new(None, Allowed::default());
    let started = start(&disk, 1, Mutation::None).unwrap();
    let mut node = Node::new(&disk, started, World::default(), Bug::None);
    node.create(INDEXED).unwrap();
    for fill in 0..14 {
        node.append(&[(A, vec![9000, 0], false)], fill).unwrap();
    }
    // one whose last entries no file tells of
    node.checkpoint().unwrap();
    node.append(&[(A, vec![350, 360], false)], 9).unwrap();
    let world = node.world.clone();
    let (mut rotten, mut misled) = (0, 0);
    let indexes = disk.paths();
    let indexes: Vec<_> = indexes
        .iter()
        .filter(|path| {
            path.extension().is_some_and(|it| ["index", "timeindex", "raft"].iter().any(|name| it == *name))
        })
        .collect();
    assert_eq!(indexes.len(), 6, "{indexes:?}");
    for path in indexes {
        let len = disk.open(path, Access::Read).unwrap().len().unwrap();
        for at in 0..len as usize {
            let bad = again(&disk);
            bad.rot(path, |bytes| bytes[at] ^= 1 << (at % 8));
            rotten += 1;
            let repaired = again(&bad);
            let mut started = start(&repaired, 2, Mutation::None).unwrap();
            compare(&repaired, &mut started, &world)
                .unwrap_or_else(|difference| panic!("byte {at} of {}: {difference}", path.display()));
            // the bug: an index is believed because it is there
            let trusting = start(&bad, 2, Mutation::IndexTrusted);
            misled += usize::from(match trusting {
                Ok(mut started) => compare(&bad, &mut started, &world).is_err(),
                Err(_) => true,
            });
        }
    }
    assert!(rotten > 300 && misled > 0, "{rotten} rotten bytes, {misled} misled");
}
