// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Uses the UAPI header alone, as a C program would: the layout, which is the
 * same for 32-bit and 64-bit programs, a message there and back, and errors.
 *
 *   abi            checks all of it; needs the module
 *   abi --layout   prints request numbers, sizes and offsets, and ends
 *
 * One line per check; the status is 0 if all of them held.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/postbox.h>

static int failures;

static void check(int good, const char *what)
{
	printf("%s: %s\n", good ? "ok" : "FAILED", what);
	if (!good)
		failures++;
}

static void check_number(const char *what, unsigned long is, unsigned long should)
{
	printf("%s: %s is %lu", is == should ? "ok" : "FAILED", what, is);
	if (is != should) {
		printf(", not %lu", should);
		failures++;
	}
	printf("\n");
}

/* A call that fails with this error. */
static void check_error(int result, int error, const char *what)
{
	int got = result < 0 ? errno : 0;

	printf("%s: %s", got == error ? "ok" : "FAILED", what);
	if (got != error) {
		printf(": %s, not %s", strerror(got), strerror(error));
		failures++;
	}
	printf("\n");
}

static __u64 pointer(const void *p)
{
	return (__u64)(uintptr_t)p;
}

#define SIZE(type, bytes) check_number("sizeof(struct " #type ")", sizeof(struct type), bytes)
#define AT(type, field, offset) check_number("offsetof(struct " #type ", " #field ")", offsetof(struct type, field), offset)

