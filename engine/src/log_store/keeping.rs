//! Which aggregates were deleted or limited: read from the store's own stream when somebody first asks, then kept up with.

mod live;

use std::collections::{HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use foldhash::fast::RandomState;
use hashbrown::{Equivalent, HashMap};
use parking_lot::{Mutex, RwLock};

pub(crate) use live::{Checks, first_live};

use super::append::Deciding;
use super::read::LogReader;
use super::scavenging::CarriedOut;
use crate::error::Result;
use crate::event::StreamKey;
use crate::log::writer::Writer;
use crate::retention::{Change, Notice, Retention, SYSTEM};
use crate::store::ReadStream;

/// No stream reaches this version, whatever a damaged event may say.
const VERSION_MAX: u64 = 1 << 62;

/// What is known of deletions and limits, as far as readers can see them.
pub(crate) struct Keeping {
    /// Whether there are any: what everybody asks who appends or reads.
    any: AtomicBool,
    /// How often what there is was to be read, and up to which time it was: something is missing where that is less.
    wanted: AtomicU64,
    loaded: AtomicU64,
    loading: Mutex<()>,
    state: RwLock<State>,
    /// How far it was carried out. Held by whoever scavenges.
    pub(crate) carried_out: Mutex<CarriedOut>,
}

impl Default for Keeping {
    fn default() -> Self {
        let (any, loading, state) = <(AtomicBool, Mutex<()>, RwLock<State>)>::default();
        let carried_out = Mutex::default();
        Self { any, wanted: AtomicU64::new(1), loaded: AtomicU64::new(0), loading, state, carried_out }
    }
}

#[derive(Default)]
struct State {
    kept: HashMap<Name, Kept, RandomState>,
    aggregate_types: HashSet<Arc<str>>,
    name_bytes: usize,
}

/// What is kept of an aggregate that was deleted or limited.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) aggregate_type: Arc<str>,
    /// The position of the system event that said so last.
    pub(crate) position: u64,
    /// Its versions up to this are left out for good: of a deleted one, those that it had.
    pub(crate) after: u64,
    /// Its limits; none if it was deleted, whether it was appended to since or not.
    pub(crate) limits: Option<Box<Limits>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) retention: Retention,
    /// Its versions up to this were found to be too old.
    old: u64,
    /// Its versions up to this were taken out of all files.
    taken_out: u64,
}

impl Kept {
    fn new(aggregate_type: Arc<str>, change: Change, position: u64) -> Self {
        match change {
            Change::Deleted { version, .. } => Self { aggregate_type, position, after: version.min(VERSION_MAX), limits: None },
            Change::Limited { after, retention } => {
                Self { aggregate_type, position, after, limits: Some(Box::new(Limits { retention, old: after, taken_out: 0 })) }
            }
        }
    }

    /// The version at which the stream was deleted that stands at `version`, if nothing was appended to it since. Limits leave its last
    /// event: where that is not there, its deletion is not known here any more.
    pub(crate) fn deleted_at(&self, version: u64) -> Option<u64> {
        let is_deleted = if self.limits.is_none() { version <= self.after } else { version < self.after };
        is_deleted.then_some(self.after)
    }

    /// Whether what is left out stays what it is, whatever is appended and however old it gets.
    pub(crate) fn is_fixed(&self) -> bool {
        self.retention() == Retention::new()
    }

    /// Its versions up to this are known to be in no file.
    pub(crate) fn taken_out(&self) -> u64 {
        self.limits.as_ref().map_or(0, |limits| limits.taken_out)
    }

    pub(crate) fn retention(&self) -> Retention {
        self.limits.as_ref().map(|limits| limits.retention).unwrap_or_default()
    }
}

/// Tenant and aggregate id.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    tenant_bytes: u16,
    text: Box<str>,
}

impl Name {
    fn of(key: &StreamKey<'_>) -> Self {
        Self { tenant_bytes: u16::try_from(key.tenant.len()).unwrap_or(u16::MAX), text: [key.tenant, key.aggregate_id].concat().into() }
    }

    pub(crate) fn key(&self) -> StreamKey<'_> {
        let (tenant, aggregate_id) = self.text.split_at(usize::from(self.tenant_bytes));
        StreamKey { tenant, aggregate_id }
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// A name to look up.
#[derive(Hash)]
pub(crate) struct Wanted<'a>(pub(crate) StreamKey<'a>);

impl Equivalent<Name> for Wanted<'_> {
    fn equivalent(&self, name: &Name) -> bool {
        self.0 == name.key()
    }
}

