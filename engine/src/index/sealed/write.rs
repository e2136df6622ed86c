//! Writing the index of a sealed segment.

use std::io;

use uuid::Uuid;

use super::{Contents, SealedIndex, StreamEntry, aggregate_type, event, id, id_hash, kind, section, stream, summary};
use crate::index::file::layout::SUMMARY_BYTES;
use crate::index::file::{FileKind, Writer, write};
use crate::index::filter;
use crate::log::format::{NAME_BYTES_MAX, put};
use crate::log::storage::Storage;

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

/// The text of all names, and where each stands in it: the aggregate types', then the kinds'.
struct Text {
    bytes: Vec<u8>,
    spans: Vec<(u32, u32)>,
}

impl Text {
    fn of<'a>(names: impl Iterator<Item = &'a String>) -> io::Result<Self> {
        let (mut bytes, mut spans) = (Vec::new(), Vec::new());
        for name in names {
            if name.len() > NAME_BYTES_MAX {
                return Err(invalid("a name is longer than names can be"));
            }
            let at = u32::try_from(bytes.len()).map_err(|_| invalid("the names of a segment are longer than its index can hold"))?;
            spans.push((at, u32::try_from(name.len()).unwrap_or(u32::MAX)));
            bytes.extend_from_slice(name.as_bytes());
        }
        Ok(Self { bytes, spans })
    }
}

impl Contents {
    /// How many events there are of each kind that is numbered.
    ///
    /// # Errors
    /// If something refers to what is not there.
    fn count_kinds(&self) -> io::Result<Vec<u32>> {
        let has_aggregate_type = |number: u32| (number as usize) < self.aggregate_types.len();
        if self.kinds.len() > usize::from(kind::OVERFLOW) || !self.kinds.iter().all(|(number, _)| has_aggregate_type(*number)) {
            return Err(invalid("the kinds of a segment do not match its aggregate types"));
        }
        let mut counts = vec![0; self.kinds.len()];
        for entry in &self.events {
            match counts.get_mut(usize::from(entry.kind)) {
                Some(count) => *count += 1,
                None if entry.kind == kind::OVERFLOW || entry.id.is_none() => {}
                None => return Err(invalid("an event is of a kind that is not there")),
            }
        }
        let has_slots = |stream: &StreamEntry| u64::from(stream.slots_at) + u64::from(stream.count) <= self.slots.len() as u64;
        if !self.streams.iter().all(|stream| has_aggregate_type(stream.aggregate_type) && has_slots(stream)) {
            return Err(invalid("a stream refers to what is not there"));
        }
        let removed = self.events.iter().filter(|event| event.id.is_none()).count();
        if removed > 0 && self.kinds.len() > usize::from(kind::REMOVED) {
            return Err(invalid("the kinds of a segment leave no number for events that were taken out"));
        }
        if self.slots.len() + removed != self.events.len() || !self.slots.iter().all(|slot| (*slot as usize) < self.events.len()) {
            return Err(invalid("the streams of a segment do not match its events"));
        }
        Ok(counts)
    }

    fn summary(&self) -> [u8; SUMMARY_BYTES] {
        let ids = || self.events.iter().filter_map(|event| event.id);
        let mut bytes = [0; SUMMARY_BYTES];
        put(&mut bytes, summary::SMALLEST_ID, *ids().min().unwrap_or(Uuid::nil()).as_bytes());
        put(&mut bytes, summary::LARGEST_ID, *ids().max().unwrap_or(Uuid::nil()).as_bytes());
        bytes
    }

    fn write_events(&self, writer: &mut Writer) -> io::Result<()> {
        writer.section(section::EVENTS, event::BYTES)?;
        for entry in &self.events {
            let mut bytes = [0; event::BYTES];
            put(&mut bytes, event::PLACE, entry.place.to_le_bytes());
            put(&mut bytes, event::KIND, entry.kind.to_le_bytes());
            writer.push(&bytes)?;
        }
        Ok(())
    }

    fn write_streams(&self, writer: &mut Writer) -> io::Result<()> {
        let mut streams = self.streams.clone();
        streams.sort_unstable_by_key(|stream| (stream.hash, stream.slots_at));
        writer.section(section::STREAMS, stream::BYTES)?;
        streams.iter().try_for_each(|stream| writer.push(&stream.encode()))?;
        writer.section(section::SLOTS, 4)?;
        self.slots.iter().try_for_each(|slot| writer.push(&slot.to_le_bytes()))?;
        filter::write(writer, section::STREAM_FILTER, streams.len() as u64, streams.iter().map(|stream| Ok::<_, io::Error>(stream.hash)))
    }

    fn write_ids(&self, writer: &mut Writer) -> io::Result<()> {
        let hash = |(slot, event): (u32, &super::EventEntry)| Some((id_hash(self.identity.store_id, event.id?), slot));
        let mut ids: Vec<(u64, u32)> = (0..).zip(&self.events).filter_map(hash).collect();
        ids.sort_unstable();
        writer.section(section::IDS, id::BYTES)?;
        for (hash, slot) in &ids {
            let mut bytes = [0; id::BYTES];
            put(&mut bytes, id::HASH, hash.to_le_bytes());
            put(&mut bytes, id::SLOT, slot.to_le_bytes());
            writer.push(&bytes)?;
        }
        filter::write(writer, section::ID_FILTER, ids.len() as u64, ids.iter().map(|(hash, _)| Ok::<_, io::Error>(*hash)))
    }

    fn write_names(&self, writer: &mut Writer, counts: &[u32]) -> io::Result<()> {
        let text = Text::of(self.aggregate_types.iter().chain(self.kinds.iter().map(|(_, name)| name)))?;
        let (of_types, of_kinds) = text.spans.split_at(self.aggregate_types.len());
        writer.section(section::AGGREGATE_TYPES, aggregate_type::BYTES)?;
        for (at, length) in of_types {
            let mut bytes = [0; aggregate_type::BYTES];
            put(&mut bytes, aggregate_type::TEXT, at.to_le_bytes());
            put(&mut bytes, aggregate_type::TEXT_BYTES, length.to_le_bytes());
            writer.push(&bytes)?;
        }
        writer.section(section::KINDS, kind::BYTES)?;
        for (((number, _), count), (at, length)) in self.kinds.iter().zip(counts).zip(of_kinds) {
            let mut bytes = [0; kind::BYTES];
            put(&mut bytes, kind::AGGREGATE_TYPE, number.to_le_bytes());
            put(&mut bytes, kind::COUNT, count.to_le_bytes());
            put(&mut bytes, kind::TEXT, at.to_le_bytes());
            put(&mut bytes, kind::TEXT_BYTES, length.to_le_bytes());
            writer.push(&bytes)?;
        }
        writer.section(section::TEXT, 1)?;
        text.bytes.chunks(1).try_for_each(|byte| writer.push(byte))
    }
}

impl SealedIndex {
    /// Writes the index of a segment: there completely when this returns, also after a power failure, or not at all.
    ///
    /// # Errors
    /// What the system says; `InvalidInput` if the contents do not fit together.
    pub(crate) fn write(storage: &dyn Storage, name: &str, contents: &Contents) -> io::Result<()> {
        let counts = contents.count_kinds()?;
        write(storage, name, (FileKind::Segment, &contents.identity.encode(), &contents.summary()), |writer| {
            contents.write_events(writer)?;
            contents.write_streams(writer)?;
            contents.write_ids(writer)?;
            contents.write_names(writer, &counts)
        })
    }
}
