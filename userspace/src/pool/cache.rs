//! Blocks that a process holds and does not use: kept for its threads to borrow, and to be given back
//! along with a message.
//!
//! All of it is under one lock, which is not held while the kernel is called. Who finds nothing waits in
//! the kernel, which knows nothing of what is kept here: so nothing is kept as long as somebody waits.
//! What lends and takes back is a parameter, so that loom can try every order of events.

use crate::memory::OwnPage;
use crate::wait::Wait;
use rustix::io::{Errno, Result};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};
#[cfg(not(loom))]
use std::sync::{Mutex, MutexGuard};

/// The most blocks that are borrowed ahead, and kept to be given back.
pub(super) const KEEP_MAX: usize = 32;

/// Marks are never used twice, also not by a child.
static MARKS: AtomicU64 = AtomicU64::new(1);

/// What lends blocks.
pub(super) trait Lender {
    /// Takes blocks back and lends as many as there is room for, of which the first is waited for.
    /// Says how many of `returns`, from the first on, are left to be given back, and how many were
    /// lent.
    fn exchange(&self, returns: &[u32], loans: &mut [u32], wait: Wait) -> (usize, Result<usize>);
}

/// What the lock guards.
#[derive(Debug)]
struct Kept {
    /// The process that they are of; in a forked child it is another one.
    mark: u64,
    /// To be lent next. Nobody else has a lease of them. None, while a thread waits.
    free: Vec<u32>,
    /// To be given back with the next message.
    returns: Vec<u32>,
    /// Whether this process borrows, and not only receives.
    borrows: bool,
    /// Threads that wait for a block, which they get from the kernel alone.
    waiting: usize,
}

impl Kept {
    /// Those that are left to be given back after a call, which began with `returns`.
    fn put_back(&mut self, mut returns: Vec<u32>, left: usize) {
        returns.truncate(left);
        if self.returns.is_empty() {
            self.returns = returns;
        } else {
            self.returns.extend(returns);
        }
    }

    fn take(&mut self) -> Vec<u32> {
        let mut returns = std::mem::take(&mut self.returns);
        returns.append(&mut self.free);
        returns
    }
}

/// What this process keeps of a pool.
pub(super) struct Cache {
    /// How many blocks, of either kind.
    keep: usize,
    kept: Mutex<Kept>,
    /// The mark; 0 in a child that has not used it.
    process: OwnPage,
}

/// A block that a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// The process.
    pub(super) mark: u64,
    pub(super) number: u32,
    /// Whether there may be other leases of it.
    pub(super) shared: bool,
}

impl Cache {
    /// An empty one.
    pub(super) fn new(keep: usize) -> Result<Self> {
        Ok(Cache {
            keep: keep.min(KEEP_MAX),
            kept: Mutex::new(Kept {
                mark: 0,
                free: Vec::new(),
                returns: Vec::new(),
                borrows: false,
                waiting: 0,
            }),
            process: OwnPage::new()?,
        })
    }

