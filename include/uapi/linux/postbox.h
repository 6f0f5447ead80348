/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * postbox: interprocess communication with the kernel as referee.
 *
 * open("/dev/postbox", O_RDWR | O_CLOEXEC) gives an unbound handle.
 * POSTBOX_OPEN binds it to an object, for good. A bound handle can be polled,
 * given to epoll, passed to another process and closed; read() and write()
 * move one message each, or bytes on a pipe.
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
 *   EADDRINUSE the port has both its ends, or somebody listens on it
 *   EAGAIN     it would have to wait, and the call is non-blocking
 *   EALREADY   the handle has arrived at the barrier and has not waited for that;
 *              another thread's request is binding the handle
 *   EBADF      a descriptor that was to be sent is not open, or another thread has
 *              closed the handle's last one meanwhile
 *   EBADFD     the handle is not bound to an object
 *   EBUSY      a pipe cannot be resized while bytes are being copied; a ring has its
 *              consumer, or as many producers as it can have
 *   ECANCELED  call: the server dropped the request;
 *              io_uring: the command was cancelled; nothing was sent or taken
 *   EDQUOT     a quota of this user, or a limit of this handle, is used up
 *   EEXIST     POSTBOX_O_EXCL, and the name is taken
 *   EFAULT     a pointer is bad; a message that was to be received stays
 *   EINTR      a signal handler ended the wait; nothing was sent or taken
 *   EINVAL     a size, flag, reserved field or value is not valid
 *   EISCONN    the handle is bound already
 *   ELOOP      the handle would be kept by a message that only it can receive
 *   EMFILE     the receiver has no free descriptors; the message stays
 *   ENOBUFS    multishot: the group has no buffer left; the message stays
 *   EMSGSIZE   receive: the buffer, or the array for files or for leases, is
 *              too small; msg_len, fd_count and POSTBOX_MSG_LEASES say what
 *              is needed, and the message stays at the head;
 *              send: the message is larger than the object ever takes
 *   ENAMETOOLONG  the name has more than POSTBOX_NAME_MAX bytes
 *   ENODATA    a call was answered, and the answer is lost: its user has no quota
 *              for it; io_uring: or its task had ended
 *   ENOENT     no object of that name, no message or call of that token, or
 *              the process does not hold that block
 *   ENOMEM     there is no memory, or the memory cgroup has none left
 *   ENOTCONN   the other end has not come yet
 *   ENOTTY     no such request
 *   EOPNOTSUPP the object is of another kind, or cannot do this
 *   EOVERFLOW  the semaphore would pass its maximum, or the latch zero; or more
 *              would have joined a barrier than it has parties;
 *              multishot: the completion queue is full; the message stays
 *   EOWNERDEAD call: the server died with the request;
 *              wait: a participant died before it did its part
 *   EPERM      only the owner (or CAP_IPC_OWNER) may do this
 *   EPIPE      send: the last receiver is gone;
 *              receive: the last sender is gone and nothing is left
 *   ESRCH      there is no such process
 *   ESTALE     reply: the caller has given up
 *   ETIMEDOUT  the timeout or deadline passed; nothing was sent or taken
 *   EXDEV      the leases of the message are of another pool than the one that
 *              was given; pool_id says of which
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
#define POSTBOX_GRANT		_IO(POSTBOX_IOC, 0x08)	/* struct postbox_grant */
#define POSTBOX_REVOKE		_IO(POSTBOX_IOC, 0x09)	/* struct postbox_grant */

#define POSTBOX_SEND		_IO(POSTBOX_IOC, 0x10)	/* struct postbox_send */
#define POSTBOX_RECV		_IO(POSTBOX_IOC, 0x11)	/* struct postbox_recv */
#define POSTBOX_ACK		_IO(POSTBOX_IOC, 0x12)	/* struct postbox_ack */
#define POSTBOX_RESERVE		_IO(POSTBOX_IOC, 0x13)	/* struct postbox_reserve */
#define POSTBOX_SEND_BATCH	_IO(POSTBOX_IOC, 0x14)	/* struct postbox_batch */
#define POSTBOX_RECV_BATCH	_IO(POSTBOX_IOC, 0x15)	/* struct postbox_batch */
#define POSTBOX_CALL		_IO(POSTBOX_IOC, 0x16)	/* struct postbox_call */
#define POSTBOX_REPLY		_IO(POSTBOX_IOC, 0x17)	/* struct postbox_reply */
#define POSTBOX_REPLY_RECV	_IO(POSTBOX_IOC, 0x18)	/* struct postbox_reply_recv */

#define POSTBOX_PAIR		_IO(POSTBOX_IOC, 0x20)	/* struct postbox_pair */
#define POSTBOX_CONNECT		_IO(POSTBOX_IOC, 0x21)	/* struct postbox_connect */
#define POSTBOX_ACCEPT		_IO(POSTBOX_IOC, 0x22)	/* struct postbox_accept */
#define POSTBOX_PEER		_IO(POSTBOX_IOC, 0x23)	/* struct postbox_peer */
#define POSTBOX_WAIT_PEER	_IO(POSTBOX_IOC, 0x24)	/* struct postbox_wait_peer */
#define POSTBOX_SHUTDOWN	_IO(POSTBOX_IOC, 0x25)	/* struct postbox_shutdown */

#define POSTBOX_READ		_IO(POSTBOX_IOC, 0x30)	/* struct postbox_io */
#define POSTBOX_WRITE		_IO(POSTBOX_IOC, 0x31)	/* struct postbox_io */
#define POSTBOX_SET_CAPACITY	_IO(POSTBOX_IOC, 0x32)	/* struct postbox_capacity */

#define POSTBOX_ACQUIRE		_IO(POSTBOX_IOC, 0x40)	/* struct postbox_sync */
#define POSTBOX_RELEASE		_IO(POSTBOX_IOC, 0x41)	/* struct postbox_sync */
#define POSTBOX_COUNT_DOWN	_IO(POSTBOX_IOC, 0x42)	/* struct postbox_sync */
#define POSTBOX_WAIT		_IO(POSTBOX_IOC, 0x43)	/* struct postbox_sync */
#define POSTBOX_JOIN		_IO(POSTBOX_IOC, 0x44)	/* struct postbox_sync */
#define POSTBOX_LEAVE		_IO(POSTBOX_IOC, 0x45)	/* struct postbox_sync */

#define POSTBOX_RING_ATTACH	_IO(POSTBOX_IOC, 0x50)	/* struct postbox_ring_attach */
#define POSTBOX_RING_DETACH	_IO(POSTBOX_IOC, 0x51)	/* struct postbox_ring */
#define POSTBOX_RING_WAIT	_IO(POSTBOX_IOC, 0x52)	/* struct postbox_ring */
#define POSTBOX_RING_WAKE	_IO(POSTBOX_IOC, 0x53)	/* struct postbox_ring */

#define POSTBOX_ATTACH		_IO(POSTBOX_IOC, 0x60)	/* struct postbox_attach */
#define POSTBOX_WAIT_WORD	_IO(POSTBOX_IOC, 0x61)	/* struct postbox_word */
#define POSTBOX_WAKE_WORD	_IO(POSTBOX_IOC, 0x62)	/* struct postbox_word */

