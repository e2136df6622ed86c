//! Which files there are, which there should be, and which of them hold what: before any frame is read.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::Damage;
use super::kin::{Family, Member, family_of};
use super::source::{damage, is_of_the_system};
use crate::error::{Error, Result};
use crate::log::format::{SegmentHeader, segment_header};
use crate::log::manifest::{MANIFEST, Manifest, ManifestProblem, ManifestSegment};
use crate::log::open::is_untouched;
use crate::log::segment::{AttachProblem, FIRST_FRAME, Segment, file_name, parse_name};
use crate::log::storage::{Access, Storage};
use crate::log::watermark::{Mark, Standing, WATERMARK, Watermark};

/// What it means to have no watermark.
pub(super) const WITHOUT_WATERMARK: &str = "damage to the newest events may pass for an interrupted append";

/// How often the watermark is read again when a writer may have been rewriting it.
const WATERMARK_TRIES: usize = 3;

/// A segment that there is, or should be.
pub(super) struct Place {
    pub(super) name: String,
    pub(super) sequence: u64,
    /// What the manifest says of it.
    pub(super) named: Option<ManifestSegment>,
    pub(super) held: Held,
}

/// What is held where a segment should be.
pub(super) enum Held {
    /// A segment with a sound header, in the file of its name or in another. It is not kept open: there may be more of them than
    /// a process may have files.
    Segment { file: String, header: SegmentHeader },
    /// A file whose header is damaged.
    Headless { file: String, header: Vec<u8> },
    /// Nothing.
    Missing,
}

impl Held {
    fn member(&self) -> Option<Member<'_>> {
        if let Self::Segment { file, header } = self { Some(Member { file, header }) } else { None }
    }
}

impl Place {
    fn new(sequence: u64, generation: u32, named: Option<ManifestSegment>, held: Held) -> Self {
        Self { name: file_name(sequence, generation), sequence, named, held }
    }

    pub(super) fn header(&self) -> Option<&SegmentHeader> {
        if let Held::Segment { header, .. } = &self.held { Some(header) } else { None }
    }

    /// The LSN of its first frame, as its own header or the manifest says.
    pub(super) fn base_lsn(&self) -> Option<u64> {
        self.header().map(|header| header.base_lsn).or_else(|| self.named.map(|named| named.base_lsn))
    }

    /// The position of its first event, as its own header or the manifest says.
    pub(super) fn base_position(&self) -> Option<u64> {
        self.header().map(|header| header.base_position).or_else(|| self.named.map(|named| named.base_position))
    }
}

/// What the files of a store say before their frames are read.
pub(super) struct Files {
    /// The store whose id the hashes in index files begin with.
    pub(super) origin: Uuid,
    /// Whether there is a manifest to go by.
    pub(super) has_manifest: bool,
    /// Whether there is a watermark, whole or not.
    pub(super) has_watermark: bool,
    /// What the watermark said at the beginning.
    pub(super) mark: Mark,
    /// The segments in the order of the log.
    pub(super) places: Vec<Place>,
    pub(super) damage: Vec<Damage>,
}

impl Files {
    /// Looks at manifest, watermark, and the headers of all segments.
    ///
    /// The order is that of a writer backwards: whatever the watermark says is in the manifest and the files that are looked at
    /// after it.
    pub(super) fn look(storage: &dyn Storage) -> Result<Self> {
        let mut found = Vec::new();
        let first = read_manifest(storage)?;
        let early = first.as_ref().ok().map(|manifest| read_mark(storage, manifest.store_id)).transpose()?;
        let mut names = storage.list("").map_err(|error| Error::io("list", storage.path(), &error))?;
        let manifest = read_manifest(storage)?;
        // A writer may have made a segment after the files were listed, and named it before the manifest was read.
        for named in manifest.iter().flat_map(|manifest| &manifest.segments) {
            names.push(file_name(named.sequence, named.generation));
        }
        names.sort_unstable();
        names.dedup();
        let mut files = segment_files(storage, &names, &mut found)?;
        let has_watermark = names.iter().any(|name| name == WATERMARK);
        if files.is_empty() && manifest.as_ref().is_err_and(|problem| *problem == Unusable::Missing) && !has_watermark {
            return Err(Error::configuration(format!("there is no store in {:?}; check the path", storage.path())));
        }
        let family = match &manifest {
            Ok(manifest) => Family { store_id: manifest.store_id, lineage: manifest.lineage.clone() },
            Err(_) => family_of(storage, &members(&files)),
        };
        let standing = early.map_or_else(|| read_mark(storage, family.store_id), Ok)?;
        let unfinished = manifest.is_err() && standing == Standing::Missing && is_unfinished_creation(storage, &files)?;
        if let (Err(problem), false) = (&manifest, unfinished) {
            found.push(damage(MANIFEST, None, 0, None, (0, 0), problem.reason(!files.is_empty())));
        }
        let manifest = manifest.ok();
        if manifest.as_ref().is_some_and(|manifest| manifest.segments.is_empty()) {
            found.push(damage(MANIFEST, None, 0, None, (0, 0), "it names no segments"));
        }
        if standing == Standing::Unusable {
            found.push(damage(WATERMARK, None, 0, None, (0, 0), format!("neither of its slots is whole; {WITHOUT_WATERMARK}")));
        }
        let places = match &manifest {
            Some(manifest) => named_places(manifest, &family, &mut files, &mut found),
            None => unnamed_places(&family, &mut files, &mut found),
        };
        let mark = if let Standing::Says(mark) = standing { mark } else { Mark::default() };
        Ok(Self {
            origin: family.origin(),
            has_manifest: manifest.is_some() || unfinished,
            has_watermark: standing != Standing::Missing,
            mark,
            places,
            damage: found,
        })
    }
}

