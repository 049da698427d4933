//! Stands for the crate `base2histogram` (see `[patch.crates-io]` in the workspace's `Cargo.toml`) and keeps nothing.
//!
//! openraft keeps fifteen histograms a group, records into a dozen of them with every batch, and has no switch for that.
//! Nobody here reads them: what an operator looks at is in `/metrics`. With 10,000 partitions they were 380 MB of 1.2 GB. So
//! this one has the part of the interface that openraft uses, answers as a histogram does into which nothing was recorded, and
//! takes no memory.

use std::{fmt, marker::PhantomData};

/// A histogram that stays empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram<T = ()>(PhantomData<T>);

impl<T> Histogram<T> {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self(PhantomData)
    }

    /// Does nothing.
    pub const fn record(&mut self, _value: u64) {}

    /// Does nothing.
    pub const fn record_n(&mut self, _value: u64, _times: u64) {}

    /// No samples, and zero everywhere.
    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats::default()
    }
}

/// Percentiles of a histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it: p99_9 is the 99.9th percentile")]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[not kept]")
    }
}

/// A chart of histograms: an empty one.
#[derive(Clone, Copy, Debug, Default)]
pub struct AsciiChart;

impl AsciiChart {
    /// Without histograms.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }

    /// The same.
    #[must_use]
    pub fn add(self, _name: &str, _histogram: Histogram) -> Self {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}
