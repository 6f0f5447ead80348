// SPDX-License-Identifier: GPL-2.0
#include <linux/anon_inodes.h>
#include <linux/cred.h>
#include <linux/debugfs.h>
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/hrtimer.h>
#include <linux/hugetlb.h>
#include <linux/io_uring/cmd.h>
#include <linux/ipc_namespace.h>
#include <linux/magic.h>
#include <linux/mm.h>
#include <linux/net.h>
#include <linux/moduleparam.h>
#include <linux/nsproxy.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/poll.h>
#include <linux/rbtree.h>
#include <linux/sched.h>
#include <linux/sched/clock.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/seq_file.h>
#include <linux/shmem_fs.h>
#include <linux/shrinker.h>
#include <linux/slab.h>
#include <linux/time_namespace.h>
#include <linux/uaccess.h>
#include <linux/uio.h>
#include <linux/uidgid.h>
#include <linux/user_namespace.h>
#include <linux/vmalloc.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "helpers.h"

/* Here, because parameters of Rust modules cannot be seen or set in sysfs. */
unsigned long postbox_max_user_messages = 1 << 20;
module_param_named(max_user_messages, postbox_max_user_messages, ulong, 0644);
MODULE_PARM_DESC(max_user_messages, "Messages that a user may have sent and nobody received yet");

unsigned long postbox_max_user_bytes = 256 << 20;
module_param_named(max_user_bytes, postbox_max_user_bytes, ulong, 0644);
MODULE_PARM_DESC(max_user_bytes, "Bytes of payload in those messages");

unsigned long postbox_max_user_objects = 1 << 17;
module_param_named(max_user_objects, postbox_max_user_objects, ulong, 0644);
MODULE_PARM_DESC(max_user_objects, "Objects that a user may have made");

unsigned long postbox_max_user_files = 1 << 14;
module_param_named(max_user_files, postbox_max_user_files, ulong, 0644);
MODULE_PARM_DESC(max_user_files, "Files in messages that a user sent and nobody received yet");

unsigned long postbox_max_user_shared = 1 << 30;
module_param_named(max_user_shared, postbox_max_user_shared, ulong, 0644);
MODULE_PARM_DESC(max_user_shared, "Bytes of the shared memory that a user may have made");

unsigned long postbox_max_user_commands = 1 << 16;
module_param_named(max_user_commands, postbox_max_user_commands, ulong, 0644);
MODULE_PARM_DESC(max_user_commands, "io_uring commands that wait, which a user has submitted");

unsigned long postbox_max_message = 16 << 20;
module_param_named(max_message, postbox_max_message, ulong, 0644);
MODULE_PARM_DESC(max_message, "Bytes of the largest message");

unsigned long postbox_max_pipe = 1 << 20;
module_param_named(max_pipe, postbox_max_pipe, ulong, 0644);
MODULE_PARM_DESC(max_pipe, "Bytes that the largest pipe holds");

unsigned long postbox_max_ring = 64 << 20;
module_param_named(max_ring, postbox_max_ring, ulong, 0644);
MODULE_PARM_DESC(max_ring, "Bytes that the largest ring holds");

/*
 * Every argument struct begins with its size. Mostly it is the one that is
 * known here, and is all there.
 */
int postbox_read_args(void *args, size_t args_size, size_t min_size,
		      const void __user *from, size_t *user_size)
{
	u32 size;

	if (likely(!_copy_from_user(args, from, args_size) &&
		   *(u32 *)args == args_size)) {
		*user_size = args_size;
		return 0;
	}
	if (get_user(size, (const u32 __user *)from))
		return -EFAULT;
	if (size < min_size || size > PAGE_SIZE)
		return -EINVAL;
	*user_size = size;
	return copy_struct_from_user(args, args_size, from, size);
}

static noinline int write_larger(const void *args, size_t args_size,
				 void __user *to, size_t user_size)
{
	if (_copy_to_user(to, args, args_size) ||
	    clear_user(to + args_size, user_size - args_size))
		return -EFAULT;
	return 0;
}

/* Writes one back, as much of it as the caller knows; what only the caller knows is zero. */
int postbox_write_args(const void *args, size_t args_size, void __user *to,
		       size_t user_size)
{
	if (unlikely(user_size > args_size))
		return write_larger(args, args_size, to, user_size);
	return _copy_to_user(to, args, user_size) ? -EFAULT : 0;
}

/*
 * Only called with the bounds of Rust slices, so that hardened usercopy would
 * find out again, at the cost of a copy of 200 bytes, what is known already.
 */
bool postbox_copy_in(void *to, const void __user *from, size_t len)
{
	return !_copy_from_user(to, from, len);
}

bool postbox_copy_out(void __user *to, const void *from, size_t len)
{
	return !_copy_to_user(to, from, len);
}

/*
 * The same for under a spinlock: without waiting for pages that are not there.
 * A task that is being killed gets nothing.
 */
bool postbox_copy_out_now(void __user *to, const void *from, size_t len)
{
	bool copied;

	if (fatal_signal_pending(current))
		return false;
	pagefault_disable();
	copied = !_copy_to_user(to, from, len);
	pagefault_enable();
	return copied;
}

/*
 * Memory for messages. Neither a full memory cgroup nor a system short of
 * memory is a reason to kill somebody: the send fails.
 */
void *postbox_alloc(size_t size)
{
	return kvmalloc(size, GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL |
				      __GFP_NOWARN);
}

static __always_inline void renew(struct pid **slot, struct pid *pid)
{
	if (*slot != pid) {
		put_pid(*slot);
		*slot = get_pid(pid);
	}
}

/* Makes @id that of the current task, with these ids; mostly it is already. */
static __always_inline void renew_as(struct postbox_identity *id, u32 uid,
				     u32 gid)
{
	renew(&id->tgid, task_tgid(current));
	renew(&id->tid, task_pid(current));
	id->ino = id->tgid->ino;
	id->uid = uid;
	id->gid = gid;
}

void postbox_identity_renew_as(struct postbox_identity *id, u32 uid, u32 gid)
{
	renew_as(id, uid, gid);
}

void postbox_identity_renew(struct postbox_identity *id)
{
	const struct cred *cred = current_cred();

	renew_as(id, __kuid_val(cred->euid), __kgid_val(cred->egid));
}

void postbox_identity_put(const struct postbox_identity *id)
{
	put_pid(id->tid);
	put_pid(id->tgid);
}

void postbox_identity_see(const struct postbox_identity *id,
			  struct postbox_seen *seen)
{
	struct pid_namespace *ns = task_active_pid_ns(current);

	seen->pidfd_ino = id->ino;
	seen->pid = pid_nr_ns(id->tgid, ns);
	seen->tid = id->tid == id->tgid ? seen->pid : pid_nr_ns(id->tid, ns);
	seen->uid = postbox_see_uid(id->uid);
	seen->gid = postbox_see_gid(id->gid);
}

/* The number is never used again, unlike the inode number of the namespace. */
u64 postbox_ipc_ns(void)
{
	return current->nsproxy->ipc_ns->ns.ns_id;
}

/*
 * Returns the number of the namespace that makes a container of where the
 * current task is, or 0 on the host; @owner made it. The numbers are never used
 * again, and no two namespaces of whatever type share one.
 *
 * It is the outermost namespace, of a type that the container cannot leave by
 * making others: each is the child of one that the task is in.
 */
