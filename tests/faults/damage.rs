//! Damaged, missing, foreign and left-over files in the data directory.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use kafka_protocol::{
    messages::{BrokerId, MetadataRequest, TopicName, metadata_request::MetadataRequestTopic},
    protocol::StrBytes,
};

use crate::{
    connect, files, fill, read, stop,
    support::{
        broker::{Broker, Refused},
        peer,
    },
    values,
};

/// Small segments, so that a partition has several.
const SEGMENTS: [&str; 2] = ["--set", "log.segment.bytes=1048576"];

/// Indexes are caches: cut, garbled, emptied or deleted while the broker is down, they are rebuilt and answers are the same,
/// by offset and by time.
///
/// Proves: fault D15.
#[test]
fn damaged_indexes_are_rebuilt() {
    let data = tempfile::tempdir().expect("a data directory");
    let broker = Broker::on(data.path(), &SEGMENTS);
    fill(&broker, "indexed", 30_000, 500);
    stop(broker);
    for extension in ["index", "timeindex"] {
        for (number, file) in files(data.path(), "indexed-0", extension).iter().enumerate() {
            let length = fs::metadata(file).expect("its length").len();
            let open = || fs::OpenOptions::new().write(true).open(file).expect("opening it");
            match number % 4 {
                0 => fs::remove_file(file).expect("deleting"),
                1 => open().set_len(length / 2 + 3).expect("cutting"),
                2 => open().write_all_at(&vec![0xa5; length as usize], 0).expect("garbling"),
                _ => open().set_len(0).expect("emptying"),
            }
        }
    }
    assert!(files(data.path(), "indexed-0", "log").len() > 3, "the test wants several segments");
    let broker = Broker::on(data.path(), &SEGMENTS);
    assert_eq!(read(&broker, "indexed"), values("indexed", 0..30_000));
    let mut connection = connect(&broker);
    for offset in [0_i64, 1, 499, 500, 12_345, 29_999] {
        let fetched = peer::fetch(&mut connection, "indexed", 0, offset, 0).expect("a fetch");
        assert_eq!(fetched.records[0].0, offset);
    }
}

/// Left-over temporary files, half-written snapshots and files of others neither stop a start nor change what is read.
///
/// Proves: fault D20.
#[test]
fn stale_files_are_harmless() {
    let data = tempfile::tempdir().expect("a data directory");
    let broker = Broker::on(data.path(), &[]);
    fill(&broker, "stale", 1000, 100);
    stop(broker);
    let partition = data.path().join("stale-0");
    for name in ["checkpoint.tmp", "meta.toml.tmp", "notes.txt"] {
        fs::write(data.path().join(name), b"left over").expect("writing");
    }
    for name in
        ["00000000000000000500.snapshot", "00000000000000000000.index.tmp", "leader-epoch-checkpoint.tmp"]
    {
        fs::write(partition.join(name), b"half").expect("writing");
    }
    fs::create_dir(data.path().join("gone-0.0123456789abcdef0123456789abcdef-delete")).expect("a folder");
    let broker = Broker::on(data.path(), &[]);
    assert_eq!(read(&broker, "stale"), values("stale", 0..1000));
    assert!(data.path().join("notes.txt").exists(), "what is not ours is left alone");
}

/// A partition whose folder cannot be read is offline alone; the others serve. Clients that do not know the error of a disk are told to look
/// for another leader, and Metadata names the replica as offline. Run as another user where this is root.
///
/// Proves: fault D22, F18, M11.
#[test]
fn an_unreadable_partition_is_offline_alone() {
    let data = tempfile::tempdir().expect("a data directory");
    let broker = Broker::on(data.path(), &[]);
    fill(&broker, "good", 100, 10);
    fill(&broker, "barred", 100, 10);
    stop(broker);
    let barred = data.path().join("barred-0");
    let mode = |mode| fs::set_permissions(&barred, fs::Permissions::from_mode(mode)).expect("chmod");
    let broker = if rustix::process::geteuid().is_root() {
        let owned = Command::new("chown").args(["-R", "65534:65534"]).arg(data.path()).status();
        assert!(owned.is_ok_and(|status| status.success()), "chown");
        mode(0o000);
        Broker::on_as_nobody(data.path())
    } else {
        mode(0o000);
        Broker::on(data.path(), &[])
    };
    assert_eq!(read(&broker, "good"), values("good", 0..100));
    for (version, code) in [(4, 6), (5, 6), (6, 56), (11, 56)] {
        let fetched = peer::fetch_in_version(&mut connect(&broker), version, "barred", 0, 0, 0);
        assert_eq!(fetched.expect("an answer").error_code, code, "v{version}");
    }
    // Error, leader, replicas in sync, offline replicas, which version 5 brought; all replicas are told in any case.
    let offline = |dead| (5, -1, vec![], dead);
    let serving = (0, 1, vec![1], vec![]);
    for (version, dead) in [(4, vec![]), (5, vec![1]), (12, vec![1])] {
        assert_eq!(placement(&broker, "barred", version), offline(dead), "v{version}");
        assert_eq!(placement(&broker, "good", version), serving, "v{version}");
    }
    assert!(broker.log().contains("barred-0"), "{}", broker.log());
    drop(broker);
    mode(0o755);
    let broker = Broker::on(data.path(), &[]);
    assert_eq!(read(&broker, "barred"), values("barred", 0..100), "nothing was lost");
    assert_eq!(placement(&broker, "barred", 12), serving);
}

