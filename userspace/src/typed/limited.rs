//! A deserializer of postcard's format for messages of other processes: what a message says of its own
//! size and depth is checked before it costs memory, time or stack.
//!
//! Single values are read by postcard. What contains others is read here, as postcard reads it.

use postcard::{Deserializer, Error, Result};
use serde::de::{
    self, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};

/// Levels of values in values. A level takes some hundred bytes of stack, in a debug build some thousand;
/// threads have two megabytes of it.
pub(super) const DEPTH: u32 = 128;

/// Elements of sequences and maps that take no bytes in the message (units), of which a length can announce
/// any number.
pub(super) const EMPTY: usize = 4096;

/// The size of the values that a message may become: so many bytes for each of its own, and some more. A value
/// that takes one byte in a message may be large (`None`, a small variant of a large enum).
pub(super) const GROWTH: usize = 64;
pub(super) const ALLOWANCE: usize = 1024 * 1024;

/// The most elements that a container is told to make room for before they are read.
const HINT: usize = 4096;

/// A limit that a message has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    Depth,
    Empty,
    Memory,
}

/// What is left of a message, and of the limits.
pub(super) struct Limited<'de> {
    bytes: &'de [u8],
    depth: u32,
    empty: usize,
    memory: usize,
    /// The sizes of the fields of what is being read.
    fields: usize,
    passed: Option<Passed>,
}

impl<'de> Limited<'de> {
    pub(super) fn new(bytes: &'de [u8]) -> Self {
        Limited {
            bytes,
            depth: DEPTH,
            empty: EMPTY,
            memory: bytes.len().saturating_mul(GROWTH).saturating_add(ALLOWANCE),
            fields: 0,
            passed: None,
        }
    }

    /// The bytes behind what was read.
    pub(super) fn rest(&self) -> &'de [u8] {
        self.bytes
    }

    /// Which limit ended it.
    pub(super) fn passed(&self) -> Option<Passed> {
        self.passed
    }

    /// Charges for memory. A value is charged where its type is known: by its visitor. Where it is boxed, that is
    /// the only place.
    fn charge(&mut self, bytes: usize) -> Result<()> {
        let Some(memory) = self.memory.checked_sub(bytes) else {
            self.passed = Some(Passed::Memory);
            return Err(Error::SerdeDeCustom);
        };
        self.memory = memory;
        Ok(())
    }

    /// Reads and charges for a `T`, with whatever it has.
    fn whole<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.charge(size_of::<T>())?;
        let before = self.fields;
        let value = read(self)?;
        self.fields = before + size_of::<T>();
        Ok(value)
    }

    /// Reads a `T` that is made of its fields, which are charged for, and charges for the rest: padding, and fields
    /// that are not in the message.
    fn made_of<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = std::mem::take(&mut self.fields);
        let value = read(self)?;
        self.charge(size_of::<T>().saturating_sub(self.fields))?;
        self.fields = before + size_of::<T>();
        Ok(value)
    }

    /// Reads an element of a container, and charges for it what it was made from did not cost.
    fn element<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = self.memory;
        let value = read(self)?;
        let charged = before - self.memory;
        self.charge(size_of::<T>().saturating_sub(charged))?;
        Ok(value)
    }

    /// Has postcard read one value.
    fn plain<T>(
        &mut self,
        read: impl FnOnce(&mut Deserializer<'de, postcard::de_flavors::Slice<'de>>) -> Result<T>,
    ) -> Result<T> {
        let mut plain = Deserializer::from_bytes(self.bytes);
        let value = read(&mut plain)?;
        self.bytes = plain.finalize()?;
        Ok(value)
    }

    fn number<T: de::Deserialize<'de>>(&mut self) -> Result<T> {
        self.plain(|plain| T::deserialize(plain))
    }

    /// Reads what is one level deeper.
    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let Some(depth) = self.depth.checked_sub(1) else {
            self.passed = Some(Passed::Depth);
            return Err(Error::SerdeDeCustom);
        };
        self.depth = depth;
        let read = read(self);
        self.depth += 1;
        read
    }

    /// Reads values of which the type says how many there are.
    fn tuple<V: Visitor<'de>>(&mut self, len: usize, visitor: V) -> Result<V::Value> {
        self.deeper(|from| {
            visitor.visit_seq(Elements {
                from,
                left: len,
                counted: false,
            })
        })
    }

    /// Reads an element of which a message says how many there are.
    fn counted<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = self.bytes.len();
        let value = self.element(read)?;
        if self.bytes.len() == before {
            let Some(empty) = self.empty.checked_sub(1) else {
                self.passed = Some(Passed::Empty);
                return Err(Error::SerdeDeCustom);
            };
            self.empty = empty;
        }
        Ok(value)
    }
}

/// Elements that follow one another.
struct Elements<'a, 'de> {
    from: &'a mut Limited<'de>,
    left: usize,
    /// The message says how many they are, and not the type.
    counted: bool,
}

impl Elements<'_, '_> {
    /// More than there are bytes is not to be believed.
    fn hint(&self) -> Option<usize> {
        Some(match self.counted {
            true => self.left.min(self.from.bytes.len()).min(HINT),
            false => self.left,
        })
    }
}

impl<'de> SeqAccess<'de> for Elements<'_, 'de> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(None);
        };
        self.left = left;
        match self.counted {
            true => self.from.counted(|from| seed.deserialize(from)),
            false => seed.deserialize(&mut *self.from),
        }
        .map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

impl<'de> MapAccess<'de> for Elements<'_, 'de> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(None);
        };
        self.left = left;
        self.from.counted(|from| seed.deserialize(from)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value> {
        self.from.element(|from| seed.deserialize(from))
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

impl<'de> EnumAccess<'de> for &mut Limited<'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self)> {
        let variant: u32 = self.number()?;
        Ok((seed.deserialize(variant.into_deserializer())?, self))
    }
}

impl<'de> VariantAccess<'de> for &mut Limited<'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<()> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value> {
        self.tuple(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.tuple(fields.len(), visitor)
    }
}

macro_rules! plain {
    ($($name:ident)*) => {$(
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            self.whole(|from| from.plain(|plain| de::Deserializer::$name(plain, visitor)))
        }
    )*};
}

impl<'de> de::Deserializer<'de> for &mut Limited<'de> {
    type Error = Error;

    fn is_human_readable(&self) -> bool {
        false
    }

    plain! {
        deserialize_any deserialize_bool
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64 deserialize_char deserialize_str deserialize_string
        deserialize_bytes deserialize_byte_buf deserialize_unit
        deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        self.whole(|_| visitor.visit_unit())
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.whole(|from| match from.number::<u8>()? {
            0 => visitor.visit_none(),
            1 => from.deeper(|deeper| visitor.visit_some(deeper)),
            _ => Err(Error::DeserializeBadOption),
        })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        self.made_of(|from| from.deeper(|deeper| visitor.visit_newtype_struct(deeper)))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.whole(|from| {
            let left = from.number()?;
            from.deeper(|from| {
                visitor.visit_seq(Elements {
                    from,
                    left,
                    counted: true,
                })
            })
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value> {
        self.made_of(|from| from.tuple(len, visitor))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.whole(|from| {
            let left = from.number()?;
            from.deeper(|from| {
                visitor.visit_map(Elements {
                    from,
                    left,
                    counted: true,
                })
            })
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_tuple(fields.len(), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.whole(|from| from.deeper(|deeper| visitor.visit_enum(deeper)))
    }
}
