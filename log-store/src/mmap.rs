//! Read-only maps of log files, and the only `unsafe` code of the project.
//!
//! A map gives out [`Bytes`] that keep it alive: whoever holds a slice holds the pages behind it, also when the file's
//! name is gone. Unlinking a mapped file is safe on Linux; cutting it is not. Hence the rule that makes this module
//! sound: **a byte that was handed out of a map is never cut off its file**. Slices are taken of committed bytes alone,
//! and a file of ours is only ever cut above its committed end (DESIGN 3.6).

#![expect(unsafe_code, reason = "memory maps; STYLE 1.6 keeps all unsafe code in this file")]

use std::{fs::File, io, ops::Range};

use bytes::Bytes;
use memmap2::{Advice, Mmap, MmapOptions};

/// A map as an owner of bytes.
struct MappedRange(Mmap);

impl AsRef<[u8]> for MappedRange {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Maps `range` of `file` for reading, whether or not the file already reaches that far: what is written there later
/// becomes visible. A byte beyond the file's end must not be touched (SIGBUS).
pub(crate) fn map(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let len = usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
    if len == 0 {
        return Ok(Bytes::new());
    }
    let mut options = MmapOptions::new();
    options.offset(range.start).len(len);
    // SAFETY: the map is read-only, and so are all references into it. Bytes below the file's committed end are
    // immutable: they are written once, before any slice of them is taken, and never cut or written again with other
    // content. Bytes above it may change or be missing; `Bytes` of them are never handed out or read (the callers in
    // `segment` slice by positions that `log` knows to be written and committed). Another process that truncates our
    // files is kept away by the lock on the data directory; if one does so all the same, the process is killed by
    // SIGBUS and no wrong byte is served.
    let map = unsafe { options.map(file)? };
    // A fault reads the page that is needed, not a window of megabytes around it.
    map.advise(Advice::Random)?;
    Ok(Bytes::from_owner(MappedRange(map)))
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::FileExt};

    use super::*;

    #[test]
    fn a_map_shows_what_is_written_later_and_outlives_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("00000000000000000000.log");
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.write_all(b"0123456789").unwrap();
        let bytes = map(&file, 0..1 << 20).unwrap();
        assert_eq!(&bytes[..10], b"0123456789");
        file.write_all_at(b"abc", 10).unwrap();
        let slice = bytes.slice(8..13);
        drop(bytes);
        std::fs::remove_file(&path).unwrap();
        drop(file);
        assert_eq!(&slice[..], b"89abc");
    }
}
