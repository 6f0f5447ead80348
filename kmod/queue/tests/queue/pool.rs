// SPDX-License-Identifier: GPL-2.0
//! The lease table in single cases, and under random operations beside a plain model.

use crate::task::{config, pick, End, Task, TaskPtr};
use postbox_queue::{Block, Flight, Flying, Holder, Lease, Pool, Refusal, SHARES_MAX};
use proptest::prelude::*;
use std::{collections::VecDeque, rc::Rc};

type Table = Pool<Vec<Block>, Vec<Lease>, TaskPtr>;

fn table(blocks: usize, more: usize) -> Table {
    Pool::new(vec![Block::NEW; blocks], vec![Lease::NEW; blocks + more])
}

fn holder(handle: usize, process: u64) -> Holder {
    Holder { handle, process }
}

const A: Holder = Holder {
    handle: 1,
    process: 10,
};
const B: Holder = Holder {
    handle: 2,
    process: 20,
};

/// A flight of these blocks.
#[track_caller]
fn send(table: &mut Table, from: Holder, blocks: &[u32], share: bool) -> Flight {
    let mut flight = table.begin();
    for &block in blocks {
        let len = u64::from(block) + 100;
        assert_eq!(table.embark(&mut flight, from, block, len, share), Ok(()));
    }
    assert_eq!(flight.count() as usize, blocks.len());
    flight
}

fn look(table: &Table, flight: &Flight) -> Vec<Flying> {
    let mut at = None;
    std::iter::from_fn(|| table.look(flight, &mut at)).collect()
}

#[test]
fn blocks_are_lent_until_none_is_left() {
    let mut table = table(2, 0);
    let (first, second) = (table.loan(A).unwrap(), table.loan(B).unwrap());
    assert_ne!(first, second);
    assert!(!table.available());
    assert_eq!(table.loan(A), None);
    assert!(!table.give_back(A, second), "another's");
    assert!(!table.give_back(A, 7), "no such block");
    assert!(table.give_back(A, first));
    assert!(!table.give_back(A, first), "given back already");
    assert_eq!(table.loan(B), Some(first));
}

#[test]
fn half_of_the_blocks_is_kept_for_who_needs_one_now() {
    let mut table = table(4, 0);
    assert!(table.loan(A).is_some() && table.loan_ahead(A).is_some());
    assert!(table.loan_ahead(A).is_some());
    assert_eq!(table.loan_ahead(A), None);
    assert!(table.loan(A).is_some());
}

#[test]
fn a_lease_goes_with_the_message() {
    let mut table = table(3, 0);
    let blocks = [table.loan(A).unwrap(), table.loan(A).unwrap()];
    let flight = send(&mut table, A, &blocks, false);
    assert!(!table.give_back(A, blocks[0]), "it is under way");
    let mut again = table.begin();
    let twice = table.embark(&mut again, A, blocks[0], 1, false);
    assert_eq!(twice, Err(Refusal::NotHeld));
    let seen = look(&table, &flight);
    let expected = blocks.map(|block| Flying {
        block,
        len: u64::from(block) + 100,
        shared: false,
    });
    assert_eq!(seen, expected);
    // The receiver may be faster than the sender.
    table.receive(&flight, Some(B));
    table.sent(&flight);
    assert_eq!(table.reclaim(&flight, Some(A)), None);
    table.lose(&flight);
    assert_eq!(look(&table, &flight), []);
    assert!(table.give_back(B, blocks[0]) && table.give_back(B, blocks[1]));
    assert_eq!((table.free(), table.leases()), (3, 0));
}

#[test]
fn a_failed_send_gives_the_lease_back_and_a_freed_message_the_block() {
    for lost_first in [false, true] {
        let mut table = table(1, 0);
        let block = table.loan(A).unwrap();
        let flight = send(&mut table, A, &[block], false);
        if lost_first {
            table.lose(&flight);
            assert_eq!(table.free(), 0, "the sender may get it back");
        }
        assert_eq!(table.reclaim(&flight, Some(A)), Some(1));
        table.lose(&flight);
        assert_eq!(table.free(), 0);
        let flight = send(&mut table, A, &[block], false);
        if lost_first {
            table.lose(&flight);
            table.sent(&flight);
        } else {
            table.sent(&flight);
            table.lose(&flight);
        }
        assert_eq!((table.free(), table.counters().flying), (1, 0));
    }
}