static void layout(void)
{
	SIZE(postbox_version, 32);
	AT(postbox_version, size, 0);
	AT(postbox_version, abi, 4);
	AT(postbox_version, features, 8);
	AT(postbox_version, message_max, 16);
	AT(postbox_version, batch_max, 24);
	AT(postbox_version, reserved, 28);

	SIZE(postbox_open, 104);
	AT(postbox_open, size, 0);
	AT(postbox_open, kind, 4);
	AT(postbox_open, name, 8);
	AT(postbox_open, name_len, 16);
	AT(postbox_open, flags, 20);
	AT(postbox_open, rights, 24);
	AT(postbox_open, mode, 28);
	AT(postbox_open, capacity, 32);
	AT(postbox_open, capacity_bytes, 40);
	AT(postbox_open, message_max, 48);
	AT(postbox_open, id, 56);
	AT(postbox_open, created, 64);
	AT(postbox_open, number, 68);
	AT(postbox_open, back_capacity, 72);
	AT(postbox_open, back_capacity_bytes, 80);
	AT(postbox_open, initial, 88);
	AT(postbox_open, backlog, 96);
	AT(postbox_open, memfd, 100);

	SIZE(postbox_dup, 16);
	AT(postbox_dup, size, 0);
	AT(postbox_dup, rights, 4);
	AT(postbox_dup, fd, 8);
	AT(postbox_dup, reserved, 12);

	SIZE(postbox_unlink, 16);
	AT(postbox_unlink, size, 0);
	AT(postbox_unlink, name_len, 4);
	AT(postbox_unlink, name, 8);

	SIZE(postbox_attr, 24);
	AT(postbox_attr, size, 0);
	AT(postbox_attr, valid, 4);
	AT(postbox_attr, mode, 8);
	AT(postbox_attr, uid, 12);
	AT(postbox_attr, gid, 16);
	AT(postbox_attr, reserved, 20);

	SIZE(postbox_info, 272);
	AT(postbox_info, size, 0);
	AT(postbox_info, kind, 4);
	AT(postbox_info, id, 8);
	AT(postbox_info, flags, 16);
	AT(postbox_info, mode, 20);
	AT(postbox_info, uid, 24);
	AT(postbox_info, gid, 28);
	AT(postbox_info, capacity, 32);
	AT(postbox_info, capacity_bytes, 40);
	AT(postbox_info, message_max, 48);
	AT(postbox_info, messages, 56);
	AT(postbox_info, bytes, 64);
	AT(postbox_info, unacknowledged, 72);
	AT(postbox_info, reserved_messages, 80);
	AT(postbox_info, senders, 88);
	AT(postbox_info, receivers, 92);
	AT(postbox_info, waiting_senders, 96);
	AT(postbox_info, waiting_receivers, 100);
	AT(postbox_info, sent, 104);
	AT(postbox_info, received, 112);
	AT(postbox_info, redelivered, 120);
	AT(postbox_info, full, 128);
	AT(postbox_info, high_messages, 136);
	AT(postbox_info, high_bytes, 144);
	AT(postbox_info, rights, 152);
	AT(postbox_info, name_len, 156);
	AT(postbox_info, name, 160);
	AT(postbox_info, number, 224);
	AT(postbox_info, reserved, 228);
	AT(postbox_info, value, 232);
	AT(postbox_info, maximum, 240);
	AT(postbox_info, back_messages, 248);
	AT(postbox_info, back_bytes, 256);
	AT(postbox_info, requests, 264);

	SIZE(postbox_list, 32);
	AT(postbox_list, size, 0);
	AT(postbox_list, count, 4);
	AT(postbox_list, infos, 8);
	AT(postbox_list, info_size, 16);
	AT(postbox_list, flags, 20);
	AT(postbox_list, after, 24);

	SIZE(postbox_usage, 88);
	AT(postbox_usage, size, 0);
	AT(postbox_usage, uid, 4);
	AT(postbox_usage, messages, 8);
	AT(postbox_usage, messages_max, 16);
	AT(postbox_usage, bytes, 24);
	AT(postbox_usage, bytes_max, 32);
	AT(postbox_usage, objects, 40);
	AT(postbox_usage, objects_max, 48);
	AT(postbox_usage, files, 56);
	AT(postbox_usage, files_max, 64);
	AT(postbox_usage, shared, 72);
	AT(postbox_usage, shared_max, 80);

	SIZE(postbox_fd, 8);
	AT(postbox_fd, fd, 0);
	AT(postbox_fd, rights, 4);

	SIZE(postbox_send, 56);
	AT(postbox_send, size, 0);
	AT(postbox_send, flags, 4);
	AT(postbox_send, data, 8);
	AT(postbox_send, len, 16);
	AT(postbox_send, timeout_ns, 24);
	AT(postbox_send, priority, 32);
	AT(postbox_send, fd_count, 36);
	AT(postbox_send, reserved_len, 40);
	AT(postbox_send, fds, 48);

	SIZE(postbox_recv, 96);
	AT(postbox_recv, size, 0);
	AT(postbox_recv, flags, 4);
	AT(postbox_recv, data, 8);
	AT(postbox_recv, len, 16);
	AT(postbox_recv, timeout_ns, 24);
	AT(postbox_recv, msg_len, 32);
	AT(postbox_recv, token, 40);
	AT(postbox_recv, priority, 48);
	AT(postbox_recv, msg_flags, 52);
	AT(postbox_recv, pid, 56);
	AT(postbox_recv, tid, 60);
	AT(postbox_recv, uid, 64);
	AT(postbox_recv, gid, 68);
	AT(postbox_recv, pidfd_ino, 72);
	AT(postbox_recv, fds, 80);
	AT(postbox_recv, fd_max, 88);
	AT(postbox_recv, fd_count, 92);

	SIZE(postbox_ack, 16);
	AT(postbox_ack, size, 0);
	AT(postbox_ack, flags, 4);
	AT(postbox_ack, token, 8);

	SIZE(postbox_reserve, 24);
	AT(postbox_reserve, size, 0);
	AT(postbox_reserve, flags, 4);
	AT(postbox_reserve, len, 8);
	AT(postbox_reserve, timeout_ns, 16);

	SIZE(postbox_batch, 32);
	AT(postbox_batch, size, 0);
	AT(postbox_batch, flags, 4);
	AT(postbox_batch, entries, 8);
	AT(postbox_batch, count, 16);
	AT(postbox_batch, entry_size, 20);
	AT(postbox_batch, timeout_ns, 24);

	SIZE(postbox_call, 160);
	AT(postbox_call, size, 0);
	AT(postbox_call, reserved, 4);
	AT(postbox_call, request, 8);
	AT(postbox_call, reply, 64);

	SIZE(postbox_reply, 48);
	AT(postbox_reply, size, 0);
	AT(postbox_reply, flags, 4);
	AT(postbox_reply, data, 8);
	AT(postbox_reply, len, 16);
	AT(postbox_reply, token, 24);
	AT(postbox_reply, fds, 32);
	AT(postbox_reply, fd_count, 40);
	AT(postbox_reply, reserved, 44);

	SIZE(postbox_reply_recv, 152);
	AT(postbox_reply_recv, size, 0);
	AT(postbox_reply_recv, reserved, 4);
	AT(postbox_reply_recv, reply, 8);
	AT(postbox_reply_recv, recv, 56);

	SIZE(postbox_pair, 64);
	AT(postbox_pair, size, 0);
	AT(postbox_pair, flags, 4);
	AT(postbox_pair, capacity, 8);
	AT(postbox_pair, capacity_bytes, 16);
	AT(postbox_pair, back_capacity, 24);
	AT(postbox_pair, back_capacity_bytes, 32);
	AT(postbox_pair, message_max, 40);
	AT(postbox_pair, id, 48);
	AT(postbox_pair, fd, 56);
	AT(postbox_pair, reserved, 60);

	SIZE(postbox_connect, 40);
	AT(postbox_connect, size, 0);
	AT(postbox_connect, flags, 4);
	AT(postbox_connect, name, 8);
	AT(postbox_connect, name_len, 16);
	AT(postbox_connect, number, 20);
	AT(postbox_connect, timeout_ns, 24);
	AT(postbox_connect, id, 32);

	SIZE(postbox_accept, 32);
	AT(postbox_accept, size, 0);
	AT(postbox_accept, flags, 4);
	AT(postbox_accept, timeout_ns, 8);
	AT(postbox_accept, id, 16);
	AT(postbox_accept, fd, 24);
	AT(postbox_accept, reserved, 28);

	SIZE(postbox_peer, 32);
	AT(postbox_peer, size, 0);
	AT(postbox_peer, pid, 4);
	AT(postbox_peer, tid, 8);
	AT(postbox_peer, uid, 12);
	AT(postbox_peer, gid, 16);
	AT(postbox_peer, reserved, 20);
	AT(postbox_peer, pidfd_ino, 24);

	SIZE(postbox_wait_peer, 16);
	AT(postbox_wait_peer, size, 0);
	AT(postbox_wait_peer, flags, 4);
	AT(postbox_wait_peer, timeout_ns, 8);

	SIZE(postbox_shutdown, 8);
	AT(postbox_shutdown, size, 0);
	AT(postbox_shutdown, how, 4);

	SIZE(postbox_io, 40);
	AT(postbox_io, size, 0);
	AT(postbox_io, flags, 4);
	AT(postbox_io, data, 8);
	AT(postbox_io, len, 16);
	AT(postbox_io, timeout_ns, 24);
	AT(postbox_io, done, 32);

	SIZE(postbox_capacity, 16);
	AT(postbox_capacity, size, 0);
	AT(postbox_capacity, reserved, 4);
	AT(postbox_capacity, capacity, 8);

	SIZE(postbox_sync, 32);
	AT(postbox_sync, size, 0);
	AT(postbox_sync, flags, 4);
	AT(postbox_sync, count, 8);
	AT(postbox_sync, timeout_ns, 16);
	AT(postbox_sync, state, 24);
	AT(postbox_sync, reserved, 28);

	SIZE(postbox_grant, 16);
	AT(postbox_grant, size, 0);
	AT(postbox_grant, who, 4);
	AT(postbox_grant, id, 8);
	AT(postbox_grant, rights, 12);

	SIZE(postbox_attach, 16);
	AT(postbox_attach, size, 0);
	AT(postbox_attach, reserved, 4);
	AT(postbox_attach, id, 8);

	SIZE(postbox_word, 40);
	AT(postbox_word, size, 0);
	AT(postbox_word, flags, 4);
	AT(postbox_word, offset, 8);
	AT(postbox_word, value, 16);
	AT(postbox_word, timeout_ns, 24);
	AT(postbox_word, count, 32);
	AT(postbox_word, state, 36);

	SIZE(postbox_ring_status, 320);
	AT(postbox_ring_status, consumer_waiting, 0);
	AT(postbox_ring_status, producer_waiting, 4);
	AT(postbox_ring_status, state, 8);
	AT(postbox_ring_status, producers, 64);

	SIZE(postbox_ring_head, 136);
	AT(postbox_ring_head, head, 128);

	SIZE(postbox_ring_tail, 392);
	AT(postbox_ring_tail, tail, 256);
	AT(postbox_ring_tail, lock, 384);

	SIZE(postbox_ring_attach, 24);
	AT(postbox_ring_attach, size, 0);
	AT(postbox_ring_attach, flags, 4);
	AT(postbox_ring_attach, id, 8);
	AT(postbox_ring_attach, options, 12);
	AT(postbox_ring_attach, capacity, 16);

	SIZE(postbox_ring, 16);
	AT(postbox_ring, size, 0);
	AT(postbox_ring, flags, 4);
	AT(postbox_ring, timeout_ns, 8);

	SIZE(postbox_loan, 48);
	AT(postbox_loan, size, 0);
	AT(postbox_loan, flags, 4);
	AT(postbox_loan, timeout_ns, 8);
	AT(postbox_loan, returns, 16);
	AT(postbox_loan, loans, 24);
	AT(postbox_loan, return_count, 32);
	AT(postbox_loan, loan_max, 36);
	AT(postbox_loan, loan_count, 40);
	AT(postbox_loan, reserved, 44);
	SIZE(postbox_lease, 16);
	AT(postbox_lease, block, 0);
	AT(postbox_lease, flags, 4);
	AT(postbox_lease, len, 8);
	SIZE(postbox_leases, 72);
	AT(postbox_leases, size, 0);
	AT(postbox_leases, pool, 4);
	AT(postbox_leases, fds, 8);
	AT(postbox_leases, entries, 16);
	AT(postbox_leases, returns, 24);
	AT(postbox_leases, loans, 32);
	AT(postbox_leases, return_count, 40);
	AT(postbox_leases, loan_max, 44);
	AT(postbox_leases, loan_count, 48);
	AT(postbox_leases, max, 52);
	AT(postbox_leases, count, 56);
	AT(postbox_leases, reserved, 60);
	AT(postbox_leases, pool_id, 64);

	SIZE(postbox_uring, 16);
	AT(postbox_uring, flags, 0);
	AT(postbox_uring, priority, 2);
	AT(postbox_uring, len, 4);
	AT(postbox_uring, timeout_ns, 8);
	SIZE(postbox_record, 56);
	AT(postbox_record, size, 0);
	AT(postbox_record, msg_flags, 4);
	AT(postbox_record, msg_len, 8);
	AT(postbox_record, token, 16);
	AT(postbox_record, priority, 24);
	AT(postbox_record, fd, 28);
	AT(postbox_record, pid, 32);
	AT(postbox_record, tid, 36);
	AT(postbox_record, uid, 40);
	AT(postbox_record, gid, 44);
	AT(postbox_record, pidfd_ino, 48);
}

