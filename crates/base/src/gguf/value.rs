//! The typed values of the metadata. It must not know their keys.

use super::cursor::{Cursor, array};

/// The type of a value.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    /// In the order of their numbers in the file: type, name, fewest bytes that a value takes.
    const TABLE: [(Kind, &'static str, usize); 13] = [
        (Kind::U8, "u8", 1),
        (Kind::I8, "i8", 1),
        (Kind::U16, "u16", 2),
        (Kind::I16, "i16", 2),
        (Kind::U32, "u32", 4),
        (Kind::I32, "i32", 4),
        (Kind::F32, "f32", 4),
        (Kind::Bool, "bool", 1),
        (Kind::String, "string", 8),
        (Kind::Array, "array", 12),
        (Kind::U64, "u64", 8),
        (Kind::I64, "i64", 8),
        (Kind::F64, "f64", 8),
    ];

    /// The type of a number in a file.
    pub fn from_number(number: u32) -> Option<Kind> {
        Self::TABLE.get(usize::try_from(number).ok()?).map(|entry| entry.0)
    }

    /// The number in a file.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// The name that messages use.
    pub fn name(self) -> &'static str {
        Self::TABLE[self as usize].1
    }

    /// Bytes of a value, the fewest possible for strings and arrays.
    pub(super) fn bytes_min(self) -> usize {
        Self::TABLE[self as usize].2
    }
}

/// A value, borrowed from the file.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// The value's type.
    pub fn kind(self) -> Kind {
        match self {
            Value::U8(_) => Kind::U8,
            Value::I8(_) => Kind::I8,
            Value::U16(_) => Kind::U16,
            Value::I16(_) => Kind::I16,
            Value::U32(_) => Kind::U32,
            Value::I32(_) => Kind::I32,
            Value::F32(_) => Kind::F32,
            Value::Bool(_) => Kind::Bool,
            Value::String(_) => Kind::String,
            Value::Array(_) => Kind::Array,
            Value::U64(_) => Kind::U64,
            Value::I64(_) => Kind::I64,
            Value::F64(_) => Kind::F64,
        }
    }

    /// A whole number of any width.
    pub fn integer(self) -> Option<i128> {
        match self {
            Value::U8(number) => Some(number.into()),
            Value::I8(number) => Some(number.into()),
            Value::U16(number) => Some(number.into()),
            Value::I16(number) => Some(number.into()),
            Value::U32(number) => Some(number.into()),
            Value::I32(number) => Some(number.into()),
            Value::U64(number) => Some(number.into()),
            Value::I64(number) => Some(number.into()),
            _ => None,
        }
    }

    /// As the value is read: `u32 7`, `string "llama"`, `array of 3 f32`.
    pub fn describe(self) -> String {
        match self {
            Value::String(text) if text.chars().count() > 60 => {
                format!("string of {} bytes", text.len())
            }
            Value::String(text) => format!("string {text:?}"),
            Value::Array(array) => format!("array of {} {}", array.len(), array.kind().name()),
            Value::F32(number) => format!("f32 {number}"),
            Value::F64(number) => format!("f64 {number}"),
            Value::Bool(flag) => format!("bool {flag}"),
            _ => format!("{} {}", self.kind().name(), self.integer().unwrap_or_default()),
        }
    }

    /// A value of a type of fixed width from exactly its bytes.
    pub(super) fn scalar(kind: Kind, bytes: &[u8]) -> Value<'a> {
        match kind {
            Kind::U8 => Value::U8(bytes[0]),
            Kind::I8 => Value::I8(i8::from_le_bytes(array(bytes))),
            Kind::U16 => Value::U16(u16::from_le_bytes(array(bytes))),
            Kind::I16 => Value::I16(i16::from_le_bytes(array(bytes))),
            Kind::U32 => Value::U32(u32::from_le_bytes(array(bytes))),
            Kind::I32 => Value::I32(i32::from_le_bytes(array(bytes))),
            Kind::F32 => Value::F32(f32::from_le_bytes(array(bytes))),
            Kind::Bool => Value::Bool(bytes[0] != 0),
            Kind::U64 => Value::U64(u64::from_le_bytes(array(bytes))),
            Kind::I64 => Value::I64(i64::from_le_bytes(array(bytes))),
            Kind::F64 => Value::F64(f64::from_le_bytes(array(bytes))),
            Kind::String | Kind::Array => unreachable!("strings and arrays have no fixed width"),
        }
    }

    /// Appends the value as files hold it.
    pub(super) fn encode(self, bytes: &mut Vec<u8>) {
        match self {
            Value::U8(number) => bytes.extend(number.to_le_bytes()),
            Value::I8(number) => bytes.extend(number.to_le_bytes()),
            Value::U16(number) => bytes.extend(number.to_le_bytes()),
            Value::I16(number) => bytes.extend(number.to_le_bytes()),
            Value::U32(number) => bytes.extend(number.to_le_bytes()),
            Value::I32(number) => bytes.extend(number.to_le_bytes()),
            Value::F32(number) => bytes.extend(number.to_le_bytes()),
            Value::Bool(flag) => bytes.push(flag.into()),
            Value::String(text) => encode_string(text, bytes),
            Value::Array(array) => {
                bytes.extend(array.kind.number().to_le_bytes());
                bytes.extend((array.len as u64).to_le_bytes());
                bytes.extend(array.bytes);
            }
            Value::U64(number) => bytes.extend(number.to_le_bytes()),
            Value::I64(number) => bytes.extend(number.to_le_bytes()),
            Value::F64(number) => bytes.extend(number.to_le_bytes()),
        }
    }
}