u64 postbox_container(u32 *owner)
{
	const struct pid_namespace *pid = task_active_pid_ns(current);
	const struct user_namespace *user = current_user_ns();
	/* Unset while the task exits. */
	const struct nsproxy *nsproxy = current->nsproxy;
	const struct ipc_namespace *ipc = nsproxy ? nsproxy->ipc_ns : NULL;

	*owner = __kuid_val(GLOBAL_ROOT_UID);
	while (pid && pid->level > 1)
		pid = pid->parent;
	/* User namespaces in it may be anybody's. */
	if (pid && pid->level == 1 && pid->user_ns == &init_user_ns)
		return pid->ns.ns_id;
	if (user != &init_user_ns) {
		while (user->level > 1)
			user = user->parent;
		*owner = __kuid_val(user->owner);
		return user->ns.ns_id;
	}
	/*
	 * Making one takes privilege here. A task that has entered one of a
	 * user namespace, and not that, is of the host.
	 */
	if (ipc && ipc->ns.ns_id != IPC_NS_INIT_ID &&
	    ipc->user_ns == &init_user_ns)
		return ipc->ns.ns_id;
	return 0;
}

/*
 * The IPC namespace of this number, which must be the current task's, with a
 * reference that keeps its memory; NULL for the initial one, which never ends.
 */
int postbox_ipc_get(u64 ipc_ns, struct ipc_namespace **ns)
{
	struct nsproxy *nsproxy = current->nsproxy;

	*ns = NULL;
	if (!nsproxy || nsproxy->ipc_ns->ns.ns_id != ipc_ns)
		return -EXDEV;
	if (ipc_ns != IPC_NS_INIT_ID)
		*ns = get_ipc_ns(nsproxy->ipc_ns);
	return 0;
}

void postbox_ipc_put(struct ipc_namespace *ns)
{
	put_ipc_ns(ns);
}

/* Whether no task, no descriptor and no mount of the namespace is left. */
bool postbox_ipc_ended(const struct ipc_namespace *ns)
{
	return !ns_ref_active_read(ns);
}

static void sweep(struct work_struct *work);
static DECLARE_DELAYED_WORK(sweeper, sweep);
static const void *swept;

/* For as long as there is something that can end: nobody tells when it does. */
static void sweep(struct work_struct *work)
{
	if (postbox_sweep(swept))
		postbox_sweep_soon();
}

void postbox_sweep_soon(void)
{
	queue_delayed_work(system_power_efficient_wq, &sweeper, HZ);
}

void postbox_sweep_init(const void *registry)
{
	swept = registry;
}

void postbox_sweep_stop(void)
{
	cancel_delayed_work_sync(&sweeper);
}

/*
 * Spare memory of mailboxes goes back when memory is short. The shrinker only
 * queues a work item, once a second at most: the work item takes the
 * registry's lock and may drop the last reference to an object, and a task
 * that reclaims must do neither.
 */
static void trim(struct work_struct *work)
{
	postbox_trim(swept);
}

static DECLARE_WORK(trimmer, trim);
static struct shrinker *shrinker;
static unsigned long trimmed;

/* Stands for all that is spare, which nobody counts: one batch of a shrinker. */
#define TRIM_COUNT	128

static unsigned long trim_count(struct shrinker *unused,
				struct shrink_control *control)
{
	if (time_before(jiffies, READ_ONCE(trimmed) + HZ))
		return SHRINK_EMPTY;
	return TRIM_COUNT;
}

static unsigned long trim_scan(struct shrinker *unused,
			       struct shrink_control *control)
{
	WRITE_ONCE(trimmed, jiffies);
	queue_work(system_power_efficient_wq, &trimmer);
	return SHRINK_STOP;
}

int postbox_trim_init(void)
{
	shrinker = shrinker_alloc(0, "postbox");
	if (!shrinker)
		return -ENOMEM;
	shrinker->count_objects = trim_count;
	shrinker->scan_objects = trim_scan;
	trimmed = jiffies - HZ;
	shrinker_register(shrinker);
	return 0;
}

void postbox_trim_stop(void)
{
	shrinker_free(shrinker);
	cancel_work_sync(&trimmer);
}

/* Whether the current task administers the whole system. */
bool postbox_admin(void)
{
	return capable(CAP_IPC_OWNER) || capable(CAP_SYS_ADMIN);
}

/* Whether there is no use in showing more: nobody reads it, or it is to be shown again with more memory. */
bool postbox_show_ends(struct seq_file *seq)
{
	cond_resched();
	return seq_has_overflowed(seq) || fatal_signal_pending(current);
}

static int objects_show(struct seq_file *seq, void *unused)
{
	postbox_show_objects(seq, seq->private);
	/* With more memory it would be shown once more. */
	return fatal_signal_pending(current) ? -EINTR : 0;
}

static int objects_open(struct inode *inode, struct file *file)
{
	return single_open(file, objects_show, inode->i_private);
}

/* Its owner keeps the module loaded while the file is open. */
static const struct file_operations objects_fops = {
	.owner = THIS_MODULE,
	.open = objects_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = single_release,
};

struct dentry *postbox_debugfs_new(const void *shared)
{
	struct dentry *dir = debugfs_create_dir("postbox", NULL);

	debugfs_create_file("objects", 0400, dir, (void *)shared, &objects_fops);
	return dir;
}

void postbox_debugfs_remove(struct dentry *dir)
{
	debugfs_remove(dir);
}

u32 postbox_euid(void)
{
	return __kuid_val(current_euid());
}

u32 postbox_egid(void)
{
	return __kgid_val(current_egid());
}

u32 postbox_see_uid(u32 uid)
{
	struct user_namespace *ns = current_user_ns();

	return ns == &init_user_ns ? uid : from_kuid_munged(ns, KUIDT_INIT(uid));
}

u32 postbox_see_gid(u32 gid)
{
	struct user_namespace *ns = current_user_ns();

	return ns == &init_user_ns ? gid : from_kgid_munged(ns, KGIDT_INIT(gid));
}

/* Ids as the kernel keeps them; -1 for those that there cannot be. */
u32 postbox_kuid(u32 uid)
{
	return __kuid_val(make_kuid(current_user_ns(), uid));
}

u32 postbox_kgid(u32 gid)
{
	return __kgid_val(make_kgid(current_user_ns(), gid));
}

bool postbox_in_group(u32 gid)
{
	return in_egroup_p(KGIDT_INIT(gid));
}

/* Whether the mode allows what @want asks for: one group of three bits. */
bool postbox_permits(const struct postbox_owner *owner, u32 want)
{
	u32 mode = owner->mode;

	if (uid_eq(current_euid(), KUIDT_INIT(owner->uid)))
		mode >>= 6;
	else if (in_egroup_p(KGIDT_INIT(owner->gid)))
		mode >>= 3;
	return !(want & ~mode & 7);
}

static bool capable_in(u64 ipc_ns, int cap)
{
	/* Unset while the task exits. */
	struct nsproxy *nsproxy = current->nsproxy;

	return nsproxy && nsproxy->ipc_ns->ns.ns_id == ipc_ns &&
	       ns_capable(nsproxy->ipc_ns->user_ns, cap);
}

bool postbox_ipc_owner(u64 ipc_ns)
{
	return capable_in(ipc_ns, CAP_IPC_OWNER);
}