impl Files {
    /// The last position there is to read, as far as that is known before.
    pub(super) fn last_position(&self) -> Option<u64> {
        let bases = self.places.iter().filter_map(Place::base_position).max().map_or(0, |base| base - 1);
        let last = self.mark.durable_position.max(bases);
        (last > 0).then_some(last)
    }
}

/// Why there is no manifest to go by.
#[derive(PartialEq, Eq)]
enum Unusable {
    Missing,
    Damaged(String),
}

impl Unusable {
    fn reason(&self, has_segments: bool) -> String {
        let by_files = if has_segments { "; the segment files were gone by instead" } else { "" };
        match self {
            Self::Missing if has_segments => format!("there are segment files, but no manifest{by_files}"),
            Self::Missing => "there is a watermark, but neither a manifest nor a segment".to_owned(),
            Self::Damaged(reason) => format!("{reason}{by_files}"),
        }
    }
}

fn read_manifest(storage: &dyn Storage) -> Result<Result<Manifest, Unusable>> {
    match Manifest::read(storage) {
        Ok(manifest) => Ok(Ok(manifest)),
        Err(ManifestProblem::Missing) => Ok(Err(Unusable::Missing)),
        Err(ManifestProblem::Damaged(reason)) => Ok(Err(Unusable::Damaged(reason.to_owned()))),
        Err(ManifestProblem::Error(Error::Io { kind, message, .. })) if !is_of_the_system(kind) => {
            Ok(Err(Unusable::Damaged(format!("it cannot be read: {message}"))))
        }
        Err(ManifestProblem::Error(error)) => Err(error),
    }
}

fn read_mark(storage: &dyn Storage, store_id: Uuid) -> Result<Standing> {
    let look = || Watermark::look(storage, store_id).map_err(|error| Error::io("read", storage.path().join(WATERMARK), &error));
    let mut standing = look()?;
    for _ in 1..WATERMARK_TRIES {
        if standing != Standing::Unusable {
            break;
        }
        standing = look()?;
    }
    Ok(standing)
}

/// The segments whose headers are sound.
fn members(files: &BTreeMap<(u64, u32), Held>) -> Vec<Member<'_>> {
    files.values().filter_map(Held::member).collect()
}

/// All segment files, by the numbers in their names. Headers that are not whole are told.
fn segment_files(storage: &dyn Storage, names: &[String], found: &mut Vec<Damage>) -> Result<BTreeMap<(u64, u32), Held>> {
    let mut files = BTreeMap::new();
    for name in names {
        let Some((sequence, generation)) = parse_name(name) else { continue };
        let reason = match Segment::attach(storage, name, Access::Read) {
            Ok(segment) => {
                files.insert((sequence, generation), Held::Segment { file: segment.name, header: segment.header });
                continue;
            }
            // Removed meanwhile: what the manifest says of it is looked at later.
            Err(AttachProblem::Missing) => continue,
            Err(AttachProblem::Damaged(reason)) => reason.to_owned(),
            Err(AttachProblem::Error(Error::Io { kind, message, .. })) if !is_of_the_system(kind) => {
                format!("it cannot be read: {message}")
            }
            Err(AttachProblem::Error(error)) => return Err(error),
        };
        found.push(damage(name, Some(sequence), 0, Some(FIRST_FRAME), (0, 0), reason));
        if let Ok(file) = storage.open(name, Access::Read) {
            let mut header = vec![0; segment_header::BYTES];
            let read = file.read_at(&mut header, 0).unwrap_or(0);
            header.truncate(read);
            files.insert((sequence, generation), Held::Headless { file: name.clone(), header });
        }
    }
    Ok(files)
}