/// What Metadata says of partition 0, whose only replica is here: its error, leader, replicas in sync and offline ones.
fn placement(broker: &Broker, topic: &str, version: i16) -> (i16, i32, Vec<i32>, Vec<i32>) {
    let name = TopicName(StrBytes::from_string(topic.to_owned()));
    let wanted = MetadataRequestTopic::default().with_name(Some(name));
    let request = MetadataRequest::default().with_topics(Some(vec![wanted]));
    let answer = connect(broker).call(&request, version).expect("an answer");
    assert_eq!((answer.topics[0].error_code, answer.topics[0].partitions.len()), (0, 1));
    let partition = &answer.topics[0].partitions[0];
    let numbers = |ids: &[BrokerId]| ids.iter().map(|id| id.0).collect();
    let replicas: Vec<i32> = numbers(&partition.replica_nodes);
    assert_eq!(replicas, [1], "the preferred leader stays");
    let (in_sync, offline) = (numbers(&partition.isr_nodes), numbers(&partition.offline_replicas));
    (partition.error_code, partition.leader_id.0, in_sync, offline)
}

/// What a broker says that does not start; it leaves with 1.
fn refused(data: &Path, arguments: &[&str]) -> String {
    let data = data.to_str().expect("UTF-8");
    match Broker::try_start(&[&["--data-dir", data], arguments, &SMALL_RING].concat()) {
        Ok(_) => panic!("it started"),
        Err(Refused { log, code }) => {
            assert_eq!(code, Some(1), "{log}");
            log
        }
    }
}

/// Small files of the write-ahead log, so that a directory is soon read.
const SMALL_RING: [&str; 2] = ["--set", "wal.file.bytes=1048576"];

/// Every file below a folder with what it holds.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut contents = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                contents.insert(path.clone(), Vec::new());
                folders.push(path);
            } else {
                contents.insert(path.clone(), fs::read(&path).expect("a file"));
            }
        }
    }
    contents
}

/// Nothing below a folder is another than before.
fn assert_unchanged(folder: &Path, before: &BTreeMap<PathBuf, Vec<u8>>) {
    let after = contents(folder);
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (path, bytes) in before {
        assert!(after[path] == *bytes, "{} is another", path.display());
    }
}

/// What belongs to somebody else is refused before anything is made in it, a lock file included.
#[test]
fn what_belongs_to_others_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("pictures")).expect("a folder");
    fs::write(path("pictures/holiday.jpg"), b"sun").expect("writing");
    let before = contents(folder.path());
    let said = refused(&path("pictures"), &[]);
    assert!(said.contains("holiday.jpg") && said.contains("empty directory"), "{said}");
    assert_unchanged(folder.path(), &before);

    let wal_dir = format!("wal.dir={}", path("wal").display());
    stop(Broker::on(&path("first"), &[&SMALL_RING[..], &["--set", &wal_dir]].concat()));
    let before = contents(folder.path());
    let said = refused(&path("second"), &["--set", &wal_dir]);
    assert!(said.contains("another data directory"), "{said}");
    assert_unchanged(folder.path(), &before);
    let said = refused(&path("first"), &[]);
    assert!(said.contains("set wal.dir"), "{said}");
    assert_unchanged(folder.path(), &before);
}

/// A second process, another node's directory, another cluster's identity, a newer format and an illegible one are refused in words,
/// with exit code 1, and nothing is changed.
#[test]
fn a_data_directory_is_guarded() {
    let data = tempfile::tempdir().expect("a data directory");
    let broker = Broker::on(data.path(), &SMALL_RING);
    fill(&broker, "guarded", 10, 10);
    let said = refused(data.path(), &[]);
    assert!(said.contains("in use") || said.contains("another process"), "{said}");
    stop(broker);

    let before = contents(data.path());
    let said = refused(data.path(), &["--node-id", "7"]);
    assert!(said.contains('7') && said.contains("node"), "{said}");
    assert_unchanged(data.path(), &before);

    let meta = data.path().join("meta.toml");
    let text = fs::read_to_string(&meta).expect("meta.toml");
    let cluster = text
        .lines()
        .find_map(|line| line.strip_prefix("cluster_id = "))
        .expect("a cluster id")
        .trim_matches('"');
    let other = "b".repeat(cluster.len());
    let line = text.lines().find(|line| line.contains("version")).expect("a format version").to_owned();
    let newer = format!("{} = 999", line.split('=').next().expect("a key").trim());
    for (identity, words) in [
        (text.replace(&line, &newer), ["999", "later"]),
        (text.replace(cluster, &other), [cluster, &other]),
        ("?".to_owned(), ["meta.toml", ""]),
    ] {
        fs::write(&meta, identity).expect("writing");
        let before = contents(data.path());
        let said = refused(data.path(), &[]);
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        assert_unchanged(data.path(), &before);
    }
    fs::write(&meta, text).expect("writing");
    let broker = Broker::on(data.path(), &SMALL_RING);
    assert_eq!(read(&broker, "guarded"), values("guarded", 0..10));
}
