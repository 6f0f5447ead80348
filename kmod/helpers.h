/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The thin C part: what is inline, a macro, or not bound on the Rust side.
 * Mirrored in helpers.rs.
 */
#ifndef POSTBOX_HELPERS_H
#define POSTBOX_HELPERS_H

#include <linux/rbtree_types.h>
#include <linux/types.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

struct cred;
struct file;
struct file_operations;
struct hrtimer;
struct delayed_work;
struct inode;
struct io_br_sel;
struct io_uring_cmd;
struct iov_iter;
struct pid;
struct poll_table_struct;
struct task_struct;
struct vm_area_struct;

/* Who sends: references to the pids, and ids as the kernel keeps them. */
struct postbox_identity {
	struct pid *tgid;
	struct pid *tid;
	u64 ino;	/* that of a pidfd of tgid */
	u32 uid;
	u32 gid;
};

/* The same, seen from the namespaces of the current task. */
struct postbox_seen {
	u64 pidfd_ino;
	u32 pid;
	u32 tid;
	u32 uid;
	u32 gid;
};

/* Owner, group and mode of an object. */
struct postbox_owner {
	u32 uid;
	u32 gid;
	u32 mode;
};

/* Memory that can be shared. */
struct postbox_memory {
	u64 size;
	u64 page_size;
	bool frozen;	/* it never changes any more */
	bool writable;	/* it may be mapped to be written */
};

extern unsigned long postbox_max_user_messages;
extern unsigned long postbox_max_user_bytes;
extern unsigned long postbox_max_user_objects;
extern unsigned long postbox_max_user_files;
extern unsigned long postbox_max_message;
extern unsigned long postbox_max_pipe;
extern unsigned long postbox_max_user_shared;
extern unsigned long postbox_max_user_commands;

int postbox_read_args(void *args, size_t args_size, size_t min_size,
		      const void __user *from, size_t *user_size);

int postbox_write_args(const void *args, size_t args_size, void __user *to,
		       size_t user_size);
bool postbox_copy_in(void *to, const void __user *from, size_t len);
bool postbox_copy_out(void __user *to, const void *from, size_t len);
bool postbox_copy_out_now(void __user *to, const void *from, size_t len);

void *postbox_alloc(size_t size);

void postbox_identity_renew(struct postbox_identity *id);
void postbox_identity_renew_as(struct postbox_identity *id, u32 uid, u32 gid);
void postbox_identity_put(const struct postbox_identity *id);
void postbox_identity_see(const struct postbox_identity *id,
			  struct postbox_seen *seen);

u64 postbox_ipc_ns(void);
u64 postbox_container(u32 *owner);
u32 postbox_euid(void);
u32 postbox_egid(void);
u32 postbox_see_uid(u32 uid);
u32 postbox_see_gid(u32 gid);
u32 postbox_kuid(u32 uid);
u32 postbox_kgid(u32 gid);
bool postbox_in_group(u32 gid);
bool postbox_permits(const struct postbox_owner *owner, u32 want);
bool postbox_ipc_owner(u64 ipc_ns);
int postbox_chown(struct postbox_owner *owner, u64 ipc_ns, const u32 *uid,
		  const u32 *gid);

bool postbox_file_both(struct file *file);
void postbox_file_init(struct inode *inode, struct file *file);
struct file *postbox_file_new(const struct file_operations *fops, void *private);
struct file *postbox_file_get(unsigned int fd, bool *refused);
int postbox_may_receive(struct file *file);

void postbox_poll_init(struct wait_queue_head *head);
void postbox_poll_add(struct file *file, struct wait_queue_head *head,
		      struct poll_table_struct *table);
void postbox_poll_wake(struct wait_queue_head *head, u32 mask, bool all);

