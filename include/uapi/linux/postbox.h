/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * postbox: interprocess communication with the kernel as referee.
 *
 * open("/dev/postbox", O_RDWR | O_CLOEXEC) gives an unbound handle.
 * POSTBOX_OPEN binds it to an object, for good. A bound handle can be polled,
 * given to epoll, passed to another process and closed; read() and write()
 * on it move one message each.
 *
 * Every argument is a struct that begins with its own size. A caller that
 * was built with an older header passes a smaller size, and the fields that
 * it does not know are taken as zero; a caller with a newer header passes a
 * larger one, and is refused with E2BIG if a field that this kernel does not
 * know is not zero. The size is not part of the request number. Fields are
 * of fixed width and aligned to it; 32-bit and 64-bit programs use one
 * layout. Pointers are __u64. Times are in nanoseconds. Fields and flags
 * without a meaning must be zero (EINVAL).
 *
 * Errors mean one thing each:
 *
 *   EACCES     the object's mode, or the rights of this handle, forbid it
 *   EAGAIN     it would have to wait, and the call is non-blocking
 *   EBADFD     the handle is not bound to an object
 *   EDQUOT     a quota of this user, or a limit of this handle, is used up
 *   EEXIST     POSTBOX_O_EXCL, and the name is taken
 *   EFAULT     a pointer is bad; a message that was to be received stays
 *   EINTR      a signal ended the wait; nothing was sent or taken
 *   EINVAL     a size, flag, reserved field or value is not valid
 *   EISCONN    the handle is bound already
 *   EMSGSIZE   receive: the buffer is too small, msg_len says what is
 *              needed, and the message stays at the head;
 *              send: the message is larger than the mailbox ever takes
 *   ENAMETOOLONG  the name has more than POSTBOX_NAME_MAX bytes
 *   ENOENT     no object of that name, or no message of that token
 *   ENOMEM     there is no memory, or the memory cgroup has none left
 *   ENOTTY     no such request
 *   EOPNOTSUPP the object is of another kind, or cannot do this
 *   EPERM      only the owner (or CAP_IPC_OWNER) may do this
 *   EPIPE      send: the last receiver is gone;
 *              receive: the last sender is gone and nothing is left
 *   ETIMEDOUT  the timeout or deadline passed; nothing was sent or taken
 *   E2BIG      the struct has a field set that this kernel does not know
 *
 * A call that fails leaves nothing behind: no message half sent or half
 * taken, no quota used.
 */
#ifndef _UAPI_LINUX_POSTBOX_H
#define _UAPI_LINUX_POSTBOX_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Raised when a program built for an older version would go wrong. */
#define POSTBOX_ABI		1

#define POSTBOX_IOC		0xBE

#define POSTBOX_VERSION		_IO(POSTBOX_IOC, 0x00)	/* struct postbox_version */
#define POSTBOX_OPEN		_IO(POSTBOX_IOC, 0x01)	/* struct postbox_open */
#define POSTBOX_DUP		_IO(POSTBOX_IOC, 0x02)	/* struct postbox_dup */
#define POSTBOX_UNLINK		_IO(POSTBOX_IOC, 0x03)	/* struct postbox_unlink */
#define POSTBOX_SET_ATTR	_IO(POSTBOX_IOC, 0x04)	/* struct postbox_attr */
#define POSTBOX_INFO		_IO(POSTBOX_IOC, 0x05)	/* struct postbox_info */
#define POSTBOX_LIST		_IO(POSTBOX_IOC, 0x06)	/* struct postbox_list */
#define POSTBOX_USAGE		_IO(POSTBOX_IOC, 0x07)	/* struct postbox_usage */

#define POSTBOX_SEND		_IO(POSTBOX_IOC, 0x10)	/* struct postbox_send */
#define POSTBOX_RECV		_IO(POSTBOX_IOC, 0x11)	/* struct postbox_recv */
#define POSTBOX_ACK		_IO(POSTBOX_IOC, 0x12)	/* struct postbox_ack */
#define POSTBOX_RESERVE		_IO(POSTBOX_IOC, 0x13)	/* struct postbox_reserve */
#define POSTBOX_SEND_BATCH	_IO(POSTBOX_IOC, 0x14)	/* struct postbox_batch */
#define POSTBOX_RECV_BATCH	_IO(POSTBOX_IOC, 0x15)	/* struct postbox_batch */

/* Object kinds. */
#define POSTBOX_KIND_MAILBOX	1

