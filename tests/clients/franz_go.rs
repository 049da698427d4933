//! franz-go, the strictest of the clients about malformed answers.

use std::process::Command;

use crate::{
    support::toolchain::{self, run_well},
    target::{Target, fresh},
};

/// An idempotent producer with its default pipelining, a cooperative group whose second member gets half of the first one's
/// partitions while that keeps the rest, admin requests and lag.
///
/// Proves: I1, G14, O6.
#[test]
fn round_trip() {
    let target = Target::start();
    let Some(program) = toolchain::franz_go() else { return };
    let mut command = Command::new(program);
    command.args([&target.bootstrap, &fresh("franz"), &fresh("franz-group")]);
    let printed = run_well(&mut command, "").stdout;
    assert!(printed.ends_with("ok\n"), "{printed}");
}
