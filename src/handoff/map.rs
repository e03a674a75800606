//! The memory as a bounded table, from a kind and a number to bytes.
//!
//! Bytes lie in chains of cells of one size, so there is nothing to defragment. An entry becomes valid by one store,
//! after all that it leads to; another process that finds the memory reads the entries, and takes every cell that none
//! leads to for free. One process writes at a time; its threads take turns.
//!
//! What is found was written by a process that may have been taken over: every position is checked, and an entry that
//! cannot be right is dropped.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use lru::LruCache;

use super::{Kind, Quota, SMALL_BYTES};
use crate::host::shared_memory::SharedMemory;
use crate::sync::lock;

pub(super) const CELL_BYTES: usize = 256;
const CELLS: usize = 128 * 1024 * 1024 / CELL_BYTES;
const ENTRIES: usize = 131_072;

/// Says what this is, and in which format. Another format has another number.
const MAGIC: u64 = u64::from_le_bytes(*b"sessfs\x01\x01");

// Where everything is.
const MAGIC_AT: usize = 0;
const GENERATION_AT: usize = 8;
/// No entry beyond this number was ever used.
const USED_AT: usize = 16;
const ENTRIES_AT: usize = 4096;
const ENTRY_BYTES: usize = 64;
const LINKS_AT: usize = ENTRIES_AT + ENTRIES * ENTRY_BYTES;
const LINK_BYTES: usize = 4;
const CELLS_AT: usize = LINKS_AT + CELLS * LINK_BYTES;
/// Of the table; a multiple of a page.
pub(super) const LENGTH_BYTES: usize = CELLS_AT + CELLS * CELL_BYTES;

// The fields of an entry. The kind is 0 as long as the entry is not valid.
const KIND: usize = 0;
const NUMBER: usize = 8;
/// The first cell, and above it the length in bytes.
const PLACE: usize = 16;
const COUNT: usize = 24;
/// What was made or counted later has a greater one.
const AGE: usize = 32;

/// Whether memory that begins with this can be read. It begins with 0 before the first worker has had it.
pub(super) fn check_magic(found: u64) -> io::Result<()> {
    match found {
        0 | MAGIC => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "another version of sessionfs has written it",
        )),
    }
}

#[derive(Debug)]
pub(super) struct Map {
    memory: &'static SharedMemory,
    index: Mutex<Index>,
}

/// What the memory holds, for finding it; made anew by each process.
#[derive(Debug)]
struct Index {
    kinds: [OfKind; Kind::ALL.len()],
    free_entries: Vec<u32>,
    used_entries: u32,
    free_cells: Vec<u32>,
    used_cells: u32,
    age: u64,
}

#[derive(Debug)]
struct OfKind {
    /// By number; the oldest is the least recently put or counted.
    entries: LruCache<u64, u32>,
    cells: usize,
}

/// Where the bytes of an entry are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Place {
    first: u32,
    length: u32,
}

impl Place {
    fn of(value: u64) -> Self {
        let [low, high] = [value & u64::from(u32::MAX), value >> 32];
        let word = |part| u32::try_from(part).unwrap_or(u32::MAX);
        Self { first: word(low), length: word(high) }
    }

    fn value(self) -> u64 {
        u64::from(self.length) << 32 | u64::from(self.first)
    }

    fn cells(self) -> usize {
        (self.length as usize).div_ceil(CELL_BYTES)
    }
}

impl Map {
    /// The table in this memory, made there if there is none. Another worker's number is counted.
    pub(super) fn open(memory: &'static SharedMemory) -> io::Result<Self> {
        let kinds =
            [(); Kind::ALL.len()].map(|()| OfKind { entries: LruCache::unbounded(), cells: 0 });
        let index = Index {
            kinds,
            free_entries: Vec::new(),
            used_entries: 0,
            free_cells: Vec::new(),
            used_cells: 0,
            age: 0,
        };
        let map = Self { memory, index: Mutex::new(index) };
        let magic = map.number(MAGIC_AT)?;
        let found = magic.load(Ordering::Acquire);
        check_magic(found)?;
        if found == 0 {
            magic.store(MAGIC, Ordering::Release);
        } else {
            map.read_all()?;
        }
        map.number(GENERATION_AT)?.fetch_add(1, Ordering::AcqRel);
        Ok(map)
    }

