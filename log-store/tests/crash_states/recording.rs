//! A disk in memory that knows what of it is durable, so that the states in which a power cut may leave it can be made.
//!
//! ```text
//!   every change --> now (what the running system sees)      sync, sync_dir --> durable
//!                \-> pending: writes, lengths, names
//!   image = durable + a choice for every page, length and name that is pending
//! ```
//! A page takes any version between the durable one and the newest (write-back may have happened at any moment), a
//! length any it had since the sync, a name is there or not; a torn image chooses per 512 bytes instead of per page.
//! Before each change and each sync a [`Point`] is kept: every prefix of the operations is a place to cut the power.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, IoSlice},
    ops::Range,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use log_store::disk::{Access, Advice, DirEntry, Disk, DiskFile};

use crate::model::Allowed;

type NodeId = usize;
type Names = BTreeMap<OsString, NodeId>;

#[derive(Clone, Debug)]
enum Node {
    File { now: Arc<Vec<u8>>, durable: Arc<Vec<u8>>, pending: Vec<DataChange> },
    Dir { now: Names, durable: Names },
}

#[derive(Clone, Debug)]
enum DataChange {
    Write(usize, Arc<[u8]>),
    Length(usize),
}

#[derive(Clone, Debug)]
enum NameChange {
    Link(NodeId, OsString, NodeId),
    Unlink(NodeId, OsString),
    /// Directory and name before, directory and name after, what was moved.
    Rename(NodeId, OsString, NodeId, OsString, NodeId),
}

impl NameChange {
    fn touches(&self, dir: NodeId) -> bool {
        match self {
            Self::Link(at, ..) | Self::Unlink(at, _) => *at == dir,
            Self::Rename(from, _, to, ..) => *from == dir || *to == dir,
        }
    }
}

/// The whole file system at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    nodes: Vec<Node>,
    names: Vec<NameChange>,
}

/// A moment before an operation, and what a recovery from it may show.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) files: Files,
    pub(crate) allowed: Allowed,
    /// The operation that comes next.
    pub(crate) before: String,
}

/// What an image chooses from: how many values each pending thing may take.
#[derive(Clone, Copy, Debug)]
enum Unit {
    Page { node: NodeId, page: usize, versions: usize },
    Length { node: NodeId, versions: usize },
    Name,
}

impl Unit {
    fn versions(&self) -> usize {
        match self {
            Self::Page { versions, .. } | Self::Length { versions, .. } => *versions,
            Self::Name => 2,
        }
    }
}

/// The pending things of a moment.
#[derive(Debug)]
pub(crate) struct Choices {
    page_bytes: usize,
    units: Vec<Unit>,
}

impl Choices {
    /// The number of values of each choice; value 0 is "not on the disk", the last one "all of it".
    pub(crate) fn arities(&self) -> Vec<usize> {
        self.units.iter().map(Unit::versions).collect()
    }
}

impl Files {
    fn new() -> Self {
        Self { nodes: vec![Node::Dir { now: Names::new(), durable: Names::new() }], names: Vec::new() }
    }

    /// What can be chosen, per page of `page_bytes`.
    pub(crate) fn choices(&self, page_bytes: usize) -> Choices {
        let mut units = vec![Unit::Name; self.names.len()];
        for (id, node) in self.nodes.iter().enumerate() {
            let Node::File { durable, pending, .. } = node else { continue };
            let mut pages = BTreeMap::<usize, usize>::new();
            let (mut len, mut lengths) = (durable.len(), 1);
            for change in pending {
                let (range, new_len) = change.range(len);
                for page in range.start / page_bytes..range.end.div_ceil(page_bytes) {
                    *pages.entry(page).or_insert(1) += 1;
                }
                lengths += usize::from(new_len != len);
                len = new_len;
            }
            if lengths > 1 {
                units.push(Unit::Length { node: id, versions: lengths });
            }
            units.extend(pages.into_iter().map(|(page, versions)| Unit::Page { node: id, page, versions }));
        }
        Choices { page_bytes, units }
    }

