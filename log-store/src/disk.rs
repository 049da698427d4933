//! The disk as the log store sees it: the seam that tests replace.

/// A file system.
pub trait Disk: std::fmt::Debug + Send + Sync + 'static {}
