//! The data directory's identity: what it belongs to, who uses it now, and whether this version can read it.
//!
//! ```text
//!   <data>/.lock       held (flock) while a process uses the directory
//!   <data>/meta.toml   format_version, cluster_id, node_id, directory_id: written once, at the end of the first start
//!   <wal.dir>/owner    the directory_id: a write-ahead log is never mixed up with another directory's
//!   <data>/<topic>-<n>/partition.metadata   Kafka's: the topic id
//! ```
//! `meta.toml` comes last in the first start: a directory without it holds nothing that was ever promised, so a start
//! that was cut short is simply repeated; a directory that does hold something without it is refused.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use uuid::Uuid;

use crate::{
    LogStoreError,
    checkpoint::{CHECKPOINT, CHECKPOINT_COPY},
    disk::{Access, DirEntry, Disk, DiskFile, write_cache_file, write_file_atomically},
    wal,
};

/// The format that is written; this one and the one before are read.
pub const FORMAT_VERSION: u32 = 1;
/// The identity file.
pub const META: &str = "meta.toml";
/// The lock file.
pub const LOCK: &str = ".lock";
/// The file that names the data directory to which a write-ahead log belongs.
const OWNER: &str = "owner";
/// Kafka's file with the topic id.
pub const PARTITION_METADATA: &str = "partition.metadata";

/// What a data directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The cluster's id, as Kafka writes one.
    pub cluster_id: String,
    /// The node's id.
    pub node_id: i32,
    /// The directory's own id.
    pub directory_id: Uuid,
}

/// Who opens the directory.
#[derive(Clone, Debug)]
pub struct Opener {
    /// The node's id.
    pub node_id: i32,
    /// The cluster id of a new directory.
    pub new_cluster_id: String,
    /// The id of a new directory.
    pub new_directory_id: Uuid,
    /// The write-ahead log's directory, where it is not `<data>/wal`.
    pub wal_dir: Option<PathBuf>,
}

/// A data directory, locked and checked. The lock is held until it is dropped.
#[derive(Debug)]
pub struct DataDirectory {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    wal_dir: PathBuf,
    meta: Meta,
    fresh: bool,
    _locks: Vec<Arc<dyn DiskFile>>,
}

impl DataDirectory {
    /// Checks and locks a directory, making it where it is missing. Nothing else is written, and nothing where it is refused
    /// for what it holds.
    ///
    /// # Errors
    /// [`LogStoreError::Refused`] where it is in use, belongs to something else, or is of a newer format;
    /// [`LogStoreError::Io`].
    pub fn open(disk: Arc<dyn Disk>, path: &Path, opener: &Opener) -> Result<Self, LogStoreError> {
        let wal_dir = opener.wal_dir.clone().unwrap_or_else(|| path.join("wal"));
        // What is refused gets no lock file. What is not may have become somebody's by the time it is locked.
        check(&*disk, path, &wal_dir, opener)?;
        make_dirs(&*disk, path)?;
        let mut locks = vec![lock(&*disk, path)?];
        make_dirs(&*disk, &wal_dir)?;
        if opener.wal_dir.is_some() {
            locks.push(lock(&*disk, &wal_dir)?);
        }
        let known = check(&*disk, path, &wal_dir, opener)?;
        let fresh = known.is_none();
        let meta = known.unwrap_or_else(|| Meta {
            cluster_id: opener.new_cluster_id.clone(),
            node_id: opener.node_id,
            directory_id: opener.new_directory_id,
        });
        Ok(Self { disk, path: path.to_owned(), wal_dir, meta, fresh, _locks: locks })
    }

    /// The disk it is on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The write-ahead log's directory.
    pub fn wal_dir(&self) -> &Path {
        &self.wal_dir
    }

    /// What it belongs to.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Whether nothing was ever promised from it: its first start is not finished.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Ends the first start: from now on a missing checkpoint or log is damage. Everything else is durable by now.
    pub(crate) fn finish_first_start(&mut self) -> Result<(), LogStoreError> {
        if !self.fresh {
            return Ok(());
        }
        let owner = self.wal_dir.join(OWNER);
        let id = format!("{}\n", self.meta.directory_id);
        write_file_atomically(&*self.disk, &owner, id.as_bytes())
            .map_err(LogStoreError::io("write", &owner))?;
        let path = self.path.join(META);
        let Meta { cluster_id, node_id, directory_id } = &self.meta;
        let text = format!(
            "# The identity of this data directory. Written once; a copy with another identity is refused.\n\
             format_version = {FORMAT_VERSION}\ncluster_id = \"{cluster_id}\"\nnode_id = {node_id}\n\
             directory_id = \"{directory_id}\"\n"
        );
        write_file_atomically(&*self.disk, &path, text.as_bytes())
            .map_err(LogStoreError::io("write", &path))?;
        self.fresh = false;
        Ok(())
    }
}

