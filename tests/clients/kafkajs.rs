//! KafkaJS: no longer maintained, still common, and strict about old versions.

use std::process::Command;

use crate::{
    support::toolchain::{self, run_well},
    target::{Target, fresh},
};

/// Produce with gzip and headers, read in a group, seek, admin offsets and group deletion.
///
/// Proves: G1, O6, L2.
#[test]
fn round_trip() {
    let target = Target::start();
    let Some(folder) = toolchain::kafkajs() else { return };
    let mut command = Command::new("node");
    command
        .arg(toolchain::sources().join("js/round_trip.cjs"))
        .args([&target.bootstrap, &fresh("kafkajs"), &fresh("kafkajs-group")])
        .env("NODE_PATH", folder.join("node_modules"))
        .env("KAFKAJS_NO_PARTITIONER_WARNING", "1");
    let printed = run_well(&mut command, "").stdout;
    assert!(printed.ends_with("ok\n"), "{printed}");
}
