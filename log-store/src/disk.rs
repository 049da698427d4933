//! The disk as the log store sees it: the one seam between its files and the system, there so that tests can put
//! a disk behind it that crashes, tears, forgets and runs full.
//!
//! ```text
//!   segment, wal, checkpoint, recovery
//!                │  Disk: names and directories       DiskFile: bytes
//!        ┌───────┴────────┬──────────────────┐
//!     RealDisk     recording disk       overlay disk
//!     (rustix)     (crash states)    (power cuts under load)
//! ```
//!
//! # What is durable, and when
//! An implementation that simulates crashes may lose or keep, in any combination, whatever these rules do not name:
//!
//! | done | durable once this returned `Ok` afterwards |
//! | --- | --- |
//! | bytes by [`DiskFile::write_all_at`], a length by it or by [`DiskFile::set_len`] | [`DiskFile::sync`] of any handle of the file |
//! | a file's name: created by [`Disk::open`], moved by [`Disk::rename`], removed | [`Disk::sync_dir`] of its directory (of both, when it moved between two) |
//! | a directory's name: [`Disk::create_dir`], [`Disk::remove_dir`] | [`Disk::sync_dir`] of its parent |
//! | anything on the file system | [`Disk::sync_file_system`] |
//!
//! A rename replaces its target atomically: afterwards the name holds the old file or the new one, each whole as far
//! as it was synced. A write may tear at 512 bytes; the bytes around it stay as they were. An error from a sync says
//! nothing about what reached the disk, and the next sync may succeed without it: the first one is final (durability
//! rule 6). A write beyond the end fills the gap with zeros.

pub mod overlay;

use std::{
    ffi::OsString,
    fmt::Debug,
    fs::{self, File, OpenOptions},
    io::{self, IoSlice, IoSliceMut},
    num::NonZeroU64,
    ops::Range,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use rustix::{
    fs::{FallocateFlags, FlockOperation, OFlags},
    io::{Errno, ReadWriteFlags, retry_on_intr},
};

use crate::sys;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For reading; it must exist.
    Read,
    /// For reading and writing; made when missing, kept when not.
    Write,
    /// For reading and writing; it must exist.
    Existing,
    /// For reading and writing, made empty.
    Replace,
    /// As `Write`, past the page cache where the file system allows it: every position, length and buffer must be a
    /// multiple of [`DIRECT_ALIGNMENT`]. Where it is refused (tmpfs) the handle is an ordinary one.
    Direct,
}

/// Alignment of positions, lengths and buffers of a file opened with [`Access::Direct`].
pub const DIRECT_ALIGNMENT: usize = 4096;

/// What will be done with a range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Start reading it into the page cache.
    WillNeed,
    /// Drop it from the page cache (clean pages only).
    DontNeed,
    /// Reads through this handle, of whatever range, are read ahead of as the system sees fit.
    Normal,
    /// Reads through this handle, of whatever range, come in no order: nothing is read ahead of them.
    Random,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// Its name.
    pub name: OsString,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// A file system; the module's documentation says what survives a crash.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Opens a file.
    ///
    /// # Errors
    /// Those of the system.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>>;

    /// Moves a file or directory, replacing a file of the new name.
    ///
    /// # Errors
    /// Those of the system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name; open handles and maps live on.
    ///
    /// # Errors
    /// Those of the system.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// Those of the system.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes one directory; one that exists is no error.
    ///
    /// # Errors
    /// Those of the system.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// The entries of a directory, sorted by name.
    ///
    /// # Errors
    /// Those of the system.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;

    /// Whether a file or directory of that name exists.
    ///
    /// # Errors
    /// Those of the system.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Makes the names inside a directory durable.
    ///
    /// # Errors
    /// Those of the system.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Makes everything on the file system of `path` durable.
    ///
    /// # Errors
    /// Those of the system.
    fn sync_file_system(&self, path: &Path) -> io::Result<()>;

    /// Bytes that may still be written to the file system of `path`.
    ///
    /// # Errors
    /// Those of the system.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;

    /// Locks a file, making it when missing, until the handle is dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] where another process (or another handle) holds it.
    fn lock(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
}

