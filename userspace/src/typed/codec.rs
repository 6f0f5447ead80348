//! How values become bytes.

use std::borrow::Cow;
use std::error::Error;
#[cfg(any(feature = "zerocopy", feature = "postcard"))]
use std::fmt;

/// A way to make bytes of values of a type.
///
/// ```
/// use postbox::typed::{Decode, Encode};
/// use std::borrow::Cow;
/// use std::convert::Infallible;
/// use std::str::Utf8Error;
///
/// enum Text {}
///
/// impl Encode<str> for Text {
///     type Error = Infallible;
///
///     fn encode(value: &str) -> Result<Cow<'_, [u8]>, Infallible> {
///         Ok(value.as_bytes().into())
///     }
/// }
///
/// impl Decode<String> for Text {
///     type Error = Utf8Error;
///
///     fn decode(bytes: &[u8]) -> Result<String, Utf8Error> {
///         Ok(std::str::from_utf8(bytes)?.into())
///     }
/// }
/// ```
pub trait Encode<T: ?Sized> {
    /// Why it cannot.
    type Error: Error;

    /// The bytes of a value.
    ///
    /// # Errors
    /// The value cannot be encoded.
    fn encode(value: &T) -> Result<Cow<'_, [u8]>, Self::Error>;
}

/// A way to make values of a type of bytes, which come from another process.
pub trait Decode<T> {
    /// Why they are not a value.
    type Error: Error;

    /// The value that all of these bytes are.
    ///
    /// # Errors
    /// They are not one.
    fn decode(bytes: &[u8]) -> Result<T, Self::Error>;
}

/// The value's own bytes, as they are in memory: for the types of [zerocopy](https://docs.rs/zerocopy)
/// without padding or pointers. Both sides must be of one byte order and layout.
///
/// What is sent is not copied, but by the kernel. What is received must have just the size of the
/// type, and be one of its values: of a type with `FromBytes` every content is one, of one with
/// `TryFromBytes` it is looked at. To look at a message without a copy, also at slices, there is
/// [`Message::view`](crate::Message::view).
///
/// ```
/// # fn main() -> postbox::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// use postbox::Mailbox;
/// use postbox::typed::{InPlace, TypedReceiver, TypedSender};
///
/// let (sender, receiver) = Mailbox::options().anonymous()?.split()?;
/// let samples: TypedSender<[u32; 4], InPlace> = sender.typed();
/// samples.send(&[1, 2, 3, 4])?;
/// let receiver: TypedReceiver<[u32; 4], InPlace> = receiver.typed();
/// assert_eq!(receiver.recv()?.value, [1, 2, 3, 4]);
/// # Ok(())
/// # }
/// ```
#[cfg(feature = "zerocopy")]
#[derive(Clone, Copy, Debug)]
pub enum InPlace {}

/// Why bytes are not a value in place.
#[cfg(feature = "zerocopy")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mismatch {
    /// They are too few or too many.
    Size {
        /// How many they are.
        len: usize,
    },
    /// They are not where such a value can be: a copy could be looked at.
    Alignment,
    /// The type has no such value.
    Validity,
}

#[cfg(feature = "zerocopy")]
mod in_place {
    use super::*;
    use crate::recv::Message;
    use std::convert::Infallible;
    use zerocopy::{ConvertError, Immutable, IntoBytes, KnownLayout, TryFromBytes};