    /// The file system after a power cut.
    pub(crate) fn image(&self, choices: &Choices, chosen: &[usize]) -> Self {
        let mut image = Self { nodes: Vec::with_capacity(self.nodes.len()), names: Vec::new() };
        for node in &self.nodes {
            image.nodes.push(match node {
                Node::Dir { durable, .. } => Node::Dir { now: durable.clone(), durable: durable.clone() },
                Node::File { durable, .. } => {
                    Node::File { now: Arc::clone(durable), durable: Arc::clone(durable), pending: Vec::new() }
                }
            });
        }
        let mut names = self.names.iter();
        let mut lengths = BTreeMap::new();
        let mut pages = Vec::new();
        for (unit, value) in choices.units.iter().zip(chosen) {
            match unit {
                Unit::Name => {
                    let change = names.next().expect("a choice per name");
                    if *value == 1 {
                        image.apply_name(change);
                    }
                }
                Unit::Length { node, .. } => _ = lengths.insert(*node, *value),
                Unit::Page { node, page, .. } => pages.push((*node, *page, *value)),
            }
        }
        for (node, page, version) in pages {
            let Node::File { durable, pending, .. } = &self.nodes[node] else { continue };
            let Node::File { now, .. } = &mut image.nodes[node] else { continue };
            let bytes = Arc::make_mut(now);
            let at = page * choices.page_bytes..(page + 1) * choices.page_bytes;
            if bytes.len() < at.end {
                bytes.resize(at.end, 0);
            }
            let mut len = durable.len();
            let mut left = version;
            for change in pending {
                let (range, new_len) = change.range(len);
                len = new_len;
                if range.start < at.end && at.start < range.end {
                    if left == 0 {
                        break;
                    }
                    left -= 1;
                    change.apply(bytes, &at);
                }
            }
        }
        for (id, node) in self.nodes.iter().enumerate() {
            let Node::File { durable, pending, .. } = node else { continue };
            let mut len = durable.len();
            let mut left = lengths.get(&id).copied().unwrap_or(0);
            for change in pending {
                let new_len = change.range(len).1;
                if new_len != len {
                    if left == 0 {
                        break;
                    }
                    left -= 1;
                }
                len = new_len;
            }
            let Node::File { now, durable, .. } = &mut image.nodes[id] else { continue };
            if now.len() != len {
                Arc::make_mut(now).resize(len, 0);
            }
            *durable = Arc::clone(now);
        }
        for node in &mut image.nodes {
            if let Node::Dir { now, durable } = node {
                durable.clone_from(now);
            }
        }
        image
    }

    fn apply_name(&mut self, change: &NameChange) {
        match change {
            NameChange::Link(dir, name, node) => _ = self.dir(*dir).insert(name.clone(), *node),
            NameChange::Unlink(dir, name) => _ = self.dir(*dir).remove(name),
            NameChange::Rename(from, old, to, new, node) => {
                if self.dir(*from).get(old) == Some(node) {
                    self.dir(*from).remove(old);
                }
                self.dir(*to).insert(new.clone(), *node);
            }
        }
    }

    fn dir(&mut self, id: NodeId) -> &mut Names {
        match &mut self.nodes[id] {
            Node::Dir { now, .. } => now,
            Node::File { .. } => panic!("a file is used as a directory"),
        }
    }