/// An open file. Every method may be called from several threads at a time.
pub trait DiskFile: Debug + Send + Sync + 'static {
    /// Reads at `position` until `buffer` is full or the file ends; returns the bytes read.
    ///
    /// # Errors
    /// Those of the system.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;

    /// Fills `buffer` from `position` if the page cache holds every byte of it; `false` if the disk would have to be
    /// asked, or the file ends before.
    ///
    /// # Errors
    /// Those of the system.
    fn read_resident_at(&self, buffer: &mut [u8], position: u64) -> io::Result<bool>;

    /// Writes all slices, one behind the other, at `position`. After an error any part of them may be written.
    ///
    /// # Errors
    /// Those of the system.
    fn write_all_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<()>;

    /// Makes bytes and length durable (`fdatasync`).
    ///
    /// # Errors
    /// Those of the system; final, see the module's documentation.
    fn sync(&self) -> io::Result<()>;

    /// Hands what was written in `range` to the disk, and waits until it is there. Makes nothing durable: a sync that follows
    /// has less to do. Where the disk is simulated there is nothing to hand over.
    ///
    /// # Errors
    /// Those of the system; as final as those of [`DiskFile::sync`], which would not see them again.
    fn write_back(&self, range: Range<u64>) -> io::Result<()> {
        let _ = range;
        Ok(())
    }

    /// Has the system begin to hand what was written in `range` to the disk, and waits for nothing: several files are then
    /// on their way together. Takes no error away from a sync.
    ///
    /// # Errors
    /// Those of the system, final as those of [`DiskFile::sync`].
    fn start_write_back(&self, range: Range<u64>) -> io::Result<()> {
        let _ = range;
        Ok(())
    }

    /// Cuts the file, or grows it with zeros.
    ///
    /// # Errors
    /// Those of the system.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Reserves `len` bytes and writes zeros over all of them, so that later writes inside change no metadata.
    /// Durable after [`DiskFile::sync`]. `before_piece` hears of each piece that is about to be written, and may take its time.
    ///
    /// # Errors
    /// Those of the system.
    fn preallocate(&self, len: u64, before_piece: &dyn Fn(u64)) -> io::Result<()>;

    /// The file's length.
    ///
    /// # Errors
    /// Those of the system.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// Those of the system.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// A view of `range`: a read-only map of a real file (it may reach beyond the end, and then shows what is written
    /// there later; a byte that is not in the file must not be touched), or `None` where the disk is simulated and
    /// bytes have to be read.
    ///
    /// # Errors
    /// Those of the system.
    fn map(&self, range: Range<u64>) -> io::Result<Option<Bytes>>;

    /// The descriptor for `sendfile`, where there is one.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;

    /// Tells the system what will be done with a range.
    ///
    /// # Errors
    /// Those of the system.
    fn advise(&self, range: Range<u64>, advice: Advice) -> io::Result<()>;
}

impl dyn DiskFile {
    /// Reads exactly `buffer.len()` bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] where the file ends before; those of the system.
    pub fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let read = self.read_at(buffer, position)?;
        if read < buffer.len() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{read} of {} bytes at {position}", buffer.len()),
            ));
        }
        Ok(())
    }

    /// The whole file.
    ///
    /// # Errors
    /// Those of the system.
    pub fn read_all(&self) -> io::Result<Vec<u8>> {
        let len = usize::try_from(self.len()?).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        let read = self.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    }
}

/// The name under which [`write_file_atomically`] writes before it renames.
pub fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

/// Replaces a file's content so that a crash leaves the old one or the new one, and returns once the new one is
/// durable: temporary file, write, sync, rename, sync of the directory.
///
/// # Errors
/// Those of the system; the old content then still stands, or the new one does.
pub fn write_file_atomically(disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<()> {
    replace_file(disk, path, content, true)?;
    match path.parent() {
        Some(dir) => disk.sync_dir(dir),
        None => Ok(()),
    }
}

/// Replaces a file whose loss costs nothing but the work of making it again (indexes, derived files): as
/// [`write_file_atomically`] without waiting for the disk. After a power cut its content may be anything.
///
/// # Errors
/// Those of the system.
pub fn write_cache_file(disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<()> {
    replace_file(disk, path, content, false)
}

fn replace_file(disk: &dyn Disk, path: &Path, content: &[u8], durable: bool) -> io::Result<()> {
    let temporary = temporary_name(path);
    let file = disk.open(&temporary, Access::Replace)?;
    file.write_all_at(&[IoSlice::new(content)], 0)?;
    if durable {
        file.sync()?;
    }
    disk.rename(&temporary, path)
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// The system's own file systems.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match access {
            Access::Read => {}
            Access::Existing => _ = options.write(true),
            Access::Write | Access::Direct => _ = options.write(true).create(true).truncate(false),
            Access::Replace => _ = options.write(true).create(true).truncate(true),
        }
        // When something was read is of no use to anyone, and noting it is work for the file system's journal.
        let mut flags = OFlags::NOATIME;
        if access == Access::Direct {
            flags |= OFlags::DIRECT;
        }
        loop {
            match options.custom_flags(flags.bits().cast_signed()).open(path) {
                // tmpfs and some network file systems refuse O_DIRECT
                Err(error) if is(&error, Errno::INVAL) && flags.contains(OFlags::DIRECT) => {
                    flags.remove(OFlags::DIRECT);
                }
                // only a file's owner may leave the time alone
                Err(error) if is(&error, Errno::PERM) && flags.contains(OFlags::NOATIME) => {
                    flags.remove(OFlags::NOATIME);
                }
                opened => return Ok(Arc::new(RealFile { file: opened? })),
            }
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            other => other,
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = fs::read_dir(dir)?
            .map(|entry| {
                let entry = entry?;
                Ok(DirEntry { is_dir: entry.file_type()?.is_dir(), name: entry.file_name() })
            })
            .collect::<io::Result<Vec<_>>>()?;
        entries.sort_unstable();
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn sync_file_system(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(path)?)?)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Arc::new(RealFile { file }))
    }
}