int postbox_chown(struct postbox_owner *owner, u64 ipc_ns, const u32 *uid,
		  const u32 *gid)
{
	struct postbox_owner new = *owner;

	if (uid) {
		kuid_t kuid = make_kuid(current_user_ns(), *uid);

		if (!uid_valid(kuid))
			return -EINVAL;
		new.uid = __kuid_val(kuid);
	}
	if (gid) {
		kgid_t kgid = make_kgid(current_user_ns(), *gid);

		if (!gid_valid(kgid))
			return -EINVAL;
		new.gid = __kgid_val(kgid);
	}
	if ((new.uid != owner->uid ||
	     (new.gid != owner->gid && !in_egroup_p(KGIDT_INIT(new.gid)))) &&
	    !capable_in(ipc_ns, CAP_CHOWN))
		return -EPERM;
	*owner = new;
	return 0;
}

/* Whether a file was opened to read and to write: the device's mode was asked for both. */
bool postbox_file_both(struct file *file)
{
	return (file->f_mode & FMODE_READ) && (file->f_mode & FMODE_WRITE);
}

void postbox_file_init(struct inode *inode, struct file *file)
{
	/* It cannot fail; a message has no position. */
	stream_open(inode, file);
	file->f_mode |= FMODE_NOWAIT;
	/* As for pipes and sockets: inotify and fanotify do not see messages. */
	file_set_fsnotify_mode(file, FMODE_NONOTIFY);
}

/* A file of our own, for which there is no device node. */
struct file *postbox_file_new(const struct file_operations *fops, void *private)
{
	struct file *file;

	file = anon_inode_getfile("[postbox]", fops, private, O_RDWR);
	if (!IS_ERR(file))
		postbox_file_init(file_inode(file), file);
	return file;
}

/* As helpers.rs has it. */
static_assert((__force int)IOCB_NOWAIT == 8);
static_assert(MAX_RW_COUNT == (INT_MAX & ~(PAGE_SIZE - 1)));

void postbox_poll_init(struct wait_queue_head *head)
{
	init_waitqueue_head(head);
}

void postbox_poll_add(struct file *file, struct wait_queue_head *head,
		      struct poll_table_struct *table)
{
	poll_wait(file, head, table);
}

/* Without a mask, whoever is woken asks for it. */
void postbox_poll_wake(struct wait_queue_head *head, u32 mask, bool all)
{
	__wake_up(head, TASK_INTERRUPTIBLE, all ? 0 : 1,
		  poll_to_key((__force __poll_t)mask));
}

/* Runs under the lock of a queue of the object's, and takes that of the relay's. */
static int relay(struct wait_queue_entry *entry, unsigned int mode, int flags,
		 void *key)
{
	struct postbox_relay *relay = entry->private;

	__wake_up(&relay->early, mode, 0, key);
	return 0;
}

static void relay_onto(struct file *file, struct wait_queue_head *head,
		       struct poll_table_struct *table)
{
	struct postbox_relay *to = container_of(table, struct postbox_relay, table);
	struct postbox_relay_entry *at;

	/* An object is polled at two queues at most. */
	if (WARN_ON_ONCE(to->count == ARRAY_SIZE(to->entries)))
		return;
	at = &to->entries[to->count++];
	init_waitqueue_func_entry(&at->entry, relay);
	at->entry.private = to;
	at->head = head;
	add_wait_queue(head, &at->entry);
}

void postbox_relay_init(struct postbox_relay *relay)
{
	/* Of another lock class than the queues of objects, under whose locks it is. */
	init_waitqueue_head(&relay->early);
	init_poll_funcptr(&relay->table, relay_onto);
	relay->count = 0;
}

void postbox_relay_add(struct postbox_relay *relay, struct file *file,
		       struct poll_table_struct *table)
{
	/* With a barrier behind it. */
	poll_wait(file, &relay->early, table);
}

/* The handle was bound. Without a mask, whoever is woken polls again. */
void postbox_relay_wake(struct postbox_relay *relay)
{
	/* Its barrier comes after what was set, and pairs with poll_wait()'s. */
	if (wq_has_sleeper(&relay->early))
		__wake_up(&relay->early, TASK_NORMAL, 0, NULL);
}

bool postbox_relay_needed(const struct postbox_relay *relay)
{
	return !list_empty(&relay->early.head);
}

struct poll_table_struct *postbox_relay_table(struct postbox_relay *relay)
{
	return &relay->table;
}

void postbox_relay_stop(struct postbox_relay *relay)
{
	while (relay->count) {
		struct postbox_relay_entry *at = &relay->entries[--relay->count];

		remove_wait_queue(at->head, &at->entry);
	}
}

/*
 * The file of a descriptor, and, where that is asked, whether it is one that
 * cannot be sent. A file of io_uring keeps what is registered with it, a Unix
 * socket what is queued in it, where nobody could see that it is a handle of
 * ours: one that can only be reached through its own queue would keep itself.
 */
struct file *postbox_file_get(unsigned int fd, bool *refused)
{
	struct file *file = fget(fd);
	struct socket *sock;

	if (!file || !refused)
		return file;
	sock = sock_from_file(file);
	if (sock)
		*refused = READ_ONCE(sock->ops)->family == PF_UNIX;
	else
		*refused = !strcmp(file->f_path.dentry->d_name.name,
				   "[io_uring]") &&
			   file_inode(file)->i_sb->s_magic ==
				   ANON_INODE_FS_MAGIC;
	return file;
}

/*
 * Whether security modules let the task have the file. The only exported
 * function that asks them also installs a descriptor, but writes its number to
 * user memory before: to an address that is never there.
 */
int postbox_may_receive(struct file *file)
{
	int fd = receive_fd(file, (int __user *)-sizeof(int), O_CLOEXEC);

	if (fd >= 0)
		close_fd(fd);
	return fd == -EFAULT || fd >= 0 ? 0 : fd;
}

struct task_struct *postbox_task_get(struct task_struct *task)
{
	return get_task_struct(task);
}

/* Wakes the task and drops the reference to it. */
void postbox_task_wake(struct task_struct *task)
{
	wake_up_process(task);
	put_task_struct(task);
}

#define WF_SYNC		0x10	/* the waker is about to sleep */
#define WF_CURRENT_CPU	0x40	/* the wakee is to run where the waker does */

/*
 * The same by a task that is about to sleep until this one has done something
 * for it, and leaves it its CPU. Only default_wake_function() takes the flags,
 * which are the scheduler's own (kernel/sched/sched.h).
 *
 * With @stay the task stays runnable and only lets the other one go first.
 * Where that one is quick, neither was put to sleep. Returns how long the task
 * was away, in nanoseconds; 0: it was not.
 */
u64 postbox_task_hand_over(struct task_struct *task, bool stay)
{
	struct wait_queue_entry entry;
	u64 away = 0;

	init_waitqueue_entry(&entry, task);
	default_wake_function(&entry, TASK_NORMAL, WF_SYNC | WF_CURRENT_CPU, NULL);
	if (stay && task_cpu(task) == raw_smp_processor_id()) {
		unsigned long before = current->nvcsw + current->nivcsw;
		u64 start = local_clock();

		/* The scheduler may find that the task goes on itself. */
		if (yield_to(task, false) > 0 &&
		    current->nvcsw + current->nivcsw != before)
			away = max(local_clock() - start, 1);
	}
	put_task_struct(task);
	return away;
}

/* The process of this number, as the current task sees it, with a reference. */
struct pid *postbox_process_get(u32 nr, u64 *ino)
{
	struct pid *pid;

	rcu_read_lock();
	pid = get_pid(find_vpid(nr));
	if (pid && !pid_task(pid, PIDTYPE_TGID)) {
		put_pid(pid);
		pid = NULL;
	}
	rcu_read_unlock();
	*ino = pid ? pid->ino : 0;
	return pid;
}