    /// A number for what the file system holds, whatever its history.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash_dir(0, &mut hasher);
        hasher.finish()
    }

    fn hash_dir(&self, id: NodeId, hasher: &mut DefaultHasher) {
        let Node::Dir { now, .. } = &self.nodes[id] else { return };
        now.len().hash(hasher);
        for (name, node) in now {
            name.hash(hasher);
            match &self.nodes[*node] {
                Node::File { now, .. } => now.hash(hasher),
                Node::Dir { .. } => self.hash_dir(*node, hasher),
            }
        }
    }

    fn find(&self, path: &Path) -> io::Result<NodeId> {
        let mut at = 0;
        for part in path.components().skip(1) {
            let Node::Dir { now, .. } = &self.nodes[at] else {
                return Err(io::ErrorKind::NotADirectory.into());
            };
            at = *now.get(part.as_os_str()).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(at)
    }

    fn place(&self, path: &Path) -> io::Result<(NodeId, OsString)> {
        let dir = self.find(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
        Ok((dir, path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned()))
    }

    fn change_name(&mut self, change: NameChange) {
        self.apply_name(&change);
        self.names.push(change);
    }

    fn sync_dir(&mut self, dir: NodeId) {
        let (synced, kept) = std::mem::take(&mut self.names).into_iter().partition(|it| it.touches(dir));
        self.names = kept;
        let synced: Vec<NameChange> = synced;
        let mut dirs = BTreeSet::new();
        for change in &synced {
            match change {
                NameChange::Link(dir, ..) | NameChange::Unlink(dir, _) => _ = dirs.insert(*dir),
                NameChange::Rename(from, _, to, ..) => dirs.extend([*from, *to]),
            }
        }
        // every pending change of the directory is applied: what it shows now is what is durable
        for id in dirs {
            if let Node::Dir { now, durable } = &mut self.nodes[id] {
                durable.clone_from(now);
            }
        }
    }

    fn sync_file(&mut self, id: NodeId) {
        // not simply what the file shows now: an earlier sync that failed has left pages that no sync writes again
        if let Node::File { durable, pending, .. } = &mut self.nodes[id]
            && !pending.is_empty()
        {
            let bytes = Arc::make_mut(durable);
            for change in pending.drain(..) {
                change.apply_all(bytes);
            }
        }
    }

    fn change_data(&mut self, id: NodeId, change: DataChange) {
        let Node::File { now, pending, .. } = &mut self.nodes[id] else { panic!("a directory is written") };
        change.apply_all(Arc::make_mut(now));
        pending.push(change);
    }
}

impl DataChange {
    /// The bytes it changes in a file of `len` bytes, and the length behind it.
    fn range(&self, len: usize) -> (Range<usize>, usize) {
        match self {
            Self::Write(at, bytes) => (*at..at + bytes.len(), len.max(at + bytes.len())),
            Self::Length(new) => (*new..len.max(*new), *new),
        }
    }

    fn apply_all(&self, file: &mut Vec<u8>) {
        file.resize(self.range(file.len()).1, 0);
        self.apply(file, &(0..usize::MAX));
    }

    /// Applies the part of the change that lies in `at`.
    fn apply(&self, file: &mut [u8], at: &Range<usize>) {
        let end = at.end.min(file.len());
        match self {
            Self::Write(position, bytes) => {
                let from = at.start.max(*position);
                let to = end.min(position + bytes.len());
                if from < to {
                    file[from..to].copy_from_slice(&bytes[from - position..to - position]);
                }
            }
            Self::Length(len) => {
                let from = at.start.max(*len);
                if from < end {
                    file[from..end].fill(0);
                }
            }
        }
    }
}

#[derive(Debug)]
struct State {
    files: Files,
    allowed: Allowed,
    points: Option<Vec<Point>>,
    /// Syncs that still succeed; afterwards each fails and forgets what it should have written.
    syncs_left: Option<usize>,
    /// Bytes that writes may still add.
    space: Option<usize>,
    /// Nothing under it may be opened.
    denied: Option<PathBuf>,
    /// The last byte of each write to it turns into another.
    garbled: Option<PathBuf>,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub(crate) struct RecordingDisk {
    state: Arc<Mutex<State>>,
}

impl RecordingDisk {
    pub(crate) fn new(files: Option<Files>, allowed: Allowed) -> Self {
        let files = files.unwrap_or_else(Files::new);
        let state = State {
            files,
            allowed,
            points: None,
            syncs_left: None,
            space: None,
            denied: None,
            garbled: None,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Keeps a point before each operation from now on.
    pub(crate) fn record(&self) {
        self.state().points = Some(Vec::new());
    }

    /// The points since [`RecordingDisk::record`] or the last call, and the present.
    pub(crate) fn take_points(&self) -> Vec<Point> {
        let mut state = self.state();
        state.point("the end".to_owned());
        state.points.replace(Vec::new()).unwrap_or_default()
    }

    pub(crate) fn files(&self) -> Files {
        self.state().files.clone()
    }

    /// What a recovery may show from now on.
    pub(crate) fn allow(&self, allowed: Allowed) {
        self.state().allowed = allowed;
    }

    pub(crate) fn limit_space(&self, bytes: Option<usize>) {
        self.state().space = bytes;
    }

    /// Changes bytes on the medium itself, as rot does.
    pub(crate) fn rot(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let id = state.files.find(path).expect("the file to rot");
        let Node::File { now, durable, .. } = &mut state.files.nodes[id] else { panic!("a directory") };
        change(Arc::make_mut(now));
        *durable = Arc::clone(now);
    }

    /// Refuses to open anything under this path from now on.
    pub(crate) fn deny(&self, path: Option<&Path>) {
        self.state().denied = path.map(Path::to_owned);
    }

    /// Spoils what is written to this file from now on, without a word.
    pub(crate) fn garble(&self, path: Option<&Path>) {
        self.state().garbled = path.map(Path::to_owned);
    }

    /// Every file with its bytes, for comparing.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        fn walk(files: &Files, id: NodeId, at: &Path, out: &mut Vec<PathBuf>) {
            let Node::Dir { now, .. } = &files.nodes[id] else { return };
            for (name, node) in now {
                let path = at.join(name);
                match &files.nodes[*node] {
                    Node::File { .. } => out.push(path),
                    Node::Dir { .. } => walk(files, *node, &path, out),
                }
            }
        }
        let mut out = Vec::new();
        walk(&self.state().files, 0, Path::new("/"), &mut out);
        out
    }

    pub(crate) fn fail_syncs_after(&self, syncs: Option<usize>) {
        self.state().syncs_left = syncs;
    }
}

impl State {
    fn point(&mut self, before: String) {
        if let Some(points) = &mut self.points {
            points.push(Point { files: self.files.clone(), allowed: self.allowed.clone(), before });
        }
    }

    fn sync_fails(&mut self) -> bool {
        match &mut self.syncs_left {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }
}

impl Disk for RecordingDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        if state.denied.as_ref().is_some_and(|denied| path.starts_with(denied)) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let found = state.files.find(path);
        let node = match (found, access) {
            (Ok(node), _) => {
                if access == Access::Replace {
                    state.point(format!("empty {}", path.display()));
                    state.files.change_data(node, DataChange::Length(0));
                }
                node
            }
            (Err(error), Access::Read | Access::Existing) => return Err(error),
            (Err(_), _) => {
                let (dir, name) = state.files.place(path)?;
                state.point(format!("make {}", path.display()));
                let node = state.files.nodes.len();
                let (now, durable) = (Arc::default(), Arc::default());
                state.files.nodes.push(Node::File { now, durable, pending: Vec::new() });
                state.files.change_name(NameChange::Link(dir, name, node));
                node
            }
        };
        Ok(Arc::new(RecordingFile { disk: self.clone(), node, path: path.to_owned() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let node = state.files.find(from)?;
        let (from_dir, old) = state.files.place(from)?;
        let (to_dir, new) = state.files.place(to)?;
        state.point(format!("rename {} to {}", from.display(), to.display()));
        state.files.change_name(NameChange::Rename(from_dir, old, to_dir, new, node));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.files.find(path)?;
        let (dir, name) = state.files.place(path)?;
        state.point(format!("remove {}", path.display()));
        state.files.change_name(NameChange::Unlink(dir, name));
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let id = state.files.find(path)?;
        if !state.files.dir(id).is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let (dir, name) = state.files.place(path)?;
        state.point(format!("remove {}", path.display()));
        state.files.change_name(NameChange::Unlink(dir, name));
        Ok(())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.files.find(path).is_ok() {
            return Ok(());
        }
        let (dir, name) = state.files.place(path)?;
        state.point(format!("make {}", path.display()));
        let node = state.files.nodes.len();
        state.files.nodes.push(Node::Dir { now: Names::new(), durable: Names::new() });
        state.files.change_name(NameChange::Link(dir, name, node));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.state();
        let id = state.files.find(dir)?;
        let Node::Dir { now, .. } = &state.files.nodes[id] else {
            return Err(io::ErrorKind::NotADirectory.into());
        };
        let is_dir = |node: &NodeId| matches!(state.files.nodes[*node], Node::Dir { .. });
        Ok(now.iter().map(|(name, node)| DirEntry { name: name.clone(), is_dir: is_dir(node) }).collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.state().files.find(path).is_ok())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        let id = state.files.find(dir)?;
        state.point(format!("sync {}", dir.display()));
        state.files.sync_dir(id);
        Ok(())
    }

    fn sync_file_system(&self, _path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.point("sync the file system".to_owned());
        for id in 0..state.files.nodes.len() {
            state.files.sync_file(id);
            state.files.sync_dir(id);
        }
        Ok(())
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.state().space.map_or(u64::MAX, |bytes| bytes as u64))
    }

    fn lock(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path, Access::Write)
    }
}

#[derive(Debug)]
struct RecordingFile {
    disk: RecordingDisk,
    node: NodeId,
    path: PathBuf,
}

impl RecordingFile {
    fn name(&self) -> std::borrow::Cow<'_, str> {
        self.path.file_name().unwrap_or(OsStr::new("?")).to_string_lossy()
    }
}

impl DiskFile for RecordingFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let state = self.disk.state();
        let Node::File { now, .. } = &state.files.nodes[self.node] else { return Ok(0) };
        let rest = now.get(position as usize..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn read_resident_at(&self, buffer: &mut [u8], position: u64) -> io::Result<bool> {
        Ok(self.read_at(buffer, position)? == buffer.len())
    }

    fn write_all_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        let mut bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let mut state = self.disk.state();
        if state.garbled.as_ref() == Some(&self.path)
            && let Some(last) = bytes.last_mut()
        {
            *last = !*last;
        }
        state.point(format!("write {} bytes at {position} of {}", bytes.len(), self.name()));
        let Node::File { now, .. } = &state.files.nodes[self.node] else { panic!("a directory") };
        let mut fits = bytes.len();
        let grows = (position as usize + bytes.len()).saturating_sub(now.len());
        let full = state.space.is_some_and(|space| grows > space);
        if let Some(space) = &mut state.space {
            fits -= grows.saturating_sub(*space);
            *space -= grows.min(*space);
        }
        state.files.change_data(self.node, DataChange::Write(position as usize, bytes[..fits].into()));
        if full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.point(format!("sync {}", self.path.display()));
        if state.sync_fails() {
            // as on every Linux file system: the pages count as clean, memory shows them, the disk does not have them
            if let Node::File { pending, .. } = &mut state.files.nodes[self.node] {
                pending.clear();
            }
            return Err(io::Error::other("the disk failed"));
        }
        state.files.sync_file(self.node);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.point(format!("cut {} to {len}", self.name()));
        state.files.change_data(self.node, DataChange::Length(len as usize));
        Ok(())
    }

    fn preallocate(&self, len: u64, _before_piece: &dyn Fn(u64)) -> io::Result<()> {
        let zeros = vec![0; len as usize];
        self.write_all_at(&[IoSlice::new(&zeros)], 0)
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.disk.state();
        let Node::File { now, .. } = &state.files.nodes[self.node] else { return Ok(0) };
        Ok(now.len() as u64)
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
