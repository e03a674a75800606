//! What the kernel does to the core for a caller, without a kernel: it looks names up before it
//! opens them, counts the inodes that it is given, keeps the attributes and pages that it may keep,
//! retries ESTALE once, and forgets in the end.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sessionfs::error::Error;
use sessionfs::fs::attributes::{Attributes, Change, Entry};
use sessionfs::fs::caller::{Caller, Request};
use sessionfs::fs::handle::HandleId;
use sessionfs::fs::inode::{Eviction, InodeId};
use sessionfs::fs::list::Item;
use sessionfs::fs::lookup::Found;
use sessionfs::fs::open::Mode;
use sessionfs::fs::poison::Subject;
use sessionfs::fs::{Core, Settings, Step};
use sessionfs::handoff::{self, Kept};
use sessionfs::session::name::Sid;
use sessionfs::session::secret::Keyring;
use sessionfs::store::Usage;
use tempfile::TempDir;

use super::memory::Memory;
use super::processes::Host;

/// More than READ of a session asks for at once.
const READ_BYTES: u32 = 1 << 20;
/// The thread id of `thread(0)`.
pub const FIRST_TID: u32 = 1000;

pub struct Kernel {
    pub core: Arc<Core<Memory, Memory>>,
    pub store: Memory,
    pub host: Host,
    /// The inodes that were given out and not forgotten.
    known: RefCell<BTreeMap<u64, Known>>,
    /// The inode that each name had at its last look-up.
    entries: RefCell<BTreeMap<(u64, String), u64>>,
    /// The names that it need not look up again.
    kept: RefCell<BTreeSet<(u64, String)>>,
    /// How many names `mkstemp` has drawn.
    temp_files: Cell<u32>,
    runtime: tokio::runtime::Runtime,
    staging: TempDir,
    /// What a worker leaves to the next one.
    memory: Option<OwnedFd>,
    /// What the store is called.
    store_name: &'static str,
}

/// What the kernel has of an inode.
#[derive(Default)]
struct Known {
    /// How often it was given out (`nlookup`).
    lookups: u64,
    /// What it may keep: size, mtime and mode.
    attributes: Option<(u64, i64, Option<u32>)>,
    /// Its page cache, which is kept from one open to the next.
    pages: Option<Bytes>,
}

/// What a call ends with: the errno, if it fails.
pub type Outcome<T> = Result<T, i32>;

/// Odoo's thread of that number, as Odoo's user.
pub fn thread(number: u32) -> Caller {
    Caller { tid: FIRST_TID + number, uid: 1000, request: None }
}

/// The same, with a request of that number.
pub fn request(by: Caller, number: u64) -> Caller {
    Caller { request: Some(Request { number, is_repeated: false }), ..by }
}

/// The same request, which the worker before has not answered.
pub fn repeated(by: Caller, number: u64) -> Caller {
    Caller { request: Some(Request { number, is_repeated: true }), ..by }
}

