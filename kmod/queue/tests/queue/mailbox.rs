// SPDX-License-Identifier: GPL-2.0
//! What a mailbox promises in single cases, told step by step.

use crate::host::{Drops, Letter, Post, Receiver, ReceiverPtr, ReceiverWoken, Sender, SenderPtr};
use postbox_queue::{
    Capacity, Commit, Entry, HandleState, Mailbox, Message, Received, Reserving, Returned, Search,
    SendWaiter, Sending, Sent, Take, Withdrawn,
};
use std::{ptr::NonNull, rc::Rc};

/// What a search finds in the end.
fn found<T>(mut search: impl FnMut(&mut u64) -> Search<T>) -> Option<T> {
    let mut from = 0;
    loop {
        match search(&mut from) {
            Search::Found(found) => return Some(found),
            Search::More => {}
            Search::None => return None,
        }
    }
}

struct Case {
    mailbox: Mailbox<Post, ReceiverPtr>,
    /// Kept to the end: what waits points to them.
    senders: Vec<(Rc<Sender>, NonNull<Letter>)>,
    receivers: Vec<Rc<Receiver>>,
    drops: Drops,
}

type Sends = Sending<Post, ReceiverWoken>;

impl Case {
    /// With one handle that sends and one that receives.
    fn new(messages: u64, bytes: u64) -> Self {
        let mut new = Self {
            mailbox: Mailbox::new(Capacity { messages, bytes }, false),
            senders: Vec::new(),
            receivers: Vec::new(),
            drops: Drops::default(),
        };
        new.mailbox.open(true, false);
        new.mailbox.open(false, true);
        new
    }

    fn rendezvous() -> Self {
        Self::new(0, u64::MAX)
    }

    fn sender(&mut self, message: &Post) -> SenderPtr {
        let sender = Sender::new(message.id());
        let pointer = SenderPtr::new(&sender);
        self.senders.push((sender, message.pointer()));
        pointer
    }

    fn send_with(&mut self, id: usize, len: u64, may_wait: bool) -> Sends {
        let message = Post::new(id, 0, len, &self.drops);
        let sender = may_wait.then(|| self.sender(&message));
        // SAFETY: It stays in `senders`.
        unsafe { self.mailbox.send(message, sender) }
    }

    #[track_caller]
    fn send(&mut self, id: usize, len: u64) {
        let sending = self.send_with(id, len, false);
        assert!(matches!(sending, Sending::Queued), "{sending:?}");
    }

    #[track_caller]
    fn send_waits(&mut self, id: usize, len: u64) {
        let sending = self.send_with(id, len, true);
        assert!(matches!(sending, Sending::Waits(None)), "{sending:?}");
    }

    fn withdraw(&mut self, id: usize) -> Option<Post> {
        let sent = |(sender, _): &&(Rc<Sender>, _)| sender.id == id;
        let (sender, message) = self.senders.iter().find(sent).expect("it was sent");
        assert_eq!(sender.finished.get(), None);
        // SAFETY: Its sender was not finished.
        match unsafe { self.mailbox.withdraw(*message) } {
            Withdrawn::Message(message) => Some(message),
            _ => None,
        }
    }

    /// Another sender waits with a message, in the place of one who is gone from here on.
    fn change_waiter(&mut self, id: usize, new: usize) {
        let new = Sender::new(new);
        let sent = |(sender, _): &&mut (Rc<Sender>, _)| sender.id == id;
        let (sender, message) = self.senders.iter_mut().find(sent).expect("it was sent");
        // SAFETY: Its sender was not finished, and the new one stays in `senders`.
        unsafe { self.mailbox.change_waiter(*message, SenderPtr::new(&new)) };
        *sender = new;
    }

    /// The senders that learn, one after the other, that the last receiver is gone.
    fn close(&mut self, state: &mut HandleState<Post>) -> Vec<usize> {
        self.mailbox.close(false, true, state);
        let ended = std::iter::from_fn(|| self.mailbox.end_one_send());
        ended.map(|(sender, _)| sender.id).collect()
    }