/// Makes a directory and its parents. Each new name is durable when it returns.
fn make_dirs(disk: &dyn Disk, path: &Path) -> Result<(), LogStoreError> {
    let mut missing = Vec::new();
    let mut dir = path;
    while !disk.exists(dir).map_err(LogStoreError::io("look for", dir))? {
        missing.push(dir);
        match dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => dir = parent,
            None => break,
        }
    }
    for dir in missing.iter().rev() {
        disk.create_dir(dir).map_err(LogStoreError::io("make", *dir))?;
        let parent = parent_of(dir);
        disk.sync_dir(parent).map_err(LogStoreError::io("sync", parent))?;
    }
    if missing.is_empty() {
        // its name may be in the page cache only, after a kill -9; a parent that may not be read is older than that
        _ = disk.sync_dir(parent_of(path));
    }
    Ok(())
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn lock(disk: &dyn Disk, dir: &Path) -> Result<Arc<dyn DiskFile>, LogStoreError> {
    let path = dir.join(LOCK);
    disk.lock(&path).map_err(|error| {
        if error.kind() == std::io::ErrorKind::WouldBlock {
            LogStoreError::Refused(format!(
                "{} is in use by another process: stop that one, or choose another data directory",
                dir.display()
            ))
        } else {
            LogStoreError::io("lock", &path)(error)
        }
    })
}

fn read_meta(disk: &dyn Disk, dir: &Path) -> Result<Option<Meta>, LogStoreError> {
    let path = dir.join(META);
    if !disk.exists(&path).map_err(LogStoreError::io("look for", &path))? {
        return Ok(None);
    }
    let file = disk.open(&path, Access::Read).map_err(LogStoreError::io("open", &path))?;
    let text =
        String::from_utf8(file.read_all().map_err(LogStoreError::io("read", &path))?).unwrap_or_default();
    let value = |name: &str| {
        let lines = text.lines().filter_map(|line| line.split_once('='));
        lines.map(|(key, value)| (key.trim(), value.trim().trim_matches('"'))).find(|(key, _)| *key == name)
    };
    let number = |name| value(name).and_then(|(_, value)| value.parse::<i64>().ok());
    let version = number("format_version");
    if let Some(version) = version
        && version > i64::from(FORMAT_VERSION)
    {
        return Err(LogStoreError::Refused(format!(
            "{} has format {version}, this version of Alluvium knows formats up to {FORMAT_VERSION}: start the version \
             that wrote it, or a later one",
            dir.display()
        )));
    }
    let meta = (|| {
        version?;
        Some(Meta {
            cluster_id: value("cluster_id")?.1.to_owned(),
            node_id: number("node_id")?.try_into().ok()?,
            directory_id: value("directory_id")?.1.parse().ok()?,
        })
    })();
    meta.map(Some).ok_or_else(|| {
        LogStoreError::Refused(format!(
            "{} cannot be read: it needs format_version, cluster_id, node_id and directory_id. Restore it from a copy of \
             the data directory",
            path.display()
        ))
    })
}

/// Whose directory this is, `None` where it is nobody's yet. Changes nothing.
fn check(
    disk: &dyn Disk,
    dir: &Path,
    wal_dir: &Path,
    opener: &Opener,
) -> Result<Option<Meta>, LogStoreError> {
    let known = read_meta(disk, dir)?;
    match &known {
        Some(meta) => {
            check_meta(dir, meta, opener)?;
            check_wal_dir(disk, dir, wal_dir, meta)?;
        }
        None => {
            check_new(disk, dir)?;
            check_new_wal_dir(disk, dir, wal_dir)?;
        }
    }
    Ok(known)
}

fn check_meta(dir: &Path, meta: &Meta, opener: &Opener) -> Result<(), LogStoreError> {
    let (theirs, ours) = (meta.node_id, opener.node_id);
    if theirs == ours {
        return Ok(());
    }
    Err(LogStoreError::Refused(format!(
        "{} belongs to node {theirs}, this is node {ours}: choose the data directory of node {ours}, or an empty one",
        dir.display()
    )))
}