    pub(super) fn memory(&self) -> &'static SharedMemory {
        self.memory
    }

    /// How many workers have had this memory, with this one.
    pub(super) fn generation(&self) -> u64 {
        self.number(GENERATION_AT).map_or(0, |number| number.load(Ordering::Acquire))
    }

    pub(super) fn put(&self, kind: Kind, number: u64, parts: &[&[u8]]) -> bool {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let Ok(length) = u32::try_from(length) else { return false };
        let index = &mut *lock(&self.index);
        let place = Place { first: 0, length };
        let former = index.of(kind).entries.get(&number).copied();
        let has_room = self.make_room(index, kind, place.cells(), former.is_none());
        let Some(place) = has_room.then(|| self.write(index, place, parts)).flatten() else {
            // What was kept is no longer true.
            self.remove_from(index, kind, number);
            return false;
        };
        // What made room may have been the former one.
        match index.of(kind).entries.get(&number).copied() {
            Some(entry) => self.replace(index, kind, entry, place),
            None => self.insert(index, kind, number, place),
        }
    }

    pub(super) fn get(&self, kind: Kind, number: u64) -> Option<Vec<u8>> {
        let index = &*lock(&self.index);
        let entry = *index.kinds[position(kind)].entries.peek(&number)?;
        self.bytes(self.place(entry)?)
    }

    pub(super) fn remove(&self, kind: Kind, number: u64) -> bool {
        let index = &mut *lock(&self.index);
        self.remove_from(index, kind, number)
    }

    pub(super) fn numbers(&self, kind: Kind) -> Vec<u64> {
        let index = lock(&self.index);
        index.kinds[position(kind)].entries.iter().rev().map(|(number, _)| *number).collect()
    }

    pub(super) fn count(&self, kind: Kind, number: u64, by: i64) -> Option<u64> {
        let index = &mut *lock(&self.index);
        let entry = *index.of(kind).entries.peek(&number)?;
        let count = self.field(entry, COUNT)?;
        let new = count.load(Ordering::Acquire).saturating_add_signed(by);
        count.store(new, Ordering::Release);
        if by > 0 {
            // It is in use, so others go before it.
            index.of(kind).entries.promote(&number);
            index.age += 1;
            self.store(entry, AGE, index.age);
        }
        Some(new)
    }

    /// Whether so many cells more are within the bounds of the kind.
    fn make_room(&self, index: &mut Index, kind: Kind, cells: usize, is_new: bool) -> bool {
        let Quota { number, cells: cells_max, reserved, evicts } = kind.quota();
        let cells_max =
            if cells * CELL_BYTES > SMALL_BYTES { cells_max - reserved } else { cells_max };
        if cells > cells_max {
            return false;
        }
        loop {
            let of_kind = &index.kinds[position(kind)];
            let has_number = !is_new || of_kind.entries.len() < number;
            if has_number && of_kind.cells + cells <= cells_max {
                return true;
            }
            let oldest = of_kind.entries.peek_lru().map(|(number, _)| *number);
            let Some(oldest) = oldest.filter(|_| evicts) else { return false };
            self.remove_from(index, kind, oldest);
        }
    }

    /// Writes a chain. The quotas of all kinds together are less than there is, so there is room.
    fn write(&self, index: &mut Index, place: Place, parts: &[&[u8]]) -> Option<Place> {
        let cells = index.take_cells(place.cells())?;
        for pair in cells.windows(2) {
            self.memory.write(link_at(pair[0]), &pair[1].to_le_bytes());
        }
        let mut chain = cells.iter();
        let mut room: &[u8] = &[];
        let mut cell = 0;
        for part in parts {
            let mut left = *part;
            while !left.is_empty() {
                // `room` stands for what is left of the cell.
                if room.is_empty() {
                    cell = cell_at(*chain.next()?);
                    room = &[0; CELL_BYTES];
                }
                let (now, later) = left.split_at(left.len().min(room.len()));
                self.memory.write(cell + CELL_BYTES - room.len(), now);
                (left, room) = (later, &room[now.len()..]);
            }
        }
        Some(Place { first: cells.first().copied().unwrap_or(0), ..place })
    }

    fn insert(&self, index: &mut Index, kind: Kind, number: u64, place: Place) -> bool {
        let Some(entry) = index.take_entry() else {
            self.free(index, place);
            return false;
        };
        index.age += 1;
        let fields = [(NUMBER, number), (PLACE, place.value()), (COUNT, 0), (AGE, index.age)];
        for (field, value) in fields {
            self.store(entry, field, value);
        }
        if let Ok(used) = self.number(USED_AT) {
            used.store(index.used_entries.into(), Ordering::Release);
        }
        self.store(entry, KIND, kind as u64);
        index.of(kind).entries.put(number, entry);
        index.of(kind).cells += place.cells();
        true
    }

    fn replace(&self, index: &mut Index, kind: Kind, entry: u32, place: Place) -> bool {
        let former = self.place(entry);
        self.store(entry, PLACE, place.value());
        index.of(kind).cells += place.cells();
        if let Some(former) = former {
            index.of(kind).cells -= former.cells();
            self.free(index, former);
        }
        true
    }

    fn remove_from(&self, index: &mut Index, kind: Kind, number: u64) -> bool {
        let Some(entry) = index.of(kind).entries.pop(&number) else { return false };
        self.store(entry, KIND, 0);
        if let Some(place) = self.place(entry) {
            index.of(kind).cells -= place.cells();
            self.free(index, place);
        }
        index.free_entries.push(entry);
        true
    }

    /// Gives the cells of a chain back. Nothing stays in them: contents and session ids may have been there.
    fn free(&self, index: &mut Index, place: Place) {
        let chain = self.chain(place).unwrap_or_default();
        for cell in &chain {
            self.memory.write(cell_at(*cell), &[0; CELL_BYTES]);
        }
        index.free_cells.extend(chain);
    }

    /// Reads what another process has left.
    fn read_all(&self) -> io::Result<()> {
        let used = self.number(USED_AT)?.load(Ordering::Acquire);
        let used = u32::try_from(used).ok().filter(|used| *used as usize <= ENTRIES).unwrap_or(0);
        let mut is_taken = vec![false; CELLS];
        let mut found = Vec::new();
        let index = &mut *lock(&self.index);
        for entry in 0..used {
            let place = self.kind(entry).zip(self.place(entry));
            let chain = place.and_then(|(_, place)| self.chain(place));
            match (place, chain) {
                (Some((kind, place)), Some(chain))
                    if !chain.iter().any(|cell| is_taken[*cell as usize]) =>
                {
                    for cell in chain {
                        is_taken[cell as usize] = true;
                        index.used_cells = index.used_cells.max(cell + 1);
                    }
                    found.push((self.load(entry, AGE), kind, place, entry));
                }
                _ => {
                    self.store(entry, KIND, 0);
                    index.free_entries.push(entry);
                }
            }
        }
        index.used_entries = used;
        index.free_cells = (0..index.used_cells).filter(|cell| !is_taken[*cell as usize]).collect();
        found.sort_unstable_by_key(|(age, ..)| *age);
        for (age, kind, place, entry) in found {
            index.age = index.age.max(age);
            index.of(kind).cells += place.cells();
            let twice = index.of(kind).entries.put(self.load(entry, NUMBER), entry);
            if let Some(former) = twice {
                self.store(former, KIND, 0);
            }
        }
        Ok(())
    }

    /// The cells of a chain; `None` if it does not lead to as many as its length asks for.
    fn chain(&self, place: Place) -> Option<Vec<u32>> {
        let length = place.cells();
        if length > CELLS {
            return None;
        }
        let mut chain = Vec::with_capacity(length);
        let mut cell = place.first;
        for _ in 0..length {
            if cell as usize >= CELLS {
                return None;
            }
            chain.push(cell);
            let mut link = [0; LINK_BYTES];
            self.memory.read(link_at(cell), &mut link);
            cell = u32::from_le_bytes(link);
        }
        Some(chain)
    }

    fn bytes(&self, place: Place) -> Option<Vec<u8>> {
        let mut bytes = vec![0; place.length as usize];
        let chain = self.chain(place)?;
        for (cell, part) in chain.into_iter().zip(bytes.chunks_mut(CELL_BYTES)) {
            self.memory.read(cell_at(cell), part);
        }
        Some(bytes)
    }

    fn kind(&self, entry: u32) -> Option<Kind> {
        let found = self.load(entry, KIND);
        Kind::ALL.into_iter().find(|kind| *kind as u64 == found)
    }

    fn place(&self, entry: u32) -> Option<Place> {
        let place = Place::of(self.field(entry, PLACE)?.load(Ordering::Acquire));
        (place.cells() <= CELLS).then_some(place)
    }

    fn load(&self, entry: u32, field: usize) -> u64 {
        self.field(entry, field).map_or(0, |number| number.load(Ordering::Acquire))
    }

    fn store(&self, entry: u32, field: usize, value: u64) {
        if let Some(number) = self.field(entry, field) {
            number.store(value, Ordering::Release);
        }
    }

    fn field(&self, entry: u32, field: usize) -> Option<&AtomicU64> {
        self.memory.number(ENTRIES_AT + entry as usize * ENTRY_BYTES + field)
    }

    fn number(&self, at: usize) -> io::Result<&AtomicU64> {
        self.memory.number(at).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

impl Index {
    fn of(&mut self, kind: Kind) -> &mut OfKind {
        &mut self.kinds[position(kind)]
    }

    fn take_entry(&mut self) -> Option<u32> {
        self.free_entries.pop().or_else(|| {
            let next = self.used_entries;
            ((next as usize) < ENTRIES).then(|| {
                self.used_entries += 1;
                next
            })
        })
    }

    fn take_cells(&mut self, number: usize) -> Option<Vec<u32>> {
        let mut cells = Vec::with_capacity(number);
        while cells.len() < number {
            match self.free_cells.pop() {
                Some(cell) => cells.push(cell),
                None if (self.used_cells as usize) < CELLS => {
                    cells.push(self.used_cells);
                    self.used_cells += 1;
                }
                None => {
                    self.free_cells.append(&mut cells);
                    return None;
                }
            }
        }
        Some(cells)
    }
}

fn position(kind: Kind) -> usize {
    kind as usize - 1
}

fn link_at(cell: u32) -> usize {
    LINKS_AT + cell as usize * LINK_BYTES
}

fn cell_at(cell: u32) -> usize {
    CELLS_AT + cell as usize * CELL_BYTES
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::handoff::{self, Kept};

    fn kept() -> (std::os::fd::OwnedFd, Kept) {
        let file = handoff::create().unwrap();
        let kept = Kept::open(&file).unwrap();
        (file, kept)
    }

    #[test]
    fn the_bounds_of_all_kinds_fit_together() {
        let quotas = Kind::ALL.map(Kind::quota);
        // While something is replaced both are there.
        let largest = quotas.iter().map(|quota| quota.cells).max().unwrap();
        assert!(quotas.iter().map(|quota| quota.cells).sum::<usize>() + largest <= CELLS);
        assert!(quotas.iter().map(|quota| quota.number).sum::<usize>() <= ENTRIES);
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(position(kind), index);
        }
        assert_eq!(LENGTH_BYTES % 4096, 0);
    }

    #[test]
    fn the_next_worker_finds_what_was_put_and_not_removed() {
        let (file, kept) = kept();
        let mut model: BTreeMap<u64, (Vec<u8>, u64)> = BTreeMap::new();
        let mut rng = SmallRng::seed_from_u64(7);
        let mut kept = kept;
        for step in 0..2000 {
            let number = rng.random_range(0..50);
            match rng.random_range(0..10) {
                0..5 => {
                    let bytes = vec![rng.random(); rng.random_range(0..3000)];
                    let (one, other) = bytes.split_at(rng.random_range(0..=bytes.len()));
                    assert!(kept.put(Kind::Handle, number, &[one, other]));
                    model.entry(number).or_default().0 = bytes;
                }
                5..8 => {
                    assert_eq!(kept.remove(Kind::Handle, number), model.remove(&number).is_some());
                }
                8 => {
                    let known = model.get_mut(&number);
                    let expected = known.map(|(_, count)| {
                        *count += 2;
                        *count
                    });
                    assert_eq!(kept.count(Kind::Handle, number, 2), expected);
                }
                _ if step % 10 == 0 => kept = Kept::open(&file).unwrap(),
                _ => {}
            }
            for (number, (bytes, count)) in &model {
                assert_eq!(kept.get(Kind::Handle, *number).as_ref(), Some(bytes));
                assert_eq!(kept.count(Kind::Handle, *number, 0), Some(*count));
            }
            let mut numbers = kept.numbers(Kind::Handle);
            numbers.sort_unstable();
            assert!(numbers.iter().eq(model.keys()));
        }
        assert!(kept.generation() > Some(1));
        assert_eq!(kept.get(Kind::Inode, 1), None);
    }

    #[test]
    fn what_is_counted_goes_later_also_at_the_next_worker() {
        let (file, kept) = kept();
        let number = Kind::Removal.quota().number as u64;
        for one in 0..number {
            assert!(kept.put(Kind::Removal, one, &[b"x"]));
        }
        kept.count(Kind::Removal, 0, 1);
        let successor = Kept::open(&file).unwrap();
        assert!(successor.put(Kind::Removal, number, &[b"x"]));
        let numbers = successor.numbers(Kind::Removal);
        assert!(numbers.contains(&0) && !numbers.contains(&1));
    }

    #[test]
    fn what_cannot_be_replaced_is_no_longer_kept() {
        let (_file, kept) = kept();
        let most = Kind::OpenStaging.quota().cells * CELL_BYTES;
        assert!(kept.put(Kind::OpenStaging, 1, &[b"former"]));
        assert!(!kept.put(Kind::OpenStaging, 1, &[&vec![1; most + 1]]));
        assert_eq!(kept.get(Kind::OpenStaging, 1), None);
    }

    #[test]
    fn nothing_stays_of_what_was_removed() {
        let (file, kept) = kept();
        let length = LENGTH_BYTES
            + crate::host::read_buffer::MAX_BUFFERS * crate::host::read_buffer::BUFFER_BYTES;
        let memory = SharedMemory::map(std::os::fd::AsFd::as_fd(&file), length).unwrap();
        let mut first = [0; 3 * CELL_BYTES];
        assert!(kept.put(Kind::Handle, 1, &[&[7; 600]]));
        assert!(memory.read(CELLS_AT, &mut first) && first.contains(&7));
        assert!(kept.put(Kind::Handle, 1, &[]) && memory.read(CELLS_AT, &mut first));
        assert_eq!(first, [0; 3 * CELL_BYTES]);
    }

    #[test]
    fn what_does_not_fit_is_not_kept_or_pushes_out_the_oldest() {
        let (file, kept) = kept();
        let large = vec![1; 128 * 1024];
        let Quota { cells, reserved, .. } = Kind::Request.quota();
        let fit = (cells - reserved) * CELL_BYTES / large.len();
        for number in 0..fit as u64 {
            assert!(kept.put(Kind::Request, number, &[&large]));
        }
        assert!(!kept.put(Kind::Request, 1000, &[&large]));
        // Whoever logs out is not in the way of contents, nor they in his.
        assert!(kept.put(Kind::Request, 1001, &[&[1; SMALL_BYTES]]));
        assert!(kept.remove(Kind::Request, 1001));
        assert!(kept.put(Kind::Inode, 1, &[b"other"]));
        assert!(kept.remove(Kind::Request, 3) && kept.put(Kind::Request, 1000, &[&large]));
        let number = Kind::Removal.quota().number as u64;
        for one in 0..=number {
            assert!(kept.put(Kind::Removal, one, &[b"x"]));
        }
        let successor = Kept::open(&file).unwrap();
        assert_eq!(successor.numbers(Kind::Removal), (1..=number).collect::<Vec<_>>());
        assert_eq!(successor.numbers(Kind::Request).len(), fit);
        assert_eq!(successor.get(Kind::Request, 1000), Some(large));
    }

    #[test]
    fn no_content_of_the_memory_is_trusted() {
        let length = LENGTH_BYTES
            + crate::host::read_buffer::MAX_BUFFERS * crate::host::read_buffer::BUFFER_BYTES;
        let mut rng = SmallRng::seed_from_u64(9);
        for _ in 0..30 {
            let (file, kept) = kept();
            for number in 0..40 {
                kept.put(Kind::Inode, number, &[&[1; 700]]);
            }
            let memory = SharedMemory::map(std::os::fd::AsFd::as_fd(&file), length).unwrap();
            for _ in 0..200 {
                let at = match rng.random_range(0..3) {
                    0 => rng.random_range(GENERATION_AT..ENTRIES_AT),
                    1 => ENTRIES_AT + rng.random_range(0..40 * ENTRY_BYTES),
                    _ => LINKS_AT + rng.random_range(0..150 * LINK_BYTES),
                };
                memory.write(at, &[rng.random()]);
            }
            let successor = Kept::open(&file).unwrap();
            for number in successor.numbers(Kind::Inode) {
                successor.get(Kind::Inode, number);
                successor.put(Kind::Inode, number, &[b"new"]);
                assert_eq!(successor.get(Kind::Inode, number).as_deref(), Some(&b"new"[..]));
            }
        }
        let (file, _) = kept();
        let memory = SharedMemory::map(std::os::fd::AsFd::as_fd(&file), length).unwrap();
        memory.write(MAGIC_AT, &[9]);
        assert!(Kept::open(&file).is_err());
    }
}