impl Keeping {
    /// Whether it was read what there is.
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire) == self.wanted.load(Ordering::Acquire)
    }

    /// Whether there are deletions or limits that readers can see.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Reads what there is, unless that was done; whether there is any. Costs one look-up where there is none.
    pub(crate) fn load(&self, writer: &Arc<Writer<Deciding>>) -> Result<bool> {
        if self.is_loaded() {
            return Ok(self.any());
        }
        let _loading = self.loading.lock();
        while !self.is_loaded() {
            // Where another process writes, more may be passed over while this is read.
            let wanted = self.wanted.load(Ordering::Acquire);
            self.read_all(writer)?;
            self.loaded.store(wanted, Ordering::Release);
        }
        Ok(self.any())
    }

    fn read_all(&self, writer: &Arc<Writer<Deciding>>) -> Result<()> {
        // What it says is appended only when this has been read, or taken in where another process appends it: nothing is missed.
        let mut reader = LogReader::raw_stream(writer, ReadStream::of(SYSTEM))?;
        loop {
            let events = reader.read()?;
            if events.is_empty() {
                return Ok(());
            }
            for event in events {
                if let Some(notice) = Notice::of_event(&event)? {
                    self.take_in(&notice, event.position().0);
                }
            }
        }
    }

    /// Looks at something in the light of all deletions and limits that were visible before it; and whether there are any.
    pub(crate) fn with_all<T>(&self, writer: &Arc<Writer<Deciding>>, mut look: impl FnMut() -> Result<T>) -> Result<(T, bool)> {
        loop {
            self.load(writer)?;
            let seen = look()?;
            if self.is_loaded() {
                return Ok((seen, self.any()));
            }
        }
    }

    /// Has what there is read again before anybody asks: something was passed over.
    pub(crate) fn load_again(&self) {
        self.wanted.fetch_add(1, Ordering::AcqRel);
    }

    /// What is known of a stream.
    pub(crate) fn get(&self, key: &StreamKey<'_>) -> Option<Kept> {
        self.state.read().kept.get(&Wanted(*key)).cloned()
    }

    /// Takes in what a system event says that readers can see, which has this position.
    pub(crate) fn take_in(&self, notice: &Notice, position: u64) {
        let mut state = self.state.write();
        let aggregate_type = state.aggregate_type(&notice.aggregate_type);
        let kept = Kept::new(aggregate_type, notice.change, position);
        let name = Name::of(&notice.key());
        let bytes = name.text.len();
        if state.kept.get(&Wanted(notice.key())).is_some_and(|known| known.position >= position) {
            // What is read again is no news.
            return;
        }
        if state.kept.insert(name, kept).is_none() {
            state.name_bytes += bytes;
        }
        drop(state);
        self.any.store(true, Ordering::Release);
    }

    /// Notes that a stream's versions up to one are older than the limit that the event at `position` has set.
    fn note_old(&self, key: &StreamKey<'_>, position: u64, version: u64) {
        if let Some(kept) = self.state.write().kept.get_mut(&Wanted(*key)).filter(|kept| kept.position == position)
            && let Some(limits) = &mut kept.limits
        {
            limits.old = limits.old.max(version);
        }
    }

    /// Notes that a stream's versions up to one are in no file any more, which the event at `position` has limited.
    pub(crate) fn note_taken_out(&self, key: &StreamKey<'_>, position: u64, version: u64) {
        if let Some(kept) = self.state.write().kept.get_mut(&Wanted(*key)).filter(|kept| kept.position == position)
            && let Some(limits) = &mut kept.limits
        {
            limits.taken_out = limits.taken_out.max(version);
        }
    }

    /// How many bytes of memory it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let state = self.state.read();
        let limits = state.kept.values().filter(|kept| kept.limits.is_some()).count() * size_of::<Limits>();
        state.kept.allocation_size() + state.name_bytes + limits
    }

    /// Every aggregate that was deleted or limited and is wanted.
    pub(crate) fn all(&self, is_wanted: impl Fn(&Name, &Kept) -> bool) -> Vec<(Name, Kept)> {
        let state = self.state.read();
        state.kept.iter().filter(|(name, kept)| is_wanted(name, kept)).map(|(name, kept)| (name.clone(), kept.clone())).collect()
    }
}

impl State {
    /// The one text of an aggregate type.
    fn aggregate_type(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.aggregate_types.get(name) {
            return Arc::clone(known);
        }
        let known: Arc<str> = name.into();
        self.aggregate_types.insert(Arc::clone(&known));
        known
    }
}

/// Deletions and limits that were appended and that readers cannot see yet, oldest first.
#[derive(Default)]
pub(crate) struct InFlight(VecDeque<(u64, Notice)>);

impl InFlight {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn push(&mut self, position: u64, notice: Notice) {
        self.0.push_back((position, notice));
    }

    /// The last one about a stream.
    pub(crate) fn get(&self, key: &StreamKey<'_>) -> Option<Kept> {
        let (position, notice) = self.0.iter().rev().find(|(_, notice)| notice.key() == *key)?;
        Some(Kept::new(notice.aggregate_type.as_str().into(), notice.change, *position))
    }

    /// Hands over what readers can see now.
    pub(crate) fn published(&mut self, visible: u64, keeping: &Keeping) {
        while let Some((position, notice)) = self.0.pop_front_if(|(position, _)| *position <= visible) {
            keeping.take_in(&notice, position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aggregate_takes_about_a_hundred_bytes_and_its_name() {
        let keeping = Keeping::default();
        let notice = |number: u64| Notice {
            tenant: "tenant".to_owned(),
            aggregate_id: format!("aggregate-{number:08}"),
            aggregate_type: "Thing".to_owned(),
            change: Change::Deleted { version: number, position: number },
        };
        for number in 0..100_000 {
            keeping.take_in(&notice(number), number);
        }
        let (bytes, name) = (keeping.memory_bytes() / 100_000, "tenant".len() + "aggregate-00000000".len());
        assert!((60..=110).contains(&(bytes - name)), "{bytes} with a name of {name}");
        for number in [0, 99_999] {
            let notice = notice(number);
            assert_eq!(keeping.get(&notice.key()).map(|kept| kept.after), Some(number));
        }
        assert!(keeping.get(&StreamKey { tenant: "tenanta", aggregate_id: "ggregate-00000000" }).is_none());
    }
}
