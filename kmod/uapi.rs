// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note
// Made by tests/check-bindings --write from include/uapi/linux/postbox.h, with bindgen 0.71.1.

pub const POSTBOX_UNBOUNDED: u64 = !0;
pub const POSTBOX_ABI: u32 = 1;
pub const POSTBOX_IOC: u32 = 190;
pub const POSTBOX_KIND_MAILBOX: u32 = 1;
pub const POSTBOX_KIND_LINK: u32 = 2;
pub const POSTBOX_KIND_LISTENER: u32 = 3;
pub const POSTBOX_KIND_ENDPOINT: u32 = 4;
pub const POSTBOX_KIND_PIPE: u32 = 5;
pub const POSTBOX_KIND_SEMAPHORE: u32 = 6;
pub const POSTBOX_KIND_LATCH: u32 = 7;
pub const POSTBOX_KIND_BARRIER: u32 = 8;
pub const POSTBOX_KIND_SEGMENT: u32 = 9;
pub const POSTBOX_KIND_POOL: u32 = 10;
pub const POSTBOX_KIND_RING: u32 = 11;
pub const POSTBOX_RIGHT_SEND: u32 = 1;
pub const POSTBOX_RIGHT_RECEIVE: u32 = 2;
pub const POSTBOX_RIGHT_ADMIN: u32 = 8;
pub const POSTBOX_NAME_MAX: u32 = 63;
pub const POSTBOX_PRIORITY_MAX: u32 = 32767;
pub const POSTBOX_NONBLOCK: u32 = 1;
pub const POSTBOX_TIMEOUT: u32 = 2;
pub const POSTBOX_DEADLINE: u32 = 4;
pub const POSTBOX_REALTIME: u32 = 8;
pub const POSTBOX_FEATURE_URING: u32 = 1;
pub const POSTBOX_O_CREATE: u32 = 1;
pub const POSTBOX_O_EXCL: u32 = 2;
pub const POSTBOX_O_PERSIST: u32 = 4;
pub const POSTBOX_O_PORT: u32 = 8;
pub const POSTBOX_O_NO_BACK: u32 = 16;
pub const POSTBOX_O_NO_FORWARD: u32 = 32;
pub const POSTBOX_O_MANY: u32 = 64;
pub const POSTBOX_O_RESERVE: u32 = 128;
pub const POSTBOX_UNLINK_ID: u32 = 2147483648;
pub const POSTBOX_ATTR_MODE: u32 = 1;
pub const POSTBOX_ATTR_UID: u32 = 2;
pub const POSTBOX_ATTR_GID: u32 = 4;
pub const POSTBOX_GRANT_UID: u32 = 1;
pub const POSTBOX_GRANT_GID: u32 = 2;
pub const POSTBOX_GRANT_PID: u32 = 3;
pub const POSTBOX_GRANTS_MAX: u32 = 64;
pub const POSTBOX_INFO_PERSIST: u32 = 1;
pub const POSTBOX_INFO_CONNECTED: u32 = 2;
pub const POSTBOX_INFO_BROKEN: u32 = 4;
pub const POSTBOX_INFO_FROZEN: u32 = 8;
pub const POSTBOX_INFO_FOREIGN: u32 = 16;
pub const POSTBOX_LIST_ALL: u32 = 1;
pub const POSTBOX_LIST_NAME: u32 = 2;
pub const POSTBOX_FILES_MAX: u32 = 64;
pub const POSTBOX_SEND_RESERVED: u32 = 256;
pub const POSTBOX_RECV_ACK: u32 = 256;
pub const POSTBOX_RECV_FROM: u32 = 512;
pub const POSTBOX_MSG_REDELIVERED: u32 = 1;
pub const POSTBOX_MSG_CALL: u32 = 2;
pub const POSTBOX_MSG_LEASES: u32 = 4;
pub const POSTBOX_MSG_FILES_LOST: u32 = 8;
pub const POSTBOX_ACK_REQUEUE: u32 = 1;
pub const POSTBOX_RESERVE_CANCEL: u32 = 256;
pub const POSTBOX_CALL_FETCH: u32 = 256;
pub const POSTBOX_REPLY_DROP: u32 = 256;
pub const POSTBOX_REPLY_CHECK: u32 = 512;
pub const POSTBOX_CONNECT_PORT: u32 = 256;
pub const POSTBOX_SHUT_SEND: u32 = 1;
pub const POSTBOX_SHUT_RECEIVE: u32 = 2;
pub const POSTBOX_PIPE_ATOMIC: u32 = 4096;
pub const POSTBOX_SYNC_UNDO: u32 = 256;
pub const POSTBOX_SYNC_ARRIVE: u32 = 512;
pub const POSTBOX_SYNC_OWNER_DIED: u32 = 1;
pub const POSTBOX_SYNC_LEADER: u32 = 2;
pub const POSTBOX_BLOCKS_MAX: u32 = 65536;
pub const POSTBOX_BLOCK_ALIGN: u32 = 64;
pub const POSTBOX_LEASES_MAX: u32 = 64;
pub const POSTBOX_LOANS_MAX: u32 = 1024;
pub const POSTBOX_LEASE_SHARED: u32 = 1;
pub const POSTBOX_LEASE_MESSAGE: u32 = 2;
pub const POSTBOX_LEASES: u32 = 1024;
pub const POSTBOX_WORD_OWNER: u64 = 4611686018427387903;
pub const POSTBOX_WORD_WAITERS: u64 = 4611686018427387904;
pub const POSTBOX_WORD_OWNER_DIED: u32 = 1;
pub const POSTBOX_RING_STATUS_PAGE: u32 = 0;
pub const POSTBOX_RING_HEAD_PAGE: u32 = 1;
pub const POSTBOX_RING_TAIL_PAGE: u32 = 2;
pub const POSTBOX_RING_DATA_PAGE: u32 = 3;
pub const POSTBOX_RING_BUSY: u32 = 1;
pub const POSTBOX_RING_COMMITTED: u32 = 2;
pub const POSTBOX_RING_ABORTED: u32 = 3;
pub const POSTBOX_RING_PRODUCER_CLOSED: u32 = 1;
pub const POSTBOX_RING_PRODUCER_DIED: u32 = 2;
pub const POSTBOX_RING_CONSUMER_CLOSED: u32 = 4;
pub const POSTBOX_RING_CONSUMER_DIED: u32 = 8;
pub const POSTBOX_RING_PRODUCERS: u32 = 64;
pub const POSTBOX_RING_CONSUMER: u32 = 256;
pub const POSTBOX_RING_PRODUCER: u32 = 512;
pub const POSTBOX_URING_DIRECT: u32 = 16384;
pub const POSTBOX_URING_ALL: u32 = 32768;
pub type __u16 = ::core::ffi::c_ushort;
pub type __s32 = ::core::ffi::c_int;
pub type __u32 = ::core::ffi::c_uint;
pub type __u64 = ::core::ffi::c_ulonglong;
pub const POSTBOX_VERSION: __u32 = 48640;
pub const POSTBOX_OPEN: __u32 = 48641;
pub const POSTBOX_DUP: __u32 = 48642;
pub const POSTBOX_UNLINK: __u32 = 48643;
pub const POSTBOX_SET_ATTR: __u32 = 48644;
pub const POSTBOX_INFO: __u32 = 48645;
pub const POSTBOX_LIST: __u32 = 48646;
pub const POSTBOX_USAGE: __u32 = 48647;
pub const POSTBOX_GRANT: __u32 = 48648;
pub const POSTBOX_REVOKE: __u32 = 48649;
pub const POSTBOX_SEND: __u32 = 48656;
pub const POSTBOX_RECV: __u32 = 48657;
pub const POSTBOX_ACK: __u32 = 48658;
pub const POSTBOX_RESERVE: __u32 = 48659;
pub const POSTBOX_SEND_BATCH: __u32 = 48660;
pub const POSTBOX_RECV_BATCH: __u32 = 48661;
pub const POSTBOX_CALL: __u32 = 48662;
pub const POSTBOX_REPLY: __u32 = 48663;
pub const POSTBOX_REPLY_RECV: __u32 = 48664;
pub const POSTBOX_PAIR: __u32 = 48672;
pub const POSTBOX_CONNECT: __u32 = 48673;
pub const POSTBOX_ACCEPT: __u32 = 48674;
pub const POSTBOX_PEER: __u32 = 48675;
pub const POSTBOX_WAIT_PEER: __u32 = 48676;
pub const POSTBOX_SHUTDOWN: __u32 = 48677;
pub const POSTBOX_READ: __u32 = 48688;
pub const POSTBOX_WRITE: __u32 = 48689;
pub const POSTBOX_SET_CAPACITY: __u32 = 48690;
pub const POSTBOX_ACQUIRE: __u32 = 48704;
pub const POSTBOX_RELEASE: __u32 = 48705;
pub const POSTBOX_COUNT_DOWN: __u32 = 48706;
pub const POSTBOX_WAIT: __u32 = 48707;
pub const POSTBOX_JOIN: __u32 = 48708;
pub const POSTBOX_LEAVE: __u32 = 48709;
pub const POSTBOX_RING_ATTACH: __u32 = 48720;
pub const POSTBOX_RING_DETACH: __u32 = 48721;
pub const POSTBOX_RING_WAIT: __u32 = 48722;
pub const POSTBOX_RING_WAKE: __u32 = 48723;
pub const POSTBOX_ATTACH: __u32 = 48736;
pub const POSTBOX_WAIT_WORD: __u32 = 48737;
pub const POSTBOX_WAKE_WORD: __u32 = 48738;
pub const POSTBOX_LOAN: __u32 = 48728;
pub const POSTBOX_CANCEL: __u32 = 48752;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_version {
    pub size: __u32,
    pub abi: __u32,
    pub features: __u64,
    pub message_max: __u64,
    pub batch_max: __u32,
    pub reserved: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_version"][::core::mem::size_of::<postbox_version>() - 32usize];
    ["Alignment of postbox_version"][::core::mem::align_of::<postbox_version>() - 8usize];
    ["Offset of field: postbox_version::size"]
        [::core::mem::offset_of!(postbox_version, size) - 0usize];
    ["Offset of field: postbox_version::abi"]
        [::core::mem::offset_of!(postbox_version, abi) - 4usize];
    ["Offset of field: postbox_version::features"]
        [::core::mem::offset_of!(postbox_version, features) - 8usize];
    ["Offset of field: postbox_version::message_max"]
        [::core::mem::offset_of!(postbox_version, message_max) - 16usize];
    ["Offset of field: postbox_version::batch_max"]
        [::core::mem::offset_of!(postbox_version, batch_max) - 24usize];
    ["Offset of field: postbox_version::reserved"]
        [::core::mem::offset_of!(postbox_version, reserved) - 28usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_open {
    pub size: __u32,
    pub kind: __u32,
    pub name: __u64,
    pub name_len: __u32,
    pub flags: __u32,
    pub rights: __u32,
    pub mode: __u32,
    pub capacity: __u64,
    pub capacity_bytes: __u64,
    pub message_max: __u64,
    pub id: __u64,
    pub created: __u32,
    pub number: __u32,
    pub back_capacity: __u64,
    pub back_capacity_bytes: __u64,
    pub initial: __u64,
    pub backlog: __u32,
    pub memfd: __s32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_open"][::core::mem::size_of::<postbox_open>() - 104usize];
    ["Alignment of postbox_open"][::core::mem::align_of::<postbox_open>() - 8usize];
    ["Offset of field: postbox_open::size"][::core::mem::offset_of!(postbox_open, size) - 0usize];
    ["Offset of field: postbox_open::kind"][::core::mem::offset_of!(postbox_open, kind) - 4usize];
    ["Offset of field: postbox_open::name"][::core::mem::offset_of!(postbox_open, name) - 8usize];
    ["Offset of field: postbox_open::name_len"]
        [::core::mem::offset_of!(postbox_open, name_len) - 16usize];
    ["Offset of field: postbox_open::flags"]
        [::core::mem::offset_of!(postbox_open, flags) - 20usize];
    ["Offset of field: postbox_open::rights"]
        [::core::mem::offset_of!(postbox_open, rights) - 24usize];
    ["Offset of field: postbox_open::mode"][::core::mem::offset_of!(postbox_open, mode) - 28usize];
    ["Offset of field: postbox_open::capacity"]
        [::core::mem::offset_of!(postbox_open, capacity) - 32usize];
    ["Offset of field: postbox_open::capacity_bytes"]
        [::core::mem::offset_of!(postbox_open, capacity_bytes) - 40usize];
    ["Offset of field: postbox_open::message_max"]
        [::core::mem::offset_of!(postbox_open, message_max) - 48usize];
    ["Offset of field: postbox_open::id"][::core::mem::offset_of!(postbox_open, id) - 56usize];
    ["Offset of field: postbox_open::created"]
        [::core::mem::offset_of!(postbox_open, created) - 64usize];
    ["Offset of field: postbox_open::number"]
        [::core::mem::offset_of!(postbox_open, number) - 68usize];
    ["Offset of field: postbox_open::back_capacity"]
        [::core::mem::offset_of!(postbox_open, back_capacity) - 72usize];
    ["Offset of field: postbox_open::back_capacity_bytes"]
        [::core::mem::offset_of!(postbox_open, back_capacity_bytes) - 80usize];
    ["Offset of field: postbox_open::initial"]
        [::core::mem::offset_of!(postbox_open, initial) - 88usize];
    ["Offset of field: postbox_open::backlog"]
        [::core::mem::offset_of!(postbox_open, backlog) - 96usize];
    ["Offset of field: postbox_open::memfd"]
        [::core::mem::offset_of!(postbox_open, memfd) - 100usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_dup {
    pub size: __u32,
    pub rights: __u32,
    pub fd: __s32,
    pub reserved: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_dup"][::core::mem::size_of::<postbox_dup>() - 16usize];
    ["Alignment of postbox_dup"][::core::mem::align_of::<postbox_dup>() - 4usize];
    ["Offset of field: postbox_dup::size"][::core::mem::offset_of!(postbox_dup, size) - 0usize];
    ["Offset of field: postbox_dup::rights"][::core::mem::offset_of!(postbox_dup, rights) - 4usize];
    ["Offset of field: postbox_dup::fd"][::core::mem::offset_of!(postbox_dup, fd) - 8usize];
    ["Offset of field: postbox_dup::reserved"]
        [::core::mem::offset_of!(postbox_dup, reserved) - 12usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_unlink {
    pub size: __u32,
    pub name_len: __u32,
    pub name: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_unlink"][::core::mem::size_of::<postbox_unlink>() - 16usize];
    ["Alignment of postbox_unlink"][::core::mem::align_of::<postbox_unlink>() - 8usize];
    ["Offset of field: postbox_unlink::size"]
        [::core::mem::offset_of!(postbox_unlink, size) - 0usize];
    ["Offset of field: postbox_unlink::name_len"]
        [::core::mem::offset_of!(postbox_unlink, name_len) - 4usize];
    ["Offset of field: postbox_unlink::name"]
        [::core::mem::offset_of!(postbox_unlink, name) - 8usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_attr {
    pub size: __u32,
    pub valid: __u32,
    pub mode: __u32,
    pub uid: __u32,
    pub gid: __u32,
    pub reserved: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_attr"][::core::mem::size_of::<postbox_attr>() - 24usize];
    ["Alignment of postbox_attr"][::core::mem::align_of::<postbox_attr>() - 4usize];
    ["Offset of field: postbox_attr::size"][::core::mem::offset_of!(postbox_attr, size) - 0usize];
    ["Offset of field: postbox_attr::valid"][::core::mem::offset_of!(postbox_attr, valid) - 4usize];
    ["Offset of field: postbox_attr::mode"][::core::mem::offset_of!(postbox_attr, mode) - 8usize];
    ["Offset of field: postbox_attr::uid"][::core::mem::offset_of!(postbox_attr, uid) - 12usize];
    ["Offset of field: postbox_attr::gid"][::core::mem::offset_of!(postbox_attr, gid) - 16usize];
    ["Offset of field: postbox_attr::reserved"]
        [::core::mem::offset_of!(postbox_attr, reserved) - 20usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_grant {
    pub size: __u32,
    pub who: __u32,
    pub id: __u32,
    pub rights: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_grant"][::core::mem::size_of::<postbox_grant>() - 16usize];
    ["Alignment of postbox_grant"][::core::mem::align_of::<postbox_grant>() - 4usize];
    ["Offset of field: postbox_grant::size"][::core::mem::offset_of!(postbox_grant, size) - 0usize];
    ["Offset of field: postbox_grant::who"][::core::mem::offset_of!(postbox_grant, who) - 4usize];
    ["Offset of field: postbox_grant::id"][::core::mem::offset_of!(postbox_grant, id) - 8usize];
    ["Offset of field: postbox_grant::rights"]
        [::core::mem::offset_of!(postbox_grant, rights) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct postbox_info {
    pub size: __u32,
    pub kind: __u32,
    pub id: __u64,
    pub flags: __u32,
    pub mode: __u32,
    pub uid: __u32,
    pub gid: __u32,
    pub capacity: __u64,
    pub capacity_bytes: __u64,
    pub message_max: __u64,
    pub messages: __u64,
    pub bytes: __u64,
    pub unacknowledged: __u64,
    pub reserved_messages: __u64,
    pub senders: __u32,
    pub receivers: __u32,
    pub waiting_senders: __u32,
    pub waiting_receivers: __u32,
    pub sent: __u64,
    pub received: __u64,
    pub redelivered: __u64,
    pub full: __u64,
    pub high_messages: __u64,
    pub high_bytes: __u64,
    pub rights: __u32,
    pub name_len: __u32,
    pub name: [::core::ffi::c_char; 64usize],
    pub number: __u32,
    pub reserved: __u32,
    pub value: __u64,
    pub maximum: __u64,
    pub back_messages: __u64,
    pub back_bytes: __u64,
    pub requests: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_info"][::core::mem::size_of::<postbox_info>() - 272usize];
    ["Alignment of postbox_info"][::core::mem::align_of::<postbox_info>() - 8usize];
    ["Offset of field: postbox_info::size"][::core::mem::offset_of!(postbox_info, size) - 0usize];
    ["Offset of field: postbox_info::kind"][::core::mem::offset_of!(postbox_info, kind) - 4usize];
    ["Offset of field: postbox_info::id"][::core::mem::offset_of!(postbox_info, id) - 8usize];
    ["Offset of field: postbox_info::flags"]
        [::core::mem::offset_of!(postbox_info, flags) - 16usize];
    ["Offset of field: postbox_info::mode"][::core::mem::offset_of!(postbox_info, mode) - 20usize];
    ["Offset of field: postbox_info::uid"][::core::mem::offset_of!(postbox_info, uid) - 24usize];
    ["Offset of field: postbox_info::gid"][::core::mem::offset_of!(postbox_info, gid) - 28usize];
    ["Offset of field: postbox_info::capacity"]
        [::core::mem::offset_of!(postbox_info, capacity) - 32usize];
    ["Offset of field: postbox_info::capacity_bytes"]
        [::core::mem::offset_of!(postbox_info, capacity_bytes) - 40usize];
    ["Offset of field: postbox_info::message_max"]
        [::core::mem::offset_of!(postbox_info, message_max) - 48usize];
    ["Offset of field: postbox_info::messages"]
        [::core::mem::offset_of!(postbox_info, messages) - 56usize];
    ["Offset of field: postbox_info::bytes"]
        [::core::mem::offset_of!(postbox_info, bytes) - 64usize];
    ["Offset of field: postbox_info::unacknowledged"]
        [::core::mem::offset_of!(postbox_info, unacknowledged) - 72usize];
    ["Offset of field: postbox_info::reserved_messages"]
        [::core::mem::offset_of!(postbox_info, reserved_messages) - 80usize];
    ["Offset of field: postbox_info::senders"]
        [::core::mem::offset_of!(postbox_info, senders) - 88usize];
    ["Offset of field: postbox_info::receivers"]
        [::core::mem::offset_of!(postbox_info, receivers) - 92usize];
    ["Offset of field: postbox_info::waiting_senders"]
        [::core::mem::offset_of!(postbox_info, waiting_senders) - 96usize];
    ["Offset of field: postbox_info::waiting_receivers"]
        [::core::mem::offset_of!(postbox_info, waiting_receivers) - 100usize];
    ["Offset of field: postbox_info::sent"][::core::mem::offset_of!(postbox_info, sent) - 104usize];
    ["Offset of field: postbox_info::received"]
        [::core::mem::offset_of!(postbox_info, received) - 112usize];
    ["Offset of field: postbox_info::redelivered"]
        [::core::mem::offset_of!(postbox_info, redelivered) - 120usize];
    ["Offset of field: postbox_info::full"][::core::mem::offset_of!(postbox_info, full) - 128usize];
    ["Offset of field: postbox_info::high_messages"]
        [::core::mem::offset_of!(postbox_info, high_messages) - 136usize];
    ["Offset of field: postbox_info::high_bytes"]
        [::core::mem::offset_of!(postbox_info, high_bytes) - 144usize];
    ["Offset of field: postbox_info::rights"]
        [::core::mem::offset_of!(postbox_info, rights) - 152usize];
    ["Offset of field: postbox_info::name_len"]
        [::core::mem::offset_of!(postbox_info, name_len) - 156usize];
    ["Offset of field: postbox_info::name"][::core::mem::offset_of!(postbox_info, name) - 160usize];
    ["Offset of field: postbox_info::number"]
        [::core::mem::offset_of!(postbox_info, number) - 224usize];
    ["Offset of field: postbox_info::reserved"]
        [::core::mem::offset_of!(postbox_info, reserved) - 228usize];
    ["Offset of field: postbox_info::value"]
        [::core::mem::offset_of!(postbox_info, value) - 232usize];
    ["Offset of field: postbox_info::maximum"]
        [::core::mem::offset_of!(postbox_info, maximum) - 240usize];
    ["Offset of field: postbox_info::back_messages"]
        [::core::mem::offset_of!(postbox_info, back_messages) - 248usize];
    ["Offset of field: postbox_info::back_bytes"]
        [::core::mem::offset_of!(postbox_info, back_bytes) - 256usize];
    ["Offset of field: postbox_info::requests"]
        [::core::mem::offset_of!(postbox_info, requests) - 264usize];
};
impl Default for postbox_info {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_list {
    pub size: __u32,
    pub count: __u32,
    pub infos: __u64,
    pub info_size: __u32,
    pub flags: __u32,
    pub after: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_list"][::core::mem::size_of::<postbox_list>() - 32usize];
    ["Alignment of postbox_list"][::core::mem::align_of::<postbox_list>() - 8usize];
    ["Offset of field: postbox_list::size"][::core::mem::offset_of!(postbox_list, size) - 0usize];
    ["Offset of field: postbox_list::count"][::core::mem::offset_of!(postbox_list, count) - 4usize];
    ["Offset of field: postbox_list::infos"][::core::mem::offset_of!(postbox_list, infos) - 8usize];
    ["Offset of field: postbox_list::info_size"]
        [::core::mem::offset_of!(postbox_list, info_size) - 16usize];
    ["Offset of field: postbox_list::flags"]
        [::core::mem::offset_of!(postbox_list, flags) - 20usize];
    ["Offset of field: postbox_list::after"]
        [::core::mem::offset_of!(postbox_list, after) - 24usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_usage {
    pub size: __u32,
    pub uid: __u32,
    pub messages: __u64,
    pub messages_max: __u64,
    pub bytes: __u64,
    pub bytes_max: __u64,
    pub objects: __u64,
    pub objects_max: __u64,
    pub files: __u64,
    pub files_max: __u64,
    pub shared: __u64,
    pub shared_max: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_usage"][::core::mem::size_of::<postbox_usage>() - 88usize];
    ["Alignment of postbox_usage"][::core::mem::align_of::<postbox_usage>() - 8usize];
    ["Offset of field: postbox_usage::size"][::core::mem::offset_of!(postbox_usage, size) - 0usize];
    ["Offset of field: postbox_usage::uid"][::core::mem::offset_of!(postbox_usage, uid) - 4usize];
    ["Offset of field: postbox_usage::messages"]
        [::core::mem::offset_of!(postbox_usage, messages) - 8usize];
    ["Offset of field: postbox_usage::messages_max"]
        [::core::mem::offset_of!(postbox_usage, messages_max) - 16usize];
    ["Offset of field: postbox_usage::bytes"]
        [::core::mem::offset_of!(postbox_usage, bytes) - 24usize];
    ["Offset of field: postbox_usage::bytes_max"]
        [::core::mem::offset_of!(postbox_usage, bytes_max) - 32usize];
    ["Offset of field: postbox_usage::objects"]
        [::core::mem::offset_of!(postbox_usage, objects) - 40usize];
    ["Offset of field: postbox_usage::objects_max"]
        [::core::mem::offset_of!(postbox_usage, objects_max) - 48usize];
    ["Offset of field: postbox_usage::files"]
        [::core::mem::offset_of!(postbox_usage, files) - 56usize];
    ["Offset of field: postbox_usage::files_max"]
        [::core::mem::offset_of!(postbox_usage, files_max) - 64usize];
    ["Offset of field: postbox_usage::shared"]
        [::core::mem::offset_of!(postbox_usage, shared) - 72usize];
    ["Offset of field: postbox_usage::shared_max"]
        [::core::mem::offset_of!(postbox_usage, shared_max) - 80usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_fd {
    pub fd: __s32,
    pub rights: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_fd"][::core::mem::size_of::<postbox_fd>() - 8usize];
    ["Alignment of postbox_fd"][::core::mem::align_of::<postbox_fd>() - 4usize];
    ["Offset of field: postbox_fd::fd"][::core::mem::offset_of!(postbox_fd, fd) - 0usize];
    ["Offset of field: postbox_fd::rights"][::core::mem::offset_of!(postbox_fd, rights) - 4usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_send {
    pub size: __u32,
    pub flags: __u32,
    pub data: __u64,
    pub len: __u64,
    pub timeout_ns: __u64,
    pub priority: __u32,
    pub fd_count: __u32,
    pub reserved_len: __u64,
    pub fds: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_send"][::core::mem::size_of::<postbox_send>() - 56usize];
    ["Alignment of postbox_send"][::core::mem::align_of::<postbox_send>() - 8usize];
    ["Offset of field: postbox_send::size"][::core::mem::offset_of!(postbox_send, size) - 0usize];
    ["Offset of field: postbox_send::flags"][::core::mem::offset_of!(postbox_send, flags) - 4usize];
    ["Offset of field: postbox_send::data"][::core::mem::offset_of!(postbox_send, data) - 8usize];
    ["Offset of field: postbox_send::len"][::core::mem::offset_of!(postbox_send, len) - 16usize];
    ["Offset of field: postbox_send::timeout_ns"]
        [::core::mem::offset_of!(postbox_send, timeout_ns) - 24usize];
    ["Offset of field: postbox_send::priority"]
        [::core::mem::offset_of!(postbox_send, priority) - 32usize];
    ["Offset of field: postbox_send::fd_count"]
        [::core::mem::offset_of!(postbox_send, fd_count) - 36usize];
    ["Offset of field: postbox_send::reserved_len"]
        [::core::mem::offset_of!(postbox_send, reserved_len) - 40usize];
    ["Offset of field: postbox_send::fds"][::core::mem::offset_of!(postbox_send, fds) - 48usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_recv {
    pub size: __u32,
    pub flags: __u32,
    pub data: __u64,
    pub len: __u64,
    pub timeout_ns: __u64,
    pub msg_len: __u64,
    pub token: __u64,
    pub priority: __u32,
    pub msg_flags: __u32,
    pub pid: __u32,
    pub tid: __u32,
    pub uid: __u32,
    pub gid: __u32,
    pub pidfd_ino: __u64,
    pub fds: __u64,
    pub fd_max: __u32,
    pub fd_count: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_recv"][::core::mem::size_of::<postbox_recv>() - 96usize];
    ["Alignment of postbox_recv"][::core::mem::align_of::<postbox_recv>() - 8usize];
    ["Offset of field: postbox_recv::size"][::core::mem::offset_of!(postbox_recv, size) - 0usize];
    ["Offset of field: postbox_recv::flags"][::core::mem::offset_of!(postbox_recv, flags) - 4usize];
    ["Offset of field: postbox_recv::data"][::core::mem::offset_of!(postbox_recv, data) - 8usize];
    ["Offset of field: postbox_recv::len"][::core::mem::offset_of!(postbox_recv, len) - 16usize];
    ["Offset of field: postbox_recv::timeout_ns"]
        [::core::mem::offset_of!(postbox_recv, timeout_ns) - 24usize];
    ["Offset of field: postbox_recv::msg_len"]
        [::core::mem::offset_of!(postbox_recv, msg_len) - 32usize];
    ["Offset of field: postbox_recv::token"]
        [::core::mem::offset_of!(postbox_recv, token) - 40usize];
    ["Offset of field: postbox_recv::priority"]
        [::core::mem::offset_of!(postbox_recv, priority) - 48usize];
    ["Offset of field: postbox_recv::msg_flags"]
        [::core::mem::offset_of!(postbox_recv, msg_flags) - 52usize];
    ["Offset of field: postbox_recv::pid"][::core::mem::offset_of!(postbox_recv, pid) - 56usize];
    ["Offset of field: postbox_recv::tid"][::core::mem::offset_of!(postbox_recv, tid) - 60usize];
    ["Offset of field: postbox_recv::uid"][::core::mem::offset_of!(postbox_recv, uid) - 64usize];
    ["Offset of field: postbox_recv::gid"][::core::mem::offset_of!(postbox_recv, gid) - 68usize];
    ["Offset of field: postbox_recv::pidfd_ino"]
        [::core::mem::offset_of!(postbox_recv, pidfd_ino) - 72usize];
    ["Offset of field: postbox_recv::fds"][::core::mem::offset_of!(postbox_recv, fds) - 80usize];
    ["Offset of field: postbox_recv::fd_max"]
        [::core::mem::offset_of!(postbox_recv, fd_max) - 88usize];
    ["Offset of field: postbox_recv::fd_count"]
        [::core::mem::offset_of!(postbox_recv, fd_count) - 92usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_ack {
    pub size: __u32,
    pub flags: __u32,
    pub token: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_ack"][::core::mem::size_of::<postbox_ack>() - 16usize];
    ["Alignment of postbox_ack"][::core::mem::align_of::<postbox_ack>() - 8usize];
    ["Offset of field: postbox_ack::size"][::core::mem::offset_of!(postbox_ack, size) - 0usize];
    ["Offset of field: postbox_ack::flags"][::core::mem::offset_of!(postbox_ack, flags) - 4usize];
    ["Offset of field: postbox_ack::token"][::core::mem::offset_of!(postbox_ack, token) - 8usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_reserve {
    pub size: __u32,
    pub flags: __u32,
    pub len: __u64,
    pub timeout_ns: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_reserve"][::core::mem::size_of::<postbox_reserve>() - 24usize];
    ["Alignment of postbox_reserve"][::core::mem::align_of::<postbox_reserve>() - 8usize];
    ["Offset of field: postbox_reserve::size"]
        [::core::mem::offset_of!(postbox_reserve, size) - 0usize];
    ["Offset of field: postbox_reserve::flags"]
        [::core::mem::offset_of!(postbox_reserve, flags) - 4usize];
    ["Offset of field: postbox_reserve::len"]
        [::core::mem::offset_of!(postbox_reserve, len) - 8usize];
    ["Offset of field: postbox_reserve::timeout_ns"]
        [::core::mem::offset_of!(postbox_reserve, timeout_ns) - 16usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_batch {
    pub size: __u32,
    pub flags: __u32,
    pub entries: __u64,
    pub count: __u32,
    pub entry_size: __u32,
    pub timeout_ns: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_batch"][::core::mem::size_of::<postbox_batch>() - 32usize];
    ["Alignment of postbox_batch"][::core::mem::align_of::<postbox_batch>() - 8usize];
    ["Offset of field: postbox_batch::size"][::core::mem::offset_of!(postbox_batch, size) - 0usize];
    ["Offset of field: postbox_batch::flags"]
        [::core::mem::offset_of!(postbox_batch, flags) - 4usize];
    ["Offset of field: postbox_batch::entries"]
        [::core::mem::offset_of!(postbox_batch, entries) - 8usize];
    ["Offset of field: postbox_batch::count"]
        [::core::mem::offset_of!(postbox_batch, count) - 16usize];
    ["Offset of field: postbox_batch::entry_size"]
        [::core::mem::offset_of!(postbox_batch, entry_size) - 20usize];
    ["Offset of field: postbox_batch::timeout_ns"]
        [::core::mem::offset_of!(postbox_batch, timeout_ns) - 24usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_call {
    pub size: __u32,
    pub reserved: __u32,
    pub request: postbox_send,
    pub reply: postbox_recv,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_call"][::core::mem::size_of::<postbox_call>() - 160usize];
    ["Alignment of postbox_call"][::core::mem::align_of::<postbox_call>() - 8usize];
    ["Offset of field: postbox_call::size"][::core::mem::offset_of!(postbox_call, size) - 0usize];
    ["Offset of field: postbox_call::reserved"]
        [::core::mem::offset_of!(postbox_call, reserved) - 4usize];
    ["Offset of field: postbox_call::request"]
        [::core::mem::offset_of!(postbox_call, request) - 8usize];
    ["Offset of field: postbox_call::reply"]
        [::core::mem::offset_of!(postbox_call, reply) - 64usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_reply {
    pub size: __u32,
    pub flags: __u32,
    pub data: __u64,
    pub len: __u64,
    pub token: __u64,
    pub fds: __u64,
    pub fd_count: __u32,
    pub reserved: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_reply"][::core::mem::size_of::<postbox_reply>() - 48usize];
    ["Alignment of postbox_reply"][::core::mem::align_of::<postbox_reply>() - 8usize];
    ["Offset of field: postbox_reply::size"][::core::mem::offset_of!(postbox_reply, size) - 0usize];
    ["Offset of field: postbox_reply::flags"]
        [::core::mem::offset_of!(postbox_reply, flags) - 4usize];
    ["Offset of field: postbox_reply::data"][::core::mem::offset_of!(postbox_reply, data) - 8usize];
    ["Offset of field: postbox_reply::len"][::core::mem::offset_of!(postbox_reply, len) - 16usize];
    ["Offset of field: postbox_reply::token"]
        [::core::mem::offset_of!(postbox_reply, token) - 24usize];
    ["Offset of field: postbox_reply::fds"][::core::mem::offset_of!(postbox_reply, fds) - 32usize];
    ["Offset of field: postbox_reply::fd_count"]
        [::core::mem::offset_of!(postbox_reply, fd_count) - 40usize];
    ["Offset of field: postbox_reply::reserved"]
        [::core::mem::offset_of!(postbox_reply, reserved) - 44usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_reply_recv {
    pub size: __u32,
    pub reserved: __u32,
    pub reply: postbox_reply,
    pub recv: postbox_recv,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_reply_recv"][::core::mem::size_of::<postbox_reply_recv>() - 152usize];
    ["Alignment of postbox_reply_recv"][::core::mem::align_of::<postbox_reply_recv>() - 8usize];
    ["Offset of field: postbox_reply_recv::size"]
        [::core::mem::offset_of!(postbox_reply_recv, size) - 0usize];
    ["Offset of field: postbox_reply_recv::reserved"]
        [::core::mem::offset_of!(postbox_reply_recv, reserved) - 4usize];
    ["Offset of field: postbox_reply_recv::reply"]
        [::core::mem::offset_of!(postbox_reply_recv, reply) - 8usize];
    ["Offset of field: postbox_reply_recv::recv"]
        [::core::mem::offset_of!(postbox_reply_recv, recv) - 56usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_pair {
    pub size: __u32,
    pub flags: __u32,
    pub capacity: __u64,
    pub capacity_bytes: __u64,
    pub back_capacity: __u64,
    pub back_capacity_bytes: __u64,
    pub message_max: __u64,
    pub id: __u64,
    pub fd: __s32,
    pub reserved: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_pair"][::core::mem::size_of::<postbox_pair>() - 64usize];
    ["Alignment of postbox_pair"][::core::mem::align_of::<postbox_pair>() - 8usize];
    ["Offset of field: postbox_pair::size"][::core::mem::offset_of!(postbox_pair, size) - 0usize];
    ["Offset of field: postbox_pair::flags"][::core::mem::offset_of!(postbox_pair, flags) - 4usize];
    ["Offset of field: postbox_pair::capacity"]
        [::core::mem::offset_of!(postbox_pair, capacity) - 8usize];
    ["Offset of field: postbox_pair::capacity_bytes"]
        [::core::mem::offset_of!(postbox_pair, capacity_bytes) - 16usize];
    ["Offset of field: postbox_pair::back_capacity"]
        [::core::mem::offset_of!(postbox_pair, back_capacity) - 24usize];
    ["Offset of field: postbox_pair::back_capacity_bytes"]
        [::core::mem::offset_of!(postbox_pair, back_capacity_bytes) - 32usize];
    ["Offset of field: postbox_pair::message_max"]
        [::core::mem::offset_of!(postbox_pair, message_max) - 40usize];
    ["Offset of field: postbox_pair::id"][::core::mem::offset_of!(postbox_pair, id) - 48usize];
    ["Offset of field: postbox_pair::fd"][::core::mem::offset_of!(postbox_pair, fd) - 56usize];
    ["Offset of field: postbox_pair::reserved"]
        [::core::mem::offset_of!(postbox_pair, reserved) - 60usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_connect {
    pub size: __u32,
    pub flags: __u32,
    pub name: __u64,
    pub name_len: __u32,
    pub number: __u32,
    pub timeout_ns: __u64,
    pub id: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_connect"][::core::mem::size_of::<postbox_connect>() - 40usize];
    ["Alignment of postbox_connect"][::core::mem::align_of::<postbox_connect>() - 8usize];
    ["Offset of field: postbox_connect::size"]
        [::core::mem::offset_of!(postbox_connect, size) - 0usize];
    ["Offset of field: postbox_connect::flags"]
        [::core::mem::offset_of!(postbox_connect, flags) - 4usize];
    ["Offset of field: postbox_connect::name"]
        [::core::mem::offset_of!(postbox_connect, name) - 8usize];
    ["Offset of field: postbox_connect::name_len"]
        [::core::mem::offset_of!(postbox_connect, name_len) - 16usize];
    ["Offset of field: postbox_connect::number"]
        [::core::mem::offset_of!(postbox_connect, number) - 20usize];
    ["Offset of field: postbox_connect::timeout_ns"]
        [::core::mem::offset_of!(postbox_connect, timeout_ns) - 24usize];
    ["Offset of field: postbox_connect::id"]
        [::core::mem::offset_of!(postbox_connect, id) - 32usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_accept {
    pub size: __u32,
    pub flags: __u32,
    pub timeout_ns: __u64,
    pub id: __u64,
    pub fd: __s32,
    pub reserved: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_accept"][::core::mem::size_of::<postbox_accept>() - 32usize];
    ["Alignment of postbox_accept"][::core::mem::align_of::<postbox_accept>() - 8usize];
    ["Offset of field: postbox_accept::size"]
        [::core::mem::offset_of!(postbox_accept, size) - 0usize];
    ["Offset of field: postbox_accept::flags"]
        [::core::mem::offset_of!(postbox_accept, flags) - 4usize];
    ["Offset of field: postbox_accept::timeout_ns"]
        [::core::mem::offset_of!(postbox_accept, timeout_ns) - 8usize];
    ["Offset of field: postbox_accept::id"][::core::mem::offset_of!(postbox_accept, id) - 16usize];
    ["Offset of field: postbox_accept::fd"][::core::mem::offset_of!(postbox_accept, fd) - 24usize];
    ["Offset of field: postbox_accept::reserved"]
        [::core::mem::offset_of!(postbox_accept, reserved) - 28usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_peer {
    pub size: __u32,
    pub pid: __u32,
    pub tid: __u32,
    pub uid: __u32,
    pub gid: __u32,
    pub reserved: __u32,
    pub pidfd_ino: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_peer"][::core::mem::size_of::<postbox_peer>() - 32usize];
    ["Alignment of postbox_peer"][::core::mem::align_of::<postbox_peer>() - 8usize];
    ["Offset of field: postbox_peer::size"][::core::mem::offset_of!(postbox_peer, size) - 0usize];
    ["Offset of field: postbox_peer::pid"][::core::mem::offset_of!(postbox_peer, pid) - 4usize];
    ["Offset of field: postbox_peer::tid"][::core::mem::offset_of!(postbox_peer, tid) - 8usize];
    ["Offset of field: postbox_peer::uid"][::core::mem::offset_of!(postbox_peer, uid) - 12usize];
    ["Offset of field: postbox_peer::gid"][::core::mem::offset_of!(postbox_peer, gid) - 16usize];
    ["Offset of field: postbox_peer::reserved"]
        [::core::mem::offset_of!(postbox_peer, reserved) - 20usize];
    ["Offset of field: postbox_peer::pidfd_ino"]
        [::core::mem::offset_of!(postbox_peer, pidfd_ino) - 24usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_wait_peer {
    pub size: __u32,
    pub flags: __u32,
    pub timeout_ns: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_wait_peer"][::core::mem::size_of::<postbox_wait_peer>() - 16usize];
    ["Alignment of postbox_wait_peer"][::core::mem::align_of::<postbox_wait_peer>() - 8usize];
    ["Offset of field: postbox_wait_peer::size"]
        [::core::mem::offset_of!(postbox_wait_peer, size) - 0usize];
    ["Offset of field: postbox_wait_peer::flags"]
        [::core::mem::offset_of!(postbox_wait_peer, flags) - 4usize];
    ["Offset of field: postbox_wait_peer::timeout_ns"]
        [::core::mem::offset_of!(postbox_wait_peer, timeout_ns) - 8usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_shutdown {
    pub size: __u32,
    pub how: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_shutdown"][::core::mem::size_of::<postbox_shutdown>() - 8usize];
    ["Alignment of postbox_shutdown"][::core::mem::align_of::<postbox_shutdown>() - 4usize];
    ["Offset of field: postbox_shutdown::size"]
        [::core::mem::offset_of!(postbox_shutdown, size) - 0usize];
    ["Offset of field: postbox_shutdown::how"]
        [::core::mem::offset_of!(postbox_shutdown, how) - 4usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_io {
    pub size: __u32,
    pub flags: __u32,
    pub data: __u64,
    pub len: __u64,
    pub timeout_ns: __u64,
    pub done: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_io"][::core::mem::size_of::<postbox_io>() - 40usize];
    ["Alignment of postbox_io"][::core::mem::align_of::<postbox_io>() - 8usize];
    ["Offset of field: postbox_io::size"][::core::mem::offset_of!(postbox_io, size) - 0usize];
    ["Offset of field: postbox_io::flags"][::core::mem::offset_of!(postbox_io, flags) - 4usize];
    ["Offset of field: postbox_io::data"][::core::mem::offset_of!(postbox_io, data) - 8usize];
    ["Offset of field: postbox_io::len"][::core::mem::offset_of!(postbox_io, len) - 16usize];
    ["Offset of field: postbox_io::timeout_ns"]
        [::core::mem::offset_of!(postbox_io, timeout_ns) - 24usize];
    ["Offset of field: postbox_io::done"][::core::mem::offset_of!(postbox_io, done) - 32usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_capacity {
    pub size: __u32,
    pub reserved: __u32,
    pub capacity: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_capacity"][::core::mem::size_of::<postbox_capacity>() - 16usize];
    ["Alignment of postbox_capacity"][::core::mem::align_of::<postbox_capacity>() - 8usize];
    ["Offset of field: postbox_capacity::size"]
        [::core::mem::offset_of!(postbox_capacity, size) - 0usize];
    ["Offset of field: postbox_capacity::reserved"]
        [::core::mem::offset_of!(postbox_capacity, reserved) - 4usize];
    ["Offset of field: postbox_capacity::capacity"]
        [::core::mem::offset_of!(postbox_capacity, capacity) - 8usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_sync {
    pub size: __u32,
    pub flags: __u32,
    pub count: __u64,
    pub timeout_ns: __u64,
    pub state: __u32,
    pub reserved: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_sync"][::core::mem::size_of::<postbox_sync>() - 32usize];
    ["Alignment of postbox_sync"][::core::mem::align_of::<postbox_sync>() - 8usize];
    ["Offset of field: postbox_sync::size"][::core::mem::offset_of!(postbox_sync, size) - 0usize];
    ["Offset of field: postbox_sync::flags"][::core::mem::offset_of!(postbox_sync, flags) - 4usize];
    ["Offset of field: postbox_sync::count"][::core::mem::offset_of!(postbox_sync, count) - 8usize];
    ["Offset of field: postbox_sync::timeout_ns"]
        [::core::mem::offset_of!(postbox_sync, timeout_ns) - 16usize];
    ["Offset of field: postbox_sync::state"]
        [::core::mem::offset_of!(postbox_sync, state) - 24usize];
    ["Offset of field: postbox_sync::reserved"]
        [::core::mem::offset_of!(postbox_sync, reserved) - 28usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_loan {
    pub size: __u32,
    pub flags: __u32,
    pub timeout_ns: __u64,
    pub returns: __u64,
    pub loans: __u64,
    pub return_count: __u32,
    pub loan_max: __u32,
    pub loan_count: __u32,
    pub reserved: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_loan"][::core::mem::size_of::<postbox_loan>() - 48usize];
    ["Alignment of postbox_loan"][::core::mem::align_of::<postbox_loan>() - 8usize];
    ["Offset of field: postbox_loan::size"][::core::mem::offset_of!(postbox_loan, size) - 0usize];
    ["Offset of field: postbox_loan::flags"][::core::mem::offset_of!(postbox_loan, flags) - 4usize];
    ["Offset of field: postbox_loan::timeout_ns"]
        [::core::mem::offset_of!(postbox_loan, timeout_ns) - 8usize];
    ["Offset of field: postbox_loan::returns"]
        [::core::mem::offset_of!(postbox_loan, returns) - 16usize];
    ["Offset of field: postbox_loan::loans"]
        [::core::mem::offset_of!(postbox_loan, loans) - 24usize];
    ["Offset of field: postbox_loan::return_count"]
        [::core::mem::offset_of!(postbox_loan, return_count) - 32usize];
    ["Offset of field: postbox_loan::loan_max"]
        [::core::mem::offset_of!(postbox_loan, loan_max) - 36usize];
    ["Offset of field: postbox_loan::loan_count"]
        [::core::mem::offset_of!(postbox_loan, loan_count) - 40usize];
    ["Offset of field: postbox_loan::reserved"]
        [::core::mem::offset_of!(postbox_loan, reserved) - 44usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_lease {
    pub block: __u32,
    pub flags: __u32,
    pub len: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_lease"][::core::mem::size_of::<postbox_lease>() - 16usize];
    ["Alignment of postbox_lease"][::core::mem::align_of::<postbox_lease>() - 8usize];
    ["Offset of field: postbox_lease::block"]
        [::core::mem::offset_of!(postbox_lease, block) - 0usize];
    ["Offset of field: postbox_lease::flags"]
        [::core::mem::offset_of!(postbox_lease, flags) - 4usize];
    ["Offset of field: postbox_lease::len"][::core::mem::offset_of!(postbox_lease, len) - 8usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_leases {
    pub size: __u32,
    pub pool: __s32,
    pub fds: __u64,
    pub entries: __u64,
    pub returns: __u64,
    pub loans: __u64,
    pub return_count: __u32,
    pub loan_max: __u32,
    pub loan_count: __u32,
    pub max: __u32,
    pub count: __u32,
    pub reserved: __u32,
    pub pool_id: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_leases"][::core::mem::size_of::<postbox_leases>() - 72usize];
    ["Alignment of postbox_leases"][::core::mem::align_of::<postbox_leases>() - 8usize];
    ["Offset of field: postbox_leases::size"]
        [::core::mem::offset_of!(postbox_leases, size) - 0usize];
    ["Offset of field: postbox_leases::pool"]
        [::core::mem::offset_of!(postbox_leases, pool) - 4usize];
    ["Offset of field: postbox_leases::fds"][::core::mem::offset_of!(postbox_leases, fds) - 8usize];
    ["Offset of field: postbox_leases::entries"]
        [::core::mem::offset_of!(postbox_leases, entries) - 16usize];
    ["Offset of field: postbox_leases::returns"]
        [::core::mem::offset_of!(postbox_leases, returns) - 24usize];
    ["Offset of field: postbox_leases::loans"]
        [::core::mem::offset_of!(postbox_leases, loans) - 32usize];
    ["Offset of field: postbox_leases::return_count"]
        [::core::mem::offset_of!(postbox_leases, return_count) - 40usize];
    ["Offset of field: postbox_leases::loan_max"]
        [::core::mem::offset_of!(postbox_leases, loan_max) - 44usize];
    ["Offset of field: postbox_leases::loan_count"]
        [::core::mem::offset_of!(postbox_leases, loan_count) - 48usize];
    ["Offset of field: postbox_leases::max"]
        [::core::mem::offset_of!(postbox_leases, max) - 52usize];
    ["Offset of field: postbox_leases::count"]
        [::core::mem::offset_of!(postbox_leases, count) - 56usize];
    ["Offset of field: postbox_leases::reserved"]
        [::core::mem::offset_of!(postbox_leases, reserved) - 60usize];
    ["Offset of field: postbox_leases::pool_id"]
        [::core::mem::offset_of!(postbox_leases, pool_id) - 64usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_attach {
    pub size: __u32,
    pub reserved: __u32,
    pub id: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_attach"][::core::mem::size_of::<postbox_attach>() - 16usize];
    ["Alignment of postbox_attach"][::core::mem::align_of::<postbox_attach>() - 8usize];
    ["Offset of field: postbox_attach::size"]
        [::core::mem::offset_of!(postbox_attach, size) - 0usize];
    ["Offset of field: postbox_attach::reserved"]
        [::core::mem::offset_of!(postbox_attach, reserved) - 4usize];
    ["Offset of field: postbox_attach::id"][::core::mem::offset_of!(postbox_attach, id) - 8usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_word {
    pub size: __u32,
    pub flags: __u32,
    pub offset: __u64,
    pub value: __u64,
    pub timeout_ns: __u64,
    pub count: __u32,
    pub state: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_word"][::core::mem::size_of::<postbox_word>() - 40usize];
    ["Alignment of postbox_word"][::core::mem::align_of::<postbox_word>() - 8usize];
    ["Offset of field: postbox_word::size"][::core::mem::offset_of!(postbox_word, size) - 0usize];
    ["Offset of field: postbox_word::flags"][::core::mem::offset_of!(postbox_word, flags) - 4usize];
    ["Offset of field: postbox_word::offset"]
        [::core::mem::offset_of!(postbox_word, offset) - 8usize];
    ["Offset of field: postbox_word::value"]
        [::core::mem::offset_of!(postbox_word, value) - 16usize];
    ["Offset of field: postbox_word::timeout_ns"]
        [::core::mem::offset_of!(postbox_word, timeout_ns) - 24usize];
    ["Offset of field: postbox_word::count"]
        [::core::mem::offset_of!(postbox_word, count) - 32usize];
    ["Offset of field: postbox_word::state"]
        [::core::mem::offset_of!(postbox_word, state) - 36usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct postbox_ring_status {
    pub consumer_waiting: __u32,
    pub producer_waiting: __u32,
    pub state: __u32,
    pub reserved: [__u32; 13usize],
    pub producers: [__u32; 64usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_ring_status"][::core::mem::size_of::<postbox_ring_status>() - 320usize];
    ["Alignment of postbox_ring_status"][::core::mem::align_of::<postbox_ring_status>() - 4usize];
    ["Offset of field: postbox_ring_status::consumer_waiting"]
        [::core::mem::offset_of!(postbox_ring_status, consumer_waiting) - 0usize];
    ["Offset of field: postbox_ring_status::producer_waiting"]
        [::core::mem::offset_of!(postbox_ring_status, producer_waiting) - 4usize];
    ["Offset of field: postbox_ring_status::state"]
        [::core::mem::offset_of!(postbox_ring_status, state) - 8usize];
    ["Offset of field: postbox_ring_status::reserved"]
        [::core::mem::offset_of!(postbox_ring_status, reserved) - 12usize];
    ["Offset of field: postbox_ring_status::producers"]
        [::core::mem::offset_of!(postbox_ring_status, producers) - 64usize];
};
impl Default for postbox_ring_status {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_ring_head {
    pub reserved: [__u64; 16usize],
    pub head: __u32,
    pub reserved2: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_ring_head"][::core::mem::size_of::<postbox_ring_head>() - 136usize];
    ["Alignment of postbox_ring_head"][::core::mem::align_of::<postbox_ring_head>() - 8usize];
    ["Offset of field: postbox_ring_head::reserved"]
        [::core::mem::offset_of!(postbox_ring_head, reserved) - 0usize];
    ["Offset of field: postbox_ring_head::head"]
        [::core::mem::offset_of!(postbox_ring_head, head) - 128usize];
    ["Offset of field: postbox_ring_head::reserved2"]
        [::core::mem::offset_of!(postbox_ring_head, reserved2) - 132usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_ring_tail {
    pub reserved: [__u64; 32usize],
    pub tail: __u64,
    pub reserved2: [__u64; 15usize],
    pub lock: __u32,
    pub reserved3: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_ring_tail"][::core::mem::size_of::<postbox_ring_tail>() - 392usize];
    ["Alignment of postbox_ring_tail"][::core::mem::align_of::<postbox_ring_tail>() - 8usize];
    ["Offset of field: postbox_ring_tail::reserved"]
        [::core::mem::offset_of!(postbox_ring_tail, reserved) - 0usize];
    ["Offset of field: postbox_ring_tail::tail"]
        [::core::mem::offset_of!(postbox_ring_tail, tail) - 256usize];
    ["Offset of field: postbox_ring_tail::reserved2"]
        [::core::mem::offset_of!(postbox_ring_tail, reserved2) - 264usize];
    ["Offset of field: postbox_ring_tail::lock"]
        [::core::mem::offset_of!(postbox_ring_tail, lock) - 384usize];
    ["Offset of field: postbox_ring_tail::reserved3"]
        [::core::mem::offset_of!(postbox_ring_tail, reserved3) - 388usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_ring_attach {
    pub size: __u32,
    pub flags: __u32,
    pub id: __u32,
    pub options: __u32,
    pub capacity: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_ring_attach"][::core::mem::size_of::<postbox_ring_attach>() - 24usize];
    ["Alignment of postbox_ring_attach"][::core::mem::align_of::<postbox_ring_attach>() - 8usize];
    ["Offset of field: postbox_ring_attach::size"]
        [::core::mem::offset_of!(postbox_ring_attach, size) - 0usize];
    ["Offset of field: postbox_ring_attach::flags"]
        [::core::mem::offset_of!(postbox_ring_attach, flags) - 4usize];
    ["Offset of field: postbox_ring_attach::id"]
        [::core::mem::offset_of!(postbox_ring_attach, id) - 8usize];
    ["Offset of field: postbox_ring_attach::options"]
        [::core::mem::offset_of!(postbox_ring_attach, options) - 12usize];
    ["Offset of field: postbox_ring_attach::capacity"]
        [::core::mem::offset_of!(postbox_ring_attach, capacity) - 16usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_ring {
    pub size: __u32,
    pub flags: __u32,
    pub timeout_ns: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_ring"][::core::mem::size_of::<postbox_ring>() - 16usize];
    ["Alignment of postbox_ring"][::core::mem::align_of::<postbox_ring>() - 8usize];
    ["Offset of field: postbox_ring::size"][::core::mem::offset_of!(postbox_ring, size) - 0usize];
    ["Offset of field: postbox_ring::flags"][::core::mem::offset_of!(postbox_ring, flags) - 4usize];
    ["Offset of field: postbox_ring::timeout_ns"]
        [::core::mem::offset_of!(postbox_ring, timeout_ns) - 8usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_uring {
    pub flags: __u16,
    pub priority: __u16,
    pub len: __u32,
    pub timeout_ns: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_uring"][::core::mem::size_of::<postbox_uring>() - 16usize];
    ["Alignment of postbox_uring"][::core::mem::align_of::<postbox_uring>() - 8usize];
    ["Offset of field: postbox_uring::flags"]
        [::core::mem::offset_of!(postbox_uring, flags) - 0usize];
    ["Offset of field: postbox_uring::priority"]
        [::core::mem::offset_of!(postbox_uring, priority) - 2usize];
    ["Offset of field: postbox_uring::len"][::core::mem::offset_of!(postbox_uring, len) - 4usize];
    ["Offset of field: postbox_uring::timeout_ns"]
        [::core::mem::offset_of!(postbox_uring, timeout_ns) - 8usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_span {
    pub data: __u64,
    pub len: __u32,
    pub done: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_span"][::core::mem::size_of::<postbox_span>() - 16usize];
    ["Alignment of postbox_span"][::core::mem::align_of::<postbox_span>() - 8usize];
    ["Offset of field: postbox_span::data"][::core::mem::offset_of!(postbox_span, data) - 0usize];
    ["Offset of field: postbox_span::len"][::core::mem::offset_of!(postbox_span, len) - 8usize];
    ["Offset of field: postbox_span::done"][::core::mem::offset_of!(postbox_span, done) - 12usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct postbox_record {
    pub size: __u32,
    pub msg_flags: __u32,
    pub msg_len: __u64,
    pub token: __u64,
    pub priority: __u32,
    pub fd: __s32,
    pub pid: __u32,
    pub tid: __u32,
    pub uid: __u32,
    pub gid: __u32,
    pub pidfd_ino: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of postbox_record"][::core::mem::size_of::<postbox_record>() - 56usize];
    ["Alignment of postbox_record"][::core::mem::align_of::<postbox_record>() - 8usize];
    ["Offset of field: postbox_record::size"]
        [::core::mem::offset_of!(postbox_record, size) - 0usize];
    ["Offset of field: postbox_record::msg_flags"]
        [::core::mem::offset_of!(postbox_record, msg_flags) - 4usize];
    ["Offset of field: postbox_record::msg_len"]
        [::core::mem::offset_of!(postbox_record, msg_len) - 8usize];
    ["Offset of field: postbox_record::token"]
        [::core::mem::offset_of!(postbox_record, token) - 16usize];
    ["Offset of field: postbox_record::priority"]
        [::core::mem::offset_of!(postbox_record, priority) - 24usize];
    ["Offset of field: postbox_record::fd"][::core::mem::offset_of!(postbox_record, fd) - 28usize];
    ["Offset of field: postbox_record::pid"]
        [::core::mem::offset_of!(postbox_record, pid) - 32usize];
    ["Offset of field: postbox_record::tid"]
        [::core::mem::offset_of!(postbox_record, tid) - 36usize];
    ["Offset of field: postbox_record::uid"]
        [::core::mem::offset_of!(postbox_record, uid) - 40usize];
    ["Offset of field: postbox_record::gid"]
        [::core::mem::offset_of!(postbox_record, gid) - 44usize];
    ["Offset of field: postbox_record::pidfd_ino"]
        [::core::mem::offset_of!(postbox_record, pidfd_ino) - 48usize];
};