/* Rights of a handle. They can only be reduced, by POSTBOX_DUP. */
#define POSTBOX_RIGHT_SEND	(1U << 0)	/* mode bit w */
#define POSTBOX_RIGHT_RECEIVE	(1U << 1)	/* mode bit r */
#define POSTBOX_RIGHT_ADMIN	(1U << 3)	/* owner, or CAP_IPC_OWNER */

/*
 * Names: [A-Za-z0-9._-] and '/' between parts, none of which is empty, "."
 * or "..". They are scoped to the IPC namespace of whoever opened the handle.
 */
#define POSTBOX_NAME_MAX	63

/* No limit of its own; the quotas still hold. */
#define POSTBOX_UNBOUNDED	(~0ULL)

#define POSTBOX_PRIORITY_MAX	32767

/* How to wait: flags of every call that can. At most one of the first three. */
#define POSTBOX_NONBLOCK	(1U << 0)	/* do not wait: EAGAIN (also: O_NONBLOCK) */
#define POSTBOX_TIMEOUT		(1U << 1)	/* wait at most timeout_ns */
#define POSTBOX_DEADLINE	(1U << 2)	/* wait until timeout_ns on CLOCK_MONOTONIC */
#define POSTBOX_REALTIME	(1U << 3)	/* with DEADLINE: on CLOCK_REALTIME */

/**
 * struct postbox_version - what this module is
 * @size: size of this struct
 * @abi: POSTBOX_ABI of the module
 * @features: features beyond the first release; none yet
 * @message_max: the most bytes that any message can have
 * @batch_max: the most entries of a batch
 * @reserved: zero
 *
 * Works on every handle, bound or not.
 */
struct postbox_version {
	__u32 size;
	__u32 abi;
	__u64 features;
	__u64 message_max;
	__u32 batch_max;
	__u32 reserved;
};

#define POSTBOX_O_CREATE	(1U << 0)	/* make it if there is none */
#define POSTBOX_O_EXCL		(1U << 1)	/* with CREATE: there must be none */
#define POSTBOX_O_PERSIST	(1U << 2)	/* when made: it stays until it is unlinked */

/**
 * struct postbox_open - bind a handle to an object, new or existing
 * @size: size of this struct
 * @kind: POSTBOX_KIND_*
 * @name: the name (need not end in NUL); 0: a new object without a name, which
 *	needs POSTBOX_O_CREATE and cannot be persistent
 * @name_len: bytes of the name
 * @flags: POSTBOX_O_*
 * @rights: the POSTBOX_RIGHT_* that this handle shall have, at least one
 * @mode: permission bits of a new object, 0777 at most. They are taken as they
 *	are: the umask is not applied
 * @capacity: messages that a new mailbox holds. 0: rendezvous, a send returns
 *	when a receiver has the bytes. POSTBOX_UNBOUNDED: the sender never waits
 * @capacity_bytes: bytes that it holds; 0: no limit of its own
 * @message_max: bytes of the largest message that it takes; 0: the module's
 * @id: out: the object's number, never used again while the module is loaded
 * @created: out: 1 if this call made the object
 * @reserved: zero
 *
 * What has been taken and not yet acknowledged, and what has been reserved,
 * counts against the capacity.
 */
struct postbox_open {
	__u32 size;
	__u32 kind;
	__u64 name;
	__u32 name_len;
	__u32 flags;
	__u32 rights;
	__u32 mode;
	__u64 capacity;
	__u64 capacity_bytes;
	__u64 message_max;
	__u64 id;
	__u32 created;
	__u32 reserved;
};

/**
 * struct postbox_dup - a second handle to the same object
 * @size: size of this struct
 * @rights: its rights: a subset of this handle's, not empty
 * @fd: out: the new descriptor, close-on-exec
 * @reserved: zero
 */
struct postbox_dup {
	__u32 size;
	__u32 rights;
	__s32 fd;
	__u32 reserved;
};

/**
 * struct postbox_unlink - take a name away
 * @size: size of this struct
 * @name_len: bytes of the name
 * @name: the name
 *
 * Open handles go on working; the object goes with the last of them. For the
 * object's owner, or with CAP_IPC_OWNER. Works on every handle, bound or not.
 */
struct postbox_unlink {
	__u32 size;
	__u32 name_len;
	__u64 name;
};

#define POSTBOX_ATTR_MODE	(1U << 0)
#define POSTBOX_ATTR_UID	(1U << 1)
#define POSTBOX_ATTR_GID	(1U << 2)

/**
 * struct postbox_attr - change owner, group or mode
 * @size: size of this struct
 * @valid: which of the fields to set: POSTBOX_ATTR_*
 * @mode: new permission bits
 * @uid: new owner (needs CAP_CHOWN)
 * @gid: new group (one of the owner's, or CAP_CHOWN)
 * @reserved: zero
 *
 * Needs POSTBOX_RIGHT_ADMIN. Handles that are open keep their rights.
 */
