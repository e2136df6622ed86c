//! Files and names, each as it is seen and as it is durable.

use std::collections::BTreeMap;
use std::io;

/// A file, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId(usize);

#[derive(Default)]
struct Contents {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// What has been done to the file since its last sync, in order.
    unsynced: Vec<Write>,
}

/// A change of a file's contents.
pub(super) enum Write {
    Bytes(u64, Box<[u8]>),
    Length(u64),
}

/// A change of names that is not durable yet.
enum NameChange {
    Create(String, FileId),
    Rename(String, String, FileId),
    Remove(String, FileId),
}

/// What a simulated machine has instead of a disk.
pub(super) struct Disk {
    files: Vec<Contents>,
    names: BTreeMap<String, FileId>,
    durable_names: BTreeMap<String, FileId>,
    unsynced_names: Vec<NameChange>,
    /// A file was changed while it had two names.
    pub(super) shared_file_was_changed: bool,
    random: Random,
}

fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

impl Write {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Bytes(offset, new) => apply_bytes(bytes, index(*offset), new),
            Self::Length(length) => set_length(bytes, index(*length)),
        }
    }
}

/// As `resize`, but fast without optimization too: there are tests that do little else.
fn set_length(bytes: &mut Vec<u8>, length: usize) {
    bytes.truncate(length);
    bytes.extend_from_slice(&vec![0; length - bytes.len()]);
}

fn apply_bytes(bytes: &mut Vec<u8>, offset: usize, new: &[u8]) {
    if bytes.len() < offset + new.len() {
        set_length(bytes, offset + new.len());
    }
    bytes[offset..offset + new.len()].copy_from_slice(new);
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, FileId>) {
        let forget = |names: &mut BTreeMap<String, FileId>, name: &String, file: &FileId| {
            if names.get(name) == Some(file) {
                names.remove(name);
            }
        };
        match self {
            Self::Create(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Rename(from, to, file) => {
                forget(names, from, file);
                names.insert(to.clone(), *file);
            }
            Self::Remove(name, file) => forget(names, name, file),
        }
    }

    fn touches(&self, folder: &str) -> bool {
        match self {
            Self::Create(name, _) | Self::Remove(name, _) => folder_of(name) == folder,
            Self::Rename(from, to, _) => folder_of(from) == folder || folder_of(to) == folder,
        }
    }
}