#define POSTBOX_LOAN		_IO(POSTBOX_IOC, 0x58)	/* struct postbox_loan */

#define POSTBOX_CANCEL		_IO(POSTBOX_IOC, 0x70)	/* io_uring only: see struct postbox_uring */

/* Object kinds. */
#define POSTBOX_KIND_MAILBOX	1
#define POSTBOX_KIND_LINK	2	/* a connection: one of its two ends */
#define POSTBOX_KIND_LISTENER	3	/* where connections come in */
#define POSTBOX_KIND_ENDPOINT	4	/* the mailbox of a process */
#define POSTBOX_KIND_PIPE	5
#define POSTBOX_KIND_SEMAPHORE	6
#define POSTBOX_KIND_LATCH	7
#define POSTBOX_KIND_BARRIER	8
#define POSTBOX_KIND_SEGMENT	9	/* memory that processes map */
#define POSTBOX_KIND_POOL	10	/* such memory in blocks, which are lent */
#define POSTBOX_KIND_RING	11	/* a channel in shared memory */

/*
 * Rights of a handle. They can only be reduced, by POSTBOX_DUP or where it is
 * sent in a message.
 *
 * SEND: send, call, write to a pipe, connect, release a semaphore, count a latch
 * down, take part in a barrier, map a segment or pool to write, borrow from a
 * pool. RECEIVE: receive, reply, read from a pipe, accept, acquire a semaphore, wait
 * for a latch, map a segment or pool.
 */
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

#define POSTBOX_FEATURE_URING	(1U << 0)	/* operations as io_uring commands */

/**
 * struct postbox_version - what this module is
 * @size: size of this struct
 * @abi: POSTBOX_ABI of the module
 * @features: POSTBOX_FEATURE_*: features beyond the first release
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
#define POSTBOX_O_PERSIST	(1U << 2)	/* with a name: it stays until it is unlinked */
#define POSTBOX_O_PORT		(1U << 3)	/* a link or listener: the port @number, no name */
#define POSTBOX_O_NO_BACK	(1U << 4)	/* a link: only the first end sends */
#define POSTBOX_O_NO_FORWARD	(1U << 5)	/* a link: only the second end sends */
#define POSTBOX_O_MANY		(1U << 6)	/* a ring: many producers */
#define POSTBOX_O_RESERVE	(1U << 7)	/* with CREATE, a segment or pool: all pages exist first */

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
 * @capacity: messages that a new mailbox holds. 0: rendezvous, a send that
 *	waits returns when a receiver has the bytes. POSTBOX_UNBOUNDED: the sender
 *	never waits. Semaphore: its maximum, at least 1. Pool: its blocks, at least 1 and
 *	POSTBOX_BLOCKS_MAX at most
 * @capacity_bytes: bytes that it holds; 0: no limit of its own. Pipe: its size;
 *	0: 65,536. Ring: likewise, rounded up to a power of two. Pool: bytes of a block, a multiple of POSTBOX_BLOCK_ALIGN
 * @message_max: bytes of the largest message that it takes; 0: the module's
 * @id: out: the object's number, never used again while the module is loaded
 * @created: out: 1 if this call made the object
 * @number: port: its number, 1 to 65535. Endpoint: the process, seen from the
 *	caller's pid namespace; 0: the caller's own, which this call may make
 * @back_capacity: link, listener: as @capacity, for what the second end sends;
 *	@capacity is for what the first one sends
 * @back_capacity_bytes: likewise
 * @initial: semaphore: its value, its maximum at most. Latch: its count, at least
 *	1. Barrier: its parties, at least 1
 * @backlog: listener: connections that wait to be accepted, 4096 at the most
 *	whatever is asked for; 0: a connect waits for its accept
 * @memfd: a new segment or pool: a descriptor of its memory, which is a memfd of
 *	whole pages with the seals SHRINK, GROW and SEAL, for a pool writable and
 *	large enough. Otherwise zero. With POSTBOX_O_RESERVE each of its pages is
 *	allocated now, and charged to the caller's memory and hugetlb cgroups;
 *	ENOMEM where they do not fit, and no object is made
 *
 * What is persistent goes with its IPC namespace: when no process is in it, and
 * no descriptor and no mount of it is left, its names are taken away, within a
 * second and before a quota refuses an object. Such an object is made by a task
 * in the IPC namespace of the handle: EXDEV.
 *
 * Of a mailbox, what has been taken and not yet acknowledged, and what has been
 * reserved, counts against the capacity.
 *
 * A link is made by POSTBOX_PAIR, POSTBOX_CONNECT, or here with POSTBOX_O_PORT:
 * who opens the port first gets the first end of a new link, and who comes second
 * gets the second end of it; a third gets EADDRINUSE. What the first one says of
 * the link and of who may join (@mode) holds. The first may send at once:
 * POSTBOX_WAIT_PEER waits for the second. The port is free again when one of the
 * ends is closed. Rights of link ends are SEND and RECEIVE both, without that
 * of a direction that the link does not have.
 *
 * The end of a link that POSTBOX_CONNECT returns is the first one. Capacities
 * and directions of a listener are those of the links that are made through it.
 * A listener is opened with RECEIVE or ADMIN: there is nothing to do with one by
 * SEND alone. Its name or port is free again when the last handle with RECEIVE is
 * closed, unless it is persistent.
 *
 * Nobody comes to what was unlinked: from then on a side that has no handles is
 * gone, also of what is persistent, and also where none ever came. Who waits for it
 * is told, as is who waits to accept when no connection is left.
 *
 * An endpoint is opened by its process with @number 0, POSTBOX_O_CREATE and
 * POSTBOX_RIGHT_RECEIVE, and by others, whom its mode lets, to send. It
 * belongs to the process and not to its number: it never is that of a later one,
 * and accepts nothing when its process is gone. It is found as long as the
 * effective user of the process is the one who made it; another one can make
 * another. Its receivers do not see the end before that of the process: others
 * may always come.
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
	__u32 number;
	__u64 back_capacity;
	__u64 back_capacity_bytes;
	__u64 initial;
	__u32 backlog;
	__s32 memfd;
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

/* In @name_len: @name is the number of an object, and not an address. */
#define POSTBOX_UNLINK_ID	(1U << 31)

/**
 * struct postbox_unlink - take a name away
 * @size: size of this struct
 * @name_len: bytes of the name, or POSTBOX_UNLINK_ID
 * @name: the name
 *
 * Open handles go on working; the object goes with the last of them. For the
 * object's owner, or with CAP_IPC_OWNER. By its number, also a port or the
 * process is taken away that the object is found by; with CAP_IPC_OWNER or
 * CAP_SYS_ADMIN in the initial user namespace in every IPC namespace; ENOENT if
 * there is nothing to take away. Works on every handle, bound or not.
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
 * Needs POSTBOX_RIGHT_ADMIN, and that the caller owns the object now, or has
 * CAP_IPC_OWNER: EPERM. Handles that are open keep their rights.
 */
struct postbox_attr {
	__u32 size;
	__u32 valid;
	__u32 mode;
	__u32 uid;
	__u32 gid;
	__u32 reserved;
};

