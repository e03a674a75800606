// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// How long the threads of Odoo wait in system calls on their session directory, and for which requests.
//
// Two programs run at the begin and the end of every system call of the machine; what is not a call of an observed process
// leaves them at once. A call counts if it is on a file in the session directory. Which calls there are, and what their
// arguments mean, is told by a table (`calls`), so that nothing here depends on the architecture but the registers.
//
// A call on an HTTP connection tells what the thread does: of the bytes that are received the first ones are copied, the path
// of the request line is kept, and the copy is wiped at once. It stays only as long as the line is not whole.
//
// The structures of the kernel are declared with the members that are used. Where these are is found out at load time
// (CO-RE), so no header of a kernel is needed.

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include "request_line.h"

// Programs that read kernel structures must be under the GPL, too.
char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define KERNEL __attribute__((preserve_access_index))

struct super_block;
struct vfsmount;

struct inode {
	__u16 i_mode;
	unsigned long i_ino;
} KERNEL;

struct dentry {
	struct dentry *d_parent;
	struct inode *d_inode;
	struct super_block *d_sb;
} KERNEL;

struct path {
	struct dentry *dentry;
} KERNEL;

struct file {
	void *private_data;
	struct inode *f_inode;
	struct path f_path;
} KERNEL;

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
} KERNEL;

struct files_struct {
	struct fdtable *fdt;
} KERNEL;

struct fs_struct {
	struct path pwd;
} KERNEL;

struct task_struct {
	int tgid;
	struct files_struct *files;
	struct fs_struct *fs;
} KERNEL;

struct sock_common {
	__u16 skc_family;
	__u16 skc_num;
} KERNEL;

struct sock {
	struct sock_common __sk_common;
} KERNEL;

struct socket {
	struct sock *sk;
} KERNEL;

// What is behind a directory of /proc.
struct upid {
	int nr;
} KERNEL;

struct pid {
	struct upid numbers[1];
} KERNEL;

struct proc_inode {
	struct pid *pid;
	struct inode vfs_inode;
} KERNEL;

#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define AF_INET 2
#define AF_INET6 10
#define AT_FDCWD -100
// include/linux/errno.h: results that no program sees.
#define ERESTARTSYS 512
#define ERESTART_RESTARTBLOCK 516

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long di;
	unsigned long si;
	unsigned long dx;
	unsigned long r10;
	unsigned long orig_ax;
} KERNEL;
#define CALL(regs) ((regs)->orig_ax)
#define ARGUMENT_0(regs) ((regs)->di)
#define ARGUMENT_1(regs) ((regs)->si)
#define ARGUMENT_2(regs) ((regs)->dx)
#define ARGUMENT_3(regs) ((regs)->r10)
#elif defined(__TARGET_ARCH_arm64)
struct pt_regs {
	unsigned long regs[31];
	unsigned long orig_x0;
	int syscallno;
} KERNEL;
#define CALL(regs) ((unsigned long)(regs)->syscallno)
// The result is where the first argument was.
#define ARGUMENT_0(regs) ((regs)->orig_x0)
#define ARGUMENT_1(regs) ((regs)->regs[1])
#define ARGUMENT_2(regs) ((regs)->regs[2])
#define ARGUMENT_3(regs) ((regs)->regs[3])
#else
#error "no such architecture"
#endif

// Set before the program is loaded: an offset that nobody else seeks to. See `learn`.
const volatile __u64 cookie = 0;
// The number of the call that is used for it.
const volatile __u64 lseek = 0;

// ---- What is told by the observer ----

// The words of the table of calls; src/observe/calls.rs makes them.
#define CALLS 512
#define OPERATION(word) ((word) & 0xf)
#define TARGET(word) ((word) >> 4 & 0xf)
#define PATH_ARGUMENT(word) ((word) >> 8 & 0xf)
#define SECOND_PATH_ARGUMENT(word) ((word) >> 12 & 0xf)
#define ROLE(word) ((word) >> 16 & 0xf)

#define OPERATIONS 9