pub(super) fn encode_string(text: &str, bytes: &mut Vec<u8>) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// An array, still as the file holds it. It was checked when the file was opened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    kind: Kind,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    pub(super) fn new(kind: Kind, len: usize, bytes: &'a [u8]) -> Array<'a> {
        Array { kind, len, bytes }
    }

    /// The elements' type.
    pub fn kind(self) -> Kind {
        self.kind
    }

    /// Number of elements.
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The elements in order.
    pub fn iter(self) -> impl Iterator<Item = Value<'a>> {
        let mut cursor = Cursor::new(self.bytes);
        (0..self.len).map(move |_| cursor.value(self.kind).expect("arrays are checked before they are made"))
    }
}

/// A type of fixed width that arrays are written from.
pub trait Scalar: Copy {
    /// The value as metadata.
    fn value(self) -> Value<'static>;
    /// The type in files.
    const KIND: Kind;
}

/// What a metadata value is read as; whole numbers of any width are read as any other that can hold them.
pub trait FromValue<'a>: Sized {
    /// The type in words, for messages.
    fn wanted() -> String;
    /// The value as this type; `None` where it is of another type or does not fit.
    fn from_value(value: Value<'a>) -> Option<Self>;
}

macro_rules! scalars {
    ($($type:ty => $kind:ident),*) => {$(
        impl Scalar for $type {
            const KIND: Kind = Kind::$kind;

            fn value(self) -> Value<'static> {
                Value::$kind(self)
            }
        }

        impl From<$type> for Value<'static> {
            fn from(value: $type) -> Value<'static> {
                Value::$kind(value)
            }
        }
    )*};
}

scalars!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32, bool => Bool,
    u64 => U64, i64 => I64, f64 => F64);

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl<'a> FromValue<'a> for $type {
            fn wanted() -> String {
                format!("a whole number from {} to {}", <$type>::MIN, <$type>::MAX)
            }

            fn from_value(value: Value<'a>) -> Option<Self> {
                <$type>::try_from(value.integer()?).ok()
            }
        }
    )*};
}

integers!(u8, i8, u16, u32, i32, u64, i64, usize);

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Value<'a> {
        Value::String(text)
    }
}

impl<'a> FromValue<'a> for &'a str {
    fn wanted() -> String {
        "a string".into()
    }

    fn from_value(value: Value<'a>) -> Option<Self> {
        match value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for bool {
    fn wanted() -> String {
        "true or false".into()
    }

    fn from_value(value: Value<'a>) -> Option<Self> {
        match value {
            Value::Bool(flag) => Some(flag),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for f32 {
    fn wanted() -> String {
        "a number".into()
    }

    fn from_value(value: Value<'a>) -> Option<Self> {
        f64::from_value(value).map(|number| number as f32)
    }
}

impl<'a> FromValue<'a> for f64 {
    fn wanted() -> String {
        "a number".into()
    }

    fn from_value(value: Value<'a>) -> Option<Self> {
        match value {
            Value::F32(number) => Some(number.into()),
            Value::F64(number) => Some(number),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for Array<'a> {
    fn wanted() -> String {
        "an array".into()
    }

    fn from_value(value: Value<'a>) -> Option<Self> {
        match value {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }
}

impl<'a, T: FromValue<'a>> FromValue<'a> for Vec<T> {
    fn wanted() -> String {
        format!("an array, each element {}", T::wanted())
    }

    fn from_value(value: Value<'a>) -> Option<Self> {
        Array::from_value(value)?.iter().map(T::from_value).collect()
    }
}
