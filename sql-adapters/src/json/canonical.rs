//! The canonical form of a JSON text.

use super::number::Decimal;
use super::walk::{Container, Visitor};
use super::{between, offset};

/// Writes the canonical form of what it is told.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// Where the form begins; all other places count from here.
    base: usize,
    /// The keys of all open objects, without escapes.
    keys: Vec<u8>,
    members: Vec<Member>,
    /// How many members there were when each open object began.
    objects: Vec<usize>,
    sorted: Vec<u8>,
}

/// A member of an open object: where its key stands among the keys, and its `,"key":value` in the form. The end is known when
/// the object ends.
#[derive(Debug, Clone, Copy)]
struct Member {
    key_start: u32,
    key_end: u32,
    start: u32,
    end: u32,
}

impl<'a> Writer<'a> {
    /// Writes behind what is already in `out`.
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        let base = out.len();
        Self { out, base, keys: Vec::new(), members: Vec::new(), objects: Vec::new(), sorted: Vec::new() }
    }

    fn place(&self) -> u32 {
        offset(self.out.len() - self.base)
    }

    fn end_object(&mut self) {
        let first = self.objects.pop().unwrap_or_default();
        let Some(Member { key_start, start, .. }) = self.members.get(first).copied() else {
            self.out.extend_from_slice(b"{}");
            return;
        };
        self.sort_members(first, start);
        self.members.truncate(first);
        self.keys.truncate(key_start as usize);
        self.out[self.base + start as usize] = b'{';
        self.out.push(b'}');
    }

    /// Puts the members of the innermost object in order. Equal keys stay in theirs.
    fn sort_members(&mut self, first: usize, start: u32) {
        let keys = &self.keys;
        let key = |member: &Member| between(keys, member.key_start, member.key_end);
        let members = &mut self.members[first..];
        if members.is_sorted_by_key(key) {
            return;
        }
        let mut end = offset(self.out.len() - self.base);
        for member in members.iter_mut().rev() {
            member.end = std::mem::replace(&mut end, member.start);
        }
        members.sort_by(|one, other| key(one).cmp(key(other)));
        self.sorted.clear();
        let form = &mut self.out[self.base..];
        for member in members {
            self.sorted.extend_from_slice(between(form, member.start, member.end));
        }
        form[start as usize..].copy_from_slice(&self.sorted);
    }
}

impl Visitor for Writer<'_> {
    fn literal(&mut self, text: &'static str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn number(&mut self, text: &[u8]) {
        Decimal::of(text).write(self.out);
    }

    fn string(&mut self, text: &str) {
        write_string(text, self.out);
    }

    /// Nothing is written for an object yet: the comma before its first member gives way to the brace.
    fn open(&mut self, container: Container) {
        match container {
            Container::Array => self.out.push(b'['),
            Container::Object => self.objects.push(self.members.len()),
        }
    }

    fn another(&mut self) {
        self.out.push(b',');
    }

    fn key(&mut self, text: &str) {
        let (key_start, start) = (offset(self.keys.len()), self.place());
        self.keys.extend_from_slice(text.as_bytes());
        self.members.push(Member { key_start, key_end: offset(self.keys.len()), start, end: start });
        self.out.push(b',');
        write_string(text, self.out);
        self.out.push(b':');
    }

    fn close(&mut self, container: Container) {
        match container {
            Container::Array => self.out.push(b']'),
            Container::Object => self.end_object(),
        }
    }
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    out.push(b'"');
    let mut plain = 0;
    // Most strings have nothing to escape, and to look at all of them at once is faster.
    let is_all_plain = text.bytes().fold(true, |all, byte| all & is_plain(byte));
    let escaped = if is_all_plain { "" } else { text };
    for (index, byte) in escaped.bytes().enumerate().filter(|(_, byte)| !is_plain(*byte)) {
        out.extend_from_slice(&text.as_bytes()[plain..index]);
        plain = index + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => out.extend_from_slice(format!("\\u{control:04x}").as_bytes()),
        }
    }
    out.extend_from_slice(&text.as_bytes()[plain..]);
    out.push(b'"');
}