enum target {
	TARGET_NONE = 0,
	// The first argument is a descriptor.
	TARGET_DESCRIPTOR = 1,
	// A path, in the working directory.
	TARGET_PATH = 2,
	// A path, in the directory of the argument before.
	TARGET_PATH_AT = 3,
	// The same, and the result is a descriptor.
	TARGET_OPEN = 4,
	TARGET_OPEN_AT = 5,
};

// What a call does with a connection.
enum role {
	ROLE_NONE = 0,
	ROLE_RECEIVE = 1,
	ROLE_RECEIVE_VECTOR = 2,
	ROLE_RECEIVE_MESSAGE = 3,
	ROLE_SEND = 4,
	ROLE_ACCEPT = 5,
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CALLS);
	__type(key, __u32);
	__type(value, __u32);
} calls SEC(".maps");

// From this time on nothing is counted, on the clock of `bpf_ktime_get_ns`: the observer may have been stopped.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} deadline SEC(".maps");

// One bit a port.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536 / 64);
	__type(key, __u32);
	__type(value, __u64);
} ports SEC(".maps");

// A directory. The first is the session directory; paths may begin at the others.
#define PLACES 16
struct place {
	__u64 super_block;
	__u64 inode;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PLACES);
	__type(key, __u32);
	__type(value, struct place);
} places SEC(".maps");

// A path that leads to the session directory: from a place, or from the root (0).
#define NAME_BYTES 255
struct name {
	__u32 prefix_bits;
	__u8 place;
	char path[NAME_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 64);
	__type(key, struct name);
	__type(value, __u32);
} names SEC(".maps");

enum kind {
	// A thread serves one request at a time.
	ORDINARY = 1,
	// A thread serves many.
	EVENTED = 2,
};

// The observed processes, by their id in the first PID namespace.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, __u32);
} processes SEC(".maps");

// ---- What is found ----

// Four buckets a doubling; src/observe/histogram.rs reads them.
#define BUCKETS 160

struct operation {
	__u64 calls;
	__u64 failed;
	__u64 sum_ns;
	__u64 max_ns;
	// Calls that were known by a path, and not by a descriptor.
	__u64 by_path;
	__u64 buckets[BUCKETS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OPERATIONS);
	__type(key, __u32);
	__type(value, struct operation);
} operations SEC(".maps");

struct route {
	__u64 requests;
	__u64 request_ns;
	__u64 calls;
	__u64 calls_ns;
};

// By the path of the request.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, char[PATH_BYTES]);
	__type(value, struct route);
} routes SEC(".maps");

enum served {
	// Those of `routes`, also those that had to make room.
	REQUESTS = 0,
	// No request: the path is all zeros.
	NOBODY = 1,
	// An evented process: the first byte of the path is EVENTED.
	EVENTS = 2,
	SERVED = 3,
};

// The sums over all that was done for each of these.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SERVED);
	__type(key, __u32);
	__type(value, struct route);
} totals SEC(".maps");

#define SLOWEST 10
struct slow {
	__u64 duration_ns;
	__u64 ended_ns;
	__u64 operation;
	__s64 result;
	char path[PATH_BYTES];
};

struct slowest {
	// Room behind them: the verifier sees no more than the bits of an index.
	struct slow calls[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct slowest);
} slowest SEC(".maps");

// ---- What is known of a thread ----

enum state { REST = 0, LINE = 1 };

struct thread {
	// The call it is in.
	__u64 started_ns;
	__u64 connection;
	__u32 call;
	// Whether the descriptor of the call is in the session directory.
	__u32 is_session;
	// The request it serves.
	__u64 served;
	__u64 busy_since_ns;
	__u32 length;
	__u8 state;
	__u8 sent;
	// Aligned, so that they are wiped in words.
	char path[PATH_BYTES] __attribute__((aligned(8)));
	// Room behind the bytes: the verifier adds the largest offset and the largest length.
	char line[2 * LINE_BYTES] __attribute__((aligned(8)));
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct thread);
} threads SEC(".maps");

// Only one program uses these at a time on a CPU: the kernel calls them with preemption switched off.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct name);
} sought_name SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, char[PATH_BYTES]);
} sought_path SEC(".maps");