#[test]
fn who_can_have_nothing_any_more_gets_nothing() {
    let mut table = table(2, 0);
    let block = table.loan(A).unwrap();
    let flight = send(&mut table, A, &[block], false);
    assert_eq!(table.reclaim(&flight, None), Some(0));
    let block = table.loan(A).unwrap();
    let flight = send(&mut table, A, &[block], false);
    table.receive(&flight, None);
    assert_eq!((table.free(), table.leases()), (2, 0));
}

#[test]
fn a_shared_block_is_free_when_the_last_has_given_it_back() {
    let mut table = table(1, 2);
    let block = table.loan(A).unwrap();
    let (one, two) = (
        send(&mut table, A, &[block], true),
        send(&mut table, A, &[block], true),
    );
    assert!(look(&table, &one)[0].shared);
    let mut third = table.begin();
    let more = table.embark(&mut third, A, block, 1, true);
    assert_eq!(more, Err(Refusal::TooMany));
    table.receive(&one, Some(B));
    table.sent(&one);
    table.sent(&two);
    assert!(table.give_back(A, block));
    table.lose(&two);
    assert_eq!((table.free(), table.leases()), (0, 1));
    assert!(table.give_back(B, block));
    assert_eq!(table.free(), 1);
}

#[test]
fn sharing_never_takes_what_a_loan_needs() {
    let mut table = table(2, 0);
    let block = table.loan(A).unwrap();
    let mut flight = table.begin();
    let shared = table.embark(&mut flight, A, block, 1, true);
    assert_eq!(shared, Err(Refusal::TooMany));
    assert_eq!(table.reclaim(&flight, Some(A)), Some(0));
    assert!(table.loan(A).is_some());
}

#[test]
fn so_many_can_share_a_block() {
    let mut table = table(1, 2 * SHARES_MAX as usize);
    let block = table.loan(A).unwrap();
    for _ in 1..SHARES_MAX {
        let flight = send(&mut table, A, &[block], true);
        table.receive(&flight, Some(B));
    }
    let mut flight = table.begin();
    let more = table.embark(&mut flight, A, block, 1, true);
    assert_eq!(more, Err(Refusal::TooMany));
    for _ in 1..SHARES_MAX {
        assert!(table.give_back(B, block));
    }
    assert!(!table.give_back(B, block));
    assert!(table.give_back(A, block));
    assert_eq!(table.free(), 1);
}

#[test]
fn blocks_of_the_dead_are_free_and_those_of_others_are_not() {
    let mut table = table(600, 600);
    let other = holder(A.handle, 11);
    let mut kept = Vec::new();
    for i in 0..600 {
        let block = table.loan(if i % 3 == 0 { other } else { A }).unwrap();
        if i % 3 == 0 {
            kept.push(block);
        } else if i % 3 == 1 {
            let flight = send(&mut table, A, &[block], true);
            table.receive(&flight, Some(B));
        }
    }
    assert!(settle(&mut table, A, |_| {}) > 1, "in parts");
    assert_eq!(table.free(), 200, "what is not shared");
    assert!(kept.iter().all(|block| table.give_back(other, *block)));
    settle(&mut table, B, |_| {});
    assert_eq!((table.free(), table.leases()), (600, 0));
}

/// Reclaims what a holder has, with `between` after each hold of the lock. Returns how many holds
/// there were.
#[track_caller]
fn settle(table: &mut Table, holder: Holder, mut between: impl FnMut(&mut Table)) -> usize {
    let mut left = table.leases();
    for holds in 1..=10_000 {
        if table.settle(holder, &mut left) {
            return holds;
        }
        between(table);
    }
    panic!("10,000 holds of the lock, and {holder:?} is not settled");
}

#[test]
fn settle_ends_while_others_give_back_and_borrow() {
    let mut table = table(512, 64);
    // The leases of another holder, the newest first, of which one is given back and another one
    // borrowed after each hold, at every distance from the newest.
    let mut leases: Vec<u32> = (0..300).map(|_| table.loan(A).unwrap()).collect();
    leases.reverse();
    for at in [0, 255, 256, 257, 299] {
        let mut churn = |table: &mut Table| {
            assert!(table.give_back(A, leases.remove(at)));
            leases.insert(0, table.loan(A).unwrap());
        };
        // So many that hold nothing that one of them is found next to the other holder in every
        // order that depends on a hash.
        for handle in 1..4096 {
            let empty = holder(1 << 20 | handle << 11, 20);
            assert_eq!(settle(&mut table, empty, &mut churn), 1);
        }
        let held: Vec<u32> = (0..100).map(|_| table.loan(B).unwrap()).collect();
        assert!(settle(&mut table, B, &mut churn) <= held.len());
        assert!(!held.iter().any(|&block| table.give_back(B, block)));
    }
    assert_eq!(table.leases(), 300);
}

