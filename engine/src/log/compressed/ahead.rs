//! Decoding ahead of who reads a segment from one end to the other, in a thread of its own: decompressing takes longer than all else that
//! reading does, and this way both go on at once.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How much is decoded ahead or waits for it, of all files together.
const BYTES_MAX: usize = 4 << 20;
/// How many that are not there any more are remembered for their order.
const BLOCKS_FORGOTTEN: usize = 1024;
/// How long the thread waits for more to do before it ends.
const PATIENCE: Duration = Duration::from_millis(200);

/// A block of a file.
type Key = (u64, u32);

/// How a block is decoded; nothing if it cannot be, which whoever reads it finds out as well.
type Decode = Box<dyn FnOnce() -> Option<Vec<u8>> + Send>;

enum Stage {
    Waiting(Decode),
    Decoding,
    Ready(Vec<u8>),
}

#[derive(Default)]
struct Blocks {
    stages: HashMap<Key, (Stage, usize)>,
    /// In the order in which they were asked for; some may not be there any more.
    order: VecDeque<Key>,
    /// Those that wait, likewise.
    waiting: VecDeque<Key>,
    bytes: usize,
    has_thread: bool,
}

/// What is decoded ahead.
#[derive(Default)]
pub(super) struct Ahead {
    blocks: Mutex<Blocks>,
    changed: Condvar,
}

impl Ahead {
    /// Has a block of so many bytes decoded, unless that was asked for already.
    pub(super) fn ask(self: &Arc<Self>, key: Key, bytes: usize, decode: impl FnOnce() -> Option<Vec<u8>> + Send + 'static) {
        let mut blocks = self.blocks.lock();
        if bytes > BYTES_MAX || blocks.stages.contains_key(&key) {
            return;
        }
        if blocks.order.len() > 2 * blocks.stages.len() + BLOCKS_FORGOTTEN {
            let Blocks { order, stages, .. } = &mut *blocks;
            order.retain(|key| stages.contains_key(key));
        }
        while blocks.bytes + bytes > BYTES_MAX {
            // Nobody has come for the oldest ones.
            let Some(oldest) = blocks.order.pop_front() else { break };
            blocks.remove(oldest);
        }
        blocks.bytes += bytes;
        blocks.order.push_back(key);
        blocks.waiting.push_back(key);
        blocks.stages.insert(key, (Stage::Waiting(Box::new(decode)), bytes));
        if blocks.has_thread {
            self.changed.notify_all();
            return;
        }
        let ahead = Arc::clone(self);
        // Where there is no thread to be had whoever reads decodes by himself.
        blocks.has_thread = thread::Builder::new().name("eventuali-ahead".to_owned()).spawn(move || ahead.run()).is_ok();
    }

    /// The block, if it was decoded ahead; who asked for it is the only one who gets it.
    pub(super) fn take(&self, key: Key) -> Option<Vec<u8>> {
        let mut blocks = self.blocks.lock();
        while let Some((Stage::Decoding, _)) = blocks.stages.get(&key) {
            self.changed.wait(&mut blocks);
        }
        match blocks.remove(key) {
            Some(Stage::Ready(bytes)) => Some(bytes),
            // One that still waits is decoded sooner by whoever wants it.
            _ => None,
        }
    }

    fn run(&self) {
        let mut blocks = self.blocks.lock();
        loop {
            let Some(key) = blocks.waiting.pop_front() else {
                if self.changed.wait_for(&mut blocks, PATIENCE).timed_out() && blocks.waiting.is_empty() {
                    blocks.has_thread = false;
                    return;
                }
                continue;
            };
            let Some((stage, _)) = blocks.stages.get_mut(&key) else { continue };
            let decode = match std::mem::replace(stage, Stage::Decoding) {
                Stage::Waiting(decode) => decode,
                other => {
                    *stage = other;
                    continue;
                }
            };
            drop(blocks);
            // Whoever waits for the block must not wait for ever.
            let decoded = catch_unwind(AssertUnwindSafe(decode)).ok().flatten();
            blocks = self.blocks.lock();
            match decoded {
                Some(bytes) => drop(blocks.stages.get_mut(&key).map(|(stage, _)| *stage = Stage::Ready(bytes))),
                None => drop(blocks.remove(key)),
            }
            self.changed.notify_all();
        }
    }
}

impl Blocks {
    fn remove(&mut self, key: Key) -> Option<Stage> {
        let (stage, bytes) = self.stages.remove(&key)?;
        self.bytes -= bytes;
        Some(stage)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const BLOCK: usize = 16 << 10;

    #[test]
    fn what_was_asked_for_is_there_once() {
        let ahead = Arc::new(Ahead::default());
        let (decoding, begun) = channel();
        ahead.ask((1, 7), BLOCK, move || {
            decoding.send(()).ok()?;
            Some(vec![7])
        });
        begun.recv().expect("it is decoded without anybody waiting");
        assert_eq!(ahead.take((1, 7)), Some(vec![7]));
        assert_eq!(ahead.take((1, 7)), None);
        assert_eq!(ahead.blocks.lock().bytes, 0);
    }

    #[test]
    fn what_cannot_be_decoded_is_left_to_who_reads_it() {
        let ahead = Arc::new(Ahead::default());
        ahead.ask((1, 1), BLOCK, || None);
        ahead.ask((1, 2), BLOCK, || panic!("on purpose"));
        ahead.ask((1, 3), BLOCK, || Some(vec![3]));
        while !matches!(ahead.blocks.lock().stages.get(&(1, 3)), Some((Stage::Ready(_), _))) {
            thread::yield_now();
        }
        assert_eq!((ahead.take((1, 1)), ahead.take((1, 2)), ahead.take((1, 3))), (None, None, Some(vec![3])));
    }

    #[test]
    fn what_nobody_comes_for_makes_room_and_is_forgotten() {
        let ahead = Arc::new(Ahead::default());
        ahead.ask((9, 0), BLOCK, || Some(vec![0]));
        for block in 0..100_000 {
            ahead.ask((1, block), BLOCK, || Some(vec![1]));
            if block % 3 > 0 {
                ahead.take((1, block));
            }
            let blocks = ahead.blocks.lock();
            assert!(blocks.bytes <= BYTES_MAX && blocks.order.len() <= 2 * BYTES_MAX / BLOCK + BLOCKS_FORGOTTEN + 1);
        }
        assert_eq!(ahead.take((9, 0)), None);
    }
}
