//! What the operating system allows this process: raised as far as it goes at start, then divided up, so that a limit
//! is met when topics are created, in words, and not at run time.

use log_store::segment::MAP_WINDOWS;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors kept for everything that is no segment and no client: the write-ahead log, indexes being written, segments that
/// are being closed, the admin port.
const OWN_DESCRIPTORS: u64 = 512;
/// Maps kept for the process itself.
const OWN_MAPS: u64 = 4_096;
/// Closed segments that are kept open for reading, where the descriptors are many.
const OPEN_SEGMENTS: u64 = 4_096;

/// What one process may have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open descriptors.
    pub descriptors: u64,
    /// Maps.
    pub maps: u64,
}

impl Limits {
    /// Raises the soft limit of descriptors to the hard one, and reads what results.
    pub fn raise() -> Self {
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        let current = match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit.maximum,
            Err(_) => limit.current,
        };
        let maps = std::fs::read_to_string("/proc/sys/vm/max_map_count")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(65_530);
        Self { descriptors: current.unwrap_or(u64::from(u32::MAX)), maps }
    }

    /// Most partitions that may be open. Each has one segment open for writing, beside the closed ones that are read; a quarter
    /// of the descriptors is the clients'.
    pub fn partitions(&self) -> u64 {
        let by_descriptors = (self.descriptors / 4 * 3).saturating_sub(OWN_DESCRIPTORS);
        let by_maps = self.maps.saturating_sub(OWN_MAPS) / MAP_WINDOWS as u64;
        by_descriptors.min(by_maps).saturating_sub(self.open_segments())
    }

    /// Closed segments that are kept open for reading, at most.
    pub fn open_segments(&self) -> u64 {
        (self.descriptors / 8).min(OPEN_SEGMENTS)
    }

    /// Most connections of clients.
    pub fn connections(&self) -> u64 {
        (self.descriptors / 4).max(16)
    }

    /// Whether `more` partitions may join `open` ones; if not, why, and what to raise.
    ///
    /// # Errors
    /// The words for the user.
    pub fn allow_partitions(&self, open: u64, more: u64) -> Result<(), String> {
        let most = self.partitions();
        if open.saturating_add(more) <= most {
            return Ok(());
        }
        Err(format!(
            "{more} more partitions beside {open} would need more than the {} descriptors and {} maps of this process \
             ({most} partitions at most); raise `ulimit -n` and `vm.max_map_count`, or add a node",
            self.descriptors, self.maps
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_stop_at_the_nearer_limit_and_say_what_to_raise() {
        let limits = Limits { descriptors: 20_000, maps: 65_530 };
        assert_eq!(limits.partitions(), 11_988);
        assert!(limits.allow_partitions(10_000, 1_988).is_ok());
        let words = limits.allow_partitions(10_000, 1_989).unwrap_err();
        assert!(words.contains("ulimit -n") && words.contains("11988 partitions at most"), "{words}");
        assert_eq!(Limits { descriptors: 1 << 20, maps: 65_530 }.partitions(), 26_621);
        assert!(limits.allow_partitions(u64::MAX, 1).is_err());
    }

    #[test]
    fn all_that_may_be_open_keeps_within_the_limits() {
        for descriptors in [64, 256, 1_024, 20_000, 1 << 20] {
            for maps in [1_000, 65_530, 1 << 20] {
                let limits = Limits { descriptors, maps };
                let files = limits.partitions() + limits.open_segments();
                let own = if limits.partitions() > 0 { OWN_DESCRIPTORS } else { 0 };
                assert!(files + limits.connections() + own <= descriptors, "{limits:?}");
                assert!(limits.partitions() == 0 || 2 * files + OWN_MAPS <= maps, "{limits:?}");
            }
        }
    }

    #[test]
    fn raising_reaches_the_hard_limit() {
        let limits = Limits::raise();
        assert_eq!(getrlimit(Resource::Nofile).current, getrlimit(Resource::Nofile).maximum);
        assert!(limits.descriptors > 0 && limits.maps > 0);
    }
}
