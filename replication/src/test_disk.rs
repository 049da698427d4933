//! A disk for tests: the real one (or one over it), with syncs that can be held, writes that can fail, and a record of what happened
//! in which order (test only).

use std::{
    io::{self, IoSlice},
    ops::Range,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard},
};

use bytes::Bytes;
use log_store::disk::{Access, Advice, DirEntry, Disk, DiskFile, RealDisk};

use crate::lock;

/// Something that was done to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Wrote(PathBuf),
    WroteBack(PathBuf, Range<u64>),
    Synced(PathBuf),
    Cut(PathBuf),
    Removed(PathBuf),
}

#[derive(Debug, Default)]
struct Rules {
    /// Syncs of files that end so wait.
    held: Option<&'static str>,
    /// So many of them go on all the same.
    passes: usize,
    /// How many wait.
    waiting: usize,
    /// Writes to files that end so fail with this, behind so many that do not.
    failing_writes: Option<(&'static str, io::ErrorKind, usize)>,
    /// How many writes failed so.
    refused_writes: usize,
    /// Reads of files that end so fail.
    failing_reads: Option<&'static str>,
    /// Syncs of files that end so fail once, and succeed afterwards.
    failing_sync: Option<&'static str>,
    /// Nothing can be reserved for files that end so.
    failing_reservations: Option<&'static str>,
    /// No directory can be made.
    failing_dirs: bool,
    /// Nothing can be renamed to a name that ends so.
    failing_renames: Option<&'static str>,
    free: Option<u64>,
    /// Writes to the write-ahead log since the last sync of their file: file, position, bytes.
    unsynced: Vec<(PathBuf, u64, Vec<u8>)>,
    events: Vec<Event>,
}

#[derive(Debug, Default)]
struct Shared {
    rules: Mutex<Rules>,
    changed: Condvar,
    /// Held by each change while it goes on, and by whoever looks at the disk as of one instant. Taken before `rules`.
    changing: RwLock<()>,
}

impl Shared {
    fn change(&self) -> RwLockReadGuard<'_, ()> {
        self.changing.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The disk.
#[derive(Clone, Debug)]
pub(crate) struct TestDisk {
    disk: Arc<dyn Disk>,
    shared: Arc<Shared>,
}

impl Default for TestDisk {
    fn default() -> Self {
        Self::over(Arc::new(RealDisk))
    }
}

impl TestDisk {
    pub(crate) fn over(disk: Arc<dyn Disk>) -> Self {
        Self { disk, shared: Arc::default() }
    }

    /// Lets one held sync go on; returns once it does.
    pub(crate) fn let_one_pass(&self) {
        let mut rules = lock(&self.shared.rules);
        rules.passes += 1;
        self.shared.changed.notify_all();
        while rules.passes > 0 {
            rules = self.shared.changed.wait(rules).unwrap();
        }
    }

    /// Looks at the disk while nothing on it changes, as a power cut does. A sync that is held has changed nothing yet.
    pub(crate) fn at_one_instant<R>(&self, look: impl FnOnce() -> R) -> R {
        let _nothing_changes = self.shared.changing.write().unwrap_or_else(PoisonError::into_inner);
        look()
    }

    /// Writes to the write-ahead log that no sync followed.
    pub(crate) fn unsynced(&self) -> Vec<(PathBuf, u64, Vec<u8>)> {
        lock(&self.shared.rules).unsynced.clone()
    }

    /// Syncs of files that end so wait from now on.
    pub(crate) fn hold_syncs(&self, suffix: &'static str) {
        lock(&self.shared.rules).held = Some(suffix);
    }

    /// Waits until a sync waits.
    pub(crate) fn await_held_sync(&self) {
        let mut rules = lock(&self.shared.rules);
        while rules.waiting == 0 {
            rules = self.shared.changed.wait(rules).unwrap();
        }
    }

    /// Lets them go on.
    pub(crate) fn release_syncs(&self) {
        lock(&self.shared.rules).held = None;
        self.shared.changed.notify_all();
    }

    /// Writes to files that end so fail from now on.
    pub(crate) fn fail_writes(&self, suffix: &'static str, kind: io::ErrorKind) {
        self.fail_writes_behind(0, suffix, kind);
    }

    /// So many writes to files that end so succeed, and those that follow fail.
    pub(crate) fn fail_writes_behind(&self, writes: usize, suffix: &'static str, kind: io::ErrorKind) {
        lock(&self.shared.rules).failing_writes = Some((suffix, kind, writes));
    }

    /// How many writes failed so far.
    pub(crate) fn refused_writes(&self) -> usize {
        lock(&self.shared.rules).refused_writes
    }

    /// Reads of files that end so fail from now on.
    pub(crate) fn fail_reads(&self, suffix: &'static str) {
        lock(&self.shared.rules).failing_reads = Some(suffix);
    }

    /// Writes succeed again.
    pub(crate) fn heal_writes(&self) {
        lock(&self.shared.rules).failing_writes = None;
    }

    /// The next sync of a file that ends so fails.
    pub(crate) fn fail_next_sync(&self, suffix: &'static str) {
        lock(&self.shared.rules).failing_sync = Some(suffix);
    }

    /// Whether something can be reserved for files that end so.
    pub(crate) fn fail_reservations(&self, suffix: Option<&'static str>) {
        lock(&self.shared.rules).failing_reservations = suffix;
    }