static void requests(void)
{
#define REQUEST(name) printf("request " #name " %#lx\n", (unsigned long)name)
	REQUEST(POSTBOX_VERSION);
	REQUEST(POSTBOX_OPEN);
	REQUEST(POSTBOX_DUP);
	REQUEST(POSTBOX_UNLINK);
	REQUEST(POSTBOX_SET_ATTR);
	REQUEST(POSTBOX_INFO);
	REQUEST(POSTBOX_LIST);
	REQUEST(POSTBOX_USAGE);
	REQUEST(POSTBOX_GRANT);
	REQUEST(POSTBOX_REVOKE);
	REQUEST(POSTBOX_SEND);
	REQUEST(POSTBOX_RECV);
	REQUEST(POSTBOX_ACK);
	REQUEST(POSTBOX_RESERVE);
	REQUEST(POSTBOX_SEND_BATCH);
	REQUEST(POSTBOX_RECV_BATCH);
	REQUEST(POSTBOX_CALL);
	REQUEST(POSTBOX_REPLY);
	REQUEST(POSTBOX_REPLY_RECV);
	REQUEST(POSTBOX_PAIR);
	REQUEST(POSTBOX_CONNECT);
	REQUEST(POSTBOX_ACCEPT);
	REQUEST(POSTBOX_PEER);
	REQUEST(POSTBOX_WAIT_PEER);
	REQUEST(POSTBOX_SHUTDOWN);
	REQUEST(POSTBOX_READ);
	REQUEST(POSTBOX_WRITE);
	REQUEST(POSTBOX_SET_CAPACITY);
	REQUEST(POSTBOX_ACQUIRE);
	REQUEST(POSTBOX_RELEASE);
	REQUEST(POSTBOX_COUNT_DOWN);
	REQUEST(POSTBOX_WAIT);
	REQUEST(POSTBOX_JOIN);
	REQUEST(POSTBOX_LEAVE);
	REQUEST(POSTBOX_ATTACH);
	REQUEST(POSTBOX_WAIT_WORD);
	REQUEST(POSTBOX_WAKE_WORD);
	REQUEST(POSTBOX_LOAN);
	REQUEST(POSTBOX_RING_ATTACH);
	REQUEST(POSTBOX_RING_DETACH);
	REQUEST(POSTBOX_RING_WAIT);
	REQUEST(POSTBOX_RING_WAKE);
	REQUEST(POSTBOX_CANCEL);
}

