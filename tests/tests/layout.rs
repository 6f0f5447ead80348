//! The C program that knows the header alone, and the library, agree on numbers and layouts, in 64 and in 32 bits.

use std::collections::BTreeMap;
use std::process::Command;

use postbox::sys;

/// What `tests/c/abi.c` says: request numbers, and sizes of structs.
fn told(program: &str) -> BTreeMap<String, u64> {
    let output = Command::new(program)
        .arg("--layout")
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}; tests/vm/suite puts the C program there"));
    let text = String::from_utf8(output.stdout).expect("it prints text");
    assert!(
        output.status.success(),
        "{program} found a layout that is not the header's:\n{text}"
    );
    let number = |word: &str| match word.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).expect("a number"),
        None => word.parse().expect("a number"),
    };
    let mut told = BTreeMap::new();
    for line in text.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["request", name, value] => told.insert(name.to_string(), number(value)),
            ["ok:", "sizeof(struct", name, "is", value] => {
                told.insert(name.trim_end_matches(')').to_string(), number(value))
            }
            _ => None,
        };
    }
    told
}

fn ours() -> BTreeMap<String, u64> {
    macro_rules! requests {
        ($($name:ident)*) => { vec![$((stringify!($name).to_string(), u64::from(sys::$name))),*] };
    }
    macro_rules! sizes {
        ($($name:ident)*) => { vec![$((stringify!($name).to_string(), size_of::<sys::$name>() as u64)),*] };
    }
    let requests = requests!(
        POSTBOX_VERSION POSTBOX_OPEN POSTBOX_DUP POSTBOX_UNLINK POSTBOX_SET_ATTR POSTBOX_INFO POSTBOX_LIST POSTBOX_USAGE
        POSTBOX_GRANT POSTBOX_REVOKE
        POSTBOX_SEND POSTBOX_RECV POSTBOX_ACK POSTBOX_RESERVE POSTBOX_SEND_BATCH POSTBOX_RECV_BATCH
        POSTBOX_CALL POSTBOX_REPLY POSTBOX_REPLY_RECV
        POSTBOX_PAIR POSTBOX_CONNECT POSTBOX_ACCEPT POSTBOX_PEER POSTBOX_WAIT_PEER POSTBOX_SHUTDOWN
        POSTBOX_READ POSTBOX_WRITE POSTBOX_SET_CAPACITY
        POSTBOX_ACQUIRE POSTBOX_RELEASE POSTBOX_COUNT_DOWN POSTBOX_WAIT POSTBOX_JOIN POSTBOX_LEAVE
        POSTBOX_ATTACH POSTBOX_WAIT_WORD POSTBOX_WAKE_WORD
        POSTBOX_LOAN
        POSTBOX_RING_ATTACH POSTBOX_RING_DETACH POSTBOX_RING_WAIT POSTBOX_RING_WAKE
        POSTBOX_CANCEL
    );
    let sizes = sizes!(
        postbox_version postbox_open postbox_dup postbox_unlink postbox_attr postbox_info postbox_list postbox_usage
        postbox_send postbox_recv postbox_ack postbox_reserve postbox_batch postbox_fd
        postbox_call postbox_reply postbox_reply_recv
        postbox_pair postbox_connect postbox_accept postbox_peer postbox_wait_peer postbox_shutdown
        postbox_io postbox_capacity postbox_sync
        postbox_grant postbox_attach postbox_word
        postbox_ring_status postbox_ring_head postbox_ring_tail postbox_ring_attach postbox_ring
        postbox_loan postbox_lease postbox_leases
        postbox_uring postbox_record
    );
    requests.into_iter().chain(sizes).collect()
}

#[test]
fn the_header_in_c_and_in_rust_64_bits() {
    assert_eq!(told("/tests/abi64"), ours());
}

#[test]
fn the_header_in_c_and_in_rust_32_bits() {
    assert_eq!(told("/tests/abi32"), ours());
}