/* Whom POSTBOX_GRANT means. */
#define POSTBOX_GRANT_UID	1	/* an effective user */
#define POSTBOX_GRANT_GID	2	/* an effective or supplementary group */
#define POSTBOX_GRANT_PID	3	/* a process, until it exits */

/* The most grants that an object has. */
#define POSTBOX_GRANTS_MAX	64

/**
 * struct postbox_grant - who else may open an object
 * @size: size of this struct
 * @who: POSTBOX_GRANT_UID, POSTBOX_GRANT_GID or POSTBOX_GRANT_PID
 * @id: the user, group or process, seen from the caller's namespaces
 * @rights: POSTBOX_GRANT: POSTBOX_RIGHT_SEND, POSTBOX_RIGHT_RECEIVE, or both.
 *	POSTBOX_REVOKE: zero
 *
 * Needs POSTBOX_RIGHT_ADMIN, and that the caller owns the object now, or has
 * CAP_IPC_OWNER: EPERM. Whoever it is granted to may open the object with
 * these rights, also where its mode forbids that; the rights of the mode and of
 * all grants add up. A second grant to the same one replaces the first. POSTBOX_REVOKE takes it back: ENOENT, where there is none.
 *
 * Handles that were opened through a grant stay open when it is taken back, and
 * mappings that were made stay. But memory can no longer be mapped through them,
 * nor through handles that were made from them, with rights that they had only
 * from the grant. A grant to a process is that process's, not its number's.
 */
struct postbox_grant {
	__u32 size;
	__u32 who;
	__u32 id;
	__u32 rights;
};

#define POSTBOX_INFO_PERSIST	(1U << 0)	/* stays until it is unlinked */
#define POSTBOX_INFO_CONNECTED	(1U << 1)	/* a link or ring: both sides are there */
#define POSTBOX_INFO_BROKEN	(1U << 2)	/* a latch, barrier or ring: a participant died */
#define POSTBOX_INFO_FROZEN	(1U << 3)	/* a segment: its contents never change */
#define POSTBOX_INFO_FOREIGN	(1U << 4)	/* in a list: of another IPC namespace */

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
 * @capacity: as in struct postbox_open. Segment: bytes of one of its pages
 * @capacity_bytes: likewise; POSTBOX_UNBOUNDED: no limit of its own. Segment: its
 *	size
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
 * @number: the port; of an endpoint the process, seen from the reader's pid
 *	namespace; 0: it has none
 * @reserved: zero
 * @value: semaphore: its value. Latch: its count. Barrier: who has arrived. Pool:
 *	its free blocks
 * @maximum: semaphore: its maximum. Latch: its first count. Barrier: its parties.
 *	Pool: its blocks
 * @back_messages: link: messages that this end sent and the other has not taken
 * @back_bytes: their payload
 * @requests: pool: calls of POSTBOX_LOAN since it was made
 *
 * For a pipe, @bytes is what can be read, and @sent and @received count bytes. For
 * the end of a link, the fields of a mailbox are of what this end receives. For a
 * pool, @messages are leases that are under way, @unacknowledged leases that are
 * held, @message_max bytes of its memory, @sent blocks that were lent, @received blocks that became free again,
 * @full requests that found none, and @high_messages the most blocks that were in
 * use at once.
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
	__u32 number;
	__u32 reserved;
	__u64 value;
	__u64 maximum;
	__u64 back_messages;
	__u64 back_bytes;
	__u64 requests;
};

/*
 * Objects of all IPC namespaces, also those that cannot be opened by anything.
 * Needs CAP_IPC_OWNER or CAP_SYS_ADMIN in the initial user namespace: EPERM.
 */
#define POSTBOX_LIST_ALL	(1U << 0)
/* The one object that has the name in the first entry, or ENOENT. */
#define POSTBOX_LIST_NAME	(1U << 1)

/**
 * struct postbox_list - the objects of this IPC namespace that can be opened by
 *	name, port or process
 * @size: size of this struct
 * @count: in: entries that @infos has room for; out: entries written
 * @infos: array of struct postbox_info
 * @info_size: size of one entry, which is the distance between two
 * @flags: POSTBOX_LIST_*
 * @after: only objects whose id is larger; 0 to begin
 *
 * Objects come in the order of their ids. Works on every handle. An empty
 * answer ends the list. Others may make objects as fast as they are listed:
 * a call with a @count of 0 sets @after to the id of the object that was made
 * last, beyond which a list need not go.
 *
 * With POSTBOX_LIST_NAME, which goes with no other flag and with an @after of
 * 0, the first entry says with name and name_len whose description is to be
 * written there. The time does not depend on how many objects there are.
 */
struct postbox_list {
	__u32 size;
	__u32 count;
	__u64 infos;
	__u32 info_size;
	__u32 flags;
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
 * @files: files in those messages
 * @files_max: how many there may be
 * @shared: bytes of shared memory that the user made
 * @shared_max: how many there may be
 *
 * Works on every handle; it is the usage of the user who opened it. In a
 * container the maximum is what the accounts above it leave.
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
	__u64 files;
	__u64 files_max;
	__u64 shared;
	__u64 shared_max;
};

/* The most files that one message carries. */
#define POSTBOX_FILES_MAX	64

/**
 * struct postbox_fd - a file in a message
 * @fd: send: a descriptor of the sender. Receive: the new one of the receiver,
 *	close-on-exec
 * @rights: send: 0, or for a postbox handle the rights, a subset of its own,
 *	that a new handle shall have which is sent in its place. Receive: the
 *	rights of a postbox handle; 0 for other files
 *
 * A message that is sent has its own references: the sender may close its
 * descriptor. Files of io_uring cannot be sent (EINVAL). A postbox handle cannot
 * be sent to where only it, or who would come with it, can receive: ELOOP.
 */
struct postbox_fd {
	__s32 fd;
	__u32 rights;
};

/* Flags of a send. */
#define POSTBOX_SEND_RESERVED	(1U << 8)	/* use room that POSTBOX_RESERVE got */

/**
 * struct postbox_send - send one message
 * @size: size of this struct
 * @flags: POSTBOX_SEND_RESERVED, POSTBOX_LEASES and how to wait
 * @data: the payload
 * @len: its bytes; a message may be empty
 * @timeout_ns: with POSTBOX_TIMEOUT or POSTBOX_DEADLINE
 * @priority: 0 to POSTBOX_PRIORITY_MAX; the higher is received first
 * @fd_count: files to send with it, POSTBOX_FILES_MAX at most
 * @reserved_len: with POSTBOX_SEND_RESERVED: the bytes of one reservation of
 *	this handle, which this message uses up; @len may be less
 * @fds: array of struct postbox_fd
 *
 * Who waits for room gets it in the order of arrival. A non-blocking send to a
 * rendezvous mailbox succeeds when a receiver waits in a blocking receive, to
 * which it hands the message. It does not wait for that one to copy it; if
 * that fails, the message is for the next receiver.
 */
struct postbox_send {
	__u32 size;
	__u32 flags;
	__u64 data;
	__u64 len;
	__u64 timeout_ns;
	__u32 priority;
	__u32 fd_count;
	__u64 reserved_len;
	__u64 fds;
};