/* The effective user of a process; -1 if it is gone. */
u32 postbox_process_euid(struct pid *pid)
{
	struct task_struct *task;
	u32 uid = -1;

	rcu_read_lock();
	task = pid_task(pid, PIDTYPE_TGID);
	if (task)
		uid = __kuid_val(task_cred_xxx(task, euid));
	rcu_read_unlock();
	return uid;
}

void postbox_process_put(struct pid *pid)
{
	put_pid(pid);
}

/* Whether a process has exited, with all of its threads. */
bool postbox_exited(struct pid *pid)
{
	struct task_struct *task;
	bool ret;

	rcu_read_lock();
	task = pid_task(pid, PIDTYPE_PID);
	ret = !task || (READ_ONCE(task->exit_state) && thread_group_empty(task));
	rcu_read_unlock();
	return ret;
}

/*
 * Sleeps until @done is set, a signal comes (-ERESTARTSYS), @process, if there
 * is one, has exited (-ESRCH) or, when @timed, @until has passed on
 * CLOCK_MONOTONIC or CLOCK_REALTIME (-ETIMEDOUT).
 */
static __always_inline int wait(const u32 *done, bool timed, s64 until,
				bool realtime, struct pid *process)
{
	int ret = 0;

	for (;;) {
		set_current_state(TASK_INTERRUPTIBLE | TASK_FREEZABLE);
		/*
		 * Pairs with the release in WaiterPtr::finish(): the outcome.
		 * After the state was set, so that no wake-up is lost.
		 */
		if (smp_load_acquire(done))
			break;
		if (signal_pending(current)) {
			ret = -ERESTARTSYS;
			break;
		}
		if (process && postbox_exited(process)) {
			ret = -ESRCH;
			break;
		}
		if (!timed) {
			schedule();
			continue;
		}

		ktime_t expires = ns_to_ktime(until);

		if (!schedule_hrtimeout_range_clock(&expires,
						    current->timer_slack_ns,
						    HRTIMER_MODE_ABS,
						    realtime ? CLOCK_REALTIME :
							       CLOCK_MONOTONIC)) {
			ret = -ETIMEDOUT;
			break;
		}
	}
	__set_current_state(TASK_RUNNING);
	return ret;
}

int postbox_wait(const u32 *done, bool timed, s64 until, bool realtime)
{
	return wait(done, timed, until, realtime, NULL);
}

int postbox_wait_while(const u32 *done, bool timed, s64 until, bool realtime,
		       struct pid *process)
{
	struct wait_queue_entry entry;
	int ret;

	/* What a pidfd is polled by. */
	init_waitqueue_entry(&entry, current);
	add_wait_queue(&process->wait_pidfd, &entry);
	ret = wait(done, timed, until, realtime, process);
	remove_wait_queue(&process->wait_pidfd, &entry);
	return ret;
}

/*
 * Whether a pending signal interrupts a wait: its handler will run, or it ends
 * the process. All else (a stop, the freezer, a tracer, task work, what is
 * ignored) makes the task leave the system call, too, but only to do it again.
 */
bool postbox_interrupted(void)
{
	struct sighand_struct *sighand = current->sighand;
	sigset_t pending;
	bool ret = false;
	int sig;

	if (fatal_signal_pending(current))
		return true;
	if (!task_sigpending(current))
		return false;
	spin_lock_irq(&sighand->siglock);
	sigorsets(&pending, &current->pending.signal,
		  &current->signal->shared_pending.signal);
	sigandnsets(&pending, &pending, &current->blocked);
	for (sig = 1; sig <= _NSIG && !ret; sig++) {
		__sighandler_t handler = sighand->action[sig - 1].sa.sa_handler;

		if (!sigismember(&pending, sig))
			continue;
		if (handler == SIG_DFL)
			ret = !sig_kernel_stop(sig) && !sig_kernel_ignore(sig);
		else
			ret = handler != SIG_IGN;
	}
	spin_unlock_irq(&sighand->siglock);
	return ret;
}

/* The number of the thread, which is never used again. */
u64 postbox_thread(void)
{
	return task_pid(current)->ino;
}

/* A reference to the number of the current thread. */
struct pid *postbox_thread_get(void)
{
	return get_pid(task_pid(current));
}

/* Another number for each program that the process executes. */
u64 postbox_program(void)
{
	return current->self_exec_id;
}

/* Whether the thread has exited, or executed another program than @program. */
bool postbox_thread_over(struct pid *thread, u64 program)
{
	struct task_struct *task;
	bool over;

	rcu_read_lock();
	task = pid_task(thread, PIDTYPE_PID);
	over = !task || READ_ONCE(task->exit_state) ||
	       READ_ONCE(task->self_exec_id) != program;
	rcu_read_unlock();
	return over;
}

bool postbox_dying(void)
{
	return fatal_signal_pending(current);
}

/* What stands for this process, with all of its threads, and never for another. */
u64 postbox_process(void)
{
	return task_tgid(current)->ino;
}

/* So many descriptors are looked at to find one of a file. */
#define LOOKED_AT 16384

struct looking {
	const struct file *wanted;
	unsigned int left;
};

static int is_file(const void *data, struct file *file, unsigned int fd)
{
	struct looking *looking = (void *)data;

	return file == looking->wanted || !looking->left--;
}

/*
 * Whether the process has a descriptor of @file, or perhaps has one: of more
 * than a number of descriptors, and of tables, its exit will tell. Threads
 * need not share their descriptors.
 */
bool postbox_has_descriptor(struct file *file)
{
	struct looking looking = { .wanted = file, .left = LOOKED_AT };
	const struct files_struct *last = current->files;
	unsigned int tables = 0;
	struct task_struct *task;
	bool found;

	if (iterate_fd(current->files, 0, is_file, &looking))
		return true;
	found = false;
	rcu_read_lock();
	for_each_thread(current, task) {
		task_lock(task);
		if (task->files != current->files && task->files != last) {
			found = ++tables > 8 ||
				iterate_fd(task->files, 0, is_file, &looking);
			last = task->files;
		}
		task_unlock(task);
		if (found)
			break;
	}
	rcu_read_unlock();
	return found;
}

/*
 * Whether the process, of which a thread has just closed a descriptor of @file
 * or is exiting, has no other one.
 */
bool postbox_closed(struct file *file)
{
	/* The one that is being closed has the only reference. */
	if (file_count(file) == 1)
		return true;
	/* Nothing keeps it from closing the others: its exit tells. */
	if (current->files && postbox_dying())
		return false;
	return !postbox_has_descriptor(file);
}

/*
 * The watches that one user has notified, one after the other: how long that
 * takes is of no concern to other users. A user is one of the host, with the
 * containers that it made, or a container of root: nobody makes more of them.
 */
struct postbox_line {
	struct rb_node node;
	/* The container, and the user; with that, whether all in it is brief. */
	u64 key[2];
	struct work_struct work;
	struct list_head watches;
	/* It is being notified, and must stay until it is let go. */
	const struct postbox_exit *notified;
	wait_queue_head_t let_go;
	/* Watches, and the work item while it is queued or runs. */
	unsigned int users;
};

/*
 * A process that is watched. However many watch it, its exit, which wakes under
 * the lock of the task list, finds one entry here, and one work item moves them
 * to the lines in which they are notified.
 */
struct postbox_watched {
	struct rb_node node;
	struct wait_queue_entry entry;
	struct work_struct work;
	struct pid *process;
	struct list_head watches;
	/* Watches. */
	unsigned int users;
	/* One for all users, and one for the work item while it is queued or runs. */
	refcount_t refs;
};