struct task_struct *postbox_task_get(struct task_struct *task);
void postbox_task_wake(struct task_struct *task);
u64 postbox_task_hand_over(struct task_struct *task, bool stay);
struct pid *postbox_process_get(u32 nr, u64 *ino);
u32 postbox_process_euid(struct pid *pid);
void postbox_process_put(struct pid *pid);
bool postbox_exited(struct pid *pid);
int postbox_wait(const u32 *done, bool timed, s64 until, bool realtime);
int postbox_wait_while(const u32 *done, bool timed, s64 until, bool realtime,
		       struct pid *process);
bool postbox_dying(void);
int postbox_ipc_get(u64 ipc_ns, struct ipc_namespace **ns);
void postbox_ipc_put(struct ipc_namespace *ns);
bool postbox_ipc_ended(const struct ipc_namespace *ns);
void postbox_sweep_init(const void *registry);
void postbox_sweep_soon(void);
void postbox_sweep_stop(void);
/* In Rust; returns whether there can be something to sweep later. */
bool postbox_sweep(const void *registry);
int postbox_trim_init(void);
void postbox_trim_stop(void);
/* In Rust: frees the spare memory of all mailboxes. */
void postbox_trim(const void *registry);
bool postbox_admin(void);
struct dentry *postbox_debugfs_new(const void *shared);
void postbox_debugfs_remove(struct dentry *dir);
/* In Rust. */
void postbox_show_objects(struct seq_file *seq, const void *shared);
bool postbox_show_ends(struct seq_file *seq);
u64 postbox_process(void);
bool postbox_has_descriptor(struct file *file);
bool postbox_closed(struct file *file);
bool postbox_file_try_get(struct file *file);
s64 postbox_now(void);
u64 postbox_thread(void);
bool postbox_interrupted(void);
struct pid *postbox_thread_get(void);
u64 postbox_program(void);
bool postbox_thread_over(struct pid *thread, u64 program);
s64 postbox_time_of_host(s64 time);

struct postbox_relay_entry {
	struct wait_queue_entry entry;
	struct wait_queue_head *head;
};

struct postbox_relay {
	struct wait_queue_head early;
	struct poll_table_struct table;
	struct postbox_relay_entry entries[2];
	unsigned int count;
};

void postbox_relay_init(struct postbox_relay *relay);
void postbox_relay_add(struct postbox_relay *relay, struct file *file,
		       struct poll_table_struct *table);
void postbox_relay_wake(struct postbox_relay *relay);
bool postbox_relay_needed(const struct postbox_relay *relay);
struct poll_table_struct *postbox_relay_table(struct postbox_relay *relay);
void postbox_relay_stop(struct postbox_relay *relay);

/* What a parked command of a handle is found by: its ring, and its number there. */
struct postbox_key {
	struct rb_node node;
	unsigned long ring;
	u64 user_data;
};

void postbox_keys_add(struct rb_root *keys, struct postbox_key *key);
void postbox_keys_remove(struct rb_root *keys, struct postbox_key *key);
struct postbox_key *postbox_keys_find(const struct rb_root *keys,
				      unsigned long ring, u64 user_data);

struct postbox_pages {
	struct page **pages;
	void *address;
	unsigned long count;
	unsigned long twice;
};

int postbox_pages_new(struct postbox_pages *pages, unsigned long count,
		      unsigned long twice);
void postbox_pages_free(struct postbox_pages *pages);
int postbox_pages_map(struct vm_area_struct *vma, struct postbox_pages *pages,
		      bool writable);
unsigned long postbox_vma_pages(struct vm_area_struct *vma,
				unsigned long *count);
unsigned long postbox_page_size(void);

int postbox_memory(struct file *file, struct postbox_memory *memory);
struct file *postbox_memory_open(const struct file *file);
int postbox_memory_map(struct vm_area_struct *vma, struct file *file, u64 size,
		       u64 page_size, bool writable);
unsigned long postbox_unmapped_area(struct file *file, unsigned long addr,
				    unsigned long len, unsigned long pgoff,
				    unsigned long flags);