static __always_inline unsigned long argument(struct pt_regs *regs, __u32 number)
{
	switch (number) {
	case 0:
		return ARGUMENT_0(regs);
	case 1:
		return ARGUMENT_1(regs);
	case 2:
		return ARGUMENT_2(regs);
	default:
		return ARGUMENT_3(regs);
	}
}

// ---- Files ----

static __always_inline struct file *file_of(int descriptor)
{
	struct fdtable *table = BPF_CORE_READ(bpf_get_current_task_btf(), files, fdt);
	struct file **all = BPF_CORE_READ(table, fd), *file = NULL;

	if (descriptor < 0 || (__u32)descriptor >= BPF_CORE_READ(table, max_fds))
		return NULL;
	bpf_probe_read_kernel(&file, sizeof(file), all + descriptor);
	return file;
}

static __always_inline struct place place_of(struct dentry *dentry)
{
	struct place place = {
		.super_block = (__u64)BPF_CORE_READ(dentry, d_sb),
		.inode = BPF_CORE_READ(dentry, d_inode, i_ino),
	};
	return place;
}

static __always_inline int is_place(struct dentry *dentry, __u32 number)
{
	struct place *known = bpf_map_lookup_elem(&places, &number), place;

	if (!known || !known->super_block)
		return 0;
	place = place_of(dentry);
	return place.super_block == known->super_block && place.inode == known->inode;
}

// The session directory, its directories and the files in these.
static __always_inline int is_session(struct dentry *dentry)
{
	int i;

	for (i = 0; i < 3; i++) {
		if (is_place(dentry, 0))
			return 1;
		dentry = BPF_CORE_READ(dentry, d_parent);
	}
	return 0;
}