/// Whether this is a store whose creation was interrupted before its manifest: nobody was promised anything.
fn is_unfinished_creation(storage: &dyn Storage, files: &BTreeMap<(u64, u32), Held>) -> Result<bool> {
    let mut held = files.values();
    match (held.next(), held.next()) {
        (Some(Held::Segment { file, .. }), None) => Segment::attach(storage, file, Access::Read).map_or(Ok(false), |segment| is_untouched(&segment)),
        _ => Ok(false),
    }
}

/// The segments that the manifest names, each with the file that holds it, and those that go on behind them.
fn named_places(manifest: &Manifest, family: &Family, files: &mut BTreeMap<(u64, u32), Held>, found: &mut Vec<Damage>) -> Vec<Place> {
    set_strangers_aside(family, files, found);
    let mut places: Vec<Place> = Vec::with_capacity(manifest.segments.len());
    for named in &manifest.segments {
        let held = take_held(named.sequence, named.generation, files);
        if let Held::Segment { header, .. } = &held
            && (header.base_lsn, header.base_position) != (named.base_lsn, named.base_position)
        {
            let reason = format!(
                "the manifest says that segment {} begins with LSN {} and position {}, its header says {} and {}",
                named.sequence, named.base_lsn, named.base_position, header.base_lsn, header.base_position
            );
            found.push(damage(MANIFEST, Some(named.sequence), 0, None, (0, 0), reason));
        }
        places.push(Place::new(named.sequence, named.generation, Some(*named), held));
    }
    let last = manifest.segments.last().map_or(0, |last| last.sequence);
    for ((sequence, generation), held) in std::mem::take(files) {
        if manifest.segments.iter().any(|named| named.sequence == sequence && named.generation != generation) {
            // Another generation of a segment, which maintenance makes or has not removed yet.
            continue;
        }
        let goes_on = sequence == last + 1 && places.last().is_some_and(|place| place.sequence == last) && matches!(held, Held::Segment { .. });
        if goes_on {
            // What a crash leaves between the name and the manifest: whether it continues the last one shows when that is read.
            places.push(Place::new(sequence, generation, None, held));
        } else {
            let reason = "the manifest does not name this file";
            found.push(damage(&file_name(sequence, generation), Some(sequence), 0, None, (0, 0), reason));
        }
    }
    places
}

/// The segments as their files name them.
fn unnamed_places(family: &Family, files: &mut BTreeMap<(u64, u32), Held>, found: &mut Vec<Damage>) -> Vec<Place> {
    set_strangers_aside(family, files, found);
    let mut newest: BTreeMap<u64, u32> = BTreeMap::new();
    for ((sequence, generation), held) in &*files {
        let (sequence, generation) =
            if let Held::Segment { header, .. } = held { (header.sequence, header.generation) } else { (*sequence, *generation) };
        let kept = newest.entry(sequence).or_insert(generation);
        *kept = generation.max(*kept);
    }
    newest
        .into_iter()
        .map(|(sequence, generation)| {
            let held = take_held(sequence, generation, files);
            Place::new(sequence, generation, None, held)
        })
        .collect()
}

/// Takes out segments of stores that are neither this one nor its ancestors; tells of segments under a wrong name.
fn set_strangers_aside(family: &Family, files: &mut BTreeMap<(u64, u32), Held>, found: &mut Vec<Damage>) {
    files.retain(|(sequence, generation), held| {
        let Held::Segment { file, header } = held else { return true };
        let store_id = family.maker_of(header.base_lsn);
        if header.store_id != store_id {
            let reason = format!("the segment belongs to another store ({}, not {store_id})", header.store_id);
            found.push(damage(file, Some(*sequence), 0, None, (0, 0), reason));
            return false;
        }
        if (header.sequence, header.generation) != (*sequence, *generation) {
            let reason = format!("the file holds segment {} of generation {}", header.sequence, header.generation);
            found.push(damage(file, Some(*sequence), 0, None, (0, 0), reason));
        }
        true
    });
}

/// The file that holds a segment: the one with its name, or else one whose header says so.
fn take_held(sequence: u64, generation: u32, files: &mut BTreeMap<(u64, u32), Held>) -> Held {
    let wanted = (sequence, generation);
    let holds = |held: &Held| matches!(held, Held::Segment { header, .. } if (header.sequence, header.generation) == wanted);
    let by_name = files.get(&wanted).filter(|held| holds(held)).map(|_| wanted);
    let by_header = || files.iter().find(|(_, held)| holds(held)).map(|(name, _)| *name);
    let headless = || files.get(&wanted).filter(|held| matches!(held, Held::Headless { .. })).map(|_| wanted);
    by_name.or_else(by_header).or_else(headless).and_then(|name| files.remove(&name)).unwrap_or(Held::Missing)
}
