// SPDX-License-Identifier: GPL-2.0
//! The pipe: single cases, and random operations on a pipe with a ring and on a plain model with
//! its bytes in a queue. Both must say the same after every step.

use crate::task::{config, pick, End, Task, TaskPtr, Woken};
use postbox_queue::{Claim, Pipe, Region, Turn, Turns, PIPE_ATOMIC};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

/// What a task does with a pipe.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    Read { len: u64 },
    Write { len: u64 },
}

/// How far a call is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Waits,
    /// It was given the turn, which can be taken back.
    Given,
    /// It was called up, or its turn was taken back.
    Called,
    /// It has the turn.
    Turn,
    /// It copies so many bytes.
    Copies(u64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Open {
        writes: bool,
        reads: bool,
    },
    Close {
        handle: usize,
    },
    /// A new call.
    Begin {
        id: usize,
        call: Call,
        wait: bool,
    },
    /// Who was given the turn goes on.
    Resume {
        id: usize,
    },
    /// A copy ends, well or with a fault.
    Copied {
        id: usize,
        well: bool,
    },
    Leave {
        id: usize,
    },
    /// Who was given the turn, or called up, does not want it.
    GiveUp {
        id: usize,
    },
    /// Some time has passed.
    Revoke,
    Resize {
        capacity: u64,
    },
    /// What a caller does before it drops the lock.
    Settle,
}

/// What is seen of a step.
#[derive(Clone, Debug, PartialEq)]
enum Event {
    Granted(u64),
    Waits,
    Refused,
    Over,
    Lost,
    Read(Vec<u8>),
    Woken(usize, Turn),
    Resized(bool),
    News(bool, bool),
}

/// What is seen of a pipe at rest.
#[derive(Debug, PartialEq)]
struct Look {
    capacity: u64,
    len: u64,
    moved: (u64, u64),
    handles: (u32, u32),
    waiting: (usize, usize),
    full: u64,
    high: u64,
    ended: bool,
    closed: bool,
    readable: bool,
    writable: bool,
}

/// A task's call.
struct Doing {
    call: Call,
    /// Bytes that a write has done.
    done: u64,
    state: State,
    wait: bool,
    place: u64,
}

impl Doing {
    fn has(&self) -> bool {
        matches!(self.state, State::Given | State::Turn)
    }

    fn left(&self) -> u64 {
        match self.call {
            Call::Read { len } | Call::Write { len } => len - self.done,
        }
    }

    fn reads(&self) -> bool {
        matches!(self.call, Call::Read { .. })
    }

    fn atomic(&self) -> bool {
        matches!(self.call, Call::Write { len } if len <= PIPE_ATOMIC)
    }
}

/// The place is seen by who waits alone.
const YOURS: Turn = Turn::Yours(0);

/// The bytes that a write puts in: each tells whose it is, and where in it.
fn byte(id: usize, at: u64) -> u8 {
    (id as u64 * 31 + at * 7 + at / 256) as u8
}

// The model.

#[derive(Default)]
struct Model {
    capacity: u64,
    persistent: bool,
    bytes: VecDeque<u8>,
    /// Whose bytes they were, in all that was ever written, without repetitions.
    authors: Vec<usize>,
    handles: Vec<(bool, bool, bool)>,
    had: (bool, bool),
    calls: BTreeMap<usize, Doing>,
    read_queue: VecDeque<usize>,
    write_queue: VecDeque<usize>,
    moved: (u64, u64),
    full: u64,
    high: u64,
    untold: (bool, bool),
    places: u64,
    age: (u32, u32),
    calling: (usize, usize),
}

impl Model {
    fn count(&self, which: fn(&(bool, bool, bool)) -> bool) -> u32 {
        self.handles.iter().filter(|h| h.2 && which(h)).count() as u32
    }

    fn ended(&self) -> bool {
        self.had.0 && self.count(|h| h.0) == 0 && !self.persistent && self.bytes.is_empty()
    }

    fn closed(&self) -> bool {
        self.had.1 && self.count(|h| h.1) == 0 && !self.persistent
    }

    fn room(&self) -> u64 {
        self.capacity - self.bytes.len() as u64
    }

    /// Whether a task of that side has its turn.
    fn busy(&self, reads: bool) -> bool {
        let mut calls = self.calls.values();
        calls.any(|c| c.reads() == reads && !matches!(c.state, State::Waits | State::Called))
    }

    /// Whether a call may take the turn: it has it, or it is free and nobody comes before.
    fn first(&self, call: &Doing) -> bool {
        let queue = match call.reads() {
            true => &self.read_queue,
            false => &self.write_queue,
        };
        let before = |other: &usize| {
            let other = &self.calls[other];
            call.place == 0 || other.done > 0 || other.place < call.place
        };
        call.has() || (!self.busy(call.reads()) && !queue.front().is_some_and(before))
    }

    /// Puts a call into its queue, at its place.
    fn enqueue(&mut self, id: usize, mut call: Doing) {
        if call.place == 0 {
            self.places += 1;
            call.place = self.places;
        }
        let queue = match call.reads() {
            true => &self.read_queue,
            false => &self.write_queue,
        };
        let after = |other: &&usize| {
            let other = &self.calls[*other];
            other.done > 0 || (call.done == 0 && other.place < call.place)
        };
        let at = queue.iter().take_while(after).count();
        let queue = match call.reads() {
            true => &mut self.read_queue,
            false => &mut self.write_queue,
        };
        queue.insert(at, id);
        call.state = State::Waits;
        self.calls.insert(id, call);
    }

