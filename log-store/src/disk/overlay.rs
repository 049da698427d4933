//! A disk that behaves like one at which the power is cut whenever the process is killed: what was not synced is kept in
//! memory and reaches the real files only by a sync. For crash runs of the real broker; never used otherwise.
//!
//! ```text
//!   write, set_len ---> pages and length of the file, in memory --sync------> real file
//!   make, rename, remove -> names of the directory, in memory ---sync_dir--> real names
//! ```
//! Write-back may happen at any time and in any order, so with a seed some pages, sectors of pages, lengths and names reach
//! the real files at once: then a kill leaves a random part of what was not synced. Names arrive in the order in which they
//! were changed, as a journal has them; that each may come alone is for the enumeration of crash states. A file whose name is not durable yet keeps what was synced of it in memory, for on a real
//! disk too it would be there but nowhere to be found. Syncs of the system are left out: a killed process does not lose
//! the page cache, so they would only cost time.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io::{self, IoSlice},
    ops::Range,
    os::{fd::BorrowedFd, unix::fs::FileExt},
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use bytes::Bytes;

use super::{Access, Advice, DirEntry, Disk, DiskFile, RealDisk};

const PAGE: u64 = 4096;
/// What a disk writes whole.
const SECTOR: usize = 512;

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OverlayFaults {
    /// Lets some of what was written, chosen from this seed, reach the disk before any sync; 0 keeps all of it back.
    pub write_back_seed: u64,
    /// This sync, counted from 1 over the life of the process, fails once and loses what it should have written.
    pub fail_sync: Option<u64>,
    /// This one, counted alike, succeeds and takes [`SLOW_SYNC`].
    pub slow_sync: Option<u64>,
}

/// What a slow sync takes.
pub const SLOW_SYNC: Duration = Duration::from_secs(2);

impl OverlayFaults {
    /// Reads `seed=7,fail-sync=40,slow-sync=20`; each may be left out.
    ///
    /// # Errors
    /// What does not fit.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut faults = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| format!("'{part}' is no name=number"))?;
            let number = value.parse().map_err(|_| format!("'{value}' is no number"))?;
            match name {
                "seed" => faults.write_back_seed = number,
                "fail-sync" => faults.fail_sync = Some(number),
                "slow-sync" => faults.slow_sync = Some(number),
                _ => return Err(format!("'{name}' is neither seed, fail-sync nor slow-sync")),
            }
        }
        Ok(faults)
    }
}

type NodeId = usize;
type Names = BTreeMap<OsString, NodeId>;

#[derive(Debug)]
enum Node {
    File(FileNode),
    /// The names that the process sees.
    Dir(Names),
}

