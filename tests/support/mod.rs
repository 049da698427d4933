//! What the tests of the whole share: the broker as a process.
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod broker;
pub(crate) mod peer;
pub(crate) mod toolchain;
pub(crate) mod wire;