int postbox_memory_reserve(struct file *file, const struct postbox_memory *memory);
void *postbox_memory_pin(struct file *file, loff_t offset, void **pinned);
void postbox_memory_unpin(void *pinned, const void *address);

/* A struct postbox_uring. */
struct postbox_words {
	u64 first;
	u64 second;
};

struct postbox_look {
	u64 addr;
	struct postbox_words args;
	u32 request;
	u32 len;
	u16 group;
	bool fixed;
	bool multishot;
};

struct file *postbox_uring_look(struct io_uring_cmd *cmd,
				unsigned int issue_flags,
				struct postbox_look *look);
u64 postbox_uring_user_data(struct io_uring_cmd *cmd);
void *postbox_uring_ring(struct io_uring_cmd *cmd);
struct task_struct *postbox_uring_task(struct io_uring_cmd *cmd);
struct file *postbox_uring_file(struct io_uring_cmd *cmd);
const void *postbox_uring_command(struct io_uring_cmd *cmd);
void postbox_uring_keep(struct io_uring_cmd *cmd, const void *command,
			unsigned int issue_flags);
void postbox_uring_done(struct io_uring_cmd *cmd, s32 ret,
			unsigned int issue_flags);
void postbox_uring_kick(struct io_uring_cmd *cmd);
const struct cred *postbox_cred_get(void);
void postbox_cred_put(const struct cred *cred);
const struct cred *postbox_cred_use(const struct cred *cred);
int postbox_uring_import(struct io_uring_cmd *cmd, u64 addr, u32 len, bool dest,
			 struct iov_iter *iter, unsigned int issue_flags);
int postbox_uring_fill(struct io_uring_cmd *cmd, u16 group, const void *record,
		       size_t record_size, const void *payload, size_t len,
		       unsigned int issue_flags, struct io_br_sel *sel);
int postbox_uring_post(struct io_uring_cmd *cmd, struct io_br_sel *sel,
		       unsigned int issue_flags);
void postbox_uring_put_back(struct io_uring_cmd *cmd, struct io_br_sel *sel,
			    unsigned int issue_flags);
void postbox_timer_init(struct hrtimer *timer, bool realtime);
void postbox_timer_start(struct hrtimer *timer, s64 until);
void postbox_timer_stop(struct hrtimer *timer);

/* A watch of the exit of a process. */
struct postbox_exit {
	struct list_head node;
	struct postbox_watched *watched;
	struct postbox_line *line;
	void (*notify)(struct postbox_exit *watch);
};

int postbox_exits_init(void);
struct workqueue_struct *postbox_reports(void);
void postbox_exits_fini(void);
int postbox_exit_watch(struct postbox_exit *watch, bool brief);
bool postbox_exit_begun(const struct postbox_exit *watch);
void postbox_exit_let_go(struct postbox_exit *watch);
void postbox_exit_stop(struct postbox_exit *watch);

/* Who tells a command that a process exits. */
struct postbox_watch {
	struct postbox_exit exit;
	struct hrtimer *timer;
	bool exited;
};

int postbox_watch_start(struct postbox_watch *watch, struct pid *process,
			struct hrtimer *timer);
bool postbox_watch_exited(const struct postbox_watch *watch);
void postbox_watch_stop(struct postbox_watch *watch);

void postbox_delay_init(struct delayed_work *delay);
u64 postbox_delay_clock(void);
void postbox_delay_start(struct delayed_work *delay, u32 ms);
void postbox_delay_stop(struct delayed_work *delay);
/* In Rust. */
void postbox_process_exited(struct postbox_exit *watch);
void postbox_uring_run(struct io_uring_cmd *cmd, unsigned int issue_flags,
		       bool dead);
void postbox_uring_time_up(struct hrtimer *timer);
void postbox_pipe_patience_ends(struct delayed_work *delay);

#endif /* POSTBOX_HELPERS_H */