/* Flags of a receive. */
#define POSTBOX_RECV_ACK	(1U << 8)	/* to be acknowledged: see struct postbox_ack */
#define POSTBOX_RECV_FROM	(1U << 9)	/* only from the process that @pid names */

/* What is said of a received message. */
#define POSTBOX_MSG_REDELIVERED	(1U << 0)	/* it was taken before, and not acknowledged */
#define POSTBOX_MSG_CALL	(1U << 1)	/* a request: its sender waits for a reply */
#define POSTBOX_MSG_LEASES	(1U << 2)	/* leases of blocks come with it: POSTBOX_LEASES */
#define POSTBOX_MSG_FILES_LOST	(1U << 3)	/* files came with it: nobody had the mailbox open */

/**
 * struct postbox_recv - receive one message
 * @size: size of this struct
 * @flags: POSTBOX_RECV_ACK, POSTBOX_RECV_FROM, POSTBOX_LEASES and how to wait
 * @data: the buffer
 * @len: its bytes
 * @timeout_ns: with POSTBOX_TIMEOUT or POSTBOX_DEADLINE
 * @msg_len: out: bytes of the message; with EMSGSIZE the bytes needed
 * @token: out: with POSTBOX_RECV_ACK: what to acknowledge; of a request: what
 *	to reply to; never used again
 * @priority: out: the message's priority
 * @msg_flags: out: POSTBOX_MSG_*
 * @pid: out: the sender's process, seen from the caller's pid namespace; 0: not
 *	visible there
 * @tid: out: the sender's thread, likewise
 * @uid: out: the sender's effective user, seen from the caller's user
 *	namespace; the overflow uid if it has no number there. Of a message that
 *	came by write(): that of who opened the handle
 * @gid: out: its effective group, likewise
 * @pidfd_ino: out: the inode number that a pidfd of the sender's process has.
 *	Where pidfd_open(pid) gives a descriptor with this st_ino, the process
 *	is the one that sent, and not a later one of the same number
 * @fds: array of struct postbox_fd for the files that come with it
 * @fd_max: entries that it has room for; with more in the message, EMSGSIZE
 * @fd_count: out: files that came with it; with EMSGSIZE what is needed
 *
 * The kernel says who sent: the sender cannot.
 *
 * With POSTBOX_RECV_FROM, @pid says, seen from the caller's pid namespace, whose
 * messages are wanted; those of others stay where they are. Where @pidfd_ino is
 * not 0, it is that process's: one that has the number but not the inode is a
 * later one, and the process that is meant is gone. When it is gone and nothing
 * of it is left: EPIPE. For mailboxes and endpoints without POSTBOX_RECV_ACK.
 *
 * A request (POSTBOX_MSG_CALL) is not acknowledged but answered: POSTBOX_RECV_ACK
 * makes no difference to it. The handle through which it was received owes a
 * reply; up to 4,096 of them.
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
	__u64 fds;
	__u32 fd_max;
	__u32 fd_count;
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
 * that received it exits or closes its last descriptor of the handle. No other
 * process can settle it: ENOENT. A handle can have up to 4,096 unsettled
 * messages; more are refused with EDQUOT.
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
 * A send with POSTBOX_SEND_RESERVED by the same process then does not wait. What
 * it reserved and did not use goes back when it exits or closes its last
 * descriptor of the handle. A rendezvous mailbox has no room to reserve:
 * EOPNOTSUPP.
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
 *	@timeout_ns must be zero, and @flags too, but for POSTBOX_LEASES
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

/* Flags of @reply in a call. */
#define POSTBOX_CALL_FETCH	(1U << 8)	/* only fetch a reply that is there */

/**
 * struct postbox_call - send a request and wait for its reply
 * @size: size of this struct
 * @reserved: zero
 * @request: as for POSTBOX_SEND. Its flags say how to wait, for all of the call;
 *	POSTBOX_NONBLOCK is not among them (EINVAL), and O_NONBLOCK makes no
 *	difference
 * @reply: where the reply goes, and who sent it; its @timeout_ns is zero
 *
 * Exactly one of: the reply; EPIPE, the last receiver was gone before one took
 * the request; EOWNERDEAD, the process that took it died or closed the handle;
 * ECANCELED, it dropped the request; ETIMEDOUT or EINTR, the caller gave up, and
 * a request that nobody has taken yet is taken back; ENODATA, it was answered, and
 * the user who calls has no quota for the reply, which is lost.
 *
 * Where a reply does not fit (EMSGSIZE) or cannot be written (EFAULT), it stays
 * with the handle: @token in @reply then says what it is fetched by, with
 * POSTBOX_CALL_FETCH and a zeroed @request. A handle keeps up to 4,096 of them, at
 * the cost of who calls. One that cannot be kept is lost, and @token is 0.
 * A call is not restarted after a signal handler: EINTR.
 */
struct postbox_call {
	__u32 size;
	__u32 reserved;
	struct postbox_send request;
	struct postbox_recv reply;
};

#define POSTBOX_REPLY_DROP	(1U << 8)	/* no reply: the call fails with ECANCELED */
#define POSTBOX_REPLY_CHECK	(1U << 9)	/* only say whether the caller still waits */

/**
 * struct postbox_reply - answer a request
 * @size: size of this struct
 * @flags: POSTBOX_REPLY_DROP, POSTBOX_REPLY_CHECK or POSTBOX_LEASES
 * @data: the payload of the reply
 * @len: its bytes
 * @token: from the receive, on this handle
 * @fds: array of struct postbox_fd
 * @fd_count: files to send with it
 * @reserved: zero
 *
 * It never waits. A request is answered once: ENOENT afterwards. ESTALE: the
 * caller has given up; the request is done with, unless POSTBOX_REPLY_CHECK
 * asked. Any other error leaves the request as it is.
 */
struct postbox_reply {
	__u32 size;
	__u32 flags;
	__u64 data;
	__u64 len;
	__u64 token;
	__u64 fds;
	__u32 fd_count;
	__u32 reserved;
};

/**
 * struct postbox_reply_recv - answer a request and receive the next message
 * @size: size of this struct
 * @reserved: zero
 * @reply: as for POSTBOX_REPLY. Its @token is set to 0 once the reply is sent,
 *	and with 0 there is none to send: so that the call can be repeated
 *	whatever ended it
 * @recv: as for POSTBOX_RECV
 *
 * Where the reply fails, nothing is received.
 */
struct postbox_reply_recv {
	__u32 size;
	__u32 reserved;
	struct postbox_reply reply;
	struct postbox_recv recv;
};

/**
 * struct postbox_pair - make a link and get both ends
 * @size: size of this struct
 * @flags: POSTBOX_O_NO_BACK or POSTBOX_O_NO_FORWARD
 * @capacity: as in struct postbox_open, for what the first end sends
 * @capacity_bytes: likewise
 * @back_capacity: for what the second end sends
 * @back_capacity_bytes: likewise
 * @message_max: bytes of the largest message; 0: the module's
 * @id: out: the object's number
 * @fd: out: a descriptor of the second end, close-on-exec
 * @reserved: zero
 *
 * The handle becomes the first end.
 */