static struct workqueue_struct *exits;
/* Guards the trees, and of what is in them all that is not set once. */
static DEFINE_SPINLOCK(watched_lock);
static struct rb_root watched_tree = RB_ROOT;
static struct rb_root lines_tree = RB_ROOT;

/* Of turns at pipes that are to be taken back. */
static struct workqueue_struct *turns;

/* How many pipes are dealt with at once: a user may have thousands. */
#define TURNS_MAX	4

/* Of pollers that are woken for many reports at once. Exits queue onto it. */
static struct workqueue_struct *reports;

int postbox_exits_init(void)
{
	/* A place for each of many users: an item takes as long as its user likes. */
	exits = alloc_workqueue("postbox", WQ_UNBOUND, WQ_MAX_ACTIVE);
	if (!exits)
		return -ENOMEM;
	turns = alloc_workqueue("postbox_turns", WQ_UNBOUND, TURNS_MAX);
	if (!turns)
		goto no_turns;
	reports = alloc_workqueue("postbox_reports", WQ_UNBOUND, 0);
	if (!reports)
		goto no_reports;
	return 0;

no_reports:
	destroy_workqueue(turns);
no_turns:
	destroy_workqueue(exits);
	return -ENOMEM;
}

struct workqueue_struct *postbox_reports(void)
{
	return reports;
}

void postbox_exits_fini(void)
{
	destroy_workqueue(turns);
	destroy_workqueue(exits);
	destroy_workqueue(reports);
}

static int watched_cmp(const struct pid *process, const struct postbox_watched *of)
{
	return process < of->process ? -1 : process > of->process;
}

static int watched_find(const void *process, const struct rb_node *node)
{
	return watched_cmp(process, rb_entry(node, struct postbox_watched, node));
}

static int watched_order(struct rb_node *new, const struct rb_node *node)
{
	return watched_find(rb_entry(new, struct postbox_watched, node)->process, node);
}

static void watched_drop(struct postbox_watched *watched)
{
	if (!refcount_dec_and_test(&watched->refs))
		return;
	put_pid(watched->process);
	kfree(watched);
}

static int line_find(const void *key, const struct rb_node *node)
{
	const struct postbox_line *line = rb_entry(node, struct postbox_line, node);

	return memcmp(key, line->key, sizeof(line->key));
}

static int line_order(struct rb_node *new, const struct rb_node *node)
{
	return line_find(rb_entry(new, struct postbox_line, node)->key, node);
}

static void line_put(struct postbox_line *line)
{
	bool last;

	spin_lock(&watched_lock);
	last = !--line->users;
	if (last)
		rb_erase(&line->node, &lines_tree);
	spin_unlock(&watched_lock);
	if (last)
		kfree(line);
}

static void line_work(struct work_struct *work)
{
	struct postbox_line *line = container_of(work, struct postbox_line, work);
	struct postbox_exit *watch;

	for (;;) {
		spin_lock(&watched_lock);
		watch = list_first_entry_or_null(&line->watches, struct postbox_exit, node);
		if (watch) {
			list_del_init(&watch->node);
			WRITE_ONCE(line->notified, watch);
		}
		spin_unlock(&watched_lock);
		if (!watch)
			break;
		watch->notify(watch);
		cond_resched();
	}
	line_put(line);
}

/* The current user's line of what is notified briefly, or of what is not. */
static struct postbox_line *line_get(bool brief)
{
	struct postbox_line *new, *line;
	struct rb_node *node;
	u64 key[2];
	u32 owner;

	key[0] = postbox_container(&owner);
	if (!key[0])
		owner = __kuid_val(current_euid());
	else if (owner != __kuid_val(GLOBAL_ROOT_UID))
		key[0] = 0;
	key[1] = (u64)owner << 1 | brief;
	spin_lock(&watched_lock);
	node = rb_find(key, &lines_tree, line_find);
	if (node) {
		line = rb_entry(node, struct postbox_line, node);
		line->users++;
	}
	spin_unlock(&watched_lock);
	if (node)
		return line;
	new = kzalloc_obj(*new, GFP_KERNEL_ACCOUNT | __GFP_NOWARN);
	if (!new)
		return NULL;
	memcpy(new->key, key, sizeof(key));
	INIT_WORK(&new->work, line_work);
	INIT_LIST_HEAD(&new->watches);
	init_waitqueue_head(&new->let_go);
	new->users = 1;
	spin_lock(&watched_lock);
	node = rb_find_add(&new->node, &lines_tree, line_order);
	if (node) {
		line = rb_entry(node, struct postbox_line, node);
		line->users++;
	}
	spin_unlock(&watched_lock);
	if (!node)
		return new;
	kfree(new);
	return line;
}

static void exit_work(struct work_struct *work)
{
	struct postbox_watched *watched = container_of(work, struct postbox_watched, work);

	/* A leader that is traced wakes its pidfds while its threads live. */
	while (postbox_exited(watched->process)) {
		struct postbox_line *line = NULL;
		struct postbox_exit *watch;

		spin_lock(&watched_lock);
		watch = list_first_entry_or_null(&watched->watches, struct postbox_exit, node);
		if (watch) {
			line = watch->line;
			list_move_tail(&watch->node, &line->watches);
			line->users++;
		}
		spin_unlock(&watched_lock);
		if (!line)
			break;
		/* What is queued already will find it. */
		if (!queue_work(exits, &line->work))
			line_put(line);
		cond_resched();
	}
	watched_drop(watched);
}

/* By a user, or under the lock of the wait queue: the users' reference stays. */
static void watched_queue(struct postbox_watched *watched)
{
	refcount_inc(&watched->refs);
	if (!queue_work(exits, &watched->work))
		refcount_dec(&watched->refs);
}

static int exit_wake(struct wait_queue_entry *entry, unsigned int mode,
		     int flags, void *key)
{
	/* Under locks of the exiting task: nothing more can be done here. */
	watched_queue(container_of(entry, struct postbox_watched, entry));
	return 0;
}

static struct postbox_watched *watched_get(struct pid *process)
{
	struct postbox_watched *new, *watched;
	struct rb_node *node;

	spin_lock(&watched_lock);
	node = rb_find(process, &watched_tree, watched_find);
	if (node) {
		watched = rb_entry(node, struct postbox_watched, node);
		watched->users++;
	}
	spin_unlock(&watched_lock);
	if (node)
		return watched;
	new = kzalloc_obj(*new, GFP_KERNEL_ACCOUNT | __GFP_NOWARN);
	if (!new)
		return NULL;
	INIT_WORK(&new->work, exit_work);
	init_waitqueue_func_entry(&new->entry, exit_wake);
	INIT_LIST_HEAD(&new->watches);
	new->process = get_pid(process);
	new->users = 1;
	refcount_set(&new->refs, 1);
	spin_lock(&watched_lock);
	node = rb_find_add(&new->node, &watched_tree, watched_order);
	if (node) {
		watched = rb_entry(node, struct postbox_watched, node);
		watched->users++;
	}
	spin_unlock(&watched_lock);
	if (node) {
		watched_drop(new);
		return watched;
	}
	add_wait_queue(&process->wait_pidfd, &new->entry);
	return new;
}

static void watched_put(struct postbox_watched *watched)
{
	bool last;

	spin_lock(&watched_lock);
	last = !--watched->users;
	if (last)
		rb_erase(&watched->node, &watched_tree);
	spin_unlock(&watched_lock);
	if (!last)
		return;
	remove_wait_queue(&watched->process->wait_pidfd, &watched->entry);
	watched_drop(watched);
}