    fn revoke(&mut self, reads: bool) {
        let given = self
            .calls
            .values_mut()
            .find(|c| c.reads() == reads && c.state == State::Given);
        let (age, calling, queue) = match reads {
            true => (&mut self.age.0, &mut self.calling.0, &self.read_queue),
            false => (&mut self.age.1, &mut self.calling.1, &self.write_queue),
        };
        match given {
            None => {}
            Some(call) => {
                *age += 1;
                if *age > if call.done > 0 { 100 } else { 1 } {
                    call.state = State::Called;
                    *calling = queue.len();
                }
            }
        }
    }

    /// Calls up those who are to be.
    fn call_up(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for reads in [true, false] {
            let (calling, queue) = match reads {
                true => (&mut self.calling.0, &mut self.read_queue),
                false => (&mut self.calling.1, &mut self.write_queue),
            };
            for _ in 0..std::mem::take(calling) {
                if queue.front().is_none_or(|id| self.calls[id].done > 0) {
                    break;
                }
                let id = queue.pop_front().expect("it is there");
                self.calls.get_mut(&id).expect("it waits").state = State::Called;
                events.push(Event::Woken(id, YOURS));
            }
        }
        events
    }

    fn free(&self, reads: bool) -> bool {
        let queue = if reads {
            &self.read_queue
        } else {
            &self.write_queue
        };
        !self.busy(reads) && queue.is_empty()
    }

    fn readable(&self) -> bool {
        !self.bytes.is_empty() && self.free(true)
    }

    fn writable(&self) -> bool {
        self.room() >= PIPE_ATOMIC && self.free(false) && !self.closed()
    }

    fn look(&mut self) -> Look {
        // Looking is asking, and who was told no has to be told when it is yes.
        self.untold.0 |= !self.free(true);
        self.untold.1 |= !self.free(false);
        Look {
            capacity: self.capacity,
            len: self.bytes.len() as u64,
            moved: self.moved,
            handles: (self.count(|h| h.1), self.count(|h| h.0)),
            waiting: (self.read_queue.len(), self.write_queue.len()),
            full: self.full,
            high: self.high,
            ended: self.ended(),
            closed: self.closed(),
            readable: self.readable(),
            writable: self.writable(),
        }
    }

    fn attempt(&mut self, id: usize) -> Event {
        let call = self.calls.remove(&id).expect("it is there");
        let (reads, left, atomic) = (call.reads(), call.left(), call.atomic());
        let has = call.has();
        if call.done > 0 && !has {
            return Event::Lost;
        }
        let over = if reads {
            self.ended() && !has
        } else {
            self.closed()
        };
        if over {
            return Event::Over;
        }
        // Others look at it while it is not in the list.
        self.calls.insert(id, call);
        let call = &self.calls[&id];
        let first = self.first(call);
        let possible = if reads {
            left.min(self.bytes.len() as u64)
        } else if atomic && left > self.room() {
            0
        } else {
            left.min(self.room())
        };
        let mut call = self.calls.remove(&id).expect("it is there");
        if first && possible > 0 {
            call.state = State::Copies(possible);
            self.calls.insert(id, call);
            return Event::Granted(possible);
        }
        if reads {
            self.untold.0 = true;
        } else {
            self.untold.1 = true;
            self.full += u64::from(!has);
        }
        if !call.wait {
            return Event::Refused;
        }
        self.enqueue(id, call);
        Event::Waits
    }

    fn settle(&mut self) -> Vec<Event> {
        let mut events = self.call_up();
        if self.ended() {
            for id in std::mem::take(&mut self.read_queue) {
                self.calls.remove(&id);
                events.push(Event::Woken(id, Turn::Over));
            }
        } else if !self.bytes.is_empty() && !self.busy(true) {
            if let Some(id) = self.read_queue.pop_front() {
                self.calls.get_mut(&id).expect("it waits").state = State::Given;
                self.age.0 = 0;
                events.push(Event::Woken(id, YOURS));
            }
        }
        if self.closed() {
            for id in std::mem::take(&mut self.write_queue) {
                self.calls.remove(&id);
                events.push(Event::Woken(id, Turn::Over));
            }
        } else if let Some(&id) = self.write_queue.front() {
            let enough = self.calls[&id].left().min(PIPE_ATOMIC) <= self.room();
            if enough && !self.busy(false) {
                self.write_queue.pop_front();
                self.calls.get_mut(&id).expect("it waits").state = State::Given;
                self.age.1 = 0;
                events.push(Event::Woken(id, YOURS));
            }
        }
        events.sort_by_key(|event| match event {
            Event::Woken(id, _) => *id,
            _ => 0,
        });
        let news = (
            self.untold.0 && self.readable(),
            self.untold.1 && self.writable(),
        );
        // Being asked again, and having said no, does not make it told.
        self.untold = (self.untold.0 && !news.0, self.untold.1 && !news.1);
        events.push(Event::News(news.0, news.1));
        events
    }

