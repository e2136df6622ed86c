//! What the names of a store's files say.

use std::io;

use super::manifest::{MANIFEST_TMP, ManifestSegment};
use super::segment::{parse_index_name, parse_name};
use super::storage::Storage;
use super::watermark::WATERMARK;

/// Stands in a new store's directory until that has its name: whoever writes there again may remove what is beside it.
pub(crate) const UNFINISHED_STORE: &str = "UNFINISHED.tmp";

/// The files in a store's directory, from one look at it: with thousands of segments each look takes milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Sequence numbers and generations, in order.
    segments: Vec<(u64, u32)>,
    /// The sequence numbers of segments that have an index file, in order.
    indexes: Vec<u64>,
    /// Files that were not finished.
    pub(crate) unfinished: Vec<String>,
    pub(crate) has_watermark: bool,
}

impl Names {
    pub(crate) fn look(storage: &dyn Storage) -> io::Result<Self> {
        let mut names = Self::default();
        for name in storage.list("")? {
            if let Some(segment) = parse_name(&name) {
                names.segments.push(segment);
            } else if let Some(sequence) = parse_index_name(&name) {
                names.indexes.push(sequence);
            } else if name == WATERMARK {
                names.has_watermark = true;
            } else if is_unfinished(&name) {
                names.unfinished.push(name);
            }
        }
        names.segments.sort_unstable();
        names.indexes.sort_unstable();
        Ok(names)
    }

    /// The sequence numbers and generations of all segment files, in order.
    pub(crate) fn segments(&self) -> &[(u64, u32)] {
        &self.segments
    }

    /// The segment files that the manifest does not name, and whether all those are there that it does.
    pub(crate) fn unnamed(&self, named: &[ManifestSegment]) -> (Vec<(u64, u32)>, bool) {
        let is_named = |(sequence, generation): &(u64, u32)| generation_of(named, *sequence) == Some(*generation);
        let unnamed: Vec<_> = self.segments.iter().copied().filter(|segment| !is_named(segment)).collect();
        let all_there = self.segments.len() - unnamed.len() == named.len();
        (unnamed, all_there)
    }

    /// Which sealed segments have no index file.
    pub(crate) fn without_index_file(&self, sealed: &[ManifestSegment]) -> Vec<u64> {
        let has_none = |sequence: &u64| self.indexes.binary_search(sequence).is_err();
        sealed.iter().map(|segment| segment.sequence).filter(has_none).collect()
    }

    /// Whether there are files of sealed segments that are of another generation than the one that counts.
    pub(crate) fn has_superseded(&self, sealed: &[ManifestSegment]) -> bool {
        let is_superseded = |(sequence, generation): &(u64, u32)| generation_of(sealed, *sequence).is_some_and(|counts| counts != *generation);
        self.segments.iter().any(is_superseded)
    }
}

/// The generation that counts of a segment.
fn generation_of(named: &[ManifestSegment], sequence: u64) -> Option<u32> {
    let index = named.binary_search_by_key(&sequence, |named| named.sequence).ok()?;
    Some(named[index].generation)
}

fn is_unfinished(name: &str) -> bool {
    let of_segment = |name: &str| parse_name(name).is_some() || parse_index_name(name).is_some();
    name == MANIFEST_TMP || name == UNFINISHED_STORE || name.strip_suffix(".tmp").is_some_and(of_segment)
}