struct postbox_pair {
	__u32 size;
	__u32 flags;
	__u64 capacity;
	__u64 capacity_bytes;
	__u64 back_capacity;
	__u64 back_capacity_bytes;
	__u64 message_max;
	__u64 id;
	__s32 fd;
	__u32 reserved;
};

#define POSTBOX_CONNECT_PORT	(1U << 8)	/* to the port @number, not to a name */

/**
 * struct postbox_connect - connect to a listener
 * @size: size of this struct
 * @flags: POSTBOX_CONNECT_PORT, and how to wait
 * @name: its name
 * @name_len: bytes of the name
 * @number: its port
 * @timeout_ns: with POSTBOX_TIMEOUT or POSTBOX_DEADLINE
 * @id: out: the number of the new link
 *
 * Its mode must allow writing. Waits for room among the connections that wait
 * to be accepted. The handle becomes the first end of a new link, and may send at
 * once; where the connection is never accepted, it sees the other end closed.
 */
struct postbox_connect {
	__u32 size;
	__u32 flags;
	__u64 name;
	__u32 name_len;
	__u32 number;
	__u64 timeout_ns;
	__u64 id;
};

/**
 * struct postbox_accept - take a connection from a listener
 * @size: size of this struct
 * @flags: how to wait
 * @timeout_ns: with POSTBOX_TIMEOUT or POSTBOX_DEADLINE
 * @id: out: the number of the link
 * @fd: out: a descriptor of its second end, close-on-exec
 * @reserved: zero
 *
 * POSTBOX_PEER on the new descriptor says who connected.
 */
struct postbox_accept {
	__u32 size;
	__u32 flags;
	__u64 timeout_ns;
	__u64 id;
	__s32 fd;
	__u32 reserved;
};

/**
 * struct postbox_peer - who made the other end of a link
 * @size: size of this struct
 * @pid: as in struct postbox_recv
 * @tid: likewise
 * @uid: likewise
 * @gid: likewise
 * @reserved: zero
 * @pidfd_ino: likewise
 *
 * The process that connected, accepted, opened the port, or made the pair; for an
 * end that is not accepted yet, who listens. ENOTCONN: nobody has opened the port
 * a second time.
 */
struct postbox_peer {
	__u32 size;
	__u32 pid;
	__u32 tid;
	__u32 uid;
	__u32 gid;
	__u32 reserved;
	__u64 pidfd_ino;
};

/**
 * struct postbox_wait_peer - wait until the other side is there
 * @size: size of this struct
 * @flags: how to wait
 * @timeout_ns: with POSTBOX_TIMEOUT or POSTBOX_DEADLINE
 *
 * For what may be opened before its peer: a port, a pipe, a mailbox. Returns when
 * somebody has, or had, opened the other end; for a handle that sends, to
 * receive, and the other way round. EPIPE: nobody can any more.
 */
struct postbox_wait_peer {
	__u32 size;
	__u32 flags;
	__u64 timeout_ns;
};

#define POSTBOX_SHUT_SEND	(1U << 0)	/* this end sends no more */
#define POSTBOX_SHUT_RECEIVE	(1U << 1)	/* this end receives no more */

/**
 * struct postbox_shutdown - close one direction of a link
 * @size: size of this struct
 * @how: POSTBOX_SHUT_*, at least one
 *
 * For all handles of this end. The other end sees what it would see if this one
 * were closed: the end of what it receives, after the last message, or EPIPE when
 * it sends.
 */
struct postbox_shutdown {
	__u32 size;
	__u32 how;
};

/* Writes of up to so many bytes to a pipe are not mixed with others'. */
#define POSTBOX_PIPE_ATOMIC	4096

/**
 * struct postbox_io - read from or write to a pipe, with a timeout
 * @size: size of this struct
 * @flags: how to wait
 * @data: the bytes
 * @len: how many
 * @timeout_ns: with POSTBOX_TIMEOUT or POSTBOX_DEADLINE
 * @done: out: how many were read or written
 *
 * A read returns what there is, at least one byte; 0: the last writer is gone. A
 * write goes on until everything is written. Where something ends it after a
 * part, it succeeds with that part. Up to POSTBOX_PIPE_ATOMIC bytes are written
 * all or not at all. read() and write() do the same; no SIGPIPE is sent. One
 * request moves at most MAX_RW_COUNT bytes (2^31 less a page).
 */
struct postbox_io {
	__u32 size;
	__u32 flags;
	__u64 data;
	__u64 len;
	__u64 timeout_ns;
	__u64 done;
};

/**
 * struct postbox_capacity - set how many bytes a pipe holds
 * @size: size of this struct
 * @reserved: zero
 * @capacity: in: bytes wanted; out: what it is now, which can be more. Less than
 *	what is in the pipe: EBUSY. POSTBOX_PIPE_ATOMIC at least
 *
 * Needs POSTBOX_RIGHT_SEND or POSTBOX_RIGHT_ADMIN.
 */
struct postbox_capacity {
	__u32 size;
	__u32 reserved;
	__u64 capacity;
};

/* Flags of requests to wait objects. */
#define POSTBOX_SYNC_UNDO	(1U << 8)	/* semaphore: give it back when the process dies */
#define POSTBOX_SYNC_ARRIVE	(1U << 9)	/* barrier: arrive, and do not wait */

/* What such a request says. */
#define POSTBOX_SYNC_OWNER_DIED	(1U << 0)	/* semaphore: it was a dead process's */
#define POSTBOX_SYNC_LEADER	(1U << 1)	/* barrier: one of the parties gets this */

/**
 * struct postbox_sync - requests to semaphores, latches and barriers
 * @size: size of this struct
 * @flags: POSTBOX_SYNC_UNDO, POSTBOX_SYNC_ARRIVE and, for POSTBOX_ACQUIRE and
 *	POSTBOX_WAIT, how to wait
 * @count: how many; at least 1, and 1 for POSTBOX_WAIT
 * @timeout_ns: with POSTBOX_TIMEOUT or POSTBOX_DEADLINE
 * @state: out: POSTBOX_SYNC_OWNER_DIED, POSTBOX_SYNC_LEADER
 * @reserved: zero
 *
 * POSTBOX_ACQUIRE takes @count from a semaphore, all at once, waiting in the order
 * of arrival until it has them: a large request at the front holds those behind
 * it back. POSTBOX_RELEASE adds them. What was acquired with POSTBOX_SYNC_UNDO,
 * less what was released with it, is given back when the process exits or closes
 * its last descriptor of the handle, as far as the maximum lets it, and whoever
 * gets some of that is told: POSTBOX_SYNC_OWNER_DIED. EINVAL: @count is more than
 * the maximum; or this process has not acquired so many, through this handle and
 * with POSTBOX_SYNC_UNDO, as it releases with it.
 *
 * POSTBOX_COUNT_DOWN takes @count from a latch, and POSTBOX_WAIT waits until
 * it is zero, for good. POSTBOX_WAIT on a barrier waits until as many have arrived
 * as it has parties; then all go on, and it starts anew. A wait that ends for
 * another reason takes its arrival back. With POSTBOX_SYNC_ARRIVE, without flags
 * of how to wait, the handle arrives and POLLIN says when all have; POSTBOX_WAIT
 * then collects that. Such an arrival stands, also where that wait fails, until
 * its process exits or closes its last descriptor of the handle.
 *
 * POSTBOX_JOIN: this process is going to count a latch down by @count, through
 * this handle, or is so many of a barrier's parties. If it exits or closes its
 * last descriptor of the handle before it has counted so far, or before
 * POSTBOX_LEAVE has taken that back, whoever waits, now or later, gets EOWNERDEAD:
 * of a latch, unless it opens all the same, or what others have promised is enough
 * to open it; of a barrier, unless all had arrived. EOVERFLOW: of a latch so much
 * is not left that nobody has promised.
 * EINVAL: this process has not joined for so many as leave.
 */