    fn step(&mut self, step: Step) -> Vec<Event> {
        match step {
            Step::Open { writes, reads } => {
                self.handles.push((writes, reads, true));
                self.had = (self.had.0 || writes, self.had.1 || reads);
                vec![]
            }
            Step::Close { handle } => {
                self.handles[handle].2 = false;
                vec![]
            }
            Step::Begin { id, call, wait } => {
                let state = State::Waits;
                let done = 0;
                self.calls.insert(
                    id,
                    Doing {
                        call,
                        done,
                        state,
                        wait,
                        place: 0,
                    },
                );
                vec![self.attempt(id)]
            }
            Step::Resume { id } => vec![self.attempt(id)],
            Step::Copied { id, well } => {
                let mut call = self.calls.remove(&id).expect("it copies");
                let State::Copies(n) = call.state else {
                    panic!("it does not copy");
                };
                if !well {
                    return vec![];
                }
                if call.reads() {
                    self.moved.0 += n;
                    self.untold.1 = true;
                    return vec![Event::Read(self.bytes.drain(..n as usize).collect())];
                }
                let range = call.done..call.done + n;
                self.bytes.extend(range.map(|at| byte(id, at)));
                if self.authors.last() != Some(&id) {
                    assert!(!self.authors.contains(&id), "write {id} was interrupted");
                    self.authors.push(id);
                }
                self.moved.1 += n;
                self.high = self.high.max(self.bytes.len() as u64);
                self.untold.0 = true;
                call.done += n;
                if call.left() > 0 {
                    call.state = State::Turn;
                    self.calls.insert(id, call);
                }
                vec![]
            }
            Step::Leave { id } => {
                self.calls.remove(&id);
                self.read_queue.retain(|other| *other != id);
                self.write_queue.retain(|other| *other != id);
                vec![]
            }
            Step::GiveUp { id } => {
                self.calls.remove(&id);
                vec![]
            }
            Step::Revoke => {
                self.revoke(true);
                self.revoke(false);
                vec![]
            }
            Step::Resize { capacity } => {
                let (reads, writes) = (!self.busy(true), !self.busy(false));
                let possible = reads && writes && self.bytes.len() as u64 <= capacity;
                if possible {
                    self.capacity = capacity;
                }
                // Somebody may have asked in between.
                self.untold.0 |= reads && writes;
                self.untold.1 |= writes;
                vec![Event::Resized(possible)]
            }
            Step::Settle => self.settle(),
        }
    }
}

// The pipe, with the ring that the kernel would have.

struct World {
    pipe: Pipe<TaskPtr>,
    now: u64,
    ring: Vec<u8>,
    handles: Vec<(bool, bool)>,
    calls: BTreeMap<usize, (Doing, Option<Region>)>,
    tasks: BTreeMap<usize, Rc<Task>>,
}

/// The places of a region.
fn places(region: Region) -> impl Iterator<Item = usize> {
    (region.at..region.at + region.first).chain(0..region.second)
}

impl World {
    fn look(&mut self) -> Look {
        Look {
            capacity: self.pipe.capacity(),
            len: self.pipe.len(),
            moved: self.pipe.moved(),
            handles: self.pipe.handles(),
            waiting: self.pipe.waiting(),
            full: self.pipe.full(),
            high: self.pipe.high(),
            ended: self.pipe.ended(),
            closed: self.pipe.closed(),
            readable: self.pipe.readable(),
            writable: self.pipe.writable(),
        }
    }

    fn attempt(&mut self, id: usize) -> Event {
        let (mut doing, _) = self.calls.remove(&id).expect("it is there");
        let (left, middle) = (doing.left(), doing.done > 0);
        let claim = if doing.reads() {
            self.pipe.begin_read(left, doing.place)
        } else {
            self.pipe
                .begin_write(left, doing.atomic(), doing.place, middle)
        };
        match claim {
            Claim::Granted(region, place) => {
                doing.place = place;
                let len = region.bytes() as u64;
                assert!(region.at + region.first <= self.ring.len());
                assert!(region.second == 0 || region.at + region.first == self.ring.len());
                let mut used = vec![false; self.ring.len()];
                let others = self.calls.values().filter_map(|(_, region)| *region);
                for place in others.chain([region]).flat_map(places) {
                    assert!(!used[place], "two have the same place");
                    used[place] = true;
                }
                doing.state = State::Copies(len);
                self.calls.insert(id, (doing, Some(region)));
                Event::Granted(len)
            }
            Claim::Wait if doing.wait => {
                let task = Task::new(id, Pipe::<TaskPtr>::wanted(left));
                let pointer = TaskPtr::new(&task);
                self.tasks.insert(id, task);
                // SAFETY: It stays in `tasks` until it is finished or has left.
                unsafe {
                    if doing.reads() {
                        self.pipe.wait_read(pointer, doing.place);
                    } else {
                        self.pipe.wait_write(pointer, doing.place, middle);
                    }
                }
                doing.state = State::Waits;
                self.calls.insert(id, (doing, None));
                Event::Waits
            }
            refused => {
                self.pipe.give_up(doing.reads(), doing.place);
                match refused {
                    Claim::Over => Event::Over,
                    Claim::Lost => Event::Lost,
                    _ => Event::Refused,
                }
            }
        }
    }