/*
 * Has @notify called, once and from the module's workqueue, when @process has
 * exited, unless postbox_exit_stop() comes first. It must take the references
 * that it needs, and then call postbox_exit_let_go(), before what takes long.
 * @brief: nothing does.
 */
static int exit_watch(struct postbox_exit *watch, struct pid *process, bool brief,
		      void (*notify)(struct postbox_exit *watch))
{
	struct postbox_watched *watched;
	struct postbox_line *line = line_get(brief);

	if (!line)
		return -ENOMEM;
	watched = watched_get(process);
	if (!watched) {
		line_put(line);
		return -ENOMEM;
	}
	watch->watched = watched;
	watch->line = line;
	watch->notify = notify;
	spin_lock(&watched_lock);
	list_add_tail(&watch->node, &watched->watches);
	spin_unlock(&watched_lock);
	/* Its exit may have woken before there was anybody. */
	if (postbox_exited(process))
		watched_queue(watched);
	return 0;
}

int postbox_exit_watch(struct postbox_exit *watch, bool brief)
{
	return exit_watch(watch, task_tgid(current), brief, postbox_process_exited);
}

/* Whether a process exits, or has. It lives on where only a thread of it ends. */
bool postbox_exit_begun(const struct postbox_exit *watch)
{
	struct task_struct *task;
	bool ret;

	rcu_read_lock();
	task = pid_task(watch->watched->process, PIDTYPE_TGID);
	ret = !task || !atomic_read(&task->signal->live) ||
	      READ_ONCE(task->signal->flags) & SIGNAL_GROUP_EXIT;
	rcu_read_unlock();
	return ret;
}

/* From here on postbox_exit_stop() does not wait, and @watch may be gone. */
void postbox_exit_let_go(struct postbox_exit *watch)
{
	struct postbox_line *line = watch->line;

	/* Pairs with the acquire in postbox_exit_stop(). */
	smp_store_release(&line->notified, NULL);
	wake_up_all(&line->let_go);
}

/*
 * @watch is not used any more when this returns. That waits for nobody but who
 * takes the references of this very watch, in postbox_process_exited() or in
 * command_exited(), and never for what is done with them.
 */
void postbox_exit_stop(struct postbox_exit *watch)
{
	struct postbox_watched *watched = watch->watched;
	struct postbox_line *line = watch->line;

	spin_lock(&watched_lock);
	list_del_init(&watch->node);
	spin_unlock(&watched_lock);
	/* Pairs with the release in postbox_exit_let_go(). */
	wait_event(line->let_go, smp_load_acquire(&line->notified) != watch);
	line_put(line);
	watched_put(watched);
}

/* Takes a reference to a file that is not freed, unless it is being released. */
bool postbox_file_try_get(struct file *file)
{
	return file_ref_get(&file->f_ref);
}

s64 postbox_now(void)
{
	return ktime_get_ns();
}

/* A time of CLOCK_MONOTONIC in the caller's time namespace, as that of the host. */
s64 postbox_time_of_host(s64 time)
{
#ifdef CONFIG_TIME_NS
	struct timens_offsets *offsets = &current->nsproxy->time_ns->offsets;
	s64 offset = timespec64_to_ktime(offsets->monotonic);

	if (time < offset)
		return 0;
	if (offset < 0 && time > KTIME_MAX + offset)
		return KTIME_MAX;
	return time - offset;
#else
	return time;
#endif
}

/*
 * Says what there is to know of a memfd whose size can never change: who maps
 * it must not get SIGBUS when another truncates it. Other files have no such
 * seals: what they begin with is F_SEAL_SEAL alone.
 */
int postbox_memory(struct file *file, struct postbox_memory *memory)
{
	const unsigned int needed = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
	struct inode *inode = file_inode(file);
	unsigned int seals;

	if (shmem_mapping(inode->i_mapping)) {
		seals = READ_ONCE(SHMEM_I(inode)->seals);
		memory->page_size = PAGE_SIZE;
#ifdef CONFIG_HUGETLBFS
	} else if (is_file_hugepages(file)) {
		seals = READ_ONCE(HUGETLBFS_I(inode)->seals);
		memory->page_size = huge_page_size(hstate_file(file));
#endif
	} else {
		return -EINVAL;
	}
	if ((seals & needed) != needed || !(file->f_mode & FMODE_READ))
		return -EINVAL;
	memory->size = i_size_read(inode);
	if (!memory->size || memory->size % memory->page_size)
		return -EINVAL;
	memory->frozen = seals & F_SEAL_WRITE;
	memory->writable = !(seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) &&
			   file->f_mode & FMODE_WRITE;
	return 0;
}

/*
 * A file of the memfd that can only be read. Mappings get this one, and never
 * the maker's: what else the kernel allows by the file of a mapping
 * (remap_file_pages(), MADV_REMOVE) then changes nothing. Does not wait for the
 * holder of a lease.
 */
struct file *postbox_memory_open(const struct file *file)
{
	return dentry_open(&file->f_path, O_RDONLY | O_LARGEFILE | O_NONBLOCK,
			   current_cred());
}

/*
 * Makes a mapping of ours one of the memfd, by its file from
 * postbox_memory_open(). What mmap() itself checks of a memfd it has checked of
 * our file, so that it is done here: above all that nothing is ever written
 * that must not be.
 */
