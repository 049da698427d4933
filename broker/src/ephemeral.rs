//! Temporary data directories of `--ephemeral`: removed at the end, and by the next start where the end never came.
//!
//! ```text
//! <tmp>/alluvium-ephemeral-<random>/lock    flock held while its server lives; who gets it may remove the directory
//!                                   data/   the data directory
//! ```

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use crate::clock::entropy;

const PREFIX: &str = "alluvium-ephemeral-";

/// A temporary data directory; dropping it removes it.
#[derive(Debug)]
pub struct Ephemeral {
    directory: PathBuf,
    _lock: File,
}

impl Ephemeral {
    /// Makes one in `parent`, after removing those that nobody holds any more.
    ///
    /// # Errors
    /// The system's.
    pub fn create(parent: &Path) -> io::Result<Self> {
        remove_leftovers(parent);
        loop {
            let directory = parent.join(format!("{PREFIX}{:016x}", entropy()));
            std::fs::create_dir_all(&directory)?;
            let path = directory.join("lock");
            let lock = File::create(&path)?;
            // Somebody who cleans up may have been quicker with the lock, or with the directory.
            let ours = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
                && std::fs::metadata(&path).is_ok_and(|named| {
                    lock.metadata().is_ok_and(|held| (held.dev(), held.ino()) == (named.dev(), named.ino()))
                });
            if ours {
                std::fs::create_dir(directory.join("data"))?;
                return Ok(Self { directory, _lock: lock });
            }
        }
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }
}

impl Drop for Ephemeral {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            tracing::warn!(directory = %self.directory.display(), "could not remove the temporary directory: {error}");
        }
    }
}

/// Removes what killed servers left behind. Whatever fails is another's, or the next start's.
fn remove_leftovers(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(lock) = File::open(entry.path().join("lock")) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_directory_stays_and_an_abandoned_one_goes() {
        let parent = tempfile::tempdir().unwrap();
        let living = Ephemeral::create(parent.path()).unwrap();
        std::fs::write(living.data_dir().join("x"), "x").unwrap();
        let abandoned = parent.path().join(format!("{PREFIX}0"));
        std::fs::create_dir(&abandoned).unwrap();
        std::fs::write(abandoned.join("lock"), "").unwrap();
        let foreign = parent.path().join("something-else");
        std::fs::create_dir(&foreign).unwrap();
        let second = Ephemeral::create(parent.path()).unwrap();
        assert!(!abandoned.exists() && foreign.exists() && living.data_dir().join("x").exists());
        let directory = second.directory.clone();
        drop(second);
        assert!(!directory.exists());
    }
}