    fn copied(&mut self, id: usize, well: bool) -> Vec<Event> {
        let (mut doing, region) = self.calls.remove(&id).expect("it copies");
        let region = region.expect("it copies");
        let len = region.bytes() as u64;
        if doing.reads() {
            let read = places(region).map(|at| self.ring[at]).collect();
            let ended = self.pipe.end_read(if well { len } else { 0 }, doing.place);
            assert!(ended, "it has the turn");
            return if well {
                vec![Event::Read(read)]
            } else {
                vec![]
            };
        }
        for (at, place) in places(region).enumerate() {
            // What comes of a copy that fails is not to be seen.
            self.ring[place] = if well {
                byte(id, doing.done + at as u64)
            } else {
                0xEE
            };
        }
        if well {
            assert!(self.pipe.commit_write(len, doing.place), "it has the turn");
            doing.done += len;
        }
        if well && doing.left() > 0 {
            doing.state = State::Turn;
            self.calls.insert(id, (doing, None));
        } else {
            self.pipe.give_up(false, doing.place);
        }
        vec![]
    }

    fn settle(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(Woken { id, end }) = self.pipe.end_wait() {
            let End::Turn(turn) = end else {
                panic!("that is no turn");
            };
            let task = self.tasks.remove(&id).expect("it waits");
            assert_eq!(task.end.get(), Some(end));
            match turn {
                Turn::Yours(place) => {
                    let doing = &mut self.calls.get_mut(&id).expect("it waits").0;
                    // Given or called up makes no difference to it.
                    (doing.state, doing.place) = (State::Given, place);
                    events.push(Event::Woken(id, YOURS));
                }
                Turn::Over => {
                    self.calls.remove(&id);
                    events.push(Event::Woken(id, turn));
                }
            }
        }
        events.sort_by_key(|event| match event {
            Event::Woken(id, _) => *id,
            _ => 0,
        });
        let (readable, writable) = self.pipe.news();
        events.push(Event::News(readable, writable));
        self.pipe.due(self.now);
        events
    }

    fn step(&mut self, step: Step) -> Vec<Event> {
        match step {
            Step::Open { writes, reads } => {
                self.pipe.open(writes, reads);
                self.handles.push((writes, reads));
                vec![]
            }
            Step::Close { handle } => {
                let (writes, reads) = self.handles[handle];
                self.pipe.close(writes, reads);
                vec![]
            }
            Step::Begin { id, call, wait } => {
                let doing = Doing {
                    call,
                    done: 0,
                    state: State::Waits,
                    wait,
                    place: 0,
                };
                self.calls.insert(id, (doing, None));
                vec![self.attempt(id)]
            }
            Step::Resume { id } => vec![self.attempt(id)],
            Step::Copied { id, well } => self.copied(id, well),
            Step::Leave { id } => {
                let task = self.tasks.remove(&id).expect("it waits");
                let pointer = TaskPtr::new(&task).pointer();
                let (call, _) = self.calls.remove(&id).expect("it waits");
                // SAFETY: It waits in the list from which it is removed, and was not finished.
                let left = unsafe {
                    if call.reads() {
                        self.pipe.leave_read(pointer)
                    } else {
                        self.pipe.leave_write(pointer)
                    }
                };
                assert_eq!(left.pointer(), pointer);
                vec![]
            }
            Step::GiveUp { id } => {
                let (doing, _) = self.calls.remove(&id).expect("it was woken");
                self.pipe.give_up(doing.reads(), doing.place);
                vec![]
            }
            Step::Revoke => {
                self.now += 1;
                self.pipe.revoke(self.now);
                vec![]
            }
            Step::Resize { capacity } => {
                let Some(writes) = self.pipe.begin_turn(false, 0) else {
                    return vec![Event::Resized(false)];
                };
                let mut turns = Turns { reads: 0, writes };
                assert!(self.pipe.begin_resize(capacity, turns).is_none());
                let Some(reads) = self.pipe.begin_turn(true, 0) else {
                    self.pipe.end_turns(turns);
                    return vec![Event::Resized(false)];
                };
                turns.reads = reads;
                let parts = self.pipe.begin_resize(capacity, turns);
                let begun = parts.is_some();
                if let Some(parts) = parts {
                    // Nobody gets between.
                    assert!(!self.pipe.readable() && !self.pipe.writable());
                    let mut ring = vec![0xDD; capacity as usize];
                    let mut moved = 0;
                    for (from, to, len) in parts {
                        ring[to..to + len].copy_from_slice(&self.ring[from..from + len]);
                        moved += len as u64;
                    }
                    assert_eq!(moved, self.pipe.len());
                    assert!(self.pipe.end_resize(capacity, turns), "it has both");
                    self.ring = ring;
                }
                self.pipe.end_turns(turns);
                assert!(!self.pipe.end_resize(capacity, turns), "both have ended");
                vec![Event::Resized(begun)]
            }
            Step::Settle => self.settle(),
        }
    }
}

// Both together.

struct Pair {
    model: Model,
    world: World,
    next: usize,
}