#[test]
fn settle_ends_while_the_same_holder_borrows() {
    let mut table = table(512, 64);
    let held: Vec<u32> = (0..200).map(|_| table.loan(A).unwrap()).collect();
    let other = table.loan(B).unwrap();
    let mut lent = Vec::new();
    let holds = settle(&mut table, A, |table| {
        lent.extend((0..40).map_while(|_| table.loan(A)));
    });
    assert!(holds > 1, "in parts");
    assert!(lent.len() > held.len(), "more than it had");
    // What is left is settled when the holder goes again.
    assert!(table.leases() > 1);
    settle(&mut table, A, |_| {});
    assert!(!(0..512).any(|block| table.give_back(A, block)));
    assert!(table.give_back(B, other));
    assert_eq!((table.leases(), table.free()), (0, 512));
}

#[test]
fn settle_ends_all_leases_of_a_shared_block() {
    let mut table = table(2, 100);
    let (block, other) = (table.loan(A).unwrap(), table.loan(A).unwrap());
    for i in 0..90 {
        let flight = send(&mut table, A, &[block], true);
        table.receive(&flight, Some(if i % 3 == 0 { A } else { B }));
    }
    let flight = send(&mut table, A, &[other], false);
    settle(&mut table, A, |_| {});
    assert_eq!((table.leases(), table.free()), (61, 0));
    assert!(!table.give_back(A, block));
    settle(&mut table, B, |_| {});
    assert_eq!((table.leases(), table.free()), (1, 1), "what is in flight");
    table.receive(&flight, Some(A));
    assert!(table.give_back(A, other));
}

#[test]
fn who_waits_is_served_in_order_and_nobody_overtakes() {
    let mut table = table(1, 0);
    let block = table.loan(A).unwrap();
    let tasks = [Task::new(0, 0), Task::new(1, 0), Task::new(2, 0)];
    for task in &tasks {
        // SAFETY: `tasks` stays until the end.
        unsafe { table.wait(TaskPtr::new(task)) };
    }
    assert!(table.settled() && table.grant().is_none());
    assert!(table.give_back(A, block));
    assert!(!table.settled() && !table.available());
    assert_eq!(table.loan(A), None);
    // SAFETY: It waits.
    unsafe { table.leave(TaskPtr::new(&tasks[0]).pointer()) };
    let woken = table.grant().unwrap();
    assert_eq!(woken.id, 1);
    let End::Lent(flight) = woken.end else {
        panic!("{woken:?}");
    };
    assert!(table.grant().is_none());
    table.receive(&flight, Some(B));
    assert!(table.give_back(B, block));
    // One that cannot have it any more.
    let woken = table.grant().unwrap();
    let End::Lent(flight) = woken.end else {
        panic!("{woken:?}");
    };
    table.receive(&flight, None);
    assert_eq!((table.free(), table.waiting()), (1, 0));
}

// The model: a list of leases, each with a place.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Held(Holder),
    Flying(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Sending,
    Sent,
    Lost,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Loan(usize, bool),
    GiveBack(usize, u32),
    Send(usize, usize, bool),
    Sent(usize),
    Lose(usize),
    Receive(usize, Option<usize>),
    Reclaim(usize, bool),
    Settle(usize, bool),
    Wait,
    Leave(usize),
}

struct ModelFlight {
    flight: Flight,
    from: Holder,
    phase: Phase,
    /// Indices of blocks, in order, and whether a copy was made.
    blocks: Vec<(u32, bool)>,
    landed: bool,
}

#[derive(Default)]
struct Model {
    blocks: u32,
    room: usize,
    /// Block and place.
    leases: Vec<(u32, Place)>,
    flights: Vec<ModelFlight>,
    waiting: VecDeque<usize>,
}

impl Model {
    fn free(&self) -> u32 {
        (0..self.blocks)
            .filter(|block| self.count(*block) == 0)
            .count() as u32
    }

    fn count(&self, block: u32) -> usize {
        self.leases.iter().filter(|lease| lease.0 == block).count()
    }

