//! What the system offers in C alone: maps of log files, pages, the handler of SIGBUS, writing back; and the only `unsafe`
//! code of the project.
//!
//! A map gives out [`Bytes`] that keep it alive: whoever holds a slice holds the pages behind it, also when the file's
//! name is gone. Unlinking a mapped file is safe on Linux; cutting it is not. Hence the rule that makes this module
//! sound: **a byte that was handed out of a map is never cut off its file**. Slices are taken of committed bytes alone,
//! and a file of ours is only ever cut above its committed end.

#![expect(unsafe_code, reason = "calls of the system; all unsafe code of the project is in this file")]

use std::{
    alloc::{Layout, handle_alloc_error},
    fs::File,
    io,
    mem::MaybeUninit,
    ops::Range,
    os::fd::AsRawFd,
    ptr,
};

use bytes::Bytes;
use memmap2::{Advice, Mmap, MmapMut, MmapOptions};
use rustix::{
    fs::{Mode, OFlags},
    io::retry_on_intr,
};

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

/// The usual size of a huge page.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// Zeroed memory that begins with a page and is resident as far as it is used: in huge pages, where it is that large and
/// the system has them. A direct write takes its memory page by page, and so is the cheaper the larger they are.
pub(crate) fn pages(bytes: usize) -> MmapMut {
    let Ok(pages) = MmapMut::map_anon(bytes) else {
        handle_alloc_error(Layout::array::<u8>(bytes).unwrap_or(Layout::new::<u8>()));
    };
    if bytes >= HUGE_PAGE {
        // without them it is slower, and that is all
        let _ = pages.advise(Advice::HugePage);
    }
    pages
}

/// Has the dirty pages of `range` written to the disk, and may wait for it. Makes nothing durable.
pub(crate) fn write_back(file: &File, range: &Range<u64>, waits: bool) -> io::Result<()> {
    let offset = libc::off64_t::try_from(range.start).map_err(io::Error::other)?;
    let len = libc::off64_t::try_from(range.end - range.start).map_err(io::Error::other)?;
    let waiting = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let flags = libc::SYNC_FILE_RANGE_WRITE | if waits { waiting } else { 0 };
    // SAFETY: the call takes numbers alone, and the descriptor is open for as long as `file` is borrowed.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// From here on, a touch of a mapped byte that is no longer in its file (somebody cut it, or the disk cannot read it) ends
/// the process with a line on standard error that names the file. Without this it ends as well, and says nothing.
pub fn name_file_on_sigbus() {
    // SAFETY: an all-zero `sigaction` is a valid one: no flags, no mask, the default action.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = on_sigbus as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
    // SAFETY: the action is initialised, and its handler has the signature that SA_SIGINFO asks for. The handler allocates
    // nothing, takes no lock and makes system calls alone, so it may run at any instruction; it does not return.
    let failed = unsafe { libc::sigaction(libc::SIGBUS, &action, ptr::null_mut()) } != 0;
    if failed {
        tracing::warn!(error = %io::Error::last_os_error(), "SIGBUS will not name the file");
    }
}

extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid `siginfo_t`, which for SIGBUS carries an address.
    let address = unsafe { (*info).si_addr() } as usize;
    let mut line = [0; 512];
    let len = mapping_of(address, &mut line);
    say(b"SIGBUS: a byte of a mapped file cannot be read (the file was cut by somebody else, or the disk fails): ");
    say(if len == 0 { b"no file is mapped there" } else { &line[..len] });
    say(b"\naborting; what was acknowledged is on the disk, unless it was in the part that is gone\n");
    std::process::abort();
}

fn say(text: &[u8]) {
    // SAFETY: the pointer and the length are those of a slice that lives through the call. There is nobody left to be told
    // of an error.
    let _ = unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
}

/// Finds the line of `/proc/self/maps` that covers an address; its length. Made for a signal handler.
fn mapping_of(address: usize, line: &mut [u8; 512]) -> usize {
    let Ok(maps) = rustix::fs::open(c"/proc/self/maps", OFlags::RDONLY, Mode::empty()) else { return 0 };
    let mut piece = [0_u8; 1024];
    let mut len = 0;
    loop {
        let read = match retry_on_intr(|| rustix::io::read(&maps, &mut piece)) {
            Ok(0) | Err(_) => return 0,
            Ok(read) => read,
        };
        for byte in &piece[..read] {
            if *byte == b'\n' {
                if covers(&line[..len], address) {
                    return len;
                }
                len = 0;
            } else if len < line.len() {
                line[len] = *byte;
                len += 1;
            }
        }
    }
}

/// Whether a line of `/proc/self/maps` (`start-end ...`, hexadecimal) covers an address.
fn covers(line: &[u8], address: usize) -> bool {
    let mut bounds = [0_usize; 2];
    let mut at = 0;
    for byte in line {
        match (byte, char::from(*byte).to_digit(16)) {
            (b'-', _) => at = 1,
            (_, Some(digit)) => bounds[at] = bounds[at].wrapping_mul(16).wrapping_add(digit as usize),
            _ => break,
        }
    }
    (bounds[0]..bounds[1]).contains(&address)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        os::unix::{fs::FileExt, process::ExitStatusExt},
        process::Command,
    };

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

    const VICTIM: &str = "ALLUVIUM_TEST_SIGBUS_FILE";

    /// Run by the test below in a process of its own, which does not survive it.
    #[test]
    fn a_process_that_touches_a_cut_byte() {
        let Some(path) = std::env::var_os(VICTIM) else { return };
        name_file_on_sigbus();
        let file = File::options().read(true).write(true).open(path).unwrap();
        let bytes = map(&file, 0..1 << 16).unwrap();
        assert_eq!(bytes[40_000], 7);
        file.set_len(10).unwrap();
        std::hint::black_box(bytes[40_000]);
    }

    /// Proves: fault D14 (the abort names the file).
    #[test]
    fn a_cut_file_ends_the_process_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("00000000000000000042.log");
        std::fs::write(&path, vec![7; 1 << 16]).unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "sys::tests::a_process_that_touches_a_cut_byte"])
            .env(VICTIM, &path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{said}");
        assert!(said.contains("SIGBUS") && said.contains("00000000000000000042.log"), "{said}");
    }

    #[test]
    fn lines_of_maps_are_understood() {
        let line = b"7f00a000-7f00c000 r--s 00000000 fe:00 123 /data/t-0/0.log";
        assert!(covers(line, 0x7f00_a000) && covers(line, 0x7f00_bfff));
        assert!(!covers(line, 0x7f00_c000) && !covers(line, 0x7f00_9fff) && !covers(b"", 0));
        let here = 0_u8;
        let mut line = [0; 512];
        assert!(mapping_of(&raw const here as usize, &mut line) > 0);
    }
}
