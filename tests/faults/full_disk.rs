//! A disk that fills up and is freed again. Needs root, to mount a small ext4 of its own.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    connect, eventually, read,
    support::{
        broker::{Broker, http_get},
        peer::{self, Connection},
    },
    values,
};

/// An ext4 in a file, mounted for the time of a test.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`, with a line on stderr, where this machine does not let us mount; that fails the test where `ALLUVIUM_REQUIRE_CLIENTS=1`, as
    /// any other tool that is missing does.
    fn mount(mebibytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let image = folder.path().join("image");
        std::fs::File::create(&image).and_then(|file| file.set_len(mebibytes << 20)).expect("an image");
        std::fs::create_dir(folder.path().join("mounted")).expect("a mount point");
        let run = |program: &str, arguments: &[&Path]| {
            Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
        };
        let disk = Self { folder };
        if run("mkfs.ext4", &[Path::new("-q"), &image])
            && run("mount", &[Path::new("-o"), Path::new("loop"), &image, &disk.path()])
        {
            return Some(disk);
        }
        let reason = "mounting a file system needs root, mkfs.ext4 and loop devices";
        assert!(std::env::var("ALLUVIUM_REQUIRE_CLIENTS").as_deref() != Ok("1"), "full disk: {reason}");
        drop(writeln!(std::io::stderr(), "SKIPPED full disk: {reason}"));
        None
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(self.path()).output());
    }
}

const TOPIC: &str = "filling";

/// Produces batches until one is refused; returns how many values were acknowledged and the refusal's code.
fn produce_until_refused(connection: &mut Connection, mut next: usize) -> (usize, i16) {
    loop {
        let batch = peer::batch(&values(TOPIC, next..next + 1000));
        match peer::produce(connection, TOPIC, 0, batch).expect("an answer") {
            (0, base) => {
                assert_eq!(base, next as i64);
                next += 1000;
            }
            (code, _) => return (next, code),
        }
    }
}

/// The disk is filled, by the broker's own log and by somebody else: produce answers 56, the log says what to do, fetches and committed
/// offsets go on. Space is freed: produce works again without a restart. What was acknowledged is all there, also after kill -9.
///
/// Proves: fault D04, fault D05, fault O04.
#[test]
fn a_full_disk_refuses_produce_and_recovers_by_itself() {
    let Some(disk) = SmallDisk::mount(160) else { return };
    let arguments = ["--set", "wal.file.bytes=4194304", "--set", "offsets.topic.num.partitions=1"];
    let data = disk.path().join("data");
    let mut broker = Broker::on(&data, &arguments);
    let mut connection = connect(&broker);
    assert_eq!(peer::create_topic(&mut connection, TOPIC, 1).expect("an answer"), 0);
    eventually("there is a coordinator", || {
        peer::find_coordinator(&mut connection, "group").expect("an answer") == 0
            && peer::commit(&mut connection, "group", TOPIC, 1).expect("an answer") == 0
    });

    // Somebody else takes most of the disk, so that the reserve is reached by the broker's own writes.
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![7; 60 << 20]).expect("the ballast fits");
    let (acknowledged, code) = produce_until_refused(&mut connection, 0);
    assert_eq!(code, 56, "a full disk is KAFKA_STORAGE_ERROR");
    assert!(acknowledged > 0);
    broker.wait_for_log("bytes more on this disk (lower retention, delete topics)");
    let health = http_get(&broker.admin, "/healthz");
    assert!(health.starts_with("HTTP/1.1 503") && health.contains("produce is refused"), "{health}");
    assert!(http_get(&broker.admin, "/livez").starts_with("HTTP/1.1 200"), "full is no reason to restart it");
    assert_eq!(read(&broker, TOPIC), values(TOPIC, 0..acknowledged), "fetch goes on");
    for offset in 2..100 {
        assert_eq!(
            peer::commit(&mut connection, "group", TOPIC, offset).expect("an answer"),
            0,
            "commits go on"
        );
        assert_eq!(peer::committed(&mut connection, "group", TOPIC).expect("an answer"), (0, offset));
    }

    // Down to the last byte: nothing of ours may break.
    let more = disk.path().join("more");
    if let Ok(mut file) = std::fs::File::create(&more) {
        while file.write_all(&[0; 1 << 16]).and_then(|()| file.sync_data()).is_ok() {}
    }
    assert_eq!(produce_until_refused(&mut connection, acknowledged), (acknowledged, 56));
    assert_eq!(read(&broker, TOPIC).len(), acknowledged);
    assert_eq!(peer::committed(&mut connection, "group", TOPIC).expect("an answer"), (0, 99));

    for file in [more, ballast] {
        std::fs::remove_file(file).expect("freeing");
    }
    eventually("produce works again once there is room", || {
        let batch = peer::batch(&values(TOPIC, acknowledged..acknowledged + 1000));
        peer::produce(&mut connection, TOPIC, 0, batch).expect("an answer").0 == 0
    });
    broker.kill();
    let broker = Broker::on(&data, &arguments);
    assert_eq!(read(&broker, TOPIC), values(TOPIC, 0..acknowledged + 1000));
    let mut connection = connect(&broker);
    eventually("the coordinator has loaded", || {
        peer::committed(&mut connection, "group", TOPIC).expect("an answer").0 == 0
    });
    assert_eq!(peer::committed(&mut connection, "group", TOPIC).expect("an answer"), (0, 99));
}

/// A broker that was killed on a disk that is full to the last byte starts all the same, and serves what it has.
///
/// Proves: fault D05.
#[test]
fn recovery_works_on_a_full_disk() {
    let Some(disk) = SmallDisk::mount(160) else { return };
    let arguments = ["--set", "wal.file.bytes=4194304"];
    let data = disk.path().join("data");
    let mut broker = Broker::on(&data, &arguments);
    let mut connection = connect(&broker);
    assert_eq!(peer::create_topic(&mut connection, TOPIC, 1).expect("an answer"), 0);
    for start in (0..20_000).step_by(1000) {
        let batch = peer::batch(&values(TOPIC, start..start + 1000));
        assert_eq!(peer::produce(&mut connection, TOPIC, 0, batch).expect("an answer"), (0, start as i64));
    }
    broker.kill();
    let mut file = std::fs::File::create(disk.path().join("ballast")).expect("the ballast");
    while file.write_all(&[0; 1 << 16]).and_then(|()| file.sync_data()).is_ok() {}
    let broker = Broker::on(&data, &arguments);
    assert_eq!(read(&broker, TOPIC), values(TOPIC, 0..20_000));
    assert_eq!(produce_until_refused(&mut connect(&broker), 20_000), (20_000, 56));
}