pub(super) fn folder_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl Disk {
    pub(super) fn holding(files: &BTreeMap<String, Vec<u8>>, seed: u64) -> Self {
        let names: BTreeMap<String, FileId> = files.keys().cloned().zip((0..).map(FileId)).collect();
        let contents = |bytes: &Vec<u8>| Contents { seen: bytes.clone(), durable: bytes.clone(), unsynced: Vec::new() };
        Self {
            files: files.values().map(contents).collect(),
            durable_names: names.clone(),
            names,
            unsynced_names: Vec::new(),
            shared_file_was_changed: false,
            random: Random(seed),
        }
    }

    pub(super) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.names.iter().map(|(name, file)| (name.clone(), self.files[file.0].seen.clone())).collect()
    }

    pub(super) fn flip(&mut self, name: &str, bit: usize) {
        let contents = &mut self.files[self.names[name].0];
        for bytes in [&mut contents.seen, &mut contents.durable] {
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    pub(super) fn find(&self, name: &str) -> io::Result<FileId> {
        self.names.get(name).copied().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no file {name:?}")))
    }

    /// Makes an empty file; one that has the name is emptied, as opening it to be truncated does.
    pub(super) fn create(&mut self, name: &str) -> FileId {
        if let Some(file) = self.names.get(name).copied() {
            self.write(file, Write::Length(0));
            return file;
        }
        let file = FileId(self.files.len());
        self.files.push(Contents::default());
        self.change_names(NameChange::Create(name.to_owned(), file));
        file
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let file = self.find(from)?;
        self.change_names(NameChange::Rename(from.to_owned(), to.to_owned(), file));
        Ok(())
    }

    /// Gives a file a second name.
    pub(super) fn link(&mut self, name: &str, other: &str) -> io::Result<()> {
        let file = self.find(name)?;
        if self.names.contains_key(other) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("there is a file {other:?}")));
        }
        self.change_names(NameChange::Create(other.to_owned(), file));
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &str) -> io::Result<()> {
        let file = self.find(name)?;
        self.change_names(NameChange::Remove(name.to_owned(), file));
        Ok(())
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    pub(super) fn list(&self, folder: &str) -> Vec<String> {
        let inside = |name: &String| (folder_of(name) == folder).then(|| name[folder.len()..].trim_start_matches('/').to_owned());
        self.names.keys().filter_map(inside).collect()
    }

    pub(super) fn sync_names(&mut self, folder: &str) {
        for change in self.unsynced_names.extract_if(.., |change| change.touches(folder)) {
            change.apply(&mut self.durable_names);
        }
    }

    pub(super) fn read(&self, file: FileId, buffer: &mut [u8], offset: u64) -> usize {
        let seen = self.files[file.0].seen.get(index(offset)..).unwrap_or_default();
        let count = seen.len().min(buffer.len());
        buffer[..count].copy_from_slice(&seen[..count]);
        count
    }

    /// Whether a file already holds these bytes.
    pub(super) fn holds(&self, file: FileId, bytes: &[u8], offset: u64) -> bool {
        let start = index(offset);
        self.files[file.0].seen.get(start..start + bytes.len()) == Some(bytes)
    }

    pub(super) fn length(&self, file: FileId) -> u64 {
        self.files[file.0].seen.len() as u64
    }

    pub(super) fn write(&mut self, file: FileId, write: Write) {
        self.shared_file_was_changed |= self.names.values().filter(|named| **named == file).count() > 1;
        let contents = &mut self.files[file.0];
        write.apply(&mut contents.seen);
        contents.unsynced.push(write);
    }

    pub(super) fn sync(&mut self, file: FileId) {
        let contents = &mut self.files[file.0];
        for write in std::mem::take(&mut contents.unsynced) {
            write.apply(&mut contents.durable);
        }
    }

    /// Some of what was to be synced reached the disk, and nobody will try again.
    pub(super) fn fail_sync(&mut self, file: FileId) {
        let contents = &mut self.files[file.0];
        let unsynced = std::mem::take(&mut contents.unsynced);
        survive(&mut contents.durable, &unsynced, &mut self.random);
    }

    pub(super) fn power_cut(&mut self) {
        for contents in &mut self.files {
            let unsynced = std::mem::take(&mut contents.unsynced);
            survive(&mut contents.durable, &unsynced, &mut self.random);
            contents.seen.clone_from(&contents.durable);
        }
        let changes = std::mem::take(&mut self.unsynced_names);
        let fate = self.random.below(4);
        let prefix = self.random.below(changes.len() + 1);
        for (number, change) in changes.iter().enumerate() {
            let survives = match fate {
                0 => false,
                1 => true,
                2 => number < prefix,
                _ => self.random.below(2) == 0,
            };
            if survives {
                change.apply(&mut self.durable_names);
            }
        }
        self.names.clone_from(&self.durable_names);
    }

    /// How much of something happened before it failed.
    pub(super) fn any_part_of(&mut self, length: usize) -> usize {
        match self.random.below(3) {
            0 => 0,
            1 => length,
            _ => self.random.below(length + 1),
        }
    }
}

/// Carries out what reaches the disk of writes that were not synced.
fn survive(durable: &mut Vec<u8>, unsynced: &[Write], random: &mut Random) {
    let fate = random.below(4);
    let whole = random.below(unsynced.len() + 1);
    let proven = durable.len();
    for (number, write) in unsynced.iter().enumerate() {
        match (fate, write) {
            (1, _) => write.apply(durable),
            (2, _) if number < whole => write.apply(durable),
            // The one that was under way is torn; what came after it was not begun.
            (2, Write::Bytes(offset, bytes)) => {
                let torn = random.below(bytes.len() + 1);
                return apply_bytes(durable, index(*offset), &bytes[..torn]);
            }
            (0, _) | (2, Write::Length(_)) => return,
            (_, Write::Bytes(offset, bytes)) => survive_in_pieces(durable, proven, index(*offset), bytes, random),
            (_, Write::Length(_)) if random.below(2) == 0 => write.apply(durable),
            (_, Write::Length(_)) => {}
        }
    }
}

/// Each piece of a write arrives or not, whatever became of the others; new space may be there without what was written to it.
fn survive_in_pieces(durable: &mut Vec<u8>, proven: usize, offset: usize, bytes: &[u8], random: &mut Random) {
    let mut start = 0;
    while start < bytes.len() {
        let end = start + 1 + random.below(bytes.len() - start);
        let at = offset + start;
        match random.below(3) {
            0 => {}
            1 if at >= proven => apply_bytes(durable, at, &vec![0; end - start]),
            _ => apply_bytes(durable, at, &bytes[start..end]),
        }
        start = end;
    }
}

/// Numbers that look random and follow from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        index((mixed ^ (mixed >> 31)) % end.max(1) as u64)
    }
}