/* A message that is received without waiting, into buf. */
static int receive(int fd, char *buf, size_t len, struct postbox_recv *recv)
{
	memset(recv, 0, sizeof(*recv));
	recv->size = sizeof(*recv);
	recv->flags = POSTBOX_NONBLOCK;
	recv->data = pointer(buf);
	recv->len = len;
	return ioctl(fd, POSTBOX_RECV, recv);
}

static void device(void)
{
	static const char text[] = "from C";
	static const char name[] = "test/abi.c";
	struct postbox_version version = { .size = sizeof(version) };
	struct postbox_open how = {
		.size = sizeof(how),
		.kind = POSTBOX_KIND_MAILBOX,
		.name = pointer(name),
		.name_len = sizeof(name) - 1,
		.flags = POSTBOX_O_CREATE | POSTBOX_O_EXCL,
		.rights = POSTBOX_RIGHT_SEND | POSTBOX_RIGHT_RECEIVE,
		.mode = 0600,
		.capacity = 2,
	};
	struct postbox_send send = {
		.size = sizeof(send),
		.data = pointer(text),
		.len = sizeof(text),
		.priority = 7,
	};
	struct postbox_info info = { .size = sizeof(info) };
	struct postbox_dup dup = { .size = sizeof(dup), .rights = POSTBOX_RIGHT_SEND };
	struct postbox_recv recv;
	struct pollfd ready;
	/* As a program of a newer header would pass it. */
	struct {
		struct postbox_version version;
		__u64 newer;
	} grown = { .version = { .size = sizeof(grown) } };
	char buf[64];
	int fd, other;

	fd = open("/dev/postbox", O_RDWR | O_CLOEXEC);
	other = open("/dev/postbox", O_RDWR | O_CLOEXEC);
	if (fd < 0 || other < 0) {
		check(0, "open /dev/postbox (is the module loaded?)");
		return;
	}
	check(ioctl(fd, POSTBOX_VERSION, &version) == 0, "POSTBOX_VERSION");
	check_number("abi", version.abi, POSTBOX_ABI);
	check(version.message_max > 0 && version.batch_max > 0, "limits are stated");
	check(ioctl(fd, POSTBOX_VERSION, &grown) == 0, "a larger struct with a zero tail is taken");
	grown.newer = 1;
	check_error(ioctl(fd, POSTBOX_VERSION, &grown), E2BIG, "a larger struct with an unknown field set");

	check_error(ioctl(fd, POSTBOX_SEND, &send), EBADFD, "send on an unbound handle");
	check(ioctl(fd, POSTBOX_OPEN, &how) == 0, "POSTBOX_OPEN creates");
	check(how.created == 1 && how.id > 0, "created and id are set");
	check_error(ioctl(fd, POSTBOX_OPEN, &how), EISCONN, "a bound handle cannot be bound again");
	check_error(ioctl(other, POSTBOX_OPEN, &how), EEXIST, "POSTBOX_O_EXCL and the name is taken");
	check(ioctl(fd, POSTBOX_SEND, &send) == 0, "POSTBOX_SEND");
	send.flags = 1U << 31;
	check_error(ioctl(fd, POSTBOX_SEND, &send), EINVAL, "an undefined flag");
	send.flags = 0;

	ready.fd = fd;
	ready.events = POLLIN | POLLOUT;
	check(poll(&ready, 1, 0) == 1 && ready.revents == (POLLIN | POLLOUT), "poll: a message, and room for one");
	check(ioctl(fd, POSTBOX_INFO, &info) == 0, "POSTBOX_INFO");
	check(info.messages == 1 && info.bytes == sizeof(text) && info.mode == 0600, "info counts the message");
	check(info.name_len == sizeof(name) - 1 && strcmp(info.name, name) == 0, "info knows the name");

	check_error(receive(fd, buf, 3, &recv), EMSGSIZE, "a receive with too small a buffer");
	check_number("msg_len after it", recv.msg_len, sizeof(text));
	check(receive(fd, buf, sizeof(buf), &recv) == 0, "POSTBOX_RECV");
	check(recv.msg_len == sizeof(text) && memcmp(buf, text, sizeof(text)) == 0, "the bytes are the same");
	check(recv.priority == 7 && recv.pid == (__u32)getpid() && recv.uid == geteuid() && recv.gid == getegid(),
	      "priority and sender");
	check_error(receive(fd, buf, sizeof(buf), &recv), EAGAIN, "a receive from an empty mailbox");

	check(ioctl(fd, POSTBOX_DUP, &dup) == 0 && dup.fd >= 0, "POSTBOX_DUP");
	check_error(receive(dup.fd, buf, sizeof(buf), &recv), EACCES, "a handle without the right to receive");
	check(write(dup.fd, "w", 1) == 1, "write sends a message");
	check(read(fd, buf, sizeof(buf)) == 1 && buf[0] == 'w', "read receives it");
	close(dup.fd);
	close(other);
	close(fd);
}