/// A directory without identity may hold what a first start that was cut short leaves, and nothing else.
fn check_new(disk: &dyn Disk, dir: &Path) -> Result<(), LogStoreError> {
    for entry in list_if_there(disk, dir)? {
        let name = entry.name.to_string_lossy();
        let ours = [LOCK, CHECKPOINT, CHECKPOINT_COPY, "wal", "lost+found"].contains(&&*name);
        if !ours && !name.ends_with(".tmp") {
            return Err(LogStoreError::Refused(format!(
                "{} is no data directory: it has no {META} but holds '{name}'. Choose an empty directory, or restore \
                 {META} if this was one",
                dir.display()
            )));
        }
    }
    Ok(())
}

fn check_wal_dir(disk: &dyn Disk, data: &Path, wal_dir: &Path, meta: &Meta) -> Result<(), LogStoreError> {
    let path = wal_dir.join(OWNER);
    let owner = if disk.exists(&path).map_err(LogStoreError::io("look for", &path))? {
        let file = disk.open(&path, Access::Read).map_err(LogStoreError::io("open", &path))?;
        String::from_utf8(file.read_all().map_err(LogStoreError::io("read", &path))?).ok()
    } else {
        None
    };
    if owner.as_deref().map(str::trim) != Some(meta.directory_id.to_string().as_str()) {
        return Err(LogStoreError::Refused(format!(
            "{} does not hold the write-ahead log of {} ({} should say {}): set wal.dir to the directory used before, or \
             move its files here",
            wal_dir.display(),
            data.display(),
            path.display(),
            meta.directory_id
        )));
    }
    Ok(())
}

/// A first start writes no round: a log with rounds is somebody's.
fn check_new_wal_dir(disk: &dyn Disk, data: &Path, wal_dir: &Path) -> Result<(), LogStoreError> {
    for entry in list_if_there(disk, wal_dir)? {
        if wal::file_number(&entry.name).is_none() {
            continue;
        }
        let path = wal_dir.join(&entry.name);
        let file = disk.open(&path, Access::Read).map_err(LogStoreError::io("open", &path))?;
        let mut first = [0; 32];
        let read = file.read_at(&mut first, 0).map_err(LogStoreError::io("read", &path))?;
        if first[..read].iter().any(|byte| *byte != 0) {
            return Err(LogStoreError::Refused(format!(
                "{} holds the write-ahead log of another data directory than {}: choose an empty directory for wal.dir",
                wal_dir.display(),
                data.display()
            )));
        }
    }
    Ok(())
}

fn list_if_there(disk: &dyn Disk, dir: &Path) -> Result<Vec<DirEntry>, LogStoreError> {
    if !disk.exists(dir).map_err(LogStoreError::io("look for", dir))? {
        return Ok(Vec::new());
    }
    disk.list(dir).map_err(LogStoreError::io("list", dir))
}

/// Writes `partition.metadata` where it is missing or names another topic.
pub(crate) fn write_partition_metadata(
    disk: &dyn Disk,
    dir: &Path,
    topic_id: Uuid,
) -> Result<(), LogStoreError> {
    if is_directory_of(disk, dir, topic_id) {
        return Ok(());
    }
    let path = dir.join(PARTITION_METADATA);
    write_cache_file(disk, &path, partition_metadata(topic_id).as_bytes())
        .map_err(LogStoreError::io("write", &path))
}

/// Whether `partition.metadata` names this topic.
pub(crate) fn is_directory_of(disk: &dyn Disk, dir: &Path, topic_id: Uuid) -> bool {
    let text = partition_metadata(topic_id);
    disk.open(&dir.join(PARTITION_METADATA), Access::Read)
        .and_then(|file| file.read_all())
        .is_ok_and(|bytes| bytes == text.as_bytes())
}

fn partition_metadata(topic_id: Uuid) -> String {
    format!("version: 0\ntopic_id: {}\n", kafka_uuid(topic_id))
}

/// A UUID as Kafka writes it: URL-safe base64 without padding.
pub fn kafka_uuid(id: Uuid) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = id.as_u128();
    let digit = |place: u32| char::from(DIGITS[(bits >> place & 63) as usize]);
    let last = char::from(DIGITS[(bits << 4 & 63) as usize]);
    (0..21).map(|index| digit(122 - 6 * index)).chain([last]).collect()
}