struct postbox_sync {
	__u32 size;
	__u32 flags;
	__u64 count;
	__u64 timeout_ns;
	__u32 state;
	__u32 reserved;
};

/* The most blocks of a pool, and what their size is a multiple of. */
#define POSTBOX_BLOCKS_MAX	65536
#define POSTBOX_BLOCK_ALIGN	64

/* The most leases that go with one message. */
#define POSTBOX_LEASES_MAX	64

/* The most blocks that one call lends or takes back. */
#define POSTBOX_LOANS_MAX	1024

/**
 * struct postbox_loan - borrow blocks of a pool, and give blocks back
 * @size: size of this struct
 * @flags: how to wait
 * @timeout_ns: with POSTBOX_TIMEOUT or POSTBOX_DEADLINE
 * @returns: array of __u32: blocks to give back
 * @loans: array of __u32: where the numbers of the lent blocks go
 * @return_count: in: entries of @returns, POSTBOX_LOANS_MAX at most; out: those
 *	that are left to be given back. The last one comes first
 * @loan_max: entries that @loans has room for, POSTBOX_LOANS_MAX at most
 * @loan_count: in: entries of @loans that are in use; out: likewise. The lent
 *	blocks come after them
 * @reserved: zero
 *
 * A pool is the memory of @memfd in blocks: as many as its @capacity says, of
 * @capacity_bytes each, from the beginning on. It is mapped with mmap() on the
 * handle. Which block is whose only the kernel knows, and nothing that is written
 * to the memory changes it: a block is free; or leased to a process, through one of
 * its handles; or its lease is under way in a message. When the process exits, or
 * closes its last descriptor of the handle, its leases end. A block with several
 * leases is shared, and its holders only read it. The block is free when the
 * last lease has ended.
 *
 * First the blocks of @returns are given back. Then as many are lent as @loans has
 * room for: the first as soon as there is a free block, waiting for that in the
 * order of arrival, if @loan_count was 0; others only while nobody waits and at
 * least half of all blocks are free, and none of them is no error. To borrow needs
 * POSTBOX_RIGHT_SEND. What was done is in @return_count and @loan_count also where
 * the call fails, so that it can be repeated as it is.
 */
struct postbox_loan {
	__u32 size;
	__u32 flags;
	__u64 timeout_ns;
	__u64 returns;
	__u64 loans;
	__u32 return_count;
	__u32 loan_max;
	__u32 loan_count;
	__u32 reserved;
};

#define POSTBOX_LEASE_SHARED	(1U << 0)	/* there is another lease of the block */
#define POSTBOX_LEASE_MESSAGE	(1U << 1)	/* receive: it stays the message's */

/**
 * struct postbox_lease - a lease that goes with a message
 * @block: the block
 * @flags: send: 0: the lease itself; POSTBOX_LEASE_SHARED: a new one of the same
 *	block, and the sender keeps its own. Receive: POSTBOX_LEASE_SHARED: the
 *	block is only to be read. POSTBOX_LEASE_MESSAGE: the message is to be
 *	acknowledged, and the lease ends then; the block is not to be given back
 * @len: how many bytes of the block are meant, from its beginning on
 */
struct postbox_lease {
	__u32 block;
	__u32 flags;
	__u64 len;
};

/*
 * Flag of POSTBOX_SEND and POSTBOX_RECV, also in a batch, of both parts of
 * POSTBOX_CALL, and of POSTBOX_REPLY: @fds is no array of files but points to a
 * struct postbox_leases.
 */
#define POSTBOX_LEASES		(1U << 10)

/**
 * struct postbox_leases - leases of a pool's blocks in a message
 * @size: size of this struct
 * @pool: a descriptor of a handle of the pool
 * @fds: what @fds is without POSTBOX_LEASES
 * @entries: array of struct postbox_lease
 * @returns: as in struct postbox_loan
 * @loans: likewise
 * @return_count: likewise
 * @loan_max: likewise
 * @loan_count: likewise; all of them are lent as those after the first are there
 * @max: receive: entries that @entries has room for; zero in a send
 * @count: send: entries of @entries, POSTBOX_LEASES_MAX at most; out, where a call
 *	fails: as before, or 0 if somebody has received the request, and the leases,
 *	all the same. Receive: out: leases that came with the message
 * @reserved: zero
 * @pool_id: out: receive: the number of the pool that they are of; 0: none came.
 *	Where it fails with EMSGSIZE or EXDEV, this and @count say what is needed
 *
 * The blocks of @returns are given back, and @loans lent, before the message is
 * sent or received, and so stays also where that fails.
 *
 * The leases that go with a message are under way until it is received: then they
 * are the receiver's, held through its handle of the pool. When the message is
 * freed otherwise, they end; when it is not sent, they are the sender's as before.
 * ENOENT: the process does not hold that block through @pool. EDQUOT: the block, or
 * the pool, has as many leases as it can have.
 */
struct postbox_leases {
	__u32 size;
	__s32 pool;
	__u64 fds;
	__u64 entries;
	__u64 returns;
	__u64 loans;
	__u32 return_count;
	__u32 loan_max;
	__u32 loan_count;
	__u32 max;
	__u32 count;
	__u32 reserved;
	__u64 pool_id;
};

/*
 * Segments. mmap() on the handle maps the memory: MAP_SHARED with
 * POSTBOX_RIGHT_RECEIVE to read, and with POSTBOX_RIGHT_SEND too to write;
 * MAP_PRIVATE for a copy. Offset and length are within the segment, and whole
 * pages of it (EINVAL). Without POSTBOX_RIGHT_SEND a shared mapping cannot be made
 * writable later. The memory cannot be executed.
 *
 * The mapping is the memfd's: it stays when the handle is closed. What was sealed
 * with F_SEAL_WRITE when the segment was made is frozen: nobody can write to it
 * any more, and POSTBOX_RIGHT_SEND is refused. So it is with F_SEAL_FUTURE_WRITE,
 * where only the memfd's maker can still write, through mappings made before.
 */

/*
 * A word of 64 bits in a segment that says who has a lock: the number of a process
 * that is attached, 0 for nobody, and whether somebody waits for it.
 */
#define POSTBOX_WORD_OWNER	0x3fffffffffffffffULL
#define POSTBOX_WORD_WAITERS	0x4000000000000000ULL