impl Pair {
    fn new(capacity: u64, persistent: bool) -> Self {
        Self {
            model: Model {
                capacity,
                persistent,
                ..Model::default()
            },
            world: World {
                pipe: Pipe::new(capacity, persistent),
                now: 1,
                ring: vec![0xDD; capacity as usize],
                handles: Vec::new(),
                calls: BTreeMap::new(),
                tasks: BTreeMap::new(),
            },
            next: 0,
        }
    }

    /// With one handle that writes and one that reads.
    fn open(capacity: u64) -> Self {
        let mut pair = Self::new(capacity, false);
        for writes in [true, false] {
            let reads = !writes;
            pair.step(Step::Open { writes, reads });
        }
        pair
    }

    fn number(&mut self) -> usize {
        self.next += 1;
        self.next
    }

    fn step(&mut self, step: Step) -> Vec<Event> {
        let mut expected = self.model.step(step);
        let seen = self.world.step(step);
        assert_eq!(seen, expected, "{step:?}");
        self.end_without_turn();
        assert_eq!(self.world.look(), self.model.look(), "after {step:?}");
        if step == Step::Settle {
            self.check();
        }
        expected.retain(|event| !matches!(event, Event::News(..)));
        expected
    }

    /// Those who have no turn, or one that they have not begun, try to end or commit one. Nothing
    /// may come of it, as the comparison with the model shows.
    fn end_without_turn(&mut self) {
        for (id, call) in &self.model.calls {
            let pipe = &mut self.world.pipe;
            let place = self.world.calls[id].0.place;
            let mut turns = Turns::default();
            match call.reads() {
                true => turns.reads = place,
                false => turns.writes = place,
            }
            let begun = match call.state {
                State::Waits | State::Called => {
                    pipe.give_up(call.reads(), place);
                    false
                }
                State::Given => false,
                State::Turn | State::Copies(_) => true,
            };
            if !begun && call.reads() {
                assert!(call.state == State::Given || !pipe.end_read(0, place));
            } else if !begun {
                assert!(!pipe.commit_write(0, place));
            } else if !call.reads() {
                assert!(!pipe.commit_write(u64::MAX / 2, place), "no such room");
            }
            assert!(!pipe.end_resize(1 << 20, turns));
        }
    }

    /// A step, and what a caller does after it.
    fn done(&mut self, step: Step) -> Vec<Event> {
        let mut events = self.step(step);
        events.extend(self.step(Step::Settle));
        events
    }

    fn begin(&mut self, call: Call, wait: bool) -> (usize, Event) {
        let id = self.number();
        let mut events = self.done(Step::Begin { id, call, wait });
        (id, events.remove(0))
    }

    /// Nobody waits for what is there.
    fn check(&self) {
        let model = &self.model;
        let look = &self.world.pipe;
        if !model.read_queue.is_empty() {
            assert!(model.busy(true) || (model.bytes.is_empty() && !look.ended()));
        }
        if let Some(first) = model.write_queue.front() {
            assert!(!look.closed());
            let wants = model.calls[first].left().min(PIPE_ATOMIC);
            assert!(model.busy(false) || wants > model.room());
        }
    }

    fn resolve(&mut self, op: Op) -> Option<Step> {
        let model = &self.model;
        let calls = |which: fn(&State) -> bool| -> Vec<usize> {
            let found = model.calls.iter().filter(|(_, c)| which(&c.state));
            found.map(|(id, _)| *id).collect()
        };
        let open = |which: fn(&(bool, bool, bool)) -> bool| {
            let handles = model.handles.iter().enumerate();
            let found = handles.filter(|(_, h)| h.2 && which(h));
            found.map(|(at, _)| at).collect::<Vec<_>>()
        };
        Some(match op {
            Op::Open { writes, reads } if open(|_| true).len() < 5 => Step::Open { writes, reads },
            Op::Open { .. } => return None,
            Op::Close { which } => {
                let handle = *pick(&open(|_| true), which)?;
                let (writes, reads, _) = model.handles[handle];
                // A call keeps the handle that it came through: of each side one stays.
                let used = |side: bool| model.calls.values().any(|c| c.reads() == side);
                if (reads && used(true) && open(|h| h.1).len() == 1)
                    || (writes && used(false) && open(|h| h.0).len() == 1)
                {
                    return None;
                }
                Step::Close { handle }
            }
            Op::Begin { call, wait } => {
                let (writes, reads) = match call {
                    Call::Read { .. } => (false, true),
                    Call::Write { .. } => (true, false),
                };
                if open(if reads { |h| h.1 } else { |h| h.0 }).is_empty() {
                    return Some(Step::Open { writes, reads });
                }
                Step::Begin {
                    id: self.number(),
                    call,
                    wait,
                }
            }
            Op::Resume { which } => Step::Resume {
                id: *pick(
                    &calls(|s| matches!(s, State::Given | State::Called | State::Turn)),
                    which,
                )?,
            },
            Op::Copied { which, well } => Step::Copied {
                id: *pick(&calls(|s| matches!(s, State::Copies(_))), which)?,
                well,
            },
            Op::Leave { which } => Step::Leave {
                id: *pick(&calls(|s| *s == State::Waits), which)?,
            },
            Op::GiveUp { which } => Step::GiveUp {
                id: *pick(&calls(|s| matches!(s, State::Given | State::Called)), which)?,
            },
            Op::Revoke => Step::Revoke,
            Op::Resize { capacity } => Step::Resize { capacity },
        })
    }