int postbox_memory_map(struct vm_area_struct *vma, struct file *file, u64 size,
		       u64 page_size, bool writable)
{
	unsigned long pages = size >> PAGE_SHIFT;

	if (vma->vm_pgoff > pages || vma_pages(vma) > pages - vma->vm_pgoff)
		return -EINVAL;
	/*
	 * hugetlbfs relies on what its get_unmapped_area() has checked, which
	 * was not asked where the handle was bound since.
	 */
	if (!IS_ALIGNED(vma->vm_start | vma->vm_end |
			vma->vm_pgoff << PAGE_SHIFT, page_size))
		return -EINVAL;
	/* A private copy could find no page when it is first written to. */
	if (is_file_hugepages(file) && !(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if (vma->vm_flags & VM_EXEC)
		return -EACCES;
	vm_flags_clear(vma, VM_MAYEXEC);
	if (vma->vm_flags & VM_MAYSHARE && !writable) {
		if (vma->vm_flags & VM_WRITE)
			return -EACCES;
		/* As mmap() does for a file that was opened to be read. */
		vm_flags_clear(vma, VM_SHARED | VM_MAYWRITE);
	}
	vma_set_file(vma, file);
	return vfs_mmap(file, vma);
}

/* Where a mapping of the file goes, which for huge pages must be aligned. */
unsigned long postbox_unmapped_area(struct file *file, unsigned long addr,
				    unsigned long len, unsigned long pgoff,
				    unsigned long flags)
{
	if (file->f_op->get_unmapped_area)
		return file->f_op->get_unmapped_area(file, addr, len, pgoff,
						     flags);
	return mm_get_unmapped_area(file, addr, len, pgoff, flags);
}

/*
 * Has hugetlbfs allocate all pages, by a file that can be written. Only its own
 * functions keep its reservations, and charge the cgroups of the current task.
 */
static int reserve_huge(const struct file *file, loff_t size)
{
	struct file *writable;
	int ret;

	writable = dentry_open(&file->f_path, O_RDWR | O_LARGEFILE | O_NONBLOCK,
			       current_cred());
	if (IS_ERR(writable))
		return PTR_ERR(writable);
	ret = vfs_fallocate(writable, 0, 0, size);
	fput(writable);
	/* Any signal interrupts it, and it resumes with the pages that are missing. */
	if (ret == -EINTR && !fatal_signal_pending(current))
		return -ERESTARTNOINTR;
	return ret == -ENOSPC ? -ENOMEM : ret;
}

/*
 * Allocates all pages of a memfd, charged to the cgroups of the current task.
 * Where that fails, those that are there stay.
 */
int postbox_memory_reserve(struct file *file, const struct postbox_memory *memory)
{
	struct address_space *mapping = file->f_mapping;
	/* Unlike fallocate(), it fails rather than have a task killed. */
	const gfp_t gfp = mapping_gfp_mask(mapping) | __GFP_RETRY_MAYFAIL |
			  __GFP_NOWARN;
	pgoff_t index;

	if (is_file_hugepages(file))
		return reserve_huge(file, memory->size);
	for (index = 0; index < memory->size >> PAGE_SHIFT; index++) {
		struct folio *folio;

		if (fatal_signal_pending(current))
			return -EINTR;
		folio = shmem_read_folio_gfp(mapping, index, gfp);
		if (IS_ERR(folio))
			return -ENOMEM;
		/* Reclaim frees clean pages, as if they had never been reserved. */
		folio_mark_dirty(folio);
		folio_put(folio);
		cond_resched();
	}
	return 0;
}

/*
 * Returns the kernel's address of a byte of a memfd, which is valid until it is
 * unpinned; NULL where there is no page, so that the byte is 0. Allocates none.
 */
void *postbox_memory_pin(struct file *file, loff_t offset, void **pinned)
{
	pgoff_t index = offset >> PAGE_SHIFT;
	struct folio *folio;

	if (is_file_hugepages(file)) {
		folio = filemap_get_folio(file->f_mapping, index);
		if (IS_ERR(folio))
			return NULL;
	} else {
		int ret = shmem_get_folio(file_inode(file), index, 0, &folio,
					  SGP_READ);

		if (ret)
			return ERR_PTR(ret);
		if (!folio)
			return NULL;
		folio_unlock(folio);
	}
	/* A load from broken memory would be a machine check. */
	if (folio_contain_hwpoisoned_page(folio)) {
		folio_put(folio);
		return ERR_PTR(-EIO);
	}
	*pinned = folio;
	return kmap_local_folio(folio, offset_in_folio(folio, offset));
}

void postbox_memory_unpin(void *pinned, const void *address)
{
	kunmap_local(address);
	folio_put(pinned);
}

/*
 * Pages that processes may map and the kernel reads and writes, charged to the
 * memory cgroup of who makes them. The last @twice can be mapped once more
 * behind them.
 */
int postbox_pages_new(struct postbox_pages *pages, unsigned long count,
		      unsigned long twice)
{
	const gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_ZERO |
			  __GFP_RETRY_MAYFAIL | __GFP_NOWARN;
	int ret = -ENOMEM;

	pages->address = NULL;
	pages->count = 0;
	pages->twice = twice;
	pages->pages = kvmalloc_array(count, sizeof(*pages->pages), gfp);
	if (!pages->pages)
		return ret;
	while (pages->count < count) {
		struct page *page;

		if (fatal_signal_pending(current)) {
			ret = -EINTR;
			goto fail;
		}
		page = alloc_page(gfp);
		if (!page)
			goto fail;
		pages->pages[pages->count++] = page;
		cond_resched();
	}
	pages->address = vmap(pages->pages, count, VM_MAP, PAGE_KERNEL);
	if (pages->address)
		return 0;
fail:
	postbox_pages_free(pages);
	return ret;
}

void postbox_pages_free(struct postbox_pages *pages)
{
	vunmap(pages->address);
	while (pages->count)
		put_page(pages->pages[--pages->count]);
	kvfree(pages->pages);
}

/* Where the page of this number is: those behind the last come once more. */
static struct page **page_at(const struct postbox_pages *pages,
			     unsigned long index)
{
	return &pages->pages[index < pages->count ? index : index - pages->twice];
}

/* For who gave pages back with MADV_DONTNEED: they are there again. */
static vm_fault_t pages_fault(struct vm_fault *vmf)
{
	/* The file of the mapping keeps its object, and that the pages. */
	const struct postbox_pages *pages = vmf->vma->vm_private_data;

	if (vmf->pgoff >= pages->count + pages->twice)
		return VM_FAULT_SIGBUS;
	vmf->page = *page_at(pages, vmf->pgoff);
	get_page(vmf->page);
	return 0;
}

static const struct vm_operations_struct pages_ops = {
	.fault = pages_fault,
};

/*
 * Maps pages from the offset on that the caller of mmap() said. What may not be
 * written now is never made writable later.
 */
int postbox_pages_map(struct vm_area_struct *vma, struct postbox_pages *pages,
		      bool writable)
{
	unsigned long at = vma->vm_start, index = vma->vm_pgoff;
	unsigned long end = pages->count + pages->twice;

	if (index > end || vma_pages(vma) > end - index ||
	    !(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if (vma->vm_flags & VM_EXEC || (vma->vm_flags & VM_WRITE && !writable))
		return -EACCES;
	/* As mmap() does for a file that was opened to be read. */
	vm_flags_mod(vma, VM_DONTEXPAND | VM_DONTDUMP,
		     VM_MAYEXEC | (writable ? 0 : VM_SHARED | VM_MAYWRITE));
	vma->vm_ops = &pages_ops;
	vma->vm_private_data = pages;
	while (at < vma->vm_end) {
		unsigned long count = index < pages->count ? pages->count - index :
							     end - index;
		unsigned long left;
		int ret;

		count = min(count, (vma->vm_end - at) >> PAGE_SHIFT);
		left = count;
		ret = vm_insert_pages(vma, at, page_at(pages, index), &left);
		if (ret)
			return ret;
		at += count << PAGE_SHIFT;
		index += count;
	}
	return 0;
}

/* Which page of its file a mapping begins with, and of how many it is. */
unsigned long postbox_vma_pages(struct vm_area_struct *vma,
				unsigned long *count)
{
	*count = vma_pages(vma);
	return vma->vm_pgoff;
}

unsigned long postbox_page_size(void)
{
	return PAGE_SIZE;
}

/* Commands of io_uring: all that is inline, a macro, or whose structs Rust does not know. */

struct postbox_pdu {
	const void *command;
};

/*
 * What there is to know of a command, and its file; NULL where it is to be
 * cancelled. User space can still write to the SQE.
 */
struct file *postbox_uring_look(struct io_uring_cmd *cmd,
				unsigned int issue_flags,
				struct postbox_look *look)
{
	const struct io_uring_sqe *sqe = cmd->sqe;
	const struct postbox_words *args;

	if (issue_flags & IO_URING_F_CANCEL)
		return NULL;
	args = io_uring_sqe_cmd(sqe, struct postbox_words);
	look->addr = READ_ONCE(sqe->addr);
	look->args.first = READ_ONCE(args->first);
	look->args.second = READ_ONCE(args->second);
	look->group = READ_ONCE(sqe->buf_group);
	look->fixed = cmd->flags & IORING_URING_CMD_FIXED;
	look->multishot = cmd->flags & IORING_URING_CMD_MULTISHOT;
	look->request = cmd->cmd_op;
	look->len = READ_ONCE(sqe->len);
	return cmd->file;
}

/* What POSTBOX_CANCEL finds a command by. */
u64 postbox_uring_user_data(struct io_uring_cmd *cmd)
{
	return cmd_to_io_kiocb(cmd)->cqe.user_data;
}

void *postbox_uring_ring(struct io_uring_cmd *cmd)
{
	return io_uring_cmd_ctx_handle(cmd);
}

struct task_struct *postbox_uring_task(struct io_uring_cmd *cmd)
{
	return io_uring_cmd_get_task(cmd);
}

struct file *postbox_uring_file(struct io_uring_cmd *cmd)
{
	return cmd->file;
}

const void *postbox_uring_command(struct io_uring_cmd *cmd)
{
	return io_uring_cmd_to_pdu(cmd, struct postbox_pdu)->command;
}

/* From here on the command is only ended by postbox_uring_done(). */
void postbox_uring_keep(struct io_uring_cmd *cmd, const void *command,
			unsigned int issue_flags)
{
	io_uring_cmd_to_pdu(cmd, struct postbox_pdu)->command = command;
	io_uring_cmd_mark_cancelable(cmd, issue_flags);
}

void postbox_uring_done(struct io_uring_cmd *cmd, s32 ret,
			unsigned int issue_flags)
{
	io_uring_cmd_done(cmd, ret, issue_flags);
}

static void run(struct io_tw_req req, io_tw_token_t tw)
{
	postbox_uring_run(io_uring_cmd_from_tw(req),
			  IO_URING_CMD_TASK_WORK_ISSUE_FLAGS, tw.cancel);
}

/*
 * The credentials that a command is issued with, which may be those of a
 * registered personality. Task work runs with the task's own.
 */
const struct cred *postbox_cred_get(void)
{
	return get_current_cred();
}

void postbox_cred_put(const struct cred *cred)
{
	put_cred(cred);
}

/* Returns the current ones, to be given back to this function. */
const struct cred *postbox_cred_use(const struct cred *cred)
{
	return override_creds(cred);
}

/* Has the command looked after in its own task: the only place where it may end. */
void postbox_uring_kick(struct io_uring_cmd *cmd)
{
	io_uring_cmd_complete_in_task(cmd, run);
}

int postbox_uring_import(struct io_uring_cmd *cmd, u64 addr, u32 len, bool dest,
			 struct iov_iter *iter, unsigned int issue_flags)
{
	return io_uring_cmd_import_fixed(addr, len, dest ? ITER_DEST : ITER_SOURCE,
					 iter, cmd, issue_flags);
}

/*
 * Puts a record into a buffer of the group. It is then to be posted, or to be
 * put back.
 */
int postbox_uring_fill(struct io_uring_cmd *cmd, u16 group, const void *record,
		       size_t record_size, const void *payload, size_t len,
		       unsigned int issue_flags, struct io_br_sel *sel)
{
	size_t size = record_size + len;
	char __user *to;
	int ret;

	*sel = io_uring_cmd_buffer_select(cmd, group, &size, issue_flags);
	to = sel->addr;
	if (sel->val < 0)
		return sel->val;
	if (!to)
		return -ENOBUFS;
	if (size < record_size + len)
		ret = -EMSGSIZE;
	else if (_copy_to_user(to, record, record_size) ||
		 _copy_to_user(to + record_size, payload, len))
		ret = -EFAULT;
	else
		ret = record_size + len;
	/* It shares its place with the address. */
	sel->val = ret;
	if (ret > 0)
		return 0;
	io_uring_mshot_cmd_post_cqe(cmd, sel, issue_flags);
	return ret;
}

/* Posts the completion of a record. Where that fails, the command has to end. */
int postbox_uring_post(struct io_uring_cmd *cmd, struct io_br_sel *sel,
		       unsigned int issue_flags)
{
	return io_uring_mshot_cmd_post_cqe(cmd, sel, issue_flags) ? -EOVERFLOW : 0;
}

/* The buffer is not used after all. */
void postbox_uring_put_back(struct io_uring_cmd *cmd, struct io_br_sel *sel,
			    unsigned int issue_flags)
{
	/* What is not positive is not posted. */
	sel->val = 0;
	io_uring_mshot_cmd_post_cqe(cmd, sel, issue_flags);
}

/* As helpers.rs has it. */
static_assert(sizeof(struct io_br_sel) == 16);

static int compare(const struct postbox_key *a, const struct postbox_key *b)
{
	if (a->ring != b->ring)
		return a->ring < b->ring ? -1 : 1;
	if (a->user_data != b->user_data)
		return a->user_data < b->user_data ? -1 : 1;
	return 0;
}

static bool less(struct rb_node *a, const struct rb_node *b)
{
	return compare(rb_entry(a, struct postbox_key, node),
		       rb_entry(b, struct postbox_key, node)) < 0;
}

static int find(const void *key, const struct rb_node *node)
{
	return compare(key, rb_entry(node, struct postbox_key, node));
}

/* Adds a key, of which there may be others that are the same. */
void postbox_keys_add(struct rb_root *keys, struct postbox_key *key)
{
	rb_add(&key->node, keys, less);
}

/* Takes a key out, which says of itself that it is out from there on. */
void postbox_keys_remove(struct rb_root *keys, struct postbox_key *key)
{
	rb_erase(&key->node, keys);
	RB_CLEAR_NODE(&key->node);
}

struct postbox_key *postbox_keys_find(const struct rb_root *keys,
				      unsigned long ring, u64 user_data)
{
	const struct postbox_key key = { .ring = ring, .user_data = user_data };

	return rb_entry_safe(rb_find(&key, keys, find), struct postbox_key, node);
}

static enum hrtimer_restart time_up(struct hrtimer *timer)
{
	postbox_uring_time_up(timer);
	return HRTIMER_NORESTART;
}

void postbox_timer_init(struct hrtimer *timer, bool realtime)
{
	hrtimer_setup(timer, time_up, realtime ? CLOCK_REALTIME : CLOCK_MONOTONIC,
		      HRTIMER_MODE_ABS);
}

void postbox_timer_start(struct hrtimer *timer, s64 until)
{
	hrtimer_start(timer, ns_to_ktime(until), HRTIMER_MODE_ABS);
}

static void command_exited(struct postbox_exit *exit)
{
	struct postbox_watch *watch = container_of(exit, struct postbox_watch, exit);

	WRITE_ONCE(watch->exited, true);
	postbox_uring_time_up(watch->timer);
	postbox_exit_let_go(exit);
}

/* Until postbox_watch_stop(), the time of @timer is up when @process exits. */
int postbox_watch_start(struct postbox_watch *watch, struct pid *process,
			struct hrtimer *timer)
{
	watch->timer = timer;
	watch->exited = false;
	return exit_watch(&watch->exit, process, true, command_exited);
}

bool postbox_watch_exited(const struct postbox_watch *watch)
{
	return READ_ONCE(watch->exited);
}

void postbox_watch_stop(struct postbox_watch *watch)
{
	postbox_exit_stop(&watch->exit);
}

void postbox_timer_stop(struct hrtimer *timer)
{
	hrtimer_cancel(timer);
}

static void patience_ends(struct work_struct *work)
{
	postbox_pipe_patience_ends(to_delayed_work(work));
}

void postbox_delay_init(struct delayed_work *delay)
{
	INIT_DELAYED_WORK(delay, patience_ends);
}

/* A clock in ms that is cheap to read. */
u64 postbox_delay_clock(void)
{
	return jiffies64_to_msecs(get_jiffies_64());
}

/* Instead of when it was to run before, if that is still to come. @ms is not 0. */
void postbox_delay_start(struct delayed_work *delay, u32 ms)
{
	mod_delayed_work(turns, delay, msecs_to_jiffies(ms));
}

void postbox_delay_stop(struct delayed_work *delay)
{
	cancel_delayed_work_sync(delay);
}