/// A file of a real file system.
#[derive(Debug)]
struct RealFile {
    file: File,
}

impl RealFile {
    /// A file system that has no such call writes at the sync.
    fn hand_over(&self, range: &Range<u64>, waits: bool) -> io::Result<()> {
        if range.is_empty() {
            // to the system a length of 0 is the whole file
            return Ok(());
        }
        match sys::write_back(&self.file, range, waits) {
            Err(error) if is(&error, Errno::NOSYS) || is(&error, Errno::SPIPE) => Ok(()),
            written => written,
        }
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], position + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn read_resident_at(&self, buffer: &mut [u8], position: u64) -> io::Result<bool> {
        let wanted = buffer.len();
        let read = retry_on_intr(|| {
            rustix::io::preadv2(&self.file, &mut [IoSliceMut::new(buffer)], position, ReadWriteFlags::NOWAIT)
        });
        match read {
            Ok(read) => Ok(read == wanted),
            // not in the page cache, or a file system that cannot tell: either way nothing may rely on it
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn write_all_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        write_all(slices, position, |slices, position| rustix::io::pwritev(&self.file, slices, position))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(retry_on_intr(|| rustix::fs::fdatasync(&self.file))?)
    }

    fn write_back(&self, range: Range<u64>) -> io::Result<()> {
        self.hand_over(&range, true)
    }

    fn start_write_back(&self, range: Range<u64>) -> io::Result<()> {
        self.hand_over(&range, false)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn preallocate(&self, len: u64, before_piece: &dyn Fn(u64)) -> io::Result<()> {
        match retry_on_intr(|| rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len)) {
            // without fallocate the zeros below reserve the space
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        const PIECE: usize = 256 << 10;
        // an aligned slice of a larger buffer, so that a file opened with O_DIRECT takes it
        let zeros = vec![0_u8; PIECE + DIRECT_ALIGNMENT];
        let start = zeros.as_ptr().align_offset(DIRECT_ALIGNMENT);
        let zeros = &zeros[start..start + PIECE];
        let mut position = 0;
        while position < len {
            let count = usize::try_from(len - position).map_or(PIECE, |left| left.min(PIECE));
            before_piece(count as u64);
            self.write_all_at(&[IoSlice::new(&zeros[..count])], position)?;
            position += count as u64;
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn map(&self, range: Range<u64>) -> io::Result<Option<Bytes>> {
        sys::map(&self.file, range).map(Some)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn advise(&self, range: Range<u64>, advice: Advice) -> io::Result<()> {
        let Some(len) = NonZeroU64::new(range.end.saturating_sub(range.start)) else { return Ok(()) };
        let advice = match advice {
            Advice::WillNeed => rustix::fs::Advice::WillNeed,
            Advice::DontNeed => rustix::fs::Advice::DontNeed,
            Advice::Normal => rustix::fs::Advice::Normal,
            Advice::Random => rustix::fs::Advice::Random,
        };
        Ok(rustix::fs::fadvise(&self.file, range.start, Some(len), advice)?)
    }
}

/// Most slices that one call may carry (Linux: `UIO_MAXIOV`).
const MAX_SLICES: usize = 1024;

/// Hands `slices` to `write` until every byte is taken, whatever it takes at a time.
fn write_all(
    slices: &[IoSlice<'_>],
    mut position: u64,
    mut write: impl FnMut(&[IoSlice<'_>], u64) -> rustix::io::Result<usize>,
) -> io::Result<()> {
    let mut buffers: Vec<IoSlice<'_>>;
    let mut left = slices;
    loop {
        left = match left.iter().position(|slice| !slice.is_empty()) {
            Some(first) => &left[first..],
            None => return Ok(()),
        };
        let taken = match write(&left[..left.len().min(MAX_SLICES)], position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => taken,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        position += taken as u64;
        let mut taken = taken;
        let mut whole = 0;
        while whole < left.len() && taken >= left[whole].len() {
            taken -= left[whole].len();
            whole += 1;
        }
        if taken == 0 {
            left = &left[whole..];
            continue;
        }
        // a short write ended inside a slice: go on with what is left of it, on the slow path
        buffers = left[whole..].iter().map(|slice| IoSlice::new(slice)).collect();
        let mut rest = &mut buffers[..];
        IoSlice::advance_slices(&mut rest, taken);
        return write_rest(rest, position, write);
    }
}

/// [`write_all`] once a write was short: the slices are our own and may be advanced.
fn write_rest(
    mut slices: &mut [IoSlice<'_>],
    mut position: u64,
    mut write: impl FnMut(&[IoSlice<'_>], u64) -> rustix::io::Result<usize>,
) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match write(&slices[..slices.len().min(MAX_SLICES)], position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => {
                position += taken as u64;
                IoSlice::advance_slices(&mut slices, taken);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file in memory that takes at most `limit` bytes a call and is interrupted before every other one.
    fn write_in_pieces(slices: &[IoSlice<'_>], limit: usize) -> Vec<u8> {
        let mut file = vec![0xAA; 7];
        let mut calls = 0;
        write_all(slices, 7, |slices, position| {
            calls += 1;
            if calls % 2 == 1 {
                return Err(Errno::INTR);
            }
            assert!(slices.len() <= MAX_SLICES);
            assert_eq!(position, file.len() as u64);
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(limit).collect();
            file.extend_from_slice(&bytes);
            Ok(bytes.len())
        })
        .unwrap();
        file.split_off(7)
    }

    /// Proves: fault D07.
    #[test]
    fn short_and_interrupted_writes_are_continued() {
        let parts: Vec<Vec<u8>> = (0_u8..40).map(|i| vec![i; usize::from(i) % 7]).collect();
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let expected = parts.concat();
        for limit in 1..=expected.len() + 1 {
            assert_eq!(write_in_pieces(&slices, limit), expected, "at most {limit} bytes a call");
        }
    }

    #[test]
    fn more_slices_than_one_call_takes() {
        let parts: Vec<[u8; 2]> = (0..2 * MAX_SLICES + 3).map(|i| [(i % 251) as u8, (i % 7) as u8]).collect();
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        for limit in [3, 1000, usize::MAX] {
            assert_eq!(write_in_pieces(&slices, limit), parts.concat());
        }
    }

    #[test]
    fn a_full_disk_is_an_error_and_no_endless_loop() {
        let error = write_all(&[IoSlice::new(b"abc")], 0, |_, _| Ok(0)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
        let error = write_all(&[IoSlice::new(b"abc")], 0, |_, _| Err(Errno::NOSPC)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        write_file_atomically(&RealDisk, &path, b"a longer content").unwrap();
        fs::write(temporary_name(&path), b"left over from a crash, and longer than the next content")
            .unwrap();
        write_file_atomically(&RealDisk, &path, b"short").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        assert_eq!(RealDisk.list(dir.path()).unwrap().len(), 1);
    }

    #[test]
    fn direct_files_take_aligned_writes_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.wal");
        let file = RealDisk.open(&path, Access::Direct).unwrap();
        let pieces = std::cell::Cell::new(0);
        file.preallocate((3 << 20) + 4096, &|piece| pieces.set(pieces.get() + piece)).unwrap();
        assert_eq!(pieces.get(), (3 << 20) + 4096);
        file.sync().unwrap();
        assert_eq!(file.len().unwrap(), (3 << 20) + 4096);
        let buffer = vec![7_u8; 2 * DIRECT_ALIGNMENT];
        let start = buffer.as_ptr().align_offset(DIRECT_ALIGNMENT);
        file.write_all_at(&[IoSlice::new(&buffer[start..start + DIRECT_ALIGNMENT])], 8192).unwrap();
        file.sync().unwrap();
        let all = RealDisk.open(&path, Access::Read).unwrap().read_all().unwrap();
        assert_eq!(all.len(), (3 << 20) + 4096);
        assert_eq!(all.iter().filter(|byte| **byte == 7).count(), DIRECT_ALIGNMENT);
        assert!(all[8192..8192 + DIRECT_ALIGNMENT].iter().all(|byte| *byte == 7));
    }

    #[test]
    fn a_lock_is_held_until_its_handle_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta.toml");
        let lock = RealDisk.lock(&path).unwrap();
        assert_eq!(RealDisk.lock(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        RealDisk.lock(&path).unwrap();
    }

    #[test]
    fn what_was_just_written_is_resident() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&dir.path().join("a"), Access::Write).unwrap();
        file.write_all_at(&[IoSlice::new(b"0123456789")], 0).unwrap();
        let mut buffer = [0; 4];
        // some file systems cannot tell; they must then say no rather than fail
        if file.read_resident_at(&mut buffer, 3).unwrap() {
            assert_eq!(&buffer, b"3456");
        }
        assert!(!file.read_resident_at(&mut buffer, 8).unwrap(), "the file ends inside");
    }
}