struct postbox_attr {
	__u32 size;
	__u32 valid;
	__u32 mode;
	__u32 uid;
	__u32 gid;
	__u32 reserved;
};

#define POSTBOX_INFO_PERSIST	(1U << 0)	/* stays until it is unlinked */

/**
 * struct postbox_info - an object's attributes, state and counters
 * @size: size of this struct
 * @kind: POSTBOX_KIND_*
 * @id: the object's number
 * @flags: POSTBOX_INFO_*
 * @mode: permission bits
 * @uid: owner, seen from the reader's user namespace
 * @gid: group, likewise
 * @rights: rights of this handle; 0 in a list
 * @capacity: as in struct postbox_open
 * @capacity_bytes: likewise; POSTBOX_UNBOUNDED: no limit of its own
 * @message_max: likewise
 * @messages: messages waiting to be received
 * @bytes: their payload
 * @unacknowledged: messages taken by receivers and not settled yet
 * @reserved_messages: messages for which room is reserved
 * @senders: open handles that may send
 * @receivers: open handles that may receive
 * @waiting_senders: sends that wait
 * @waiting_receivers: receives that wait
 * @sent: messages accepted since the object was made
 * @received: messages delivered for good (with acknowledgement: acknowledged)
 * @redelivered: messages that went back to the head after having been taken
 * @full: sends and reservations that found no room
 * @high_messages: the most messages that were ever in it at once
 * @high_bytes: the most bytes, likewise
 * @name_len: bytes of the name; 0: it has none (any more)
 * @name: the name, filled up with NUL
 */
struct postbox_info {
	__u32 size;
	__u32 kind;
	__u64 id;
	__u32 flags;
	__u32 mode;
	__u32 uid;
	__u32 gid;
	__u64 capacity;
	__u64 capacity_bytes;
	__u64 message_max;
	__u64 messages;
	__u64 bytes;
	__u64 unacknowledged;
	__u64 reserved_messages;
	__u32 senders;
	__u32 receivers;
	__u32 waiting_senders;
	__u32 waiting_receivers;
	__u64 sent;
	__u64 received;
	__u64 redelivered;
	__u64 full;
	__u64 high_messages;
	__u64 high_bytes;
	__u32 rights;
	__u32 name_len;
	char name[64];
};

/**
 * struct postbox_list - the named objects of this IPC namespace
 * @size: size of this struct
 * @count: in: entries that @infos has room for; out: entries written
 * @infos: array of struct postbox_info
 * @info_size: size of one entry, which is the distance between two
 * @reserved: zero
 * @after: only objects whose id is larger; 0 to begin
 *
 * Objects come in the order of their ids. Works on every handle. An empty
 * answer ends the list.
 */
struct postbox_list {
	__u32 size;
	__u32 count;
	__u64 infos;
	__u32 info_size;
	__u32 reserved;
	__u64 after;
};

/**
 * struct postbox_usage - what the caller's user has in use, and may
 * @size: size of this struct
 * @uid: the user
 * @messages: messages that the user sent and nobody has received yet
 * @messages_max: how many there may be
 * @bytes: their payload
 * @bytes_max: how many there may be
 * @objects: objects that the user made
 * @objects_max: how many there may be
 *
 * Works on every handle; it is the usage of the user who opened it.
 */
struct postbox_usage {
	__u32 size;
	__u32 uid;
	__u64 messages;
	__u64 messages_max;
	__u64 bytes;
	__u64 bytes_max;
	__u64 objects;
	__u64 objects_max;
};

/* Flags of a send. */
#define POSTBOX_SEND_RESERVED	(1U << 8)	/* use room that POSTBOX_RESERVE got */

/**
 * struct postbox_send - send one message
 * @size: size of this struct
 * @flags: POSTBOX_SEND_RESERVED and how to wait
 * @data: the payload
 * @len: its bytes; a message may be empty
 * @timeout_ns: with POSTBOX_TIMEOUT or POSTBOX_DEADLINE
 * @priority: 0 to POSTBOX_PRIORITY_MAX; the higher is received first
 * @reserved: zero
 * @reserved_len: with POSTBOX_SEND_RESERVED: the bytes of one reservation of
 *	this handle, which this message uses up; @len may be less
 *
 * Who waits for room gets it in the order of arrival. A non-blocking send to a
 * rendezvous mailbox succeeds when a receiver waits in a blocking receive; it
 * takes as long as that receiver needs to copy the message, and no longer
 * than a page fault of the receiver's buffer would.
 */