    impl fmt::Display for Mismatch {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self {
                Mismatch::Size { len } => {
                    write!(f, "it has {len} bytes, which no value of the type has")
                }
                Mismatch::Alignment => f.write_str("it is not aligned as values of the type are"),
                Mismatch::Validity => f.write_str("its bytes are no value of the type"),
            }
        }
    }

    impl Error for Mismatch {}

    impl<T: IntoBytes + Immutable + ?Sized> Encode<T> for InPlace {
        type Error = Infallible;

        fn encode(value: &T) -> Result<Cow<'_, [u8]>, Infallible> {
            Ok(Cow::Borrowed(value.as_bytes()))
        }
    }

    impl<T: TryFromBytes> Decode<T> for InPlace {
        type Error = Mismatch;

        fn decode(bytes: &[u8]) -> Result<T, Mismatch> {
            T::try_read_from_bytes(bytes).map_err(|error| mismatch(&error, bytes))
        }
    }

    fn mismatch<A, S, V>(error: &ConvertError<A, S, V>, bytes: &[u8]) -> Mismatch {
        match error {
            ConvertError::Alignment(_) => Mismatch::Alignment,
            ConvertError::Size(_) => Mismatch::Size { len: bytes.len() },
            ConvertError::Validity(_) => Mismatch::Validity,
        }
    }

    #[repr(align(4096))]
    struct Aligned([u8; 0]);

    static NOTHING: Aligned = Aligned([]);

    impl Message {
        /// The payload as a value that is there, without a copy: also a slice, or a type that ends
        /// with one.
        ///
        /// ```
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
        /// use postbox::typed::{InPlace, TypedSender};
        ///
        /// let (sender, receiver) = postbox::Mailbox::options().anonymous()?.split()?;
        /// let samples: TypedSender<[u32], InPlace> = sender.typed();
        /// samples.send(vec![1, 2, 3])?;
        /// let message = receiver.recv()?;
        /// let samples: &[u32] = message.view()?;
        /// assert_eq!(samples, [1, 2, 3]);
        /// # Ok(())
        /// # }
        /// ```
        ///
        /// # Errors
        /// Its size is not that of such a value, it is not aligned as one, or no such value.
        pub fn view<T>(&self) -> Result<&T, Mismatch>
        where
            T: TryFromBytes + KnownLayout + Immutable + ?Sized,
        {
            let payload = match self.payload.as_slice() {
                // No bytes are nowhere in particular.
                [] => &NOTHING.0,
                payload => payload,
            };
            T::try_ref_from_bytes(payload).map_err(|error| mismatch(&error, payload))
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn values_come_back_and_nothing_else_does() {
            let value = [0x0102_0304_u32, 5];
            let bytes = InPlace::encode(&value).unwrap().into_owned();
            assert_eq!(InPlace::decode(&bytes), Ok(value));
            let decoded: Result<[u32; 2], _> = InPlace::decode(&bytes[1..]);
            assert_eq!(decoded, Err(Mismatch::Size { len: 7 }));
            // A receive may begin anywhere in memory.
            let mut shifted = vec![0];
            shifted.extend(&bytes);
            assert_eq!(InPlace::decode(&shifted[1..]), Ok(value));
            let decoded: Result<bool, _> = InPlace::decode(&[1]);
            assert_eq!(decoded, Ok(true));
            let decoded: Result<bool, _> = InPlace::decode(&[2]);
            assert_eq!(decoded, Err(Mismatch::Validity));
            let decoded: Result<(), _> = InPlace::decode(&[]);
            assert_eq!(decoded, Ok(()));
        }
    }
}

/// Whatever serde can serialize, in the format of [postcard](https://docs.rs/postcard): compact, and
/// the same on all machines. It does not describe itself: both sides must have the same type.
///
/// What a message costs has limits, whoever sent it. These are errors: values that are nested more than 128 levels
/// deep; more than 4,096 elements that take no bytes (as of a `Vec<()>`); and values that take more memory than 64
/// bytes for each byte of the message, and 1 MiB more. (A byte can be a large value: a `None`, or a small variant
/// of a large enum; box the large part. Options and enums are counted with what is in them. What containers keep
/// in reserve is not counted.) A list of many elements is a sequence, and not a chain of boxes.
#[cfg(feature = "postcard")]
#[derive(Clone, Copy, Debug)]
pub enum Postcard {}

/// Why a value cannot be encoded, or bytes are not one.
#[cfg(feature = "postcard")]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PostcardError {
    /// What postcard says.
    Postcard(postcard::Error),
    /// There are more bytes than the value has.
    Trailing {
        /// How many are left.
        bytes: usize,
    },
    /// The values are nested more than 128 levels deep.
    TooDeep,
    /// More than 4,096 elements take no bytes.
    TooMany,
    /// The values take more memory than 64 bytes for each byte of the message, and 1 MiB more.
    TooLarge,
}

#[cfg(feature = "postcard")]
mod encoded {
    use super::*;
    use crate::typed::limited::{DEPTH, EMPTY, GROWTH, Limited, Passed};
    use serde::Serialize;
    use serde::de::DeserializeOwned;

