//! One pass over a JSON text, without recursion: the parser is jiter, the stack of open arrays and objects is here.

use jiter::{Jiter, JiterError, JiterErrorType, JsonErrorType, Peek};

use super::{DEPTH_MAX, NotCanonical};

/// An array or an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    Array,
    Object,
}

/// What is told of a text, in its order. All that was told is void if the walk fails in the end.
pub(super) trait Visitor {
    /// `null`, `true` or `false`.
    fn literal(&mut self, text: &'static str);
    /// A number, in its spelling.
    fn number(&mut self, text: &[u8]);
    /// A string, without escapes.
    fn string(&mut self, text: &str);
    /// An array or object begins.
    fn open(&mut self, container: Container);
    /// Another element of the innermost array follows.
    fn another(&mut self);
    /// A key of the innermost object, without escapes. Its value follows.
    fn key(&mut self, text: &str);
    /// The innermost array or object ends.
    fn close(&mut self, container: Container);
}

/// Tells the visitor everything in the text.
///
/// # Errors
/// [`NotCanonical::Malformed`] and [`NotCanonical::TooDeep`].
pub(super) fn walk(bytes: &[u8], visitor: &mut impl Visitor) -> Result<(), NotCanonical> {
    let mut reader = Reader { bytes, base: 0, jiter: Jiter::new(bytes) };
    let mut containers = [Container::Array; DEPTH_MAX];
    let mut depth = 0;
    let mut next = reader.jiter.peek();
    loop {
        let value = next.map_err(|error| reader.malformed(&error))?;
        if let Some(container) = container(value) {
            let Some(innermost) = containers.get_mut(depth) else {
                return Err(NotCanonical::TooDeep { offset: reader.offset(), depth_max: DEPTH_MAX });
            };
            *innermost = container;
            visitor.open(container);
            if let Some(first) = reader.first(container, visitor)? {
                depth += 1;
                next = Ok(first);
                continue;
            }
            visitor.close(container);
        } else {
            reader.scalar(value, visitor)?;
        }
        next = loop {
            let Some(innermost) = depth.checked_sub(1) else {
                return reader.jiter.finish().map_err(|error| reader.malformed(&error));
            };
            let container = containers[innermost];
            if let Some(value) = reader.following(container, visitor)? {
                break Ok(value);
            }
            visitor.close(container);
            depth = innermost;
        };
    }
}

fn container(value: Peek) -> Option<Container> {
    match value {
        Peek::Array => Some(Container::Array),
        Peek::Object => Some(Container::Object),
        _ => None,
    }
}

/// The parser, which may have been set up anew at a later offset of the text.
struct Reader<'a> {
    bytes: &'a [u8],
    base: usize,
    jiter: Jiter<'a>,
}

impl Reader<'_> {
    fn offset(&self) -> usize {
        self.base + self.jiter.current_index()
    }

    fn malformed(&self, error: &JiterError) -> NotCanonical {
        NotCanonical::Malformed { offset: self.base + error.index, reason: error.error_type.to_string() }
    }

    /// Steps into an array or object: to the value that comes first.
    fn first(&mut self, container: Container, visitor: &mut impl Visitor) -> Result<Option<Peek>, NotCanonical> {
        let first = match container {
            Container::Array => self.jiter.known_array(),
            Container::Object => {
                self.jiter.known_object().map(|key| key.map(|key| visitor.key(key))).and_then(|key| key.map(|()| self.jiter.peek()).transpose())
            }
        };
        first.map_err(|error| self.malformed(&error))
    }

    /// Steps behind a value: to the next one of the same array or object.
    fn following(&mut self, container: Container, visitor: &mut impl Visitor) -> Result<Option<Peek>, NotCanonical> {
        let following = match container {
            Container::Array => self.jiter.array_step().inspect(|value| {
                if value.is_some() {
                    visitor.another();
                }
            }),
            Container::Object => {
                self.jiter.next_key().map(|key| key.map(|key| visitor.key(key))).and_then(|key| key.map(|()| self.jiter.peek()).transpose())
            }
        };
        following.map_err(|error| self.malformed(&error))
    }

    fn scalar(&mut self, value: Peek, visitor: &mut impl Visitor) -> Result<(), NotCanonical> {
        let read = match value {
            Peek::String => self.jiter.known_str().map(|text| visitor.string(text)),
            Peek::Null => self.jiter.known_null().map(|()| visitor.literal("null")),
            Peek::True | Peek::False => self.jiter.known_bool(value).map(|value| visitor.literal(if value { "true" } else { "false" })),
            _ => return self.number(value, visitor),
        };
        read.map_err(|error| self.malformed(&error))
    }

    fn number(&mut self, value: Peek, visitor: &mut impl Visitor) -> Result<(), NotCanonical> {
        let start = self.offset();
        match self.jiter.known_number_bytes(value) {
            Ok(text) => {
                visitor.number(text);
                Ok(())
            }
            Err(error) if error.error_type == JiterErrorType::JsonError(JsonErrorType::NumberOutOfRange) => self.long_number(start, visitor),
            Err(error) => Err(self.malformed(&error)),
        }
    }

    /// Reads a number whose integer part is longer than jiter takes (4,300 digits): parses on at the last of these digits, which
    /// begins a number just as well. The first one was seen to be no 0.
    fn long_number(&mut self, start: usize, visitor: &mut impl Visitor) -> Result<(), NotCanonical> {
        let digits = start + usize::from(self.bytes[start] == b'-');
        let length = self.bytes[digits..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.base = digits + length - 1;
        self.jiter = Jiter::new(&self.bytes[self.base..]);
        let read = self.jiter.next_number_bytes().map(|_| ());
        read.map_err(|error| self.malformed(&error))?;
        visitor.number(&self.bytes[start..self.offset()]);
        Ok(())
    }
}