    fn remove(&mut self, block: u32, place: Place) -> bool {
        let found = self
            .leases
            .iter()
            .position(|lease| *lease == (block, place));
        found.map(|at| self.leases.swap_remove(at)).is_some()
    }

    /// Ends a flight: each lease goes to a holder, or nowhere.
    fn land(&mut self, which: usize, to: impl Fn(bool) -> Option<Holder>) -> u32 {
        let mut held = 0;
        self.flights[which].landed = true;
        for (block, copy) in self.flights[which].blocks.clone() {
            assert!(self.remove(block, Place::Flying(which)));
            if let Some(holder) = to(copy) {
                self.leases.push((block, Place::Held(holder)));
                held += 1;
            }
        }
        held
    }
}

const HOLDERS: [Holder; 4] = [
    A,
    B,
    Holder {
        handle: 1,
        process: 11,
    },
    Holder {
        handle: 2,
        process: 10,
    },
];

fn op() -> impl Strategy<Value = Op> {
    let who = || 0..HOLDERS.len();
    let which = || 0..64_usize;
    prop_oneof![
        6 => (who(), prop::bool::weighted(0.3)).prop_map(|(who, ahead)| Op::Loan(who, ahead)),
        4 => (who(), 0..7_u32).prop_map(|(who, block)| Op::GiveBack(who, block)),
        6 => (who(), which(), any::<bool>()).prop_map(|(who, n, share)| Op::Send(who, n, share)),
        4 => which().prop_map(Op::Sent),
        4 => which().prop_map(Op::Lose),
        5 => (which(), prop::option::weighted(0.8, who())).prop_map(|(n, to)| Op::Receive(n, to)),
        3 => (which(), prop::bool::weighted(0.8)).prop_map(|(n, alive)| Op::Reclaim(n, alive)),
        2 => (who(), any::<bool>()).prop_map(|(who, all)| Op::Settle(who, all)),
        2 => Just(Op::Wait),
        1 => which().prop_map(Op::Leave),
    ]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn pool_does_as_the_model(
        blocks in 1..=6_usize,
        more in 0..=8_usize,
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let mut table = table(blocks, more);
        let mut model = Model {
            blocks: blocks as u32,
            room: blocks + more,
            ..Model::default()
        };
        let mut tasks: Vec<Rc<Task>> = Vec::new();
        for op in ops {
            match op {
                Op::Loan(who, ahead) => {
                    let holder = HOLDERS[who];
                    let enough = !ahead || model.free() >= model.blocks / 2;
                    let can = model.free() > 0 && model.waiting.is_empty() && enough;
                    let lent = if ahead { table.loan_ahead(holder) } else { table.loan(holder) };
                    prop_assert_eq!(lent.is_some(), can);
                    if let Some(block) = lent {
                        prop_assert_eq!(model.count(block), 0, "it was free");
                        model.leases.push((block, Place::Held(holder)));
                    }
                }
                Op::GiveBack(who, block) => {
                    let had = model.remove(block, Place::Held(HOLDERS[who]));
                    prop_assert_eq!(table.give_back(HOLDERS[who], block), had);
                }
                Op::Send(who, n, share) => {
                    let from = HOLDERS[who];
                    let which = model.flights.len();
                    let mut flight = table.begin();
                    let mut sent = Vec::new();
                    let mut refused = false;
                    // Some of the blocks, and now and then one that it does not have.
                    for block in (0..7).filter(|block| n >> block & 1 != 0) {
                        let held = model.leases.contains(&(block, Place::Held(from)));
                        let room = model.room - model.leases.len() > model.free() as usize;
                        let expected = match (held, share && !room) {
                            (false, _) => Err(Refusal::NotHeld),
                            (true, true) => Err(Refusal::TooMany),
                            (true, false) => Ok(()),
                        };
                        let result = table.embark(&mut flight, from, block, 7, share);
                        prop_assert_eq!(result, expected);
                        if result.is_err() {
                            refused = true;
                            break;
                        }
                        if !share {
                            model.remove(block, Place::Held(from));
                        }
                        model.leases.push((block, Place::Flying(which)));
                        sent.push((block, share));
                    }
                    model.flights.push(ModelFlight {
                        flight,
                        from,
                        phase: Phase::Sending,
                        landed: sent.is_empty(),
                        blocks: sent,
                    });
                    if refused {
                        let landed = model.flights[which].landed;
                        let held = if landed { 0 } else {
                            model.land(which, |copy| (!copy).then_some(from))
                        };
                        prop_assert_eq!(table.reclaim(&flight, Some(from)), Some(held));
                    }
                }
                Op::Sent(n) | Op::Lose(n) | Op::Receive(n, _) | Op::Reclaim(n, _) => {
                    let which: Vec<_> = (0..model.flights.len()).collect();
                    let Some(&which) = pick(&which, n) else { continue };
                    let (flight, from) = (model.flights[which].flight, model.flights[which].from);
                    let (landed, phase) = (model.flights[which].landed, model.flights[which].phase);
                    let empty = model.flights[which].blocks.is_empty();
                    match op {
                        Op::Sent(_) => {
                            table.sent(&flight);
                            match phase {
                                _ if landed => {}
                                Phase::Lost => { model.land(which, |_| None); }
                                _ => model.flights[which].phase = Phase::Sent,
                            }
                        }
                        Op::Lose(_) => {
                            table.lose(&flight);
                            match phase {
                                _ if landed => {}
                                Phase::Sent => { model.land(which, |_| None); }
                                _ => model.flights[which].phase = Phase::Lost,
                            }
                        }
                        Op::Receive(_, to) => {
                            let to = to.map(|who| HOLDERS[who]);
                            table.receive(&flight, to);
                            if !landed {
                                model.land(which, |_| to);
                            }
                        }
                        Op::Reclaim(_, alive) => {
                            let to = alive.then_some(from);
                            let expected = match landed {
                                true if empty => Some(0),
                                true => None,
                                false => Some(model.land(which, |copy| to.filter(|_| !copy))),
                            };
                            prop_assert_eq!(table.reclaim(&flight, to), expected);
                        }
                        _ => {}
                    }
                }
                Op::Settle(who, all) => {
                    let Holder { handle, process } = HOLDERS[who];
                    let gone = |holder: &Holder| {
                        holder.handle == handle && (all || holder.process == process)
                    };
                    for holder in HOLDERS.iter().filter(|holder| gone(holder)) {
                        settle(&mut table, *holder, |_| {});
                    }
                    model.leases.retain(|lease| !matches!(&lease.1, Place::Held(h) if gone(h)));
                }
                Op::Wait => {
                    let task = Task::new(tasks.len(), 0);
                    // SAFETY: It stays in `tasks`.
                    unsafe { table.wait(TaskPtr::new(&task)) };
                    model.waiting.push_back(task.id);
                    tasks.push(task);
                }
                Op::Leave(n) => {
                    let ids: Vec<_> = model.waiting.iter().copied().collect();
                    if let Some(&id) = pick(&ids, n) {
                        // SAFETY: It waits.
                        unsafe { table.leave(TaskPtr::new(&tasks[id]).pointer()) };
                        model.waiting.retain(|waiting| *waiting != id);
                    }
                }
            }
            // What waits is served as soon as it can be.
            while let Some(woken) = table.grant() {
                prop_assert_eq!(Some(woken.id), model.waiting.pop_front());
                let End::Lent(flight) = woken.end else { unreachable!() };
                let lent = look(&table, &flight);
                prop_assert_eq!(lent.len(), 1);
                prop_assert_eq!(model.count(lent[0].block), 0);
                let to = HOLDERS[woken.id % HOLDERS.len()];
                table.receive(&flight, Some(to));
                model.leases.push((lent[0].block, Place::Held(to)));
            }
            prop_assert!(table.settled());
            prop_assert_eq!(table.free(), model.free());
            prop_assert_eq!(table.leases() as usize, model.leases.len());
            prop_assert_eq!(table.waiting(), model.waiting.len());
            prop_assert_eq!(table.available(), model.free() > 0 && model.waiting.is_empty());
            let flying = model.leases.iter().filter(|lease| matches!(lease.1, Place::Flying(_)));
            prop_assert_eq!(table.counters().flying, flying.count() as u64);
            let counters = table.counters();
            let busy = u64::from(table.blocks() - table.free());
            prop_assert_eq!(counters.lent - counters.freed, busy);
            for flight in model.flights.iter() {
                let expected: Vec<_> = if flight.landed { vec![] } else {
                    flight.blocks.iter().map(|(block, _)| Flying {
                        block: *block,
                        len: 7,
                        shared: model.count(*block) > 1,
                    }).collect()
                };
                prop_assert_eq!(look(&table, &flight.flight), expected);
            }
        }
    }
}