#[derive(Debug, Default)]
struct FileNode {
    real: Option<Arc<File>>,
    /// What was synced of a file that has no durable name.
    unnamed: Vec<u8>,
    len: u64,
    /// Up to here the durable bytes hold; behind it the file was cut since, and shows zeros.
    valid: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

#[derive(Debug)]
enum NameChange {
    Link(NodeId, OsString, NodeId),
    Unlink(NodeId, OsString, NodeId),
    /// Directory before, directory and name after, what was moved.
    Rename(NodeId, NodeId, OsString, NodeId),
}

#[derive(Debug)]
struct State {
    nodes: Vec<Node>,
    /// Directory and name of each node on the real disk, once durable.
    places: Vec<Option<(NodeId, OsString)>>,
    changes: Vec<NameChange>,
    /// Synced names in directories whose own names are not durable yet.
    unreachable: Vec<NameChange>,
    random: u64,
    syncs: u64,
    faults: OverlayFaults,
}

/// The disk; what it holds back is lost with the process.
#[derive(Clone, Debug)]
pub struct OverlayDisk {
    state: Arc<Mutex<State>>,
}

impl OverlayDisk {
    /// The system's files as they are now, and nothing held back.
    pub fn new(faults: OverlayFaults) -> Self {
        let state = State {
            nodes: vec![Node::Dir(Names::new())],
            places: vec![None],
            changes: Vec::new(),
            unreachable: Vec::new(),
            random: faults.write_back_seed,
            syncs: 0,
            faults,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    fn find(&mut self, path: &Path) -> io::Result<NodeId> {
        let absolute = std::path::absolute(path)?;
        let mut at = 0;
        for part in absolute.components() {
            let Component::Normal(name) = part else { continue };
            at = self.child(at, name)?.ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(at)
    }

    /// The node of that name, taken over from the real disk when it is met for the first time.
    fn child(&mut self, dir: NodeId, name: &std::ffi::OsStr) -> io::Result<Option<NodeId>> {
        match &self.nodes[dir] {
            Node::File(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Node::Dir(names) => {
                if let Some(node) = names.get(name) {
                    return Ok(Some(*node));
                }
            }
        }
        let Some(real) = self.real_path(dir).map(|path| path.join(name)) else { return Ok(None) };
        if self.is_taken(dir, name) || !real.exists() {
            return Ok(None);
        }
        let node = if real.is_dir() {
            Node::Dir(Names::new())
        } else {
            let len = fs::metadata(&real)?.len();
            Node::File(FileNode { len, valid: len, ..FileNode::default() })
        };
        let id = self.add(node, Some((dir, name.to_owned())));
        self.names(dir)?.insert(name.to_owned(), id);
        Ok(Some(id))
    }

    /// Whether the real disk still has that name although the process removed or moved it.
    fn is_taken(&self, dir: NodeId, name: &std::ffi::OsStr) -> bool {
        self.places.iter().flatten().any(|(at, known)| *at == dir && known == name)
    }

    fn add(&mut self, node: Node, place: Option<(NodeId, OsString)>) -> NodeId {
        self.nodes.push(node);
        self.places.push(place);
        self.nodes.len() - 1
    }

    fn names(&mut self, dir: NodeId) -> io::Result<&mut Names> {
        match &mut self.nodes[dir] {
            Node::Dir(names) => Ok(names),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn file(&mut self, id: NodeId) -> io::Result<&mut FileNode> {
        match &mut self.nodes[id] {
            Node::File(file) => Ok(file),
            Node::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn real_path(&self, node: NodeId) -> Option<PathBuf> {
        if node == 0 {
            return Some(PathBuf::from("/"));
        }
        let (dir, name) = self.places[node].as_ref()?;
        Some(self.real_path(*dir)?.join(name))
    }

    fn place(&mut self, path: &Path) -> io::Result<(NodeId, OsString)> {
        let absolute = std::path::absolute(path)?;
        let dir = self.find(absolute.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
        Ok((dir, absolute.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned()))
    }

    /// The real file behind a node, if its name is durable.
    fn real(&mut self, id: NodeId) -> io::Result<Option<Arc<File>>> {
        if let Some(real) = &self.file(id)?.real {
            return Ok(Some(Arc::clone(real)));
        }
        let Some(path) = self.real_path(id) else { return Ok(None) };
        let real = Arc::new(fs::OpenOptions::new().read(true).write(true).open(path)?);
        self.file(id)?.real = Some(Arc::clone(&real));
        Ok(Some(real))
    }

    /// Reads what is durable of a page, as far as it was not cut off since.
    fn durable_page(&mut self, id: NodeId, page: u64) -> io::Result<Box<[u8]>> {
        let mut bytes = vec![0; PAGE as usize].into_boxed_slice();
        let real = self.real(id)?;
        let file = self.file(id)?;
        let from = page * PAGE;
        let len = file.valid.saturating_sub(from).min(PAGE) as usize;
        match real {
            Some(real) => {
                let mut at = 0;
                while at < len {
                    match real.read_at(&mut bytes[at..len], from + at as u64)? {
                        0 => break,
                        read => at += read,
                    }
                }
            }
            None => {
                let rest = file.unnamed.get(from as usize..).unwrap_or_default();
                let len = len.min(rest.len());
                bytes[..len].copy_from_slice(&rest[..len]);
            }
        }
        Ok(bytes)
    }

    fn write(&mut self, id: NodeId, bytes: &[u8], position: u64) -> io::Result<()> {
        let mut at = 0;
        while at < bytes.len() {
            let position = position + at as u64;
            let (page, offset) = (position / PAGE, (position % PAGE) as usize);
            let len = (PAGE as usize - offset).min(bytes.len() - at);
            if !self.file(id)?.pages.contains_key(&page) {
                let content =
                    if len == PAGE as usize { vec![0; len].into() } else { self.durable_page(id, page)? };
                self.file(id)?.pages.insert(page, content);
            }
            if let Some(content) = self.file(id)?.pages.get_mut(&page) {
                content[offset..offset + len].copy_from_slice(&bytes[at..at + len]);
            }
            at += len;
        }
        let file = self.file(id)?;
        file.len = file.len.max(position + bytes.len() as u64);
        self.write_back_some(id)
    }

    /// The next random number; `None` where nothing reaches the disk before its time.
    fn chance(&mut self) -> Option<u64> {
        if self.random == 0 {
            return None;
        }
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        Some(self.random >> 8)
    }

    /// Lets something of a file reach the disk before its time: a page, whole or some of its sectors, also behind what is
    /// durable; or the length, with zeros where it grew. What the process sees stays as it is: the page is still unsynced.
    fn write_back_some(&mut self, id: NodeId) -> io::Result<()> {
        let Some(chance) = self.chance().filter(|chance| chance % 8 < 3) else { return Ok(()) };
        if self.real_path(id).is_none() {
            return Ok(());
        }
        let Some(real) = self.real(id)? else { return Ok(()) };
        let file = self.file(id)?;
        if chance % 8 == 0 {
            // what was cut since and grew again shows nothing of before
            real.set_len(file.valid)?;
            return real.set_len(file.len);
        }
        // the first at or behind any place: counting up to one would take longer with each page that waits
        let (Some((first, _)), Some((last, _))) = (file.pages.first_key_value(), file.pages.last_key_value())
        else {
            return Ok(());
        };
        let chosen = first + (chance >> 3) % (last - first + 1);
        let Some((page, content)) = file.pages.range(chosen..).next() else { return Ok(()) };
        let sectors = if chance >> 16 & 1 == 0 { u8::MAX } else { (chance >> 17) as u8 };
        let from = page * PAGE;
        let len = (file.len - from).min(PAGE) as usize;
        for at in (0..len).step_by(SECTOR).filter(|at| sectors >> (at / SECTOR) & 1 == 1) {
            real.write_all_at(&content[at..len.min(at + SECTOR)], from + at as u64)?;
        }
        Ok(())
    }

    /// A name was changed: as with a file system's journal, some of the changes up to this one may be durable already.
    fn change_name(&mut self, change: NameChange) -> io::Result<()> {
        self.changes.push(change);
        let Some(chance) = self.chance().filter(|chance| chance % 4 == 0) else { return Ok(()) };
        let arrived = (chance >> 2) as usize % (self.changes.len() + 1);
        for change in self.changes.drain(..arrived).collect::<Vec<_>>() {
            self.make_durable(change)?;
        }
        Ok(())
    }

    fn set_len(&mut self, id: NodeId, len: u64) -> io::Result<()> {
        let cut_page = len / PAGE;
        if !len.is_multiple_of(PAGE)
            && len < self.file(id)?.len
            && !self.file(id)?.pages.contains_key(&cut_page)
        {
            let content = self.durable_page(id, cut_page)?;
            self.file(id)?.pages.insert(cut_page, content);
        }
        let file = self.file(id)?;
        file.pages.split_off(&len.div_ceil(PAGE));
        if let Some(content) = file.pages.get_mut(&cut_page) {
            content[(len % PAGE) as usize..].fill(0);
        }
        file.len = len;
        file.valid = file.valid.min(len);
        self.write_back_some(id)
    }

    fn sync(&mut self, id: NodeId) -> io::Result<()> {
        self.syncs += 1;
        let real = self.real(id)?;
        if self.faults.fail_sync == Some(self.syncs) {
            // memory goes on to show the pages, the disk never gets them: here both are forgotten
            let file = self.file(id)?;
            file.pages.clear();
            return Err(io::Error::other("simulated failure of a sync"));
        }
        let file = self.file(id)?;
        let pages = std::mem::take(&mut file.pages);
        match real {
            Some(real) => {
                if real.metadata()?.len() != file.len || file.valid < file.len {
                    real.set_len(file.valid)?;
                    real.set_len(file.len)?;
                }
                for (page, content) in pages {
                    let len = (file.len - page * PAGE).min(PAGE) as usize;
                    real.write_all_at(&content[..len], page * PAGE)?;
                }
            }
            None => {
                file.unnamed.resize(file.valid as usize, 0);
                file.unnamed.resize(file.len as usize, 0);
                for (page, content) in pages {
                    let from = (page * PAGE) as usize;
                    let len = (file.len as usize - from).min(PAGE as usize);
                    file.unnamed[from..from + len].copy_from_slice(&content[..len]);
                }
            }
        }
        file.valid = file.len;
        Ok(())
    }

    fn sync_dir(&mut self, dir: NodeId) -> io::Result<()> {
        let changes = std::mem::take(&mut self.changes);
        for change in changes {
            let touches = match &change {
                NameChange::Link(at, ..) | NameChange::Unlink(at, ..) => *at == dir,
                NameChange::Rename(from, to, ..) => *from == dir || *to == dir,
            };
            if touches {
                self.make_durable(change)?;
            } else {
                self.changes.push(change);
            }
        }
        Ok(())
    }

    fn make_durable(&mut self, change: NameChange) -> io::Result<()> {
        match change {
            NameChange::Link(dir, ..) | NameChange::Unlink(dir, ..) | NameChange::Rename(_, dir, ..)
                if self.real_path(dir).is_none() =>
            {
                self.unreachable.push(change);
            }
            NameChange::Link(dir, name, node) | NameChange::Rename(_, dir, name, node) => {
                let Some(target) = self.real_path(dir).map(|path| path.join(&name)) else { return Ok(()) };
                let is_dir = matches!(self.nodes[node], Node::Dir(_));
                let before = self.real_path(node);
                match (&mut self.nodes[node], before) {
                    (_, Some(before)) => fs::rename(before, target)?,
                    (Node::Dir(_), None) => fs::create_dir(target)?,
                    (Node::File(file), None) => {
                        fs::write(target, std::mem::take(&mut file.unnamed))?;
                    }
                }
                for place in &mut self.places {
                    if place.as_ref().is_some_and(|(at, known)| *at == dir && *known == name) {
                        *place = None;
                    }
                }
                self.places[node] = Some((dir, name));
                if is_dir {
                    for change in std::mem::take(&mut self.unreachable) {
                        self.make_durable(change)?;
                    }
                }
            }
            NameChange::Unlink(dir, name, node) => {
                if self.places[node] == Some((dir, name))
                    && let Some(path) = self.real_path(node)
                {
                    match &self.nodes[node] {
                        Node::Dir(_) => fs::remove_dir(path)?,
                        Node::File(_) => {
                            // whoever has it open goes on
                            self.real(node)?;
                            fs::remove_file(path)?;
                        }
                    }
                    self.places[node] = None;
                }
            }
        }
        Ok(())
    }
}

impl Disk for OverlayDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        let node = match (state.find(path), access) {
            (Ok(node), _) => node,
            (Err(error), Access::Read) => return Err(error),
            (Err(error), _) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            (Err(_), _) => {
                let (dir, name) = state.place(path)?;
                let node = state.add(Node::File(FileNode::default()), None);
                state.names(dir)?.insert(name.clone(), node);
                state.change_name(NameChange::Link(dir, name, node))?;
                node
            }
        };
        if access == Access::Replace {
            state.set_len(node, 0)?;
        }
        state.file(node)?;
        Ok(Arc::new(OverlayFile { disk: self.clone(), node }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let node = state.find(from)?;
        let (from_dir, old) = state.place(from)?;
        let (to_dir, new) = state.place(to)?;
        // so that what is replaced is known
        _ = state.child(to_dir, &new)?;
        state.names(from_dir)?.remove(&old);
        state.names(to_dir)?.insert(new.clone(), node);
        state.change_name(NameChange::Rename(from_dir, to_dir, new, node))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let node = state.find(path)?;
        let (dir, name) = state.place(path)?;
        state.names(dir)?.remove(&name);
        state.change_name(NameChange::Unlink(dir, name, node))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        if !self.list(path)?.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        // names that are gone in memory have to be gone on the disk first
        self.sync_dir(path)?;
        self.remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.find(path).is_ok() {
            return Ok(());
        }
        let (dir, name) = state.place(path)?;
        let node = state.add(Node::Dir(Names::new()), None);
        state.names(dir)?.insert(name.clone(), node);
        state.change_name(NameChange::Link(dir, name, node))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut state = self.state();
        let id = state.find(dir)?;
        if let Some(real) = state.real_path(id) {
            for entry in RealDisk.list(&real)? {
                state.child(id, &entry.name)?;
            }
        }
        let names: Vec<_> = state.names(id)?.iter().map(|(name, node)| (name.clone(), *node)).collect();
        Ok(names
            .into_iter()
            .map(|(name, node)| DirEntry { name, is_dir: matches!(state.nodes[node], Node::Dir(_)) })
            .collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.state().find(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        let id = state.find(dir)?;
        state.sync_dir(id)
    }

    fn sync_file_system(&self, _path: &Path) -> io::Result<()> {
        let mut state = self.state();
        for change in std::mem::take(&mut state.changes) {
            state.make_durable(change)?;
        }
        for id in 0..state.nodes.len() {
            if let Node::File(file) = &state.nodes[id]
                && (!file.pages.is_empty() || file.valid != file.len)
            {
                state.sync(id)?;
            }
        }
        Ok(())
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let mut existing = std::path::absolute(path)?;
        while !existing.exists() && existing.pop() {}
        RealDisk.free_bytes(&existing)
    }

    fn lock(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        // a lock has to hold against other processes now, so its directories are made for real
        let absolute = std::path::absolute(path)?;
        let mut dirs: Vec<_> = absolute.ancestors().skip(1).collect();
        dirs.reverse();
        for dir in dirs {
            self.sync_dir(dir)?;
        }
        RealDisk.lock(&absolute)
    }
}

#[derive(Debug)]
struct OverlayFile {
    disk: OverlayDisk,
    node: NodeId,
}

impl DiskFile for OverlayFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        let len = state.file(self.node)?.len;
        let wanted = (len.saturating_sub(position)).min(buffer.len() as u64) as usize;
        let mut at = 0;
        while at < wanted {
            let from = position + at as u64;
            let (page, offset) = (from / PAGE, (from % PAGE) as usize);
            let len = (PAGE as usize - offset).min(wanted - at);
            let content = match state.file(self.node)?.pages.get(&page) {
                Some(content) => &content[offset..offset + len],
                None => &state.durable_page(self.node, page)?[offset..offset + len],
            };
            buffer[at..at + len].copy_from_slice(content);
            at += len;
        }
        Ok(wanted)
    }

    fn read_resident_at(&self, buffer: &mut [u8], position: u64) -> io::Result<bool> {
        Ok(self.read_at(buffer, position)? == buffer.len())
    }

    fn write_all_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let mut at = position;
        for slice in slices {
            state.write(self.node, slice, at)?;
            at += slice.len() as u64;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.sync(self.node)?;
        let slow = state.faults.slow_sync == Some(state.syncs);
        // others go on meanwhile, as on a real disk
        drop(state);
        if slow {
            thread::sleep(SLOW_SYNC);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.state().set_len(self.node, len)
    }

    fn preallocate(&self, len: u64, _before_piece: &dyn Fn(u64)) -> io::Result<()> {
        let mut state = self.disk.state();
        state.set_len(self.node, 0)?;
        state.set_len(self.node, len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().file(self.node)?.len)
    }

    fn map(&self, _range: Range<u64>) -> io::Result<Option<Bytes>> {
        Ok(None)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn advise(&self, _range: Range<u64>, _advice: Advice) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does the same to the overlay and to the real disk; both show the same, and after a "kill" the overlay's
    /// directory holds exactly what was synced.
    #[test]
    fn shows_what_a_real_disk_shows_and_keeps_what_was_synced() {
        let seed = 11;
        let mut random = seed;
        let mut below = |bound: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % bound
        };
        for run in 0..80 {
            let (over, real) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            // in every other run some of it reaches the files early, and nobody sees a difference
            let faults = OverlayFaults { write_back_seed: run % 2 * run, ..OverlayFaults::default() };
            let overlay = OverlayDisk::new(faults);
            let disks: [(&dyn Disk, &Path); 2] = [(&overlay, over.path()), (&RealDisk, real.path())];
            for _ in 0..60 {
                let name = format!("d/{}", below(4));
                let other = format!("d/{}", below(4));
                let (kind, position, len) = (below(8), below(20_000), below(9000) as usize);
                let results = disks.map(|(disk, dir)| {
                    let path = dir.join(&name);
                    disk.create_dir(&dir.join("d")).unwrap();
                    let write = || disk.open(&path, Access::Write).unwrap();
                    match kind {
                        0..=2 => write()
                            .write_all_at(&[IoSlice::new(&vec![kind as u8 + 1; len])], position)
                            .is_ok(),
                        3 => write().set_len(position).is_ok(),
                        4 => write().sync().is_ok(),
                        5 => disk.sync_dir(&dir.join("d")).is_ok() && disk.sync_dir(dir).is_ok(),
                        6 => disk.rename(&path, &dir.join(&other)).is_ok(),
                        _ => disk.remove_file(&path).is_ok(),
                    }
                });
                assert_eq!(results[0], results[1], "kind {kind}, seed {seed}");
                let [over, real] = disks.map(|(disk, dir)| content(disk, &dir.join("d")));
                assert_eq!(over, real, "seed {seed}");
            }
            overlay.sync_file_system(over.path()).unwrap();
            assert_eq!(
                content(&RealDisk, &over.path().join("d")),
                content(&RealDisk, &real.path().join("d"))
            );
        }
    }

    fn content(disk: &dyn Disk, dir: &Path) -> Vec<(OsString, Vec<u8>)> {
        disk.list(dir)
            .unwrap()
            .into_iter()
            .map(|entry| {
                let file = disk.open(&dir.join(&entry.name), Access::Read).unwrap();
                (entry.name, file.read_all().unwrap())
            })
            .collect()
    }

    #[test]
    fn a_kill_loses_what_was_not_synced() {
        let dir = tempfile::tempdir().unwrap();
        let overlay = OverlayDisk::new(OverlayFaults::default());
        let path = dir.path().join("file");
        let file = overlay.open(&path, Access::Write).unwrap();
        file.write_all_at(&[IoSlice::new(b"first")], 0).unwrap();
        file.sync().unwrap();
        assert!(!path.exists(), "the name is not durable");
        overlay.sync_dir(dir.path()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        file.write_all_at(&[IoSlice::new(b"later")], 5).unwrap();
        file.set_len(8).unwrap();
        overlay.rename(&path, &dir.path().join("moved")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        file.sync().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"firstlat");
        overlay.remove_file(&dir.path().join("moved")).unwrap();
        assert!(path.exists() && !overlay.exists(&path).unwrap());
        overlay.sync_dir(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn with_a_seed_a_kill_leaves_a_part_of_what_was_not_synced() {
        let (mut lost, mut whole, mut torn, mut zeros, mut named, mut removed) = (0, 0, 0, 0, 0, 0);
        for seed in 1..500 {
            let dir = tempfile::tempdir().unwrap();
            let overlay =
                OverlayDisk::new(OverlayFaults { write_back_seed: seed, ..OverlayFaults::default() });
            let path = |name| dir.path().join(name);
            let file = overlay.open(&path("file"), Access::Write).unwrap();
            file.write_all_at(&[IoSlice::new(&[1; 512])], 0).unwrap();
            file.sync().unwrap();
            overlay.open(&path("gone"), Access::Write).unwrap();
            overlay.sync_dir(dir.path()).unwrap();
            file.write_all_at(&[IoSlice::new(&[2; 3000])], 512).unwrap();
            overlay.open(&path("new"), Access::Write).unwrap();
            overlay.remove_file(&path("gone")).unwrap();
            let left = fs::read(path("file")).unwrap();
            let (synced, behind) = left.split_at(512);
            assert!(synced.iter().all(|byte| *byte == 1), "seed {seed}: a synced byte is gone");
            match behind.iter().filter(|byte| **byte == 2).count() {
                0 if behind.is_empty() => lost += 1,
                0 => zeros += 1,
                3000 => whole += 1,
                _ => torn += 1,
            }
            named += usize::from(path("new").exists());
            removed += usize::from(!path("gone").exists());
            assert!(path("new").exists() || path("gone").exists(), "seed {seed}: names come in their order");
        }
        let seen = [lost, whole, torn, zeros, named, removed];
        assert!(seen.iter().all(|count| *count > 5), "{seen:?}");
    }

    #[test]
    fn the_chosen_sync_fails() {
        let dir = tempfile::tempdir().unwrap();
        let overlay = OverlayDisk::new(OverlayFaults::parse("seed=3,fail-sync=2").unwrap());
        let file = overlay.open(&dir.path().join("file"), Access::Write).unwrap();
        assert!(file.sync().is_ok() && file.sync().is_err() && file.sync().is_ok());
        assert!(OverlayFaults::parse("speed=3").is_err() && OverlayFaults::parse("seed=x").is_err());
    }
}