/// A caller whose thread cannot be seen.
pub fn foreign() -> Caller {
    Caller { tid: 0, uid: 1000, request: None }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

/// A session of a family, as Odoo 18 and 19 draw them.
pub fn sid(family: char, number: u32) -> Sid {
    let text = format!("ab{}{number:042}", family.to_string().repeat(40));
    Sid::parse(&text).expect("84 characters")
}

/// A session of Odoo 14 and 15.
pub fn flat_sid(number: u32) -> Sid {
    Sid::parse(&format!("ab{number:038x}")).expect("40 digits")
}

/// What Odoo writes for somebody who is logged in.
pub fn person(text: &str) -> Bytes {
    format!(r#"{{"uid": 2, "session_token": "{}", "note": "{text}"}}"#, "5f".repeat(32)).into()
}

/// What Odoo writes for a visitor.
pub fn visitor(text: &str) -> Bytes {
    format!(r#"{{"uid": null, "session_token": null, "note": "{text}"}}"#).into()
}

impl Kernel {
    pub fn new(store: Memory) -> Self {
        Self::with(store, |_| {})
    }

    pub fn with(store: Memory, change: impl FnOnce(&mut Settings)) -> Self {
        // A tmpfs never gives the number of an inode to a second file.
        let staging = tempfile::tempdir_in("/dev/shm").expect("a directory on a tmpfs");
        let host = Host::new();
        let core = Self::core(&store, &host, &staging, None, change);
        Self {
            core,
            store,
            host,
            memory: None,
            store_name: "one",
            known: RefCell::default(),
            entries: RefCell::default(),
            kept: RefCell::default(),
            temp_files: Cell::default(),
            runtime: runtime(),
            staging,
        }
    }

    /// With what outlives a worker.
    pub fn kept(store: Memory) -> Self {
        let memory = handoff::create().expect("memory");
        let mut kernel = Self::new(store);
        kernel.memory = Some(memory);
        kernel.core = kernel.next_core();
        kernel
    }

    fn core(
        store: &Memory,
        host: &Host,
        staging: &TempDir,
        kept: Option<Kept>,
        change: impl FnOnce(&mut Settings),
    ) -> Arc<Core<Memory, Memory>> {
        let mut settings = Settings {
            staging_dir: staging.path().into(),
            processes: Arc::new(host.clone()),
            kept: kept.unwrap_or_default(),
            ..Settings::default()
        };
        change(&mut settings);
        let core = Core::new(store.clone(), store.clone(), Keyring::for_tests(), &settings)
            .expect("a core");
        core.mounted();
        core
    }

    /// That of a worker which finds what the one before has kept.
    fn next_core(&self) -> Arc<Core<Memory, Memory>> {
        let kept = self.memory.as_ref().map(|memory| {
            Kept::open(memory).expect("memory that can be read").of_store(self.store_name)
        });
        Self::core(&self.store, &self.host, &self.staging, kept, |_| {})
    }

    /// The same, by a reload to another store.
    pub fn succeed_with(&mut self, store: Memory, name: &'static str) {
        (self.store, self.store_name) = (store, name);
        self.succeed();
    }

    /// The worker dies, and another one takes its place.
    pub fn succeed(&mut self) {
        // Its tasks die with it.
        self.runtime = runtime();
        self.core = self.next_core();
        let _entered = self.runtime.enter();
        self.core.take_up_removals();
        self.core.recovered();
    }

    /// A request that the worker before has not answered is failed, because workers died of it.
    pub fn died_of(&self, subject: &Subject<'_>) {
        let _entered = self.runtime.enter();
        self.core.died_of(subject);
    }

    /// Runs what was left to tasks, to its end.
    pub fn wait_for_tasks(&self) {
        let tasks = self.runtime.handle().metrics();
        self.runtime.block_on(async {
            while tasks.num_alive_tasks() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }

    fn number_kept(&self, kind: handoff::Kind) -> usize {
        let memory = self.memory.as_ref().expect("something is kept");
        Kept::open(memory).expect("memory that can be read").numbers(kind).len()
    }

    /// How many listings are kept for the next worker.
    pub fn listings_kept(&self) -> usize {
        self.number_kept(handoff::Kind::Listing)
    }

    /// The same for what is open.
    pub fn open_kept(&self) -> usize {
        self.number_kept(handoff::Kind::Handle) + self.number_kept(handoff::Kind::OpenStaging)
    }

    /// The same for inodes.
    pub fn inodes_kept(&self) -> usize {
        self.number_kept(handoff::Kind::Inode)
    }

    /// The worker dies before it answers: what the request waits for does not come.
    pub fn die_of<T>(&mut self, step: Step<T>) {
        self.give_up(step);
        self.succeed();
    }

    /// What the request waits for does not come.
    pub fn give_up<T>(&self, step: Step<T>) {
        if let Step::Later(work) = step {
            let waited = async { tokio::time::timeout(Duration::ZERO, work).await };
            assert!(self.runtime.block_on(waited).is_err(), "it is answered");
        }
    }

    /// The errno and the message, for tests of what is logged.
    pub fn run_or_error<T>(&self, step: Step<T>) -> Result<T, Error> {
        match step {
            Step::Done(result) => result,
            Step::Later(work) => self.runtime.block_on(work),
        }
    }

    pub fn run<T>(&self, step: Step<T>) -> Outcome<T> {
        self.run_or_error(step).map_err(|error| error.errno())
    }

    /// An inode was given out once more. Attributes that may be kept for more than a moment must never change.
    pub fn enter(&self, entry: Entry) -> Entry {
        let attributes = entry.attributes;
        let mut known = self.known.borrow_mut();
        let known = known.entry(attributes.inode.0).or_default();
        known.lookups += 1;
        if attributes.valid > Duration::from_secs(1) {
            let now = (attributes.size_bytes, attributes.mtime_ns, attributes.mode);
            let kept = known.attributes.replace(now);
            assert!(kept.is_none_or(|kept| kept == now), "{attributes:?}, and {kept:?} is kept");
        }
        entry
    }

    /// An entry is to be forgotten; gives the inode that is forgotten with it, if it was known.
    pub fn invalidate(&self, Eviction { parent, name }: &Eviction) -> Option<InodeId> {
        self.kept.borrow_mut().remove(&(parent.0, name.clone()));
        let inode = InodeId(self.entries.borrow_mut().remove(&(parent.0, name.clone()))?);
        let is_known = self.known.borrow().contains_key(&inode.0);
        self.forget(inode);
        is_known.then_some(inode)
    }

    /// All references to one inode are forgotten.
    pub fn forget(&self, inode: InodeId) {
        let entries = self.entries.borrow();
        self.kept.borrow_mut().retain(|name| entries.get(name) != Some(&inode.0));
        if let Some(known) = self.known.borrow_mut().remove(&inode.0) {
            self.core.forget(inode, known.lookups);
        }
    }

    /// A rename or a SETATTR has changed what was kept of an inode.
    pub fn changed(&self, inode: InodeId) {
        if let Some(known) = self.known.borrow_mut().get_mut(&inode.0) {
            known.attributes = None;
        }
    }

    /// Where a session stands: its directory's inode, and its name there.
    fn place(sid: &Sid) -> (InodeId, String) {
        if sid.alias().family().is_some() {
            (InodeId::of_shard(sid.shard()), sid.expose().to_owned())
        } else {
            (InodeId::ROOT, format!("werkzeug_{}.sess", sid.expose()))
        }
    }

    pub fn lookup_name(&self, by: Caller, parent: InodeId, name: &str) -> Outcome<Entry> {
        let place = (parent.0, name.to_owned());
        self.kept.borrow_mut().remove(&place);
        match self.run(self.core.lookup(by, parent, OsStr::new(name)))? {
            Found::Entry(entry) => {
                if !entry.valid.is_zero() {
                    self.kept.borrow_mut().insert(place.clone());
                }
                self.entries.borrow_mut().insert(place, entry.attributes.inode.0);
                Ok(self.enter(entry))
            }
            Found::NeverFor(_) => Err(libc::ENOENT),
        }
    }

    pub fn lookup(&self, by: Caller, sid: &Sid) -> Outcome<Entry> {
        let (parent, name) = Self::place(sid);
        self.lookup_name(by, parent, &name)
    }

    /// The inode of a session's name, without a look-up if the kernel has kept it.
    pub fn walk(&self, by: Caller, sid: &Sid) -> Outcome<InodeId> {
        let (parent, name) = Self::place(sid);
        let place = (parent.0, name);
        if self.kept.borrow().contains(&place) {
            return Ok(InodeId(self.entries.borrow()[&place]));
        }
        self.lookup(by, sid).map(|entry| entry.attributes.inode)
    }

    pub fn open_inode(&self, by: Caller, inode: InodeId) -> Outcome<HandleId> {
        let opened = self.run(self.core.open(by, inode, Mode::default()))?;
        if opened.immutable {
            let bytes = self.read_handle(opened.handle);
            let mut known = self.known.borrow_mut();
            let kept = known.entry(inode.0).or_default().pages.replace(bytes.clone());
            assert!(kept.is_none_or(|kept| kept == bytes), "other pages are kept");
        }
        Ok(opened.handle)
    }

    /// `open(2)`: ESTALE is retried once, with a look-up of its own.
    pub fn open(&self, by: Caller, sid: &Sid) -> Outcome<HandleId> {
        match self.open_inode(by, self.walk(by, sid)?) {
            Err(libc::ESTALE) => {
                let again = self.lookup(by, sid)?;
                self.open_inode(by, again.attributes.inode)
            }
            opened => opened,
        }
    }

    pub fn read_handle(&self, handle: HandleId) -> Bytes {
        self.core.read(handle, 0, READ_BYTES).expect("an open file")
    }

    /// Odoo's read of a session.
    pub fn read(&self, by: Caller, sid: &Sid) -> Outcome<Bytes> {
        let handle = self.open(by, sid)?;
        let bytes = self.read_handle(handle);
        self.core.release(handle);
        Ok(bytes)
    }

    /// `mkstemp`, as far as its inode.
    pub fn create(&self, by: Caller, name: &str) -> Outcome<(InodeId, HandleId)> {
        let (entry, opened) = self
            .core
            .create(by, InodeId::ROOT, OsStr::new(name), 0o600, true)
            .map_err(|error| error.errno())?;
        let place = (InodeId::ROOT.0, name.to_owned());
        self.entries.borrow_mut().insert(place.clone(), entry.attributes.inode.0);
        if !entry.valid.is_zero() {
            self.kept.borrow_mut().insert(place);
        }
        Ok((self.enter(entry).attributes.inode, opened.handle))
    }

    /// Odoo's save of a session, up to and with the `chmod`, which Odoo ignores.
    pub fn save(&self, by: Caller, sid: &Sid, content: &Bytes) -> Outcome<InodeId> {
        let number = self.temp_files.get();
        self.temp_files.set(number + 1);
        let name = format!("tmp{number:08}.__wz_sess");
        let _ = self.lookup_name(by, InodeId::ROOT, &name);
        let (inode, handle) = self.create(by, &name)?;
        let written = self.run(self.core.write(by, handle, 0, content));
        self.core.release(handle);
        written?;
        self.rename(by, &name, sid)?;
        // The dentry has moved with its inode; the kernel looks it up anew, if it may not keep the name.
        let named = self.walk(by, sid).unwrap_or(inode);
        let change = Change { mode: Some(0o644), ..Change::default() };
        let _ = self.run(self.core.set_attributes(by, named, None, change));
        Ok(inode)
    }

    /// RENAME with its own look at the target.
    pub fn rename(&self, by: Caller, from: &str, sid: &Sid) -> Outcome<()> {
        let (parent, name) = Self::place(sid);
        let _ = self.lookup_name(by, parent, &name);
        let old = (InodeId::ROOT.0, from.to_owned());
        let (from, to) = ((InodeId::ROOT, OsStr::new(from)), (parent, OsStr::new(&name)));
        self.run(self.core.rename(by, from, to))?;
        let new = (parent.0, name);
        let (mut entries, mut kept) = (self.entries.borrow_mut(), self.kept.borrow_mut());
        kept.remove(&new);
        if kept.remove(&old) {
            kept.insert(new.clone());
        }
        if let Some(inode) = entries.remove(&old) {
            entries.insert(new, inode);
            drop((entries, kept));
            self.changed(InodeId(inode));
        }
        Ok(())
    }

    pub fn unlink(&self, by: Caller, sid: &Sid) -> Outcome<()> {
        let (parent, name) = Self::place(sid);
        self.unlink_name(by, parent, &name)
    }

    pub fn unlink_name(&self, by: Caller, parent: InodeId, name: &str) -> Outcome<()> {
        self.run(self.core.unlink(by, parent, OsStr::new(name)))?;
        let place = (parent.0, name.to_owned());
        self.kept.borrow_mut().remove(&place);
        self.entries.borrow_mut().remove(&place);
        Ok(())
    }

    /// `scandir`: the names, and what READDIRPLUS tells of each.
    pub fn list(&self, by: Caller, directory: InodeId) -> Outcome<Vec<(String, Option<Entry>)>> {
        let handle = self.run(self.core.open_directory(by, directory))?;
        let snapshot = self.core.snapshot(handle).map_err(|error| error.errno())?;
        let tell = |item: &Item| {
            let entry = self.core.enter_listed(item).map(|entry| self.enter(entry));
            (item.name.clone(), entry)
        };
        let listed = snapshot.entries.iter().map(tell).collect();
        self.core.release(handle);
        Ok(listed)
    }

    pub fn attributes(&self, inode: InodeId) -> Outcome<Attributes> {
        self.attributes_for(thread(0), inode)
    }

    pub fn attributes_for(&self, by: Caller, inode: InodeId) -> Outcome<Attributes> {
        self.run(self.core.attributes(by, inode))
    }

    /// `stat(2)`: the kernel asks for attributes that it may not keep, and looks up once more after
    /// ESTALE.
    pub fn stat(&self, by: Caller, parent: InodeId, name: &str) -> Outcome<Attributes> {
        let look = || {
            let found = self.lookup_name(by, parent, name)?.attributes;
            if found.valid.is_zero() { self.attributes_for(by, found.inode) } else { Ok(found) }
        };
        match look() {
            Err(libc::ESTALE) => look(),
            found => found,
        }
    }

    /// Forgets all inodes, and gives what is held then besides what listings have shown.
    pub fn forget_all(&self) -> Usage {
        self.kept.borrow_mut().clear();
        for (inode, known) in self.known.take() {
            self.core.forget(InodeId(inode), known.lookups);
        }
        let used = self.core.in_use();
        let of_listings = self.core.listings_bytes() as u64;
        Usage { memory_bytes: used.memory_bytes - of_listings, ..used }
    }
}