    /// What this process has. A child has nothing of its parent's.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if self.process.load() == 0 {
            kept.mark = MARKS.fetch_add(1, Relaxed);
            kept.free.clear();
            kept.returns.clear();
            kept.waiting = 0;
            self.process.store(kept.mark);
        }
        kept
    }

    /// This process.
    pub(super) fn mark(&self) -> u64 {
        self.lock().mark
    }

    /// Borrows a block.
    pub(super) fn borrow(&self, lender: &impl Lender, wait: Wait) -> Result<Block> {
        let returns = {
            let mut kept = self.lock();
            kept.borrows = true;
            if let Some(number) = kept.free.pop() {
                return Ok(Block {
                    mark: kept.mark,
                    number,
                    shared: false,
                });
            }
            kept.waiting += 1;
            std::mem::take(&mut kept.returns)
        };
        let mut loans = [0; KEEP_MAX + 1];
        let loans = &mut loans[..=self.keep];
        let (left, lent) = lender.exchange(&returns, loans, wait);
        let mut kept = self.lock();
        kept.waiting -= 1;
        kept.put_back(returns, left);
        let mark = kept.mark;
        let lent = lent.and_then(|lent| {
            let lent = &loans[..lent.min(loans.len())];
            let (first, others) = lent.split_first().ok_or(Errno::AGAIN)?;
            kept.free.extend(others);
            Ok(*first)
        });
        self.keep(lender, kept);
        Ok(Block {
            mark,
            number: lent?,
            shared: false,
        })
    }

    /// Somebody waits for a block without a call of [`borrow`](Self::borrow). This process's mark.
    pub(super) fn begin_waiting(&self) -> u64 {
        let mut kept = self.lock();
        kept.waiting += 1;
        kept.mark
    }

    /// They do not any more.
    pub(super) fn end_waiting(&self, mark: u64) {
        let mut kept = self.lock();
        if kept.mark == mark {
            kept.waiting -= 1;
        }
    }

    /// Ends a lease: with the next message, or at once where that is waited for.
    pub(super) fn end(&self, lender: &impl Lender, block: Block) {
        let mut kept = self.lock();
        if block.mark != kept.mark {
            // It is the parent's.
            return;
        }
        if kept.borrows && !block.shared && kept.free.len() < self.keep {
            kept.free.push(block.number);
        } else {
            kept.returns.push(block.number);
        }
        self.keep(lender, kept);
    }

    /// Keeps what there is, unless it is too much, or somebody waits.
    fn keep(&self, lender: &impl Lender, mut kept: MutexGuard<'_, Kept>) {
        let returns = if kept.waiting > 0 {
            kept.take()
        } else if kept.returns.len() > self.keep {
            std::mem::take(&mut kept.returns)
        } else {
            return;
        };
        drop(kept);
        give_back(lender, &returns);
    }

    /// What goes with a message: what is to be given back, and how many blocks are wanted, if any are
    /// to be borrowed.
    pub(super) fn depart(&self, borrow: bool) -> (Vec<u32>, usize) {
        let mut kept = self.lock();
        let wants = borrow && kept.borrows && kept.free.is_empty();
        let returns = std::mem::take(&mut kept.returns);
        (returns, if wants { self.keep } else { 0 })
    }

    /// What has become of that: how many are left to be given back, and those that were lent.
    pub(super) fn arrive(
        &self,
        lender: &impl Lender,
        returns: Vec<u32>,
        left: usize,
        lent: &[u32],
    ) {
        if returns.capacity() == 0 && lent.is_empty() {
            return;
        }
        let mut kept = self.lock();
        kept.put_back(returns, left);
        kept.free.extend(lent);
        self.keep(lender, kept);
    }

    /// Gives everything back. It keeps nothing to borrow until something is borrowed.
    pub(super) fn flush(&self, lender: &impl Lender) {
        let mut kept = self.lock();
        let returns = kept.take();
        kept.borrows = false;
        drop(kept);
        give_back(lender, &returns);
    }
}