    /// Whether directories can be made.
    pub(crate) fn fail_dirs(&self, fail: bool) {
        lock(&self.shared.rules).failing_dirs = fail;
    }

    /// Renames to a name that ends so fail from now on.
    pub(crate) fn fail_renames(&self, suffix: Option<&'static str>) {
        lock(&self.shared.rules).failing_renames = suffix;
    }

    /// So much is free, whatever the real disk says.
    pub(crate) fn set_free(&self, free: u64) {
        lock(&self.shared.rules).free = Some(free);
    }

    /// What happened since it was asked last.
    pub(crate) fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut lock(&self.shared.rules).events)
    }
}

fn ends_with(path: &Path, suffix: &str) -> bool {
    path.to_string_lossy().ends_with(suffix)
}

impl Disk for TestDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let _change = self.shared.change();
        let file = self.disk.open(path, access)?;
        Ok(Arc::new(TestFile { file, path: path.to_owned(), shared: Arc::clone(&self.shared) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let _change = self.shared.change();
        if lock(&self.shared.rules).failing_renames.is_some_and(|suffix| ends_with(to, suffix)) {
            return Err(io::Error::other("planted"));
        }
        self.disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let _change = self.shared.change();
        lock(&self.shared.rules).events.push(Event::Removed(path.to_owned()));
        self.disk.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let _change = self.shared.change();
        self.disk.remove_dir(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let _change = self.shared.change();
        if lock(&self.shared.rules).failing_dirs {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.disk.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.list(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let _change = self.shared.change();
        self.disk.sync_dir(dir)
    }

    fn sync_file_system(&self, path: &Path) -> io::Result<()> {
        let _change = self.shared.change();
        self.disk.sync_file_system(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        match lock(&self.shared.rules).free {
            Some(free) => Ok(free),
            None => self.disk.free_bytes(path),
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let _change = self.shared.change();
        self.disk.lock(path)
    }
}

#[derive(Debug)]
struct TestFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    shared: Arc<Shared>,
}

impl TestFile {
    fn check_read(&self) -> io::Result<()> {
        match lock(&self.shared.rules).failing_reads.is_some_and(|suffix| ends_with(&self.path, suffix)) {
            true => Err(io::Error::other("planted")),
            false => Ok(()),
        }
    }
}

impl DiskFile for TestFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.check_read()?;
        self.file.read_at(buffer, position)
    }

    fn read_resident_at(&self, buffer: &mut [u8], position: u64) -> io::Result<bool> {
        self.file.read_resident_at(buffer, position)
    }

    fn write_all_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        let _change = self.shared.change();
        {
            let mut rules = lock(&self.shared.rules);
            if let Some((suffix, kind, behind)) = &mut rules.failing_writes
                && ends_with(&self.path, suffix)
            {
                match behind.checked_sub(1) {
                    Some(rest) => *behind = rest,
                    None => {
                        let error = io::Error::from(*kind);
                        rules.refused_writes += 1;
                        return Err(error);
                    }
                }
            }
            rules.events.push(Event::Wrote(self.path.clone()));
            if ends_with(&self.path, ".wal") {
                let bytes = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                rules.unsynced.push((self.path.clone(), position, bytes));
            }
        }
        self.file.write_all_at(slices, position)
    }

    fn sync(&self) -> io::Result<()> {
        let mut rules = lock(&self.shared.rules);
        while rules.held.is_some_and(|suffix| ends_with(&self.path, suffix)) {
            rules.waiting += 1;
            self.shared.changed.notify_all();
            while rules.passes == 0 && rules.held.is_some() {
                rules = self.shared.changed.wait(rules).unwrap();
            }
            rules.waiting -= 1;
            if rules.passes > 0 {
                rules.passes -= 1;
                self.shared.changed.notify_all();
                break;
            }
        }
        if rules.failing_sync.is_some_and(|suffix| ends_with(&self.path, suffix)) {
            rules.failing_sync = None;
            return Err(io::Error::other("planted"));
        }
        drop(rules);
        let _change = self.shared.change();
        self.file.sync()?;
        let mut rules = lock(&self.shared.rules);
        rules.events.push(Event::Synced(self.path.clone()));
        rules.unsynced.retain(|(path, ..)| *path != self.path);
        Ok(())
    }

    fn write_back(&self, range: Range<u64>) -> io::Result<()> {
        lock(&self.shared.rules).events.push(Event::WroteBack(self.path.clone(), range.clone()));
        self.file.write_back(range)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let _change = self.shared.change();
        lock(&self.shared.rules).events.push(Event::Cut(self.path.clone()));
        self.file.set_len(len)
    }

    fn preallocate(&self, len: u64, before_piece: &dyn Fn(u64)) -> io::Result<()> {
        let _change = self.shared.change();
        if lock(&self.shared.rules).failing_reservations.is_some_and(|suffix| ends_with(&self.path, suffix)) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.file.preallocate(len, before_piece)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn map(&self, range: Range<u64>) -> io::Result<Option<Bytes>> {
        self.check_read()?;
        self.file.map(range)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.descriptor()
    }

    fn advise(&self, range: Range<u64>, advice: Advice) -> io::Result<()> {
        self.file.advise(range, advice)
    }
}