/**
 * struct postbox_attach - get this process's number in a segment
 * @size: size of this struct
 * @reserved: zero
 * @id: out: the number, at least 1, which no other process gets, also later. It is
 *	the same for all of this process's calls through this handle, and ends when the
 *	process exits or closes its last descriptor of the handle. A child is
 *	another process
 *
 * Needs POSTBOX_RIGHT_SEND and POSTBOX_RIGHT_RECEIVE, as the other two requests do.
 */
struct postbox_attach {
	__u32 size;
	__u32 reserved;
	__u64 id;
};

/* What POSTBOX_WAIT_WORD says. */
#define POSTBOX_WORD_OWNER_DIED	(1U << 0)	/* who is named by @value is not attached */

/**
 * struct postbox_word - wait for a word of a segment, or wake who does
 * @size: size of this struct
 * @flags: POSTBOX_WAIT_WORD: how to wait
 * @offset: where the word is, a multiple of 8
 * @value: POSTBOX_WAIT_WORD: what the caller has seen there. Otherwise zero
 * @timeout_ns: with POSTBOX_TIMEOUT or POSTBOX_DEADLINE
 * @count: POSTBOX_WAKE_WORD: how many to wake. Otherwise zero
 * @state: out: POSTBOX_WORD_OWNER_DIED
 *
 * POSTBOX_WAIT_WORD returns at once where the word is not @value any more, or
 * where the owner that @value names is not attached; and otherwise when
 * POSTBOX_WAKE_WORD comes to the caller's turn, or any process that was attached
 * is gone. The caller then looks at the word again. POSTBOX_WAKE_WORD is for
 * after the word was changed.
 */
struct postbox_word {
	__u32 size;
	__u32 flags;
	__u64 offset;
	__u64 value;
	__u64 timeout_ns;
	__u32 count;
	__u32 state;
};

/*
 * Rings: records in shared memory, from one producer or many to one consumer,
 * without a system call as long as neither side sleeps.
 *
 * What mmap() maps of a handle, from offset 0 on, in units of the system's page
 * size: the status (one page), which only the kernel writes; the head (one page),
 * which the consumer writes; the tail (one page), which producers write; the data,
 * @capacity bytes; and the same data once more, so that a record that wraps around
 * is in one piece. Each can be mapped apart, shared only (EINVAL), to be read with
 * any right, to be written, and ever made writable by mprotect(), only the head
 * with POSTBOX_RIGHT_RECEIVE, and tail and data with POSTBOX_RIGHT_SEND (EACCES).
 *
 * Positions count units of eight bytes and run on through 32 bits. From the head
 * up to the tail there are records: a header of eight bytes, the payload, padding
 * to eight, and behind a payload of more than 4,096 bytes 320 bytes more, so that
 * headers are in different sets of a cache. A record, with all of that, is no
 * longer than half of the data.
 *
 * A header is: bits 0 to 31, the bytes of the payload; bits 32 to 61, with
 * POSTBOX_RING_BUSY, the number of the producer that writes it, and zero otherwise;
 * bits 62 and 63, one of POSTBOX_RING_BUSY, _COMMITTED and _ABORTED.
 *
 * With one producer, a record is there when the tail is behind it. With many, its
 * header is written, busy, and the tail moved by who has @lock, which holds its
 * number then; the record is there when its header says committed, and passed
 * over when it says aborted, or busy while its producer is not in @producers any
 * more. Whoever finds @lock with a number that is not there takes it over.
 *
 * Who publishes (moves head or tail, or commits) has a full memory barrier after
 * it, and then looks at the @waiting word of the other side. If that is set, it
 * rings the doorbell: POSTBOX_RING_WAKE. A producer of many need do so only for
 * the record that the head is at, and the consumer only when half of the ring is
 * free. The kernel sets these words before it looks whether to let somebody sleep.
 *
 * Nothing that processes write is believed: the kernel takes indices that cannot
 * be as a reason to wake up.
 */
#define POSTBOX_RING_STATUS_PAGE	0
#define POSTBOX_RING_HEAD_PAGE		1
#define POSTBOX_RING_TAIL_PAGE		2
#define POSTBOX_RING_DATA_PAGE		3

/* What a header says of its record. */
#define POSTBOX_RING_BUSY	1
#define POSTBOX_RING_COMMITTED	2
#define POSTBOX_RING_ABORTED	3

/* What has happened to a ring: bits of @state. It stays. */
#define POSTBOX_RING_PRODUCER_CLOSED	(1U << 0)	/* the last producer has left */
#define POSTBOX_RING_PRODUCER_DIED	(1U << 1)	/* it exited without having done so */
#define POSTBOX_RING_CONSUMER_CLOSED	(1U << 2)
#define POSTBOX_RING_CONSUMER_DIED	(1U << 3)

/* The most producers of one ring. */
#define POSTBOX_RING_PRODUCERS	64

/**
 * struct postbox_ring_status - the first page of a ring
 * @consumer_waiting: the consumer sleeps, or is polled
 * @producer_waiting: a producer does
 * @state: POSTBOX_RING_PRODUCER_CLOSED and the like
 * @reserved: zero
 * @producers: the number of each producer that is there, at the place that its
 *	lower six bits say; 0: nobody
 */
struct postbox_ring_status {
	__u32 consumer_waiting;
	__u32 producer_waiting;
	__u32 state;
	__u32 reserved[13];
	__u32 producers[POSTBOX_RING_PRODUCERS];
};

/**
 * struct postbox_ring_head - the second page of a ring
 * @reserved: not used; the words that are, here and in the other pages, are in
 *	different lines of a cache, and of different sets
 * @head: the position of the next record to be received
 * @reserved2: not used
 */
struct postbox_ring_head {
	__u64 reserved[16];
	__u32 head;
	__u32 reserved2;
};

/**
 * struct postbox_ring_tail - the third page of a ring
 * @reserved: not used
 * @tail: bits 0 to 31, the position behind the last record; bits 32 to 63, with one
 *	producer, the bytes of its payload, or zero, and with many, a position that the
 *	head has reached, no more units before the tail than the data has
 * @reserved2: not used
 * @lock: the number of the producer, of many, that moves the tail; 0: nobody
 * @reserved3: not used
 */
struct postbox_ring_tail {
	__u64 reserved[32];
	__u64 tail;
	__u64 reserved2[15];
	__u32 lock;
	__u32 reserved3;
};

#define POSTBOX_RING_CONSUMER	(1U << 8)	/* the side that receives */
#define POSTBOX_RING_PRODUCER	(1U << 9)	/* the side that sends */

/**
 * struct postbox_ring_attach - become the consumer, or a producer
 * @size: size of this struct
 * @flags: POSTBOX_RING_CONSUMER or POSTBOX_RING_PRODUCER
 * @id: out: a producer's number, not used again for long
 * @options: out: POSTBOX_O_MANY where there can be many producers
 * @capacity: out: bytes of the data, a power of two
 *
 * Of the side that the handle has the right for. EBUSY: it has its consumer, its
 * producer, or its many producers; or this process is one already through this
 * handle. EPIPE: a side has left, so that the ring is over.
 *
 * Whoever attached is the process. It leaves by POSTBOX_RING_DETACH, or when it
 * exits or closes its last descriptor of the handle. When the consumer or the last
 * producer has left, or the last handle that might become one is closed, the ring
 * is over: what is committed can still be received. A persistent ring is
 * never over while it has its name: it waits for the next one.
 */