    impl fmt::Display for PostcardError {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self {
                PostcardError::Postcard(error) => error.fmt(f),
                PostcardError::Trailing { bytes } => {
                    write!(f, "{bytes} bytes are left behind the value")
                }
                PostcardError::TooDeep => {
                    write!(f, "its values are nested more than {DEPTH} levels deep")
                }
                PostcardError::TooMany => {
                    write!(f, "more than {EMPTY} of its elements take no bytes")
                }
                PostcardError::TooLarge => {
                    write!(
                        f,
                        "its values take more than {GROWTH} times its bytes in memory"
                    )
                }
            }
        }
    }

    impl Error for PostcardError {}

    impl<T: Serialize + ?Sized> Encode<T> for Postcard {
        type Error = PostcardError;

        fn encode(value: &T) -> Result<Cow<'_, [u8]>, PostcardError> {
            let bytes = postcard::to_allocvec(value).map_err(PostcardError::Postcard)?;
            Ok(Cow::Owned(bytes))
        }
    }

    impl<T: DeserializeOwned> Decode<T> for Postcard {
        type Error = PostcardError;

        fn decode(bytes: &[u8]) -> Result<T, PostcardError> {
            let mut limited = Limited::new(bytes);
            let value = T::deserialize(&mut limited).map_err(|error| match limited.passed() {
                Some(Passed::Depth) => PostcardError::TooDeep,
                Some(Passed::Empty) => PostcardError::TooMany,
                Some(Passed::Memory) => PostcardError::TooLarge,
                None => PostcardError::Postcard(error),
            })?;
            match limited.rest() {
                [] => Ok(value),
                rest => Err(PostcardError::Trailing { bytes: rest.len() }),
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn values_come_back_and_nothing_else_does() {
            let value = (String::from("build"), vec![1_u64, 2, 300]);
            let bytes = Postcard::encode(&value).unwrap().into_owned();
            assert_eq!(Postcard::decode(&bytes), Ok(value));
            type Value = (String, Vec<u64>);
            for len in 0..bytes.len() {
                let cut: Result<Value, _> = Postcard::decode(&bytes[..len]);
                assert!(cut.is_err(), "{len} of {} bytes", bytes.len());
            }
            let mut longer = bytes;
            longer.extend([7, 7]);
            let longer: Result<Value, _> = Postcard::decode(&longer);
            assert_eq!(longer, Err(PostcardError::Trailing { bytes: 2 }));
            // A length that nobody has memory for.
            let huge: Result<Vec<u64>, _> = Postcard::decode(&[0xff, 0xff, 0xff, 0xff, 0x7f]);
            assert!(huge.is_err());
        }

        #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        enum Expr {
            Not(Box<Expr>),
            Leaf(u8),
        }

        #[test]
        fn nesting_beyond_the_limit_is_an_error() {
            // A whole message of zeros is a chain of as many boxes.
            let decoded: Result<Expr, _> = Postcard::decode(&[0; 80_000]);
            assert_eq!(decoded, Err(PostcardError::TooDeep));
            let mut expr = Expr::Leaf(7);
            for _ in 1..DEPTH {
                expr = Expr::Not(Box::new(expr));
            }
            let bytes = Postcard::encode(&expr).unwrap().into_owned();
            assert_eq!(Postcard::decode(&bytes), Ok(expr));
        }

        #[test]
        fn elements_without_bytes_are_limited() {
            // Of the largest length, and of one that would take some seconds.
            for len in [u64::MAX, 1 << 34, EMPTY as u64 + 1] {
                let bytes = Postcard::encode(&len).unwrap().into_owned();
                let decoded: Result<Vec<()>, _> = Postcard::decode(&bytes);
                assert_eq!(decoded, Err(PostcardError::TooMany), "{len}");
            }
            let units = vec![(); EMPTY];
            let bytes = Postcard::encode(&units).unwrap().into_owned();
            assert_eq!(Postcard::decode(&bytes), Ok(units));
        }

        type Large = [u64; 32];

        /// A large value that takes a byte, in an element, a box, a map, and beside what is not in the message.
        #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[allow(clippy::large_enum_variant)] // That is what it is for.
        enum Chain {
            Next(Box<Chain>),
            Large(Large),
            End,
        }

        #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        struct Skipping {
            #[serde(skip)]
            not_there: Large,
            next: Option<Box<Skipping>>,
        }

        fn too_large<T: DeserializeOwned + fmt::Debug + PartialEq>(count: u64, element: &[u8]) {
            let mut bytes = Postcard::encode(&count).unwrap().into_owned();
            for _ in 0..count {
                bytes.extend(element);
            }
            let decoded: Result<T, _> = Postcard::decode(&bytes);
            let refused = decoded == Err(PostcardError::TooLarge);
            assert!(refused, "{}", std::any::type_name::<T>());
        }

        #[test]
        #[cfg_attr(miri, ignore = "so many values take it half an hour")]
        fn values_larger_than_the_message_pays_for_are_errors() {
            const MANY: u64 = 100_000;
            let next = |levels| [&vec![0; levels][..], &[2]].concat();
            let some = |levels| [&vec![1; levels][..], &[0]].concat();
            too_large::<Vec<Option<Large>>>(MANY, &[0]);
            too_large::<Vec<Option<Box<Option<Large>>>>>(MANY, &[1, 0]);
            too_large::<Vec<(u8, Option<Large>)>>(MANY, &[0, 0]);
            too_large::<std::collections::BTreeMap<u8, Option<Large>>>(MANY, &[0, 0]);
            too_large::<Vec<Vec<Chain>>>(MANY, &[1, 2]);
            too_large::<Vec<Chain>>(MANY / 100, &next(100));
            too_large::<Vec<Skipping>>(MANY, &[0]);
            too_large::<Vec<Skipping>>(MANY / 100, &some(50));
        }

        #[test]
        #[cfg_attr(miri, ignore = "so many values take it half an hour")]
        fn values_of_few_bytes_each_are_decoded() {
            fn comes_back<T>(value: T)
            where
                T: Serialize + DeserializeOwned + fmt::Debug + PartialEq,
            {
                let bytes = Postcard::encode(&value).unwrap().into_owned();
                let decoded = Postcard::decode(&bytes);
                assert!(decoded == Ok(value), "{}", std::any::type_name::<T>());
            }
            const MANY: usize = 100_000;
            comes_back(vec![0_u64; MANY]);
            comes_back(vec![0_u128; MANY]);
            comes_back(vec![None::<u64>; MANY]);
            comes_back(vec![String::new(); MANY]);
            comes_back(vec![None::<String>; MANY]);
            comes_back(vec![(String::new(), Vec::<u8>::new(), Some(0_u64)); MANY]);
            comes_back(vec![Vec::<String>::new(); MANY]);
            // Whatever it becomes, so much is no harm.
            comes_back(vec![None::<Large>; 3000]);
        }

        #[test]
        fn all_that_postcard_encodes_is_decoded() {
            use std::collections::BTreeMap;
            #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
            struct Unit;
            #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
            struct New(i64);
            #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
            struct Pair(i8, u128);
            #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
            enum Each {
                Unit,
                New(New),
                Tuple(bool, char),
                Struct { a: f32, b: f64 },
            }
            #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
            struct All {
                numbers: (i16, i32, i128, u8, u16, u32, u64),
                map: BTreeMap<String, Vec<Option<Each>>>,
                unit: Unit,
                pair: Pair,
                nothing: (),
                array: [u32; 3],
            }
            let each = vec![
                Some(Each::Unit),
                None,
                Some(Each::New(New(-5))),
                Some(Each::Tuple(true, '\u{e9}')),
                Some(Each::Struct { a: 1.5, b: -2.5 }),
            ];
            let all = All {
                numbers: (-300, 70_000, -1, 255, 300, 1 << 31, u64::MAX),
                map: BTreeMap::from([("a".into(), each), ("b".into(), Vec::new())]),
                unit: Unit,
                pair: Pair(-128, u128::MAX),
                nothing: (),
                array: [1, 2, 3],
            };
            let bytes = Postcard::encode(&all).unwrap().into_owned();
            assert_eq!(Postcard::decode(&bytes), Ok(all));
        }

        #[test]
        fn what_cannot_be_encoded_is_an_error() {
            struct Never;
            impl Serialize for Never {
                fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                    Err(serde::ser::Error::custom("never"))
                }
            }
            assert!(Postcard::encode(&Never).is_err());
        }
    }
}
