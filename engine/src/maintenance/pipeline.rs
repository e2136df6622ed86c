//! Two threads: one reads and verifies, the caller's takes in what was found.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use super::files::Files;
use super::survey::{Block, LARGE_BYTES, Reached, Surveyed, survey};
use crate::error::{Error, Result};
use crate::log::storage::Storage;

/// How many blocks there are.
const BLOCKS: usize = 6;

/// Shows every block behind what was reached to `visit`, in order; what was read in all, or nothing if `visit` had enough.
pub(super) fn run(
    storage: &dyn Storage,
    files: &Files,
    reached: &Reached,
    visit: &mut dyn FnMut(&Block) -> Result<ControlFlow<()>>,
) -> Result<Option<Surveyed>> {
    thread::scope(|scope| {
        let (found, to_visit) = sync_channel::<Block>(BLOCKS);
        let (visited, to_fill) = channel::<Block>();
        let reading = scope.spawn(move || {
            let mut pool = Pool { made: 1, found, to_fill };
            survey(storage, files, reached, &mut |block| pool.exchange(block))
        });
        let taken_in = take_in(&to_visit, &visited, visit);
        drop((to_visit, visited));
        let surveyed = reading.join().unwrap_or_else(|_| Err(Error::configuration("the thread that reads the log has panicked")));
        match taken_in? {
            ControlFlow::Continue(()) => surveyed.map(Some),
            ControlFlow::Break(()) => Ok(None),
        }
    })
}

fn take_in(to_visit: &Receiver<Block>, visited: &Sender<Block>, visit: &mut dyn FnMut(&Block) -> Result<ControlFlow<()>>) -> Result<ControlFlow<()>> {
    while let Ok(mut block) = to_visit.recv() {
        if visit(&block)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        block.items.clear();
        // Whoever reads may be done.
        let _ = visited.send(block);
    }
    Ok(ControlFlow::Continue(()))
}

/// The reading thread's side: no more than so many blocks, and no large one beside others.
struct Pool {
    made: usize,
    found: SyncSender<Block>,
    to_fill: Receiver<Block>,
}

impl Pool {
    fn exchange(&mut self, block: Block) -> Result<Block> {
        let stopped = || Error::configuration("reading the log was given up");
        let is_large = block.weight() > LARGE_BYTES;
        self.found.send(block).map_err(|_| stopped())?;
        if is_large {
            // They come back in order: when this one does, it is the only one. The others are made again.
            while self.made > 1 {
                self.to_fill.recv().map_err(|_| stopped())?;
                self.made -= 1;
            }
        } else if self.made < BLOCKS {
            self.made += 1;
            return Ok(Block::default());
        }
        self.to_fill.recv().map_err(|_| stopped())
    }
}
