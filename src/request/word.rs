//! What is in the array for a thread: one number of 64 bits, which is written and read at once.

use std::fmt;

use super::Class;

/// The array, as far as it can be read.
pub trait Words: fmt::Debug + Send + Sync {
    /// What is at this place, which is below [`SLOTS`].
    fn at(&self, slot: usize) -> u64;
}

/// How many threads have a place. Two whose ids differ by a multiple of this share one.
pub(crate) const SLOTS: usize = 65_536;

/// Where the parts of a word are. The numbers are those of `bpf/requests.bpf.c`.
const TID_SHIFT: u32 = 42;
const CLASS_SHIFT: u32 = 34;
const TICKS_MASK: u64 = (1 << CLASS_SHIFT) - 1;
const CLASS_MASK: u64 = (1 << (TID_SHIFT - CLASS_SHIFT)) - 1;

/// How long a passive request is believed to go on where its answer is not seen: longer than Odoo holds a long poll (50 s,
/// `TIMEOUT` in `addons/bus/models/bus.py` of Odoo 14 and 15).
const PASSIVE_TICKS: u64 = 120 * 100;

/// One word: the thread, the class of its request, and when that began, in clock ticks since boot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Word(u64);

impl Word {
    pub(crate) const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The place of a thread in the array.
    pub(crate) const fn slot(tid: u32) -> usize {
        tid as usize & (SLOTS - 1)
    }

    /// What it says of this thread, which began at `started_ticks`. `now_ticks` is only asked where that matters.
    pub(crate) fn class(
        self,
        tid: u32,
        started_ticks: u64,
        now_ticks: impl FnOnce() -> u64,
    ) -> Class {
        let at = self.0 & TICKS_MASK;
        // It is of another thread, or of one that had this id before.
        if self.0 >> TID_SHIFT != u64::from(tid) || at < started_ticks & TICKS_MASK {
            return Class::Unknown;
        }
        match Class::of_number(self.0 >> CLASS_SHIFT & CLASS_MASK) {
            Class::Passive => {
                let age = (now_ticks() & TICKS_MASK).checked_sub(at);
                if age.is_some_and(|age| age <= PASSIVE_TICKS) {
                    Class::Passive
                } else {
                    Class::Unknown
                }
            }
            class => class,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(tid: u32, class: Class, ticks: u64) -> Word {
        Word::new(u64::from(tid) << TID_SHIFT | (class as u64) << CLASS_SHIFT | ticks)
    }

    /// As long as nothing else is known, a thread began at 1000 and it is 2000.
    fn read(word: Word, tid: u32) -> Class {
        word.class(tid, 1000, || 2000)
    }

    #[test]
    fn a_word_tells_of_its_own_thread_alone() {
        let all = [Class::Active, Class::Passive, Class::Held];
        for class in all {
            assert_eq!(read(word(4_194_303, class, 1500), 4_194_303), class);
            assert_eq!(read(word(7, class, 1500), 7 + 65_536), Class::Unknown);
            // The thread that had the id before.
            assert_eq!(read(word(7, class, 999), 7), Class::Unknown);
            assert_eq!(read(word(7, class, 1000), 7), class);
        }
        assert_eq!(read(Word::new(0), 7), Class::Unknown);
        assert_eq!(read(word(7, Class::Unknown, 1500), 7), Class::Unknown);
        assert_eq!(
            read(Word::new(word(7, Class::Held, 1500).0 | 0xf0 << CLASS_SHIFT), 7),
            Class::Unknown
        );
        assert_eq!(Word::slot(7), Word::slot(7 + 65_536));
    }

    #[test]
    fn only_what_may_have_ended_grows_old() {
        let old = 1500 + PASSIVE_TICKS;
        for (class, at, expected) in [
            (Class::Passive, old, Class::Passive),
            (Class::Passive, old + 1, Class::Unknown),
            // The clock of another time namespace.
            (Class::Passive, 1499, Class::Unknown),
            (Class::Held, old * 100, Class::Held),
            (Class::Active, old * 100, Class::Active),
        ] {
            assert_eq!(word(7, class, 1500).class(7, 1000, || at), expected, "{class:?} {at}");
        }
    }
}
