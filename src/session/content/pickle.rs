//! Odoo 14 to 17: a walk over the opcodes of a pickle, which runs none of it.
//!
//! The walk keeps Python's stack, marks and memo, but of a value only what is needed to know the
//! top-level dict: text, small numbers, `None`, and whether it is something that can or cannot be
//! equal to a text. Objects of classes (the `MultiDict`s of a saved request, dates) are walked over
//! as unknown.
//!
//! The top-level dict is the one begun on an empty stack. Only the stack may refer to it: a pickle
//! that gets it back from the memo could hand it to a callable that changes it, and no session
//! contains itself, so such a pickle is not read. What remains is a callable that finds the dict
//! by other means; who can write such a pickle runs code in Odoo anyway.

use std::collections::HashMap;

use super::{BLANKS_MAX_BYTES, Fields, MAX_TEXT_BYTES, Scalar};

pub(super) mod op;

/// The opcode with which every pickle of protocol 2 and later begins.
pub(super) const PROTO: u8 = op::PROTO;

/// The most values held at once on the stack, and in the memo: some twenty times what the largest
/// real session needs. More is not read, so that a few MiB of opcodes cannot cost hundreds.
const MAX_HELD: usize = 1 << 17;

/// The fields of a session in a pickle; `None` if it cannot be read.
pub(super) fn read(bytes: &[u8]) -> Option<Fields> {
    if !matches!(bytes, [PROTO, 2..=5, ..]) {
        return None;
    }
    let mut machine = Machine { input: bytes, ..Machine::default() };
    while machine.step()? {}
    machine.finish()
}

/// What is known of a value.
#[derive(Clone, Copy)]
enum Value<'a> {
    /// The dict begun on an empty stack.
    Root,
    None,
    Int(i64),
    /// The UTF-8 of a text.
    Text(&'a [u8]),
    /// Something that is certainly no text.
    Plain,
    /// Something that may be equal to any text.
    Unknown,
}

#[derive(Default)]
struct Machine<'a> {
    /// What is not walked yet.
    input: &'a [u8],
    stack: Vec<Value<'a>>,
    /// The height of the stack at each open mark; nothing below the last one can be popped.
    marks: Vec<usize>,
    memo: HashMap<u64, Value<'a>>,
    /// What [`Value::Root`] holds.
    root: Fields,
}

impl<'a> Machine<'a> {
    /// Walks over one opcode; `Some(false)` after the last one, `None` if it cannot go on.
    fn step(&mut self) -> Option<bool> {
        match self.byte()? {
            op::STOP => return Some(false),
            op::PROTO => self.skip(1)?,
            op::FRAME => self.skip(8)?,
            op::MARK => self.mark()?,
            op::POP => self.pop_or_unmark()?,
            op::DUP => self.push_again(self.top()?)?,
            op::GET => self.get(|machine| decimal(machine.line()?))?,
            op::BINGET => self.get(|machine| machine.number(1))?,
            op::LONG_BINGET => self.get(|machine| machine.number(4))?,
            op::PUT => self.put(|machine| decimal(machine.line()?))?,
            op::BINPUT => self.put(|machine| machine.number(1))?,
            op::LONG_BINPUT => self.put(|machine| machine.number(4))?,
            // Python numbers by the size of the memo, not by the number of these.
            op::MEMOIZE => self.put(|machine| u64::try_from(machine.memo.len()).ok())?,
            op::SETITEM => self.set_item()?,
            op::SETITEMS => self.set_items()?,
            op::APPEND | op::BUILD => self.pop().map(drop)?,
            op::POP_MARK | op::APPENDS | op::ADDITEMS => self.close_mark()?,
            op::READONLY_BUFFER => self.top().map(drop)?,
            op::EMPTY_DICT => self.begin_dict()?,
            other => self.value(other).and_then(|value| self.push(value))?,
        }
        Some(true)
    }