    /// Ends everything: whoever reads gets every byte, and nobody is left.
    fn drain(mut self) {
        self.step(Step::Settle);
        for op in [
            Op::Resume { which: 0 },
            Op::Copied {
                which: 0,
                well: true,
            },
        ]
        .iter()
        .cycle()
        .take(4000)
        {
            if let Some(step) = self.resolve(*op) {
                self.done(step);
            }
            if self.model.calls.values().all(|c| c.state == State::Waits) {
                if self.model.bytes.is_empty() {
                    break;
                }
                if !self.model.handles.iter().any(|h| h.1 && h.2) {
                    let (writes, reads) = (false, true);
                    self.done(Step::Open { writes, reads });
                }
                self.begin(Call::Read { len: 5000 }, false);
            }
        }
        assert_eq!(self.model.bytes.len(), 0);
        assert_eq!(self.model.moved.0, self.model.moved.1);
        // What waits is all on one side, and with the other's end it goes, too.
        let calls: Vec<bool> = self.model.calls.values().map(Doing::reads).collect();
        assert!(calls.iter().all(|reads| *reads), "writers wait for nothing");
        for handle in 0..self.model.handles.len() {
            let (writes, _, open) = self.model.handles[handle];
            if open && writes {
                self.done(Step::Close { handle });
            }
        }
        if !self.model.persistent && self.model.had.0 {
            assert_eq!(self.model.calls.len(), 0);
        }
        while let Some(step) = self.resolve(Op::Leave { which: 0 }) {
            self.done(step);
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Open { writes: bool, reads: bool },
    Close { which: usize },
    Begin { call: Call, wait: bool },
    Resume { which: usize },
    Copied { which: usize, well: bool },
    Leave { which: usize },
    GiveUp { which: usize },
    Revoke,
    Resize { capacity: u64 },
}

fn capacity() -> impl Strategy<Value = u64> {
    prop_oneof![Just(4096), Just(8192), Just(16384)]
}

fn op() -> impl Strategy<Value = Op> {
    let which = || 0..8_usize;
    let len = || prop_oneof![1..=20_u64, 4090..=4100_u64, 1..=12_000_u64];
    let call = prop_oneof![
        3 => len().prop_map(|len| Call::Read { len }),
        4 => len().prop_map(|len| Call::Write { len }),
    ];
    prop_oneof![
        2 => prop_oneof![Just((true, false)), Just((false, true)), Just((true, true))]
            .prop_map(|(writes, reads)| Op::Open { writes, reads }),
        2 => which().prop_map(|which| Op::Close { which }),
        14 => (call, prop::bool::weighted(0.7)).prop_map(|(call, wait)| Op::Begin { call, wait }),
        8 => which().prop_map(|which| Op::Resume { which }),
        14 => (which(), prop::bool::weighted(0.85))
            .prop_map(|(which, well)| Op::Copied { which, well }),
        3 => which().prop_map(|which| Op::Leave { which }),
        1 => which().prop_map(|which| Op::GiveUp { which }),
        6 => Just(Op::Revoke),
        2 => capacity().prop_map(|capacity| Op::Resize { capacity }),
    ]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn pipe_does_as_the_model(
        capacity in capacity(),
        persistent in prop::bool::weighted(0.2),
        ops in prop::collection::vec((op(), prop::bool::weighted(0.9)), 1..100),
    ) {
        let mut pair = Pair::new(capacity, persistent);
        for (op, settle) in ops {
            if let Some(step) = pair.resolve(op) {
                pair.step(step);
            }
            if settle {
                pair.step(Step::Settle);
            }
        }
        pair.drain();
    }
}

// Single cases.

const K4: u64 = PIPE_ATOMIC;

fn write(len: u64) -> Call {
    Call::Write { len }
}

fn read(len: u64) -> Call {
    Call::Read { len }
}

#[test]
fn a_read_gets_what_is_there() {
    let mut pair = Pair::open(K4);
    let (writer, granted) = pair.begin(write(10), false);
    assert_eq!(granted, Event::Granted(10));
    let well = true;
    pair.done(Step::Copied { id: writer, well });
    let (reader, granted) = pair.begin(read(100), true);
    assert_eq!(granted, Event::Granted(10));
    let bytes = (0..10).map(|at| byte(writer, at)).collect();
    let id = reader;
    assert_eq!(pair.done(Step::Copied { id, well }), [Event::Read(bytes)]);
    assert_eq!(pair.begin(read(1), false).1, Event::Refused);
}

#[test]
fn a_small_write_goes_in_whole_or_not_at_all() {
    let mut pair = Pair::open(K4);
    let (id, granted) = pair.begin(write(K4 - 1), false);
    assert_eq!(granted, Event::Granted(K4 - 1));
    pair.done(Step::Copied { id, well: true });
    assert_eq!(pair.begin(write(2), false).1, Event::Refused);
    let (id, granted) = pair.begin(write(1), false);
    assert_eq!(granted, Event::Granted(1));
    pair.done(Step::Copied { id, well: true });
    // A large one takes what there is.
    let (id, granted) = pair.begin(read(7), false);
    assert_eq!(granted, Event::Granted(7));
    pair.done(Step::Copied { id, well: true });
    assert_eq!(pair.begin(write(K4), false).1, Event::Refused);
    let (id, granted) = pair.begin(write(K4 + 1), false);
    assert_eq!(granted, Event::Granted(7));
    pair.done(Step::Copied { id, well: true });
    assert_eq!(pair.step(Step::Resume { id }), [Event::Refused]);
}

#[test]
fn nothing_comes_between_the_pieces_of_a_large_write() {
    let mut pair = Pair::open(K4);
    let well = true;
    let (large, granted) = pair.begin(write(2 * K4), true);
    assert_eq!(granted, Event::Granted(K4));
    pair.done(Step::Copied { id: large, well });
    assert_eq!(pair.step(Step::Resume { id: large }), [Event::Waits]);
    let (small, waits) = pair.begin(write(1), true);
    assert_eq!(waits, Event::Waits);
    let (id, _) = pair.begin(read(10), false);
    pair.done(Step::Copied { id, well });
    // There is room for the small one; it is not its turn.
    assert_eq!(pair.begin(write(1), false).1, Event::Refused);
    let (id, granted) = pair.begin(read(K4), false);
    assert_eq!(granted, Event::Granted(K4 - 10));
    let events = pair.done(Step::Copied { id, well });
    assert_eq!(events[1..], [Event::Woken(large, YOURS)]);
    assert_eq!(pair.step(Step::Resume { id: large }), [Event::Granted(K4)]);
    assert_eq!(pair.done(Step::Copied { id: large, well }), []);
    let (id, _) = pair.begin(read(1), false);
    let events = pair.done(Step::Copied { id, well });
    assert_eq!(events[1..], [Event::Woken(small, YOURS)]);
}

#[test]
fn who_faults_leaves_the_bytes_and_the_turn() {
    let mut pair = Pair::open(K4);
    let (id, _) = pair.begin(write(10), false);
    assert_eq!(pair.begin(read(10), false).1, Event::Refused);
    pair.done(Step::Copied { id, well: false });
    assert_eq!(pair.world.pipe.len(), 0);
    let (id, _) = pair.begin(write(10), false);
    pair.done(Step::Copied { id, well: true });
    let (first, granted) = pair.begin(read(4), true);
    assert_eq!(granted, Event::Granted(4));
    let (second, waits) = pair.begin(read(4), true);
    assert_eq!(waits, Event::Waits);
    let (id, well) = (first, false);
    let events = pair.done(Step::Copied { id, well });
    assert_eq!(events, [Event::Woken(second, YOURS)]);
    let id = second;
    assert_eq!(pair.step(Step::Resume { id }), [Event::Granted(4)]);
}

#[test]
fn the_end_reaches_everybody_who_waits() {
    let mut pair = Pair::open(K4);
    let first = pair.begin(read(1), true).0;
    let second = pair.begin(read(1), true).0;
    let events = pair.done(Step::Close { handle: 0 });
    let over = [first, second].map(|id| Event::Woken(id, Turn::Over));
    assert_eq!(events, over);
    assert_eq!(pair.begin(read(1), true).1, Event::Over);
    // A writer that comes back makes it a pipe again.
    let (writes, reads) = (true, false);
    pair.done(Step::Open { writes, reads });
    assert_eq!(pair.begin(read(1), true).1, Event::Waits);
}

#[test]
fn who_is_gone_for_the_writers_is_told_to_all_of_them() {
    let mut pair = Pair::open(K4);
    let (id, _) = pair.begin(write(K4), false);
    pair.done(Step::Copied { id, well: true });
    let first = pair.begin(write(1), true).0;
    let second = pair.begin(write(9000), true).0;
    let events = pair.done(Step::Close { handle: 1 });
    let over = [first, second].map(|id| Event::Woken(id, Turn::Over));
    assert_eq!(events, over);
    assert_eq!(pair.begin(write(1), false).1, Event::Over);
}

#[test]
fn before_the_first_peer_writers_fill_and_readers_wait() {
    let mut pair = Pair::new(K4, false);
    let (writes, reads) = (true, false);
    pair.done(Step::Open { writes, reads });
    let (id, granted) = pair.begin(write(K4), false);
    assert_eq!(granted, Event::Granted(K4));
    pair.done(Step::Copied { id, well: true });
    assert_eq!(pair.begin(write(1), true).1, Event::Waits);

    let mut pair = Pair::new(K4, false);
    let (writes, reads) = (false, true);
    pair.done(Step::Open { writes, reads });
    assert_eq!(pair.begin(read(1), true).1, Event::Waits);
}

#[test]
fn a_copy_forbids_another_size() {
    let mut pair = Pair::open(2 * K4);
    let (id, _) = pair.begin(write(K4 + 10), false);
    let capacity = 4 * K4;
    assert_eq!(
        pair.done(Step::Resize { capacity }),
        [Event::Resized(false)]
    );
    pair.done(Step::Copied { id, well: true });
    let less = Step::Resize { capacity: K4 };
    assert_eq!(pair.done(less), [Event::Resized(false)]);
    let waiting = pair.begin(write(K4), true).0;
    let events = pair.done(Step::Resize { capacity });
    let woken = Event::Woken(waiting, YOURS);
    assert_eq!(events, [Event::Resized(true), woken]);
}

#[test]
fn pollers_hear_of_what_a_copy_hid() {
    let mut pair = Pair::open(2 * K4);
    let news = |pair: &mut Pair| pair.world.pipe.news();
    let (id, _) = pair.begin(write(10), false);
    assert!(!pair.world.pipe.writable());
    pair.world.copied(id, true);
    assert_eq!(news(&mut pair), (true, true));
    assert_eq!(news(&mut pair), (false, false));
    let Claim::Granted(region, held) = pair.world.pipe.begin_read(4, 0) else {
        panic!("there are bytes");
    };
    let (at, first, second) = (0, 4, 0);
    assert_eq!(region, Region { at, first, second });
    assert!(!pair.world.pipe.readable());
    assert!(pair.world.pipe.end_read(4, held));
    assert_eq!(news(&mut pair), (true, true));
    assert!(pair.world.pipe.readable() && pair.world.pipe.writable());
}

#[test]
fn given_turn_not_begun_goes_to_next_waiter() {
    let mut pair = Pair::open(K4);
    let stopped = pair.begin(read(4), true).0;
    let waits = pair.begin(read(4), true).0;
    let (id, _) = pair.begin(write(10), false);
    let well = true;
    let events = pair.done(Step::Copied { id, well });
    assert_eq!(events, [Event::Woken(stopped, YOURS)]);
    assert_eq!(pair.done(Step::Revoke), []);
    let events = pair.done(Step::Revoke);
    assert_eq!(events, [Event::Woken(waits, YOURS)]);
    let id = waits;
    assert_eq!(pair.step(Step::Resume { id }), [Event::Granted(4)]);
    // A turn that has begun is not taken back, and the stopped one keeps its place.
    pair.done(Step::Revoke);
    pair.done(Step::Revoke);
    let later = pair.begin(read(4), true).0;
    assert_eq!(pair.step(Step::Resume { id: stopped }), [Event::Waits]);
    let events = pair.done(Step::Copied { id, well });
    assert_eq!(events[1..], [Event::Woken(stopped, YOURS)]);
    pair.step(Step::Resume { id: stopped });
    let id = stopped;
    let events = pair.done(Step::Copied { id, well });
    assert_eq!(events[1..], [Event::Woken(later, YOURS)]);
}

#[test]
fn turn_revoked_between_pieces_ends_the_write() {
    let mut pair = Pair::open(K4);
    let well = true;
    let (large, _) = pair.begin(write(2 * K4), true);
    pair.done(Step::Copied { id: large, well });
    pair.step(Step::Resume { id: large });
    let (id, _) = pair.begin(read(K4), false);
    let events = pair.done(Step::Copied { id, well });
    assert_eq!(events[1..], [Event::Woken(large, YOURS)]);
    for _ in 0..100 {
        pair.done(Step::Revoke);
    }
    assert_eq!(pair.begin(write(1), false).1, Event::Refused);
    pair.done(Step::Revoke);
    assert_eq!(pair.begin(write(1), false).1, Event::Granted(1));
    assert_eq!(pair.step(Step::Resume { id: large }), [Event::Lost]);
}

#[test]
fn revoked_writer_after_close_leaves_the_turn() {
    let mut pair = Pair::open(K4);
    let well = true;
    let (large, _) = pair.begin(write(2 * K4), true);
    pair.done(Step::Copied { id: large, well });
    assert_eq!(pair.step(Step::Resume { id: large }), [Event::Waits]);
    let (second, waits) = pair.begin(write(K4), true);
    assert_eq!(waits, Event::Waits);
    let (id, _) = pair.begin(read(K4), false);
    let events = pair.done(Step::Copied { id, well });
    assert_eq!(events[1..], [Event::Woken(large, YOURS)]);
    for _ in 0..100 {
        assert_eq!(pair.done(Step::Revoke), []);
    }
    assert_eq!(pair.done(Step::Revoke), [Event::Woken(second, YOURS)]);
    let id = second;
    assert_eq!(pair.step(Step::Resume { id }), [Event::Granted(K4)]);
    pair.done(Step::Close { handle: 1 });
    let id = large;
    assert_eq!(pair.done(Step::Resume { id }), [Event::Lost]);
    // The second writer still copies: no other ring, and no other writer.
    let capacity = 2 * K4;
    let resized = pair.done(Step::Resize { capacity });
    assert_eq!(resized, [Event::Resized(false)]);
    let (writes, reads) = (false, true);
    pair.done(Step::Open { writes, reads });
    assert_eq!(pair.begin(write(1), false).1, Event::Refused);
    pair.done(Step::Copied { id: second, well });
    let (id, granted) = pair.begin(read(2 * K4), false);
    assert_eq!(granted, Event::Granted(K4));
    pair.done(Step::Copied { id, well });
    let resized = pair.done(Step::Resize { capacity });
    assert_eq!(resized, [Event::Resized(true)]);
}
