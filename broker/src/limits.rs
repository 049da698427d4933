//! What the operating system allows this process: raised as far as it goes at start, then divided up, so that a limit
//! is met when topics are created, in words, and not at run time.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors kept for everything that is no partition and no client: the write-ahead log, indexes being written,
/// sealed segments being read, the admin port.
const OWN_DESCRIPTORS: u64 = 512;
/// Maps kept for the process itself.
const OWN_MAPS: u64 = 4_096;

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

    /// Most partitions that may be open: one descriptor and one map each; a quarter of the descriptors is the clients'.
    pub fn partitions(&self) -> u64 {
        let by_descriptors = (self.descriptors / 4 * 3).saturating_sub(OWN_DESCRIPTORS);
        by_descriptors.min(self.maps.saturating_sub(OWN_MAPS))
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
        assert_eq!(limits.partitions(), 14_488);
        assert!(limits.allow_partitions(10_000, 4_488).is_ok());
        let words = limits.allow_partitions(10_000, 4_489).unwrap_err();
        assert!(words.contains("ulimit -n") && words.contains("14488 partitions at most"), "{words}");
        assert_eq!(Limits { descriptors: 1 << 20, maps: 65_530 }.partitions(), 61_434);
        assert!(limits.allow_partitions(u64::MAX, 1).is_err());
    }

    #[test]
    fn raising_reaches_the_hard_limit() {
        let limits = Limits::raise();
        assert_eq!(getrlimit(Resource::Nofile).current, getrlimit(Resource::Nofile).maximum);
        assert!(limits.descriptors > 0 && limits.maps > 0);
    }
}