    /// The value that the remaining opcodes push, after they popped what they need.
    fn value(&mut self, opcode: u8) -> Option<Value<'a>> {
        use Value::{Int, None as Null, Plain, Text, Unknown};
        Some(match opcode {
            op::NONE => Null,
            op::NEWTRUE | op::NEWFALSE | op::EMPTY_TUPLE | op::EMPTY_LIST | op::EMPTY_SET => Plain,
            op::INT | op::LONG | op::FLOAT => self.line().map(|_| Plain)?,
            op::BINFLOAT => self.skip(8).map(|()| Plain)?,
            op::BININT1 => Int(self.small(1)?),
            op::BININT2 => Int(self.small(2)?),
            op::BININT => self.take(4).map(long)?,
            op::LONG1 => self.counted(1).map(long)?,
            op::LONG4 => self.counted(4).map(long)?,
            op::SHORT_BINUNICODE | op::SHORT_BINSTRING => Text(self.counted(1)?),
            op::BINUNICODE | op::BINSTRING => Text(self.counted(4)?),
            op::BINUNICODE8 => Text(self.counted(8)?),
            op::SHORT_BINBYTES => self.counted(1).map(|_| Plain)?,
            op::BINBYTES => self.counted(4).map(|_| Plain)?,
            op::BINBYTES8 | op::BYTEARRAY8 => self.counted(8).map(|_| Plain)?,
            op::TUPLE | op::LIST | op::DICT | op::FROZENSET => self.close_mark().map(|()| Plain)?,
            op::TUPLE1 => self.pop_many(1).map(|()| Plain)?,
            op::TUPLE2 => self.pop_many(2).map(|()| Plain)?,
            op::TUPLE3 => self.pop_many(3).map(|()| Plain)?,
            // Texts with escapes, which Python 3 never writes in these protocols.
            op::STRING | op::UNICODE | op::PERSID => self.line().map(|_| Unknown)?,
            op::GLOBAL => self.line().and_then(|_| self.line()).map(|_| Unknown)?,
            op::INST => {
                self.line().and_then(|_| self.line())?;
                self.close_mark().map(|()| Unknown)?
            }
            op::OBJ => self.close_mark().map(|()| Unknown)?,
            op::BINPERSID => self.pop_many(1).map(|()| Unknown)?,
            op::REDUCE | op::NEWOBJ | op::STACK_GLOBAL => self.pop_many(2).map(|()| Unknown)?,
            op::NEWOBJ_EX => self.pop_many(3).map(|()| Unknown)?,
            op::EXT1 => self.skip(1).map(|()| Unknown)?,
            op::EXT2 => self.skip(2).map(|()| Unknown)?,
            op::EXT4 => self.skip(4).map(|()| Unknown)?,
            op::NEXT_BUFFER => Unknown,
            _ => return None,
        })
    }

    fn finish(self) -> Option<Fields> {
        matches!(self.stack[..], [Value::Root]).then_some(self.root)
    }

    fn begin_dict(&mut self) -> Option<()> {
        if !self.stack.is_empty() || !self.marks.is_empty() {
            return self.push(Value::Plain);
        }
        self.root = Fields::default();
        self.push(Value::Root)
    }

    fn set_item(&mut self) -> Option<()> {
        let value = self.pop()?;
        let key = self.pop()?;
        match self.top()? {
            Value::Root => self.set_root(key, value),
            _ => Some(()),
        }
    }

    fn set_items(&mut self) -> Option<()> {
        let start = self.marks.pop()?;
        let items = self.stack.split_off(start);
        if let Value::Root = self.top()? {
            for item in items.chunks(2) {
                let &[key, value] = item else { return None };
                self.set_root(key, value)?;
            }
        }
        Some(())
    }

    fn set_root(&mut self, key: Value<'a>, value: Value<'a>) -> Option<()> {
        match key {
            Value::Text(key) => {
                if let Some(slot) = self.root.slot(key) {
                    *slot = value.into();
                }
            }
            Value::Root | Value::Unknown => return None,
            Value::None | Value::Int(_) | Value::Plain => {}
        }
        Some(())
    }

    fn push(&mut self, value: Value<'a>) -> Option<()> {
        (self.stack.len() < MAX_HELD).then(|| self.stack.push(value))
    }

    /// Pushes what is held elsewhere, too.
    fn push_again(&mut self, value: Value<'a>) -> Option<()> {
        match value {
            Value::Root => None,
            other => self.push(other),
        }
    }

    fn top(&self) -> Option<Value<'a>> {
        let fence = self.marks.last().copied().unwrap_or(0);
        self.stack[fence..].last().copied()
    }

    fn pop(&mut self) -> Option<Value<'a>> {
        let top = self.top()?;
        self.stack.pop();
        Some(top)
    }

    fn pop_many(&mut self, count: usize) -> Option<()> {
        (0..count).try_for_each(|_| self.pop().map(drop))
    }

    fn pop_or_unmark(&mut self) -> Option<()> {
        if self.marks.last() == Some(&self.stack.len()) {
            return self.marks.pop().map(drop);
        }
        self.pop().map(drop)
    }

    fn mark(&mut self) -> Option<()> {
        (self.marks.len() < MAX_HELD).then(|| self.marks.push(self.stack.len()))
    }

    fn close_mark(&mut self) -> Option<()> {
        let start = self.marks.pop()?;
        self.stack.truncate(start);
        Some(())
    }

    fn get(&mut self, index: impl FnOnce(&mut Self) -> Option<u64>) -> Option<()> {
        let index = index(self)?;
        let value = self.memo.get(&index).copied()?;
        self.push_again(value)
    }

    fn put(&mut self, index: impl FnOnce(&mut Self) -> Option<u64>) -> Option<()> {
        let index = index(self)?;
        let value = self.top()?;
        self.memo.insert(index, value);
        (self.memo.len() <= MAX_HELD).then_some(())
    }

    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.input.split_first()?;
        self.input = rest;
        Some(first)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.input.split_at_checked(count)?;
        self.input = rest;
        Some(taken)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.take(count).map(drop)
    }

    /// What is left of the line, without its end.
    fn line(&mut self) -> Option<&'a [u8]> {
        let end = self.input.iter().position(|&byte| byte == b'\n')?;
        let line = self.take(end)?;
        self.skip(1)?;
        Some(line)
    }

    fn number(&mut self, width: usize) -> Option<u64> {
        self.take(width).map(little_endian)
    }

    fn small(&mut self, width: usize) -> Option<i64> {
        self.number(width).and_then(|number| number.try_into().ok())
    }

    /// What follows its own length. A length that Python reads as negative is beyond any input.
    fn counted(&mut self, width: usize) -> Option<&'a [u8]> {
        let count = self.number(width)?;
        self.take(usize::try_from(count).ok()?)
    }
}

impl From<Value<'_>> for Scalar {
    fn from(value: Value<'_>) -> Self {
        match value {
            Value::None => Self::Null,
            Value::Int(number) => Self::Int(number),
            Value::Text(text) => cut(text).map_or(Self::Other, Self::text),
            Value::Root | Value::Plain | Value::Unknown => Self::Other,
        }
    }
}

/// As much of a text as is kept. The rest is not looked at: the memo can name a long text often.
fn cut(text: &[u8]) -> Option<&str> {
    let head = &text[..text.len().min(BLANKS_MAX_BYTES + MAX_TEXT_BYTES)];
    match std::str::from_utf8(head) {
        Ok(head) => Some(head),
        Err(error) if error.error_len().is_none() && head.len() < text.len() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    }
}

fn long(bytes: &[u8]) -> Value<'_> {
    sign_extended(bytes).map_or(Value::Plain, Value::Int)
}

fn sign_extended(bytes: &[u8]) -> Option<i64> {
    let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(wide))
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn decimal(line: &[u8]) -> Option<u64> {
    std::str::from_utf8(line).ok()?.parse().ok()
}