/* A segment: what a C program has to do for one. */
static void use_segment(void)
{
	const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
	struct postbox_open how = {
		.size = sizeof(how),
		.kind = POSTBOX_KIND_SEGMENT,
		.flags = POSTBOX_O_CREATE,
		.rights = POSTBOX_RIGHT_SEND | POSTBOX_RIGHT_RECEIVE,
	};
	struct postbox_dup dup = { .size = sizeof(dup), .rights = POSTBOX_RIGHT_RECEIVE };
	struct postbox_attach attach = { .size = sizeof(attach) };
	struct postbox_word word = { .size = sizeof(word), .flags = POSTBOX_NONBLOCK };
	volatile __u64 *mine, *theirs;
	int fd;

	fd = open("/dev/postbox", O_RDWR | O_CLOEXEC);
	how.memfd = memfd_create("abi", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0 || how.memfd < 0 || ftruncate(how.memfd, 4096)) {
		check(0, "a page of memory");
		return;
	}
	check_error(ioctl(fd, POSTBOX_OPEN, &how), EINVAL, "memory that is not sealed");
	check(fcntl(how.memfd, F_ADD_SEALS, seals) == 0, "sealed");
	check(ioctl(fd, POSTBOX_OPEN, &how) == 0, "POSTBOX_OPEN makes a segment");
	close(how.memfd);
	check(ioctl(fd, POSTBOX_DUP, &dup) == 0, "a handle that only reads");
	mine = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	theirs = mmap(NULL, 4096, PROT_READ, MAP_SHARED, dup.fd, 0);
	check(mine != MAP_FAILED && theirs != MAP_FAILED, "both are mapped");
	if (mine == MAP_FAILED || theirs == MAP_FAILED)
		return;
	check(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, dup.fd, 0) == MAP_FAILED && errno == EACCES,
	      "the one cannot be mapped to write");
	check(ioctl(fd, POSTBOX_ATTACH, &attach) == 0 && attach.id > 0, "POSTBOX_ATTACH");
	*mine = attach.id;
	check(*theirs == attach.id, "it is the same memory");
	word.value = attach.id;
	check_error(ioctl(fd, POSTBOX_WAIT_WORD, &word), EAGAIN, "the lock is this process's");
	*mine = word.value = attach.id + 1;
	check(ioctl(fd, POSTBOX_WAIT_WORD, &word) == 0 && word.state == POSTBOX_WORD_OWNER_DIED,
	      "the lock of a process that is not there");
	close(dup.fd);
	close(fd);
	check(*theirs == attach.id + 1, "mappings stay");
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "--layout") == 0) {
		requests();
		layout();
	} else {
		layout();
		device();
		use_segment();
	}
	return failures != 0;
}