    #[track_caller]
    fn take(&mut self, id: usize) -> Post {
        match self.mailbox.take(u64::MAX) {
            Take::Message(message) if message.id() == id => message,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn commit(&mut self, message: Post) {
        let commit = self.mailbox.commit(&message);
        assert!(matches!(commit, Commit::Done(None)), "{commit:?}");
    }

    #[track_caller]
    fn lease(&mut self, state: &mut HandleState<Post>, id: usize, holder: u64) -> u64 {
        let message = self.take(id);
        let token = message.entry().node().token();
        let commit = self.mailbox.lease(state, message, holder);
        assert!(matches!(commit, Commit::Done(None)), "{commit:?}");
        token
    }

    fn wait(&mut self, id: usize) -> Rc<Receiver> {
        let receiver = Receiver::new(id);
        self.receivers.push(receiver.clone());
        // SAFETY: It stays in `receivers`.
        unsafe { self.mailbox.wait(ReceiverPtr::new(&receiver)) };
        receiver
    }

    fn reserve(&mut self, id: usize, len: u64, may_wait: bool) -> Reserving<Post> {
        let stand_in = Post::stand_in(id, len, &self.drops);
        let sender = self.sender(&stand_in);
        // SAFETY: It stays in `senders`.
        unsafe { self.mailbox.reserve(stand_in, sender, may_wait) }
    }

    #[track_caller]
    fn reserved(&mut self, state: &mut HandleState<Post>, len: u64) {
        let reserving = self.reserve(usize::MAX, len, false);
        assert!(matches!(reserving, Reserving::Reserved(_)), "{reserving:?}");
        state.add_reservation(len);
    }

    fn send_reserved(
        &mut self,
        state: &mut HandleState<Post>,
        id: usize,
        len: u64,
        reserved: u64,
    ) -> Sends {
        let message = Post::new(id, 0, len, &self.drops);
        self.mailbox.send_reserved(state, message, reserved)
    }
}

#[test]
fn rendezvous_try_send_is_accepted_at_hand_over() {
    let mut b = Case::rendezvous();
    assert!(matches!(b.send_with(0, 1, false), Sending::Full(_)));
    let (first, second) = (b.wait(0), b.wait(1));
    assert!(b.mailbox.writable());
    assert!(matches!(b.send_with(1, 1, false), Sending::Given(woken) if woken.id == 0));
    assert_eq!(b.mailbox.waiting_senders(), 0);
    assert_eq!(
        (b.mailbox.counters().sent, b.mailbox.counters().full),
        (1, 1)
    );
    // A receiver that fails leaves it to the next one, and the last one to who comes.
    let returned = b.mailbox.put_back(first.message());
    assert!(
        matches!(&returned, Returned::Given(woken) if woken.id == 1),
        "{returned:?}"
    );
    let returned = b.mailbox.put_back(second.message());
    assert!(matches!(returned, Returned::Queued), "{returned:?}");
    assert!(b.mailbox.readable());
    // It was there before the offers that came since.
    b.send_waits(2, 1);
    let message = b.take(1);
    b.commit(message);
    assert!(b.withdraw(2).is_some());
    assert_eq!(
        (b.mailbox.counters().sent, b.mailbox.counters().received),
        (1, 1)
    );
}

#[test]
fn rendezvous_try_send_left_by_last_receiver_is_purged() {
    let mut b = Case::rendezvous();
    let receiver = b.wait(0);
    assert!(matches!(b.send_with(0, 7, false), Sending::Given(_)));
    assert!(matches!(
        b.mailbox.put_back(receiver.message()),
        Returned::Queued
    ));
    b.send_waits(1, 1);
    b.mailbox.close(false, true, &mut HandleState::new());
    let (sender, message) = b.mailbox.end_one_send().expect("it waits");
    assert_eq!((sender.sent, message.id()), (Sent::Closed, 1));
    assert!(b.mailbox.end_one_send().is_none());
    let purged = b.mailbox.purge_one().expect("it was accepted");
    assert_eq!(purged.id(), 0);
    assert_eq!(b.mailbox.queued(), (0, 0));
}

#[test]
fn rendezvous_try_send_meets_its_own_group() {
    let mut b = Case::rendezvous();
    let own = Receiver::of_group(1, 0, 7);
    // SAFETY: It lives until the end.
    unsafe { b.mailbox.wait(ReceiverPtr::new(&own)) };
    assert!(b.mailbox.writable());
    assert!(matches!(b.send_with(0, 1, false), Sending::Given(_)));
    assert_eq!(own.message().id(), 0);
}

#[test]
fn rendezvous_that_was_received_comes_back_without_its_sender() {
    let mut b = Case::rendezvous();
    let mut state = HandleState::new();
    let receiver = b.wait(0);
    assert!(matches!(b.send_with(0, 1, true), Sending::Waits(Some(_))));
    let commit = b.mailbox.lease(&mut state, receiver.message(), 0);
    assert!(matches!(commit, Commit::Done(Some(_))), "{commit:?}");
    let returned = found(|from| b.mailbox.reclaim(&mut state, None, from));
    assert!(matches!(returned, Some(Returned::Queued)), "{returned:?}");
    assert_eq!(b.mailbox.waiting_senders(), 0);
    let message = b.take(0);
    assert!(message.entry().node().redelivered());
    b.commit(message);
}

#[test]
fn rendezvous_whose_sender_was_dismissed_can_go_back() {
    let mut b = Case::rendezvous();
    let receiver = b.wait(0);
    assert!(matches!(b.send_with(0, 1, true), Sending::Waits(Some(_))));
    let message = receiver.message();
    let dismissed = b.mailbox.dismiss(&message);
    assert!(matches!(dismissed, Commit::Done(Some(_))), "{dismissed:?}");
    assert_eq!(b.mailbox.waiting_senders(), 0);
    let returned = b.mailbox.put_back(message);
    assert!(matches!(returned, Returned::Queued), "{returned:?}");
    let message = b.take(0);
    b.commit(message);
    assert_eq!(b.mailbox.queued(), (0, 0));
}

#[test]
fn sender_that_has_withdrawn_is_not_dismissed() {
    let mut b = Case::rendezvous();
    let receiver = b.wait(0);
    assert!(matches!(b.send_with(0, 1, true), Sending::Waits(Some(_))));
    assert!(b.withdraw(0).is_none());
    let dismissed = b.mailbox.dismiss(&receiver.message());
    assert!(matches!(dismissed, Commit::Withdrawn(())), "{dismissed:?}");
}

#[test]
fn receiver_of_a_withdrawn_message_keeps_its_turn() {
    let mut b = Case::rendezvous();
    let first = b.wait(0);
    assert!(matches!(b.send_with(0, 1, true), Sending::Waits(Some(_))));
    let second = b.wait(1);
    assert!(b.withdraw(0).is_none());
    let message = first.message();
    assert!(matches!(b.mailbox.commit(&message), Commit::Withdrawn(())));
    assert!(matches!(b.mailbox.take(1), Take::Empty));
    // SAFETY: It stays in `receivers`.
    unsafe { b.mailbox.wait_again(ReceiverPtr::new(&first)) };
    assert!(matches!(b.send_with(1, 1, true), Sending::Waits(Some(_))));
    assert_eq!(first.message().id(), 1);
    assert!(second.received.borrow().is_none());
}

#[test]
fn withdrawn_before_the_copy_gives_back_the_content() {
    let mut b = Case::rendezvous();
    let receiver = b.wait(0);
    assert!(matches!(b.send_with(0, 7, true), Sending::Waits(Some(_))));
    let place = b.senders[0].1;
    // SAFETY: Its sender was not finished.
    let withdrawn = unsafe { b.mailbox.withdraw(place) };
    assert!(matches!(withdrawn, Withdrawn::Content), "{withdrawn:?}");
    let message = receiver.message();
    assert!(!b.mailbox.begin(&message));
    let returned = b.mailbox.put_back(message);
    assert!(matches!(returned, Returned::Withdrawn(_)), "{returned:?}");
}

#[test]
fn withdrawn_during_the_copy_leaves_the_content() {
    let mut b = Case::rendezvous();
    let receiver = b.wait(0);
    assert!(matches!(b.send_with(0, 7, true), Sending::Waits(Some(_))));
    let message = receiver.message();
    assert!(b.mailbox.begin(&message));
    let place = b.senders[0].1;
    // SAFETY: Its sender was not finished.
    let withdrawn = unsafe { b.mailbox.withdraw(place) };
    assert!(matches!(withdrawn, Withdrawn::Copied), "{withdrawn:?}");
    assert!(matches!(b.mailbox.commit(&message), Commit::Withdrawn(())));
}

#[test]
fn withdrawn_request_frees_its_room_at_once() {
    let mut b = Case::new(1, u64::MAX);
    b.calls(0);
    let request = b.take(0);
    assert!(b.withdraw(0).is_none());
    b.send(1, 1);
    let mut state = HandleState::new();
    let commit = b.mailbox.owe(&mut state, request, 0);
    assert!(matches!(commit, Commit::Withdrawn(_)), "{commit:?}");
}

#[test]
fn put_back_into_a_shut_mailbox_ends_the_call() {
    let mut b = Case::new(4, u64::MAX);
    b.calls(0);
    let request = b.take(0);
    b.mailbox.shut(false, true);
    assert!(b.mailbox.end_one_send().is_none(), "it is with a receiver");
    match b.mailbox.put_back(request) {
        Returned::Refused(woken, message) => {
            assert_eq!((woken.id, woken.sent), (0, Sent::Closed));
            assert_eq!(message.id(), 0);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(b.mailbox.waiting_senders(), 0);
    assert!(!b.mailbox.readable());
}

#[test]
fn withdrawn_message_is_not_put_back() {
    let mut b = Case::rendezvous();
    let receiver = b.wait(0);
    assert!(matches!(b.send_with(0, 1, true), Sending::Waits(Some(_))));
    assert!(b.withdraw(0).is_none());
    assert_eq!(b.mailbox.waiting_senders(), 0);
    let returned = b.mailbox.put_back(receiver.message());
    assert!(matches!(returned, Returned::Withdrawn(_)), "{returned:?}");
    assert!(!b.mailbox.readable());
}

#[test]
fn reservation_gives_its_stand_in_back() {
    let mut b = Case::new(1, u64::MAX);
    let reserving = b.reserve(0, 1, true);
    assert_eq!(b.drops.of(0), 0);
    assert!(matches!(&reserving, Reserving::Reserved(stand_in) if stand_in.id() == 0));
}

#[test]
fn nobody_is_let_in_once_the_last_receiver_is_gone() {
    let mut b = Case::new(1, u64::MAX);
    let mut state = HandleState::new();
    b.mailbox.open(true, true);
    b.reserved(&mut state, 1);
    b.send_waits(0, 1);
    let mut none = HandleState::new();
    assert!(!b.mailbox.close(false, true, &mut none).sends);
    assert!(b.mailbox.close(true, true, &mut state).sends);
    assert!(b.mailbox.admit().is_none());
    let (sender, message) = b.mailbox.end_one_send().expect("it waits");
    assert_eq!((sender.id, sender.sent, message.id()), (0, Sent::Closed, 0));
    assert!(b.mailbox.end_one_send().is_none());
}

#[test]
fn sender_joining_beside_free_room_has_to_admit() {
    let mut b = Case::new(1, u64::MAX);
    b.send(1, 1);
    b.send_waits(2, 1);
    let counted = b.mailbox.waiters();
    assert_eq!(counted, 1);
    assert!(!b.mailbox.must_admit());
    let first = b.take(1);
    b.commit(first);
    assert!(b.mailbox.must_admit());
    assert!(b.mailbox.admit().is_some());
    // There is room again, and one comes before it is given to anybody.
    let second = b.take(2);
    b.commit(second);
    assert!(!b.mailbox.must_admit());
    b.send(3, 1);
    b.send_waits(4, 1);
    assert!(!b.mailbox.must_admit());
    let third = b.take(3);
    b.commit(third);
    b.send_waits(5, 1);
    // Nobody else counted the sender that has just joined.
    assert!(b.mailbox.must_admit());
    assert_eq!(b.mailbox.waiters(), 2);
}

#[test]
fn small_message_does_not_overtake_a_large_one() {
    let mut b = Case::new(8, 10);
    b.send(0, 6);
    b.send_waits(1, 6);
    assert!(!b.mailbox.writable());
    assert!(matches!(b.send_with(2, 1, false), Sending::Full(_)));
    b.send_waits(3, 1);
    assert!(b.mailbox.admit().is_none());
    // The large one gives up: now there is room for the small one.
    assert!(b.withdraw(1).is_some());
    let admitted = b.mailbox.admit().expect("there is room");
    assert_eq!(admitted.sender.expect("a sender").id, 3);
    assert!(b.mailbox.admit().is_none());
}

#[test]
fn message_that_is_smaller_than_its_reservation_makes_room() {
    let mut b = Case::new(8, 10);
    let mut state = HandleState::new();
    b.reserved(&mut state, 9);
    b.send_waits(0, 5);
    assert!(matches!(
        b.send_reserved(&mut state, 1, 2, 9),
        Sending::Queued
    ));
    assert_eq!(
        b.mailbox
            .admit()
            .expect("there is room")
            .sender
            .expect("a sender")
            .id,
        0
    );
    assert_eq!(b.mailbox.queued(), (2, 7));
}

#[test]
fn reservations_that_are_not_there() {
    let mut b = Case::new(8, 100);
    let mut state = HandleState::new();
    assert!(!b.mailbox.unreserve(&mut state, 0));
    assert!(matches!(
        b.send_reserved(&mut state, 0, 0, 0),
        Sending::Full(_)
    ));
    b.reserved(&mut state, 10);
    // Somebody else's is not this handle's.
    let mut other = HandleState::new();
    b.reserved(&mut other, 50);
    for lie in [11, 60, u64::MAX] {
        assert!(!b.mailbox.unreserve(&mut state, lie));
        assert!(matches!(
            b.send_reserved(&mut state, 0, 1, lie),
            Sending::Full(_)
        ));
    }
    assert!(matches!(
        b.send_reserved(&mut state, 0, 11, 10),
        Sending::Full(_)
    ));
    assert_eq!(b.mailbox.reserved(), 2);
    // One that says too little leaves the rest to the last one, which takes it all.
    b.reserved(&mut state, 20);
    assert!(b.mailbox.unreserve(&mut state, 1));
    assert!(b.mailbox.unreserve(&mut state, 1));
    assert!(!b.mailbox.unreserve(&mut state, 0));
    assert!(b.mailbox.unreserve(&mut other, 50));
    assert_eq!(b.mailbox.reserved(), 0);
    b.send(1, 100);
}

#[test]
fn reservation_of_all_there_is() {
    let mut b = Case::new(u64::MAX, u64::MAX);
    let mut state = HandleState::new();
    b.reserved(&mut state, u64::MAX);
    assert!(!b.mailbox.writable());
    assert!(matches!(b.send_with(0, 1, false), Sending::Full(_)));
    b.send(1, 0);
    assert!(matches!(b.reserve(2, u64::MAX, false), Reserving::Full(_)));
    b.mailbox.close(true, false, &mut state);
    assert!(b.mailbox.writable());
}

#[test]
fn what_is_taken_or_leased_takes_room_until_it_is_done() {
    let mut b = Case::new(1, u64::MAX);
    let mut state = HandleState::new();
    b.send(0, 1);
    let message = b.take(0);
    assert!(!b.mailbox.writable());
    let token = message.entry().node().token();
    assert!(matches!(
        b.mailbox.lease(&mut state, message, 0),
        Commit::Done(None)
    ));
    assert!(!b.mailbox.writable());
    assert!(b.mailbox.acknowledge(&mut state, token + 1, 0).is_none());
    assert!(b.mailbox.acknowledge(&mut state, token, 0).is_some());
    assert!(b.mailbox.acknowledge(&mut state, token, 0).is_none());
    assert!(b.mailbox.writable());
}

#[test]
fn end_comes_after_what_is_in_flight() {
    let mut b = Case::new(4, u64::MAX);
    let mut state = HandleState::new();
    for id in 0..2 {
        b.send(id, 1);
    }
    let token = b.lease(&mut state, 0, 0);
    let message = b.take(1);
    let waits = b.wait(0);
    let mut none = HandleState::new();
    let end = b.mailbox.close(true, false, &mut none);
    assert!(!end.receives && !b.mailbox.ended());
    b.commit(message);
    assert!(b.mailbox.end_one_receive().is_none());
    assert!(b.mailbox.acknowledge(&mut state, token, 0).is_some());
    assert!(b.mailbox.end().receives);
    assert_eq!(b.mailbox.end_one_receive().expect("it waits").id, 0);
    assert!(matches!(waits.received.take(), Some(Received::Ended)));
    assert!(matches!(b.mailbox.take(1), Take::Ended));
    // A new sender makes it usable again.
    b.mailbox.open(true, false);
    assert!(matches!(b.mailbox.take(1), Take::Empty));
}

#[test]
fn persistent_mailbox_never_ends() {
    let mut mailbox = Mailbox::<Post, ReceiverPtr>::new(
        Capacity {
            messages: 1,
            bytes: 1,
        },
        true,
    );
    mailbox.open(true, true);
    mailbox.close(true, true, &mut HandleState::new());
    assert!(!mailbox.closed() && !mailbox.ended());
    assert!(mailbox.writable());
    assert!(matches!(mailbox.take(1), Take::Empty));
}

#[test]
fn before_the_first_peer_nothing_is_over() {
    let mut mailbox = Mailbox::<Post, ReceiverPtr>::new(
        Capacity {
            messages: 1,
            bytes: 1,
        },
        false,
    );
    mailbox.open(false, true);
    assert!(matches!(mailbox.take(1), Take::Empty));
    mailbox.close(false, true, &mut HandleState::new());
    mailbox.open(true, false);
    assert!(mailbox.closed());
    mailbox.open(false, true);
    assert!(!mailbox.closed());
}

#[test]
fn only_the_holders_messages_go_back_and_to_their_places() {
    let mut b = Case::new(8, u64::MAX);
    let mut state = HandleState::new();
    for id in 0..5 {
        b.send(id, 1);
    }
    let holders = [7, 8, 7, 8];
    let tokens = [0, 1, 2, 3].map(|id| b.lease(&mut state, id, holders[id]));
    while let Some(returned) = found(|from| b.mailbox.reclaim(&mut state, Some(7), from)) {
        assert!(matches!(returned, Returned::Queued), "{returned:?}");
    }
    assert_eq!((b.mailbox.leased(), state.leases()), (2, 2));
    assert!(
        b.mailbox.requeue_leased(&mut state, tokens[1], 7).is_none(),
        "another one's"
    );
    assert!(
        b.mailbox.acknowledge(&mut state, tokens[1], 7).is_none(),
        "another one's"
    );
    let returned = b.mailbox.requeue_leased(&mut state, tokens[1], 8);
    assert!(matches!(returned, Some(Returned::Queued)), "{returned:?}");
    assert!(b.mailbox.requeue_leased(&mut state, tokens[0], 0).is_none());
    for (id, again) in [(0, true), (1, true), (2, true), (4, false)] {
        let message = b.take(id);
        assert_eq!(message.entry().node().redelivered(), again);
        assert!(!tokens.contains(&message.entry().node().token()));
        b.commit(message);
    }
    assert_eq!(b.mailbox.counters().redelivered, 3);
}

#[test]
fn receivers_are_served_in_turn_and_put_back_goes_to_the_next() {
    let mut b = Case::new(8, u64::MAX);
    let waiting = [0, 1, 2].map(|id| b.wait(id));
    assert!(matches!(b.send_with(0, 9, false), Sending::Given(woken) if woken.id == 0));
    assert!(matches!(b.send_with(1, 1, false), Sending::Given(woken) if woken.id == 1));
    // The first one's buffer is too small.
    let returned = b.mailbox.put_back(waiting[0].message());
    assert!(
        matches!(&returned, Returned::Given(woken) if woken.id == 2),
        "{returned:?}"
    );
    assert_eq!(waiting[2].message().id(), 0);
    assert_eq!(waiting[1].message().id(), 1);
}

#[test]
fn only_what_nobody_waits_for_is_taken_without_more_ado() {
    let mut b = Case::new(2, u64::MAX);
    let plain = |b: &mut Case| b.mailbox.take_plain(|_| true);
    assert!(plain(&mut b).is_none());
    b.send(0, 5);
    b.send(1, 1);
    assert!(
        b.mailbox.take_plain(|_| false).is_none(),
        "it is not wanted"
    );
    assert_eq!(b.mailbox.queued(), (2, 6));
    let message = plain(&mut b).expect("it is there");
    assert_eq!((message.id(), b.mailbox.queued()), (0, (1, 1)));
    // Its room is not there before it is committed, and then a sender is to be let in.
    b.send_waits(2, 1);
    assert!(plain(&mut b).is_none(), "a sender waits");
    b.commit(message);
    assert!(b.mailbox.admit().is_some());
    for id in [1, 2] {
        let message = plain(&mut b).expect("it is there");
        assert_eq!(message.id(), id);
        b.commit(message);
    }
    let mut b = Case::rendezvous();
    b.send_waits(0, 1);
    assert!(plain(&mut b).is_none(), "its sender waits for the receiver");
}

#[test]
fn one_step_is_enough_for_what_nobody_waits_for() {
    let mut b = Case::new(2, u64::MAX);
    let now = |b: &mut Case, copied: bool| {
        let message = b.mailbox.receive_now(|_| copied);
        message.map(|message| message.id())
    };
    assert_eq!(now(&mut b, true), None);
    b.send(0, 5);
    b.send(1, 1);
    let before = b.mailbox.counters();
    assert_eq!(now(&mut b, false), None, "it could not be copied");
    assert_eq!((b.mailbox.queued(), b.mailbox.counters()), ((2, 6), before));
    assert_eq!(now(&mut b, true), Some(0));
    assert_eq!(b.mailbox.queued(), (1, 1));
    assert_eq!(b.mailbox.counters().received, 1);
    // The room is there again, and then somebody waits for more.
    b.send(2, 1);
    b.send_waits(3, 1);
    assert_eq!(now(&mut b, true), None, "a sender is to be let in");
    let message = b.take(1);
    b.commit(message);
    assert!(b.mailbox.admit().is_some());
    assert_eq!(now(&mut b, true), Some(2));
    // What comes back goes to its place all the same.
    b.send(4, 1);
    let message = b.take(3);
    assert!(matches!(b.mailbox.put_back(message), Returned::Queued));
    assert_eq!(now(&mut b, true), Some(3));
    // The last message is received, and then there is the end.
    b.mailbox.close(true, false, &mut HandleState::new());
    assert_eq!(
        now(&mut b, true),
        None,
        "somebody may have to be told of the end"
    );
    let message = b.take(4);
    b.commit(message);
    assert!(matches!(b.mailbox.take(1), Take::Ended));

    let mut b = Case::rendezvous();
    b.send_waits(0, 1);
    assert_eq!(now(&mut b, true), None, "its sender waits for that");
    let mut b = Case::new(8, 8);
    b.calls(0);
    assert_eq!(now(&mut b, true), None, "it wants an answer");
    b.mailbox.shut(true, false);
    assert_eq!(now(&mut b, true), None);
}

#[test]
fn too_small_a_buffer_leaves_the_message() {
    let mut b = Case::new(8, u64::MAX);
    b.send(0, 5);
    assert!(matches!(b.mailbox.take(4), Take::TooSmall(5)));
    assert_eq!(b.mailbox.queued(), (1, 5));
    let message = b.take(0);
    b.commit(message);
}

impl Case {
    fn call(&mut self, id: usize) -> Sends {
        let request = Post::request(id, 0, 1, 0, &self.drops);
        let caller = self.sender(&request);
        // SAFETY: It stays in `senders`.
        unsafe { self.mailbox.call(request, caller) }
    }

    #[track_caller]
    fn calls(&mut self, id: usize) {
        let sending = self.call(id);
        assert!(matches!(sending, Sending::Waits(None)), "{sending:?}");
    }

    /// Takes a request, to be answered. Returns what it is answered with.
    #[track_caller]
    fn owe(&mut self, state: &mut HandleState<Post>, id: usize, holder: u64) -> u64 {
        let request = self.take(id);
        let token = request.entry().node().token();
        let commit = self.mailbox.owe(state, request, holder);
        assert!(matches!(commit, Commit::Done(None)), "{commit:?}");
        token
    }

    fn send_from(&mut self, id: usize, origin: u64) -> Sends {
        let message = Post::from_origin(id, 0, 1, origin, &self.drops);
        let sender = self.sender(&message);
        // SAFETY: It stays in `senders`.
        unsafe { self.mailbox.send(message, Some(sender)) }
    }

    fn wait_from(&mut self, id: usize, origin: u64) -> Rc<Receiver> {
        let receiver = Receiver::of_origin(id, origin);
        self.receivers.push(receiver.clone());
        // SAFETY: It stays in `receivers`.
        unsafe { self.mailbox.wait(ReceiverPtr::new(&receiver)) };
        receiver
    }

    fn sent(&self, id: usize) -> Option<Sent> {
        let sent = |(sender, _): &&(Rc<Sender>, _)| sender.id == id;
        let (sender, _) = self.senders.iter().find(sent).expect("it was sent");
        sender.finished.get()
    }
}

#[test]
fn call_goes_on_waiting_when_it_was_let_in_and_received() {
    let mut b = Case::new(1, u64::MAX);
    let mut state = HandleState::new();
    b.send(0, 1);
    b.calls(1);
    let message = b.take(0);
    b.commit(message);
    let admitted = b.mailbox.admit().expect("there is room");
    assert!(admitted.sender.is_none() && admitted.stand_in.is_none());
    let token = b.owe(&mut state, 1, 0);
    assert_eq!(b.sent(1), None);
    assert!(b.mailbox.writable(), "what is owed takes no room");
    assert_eq!(b.mailbox.caller_waits(&state, token, 0), Some(true));
    let (request, caller) = b.mailbox.answer(&mut state, token, 0).expect("it is owed");
    assert!(request.id() == 1 && caller.is_some());
    assert!(b.mailbox.answer(&mut state, token, 0).is_none());
    assert!(b.mailbox.caller_waits(&state, token, 0).is_none());
}

#[test]
fn caller_of_a_rendezvous_is_an_offer_until_it_is_received() {
    let mut b = Case::rendezvous();
    let mut state = HandleState::new();
    b.calls(0);
    assert_eq!(
        (b.mailbox.waiting_senders(), b.mailbox.counters().sent),
        (1, 0)
    );
    b.owe(&mut state, 0, 0);
    assert_eq!(
        (b.mailbox.waiting_senders(), b.mailbox.counters().sent),
        (0, 1)
    );
    assert_eq!(b.sent(0), None);
}

#[test]
fn caller_that_gave_up_leaves_an_answer_that_is_stale() {
    let mut b = Case::new(4, u64::MAX);
    let mut state = HandleState::new();
    b.calls(0);
    let token = b.owe(&mut state, 0, 0);
    assert!(b.withdraw(0).is_none());
    assert_eq!(b.mailbox.caller_waits(&state, token, 0), Some(false));
    let (_, caller) = b.mailbox.answer(&mut state, token, 0).expect("it is owed");
    assert!(caller.is_none());
    // One that nobody has received is taken back.
    b.calls(1);
    assert!(b.withdraw(1).is_some_and(|request| request.id() == 1));
    assert!(!b.mailbox.readable());
    // And one that is being copied is not received.
    b.calls(2);
    let request = b.take(2);
    assert!(b.withdraw(2).is_none());
    let commit = b.mailbox.owe(&mut state, request, 0);
    assert!(matches!(commit, Commit::Withdrawn(_)), "{commit:?}");
    assert_eq!(state.owed(), 0);
}

#[test]
fn changed_waiter_stands_where_the_one_before_it_stood() {
    // Each time the caller of 1 becomes 11, which has 0 before and 2 behind it.
    let three = |messages| {
        let mut b = Case::new(messages, u64::MAX);
        if messages == 1 {
            b.send(9, 1);
        }
        (0..3).for_each(|id| b.calls(id));
        (b, HandleState::new())
    };
    // Queued, and blocked.
    for messages in [8, 1] {
        let (mut b, mut state) = three(messages);
        b.change_waiter(1, 11);
        assert_eq!(b.close(&mut state), [0, 11, 2]);

        for order in [[0, 11, 2], [2, 11, 0], [11, 0, 2], [2, 0, 11]] {
            let (mut b, _) = three(messages);
            b.change_waiter(1, 11);
            for id in order {
                assert!(b.withdraw(id).is_some());
            }
        }

        // More than once, and the first and the last.
        let (mut b, mut state) = three(messages);
        for (id, new) in [(0, 10), (2, 12), (1, 13), (13, 11), (10, 14)] {
            b.change_waiter(id, new);
        }
        assert_eq!(b.close(&mut state), [14, 11, 12]);
    }
    // Queued, and then received.
    let (mut b, mut state) = three(8);
    b.change_waiter(1, 11);
    let tokens = [0, 1, 2].map(|id| b.owe(&mut state, id, 0));
    assert!(b.mailbox.settled());
    for (token, expected) in tokens.into_iter().zip([0, 11, 2]) {
        let (_, caller) = b.mailbox.answer(&mut state, token, 0).expect("it is owed");
        let woken = caller.expect("it waits").finish(Sent::Dropped);
        assert_eq!(woken.id, expected);
    }
    // Handed, and held; both come back.
    for begins in [false, true] {
        let (mut b, mut state) = three(8);
        let first = b.take(0);
        let second = b.take(1);
        if begins {
            assert!(b.mailbox.begin(&second));
        }
        b.change_waiter(1, 11);
        for message in [second, first] {
            let returned = b.mailbox.put_back(message);
            assert!(matches!(returned, Returned::Queued), "{returned:?}");
        }
        // In the order in which they came, or came back.
        assert_eq!(b.close(&mut state), [2, 11, 0]);
    }
    // Owed.
    let (mut b, mut state) = three(8);
    for id in 0..3 {
        b.owe(&mut state, id, 0);
    }
    b.change_waiter(1, 11);
    for expected in [0, 11, 2] {
        let (_, woken) = found(|from| b.mailbox.abandon(&mut state, None, from)).expect("owed");
        assert_eq!(woken.map(|woken| woken.id), Some(expected));
    }
}

#[test]
fn only_the_holders_callers_are_abandoned() {
    let mut b = Case::new(8, u64::MAX);
    let mut state = HandleState::new();
    let tokens = [0, 1, 2].map(|id| {
        b.calls(id);
        b.owe(&mut state, id, id as u64 % 2)
    });
    assert!(b.withdraw(2).is_none());
    let (request, woken) =
        found(|from| b.mailbox.abandon(&mut state, Some(0), from)).expect("owed by it");
    let woken = woken.expect("the caller waits");
    assert_eq!(
        (request.id(), woken.id, woken.sent),
        (0, 0, Sent::Abandoned)
    );
    let (request, woken) =
        found(|from| b.mailbox.abandon(&mut state, Some(0), from)).expect("owed by it");
    assert!(request.id() == 2 && woken.is_none());
    assert!(found(|from| b.mailbox.abandon(&mut state, Some(0), from)).is_none());
    assert_eq!(b.mailbox.caller_waits(&state, tokens[1], 1), Some(true));
    assert_eq!(b.mailbox.caller_waits(&state, tokens[1], 0), None);
    let anybodys = found(|from| b.mailbox.abandon(&mut state, None, from));
    assert!(anybodys.is_some_and(|(request, woken)| request.id() == 1 && woken.is_some()));
}

#[test]
fn calls_end_with_the_last_receiver_and_not_with_the_end_of_sending() {
    let mut b = Case::new(1, u64::MAX);
    let mut state = HandleState::new();
    b.calls(0);
    b.calls(1);
    b.mailbox.shut(true, false);
    // What found no room never will; what is in can be answered.
    let (sender, _) = b.mailbox.end_one_send().expect("it waits for room");
    assert_eq!((sender.id, sender.sent), (1, Sent::Closed));
    assert!(b.mailbox.end_one_send().is_none());
    assert!(matches!(b.call(2), Sending::Closed(_)));
    b.mailbox.close(false, true, &mut state);
    let (sender, request) = b.mailbox.end_one_send().expect("nobody receives it");
    assert_eq!((sender.id, sender.sent, request.id()), (0, Sent::Closed, 0));
    assert!(b.mailbox.end_one_send().is_none());
}

#[test]
fn kept_answers_are_fetched_once() {
    let mut state = HandleState::new();
    let drops = Drops::default();
    let tokens = [0, 1].map(|id| state.keep(Post::new(id, 0, 1, &drops), 7));
    assert_ne!(tokens[0], tokens[1]);
    assert_eq!(state.kept(), 2);
    assert!(state.fetch(tokens[1], 8).is_none(), "another one's");
    assert!(found(|from| state.forget(Some(8), from)).is_none());
    assert!(state
        .fetch(tokens[1], 7)
        .is_some_and(|answer| answer.id() == 1));
    assert!(state.fetch(tokens[1], 7).is_none());
    let again = state.keep(Post::new(2, 0, 1, &drops), 7);
    assert!(!tokens.contains(&again), "a token came twice");
    assert!(state
        .fetch(tokens[0], 7)
        .is_some_and(|answer| answer.id() == 0));
}

#[test]
fn picky_receiver_gets_the_first_of_its_origin_and_leaves_the_others() {
    let mut b = Case::new(8, u64::MAX);
    for (id, origin) in [(0, 1), (1, 2), (2, 2), (3, 1)] {
        assert!(matches!(b.send_from(id, origin), Sending::Queued));
    }
    assert!(matches!(b.mailbox.take_from(3, 9), Take::Empty));
    assert!(matches!(b.mailbox.take_from(2, 0), Take::TooSmall(1)));
    for (origin, id) in [(2, 1), (0, 0), (1, 3), (2, 2)] {
        let taken = match origin {
            0 => b.mailbox.take(9),
            _ => b.mailbox.take_from(origin, 9),
        };
        match taken {
            Take::Message(message) if message.id() == id => b.commit(message),
            other => panic!("{other:?} from {origin}"),
        }
    }
}

#[test]
fn message_passes_by_receivers_that_wait_for_others() {
    let mut b = Case::rendezvous();
    let (picky, any) = (b.wait_from(0, 7), b.wait(1));
    assert!(matches!(b.send_from(0, 1), Sending::Waits(Some(woken)) if woken.id == 1));
    // Only the picky one is left: a send that does not wait finds nobody, and one that waits stays.
    assert!(!b.mailbox.writable());
    assert!(matches!(b.send_with(1, 1, false), Sending::Full(_)));
    assert!(matches!(b.send_from(2, 1), Sending::Waits(None)));
    assert!(matches!(b.send_from(3, 7), Sending::Waits(Some(woken)) if woken.id == 0));
    assert_eq!((picky.message().id(), any.message().id()), (3, 0));
    assert_eq!(b.mailbox.waiting_receivers(), 0);
}

#[test]
fn end_comes_for_picky_receivers_too() {
    let mut b = Case::new(1, u64::MAX);
    let waits = b.wait_from(0, 7);
    b.mailbox.shut(true, false);
    assert_eq!(b.mailbox.end_one_receive().expect("it waits").id, 0);
    assert!(matches!(waits.received.take(), Some(Received::Ended)));
    assert!(matches!(b.mailbox.take_from(7, 1), Take::Ended));
}

#[test]
fn end_does_not_wait_for_what_was_reserved() {
    let mut b = Case::new(2, u64::MAX);
    let mut state = HandleState::new();
    b.reserved(&mut state, 5);
    b.send(0, 1);
    b.mailbox.shut(true, false);
    assert!(!b.mailbox.ended(), "a message is left");
    let message = b.take(0);
    b.commit(message);
    assert!(b.mailbox.ended());
    assert!(matches!(b.mailbox.take(1), Take::Ended));
    assert!(b.mailbox.unreserve(&mut state, 5));
    assert!(b.mailbox.ended());
}

#[test]
fn what_nobody_can_receive_is_taken_out_and_callers_are_told() {
    let mut b = Case::new(4, u64::MAX);
    b.send(0, 1);
    b.calls(1);
    assert!(b.mailbox.purge_one().is_none(), "somebody receives");
    b.mailbox.close(false, true, &mut HandleState::new());
    assert!(b
        .mailbox
        .purge_one()
        .is_some_and(|message| message.id() == 0));
    assert!(b.mailbox.purge_one().is_none(), "its caller waits");
    let (sender, request) = b.mailbox.end_one_send().expect("it waits");
    assert_eq!((sender.sent, request.id()), (Sent::Closed, 1));
    assert_eq!(b.mailbox.queued(), (0, 0));
}

#[test]
fn what_comes_back_is_not_for_a_receiver_of_its_senders_group() {
    let mut b = Case::rendezvous();
    let other = b.wait(0);
    let own = Receiver::of_group(1, 0, 7);
    // SAFETY: It lives until the end.
    unsafe { b.mailbox.wait(ReceiverPtr::new(&own)) };
    let message = Post::new(0, 0, 1, &b.drops);
    let sender = Sender::of_group(0, 7);
    // SAFETY: As above.
    let sending = unsafe { b.mailbox.send(message, Some(SenderPtr::new(&sender))) };
    assert!(matches!(sending, Sending::Waits(Some(_))), "{sending:?}");
    let returned = b.mailbox.put_back(other.message());
    assert!(matches!(returned, Returned::Queued), "{returned:?}");
    assert!(own.received.borrow().is_none());
    let message = b.take(0);
    assert!(b.mailbox.begin(&message));
    let commit = b.mailbox.commit(&message);
    assert!(matches!(commit, Commit::Done(Some(_))), "{commit:?}");
    assert_eq!(sender.finished.get(), Some(Sent::Accepted));
}

#[test]
fn receivers_of_one_origin_and_group_are_served_in_the_order_in_which_they_came() {
    // Against a plain search, with every mix of three origins and three groups.
    let mut seed = 1_u64;
    let mut next = |below: u64| {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 33) % below
    };
    let mut b = Case::rendezvous();
    let (mut waiting, mut senders) = (Vec::new(), Vec::new());
    for id in 0..if cfg!(miri) { 60 } else { 3000 } {
        match next(5) {
            0..=1 => {
                let receiver = Receiver::of_group(id, next(3), next(3) as usize);
                // SAFETY: It lives until it was handed a message, or left.
                unsafe { b.mailbox.wait(ReceiverPtr::new(&receiver)) };
                waiting.push(receiver);
            }
            2 => {
                let receiver = Receiver::of_group(id, next(3), next(3) as usize);
                // SAFETY: As above.
                unsafe { b.mailbox.wait_again(ReceiverPtr::new(&receiver)) };
                waiting.insert(0, receiver);
            }
            3 if !waiting.is_empty() => {
                let receiver = waiting.remove(next(waiting.len() as u64) as usize);
                // SAFETY: It waits.
                unsafe { b.mailbox.leave(ReceiverPtr::new(&receiver).pointer()) };
            }
            _ => {
                let (origin, group) = (next(3), next(3) as usize);
                let message = Post::from_origin(id, 0, 1, origin, &b.drops);
                let sender = Sender::of_group(id, group);
                let place = message.pointer();
                // SAFETY: The sender lives until the end.
                let sending = unsafe { b.mailbox.send(message, Some(SenderPtr::new(&sender))) };
                senders.push(sender);
                let wanted = waiting.iter().position(|receiver| {
                    (receiver.origin == 0 || receiver.origin == origin)
                        && (group == 0 || receiver.group != group)
                });
                match (sending, wanted) {
                    (Sending::Waits(Some(_)), Some(at)) => {
                        let message = waiting.remove(at).message();
                        assert_eq!(message.id(), id);
                        assert!(b.mailbox.begin(&message));
                        let commit = b.mailbox.commit(&message);
                        assert!(matches!(commit, Commit::Done(Some(_))), "{commit:?}");
                    }
                    (Sending::Waits(None), None) => {
                        // SAFETY: Its sender was not finished.
                        let withdrawn = unsafe { b.mailbox.withdraw(place) };
                        assert!(matches!(withdrawn, Withdrawn::Message(_)), "{withdrawn:?}");
                    }
                    (sending, wanted) => panic!("{sending:?} {wanted:?}"),
                }
            }
        }
        assert_eq!(b.mailbox.waiting_receivers(), waiting.len());
        let any = waiting.iter().any(|receiver| receiver.origin == 0);
        assert_eq!(b.mailbox.writable(), any);
    }
    for receiver in waiting {
        // SAFETY: It waits.
        unsafe { b.mailbox.leave(ReceiverPtr::new(&receiver).pointer()) };
    }
}

#[test]
fn a_close_ends_each_call_among_many_messages() {
    let mut b = Case::new(u64::MAX, u64::MAX);
    let mut ids = 0..;
    let mut calls = Vec::new();
    for id in ids.by_ref().take(500) {
        if id % 50 == 49 {
            b.calls(id);
            calls.push(id);
        } else {
            b.send(id, 1);
        }
    }
    b.mailbox.shut(false, true);
    assert!(!b.mailbox.settled());
    for id in calls {
        let (woken, message) = b.mailbox.end_one_send().expect("it waits");
        assert_eq!((woken.id, message.id()), (id, id));
    }
    assert!(b.mailbox.end_one_send().is_none());
    assert!(b.mailbox.settled(), "a closed mailbox is");
}
