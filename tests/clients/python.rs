//! confluent-kafka for Python (librdkafka): the scripts are in `python/`.

use std::process::Command;

use crate::{
    support::toolchain::{self, run_well},
    target::{Target, fresh},
};

fn script(target: &Target, name: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(toolchain::python()?);
    command.arg(toolchain::sources().join("python").join(name)).arg(&target.bootstrap).args(arguments);
    Some(run_well(&mut command, "").stdout)
}

/// An idempotent producer's 20,000 records with five requests in flight come back once each and in order, read by two
/// members of a group, each with half of the partitions; commits are read back.
///
/// Proves: I1, G4, O6.
#[test]
fn idempotent_producer_and_group() {
    let target = Target::start();
    let Some(printed) = script(&target, "group.py", &[&fresh("python"), &fresh("python-group")]) else {
        return;
    };
    assert!(printed.ends_with("ok\n"), "{printed}");
}

/// offsets_for_times finds the first record at or after a time, and seeking there reads from it.
///
/// Proves: L2.
#[test]
fn seeks_by_time() {
    let target = Target::start();
    let Some(printed) = script(&target, "seek_by_time.py", &[&fresh("python-time")]) else { return };
    assert!(printed.ends_with("ok\n"), "{printed}");
}

/// The admin client creates, lists, describes and deletes topics and groups.
///
/// Proves: A2, A5, A7, G19.
#[test]
fn administers() {
    let target = Target::start();
    let Some(printed) = script(&target, "admin.py", &[&fresh("python-admin"), &fresh("python-admin-group")])
    else {
        return;
    };
    assert!(printed.ends_with("ok\n"), "{printed}");
}

/// A transactional producer is refused at once and in words, not left to retry.
#[test]
fn transactions_are_refused() {
    let target = Target::start();
    if !target.ours {
        return;
    }
    let Some(printed) = script(&target, "transactions.py", &[]) else { return };
    assert!(printed.ends_with("ok\n"), "{printed}");
}