struct postbox_ring_attach {
	__u32 size;
	__u32 flags;
	__u32 id;
	__u32 options;
	__u64 capacity;
};

/**
 * struct postbox_ring - leave, wait, and the doorbell
 * @size: size of this struct
 * @flags: POSTBOX_RING_CONSUMER or POSTBOX_RING_PRODUCER, and for
 *	POSTBOX_RING_WAIT how to wait
 * @timeout_ns: with POSTBOX_TIMEOUT or POSTBOX_DEADLINE
 *
 * POSTBOX_RING_WAIT waits as the side that @flags say: a consumer until a record
 * is there, a producer until half of the ring is free, either until the other
 * side has left. It may return without a reason. Where it does not wait (EAGAIN),
 * the next doorbell still wakes whoever polls.
 *
 * POSTBOX_RING_WAKE wakes the side that @flags say, if it has a reason: for who
 * has the right of the other side.
 *
 * poll says POLLIN and POLLOUT as these waits would return, POLLHUP to who
 * receives when the last producer has left, and POLLERR to who sends when the
 * consumer has.
 */
struct postbox_ring {
	__u32 size;
	__u32 flags;
	__u64 timeout_ns;
};

/*
 * io_uring: an operation is submitted as IORING_OP_URING_CMD. fd is the handle,
 * cmd_op the request as for ioctl(), addr the address of the same argument
 * struct, and the 16 bytes of cmd are a struct postbox_uring. The struct, and
 * what it points to, stay the kernel's until the last completion of the command.
 *
 * All requests can be submitted. POSTBOX_SEND, _RECV, _SEND_BATCH, _RECV_BATCH,
 * _RESERVE, _CALL, _REPLY_RECV, _READ, _WRITE, _ACCEPT, _WAIT_PEER, _ACQUIRE, _WAIT
 * and _RING_WAIT wait as their arguments say, without keeping a task: a command that
 * would wait is parked where a task would sleep, in its place in the order. The
 * others complete at once, with EAGAIN where they would have to wait.
 *
 * A command ends once, in one way.
 * io_uring's own ways of ending it early (IORING_OP_ASYNC_CANCEL, linked
 * timeouts) do not reach it; POSTBOX_CANCEL, timeout_ns and the end of the ring
 * do. The result is that of the ioctl, but where this is 0:
 *
 *   POSTBOX_RECV, _CALL, _REPLY_RECV     bytes of the payload that was received
 *   POSTBOX_READ, _WRITE                 bytes that were moved
 *   POSTBOX_SEND_BATCH, _RECV_BATCH      entries that were done
 *   POSTBOX_ACCEPT                       the descriptor
 *
 * A result has 32 bits: no operation moves more than MAX_RW_COUNT bytes
 * (2^31 less a page).
 *
 * A command whose task has ended reports what was committed; what it was handed
 * and cannot be delivered goes back. ECANCELED: nothing was done (but of
 * POSTBOX_CALL a server may have the request). ENODATA: the call was answered,
 * and the answer is lost.
 */
#define POSTBOX_URING_DIRECT	(1U << 14)	/* addr is the payload itself */
#define POSTBOX_URING_ALL	(1U << 15)	/* POSTBOX_CANCEL: all of the handle */

/**
 * struct postbox_uring - the 16 bytes of a command
 * @flags: zero; or POSTBOX_URING_DIRECT and how to wait; or see below
 * @priority: POSTBOX_SEND with POSTBOX_URING_DIRECT: of the message
 * @len: with POSTBOX_URING_DIRECT: bytes at addr
 * @timeout_ns: as in the argument structs, where there is none
 *
 * With POSTBOX_URING_DIRECT there is no argument struct: addr and @len are the
 * payload of a POSTBOX_SEND, the buffer of a POSTBOX_RECV, or the bytes of a
 * POSTBOX_READ or POSTBOX_WRITE; or, of a POSTBOX_SEND_BATCH or POSTBOX_RECV_BATCH,
 * addr is an array of @len struct postbox_span. With IORING_URING_CMD_FIXED as well, they are in
 * the registered buffer buf_index. Such a receive takes neither files nor leases,
 * and drops requests, as read() does.
 *
 * POSTBOX_RECV and POSTBOX_ACCEPT can be multishot: IORING_URING_CMD_MULTISHOT with
 * IOSQE_BUFFER_SELECT. addr is zero, and @flags may have POSTBOX_RECV_ACK. Each
 * message is put into a buffer of the group behind a struct postbox_record, and
 * has a completion with IORING_CQE_F_MORE, whose result is the bytes of both. A
 * completion without that flag is the last: ECANCELED; EPIPE; ETIMEDOUT when
 * the time that @flags say is up; ENOBUFS when the group has no buffer; EOVERFLOW
 * when the completion queue is full; EMSGSIZE when the buffer is too small, or
 * the message has files or leases. The message that it was about stays at the
 * head, and a new command receives it. With EOVERFLOW a buffer may have been used
 * up without being reported (IORING_REGISTER_PBUF_STATUS tells). Of POSTBOX_ACCEPT,
 * a last completion that is no error is the descriptor of one more connection,
 * for which there was no other completion.
 *
 * POSTBOX_CANCEL ends commands that are parked: those of this handle and this ring
 * whose user_data is addr; with POSTBOX_URING_ALL, where addr is zero, those of
 * the handle on whatever ring. They complete with ECANCELED if nothing else ended
 * them before. Its own result is how many were told, or ENOENT.
 */
struct postbox_uring {
	__u16 flags;
	__u16 priority;
	__u32 len;
	__u64 timeout_ns;
};

/**
 * struct postbox_span - a payload of a batch with POSTBOX_URING_DIRECT
 * @data: where it is, or goes
 * @len: its bytes, or those there
 * @done: out, of a POSTBOX_RECV_BATCH: bytes that were received
 *
 * As in other batches: sends wait, each in its turn; of receives the first one
 * waits, and the others take what is there. The result is how many were done.
 */
struct postbox_span {
	__u64 data;
	__u32 len;
	__u32 done;
};

/**
 * struct postbox_record - what is in front of each message of a multishot receive
 * @size: bytes of this struct; the payload follows
 * @msg_flags: as in struct postbox_recv
 * @msg_len: bytes of the payload; of POSTBOX_ACCEPT: 0
 * @token: as in struct postbox_recv; of POSTBOX_ACCEPT: the number of the link
 * @priority: of the message
 * @fd: of POSTBOX_ACCEPT: the descriptor of the new handle; else -1
 * @pid: who sent it, as in struct postbox_recv; of POSTBOX_ACCEPT: who connected
 * @tid: likewise
 * @uid: likewise
 * @gid: likewise
 * @pidfd_ino: likewise
 */
struct postbox_record {
	__u32 size;
	__u32 msg_flags;
	__u64 msg_len;
	__u64 token;
	__u32 priority;
	__s32 fd;
	__u32 pid;
	__u32 tid;
	__u32 uid;
	__u32 gid;
	__u64 pidfd_ino;
};

#endif /* _UAPI_LINUX_POSTBOX_H */
