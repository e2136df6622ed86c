//! Looking up in index files, without the writer's lock, what an append needs to know of sealed segments.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Answer, Deciding, Request, StreamPart, find_in_log};
use crate::error::Result;
use crate::index::{Before, Standing};
use crate::log::writer::{Decision, Writer};
use crate::log_store::read::files;
use crate::log_store::sealed::Sealed;

/// What index files say of a request's streams and ids.
#[derive(Default)]
pub(super) struct Cold {
    /// As long as the index is of this generation nothing was appended that they do not know and the index has forgotten.
    pub(super) generation: Option<u64>,
    /// By the number of the stream's part.
    pub(super) streams: HashMap<usize, ColdStream>,
    pub(super) ids_are_absent: bool,
    /// What the next look is to find.
    pub(super) to_find: Vec<usize>,
    pub(super) ids_to_find: bool,
    pub(super) looking: Option<(u64, Sealed)>,
}

/// What the index files say of a stream.
pub(super) struct ColdStream {
    pub(super) before: Before,
    /// `None` if it has no events.
    pub(super) aggregate_type: Option<String>,
}

impl Request {
    /// Finds out what index files say of the streams and ids that were asked for.
    pub(super) fn look_into_files(&mut self, writer: &Arc<Writer<Deciding>>) -> Result<()> {
        let Some((generation, sealed)) = self.cold.looking.take() else { return Ok(()) };
        let files = files(writer);
        self.cold.generation = Some(generation);
        if std::mem::take(&mut self.cold.ids_to_find) {
            for number in 0..self.events.len() {
                let id = self.events[number].id;
                let candidates = sealed.find_id(id, &files)?;
                if let Some(position) = find_in_log(id, &candidates, writer)?
                    && self.is_stored(number, position, writer)?
                {
                    return Ok(());
                }
            }
            self.cold.ids_are_absent = true;
        }
        for number in std::mem::take(&mut self.cold.to_find) {
            let found = sealed.find(&self.key(&self.streams[number]), &files)?;
            let cold = match found {
                Some(span) => ColdStream {
                    before: Before { version: span.last_version, segment: span.segment.named.sequence },
                    aggregate_type: Some(span.aggregate_type),
                },
                None => ColdStream { before: Before::default(), aggregate_type: None },
            };
            self.cold.streams.insert(number, cold);
        }
        Ok(())
    }
}

impl Deciding {
    /// Makes a request look into index files again, if the index has let go of something since.
    pub(super) fn forget_what_is_stale(&self, cold: &mut Cold) {
        if cold.generation.is_some_and(|generation| generation != self.index.generation()) {
            *cold = Cold::default();
        }
    }

    /// Whether it is known where the streams stand. Else the request is told to look them up.
    pub(super) fn streams_are_known(&self, request: &mut Request) -> Result<(), Decision<Result<Answer>>> {
        let is_unknown = |(number, part): &(usize, &StreamPart)| {
            part.first == *number && !request.cold.streams.contains_key(number) && self.index.standing(&request.key(part)) == Standing::Cold
        };
        let unknown: Vec<usize> = request.streams.iter().enumerate().filter(is_unknown).map(|(number, _)| number).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        request.cold.to_find = unknown;
        self.have_looked(request);
        Err(Decision::Look)
    }

    /// Gives a request what it needs to look into index files.
    pub(super) fn have_looked(&self, request: &mut Request) {
        request.cold.looking = Some((self.index.generation(), self.sealed.clone()));
    }
}