struct postbox_send {
	__u32 size;
	__u32 flags;
	__u64 data;
	__u64 len;
	__u64 timeout_ns;
	__u32 priority;
	__u32 reserved;
	__u64 reserved_len;
};

/* Flags of a receive. */
#define POSTBOX_RECV_ACK	(1U << 8)	/* to be acknowledged: see struct postbox_ack */

/* What is said of a received message. */
#define POSTBOX_MSG_REDELIVERED	(1U << 0)	/* it was taken before, and not acknowledged */

/**
 * struct postbox_recv - receive one message
 * @size: size of this struct
 * @flags: POSTBOX_RECV_ACK and how to wait
 * @data: the buffer
 * @len: its bytes
 * @timeout_ns: with POSTBOX_TIMEOUT or POSTBOX_DEADLINE
 * @msg_len: out: bytes of the message; with EMSGSIZE the bytes needed
 * @token: out: with POSTBOX_RECV_ACK: what to acknowledge; never used again
 * @priority: out: the message's priority
 * @msg_flags: out: POSTBOX_MSG_*
 * @pid: out: the sender's process, seen from the caller's pid namespace; 0: not
 *	visible there
 * @tid: out: the sender's thread, likewise
 * @uid: out: the sender's effective user, seen from the caller's user
 *	namespace; the overflow uid if it has no number there
 * @gid: out: its effective group, likewise
 * @pidfd_ino: out: the inode number that a pidfd of the sender's process has.
 *	Where pidfd_open(pid) gives a descriptor with this st_ino, the process
 *	is the one that sent, and not a later one of the same number
 *
 * The kernel says who sent: the sender cannot.
 */
struct postbox_recv {
	__u32 size;
	__u32 flags;
	__u64 data;
	__u64 len;
	__u64 timeout_ns;
	__u64 msg_len;
	__u64 token;
	__u32 priority;
	__u32 msg_flags;
	__u32 pid;
	__u32 tid;
	__u32 uid;
	__u32 gid;
	__u64 pidfd_ino;
};

#define POSTBOX_ACK_REQUEUE	(1U << 0)	/* not done: back to the head with it */

/**
 * struct postbox_ack - settle a message that was received with POSTBOX_RECV_ACK
 * @size: size of this struct
 * @flags: 0: the message is done with. POSTBOX_ACK_REQUEUE: it goes back to the
 *	head of its priority, marked as redelivered
 * @token: from the receive, on this handle
 *
 * A message that is not settled goes back to the head, too, when the process
 * that received it exits or closes its last descriptor of the handle. A
 * handle can have up to 4,096 unsettled messages; more are refused with EDQUOT.
 */
struct postbox_ack {
	__u32 size;
	__u32 flags;
	__u64 token;
};

#define POSTBOX_RESERVE_CANCEL	(1U << 8)	/* give a reservation of @len bytes back */

/**
 * struct postbox_reserve - get room for one message before there is one
 * @size: size of this struct
 * @flags: POSTBOX_RESERVE_CANCEL, or how to wait
 * @len: bytes of the largest message that shall fit
 * @timeout_ns: with POSTBOX_TIMEOUT or POSTBOX_DEADLINE
 *
 * A send with POSTBOX_SEND_RESERVED then does not wait. What a handle reserved
 * and did not use goes back when it is closed. A rendezvous mailbox has no room
 * to reserve: EOPNOTSUPP.
 */
struct postbox_reserve {
	__u32 size;
	__u32 flags;
	__u64 len;
	__u64 timeout_ns;
};

/**
 * struct postbox_batch - send or receive several messages in one call
 * @size: size of this struct
 * @flags: how to wait, and POSTBOX_RECV_ACK
 * @entries: array of struct postbox_send or struct postbox_recv, whose own
 *	@flags and @timeout_ns must be zero
 * @count: in: entries, at least one; out: entries sent or received
 * @entry_size: the size of each entry, which is the distance between two
 * @timeout_ns: with POSTBOX_TIMEOUT or POSTBOX_DEADLINE, for the whole batch
 *
 * A send waits until every entry is sent. A receive waits for the first message
 * only and takes what else is there. When something ends a batch after the
 * first entry, the call succeeds with the entries done so far, and the error
 * comes with the next call if it still holds.
 */
struct postbox_batch {
	__u32 size;
	__u32 flags;
	__u64 entries;
	__u32 count;
	__u32 entry_size;
	__u64 timeout_ns;
};

#endif /* _UAPI_LINUX_POSTBOX_H */