static __always_inline struct sock *http_connection(struct file *file)
{
	struct socket *socket;
	__u16 family, port;
	struct sock *sk;
	__u64 *bits;
	__u32 at;

	if ((BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return NULL;
	socket = BPF_CORE_READ(file, private_data);
	sk = BPF_CORE_READ(socket, sk);
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (family != AF_INET && family != AF_INET6)
		return NULL;
	port = BPF_CORE_READ(sk, __sk_common.skc_num);
	at = port >> 6;
	bits = bpf_map_lookup_elem(&ports, &at);
	return bits && (*bits >> (port & 63) & 1) ? sk : NULL;
}

static __always_inline int is_name(struct name *name, __u32 place)
{
	name->prefix_bits = 8 * (1 + NAME_BYTES);
	name->place = place;
	return bpf_map_lookup_elem(&names, name) != NULL;
}

enum leads { ELSEWHERE = 0, BY_PATH = 1, BY_DESCRIPTOR = 2 };

// Whether a path leads into the session directory, as far as its words say. Not static: see `find_path`.
__attribute__((noinline)) int leads_to_sessions(int directory, __u64 path)
{
	__u32 zero = 0, place;
	struct name *name = bpf_map_lookup_elem(&sought_name, &zero);
	struct dentry *start;
	long length;

	if (!name)
		return ELSEWHERE;
	length = bpf_probe_read_user_str(name->path, NAME_BYTES, (const void *)path);
	if (length > 1 && name->path[0] == '/')
		return is_name(name, 0) ? BY_PATH : ELSEWHERE;
	start = directory == AT_FDCWD ? BPF_CORE_READ(bpf_get_current_task_btf(), fs, pwd.dentry)
				      : BPF_CORE_READ(file_of(directory), f_path.dentry);
	if (is_session(start)) {
		// AT_EMPTY_PATH; this is how the C library may make `fstat`.
		if (length <= 1)
			return BY_DESCRIPTOR;
		return length > 2 && name->path[0] == '.' && name->path[1] == '.' ? ELSEWHERE : BY_PATH;
	}
	if (length <= 1)
		return ELSEWHERE;
	for (place = 1; place < PLACES; place++)
		if (is_place(start, place))
			return is_name(name, place) ? BY_PATH : ELSEWHERE;
	return ELSEWHERE;
}

// ---- What is counted ----

static __always_inline __u32 bucket_of(__u64 ns)
{
	__u32 doubling = 0, bucket;
	__u64 rest = ns;

	if (rest >> 32) { doubling += 32; rest >>= 32; }
	if (rest >> 16) { doubling += 16; rest >>= 16; }
	if (rest >> 8) { doubling += 8; rest >>= 8; }
	if (rest >> 4) { doubling += 4; rest >>= 4; }
	if (rest >> 2) { doubling += 2; rest >>= 2; }
	if (rest >> 1) doubling += 1;
	bucket = doubling < 2 ? (__u32)ns : 4 * (doubling - 1) + (__u32)(ns >> (doubling - 2) & 3);
	return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static __always_inline void add_route(const void *path, __u64 requests, __u64 request_ns, __u64 count, __u64 calls_ns)
{
	char first = *(const char *)path;
	__u32 served = first == '/' ? REQUESTS : first ? EVENTS : NOBODY;
	struct route *route = NULL, none = {}, *total;

	if (served == REQUESTS) {
		route = bpf_map_lookup_elem(&routes, path);
		if (!route) {
			bpf_map_update_elem(&routes, path, &none, BPF_NOEXIST);
			route = bpf_map_lookup_elem(&routes, path);
		}
	}
	if (route) {
		__sync_fetch_and_add(&route->requests, requests);
		__sync_fetch_and_add(&route->request_ns, request_ns);
		__sync_fetch_and_add(&route->calls, count);
		__sync_fetch_and_add(&route->calls_ns, calls_ns);
	}
	total = bpf_map_lookup_elem(&totals, &served);
	if (total) {
		total->requests += requests;
		total->request_ns += request_ns;
		total->calls += count;
		total->calls_ns += calls_ns;
	}
}

static __always_inline void keep_if_slow(struct thread *thread, __u32 operation, __u64 ns, __u64 now, long result)
{
	__u32 zero = 0, at = 0, i;
	struct slowest *kept = bpf_map_lookup_elem(&slowest, &zero);
	__u64 least = ~0ULL;
	struct slow *slow;

	if (!kept)
		return;
	for (i = 0; i < SLOWEST; i++) {
		if (kept->calls[i].duration_ns < least) {
			least = kept->calls[i].duration_ns;
			at = i;
		}
	}
	if (ns <= least)
		return;
	slow = &kept->calls[at & 15];
	slow->duration_ns = ns;
	slow->ended_ns = now;
	slow->operation = operation;
	slow->result = result;
	__builtin_memcpy(slow->path, thread->path, PATH_BYTES);
}

static __always_inline void count_call(struct thread *thread, __u32 operation, int by_path, __u64 ns, __u64 now, long result)
{
	struct operation *counted = bpf_map_lookup_elem(&operations, &operation);
	__u32 bucket = bucket_of(ns);

	if (!counted || bucket >= BUCKETS)
		return;
	counted->calls++;
	counted->failed += result < 0;
	counted->by_path += by_path;
	counted->sum_ns += ns;
	if (ns > counted->max_ns)
		counted->max_ns = ns;
	counted->buckets[bucket]++;
	add_route(thread->path, 0, 0, 1, ns);
	keep_if_slow(thread, operation, ns, now, result);
}

// ---- Requests ----

// Where the bytes of a receiving call went to, and how many there may be in the first buffer.
static __always_inline const void *buffer_of(struct pt_regs *regs, __u32 role, __u64 *room)
{
	struct {
		const void *base;
		__u64 length;
	} first = {};
	const void *vector = (const void *)argument(regs, 1);

	*room = LINE_BYTES;
	if (role == ROLE_RECEIVE)
		return vector;
	// The member `msg_iov` of a `struct msghdr`, of 64 bits.
	if (role == ROLE_RECEIVE_MESSAGE && bpf_probe_read_user(&vector, sizeof(vector), vector + 16))
		return NULL;
	if (bpf_probe_read_user(&first, sizeof(first), vector))
		return NULL;
	*room = first.length;
	return first.base;
}

struct found {
	char path[PATH_BYTES];
};

#define LINE_OWNER thread
#define PATH_OWNER found
// Whatever else it is, the observer escapes it.
#define IS_NO_PATH(byte) ((byte) == 0 || (byte) == '\r' || (byte) == '\n')
#include "find_path.h"

static __always_inline void received(struct thread *thread, struct pt_regs *regs, __u64 count, __u64 now)
{
	__u32 zero = 0, length;
	struct found *found = bpf_map_lookup_elem(&sought_path, &zero);
	int is_new = thread->served != thread->connection;
	const void *buffer;
	__u64 room;

	if (!found)
		return;
	// The first bytes of a connection, or those that follow an answer, begin with a request line.
	if (is_new || thread->sent) {
		thread->state = LINE;
		thread->length = 0;
		thread->sent = 0;
		thread->served = thread->connection;
		thread->busy_since_ns = now;
		if (is_new)
			__builtin_memset(thread->path, 0, PATH_BYTES);
	}
	if (thread->state != LINE)
		return;
	thread->state = REST;
	length = thread->length & (LINE_BYTES - 1);
	buffer = buffer_of(regs, ROLE(thread->call), &room);
	if (count > room)
		count = room;
	if (count > LINE_BYTES)
		count = LINE_BYTES;
	if (!buffer || count == 0 || count > LINE_BYTES ||
	    bpf_probe_read_user(&thread->line[length], count, buffer))
		goto wipe;
	thread->length = length + count;
	switch (find_path(thread, found)) {
	case COMPLETE:
		__builtin_memcpy(thread->path, found->path, PATH_BYTES);
		add_route(thread->path, 1, 0, 0, 0);
		break;
	case PARTIAL:
		thread->state = LINE;
		return;
	case MALFORMED:
		// A frame of a websocket, for one: the path stays.
		break;
	}
wipe:
	// A query, headers and a cookie may be in it.
	__builtin_memset(thread->line, 0, sizeof(thread->line));
}

static __always_inline void sent(struct thread *thread, long count, __u64 now)
{
	if (thread->served != thread->connection || count == CONTINUE_BYTES)
		return;
	add_route(thread->path, 0, now - thread->busy_since_ns, 0, 0);
	thread->busy_since_ns = now;
	thread->sent = 1;
}

// ---- The programs ----

// Only the observer seeks to such an offset. So it shows the kernel's view of what it has opened: a directory, or a process
// by its directory in /proc. That needs neither names nor the numbers of devices and of PID namespaces.
#define PROCESS 64
static __always_inline void learn(int descriptor, __u64 what)
{
	struct file *file = file_of(descriptor);
	__u32 place = what, kind = what - PROCESS;

	if (what < PLACES) {
		struct place learnt = place_of(BPF_CORE_READ(file, f_path.dentry));

		bpf_map_update_elem(&places, &place, &learnt, BPF_ANY);
	} else if (kind == ORDINARY || kind == EVENTED) {
		void *inode = BPF_CORE_READ(file, f_inode);
		struct proc_inode *proc = inode - bpf_core_field_offset(struct proc_inode, vfs_inode);
		struct pid *pid = BPF_CORE_READ(proc, pid);
		__u32 tgid = 0;

		// The number in the first PID namespace is the first one.
		bpf_probe_read_kernel(&tgid, sizeof(tgid), (void *)pid + bpf_core_field_offset(struct pid, numbers));
		if (tgid)
			bpf_map_update_elem(&processes, &tgid, &kind, BPF_ANY);
	}
}

static __always_inline __u32 call_of(unsigned long number)
{
	__u32 at = number, *word;

	if (number >= CALLS)
		return 0;
	word = bpf_map_lookup_elem(&calls, &at);
	return word ? *word : 0;
}

static __always_inline __u32 own_kind(void)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	__u32 *kind = bpf_map_lookup_elem(&processes, &tgid);

	return kind ? *kind : 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(entered, struct pt_regs *regs, long number)
{
	__u32 word = call_of(number), kind;
	struct thread *thread;
	struct file *file;

	if (!word)
		return 0;
	if (number == lseek && ARGUMENT_1(regs) - cookie < 2 * PROCESS)
		learn(ARGUMENT_0(regs), ARGUMENT_1(regs) - cookie);
	kind = own_kind();
	if (!kind)
		return 0;
	thread = bpf_task_storage_get(&threads, bpf_get_current_task_btf(), NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!thread)
		return 0;
	thread->call = word;
	thread->is_session = 0;
	thread->connection = 0;
	// What it is on is looked up now: after `close` nothing is there.
	if (TARGET(word) == TARGET_DESCRIPTOR || ROLE(word)) {
		file = file_of(ARGUMENT_0(regs));
		if (TARGET(word) == TARGET_DESCRIPTOR)
			thread->is_session = is_session(BPF_CORE_READ(file, f_path.dentry));
		if (ROLE(word) && !thread->is_session && kind == ORDINARY)
			thread->connection = (__u64)http_connection(file);
	}
	if (kind == EVENTED)
		thread->path[0] = EVENTED;
	thread->started_ns = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(left, struct pt_regs *regs, long result)
{
	__u64 now = bpf_ktime_get_ns(), *end;
	__u32 word = call_of(CALL(regs)), target = TARGET(word), first, second, zero = 0;
	int directory, counts, by_path = 0;
	struct thread *thread;

	if (!word || !own_kind())
		return 0;
	end = bpf_map_lookup_elem(&deadline, &zero);
	if (!end || now >= *end)
		return 0;
	thread = bpf_task_storage_get(&threads, bpf_get_current_task_btf(), NULL, 0);
	if (!thread || thread->call != word)
		return 0;
	// A signal came. The kernel makes the call again, and that one counts.
	if (result <= -ERESTARTSYS && result >= -ERESTART_RESTARTBLOCK)
		return 0;
	counts = thread->is_session;
	if ((target == TARGET_OPEN || target == TARGET_OPEN_AT) && result >= 0) {
		counts = is_session(BPF_CORE_READ(file_of(result), f_path.dentry));
	} else if (target > TARGET_DESCRIPTOR) {
		int is_at = target == TARGET_PATH_AT || target == TARGET_OPEN_AT;

		// Read at the end: now the path is in memory.
		first = PATH_ARGUMENT(word);
		second = SECOND_PATH_ARGUMENT(word);
		directory = is_at ? (int)argument(regs, first - 1) : AT_FDCWD;
		counts = leads_to_sessions(directory, argument(regs, first));
		if (!counts && second) {
			directory = is_at ? (int)argument(regs, second - 1) : AT_FDCWD;
			counts = leads_to_sessions(directory, argument(regs, second));
		}
		by_path = counts == BY_PATH;
	}
	if (counts)
		count_call(thread, OPERATION(word), by_path, now - thread->started_ns, now, result);
	else if (ROLE(word) == ROLE_ACCEPT)
		thread->served = 0;
	else if (thread->connection && result > 0 && ROLE(word) == ROLE_SEND)
		sent(thread, result, now);
	else if (thread->connection && result > 0)
		received(thread, regs, result, now);
	thread->call = 0;
	return 0;
}

// What an observed process starts is observed, too.
SEC("tp_btf/sched_process_fork")
int BPF_PROG(forked, struct task_struct *parent, struct task_struct *child)
{
	__u32 tgid = parent->tgid, *kind = bpf_map_lookup_elem(&processes, &tgid), copy;

	if (!kind || child->tgid == parent->tgid)
		return 0;
	copy = *kind;
	tgid = child->tgid;
	bpf_map_update_elem(&processes, &tgid, &copy, BPF_ANY);
	return 0;
}

// Its id is given again, perhaps to a process of somebody else.
SEC("tp_btf/sched_process_exit")
int BPF_PROG(exited, struct task_struct *task)
{
	__u64 id = bpf_get_current_pid_tgid();
	__u32 tgid = id >> 32;

	if (tgid == (__u32)id)
		bpf_map_delete_elem(&processes, &tgid);
	return 0;
}
