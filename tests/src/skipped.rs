//! Which tests do not go through which doors, and why.

use crate::{Door, door, tell};

/// Tests that are left out, for one reason.
#[derive(Clone, Copy, Debug)]
pub struct Skip {
    /// Which of the other doors they are not for.
    pub uring: bool,
    /// Likewise.
    pub poll: bool,
    /// Why.
    pub because: &'static str,
    /// Their names, as the test programs list them.
    pub tests: &'static [&'static str],
}

/// All of them.
pub const SKIPPED: &[Skip] = &[
    Skip {
        uring: true,
        poll: false,
        because: "a command stays in its place while its process is stopped",
        tests: &["delivery::g01_a_stopped_receiver_keeps_nothing_from_the_others"],
    },
    Skip {
        uring: true,
        poll: false,
        because: "a pause is one of a system call that waits; a parked command has none",
        tests: &[
            "pauses::handler_ends_a_call_and_takes_the_request_back",
            "pauses::pause_does_not_lengthen_a_relative_timeout",
            "pauses::pause_keeps_requests_in_the_queue",
            "pauses::pause_keeps_requests_that_a_server_took",
            "pauses::pause_keeps_waits_for_messages_and_room",
            "pauses::pause_keeps_waits_for_units_and_bytes",
            "pauses::paused_call_goes_on_after_a_handler_of_sigcont",
            "pauses::paused_call_that_dies_is_withdrawn",
        ],
    },
    Skip {
        uring: false,
        poll: true,
        because: "who polls has no place in the line, and all of them are woken",
        tests: &[
            "copying::g03_a_waiting_receive_with_too_small_a_buffer_lets_the_next_have_the_message",
            "ends::g05_receivers_wait_while_unacknowledged_messages_may_come_back",
            "pipes::waiting_readers_are_served_in_order_and_one_at_a_time",
            "pipes::waiting_writers_are_served_in_order",
            "pipes::who_leaves_the_line_lets_the_next_go",
            "pools::pool_who_waits_for_a_block_is_served_in_order",
            "rendezvous::g02_a_receiver_with_a_bad_buffer_leaves_the_sender_waiting",
            "reservations::g04_reserving_waits_its_turn",
            "semaphores::semaphore_a_release_lets_exactly_those_go_that_can",
            "semaphores::semaphore_the_death_of_the_holder_wakes_who_waits_and_tells_it",
            "semaphores::semaphore_waiters_are_served_in_order_and_a_large_request_holds_back_those_behind_it",
            "semaphores::semaphore_who_gives_up_lets_those_behind_it_go",
            "uring::uring_commands_and_tasks_wait_in_one_order",
            "waiting::g04_a_message_wakes_one_receiver_and_not_the_herd",
            "waiting::g04_a_sender_that_gives_up_lets_those_behind_it_through",
            "waiting::g04_a_small_message_does_not_overtake_a_large_one_that_waits",
            "waiting::g04_receivers_are_served_in_the_order_in_which_they_came",
            "waiting::g04_room_for_one_wakes_one_sender",
            "waiting::g04_senders_are_served_in_the_order_in_which_they_came",
            "waiting::g04_who_comes_later_does_not_overtake_a_woken_receiver",
        ],
    },
    Skip {
        uring: false,
        poll: true,
        because: "a send that does not wait meets no receive that polls",
        tests: &[
            "calls::g06_reply_recv_answers_and_takes_the_next_in_one_call",
            "calls::g06_serve_ends_well_with_the_last_sender_and_goes_on_after_callers_that_gave_up",
            "links::each_direction_has_its_own_capacity",
            "polling::poll_on_a_rendezvous_wakes_each_side_for_the_other",
            "rendezvous::g02_a_receive_that_polls_meets_a_send_that_waits",
            "waiting::g04_non_blocking_send_and_blocking_receive",
        ],
    },
    Skip {
        uring: false,
        poll: true,
        because: "a send that does not wait is done at hand-over, whether it is received or not",
        tests: &["uring::uring_multishot_receive_at_a_rendezvous"],
    },
    Skip {
        uring: false,
        poll: true,
        because: "a large write is done in parts, and others come between",
        tests: &[
            "pipes::kills_lose_no_byte_and_leave_nobody_asleep",
            "pipes::kills_of_several_readers_lose_no_byte_and_leave_nobody_asleep",
            "pipes::nothing_comes_between_the_bytes_of_a_large_write",
        ],
    },
    Skip {
        uring: false,
        poll: true,
        because: "every try counts, and nobody sleeps in the kernel's list",
        tests: &[
            "reports::counters_count",
            "rings::ring_waits_for_a_record_and_for_half_of_it_to_be_free",
        ],
    },
    Skip {
        uring: false,
        poll: true,
        because: "there is nothing to poll once the descriptor is closed",
        tests: &["ends::g05_a_descriptor_closed_during_a_wait_does_not_end_it"],
    },
];

impl Skip {
    fn applies(&self, name: &str) -> bool {
        let here = match door() {
            Door::Ioctl => false,
            Door::Uring(_) => self.uring,
            Door::Poll => self.poll,
        };
        here && self.tests.contains(&name)
    }
}

/// Whether the test that this thread runs is left out, which is said then.
pub(crate) fn here() -> bool {
    if door() == Door::Ioctl {
        return false;
    }
    // The test runner gives the thread the test's name.
    let thread = std::thread::current();
    let name = thread.name().filter(|name| *name != "main");
    let name = name.expect("a test has a thread of its own");
    match SKIPPED.iter().find(|skip| skip.applies(name)) {
        Some(skip) => {
            tell(&format!("skipped: {name}: {}", skip.because));
            true
        }
        None => false,
    }
}