fn give_back(lender: &impl Lender, returns: &[u32]) {
    if !returns.is_empty() {
        // What is not this process's any more has come back already.
        let _ = lender.exchange(returns, &mut [], Wait::Never);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::{Arc, Condvar};
    use loom::thread;

    /// The kernel's table, as far as it matters: one lock, and who waits is woken when there is a block.
    struct Kernel {
        blocks: Vec<UnsafeCell<u32>>,
        table: Mutex<Table>,
        changed: Condvar,
    }

    struct Table {
        free: Vec<u32>,
        waiting: usize,
    }

    struct World {
        kernel: Kernel,
        cache: Cache,
    }

    impl Lender for Kernel {
        fn exchange(
            &self,
            returns: &[u32],
            loans: &mut [u32],
            wait: Wait,
        ) -> (usize, Result<usize>) {
            let mut table = self.table.lock().unwrap();
            for block in returns {
                assert!(!table.free.contains(block), "it was given back twice");
                table.free.push(*block);
                self.changed.notify_all();
            }
            if loans.is_empty() {
                return (0, Ok(0));
            }
            let mut lent = 0;
            if wait == Wait::Forever {
                table.waiting += 1;
                while table.free.is_empty() {
                    table = self.changed.wait(table).unwrap();
                }
                table.waiting -= 1;
                loans[0] = table.free.pop().unwrap();
                lent = 1;
            }
            // Ahead as long as that harms nobody.
            while lent < loans.len()
                && table.waiting == 0
                && table.free.len() >= self.blocks.len() / 2
            {
                let Some(block) = table.free.pop() else {
                    break;
                };
                loans[lent] = block;
                lent += 1;
            }
            (0, Ok(lent))
        }
    }

    impl World {
        /// A pool of so many blocks, of which one is kept.
        fn new(blocks: u32) -> Arc<Self> {
            Arc::new(World {
                kernel: Kernel {
                    blocks: (0..blocks).map(|_| UnsafeCell::new(0)).collect(),
                    table: Mutex::new(Table {
                        free: (0..blocks).collect(),
                        waiting: 0,
                    }),
                    changed: Condvar::new(),
                },
                cache: Cache::new(1).unwrap(),
            })
        }

        fn borrow(&self) -> Block {
            self.cache.borrow(&self.kernel, Wait::Forever).unwrap()
        }

        fn end(&self, block: Block) {
            self.cache.end(&self.kernel, block);
        }

        /// Writes to a block. Loom says if somebody else does.
        fn write(&self, block: Block) {
            let at = &self.kernel.blocks[block.number as usize];
            // SAFETY: the caller has borrowed it; that nobody else has is what loom checks here.
            at.with_mut(|at| unsafe { *at += 1 });
        }

        /// A message goes, with what rides along; it takes no block.
        fn message(&self) {
            let (returns, want) = self.cache.depart(true);
            let mut loans = [0; KEEP_MAX];
            let loans = &mut loans[..want];
            let (left, lent) = self.kernel.exchange(&returns, loans, Wait::Never);
            let lent = lent.unwrap();
            self.cache
                .arrive(&self.kernel, returns, left, &loans[..lent]);
        }

        fn is_whole(&self) {
            self.cache.flush(&self.kernel);
            let mut table = self.kernel.table.lock().unwrap();
            table.free.sort_unstable();
            let all: Vec<u32> = (0..self.kernel.blocks.len() as u32).collect();
            assert_eq!(table.free, all);
        }
    }

    fn model(test: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(test);
    }

    /// What one has dropped the other finds as that one left it, and nobody waits for ever.
    #[test]
    fn loom_a_block_is_in_one_hand() {
        model(|| {
            let world = World::new(2);
            let turn = |world: &World| {
                for _ in 0..2 {
                    let block = world.borrow();
                    world.write(block);
                    world.end(block);
                }
            };
            let other = world.clone();
            let thread = thread::spawn(move || turn(&other));
            turn(&world);
            thread.join().unwrap();
            world.is_whole();
        });
    }

    /// What one has borrowed ahead is given back for the other, who began to wait meanwhile.
    #[test]
    fn loom_who_waits_gets_what_another_has_borrowed_ahead() {
        model(|| {
            let world = World::new(2);
            let other = world.clone();
            let thread = thread::spawn(move || {
                let block = other.borrow();
                other.write(block);
                other.end(block);
            });
            let mine = world.borrow();
            world.write(mine);
            // It is not given up before the other has had one.
            thread.join().unwrap();
            world.end(mine);
            world.is_whole();
        });
    }

    /// The same of what a message has brought along, or was to take along.
    #[test]
    fn loom_who_waits_gets_what_a_message_brings_or_takes() {
        model(|| {
            let world = World::new(2);
            // One is held, and the other is to be given back.
            let (mine, dropped) = (world.borrow(), world.borrow());
            world.cache.lock().borrows = false;
            world.end(dropped);
            world.cache.lock().borrows = true;
            let other = world.clone();
            let thread = thread::spawn(move || {
                let block = other.borrow();
                other.write(block);
                other.end(block);
            });
            world.message();
            world.message();
            thread.join().unwrap();
            world.end(mine);
            world.is_whole();
        });
    }
}
